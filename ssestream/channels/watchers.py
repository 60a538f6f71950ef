"""How many streams of all processes watch a channel, and when the last of them has left.

Only streams that have subscribed with ``counted=True`` are counted, so all other streams and
channels cost nothing here. Each process reports, for each channel, how many such streams it has:
within `BEAT` seconds of a change, and every `RENEW` seconds. A report is an entry in a log of its
own, which is named ``watchers:`` and the channel. It counts for `LEASE` seconds, so a process that
was killed counts no more after this time.

A report costs one append, whatever is published meanwhile.
"""

import functools
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..brokers.broker import (
    CONTROL,
    Bounds,
    Broker,
    BrokerError,
    ChannelError,
    Entry,
    Slice,
    Terms,
)
from ..runtime.calls import run_logged
from ..runtime.clock import clock
from ..runtime.forking import process
from ..runtime.loop import checkpoint, current_loop, logger
from ..runtime.threads import new_lock
from .cursor import Cursor
from .tasks import spawn, start_again

#: Seconds between two looks at the changes of this process, seconds between two reports of an equal
#: count, and seconds for which a report counts.
BEAT, RENEW, LEASE = 0.5, 2.0, 6.0

#: What the name of the log of the reports begins with.
REPORTS = "watchers:"

#: The most reports that are read, and their bytes.
MOST, MOST_BYTES = 10_000, 1024 * 1024

#: Channels that are reported or looked at before other work has a turn.
TURN = 32

#: Seconds between two looks whether an empty channel has ended.
ASKED = 10.0

_REPORT = re.compile(CONTROL + b"watchers ([0-9a-z]+) ([0-9]{1,9})")

Function = Callable[[str], Any]


class _Reported(NamedTuple):
    number: int
    at: float


class _Vigil:
    """A function that waits until the channel *name* has been empty for *grace* seconds."""

    def __init__(self, name: str, function: Function, grace: float) -> None:
        self.name, self.function, self.grace = name, function, grace
        # Whether there was a watcher since the last call of the function.
        self._was_watched = False
        # When the channel was first found empty; None while it has a watcher.
        self._empty_since: float | None = None
        # The number of the last report that was read; None before the first look.
        self._read_to: int | None = None
        self._asked_at = clock.real()

    def is_due(self, piece: Slice, count: int) -> bool:
        """Whether to call the function now. *piece* has all reports, and *count* is their sum."""
        now = clock.real()
        # What was reported before the first look does not count. A log that is shorter than it was
        # is another log.
        before = piece.last if self._read_to is None else self._read_to
        before = 0 if before > piece.last else before
        new = [each for each in piece.entries if each.number > before]
        self._read_to = piece.last
        if count or any(number for _, number in _reports_in(new)):
            self._was_watched, self._empty_since = True, None
        if count or not self._was_watched:
            return False
        if self._empty_since is None:
            self._empty_since = now
        if now < self._empty_since + self.grace:
            return False
        self._was_watched, self._empty_since = False, None
        return True

    def note_arrival(self) -> None:
        """A stream of this process watches. The first look may come after it has left again."""
        self._was_watched = True

    def waits_anew(self) -> None:
        """Begin the grace again, because the broker was away."""
        self._empty_since = None

    def asks_for_end(self) -> bool:
        """Whether to ask now whether the channel has ended."""
        due = not self._was_watched and clock.real() > self._asked_at + ASKED
        if due:
            self._asked_at = clock.real()
        return due


