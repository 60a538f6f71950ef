"""What can go wrong, and who did it.

::

    Exception
    └── SseStreamError
        ├── MessageError (also a ValueError)   the message itself is wrong
        ├── BrokerError                        the log of a channel is not to be had
        └── StreamError                        the call came at the wrong time
            ├── WriteAfterEnd                  you ended the stream, then wrote
            ├── HeadersSent                    you changed headers that had left
            ├── BufferFull                     you wrote more than may wait
            └── StreamDestroyed                you destroyed the stream
                └── ClientDisconnected         the other side went away

A normal end is no error, and neither is a full buffer: ``write()`` says
``False`` and ``"drain"`` follows. A write after the client has gone raises
nothing either (a late tick of a timer is normal); only a callback that was
given with the message hears of it, as :exc:`ClientDisconnected`.

Plain wrong arguments raise ``TypeError`` or ``ValueError``.
"""


class SseStreamError(Exception):
    """The root of this package's own errors."""


class MessageError(SseStreamError, ValueError):
    """A message that cannot be sent as it is; nothing of it was queued.

    *field* is the key of the message that is at fault (``"data"``, ``"id"``,
    ... or the unknown key itself), or None where the message as a whole is.
    """

    def __init__(self, reason: str, field: object = None) -> None:
        super().__init__(reason)
        self.field = field


class BrokerError(SseStreamError):
    """The broker could not do what was asked: it is down, full or read-only.

    An event that `Channels.publish` raises this for was not stored, as far as
    can be known: a connection that breaks while the answer is on its way leaves
    that open.

    *lasting* says that trying again does not help before somebody has mended something:
    a password, a right, a directory.
    """

    def __init__(self, reason: str = "", *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


class StreamError(SseStreamError):
    """A call that the stream's state does not allow."""


class WriteAfterEnd(StreamError):
    """``write()``, ``push()`` or ``end(message)`` between ``end()`` and ``close``.

    Node's ``ERR_STREAM_WRITE_AFTER_END``.
    """


class HeadersSent(StreamError):
    """Status or headers were to change after they had left.

    Node's ``ERR_HTTP_HEADERS_SENT``.
    """


class BufferFull(StreamError):
    """More would have waited than ``max_messages`` or ``max_bytes`` allow.

    Raised by ``write()`` with ``overflow="error"``; given to the callback of a
    message that was dropped, under the other policies.
    """


class StreamDestroyed(StreamError):
    """The stream was destroyed before this could happen.

    Node's ``ERR_STREAM_DESTROYED``.
    """


class ClientDisconnected(StreamDestroyed):
    """The client left before this message was handed to its connection."""
