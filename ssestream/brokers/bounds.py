"""Bounds: how much a log keeps, or how much it is asked to keep."""

from typing import NamedTuple, TypeVar

from ..runtime.loop import logger

#: Messages that a log keeps by default: as many as may wait in a stream, and minutes of a
#: busy channel.
HISTORY = 1000

_N = TypeVar("_N", int, float)


class Bounds(NamedTuple):
    """How much a log keeps, or how much a broker asks a log to keep.

    *history* is a number of messages, *age* is in seconds. In a request, None leaves the
    choice to the log; a new log then keeps `HISTORY` messages of any age. In the bounds of a
    log, an *age* of None keeps entries of any age, and a *history* of None was never set.
    """

    history: int | None = None
    age: float | None = None

    def of_new_log(self) -> "Bounds":
        """The bounds of a new log if these bounds are the first request."""
        return Bounds(HISTORY if self.history is None else self.history, self.age)

    def widened(self, asked: "Bounds") -> "Bounds":
        """The bounds of a log with these bounds after a request for *asked*."""
        # None in the log's own bounds is already the widest: entries of any age.
        return Bounds(_wider(self.history, asked.history), _wider(self.age, asked.age))

    def warn_of(self, asked: "Bounds", channel: str) -> bool:
        """Log a WARNING if the log of *channel*, with these bounds, keeps more than *asked*.

        Returns whether the log keeps more. A broker logs this once, and not for each channel: an
        app may have thousands of channels.
        """
        fewer = asked.history is not None and self.history is not None
        fewer = fewer and asked.history < self.history  # type: ignore[operator]
        younger = asked.age is not None and (self.age is None or asked.age < self.age)
        if not (fewer or younger):
            return False
        logger.warning(
            "channels: the log of %r keeps %s, as set earlier, and not %s, as set here."
            " Change the log with Channels.keep() or 'python -m ssestream keep'",
            channel,
            self.in_words(),
            asked.in_words(),
        )
        return True

    def in_words(self) -> str:
        count = "all events" if self.history is None else f"{self.history} events"
        return count if self.age is None else f"{count} of {self.age:g} s"


def _wider(mine: _N | None, asked: _N | None) -> _N | None:
    return mine if mine is None or asked is None else max(mine, asked)
