"""Frames on their way from whoever writes to the one that sends them.

Any thread may `put`. One reader, the server's greenlet or thread, takes
everything that waits as one chunk, so that frames written together cost one
system call together.

One native lock guards every field and is never held across a call to anybody
else's code; therefore the lengths, the high-water mark and "the reader is
asleep" always agree. The reader sleeps in a queue (a ``gevent.queue`` on a
hub) that holds at most one ring of the bell, never the frames.
"""

from .hub import Doorbell, new_lock


class FrameBuffer:
    """A queue of frames, counted in bytes.

    A chunk counts as waiting until the reader asks for the next one: only
    then has the server handed it to the kernel.
    """

    def __init__(self, high_water_mark: int) -> None:
        self.high_water_mark = high_water_mark
        self.need_drain = False
        self._lock = new_lock()
        self._frames: list[bytes] = []
        self._waiting = 0
        self._taken = 0
        self._ended = False
        self._closed = False
        self._asleep: Doorbell | None = None

    @property
    def length(self) -> int:
        """Bytes that the kernel has not got yet."""
        return self._waiting + self._taken

    def put(self, frame: bytes) -> bool:
        """Queue *frame*. False once ``high_water_mark`` bytes wait, or when closed."""
        with self._lock:
            if self._closed or self._ended:
                return False
            self._frames.append(frame)
            self._waiting += len(frame)
            flowing = self._waiting + self._taken < self.high_water_mark
            if not flowing:
                self.need_drain = True
            bell, self._asleep = self._asleep, None
        if bell is not None:
            bell.ring()
        return flowing

    def end(self) -> None:
        """Nothing more will come; what waits is still to be taken."""
        self._wake(ended=True)

    def close(self) -> None:
        """Drop what waits; the reader has nothing more to take."""
        self._wake(closed=True)

    def give_back(self) -> bool:
        """The chunk taken last is with the kernel. True when this drained the buffer."""
        with self._lock:
            self._taken = 0
            drained = self.need_drain and not self._waiting and not self._closed
            if drained:
                self.need_drain = False
            return drained

    def take(self) -> bytes | None:
        """Everything that waits, as one chunk; sleeps while there is nothing.

        None at the end, and when closed.
        """
        bell = None
        while True:
            with self._lock:
                if self._closed:
                    return None
                if self._frames:
                    chunk = b"".join(self._frames)
                    self._frames.clear()
                    self._taken, self._waiting = self._waiting, 0
                    return chunk
                if self._ended:
                    return None
                if bell is None:
                    bell = Doorbell()
                self._asleep = bell
            bell.sleep()

    def _wake(self, ended: bool = False, closed: bool = False) -> None:
        with self._lock:
            self._ended = self._ended or ended
            if closed:
                self._closed = True
                self._frames.clear()
                self._waiting = self._taken = 0
            bell, self._asleep = self._asleep, None
        if bell is not None:
            bell.ring()
