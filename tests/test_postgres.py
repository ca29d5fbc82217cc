"""What only a store on PostgreSQL can do, and what can be done to it: each fault against a real server.

What every store does is in `store_contract.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from postgres_server import Server, server
from postgres_wire import Pooler, Proxy, pgbouncer
from store_engines import T0, D, Postgres, check, life, opened, put, stop_moved, triggered

from exitfsm.errors import StoreError, StoreLocked, VersionConflict
from exitfsm.projections import Mark
from exitfsm.store import Append, ExitStore, checking

psycopg = pytest.importorskip("psycopg")

from exitfsm.store.postgres import address, engine, link, owning  # noqa: E402  only where psycopg is

pytestmark = pytest.mark.postgres
SECRET = "hunter2-very-secret"


@pytest.fixture
def on(postgres_server: Server) -> Iterator[Postgres]:
    made = Postgres(postgres_server)
    yield made
    made.close()


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that a test may break."""
    with server() as running:
        yield running


@pytest.fixture
def store(on: Postgres) -> ExitStore:
    return on.open()


def backend(store: ExitStore) -> int:
    """The store's session at the server."""
    return int(store._open_db()._link.backend[0])


def same_row(store: ExitStore) -> tuple[Any, ...]:
    return (store.chain_head(), [r.event for r in store.events()], store.exit_orders(), store.trackings())


# ---- URLs


