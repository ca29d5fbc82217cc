"""What is traded on some days beside plain shares: pairs with a fee in the base, contracts with a multiplier.

Which symbols are which follows from their numbers, so that all else of a day stays as it is drawn.
"""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

from msgspec.structs import replace

from exitfsm.ports import CRYPTO, Capabilities, Instrument
from exitfsm.values import BrokerPosition

#: What of a purchase the venue keeps in what was bought.
FEE = Decimal("0.001")
#: The step of a pair, which is also the least that can be sold: what is bought less its fee leaves a residue.
STEP = Decimal("0.01")
#: What a contract's price counts for; the account shows average entries in these units.
MULTIPLIER = Decimal(50)
#: Every so manyth symbol is a pair, or a contract; never both.
PAIR_EVERY, CONTRACT_EVERY = 3, 5


def names(count: int, *, pairs: bool) -> list[str]:
    """The symbols of a day."""
    return [f"S{n:02}/USD" if pairs and n % PAIR_EVERY == 0 else f"S{n:02}" for n in range(count)]


def is_pair(symbol: str) -> bool:
    """True for what is bought less a fee, and sold in steps."""
    return "/" in symbol


def contracts(symbols: Collection[str]) -> list[str]:
    """Which symbols are contracts on a day that has some."""
    return [s for n, s in enumerate(symbols) if n % CONTRACT_EVERY == 1 and not is_pair(s)]


def declared(capabilities: Capabilities, of_contracts: Collection[str]) -> Capabilities:
    """What the broker declares of pairs, and of these contracts."""
    pair = replace(CRYPTO, qty_step=STEP, qty_min=STEP, always_open=False)
    stocks = capabilities.stocks
    contract = Instrument(
        qty_step=stocks.qty_step, qty_min=stocks.qty_min, price_tick=stocks.price_tick, multiplier=MULTIPLIER
    )
    return replace(capabilities, crypto=pair, instruments=dict.fromkeys(of_contracts, contract))


def in_whole_shares(capabilities: Capabilities) -> Capabilities:
    """The same where the broker declares that shares are sold whole: then parts are rounded down to that."""
    stocks = capabilities.stocks
    step = stocks.qty_step or Decimal(1)
    return replace(capabilities, stocks=replace(stocks, qty_step=step, qty_min=stocks.qty_min or step))


def in_units(row: BrokerPosition) -> BrokerPosition:
    """A row of a contract, whose average entry is that of one whole contract."""
    return replace(row, avg_entry_price=row.avg_entry_price * MULTIPLIER)
