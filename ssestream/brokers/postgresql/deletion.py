"""Free the rows of deleted, expired and old entries, a few in each transaction.

A deleted log loses its name, so that its channel can begin another log. A log that has expired
counts as deleted from that time on, even if nothing has removed its rows yet.
"""

from collections.abc import Iterator

from .psycopg import Connection

#: The most entries that one transaction removes. It takes some milliseconds.
SWEPT = 500

#: The most transactions of each kind in one round, so that a round does not keep its caller.
ROUND = 4


class Broom:
    """Frees what nobody reads any more. Each process looks for it once in a while."""

    def __init__(self) -> None:
        # The id of the last log that was looked at for old entries.
        self._after = 0

    def sweep(self, db: Connection) -> None:
        """Free some rows of deleted and of expired logs, and some old entries of other logs."""
        for _ in range(ROUND):
            if not _sweep(db):
                break
        for _ in range(ROUND):
            row = db.execute("SELECT * FROM ssestream.forget(%s, %s)", (self._after, SWEPT))
            self._after, is_full = row.fetchone() or (0, False)
            if not is_full:
                return


def sweep_all(db: Connection) -> Iterator[None]:
    """Free the rows of all deleted and expired logs. Yields after each transaction."""
    while _sweep(db):
        yield


def trim_all(db: Connection, channel: str) -> Iterator[None]:
    """Remove all entries that the log of *channel* no longer keeps, in the same way."""
    while db.execute("SELECT ssestream.trim(%s, %s)", (channel, SWEPT)).fetchone() == (True,):
        yield


def _sweep(db: Connection) -> bool:
    """Free some rows of deleted and expired logs. Returns whether there may be more."""
    return bool(db.execute("SELECT ssestream.sweep(%s)", (SWEPT,)).fetchone() == (True,))
