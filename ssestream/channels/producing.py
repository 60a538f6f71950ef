"""The producer of a channel while a block runs: a lease, and the end of the channel.

The lease is of the channel's own log, so that the broker lets nobody end the log too early, and
only one process end it (see ``leases``). The message that tells of a lost producer is kept in a log
beside it: the process that ends the channel may not have the code that makes the message.
"""

import os
import secrets
import threading
import time
from types import TracebackType
from typing import Any

from ..brokers.broker import CONTROL, Bounds, ChannelEnded, Position, Refused, Terms
from ..errors import BrokerError
from ..runtime.clock import clock
from ..runtime.loop import current_loop, logger
from ..runtime.uncopyable import Uncopyable
from .exchange import Exchange
from .last_message import Last, Status, last_frame
from .leases import LAST_WORDS, last_words
from .tasks import spawn

#: How often a lease is renewed in its own time; the seconds between two tries while the broker
#: is away.
RENEWALS, AGAIN = 3, 0.5

#: Seconds between two looks whether the block is over.
LOOK = 0.5

#: Seconds between two looks whether a renewal is over that has begun before the end of the block.
MOMENT = 0.005

#: Seconds for which the last message of a lost producer is kept, after its lease.
KEPT = 7 * 86400.0

#: Seconds for which it is kept after the block.
SOON = 0.001


class Producing(Uncopyable):
    """The context manager of `Channel.producer`, which is described there. It serves one block,
    also when two threads enter it at the same moment.

    *channel* is the handle that the block gets, and *terms* are those of its messages.
    """

    _only_one = "it serves one block. Ask the channel for another producer"

    def __init__(
        self, channel: Any, exchange: Exchange, terms: Terms, lease: float, last: Last, ends: bool
    ) -> None:
        self._channel = channel
        self._name: str = channel.name
        self._exchange = exchange
        self._broker = exchange.broker
        self._terms = terms
        self._lease = lease
        self._last = last
        self._ends = ends
        self._token = secrets.token_hex(8).encode()
        self._process = os.getpid()
        self._begin: Position | None = None
        self._words: Position | None = None
        self._is_over = self._is_renewing = False
        self._unused = threading.Lock()

    def __enter__(self) -> Any:
        if not self._unused.acquire(blocking=False):
            raise RuntimeError("this producer has had its block: make another one")
        try:
            # Call this first: it may start a thread and fail, and then nobody renews the lease.
            current_loop()
            self._take_lease()
        except BaseException:
            self._unused.release()
            raise
        spawn(self._renew)
        return self._channel

    def _take_lease(self) -> None:
        broker, name = self._broker, self._name
        if broker.read(name, 0, 0, 0).ended:
            raise ChannelEnded(name)
        frame = last_frame(self._last, "lost", None) or b""
        # The lease keeps the words for as long as the block runs.
        kept = Terms(bounds=Bounds(1), ttl=KEPT, lease=self._lease)
        self._words = broker.append(LAST_WORDS + name, self._token + b"\n" + frame, kept)
        begin = CONTROL + b"producer " + self._token
        self._begin = broker.append(
            name, begin, Terms(self._terms.bounds, self._terms.ttl, lease=self._lease)
        )
        self._process = os.getpid()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over = True
        if os.getpid() != self._process:
            return  # a child process has left its copy of the block
        # A renewal that comes after the end of the lease would give the channel another one.
        while self._is_renewing:
            time.sleep(MOMENT)
        status: Status = "done"
        if error is not None:
            status = "failed" if isinstance(error, Exception) else "lost"
        try:
            self._end(status, error)
        except BrokerError as failure:
            if error is None:
                raise
            logger.error("the end of %r was not stored: %s", self._name, failure)

    def _end(self, status: Status, error: BaseException | None) -> None:
        """End the channel, or the lease only, unless another producer has taken over."""
        begin, words, broker, name = self._begin, self._words, self._broker, self._name
        if begin is None or words is None or not self._has_words():
            return
        if status == "done" and not self._ends:
            broker.renew(name, begin, None)
        else:
            self._end_channel(begin, status, error)
        # Forget the words, unless they are those of a later block.
        gone = Terms(bounds=Bounds(1), ttl=SOON, of=words, lease=0.0, number=words.number + 1)
        try:
            broker.append(LAST_WORDS + name, b"\n", gone)
        except Refused:
            # A later block began meanwhile. The end of this one may have ended its lease.
            lease = broker.read(LAST_WORDS + name, 0, 0, 0).lease
            if lease is not None and lease > 0:
                broker.renew(name, begin, lease)

    def _end_channel(self, begin: Position, status: Status, error: BaseException | None) -> None:
        """End the channel, if no later block has begun up to this very moment."""
        broker, name = self._broker, self._name
        bounds, ttl = self._terms.bounds, self._terms.ttl
        frame = last_frame(self._last, status, error)
        number = 0
        while True:
            last = broker.read(name, 0, 0, 0).last
            # A later block stores its words, and then an entry. So an end with the next number does
            # not come behind this entry.
            if number == last + 1 or not self._has_words():
                return  # the app has deleted the channel, or a later block has it
            number = last + 1
            terms = Terms(bounds, ttl, of=begin, number=number, end=True, reason=status)
            try:
                broker.append(name, terms.end_frame if frame is None else frame, terms)
                return
            except ChannelEnded:
                return  # the app has ended it, or others have told that it is lost
            except Refused:
                pass  # somebody has published meanwhile

    def _has_words(self) -> bool:
        """Whether no other producer has taken over."""
        return last_words(self._broker, self._name)[0] == self._token

    def _renew(self) -> None:
        """Renew the lease until the block is over, or the channel is not this producer's."""
        pause = self._lease / RENEWALS
        while self._goes_on_after(pause) and os.getpid() == self._process:
            pause = self._lease / RENEWALS
            try:
                # First say so, and then look: the end of the block does it the other way round.
                self._is_renewing = True
                if self._is_over or not self._renew_once():
                    return
            except BrokerError as error:
                logger.debug("the lease of %r was not renewed: %s", self._name, error)
                pause = min(pause, AGAIN)
            except Exception:
                logger.exception("the lease of %r was not renewed", self._name)
            finally:
                self._is_renewing = False

    def _goes_on_after(self, seconds: float) -> bool:
        """Wait so long, or until the block is over. Returns whether the block goes on."""
        # A threading.Event would hold up all greenlets of a process in which gevent has patched
        # ``time`` and not ``threading``.
        until = clock.real() + seconds
        while not self._is_over and (left := until - clock.real()) > 0:
            time.sleep(min(left, LOOK))
        return not self._is_over

    def _renew_once(self) -> bool:
        """Renew the lease. Returns whether to renew it again."""
        begin, words, broker, name = self._begin, self._words, self._broker, self._name
        if begin is None or words is None or not self._has_words():
            return False
        broker.renew(LAST_WORDS + name, words, self._lease)
        if broker.renew(name, begin, self._lease):
            return True
        if not self._is_over:
            logger.warning("%r has ended or was deleted while its producer goes on", name)
        return False
