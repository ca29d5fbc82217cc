"""A broker's words about an order, and ours: the one table, after FIX.

FIX says two things of an order in each report: `OrdStatus` (tag 39) is the state that the order is in, `ExecType` (150)
is what happened to it. The state counts; what happened counts where no state is said, and for the three things that a
state cannot say: that an earlier execution was changed, that a cancel was refused, that the broker does not know the
order. The words of other brokers are spellings of these. A word that is not here is not understood: the order is looked
up then, and nothing is concluded from it.
"""

from __future__ import annotations

from typing import NamedTuple

from exitfsm.values import OrderStatus


class Word(NamedTuple):
    """One value of a FIX field, and what it means to us.

    `status` is None where the value says nothing of the order's state; `others` are spellings of it elsewhere.
    """

    code: str
    name: str
    status: OrderStatus | None
    meaning: str
    others: str = ""


_NEW, _PARTIAL, _FILLED = OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED

#: OrdStatus, tag 39: the state of the order. The spellings are those of FIX, Alpaca, Interactive Brokers, Tradier,
#: TradeStation (three letters), moomoo and Futu, vnpy, Schwab, LEAN, Zerodha and its like, Dhan, E*TRADE, tastytrade,
#: Tiger, Longbridge, Nautilus, backtrader, and of exchanges, in their own words or ccxt's.
ORD_STATUS: tuple[Word, ...] = (
    Word("0", "New", _NEW, "works", "accepted submitted open working live held pending pending_review "
         "active ack acknowledged placed queued pre_submitted pending_submit received created "
         "api_pending api_update sent sending routed in_flight contingent unconfirmed confirmed untriggered effective "
         "not_traded submitting waiting_submit unsubmitted wait_to_new not_reported initial initialized init emulated "
         "released resting unfilled transit trigger_pending open_pending validation_pending "
         "put_order_req_received amo_req_received after_market_order_req_received "
         "awaiting_parent_order awaiting_condition awaiting_stop_condition awaiting_manual_review "
         "awaiting_release_time pending_activation pending_acknowledgement "
         "not_cancelled not_modified modified update_submitted "
         "don opn pla dis cnd stp oso lat too_late_to_cancel condition_met stop_hit dispatched "
         "未成交 提交中 已报 未报 待报"),
    Word("1", "PartiallyFilled", _PARTIAL, "works, part of it is filled", "partial_fill partial partial_filled "
         "part_filled partly_filled partially_executed filled_part part_traded individual_fills "
         "fpr partial_fill_alive 部分成交 部成"),
    Word("2", "Filled", _FILLED, "over: filled whole", "fill executed complete completed fully_filled order_filled "
         "filled_all full_fill all_traded traded done_trade_executed fll brf 全部成交 已成"),
    Word("3", "DoneForDay", OrderStatus.DONE_FOR_DAY, "live: may go on tomorrow; a day order of which nothing is left "
         "(LeavesQty 0) is over"),
    Word("4", "Canceled", OrderStatus.CANCELED, "over", "cancelled order_canceled order_cancelled "
         "cancelled_all cancelled_part partially_canceled partially_cancelled partially_filled_canceled "
         "partially_filled_cancelled partial_canceled partial_cancelled partial_withdrawal mmp_canceled "
         "cancelled_amo cancelled_after_market_order removed partially_removed deleted "
         "out urout can flp partial_fill_urout tsc trade_server_canceled brc bracket_canceled "
         "已撤销 已撤 部撤"),
    Word("5", "Replaced", OrderStatus.REPLACED, "lives on under another id: a person must look", "uch"),
    Word("6", "PendingCancel", OrderStatus.PENDING_CANCEL, "live until its end is reported",
         "canceling cancelling cancel_pending api_cancelled cancelling_all cancelling_part cancel_requested "
         "cancel_queued cancel_submitted wait_to_cancel awaiting_ur_out pending_recall expiring "
         "ucn cancel_sent ecn expiration_cancel_request"),
    Word("7", "Stopped", _NEW, "live: a price is guaranteed, nothing is filled by that"),
    Word("8", "Rejected", OrderStatus.REJECTED, "over", "failed refused order_rejected "
         "rej invalid denied error submit_failed margin order_failed 拒单 废单"),
    Word("9", "Suspended", OrderStatus.SUSPENDED, "live, not filling, and an alarm says so; it is not canceled for "
         "that: Interactive Brokers' `Inactive` may have been refused, or wait for shares to borrow",
         "halted inactive sus disabled"),
    Word("A", "PendingNew", _NEW, "the broker has it"),
    Word("B", "Calculated", OrderStatus.DONE_FOR_DAY, "as DoneForDay"),
    Word("C", "Expired", OrderStatus.EXPIRED, "over", "order_expired exp expired_in_match"),
    Word("D", "AcceptedForBidding", _NEW, "the broker has it"),
    Word("E", "PendingReplace", _NEW, "works as it is until the replacement is reported",
         "replace_requested wait_to_replace pending_update modify_pending modify_validation_pending "
         "modify_amo_req_received rpd rsn replace_sent chg replace_pending"),
)  # fmt: skip
#: Words by which an answer also says that a request failed. They are an order's state only beside an id of the order.
FAILURES = frozenset({"failed", "error", "failure", "invalid", "denied"})

