"""What the venue would not take of a symbol: a residue is flat, and silent, unless the books say that it is none.

Nothing says of a declared step or least whether it is right. What was bought as it is says that it may not be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from exitfsm.holdings.facts import Instrument
from exitfsm.holdings.rows import sellable
from exitfsm.holdings.sides import Watching, bare_names, is_watched
from exitfsm.ports import AssetRules
from exitfsm.values import BrokerPosition, Fill, exactly, plain, same_symbol


def unwatched(
    rows: Iterable[BrokerPosition], watched: Iterable[Watching], rules: Callable[[str], AssetRules]
) -> list[BrokerPosition]:
    """The rows of symbols not watched: more of one that is watched is a resize, or a new epoch after its exit.

    What the venue would not take, by its `rules` for a symbol, is a residue: it is flat, and adds to the next purchase.
    """
    known = bare_names(watched)
    return [row for row in rows if not is_watched(row, known) and not _is_residue(row, rules(row.symbol))]


def residues(
    rows: Iterable[BrokerPosition], watched: Iterable[Watching], rules: Callable[[str], AssetRules]
) -> list[BrokerPosition]:
    """The rows that nobody watches because the venue would not take them."""
    known = bare_names(watched)
    return [row for row in rows if not is_watched(row, known) and _is_residue(row, rules(row.symbol))]


@exactly
def was_bought(row: BrokerPosition, executions: Sequence[Fill]) -> bool:
    """True where executions, oldest first, opened a row as it is and closed nothing of it: the venue took just that.

    What an exit or a sale left is no such row; nor is one of which the executions do not reach to flat.
    """
    held = row.qty
    for fill in reversed([f for f in executions if same_symbol(f.symbol, row.symbol)]):
        if fill.side is row.side.exit_side:
            return False
        held -= fill.qty
        if held <= 0:
            return True
    return False


def residue_doubted(row: BrokerPosition, rules: AssetRules) -> str:
    """What a person must know of it."""
    by = f"the step {plain(rules.qty_step)} and the least {plain(rules.qty_min)}"
    return (
        f"{plain(row.qty)} {row.symbol} {row.side} were bought as they are, and cannot be sold by {by} that are known "
        "here: NOT protected. Where the venue does take so much, declare what it takes: Broker.instrument(symbol)"
    )


def too_little(qty: Decimal, rules: AssetRules) -> bool:
    """True for a quantity that cannot be sold, by the venue's step and least quantity."""
    return not sellable(qty, Instrument(step=rules.qty_step, least=rules.qty_min))


def _is_residue(row: BrokerPosition, rules: AssetRules) -> bool:
    return too_little(row.qty, rules)
