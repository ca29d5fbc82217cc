"""The store on SQLite: `eventsourcing`'s recorder on one file, made and opened so that nothing is lost or mixed up.

Rules of this room: everything that only SQLite has is here (pragmas, locks, file modes, error codes, creation), behind
the port of `database`, and nothing that another database would have as well.

The file: WAL, `synchronous = FULL`, mode 0600, one writer at a time (an OS lock on `<path>.lock`, held while it is
open). It is made complete beside its place and then moved there, so that a crash leaves a whole store or none. A file
that is not ours is never written to.

- `layout` is the tables.
- `connection` is the way to the file, and what its failures mean.
- `files` is the file as the system sees it, with the lock of its one writer.
- `engine` is the database.
"""

from exitfsm.store.sqlite.engine import SQLiteDatabase

__all__ = ["SQLiteDatabase"]