#: ExecType, tag 150: what happened to the order. `Trade` and below are those that FIX 4.3 and later added.
EXEC_TYPE: tuple[Word, ...] = (
    Word("0", "New", _NEW, "acknowledged"),
    Word("1", "PartialFill", _PARTIAL, "an execution (before FIX 4.3)"),
    Word("2", "Fill", _PARTIAL, "the last execution (before FIX 4.3); CumQty says how much there is in all"),
    Word("3", "DoneForDay", OrderStatus.DONE_FOR_DAY, "as the status"),
    Word("4", "Canceled", OrderStatus.CANCELED, "as the status"),
    Word(
        "5", "Replaced", OrderStatus.REPLACED, "with a status: the same order, perhaps of another quantity", "replace"
    ),
    Word("6", "PendingCancel", OrderStatus.PENDING_CANCEL, "a cancel was asked for, nothing more"),
    Word("7", "Stopped", _NEW, "as the status"),
    Word("8", "Rejected", OrderStatus.REJECTED, "with a live status: a repetition was rejected, the order works"),
    Word("9", "Suspended", OrderStatus.SUSPENDED, "as the status"),
    Word("A", "PendingNew", _NEW, "as the status"),
    Word("B", "Calculated", OrderStatus.DONE_FOR_DAY, "as the status"),
    Word("C", "Expired", OrderStatus.EXPIRED, "as the status"),
    Word("D", "Restated", _NEW, "the broker said the order anew, perhaps with another quantity"),
    Word("E", "PendingReplace", _NEW, "somebody asked for a replacement, nothing more"),
    Word("F", "Trade", _PARTIAL, "an execution; CumQty says how much there is in all"),
    Word("G", "TradeCorrect", _PARTIAL, "an earlier execution was changed: a correction", "trade_correct correct"),
    Word("H", "TradeCancel", _PARTIAL, "an earlier execution was taken back: a correction", "trade_bust bust"),
    Word("I", "OrderStatus", None, "the answer to a question"),
    Word("J", "TradeInAClearingHold", _PARTIAL, "an execution"),
    Word("K", "TradeHasBeenReleasedToClearing", _PARTIAL, "an execution"),
    Word("L", "TriggeredOrActivatedBySystem", _NEW, "it works now", "triggered"),
    Word("M", "Locked", None, "says nothing of what the order does"),
    Word("N", "Released", None, "says nothing of what the order does"),
)

