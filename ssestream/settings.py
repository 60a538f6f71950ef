"""The bounds and durations of streams, with the reason for each default.

An app changes a default in its configuration: the name is ``SSESTREAM_`` and the field
in capitals (``SSESTREAM_HEARTBEAT = 30``). A single stream takes most settings as
keywords (``SseStream(request, heartbeat=5)``).
"""

import dataclasses
import os
import random
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, TypedDict

from .plain import shortened
from .runtime.callables import check_callable

Overflow = Literal["close", "drop-oldest", "error"]
Retry = int | tuple[int, int]
OnShutdown = Literal["reconnect", "finish", "cut"]

#: The source of random numbers. Not Python's shared generator, because an app may seed it.
#: Seeded anew in each forked worker, because all workers would otherwise draw the same numbers.
chance = random.Random()
os.register_at_fork(after_in_child=chance.seed)

_POLICIES = ("close", "drop-oldest", "error")
_ENDINGS = ("reconnect", "finish", "cut")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of streams.

    Durations are in seconds; only *retry* and *retry_after* are in milliseconds.

    Raises ``TypeError`` for a value of a wrong type and ``ValueError`` for a value out of
    range. The message begins with the name of the field.
    """

    #: Seconds of silence before a comment is sent; None sends none. WHATWG HTML (section 9.2.7)
    #: advises "every 15 seconds or so". nginx and most proxies cut a connection that is silent
    #: for 60.
    heartbeat: float | None = 15.0

    #: Seconds in which a client must take some of the bytes that wait for it, or it counts as
    #: stalled and is cut; None never cuts. nginx and Apache allow 60 for the download of a file;
    #: a stream's client that takes nothing for 15 has lost touch. A client on another host may
    #: still be reading bytes that its kernel has received. It gets the time to read these bytes
    #: at 4 KiB a second, but no more than four times this setting in all.
    send_timeout: float | None = 15.0

    #: Seconds for which the client's kernel may leave this kernel without an answer before the
    #: connection is closed. So a client with a lost network is found. None leaves the
    #: system's value, a quarter of an hour on Linux. The default is longer than a ride in a
    #: lift or a change of the mobile cell. The heartbeat makes sure that there are sent bytes;
    #: without a heartbeat the kernel's own probes do.
    tcp_user_timeout: float | None = 30.0

    #: Messages that may wait in a stream if its client is slow. A burst does not count: the
    #: messages that are written before the client had time to take any. 1000 is the common size
    #: of a capped stream in Redis, and minutes of a busy channel.
    max_messages: int = 1000

    #: Bytes that may wait in a stream. Centrifugo allows a client's queue the same. A single
    #: message may be larger.
    max_bytes: int = 1024 * 1024

    #: The effect of a write beyond either bound. ``"close"`` cuts the client, and the client
    #: comes back with its ``Last-Event-ID``. ``"drop-oldest"`` drops the oldest messages and
    #: counts them. ``"error"`` raises `BufferFull` in the writer.
    overflow: Overflow = "close"

    #: Seconds after which a stream is ended cleanly, so that load spreads anew; None never ends
    #: it. Each stream ends at a random time between 80 and 100 % of this.
    max_age: float | None = None

    #: Milliseconds that the browser waits before it reconnects, sent when a stream opens. A
    #: pair means a random number between its two. None sends nothing.
    retry: Retry | None = None

    #: The same for a stream that the server ends or refuses. A reload ends all streams at once,
    #: and the clients must not come back at once. The default spreads them so that a fresh
    #: worker needs no queue, and no user waits long.
    retry_after: Retry = (1000, 5000)

    #: What the end of its worker means to a stream. ``"reconnect"`` ends it cleanly, and tells the
    #: client when to come back: for clients that go on by themselves, as an EventSource.
    #: ``"finish"`` lets it go on to its own end, as long as the worker waits; then the client gets
    #: the message *interrupted* and is cut. ``"cut"`` cuts it at once. A client that reads one
    #: answer, for example with ``fetch``, takes a clean end for the end of the answer, and a cut
    #: for an error. None means ``"reconnect"`` for GET, which alone an EventSource sends, and
    #: ``"finish"`` for every other method.
    on_shutdown: OnShutdown | None = None

    #: The last message of a stream that could not finish; None is none. Bytes are a message that
    #: is encoded already.
    interrupted: Mapping[str, Any] | bytes | None = None

    #: Whether a `ServerResponse` is sent gzipped to clients that accept gzip. Each such stream
    #: takes about 40 KiB more, and each message more CPU time. Do not use it if a stream mixes
    #: secrets with text that a client can choose: the sizes tell about the contents (the attack
    #: is known as BREACH).
    compress: bool = False

    #: Whether a stream that follows channels sends its client the current id now and then, in a
    #: block that has only an ``id`` (WHATWG HTML section 9.2.6: a browser keeps the id and
    #: fires no event). Without such blocks, a client that has got no event yet has no id, and
    #: misses the events that come while it is away. Set False for clients that show such a
    #: block as an empty message.
    id_blocks: bool = True

    #: Streams that may be open in this process; None is no bound. A further stream is answered
    #: with 200 and *retry_after*, and ended. After a 5xx an EventSource would never reconnect.
    max_streams: int | None = None

    #: A function of the WSGI environ that returns the client's key, for example an address or a
    #: user. If it returns None, the client is unknown and has no bound.
    client_key: Callable[[dict[str, Any]], Hashable] | None = None

    #: Streams that may be open in this process for one *client_key*; None is no bound.
    max_streams_per_client: int | None = None

    def __post_init__(self) -> None:
        for name in ("retry", "retry_after"):
            # A configuration in JSON or TOML has a list for a pair.
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("heartbeat", "send_timeout", "tcp_user_timeout", "max_age"):
            _seconds(name, getattr(self, name))
        for name in ("max_messages", "max_bytes"):
            _count(name, getattr(self, name))
        for name in ("max_streams", "max_streams_per_client"):
            if getattr(self, name) is not None:
                _count(name, getattr(self, name))
        if self.overflow not in _POLICIES:
            raise ValueError(f"overflow is one of {_POLICIES}, and not {shortened(self.overflow)}")
        if self.on_shutdown is not None and self.on_shutdown not in _ENDINGS:
            raise ValueError(
                f"on_shutdown is one of {_ENDINGS} or None, and not {shortened(self.on_shutdown)}"
            )
        message: Any = self.interrupted
        if message is not None and not isinstance(message, (Mapping, bytes)):
            kind = type(message).__name__
            raise TypeError(f"interrupted is a message (a mapping) or None, not {kind}")
        if self.retry is not None:
            _retry("retry", self.retry)
        _retry("retry_after", self.retry_after)
        for name in ("compress", "id_blocks"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} is a bool, not {type(value).__name__}")
        if self.client_key is not None:
            check_callable("client_key", self.client_key, "a function of a WSGI environ, or None")


class Options(TypedDict, total=False):
    """The settings that a single stream may set for itself."""

    heartbeat: float | None
    send_timeout: float | None
    tcp_user_timeout: float | None
    max_messages: int
    max_bytes: int
    overflow: Overflow
    max_age: float | None
    retry: Retry | None
    on_shutdown: OnShutdown | None
    interrupted: Mapping[str, Any] | bytes | None
    compress: bool
    id_blocks: bool


def draw(retry: Retry) -> int:
    """A number of milliseconds: *retry* itself, or a random number from its range."""
    return retry if isinstance(retry, int) else chance.randint(*retry)


def _seconds(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} is a number of seconds or None, not {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, or None, and is {value}")


def _count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, and is {value}")


def _retry(name: str, value: Any) -> None:
    ends = value if isinstance(value, tuple) else (value, value)
    if len(ends) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in ends):
        raise TypeError(
            f"{name} is an int of milliseconds or a pair of them, not {shortened(value)}"
        )
    if not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"{name} must not be negative, and a pair must ascend: {value!r}")


DEFAULTS = Settings()

#: The settings of a response that is no event stream. It gets no heartbeat, because a comment
#: would damage its body.
PLAIN = dataclasses.replace(DEFAULTS, heartbeat=None, tcp_user_timeout=None)
