"""A store on PostgreSQL, seen by somebody who does not own it: by a standby, and by an operator.

Rules of this room: only an owner that says that it is alive, and then falls silent, is replaced. How long it is silent
is measured by the watcher's own clock between two looks at the server, so that neither a clock that is put right nor
a server that was away makes an owner look dead.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import psycopg

from exitfsm.errors import StoreError, StoreMissing
from exitfsm.outside import logger
from exitfsm.store.database import Owner
from exitfsm.store.postgres import link as linking
from exitfsm.store.postgres import owning
from exitfsm.store.postgres.address import Address, parse, with_schema
from exitfsm.store.postgres.layout import find_schema
from exitfsm.store.postgres.link import Link

log = logger("exitfsm")


class Look:
    """A session that looks at the owner of a store.

    Args:
        url, account: as for `PostgresDatabase`.
    """

    def __init__(self, url: str, account: str) -> None:
        self._address, self._account = parse(url), account
        self._link: Link | None = None
        self._found: Address | None = None

    def state(self) -> tuple[Link, Address, owning.State] | None:
        """The session, the store and its owner now; None where there is no store yet.

        Raises:
            psycopg.Error: the server cannot be reached, or refuses.
        """
        if self._link is None:
            self._link = Link(self._address, f"exitfsm: standby, {owning.myself()}", settings={})
        link = self._link
        if self._found is None:
            schema = find_schema(link, self._address, self._account)
            if schema is None:
                return None
            link.rows("SELECT set_config('search_path', quote_ident(?), false)", (schema,))
            self._found = with_schema(self._address, schema)
        return link, self._found, owning.State(link, self._found)

    def failure(self, error: psycopg.Error) -> StoreError:
        """What an error means; the session is given up with it."""
        self.close()
        return linking.failure(error, self._address)

    def close(self) -> None:
        """End the session."""
        link, self._link, self._found = self._link, None, None
        if link is not None:
            with contextlib.suppress(psycopg.Error):
                link.close()


class Watch:
    """Waits for a store to be free, and frees it where its owner has fallen silent.

    Args:
        takeover_after_s: how long the owner may be silent.
        now: seconds that never go back.
    """

    def __init__(
        self, url: str, account: str, takeover_after_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._look, self._after_s, self._now = Look(url, account), takeover_after_s, now
        self._seen: tuple[int, str | None] | None = None
        self._since = 0.0
        self._claimed: int | None = None
        self._has_looked = False

    def look(self) -> bool:
        """Look once; True when the store can be opened now.

        Raises:
            StoreError: the server refused the first look, or the owner's session cannot be ended.
        """
        try:
            found = self._look.state()
        except psycopg.Error as e:
            failure = self._look.failure(e)
            if not self._has_looked:
                raise failure from e
            log.warning("standby_blind error=%s", failure)
            self._seen = None  # the owner could not say anything either
            return False
        self._has_looked = True
        return found is None or self._is_free(*found)

    def _is_free(self, link: Link, address: Address, state: owning.State) -> bool:
        if state.fence == self._claimed:  # whoever holds the lock now was replaced, and has not noticed it yet
            owning.end_session(link, address, state)
            return True
        now, seen = self._now(), (state.fence, state.beat)
        if seen != self._seen:  # somebody may be about to take what he has just freed: one look more
            self._seen, self._since = seen, now
            return False
        if state.beat is None:  # it was left in good order, or is owned by a program that cannot be replaced
            return state.holder is None
        if now - self._since < self._after_s:
            return False
        log.critical("takeover store=%s owner=%s silent_s=%.1f", address.shown, state.owner.who, now - self._since)
        try:
            self._claimed = owning.end(link, address, state, owning.myself())
        except psycopg.Error as e:
            log.warning("takeover_failed error=%s", self._look.failure(e))
            return False
        return self._claimed is not None

    def close(self) -> None:
        """End its session."""
        self._look.close()


def owner_of(url: str, *, release: bool) -> Owner:
    """The owner of a store; with `release` it is none any more, and its session is ended.

    Raises:
        StoreMissing: there is no store.
        StoreError: the server refuses.
    """
    look = Look(url, "")
    try:
        found = look.state()
        if found is None:
            raise StoreMissing(f"there is no store at {parse(url).shown}: check the URL")
        link, address, state = found
        if release and state.owner.is_owned:
            owning.end(link, address, state, f"an operator ({owning.myself()})")
        return state.owner
    except psycopg.Error as e:
        raise look.failure(e) from e
    finally:
        look.close()


__all__ = ["Watch", "owner_of"]
