"""What the URL of a PostgreSQL store names: a server as libpq reads it, and a schema.

Rules of this room: the URL may hold a password. Only `Address.shown` is for people, and no error passes libpq's text
on, which repeats what it could not read.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from exitfsm.errors import StoreError

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_UNKNOWN = re.compile(r'invalid URI query parameter: "(\w+)"')
_SECRET = ("password", "sslpassword")
#: What is ours in the query of a URL; libpq would refuse it.
_OURS = "exitfsm_schema"

#: How long a connection may take to come about, and the network to take what was sent; where the URL says nothing.
CONNECT_TIMEOUT_S = 5
TCP_USER_TIMEOUT_MS = 10_000
_DEFAULTS = {
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "tcp_user_timeout": str(TCP_USER_TIMEOUT_MS),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}


class Address(NamedTuple):
    """Where a store is.

    Attributes:
        settings: what libpq is given; may hold a password.
        schema: the schema that was named; None where the account decides.
        shown: the URL for people, without secrets.
    """

    settings: dict[str, str]
    schema: str | None
    shown: str

    def scrubbed(self, text: str) -> str:
        """Text with every password that is known here taken out."""
        for secret in (*(self.settings.get(key, "") for key in _SECRET), os.environ.get("PGPASSWORD", "")):
            if secret:
                text = text.replace(secret, "…")
        return text


def parse(url: str) -> Address:
    """What a URL names. Host, user and all else that it leaves out, libpq takes from `PG*` and the service file.

    Raises:
        StoreError: it cannot be read; the text holds nothing of it that may be secret.
    """
    plain, schema = _without_ours(url)
    try:
        settings = {key: str(value) for key, value in conninfo_to_dict(plain).items()}
    except psycopg.Error as e:
        unknown = _UNKNOWN.search(str(e)) if "@" not in url.partition("?")[2] else None
        raise _unreadable(f": it has no option {unknown[1]!r}" if unknown is not None else "") from None
    places = settings.get("host", ""), settings.get("port", ""), settings.get("dbname", "")
    if any("@" in place for place in places) or settings.get("port", "").strip("0123456789,"):
        raise _unreadable("")  # a slash in a password, which then is the end of the host to libpq
    if schema is not None and not _SCHEMA.fullmatch(schema):
        raise StoreError(f"{_OURS}={schema} names no schema: take small letters, digits and _, 63 at most")
    shown = _shown(settings, schema)
    given = {key.removeprefix("PG").lower() for key in os.environ if key.startswith("PG")}
    settings = {key: value for key, value in _DEFAULTS.items() if key not in given} | settings
    return Address(settings, schema, shown)


def _unreadable(why: str) -> StoreError:
    """In our own words: libpq's repeat what it could not read, and that may be a password."""
    return StoreError(
        f"the URL of the store cannot be read{why}: write postgresql://user@host:port/database?{_OURS}=name, with "
        "%-codes for special characters in it"
    )


def _without_ours(url: str) -> tuple[str, str | None]:
    """A URL without what is ours in its query, and that."""
    scheme, _, rest = url.partition("://")
    user = re.match(r"[^@/]*@", rest)  # as libpq looks for it: a password may hold a question mark
    head = user[0] if user is not None else ""
    where, mark, query = rest[len(head) :].partition("?")
    kept, ours = [], None
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if unquote(key) == _OURS:
            ours = unquote(value)
        elif pair:
            kept.append(pair)
    return f"{scheme}://{head}{where}{mark if kept else ''}{'&'.join(kept)}", ours


def _shown(settings: dict[str, str], schema: str | None) -> str:
    hosts = settings.get("host", settings.get("hostaddr", "")).split(",")
    ports = settings.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    where = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    user = f"{settings['user']}@" if "user" in settings else ""
    service = f"service={settings['service']}" if "service" in settings else ""
    query = "&".join(filter(None, (service, f"{_OURS}={schema}" if schema else "")))
    return f"postgresql://{user}{where}/{settings.get('dbname', '')}{'?' if query else ''}{query}"


def with_schema(address: Address, schema: str) -> Address:
    """The same address, with the schema that was found or made for it."""
    return Address(address.settings, schema, _shown(address.settings, schema))


__all__ = ["CONNECT_TIMEOUT_S", "TCP_USER_TIMEOUT_MS", "Address", "parse", "with_schema"]
