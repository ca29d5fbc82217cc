"""What is said between a client and a running manager, each a line: a greeting, then one request and one answer.

The manager greets first. So a request never waits at one that hangs, and its patience is counted from the greeting:
no clock of one machine is held against another's. On a port both sides prove that they know the token, by a code over
what they say and what the other has made up for it; the token itself is never sent.

Rules of this room: pure. A request is checked whole before anything is done for it. Bytes that are none are a
`Malformed`, whatever they are.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from exitfsm.outside import harmless

T = TypeVar("T")

#: The version of what is said here. A manager answers its own version to any other.
VERSION = 1
#: The longest request, in bytes, and the longest answer.
REQUEST_MAX, ANSWER_MAX = 64 << 10, 4 << 20
#: How many subjects a command may name, how long each, and how long a reason or a name may be, in characters.
SUBJECTS_MAX, SUBJECT_MAX, TEXT_MAX = 1_000, 200, 500
#: How many digits a command's id has.
ID_DIGITS = 16
#: For how long after the greeting a command may come at most, in seconds: what comes later is not carried out.
ON_ITS_WAY_MAX_S = 3600.0

#: Each verb, with what it does.
VERBS: Mapping[str, str] = MappingProxyType(
    {
        "pause": "no new triggers and no entries; exits under way go on",
        "resume": "end the pause",
        "exit": "exit all positions of a symbol now",
        "flatten": "pause, exit everything, and prove by the broker's books that all is flat",
        "release": "hand an unprotected position back to the rules",
        "acknowledge": "a person has looked at an alarm",
        "adopt": "take a symbol into what is managed, whatever is configured",
        "ignore": "take a symbol out of what is managed: what is held of it is not watched, and not sold",
        "set-stop": "put the stop of a position at a price, also a looser one",
        "set-policy": "give settings to one position, or have it go by those for all again",
        "reload": "read the configuration anew: what it says of policies reaches open positions",
        "sync": "reconcile with the broker now",
        "stop": "end the manager in good order; what is owed stays owed in the store",
    }
)
#: Questions: they change nothing and are not recorded.
QUESTIONS = ("standing", "proof")
#: Verbs and questions that name symbols, positions or alarms, and cannot do without.
NEEDS_SUBJECTS = ("exit", "release", "acknowledge", "adopt", "ignore", "set-stop", "set-policy")
#: Verbs that name what is to be given: a price, or settings (`stop_loss.threshold_pct=2`), or these words for none.
GIVES, THOSE_OF_ALL = ("set-stop", "set-policy"), "default"
#: How many settings a command may name, and how long each may be, in characters.
GIVEN_MAX, GIVEN_LENGTH_MAX = 50, 200
#: What a `flatten` names that is meant for what is not managed, too.
ALL_POSITIONS = "all-positions"

#: Codes of an answer: done; not done, or not all of it; not understood, or not allowed.
DONE, NOT_DONE, REFUSED = 0, 1, 2


class Malformed(ValueError):
    """Bytes that are no request, or no answer; the text says what is wrong."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"version": "v"}):
    """A command, or a question.

    Attributes:
        verb: what is to be done.
        id: names the command; a repeat has the same.
        subjects: the symbols, positions or alarms that it is about.
        reason: why, for the log.
        who: what the person calls himself; only where the system does not say it.
        within: for how long after the greeting it may be begun, in seconds.
        of: for `proof`, the id of the command that is to be proved.
        given: for `set-stop` the price, for `set-policy` the settings, for `exit` how much at most where not all.
        override: for `exit`: a person has looked at the orders whose records cannot be read.
        nonce: what the client has made up, for the code of the answer.
        mac: on a port, the code that proves that the client knows the token.
    """

    version: int
    verb: str
    within: float
    id: str = ""
    subjects: tuple[str, ...] = ()
    reason: str = ""
    who: str = ""
    of: str = ""
    given: tuple[str, ...] = ()
    override: bool = False
    nonce: str = ""
    mac: str = ""

    def __repr__(self) -> str:
        """Without what only machines read."""
        return f"Request(verb={self.verb!r}, id={self.id!r}, subjects={self.subjects!r})"


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename={"version": "v"}):
    """What came of a command.

    Attributes:
        code: 0 done; 1 not done, or not all of it; 2 not understood, or not allowed.
        lines: what was done, and what was not and why, for people.
        data: the same for programs.
        again: this was answered before: the command came a second time, and nothing more was done.
        mac: on a port, the code that proves that who answers knows the token.
    """

    version: int = VERSION
    code: int
    lines: tuple[str, ...] = ()
    data: dict[str, Any] = {}
    again: bool = False
    mac: str = ""


class Hello(msgspec.Struct, frozen=True, kw_only=True, rename={"version": "v"}):
    """The greeting; `nonce` is what the manager has made up for this connection."""

    version: int = VERSION
    nonce: str


_requests, _answers = msgspec.json.Decoder(Request), msgspec.json.Decoder(Answer)
_hellos = msgspec.json.Decoder(Hello)


class _Head(msgspec.Struct, frozen=True):
    """What every version says."""

    v: int


_heads = msgspec.json.Decoder(_Head)


def request_of(line: bytes) -> Request:
    """The request that a line is.

    Raises:
        Malformed: it is none, or one of another version.
    """
    _check_version(line, "this manager", "the command")
    try:
        request = _requests.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a request: {harmless(error)}") from None
    if (mistake := _mistake(request)) is not None:
        raise Malformed(mistake)
    return request


