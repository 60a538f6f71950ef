"""The tables of a file, how they are made, and how an older file gets them."""

import sqlite3

#: The mark of a file of this broker: "SSE", and version 3 of its tables.
FORM = 0x53534503

#: What the deletion of logs needs.
DELETION = (
    "CREATE INDEX ends ON channels (expires) WHERE expires IS NOT NULL",
    # The logs that were deleted lately, for the processes that follow their channels.
    """CREATE TABLE gone (change INTEGER PRIMARY KEY, name TEXT NOT NULL, token TEXT NOT NULL,
    at REAL NOT NULL)""",
)

TABLES = (
    # *last*, *change*, *token* and *at* are the number, change, check and time of the newest
    # entry ever appended. *messages* is the number of all messages ever appended. *history* is
    # NULL if it was never set, in a file of version 1. An *age* of NULL means any age. *ended* is
    # the number of the entry that ended the log, or 0. *leased* is the time when the lease runs
    # out. *expires* is the time when the log is deleted, *ttl* seconds after an append. NULL
    # means that there is none.
    """CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    log TEXT NOT NULL, last INTEGER NOT NULL, change INTEGER NOT NULL,
    token TEXT NOT NULL DEFAULT '', messages INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL DEFAULT 0,
    history INTEGER, age REAL, ended INTEGER NOT NULL DEFAULT 0, leased REAL, ttl REAL,
    expires REAL)""",
    "CREATE INDEX changes ON channels (change)",
    # *message* is the number of this message among all messages of its log. A control frame has
    # the number of the next message, and is kept as long as that message. *expires* is the time
    # at which the entry becomes too old for its log, or NULL for never. *at* and *expires*
    # never decrease within a log, even if the clock is set back.
    """CREATE TABLE events (change INTEGER PRIMARY KEY, channel INTEGER NOT NULL,
    number INTEGER NOT NULL, at REAL NOT NULL, frame BLOB NOT NULL,
    token TEXT NOT NULL DEFAULT '', message INTEGER NOT NULL DEFAULT 0, expires REAL)""",
    "CREATE UNIQUE INDEX numbers ON events (channel, number)",
    "CREATE INDEX expiry ON events (expires) WHERE expires IS NOT NULL",
    *DELETION,
    f"PRAGMA application_id = {FORM}",
)

#: The marks of files of version 1 and version 2.
FORM_1, FORM_2 = 0x53534501, 0x53534502

#: The statements that turn version 2 into version 3.
FROM_FORM_2 = (
    "ALTER TABLE channels ADD COLUMN ended INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE channels ADD COLUMN leased REAL",
    "ALTER TABLE channels ADD COLUMN ttl REAL",
    "ALTER TABLE channels ADD COLUMN expires REAL",
    *DELETION,
    f"PRAGMA application_id = {FORM}",
)

#: The statements that turn version 1 into version 3.
FROM_FORM_1 = (
    "ALTER TABLE channels ADD COLUMN token TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE channels ADD COLUMN messages INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE channels ADD COLUMN at REAL NOT NULL DEFAULT 0",
    "ALTER TABLE channels ADD COLUMN history INTEGER",
    "ALTER TABLE channels ADD COLUMN age REAL",
    "ALTER TABLE events ADD COLUMN token TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE events ADD COLUMN message INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE events ADD COLUMN expires REAL",
    "UPDATE channels SET messages = last",
    "UPDATE events SET message = number",
    "CREATE INDEX expiry ON events (expires) WHERE expires IS NOT NULL",
    *FROM_FORM_2,
)

_CHANGES = {FORM_1: FROM_FORM_1, FORM_2: FROM_FORM_2}


def prepare(db: sqlite3.Connection) -> None:
    """Set the connection up, and make the tables if the file has none or is older."""
    current = _is_current(db)
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise sqlite3.OperationalError("its disk does not allow a write-ahead log")
    db.execute("PRAGMA synchronous = NORMAL")
    # After a burst, the write-ahead log shrinks to this many bytes again.
    db.execute("PRAGMA journal_size_limit = 16777216")
    if not current:
        db.execute("BEGIN IMMEDIATE")
        if not _is_current(db):
            for statement in _CHANGES.get(_form(db)[0], TABLES):
                db.execute(statement)
        db.execute("COMMIT")


def _is_current(db: sqlite3.Connection) -> bool:
    form, tables = _form(db)
    if form != FORM and form not in _CHANGES and tables:
        raise sqlite3.OperationalError("the file is a database of another program")
    return form == FORM


def _form(db: sqlite3.Connection) -> tuple[int, int]:
    """The mark of the file, and the number of its tables and indexes."""
    # Read both in one statement, because another process may be making the tables now.
    form, tables = db.execute(
        "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
    ).fetchone()
    return form, tables
