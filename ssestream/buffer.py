"""Frames on their way from whoever writes to the one that sends them.

Any thread may `put`. One reader, the server's greenlet or thread, takes what
waits as one chunk, so that frames written together cost one system call
together.

One native lock guards every field and is never held across a call to anybody
else's code; therefore the lengths, the high-water mark and "the reader is
asleep" always agree. Whoever reads says which bell is to be rung when there is
more, and it is rung once for that.
"""

from collections.abc import Callable
from typing import Any, Protocol

from .clock import clock
from .hub import Doorbell, Home, new_lock

#: Bytes of one chunk at most. What the server has in hand when its client stalls
#: is not to be had back, and says by its leaving that the client still reads:
#: small enough to leave in time over a bad line, large enough to be one of few.
CHUNK = 64 * 1024


#: Seconds after which a chunk that has not left says that its client is slow.
STUCK = 1.0

#: Where what was written last has stopped: between two events, behind a line of one, or in
#: the middle of a line. Whatever is sent beside the app's own has its place by that.
BETWEEN, IN_EVENT, IN_LINE = range(3)


class Bell(Protocol):
    """What tells the reader that there is more."""

    @property
    def home(self) -> Home | None:
        """Where the reader runs; None in a thread."""

    @property
    def wake(self) -> Callable[[None], object]:
        """For `Home.in_turn` there."""

    def ring(self) -> None:
        """From any thread, and at once."""


class Direct(Bell, Protocol):
    """A reader that is a socket: see ``sender``."""

    @property
    def buffer(self) -> "FrameBuffer":
        """Whose reader it is."""

    @property
    def sock(self) -> Any:
        """The socket, which does not block."""

    def keep(self, framed: bytes, sent: int, length: int, messages: int) -> None:
        """The socket took no more than *sent* bytes."""


class Convoy(Protocol):
    """What is the same for all that are sent to together: see ``fanout``."""

    #: When they were last sent something.
    written_at: float
    #: How much they were sent since there is a convoy.
    messages: int
    bytes: int

    def leave(self, reader: Direct) -> None:
        """From any thread."""


