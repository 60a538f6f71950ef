"""The end of a worker: every stream is ended before it."""

from .clock import clock
from .hub import current_home, logger
from .schedule import schedule_of
from .statistics import books

#: Seconds in which clients take what waits for them, before they are cut: well
#: within the ten that init systems commonly give, and gunicorn's thirty.
TIMEOUT = 1.0

#: Times as long that a stream has whose server has not come to send it: the process has many
#: streams, and the machine is busy.
PATIENCE = 5


def drain(timeout: float = TIMEOUT) -> None:
    """End every open stream of this process, and those that are opened from now on.

    Each client gets what waits for it, a ``retry`` at random within the setting
    ``retry_after``, and the end of its response; ``"close"`` comes as ever.
    Whoever has not taken it all after *timeout* seconds is cut; a stream that a busy
    process has not come to send has five times as long. Returns at once. Not for a signal
    handler itself, which may have interrupted what it would wait for: start a thread there.

    For servers that ``ssestream.gunicorn`` does not know of: call it when the
    process is to stop, and stop the server afterwards.
    """
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")
    if not 0 <= timeout < float("inf"):
        raise ValueError(f"timeout must be finite and not negative, and is {timeout}")
    books.draining = True
    streams = books.streams()
    logger.info("draining %d streams", len(streams))
    for stream in streams:
        stream.retire("shutdown")

    last = clock.now() + timeout * PATIENCE

    def cut_the_rest(now: float) -> float | None:
        for stream in books.streams():
            if stream._in_hand() or now >= last:
                stream.cut("shutdown")
        return now + timeout / PATIENCE if books.has_open and now < last else None

    schedule_of(current_home()).add(clock.now() + timeout, cut_the_rest)
