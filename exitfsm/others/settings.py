"""Changed settings on their way to open positions: at a start, when the configuration is read anew, and by a person.

What they mean for a position is decided in `position.adjusting`; here they are handed to it, in the writer's thread and
in one commit, and what came of them is said. Settings that cannot be had change nothing at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from exitfsm.aio.loops import Loop, on_its_loop
from exitfsm.config import ExitConfig, load_config
from exitfsm.config.changes import needs_restart, policy_of
from exitfsm.custom_rules import CustomRules, missing
from exitfsm.engine import Engine
from exitfsm.errors import ConfigError
from exitfsm.lifecycle import State
from exitfsm.messages import ChangePolicy, Message, MoveStop, Open
from exitfsm.outside import log
from exitfsm.policy import ExitPolicy, cannot_be
from exitfsm.position import Position
from exitfsm.position.adjusting import why_not_policy, why_not_stop
from exitfsm.values import Side, decimal_of, same_symbol, symbol_key
from exitfsm.words import adjusted_in_words

T = TypeVar("T")
#: Who changes settings that nobody gives to one position.
CONFIGURATION = "the configuration"


class Told(Protocol):
    """Where work is carried out in the writer's thread."""

    async def run(self, work: Callable[[], T]) -> T:
        """Its result."""


class Outcome(NamedTuple):
    """What came of a change for a position: as it was and as it is, and why nothing came of it."""

    before: Position
    after: Position
    why_not: str = ""

    @property
    def line(self) -> str:
        """What is said of it."""
        if self.why_not:
            return f"{self.before.symbol}: nothing was changed: {self.why_not}"
        return adjusted_in_words(self.before, self.after)


class Settings:
    """Knows the settings for all positions, and hands changes to those that are open.

    Args:
        config: what the manager was given.
        rules: functions of the user's own.
        tells_hours: the broker says when the market is open.
    """

    def __init__(
        self, engine: Engine, config: ExitConfig, rules: CustomRules | None, now: Callable[[], datetime], *,
        tells_hours: bool,
    ) -> None:  # fmt: skip
        self._engine, self._now, self._rules, self.config = engine, now, rules or {}, config
        self._has_hours = tells_hours or config.policy.plan.needs_session

    @property
    def policy(self) -> ExitPolicy:
        """The settings of a position that is not given any of its own."""
        return self.config.policy

    def own(self, given: ExitPolicy | Mapping[str, Any], base: ExitPolicy | None = None) -> ExitPolicy:
        """Settings that are given to one position.

        Raises:
            ConfigError: they cannot be had.
        """
        policy = policy_of(given, base if base is not None else self.policy)
        self.check(policy)
        return policy

    def at_entry(self, given: ExitPolicy | Mapping[str, Any] | None, side: Side, entry: Decimal) -> dict[str, Any]:
        """The policy of a position that is to be watched, as `Open` has it: that for all, where none is given.

        Raises:
            ConfigError: it cannot be had.
            ValueError: it does not fit the entry.
        """
        if given is None:
            return {"policy": self.policy}
        policy = self.own(given)
        if wrong := cannot_be(policy, side, entry):
            raise ValueError("; ".join(wrong))
        return {"policy": policy, "own_policy": True}

    def check(self, policy: ExitPolicy) -> None:
        """Raise `ConfigError` where a policy needs what this manager was not started with."""
        rule = missing(self._rules, policy)
        if rule is not None:
            raise ConfigError([f"{rule.section}: no function was given for the rule {rule.name!r} {rule.version!r}"])
        if policy.plan.needs_session and not self._has_hours:
            raise ConfigError(["the broker tells no hours: a rule that asks for them needs a restart with it on"])

    def last_price(self, symbol: str) -> Decimal | None:
        """The last accepted price of a symbol that is held."""
        return self._engine.last_price(symbol)

    # --- in the writer's thread ---------------------------------------------------------------------------------------

    def apply(self, who: str = CONFIGURATION) -> list[str]:
        """Have open positions go by the settings for all, but for those with their own; says what has changed."""
        asked = [(p, self.policy) for p in self._engine.positions.values() if p.state is State.MONITORING]
        said = [one.line for one in self.change(asked, None, who) if one.after.version > one.before.version]
        for line in said:
            log.warning("settings_changed %s", line)
        return said

    def opened(self, message: Open, reference: Decimal | None) -> Position:
        """Watch a position, unless it is watched already: then give it its own settings, where it has none yet."""
        p = self._engine.open_unless_watched(message, reference=reference)
        if message.own_policy and not p.own_policy and p.state is State.MONITORING:
            return self.change([(p, message.policy)], True, message.by)[0].after
        return p

    def change(
        self, asked: Sequence[tuple[Position, ExitPolicy]], own: bool | None, who: str, why: str = ""
    ) -> list[Outcome]:
        """Give settings to positions; those that have changed in between keep what they have."""
        at = self._now()
        messages: list[tuple[str, Message]] = []
        refused: dict[str, str] = {}
        for before, policy in asked:
            p = self._engine.positions.get(before.position_id)
            why_not = why_not_policy(p, policy if own else p.policy) if p is not None else "it has ended"
            if p is not None and p.policy != before.policy:
                why_not = "its settings have just been changed by somebody else; look, and give it again"
            if why_not:
                refused[before.position_id] = why_not
            else:
                message = ChangePolicy(at=at, policy=policy, who=who, own=own, why=why)
                messages.append((before.position_id, message))
        return self._told([p for p, _ in asked], messages, refused)

    def move_stop(self, positions: Sequence[Position], price: Decimal, who: str, why: str = "") -> list[Outcome]:
        """Put the stop of positions at a price."""
        at = self._now()
        messages: list[tuple[str, Message]] = []
        refused: dict[str, str] = {}
        for before in positions:
            p, last = self._engine.positions.get(before.position_id), self._engine.last_price(before.symbol)
            why_not = why_not_stop(p, price, last) if p is not None else "it has ended"
            if why_not:
                refused[before.position_id] = why_not
            else:
                seen = self._engine.levels.last_at(before.symbol)
                message = MoveStop(at=at, price=price, who=who, last_price=last, bar_at=seen, why=why)
                messages.append((before.position_id, message))
        return self._told(positions, messages, refused)

    def _told(
        self, positions: Sequence[Position], messages: list[tuple[str, Message]], refused: Mapping[str, str]
    ) -> list[Outcome]:
        before = {p.position_id: self._engine.positions.get(p.position_id, p) for p in positions}
        self._engine.tell_all(messages)
        after = self._engine.positions
        return [Outcome(p, after.get(key, p), refused.get(key, "")) for key, p in before.items()]

    # --- another configuration ----------------------------------------------------------------------------------------

    async def reload(self, config: ExitConfig, told: Told, who: str) -> list[str]:
        """Go by another configuration: what it says of policies reaches positions now, the rest with a restart.

        Raises:
            ConfigError: its policy cannot be had; nothing was changed.
        """
        self.check(config.policy)
        waiting = needs_restart(self.config, config)
        self.config = replace(self.config, policy=config.policy)
        said = await told.run(lambda: self.apply(who))
        if waiting:
            said = [*said, f"these settings need a restart: {', '.join(waiting)}"]
        return said or ["nothing of the settings has changed"]


