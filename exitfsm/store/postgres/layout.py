"""The schema of a store: found, made, and compared with what it should be.

Rules of this room: a schema that is not ours is never written to, and a store is made whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from exitfsm.errors import StoreError
from exitfsm.projections import KINDS, TABLES
from exitfsm.store.database import FORMAT
from exitfsm.store.postgres.address import Address
from exitfsm.store.postgres.link import Link
from exitfsm.store.postgres.statements import DDL, HEARTBEAT, MAKE, PLACE, Statement

_STORES = (
    "SELECT n.nspname FROM pg_namespace n WHERE 3 = (SELECT COUNT(*) FROM pg_class c WHERE c.relnamespace = n.oid AND "
    "c.relkind = 'r' AND c.relname IN ('stored_events', 'chain', 'meta')"
)
_NAMED = f"{_STORES}) AND n.nspname = ?"
#: Those that this role may look at; the others are somebody else's.
_READABLE = (
    f"{_STORES} AND has_table_privilege(c.oid, 'SELECT')) AND has_schema_privilege(n.oid, 'USAGE') ORDER BY n.nspname"
)
_SPELLED = {"text": "text", "number": "double precision", "integer": "bigint", "place": "bigint"}
_OWN: dict[str, dict[str, str]] = {
    "stored_events": {
        "originator_id": "text",
        "originator_version": "bigint",
        "topic": "text",
        "state": "bytea",
        PLACE: "bigint",
    },
    "chain": {"sequence": "bigint", "hash": "bytea"},
    "meta": {"key": "text", "value": "text"},
    "owner": {"id": "bigint", "fence": "bigint", "who": "text", "since": "timestamp with time zone"},
    "heartbeat": {"id": "bigint", "fence": "bigint", "seen": "timestamp with time zone"},
}
_KEYS = {
    "chain_pkey",
    "meta_pkey",
    "owner_pkey",
    "heartbeat_pkey",
    "stored_events_pkey",
    f"stored_events_{PLACE}_key",
    "exit_orders_client_order_id_key",
    *(f"{table}_pkey" for table in TABLES),
}


def find_schema(link: Link, address: Address, account: str) -> str | None:
    """The schema that a URL and an account mean; None where there is no store yet.

    Raises:
        StoreError: several could be meant, or what is there is not a store.
    """
    if address.schema is not None:
        if link.rows(_NAMED, (address.schema,)):
            return address.schema
        _check_empty(link, address)
        return None
    fitting = [name for (name,) in link.rows(_READABLE) if _is_of(link, name, account)]
    if len(fitting) > 1:
        raise StoreError(
            f"{address.shown} holds several stores: say which with ?exitfsm_schema={' or ='.join(fitting)}"
        )
    return fitting[0] if fitting else None


def _is_of(link: Link, schema: str, account: str) -> bool:
    """True for a store that is this account's, or nobody's yet; any one where no account is asked for."""
    meta: dict[Any, Any] = dict(link.rows(f"SELECT key, value FROM {_quoted(schema)}.meta"))
    return meta.get("created_by") == "exitfsm" and (not account or meta.get("account", account) == account)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _check_empty(link: Link, address: Address) -> None:
    sql = (
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ? "
        "ORDER BY 1 LIMIT 1"
    )
    if there := link.rows(sql, (address.schema,)):
        raise StoreError(
            f"{address.shown} is not an exitfsm store (it holds {there[0][0]}): give another schema; it is untouched"
        )


def make(link: Link, address: Address, account: str) -> None:
    """Make the store in one transaction, for an account where one is given, unless it is there; its lock is held."""
    assert address.schema is not None
    if link.rows(_NAMED, (address.schema,)):
        if not link.rows("SELECT 1 WHERE to_regclass('heartbeat') IS NOT NULL"):  # it was made before there were any
            _carry_out(link, [Statement(sql, ()) for sql in HEARTBEAT])
        return
    there = link.rows("SELECT 1 FROM pg_namespace WHERE nspname = ?", (address.schema,))
    statements = [f"CREATE SCHEMA {_quoted(address.schema)}"] * (not there) + list(MAKE)
    made = [Statement(sql, ()) for sql in statements]
    said = {"created_by": "exitfsm", "format": str(FORMAT)} | ({"account": account} if account else {})
    made += (Statement("INSERT INTO meta VALUES (%s, %s)", pair) for pair in said.items())
    _carry_out(link, made)


def _carry_out(link: Link, statements: Sequence[Statement]) -> None:
    """All of them in one transaction, or none."""
    try:
        for sql, params in (Statement("BEGIN", ()), *statements, Statement("COMMIT", ())):
            link.connection.execute(sql, params or None, prepare=False)
    except BaseException:
        if link.in_transaction and not link.broken:
            link.connection.rollback()
        raise


# --- is it as it was made? --------------------------------------------------------------------------------------------


def damage_of(link: Link, schema: str) -> Iterator[str]:
    """What does not belong there, is missing or was changed: tables, columns, indexes, triggers, rules; one line each.

    Of an index it says whether it is there, not what its condition is.
    """
    yield from _tables(link, schema)
    yield from _indexes(link, schema)
    triggers = link.rows(
        "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = "
        "c.relnamespace WHERE n.nspname = ? AND NOT t.tgisinternal ORDER BY 1",
        (schema,),
    )
    yield from (f"the trigger {row[0]} does not belong there" for row in triggers)
    rules = link.rows("SELECT rulename FROM pg_rules WHERE schemaname = ? ORDER BY 1", (schema,))
    yield from (f"the rule {row[0]} does not belong there" for row in rules)


def _tables(link: Link, schema: str) -> Iterator[str]:
    wanted = _OWN | {name: {c: _SPELLED[kind] for c, kind in columns.items()} for name, columns in KINDS.items()}
    found: dict[str, dict[str, str]] = {}
    sql = (
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN pg_class c ON "
        "c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ? AND c.relkind IN ('r', "
        "'v', 'm', 'f', 'p') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum"
    )
    for table, column, kind in link.rows(sql, (schema,)):
        found.setdefault(table, {})[column] = kind
    for table in sorted(found.keys() | wanted.keys()):
        have, want = found.get(table), wanted.get(table)
        if have != want:
            how = "is missing" if have is None else "does not belong there" if want is None else "was changed"
            yield f"the table {table} {how}"


def _indexes(link: Link, schema: str) -> Iterator[str]:
    wanted = _KEYS | {sql.split(" ON ")[0].split(" ")[-1] for sql in DDL if " INDEX " in sql}
    sql = (
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = "
        "c.relnamespace WHERE n.nspname = ? AND i.indisvalid"
    )
    found = {str(row[0]) for row in link.rows(sql, (schema,))}
    for name in sorted(found ^ wanted):
        yield f"the index {name} {'is missing' if name in wanted else 'does not belong there'}"


__all__ = ["damage_of", "find_schema", "make"]
