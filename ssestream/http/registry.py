"""The open streams of this process: which there are, what they did, and how all end."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Literal, Protocol

from ..runtime.clock import clock
from ..runtime.loop import current_loop, logger
from ..runtime.threads import new_lock
from ..runtime.wheel import wheel_of

#: Seconds in which clients must take their waiting messages before they are cut. Init systems
#: commonly give ten seconds, and gunicorn gives thirty.
DRAIN_SECONDS = 1.0

#: A stream gets this many times as long if its server has not sent the messages yet: the
#: process may have many streams, on a busy machine.
DRAIN_PATIENCE = 5

#: Why a stream is over.
Cause = Literal[
    "client",
    "ended",
    "stalled",
    "overflow",
    "age",
    "shutdown",
    "interrupted",
    "refused",
    "error",
]

#: The causes that break a response off: its client must not take it for complete.
BREAKING: frozenset[Cause] = frozenset(["error", "interrupted"])

#: Each cause in the words of the log.
REASONS: dict[Cause, str] = {
    "client": "its client has left",
    "ended": "the app ended it",
    "stalled": "its client took nothing for too long",
    "overflow": "more waited for its client than is allowed",
    "age": "it was old (see max_age)",
    "shutdown": "the worker is stopping",
    "interrupted": "the worker is stopping, and the app had not ended it in time",
    "refused": "there are too many streams",
    "error": "it was destroyed",
}


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A snapshot of the process. The counts start with the process."""

    #: Streams that are open now.
    open: int
    #: Streams that were opened, including the streams that are still open.
    opened: int
    #: Streams that are over, by cause. Refused streams are not included.
    closed: dict[Cause, int]
    #: Streams that were refused, as there were too many or the process was about to stop.
    refused: int
    #: Messages that servers have taken.
    messages: int
    #: Bytes of these messages, before compression and HTTP framing.
    bytes: int
    #: Bytes that wait now for the clients of all open streams: in streams and in responses.
    waiting: int
    #: Messages dropped by ``overflow="drop-oldest"``.
    dropped: int
    #: Heartbeats sent.
    heartbeats: int


class Open(Protocol):
    """An open stream, as its registry and its keepalive know it."""

    def waiting(self) -> int:
        """The number of bytes that wait for the client."""

    def sent(self) -> tuple[int, int]:
        """The numbers of messages and bytes that the server has taken."""

    @property
    def in_hand(self) -> bool:
        """Whether the server has a chunk in hand, and has not come back for more."""

    @property
    def goes_on(self) -> bool:
        """Whether the stream goes on to its own end while the process drains."""

    def retire(self, cause: Cause) -> None:
        """End the stream when everything that waits is sent, if it may not go on."""

    def cut(self, cause: Cause) -> None:
        """End the stream at once."""


class StreamObserver:
    """Hears of each stream when the stream opens and when it is over. It must not raise."""

    def opened(self, stream: Open) -> None:
        """Called in the request of *stream*, which may be over already."""

    def closed(self, stream: Open, cause: Cause, messages: int, length: int) -> None:
        """Called with all messages of *stream* and their bytes. Any thread may call it."""


