"""What the venue would not take of a symbol: a residue is flat, and silent, unless the books say that it is none.

Nothing says of a declared step or least whether it is right. What was traded does: what could be bought can be sold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from exitfsm.holdings.facts import Instrument
from exitfsm.holdings.rows import sellable
from exitfsm.holdings.sides import Watching, bare_names, is_watched
from exitfsm.ports import AssetRules
from exitfsm.values import ZERO, BrokerPosition, Fill, exactly, floor_to, plain, same_symbol


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
def not_by_rules(row: BrokerPosition, executions: Sequence[Fill], rules: AssetRules, *, taught: bool) -> str:
    """Why the rules that make a residue of a row may be wrong, by the executions since flat; empty where they agree.

    It was bought as it is; or an order traded what the venue would not take by them, which a refusal has not `taught`.
    """
    held, orders, was_sold = row.qty, dict[str, Decimal](), False
    for fill in reversed([f for f in executions if same_symbol(f.symbol, row.symbol)]):
        order_id = fill.broker_order_id or fill.client_order_id or fill.fill_id
        orders[order_id] = orders.get(order_id, ZERO) + fill.qty
        closes = fill.side is row.side.exit_side
        was_sold, held = was_sold or closes, held + fill.qty if closes else held - fill.qty
        if held <= 0 and not closes:
            if not was_sold:
                return "it was bought as it is"
            odd = next((qty for qty in orders.values() if floor_to(qty, rules.qty_step) < qty), None)
            return f"an order traded {plain(odd)} of it" if odd is not None and not taught else ""
    return ""


def residue_doubted(row: BrokerPosition, why: str, rules: AssetRules) -> str:
    """What a person must know of it."""
    by = f"the step {plain(rules.qty_step)} and the least {plain(rules.qty_min)}"
    return (
        f"{plain(row.qty)} {row.symbol} {row.side} cannot be sold by {by} that are known here, and {why}: it is NOT "
        "protected. Where the venue does take so much, declare what it takes: Broker.instrument(symbol)"
    )


def _is_residue(row: BrokerPosition, rules: AssetRules) -> bool:
    return not sellable(row.qty, Instrument(step=rules.qty_step, least=rules.qty_min))