#: OrdRejReason, tag 103, and CxlRejReason, tag 102: those that mean more than a no.
UNKNOWN_ORDER, DUPLICATE_ORDER, DUPLICATE_OF_VERBAL = "unknown_order", "duplicate_order", "duplicate_of_verbal"
ORD_REJ_REASON = {
    "0": "broker_option", "1": "unknown_symbol", "2": "exchange_closed", "3": "order_exceeds_limit",
    "4": "too_late_to_enter", "5": UNKNOWN_ORDER, "6": DUPLICATE_ORDER, "7": DUPLICATE_OF_VERBAL, "8": "stale_order",
    "9": "trade_along_required", "10": "invalid_investor_id", "11": "unsupported_order_characteristic",
    "12": "surveillance_option", "13": "incorrect_quantity", "14": "incorrect_allocated_quantity",
    "15": "unknown_account", "99": "other",
}  # fmt: skip
CXL_REJ_REASON = {
    "0": "too_late_to_cancel", "1": UNKNOWN_ORDER, "2": "broker_option", "3": "already_pending",
    "4": "unable_to_process", "5": "orig_ord_mod_time", "6": "duplicate_request", "99": "other",
}  # fmt: skip
_REASONS = {
    "unknownorder": UNKNOWN_ORDER,
    "duplicateorder": DUPLICATE_ORDER,
    "duplicateid": DUPLICATE_ORDER,
    "duplicateclordid": DUPLICATE_ORDER,
    "duplicateclientorderid": DUPLICATE_ORDER,
    "duplicateofverbal": DUPLICATE_OF_VERBAL,
    "duplicateofaverballycommunicatedorder": DUPLICATE_OF_VERBAL,
}
#: What brokers call a message that a request to cancel was refused; FIX has a message of its own for it (35=9).
CANCEL_REJECTED = "order_cancel_rejected cancel_rejected order_cancel_reject rjc cancel_request_rejected"
#: The same for a request to replace: it is not ours, and the order works as it did.
REPLACE_REJECTED = "order_replace_rejected replace_rejected rjr change_request_rejected"


def plain_word(text: str) -> str:
    """A word without its spelling: `PartiallyFilled`, `partially_filled` and `partially filled` are one."""
    return "".join(char for char in text.rsplit(".", 1)[-1].lower() if char.isalnum())


def _spelled(table: tuple[Word, ...]) -> dict[str, Word]:
    return {plain_word(spelling): word for word in table for spelling in (word.name, *word.others.split())}


_BY_WORD = _spelled(EXEC_TYPE) | _spelled(ORD_STATUS)
_EXEC_BY_WORD = _spelled(ORD_STATUS) | _spelled(EXEC_TYPE)
_BY_CODE = {word.code: word for word in ORD_STATUS}
_EXEC_BY_CODE = {word.code: word for word in EXEC_TYPE}
_REFUSED_CANCEL = frozenset(plain_word(w) for w in CANCEL_REJECTED.split())
_REFUSED_REPLACE = frozenset(plain_word(w) for w in REPLACE_REJECTED.split())
_CORRECTIONS = frozenset("GH")


def status_of(text: str, *, coded: bool = False) -> OrderStatus | None:
    """What a word for an order's state means; None for one that is not understood.

    Args:
        text: the word, in any spelling.
        coded: the field is FIX's own, so that a single character is a code (elsewhere a `2` may mean anything).
    """
    word = _BY_WORD.get(plain_word(text)) or (_BY_CODE.get(text.strip().upper()) if coded else None)
    if word is not None:
        return word.status
    said = plain_word(text)
    if said in _REFUSED_CANCEL:
        return OrderStatus.CANCEL_REJECTED
    return _NEW if said in _REFUSED_REPLACE else None


def event_of(text: str, *, coded: bool = False) -> Word | None:
    """What happened, by an ExecType or another broker's word for the kind of an update; None when not understood."""
    return _EXEC_BY_WORD.get(plain_word(text)) or (_EXEC_BY_CODE.get(text.strip().upper()) if coded else None)


def refuses_cancel(text: str) -> bool:
    """True for the kind of an update that says that a request to cancel was refused."""
    return plain_word(text) in _REFUSED_CANCEL


def corrects(word: Word | None) -> bool:
    """True when what happened changed an earlier execution."""
    return word is not None and word.code in _CORRECTIONS


def reason_of(text: str) -> str | None:
    """A broker's reason for a reject, where it is one that means more than a no; None for any other."""
    return _REASONS.get(plain_word(text))
