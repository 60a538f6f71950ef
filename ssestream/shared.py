"""Equal frames that wait for several clients are kept once.

A loop that writes one message to each of many streams serialises the message for each
of them. Most of these copies leave at once. Those of slow clients wait, up to a
megabyte for each client, and are then the same bytes as often as there are slow
clients. So a frame that has to wait is looked for among the last frames that had to.

Nothing is looked for on the way of a frame that need not wait, unless the frame is
large: then it is compared with the large one before it.
"""

#: Bytes of one generation of known frames: twice what may wait in one stream, so that
#: streams which are written to one after the other find each other's frames.
SIZE = 2 * 1024 * 1024

#: Bytes that it takes to know a frame, beside the frame.
EACH = 150


#: Bytes of a frame from which on a second copy in the hand of a server matters.
LARGE = 64 * 1024


class Shared:
    """The last frames that had to wait, in two generations.

    Any thread may ask. Two threads that ask at the same time may each forget what the
    other has added, and then a frame is kept twice.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._size = 0
        self._large = b""

    def __call__(self, frame: bytes) -> bytes:
        """*frame*, or the same bytes as they are known already."""
        known = self._young.get(frame)
        if known is not None:
            return known
        size = len(frame) + EACH
        # A larger one would stay here for long.
        if size > SIZE:
            return frame
        known = self._old.get(frame, frame)
        if self._size + size > SIZE:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[known] = known
        self._size += size
        return known

    def large(self, frame: bytes) -> bytes:
        """*frame*, or the large frame before it if that has the same bytes."""
        large = self._large
        if frame == large:
            return large
        if len(frame) <= SIZE:
            self._large = frame
        return frame


shared = Shared()
