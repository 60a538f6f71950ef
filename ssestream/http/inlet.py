"""Inlet: one stream that is piped into a response, as far as the response knows it."""


class Inlet:
    """The contract of a stream that is piped in.

    Its methods are called at once, and not as handlers of an event, because the
    stream must know before any handler of the app runs.
    """

    __slots__ = ()

    def drained(self) -> None:
        """The response takes writes again."""

    def closed(self) -> None:
        """The response is over."""

    def retired(self, dropping: bool) -> list[bytes]:
        """The response ends. Returns the frames that the stream holds for it.

        *dropping* says that the response will not send them.
        """
        return []

    @property
    def is_complete(self) -> bool:
        """Whether the response ends as soon as it has what the stream holds for it."""
        return False

    def waiting(self) -> int:
        """Bytes that the stream holds for the response."""
        return 0
