"""What an open stream needs now and then: a beat, or an end if it is stalled or old."""

import functools
from typing import Protocol

from .buffer import FrameBuffer
from .clock import clock
from .connection import Connection, Standing
from .hub import Home
from .schedule import Appointment, schedule_of
from .settings import Settings, chance
from .statistics import Cause, books

#: What is sent into silence: a comment without the blank line, as some clients
#: choke on an empty event.
BEAT = b":\n"

#: A beat comes after this part of the interval or later, at random, so that
#: streams which fell silent together (a broadcast, a restart) do not beat
#: together for ever. So do looks, and old streams end spread over the same part of
#: their age.
EARLIEST = 0.8

#: Looks at a client within its send timeout.
LOOKS = 8

#: One that has taken all, as most have at any time, is looked at this many times
#: less often.
RARELY = 2

#: Bytes a second that a client must read at least, where it cannot be seen how much it
#: reads. A kernel that is full lets its client read for long before it asks for more: on
#: loopback a hundred kilobytes.
SLOWEST = 4096

#: Bytes that the kernels of most clients keep for them.
KEPT = 256 * 1024

#: A client that may still have so much to read is given this many times its send timeout
#: at most.
PATIENCE = 4

#: A client whose kernel has not answered for this part of the time is not reading. A
#: kernel that has no room is asked for it after 0.2 s, 0.4 s, 0.8 s and so on, and
#: answers.
UNANSWERED = 0.6

_NEVER = float("inf")


class Kept(Protocol):
    """The stream, as far as its upkeep knows it."""

    def retire(self, cause: Cause) -> None:
        """Tell the client when to come back, and end."""

    def cut(self, cause: Cause) -> None:
        """End at once."""


