"""What a refusal means: it passes by itself, or it lasts; and what would work where it says so.

The broker's adapter may say which (`OrderRefused(code, text, passing=…)`). Where it does not, the code decides, then
the words of the text. What neither knows lasts: an exit that is refused for good must reach a person soon, and one that
a person looked at for nothing costs less than one that nobody looked at.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal

from exitfsm.position.order import ExitOrder
from exitfsm.position.state import Position
from exitfsm.values import EXACT, plain

#: The first pause before an order that was refused for now is sent again, and the longest, in seconds.
PAUSE_S, PAUSE_MAX_S = 5, 60

#: Codes that brokers give to causes that pass, without case and what is no letter or digit.
PASSING_CODES = frozenset({
    "halted", "markethalted", "tradinghalted", "halt", "paused", "marketpaused", "suspended", "tradingsuspended",
    "symbolsuspended", "marketclosed", "exchangeclosed", "outsidetradinghours", "outsiderth", "toolatetoenter",
    "tradingnotstarted", "maintenance", "onmaintenance", "systemmaintenance", "exchangenotavailable",
    "serviceunavailable", "temporarilyunavailable", "systembusy", "serverbusy", "overloaded", "unavailable",
    "rate", "ratelimit", "ratelimitexceeded", "toomanyrequests", "toomanyorders", "ddosprotection", "429", "42910000",
    "1003", "1008", "1015", "1016", "1021", "invalidtimestamp", "timestamp", "invalidnonce",
    "insufficientclosable", "notyetclosable", "notclosable", "t1",
})  # fmt: skip
#: Codes that last, whatever the text beside them says.
LASTING_CODES = frozenset({
    "badsymbol", "invalidsymbol", "unknownsymbol", "nottradable", "delisted", "symboldelisted", "accountblocked",
    "accountsuspended", "accountrestricted", "permissiondenied", "authenticationerror", "notsupported", "daytrading",
    "notshortable", "morethanheld", "insufficientqty", "insufficientbalance", "insufficientfunds",
    "insufficientbuyingpower", "washtrade",
})  # fmt: skip
#: Words that last, in a text that may have one of the others in it: of the account, or of a market that is gone.
_LASTING = re.compile(
    r"account|delist|does not exist|invalid symbol|unknown symbol|no longer|permanent|not permitted|permission"
    r"|pattern day|liquidat\w+ only|expired contract",
    re.IGNORECASE,
)
#: Words of causes that pass.
_PASSING = re.compile(
    r"\bhalt|paus(?:e|ed|ing)\b|suspend|circuit.?breaker|\bluld\b|limit.?up.?limit.?down|auction"
    r"|maintenance|temporar|try (?:again|later)|retry|\bbusy\b|overload|unavailable|not ready|upgrad"
    r"|timestamp|recv.?window|nonce|clock"
    r"|rate.?limit|too many|throttl|too frequent|frequency"
    r"|clos(?:e)?able|not.{0,12}settled|unsettled|\bT\+[12]\b"
    r"|market (?:is )?(?:currently )?clos|exchange (?:is )?clos|outside (?:of )?(?:regular )?(?:trading|market) hours"
    r"|not (?:in|within) (?:the )?(?:trading|market) (?:hours|session)|market (?:is )?not open|after.?hours|pre.?open"
    r"|cancel.?only|post.?only mode",
    re.IGNORECASE,
)
#: What a venue's least step or greatest quantity is, in the words of a refusal.
_STEP = re.compile(
    r"(?:step(?: ?size)?|lot(?: ?size)?|multiple|increment)s?\s*(?:must be|should be|of|is|=|:)?\s*(?:of\s*)?"
    r"(\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
_MOST = re.compile(
    r"(?:available|closable|sellable|max(?:imum)?(?: \w+){0,2}|at most|held)\s*(?:is|=|:|qty|quantity)?\s*:?\s*"
    r"(\d+(?:\.\d+)?)",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"fraction|whole (?:share|number)|integer|not fractionable|decimal", re.IGNORECASE)


#: The orders that hold what was to be sold, as a refusal names them by the broker's own ids.
_HOLDERS = re.compile(
    r"(?:related|conflicting|blocking|holding)_?orders?(?:_?ids?)?\W{0,3}[:=]?\s*[\[(]?([^\])}]{1,500})", re.IGNORECASE
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,63}")


def holders(text: str) -> tuple[str, ...]:
    """The broker's own ids of the orders that hold what was to be sold, where a refusal names them."""
    return tuple(order_id for found in _HOLDERS.findall(text) for order_id in _ID.findall(found))


def passes(refusal: str, text: str, said: bool | None = None) -> bool:
    """True for a refusal whose cause passes by itself; `said` is the adapter's word, which counts most."""
    if said is not None:
        return said
    code = "".join(char for char in refusal.lower() if char.isalnum())
    if code in LASTING_CODES:
        return False
    if code in PASSING_CODES:
        return True
    words = f"{refusal.replace('_', ' ')} {text}"
    return _LASTING.search(words) is None and _PASSING.search(words) is not None


def pause(times: int) -> timedelta:
    """How long an order waits that was refused for now so often in a row."""
    return timedelta(seconds=min(PAUSE_S * 2 ** min(times - 1, 10), PAUSE_MAX_S))


def postponed_in_a_row(orders: tuple[ExitOrder, ...]) -> int:
    """How many of the newest orders ended one after the other because of a refusal that passes."""
    count = 0
    for order in reversed(orders):
        if order.live or not order.refusal or not order.passing:
            break
        count += 1
    return count


def again_at(p: Position, at: datetime) -> datetime:
    """When the current order, refused for now at `at`, is sent again."""
    return at + pause(p.order.postponed + 1)


def what_would_work(p: Position, text: str) -> str:
    """What a person can do where a refusal names a step or a smaller quantity; empty where it names none."""
    qty = p.order.leaves_qty
    size = _smaller(qty, text)
    if size is None or not 0 < size < qty:
        return ""
    return (
        f"; {plain(size)} of {plain(qty)} would work by that: force_exit({p.symbol!r}, qty={str(size)!r}) sends it, "
        "and AssetRules(qty_step=…) in the broker's capabilities sizes orders by itself"
    )


def _smaller(qty: Decimal, text: str) -> Decimal | None:
    step = _figure(_STEP, text) or (Decimal(1) if _WHOLE.search(text) else None)
    if step is not None and step > 0:
        steps = EXACT.divide(qty, step).to_integral_value(ROUND_FLOOR)
        size = EXACT.multiply(steps, step)
        if size < qty:
            return size
    return _figure(_MOST, text)


def _figure(pattern: re.Pattern[str], text: str) -> Decimal | None:
    found = pattern.search(text)
    return Decimal(found[1]) if found is not None else None
