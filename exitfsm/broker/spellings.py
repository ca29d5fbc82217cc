"""How other people write what we mean: names of fields, words of sides. Data, and how to look it up.

A name is written here once, in lower case with underscores; case and underscores do not count when it is looked for, so
`client_order_id` also finds `clientOrderId` and `ClientOrderID`. A name of one letter counts as it stands (`T` is not
`t`). The order of the names is the order of preference; the numbers are FIX's tags. The names of what a bar holds are
in `exitfsm.bars.names`, which serves files, too. What a broker's words for the state of an order mean: `exitfsm.fix`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Any

from exitfsm.bars.names import BAR_NAMES, fold
from exitfsm.errors import storable

_NAMES = {
    "side": "side direction action position_side order_side buy_sell",
    # positions
    "held": """
        qty quantity size shares position contracts net_qty net_quantity position_amt amount units
        total_quantity net_position""",
    "position_side": "side position_side direction",
    "entry_price": """
        avg_entry_price average_entry_price avg_price entry_price average_price cost_price avg_cost average_cost
        avg_open_price price_open open_price price_avg average cost_per_share purchase_price""",
    "cost": "cost_basis total_cost",
    "available": "qty_available available available_qty available_quantity free",
    "price": "current_price market_price last_price mark_price price_current",
    "opened_at": "opened_at entry_time entered_at open_time entry_at entry_date created_at",
    # orders, and what is reported of them
    "client_order_id": """
        client_order_id cl_ord_id client_id clord_id client_oid orig_client_order_id order_ref coid 11""",
    "broker_order_id": "broker_order_id alpaca_order_id order_id id oid order_number perm_id 37",
    "order_status": "status order_status ord_status state order_state 39",
    "update_kind": "event update_type event_type kind exec_type execution_type type 150",
    "update_at": "timestamp at time transaction_time ts event_time updated_at 60",
    "order_at": """
        filled_at last_trade_timestamp last_update_timestamp updated_at update_time canceled_at cancelled_at
        expired_at failed_at transact_time timestamp at time ts datetime submitted_at created_at 60""",
    "order_qty": "qty quantity order_qty amount size orig_qty total_quantity shares volume 38",
    "filled_qty": """
        filled_qty filled_quantity cum_qty filled executed_qty cumulative_qty cumulative_filled_qty
        cumulative_quantity qty_filled quantity_filled filled_size executed_quantity executed filled_amount
        filled_shares total_filled 14""",
    "remaining": "remaining leaves_qty remaining_qty remaining_quantity leaves_quantity qty_remaining 151",
    "avg_fill_price": """
        filled_avg_price avg_fill_price average_fill_price avg_price avg_px average_price average fill_price
        executed_price filled_price 6""",
    "execution_id": "execution_id exec_id trade_id 17",
    "refusal": "refusal reject_code error_code",
    "reject_code": "ord_rej_reason 103",
    "cancel_reject_code": "cxl_rej_reason 102",
    "reject_answers": "cxl_rej_response_to 434",
    "message_type": "msg_type 35",
    "fix_status": "ord_status 39",
    "fix_kind": "exec_type 150",
    "fix_side": "54",
    "original_id": "orig_client_order_id orig_cl_ord_id orig_clord_id 41",
    "reason": "reject_reason reason text message status_message error 58",
    # executions
    "fill_qty": "qty quantity amount size shares last_qty fill_qty filled_qty volume",
    "fill_price": "price fill_price last_px avg_price filled_avg_price execution_price exec_price",
    "fill_at": "at transaction_time timestamp time filled_at executed_at ts datetime date",
    "fill_id": "fill_id id execution_id exec_id trade_id",
    "fill_order_id": "broker_order_id order_id order",
    # hours
    "is_open": "is_open open is_market_open market_open",
    "closes_at": "close next_close closes_at close_time",
    "opens_at": "next_open opens_at open_time",
    # what an update or an event on a bus wraps
    "order_in": "order",
    "wrapped": "data payload body update trade_update order_update detail bar candle",
}
#: What we mean -> the names that others give it.
SPELLINGS: dict[str, tuple[str, ...]] = {**BAR_NAMES, **{mean: tuple(names.split()) for mean, names in _NAMES.items()}}

#: Words that say that an order is over, and leave open how: only its figures can tell.
OVER_WORDS = frozenset({"closed", "done", "finished"})
#: Kinds of updates that say that something filled, and not whether that was all.
FILL_KINDS = frozenset({"fill", "trade", "partial_fill", "execution", "partial", "partialfill"})
SHORT_WORDS = frozenset({"short", "sell"})
SELL_WORDS = frozenset({"sell", "sell_short", "short", "sld", "ask", "s", "sell_to_close", "sell_to_open"})
BUY_WORDS = frozenset({"buy", "buy_to_cover", "long", "bot", "bid", "b", "buy_to_close", "buy_to_open", "cover"})


def word(value: Any) -> str:
    """A status or side as a plain lower-case word, out of a string or an enum."""
    if isinstance(value, Enum):
        value = value.value if isinstance(value.value, str) else value.name
    text = str(value)
    return text.rsplit(".", 1)[-1].strip().lower().replace(" ", "_").replace("-", "_")


def field(source: Any, *names: str) -> Any:
    """The first of `names` that `source` has and that is not None, by key or by attribute; None when there is none."""
    if isinstance(source, dict):
        return _by_key(source.get, source, names)
    if hasattr(source, "keys") and hasattr(source, "__getitem__"):  # a mapping of another kind: a row of a table
        return _by_key(lambda name: _item(source, name), source, names)
    if source is None or isinstance(source, (str, int, float)):
        return None
    for name in names:
        for variant in _variants(name):
            value = getattr(source, variant, None)
            if value is not None and not callable(value):
                return value
    return None


def meant(source: Any, meaning: str) -> Any:
    """The field of `source` that means `meaning`, as it can be stored; None when there is none."""
    return storable(field(source, *SPELLINGS[meaning]))


def _by_key(get: Callable[[str], Any], source: Any, names: tuple[str, ...]) -> Any:
    folded: dict[str, str] | None = None
    for name in names:
        value = get(name)
        if value is None and len(name) > 1:
            if folded is None:
                folded = {fold(key): key for key in source.keys() if isinstance(key, str)}  # noqa: SIM118  a row
            key = folded.get(fold(name))
            value = get(key) if key is not None else None
        if value is not None:
            return value
    return None


def _item(source: Any, name: str) -> Any:
    try:
        return source[name]
    except (KeyError, IndexError, TypeError):
        return None


@lru_cache(maxsize=512)
def _variants(name: str) -> tuple[str, ...]:
    """The ways to write an attribute's name: as it is, `clientOrderId`, `ClientOrderId`, `clientOrderID`, …"""
    first, *rest = name.split("_")
    if len(name) == 1:
        return (name,)
    camel = first + "".join(part.capitalize() for part in rest)
    found = [name, camel, camel[0].upper() + camel[1:], "".join((first, *rest)), name.upper()]
    if rest and rest[-1] == "id":
        found += [camel[:-2] + "ID", camel[0].upper() + camel[1:-2] + "ID"]
    return tuple(dict.fromkeys(found))
