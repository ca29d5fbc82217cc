"""When a market is open, where no broker says it: for simulations and paper runs, by the configured hours.

Rules of this room: where a calendar is named, its sessions count. Otherwise hours are Monday to Friday, without New
York's holidays and with its early closes where the hours are in its zone; what is crypto by its name never closes. A
broker's own word always holds: here is asked what no broker says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from exitfsm import calendars, exchange_days
from exitfsm.config import ExitConfig, SessionHours
from exitfsm.ports import Capabilities, Session

_WEEKDAYS = 5
_DAYS_AHEAD = 12  # no market is closed for longer
#: What is traded at exchanges for crypto, as far as it is also quoted in ordinary money.
_COINS = frozenset(
    """
    AAVE ADA ALGO APE APT ARB ATOM AVAX AXS BAT BCH BNB BSV BTC COMP CRV DAI DASH DOGE DOT EGLD ENJ EOS ETC ETH FET FIL
    FLOW FTM GALA GRT HBAR ICP IMX INJ IOTA KSM LDO LINK LTC LUNA LUNC MANA MATIC MKR NEAR NEO OP PAXG PEPE POL QNT
    RNDR RUNE SAND SHIB SNX SOL STX SUI SUSHI TON TRX UNI USDC USDT VET WIF XBT XEC XLM XMR XRP XTZ YFI ZEC
    """.split()  # noqa: SIM905  a screenful of quotes and commas would hide them
)
#: What crypto alone is quoted in.
_CRYPTO_QUOTES = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "BTC", "XBT", "ETH", "BNB")
_QUOTES = (*_CRYPTO_QUOTES, "PERP", "USD", "EUR", "GBP", "JPY", "AUD", "CAD", "CHF", "KRW", "TRY", "BRL")
_PAIR_MIN = 6  # letters: what is shorter may be the ticker of a stock


def is_crypto(symbol: str) -> bool:
    """True for a pair with a slash, and for what is crypto by its name without one: BTCUSDT, ETH-USD, ADABTC.

    Currencies (EURUSD) are not, nor is a name that may be a stock's (BTC alone).
    """
    if "/" in symbol:
        return True
    base, *rest = re.split(r"[-_.:]", symbol.upper())
    if rest and rest[0] in _QUOTES:
        return base in _COINS or (rest[0] in _CRYPTO_QUOTES and base != "")
    return len(base) >= _PAIR_MIN and any(
        base.endswith(quote) and (base.removesuffix(quote) in _COINS or quote in _CRYPTO_QUOTES) for quote in _QUOTES
    )


def _never_closes(hours: SessionHours, symbol: str, always_open: bool | None) -> bool:
    if always_open is not None:
        return always_open
    return hours.calendar in calendars.ALWAYS_OPEN or (not hours.calendar and is_crypto(symbol))


def market_session(hours: SessionHours, symbol: str, at: datetime, always_open: bool | None = None) -> Session:
    """The regular session around a moment.

    Args:
        hours, symbol, at: of which market, around when.
        always_open: whether the market never closes, where that is known; by the symbol's name where it is not.
    """
    if _never_closes(hours, symbol, always_open):
        return Session(is_open=True)
    local = at.astimezone(ZoneInfo(hours.timezone))
    coming = next(_sessions(hours, at), None)
    if coming is None:
        return Session(is_open=False)
    opens, closes = coming
    is_open = opens <= local
    # Before the close of a trading day its close counts, also before the open: a position may not outlive it.
    close = closes if is_open or closes.date() == local.date() else None
    following = opens if local < opens else next(_sessions(hours, closes))[0]
    return Session(is_open=is_open, close=close, next_open=following)


def asks_the_broker(config: ExitConfig) -> bool:
    """True where a rule needs to know when the session ends, and the configuration says nothing of hours."""
    unsaid, hours = SessionHours(), config.session
    said = hours.calendar or (hours.timezone, hours.open, hours.close) != (unsaid.timezone, unsaid.open, unsaid.close)
    return bool(config.policy.plan.needs_session and not said)


def closing(config: ExitConfig, broker: Capabilities) -> Callable[[str, datetime], datetime | None] | None:
    """When the session that runs ends, by the configuration; None where no rule asks for it."""
    if not config.policy.plan.needs_session:
        return None
    hours = config.session
    return lambda symbol, at: market_session(hours, symbol, at, broker.never_closes(symbol)).close


def _sessions(hours: SessionHours, at: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The opening and the close of each session that ends after a moment, in the zone of the hours."""
    by_calendar = calendars.sessions(hours.calendar, at) if hours.calendar else None
    if by_calendar is not None:
        zone = ZoneInfo(hours.timezone)
        yield from ((opens.astimezone(zone), closes.astimezone(zone)) for opens, closes in by_calendar)
        return
    local = at.astimezone(ZoneInfo(hours.timezone))
    for ahead in range(_DAYS_AHEAD):
        noon = local.replace(hour=12, minute=0, second=0, microsecond=0, fold=0) + timedelta(days=ahead)
        if not _is_open_on(hours, noon.date()):
            continue
        close = hours.close
        if hours.timezone in exchange_days.ZONES and exchange_days.closes_early(noon.date()):
            close = min(close, exchange_days.EARLY_CLOSE)
        closes = noon.replace(hour=close.hour, minute=close.minute)
        if local < closes:
            yield noon.replace(hour=hours.open.hour, minute=hours.open.minute), closes


