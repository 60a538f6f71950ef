"""What an open stream needs now and then: a beat, or an end if it is stalled or old."""

import time
from typing import Protocol

from .buffer import FrameBuffer
from .connection import Connection
from .hub import Home
from .schedule import Appointment, schedule_of
from .settings import Settings, chance
from .statistics import Cause, books

#: What is sent into silence: a comment without the blank line, as some clients
#: choke on an empty event.
BEAT = b":\n"

#: A beat comes after this part of the interval or later, at random, so that
#: streams which fell silent together (a broadcast, a restart) do not beat
#: together for ever. Old streams end spread over the same part of their age.
EARLIEST = 0.8

_NEVER = float("inf")


class Kept(Protocol):
    """The stream, as far as its upkeep knows it."""

    def retire(self, cause: Cause) -> None:
        """Tell the client when to come back, and end."""

    def cut(self, cause: Cause) -> None:
        """End at once."""


class Upkeep:
    """That of one stream, from when it is opened. `look` runs in its home's loop."""

    def __init__(
        self, stream: Kept, buffer: FrameBuffer, connection: Connection, settings: Settings
    ) -> None:
        self._stream = stream
        self._buffer = buffer
        self._connection = connection
        self._heartbeat = settings.heartbeat
        self._send_timeout = settings.send_timeout
        self._began = 0.0
        self._old_at = _NEVER
        if settings.max_age is not None:
            self._old_at = time.monotonic() + settings.max_age * chance.uniform(EARLIEST, 1.0)
        # When the client last took something, as far as looks tell, and what they
        # saw then.
        self._taking_at = 0.0
        self._seen: tuple[float | None, ...] | None = None
        self._appointment: Appointment | None = None
        self._over = False

    def begin(self, home: Home) -> None:
        """Look after the stream until `finish`."""
        self._began = time.monotonic()
        due = self.look(self._began)
        if due is not None:
            self._appointment = schedule_of(home).add(due, self.look)
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
        if now >= (stalled_at := self._stalled_at(now)):
            self._stream.cut("stalled")
            return None
        if now >= self._old_at:
            self._old_at = _NEVER
            self._stream.retire("age")
        due = min(stalled_at, self._old_at, self._beat_at(now))
        return None if due == _NEVER else due

    def _beat_at(self, now: float) -> float:
        """Beat if it is time to. When it is time again."""
        if self._heartbeat is None:
            return _NEVER
        silent_since = max(self._began, self._buffer.written_at)
        if now - silent_since >= self._heartbeat * EARLIEST:
            if self._buffer.put_into_silence(BEAT):
                books.count(heartbeats=1)
            silent_since = now
        return silent_since + self._heartbeat * chance.uniform(EARLIEST, 1.0)

    def _stalled_at(self, now: float) -> float:
        """When the client counts as stalled, if it takes nothing until then."""
        if self._send_timeout is None:
            return _NEVER
        # Looked at twice within the time: once to see what there is, once whether
        # the client has taken of it. What the kernel has is not with the client
        # yet, and on a good line that is a lot.
        half = self._send_timeout / 2
        unsent, in_hand = self._connection.unsent(), self._buffer.taken_at
        if not unsent and not in_hand:
            self._seen = None
            return now + half
        written = self._connection.written()
        seen = (in_hand, unsent) if unsent is None or written is None else (written - unsent,)
        if seen != self._seen:
            self._taking_at, self._seen = now, seen
        return self._taking_at + half
