"""Overflow: when too much waits in a stream, and which clients are the reason.

A queue has two bounds, ``max_messages`` and ``max_bytes``. The bound in bytes always holds. The
bound in messages holds only for clients that had time to read. If a view writes before it returns,
or an app writes many messages in one turn of the loop, no client could read any of them yet.

All functions here only look and decide. `flow.Flow` applies the setting ``overflow``.
"""

from collections.abc import Sequence

from .message_queue import MessageQueue
from .pipe import Pipe


def is_too_much(
    queue: MessageQueue, pipes: Sequence[Pipe], will_be_piped: bool, frame: bytes | None = None
) -> bool:
    """Whether the messages in *queue* are too many for these *pipes*.

    *frame* is one more message; None is none. Called under the lock of the stream. *will_be_piped*
    matters only without pipes: a stream with a request will be piped soon, and a stream without one
    may never be piped.
    """
    if not queue.exceeds_bounds(frame):
        return False
    had_time = any(pipe.is_slow(queue.full_at) for pipe in pipes) if pipes else not will_be_piped
    if had_time or queue.exceeds_bytes(frame):
        return True
    queue.grant(len(queue) + (frame is not None))
    return False


def let_read(queue: MessageQueue, pipes: Sequence[Pipe], frame: bytes) -> None:
    """If *frame* would exceed the bounds of *queue*, give busy readers a moment first."""
    if queue.exceeds_bounds(frame):
        for pipe in pipes:
            pipe.let_read(queue.full_at)


def to_cut(queue: MessageQueue, pipes: Sequence[Pipe]) -> list[Pipe]:
    """The *pipes* that hold up the others: the slow ones, or else all that are not ready."""
    waiting = [pipe for pipe in pipes if not pipe.ready]
    return [pipe for pipe in waiting if pipe.is_slow(queue.full_at)] or waiting
