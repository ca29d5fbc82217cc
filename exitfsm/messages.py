"""What a position can be told.

Everything that reaches a position comes as one of these, by one door (`position.decide`). A message is a fact or a
wish, never a decision; it brings its own time, prices and ids, so that deciding needs no clock and no I/O. `by` is who
told, and is recorded with each event that follows.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import ClassVar

import msgspec

from exitfsm.kinds import By
from exitfsm.policy import NOTHING_FOLDED, ExitPolicy, Folded
from exitfsm.values import Bar, ExecutionReport, Side

#: State, quantity left and current order of a position, when a read of the broker's books began.
Known = tuple[str, Decimal, str | None]


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of all messages; `at` is when it happened."""

    by: ClassVar[By] = By.BOT
    at: datetime


class Open(Message, frozen=True):
    """Watch this position from now on.

    `epoch` must come from facts the broker keeps (its first fill since the symbol was flat), so that another machine or
    an empty store arrives at the same one. `atr` is the average true range at the entry, where a rule wants it.
    `id_form` is the form of its client order ids, where it must be another than the broker declares. `own_policy`: the
    settings are given to this position; they must fit its entry then.
    """

    account: str
    symbol: str
    side: Side
    epoch: str
    qty: Decimal
    entry_price: Decimal
    opened_at: datetime
    policy: ExitPolicy
    atr: Decimal | None = None
    strategy_name: str = ""
    source: str = "bot"
    id_form: str = ""
    own_policy: bool = False


class BarSeen(Message, frozen=True):
    """A bar of the position's symbol.

    Attributes:
        reference_price: last accepted price of the symbol, None when there is none.
        previous_bar_at: timestamp of the last accepted bar of the symbol.
        received_at: when the bar arrived; None where age means nothing (simulation).
        refused_count: length so far of the run of refused bars that is under way.
        session_close: when the current session ends, None when unknown or never.
        verdict: the reason that one of the user's own rules answered to this bar.
        verdict_of: name and version of that rule; empty where the policy has one only.
        folded: the folded states of the position's rules, before this bar.
        paused: new triggers are on hold.
        confirmed: a second source confirmed this price, so the jump guard does not apply.
        is_look: `bar` is what is new in a later look at a bar that is still forming.
        length: how long the bars of the symbol are, where that is known.
        shut: the market is closed, by what the broker says, and was so during the whole bar.
    """

    by: ClassVar[By] = By.BAR
    bar: Bar
    reference_price: Decimal | None = None
    previous_bar_at: datetime | None = None
    received_at: datetime | None = None
    refused_count: int = 0
    session_close: datetime | None = None
    verdict: str | None = None
    verdict_of: str = ""
    folded: Folded = NOTHING_FOLDED
    paused: bool = False
    confirmed: bool = False
    is_look: bool = False
    length: timedelta | None = None
    shut: bool = False


class Report(Message, frozen=True):
    """The broker says something about one of our orders; `at` is when we heard it."""

    by: ClassVar[By] = By.BROKER
    report: ExecutionReport


