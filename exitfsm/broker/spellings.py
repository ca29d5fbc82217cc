"""How other people write what we mean: names of fields, words of sides. Data, and how to look it up.

A name is written here once, in lower case with underscores; case and underscores do not count when it is looked for, so
`client_order_id` also finds `clientOrderId` and `ClientOrderID`. A name of one letter counts as it stands (`T` is not
`t`). The order of the names is the order of preference; the numbers are FIX's tags. The names of what a bar holds are
in `exitfsm.bars.names`, which serves files, too. What a broker's words for the state of an order mean: `exitfsm.fix`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from enum import Enum
from functools import lru_cache
from numbers import Number
from typing import Any
from uuid import UUID

from exitfsm.bars.names import BAR_NAMES, fold
from exitfsm.errors import storable

_NAMES = {
    # the symbol of an order or a position, where the names that bars have for it say none
    "contract": "trading_symbol contract security asset stock_code product_id product_code inst_id code",
    "side": """
        side direction action position_side order_side buy_sell trd_side transaction_type instruction buy_or_sell
        trade_action""",
    # positions
    "held": """
        qty quantity size shares position contracts net_qty net_quantity position_amt amount units
        total_quantity net_position current_qty volume""",
    "held_long": "long_quantity long_qty",
    "held_short": "short_quantity short_qty",
    "position_side": "side position_side direction long_short",
    "side_named": "position_side pos_side hold_side",  # of an order or an execution in hedge mode
    "entry_price": """
        avg_entry_price average_entry_price avg_price entry_price average_price cost_price avg_cost average_cost
        avg_open_price price_open open_price price_avg average cost_per_share purchase_price""",
    "cost": "cost_basis total_cost",
    "account": "account account_id account_number acct acct_id",
    "product": "product product_type",
    "available": "qty_available available available_qty available_quantity free can_sell_qty sellable closable",
    "price": "current_price market_price last_price mark_price price_current",
    "opened_at": "opened_at entry_time entered_at open_time entry_at entry_date created_at",
    # orders, and what is reported of them
    "client_order_id": """
        client_order_id cl_ord_id client_id clord_id client_oid orig_client_order_id order_ref coid
        order_link_id 11""",
    "client_note": "tag remark remarks reference correlation_id client_tag external_identifier memo label",
    "broker_order_id": "broker_order_id alpaca_order_id order_id id oid order_number perm_id 37",
    "order_status": "status order_status ord_status state order_state status_description 39",
    "update_kind": "event update_type event_type kind exec_type execution_type type 150",
    "update_at": "timestamp at time transaction_time ts event_time updated_at 60",
    "order_at": """
        filled_at last_trade_timestamp last_update_timestamp updated_at update_time canceled_at cancelled_at
        expired_at failed_at transact_time timestamp at time ts datetime submitted_at created_at
        exchange_update_timestamp exchange_timestamp order_timestamp transaction_date closed_date_time close_time
        update_date_time entered_time opened_date_time create_time create_date 60""",
    "order_qty": """
        qty quantity order_qty amount size orig_qty total_quantity shares volume quantity_ordered 38""",
    "filled_qty": """
        filled_qty filled_quantity cum_qty filled executed_qty cumulative_qty cumulative_filled_qty
        cumulative_quantity qty_filled quantity_filled filled_size executed_quantity executed filled_amount
        filled_shares total_filled dealt_qty dealt_quantity deal_qty exec_quantity exec_qty cum_exec_qty traded
        traded_qty traded_quantity traded_volume acc_fill_sz deal_size filled_volume executed_volume 14""",
    "remaining": """
        remaining leaves_qty remaining_qty remaining_quantity leaves_quantity qty_remaining quantity_remaining
        pending_quantity 151""",
    "fill_cost": "cost cummulative_quote_qty cum_quote executed_value filled_value",
    "avg_fill_price": """
        filled_avg_price avg_fill_price average_fill_price avg_price avg_px average_price average fill_price
        executed_price filled_price dealt_avg_price deal_avg_price average_traded_price traded_avg_price
        average_executed_price avg_execution_price average_filled_price price_avg 6""",
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
    "reason": """
        reject_reason reason text message status_message error reason_description rejection_reason last_err_msg err_msg
        error_message error_msg oms_error_description why_held warning_text fail_reason status_description msg 58""",
    # working orders
    "order_type": "order_type ord_type type 40",
    "limit_price": "limit_price lmt_price price 44",
    "stop_price": "stop_price trigger_price stop_loss_price aux_price stop_px trigger 99",
    # executions
    "fill_qty": """
        qty quantity amount size shares last_qty fill_qty filled_qty volume exec_qty traded_quantity fill_sz""",
    "fill_price": """
        price fill_price last_px avg_price filled_avg_price execution_price exec_price average_price traded_price
        fill_px""",
    "fill_at": """
        at transaction_time timestamp time filled_at executed_at ts datetime date fill_timestamp exec_time trade_time
        exchange_timestamp create_time""",
    "fill_id": "fill_id id execution_id exec_id trade_id deal_id",
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
SHORT_WORDS = frozenset({"short", "sell", "空"})
SELL_WORDS = frozenset({
    "sell", "sell_short", "sellshort", "short", "sld", "ask", "s", "sell_to_close", "selltoclose", "sell_to_open",
    "selltoopen", "卖", "空",
})  # fmt: skip
BUY_WORDS = frozenset({
    "buy", "buy_to_cover", "buytocover", "long", "bot", "bid", "b", "buy_to_close", "buytoclose", "buy_to_open",
    "buytoopen", "cover", "buy_back", "买", "多",
})  # fmt: skip
#: Under these names an SDK's object keeps parts of the same thing; a list of them where it has exactly one.
_PARTS = ("order_status", "status", "execution", "order_leg_collection", "legs", "leg")
#: How deep such parts lie in each other.
_PARTS_DEEP = 3


def word(value: Any) -> str:
    """A status or side as a plain lower-case word, out of a string or an enum."""
    if isinstance(value, Enum):
        value = value.value if isinstance(value.value, str) else value.name
    text = str(value)
    return text.rsplit(".", 1)[-1].strip().lower().replace(" ", "_").replace("-", "_")


class Whole:
    """One thing that an SDK hands over in several objects: what the first that has a field says counts."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts

    def field(self, names: tuple[str, ...]) -> Any:
        """The first of `names` that the first part has; what is a part itself is no value."""
        for part in self.parts:
            value = field(part, *names)
            if value is not None and not any(value is one for one in self.parts):
                return value
        return None


def whole(source: Any) -> Any:
    """The source with the parts of it that an SDK keeps in objects of their own; itself, where there are none."""
    parts = _parts_in(source, _PARTS_DEEP)
    return Whole((source, *parts)) if parts else source


def _parts_in(source: Any, deep: int) -> list[Any]:
    if deep == 0 or isinstance(source, (str, int, float, Enum, list, tuple)) or source is None:
        return []
    found: list[Any] = []
    for name in _PARTS:
        value = field(source, name)
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        if _holds_parts(value):
            found += [value, *_parts_in(value, deep - 1)]
    return found


def _holds_parts(value: Any) -> bool:
    """True for an object or a mapping that has fields of its own: no word, number, time or list."""
    if value is None or isinstance(value, (str, bytes, Number, Enum, date, UUID, list, tuple, set, frozenset)):
        return False
    return isinstance(value, Mapping) or hasattr(value, "__dict__") or hasattr(type(value), "__slots__")


def field(source: Any, *names: str) -> Any:
    """The first of `names` that `source` has and that is not None, by key or by attribute; None when there is none."""
    if isinstance(source, dict):
        return _by_key(source.get, source, names)
    if isinstance(source, Whole):
        return source.field(names)
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
