"""One session with a PostgreSQL server: opened, checked, and what its failures mean.

Rules of this room: nothing here knows what a store is. A server, a setting or a pooler that would lose what was
acknowledged is refused at the opening, with words; no statement waits for ever.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.adapt import Buffer, Dumper, Loader

from exitfsm.errors import StoreDamaged, StoreError
from exitfsm.outside import logger
from exitfsm.store.database import Params
from exitfsm.store.postgres.address import Address
from exitfsm.store.postgres.statements import Statement, translated

log = logger("exitfsm")

Connection = psycopg.Connection[Params]

#: The oldest server that is taken; older ones are without support.
VERSION_MIN = 13
#: How long a statement waits for what another session has locked.
LOCK_TIMEOUT_S = 5
#: How long a transaction may lie open while nothing is asked in it.
IDLE_IN_TRANSACTION_S = 60
_SETTINGS = {
    "lock_timeout": f"{LOCK_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
    "plan_cache_mode": "force_generic_plan",  # a store's statements have one good plan each
    "jit": "off",
    # The server notices a host that is gone within half a minute, and with its session frees the lock.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_min_messages": "warning",
}
_OTHERS = {"CockroachDB": "CockroachDB", "-YB-": "YugabyteDB", "Yugabyte": "YugabyteDB"}
#: Who asks when, ours or theirs: a pooler hands out the session that it got back last, or each of them in turn.
_TURNS = "oot"
_LOST = "57P01", "57P02", "57P03", "57P05", "25P03"  # the session was ended by the server

#: SQLSTATE, or its class (two letters) -> what to do.
_ADVICE = {
    "08": "nothing was stored: check that the server runs and can be reached",
    "22": "a value cannot be stored, and nothing was",
    "23": "this contradicts what is stored already, and was not stored",
    "25006": "it takes no writes (a standby, or read only): give the primary, or target_session_attrs=read-write",
    "25P03": "a transaction lay open too long and was ended; nothing of it was stored",
    "28": "check user, password and pg_hba.conf",
    "3D000": "there is no such database: make it with createdb",
    "3F000": "there is no such schema",
    "40": "another session was in the way, and nothing was stored: try again",
    "42501": "the role may not do this: GRANT CREATE ON DATABASE lets it make a schema of its own",
    "42P01": "tables of the store are missing: it is no exitfsm store, or was changed",
    "53100": "the disk of the server is full and nothing was stored: free space, then try again",
    "53200": "the server is out of memory, and nothing was stored",
    "53300": "the server takes no more connections: close some, or raise max_connections",
    "55P03": "another session has it locked, and nothing was stored: end that session",
    "57014": "it was canceled, and nothing was stored",
    "57": "the server ended the session, is shutting down or starting, and nothing was stored: try again",
    "58": "the server's disk failed; whether it was stored is not known: check the server, then read the stream",
    "XX001": "what is stored is damaged: stop, keep a copy, and restore a backup",
    "XX002": "an index is damaged: stop, keep a copy, then REINDEX or restore a backup",
}


_DOUBLE = struct.Struct(">d").unpack


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() and -(2.0**63) < value < 2.0**63 else value


#: What a server says before there is a session, when an error has no SQLSTATE yet.
_AT_THE_DOOR = {
    "authentication failed": "28",
    "no pg_hba.conf entry": "28",
    "too many connections": "53300",
    "too many clients": "53300",
    "connection slots are reserved": "53300",
    "the database system is": "57",
    "session is not read-write": "25006",
}


class _Number(Loader):
    """A number of a read model as SQLite gives it back: a whole one as int."""

    def load(self, data: Buffer) -> float | int:
        return _number(float(bytes(data)))


class _BinaryNumber(Loader):
    """The same of eight bytes."""

    format = psycopg.pq.Format.BINARY

    def load(self, data: Buffer) -> float | int:
        return _number(_DOUBLE(data)[0])


class _Plain(Dumper):
    """A number as text, whose type the server knows from where it stands."""

    def dump(self, obj: Any) -> Buffer:
        return repr(obj).encode()

    def quote(self, obj: Any) -> Buffer:
        return repr(obj).encode()


class Link:
    """One session. Not thread safe.

    Args:
        address: where to.
        name: what the server calls the session.
        settings: besides those that every session has.

    Raises:
        psycopg.Error: it did not come about.
        StoreError: the server is not one that a store can rest on.
    """

    def __init__(self, address: Address, name: str, *, settings: dict[str, str]) -> None:
        self._address = address
        self.connection = connect(address, name)
        try:
            self._prepare(settings)
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, settings: dict[str, str]) -> None:
        c = self.connection
        c.add_notice_handler(self._notice)
        c.prepared_max = 500
        for cls in (int, float):
            c.adapters.register_dumper(cls, _Plain)
        for loader in (_Number, _BinaryNumber):
            c.adapters.register_loader("float8", loader)
        chosen = _SETTINGS | settings
        calls = ", ".join("set_config(%s, %s, false)" for _ in chosen)
        c.execute(f"SELECT {calls}", [text for pair in chosen.items() for text in pair])
        self._reader = c.cursor(binary=True)
        row = c.execute(
            "SELECT pg_backend_pid(), backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone()
        #: Process id of the session at the server, and when it began; together they name it.
        self.backend: tuple[int, str] = (int(row[0]), str(row[1])) if row else (0, "")

    def _notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """What a server says beside its answers: a commit that did not wait for its standby says so here alone."""
        log.warning("postgresql_notice store=%s text=%s", self._address.shown, diagnostic.message_primary)

    def rows(self, sql: str, params: Params = ()) -> list[Params]:
        """All rows of a query with `?` for each parameter."""
        return self._reader.execute(translated(sql), params, prepare=True).fetchall()

    def send(self, statements: Sequence[Statement], query: Statement | None = None) -> list[Params]:
        """Send statements in one round trip, and the rows of a query behind them.

        Raises:
            psycopg.Error: one of them failed; what came behind it was not done.
        """
        c = self.connection
        with c.pipeline():
            cursor = c.cursor(binary=True)
            for sql, params in statements:
                cursor.execute(sql, params, prepare=True)
            if query is None:
                return []
            cursor.execute(query.sql, query.params, prepare=True)
        return cursor.fetchall()

    @property
    def in_transaction(self) -> bool:
        """True while a transaction is open at the server, sound or failed."""
        return self.connection.info.transaction_status not in (
            psycopg.pq.TransactionStatus.IDLE,
            psycopg.pq.TransactionStatus.UNKNOWN,
        )

    @property
    def broken(self) -> bool:
        """True when it is known to be lost."""
        return self.connection.closed

    def looks_dead(self) -> bool:
        """True when the server has said something unasked, which is mostly that the session is over. Costs no trip."""
        if self.connection.closed:
            return True
        try:
            if not select.select([self.connection.fileno()], [], [], 0)[0]:
                return False
            self.connection.execute("SELECT 1")
        except ValueError:  # more files are open than can be asked about
            return False
        except (psycopg.Error, OSError):
            return True
        return False

    def close(self) -> None:
        """End it."""
        self.connection.close()


def connect(address: Address, name: str) -> Connection:
    """A bare connection that commits what it is not told to keep open."""
    settings: dict[str, Any] = {"fallback_application_name": name, "client_encoding": "utf8"}
    return psycopg.connect(**(settings | address.settings), autocommit=True)


# --- is this a server to rest a store on? -----------------------------------------------------------------------------


def check_server(link: Link, address: Address, *, read_only: bool) -> None:
    """Refuse what would lose what was acknowledged, or is only like PostgreSQL; say aloud what an operator chose.

    Raises:
        StoreError: why, and what to do.
    """
    names = ("server_encoding", "synchronous_commit", "fsync", "full_page_writes", "transaction_read_only")
    columns = ", ".join(f"current_setting('{name}')" for name in names)
    version, *values = link.rows(f"SELECT version(), {columns}")[0]
    setting = dict(zip(names, values, strict=True))
    check_version(str(version), address)
    if setting["server_encoding"] != "UTF8":
        raise StoreError(
            f"{address.shown}: the database is encoded in {setting['server_encoding']}, which cannot hold every text: "
            "make it with ENCODING 'UTF8'"
        )
    if read_only:
        return
    if setting["transaction_read_only"] == "on":
        raise StoreError(f"{address.shown}: {_ADVICE['25006']}")
    if setting["synchronous_commit"] == "off":  # raised, never lowered
        link.rows("SELECT set_config('synchronous_commit', 'on', false)")
    for name in ("fsync", "full_page_writes"):
        if setting[name] == "off":
            log.critical(
                "store_not_durable store=%s setting=%s text=the server runs with %s=off: a crash of its machine loses "
                "or damages what was acknowledged",
                *(address.shown, name, name),
            )


def check_version(version: str, address: Address) -> None:
    """Refuse servers that only speak like PostgreSQL: their locks are not its locks; and those that are too old.

    Raises:
        StoreError: which, and what to do.
    """
    for mark, name in _OTHERS.items():
        if mark in version:
            raise StoreError(
                f"{address.shown} is {name}, whose locks are not those of PostgreSQL: give a PostgreSQL server"
            )
    number = version.removeprefix("PostgreSQL ").split(".")[0].split(" ")[0]
    if not number.isdigit() or int(number) < VERSION_MIN:
        raise StoreError(f"{address.shown} is {version[:40]}: PostgreSQL {VERSION_MIN} or newer is needed")


def check_pooler(link: Link, address: Address) -> None:
    """Refuse a pooler that hands a session from client to client between transactions: no lock would be ours.

    Raises:
        StoreError: there is one.
    """
    try:
        other = connect(address, "exitfsm: looking for a pooler")
    except psycopg.Error:
        return  # the server takes no second connection: nothing is shared with it either
    with other:
        asked = [_backend_of(link.connection if turn == "o" else other) for turn in _TURNS]
    ours, theirs = ({pid for pid, turn in zip(asked, _TURNS, strict=True) if turn == who} for who in "ot")
    if ours != {link.backend[0]} or len(theirs) != 1 or ours & theirs:
        raise StoreError(
            f"{address.shown} is a pooler that shares sessions between clients (transaction mode): the lock of the one "
            "writer cannot be held through it: give the server itself, or a pool in session mode"
        )


def _backend_of(connection: Connection) -> int:
    """The process at the server that answers now; prepared statements would not survive a pooler."""
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    return int(row[0]) if row is not None else 0


# --- failures ---------------------------------------------------------------------------------------------------------


def state_of(error: BaseException) -> str:
    """The SQLSTATE of an error; empty where it has none."""
    diagnostic = getattr(error, "diag", None)
    return getattr(error, "sqlstate", None) or getattr(diagnostic, "sqlstate", None) or ""


def _at_the_door(text: str) -> str:
    """The SQLSTATE of what was said before there was a session; empty where it is not known."""
    if 'database "' in text and "does not exist" in text:
        return "3D000"
    return next((state for said, state in _AT_THE_DOOR.items() if said in text), "")


def is_lost(error: Exception) -> bool:
    """True when an error says that the session is over, so that the outcome of what was sent last is not known."""
    state = state_of(error)
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and (
        state == "" or state.startswith("08") or state in _LOST
    )


def is_damage(error: Exception) -> bool:
    """True when the server says that what is stored is damaged."""
    return state_of(error) in ("XX001", "XX002")


def failure(error: Exception, address: Address) -> StoreError:
    """What an error means, and what to do about it."""
    state = state_of(error) or _at_the_door(str(error))
    advice = _ADVICE.get(state) or _ADVICE.get(state[:2])
    if advice is None and isinstance(error, psycopg.DataError):
        advice = _ADVICE["22"]
    if advice is None:
        advice = _ADVICE["08"] if is_lost(error) else "nothing was stored"
    text = words(error, address)
    return (StoreDamaged if is_damage(error) else StoreError)(f"{address.shown}: {text}: {advice}")


def words(error: Exception, address: Address) -> str:
    """What the server or the driver said, on one line and without secrets."""
    said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error) or type(error).__name__
    return address.scrubbed(" ".join(said.split()))


__all__ = [
    "IDLE_IN_TRANSACTION_S",
    "LOCK_TIMEOUT_S",
    "VERSION_MIN",
    "Connection",
    "Link",
    "check_pooler",
    "check_server",
    "check_version",
    "connect",
    "failure",
    "is_damage",
    "is_lost",
    "state_of",
    "words",
]
