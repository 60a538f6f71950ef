"""Producer: the source of one run, drawn in a greenlet of its own into the log of the run.

On a threaded server, and in a program without gevent, it is drawn in a thread. Each message is
stored before anybody gets it. While the broker is away, the source waits. Each append names the
number that the message gets, so a message whose answer was lost is not stored twice.
"""

import contextvars
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import gevent
from gevent import GreenletExit

from .brokers.broker import Bounds, BrokerError, ChannelEnded, Position, Refused
from .channels.last_message import Status
from .errors import MessageError
from .run_log import RunLog
from .runtime.beside import end_function, start_beside
from .runtime.calls import run_logged
from .runtime.clock import clock
from .runtime.loop import Loop, checkpoint, current_loop, logger, loop_of
from .runtime.origin import log_failure
from .runtime.threads import new_lock
from .settings import DEFAULTS
from .text_source import Messages
from .wire import Dumps, encode

#: Seconds before a message is tried again while the broker is away: at first, and at most.
SOONEST, LATEST = 0.1, 1.0

#: Seconds after which a run fails if its broker stays away.
PATIENCE = 60.0

#: The entries that a producer reads to learn whether a message was stored.
ENTRIES_LOOKED_AT = 16


class Limits(NamedTuple):
    """How large a run may become."""

    events: int
    bytes: int

    @property
    def bounds(self) -> Bounds:
        """How much the log keeps: all of the run, and its last message."""
        return Bounds(self.events + 1)


class _EndedElsewhere(Exception):
    """The run was ended by other code than its producer."""


class Producer:
    """The producer of the run that began at *begin* in *log*.

    *last* makes the frame of the last message of a status. *over* is called at the end.
    """

    def __init__(
        self,
        log: RunLog,
        begin: Position,
        source: Iterable[Any],
        dumps: Dumps | None,
        limits: Limits,
        last: Callable[[Status, BaseException | None], bytes | None],
        over: Callable[["Producer"], object],
    ) -> None:
        self.log = log
        self.begin = begin
        self._source = source
        self._dumps = dumps
        self._limits = limits
        self._last = last
        self._over = over
        self._messages = Messages(DEFAULTS.max_bytes)
        self._context = contextvars.Context()
        self._lock = new_lock()
        self._process = os.getpid()
        self._next_number = begin.number + 1
        self._events = self._bytes = 0
        self._is_stopped = False
        self._greenlet: Any = None
        self._loop: Loop | None = None

    def start(self) -> None:
        """Begin to draw."""
        start_beside(current_loop(), self._main, self._source)

    def stop(self) -> None:
        """Close the source at once: the run was ended. Thread-safe."""
        with self._lock:
            self._is_stopped = True
            loop, greenlet = self._loop, self._greenlet
        if loop is not None:
            loop.call(lambda: self._kill(greenlet))

    def _kill(self, greenlet: Any) -> None:
        if self._greenlet is greenlet:
            end_function(greenlet)

    def lose(self) -> None:
        """End the run as lost, because this process stops."""
        self.log.end(self.begin, "lost", self._last("lost", None))
        self.stop()

    def cancel(self) -> None:
        """End the run as stopped, because nobody watches it."""
        self.log.end(self.begin, "stopped", self._last("stopped", None))
        self.stop()

    # -- in the greenlet of the source

    def _main(self) -> None:
        with self._lock:
            is_stopped = self._is_stopped
            self._greenlet, self._loop = gevent.getcurrent(), loop_of(gevent.get_hub())
        status: Status | None = None
        error: BaseException | None = None
        try:
            if not is_stopped:
                self._context.run(self._draw)
                status = "done"
        except _EndedElsewhere:
            pass
        except GreenletExit:
            # Somebody else than `stop` may have killed the greenlet.
            status = None if self._is_stopped else "lost"
        except BaseException as raised:
            status, error = "failed", raised
            log_failure(None, "the source of the run %r failed", self.log.id)
        # From now on a kill would hit the code below, and not the source.
        with self._lock:
            self._greenlet = self._loop = None
        if os.getpid() != self._process:
            return
        close = getattr(self._source, "close", None)
        if callable(close):
            run_logged(close, context=self._context)
        try:
            if status is not None:
                self._end(status, error)
        finally:
            self._over(self)

    def _draw(self) -> None:
        messages = self._messages
        for item in self._source:
            for message in messages.of(item):
                self._append(message)
            if messages.is_turn_over():
                checkpoint()
        for message in messages.rest(None):
            self._append(message)

    def _append(self, message: Any) -> None:
        frame = encode(message, self._dumps)
        if message.get("id") is not None:
            raise MessageError("'id' is given by the log of the run: yield messages without", "id")
        self._events += 1
        self._bytes += len(frame)
        if self._events > self._limits.events or self._bytes > self._limits.bytes:
            raise ValueError(
                f"the run {self.log.id!r} has more than {self._limits.events} events"
                f" (max_events) or {self._limits.bytes} bytes (max_bytes)"
            )
        tries = _Tries()
        number: int | None = self._next_number
        refused: int | None = None
        while True:
            if os.getpid() != self._process:
                raise GreenletExit("this is a copy in a child process")
            try:
                if number is None:
                    number = self._find_number(frame)
                    if number is None:
                        return
                    if number == refused:
                        raise _EndedElsewhere
                at = self.log.append(self.begin, frame, number, self._limits.bounds)
                self._next_number = at.number + 1
                return
            except ChannelEnded:
                raise _EndedElsewhere from None
            except Refused:
                # Another entry has the number: an earlier try of this one, or a control frame. If
                # no entry has it, the log is another one.
                number, refused = None, number
            except BrokerError as error:
                number = refused = None
                tries.wait_after(error)

    def _find_number(self, frame: bytes) -> int | None:
        """The number that *frame* gets; None if an earlier try has stored it."""
        piece = self.log.broker.read(
            self.log.name, self._next_number - 1, ENTRIES_LOOKED_AT, ENTRIES_LOOKED_AT * len(frame)
        )
        if piece.log != self.begin.log or piece.last < self._next_number - 1:
            logger.warning("the run %r is over: its log was deleted or is lost", self.log.id)
            raise _EndedElsewhere
        for entry in piece.entries:
            if entry.frame == frame:
                self._next_number = entry.number + 1
                return None
        if piece.ended:
            raise _EndedElsewhere
        self._next_number = piece.last + 1
        return self._next_number

    def _end(self, status: Status, error: BaseException | None) -> None:
        frame = self._last(status, error)
        tries = _Tries()
        while True:
            try:
                self.log.end(self.begin, status, frame)
                return
            except BrokerError as failure:
                try:
                    tries.wait_after(failure)
                except BrokerError:
                    logger.error("the end of the run %r was not stored: %s", self.log.id, failure)
                    return


class _Tries:
    """The tries of one call of the broker while the broker is away."""

    def __init__(self) -> None:
        self._pause, self._until = SOONEST, clock.real() + PATIENCE

    def wait_after(self, error: BrokerError) -> None:
        """Wait until the next try. Raises *error* if there were tries for too long."""
        if clock.real() > self._until:
            raise error
        gevent.sleep(self._pause)
        self._pause = min(2 * self._pause, LATEST)
