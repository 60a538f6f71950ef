"""OutputBuffer: the frames of one response on their way to the server, counted in bytes.

Any thread may `put`. There is one reader: the server's greenlet or thread, or a `sender.Sender`. It
takes the waiting frames as one chunk, so that frames written together cost one system call.

One native lock guards every field. It is never held while other code runs, so the
lengths, the high-water mark and the sleeping reader always agree. A reader that finds
nothing leaves a waker, and the next writer wakes it once.
"""

from typing import Any

from ..runtime.clock import clock
from ..runtime.threads import new_lock
from ..runtime.waker import Wakeable, Waker
from .account import Accounted
from .event_end import BETWEEN, Half, end_of

#: The largest chunk, in bytes. A chunk in the hand of the server cannot be taken back, and only
#: its leaving shows that the client still reads. So a chunk must be small enough to leave in
#: time over a bad line, and large enough that there are few.
CHUNK = 64 * 1024

#: Seconds after which a client counts as slow if its chunk has not left.
STUCK = 1.0


class OutputBuffer(Accounted):
    """A queue of frames, counted in bytes.

    *lock* may be shared with the stream and the response. Nobody holds it while
    calling other code. None makes a new lock. *high_water_mark* is in bytes.

    A chunk counts as waiting until the reader asks for the next one, because only
    then has the server handed it to the kernel.
    """

    __slots__ = (
        "_closed",
        "_ended",
        "_frames",
        "_given",
        "_half",
        "_lock",
        "_messages",
        "_taken",
        "_taken_messages",
        "_waiting",
        "_waker",
        "high_water_mark",
        "need_drain",
        "taken_at",
        "waiting_reader",
    )

    def __init__(self, high_water_mark: int, lock: Any = None) -> None:
        super().__init__()
        self.high_water_mark = high_water_mark
        self.need_drain = False
        #: When the chunk in the reader's hand was taken; 0.0 if the reader has none, and infinity
        #: if the reader cannot send the rest of it in this turn of the loop.
        self.taken_at = 0.0
        self._lock = lock or new_lock()
        # An empty tuple while nothing waits, to save memory. A deque would be larger than all
        # other fields together.
        self._frames: list[bytes | memoryview] | tuple[()] = ()
        self._waiting = 0
        # A frame that a broadcast has given to the sleeping reader. Its waker is about to be woken.
        self._given: bytes | None = None
        self._taken = 0
        # Messages among the waiting frames. A frame can hold none, one or several.
        self._messages = 0
        self._taken_messages = 0
        # The event that the app has begun and not ended; None between two events.
        self._half: Half | None = None
        self._ended = False
        self._closed = False
        # The waker of the reader that sleeps in `take`, kept for the next sleep.
        self._waker: Waker | None = None
        #: The waker of a reader that found nothing; None if something waits, and after the end.
        self.waiting_reader: Wakeable | None = None

    @property
    def written_at(self) -> float:
        """When a frame last waited here, or was sent past this buffer. Now, if a frame waits."""
        return clock.now() if self._waiting else max(self._written_at, self.account.written_at)

    def sent_past(self, messages: int, length: int, now: float) -> None:
        """The reader has sent *messages* messages, of *length* bytes, that were never put here."""
        self.messages_sent += messages
        self.bytes_sent += length
        self._written_at = now
        if self._half is not None:
            with self._lock:
                self._pass_half()

    def is_stuck(self, since: float) -> bool:
        """Whether the client does not take the chunk that the reader has in hand.

        The reader must have had the chunk at the time *since* already, or for `STUCK`
        seconds. A reader without a chunk is not stuck: it had no time to come yet.
        """
        taken_at = self.taken_at
        return taken_at != 0.0 and (taken_at < since or clock.now() - taken_at >= STUCK)

    @property
    def length(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._waiting + self._taken

    def put(self, frame: bytes) -> bool:
        """Queue *frame*. False if ``high_water_mark`` bytes wait then, or if closed or ended."""
        with self._lock:
            if self._closed or self._ended:
                return False
            self._append(frame, 1)
            flowing = self._waiting + self._taken < self.high_water_mark
            if not flowing:
                self.need_drain = True
            waker, self.waiting_reader = self.waiting_reader, None
        if waker is not None:
            waker.wake()
        return flowing

    def put_opening(self, frame: bytes) -> None:
        """Queue *frame*, which is no message, before the reader takes its first chunk.

        If the app has begun an event and not ended it, *frame* goes before that event. If
        the beginning of the event was taken already, *frame* is left out.
        """
        with self._lock:
            if self._closed or self._ended:
                return
            if self._half is None:
                self._append(frame, 0)
            elif self._frames and not (self._taken or self.bytes_sent):
                self._frames.insert(0, frame)
                self._waiting += len(frame)
            if self._waiting + self._taken >= self.high_water_mark:
                self.need_drain = True
        self._wake()

    def put_if_clear(self, frame: bytes, messages: int) -> bool:
        """Queue *frame*, which holds *messages* messages, if nothing has to wait.

        A frame without a message is a block of this package. If the app has begun an event and
        not ended it, the block is held back, and comes after the event. Returns False, with
        nothing queued, if the buffer is above its high-water mark, if it was ended or closed, or
        if *frame* is empty.
        """
        with self._lock:
            if self.need_drain or self._closed or self._ended or not frame:
                return False
            self._append(frame, messages)
            if self._waiting + self._taken >= self.high_water_mark:
                self.need_drain = True
            waker, self.waiting_reader = self.waiting_reader, None
        if waker is not None:
            waker.wake()
        return True

    def put_together(self, frames: bytes, messages: int, wakers: list[Wakeable]) -> bool:
        """Queue *frames*, which hold *messages* messages, also above the high-water mark.

        Blocks of this package at the beginning of *frames* are held back as in `put_if_clear`.
        Returns False, with nothing queued, if the buffer was ended or closed. Adds the waker of a
        sleeping reader to *wakers*, for a caller that holds a lock and wakes it later.
        """
        with self._lock:
            if self._closed or self._ended:
                return False
            if self._half is not None:
                frames = self._half.hold_first(frames)
            # Some servers would take an empty chunk for the end of a chunked body.
            if frames:
                self._append(frames, messages)
                if self._waiting + self._taken >= self.high_water_mark:
                    self.need_drain = True
                if self.waiting_reader is not None:
                    wakers.append(self.waiting_reader)
                    self.waiting_reader = None
        return True

    def hand_to_reader(self, frame: bytes, messages: int, now: float) -> "Wakeable | None":
        """Hand *frame* directly to a reader that sleeps. Returns the reader's waker, not woken yet.

        A broadcast uses this, and then wakes the wakers of all its readers at once. The frame
        counts as taken, and must end with a blank line. Returns None, with nothing handed
        over, if the reader does not sleep.
        """
        with self._lock:
            waker = self.waiting_reader
            if waker is not None:
                self.waiting_reader = None
                self._given = frame
                self._taken = length = len(frame)
                self._taken_messages = messages
                self._half = None
                self._written_at = self.taken_at = now
                if length >= self.high_water_mark:
                    self.need_drain = True
            return waker

    def put_into_silence(self, frame: bytes) -> bool:
        """Queue *frame*, a comment, if the stream is silent. Returns whether it was queued.

        *frame* is not queued in the middle of a line that the app writes in pieces, nor
        behind waiting frames: a client that takes nothing needs no more.
        """
        with self._lock:
            in_line = self._half is not None and self._half.in_line
            if self._closed or self._ended or in_line or self.length:
                return False
            # Without `_append`: a comment neither begins nor ends an event.
            self._frames, self._waiting = [frame], len(frame)
        self._wake()
        return True

    def discount(self) -> None:
        """Do not count one of the waiting frames as a message (the opening comment)."""
        with self._lock:
            self._messages -= 1

    def end(self) -> None:
        """Take no more frames. The waiting ones are still sent.

        If the app has begun an event and not ended it, the blocks that were held back come last,
        without a blank line: see `Half.last_lines`.
        """
        self._wake(ended=True)

    def close(self) -> None:
        """Drop the waiting frames. The reader gets nothing more."""
        self._wake(closed=True)

    def clear(self) -> list[bytes | memoryview]:
        """Drop the waiting frames and return them. Later frames are queued as before."""
        with self._lock:
            held_back = () if self._half is None else self._half.blocks
            dropped = [*self._frames, *held_back]
            self._frames = ()
            self._waiting = self._messages = 0
            self._half = None
        return dropped

    def mark_sent(self) -> bool:
        """The kernel has the last chunk. Returns whether ``drain`` is due now."""
        # Without the lock: while the reader has a chunk, others change these only to drop it.
        self.messages_sent += self._taken_messages
        self.bytes_sent += self._taken
        self._taken = self._taken_messages = 0
        self.taken_at = 0.0
        if not self.need_drain:
            return False
        with self._lock:
            drained = self.need_drain and not self._waiting and not self._closed
            if drained:
                self.need_drain = False
            return drained

    def take(self) -> bytes | None:
        """Return the waiting frames as one chunk of at most `CHUNK` bytes. Sleeps if none wait.

        Returns None at the end, and when closed.
        """
        waker = self._waker
        if waker is None or not waker.is_mine():
            waker = self._waker = Waker()
        while (chunk := self.take_nowait(waker)) == b"":
            waker.wait()
            given, self._given = self._given, None
            if given is not None and not self._closed:
                return given
        return chunk

    def take_nowait(self, waker: Wakeable) -> bytes | None:
        """As `take`. But if nothing waits, return ``b""``, and wake *waker* when something does."""
        with self._lock:
            given, self._given = self._given, None
            if given is not None and not self._closed:
                return given
            frames = self._frames
            if frames:
                self._taken_messages = self._messages
                if self._waiting <= CHUNK:
                    chunk = b"".join(frames)
                    self._frames = ()
                    self._messages = 0
                else:
                    chunk = self._piece()
                self._taken = length = len(chunk)
                self._waiting -= length
                self.taken_at = self._written_at = clock.now()
                return chunk
            if self._ended or self._closed:
                return None
            self.waiting_reader = waker
            return b""

    def fall_asleep(self, waker: Wakeable) -> bool:
        """Wake *waker* when something waits, or at the end. False if there is something now."""
        with self._lock:
            if self._frames or self._ended or self._closed:
                return False
            self.waiting_reader = waker
            return True

    def take_trailer(self) -> None:
        """Note that the reader takes bytes that were never put here and are counted nowhere."""
        self._written_at = self.taken_at = clock.now()

    def taken_since(self, at: float) -> None:
        """Let the chunk in the reader's hand, if it has one, count as taken at *at*."""
        with self._lock:
            if self.taken_at:
                self.taken_at = at

    def take_unput(self, length: int, messages: int) -> None:
        """Count a chunk that was never put here as a chunk in the reader's hand.

        It was sent directly, and the socket took only a part of it. *length* is its size in bytes,
        and *messages* the number of its messages.
        """
        with self._lock:
            self.waiting_reader = None
            self._taken, self._taken_messages = length, messages
            self._pass_half()
            self.taken_at = self._written_at = clock.now()
            if self._waiting + length >= self.high_water_mark:
                self.need_drain = True

    def _append(self, frame: bytes, messages: int) -> None:
        if self._half is not None or not frame.endswith(b"\n\n"):
            frame = self._beside_half(frame, messages)
            if not frame:
                return
        self._messages += messages
        if self._frames:
            self._frames.append(frame)
        else:
            self._frames = [frame]
        self._waiting += len(frame)

    def _beside_half(self, frame: bytes, messages: int) -> bytes:
        """The bytes to append for *frame*, which comes in an event, or begins one."""
        half = self._half
        if half is None:
            end = end_of(frame, BETWEEN)
            self._half = None if end == BETWEEN else Half(end)
        elif not messages:
            half.hold(frame)
            return b""
        elif half.is_ended_by(frame):
            self._half = None
            frame += half.blocks_after(frame)
        return frame

    def _pass_half(self) -> None:
        """Whole events were sent past this buffer. Called under the lock."""
        # Any frames that wait were put afterwards, by another thread.
        if not self._frames:
            self._half = None

    def _piece(self) -> bytes:
        """Remove the first `CHUNK` bytes from the waiting frames and return them."""
        frames = self._frames
        assert frames
        count, room = 0, CHUNK
        while len(frames[count]) <= room:
            room -= len(frames[count])
            count += 1
        parts = frames[:count]
        del frames[:count]
        self._taken_messages = min(self._messages, count)
        self._messages -= self._taken_messages
        if not parts:
            # A frame larger than a chunk leaves in pieces. The memoryview avoids a copy of the
            # rest for each piece.
            rest = memoryview(frames[0])
            parts.append(rest[:CHUNK])
            frames[0] = rest[CHUNK:]
        return b"".join(parts)

    def _wake(self, ended: bool = False, closed: bool = False) -> None:
        with self._lock:
            if ended and self._half is not None and not self._closed:
                lines, self._half = self._half.last_lines(), None
                if lines:
                    self._append(lines, 0)
            self._ended = self._ended or ended
            if closed:
                self._closed = True
                self._frames = ()
                self._waiting = self._taken = self._messages = self._taken_messages = 0
                self.taken_at = 0.0
            waker = self.waiting_reader or (self.guard if closed else None)
            self.waiting_reader = None
        if waker is not None:
            waker.wake()
