"""Keeper: what this process does for the runs that it produces.

It renews their leases. It closes the source of a run that another process has stopped: at once, as
all processes with producers follow one channel, or when a lease cannot be renewed. It stops a run
that nobody watches. A run whose producer has died is ended by a process that streams
it (see ``channels.leases``).
"""

import contextlib
import json
import os
import time
import weakref
from typing import Any

from .brokers.broker import Bounds, BrokerError, ChannelError, Terms
from .channels.exchange import Exchange
from .channels.tasks import spawn, start_again
from .channels.watchers import RENEW
from .http.registry import registry
from .producer import Producer
from .run_log import LEASE, OnDisconnect, RunLog
from .runtime.clock import clock
from .runtime.exiting import before_exit, worker
from .runtime.loop import logger
from .runtime.threads import new_lock
from .runtime.weak import snapshot
from .stream import SseStream
from .wire import Decoder, encode

#: Seconds between two beats of a keeper.
BEAT = 0.5

#: The channel on which the stopping of runs is told, its history, and seconds until it is deleted.
STOPS, STOPS_HISTORY, STOPS_TTL = "run-stops", 1000, 60.0

#: Seconds that a process has to stop, if it is no worker of gunicorn.
GRACE = 5.0

#: The last of the seconds that a process has to stop: the runs that go on are ended as lost.
LAST = 2.0


class Keeper:
    """The keeper of the runs of *exchange*. A run without watchers is stopped after *grace*."""

    def __init__(self, exchange: Exchange, grace: float) -> None:
        self._exchange = exchange
        self._grace = grace
        # Guards all fields. Nobody holds it while waiting.
        self._lock = new_lock()
        self._reset()
        keepers.add(self)

    def _reset(self) -> None:
        self._producers: dict[Producer, OnDisconnect] = {}
        # When each run that stops without watchers was last watched.
        self._watched_at: dict[Producer, float] = {}
        self._is_beating = False
        self._stops: SseStream | None = None
        #: When this process was found to be stopping; None before.
        self.stopping_since: float | None = None

    def forked(self) -> None:
        """This process is a child: the runs belong to its parent."""
        self._lock = new_lock()
        self._reset()

    # -- producers

    def add(self, producer: Producer, on_disconnect: OnDisconnect) -> None:
        """Keep the run of *producer* until `remove`, which follows a failure of this call, too."""
        worker.find()
        before_exit(_let_runs_end)
        with self._lock:
            self._producers[producer] = on_disconnect
            self._watched_at[producer] = clock.real()
            follows = self._stops is None
            if follows:
                self._stops = SseStream(id_blocks=False)
            stream = self._stops
        if follows and stream is not None:
            try:
                stream.pipe(_Stops(self))
                self._exchange.subscribe(stream, (STOPS,), None, 0, None, None)
            except BaseException:
                with self._lock:
                    self._stops = None
                stream.destroy()
                raise
        self._beat_on()

    def remove(self, producer: Producer) -> None:
        """The source of *producer* is closed."""
        with self._lock:
            self._producers.pop(producer, None)
            self._watched_at.pop(producer, None)
            stream = None if self._producers else self._stops
            if stream is not None:
                self._stops = None
        if stream is not None:
            stream.destroy()

    def producers(self) -> list[Producer]:
        """The producers of this process."""
        with self._lock:
            return list(self._producers)

    def lose_all(self) -> None:
        """End all runs of this process as lost."""
        producers = self.producers()
        while producers:
            producer = producers.pop()
            try:
                producer.lose()
            except BrokerError as error:
                logger.warning("the run %r could not be ended: %s", producer.log.id, error)
                if not isinstance(error, ChannelError):
                    # The broker is away. Each try may take seconds, and the process has few.
                    if producers:
                        logger.warning("%d other runs were not ended either", len(producers))
                    return

    def tell_stopped(self, log: RunLog, identity: str) -> None:
        """Let the process that produces the run of *log* close its source."""
        if self.stopped(log.id, identity):
            return
        frame = encode({"data": {"id": log.id, "log": identity}})
        terms = Terms(bounds=Bounds(STOPS_HISTORY), ttl=STOPS_TTL)
        self._exchange.broker.append(STOPS, frame, terms)

    def stopped(self, id: str, identity: str) -> bool:
        """Close the source of the run *id*, if this process produces it."""
        found = [
            each for each in self.producers() if each.log.id == id and each.begin.log == identity
        ]
        for producer in found:
            producer.stop()
        return bool(found)

    # -- the beats

    def _beat_on(self) -> None:
        with self._lock:
            start = not self._is_beating
            self._is_beating = True
        if start:
            spawn(self._beat)

    def _beat(self) -> None:
        try:
            self._beat_while_needed()
        except BaseException as error:
            start_again(self._beat, error)

    def _beat_while_needed(self) -> None:
        while True:
            with self._lock:
                if not self._producers:
                    self._is_beating = False
                    return
                producers = list(self._producers.items())
            if (registry.draining or worker.is_stopping) and self.stopping_since is None:
                self.stopping_since = clock.real()
            for producer, on_disconnect in producers:
                try:
                    self._renew(producer, on_disconnect)
                except BrokerError as error:
                    logger.debug("runs: %s", error)
                    self._put_off(producer)
                    break
                except Exception:
                    logger.exception("runs: the lease of %r was not renewed", producer.log.id)
            time.sleep(BEAT)

    def _put_off(self, producer: Producer) -> None:
        """The broker was away as the lease of *producer* was to be renewed."""
        with self._lock:
            # It may have been away from the others, too, and they count again.
            self._watched_at = dict.fromkeys(self._producers, clock.real() + RENEW)
            # Or it fails for this run alone: the next beat begins with the others.
            if producer in self._producers:
                self._producers[producer] = self._producers.pop(producer)

    def _renew(self, producer: Producer, on_disconnect: OnDisconnect) -> None:
        log = producer.log
        try:
            if not log.broker.renew(log.name, producer.begin, LEASE):
                producer.stop()
            elif on_disconnect == "cancel" and self._is_unwatched(producer):
                logger.info("the run %r is stopped, as nobody has watched it", log.id)
                producer.cancel()
        except ChannelError as error:  # it concerns no other run
            logger.debug("runs: %s", error)

    def _is_unwatched(self, producer: Producer) -> bool:
        """Whether nobody has watched the run of *producer* for the grace."""
        count = self._exchange.watchers.count(producer.log.name)
        now = clock.real()
        with self._lock:
            if producer not in self._watched_at:
                return False
            if count:
                self._watched_at[producer] = now
            return now > self._watched_at[producer] + self._grace


