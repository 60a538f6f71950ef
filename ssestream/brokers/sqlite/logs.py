"""The logs of all channels in one SQLite file, as a transaction reads and changes them."""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from typing import Any

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

#: The most entries that one append removes from its own log, and the most that it removes from
#: all logs for their age.
TRIMMED = 16


class Logs:
    """The logs of a broker that asks for the bounds *asked* in each log to which it appends.

    Each method is called in a transaction of the connection *db*. *say* makes the text of an
    error from its words.
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
        else:
            key, log, last, messages, at, ended, leased, ttl, expires, *kept = row
            _check_terms(channel, terms, log, last, leased)
            if ended and (terms.end or not frame.startswith(CONTROL)):
                raise ChannelEnded(channel)
            now = max(now, at)
            before = Bounds(*kept)
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
            db.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (change, key, last, now, each, token, message, old_at),
            )
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
        key, log, _, _, _, ended, _, ttl, *_ = row
        if ended or log != of.log:
            return False
        _set_life(db, key, None if lease is None else time.time() + lease, ttl)
        return True

    def delete(self, db: sqlite3.Connection, channel: str) -> None:
        """See `Broker.delete`. `deletion.sweep` frees the rows."""
        row = self._find(db, channel)
        if row is not None:
            delete(db, row[0], channel)

    def _find(self, db: sqlite3.Connection, channel: str) -> Any:
        """The row of *channel*, which is about to change; None if it has no log.

        A log that has expired is deleted.
        """
        row = db.execute(
            "SELECT id, log, last, messages, at, ended, leased, ttl, expires, history, age"
            " FROM channels WHERE name = ?",
            (channel,),
        ).fetchone()
        if row is not None and row[8] is not None and row[8] <= time.time():
            delete(db, row[0], channel)
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
        key, _, _, messages, _, _, leased, _, _, history, _ = row
        _set_life(db, key, leased, ttl)
        bounds = Bounds(bounds.history or history, bounds.age).of_new_log()
        assert bounds.history is not None
        db.execute(
            "DELETE FROM events WHERE channel = ? AND message <= ?",
            (key, messages - bounds.history),
        )
        db.execute("UPDATE channels SET history = ?, age = ? WHERE id = ?", (*bounds, key))
        self._set_expiry(db, key, bounds.age)
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
        row = db.execute(
            "SELECT id, log, last, token, messages, ended, leased, history, age FROM channels"
            " WHERE name = ? AND ifnull(expires > ?, 1)",
            (channel, time.time()),
        ).fetchone()
        if row is None:
            return Slice("", 1, 0, [])
        key, log, last, token, messages, ended, leased, *kept = row
        lease = None if leased is None else leased - time.time()
        bounds = self._asked if kept[0] is None else Bounds(*kept)
        first = self._first(db, key, last, messages, bounds)
        check = token
        if after != last:
            row = db.execute(
                "SELECT token FROM events WHERE channel = ? AND number = ?", (key, after)
            ).fetchone()
            check = "" if row is None else row[0]
        entries: list[Entry] = []
        if after < last and limit:
            for row in db.execute(
                "SELECT number, frame, token FROM events WHERE channel = ? AND number >= ?"
                " ORDER BY number LIMIT ?",
                (key, max(first, after + 1), limit),
            ):
                if max_bytes <= 0:
                    break
                entries.append(Entry(*row))
                max_bytes -= len(entries[-1].frame)
        return Slice(log, first, last, entries, check, token, bounds, ended=ended, lease=lease)

    def read(
        self, db: sqlite3.Connection, channel: str, after: int, limit: int, max_bytes: int
    ) -> Slice | ChannelError:
        """A slice of *channel*, or a `ChannelError` if only this channel cannot be read."""
        try:
            piece = self._read_rows(db, channel, after, limit, max_bytes)
            numbers = [piece.first, piece.last, *(entry.number for entry in piece.entries)]
            if not isinstance(piece.log, str) or not all(type(each) is int for each in numbers):
                raise TypeError("the identity of the log is not a str, or a number is not an int")
            for number, frame, *_ in piece.entries:
                if not isinstance(frame, bytes):
                    raise TypeError(f"entry {number} is a {type(frame).__name__}, not bytes")
            return piece
        except (TypeError, ValueError) as error:
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
