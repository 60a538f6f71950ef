"""The calls of the functions in the files of SQL, each one statement and one transaction."""

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..broker import (
    CHECK_LENGTH,
    CONTROL,
    PLAIN,
    Bounds,
    ChannelEnded,
    Entry,
    Position,
    Refused,
    Slice,
    Terms,
)
from .psycopg import Connection

#: Milliseconds in which the lock on a channel must be free. The transaction of an app that has
#: published to the channel holds the lock until its end.
PATIENCE = "1000"

#: The channels whose news one query reads: each has up to `broker.WAITED_BYTES`.
AT_ONCE = 32

#: The channel of PostgreSQL on which all is announced.
LISTENED = "ssestream"

_COMMON = "%s, %b, %s, %s::bigint, %s::double precision, %s, %s, "

_PUBLISH = f"CALL ssestream.publish({_COMMON} %s, '{PATIENCE}', %s, NULL, NULL, NULL, NULL, NULL)"

_PUBLISH_ALL = (
    "CALL ssestream.publish_all(%s::text[], %b::bytea[], %s::boolean[], %s::bigint[],"
    " %s::double precision[], %s::text[], %s, NULL, NULL, NULL, NULL, NULL)"
)

#: The same as a part of another transaction, which may wait for locks as long as it likes.
APPEND = f"SELECT * FROM ssestream.append({_COMMON} false, NULL, true, %s)"

_SLICE = (
    "o_log, o_first, o_last, o_check, o_last_check, o_history, o_age, o_ended, o_lease, o_number,"
    " o_frames, o_checks"
)

_READ = f"SELECT {_SLICE} FROM ssestream.read(%s, %s, %s, %s)"

# One snapshot serves the comparison and the reads.
_NEWS = f"""SELECT n.name, {_SLICE}
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[]) AS n (name, log, number, token)
LEFT JOIN ssestream.channels c
ON c.name = n.name AND (c.expires IS NULL OR c.expires > ssestream.seconds())
CROSS JOIN LATERAL ssestream.read(
    n.name, CASE WHEN n.log IN ('', c.log) THEN n.number ELSE 0 END, %s, %s) r
WHERE (coalesce(c.log, ''), coalesce(c.last, 0)) <> (n.log, n.number)
OR (n.token <> '' AND c.token <> '' AND c.token <> n.token)
LIMIT {AT_ONCE}"""

_NOW = "ssestream.seconds()"

_LIFE = f"(expires IS NULL OR expires > {_NOW})"

_RENEW = f"""UPDATE ssestream.channels SET leased = {_NOW} + %(lease)s::double precision,
expires = greatest({_NOW}, {_NOW} + %(lease)s::double precision) + ttl
WHERE name = %(name)s AND log = %(log)s AND ended = 0 AND {_LIFE}"""

_KEEP = f"""UPDATE ssestream.channels SET history = coalesce(%(history)s::bigint, history),
age = %(age)s::double precision, ttl = %(ttl)s::double precision,
expires = greatest({_NOW}, leased) + %(ttl)s::double precision
WHERE name = %(name)s AND {_LIFE} RETURNING history, age"""

_DELETE = """UPDATE ssestream.channels SET name = NULL, ended = 0, leased = NULL, expires = 0
WHERE name = %s AND log = %s"""


class Append(NamedTuple):
    """One append, which may be tried several times."""

    channel: str
    frame: bytes
    terms: Terms
    asked: Bounds
    #: The identity of the log if this append makes it.
    log: str
    #: Random digits. The first are the check of the entry, the last that of the end of the log.
    token: str

    def parameters(self, *again: bool) -> tuple[Any, ...]:
        """The parameters of `APPEND`, or with *again* those of an append of its own."""
        is_control = self.frame.startswith(CONTROL)
        terms = None if self.terms is PLAIN else _written(self.terms)
        mine = (self.channel, self.frame, is_control, *self.asked, self.log, self.token)
        return (*mine, *again, terms)

    def taken(self, row: Any) -> tuple[Position, Bounds]:
        """The position of the entry and the bounds of the log, which are in *row*."""
        outcome, log, number, history, age = row
        if outcome == "refused":
            raise Refused(self.channel)
        if outcome == "ended":
            raise ChannelEnded(self.channel)
        return Position(log, number, self.token[:CHECK_LENGTH]), Bounds(history, age)


