"""Closed sets of words: kinds of alarms, how an order or a position ended, why a bar was refused, who acted.

Rules of this room: each word is stored, so that it is as permanent as an event: one may be added, none renamed or
removed. Each has its meaning beside it; the pages about them are made from here. A member equals its stored word.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How soon a person must look."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTICE = "notice"


SEVERITY: dict[Severity, str] = {
    Severity.CRITICAL: "something is not protected, or not watched: look at once",
    Severity.WARNING: "an exit waits, or what is known may be wrong: look soon",
    Severity.NOTICE: "nothing is in danger: look when there is time",
}


class AlarmKind(StrEnum):
    """What an alarm is about."""

    PROTECTION_LOST = "protection_lost"
    OVERSOLD = "oversold"
    REFUSED_ORDER_WORKS = "refused_order_works"
    NOT_DONE = "not_done"
    FILLED_AT_JUMP = "filled_at_jump"
    SPLIT = "split"
    PRICE_JUMP = "price_jump"
    FEED_UNUSABLE = "feed_unusable"
    FEED_SILENT = "feed_silent"
    EXITS_WAIT = "exits_wait"
    BROKER_TROUBLE = "broker_trouble"
    ORDER_NOT_FOUND = "order_not_found"
    SUBMIT_UNRESOLVED = "submit_unresolved"
    CANCEL_UNRESOLVED = "cancel_unresolved"
    ORDER_STALLED = "order_stalled"
    RETRY_STALLED = "retry_stalled"
    ENDED_ORDER_WORKS = "ended_order_works"
    ORDER_RESTATED = "order_restated"
    FILLED_WITHOUT_QUANTITY = "filled_without_quantity"
    BROKER_TIME = "broker_time"
    FILL_CORRECTED = "fill_corrected"
    CANCEL_REFUSED = "cancel_refused"
    UNKNOWN_EXIT_ORDER = "unknown_exit_order"
    ID_FORM_DIFFERS = "id_form_differs"
    VALUE_TOO_SMALL = "value_too_small"
    QUANTITY_REFUSED = "quantity_refused"
    RESIDUE_DOUBTED = "residue_doubted"
    PRICE_REFUSED = "price_refused"
    FOREIGN_ORDER = "foreign_order"
    BLOCKED_BY_ORDER = "blocked_by_order"
    TWIN_ORDERS = "twin_orders"
    EXIT_WORKS_ON = "exit_works_on"
    SCOPE_UNCLEAR = "scope_unclear"
    SCOPE_UNKNOWN = "scope_unknown"
    SCOPE_NETTED = "scope_netted"
    NO_PRICE = "no_price"
    EPOCH_UNKNOWN = "epoch_unknown"
    UNPRICEABLE = "unpriceable"
    EXIT_UNKNOWN = "exit_unknown"
    POSITION_UNREADABLE = "position_unreadable"
    BOTH_SIDES = "both_sides"
    POSITIONS_MISSING = "positions_missing"
    ENTRY_NOT_SHOWN = "entry_not_shown"
    UNIT_UNCLEAR = "unit_unclear"
    UNEXPLAINED_QUANTITY = "unexplained_quantity"
    STOPS_BEGIN_ANEW = "stops_begin_anew"
    OTHER_EXIT = "other_exit"
    NOT_RECONCILED = "not_reconciled"
    BAR_UNREADABLE = "bar_unreadable"
    BARS_NOT_RECORDED = "bars_not_recorded"
    BROKER_INCOMPLETE = "broker_incomplete"
    STATUS_UNKNOWN = "status_unknown"
    ANSWER_UNREADABLE = "answer_unreadable"
    ORDER_INACTIVE = "order_inactive"
    EXIT_POSTPONED = "exit_postponed"
    STORE_MENDED = "store_mended"
    STORE_UNWRITABLE = "store_unwritable"
    STORE_SILENT = "store_silent"
    OWNERSHIP_LOST = "ownership_lost"
    ALERT_FAILED = "alert_failed"

    @property
    def meaning(self) -> AlarmMeaning:
        """How severe it is, what it means, and what to do."""
        return ALARMS[self]


class AlarmMeaning(NamedTuple):
    """What is said of a kind of alarm."""

    severity: Severity
    means: str
    do: str


_LOOK_AT_BROKER = "look at the broker"
ALARMS: dict[AlarmKind, AlarmMeaning] = {
    AlarmKind.PROTECTION_LOST: AlarmMeaning(
        Severity.CRITICAL,
        "nothing automatic is done for this position any more: the attempts are used up, the broker refused twice in a "
        "row for the same reason (it would a third time), or the evidence contradicts itself",
        "compare the position and its orders at the broker. Then `force_exit(symbol)` for one more order, "
        "`release(position)` to let the rules watch it again, or close it at the broker: a flat position is noticed",
    ),
    AlarmKind.OVERSOLD: AlarmMeaning(
        Severity.CRITICAL,
        "an exit of ours went through zero, as the executions show; or our orders sold more than was held, by our own "
        "count: somebody made one larger, or a fill came late (a split looks the same)",
        "compare with the broker; what it shows on the other side is not watched: close it there",
    ),
    AlarmKind.REFUSED_ORDER_WORKS: AlarmMeaning(
        Severity.CRITICAL,
        "an order of a position that is `unprotected` already had been refused, and works at the broker all the same; "
        "it is canceled",
        "see that it has ended, and what it sold",
    ),
    AlarmKind.NOT_DONE: AlarmMeaning(
        Severity.CRITICAL,
        "`force_exit` or `release` did nothing for an unprotected position: its order may be live, or what the broker "
        "shows is not what is left by our own count",
        "end the order at the broker, then give the command again (where its orders changed while the broker was "
        "asked, just give it again; where an ended order's record cannot be read, see there that it has ended, then "
        "give it again); `release` what is left of a sale that was taken back unseen; close there what is on the other "
        "side",
    ),
    AlarmKind.FILLED_AT_JUMP: AlarmMeaning(
        Severity.WARNING,
        "simulation: a market order filled at an open that is beyond the price guard",
        "look at the bars: a real gap is a real loss; a split wants adjusted bars",
    ),
    AlarmKind.SPLIT: AlarmMeaning(
        Severity.NOTICE,
        "simulation: the price jumped as in a split and stayed there; the position ended at the last price before it "
        "and is counted apart",
        "give bars that are adjusted for splits (`--adjusted`)",
    ),
    AlarmKind.PRICE_JUMP: AlarmMeaning(
        Severity.CRITICAL,
        "a price is too far from the last accepted one, and no second source settled it; nothing was decided on it",
        "a split: the next reconciliation brings new levels. A real crash: `force_exit(symbol)`",
    ),
    AlarmKind.FEED_UNUSABLE: AlarmMeaning(
        Severity.CRITICAL,
        "bars keep coming that cannot be true (NaN, zero, stale, dated before the entry)",
        "repair the feed; until then the position is not watched",
    ),
    AlarmKind.FEED_SILENT: AlarmMeaning(
        Severity.CRITICAL,
        "no bar of a held symbol for long, in its session",
        "repair the feed; until then the position is not watched",
    ),
    AlarmKind.EXITS_WAIT: AlarmMeaning(
        Severity.WARNING,
        "more exits are due than may be sent in a minute; they leave as places become free, the worst first",
        "nothing, or raise `live.orders_per_minute` where the broker takes more; acknowledge it, so that the next is "
        "said, too",
    ),
    AlarmKind.BROKER_TROUBLE: AlarmMeaning(
        Severity.CRITICAL,
        "the broker's adapter tells of something that keeps positions from being watched or exited: keys that are "
        "refused, a blocked account, a stream that does not come up, a kind of asset that it cannot watch",
        "what the text says: here it cannot be mended",
    ),
    AlarmKind.ORDER_NOT_FOUND: AlarmMeaning(
        Severity.WARNING,
        "the broker does not know an order that was sent",
        "see whether it exists under its id; if the broker does not refuse repeated ids, nothing is sent again by "
        "itself",
    ),
    AlarmKind.SUBMIT_UNRESOLVED: AlarmMeaning(
        Severity.WARNING,
        "an order is not known to have reached the broker for longer than `live.patience_seconds`",
        _LOOK_AT_BROKER,
    ),
    AlarmKind.CANCEL_UNRESOLVED: AlarmMeaning(
        Severity.WARNING,
        "a cancel has had no final record for longer than `live.patience_seconds`",
        _LOOK_AT_BROKER,
    ),
    AlarmKind.ORDER_STALLED: AlarmMeaning(
        Severity.WARNING,
        "an order has worked without progress for longer than `live.patience_seconds`",
        f"{_LOOK_AT_BROKER}; a market order that does not fill is often a halt, and is left alone on purpose",
    ),
    AlarmKind.RETRY_STALLED: AlarmMeaning(
        Severity.WARNING,
        "an order ended, and no further attempt could be made for longer than `live.patience_seconds`",
        _LOOK_AT_BROKER,
    ),
    AlarmKind.ENDED_ORDER_WORKS: AlarmMeaning(
        Severity.WARNING,
        "an update reported the end of an exit order, and the broker's record goes on to show it working; no further "
        "order is sent, and the position does not end, before the record shows the end",
        "look at the order at the broker: cancel it if it works, or let it fill",
    ),
    AlarmKind.ORDER_RESTATED: AlarmMeaning(
        Severity.NOTICE,
        "the broker, or somebody at it, made our order smaller; it goes on, and what it leaves is sold by the next "
        "attempt",
        "nothing, unless it was a mistake",
    ),
    AlarmKind.FILLED_WITHOUT_QUANTITY: AlarmMeaning(
        Severity.WARNING,
        "the broker calls an exit order filled, and says that it filled nothing: how much was sold is not known, and "
        "nothing more is sent for it",
        "look at the order and the position at the broker; a report with the quantity ends the wait",
    ),
    AlarmKind.BROKER_TIME: AlarmMeaning(
        Severity.WARNING,
        "the broker dates a report of our order before the exit was decided, or in the future, by more than a minute; "
        "the report counts as of the exit's decision, or of now, and so do the end and the cooldown",
        "look which clock is wrong, the broker's or yours; the broker's own date is in the alarm",
    ),
    AlarmKind.FILL_CORRECTED: AlarmMeaning(
        Severity.NOTICE,
        "the broker changed the price of an execution of ours",
        "nothing: the new price is in the log",
    ),
    AlarmKind.CANCEL_REFUSED: AlarmMeaning(
        Severity.WARNING,
        "the broker has refused more than once to cancel an order that gives way to a market order",
        "cancel it at the broker, or let it fill",
    ),
    AlarmKind.UNKNOWN_EXIT_ORDER: AlarmMeaning(
        Severity.WARNING,
        "a working order carries an id of ours and belongs to no position known here: an orphan order",
        "find out which store it came from; cancel it at the broker if nobody drives it",
    ),
    AlarmKind.ID_FORM_DIFFERS: AlarmMeaning(
        Severity.CRITICAL,
        "a working order is an exit of a watched position under an id of another form: another machine exits it with "
        "another version, or with other capabilities; nothing is sent beside it",
        "stop one of the two machines; see how to upgrade",
    ),
    AlarmKind.VALUE_TOO_SMALL: AlarmMeaning(
        Severity.WARNING,
        "an exit is worth less than the venue takes, by its instrument or its refusal; it is sent when worth more",
        "nothing, or close it at the broker by a means of its own (many convert what is small)",
    ),
    AlarmKind.QUANTITY_REFUSED: AlarmMeaning(
        Severity.WARNING,
        "the venue refused a quantity by its step, or as too little; a coarser one is tried where next to nothing is "
        "left, and what is too little is left",
        "declare the step and the least: `instrument(symbol)`",
    ),
    AlarmKind.RESIDUE_DOUBTED: AlarmMeaning(
        Severity.WARNING,
        "by the declared step or least something is a residue, and **is not watched**; the executions say that it was "
        "bought as it is",
        "where the venue does take so much, the declaration is wrong: mend `instrument(symbol)`, or `Capabilities`",
    ),
    AlarmKind.PRICE_REFUSED: AlarmMeaning(
        Severity.NOTICE,
        "the venue refused a limit for its price; the exit goes on at market",
        "declare the tick: `instrument(symbol)`",
    ),
    AlarmKind.FOREIGN_ORDER: AlarmMeaning(
        Severity.WARNING,
        "a third-party order works in a symbol that is being exited",
        "cancel it if it is in the way",
    ),
    AlarmKind.BLOCKED_BY_ORDER: AlarmMeaning(
        Severity.CRITICAL,
        "a third-party order closes the same position, and the broker would sell both: no exit leaves while it works; "
        "of a limit order this is said when the position is adopted, of a stop when the exit has waited for it for "
        "`live.patience_seconds`",
        "cancel that order, or set `live.foreign_exits: cancel`",
    ),
    AlarmKind.TWIN_ORDERS: AlarmMeaning(
        Severity.CRITICAL,
        "two exit orders of one id work at the broker; the second one is canceled by the broker's own id, where "
        "`cancel` takes that",
        "see that one of them has ended, and that no second manager runs on the account",
    ),
    AlarmKind.EXIT_WORKS_ON: AlarmMeaning(
        Severity.CRITICAL,
        "an exit order works though its position has ended: it would sell what is not there; it is canceled by the "
        "broker's own id, where `cancel` takes that",
        "see that it has ended, and what it sold",
    ),
    AlarmKind.SCOPE_UNCLEAR: AlarmMeaning(
        Severity.WARNING,
        "a part of what is managed was bought by orders whose ids do not begin with `live.entry_id_prefix`, or before "
        "the executions that are listed: it will be sold with the rest",
        "name the symbol in `manage.symbols` if that is meant; else in `manage.ignore`, or set `manage.owner` to `ids` "
        "or `handed`",
    ),
    AlarmKind.SCOPE_UNKNOWN: AlarmMeaning(
        Severity.CRITICAL,
        "with `manage.owner: ids`, the executions do not say what of a symbol the bot's ids bought: they do not reach "
        "back to it, cannot be read, or name no client order ids. What is watched stays watched, and no more of it is "
        "sold than is held; what is not watched yet is **not protected**",
        "`await manager.watch(symbol, side, qty, entry_price, first_fill_at)` for what is the bot's; see that `fills` "
        "reaches back far enough (`live.lookback_days`)",
    ),
    AlarmKind.SCOPE_NETTED: AlarmMeaning(
        Severity.CRITICAL,
        "with `manage.owner: ids`, others hold the other side of what the bot's ids bought, so that the account shows "
        "less of it, or the other side: no more is sold than it shows, and what is hidden is **not protected**",
        "close the other side at the broker, or give each bot an account of its own",
    ),
    AlarmKind.NO_PRICE: AlarmMeaning(
        Severity.WARNING,
        "a rule that goes by time is due, or will be in a minute, for a position that was there before the start, and "
        "no bar of it has come since: nothing is sold that nobody sees a price of",
        "feed its bars; name it in `manage.symbols`, or hand it to `watch()`, if it is to be sold all the same; else "
        "name it in `manage.ignore`",
    ),
    AlarmKind.EPOCH_UNKNOWN: AlarmMeaning(
        Severity.WARNING,
        "the first fill of a position is not known: it **is** watched, under a name made of its entry price. Where the "
        "text says that its first fill names a position that has ended, it is **not**",
        "give the broker a list of fills; or `await manager.watch(symbol, side, qty, entry_price, first_fill_at)` "
        "after each entry",
    ),
    AlarmKind.UNPRICEABLE: AlarmMeaning(
        Severity.CRITICAL,
        "a position at the broker has no entry price, so that it could not be adopted: **it is not protected**",
        "`await manager.watch(symbol, side, qty, entry_price, first_fill_at)`",
    ),
    AlarmKind.EXIT_UNKNOWN: AlarmMeaning(
        Severity.CRITICAL,
        "a position at the broker could not be adopted, because an exit of it is not known: **it is not protected**",
        "`await manager.watch(symbol, side, qty, entry_price, first_fill_at)`",
    ),
    AlarmKind.POSITION_UNREADABLE: AlarmMeaning(
        Severity.CRITICAL,
        "an entry in the broker's positions is not understood: **it is not protected**",
        "see that it has a symbol and a quantity",
    ),
    AlarmKind.BOTH_SIDES: AlarmMeaning(
        Severity.CRITICAL,
        "the broker shows a symbol long and short at once, and hedge mode is not declared: nothing is sent for either "
        "side, **neither is protected**",
        "declare `hedge` where the account holds both (`Capabilities`, `instrument(symbol)`); else close one side",
    ),
    AlarmKind.POSITIONS_MISSING: AlarmMeaning(
        Severity.CRITICAL,
        "the broker lists no position at all though some are watched; the rules go on, and nothing is concluded before "
        "rows are back",
        "look whether the positions are there: a broker's list may be empty for a while after a reset",
    ),
    AlarmKind.ENTRY_NOT_SHOWN: AlarmMeaning(
        Severity.CRITICAL,
        "an execution was reported that no read of positions has shown since: what it bought is not protected",
        "look whether the broker object lists the right market and account",
    ),
    AlarmKind.UNIT_UNCLEAR: AlarmMeaning(
        Severity.WARNING,
        "quantity and average entry have changed in a way that is neither a trade nor a split",
        "compare quantity and average entry with the broker; stops that had moved are dropped where the entry jumped",
    ),
    AlarmKind.UNEXPLAINED_QUANTITY: AlarmMeaning(
        Severity.WARNING,
        "the broker shows another quantity than is watched, its reads do not agree or no execution says why",
        "look at the broker what was traded",
    ),
    AlarmKind.STOPS_BEGIN_ANEW: AlarmMeaning(
        Severity.NOTICE,
        "the store was empty, and a position was found whose profit is beyond the activation of a stop that moves: if "
        "a record was lost, its best price is lost with it, and its stop begins at the present price",
        "where a record was lost, compare the stop with the one it had; `force_exit` if it should have been sold",
    ),
    AlarmKind.OTHER_EXIT: AlarmMeaning(
        Severity.WARNING,
        "an order with an id of ours that is on no record here sold a part of a position",
        "find out whether another machine, or an older store, sells the same positions",
    ),
    AlarmKind.NOT_RECONCILED: AlarmMeaning(
        Severity.WARNING,
        "the broker's positions could not be read for longer than `live.patience_seconds`",
        "repair the connection; what is watched stays watched",
    ),
    AlarmKind.BAR_UNREADABLE: AlarmMeaning(
        Severity.CRITICAL,
        "a bar came in a shape that is not understood; nothing is decided on it",
        "the text says what it lacks: give `on_bar` an object that has it",
    ),
    AlarmKind.BARS_NOT_RECORDED: AlarmMeaning(
        Severity.NOTICE,
        "bars are no longer recorded (`record_bars`): the disk is full, slow or failing; exits are not affected",
        "make room; recording begins again with the next start",
    ),
    AlarmKind.BROKER_INCOMPLETE: AlarmMeaning(
        Severity.WARNING,
        "the broker has no method to look orders up, or to cancel them",
        "give it one; until then the text says what cannot be done",
    ),
    AlarmKind.STATUS_UNKNOWN: AlarmMeaning(
        Severity.WARNING,
        "the broker calls the state of an order by a word that is not known; nothing is concluded from it, and the "
        "order is looked up",
        'say what the word means: `Capabilities(status_words={"FROZEN": OrderStatus.SUSPENDED})`; until then look at '
        "the order at the broker",
    ),
    AlarmKind.ANSWER_UNREADABLE: AlarmMeaning(
        Severity.WARNING,
        "a field of what the broker says of an order, or an execution, cannot be read; what is left is used, and where "
        "no execution can be read, none counts as known",
        "the text says which field: give the broker's answers one that can be read",
    ),
    AlarmKind.ORDER_INACTIVE: AlarmMeaning(
        Severity.WARNING,
        "the broker has our order, and says that it does not work: it is suspended, held or inactive, for the reason "
        "in the text; nothing is sent beside it, because it may still fill",
        "where it was refused in truth, end it at the broker (cancel it): the next attempt follows by itself. A halt, "
        "or a search for shares to borrow, passes",
    ),
    AlarmKind.EXIT_POSTPONED: AlarmMeaning(
        Severity.WARNING,
        "the broker refuses an exit order for a cause that passes by itself (a halt, maintenance, a closed market, too "
        "many requests); the same order is sent again, after 5 s and then after pauses that double up to 60 s, for as "
        "long as the position is held. It ends by itself when the broker takes the order",
        "nothing, where the cause is what it says; else close the position at the broker: that is noticed",
    ),
    AlarmKind.STORE_MENDED: AlarmMeaning(
        Severity.WARNING,
        "what lies beside the events (a mark, a row of the read models) could not be read when the manager started; "
        "it was made again from the events, or set aside",
        "nothing for the positions; find out what damaged the file (`exitfsm verify`), and look at the disk",
    ),
    AlarmKind.STORE_UNWRITABLE: AlarmMeaning(
        Severity.CRITICAL,
        "the disk is full or failing; nothing that needs the store is done",
        "make room; the next bar and the next look-up go on",
    ),
    AlarmKind.STORE_SILENT: AlarmMeaning(
        Severity.CRITICAL,
        "the store has not answered for 5 s: a disk that hangs, a server that cannot be reached, or a commit that "
        "waits for a standby that is gone; nothing is decided until it answers",
        "look at the disk or the server, and at `synchronous_standby_names`; acknowledge the alarm once it answers",
    ),
    AlarmKind.OWNERSHIP_LOST: AlarmMeaning(
        Severity.CRITICAL,
        "another process has taken the store: a standby, because this one had fallen silent, an operator by "
        "`exitfsm owner --release`, or another manager, after somebody removed the lock file beside the "
        "store; this manager sends nothing any more, and has stopped",
        "see that the other one runs; find out why this one was silent; start it again as a standby",
    ),
    AlarmKind.ALERT_FAILED: AlarmMeaning(
        Severity.CRITICAL,
        "a channel of `alerts` has not taken a message several times in a row; what it did not take is kept, and tried "
        "again; this alarm is sent by the other channels, and ends by itself once the channel takes messages",
        "`exitfsm alerts test` says which channels work; look at the address of the channel and at its service",
    ),
}


_ORDER_OVER = "the order has ended, or nothing is held any more"
#: The alarms that end by themselves, and when: where what they say is over, no person need look. Every other one is for
#: a person to take down. What ends is recorded as taken down by `exitfsm`, with the reason.
ENDS_WHEN: dict[AlarmKind, str] = {
    AlarmKind.NOT_DONE: "a later command was carried out, or nothing is held any more",
    AlarmKind.PRICE_JUMP: "a bar is believed again, or nothing is held any more (live)",
    AlarmKind.FEED_UNUSABLE: "a bar is believed again, or nothing is held any more (live)",
    AlarmKind.FEED_SILENT: "a bar came, or nothing is held any more",
    AlarmKind.NO_PRICE: "a bar came, or nothing is held any more",
    AlarmKind.EXITS_WAIT: "no exit waits for its place any more",
    AlarmKind.BROKER_TROUBLE: "the broker's adapter says it no more",
    AlarmKind.ORDER_NOT_FOUND: f"the broker tells of the order, or the next one follows; {_ORDER_OVER}",
    AlarmKind.SUBMIT_UNRESOLVED: f"the broker has the order; {_ORDER_OVER}",
    AlarmKind.CANCEL_UNRESOLVED: f"the broker refuses the cancel; {_ORDER_OVER}",
    AlarmKind.ORDER_STALLED: f"the order fills on; {_ORDER_OVER}",
    AlarmKind.RETRY_STALLED: "the next order follows, or nothing is held any more",
    AlarmKind.ENDED_ORDER_WORKS: "the record shows the end and the next order follows, or nothing is held any more",
    AlarmKind.FILLED_WITHOUT_QUANTITY: f"the quantity is known; {_ORDER_OVER}",
    AlarmKind.CANCEL_REFUSED: _ORDER_OVER,
    AlarmKind.VALUE_TOO_SMALL: "the broker has the order, or nothing is held any more",
    AlarmKind.FOREIGN_ORDER: "nothing is held any more",
    AlarmKind.BLOCKED_BY_ORDER: "the broker has our order, or nothing is held any more",
    AlarmKind.UNPRICEABLE: "all that the broker shows is watched, or not held any more",
    AlarmKind.EXIT_UNKNOWN: "all that the broker shows is watched, or not held any more",
    AlarmKind.POSITION_UNREADABLE: "the broker's positions can be read",
    AlarmKind.BOTH_SIDES: "one side of the symbol is shown",
    AlarmKind.POSITIONS_MISSING: "positions are listed again",
    AlarmKind.ENTRY_NOT_SHOWN: "what was executed is shown",
    AlarmKind.UNEXPLAINED_QUANTITY: "the quantity is as expected again",
    AlarmKind.NOT_RECONCILED: "the broker was reconciled with",
    AlarmKind.ORDER_INACTIVE: f"the order fills; {_ORDER_OVER}",
    AlarmKind.EXIT_POSTPONED: "the broker takes the order, or refuses it for a cause that lasts",
    AlarmKind.STORE_UNWRITABLE: "the store takes a commit",
    AlarmKind.ALERT_FAILED: "the channel takes messages",
}
#: Of these one that is active hides no other: each names another word or field.
EACH_NAMES_ITS_OWN = frozenset({AlarmKind.STATUS_UNKNOWN, AlarmKind.ANSWER_UNREADABLE})


class OrderEnd(StrEnum):
    """How an exit order ended with quantity left."""

    REJECTED = "rejected"
    REFUSED = "refused"
    CANCELED = "canceled"
    EXPIRED = "expired"
    FILLED = "filled"


ORDER_ENDS: dict[OrderEnd, str] = {
    OrderEnd.REJECTED: "the broker had it and rejected it, by its own record",
    OrderEnd.REFUSED: "the broker refused it at submit: it never existed there, and its id was not used up",
    OrderEnd.CANCELED: "it was canceled, by us or by somebody else, or was filled short of what it was for",
    OrderEnd.EXPIRED: "its time in force ran out",
    OrderEnd.FILLED: "it sold the part it was for, and everything is to be sold since: the next order sells the rest",
}


class PositionEnd(StrEnum):
    """How a position ended."""

    FILLED = "filled"
    BY_HAND = "by_hand"
    RESIDUE = "residue"
    EXTERNAL = "external"
    REVERSED = "reversed"
    VANISHED = "vanished"
    OTHER_EXIT = "other_exit"
    UNRESOLVED = "unresolved"
    IGNORED = "ignored"


POSITION_ENDS: dict[PositionEnd, str] = {
    PositionEnd.FILLED: "our own orders sold all of it, and the broker shows it flat",
    PositionEnd.BY_HAND: "it was closed externally: the broker shows it flat, and not by our orders alone",
    PositionEnd.RESIDUE: "only a residue is left, too small for the venue to take",
    PositionEnd.EXTERNAL: "it was closed externally, in part or whole: not by our orders",
    PositionEnd.REVERSED: "an order went through zero: what is held now is on the other side",
    PositionEnd.VANISHED: "the broker lists no position any more, and it lists no executions",
    PositionEnd.OTHER_EXIT: "an exit under our prefix sold it that no order on record here explains",
    PositionEnd.UNRESOLVED: "nothing is held, and an order of ours has no record",
    PositionEnd.IGNORED: "a person took it out of what is managed: it is held on, and nobody watches it",
}


class ScopeHow(StrEnum):
    """What a person said of a symbol and the scope."""

    ADOPTED = "adopted"
    IGNORED = "ignored"
    RESTORED = "restored"


SCOPE_HOW: dict[ScopeHow, str] = {
    ScopeHow.ADOPTED: "it is managed, whatever is configured",
    ScopeHow.IGNORED: "it is not managed, whatever is configured",
    ScopeHow.RESTORED: "what was said for one `flatten` alone counts no more",
}


class BarRefusal(StrEnum):
    """Why nothing was decided on a bar."""

    ALREADY_SEEN = "already_seen"
    OUT_OF_ORDER = "out_of_order"
    NOT_FINITE = "not_finite"
    NOT_POSITIVE = "not_positive"
    HIGH_BELOW_LOW = "high_below_low"
    NOT_TRADABLE = "not_tradable"
    UNSOUND = "unsound"
    STALE = "stale"
    IN_THE_FUTURE = "in_the_future"
    BEFORE_ENTRY = "before_entry"
    PRICE_JUMP = "price_jump"
    OUT_OF_SESSION = "out_of_session"
    PAUSED = "paused"
    DISABLED = "disabled"


BAR_REFUSALS: dict[BarRefusal, str] = {
    BarRefusal.ALREADY_SEEN: "a bar of this time was looked at before",
    BarRefusal.OUT_OF_ORDER: "a later bar was looked at before",
    BarRefusal.NOT_FINITE: "a price is no number",
    BarRefusal.NOT_POSITIVE: "a price is zero or below",
    BarRefusal.HIGH_BELOW_LOW: "its high is below its low",
    BarRefusal.NOT_TRADABLE: "a price is too large or too small for any market",
    BarRefusal.UNSOUND: "no position could be entered on it: one of its prices cannot be true (simulation)",
    BarRefusal.STALE: "it is older than `price_guard.max_age_seconds`",
    BarRefusal.IN_THE_FUTURE: "it is dated far ahead of its arrival",
    BarRefusal.BEFORE_ENTRY: "it is of the present, and dated before the entry: a clock is wrong",
    BarRefusal.PRICE_JUMP: "its price is more than `price_guard.max_jump_ratio` away from the last accepted one",
    BarRefusal.OUT_OF_SESSION: "the market is closed, by the broker (live) or by `session.trade: regular` (simulation)",
    BarRefusal.PAUSED: "it would have triggered an exit while trading is paused",
    BarRefusal.DISABLED: "it would have triggered an exit while exits are off (`enabled: false`)",
}


class By(StrEnum):
    """Who acted: recorded with each event."""

    BAR = "bar"
    BROKER = "broker"
    TIMER = "timer"
    OPERATOR = "operator"
    RECONCILE = "reconcile"
    BOT = "bot"


WHO: dict[By, str] = {
    By.BAR: "a bar of the symbol",
    By.BROKER: "an execution report, or what the broker says of itself",
    By.TIMER: "the passing of time",
    By.OPERATOR: "a person, by a command",
    By.RECONCILE: "the comparison with the broker's books",
    By.BOT: "the bot that holds the position",
}