class TestTheUrl:
    def test_it_is_read_by_libpq_but_for_the_schema(self):
        read = address.parse(
            "postgresql://me:a%3Fb@h1:1,h2:2/bots?exitfsm_schema=acc_1&target_session_attrs=read-write&sslmode=require"
        )
        assert read.schema == "acc_1"
        wanted = {
            "user": "me", "password": "a?b", "host": "h1,h2", "port": "1,2", "dbname": "bots",
            "target_session_attrs": "read-write", "sslmode": "require",
        }  # fmt: skip
        assert {key: read.settings[key] for key in wanted} == wanted
        assert read.shown == "postgresql://me@h1:1,h2:2/bots?exitfsm_schema=acc_1"
        assert address.parse("postgresql://me:a?b@h/d?exitfsm_schema=x").settings["password"] == "a?b"
        assert address.parse("postgres://?service=s").shown == "postgresql:///?service=s"

    def test_no_statement_waits_for_ever_unless_the_url_says_so(self, monkeypatch):
        assert address.parse("postgresql://h/d").settings["connect_timeout"] == "5"
        assert address.parse("postgresql://h/d").settings["tcp_user_timeout"] == "10000"
        assert address.parse("postgresql://h/d?connect_timeout=9").settings["connect_timeout"] == "9"
        monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
        assert "connect_timeout" not in address.parse("postgresql://h/d").settings, "libpq reads it itself"

    @pytest.mark.parametrize("schema", ["", "A", "a-b", "a b", "1a", "a" * 64, "%22"])
    def test_a_schema_is_a_plain_name(self, schema):
        with pytest.raises(StoreError, match="names no schema: take small letters"):
            address.parse(f"postgresql://h/d?exitfsm_schema={schema}")

    def test_an_option_that_is_none_is_named(self):
        with pytest.raises(StoreError, match="no option 'passwort'"):
            address.parse(f"postgresql://h/d?passwort={SECRET}")

    @given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=6))
    def test_a_password_is_never_shown(self, password):
        url = f"postgresql://me:{password}@h/d?exitfsm_schema=x"
        error, shown = None, ""
        try:
            shown = address.parse(url).shown
        except StoreError as e:
            error = e
        if error is None:
            assert shown == "postgresql://me@h/d?exitfsm_schema=x" or password not in shown
        else:
            assert password not in str(error)
            assert error.__suppress_context__ or error.__context__ is None, "nor in the traceback, by libpq's own words"

    def test_what_a_driver_says_is_scrubbed(self, monkeypatch):
        read = address.parse(f"postgresql://me:{SECRET}@h/d")
        error = psycopg.OperationalError(f"could not use {SECRET} there")
        assert SECRET not in str(link.failure(error, read))
        monkeypatch.setenv("PGPASSWORD", "from-the-environment")
        error = psycopg.OperationalError("could not use from-the-environment there")
        assert "from-the-environment" not in str(link.failure(error, read))

    def test_nothing_of_an_opening_that_fails_holds_the_password(self, own, caplog, capsys):
        (own.data / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
        own.do("ALTER USER postgres PASSWORD 'right'", "SELECT pg_reload_conf()")
        time.sleep(0.2)
        with pytest.raises(StoreError, match=r"password authentication failed.*check user, password") as caught:
            ExitStore(own.url.replace("postgres@", f"postgres:{SECRET}@"))
        import traceback

        said = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capsys.readouterr())
        assert SECRET not in said
        with ExitStore(own.url.replace("postgres@", "postgres:right@")) as store:
            assert ":right" not in store.where
            put(store, "p1", opened())

    def test_the_environment_and_the_service_file_are_read(self, on, tmp_path, monkeypatch):
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(on.server.port))
        monkeypatch.setenv("PGUSER", "postgres")
        with ExitStore(f"postgresql:///postgres?exitfsm_schema={on.schema}") as store:
            put(store, "p1", opened())
        for name in ("PGHOST", "PGPORT", "PGUSER"):
            monkeypatch.delenv(name)
        services = tmp_path / "services"
        services.write_text(f"[bots]\nhost=127.0.0.1\nport={on.server.port}\nuser=postgres\ndbname=postgres\n")
        monkeypatch.setenv("PGSERVICEFILE", str(services))
        with ExitStore(f"postgresql://?service=bots&exitfsm_schema={on.schema}") as store:
            assert store.count() == 1

    def test_of_several_hosts_the_one_that_takes_writes_is_found(self, on):
        several = on.url.replace("127.0.0.1:", "127.0.0.1:1,127.0.0.1:").replace(
            "?", "?target_session_attrs=read-write&"
        )
        with ExitStore(several) as store:
            put(store, "p1", opened())

    def test_without_the_driver_it_says_what_to_install(self):
        script = (
            "import sys; sys.modules['psycopg'] = None\n"
            "from exitfsm.store import ExitStore\n"
            "try: ExitStore('postgresql://h/d')\n"
            "except Exception as e: print(type(e).__name__, e)\n"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert run.stdout.startswith('StoreError a store on PostgreSQL needs psycopg: pip install "exitfsm[postgres]"')


# ---- which schema


class TestTheSchema:
    def test_each_account_has_one_of_its_own(self, own):
        with ExitStore(own.url, account="aaa111") as a, ExitStore(own.url, account="bbb222") as b:
            for store, account in ((a, "aaa111"), (b, "bbb222")):
                store.bind(account)
                put(store, "p1", opened())
            assert a.where.endswith("?exitfsm_schema=exitfsm_aaa111")
            put(a, "p1", triggered(), after=1)
            assert (a.count(), b.count()) == (2, 1)
        with ExitStore(own.url, account="bbb222", read_only=True) as again:
            assert again.meta["account"] == "bbb222"
        own.do(
            "CREATE ROLE c LOGIN", "GRANT CREATE ON DATABASE postgres TO c", "GRANT USAGE ON SCHEMA exitfsm_aaa111 TO c"
        )
        theirs = own.url.replace("postgres@", "c@")
        with ExitStore(theirs, account="ccc333") as c:
            assert c.where.endswith("exitfsm_ccc333"), "what it may not read is not in its way"
        with pytest.raises(StoreError, match="permission denied"):
            ExitStore(f"{theirs}?exitfsm_schema=exitfsm_aaa111", read_only=True)
        own.do("DROP OWNED BY c CASCADE")
        with pytest.raises(StoreError, match=r"several stores: say which.*exitfsm_aaa111 or =exitfsm_bbb222"):
            ExitStore(own.url, read_only=True)

    def test_one_that_was_made_under_another_name_is_found_by_its_account(self, own):
        with ExitStore(f"{own.url}?exitfsm_schema=mine") as store:
            store.bind("aaa111")
            put(store, "p1", opened())
        for account in ("aaa111", ""):
            with ExitStore(own.url, account=account) as again:
                assert again.count() == 1, "a position is not forgotten because its store has another name"
        with ExitStore(own.url, account="bbb222") as other:
            assert other.count() == 0

    def test_one_that_is_not_ours_is_refused_and_not_touched(self, on):
        on.server.do(f"CREATE SCHEMA {on.schema}", f"CREATE TABLE {on.schema}.theirs (x int)")
        for read_only in (False, True):
            with pytest.raises(StoreError, match=r"not an exitfsm store \(it holds theirs\)"):
                on.open(read_only=read_only)
        found = on.server.do(f"SELECT tablename FROM pg_tables WHERE schemaname = '{on.schema}'")
        assert found == [("theirs",)]

    def test_one_that_is_empty_becomes_a_store(self, on):
        on.server.do(f"CREATE SCHEMA {on.schema}")
        with pytest.raises(StoreError, match="there is no store at"):
            on.open(read_only=True)
        store = on.open()
        put(store, "p1", opened())
        check(store)

    def test_a_crash_while_it_is_made_leaves_no_store(self, on, monkeypatch):
        from exitfsm.store.postgres import layout

        with monkeypatch.context() as m:
            m.setattr(layout, "MAKE", (*layout.MAKE, "SELECT 1 / 0"))
            with pytest.raises(StoreError, match="division by zero"):
                on.open()
        assert on.server.do(f"SELECT 1 FROM pg_namespace WHERE nspname = '{on.schema}'") == []
        check(on.open())

    def test_a_newer_format_says_upgrade(self, on):
        on.open().close()
        on.tamper("UPDATE meta SET value = '2' WHERE key = 'format'")
        for read_only in (False, True):
            with pytest.raises(StoreError, match=r"newer version of exitfsm .*upgrade exitfsm"):
                on.open(read_only=read_only)

    def test_a_role_that_may_only_read_reads_and_one_that_may_not_make_it_says_what_to_grant(self, on):
        store = on.open()
        put(store, "p1", *life())
        role = f"reader_{on.schema}"
        on.server.do(
            f"CREATE ROLE {role} LOGIN", f"GRANT USAGE ON SCHEMA {on.schema} TO {role}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {on.schema} TO {role}",
        )  # fmt: skip
        theirs = on.url.replace("postgres@", f"{role}@")
        with ExitStore(theirs, read_only=True) as reader:
            assert same_row(reader) == same_row(store)
        store.close()
        with pytest.raises(StoreError, match=r"permission denied.*GRANT"):
            ExitStore(theirs)
        with pytest.raises(StoreError, match=r"permission denied.*GRANT CREATE ON DATABASE"):
            ExitStore(theirs + "_new")
        on.server.do(f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    @pytest.mark.parametrize(
        ("sql", "said"),
        [
            ("DROP INDEX positions_open", "the index positions_open is missing"),
            (
                "ALTER TABLE exit_orders DROP CONSTRAINT exit_orders_client_order_id_key",
                "exit_orders_client_order_id_key",
            ),
            ("CREATE INDEX mine ON chain (hash)", "the index mine does not belong there"),
            ("CREATE TABLE mine (x int)", "the table mine does not belong there"),
            ("DROP TABLE alarms", "the table alarms is missing"),
            ("ALTER TABLE positions ADD COLUMN x int", "the table positions was changed"),
            ("ALTER TABLE positions ALTER qty TYPE numeric", "the table positions was changed"),
            ("CREATE RULE r AS ON INSERT TO chain DO INSTEAD NOTHING", "the rule r does not belong there"),
            (
                "CREATE TRIGGER t BEFORE UPDATE ON chain FOR EACH ROW "
                "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
                "the trigger t does not belong there",
            ),
        ],
    )
    def test_what_was_done_to_its_tables_shows(self, on, store, sql, said):
        put(store, "p1", *life())
        assert list(checking.damage(store)) == []
        on.tamper(sql)
        assert any(said in line for line in checking.damage(store))


# ---- which servers


class TestTheServer:
    @pytest.mark.parametrize(
        ("version", "said"),
        [
            ("CockroachDB CCL v25.3.1 (x86_64-pc-linux-gnu)", "is CockroachDB, whose locks"),
            ("PostgreSQL 15.2-YB-2024.2.1.0-b0 on x86_64", "is YugabyteDB, whose locks"),
            ("PostgreSQL 12.22 on x86_64", "PostgreSQL 13 or newer is needed"),
            ("EnterpriseDB", "PostgreSQL 13 or newer is needed"),
        ],
    )
    def test_one_that_is_only_like_it_is_refused(self, version, said):
        with pytest.raises(StoreError, match=said):
            link.check_version(version, address.parse("postgresql://h/d"))
        link.check_version("PostgreSQL 18.6 on x86_64-pc-linux-gnu", address.parse("postgresql://h/d"))
        link.check_version("PostgreSQL 18beta1 (Debian)".replace("beta1", ""), address.parse("postgresql://h/d"))

    def test_a_database_that_cannot_hold_every_text_is_refused(self, own):
        own.do("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
        with pytest.raises(StoreError, match=r"encoded in LATIN1.*ENCODING 'UTF8'"):
            ExitStore(own.url.removesuffix("postgres") + "latin")
        with pytest.raises(StoreError, match="make it with createdb"):
            ExitStore(own.url.removesuffix("postgres") + "nowhere")

    def test_what_would_lose_a_commit_is_raised_or_said_aloud(self, caplog):
        with server("fsync=off", "full_page_writes=off", "synchronous_commit=off") as careless:
            with caplog.at_level(logging.WARNING, "exitfsm"), ExitStore(careless.url) as store:
                assert store._rows("SHOW synchronous_commit") == [("on",)]
            assert "fsync=off" in caplog.text
            assert "full_page_writes=off" in caplog.text

    def test_commits_are_synchronous_and_nothing_waits_for_ever(self, store):
        shown = {name: store._rows(f"SHOW {name}")[0][0] for name in
                 ("synchronous_commit", "lock_timeout", "idle_in_transaction_session_timeout")}  # fmt: skip
        assert shown == {
            "synchronous_commit": "on", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "1min",
        }  # fmt: skip

    def test_a_pooler_in_transaction_mode_is_refused(self, on):
        pooler = Pooler(on.server.port, "postgres", "postgres")
        url = f"postgresql://postgres@127.0.0.1:{pooler.port}/postgres?exitfsm_schema={on.schema}&sslmode=disable&gssencmode=disable"
        try:
            for read_only in (False, True):
                with pytest.raises(StoreError, match="is a pooler that shares sessions"):
                    ExitStore(url, read_only=read_only)
        finally:
            pooler.close()

    @pytest.mark.parametrize("settings", ["", "server_round_robin = 1"])
    @pytest.mark.parametrize("others", [0, 1, 2])
    def test_the_real_pgbouncer_is_refused_in_transaction_mode(self, on, settings, others):
        with pgbouncer(on.server, "transaction", settings) as port:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            clients = [psycopg.connect(url) for _ in range(others)]
            for client in clients:
                client.execute("SELECT 1")  # each has a session of the server to itself, in a transaction
            for client in clients:
                client.close()
            for read_only in (False, True):
                with pytest.raises(StoreError, match="is a pooler that shares sessions"):
                    ExitStore(f"{url}?exitfsm_schema={on.schema}", read_only=read_only)

    def test_the_real_pgbouncer_in_session_mode_carries_a_store(self, on):
        with pgbouncer(on.server, "session") as port:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres?exitfsm_schema={on.schema}"
            with ExitStore(url) as store:
                put(store, "p1", *life())
                with pytest.raises(StoreLocked):
                    ExitStore(url)
            with ExitStore(url) as store:
                check(store)

    def test_one_without_a_free_connection_says_so(self, on):
        role = f"few_{on.schema}"
        on.server.do(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")
        with pytest.raises(StoreError, match="takes no more connections"):
            ExitStore(on.url.replace("postgres@", f"{role}@"))
        on.server.do(f"DROP ROLE {role}")

    def test_a_role_with_a_single_connection_can_write(self, on):
        role = f"one_{on.schema}"
        on.server.do(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1", f"GRANT CREATE ON DATABASE postgres TO {role}")
        with ExitStore(on.url.replace("postgres@", f"{role}@")) as store:
            put(store, "p1", opened())
            check(store)
        on.server.do(f"DROP OWNED BY {role} CASCADE", f"DROP ROLE {role}")

    def test_one_that_takes_no_writes_says_so(self, on):
        with pytest.raises(StoreError, match=r"it takes no writes.*target_session_attrs=read-write"):
            ExitStore(on.url + "&options=-c%20default_transaction_read_only%3Don")


# ---- numbers and texts


@given(st.lists(st.decimals(-(10**20), 10**20, allow_nan=False, places=9), min_size=1, max_size=20))
def test_numbers_are_those_of_sqlite(postgres_server, values):
    on, tables = _SHARED.setdefault("on", Postgres(postgres_server)), []
    on.server = postgres_server
    for url in (":memory:", on.url):
        with ExitStore(url) as store:
            stream = f"p{store.count()}"
            symbol = f"S{store.count()}"
            put(store, stream, opened(symbol))
            found = []
            for value in values:
                mark = Mark(symbol=symbol, position_id=stream, price=value, pnl_pct=value / 3, best_price=D(7), at=T0)
                store.save_marks([mark])
                columns = "current_price, unrealised_pnl_pct, highest_price"
                found += store._rows(f"SELECT {columns} FROM position_tracking WHERE symbol = ?", (symbol,))
            tables.append([[(type(x), x) for x in row] for row in found])
    assert tables[0] == tables[1]


_SHARED: dict[str, Any] = {}


def test_texts_are_sorted_and_compared_by_their_bytes(store):
    symbols = ["b", "B", "a", "Ä", "z", "_", "😀", "￿", "é", "a'\"\\{},NULL", "NULL", ""]
    appends = [Append(f"p{s}", 0, [msgspec.structs.replace(opened(s), strategy_name=s)], T0, "b") for s in symbols]
    with ExitStore(":memory:") as memory:
        for one in (memory, store):
            assert all(isinstance(result, list) for result in one.append_many(appends))
        assert [t.symbol for t in store.trackings()] == [t.symbol for t in memory.trackings()]
        assert store.positions() == memory.positions()
        assert store.chain_head() == memory.chain_head()


def test_no_text_of_the_store_is_sorted_by_a_language(on, store):
    sql = (
        "SELECT table_name, column_name, collation_name FROM information_schema.columns "
        "WHERE table_schema = ? AND data_type = 'text'"
    )
    columns = store._rows(sql, (on.schema,))
    assert len(columns) > 30
    assert {(table, column) for table, column, collation in columns if collation != "C"} == {("owner", "who")}


def test_a_commit_is_one_round_trip(on):
    """Of one position, of many at once, and of marks; what has to read first takes one for that as well."""
    proxy = Proxy(on.server.port)
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?exitfsm_schema={on.schema}&sslmode=disable"
    try:
        with ExitStore(url) as store:
            store.append_many([Append(f"p{n}", 0, life(f"c{n}", f"S{n}")[:2], T0, "b") for n in range(50)])
            before = proxy.turns
            put(store, "p1", life("c1", "S1")[2], after=2)
            assert proxy.turns - before == 1
            store.append_many([Append(f"p{n}", 2, life(f"c{n}", f"S{n}")[2:4], T0, "b") for n in range(2, 50)])
            assert proxy.turns - before == 2
            store.save_marks([Mark(symbol="S1", position_id="p1", price=D(1), pnl_pct=D(1), best_price=D(1), at=T0)])
            assert proxy.turns - before == 3
            check(store)
    finally:
        proxy.close()


def test_many_rows_at_once_are_those_of_one_by_one(store):
    """A group goes over as arrays, a single append row by row: the tables are the same, also where positions repeat."""
    groups = [
        [Append(f"p{n}", 0, life(f"c{n}", f"S{n % 3}"), T0, "b") for n in range(9)],  # three positions of each symbol
        [Append(f"q{n}", 0, [opened(f"S{n % 3}"), triggered(f"d{n}")], T0, "b") for n in range(9)],
        [Append(f"q{n}", 2, life(f"d{n}")[2:], T0, "b") for n in range(9)],
    ]
    with ExitStore(":memory:") as memory:
        for group in groups:
            assert all(isinstance(result, list) for result in store.append_many(group))
            for one in group:
                memory.append_many([one])
        assert same_row(store) == same_row(memory)
        assert store.positions() == memory.positions()
    check(store)


# ---- the one writer


class TestTheOwner:
    def test_a_session_whose_fence_is_old_stores_nothing(self, on, store):
        put(store, "p1", opened())
        head = store.chain_head()
        on.tamper("UPDATE owner SET fence = fence + 1, who = 'process 9 on elsewhere'")
        for call in (
            lambda: put(store, "p1", triggered(), after=1),
            lambda: store.save_marks(
                [Mark(symbol="AAPL", position_id="p1", price=D(1), pnl_pct=D(1), best_price=D(1), at=T0)]
            ),
            store.rebuild,
        ):
            with pytest.raises(StoreLocked, match=r"was taken by process 9 on elsewhere at .* nothing was stored"):
                call()
        assert store.chain_head() == head
        check(store)

    def test_without_the_fence_it_would_have(self, on, store):
        """What the test above shows is the fence's doing."""
        put(store, "p1", opened())
        on.tamper(
            "CREATE OR REPLACE FUNCTION check_fence(mine BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$ BEGIN END $$",
            "UPDATE owner SET fence = fence + 1",
        )
        put(store, "p1", triggered(), after=1)
        assert store.count() == 2

    def test_an_owner_that_lost_its_session_to_another_is_told_and_harms_nothing(self, on, store):
        put(store, "p1", opened())
        on.server.do(f"SELECT pg_terminate_backend({backend(store)})")
        second = on.open()
        put(second, "p1", triggered(), after=1)
        for _ in range(2):
            with pytest.raises(StoreError, match=f"being written by .*process {os.getpid()}|was taken by process"):
                put(store, "p1", stop_moved(1), after=1)
        put(second, "p1", *life()[2:], after=2)
        second.close()
        with pytest.raises(StoreLocked, match="was taken by process"):
            put(store, "p1", stop_moved(1), after=1)
        with on.open() as third:
            assert third.count() == 5
            check(third)

    def test_a_session_that_was_ended_is_had_again_before_the_next_append(self, on, store):
        put(store, "p1", opened())
        acts = (lambda: put(store, "p1", stop_moved(1), after=1), store.settle, store.count, store.rebuild)
        for n, act in enumerate(acts):
            pid = backend(store)
            on.server.do(f"SELECT pg_terminate_backend({pid}, 5000)")  # and wait for its end
            act()
            assert backend(store) != pid
            put(store, "p1", stop_moved(n + 10), after=store.count())
        check(store)

    def test_a_snapshot_whose_session_was_ended_is_over(self, on, store):
        put(store, "p1", opened())
        with on.open(read_only=True) as reader:
            with checking.snapshot(reader):
                assert reader.count() == 1
                on.server.do(f"SELECT pg_terminate_backend({backend(reader)}, 5000)")
                put(store, "p1", triggered(), after=1)
                for _ in range(2):
                    with pytest.raises(StoreError, match="nothing was stored"):
                        reader.count()
            assert reader.count() == 2, "and behind it reads go on"

    def test_nobody_takes_the_store_between_the_question_and_the_commit(self, on, store):
        put(store, "p1", opened())
        db = store._open_db()
        db.begin()
        db.rows("SELECT 1")  # the fence was asked for, the commit is yet to come
        options = f"-c search_path={on.schema} -c lock_timeout=100ms"
        with (
            psycopg.connect(on.server.url, options=options) as other,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            other.execute("UPDATE owner SET fence = fence + 1")
        db.give_up()

    def test_two_writers_without_lock_and_fence_do_not_overwrite_each_other(self, on, store, monkeypatch):
        put(store, "p1", opened(), triggered())
        monkeypatch.setattr(owning, "lock", lambda *_, **__: None)
        with on.open() as second:
            on.tamper(
                "CREATE OR REPLACE FUNCTION check_fence(mine BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$ BEGIN END $$"
            )
            put(second, "p1", life()[2], after=2)
            put(second, "p2", opened("MSFT"))
        with pytest.raises(VersionConflict):
            put(store, "p1", life()[2], after=2)
        put(store, "p1", *life()[3:], after=3)
        check(store)


# ---- a connection that is lost


def outcome(act: Callable[[], object]) -> str:
    """What an append says: `stored`, `not stored`, or `not known`; anything else fails the test."""
    try:
        act()
    except VersionConflict:
        raise AssertionError("a lost connection is never another writer") from None
    except StoreError as e:
        said = str(e)
        assert ("nothing was stored" in said) != ("is not known" in said), said
        return "not stored" if "nothing was stored" in said else "not known"
    return "stored"


class TestALostConnection:
    @pytest.mark.parametrize("direction", ["answer", "request"])
    def test_a_cut_at_any_byte_never_tells_what_is_not_so(self, on, direction):
        proxy = Proxy(on.server.port)
        ending = "&sslmode=disable&gssencmode=disable"
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?exitfsm_schema={on.schema}{ending}"
        said = set()
        try:
            with ExitStore(url) as store:
                put(store, "p1", opened())
                version, after = 1, 0
                while True:
                    proxy.arm(direction, after)
                    event = stop_moved(version)
                    told = outcome(lambda event=event, version=version: put(store, "p1", event, after=version))
                    if proxy.armed:
                        proxy.disarm()
                        break  # the whole exchange is shorter
                    stored = store.stream("p1", after=version)
                    assert (told, len(stored)) in {("stored", 1), ("not stored", 0)}
                    said.add(told)
                    version += len(stored)
                    after += 1 if after < 8 else 23
                check(store)
            assert proxy.cuts > 5
            assert said >= ({"not stored"} if direction == "request" else {"stored"}), said
        finally:
            proxy.close()

    @pytest.mark.parametrize("direction", ["answer", "request"])
    def test_a_network_that_is_down_leaves_a_session_that_is_ended_first(self, on, direction):
        """The server has heard of nothing: its session still has the lock, and may still be at the commit."""
        proxy = Proxy(on.server.port)
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?exitfsm_schema={on.schema}&sslmode=disable"
        try:
            with ExitStore(url) as store:
                put(store, "p1", opened())
                pid = backend(store)
                proxy.arm(direction, 5, silent=True)
                told = outcome(lambda: put(store, "p1", stop_moved(1), after=1))
                assert told == ("stored" if direction == "answer" else "not stored")
                assert on.server.do(f"SELECT COUNT(*) FROM pg_stat_activity WHERE pid = {pid}") == [(0,)]
                put(store, "p1", stop_moved(2), after=store.count())
                check(store)
        finally:
            proxy.close()

    def test_a_group_whose_answer_is_lost_is_told_whole(self, on):
        proxy = Proxy(on.server.port)
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?exitfsm_schema={on.schema}&sslmode=disable"
        try:
            with ExitStore(url) as store:
                store.append_many([Append(f"p{n}", 0, life(f"c{n}", f"S{n}")[:2], T0, "b") for n in range(9)])
                proxy.arm("answer", 5)
                results = store.append_many([Append(f"p{n}", 2, life(f"c{n}", f"S{n}")[2:], T0, "b") for n in range(9)])
                assert proxy.cuts == 1
                assert [len(result) for result in results] == [3] * 9
                assert store.count() == 45
                check(store)
        finally:
            proxy.close()

    def test_when_it_does_not_come_back_the_outcome_is_not_known(self, on, monkeypatch):
        monkeypatch.setattr(engine, "RECONNECT_S", 0.2)
        proxy = Proxy(on.server.port)
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?exitfsm_schema={on.schema}&sslmode=disable"
        store = ExitStore(url)
        try:
            put(store, "p1", opened())
            proxy.arm("answer", 5)
            proxy.refuse()
            assert outcome(lambda: put(store, "p1", stop_moved(1), after=1)) == "not known"
            assert outcome(lambda: put(store, "p1", stop_moved(2), after=1)) == "not stored", "it was not even sent"
        finally:
            store.close()
            proxy.close()
        with on.open() as again:
            assert again.count() == 2

    def test_marks_whose_answer_is_lost_are_not_known(self, on):
        proxy = Proxy(on.server.port)
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?exitfsm_schema={on.schema}&sslmode=disable"
        mark = Mark(symbol="AAPL", position_id="p1", price=D(1), pnl_pct=D(1), best_price=D(1), at=T0)
        try:
            with ExitStore(url) as store:
                put(store, "p1", opened())
                proxy.arm("answer", 5)
                assert outcome(lambda: store.save_marks([mark])) == "not known"
                store.save_marks([mark])
                put(store, "p1", triggered(), after=1)
                check(store)
        finally:
            proxy.close()


class TestAServerThatFails:
    @pytest.mark.parametrize("how", ["kill -9", "immediate", "fast"])
    def test_nothing_that_was_acknowledged_is_lost(self, own, how):
        told: list[str] = []
        enough = threading.Event()

        def one(n: int) -> str:
            return outcome(lambda: put(store, f"p{n}", opened(f"S{n}")))

        def work() -> None:
            while not enough.is_set():
                told.append(one(len(told)))

        with ExitStore(own.url) as store:
            worker = threading.Thread(target=work)
            worker.start()
            wait_until(lambda: len(told) > 20)
            if how == "kill -9":
                own.crash()
            else:
                own.signal(signal.SIGQUIT if how == "immediate" else signal.SIGINT)
            before = len(told)
            own.start()
            wait_until(lambda: told[before:].count("stored") > 20)
            enough.set()
            worker.join()
            stored = {r.stream_id for r in store.events()}
            for n, what in enumerate(told):
                assert what != "not known", "the server came back in time for each"
                assert (f"p{n}" in stored) == (what == "stored"), (n, what)
            check(store)

    def test_a_server_that_is_gone_is_told_in_plain_words(self, own, monkeypatch):
        monkeypatch.setattr(engine, "RECONNECT_S", 0.2)
        with ExitStore(own.url) as store:
            put(store, "p1", opened())
            own.stop()
            for call in (lambda: put(store, "p1", triggered(), after=1), store.count, store.settle):
                with pytest.raises(StoreError, match="check that the server runs and can be reached"):
                    call()
            own.start()
            put(store, "p1", triggered(), after=1)
            check(store)
        with pytest.raises(StoreError, match="check that the server runs and can be reached"):
            ExitStore("postgresql://127.0.0.1:1/x")

    def test_a_full_disk_leaves_no_half_written_state(self, own, tmp_path):
        with small_disk(tmp_path) as folder:
            own.do(f"CREATE TABLESPACE small LOCATION '{folder}'", "CREATE DATABASE small TABLESPACE small")
            with ExitStore(own.url.removesuffix("postgres") + "small") as store:
                put(store, "p0", opened())
                acknowledged, error = 1, ""
                for n in range(1, 5000):
                    try:
                        put(
                            store,
                            f"p{n}",
                            msgspec.structs.replace(opened(f"S{n}"), strategy_name=f"{n}{os.urandom(40_000).hex()}"),
                        )
                    except StoreError as e:
                        error = str(e)
                        break
                    acknowledged += 1
                assert "the disk of the server is full and nothing was stored" in error
                assert store.count() == acknowledged
                check(store)


@contextlib.contextmanager
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB; the test is skipped where none can be made."""
    folder = Path("/tmp") / f"exitfsm-small-{os.getpid()}"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,uid=65534,gid=65534,mode=700", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        if mounted.returncode:
            pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
        folder.rmdir()


# ---- standbys


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


class TestStandbys:
    def waits_for_standby(self, own: Server) -> bool:
        return own.do("SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == [(1,)]

    def test_a_commit_that_landed_though_its_session_was_ended_is_told_as_stored(self, own):
        """`pg_terminate_backend` while COMMIT waits for a standby: stored, but nothing is said of it."""
        with ExitStore(own.url) as store:
            put(store, "p1", opened())
            own.do("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
            told: list[str] = []
            worker = threading.Thread(
                target=lambda: told.append(outcome(lambda: put(store, "p1", triggered(), after=1)))
            )
            worker.start()
            wait_until(lambda: self.waits_for_standby(own))
            own.do("ALTER SYSTEM RESET synchronous_standby_names")
            own.do(f"SELECT pg_terminate_backend({backend(store)})", "SELECT pg_reload_conf()")
            worker.join(20)
            assert told == ["stored"]
            assert store.count() == 2
            put(store, "p1", *life()[2:], after=2)
            check(store)

    def test_a_commit_that_stops_waiting_for_its_standby_is_logged(self, own, caplog):
        with ExitStore(own.url) as store, caplog.at_level(logging.WARNING, "exitfsm"):
            put(store, "p1", opened())
            own.do("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
            worker = threading.Thread(target=lambda: put(store, "p1", triggered(), after=1))
            worker.start()
            wait_until(lambda: self.waits_for_standby(own))
            own.do(f"SELECT pg_cancel_backend({backend(store)})")
            worker.join(20)
            assert store.count() == 2
            assert "postgresql_notice" in caplog.text
            assert "synchronous replication" in caplog.text

    @pytest.mark.slow
    @pytest.mark.parametrize("synchronous", [True, False])
    def test_a_replica_that_is_promoted(self, own, synchronous):
        """With a synchronous standby nothing that was acknowledged is lost; without, what is missing is noticed."""
        with standby_of(own) as standby:
            if synchronous:
                own.do("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (standby)'", "SELECT pg_reload_conf()")
                wait_until(lambda: own.do("SELECT sync_state FROM pg_stat_replication") == [("quorum",)])
            with pytest.raises(StoreError, match="it takes no writes"):
                ExitStore(standby.url)
            hosts = f"127.0.0.1:{own.port},127.0.0.1:{standby.port}"
            url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write&exitfsm_schema=s"
            with ExitStore(url) as store:
                put(store, "p1", *life()[:2])
                wait_until(lambda: standby.do("SELECT to_regclass('s.chain') IS NOT NULL") == [(True,)])
                wait_until(lambda: standby.do("SELECT COUNT(*) FROM s.chain") == [(2,)])
                with ExitStore(f"{standby.url}?exitfsm_schema=s", read_only=True) as reader:
                    check(reader)
                if not synchronous:  # it no longer hears of anything
                    standby.do("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
                    wait_until(lambda: own.do("SELECT COUNT(*) FROM pg_stat_replication") == [(0,)])
                put(store, "p1", life()[2], after=2)
                own.crash()
                standby.do("SELECT pg_promote()")
                if synchronous:
                    put(store, "p1", *life()[3:], after=3)
                    assert store.count() == 5
                    check(store)
                else:
                    with pytest.raises(StoreError, match=r"lost what it had acknowledged.*open the store again"):
                        put(store, "p1", *life()[3:], after=3)
            with ExitStore(url) as again:
                assert again.count() == (5 if synchronous else 2)
                check(again)


@contextlib.contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A standby that follows a server."""
    with server(made=False) as standby:
        (primary.data / "pg_hba.conf").write_text(
            "local all all trust\nhost all all all trust\nhost replication all all trust\n"
        )
        primary.do("SELECT pg_reload_conf()")
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name=standby"
        standby.run(
            "pg_basebackup", "-D", str(standby.data), "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", source
        )
        standby.start()
        yield standby
