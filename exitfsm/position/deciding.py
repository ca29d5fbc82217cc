"""`decide`: what a message means for a position, as events or as nothing.

One handler for each message, in the module of its subject: bars in `watching`, the broker's reports in `reporting`, its
positions in `reading` and their units in `rescaling`, time in `timing`, commands and what is found out in `operating`,
settings and stops that are changed in `adjusting`.
Nothing in any of them raises for what a market or a broker does: it is recorded, or it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from msgspec import UNSET

from exitfsm.events import Event, PositionOpened
from exitfsm.messages import (
    Acknowledge,
    BarSeen,
    ChangePolicy,
    Contradiction,
    ForceExit,
    GiveWay,
    Ignore,
    Message,
    MoveStop,
    Open,
    PositionRead,
    RaiseAlarm,
    Recover,
    Release,
    Report,
    Rescale,
    TimeSeen,
    Withdraw,
)
from exitfsm.order_ids import FIRST_FORM
from exitfsm.policy import ExitPolicy, cannot_be, fitted, typed
from exitfsm.ports import CAREFUL, Capabilities
from exitfsm.position.adjusting import on_change_policy, on_move_stop
from exitfsm.position.alarming import with_ends
from exitfsm.position.operating import (
    on_acknowledge,
    on_contradiction,
    on_force_exit,
    on_give_way,
    on_ignore,
    on_raise_alarm,
    on_release,
)
from exitfsm.position.reading import on_position_read
from exitfsm.position.recovering import on_recover
from exitfsm.position.reporting import on_report
from exitfsm.position.rescaling import on_rescale, on_withdraw
from exitfsm.position.state import Position
from exitfsm.position.timing import on_time
from exitfsm.position.watching import on_bar
from exitfsm.values import canonical_symbol, decimal_of, exactly, tradable


@exactly
def decide(position: Position | None, message: Message, broker: Capabilities = CAREFUL) -> tuple[Event, ...]:
    """The events that `message` means for `position`; empty when it means nothing.

    Args:
        position: the position as it stands, None before `Open`.
        message: what it is told.
        broker: what the broker can do; the most careful assumptions by default.

    Raises:
        ValueError: an `Open` that no position can be made of, or settings that are none.
    """
    if position is None:
        return open_position(message, broker) if isinstance(message, Open) else ()
    handler = _HANDLERS.get(type(message))
    if handler is None:
        return ()
    events = handler(position, message, broker)
    if events and position.alarms:
        events = with_ends(position, events, message.at)
    return tuple(events)


def open_position(m: Open, broker: Capabilities) -> tuple[Event, ...]:
    """The first event of a position."""
    for name, number in (("qty", m.qty), ("entry_price", m.entry_price)):
        if not (tradable(number) and number > 0):
            raise ValueError(f"cannot watch {m.symbol}: {name} is {number}, it must be a finite number above 0")
    form = m.id_form or broker.form(canonical_symbol(m.symbol))
    return (
        PositionOpened(
            account=m.account,
            symbol=canonical_symbol(m.symbol),
            side=m.side,
            epoch=m.epoch,
            qty=m.qty,
            entry_price=m.entry_price,
            opened_at=m.opened_at,
            policy=_policy_of(m),
            atr=_usable(m.atr),
            strategy_name=m.strategy_name,
            source=m.source,
            id_form=form if form != FIRST_FORM else UNSET,
            own_policy=True if m.own_policy else UNSET,
        ),
    )


def _policy_of(m: Open) -> ExitPolicy:
    """The settings of a new position: its own must fit it, and what does not fit of those for all is left out."""
    policy = typed(m.policy)
    if not m.own_policy:
        return fitted(policy, m.side, m.entry_price)
    if wrong := cannot_be(policy, m.side, m.entry_price):
        raise ValueError(f"cannot watch {m.symbol}: {'; '.join(wrong)}")
    return policy


def _usable(atr: Decimal | float | None) -> Decimal | None:
    """An average true range that levels can be made of; None for NaN, as figures of the first bars often are."""
    figure = decimal_of(atr) if atr is not None else None
    return figure if figure is not None and tradable(figure) and figure > 0 else None


_HANDLERS: dict[type[Message], Callable[[Position, Any, Capabilities], list[Event]]] = {
    BarSeen: on_bar,
    Report: on_report,
    PositionRead: on_position_read,
    TimeSeen: on_time,
    ForceExit: on_force_exit,
    ChangePolicy: on_change_policy,
    MoveStop: on_move_stop,
    Release: on_release,
    Ignore: on_ignore,
    Acknowledge: on_acknowledge,
    Recover: on_recover,
    RaiseAlarm: on_raise_alarm,
    Contradiction: on_contradiction,
    GiveWay: on_give_way,
    Rescale: on_rescale,
    Withdraw: on_withdraw,
}
