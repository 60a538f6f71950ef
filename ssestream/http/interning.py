"""Keep only one copy of equal frames that wait for several clients.

An app may write the same message to many streams in a loop. Each write serialises the message
again. Most of these copies leave at once. The copies for slow clients wait, up to a megabyte for
each client, and all of them have the same bytes. Therefore each frame that must wait is looked up
among the last frames that had to wait, and an equal frame is used in its place.

A frame that goes past its stream's queue is not looked up. Only a large frame is compared with the
large frame before it.
"""

#: The most bytes of one generation of known frames. Twice the bytes that may wait in one stream,
#: so that streams that are written to in turn find each other's frames.
SIZE = 2 * 1024 * 1024

#: The bytes of bookkeeping for each known frame.
EACH = 150


#: The size in bytes from which a frame is large: a second copy in a server's hand then matters.
LARGE = 64 * 1024


class Shared:
    """The last frames that had to wait, in two generations: young and old.

    Thread-safe. Two threads that call at the same time may each lose the frame of the other.
    Then that frame is kept twice, which does no harm.
    """

    def __init__(self) -> None:
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._size = 0
        self._large = b""

    def __call__(self, frame: bytes) -> bytes:
        """The known frame that is equal to *frame*; else *frame*, which is known from now on."""
        known = self._young.get(frame)
        if known is not None:
            return known
        size = len(frame) + EACH
        # A frame larger than a generation would stay here for a long time.
        if size > SIZE:
            return frame
        known = self._old.get(frame, frame)
        if self._size + size > SIZE:
            self._old, self._young, self._size = self._young, {}, 0
        self._young[known] = known
        self._size += size
        return known

    def large(self, frame: bytes) -> bytes:
        """The last large frame if it is equal to *frame*; else *frame*."""
        large = self._large
        if frame == large:
            return large
        if len(frame) <= SIZE:
            self._large = frame
        return frame


shared = Shared()