class _Registry:
    """All open streams and all counts, under one lock, as any thread may change them."""

    def __init__(self) -> None:
        self._when_drained: tuple[Callable[[float], object], ...] = ()
        self._observers: tuple[StreamObserver, ...] = ()
        self.begin()

    def begin(self) -> None:
        """Start with no streams and no counts, as a new process does."""
        self._lock = new_lock()
        self._open: dict[int, Open] = {}
        self._counts: Counter[str] = Counter()
        self._messages = self._bytes = 0
        self._closed: Counter[Cause] = Counter()
        self._clients: Counter[Hashable] = Counter()
        #: Whether the process is about to stop, so that every later stream is refused.
        self.draining = False
        # When that began; None before, and after the last of the streams that were open.
        self._drains_since: float | None = None
        #: While the process drains, streams that finish may go on, and may open, until this time.
        self.finish_until = 0.0

    def open(
        self,
        stream: Open,
        most: int | None,
        client: Hashable | None,
        most_of_client: int | None,
        finishes: bool = False,
    ) -> bool:
        """Enter *stream*. Return False if it is refused, and do not enter it then.

        *most* bounds the open streams of this process, and *most_of_client* the open streams
        of *client*. None means no bound. While the process drains, every stream is refused,
        except for one that *finishes* (``on_shutdown``), as long as it may.
        """
        with self._lock:
            full = most is not None and len(self._open) >= most
            if client is not None and most_of_client is not None:
                full = full or self._clients[client] >= most_of_client
            if full or (self.draining and not (finishes and self.may_finish)):
                self._counts["refused"] += 1
                if client is not None and not self._clients[client]:
                    del self._clients[client]
                return False
            self._open[id(stream)] = stream
            self._counts["opened"] += 1
            if client is not None:
                self._clients[client] += 1
        for observer in self._observers:
            observer.opened(stream)
        return True

    def close(self, stream: Open, cause: Cause, client: Hashable | None) -> None:
        with self._lock:
            messages, length = stream.sent()
            self._messages += messages
            self._bytes += length
            if self._open.pop(id(stream), None) is None:
                return
            self._closed[cause] += 1
            if client is not None:
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]
        for observer in self._observers:
            observer.closed(stream, cause, messages, length)
        if self.draining:
            self._look_whether_drained()

    def observe(self, observer: StreamObserver) -> None:
        """Let *observer* hear of each stream from now on."""
        self._observers = (*self._observers, observer)

    def when_drained(self, function: Callable[[float], object]) -> None:
        """Call *function* with the seconds that a drain took, when no stream is open any more."""
        self._when_drained = (*self._when_drained, function)

    def _look_whether_drained(self) -> None:
        with self._lock:
            since = None if self._open else self._drains_since
            if since is not None:
                self._drains_since = None
        if since is not None:
            for function in self._when_drained:
                function(clock.now() - since)

    def number_open(self) -> int:
        return len(self._open)

    def count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number

    @property
    def has_open(self) -> bool:
        """Whether a stream is open. It takes no lock, so that a signal handler may ask."""
        return bool(self._open)

    def streams(self) -> list[Open]:
        with self._lock:
            return list(self._open.values())

    def begin_draining(self, finish_until: float = 0.0) -> list[Open]:
        """Refuse every later stream. Return the streams that are open.

        Streams that finish (``on_shutdown``) may go on until the time *finish_until*.
        """
        self.finish_until = finish_until
        if not self.draining:
            self._drains_since = clock.now()
        self.draining = True
        streams = self.streams()
        self._look_whether_drained()
        return streams

    @property
    def may_finish(self) -> bool:
        """Whether a stream that finishes may still go on, while the process drains."""
        return clock.now() < self.finish_until

    def snapshot(self) -> Statistics:
        with self._lock:
            streams = list(self._open.values())
            counts, closed = Counter(self._counts), dict(self._closed)
            sent = [(self._messages, self._bytes), *(stream.sent() for stream in streams)]
        return Statistics(
            open=len(streams),
            opened=counts["opened"],
            closed=closed,
            refused=counts["refused"],
            messages=sum(messages for messages, _ in sent),
            bytes=sum(length for _, length in sent),
            waiting=sum(stream.waiting() for stream in streams),
            dropped=counts["dropped"],
            heartbeats=counts["heartbeats"],
        )


registry = _Registry()


# A child process has no clients yet: all streams are its parent's.
os.register_at_fork(after_in_child=registry.begin)


def statistics() -> Statistics:
    """Return a snapshot of this process's streams. It does not change afterwards."""
    return registry.snapshot()


def drain(timeout: float = DRAIN_SECONDS, *, grace: float = 0.0) -> None:
    """End every stream of this process: the open ones, and any that open later.

    Each client gets its waiting messages, a ``retry`` at random within the setting
    ``retry_after``, and the end of its response. Then ``"close"`` is emitted as usual.

    A stream with ``on_shutdown="finish"`` goes on to its own end for *grace* seconds. Then its
    client gets the message ``interrupted``, if there is one, and is cut. A stream with
    ``on_shutdown="cut"`` is cut at once.

    A client that has not taken everything after *timeout* seconds is cut. A stream gets five
    times as long if the busy process has not sent its messages yet.

    Returns at once. Do not call it in a signal handler: the handler may have interrupted
    code that holds a lock which this function needs. Start a thread there instead.

    Use it with servers other than gunicorn: call it when the process has to stop, and stop
    the server afterwards. For gunicorn, ``ssestream.gunicorn`` calls it.

    Raises ``TypeError`` if *timeout* or *grace* is not a number, and ``ValueError`` if it is
    negative or not finite.
    """
    _check_seconds("timeout", timeout)
    _check_seconds("grace", grace)
    finish_until = clock.now() + grace
    streams = registry.begin_draining(finish_until)
    logger.info("draining %d streams", len(streams))
    _retire(streams, timeout)
    if grace:

        def interrupt(now: float) -> float | None:
            # Not the time for which the wheel was asked: it may be early by a little.
            if registry.may_finish:
                # A later call of `drain` has its own time, and this one may be over by then.
                return registry.finish_until
            _retire(registry.streams(), timeout)
            return None

        wheel_of(current_loop()).add(finish_until, interrupt)


def _retire(streams: list[Open], timeout: float) -> None:
    """End *streams*, unless they may go on. Cut all that are open after *timeout* seconds."""
    for stream in streams:
        stream.retire("shutdown")

    last = clock.now() + timeout * DRAIN_PATIENCE

    def cut_the_rest(now: float) -> float | None:
        for stream in registry.streams():
            if registry.may_finish and stream.goes_on:
                continue
            if stream.in_hand or now >= last:
                stream.cut("shutdown")
        return now + timeout / DRAIN_PATIENCE if registry.has_open and now < last else None

    wheel_of(current_loop()).add(clock.now() + timeout, cut_the_rest)


def _check_seconds(name: str, value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be finite and not negative, and is {value}")
