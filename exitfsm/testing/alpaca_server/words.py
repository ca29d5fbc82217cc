"""Alpaca's JSON, field by field: what the server says about the things it keeps.

Numbers are text, times have nine decimals, and a field that does not apply is null: the shapes are those of the
documented API and of recorded answers, so that a client's strict models read them.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from exitfsm.values import BrokerPosition, Fill, Side, plain

Json = dict[str, Any]

#: How long a socket that is closed waits for the client to agree, in seconds.
CLOSE_S = 2.0
#: Sixty years.
CALENDAR_DAYS_MAX = 21_915
EASTERN = ZoneInfo("America/New_York")
_NAMES = uuid.UUID("8f8f3a52-7a5c-4b0e-9c4e-6f6e7c1d2b3a")


def named(*parts: object) -> str:
    """A UUID that is always the same for the same parts."""
    return str(uuid.uuid5(_NAMES, "/".join(map(str, parts))))


def at_text(at: datetime | None) -> str | None:
    """`2024-01-03T15:00:00.123456000Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z") if at is not None else None


def number(value: Decimal | None) -> str | None:
    """A number as text."""
    return plain(value) if value is not None else None


def is_pair(symbol: str) -> bool:
    """True for a crypto pair."""
    return "/" in symbol


def compact(symbol: str) -> str:
    """The spelling of positions: a pair has lost its slash."""
    return symbol.replace("/", "")


def asset_class(symbol: str) -> str:
    """The class of an asset."""
    return "crypto" if is_pair(symbol) else "us_equity"


def position_json(p: BrokerPosition) -> Json:
    """A position; short quantities are negative, and a pair has no slash."""
    sign = 1 if p.side is Side.LONG else -1
    price = p.current_price if p.current_price is not None else p.avg_entry_price
    free = p.qty_available if p.qty_available is not None else p.qty
    profit = (price - p.avg_entry_price) * p.qty * sign
    return {
        "asset_id": named("asset", p.symbol),
        "symbol": compact(p.symbol),
        "exchange": "CRYPTO" if is_pair(p.symbol) else "NASDAQ",
        "asset_class": asset_class(p.symbol),
        "asset_marginable": not is_pair(p.symbol),
        "qty": number(p.qty * sign),
        "avg_entry_price": number(p.avg_entry_price),
        "side": str(p.side),
        "market_value": number(price * p.qty * sign),
        "cost_basis": number(p.avg_entry_price * p.qty * sign),
        "unrealized_pl": number(profit),
        "unrealized_plpc": f"{(price / p.avg_entry_price - 1) * sign:.9f}",
        "unrealized_intraday_pl": number(profit),
        "unrealized_intraday_plpc": "0",
        "current_price": number(price),
        "lastday_price": number(price),
        "change_today": "0",
        "qty_available": number(free * sign),
    }


def activity_json(fill: Fill, order_id: str, cumulative: Decimal, leaves: Decimal) -> Json:
    """One execution in the account's activities."""
    stamp = fill.at.astimezone(UTC).strftime("%Y%m%d%H%M%S%f")[:17]
    return {
        "id": f"{stamp}::{named('fill', fill.fill_id)}",
        "activity_type": "FILL",
        "account_id": named("account"),
        "transaction_time": at_text(fill.at),
        "type": "fill" if leaves == 0 else "partial_fill",
        "price": number(fill.price),
        "qty": number(fill.qty),
        "side": str(fill.side),
        "symbol": fill.symbol,
        "leaves_qty": number(leaves),
        "order_id": order_id,
        "cum_qty": number(cumulative),
        "order_status": "filled" if leaves == 0 else "partially_filled",
    }


def account_json(number_: str) -> Json:
    """The account."""
    yes = dict.fromkeys(("shorting_enabled",), True)
    no = dict.fromkeys(("trading_blocked", "transfers_blocked", "account_blocked", "trade_suspended_by_user"), False)
    return {
        "id": named("account"),
        "account_number": number_,
        "status": "ACTIVE",
        "crypto_status": "ACTIVE",
        "currency": "USD",
        "cash": "100000",
        "portfolio_value": "100000",
        "equity": "100000",
        "last_equity": "100000",
        "buying_power": "400000",
        "multiplier": "4",
        "created_at": "2020-01-02T15:00:00.000000000Z",
        **yes,
        **no,
    }


def configurations_json() -> Json:
    """How the account is set up."""
    return {
        "dtbp_check": "entry",
        "fractional_trading": True,
        "max_margin_multiplier": "4",
        "no_shorting": False,
        "pdt_check": "entry",
        "ptp_no_exception_entry": False,
        "suspend_trade": False,
        "trade_confirm_email": "all",
    }


def asset_json(symbol: str, *, tradable: bool, fractionable: bool) -> Json:
    """An asset."""
    pair = is_pair(symbol)
    return {
        "id": named("asset", symbol),
        "class": asset_class(symbol),
        "exchange": "CRYPTO" if pair else "NASDAQ",
        "symbol": symbol,
        "name": symbol,
        "status": "active",
        "tradable": tradable,
        "marginable": not pair,
        "shortable": not pair,
        "easy_to_borrow": not pair,
        "fractionable": fractionable,
        "attributes": [],
    }


# --- the market's hours -----------------------------------------------------------------------------------------------


def session_end(at: datetime) -> datetime:
    """When the session of a moment's day ends, or the next day's once that is over."""
    local = at.astimezone(EASTERN)
    end = datetime.combine(local.date(), time(16), EASTERN)
    return end if local < end else end + timedelta(days=1)


@dataclass
class Hours:
    """The market's calendar: Monday to Friday 9:30 to 16:00 in New York, but for the exceptions.

    Attributes:
        holidays: days without a session.
        half_days: days that end early, with their end.
        always: every day has a session, from midnight to a minute before midnight.
    """

    always: bool = False
    holidays: set[date] = field(default_factory=set)
    half_days: dict[date, time] = field(default_factory=dict)

    def of(self, day: date) -> tuple[datetime, datetime] | None:
        """Open and close of a day; None when there is no session."""
        if self.always:
            return datetime.combine(day, time(0), EASTERN), datetime.combine(day, time(23, 59), EASTERN)
        if day.weekday() >= 5 or day in self.holidays:
            return None
        close = self.half_days.get(day, time(16))
        return datetime.combine(day, time(9, 30), EASTERN), datetime.combine(day, close, EASTERN)

    def is_open(self, at: datetime) -> bool:
        """True while a session runs."""
        hours = self.of(at.astimezone(EASTERN).date())
        return hours is not None and hours[0] <= at < hours[1]

    def clock_json(self, at: datetime) -> Json:
        """`GET /v2/clock`."""
        days = [at.astimezone(EASTERN).date() + timedelta(days=n) for n in range(15)]
        sessions = [hours for day in days if (hours := self.of(day)) is not None]
        return {
            "timestamp": at.astimezone(EASTERN).isoformat(),
            "is_open": self.is_open(at),
            "next_open": min(opens for opens, _ in sessions if opens > at).isoformat(),
            "next_close": min(closes for _, closes in sessions if closes > at).isoformat(),
        }

    def calendar_json(self, start: date, end: date) -> list[Json]:
        """`GET /v2/calendar`."""
        days = [start + timedelta(days=n) for n in range(min((end - start).days + 1, CALENDAR_DAYS_MAX))]
        return [
            {
                "date": day.isoformat(),
                "open": hours[0].strftime("%H:%M"),
                "close": hours[1].strftime("%H:%M"),
                "session_open": "0400",
                "session_close": "2000",
                "settlement_date": day.isoformat(),
            }
            for day in days
            if (hours := self.of(day)) is not None
        ]