class FrameBuffer:
    """A queue of frames, counted in bytes.

    *lock* is one that others have, too, who keep it no longer.

    A chunk counts as waiting until the reader asks for the next one: only
    then has the server handed it to the kernel.
    """

    __slots__ = (
        "_bell",
        "_closed",
        "_ended",
        "_frames",
        "_given",
        "_lock",
        "_messages",
        "_taken",
        "_taken_messages",
        "_waiting",
        "_within",
        "_written_at",
        "asleep",
        "bytes_left",
        "convoy",
        "direct",
        "guard",
        "high_water_mark",
        "messages_left",
        "need_drain",
        "taken_at",
    )

    def __init__(self, high_water_mark: int, lock: Any = None) -> None:
        self.high_water_mark = high_water_mark
        self.need_drain = False
        #: When the chunk was taken that has not left yet; 0.0 while there is none.
        self.taken_at = 0.0
        self._written_at = 0.0
        self._lock = lock or new_lock()
        # No deque, which is larger than all the rest of this, and no list while nothing
        # waits.
        self._frames: list[bytes | memoryview] | tuple[()] = ()
        self._waiting = 0
        # What the reader has in hand, without having asked for it; its bell is about to ring.
        self._given: bytes | None = None
        self._taken = 0
        # How many messages wait: some frames are none, and some are several.
        self._messages = 0
        self._taken_messages = 0
        #: Messages and bytes that have left, without those of a convoy that it is in.
        self.messages_left = self.bytes_left = 0
        self._within = BETWEEN
        self._ended = False
        self._closed = False
        # That of a reader who sleeps in `take`, kept for the next time.
        self._bell: Doorbell | None = None
        #: That of a reader for whom nothing waits; None while something does, and
        #: when there will be nothing more.
        self.asleep: Bell | None = None
        #: A reader to which plain frames may be handed past all this while it sleeps.
        self.direct: Direct | None = None
        #: What is told at once that it is closed, even if it is not asleep.
        self.guard: Bell | None = None

        #: In which its reader is sent to past it, together with others.
        self.convoy: Convoy | None = None

    @property
    def written_at(self) -> float:
        """When something was last put, or sent past it."""
        convoy = self.convoy
        return self._written_at if convoy is None else max(self._written_at, convoy.written_at)

    @written_at.setter
    def written_at(self, when: float) -> None:
        self._written_at = when

    def sent(self) -> tuple[int, int]:
        """Messages and bytes that have left for the kernel."""
        convoy = self.convoy
        if convoy is None:
            return self.messages_left, self.bytes_left
        return self.messages_left + convoy.messages, self.bytes_left + convoy.bytes

    def is_stuck(self, since: float) -> bool:
        """Whether the reader has in hand what its client does not take.

        It had it in hand at the time *since*, or has had it for `STUCK` seconds. A reader
        that has nothing in hand had no time to come for what waits.
        """
        taken_at = self.taken_at
        return taken_at != 0.0 and (taken_at < since or clock.now() - taken_at >= STUCK)

    @property
    def length(self) -> int:
        """Bytes that the kernel has not got yet."""
        return self._waiting + self._taken

    def put(self, frame: bytes) -> bool:
        """Queue *frame*. False once ``high_water_mark`` bytes wait, or when closed."""
        with self._lock:
            if self._closed or self._ended:
                return False
            self._append(frame, 1)
            flowing = self._waiting + self._taken < self.high_water_mark
            if not flowing:
                self.need_drain = True
            bell, self.asleep = self.asleep, None
        if bell is not None:
            bell.ring()
        return flowing

    def put_opening(self, frame: bytes) -> None:
        """Queue *frame*, which is no message, before the reader takes the first.

        It goes before what is there where that has begun an event and not ended it.
        """
        with self._lock:
            if self._closed or self._ended:
                return
            if self._within == BETWEEN:
                self._append(frame, 0)
            elif self._frames and not (self._taken or self.bytes_left):
                self._frames.insert(0, frame)
                self._waiting += len(frame)
            if self._waiting + self._taken >= self.high_water_mark:
                self.need_drain = True
            bell, self.asleep = self.asleep, None
        if bell is not None:
            bell.ring()

    def put_straight(self, frame: bytes, messages: int) -> bool:
        """Queue *frame*, which is so many *messages*; False, and it was not, if it has to wait.

        Or if there is nothing in it, or nothing more is taken.
        """
        with self._lock:
            if self.need_drain or self._closed or self._ended or not frame:
                return False
            self._append(frame, messages)
            if self._waiting + self._taken >= self.high_water_mark:
                self.need_drain = True
            bell, self.asleep = self.asleep, None
        if bell is not None:
            bell.ring()
        return True

    def put_for_sleeper(self, frame: bytes, messages: int, now: float) -> "Bell | None":
        """Give *frame*, which ends a line, to a reader that sleeps: the bell, not rung yet.

        What a broadcast takes, which rings all of them at once. It is in the reader's
        hand then, as after `take`. None, and it was not given, where the reader does not
        sleep.
        """
        with self._lock:
            bell = self.asleep
            if bell is not None:
                self.asleep = None
                self._given = frame
                self._taken = length = len(frame)
                self._taken_messages = messages
                self._within = BETWEEN
                self._written_at = self.taken_at = now
                if length >= self.high_water_mark:
                    self.need_drain = True
            return bell

    def put_into_silence(self, frame: bytes) -> bool:
        """Queue *frame*, which is no message, unless there is something to say.

        Not into a line that is being written, nor behind what waits: a client
        that takes nothing is not silent for want of more.
        """
        with self._lock:
            if self._closed or self._ended or self._within == IN_LINE or self.length:
                return False
            within = self._within
            self._append(frame, 0)
            # A comment neither begins an event nor ends one.
            self._within = within
            bell, self.asleep = self.asleep, None
        if bell is not None:
            bell.ring()
        return True

    def put_last(self, frame: bytes) -> None:
        """Queue *frame*, which is no message and ends in a blank line, and nothing after it.

        The blank line would end an event that was begun by hand as well, and a browser
        would take the half of it for the whole. Without one, browsers read *frame* and
        drop the event (WHATWG HTML, section 9.2.6).
        """
        with self._lock:
            if self._within != BETWEEN:
                frame = frame.removesuffix(b"\n")
            if self._within == IN_LINE:
                frame = b"\n" + frame
            if not (self._closed or self._ended):
                self._append(frame, 0)
        self.end()

    def discount(self) -> None:
        """One of those that wait is no message."""
        with self._lock:
            self._messages -= 1

    def end(self) -> None:
        """Nothing more will come; what waits is still to be taken."""
        self._wake(ended=True)

    def close(self) -> None:
        """Drop what waits; the reader has nothing more to take."""
        self._wake(closed=True)

    def clear(self) -> list[bytes | memoryview]:
        """Drop what waits, and go on. What was dropped."""
        with self._lock:
            dropped = list(self._frames)
            self._frames = ()
            self._waiting = self._messages = 0
            self._within = BETWEEN
        return dropped

    def give_back(self) -> bool:
        """The chunk taken last is with the kernel. Whether it drained the buffer."""
        # Without the lock, as nobody else changes any of these but to drop them.
        self.messages_left += self._taken_messages
        self.bytes_left += self._taken
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
        """What waits, as one chunk of `CHUNK` bytes at most; sleeps while there is nothing.

        None at the end, and when closed.
        """
        bell = self._bell
        if bell is None or not bell.is_mine():
            bell = self._bell = Doorbell()
        while (chunk := self.take_now(bell)) == b"":
            bell.sleep()
            given, self._given = self._given, None
            if given is not None and not self._closed:
                return given
        return chunk

    def take_now(self, bell: Bell) -> bytes | None:
        """The same; empty while there is nothing, and then *bell* is rung when there is."""
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
                self.taken_at = clock.now()
                return chunk
            if self._ended or self._closed:
                return None
            self.asleep = bell
            return b""

    def take_unput(self, length: int, messages: int) -> None:
        """The reader has in hand what was never put here: so many bytes and messages."""
        with self._lock:
            self.asleep = None
            self._taken, self._taken_messages = length, messages
            self.taken_at = self._written_at = clock.now()
            if self._waiting + length >= self.high_water_mark:
                self.need_drain = True

    def _append(self, frame: bytes, messages: int) -> None:
        self._messages += messages
        if self._frames:
            self._frames.append(frame)
        else:
            self._frames = [frame]
        self._waiting += len(frame)
        self._within = BETWEEN if frame.endswith(b"\n\n") else _place(frame, self._within)
        self._written_at = clock.now()

    def _piece(self) -> bytes:
        """The first `CHUNK` bytes of more."""
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
                self._frames = ()
                self._waiting = self._taken = self._messages = self._taken_messages = 0
                self.taken_at = 0.0
            bell, self.asleep = self.asleep or (self.guard if closed else None), None
        if bell is not None:
            bell.ring()


def _place(frame: bytes, before: int) -> int:
    """Where *frame* stops, which was written at the place *before*."""
    # A lone CR may be the half of a line's end, and two of them are hardly that.
    if frame.endswith((b"\n\n", b"\n\r\n", b"\r\r")):
        return BETWEEN
    if frame in (b"\n", b"\r\n") and before != IN_LINE:
        return BETWEEN
    return IN_EVENT if frame.endswith(b"\n") else IN_LINE
