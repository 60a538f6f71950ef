"""End the logs whose producers have died.

A producer gives its log a lease, and renews it (see ``brokers.broker`` and ``producing``). Each
process looks at the leased logs of the channels that it streams, when the lease of a log may have
run out. It ends a log with a lapsed lease as lost. The broker lets only one process do so.

A channel without a lease costs nothing here. A channel with a lease costs each process that streams
it one read in the time of the lease.
"""

import itertools
import os
import time
from collections.abc import Callable

from ..brokers.broker import (
    Broker,
    BrokerError,
    ChannelEnded,
    ChannelError,
    Position,
    Refused,
    Slice,
    Terms,
)
from ..runtime.clock import clock
from ..runtime.loop import checkpoint, logger
from ..runtime.threads import new_lock
from ..settings import chance
from .last_message import last_frame, last_message
from .tail import Tails
from .tasks import spawn, start_again

#: Seconds between two looks for logs that are due.
BEAT = 0.5

#: Seconds for which nothing is judged after the broker was away: the producers could not renew
#: their leases.
PARDON = 3.0

#: Seconds for which a log is kept that no stream follows. Its stream may be about to be added.
UNFOLLOWED = 5.0

#: Logs that are looked at before other work has a turn.
TURN = 32

#: The beginning of the name of a log that holds the last message of a lost producer.
LAST_WORDS = "producer:"

#: Makes the last frame of a log that is lost; None for no message.
Lost = Callable[[], bytes | None]


class Leases:
    """The leased logs among those of *tails*, which this process streams.

    *lost* has functions by the beginnings of the names of logs. The other logs have `last_words`.
    """

    def __init__(self, broker: Broker, tails: Tails, lost: dict[str, Lost]) -> None:
        self._broker = broker
        self._tails = tails
        self._lost = lost
        # Guards all fields. Nobody holds it while waiting.
        self._lock = new_lock()
        # When each log is looked at next, and until when it needs no stream.
        self._due: dict[str, float] = {}
        self._kept: dict[str, float] = {}
        self._is_beating = False
        #: Whether a look at leases runs now.
        self.is_looking = False
        self._judges_from = 0.0
        self._process = os.getpid()

    @property
    def is_running(self) -> bool:
        """Whether this process looks at leases."""
        return self._is_beating

    def note(self, name: str, piece: Slice) -> None:
        """Note that *piece* of the channel *name* was read, for a stream of this process."""
        if piece.lease is None or piece.ended or name in self._due:
            return
        with self._lock:
            now = clock.real()
            self._due[name], self._kept[name] = now + piece.lease, now + UNFOLLOWED
            start = not self._is_beating
            self._is_beating = True
        if start:
            spawn(self._beat)

    def forget_all(self) -> None:
        """Look at no lease before the next call of `note`."""
        with self._lock:
            self._due.clear()
            self._kept.clear()

    def _beat(self) -> None:
        try:
            while self._goes_on():
                try:
                    self._look_around()
                except BrokerError as error:
                    self._judges_from = clock.real() + PARDON
                    logger.debug("leases: %s", error)
                except Exception:
                    logger.exception("channels: a look at the leases failed")
                self.is_looking = False
                time.sleep(BEAT * chance.uniform(0.8, 1.0))
        except BaseException as error:
            start_again(self._beat, error)

    def _goes_on(self) -> bool:
        if os.getpid() != self._process:
            return False  # a copy in a child process, which has a listener of its own
        with self._lock:
            now = clock.real()
            for name in [each for each, until in self._kept.items() if until <= now]:
                if self._tails.get(name) is None:
                    self._forget(name)
            self._is_beating = self.is_looking = bool(self._due)
            return self._is_beating

    def _forget(self, name: str) -> None:
        self._due.pop(name, None)
        self._kept.pop(name, None)

    def _look_around(self) -> None:
        """Look at all logs that are due; at any other one, if none is, to see an outage."""
        now = clock.real()
        with self._lock:
            due = [name for name, at in self._due.items() if at <= now]
            names = due or list(itertools.islice(self._due, 1))
        for number, name in enumerate(names, 1):
            try:
                self._look(name)
            except ChannelError as error:  # it concerns no other channel
                logger.debug("leases: %s", error)
            except BrokerError:
                raise
            except Exception:
                logger.exception("channels: the lease of %r could not be looked at", name)
            if number % TURN == 0:
                checkpoint()

    def _look(self, name: str) -> None:
        if name not in self._due:  # it was forgotten meanwhile
            return
        piece = self._broker.read(name, 0, 0, 0)
        with self._lock:
            if piece.lease is None or piece.ended:
                self._forget(name)
                return
            if name not in self._due:
                return
            self._due[name] = clock.real() + max(piece.lease, 0.0)
        if piece.lease <= 0 and clock.real() > self._judges_from:
            frame = self._frame_of(name)
            if end_lapsed(self._broker, name, piece.end, frame):
                logger.warning("channels: the producer of %r is lost: its lease ran out", name)

    def _frame_of(self, name: str) -> bytes | None:
        for prefix, make in self._lost.items():
            if name.startswith(prefix):
                return make()
        return last_words(self._broker, name)[1]


def end_lapsed(broker: Broker, name: str, of: Position, frame: bytes | None) -> bool:
    """End the log of *of* as lost with the message *frame*, if its lease has still lapsed.

    Returns whether this call has ended it.
    """
    terms = Terms(of=of, end=True, reason="lost", if_lapsed=True)
    try:
        broker.append(name, terms.end_frame if frame is None else frame, terms)
    except (ChannelEnded, Refused):
        return False
    return True


def last_words(broker: Broker, name: str) -> tuple[bytes, bytes | None]:
    """The token of the newest producer of the channel *name*, and its last message if it is lost.

    The token is ``b""`` if there is no producer.
    """
    log = LAST_WORDS + name
    state = broker.read(log, 0, 0, 0)
    piece = broker.read(log, max(state.last - 1, 0), 1, 1)
    if not piece.entries:
        return b"", last_frame(last_message, "lost", None)
    token, _, frame = piece.entries[0].frame.partition(b"\n")
    return token, frame or None
