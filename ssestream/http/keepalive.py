"""The periodic care of one open stream: send heartbeats; end it when it is stalled or too old."""

import functools

from ..runtime.clock import clock
from ..runtime.loop import Loop
from ..runtime.wheel import TimerHandle, wheel_of
from ..settings import Settings, chance
from ..wire import HEARTBEAT
from .connection import Connection, Standing
from .output import OutputBuffer
from .registry import Open, registry

#: A heartbeat comes at a random time between this part of its interval and the whole.
#: Otherwise streams that fell silent together (after a broadcast or a restart) would send
#: their heartbeats together for ever. Rare looks and the maximum age are spread in the same
#: way.
EARLIEST = 0.8

#: How often a client is looked at within its send timeout.
LOOKS = 8

#: A client that has taken everything is looked at this many times less often. At any time,
#: most clients have taken everything.
RARELY = 2

#: Bytes a second that a client must read at least, where its reading cannot be seen. A full
#: receive buffer hides the reading: the client must read much, on loopback 100 KB, before
#: its kernel asks for more.
SLOWEST = 4096

#: The size of most clients' receive buffers, in bytes.
KEPT = 256 * 1024

#: A client that may still be reading from its receive buffer gets at most this many times
#: its send timeout.
PATIENCE = 4

#: A client does not answer if this many probes or retransmissions in a row have had no
#: answer. One may just be on its way. A kernel without room is asked after 0.2 s, 0.4 s,
#: 0.8 s and so on, up to two minutes, and answers each time.
UNANSWERED = 2

#: Linux does not count retransmissions to a kernel without room. Then a client does not
#: answer if its kernel was silent for this part of the time.
SILENT = 0.6

_NEVER = float("inf")


