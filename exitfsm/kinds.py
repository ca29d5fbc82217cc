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
    ORDER_NOT_FOUND = "order_not_found"
    SUBMIT_UNRESOLVED = "submit_unresolved"
    CANCEL_UNRESOLVED = "cancel_unresolved"
    ORDER_STALLED = "order_stalled"
    RETRY_STALLED = "retry_stalled"
    ENDED_ORDER_WORKS = "ended_order_works"
    ORDER_RESTATED = "order_restated"
    BROKER_TIME = "broker_time"
    FILL_CORRECTED = "fill_corrected"
    CANCEL_REFUSED = "cancel_refused"
    UNKNOWN_EXIT_ORDER = "unknown_exit_order"
    ID_FORM_DIFFERS = "id_form_differs"
    VALUE_TOO_SMALL = "value_too_small"
    QUANTITY_REFUSED = "quantity_refused"
    PRICE_REFUSED = "price_refused"
    FOREIGN_ORDER = "foreign_order"
    EPOCH_UNKNOWN = "epoch_unknown"
    UNPRICEABLE = "unpriceable"
    EXIT_UNKNOWN = "exit_unknown"
    POSITION_UNREADABLE = "position_unreadable"
    NOT_RECONCILED = "not_reconciled"
    BAR_UNREADABLE = "bar_unreadable"
    BARS_NOT_RECORDED = "bars_not_recorded"
    BROKER_INCOMPLETE = "broker_incomplete"
    STORE_MENDED = "store_mended"
    STORE_UNWRITABLE = "store_unwritable"
    STORE_SILENT = "store_silent"
    OWNERSHIP_LOST = "ownership_lost"

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
        "while nothing automatic was done any more, our orders sold more than was held, by our own count: somebody "
        "made one larger, or a fill came late (a split looks the same)",
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
        "the venue refused a quantity by its step; a coarser one is tried where next to nothing is left",
        "declare the step: `instrument(symbol)`",
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
}


class OrderEnd(StrEnum):
    """How an exit order ended with quantity left."""

    REJECTED = "rejected"
    REFUSED = "refused"
    CANCELED = "canceled"
    EXPIRED = "expired"


ORDER_ENDS: dict[OrderEnd, str] = {
    OrderEnd.REJECTED: "the broker had it and rejected it, by its own record",
    OrderEnd.REFUSED: "the broker refused it at submit: it never existed there, and its id was not used up",
    OrderEnd.CANCELED: "it was canceled, by us or by somebody else, or was filled short of what it was for",
    OrderEnd.EXPIRED: "its time in force ran out",
}


class PositionEnd(StrEnum):
    """How a position ended."""

    FILLED = "filled"
    BY_HAND = "by_hand"
    RESIDUE = "residue"


POSITION_ENDS: dict[PositionEnd, str] = {
    PositionEnd.FILLED: "our own orders sold all of it, and the broker shows it flat",
    PositionEnd.BY_HAND: "it was closed externally: the broker shows it flat, and not by our orders alone",
    PositionEnd.RESIDUE: "only a residue is left, too small for the venue to take",
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