class RecordRead(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the broker's record of one order said, by a look-up.

    Attributes:
        client_order_id: the order that was looked up.
        began: when the look-up began; what happened later, it need not show.
        report: the record; None where the broker shows none.
        times: how often in a row no record was shown.
        by_id: False where the broker cannot be asked about single orders, so that only its list of working orders says
            something, or nothing does.
    """

    client_order_id: str
    began: datetime
    report: ExecutionReport | None = None
    times: int = 1
    by_id: bool = True


class PositionRead(Message, frozen=True):
    """What the broker holds for this position, by a read begun after the last request was sent.

    A read is as old as its beginning: an attempt that became due while it was under way is not decided on it.

    Attributes:
        began: when the read began, in the position's own time.
        qty: the broker's quantity on this position's side, less what other known epochs of the symbol hold; negative
            when the broker shows the opposite side.
        avg_entry_price: the broker's average entry, where it says one.
        reads: how many reads in a row have said the same; less than expected is believed from `READS_MIN` on.
        known: state, quantity left and order of the position when the read began, where that is known: one that was
            overtaken by other news, while it waited behind them, proves nothing.
        how: how it ended where nothing of it is held any more, as `PositionEnd` has it; empty where nothing says more.
        record: the broker's record of the newest exit order, read after this read began. While it is missing, or shows
            an order working of which the end was reported, no attempt follows and the position does not end.
        lapsed: its pending order may have been sent, can arrive no more, and the broker has no record of it.
    """

    by: ClassVar[By] = By.BROKER
    began: datetime
    qty: Decimal
    avg_entry_price: Decimal | None = None
    reads: int = 1
    known: Known | None = None
    record: RecordRead | None = None
    how: str = ""
    lapsed: bool = False


class TimeSeen(Message, frozen=True):
    """Time has come this far.

    Attributes:
        patience_s: how long any wait for the broker may last before a person is told; None never tells (simulation,
            where time passes only at bars).
        price: the last known price, with which a time rule may exit a monitored position for which no bar comes;
            None leaves time rules to the bars.
        session_close: when the current session ends, None when unknown or never.
        why: what the newest send of its order ended with, where that left open what became of it.
    """

    by: ClassVar[By] = By.TIMER
    patience_s: float | None = None
    price: Decimal | None = None
    session_close: datetime | None = None
    why: str = ""


class ForceExit(Message, frozen=True):
    """An operator wants out, now.

    `price` is the current price where one is known; none is needed. `qty` is what the broker shows, where it was read:
    an order after a first one is never larger. `known` is what was known of the position when that read began.
    `at_most` is how much the operator wants sold of an unprotected position: the rest stays to be sold. `in_doubt`: its
    order may have been sent, and the broker cannot be asked about it.
    """

    by: ClassVar[By] = By.OPERATOR
    who: str = "operator"
    reason: str = ""
    price: Decimal | None = None
    qty: Decimal | None = None
    known: Known | None = None
    at_most: Decimal | None = None
    in_doubt: bool = False


class ChangePolicy(Message, frozen=True):
    """Other settings, from now on; they apply while the position is monitored only.

    `own`: None where the settings for all have changed: a position with its own keeps those. True gives these to the
    position as its own; false has it go by those for all again, which these are. `why` is a person's reason.
    """

    by: ClassVar[By] = By.OPERATOR
    policy: ExitPolicy
    who: str = "operator"
    own: bool | None = None
    why: str = ""


class MoveStop(Message, frozen=True):
    """An operator puts the stop somewhere, also where it is looser than before.

    `price` is where; `last_price` is the last accepted price, and `bar_at` the time of the last accepted bar, where
    these are known. `why` is the reason.
    """

    by: ClassVar[By] = By.OPERATOR
    price: Decimal
    who: str = "operator"
    last_price: Decimal | None = None
    bar_at: datetime | None = None
    why: str = ""


class Release(Message, frozen=True):
    """An operator hands an unprotected position back to the rules, with what the broker shows for it.

    `known` is what was known of the position when the read of that began.
    """

    by: ClassVar[By] = By.OPERATOR
    qty: Decimal
    entry_price: Decimal
    who: str = "operator"
    known: Known | None = None


class Ignore(Message, frozen=True):
    """A person took its symbol out of what is managed: it is held on, and not watched any more."""

    by: ClassVar[By] = By.OPERATOR


class Acknowledge(Message, frozen=True):
    """An operator has looked at an alarm."""

    by: ClassVar[By] = By.OPERATOR
    alarm_id: str
    who: str = "operator"


class Recover(Message, frozen=True):
    """The broker knows an exit order of this position that we have no record of: the store was lost, or another machine
    was faster.

    `attempt` is the number that its id names, `report` what the broker says of it.
    """

    by: ClassVar[By] = By.RECONCILE
    attempt: int
    report: ExecutionReport


class RaiseAlarm(Message, frozen=True):
    """Something around the position needs a person (feed lost, a rule of yours failed, a foreign order in the way)."""

    by: ClassVar[By] = By.RECONCILE
    kind: str
    text: str


class Contradiction(Message, frozen=True):
    """Evidence about this position contradicts itself; nothing automatic may follow.

    `known` is what was known of the position when the evidence was read; it proves nothing about what came since.
    """

    by: ClassVar[By] = By.RECONCILE
    why: str
    known: Known | None = None


class Rescale(Message, frozen=True):
    """The unit of what is held changed: a split, or a dividend in shares.

    `factor` is what quantities are multiplied by; `qty` and `entry_price` are what the broker shows since. `known` is
    what was known of the position when the read of that began.
    """

    by: ClassVar[By] = By.BROKER
    factor: Decimal
    qty: Decimal
    entry_price: Decimal
    why: str = ""
    known: Known | None = None


class Withdraw(Message, frozen=True):
    """An intent is not sent: what it rests on is in another unit. For one that certainly never left."""

    by: ClassVar[By] = By.RECONCILE
    client_order_id: str
    why: str


class GiveWay(Message, frozen=True):
    """Another exit of the same holding waits for this position's order: a limit order that rests is canceled for it."""

    by: ClassVar[By] = By.TIMER
    why: str
