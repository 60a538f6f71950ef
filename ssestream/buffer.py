"""Frames on their way from whoever writes to the one that sends them.

Any thread may `put`. One reader, the server's greenlet or thread, takes what
waits as one chunk, so that frames written together cost one system call
together.

One native lock guards every field and is never held across a call to anybody
else's code; therefore the lengths, the high-water mark and "the reader is
asleep" always agree. The reader sleeps in a queue (a ``gevent.queue`` on a
hub) that holds at most one ring of the bell, never the frames.
"""

import time
from collections import deque

from .hub import Doorbell, new_lock

#: Bytes of one chunk at most. What the server has in hand when its client stalls
#: is not to be had back, and says by its leaving that the client still reads:
#: small enough to leave in time over a bad line, large enough to be one of few.
CHUNK = 64 * 1024


class FrameBuffer:
    """A queue of frames, counted in bytes.

    A chunk counts as waiting until the reader asks for the next one: only
    then has the server handed it to the kernel.
    """

    def __init__(self, high_water_mark: int) -> None:
        self.high_water_mark = high_water_mark
        self.need_drain = False
        #: When the chunk was taken that has not left yet; 0.0 while there is none.
        self.taken_at = 0.0
        #: When something was last put.
        self.written_at = 0.0
        self._lock = new_lock()
        self._frames: deque[bytes | memoryview] = deque()
        self._waiting = 0
        self._taken = 0
        self._taken_frames = 0
        # Frames not yet given back that are no messages.
        self._beside = 0
        # Whether the last frame has left a line without its end.
        self._mid_line = False
        self._ended = False
        self._closed = False
        self._asleep: Doorbell | None = None

    @property
    def length(self) -> int:
        """Bytes that the kernel has not got yet."""
        return self._waiting + self._taken

    def put(self, frame: bytes, message: bool = True) -> bool:
        """Queue *frame*. False once ``high_water_mark`` bytes wait, or when closed.

        Not a *message* is what is sent beside the app's own.
        """
        with self._lock:
            if self._closed or self._ended:
                return False
            self._append(frame, message)
            flowing = self.length < self.high_water_mark
            if not flowing:
                self.need_drain = True
            bell, self._asleep = self._asleep, None
        if bell is not None:
            bell.ring()
        return flowing

    def put_into_silence(self, frame: bytes) -> bool:
        """Queue *frame*, which is no message, unless there is something to say.

        Not into a line that is being written, nor behind what waits: a client
        that takes nothing is not silent for want of more.
        """
        with self._lock:
            if self._closed or self._ended or self._mid_line or self.length:
                return False
            self._append(frame, message=False)
            bell, self._asleep = self._asleep, None
        if bell is not None:
            bell.ring()
        return True

    def put_last(self, frame: bytes) -> None:
        """Queue *frame*, which is no message, and nothing after it.

        An event that was begun by hand is ended before it.
        """
        with self._lock:
            if not (self._closed or self._ended):
                self._append(b"\n\n" + frame if self._mid_line else frame, message=False)
        self.end()

    def discount(self) -> None:
        """One of those that wait is no message."""
        with self._lock:
            self._beside += 1

    def end(self) -> None:
        """Nothing more will come; what waits is still to be taken."""
        self._wake(ended=True)

    def close(self) -> None:
        """Drop what waits; the reader has nothing more to take."""
        self._wake(closed=True)

    def clear(self) -> None:
        """Drop what waits, and go on."""
        with self._lock:
            self._frames.clear()
            self._waiting = 0

    def give_back(self) -> tuple[int, int, bool]:
        """The chunk taken last is with the kernel.

        How many messages and bytes that were, and whether it drained the buffer.
        """
        with self._lock:
            beside = min(self._beside, self._taken_frames)
            self._beside -= beside
            frames, length = self._taken_frames - beside, self._taken
            self._taken = self._taken_frames = 0
            self.taken_at = 0.0
            drained = self.need_drain and not self._waiting and not self._closed
            if drained:
                self.need_drain = False
            return frames, length, drained

    def take(self) -> bytes | None:
        """What waits, as one chunk of `CHUNK` bytes at most; sleeps while there is nothing.

        None at the end, and when closed.
        """
        bell = None
        while True:
            with self._lock:
                if self._closed:
                    return None
                if self._frames:
                    chunk = self._chunk()
                    self._taken = len(chunk)
                    self._waiting -= len(chunk)
                    self.taken_at = time.monotonic()
                    return chunk
                if self._ended:
                    return None
                if bell is None:
                    bell = Doorbell()
                self._asleep = bell
            bell.sleep()

    def _append(self, frame: bytes, message: bool) -> None:
        if not message:
            self._beside += 1
        self._frames.append(frame)
        self._waiting += len(frame)
        self._mid_line = not frame.endswith(b"\n")
        self.written_at = time.monotonic()

    def _chunk(self) -> bytes:
        frames = self._frames
        if self._waiting <= CHUNK:
            self._taken_frames = len(frames)
            chunk = b"".join(frames)
            frames.clear()
            return chunk
        parts = []
        room = CHUNK
        while len(frames[0]) <= room:
            parts.append(frames.popleft())
            room -= len(parts[-1])
        self._taken_frames = len(parts)
        if not parts:
            # One frame larger than a chunk leaves in pieces, and is not copied
            # anew for each of them.
            rest = memoryview(frames[0])
            parts.append(rest[:CHUNK])
            frames[0] = rest[CHUNK:]
        return b"".join(parts)

    def _wake(self, ended: bool = False, closed: bool = False) -> None:
        with self._lock:
            self._ended = self._ended or ended
            if closed:
                self._closed = True
                self._frames.clear()
                self._waiting = self._taken = self._taken_frames = 0
                self.taken_at = 0.0
            bell, self._asleep = self._asleep, None
        if bell is not None:
            bell.ring()
