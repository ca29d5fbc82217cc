"""The store on PostgreSQL: one schema for each account, one session that writes it.

Rules of this room: everything that only PostgreSQL has is here, behind the port of `database`. It is imported only when
a store with such a URL is opened. Nothing that is said, logged or raised holds a password.

- `address` is what a URL names.
- `link` is the session: opened, checked, and what its failures mean.
- `statements` turns the store's SQL into PostgreSQL's: tables, parameters, rows as arrays.
- `owning` keeps the one writer of a store the only one.
- `engine` is the database.
"""

from exitfsm.store.postgres.engine import PostgresDatabase

__all__ = ["PostgresDatabase"]
