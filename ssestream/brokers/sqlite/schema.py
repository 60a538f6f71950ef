"""The tables of a file, how they are made, and how a file of version 1 gets them."""

import sqlite3

#: The mark of a file of this broker: "SSE", and version 2 of its tables.
FORM = 0x53534502

TABLES = (
    # *last*, *change*, *token* and *at* are the number, change, check and time of the newest
    # entry ever appended. *messages* is the number of all messages ever appended. *history* is
    # NULL if it was never set, in a file of version 1. An *age* of NULL means any age.
    """CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    log TEXT NOT NULL, last INTEGER NOT NULL, change INTEGER NOT NULL,
    token TEXT NOT NULL DEFAULT '', messages INTEGER NOT NULL DEFAULT 0, at REAL NOT NULL DEFAULT 0,
    history INTEGER, age REAL)""",
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
    f"PRAGMA application_id = {FORM}",
)

#: The mark of a file of version 1.
FORM_1 = 0x53534501

#: The statements that turn version 1 into version 2.
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
    f"PRAGMA application_id = {FORM}",
)


def prepare(db: sqlite3.Connection) -> None:
    """Set the connection up, and make the tables if the file has none or is of version 1."""
    current = _is_current(db)
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise sqlite3.OperationalError("its disk does not allow a write-ahead log")
    db.execute("PRAGMA synchronous = NORMAL")
    # After a burst, the write-ahead log shrinks to this many bytes again.
    db.execute("PRAGMA journal_size_limit = 16777216")
    if not current:
        db.execute("BEGIN IMMEDIATE")
        if not _is_current(db):
            for statement in FROM_FORM_1 if _form(db)[0] == FORM_1 else TABLES:
                db.execute(statement)
        db.execute("COMMIT")


def _is_current(db: sqlite3.Connection) -> bool:
    form, tables = _form(db)
    if form not in (FORM, FORM_1) and tables:
        raise sqlite3.OperationalError("the file is a database of another program")
    return form == FORM


def _form(db: sqlite3.Connection) -> tuple[int, int]:
    """The mark of the file, and the number of its tables and indexes."""
    # Read both in one statement, because another process may be making the tables now.
    form, tables = db.execute(
        "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
    ).fetchone()
    return form, tables
