"""Where the search for inputs begins: a few of each kind that is right, made by code, and words to put into them."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import msgspec

from exitfsm.config import ExitConfig
from exitfsm.events import ACCOUNT_EVENTS, Event, tag_of
from exitfsm.store.mapping import EventMapper
from exitfsm.testing.given import BROKER, after, given, holds, opened, policy, reported, seen, timer, triggered
from fuzz.drawing import FIGURES, TIMES, WORDS

_BAR = "AAPL,2014-06-09T13:30:00Z,92.70,92.75,92.61,92.70,1200"
_HEADER = "symbol,timestamp,open,high,low,close,volume"
_CONFIG = """\
other: &a {x: 1}
exit_manager:
  profit_taking: {enabled: true, threshold_pct: 2.0}
  stop_loss:
    threshold_pct: "1.5"
  trailing_stop: {enabled: yes, activation_pct: 2, trail_pct: 1}
  target_ladder:
    enabled: true
    steps:
      - {after_seconds: 60, threshold_pct: 1}
  evaluate_on: range
"""
_ORDER = {
    "id": "b1", "client_order_id": "xf1-a-1", "symbol": "AAPL", "qty": "10", "side": "sell", "status": "filled",
    "filled_qty": "10", "filled_avg_price": "99.5", "updated_at": "2024-01-02T14:31:00Z",
}  # fmt: skip
_JSON: tuple[Any, ...] = (
    _ORDER,
    {"event": "fill", "execution_id": "e1", "timestamp": "2024-01-02T14:31:00Z", "price": "99.5", "order": _ORDER},
    {"symbol": "BTCUSD", "asset_class": "crypto", "qty": "-0.5", "avg_entry_price": "42000", "side": "short"},
    {"id": "1", "symbol": "A", "side": "buy", "qty": "3", "price": "100", "transaction_time": "2024-01-02T14:31:00Z"},
    {"S": "AAPL", "t": "2024-01-02T14:31:00Z", "o": 1, "h": 2, "l": 1, "c": 1.5, "v": 100},
    {"date": "2024-01-02", "open": "09:30", "close": "16:00"},
    {"is_open": True, "next_close": "2024-01-02T21:00:00Z"},
    {"code": 40310000, "message": "insufficient qty available", "held_for_orders": "5", "related_orders": ["b1"]},
    {"35": "8", "11": "xf1-a-1", "39": "4", "150": "4", "38": "10", "14": "3", "151": "0", "60": "20240102-15:30:00"},
)  # fmt: skip


def _lives() -> list[list[Event]]:
    """What happened to some positions."""
    limit = policy(profit_taking={"order_type": "limit"}, trailing_stop={"activation_pct": 1})
    monitored = given(opened())
    ended = monitored.at(BROKER).when(seen(99), reported("new"), reported("partially_filled", 4, 99))
    stories = (
        monitored.when(seen("NaN"), seen(101, 120)),
        ended.when(reported("filled", 10, 99), holds(0)),
        ended.when(
            reported("expired", 4), holds(6, at=200), reported("new", attempt=2), reported("new", qty=Decimal(4))
        ),
        given(opened("short", policy=limit, atr=2)).when(seen("98.5"), seen("97.9", 120), reported("new"), timer(400)),
        given(opened(), triggered()).when(reported("rejected", 0, refusal="halted")),
    )
    return [list(story.history) for story in stories]


def _log() -> list[bytes]:
    mapper = EventMapper()

    def row(event: Event) -> bytes:
        return tag_of(event).encode() + b" " + mapper.encode(10**18, "bar", event).state

    account = [kind(**{f.name: _sample(f) for f in msgspec.structs.fields(kind)}) for kind in ACCOUNT_EVENTS]
    return [b"\n".join(map(row, life)) for life in [*_lives(), account]]


def _sample(field: msgspec.structs.FieldInfo) -> Any:
    texts = dict.fromkeys(("subjects", "lines", "given"), ("x",))
    return {"at": after(1), "failures": 3, "code": 1, **texts}.get(field.name, "x")


def _drawn() -> list[bytes]:
    """Bytes for `drawing`: any are as good as any others."""
    chance = random.Random(7)
    return [b"", *(chance.randbytes(size) for size in (8, 40, 120, 300))]


def _config() -> list[bytes]:
    every = json.dumps({"exit_manager": ExitConfig().as_dict()["exit_manager"]}, default=str)
    return [_CONFIG.encode(), every.encode(), b"exit_manager:\n", b"exit_manager: !!python/name:os.system {}\n"]


SEEDS: dict[str, list[bytes]] = {
    "config": _config(),
    "bars": [
        f"{_HEADER}\n{_BAR}\n{_BAR.replace('30:00', '31:00')}\n".encode(),
        f'{_HEADER}\n"AAPL",2014-06-09T09:30:00-04:00,1e2,nan,-1,0,"12"\n'.encode(),
        b"timestamp,symbol,close,low,high,open,volume\r\n2014-06-09T13:30:00Z,btc/usd,1,1,1,1,0\r\n",
    ],
    "anchors": [b'{"store":"exits.db","sequence":3,"hash":"' + b"0" * 64 + b'","at":"2024-01-02T14:30:00Z"}\n'],
    "control": [
        b'{"v":1,"verb":"exit","id":"00000000deadbeef","subjects":["AAPL"],"reason":"news","within":29.5}\n',
        b'{"v":1,"verb":"proof","of":"00000000deadbeef","within":1e3,"nonce":"00","mac":"a-code-of-some-length"}\n',
        b'{"v":1,"code":1,"lines":["AAPL: submitted"],"data":{"waits_for_market":false},"again":true}\n',
        b'{"v":1,"nonce":"0123456789abcdef"}\n',
        b'{"v":2,"verb":"pause"}\n',
    ],
    "broker": [*_drawn(), *(b"\0" + json.dumps(said).encode() for said in _JSON)],
    "alpaca": [*_drawn(), *(json.dumps(said).encode() for said in _JSON)],
    "log": _log(),
    "store": _log(),
}

#: What may be put into an input, beside single bytes.
TOKENS: tuple[bytes, ...] = (
    *(str(value).encode("utf-8", "surrogatepass") for value in (*FIGURES, *TIMES, *WORDS) if len(str(value)) < 80),
    b"\n", b"\r\n", b"\0", b'"', b"'", b",", b": ", b"{", b"}", b"[", b"]", b"null", b"&a ", b"*a", b"<<: *a", b"!!str",
    b"? ", b"- ", b"|", b">", b"#", b"---\n", b"...\n", b"\\U0010ffff", b"\xff", b"\xef\xbb\xbf", b"  ", b"\t", b"%",
)  # fmt: skip


def mutated(target: str, count: int) -> list[bytes]:
    """The seeds of a target and as many inputs more, made from them in small steps: the same ones each time."""
    chance = random.Random(f"exitfsm {target}")
    found = list(SEEDS[target])
    while len(found) < count + len(SEEDS[target]):
        found.append(_changed(chance.choice(found), chance, found))
    return found


def _changed(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        upto = min(len(data), at + chance.randint(1, 12))
        match chance.randint(0, 5):
            case 0:
                data = data[:at] + bytes([chance.randint(0, 255)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[upto:]
            case 2:
                data = data[:upto] + data[at:]
            case 3:
                other = chance.choice(others)
                data = data[:at] + other[chance.randint(0, len(other)) :]
            case _:
                data = data[:at] + chance.choice(TOKENS) + data[chance.choice((at, upto)) :]
    return data[:20_000]