class Keepalive:
    """Takes care of one stream from its opening to its end.

    `look` runs in the loop of the stream. The wheel calls the object itself, as a
    bound method would be one more object for each stream.
    """

    __slots__ = (
        "_began",
        "_buffer",
        "_connection",
        "_is_probed",
        "_old_at",
        "_over",
        "_read",
        "_seen",
        "_settings",
        "_stream",
        "_timer",
        "_took_at",
    )

    def __init__(
        self, stream: Open, buffer: OutputBuffer, connection: Connection, settings: Settings
    ) -> None:
        self._stream = stream
        self._buffer = buffer
        self._connection = connection
        self._settings = settings
        # Whether the kernel sends keep-alive probes.
        self._is_probed = False
        self._began = 0.0
        self._old_at = _NEVER
        if settings.max_age is not None:
            self._old_at = clock.now() + settings.max_age * chance.uniform(EARLIEST, 1.0)
        # When the client last took something or had nothing to take, as far as looks tell.
        self._took_at = 0.0
        # The last look's result while something waits for the client; None while nothing
        # does. The first value changes whenever the client takes something. The second is
        # the number of bytes in its receive buffer, or None where unknown.
        self._seen: tuple[object, int | None] | None = None
        # How many bytes the client has read at least, if it reads SLOWEST bytes a second. It
        # is never more than the client's kernel has taken.
        self._read = 0
        self._timer: TimerHandle | None = None
        self._over = False

    def begin(self, loop: Loop) -> None:
        """Take care of the stream until `finish`."""
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
            self._timer = wheel_of(loop).add(due, self)
        if self._over:  # `finish` was called before there was a timer to cancel
            self.finish()

    def finish(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def look(self, now: float) -> float | None:
        """Do all that is due at time *now*. Return when to look again, or None for never."""
        if self._over:
            return None
        # The server has closed the socket without a word: perhaps a middleware has dropped
        # the response's body without closing it.
        if self._connection.abandoned:
            self._stream.cut("client")
            return None
        # First the heartbeat: the look at the client then counts it like any other frame.
        beat_at = self._beat(now)
        client_at = self._check_client(now)
        if client_at is None:
            return None
        if now >= self._old_at:
            self._old_at = _NEVER
            self._stream.retire("age")
        due = min(client_at, self._old_at, beat_at)
        return None if due == _NEVER else due

    __call__ = look

    def _beat(self, now: float) -> float:
        """Send a heartbeat if it is due. Return when the next one is due."""
        heartbeat = self._settings.heartbeat
        if heartbeat is None:
            return _NEVER
        silent_since = max(self._began, self._buffer.written_at)
        if now - silent_since >= heartbeat * EARLIEST:
            if self._buffer.put_into_silence(HEARTBEAT):
                registry.count("heartbeats", 1)
            silent_since = now
        return silent_since + heartbeat * chance.uniform(EARLIEST, 1.0)

    def _check_client(self, now: float) -> float | None:
        """Look at the client. Return when to look again, or None if the client was cut."""
        settings = self._settings
        every = _look_every(settings.send_timeout, settings.tcp_user_timeout)
        if every is None:
            return _NEVER
        if not self._is_probed:
            # Not in `begin`: after a restart all streams begin at once, and this costs three
            # system calls for each.
            self._is_probed = True
            if settings.tcp_user_timeout is not None:
                self._connection.give_up_after(settings.tcp_user_timeout)
        again = now + every
        # At random: otherwise streams that a busy moment has brought together stay together.
        rarely = now + every * RARELY * chance.uniform(EARLIEST, 1.0)
        if self._seen is None and self._buffer.written_at < self._took_at:
            return rarely
        # The client does not have yet: the chunk that the server has in hand, and the bytes that
        # the client's kernel has not acknowledged.
        standing, in_hand = self._connection.standing(), self._buffer.taken_at
        if not standing.unsent and not in_hand:
            self._seen = None
            if self._buffer.length:
                return again
            self._has_taken(standing, now)
            self._took_at = now
            return rarely
        unsent, acknowledged = standing[:2]
        change = (in_hand, unsent) if acknowledged is None else acknowledged
        seen, self._seen = self._seen, (change, None)
        if seen is None:
            self._has_taken(standing, now)
            # The client may have taken nothing since the last look.
            self._took_at = now - every * RARELY
        elif seen[0] != change or self._reads(seen):
            self._has_taken(standing, now)
            self._took_at = now - every
        if settings.tcp_user_timeout is not None and self._is_unanswered(standing, now):
            silent_since = max(self._took_at, now - standing.silent)
            gone_at = silent_since + settings.tcp_user_timeout
            if now >= gone_at:
                self._stream.cut("client")
                return None
            again = min(again, gone_at)
        if settings.send_timeout is None:
            return again
        stalled_at = self._took_at + settings.send_timeout
        if now >= stalled_at:
            stalled_at += self._grace(standing, now)
        if now >= stalled_at:
            self._stream.cut("stalled")
            return None
        return min(again, stalled_at)

    def _reads(self, seen: tuple[object, int | None]) -> bool:
        """Whether the client has read something since, though its kernel takes nothing more."""
        change, before = seen
        unread = self._connection.unread()
        self._seen = (change, unread)
        return unread is not None and before is not None and unread != before

    def _has_taken(self, standing: Standing, now: float) -> None:
        """Raise `_read`, as the client has taken something."""
        # A smaller difference gives less than a second of grace: leave it.
        if self._taken(standing) - self._read <= SLOWEST:
            return
        # `most` is for bytes that a proxy has read and passes on. So do not count the bytes that
        # are known to be unread: a receive buffer on this host may hold megabytes.
        taken = self._taken(standing) - self._unread()
        since = max(self._took_at, self._began)
        read = self._read + round(SLOWEST * (now - since))
        most = KEPT + SLOWEST * (PATIENCE - 1) * (self._settings.send_timeout or 0.0)
        self._read = min(taken, max(read, taken - round(most)))

    def _taken(self, standing: Standing) -> int:
        """How many bytes the client's kernel has got."""
        if standing.acknowledged is not None:
            return standing.acknowledged
        _, handed_over = self._buffer.sent()
        return max(0, handed_over - (standing.unsent or 0))

    def _unread(self) -> int:
        """How many bytes of the client's receive buffer it has not read, where this is known."""
        return self._connection.unread() or 0

    def _grace(self, standing: Standing, now: float) -> float:
        """Return how many seconds beyond the send timeout the client may still be reading."""
        if standing.unsent is None or self._is_unanswered(standing, now):
            return 0.0
        # The client does not read the unread bytes. It has read the other bytes, and may still be
        # passing them on, as a proxy does.
        held = self._taken(standing) - self._unread() - self._read
        timeout = self._settings.send_timeout or 0.0
        return min(max(held, 0) / SLOWEST, (PATIENCE - 1) * timeout)

    def _is_unanswered(self, standing: Standing, now: float) -> bool:
        """Return whether even the client's kernel does not answer."""
        if standing.asked >= UNANSWERED:
            return True
        return standing.on_its_way and standing.silent > SILENT * (now - self._took_at)


@functools.lru_cache
def _look_every(send: float | None, user: float | None) -> float | None:
    """Seconds between two looks at a client, from its send and user timeouts, in seconds.

    None if both timeouts are None: then nobody needs to look.
    """
    if send is None or user is None:
        only = user if send is None else send
        return None if only is None else only / LOOKS
    return min(send, user) / LOOKS
