"""A destination that is no response."""


class Sink:
    """Any object with ``write()`` is a destination. This one keeps its chunks."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.ended = False

    def write(self, chunk: bytes) -> None:
        self.got.append(chunk)

    def end(self) -> None:
        self.ended = True