class Adjustable:
    """What of a manager changes settings while it runs."""

    config: ExitConfig
    _loop: Loop | None
    #: What it was given as its configuration: a path is read anew.
    _config_given: ExitConfig | Mapping[str, Any] | str | os.PathLike[str] | None

    @property
    def _settings(self) -> tuple[Settings, Told]:
        """The settings, and where work on them is carried out; `StoreError` where it is stopped."""
        raise NotImplementedError

    def positions(self) -> list[Position]:
        """All open positions."""
        raise NotImplementedError

    def _goes_by(self, config: ExitConfig) -> None:
        """Another configuration counts, also for the next start."""
        raise NotImplementedError

    @on_its_loop
    async def change_policy(
        self,
        /,
        symbol: str,
        policy: ExitPolicy | Mapping[str, Any] | None = None,
        *,
        who: str = "operator",
        reason: str = "",
        **sections: Any,
    ) -> list[Position]:
        """Give the positions of a symbol settings of their own, which those for all do not replace; returns them.

        It applies while a position is monitored only. A stop that has moved stays where it is.

        Args:
            symbol: whose positions.
            policy: a whole policy, or sections that are put into the one that a position has, as
                `{"stop_loss": {"price": 4980}}`. None, and no sections: go by the settings for all again.
            who, reason: for the log.
            sections: the same by name: `stop_loss={"price": 4980}`.

        Raises:
            ConfigError: the settings cannot be had.
            ValueError: nothing is watched of the symbol, or a position cannot have them: its exit is under way, or a
                price is on the wrong side of its entry.
        """
        settings, told = self._settings
        held, own = self._watched(symbol), policy is not None or bool(sections)
        given = policy if isinstance(policy, ExitPolicy) else {**(policy or {}), **sections}
        asked = [(p, settings.own(given, p.policy) if own else settings.policy) for p in held]
        return _done(await told.run(lambda: settings.change(asked, own, who, reason)))

    @on_its_loop
    async def set_stop(
        self, symbol: str, price: Decimal | float | str, *, who: str = "operator", reason: str = ""
    ) -> list[Position]:
        """Put the stop of the positions of a symbol at a price, also a looser one; returns them.

        It stands in for every other stop of theirs. A trail, and a stop at break-even, go on from there: with a better
        price than any before, and only to a better stop. One beyond the market fires at the next price.

        Raises:
            ValueError: nothing is watched of the symbol, its exit is under way, or the price is none.
        """
        settings, told = self._settings
        held, number = self._watched(symbol), decimal_of(price)
        return _done(await told.run(lambda: settings.move_stop(held, number, who, reason)))

    @on_its_loop
    async def reload(
        self, config: ExitConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None, *, who: str = CONFIGURATION
    ) -> list[str]:
        """Read the configuration anew, or go by another one; says what has changed, a line each.

        What it says of policies reaches open positions as recorded changes, and counts for those to come. Settings that
        need a restart are named.

        Args:
            config: another one; None reads the file that this manager was given.
            who: for the log.

        Raises:
            ConfigError: it cannot be read or had; nothing was changed.
        """
        settings, told = self._settings
        source = config if config is not None else self._config_given
        if source is None:
            raise ConfigError(["there is no configuration to read anew: this manager was given none"])
        said = await settings.reload(load_config(source), told, who)
        self._goes_by(settings.config)
        return said

    def _watched(self, symbol: str) -> list[Position]:
        name = symbol_key(str(symbol))
        held = [p for p in self.positions() if same_symbol(p.symbol, name)]
        if not held:
            raise ValueError(f"{symbol}: no open position of it is watched; nothing was changed")
        return held


def _done(outcomes: Sequence[Outcome]) -> list[Position]:
    """The positions as they are now.

    Raises:
        ValueError: a change could not be made for one of them.
    """
    if refused := [one.line for one in outcomes if one.why_not]:
        raise ValueError("; ".join(refused))
    return [one.after for one in outcomes]
