"""Which changes of a file a process has seen, and which channels have changed since."""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable

#: The channels whose last changes are remembered.
REMEMBERED = 256

#: SQL: the names, changes and checks of the newest changes, the last one first. A damaged change
#: is left out (see `deletion.NEXT_CHANGE`).
_NEWEST = """SELECT name, change, token FROM (SELECT * FROM
    (SELECT name, change, token FROM channels WHERE change < 9e18
    ORDER BY change DESC LIMIT :limit)
    UNION ALL SELECT * FROM
    (SELECT name, change, token FROM gone WHERE change < 9e18
    ORDER BY change DESC LIMIT :limit))
    ORDER BY change DESC LIMIT :limit"""

#: SQL: the same of all changes from *change* on, the first one first.
_FROM = """SELECT name, change, token FROM channels WHERE change >= :change AND change < 9e18
    UNION ALL SELECT name, change, token FROM gone WHERE change >= :change AND change < 9e18
    ORDER BY change"""

#: SQL: a row if the file has this change with this check.
_HAS = """SELECT 1 FROM events WHERE change = :change AND token = :token
    UNION ALL SELECT 1 FROM gone WHERE change = :change AND token = :token"""


class Seen:
    """The changes of one file that a broker has seen.

    All channels share one counter: each append and each deletion of a log takes the next number.
    So the channels with a greater number have changed. A restored backup sets the counter back, and
    then other entries get the numbers that were seen. So first look for the newest change that was
    seen and is still in the file: no backup from before this change was restored. All channels
    that have changed after it, in the file now or as it was seen, may have news.

    Mostly the last change is still in the file. It is not if its log has removed the entry, as a
    busy log with a short history does. Therefore the last changes of some channels are remembered.
    """

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        # The last change of each channel and its check, in the order of the changes.
        self._changes: OrderedDict[str, tuple[int, str]] = OrderedDict()
        # Whether a channel may have had a change, and is not in the dict.
        self._has_forgotten = False

    def changed(self, db: sqlite3.Connection) -> list[str] | None:
        """The channels that may have changed since the last call; None if any channel may have.

        Called in a transaction of the connection *db*.
        """
        # Another connection may be to another file.
        is_same, self._connection = self._connection is db, None
        changed = self._changed(db) if is_same else None
        if changed is None:
            self._begin(db)
        # After an error above, the next call begins anew.
        self._connection = db
        return changed

    def _changed(self, db: sqlite3.Connection) -> list[str] | None:
        name = next(reversed(self._changes), None)
        last = (0, "") if name is None else self._changes[name]
        rows = db.execute(_FROM, {"change": last[0]}).fetchall()
        if [row[1:] for row in rows] == [last] or not (rows or name):
            return []
        lost = self._forget_lost(db)
        if self._has_forgotten and not self._changes:
            return None
        if lost:
            name = next(reversed(self._changes), None)
            last = (0, "") if name is None else self._changes[name]
            rows = db.execute(_FROM, {"change": last[0]}).fetchall()
        new = [row for row in rows if row[1] > last[0]]
        self._remember(new)
        return [*lost, *(row[0] for row in new)]

    def _begin(self, db: sqlite3.Connection) -> None:
        self._changes.clear()
        rows = db.execute(_NEWEST, {"limit": REMEMBERED}).fetchall()
        self._has_forgotten = len(rows) == REMEMBERED
        self._remember(reversed(rows))

    def _forget_lost(self, db: sqlite3.Connection) -> list[str]:
        """Forget the last changes that are not in the file any more, and return their channels."""
        lost = []
        while self._changes:
            name, last = self._changes.popitem()
            change, token = last
            if db.execute(_HAS, {"change": change, "token": token}).fetchone():
                self._changes[name] = last
                break
            lost.append(name)
        return lost

    def _remember(self, rows: Iterable[tuple[str, int, str]]) -> None:
        for name, change, token in rows:
            self._changes[name] = change, token
            self._changes.move_to_end(name)
        while len(self._changes) > REMEMBERED:
            self._changes.popitem(last=False)
            self._has_forgotten = True
