"""The logs of all channels in one SQLite file, as a transaction reads and changes them."""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ..broker import (
    CHECK_LENGTH,
    CONTROL,
    CONTROLS,
    PLAIN,
    Bounds,
    ChannelEnded,
    ChannelError,
    Entry,
    Position,
    Refused,
    Slice,
    Terms,
)
from .database import MALFORMED
from .deletion import NEXT_CHANGE, delete, sweep

#: Errors of the work with a log whose rows another program has damaged. No other log is concerned.
DAMAGE = (TypeError, ValueError, OverflowError)

#: The most entries that one append removes from its own log, and the most that it removes from
#: all logs for their age.
TRIMMED = 16


class _Row(NamedTuple):
    """The row of a channel that has a log (see ``schema``)."""

    id: int
    log: str
    last: int
    token: str
    messages: int
    at: float
    ended: int
    leased: float | None
    ttl: float | None
    expires: float | None
    history: int | None
    age: float | None

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.history, self.age)


#: What may stand in each column. SQLite takes a value of any type for any column.
_TYPES: dict[str, Any] = _Row.__annotations__

_COLUMNS = ", ".join(_TYPES)


class Logs:
    """The logs of a broker that asks for the bounds *asked* in each log to which it appends.

    Each method is called in a transaction of the connection *db*. *say* makes the text of an
    error from its words. A method that changes a log raises one of `DAMAGE` for a damaged log.
    """

    def __init__(self, asked: Bounds, say: Callable[[str], str]) -> None:
        self._asked = asked
        self._say = say

    def append(
        self, db: sqlite3.Connection, channel: str, frame: bytes, terms: Terms
    ) -> tuple[Position, Bounds]:
        """See `Broker.append`. Returns the bounds of the log, too."""
        row = self._find(db, channel)
        sweep(db)
        now, asked = time.time(), terms.bounds or self._asked
        if row is None:
            if terms.of is not None or terms.if_lapsed:
                raise Refused(channel)
            log, last, messages, before = secrets.token_hex(4), 0, 0, Bounds()
            leased = ttl = expires = None
            bounds = asked.of_new_log()
            inserted = "INSERT INTO channels (name, log, last, change) VALUES (?, ?, 0, 0)"
            key = db.execute(inserted, (channel, log)).lastrowid
            # Somebody may have removed the row of an earlier log, and not its entries.
            db.execute("DELETE FROM events WHERE channel = ?", (key,))
        else:
            key, log, last, _, messages, at, ended, leased, ttl, expires, _, _ = row
            _check_terms(channel, terms, log, last, leased)
            if ended and (terms.end or not frame.startswith(CONTROL)):
                raise ChannelEnded(channel)
            now = max(now, at)
            before = row.bounds
            bounds = asked.of_new_log() if before.history is None else before.widened(asked)
        position = Position("", 0)
        last_frame = terms.end_frame
        frames = [frame, last_frame] if terms.end and frame != last_frame else [frame]
        for each in frames:
            last, message = last + 1, messages + 1
            messages += not each.startswith(CONTROL)
            (change,) = db.execute(NEXT_CHANGE).fetchone()
            token = secrets.token_hex(CHECK_LENGTH // 2)
            position = position if position.number else Position(log, last, token)
            db.execute(
                "UPDATE channels SET last = ?, change = ?, token = ?, messages = ?, at = ?,"
                " history = ?, age = ? WHERE id = ?",
                (last, change, token, messages, now, *bounds, key),
            )
            old_at = None if bounds.age is None else now + bounds.age
            try:
                db.execute(
                    "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (change, key, last, now, each, token, message, old_at),
                )
            except sqlite3.IntegrityError as error:  # the log has an entry with this number
                raise ValueError(error) from error
        if bounds != before:
            self._set_expiry(db, key, bounds.age)
        if terms is not PLAIN or expires is not None:
            leased = None if terms.end else leased
            leased = leased if terms.lease is None else time.time() + terms.lease
            _set_life(db, key, leased, ttl if terms.ttl is None else terms.ttl)
            if terms.end:
                db.execute("UPDATE channels SET ended = ? WHERE id = ?", (last, key))
        self._trim(db, key, last, messages, bounds)
        return position, bounds

    def renew(
        self, db: sqlite3.Connection, channel: str, of: Position, lease: float | None
    ) -> bool:
        """See `Broker.renew`."""
        row = self._find(db, channel)
        sweep(db)
        if row is None:
            return False
        if row.ended or row.log != of.log:
            return False
        _set_life(db, row.id, None if lease is None else time.time() + lease, row.ttl)
        return True

    def delete(self, db: sqlite3.Connection, channel: str) -> None:
        """See `Broker.delete`. `deletion.sweep` frees the rows. The log may be damaged."""
        row = db.execute("SELECT id FROM channels WHERE name = ?", (channel,)).fetchone()
        if row is not None:
            delete(db, row[0], channel)

    def _find(self, db: sqlite3.Connection, channel: str) -> _Row | None:
        """The row of *channel*, which is about to change; None if it has no log.

        A log that has expired is deleted.
        """
        row = _row_of(db, channel)
        if row is not None and row.expires is not None and row.expires <= time.time():
            delete(db, row.id, channel)
            return None
        return row

    def _trim(
        self, db: sqlite3.Connection, key: int | None, last: int, messages: int, bounds: Bounds
    ) -> None:
        """Remove a few entries that this log no longer keeps, and a few old entries of all logs."""
        assert bounds.history is not None
        db.execute(
            "DELETE FROM events WHERE channel = ? AND (message <= ? OR number <= ?) AND number <"
            " (SELECT min(number) FROM events WHERE channel = ?) + ?",
            (key, messages - bounds.history, last - bounds.history - CONTROLS, key, TRIMMED),
        )
        # In each log, remove all entries up to the newest of the old ones: a log has no gap.
        old = db.execute(
            "SELECT channel, max(number) FROM (SELECT channel, number FROM events"
            " WHERE expires <= ? ORDER BY expires LIMIT ?) GROUP BY channel",
            (time.time(), TRIMMED),
        )
        for other, number in old.fetchall():
            db.execute("DELETE FROM events WHERE channel = ? AND number <= ?", (other, number))

    def _set_expiry(self, db: sqlite3.Connection, key: int | None, age: float | None) -> None:
        db.execute("UPDATE events SET expires = at + ? WHERE channel = ?", (age, key))

    def keep(
        self, db: sqlite3.Connection, channel: str, bounds: Bounds, ttl: float | None
    ) -> Bounds:
        """See `Broker.keep`."""
        row = self._find(db, channel)
        if row is None:
            return Bounds()
        _set_life(db, row.id, row.leased, ttl)
        bounds = Bounds(bounds.history or row.history, bounds.age).of_new_log()
        assert bounds.history is not None
        db.execute(
            "DELETE FROM events WHERE channel = ? AND message <= ?",
            (row.id, row.messages - bounds.history),
        )
        db.execute("UPDATE channels SET history = ?, age = ? WHERE id = ?", (*bounds, row.id))
        self._set_expiry(db, row.id, bounds.age)
        return bounds

    def ends(self, db: sqlite3.Connection, channels: list[str]) -> dict[str, Position]:
        """The position at the end of each log of *channels* that there is."""
        select = "SELECT name, log, last, token FROM channels WHERE ifnull(expires > ?, 1) AND name"
        if len(channels) == 1:
            rows = db.execute(f"{select} = ?", (time.time(), *channels))
        else:
            names = json.dumps(channels)
            rows = db.execute(f"{select} IN (SELECT value FROM json_each(?))", (time.time(), names))
        return {name: Position(log, last, token) for name, log, last, token in rows}

    def _read_rows(
        self, db: sqlite3.Connection, channel: str, after: int, limit: int, max_bytes: int
    ) -> Slice:
        row = _row_of(db, channel)
        if row is None or (row.expires is not None and row.expires <= time.time()):
            return Slice("", 1, 0, [])
        key, log, last, token, messages, _, ended, leased, *_ = row
        lease = None if leased is None else leased - time.time()
        bounds = self._asked if row.history is None else row.bounds
        first = self._first(db, key, last, messages, bounds)
        check = token
        if after != last:
            found = db.execute(
                "SELECT token FROM events WHERE channel = ? AND number = ?", (key, after)
            ).fetchone()
            check = "" if found is None else found[0]
        entries: list[Entry] = []
        if after < last and limit:
            for found in db.execute(
                "SELECT number, frame, token FROM events WHERE channel = ? AND number >= ?"
                " ORDER BY number LIMIT ?",
                (key, max(first, after + 1), limit),
            ):
                if max_bytes <= 0:
                    break
                entries.append(Entry(*found))
                max_bytes -= len(entries[-1].frame)
        return Slice(log, first, last, entries, check, token, bounds, ended=ended, lease=lease)

    def read(
        self, db: sqlite3.Connection, channel: str, after: int, limit: int, max_bytes: int
    ) -> Slice | ChannelError:
        """A slice of *channel*, or a `ChannelError` if only this channel cannot be read."""
        try:
            piece = self._read_rows(db, channel, after, limit, max_bytes)
            numbers = [piece.first, *(entry.number for entry in piece.entries)]
            checks = [piece.check, *(entry.check for entry in piece.entries)]
            if not all(type(each) is int for each in numbers):
                raise TypeError("the number of an entry is not an int")
            if not all(isinstance(each, str) for each in checks):
                raise TypeError("the check of an entry is not a str")
            for number, frame, *_ in piece.entries:
                if not isinstance(frame, bytes):
                    raise TypeError(f"entry {number} is a {type(frame).__name__}, not bytes")
            return piece
        except DAMAGE as error:
            return ChannelError(channel, self._say(f"{channel!r} is damaged: {error}"))
        except sqlite3.DatabaseError as error:
            # A damaged page of this channel. If the page concerns every channel, the next
            # statement fails too.
            if str(error) != MALFORMED:
                raise
            return ChannelError(channel, self._say(f"{channel!r}: {error}"))

    def _first(
        self, db: sqlite3.Connection, key: int, last: int, messages: int, bounds: Bounds
    ) -> int:
        """The number of the oldest entry that the log keeps; *last* + 1 if there is none.

        Some older entries may still be in the file, because an append removes only a few.
        """
        lost = 0 if bounds.history is None else messages - bounds.history
        now = time.time()

        def oldest_from(number: int) -> tuple[int, bool]:
            row = db.execute(
                "SELECT number, message <= ? OR ifnull(expires <= ?, 0) FROM events"
                " WHERE channel = ? AND number >= ? ORDER BY number LIMIT 1",
                (lost, now, key, number),
            ).fetchone()
            return (last + 1, False) if row is None else (row[0], bool(row[1]))

        first, is_lost = oldest_from(0)
        end = last + 1
        while is_lost and first < end:
            middle = (first + end) // 2
            if oldest_from(middle)[1]:
                first = middle + 1
            else:
                end = middle
        return first


def _row_of(db: sqlite3.Connection, channel: str) -> _Row | None:
    """The row of *channel*. Raises ``TypeError`` if a column has a value of a wrong type."""
    found = db.execute(f"SELECT {_COLUMNS} FROM channels WHERE name = ?", (channel,)).fetchone()
    if found is None:
        return None
    for (name, types), value in zip(_TYPES.items(), found, strict=True):
        if not isinstance(value, types):
            raise TypeError(f"the column {name} has a {type(value).__name__}")
    return _Row(*found)


def _check_terms(channel: str, terms: Terms, log: str, last: int, leased: float | None) -> None:
    """Raise `Refused` if the log *log*, which exists, does not meet *terms*."""
    lapsed = leased is not None and leased <= time.time()
    other = terms.of is not None and terms.of.log != log
    other = other or terms.number not in (None, last + 1)
    if terms.new or other or (terms.if_lapsed and not lapsed):
        raise Refused(channel)


def _set_life(
    db: sqlite3.Connection, key: int | None, leased: float | None, ttl: float | None
) -> None:
    """Set when the lease runs out, and that the log expires *ttl* seconds later, or from now."""
    now = time.time()
    expires = None if ttl is None else max(now, leased or now) + ttl
    db.execute(
        "UPDATE channels SET leased = ?, ttl = ?, expires = ? WHERE id = ?",
        (leased, ttl, expires, key),
    )