class Watchers:
    """The counted streams of this process, and what others have reported, in one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        # Guards all fields. Nobody holds it while waiting.
        self._lock = new_lock()
        self._begin()

    def _begin(self) -> None:
        # The name of this process in its reports.
        self._identity = secrets.token_hex(4)
        self._counted: dict[str, set[Cursor]] = {}
        # The channels that a stream has begun to watch since the last report.
        self._came: set[str] = set()
        self._reported: dict[str, _Reported] = {}
        self._vigils: list[_Vigil] = []
        self._is_beating = False
        # Whether a report or a look runs now.
        self._is_at_work = False
        # Whether the vigils wait for the next use after `close`.
        self._rests = False
        self._judges_from = 0.0

    def forked(self) -> None:
        """This process is a child: the streams and the vigils belong to its parent."""
        if not process.is_job:  # a job knows that it waits for no channel of its parent
            names = [repr(each.name) for each in self._vigils]
            process.leave_behind("function for an empty channel", "given", "Give", names)
        self._lock = new_lock()
        self._begin()

    @property
    def is_running(self) -> bool:
        """Whether this process reports, or waits for a channel to be empty."""
        return self._is_beating

    # -- the streams here

    def add(self, cursors: Iterable[Cursor]) -> None:
        """Count the streams of *cursors* until `remove`."""
        with self._lock:
            for cursor in cursors:
                self._counted.setdefault(cursor.name, set()).add(cursor)
                self._came.add(cursor.name)
                for vigil in self._vigils:
                    if vigil.name == cursor.name:
                        vigil.note_arrival()
        self._beat_on()

    def remove(self, cursors: Iterable[Cursor]) -> None:
        """Count the streams of *cursors* no more. Most streams are not counted."""
        if not self._counted:
            return
        with self._lock:
            for cursor in cursors:
                counted = self._counted.get(cursor.name)
                if counted is not None:
                    counted.discard(cursor)
                    if not counted:
                        del self._counted[cursor.name]

    # -- all processes

    def count(self, name: str) -> int:
        """See `Channel.watchers`."""
        return self._count(name, self._reports(name))

    def _reports(self, name: str) -> Slice:
        return self._broker.read(REPORTS + name, 0, MOST, MOST_BYTES)

    def _count(self, name: str, piece: Slice) -> int:
        counts = dict(_reports_in(piece.entries))
        counts[self._identity] = self._count_here(name)
        return sum(counts.values())

    def _count_here(self, name: str) -> int:
        with self._lock:
            return len(self._counted.get(name, ()))

    # -- who waits for an empty channel

    def on_empty(self, name: str, function: Function, grace: float) -> None:
        """See `Channel.on_empty`. Raises as `current_loop`."""
        # Call this first: a call that fails may be repeated.
        current_loop()
        with self._lock:
            self._vigils.append(_Vigil(name, function, grace))
        self._beat_on()

    def off_empty(self, name: str, function: Function) -> None:
        """See `Channel.off_empty`."""
        with self._lock:
            self._vigils = [
                each for each in self._vigils if (each.name, each.function) != (name, function)
            ]

    def move_to(self, other: "Watchers") -> None:
        """Let the functions that wait here for an empty channel wait in *other*."""
        with self._lock:
            vigils, self._vigils = self._vigils, []
        for vigil in vigils:
            other.on_empty(vigil.name, vigil.function, vigil.grace)

    def close(self, seconds: float) -> None:
        """Report that no stream of this process is left. Then use the broker no more.

        The functions that wait for an empty channel rest until the next `add` or `on_empty`. Waits
        at most *seconds* for a report or a look that runs, and for one append of the broker.
        """
        with self._lock:
            self._rests = True
        deadline = clock.real() + seconds
        while self._is_at_work and clock.real() < deadline:
            time.sleep(0.005)
        try:
            self._report_all()
        except BrokerError as error:  # this process counts for a while
            logger.debug("watchers: %s", error)
        with self._lock:
            self._reported.clear()
            self._came.clear()
            vigils = self._vigils[:]
        for vigil in vigils:
            vigil.waits_anew()

    # -- the beats

    def _beat_on(self) -> None:
        with self._lock:
            self._rests = False
            start = not self._is_beating
            self._is_beating = True
        if start:
            spawn(self._beat)

    def _beat(self) -> None:
        identity = self._identity
        try:
            while self._goes_on(identity):
                try:
                    self._report_all()
                    self._look_at_all()
                except BrokerError as error:
                    self._was_away(error)
                except Exception:
                    logger.exception("channels: the watchers could not be counted")
                self._is_at_work = False
                time.sleep(BEAT)
        except BaseException as error:
            start_again(self._beat, error)

    def _goes_on(self, identity: str) -> bool:
        """Whether there is something to do. *identity* is that of the process of the caller."""
        with self._lock:
            if identity != self._identity:
                return False
            waits = self._counted or self._came or self._reported or self._vigils
            self._is_beating = self._is_at_work = bool(waits) and not self._rests
            return self._is_beating

    def _was_away(self, error: BrokerError) -> None:
        """The broker failed: report everything again, and judge nothing before the others do."""
        logger.debug("watchers: %s", error)
        self._judges_from = clock.real() + LEASE
        with self._lock:
            self._reported = {
                name: _Reported(each.number, -LEASE) for name, each in self._reported.items()
            }
            vigils = self._vigils[:]
        for vigil in vigils:
            vigil.waits_anew()

    def _report_all(self) -> None:
        now = clock.real()
        with self._lock:
            counts = dict.fromkeys(self._reported, 0)
            counts.update((name, len(cursors)) for name, cursors in self._counted.items())
            due = [
                (name, count)
                for name, count in counts.items()
                if (last := self._reported.get(name)) is None
                or last.number != count
                or now >= last.at + RENEW
            ]
            # The stream may have left again already.
            due += [(name, count) for name in self._came - counts.keys() for count in (1, 0)]
            self._came.clear()
        for number, (name, count) in enumerate(due, 1):
            try:
                frame = CONTROL + f"watchers {self._identity} {count}".encode()
                self._broker.append(REPORTS + name, frame, _TERMS)
            except ChannelError as error:  # it concerns no other channel
                logger.debug("watchers: %s", error)
            except BrokerError:
                with self._lock:
                    self._came.update(name for name, _ in due[number - 1 :])
                raise
            except Exception:
                logger.exception("channels: the watchers of %r could not be reported", name)
            with self._lock:
                if count:
                    self._reported[name] = _Reported(count, now)
                else:
                    self._reported.pop(name, None)
            if number % TURN == 0:
                checkpoint()

    def _look_at_all(self) -> None:
        with self._lock:
            vigils = self._vigils[:]
        if clock.real() < self._judges_from:
            return
        for number, vigil in enumerate(vigils, 1):
            try:
                self._look_at(vigil)
            except ChannelError as error:  # it concerns no other channel
                logger.debug("watchers: %s", error)
            except BrokerError:
                raise
            except Exception:
                logger.exception("channels: the watchers of %r could not be counted", vigil.name)
            if number % TURN == 0:
                checkpoint()

    def _look_at(self, vigil: _Vigil) -> None:
        piece = self._reports(vigil.name)
        if vigil.is_due(piece, self._count(vigil.name, piece)):
            spawn(functools.partial(run_logged, vigil.function, vigil.name))
            self._end_vigil(vigil)
        elif vigil.asks_for_end():
            self._end_vigil(vigil)

    def _end_vigil(self, vigil: _Vigil) -> None:
        """End *vigil*, whose channel is empty, if the channel has ended."""
        if self._broker.read(vigil.name, 0, 0, 0).ended:
            with self._lock:
                self._vigils = [each for each in self._vigils if each is not vigil]


#: The terms of a report.
_TERMS = Terms(bounds=Bounds(1, LEASE), ttl=2 * LEASE)


def _reports_in(entries: Iterable[Entry]) -> Iterator[tuple[str, int]]:
    """The process and the count of each report, oldest first.

    Other entries are left out: an app may publish to any channel, also to one that is named as a
    log of reports.
    """
    for entry in entries:
        report = _REPORT.fullmatch(entry.frame)
        if report is not None:
            yield report[1].decode(), int(report[2])