class _Stops:
    """The destination of the stream that tells which runs were stopped."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = weakref.ref(keeper)
        self._decoder = Decoder()

    def write(self, chunk: bytes) -> bool:
        keeper = self._keeper()
        for message in self._decoder.feed(chunk):
            if keeper is not None and "data" in message:
                told: Any = json.loads(str(message["data"]))
                keeper.stopped(told["id"], told["log"])
        return True


#: The keepers of this process.
keepers: "weakref.WeakSet[Keeper]" = weakref.WeakSet()


def _after_fork() -> None:
    for keeper in snapshot(lambda: keepers):
        keeper.forked()


os.register_at_fork(after_in_child=_after_fork)


def _let_runs_end() -> None:
    """Let the runs of this process end, as long as it may take. Then end the rest as lost."""
    busy = [each for each in snapshot(lambda: keepers) if each.producers()]
    if not busy:
        return
    began = min(each.stopping_since or clock.real() for each in busy)
    with contextlib.suppress(SystemExit):
        _wait_for(busy, began)
    for each in busy:
        try:
            each.lose_all()
        except SystemExit:
            # A gevent worker of gunicorn that ends at once raises this in the main greenlet, a
            # moment after the process has begun to end.
            each.lose_all()


def _wait_for(busy: list[Keeper], began: float) -> None:
    """Wait for the runs of *busy*, in a process that stops since *began*."""
    while any(each.producers() for each in busy):
        grace = GRACE if worker.grace is None else worker.grace
        if clock.real() >= began + grace - LAST:
            return
        worker.live()
        time.sleep(0.05)
