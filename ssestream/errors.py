"""The exceptions of this package, by cause.

::

    Exception
    └── SseStreamError
        ├── MessageError (also a ValueError)   the message itself is wrong
        ├── BrokerError                        the log of a channel is not available
        │   └── ChannelEnded                   you ended the channel, then published
        └── StreamError                        the call came at the wrong time
            ├── WriteAfterEnd                  you ended the stream, then wrote
            ├── HeadersSent                    you changed headers after they were sent
            ├── BufferFull                     you wrote more than may wait
            └── StreamDestroyed                you destroyed the stream
                └── ClientDisconnected         the client went away

A normal end is no error. A full buffer is no error either: ``write()`` returns
``False``, and ``"drain"`` follows. A write after the client has left does not raise,
because a late tick of a timer is normal. Only the callback of that message gets an
error, a :exc:`ClientDisconnected`.

Wrong arguments raise ``TypeError`` or ``ValueError``.
"""

import copyreg
from typing import Any


class SseStreamError(Exception):
    """The base class of all errors of this package.

    A copy of an error, also by ``pickle``, has the same text and attributes. So an error of a job
    comes out of its process.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by __init__: that of a subclass may take something else than the text.
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]


class MessageError(SseStreamError, ValueError):
    """A message cannot be sent as it is. Nothing of it was queued.

    *field* is the key of the message that is wrong (``"data"``, ``"id"``, ... or the
    unknown key itself). None means the message as a whole.
    """

    def __init__(self, reason: str, field: object = None) -> None:
        super().__init__(reason)
        self.field = field


class BrokerError(SseStreamError):
    """The broker could not do the work: it is down, full or read-only.

    If `Channels.publish` raises it, the event was not stored. There is one exception: the
    connection may have broken after the broker stored the event and before its answer came.

    *lasting* says that a new try cannot help before an operator has fixed something: a
    password, a permission, a directory.
    """

    def __init__(self, reason: str = "", *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


class ChannelEnded(BrokerError):
    """The channel was ended, and takes no more messages. Nothing was stored.

    *channel* is its name.
    """

    def __init__(self, channel: str) -> None:
        super().__init__(
            f"the channel {channel!r} has ended, and takes no more messages", lasting=True
        )
        self.channel = channel


class StreamError(SseStreamError):
    """The state of the stream does not allow this call."""


class WriteAfterEnd(StreamError):
    """``write()``, ``push()`` or ``end(message)`` after ``end()`` and before ``"close"``.

    Node's ``ERR_STREAM_WRITE_AFTER_END``.
    """


class HeadersSent(StreamError):
    """The status or the headers cannot change, because they were sent already.

    Node's ``ERR_HTTP_HEADERS_SENT``.
    """


class BufferFull(StreamError):
    """More messages would wait than ``max_messages`` or ``max_bytes`` allow.

    ``write()`` raises it with ``overflow="error"``. With the other policies, the callback of
    a dropped message gets it.
    """


class StreamDestroyed(StreamError):
    """The stream was destroyed before the message was handed on or the call was made.

    Node's ``ERR_STREAM_DESTROYED``.
    """


class ClientDisconnected(StreamDestroyed):
    """The client left before this message was handed to its connection."""