class Outcome(NamedTuple):
    """What has become of one append of a batch."""

    #: The position of the entry and the bounds of its log; None if the entry is not stored.
    result: tuple[Position, Bounds] | None
    #: Whether another transaction has locked the channel.
    is_locked: bool = False


def append_all(db: Connection, wanted: Sequence[Append], waits: bool) -> list[Outcome]:
    """Store all of *wanted* that have no terms and go to a usual log, in one transaction.

    With *waits*, all are of one channel, and the call waits for the lock on the channel.
    """
    columns = [
        [each.channel for each in wanted],
        [each.frame for each in wanted],
        [each.frame.startswith(CONTROL) for each in wanted],
        [each.asked.history for each in wanted],
        [each.asked.age for each in wanted],
        [each.token for each in wanted],
    ]
    row = db.execute(_PUBLISH_ALL, (*columns, PATIENCE if waits else None)).fetchone()
    return [
        Outcome(each.taken(found) if found[0] == "stored" else None, found[0] == "locked")
        for each, *found in zip(wanted, *row, strict=True)
    ]


def append(db: Connection, wanted: Append, again: bool) -> tuple[Position, Bounds]:
    return wanted.taken(db.execute(_PUBLISH, wanted.parameters(again)).fetchone())


def _written(terms: Terms) -> str:
    """What the function for appends needs of *terms*, as JSON. A key is there if it matters."""
    wanted = {
        "ttl": terms.ttl,
        "new": True if terms.new else None,
        "of": None if terms.of is None else terms.of.log,
        "lease": terms.lease,
        "number": terms.number,
        "end": base64.b64encode(terms.end_frame).decode() if terms.end else None,
        "if_lapsed": True if terms.if_lapsed else None,
    }
    return json.dumps({key: value for key, value in wanted.items() if value is not None})


def read(db: Connection, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
    row = db.execute(_READ, (channel, after, limit, max_bytes), binary=True).fetchone()
    return _slice(row)


def news(
    db: Connection, positions: Sequence[tuple[str, Position]], limit: int, max_bytes: int
) -> dict[str, Slice]:
    """A slice of each channel that has news after its position: of at most `AT_ONCE`.

    A log with another identity or another past is news too.
    """
    names, ats = [name for name, _ in positions], [at for _, at in positions]
    columns = [list(each) for each in zip(*ats, strict=True)]
    rows = db.execute(_NEWS, (names, *columns, limit, max_bytes), binary=True).fetchall()
    found = {row[0]: _slice(row[1:]) for row in rows}
    for name, at in positions:
        piece = found.get(name)
        if piece is not None and piece.has_other_past(at):
            found[name] = read(db, name, 0, limit, max_bytes).with_check(piece.check)
    return found


def _slice(row: Any) -> Slice:
    log, first, last, check, last_check, history, age, ended, lease, number, frames, checks = row
    entries = [
        Entry(number + index, frame, token)
        for index, (frame, token) in enumerate(zip(frames, checks, strict=True))
    ]
    bounds = Bounds(history, age)
    return Slice(
        log, first, last, entries, check, last_check, bounds, ended=ended or 0, lease=lease
    )


def renew(db: Connection, channel: str, of: Position, lease: float | None) -> bool:
    wanted = {"name": channel, "log": of.log, "lease": lease}
    return bool(db.execute(_RENEW, wanted).rowcount == 1)


def keep(db: Connection, channel: str, bounds: Bounds, ttl: float | None) -> Bounds:
    wanted = {"name": channel, "history": bounds.history, "age": bounds.age, "ttl": ttl}
    row = db.execute(_KEEP, wanted).fetchone()
    return Bounds() if row is None else Bounds(*row)


def delete(db: Connection, channel: str, log: str) -> None:
    db.execute(_DELETE, (channel, log))
    db.execute("SELECT pg_notify(%s, %s)", (LISTENED, channel))