def answer_of(line: bytes) -> Answer:
    """The answer that a line is.

    Raises:
        Malformed: it is none, or one of another version.
    """
    return _said_by_a_manager(line, _answers, "an answer")


def hello_of(line: bytes) -> Hello:
    """The greeting that a line is.

    Raises:
        Malformed: it is none, or one of another version.
    """
    return _said_by_a_manager(line, _hellos, "a greeting")


def _said_by_a_manager(line: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    _check_version(line, "this exitfsm", "the manager")
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not {what}: {harmless(error)}") from None


def mac_of(token: str, nonces: str, said: Request | Answer) -> str:
    """The code of what is said: only who knows the token can make it, and for these nonces alone."""
    text = msgspec.json.encode(replace(said, mac=""))
    context = f"exitfsm {type(said).__name__} {nonces}\n".encode()
    return hmac.new(token.encode("utf-8", "surrogateescape"), context + text, hashlib.sha256).hexdigest()


def has_mac(token: str, nonces: str, said: Request | Answer) -> bool:
    """True where what is said carries its code."""
    return hmac.compare_digest(said.mac.encode("utf-8", "surrogatepass"), mac_of(token, nonces, said).encode())


def _check_version(line: bytes, ours: str, theirs: str) -> None:
    try:
        version = _heads.decode(line).v
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not understood: {harmless(error)}") from None
    if version != VERSION:
        older = theirs if version < VERSION else ours
        raise Malformed(f"{ours} speaks version {VERSION} of the protocol, {theirs} {version}: upgrade {older}")


def _mistake(request: Request) -> str | None:
    """What is wrong with a request that has the right shape; None where nothing is."""
    verb, subjects = request.verb, request.subjects
    if verb not in VERBS and verb not in QUESTIONS:
        return f"{harmless(verb[:SUBJECT_MAX])!r} is no command; there are {' '.join(VERBS)}"
    if verb in VERBS and not is_id(request.id):
        return f"a command needs an id of {ID_DIGITS} hexadecimal digits"
    if len(subjects) > SUBJECTS_MAX or any(not 0 < len(subject) <= SUBJECT_MAX for subject in subjects):
        return f"at most {SUBJECTS_MAX} symbols or alarms, each of at most {SUBJECT_MAX} characters"
    if verb in NEEDS_SUBJECTS and not subjects:
        return f"{verb} needs to know which: name symbols" + (" or alarms" if verb == "acknowledge" else "")
    if verb == "flatten" and subjects not in ((), (ALL_POSITIONS,)):
        return "flatten is for all that is managed, or for all-positions; for single symbols: exit"
    if (mistake := _mistake_of_given(request)) is not None:
        return mistake
    if not 0 <= request.within <= ON_ITS_WAY_MAX_S:
        return f"a command waits for at most {ON_ITS_WAY_MAX_S:g} s"
    if any(len(text) > TEXT_MAX or "\0" in text for text in (request.reason, request.who)):
        return f"a reason or a name has at most {TEXT_MAX} characters, and no NUL"
    return None


def _mistake_of_given(request: Request) -> str | None:
    verb, given = request.verb, request.given
    if (verb in GIVES) != bool(given) and verb != "exit":
        return f"{verb} needs to know what: a price, or settings" if verb in GIVES else f"{verb} takes no settings"
    if len(given) > GIVEN_MAX or any(not 0 < len(one) <= GIVEN_LENGTH_MAX or "\0" in one for one in given):
        return f"at most {GIVEN_MAX} settings, each of at most {GIVEN_LENGTH_MAX} characters"
    if verb == "set-stop" and (len(given) > 1 or not is_price(given[0])):
        return f"{harmless(given[0])!r} is no price: set-stop needs one number above 0"
    if verb == "exit" and given and (len(given) > 1 or not is_price(given[0])):
        return f"{harmless(given[0])!r} is no quantity: exit takes one number above 0"
    if verb == "exit" and given and len(request.subjects) > 1:
        return "a quantity is of one symbol: name one, and give a command for each"
    return None


def is_price(text: str) -> bool:
    """True for a finite number above 0."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return False
    return number.is_finite() and number > 0


def is_id(text: str) -> bool:
    """True for the id of a command."""
    return len(text) == ID_DIGITS and all(c in "0123456789abcdef" for c in text)


def line_of(said: Request | Answer | Hello) -> bytes:
    """What is said, as a line."""
    return msgspec.json.encode(said) + b"\n"


def not_stored(*lines: str, retry: bool) -> Answer:
    """An answer to a command of which nothing was stored and nothing done. `retry`: it may simply be given again."""
    return Answer(code=NOT_DONE, lines=lines, data={"stored": False, "retry": retry})


def was_stored(answer: Answer) -> bool:
    """False for an answer to a command that the manager has not taken: it must be given again."""
    return answer.data.get("stored") is not False and answer.data.get("unknown") is not True


def may_retry(answer: Answer) -> bool:
    """True for an answer after which the same command is given again at once."""
    return answer.data.get("retry") is True


def refused(*lines: str) -> Answer:
    """An answer to what is not understood, or not allowed."""
    return Answer(code=REFUSED, lines=lines)