class Upkeep:
    """That of one stream, from when it is opened. `look` runs in its home's loop.

    To the schedule it is called itself: its method would be one more object for each.
    """

    __slots__ = (
        "_appointment",
        "_began",
        "_buffer",
        "_connection",
        "_kernel_may",
        "_old_at",
        "_over",
        "_read",
        "_seen",
        "_settings",
        "_stream",
        "_took_at",
    )

    def __init__(
        self, stream: Kept, buffer: FrameBuffer, connection: Connection, settings: Settings
    ) -> None:
        self._stream = stream
        self._buffer = buffer
        self._connection = connection
        self._settings = settings
        # None until it was told.
        self._kernel_may: bool | None = None
        self._began = 0.0
        self._old_at = _NEVER
        if settings.max_age is not None:
            self._old_at = clock.now() + settings.max_age * chance.uniform(EARLIEST, 1.0)
        # When the client last took something, as far as looks tell, or had nothing to take.
        self._took_at = 0.0
        # What looks see while something waits for the client: what changes when it takes
        # any of that, and how much it has to read where that is known. None while nothing
        # waits.
        self._seen: tuple[object, int | None] | None = None
        # Of the bytes that the client's kernel has taken: what the client has surely read,
        # if it reads as much as the slowest must.
        self._read = 0
        self._appointment: Appointment | None = None
        self._over = False

    def begin(self, home: Home) -> None:
        """Look after the stream until `finish`."""
        now = self._began = clock.now()
        settings = self._settings
        heartbeat = settings.heartbeat
        every = _look_every(settings.send_timeout, settings.tcp_user_timeout)
        due = self._old_at
        if heartbeat is not None:
            due = min(due, now + heartbeat * chance.uniform(EARLIEST, 1.0))
        if every is not None:
            due = min(due, now + every)
        if due != _NEVER:
            self._appointment = schedule_of(home).add(due, self)
        if self._over:  # it was over before there was an appointment to cancel
            self.finish()

    def finish(self) -> None:
        self._over = True
        if self._appointment is not None:
            self._appointment.cancel()

    def look(self, now: float) -> float | None:
        """Do whatever is due. When to look again, or None for never."""
        if self._over:
            return None
        # As where a middleware has dropped the body, and did not close it.
        if self._connection.abandoned:
            self._stream.cut("client")
            return None
        # A beat first, as it is looked after like anything else that is written.
        beat_at = self._beat_at(now)
        client_at = self._client_at(now)
        if client_at is None:
            self._stream.cut("stalled")
            return None
        if now >= self._old_at:
            self._old_at = _NEVER
            self._stream.retire("age")
        due = min(client_at, self._old_at, beat_at)
        return None if due == _NEVER else due

    __call__ = look

    def _beat_at(self, now: float) -> float:
        """Beat if it is time to. When it is time again."""
        heartbeat = self._settings.heartbeat
        if heartbeat is None:
            return _NEVER
        silent_since = max(self._began, self._buffer.written_at)
        if now - silent_since >= heartbeat * EARLIEST:
            if self._buffer.put_into_silence(BEAT):
                books.count("heartbeats", 1)
            silent_since = now
        return silent_since + heartbeat * chance.uniform(EARLIEST, 1.0)

    def _client_at(self, now: float) -> float | None:
        """When to look at the client again; None if it is stalled."""
        settings = self._settings
        every = _look_every(settings.send_timeout, settings.tcp_user_timeout)
        if every is None:
            return _NEVER
        if self._kernel_may is None:
            # Not when it began: after a restart all begin at once, and that would be
            # four calls more for each.
            self._let_kernel_give_up(True)
        again = now + every
        # At random, or those that a busy moment has brought together stay so.
        rarely = now + every * RARELY * chance.uniform(EARLIEST, 1.0)
        if self._seen is None and self._buffer.written_at < self._took_at:
            return rarely
        # What the kernel has is not with the client yet.
        standing, in_hand = self._connection.standing(), self._buffer.taken_at
        if not standing.unsent and not in_hand:
            self._seen = None
            self._let_kernel_give_up(True)
            if self._buffer.length:
                return again
            self._has_taken(standing, now)
            self._took_at = now
            return rarely
        unsent, acknowledged, silent = standing
        change = (in_hand, unsent) if acknowledged is None else acknowledged
        seen, self._seen = self._seen, (change, None)
        if seen is None:
            self._has_taken(standing, now)
            # What is seen now may have been so since the last look.
            self._took_at = now - every * RARELY
        elif seen[0] != change or self._reads(seen):
            self._let_kernel_give_up(False)
            self._has_taken(standing, now)
            self._took_at = now - every
        elif settings.send_timeout is not None:
            self._let_kernel_give_up(silent > UNANSWERED * (now - self._took_at))
        if settings.send_timeout is None:
            return again
        stalled_at = self._took_at + settings.send_timeout
        if now >= stalled_at:
            stalled_at += self._grace(standing, now)
        return None if now >= stalled_at else min(again, stalled_at)

    def _reads(self, seen: tuple[object, int | None]) -> bool:
        """Whether the client reads, while its kernel acknowledges nothing more."""
        change, before = seen
        unread = self._connection.unread()
        self._seen = (change, unread)
        return unread is not None and before is not None and unread != before

    def _has_taken(self, standing: Standing, now: float) -> None:
        """The client has taken something, or all."""
        taken = self._taken(standing)
        # Of so little it need not be known.
        if taken - self._read > SLOWEST:
            since = max(self._took_at, self._began)
            read = self._read + round(SLOWEST * (now - since))
            most = KEPT + SLOWEST * (PATIENCE - 1) * (self._settings.send_timeout or 0.0)
            self._read = min(taken, max(read, taken - round(most)))

    def _taken(self, standing: Standing) -> int:
        """Bytes that the client's kernel has got."""
        if standing.acknowledged is not None:
            return standing.acknowledged
        _, handed_over = self._buffer.sent()
        return max(0, handed_over - (standing.unsent or 0))

    def _grace(self, standing: Standing, now: float) -> float:
        """Seconds beyond the send timeout in which the client may be reading what it has."""
        if standing.unsent is None or standing.silent > UNANSWERED * (now - self._took_at):
            return 0.0
        held = self._taken(standing) - self._read
        if self._seen is not None and self._seen[1] is not None:
            # It does not read this. What it has read it may have to hand on, as a proxy has.
            held -= self._seen[1]
        timeout = self._settings.send_timeout or 0.0
        return min(max(held, 0) / SLOWEST, (PATIENCE - 1) * timeout)

    def _let_kernel_give_up(self, it_may: bool) -> None:
        user_timeout = self._settings.tcp_user_timeout
        if user_timeout is not None and it_may != self._kernel_may:
            self._kernel_may = it_may
            if it_may:
                self._connection.give_up_after(user_timeout)
            else:
                self._connection.bear_with()


@functools.lru_cache
def _look_every(send: float | None, user: float | None) -> float | None:
    """Seconds between two looks at a client, of its two timeouts; None where none are needed."""
    if send is None or user is None:
        only = user if send is None else send
        return None if only is None else only / LOOKS
    return min(send, user) / LOOKS
