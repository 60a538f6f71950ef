"""`drain`: end all streams of a process before the process stops."""

from ..runtime.clock import clock
from ..runtime.loop import current_loop, logger
from ..runtime.wheel import wheel_of
from .registry import registry

#: Seconds in which clients must take their waiting messages before they are cut. Init systems
#: commonly give ten seconds, and gunicorn gives thirty.
TIMEOUT = 1.0

#: A stream gets this many times as long if its server has not sent the messages yet: the
#: process may have many streams, on a busy machine.
PATIENCE = 5


def drain(timeout: float = TIMEOUT) -> None:
    """End every stream of this process: the open ones, and any that open later.

    Each client gets its waiting messages, a ``retry`` at random within the setting
    ``retry_after``, and the end of its response. Then ``"close"`` is emitted as usual.

    A client that has not taken everything after *timeout* seconds is cut. A stream gets five
    times as long if the busy process has not sent its messages yet.

    Returns at once. Do not call it in a signal handler: the handler may have interrupted
    code that holds a lock which this function needs. Start a thread there instead.

    Use it with servers other than gunicorn: call it when the process has to stop, and stop
    the server afterwards. For gunicorn, ``ssestream.gunicorn`` calls it.

    Raises ``TypeError`` if *timeout* is not a number, and ``ValueError`` if it is negative or
    not finite.
    """
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if not 0 <= timeout < float("inf"):
        raise ValueError(f"timeout must be finite and not negative, and is {timeout}")
    registry.draining = True
    streams = registry.streams()
    logger.info("draining %d streams", len(streams))
    for stream in streams:
        stream.retire("shutdown")

    last = clock.now() + timeout * PATIENCE

    def cut_the_rest(now: float) -> float | None:
        for stream in registry.streams():
            if stream.in_hand or now >= last:
                stream.cut("shutdown")
        return now + timeout / PATIENCE if registry.has_open and now < last else None

    wheel_of(current_loop()).add(clock.now() + timeout, cut_the_rest)