def _is_open_on(hours: SessionHours, day: date) -> bool:
    if day.weekday() >= _WEEKDAYS:
        return False
    return hours.timezone not in exchange_days.ZONES or not exchange_days.is_holiday(day)


def midnight(at: datetime) -> bool:
    """True for the first moment of a day."""
    return (at.hour, at.minute, at.second, at.microsecond) == (0, 0, 0, 0)


class LongBars:
    """Sessions as bars see them that are too long for a margin of minutes: by hour, by day.

    An exit that is decided on a bar fills at the next one's open. So a bar after whose follower the market is closed is
    the last one that leaves time, however many minutes before the close it is: the rule is due on it.

    Args:
        hours: the market's hours.
    """

    def __init__(self, hours: SessionHours) -> None:
        self._hours, self._zone = hours, ZoneInfo(hours.timezone)
        self._lengths: dict[str, timedelta] = {}
        #: The newest bar that was asked about, by symbol.
        self._seen_at: dict[str, datetime] = {}

    def close(
        self, symbol: str, at: datetime, previous_at: datetime | None, always_open: bool | None = None
    ) -> datetime | None:
        """The close that counts for a bar; the bar's own time where it is the last that leaves time to exit.

        Args:
            symbol: of the bar.
            at: its time.
            previous_at: the time of the bar before it.
            always_open: as in `market_session`.
        """
        session = None if _never_closes(self._hours, symbol, always_open) else next(_sessions(self._hours, at), None)
        if session is None:
            return None
        opens, coming = session
        length = self._length(symbol, at, previous_at)
        if length is not None and coming <= at + 2 * length:
            return at
        is_today = coming.astimezone(self._zone).date() == at.astimezone(self._zone).date()
        return coming if is_today or opens <= at else None

    def is_outside(self, symbol: str, at: datetime, always_open: bool | None = None) -> bool:
        """True for a bar of which no part lies in a session; each bar of a symbol is asked about, in order.

        A bar of a day or more always has a part in one, and so has one of midnight, until its length is known.
        """
        previous_at, self._seen_at[symbol] = self._seen_at.get(symbol), at
        if _never_closes(self._hours, symbol, always_open):
            return False
        length = self._length(symbol, at, previous_at)
        is_midnight = midnight(at) or midnight(at.astimezone(self._zone))
        if (length is None and is_midnight) or (length is not None and length >= timedelta(days=1)):
            return False
        session = next(_sessions(self._hours, at), None)
        return session is None or (session[0] > at and session[0] >= at + (length or timedelta(0)))

    def _length(self, symbol: str, at: datetime, previous_at: datetime | None) -> timedelta | None:
        """How far a symbol's bars are apart: the shortest step within a day, or whole days where there is none."""
        known = self._lengths.get(symbol)
        step = at - previous_at if previous_at is not None else timedelta(0)
        if previous_at is not None and step > timedelta(0) and (known is None or step < known):
            same_day = at.astimezone(self._zone).date() == previous_at.astimezone(self._zone).date()
            off = step % timedelta(days=1)
            if same_day or min(off, timedelta(days=1) - off) <= timedelta(hours=1):  # clocks are set in between
                self._lengths[symbol] = known = step
        return known


__all__ = ["LongBars", "asks_the_broker", "closing", "is_crypto", "market_session"]
