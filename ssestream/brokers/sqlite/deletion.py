"""Delete logs from one SQLite file: at once, and after their ttl.

A deleted log loses its name, so that its channel can begin another log. Its rows are then removed
a few at a time, because no other greenlet runs during a transaction. A log that has expired counts
as deleted from that time on, even if nothing has removed its rows yet.
"""

import secrets
import sqlite3
import time

from ..broker import CHECK_LENGTH

#: The most entries of deleted logs that one transaction removes.
SWEPT = 500

#: Seconds for which other processes can learn that a log was deleted. A process that follows the
#: channel and looks later learns it from the next log of the channel.
TOLD = 60.0

#: SQL: the next change. It is later than every append and every deletion. The entries count, too,
#: as somebody may have removed the row of their channel. A change of a damaged row counts only if
#: it is a number, and not one of the greatest.
NEXT_CHANGE = (
    "SELECT CAST(max(ifnull((SELECT max(change) FROM channels WHERE change < 9e18), 0),"
    " ifnull((SELECT max(change) FROM events WHERE change < 9e18), 0),"
    " ifnull((SELECT max(change) FROM gone WHERE change < 9e18), 0)) AS INTEGER) + 1"
)


def delete(db: sqlite3.Connection, key: int, name: str) -> None:
    """Delete the log with the row *key*, of the channel *name*. `sweep` frees its rows."""
    now = time.time()
    # No channel can have this name.
    db.execute(
        "UPDATE channels SET name = char(0) || id, ended = 0, leased = NULL, expires = 0"
        " WHERE id = ?",
        (key,),
    )
    (change,) = db.execute(NEXT_CHANGE).fetchone()
    token = secrets.token_hex(CHECK_LENGTH // 2)
    db.execute("INSERT INTO gone VALUES (?, ?, ?, ?)", (change, name, token, now))
    db.execute("DELETE FROM gone WHERE at NOT BETWEEN ? AND ?", (now - TOLD, now))


def sweep(db: sqlite3.Connection) -> bool:
    """Free some rows of deleted and of expired logs. Returns whether there are more."""
    row = db.execute(
        "SELECT id, name FROM channels WHERE expires <= ? ORDER BY expires LIMIT 1", (time.time(),)
    ).fetchone()
    if row is None:
        return False
    key, name = row
    if not (isinstance(name, str) and name.startswith("\0")):
        delete(db, key, name)
    swept = db.execute(
        "DELETE FROM events WHERE change IN"
        " (SELECT change FROM events WHERE channel = ? ORDER BY number LIMIT ?)",
        (key, SWEPT),
    ).rowcount
    if swept < SWEPT:
        db.execute("DELETE FROM channels WHERE id = ?", (key,))
    return True


def has_expired(db: sqlite3.Connection) -> bool:
    """Whether `sweep` has something to free."""
    found = db.execute(
        "SELECT 1 FROM channels WHERE expires <= ? LIMIT 1", (time.time(),)
    ).fetchone()
    return found is not None
