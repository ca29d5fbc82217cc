"""The client order ids of exits: pure functions of a position's name and the number of its order.

Rules of this room: an id is a hash of the position and, at its end and never cut, the number of the order; it depends
on nothing else, so that a second machine, or this one after a crash, names the same order the same. Which form the ids
have is fixed when the position is opened and is part of its first event: ids that were sent must be found again.

| form | looks like | for |
|---|---|---|
| `xf1` | `xf1-`, 32 hex digits, `-`, the number | positions of before, which keep it |
| `xf2` | `xf2`, 26 of `[a-z0-9]`, three base-36 digits: 32 characters | what is opened today |
| `xf2-N` | the same with `N` characters in all, 20 to 31 | venues that take fewer |
| `uuid` | a UUID with hash and number in its bits | venues that take UUIDs only |

Where only a part of an account is managed, the hash begins with the mark of that scope, which is in the position's
name: so the exits of two bots on one account are told apart. Ids of the whole account have none.
"""

from __future__ import annotations

import hashlib
import re

from exitfsm.errors import StoreError

#: The form of positions whose first event names none.
FIRST_FORM = "xf1"
#: The form of what is opened today, unless the venue wants another.
DEFAULT_FORM = "xf2"
UUID_FORM = "uuid"
_LENGTH, _LENGTH_MIN = 32, 20  # of xf2; a hash of 14 characters has 72 bits
_PREFIX, _DIGITS = "xf2", 3
_UUID_TAG = "786632"  # `xf2` in ASCII: 24 bits by which ours are told from others at a glance
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_HEX = "[0-9a-f]"
#: How the ids of exits begin, whatever their form.
EXIT_PREFIXES = ("xf1-", _PREFIX, _UUID_TAG)
#: The end of a position's name where it is of a part of an account: the account's hash, and the mark of the scope.
_MARKED = re.compile(r".*:[0-9a-f]{12}-([0-9a-f]{5})", re.ASCII | re.DOTALL)
_SHORTER = re.compile(rf"{_PREFIX}-([0-9]{{1,4}})", re.ASCII)
_LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"xf1-[0-9a-f]{32}-[0-9]+", re.ASCII), FIRST_FORM),
    (re.compile(rf"{_PREFIX}[0-9a-z]{{{_LENGTH_MIN - 3},{_LENGTH - 3}}}", re.ASCII), DEFAULT_FORM),
    (re.compile(rf"{_UUID_TAG}{_HEX}{{2}}-{_HEX}{{4}}-4{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}"), UUID_FORM),
)


def form_mistake(form: str) -> str | None:
    """What is wrong with a form of ids; None where it is one that this version knows."""
    if form in (FIRST_FORM, DEFAULT_FORM, UUID_FORM):
        return None
    shorter = _SHORTER.fullmatch(form)
    if shorter is None:
        return f"{form!r} is no form of client order ids: use 'xf2', 'xf2-20' to 'xf2-31', or 'uuid'"
    length = int(shorter[1])
    if length < _LENGTH_MIN:
        return (
            f"id_form {form!r}: {length} characters have no room for the hash of a position and the number of its "
            f"order, so no exit could be found again: {_LENGTH_MIN} are needed; where UUIDs are taken, declare 'uuid'"
        )
    return None if length < _LENGTH else f"id_form {form!r}: 'xf2' has {_LENGTH} characters, so declare 'xf2'"


def check_stored(stream_id: str, form: str) -> None:
    """See that this version knows the form of a stored position's ids.

    Raises:
        StoreError: it does not.
    """
    if (mistake := form_mistake(form)) is not None:
        raise StoreError(f"{stream_id} was opened by a newer version of exitfsm: upgrade exitfsm ({mistake})")


def client_order_id(position_id: str, attempt: int, form: str = DEFAULT_FORM) -> str:
    """The id of a position's `attempt`-th exit order (from 1).

    Depends on nothing else, so a second machine, or this one after a crash, names the same order the same.

    Raises:
        ValueError: this version does not know the form, or it has no room for the number.
    """
    stem, digits = _stem(position_id, form), _digits(form)
    if form == FIRST_FORM:
        return f"{stem}{attempt}"
    number = f"{attempt:x}" if form == UUID_FORM else _base36(attempt)
    if len(number) > digits:
        raise ValueError(f"exit order {attempt} of {position_id}: a number of {digits} digits is the highest of {form}")
    return stem + number.rjust(digits, "0")


def is_exit_of(position_id: str, order_id: str | None, form: str | None = None) -> bool:
    """True when an order id is that of some exit order of a position, in this form; None for any form."""
    if order_id is None:
        return False
    own = form_of(order_id)
    return own is not None and form in (None, own) and order_id.startswith(_stem(position_id, own))


def form_of(order_id: str) -> str | None:
    """The form that an order id has, by its looks alone; None where it looks like no exit of ours.

    A hint only: an order is ours because its id is that of a position that is known, or can be derived.
    """
    found = next((form for looks, form in _LOOKS if looks.fullmatch(order_id)), None)
    return f"{_PREFIX}-{len(order_id)}" if found == DEFAULT_FORM and len(order_id) < _LENGTH else found


def looks_like_exit(order_id: str | None, mark: str = "") -> bool:
    """True for an id that an exit of ours could have; of the scope with this mark, where there is one."""
    form = form_of(order_id) if order_id is not None else None
    if order_id is None or form is None or not mark:
        return form is not None
    hashed = order_id[6:8] + order_id[9:13] if form == UUID_FORM else order_id[4 if form == FIRST_FORM else 3 :]
    return hashed.startswith(mark)


def _digits(form: str) -> int:
    return {FIRST_FORM: 0, UUID_FORM: 4}.get(form, _DIGITS)


def _stem(position_id: str, form: str) -> str:
    """What all ids of a position begin with: all but the number."""
    mistake = form_mistake(form)
    if mistake is not None:
        raise ValueError(mistake)
    hashed, marked = hashlib.sha256(position_id.encode()), _MARKED.fullmatch(position_id)
    mark = marked[1] if marked is not None else ""
    if form == FIRST_FORM:
        return f"xf1-{(mark + hashed.hexdigest())[:32]}-"
    if form == UUID_FORM:
        return _uuid_stem(mark + hashed.hexdigest())
    length = int(form.partition("-")[2] or _LENGTH) - len(_PREFIX) - _DIGITS - len(mark)
    return _PREFIX + mark + _base36(int(hashed.hexdigest(), 16) % 36**length).rjust(length, "0")


def _uuid_stem(h: str) -> str:
    """82 bits of a hash in a UUID that looks like one of version 4, which every check lets pass; 4 digits are left."""
    variant = "89ab"[int(h[20], 16) % 4]
    return f"{_UUID_TAG}{h[0:2]}-{h[2:6]}-4{h[6:9]}-{variant}{h[9:12]}-{h[12:20]}"


def _base36(number: int) -> str:
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
        if not number:
            return digits


__all__ = [
    "DEFAULT_FORM",
    "EXIT_PREFIXES",
    "FIRST_FORM",
    "UUID_FORM",
    "check_stored",
    "client_order_id",
    "form_mistake",
    "form_of",
    "is_exit_of",
    "looks_like_exit",
]
