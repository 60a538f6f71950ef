"""Keeper: what this process does for runs while they go on.

It renews the leases of the runs that it produces. It ends the runs that it streams if their
producers have died. It closes the source of a run that another process has stopped: at once, as all
processes with producers follow one channel, or when a lease cannot be renewed. It tells the
producers' processes that a run is watched here, and stops a run that nobody watches.
"""

import atexit
import json
import os
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from .brokers.broker import Bounds, BrokerError, Position, Refused, Terms
from .channels.exchange import Exchange
from .channels.tasks import spawn, start_again
from .http.registry import registry
from .producer import Producer
from .run_log import LEASE, OnDisconnect, RunLog
from .runtime.clock import clock
from .runtime.forking import process
from .runtime.loop import logger
from .runtime.threads import new_lock
from .stream import SseStream
from .wire import Decoder, encode

#: Seconds between two beats of a keeper.
BEAT = 0.5

#: Seconds for which a run counts as watched after its watcher's process has last said so.
WATCHED = 2.0

#: The channel on which the stopping of runs is told, its history, and seconds until it is deleted.
STOPS, STOPS_HISTORY, STOPS_TTL = "run-stops", 1000, 60.0

#: Seconds that a process has to stop, if it is no worker of gunicorn.
GRACE = 5.0

#: The last seconds of these, in which the rest of the runs are ended as lost.
LAST = 2.0


class Keeper:
    """The keeper of the runs in *exchange*. A run without watchers is stopped after *grace*."""

    def __init__(self, exchange: Exchange, grace: float, lost: Callable[[], bytes | None]) -> None:
        self._exchange = exchange
        self._grace = grace
        self._lost = lost
        # Guards all fields. Nobody holds it while waiting.
        self._lock = new_lock()
        self._begin()
        _keepers.add(self)

    def _begin(self) -> None:
        self._producers: dict[Producer, OnDisconnect] = {}
        # When each run that stops without watchers was last watched.
        self._watched_at: dict[Producer, float] = {}
        self._watched: Counter[str] = Counter()
        self._cancels: set[str] = set()
        self._is_beating = False
        self._stops: SseStream | None = None
        # Runs are not judged before this time: their producers could not renew their leases.
        self._judges_from = 0.0
        #: When this process was found to be stopping; None before.
        self.stopping_since: float | None = None

    def forked(self) -> None:
        """This process is a child: the runs belong to its parent."""
        self._lock = new_lock()
        self._begin()

    # -- producers

    def add(self, producer: Producer, on_disconnect: OnDisconnect) -> None:
        """Keep the run of *producer* until `remove`."""
        with self._lock:
            self._producers[producer] = on_disconnect
            self._watched_at[producer] = clock.real()
            follows = self._stops is None
            if follows:
                self._stops = SseStream(id_blocks=False)
            stream = self._stops
        if follows and stream is not None:
            stream.pipe(_Stops(self))
            self._exchange.subscribe(stream, (STOPS,), None, 0, None, None)
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

    # -- watchers

    def watch(self, log: RunLog, on_disconnect: OnDisconnect) -> Callable[[], None]:
        """The run of *log* is streamed here. Returns a function to call when it is no more."""
        with self._lock:
            self._watched[log.id] += 1
            if on_disconnect == "cancel":
                self._cancels.add(log.id)
        self._beat_on()

        def leave(*args: object) -> None:
            with self._lock:
                self._watched[log.id] -= 1
                if self._watched[log.id] <= 0:
                    del self._watched[log.id]
                    self._cancels.discard(log.id)

        return leave

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
                if not (self._producers or self._watched):
                    self._is_beating = False
                    return
                producers, watched = list(self._producers.items()), list(self._watched)
                cancels = set(self._cancels)
            if registry.draining and self.stopping_since is None:
                self.stopping_since = clock.real()
            try:
                for producer, on_disconnect in producers:
                    self._renew(producer, on_disconnect)
                for id in watched:
                    self._look(RunLog(self._exchange.broker, id), id in cancels)
            except BrokerError as error:
                # The broker may have been away from the others, too.
                self._judges_from = clock.real() + LEASE
                with self._lock:
                    self._watched_at = dict.fromkeys(self._producers, clock.real())
                logger.debug("runs: %s", error)
            except Exception:
                logger.exception("runs: the keeper failed, and goes on")
            time.sleep(BEAT)

    def _renew(self, producer: Producer, on_disconnect: OnDisconnect) -> None:
        log = producer.log
        if not log.broker.renew(log.name, producer.begin, LEASE):
            producer.stop()
        elif on_disconnect == "cancel" and self._is_left(producer):
            logger.info("the run %r is stopped, as nobody has watched it", log.id)
            producer.cancel()

    def _is_left(self, producer: Producer) -> bool:
        """Whether nobody has watched the run of *producer* for the grace."""
        piece = producer.log.broker.read(_watch_of(producer.log), 0, 0, 0)
        now = clock.real()
        with self._lock:
            if producer not in self._watched_at:
                return False
            if piece.lease is not None and piece.lease > 0:
                self._watched_at[producer] = now
            return now > self._watched_at[producer] + self._grace

    def _look(self, log: RunLog, cancels: bool) -> None:
        """End the run of *log*, which is watched here, if its producer is dead."""
        if cancels:
            self._say_watched(log)
        piece = log.broker.read(log.name, 0, 0, 0)
        lapsed = piece.lease is not None and piece.lease <= 0
        if lapsed and clock.real() > self._judges_from:
            self.end_lapsed(log)

    def end_lapsed(self, log: RunLog) -> None:
        """End the run of *log* as lost, if its producer still counts as dead."""
        state = log.state()
        if state is not None and state.is_lapsed:
            log.end(state.begin, "lost", self._lost(), if_lapsed=True)

    def _say_watched(self, log: RunLog) -> None:
        """Tell the producer's process that the run of *log* is watched."""
        broker, name = log.broker, _watch_of(log)
        for _ in range(2):
            piece = broker.read(name, 0, 1, 1)
            if piece.entries:
                number, _frame, check = piece.entries[0]
                if broker.renew(name, Position(piece.log, number, check), WATCHED):
                    return
            try:
                broker.append(name, b"\0watched", Terms(new=True, lease=WATCHED, ttl=STOPS_TTL))
                return
            except Refused:  # another process was faster
                continue


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


def _watch_of(log: RunLog) -> str:
    """The channel with the lease of those who watch the run of *log*."""
    return f"watch:{log.id}"


_keepers: "weakref.WeakSet[Keeper]" = weakref.WeakSet()


def _after_fork() -> None:
    for keeper in list(_keepers):
        keeper.forked()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _at_exit() -> None:
    """Let the runs of this process end, as long as it may take. Then end the rest as lost."""
    keepers = [each for each in _keepers if each.producers()]
    if not keepers:
        return
    settings = (getattr(each, "cfg", None) for each in process.servers)
    graces = [getattr(each, "graceful_timeout", None) for each in settings]
    grace = max([each for each in graces if isinstance(each, (int, float))], default=GRACE)
    began = min(each.stopping_since or clock.real() for each in keepers)
    while clock.real() < began + grace - LAST and any(each.producers() for each in keepers):
        time.sleep(0.05)
    for producer in [producer for each in keepers for producer in each.producers()]:
        try:
            producer.lose()
        except BrokerError as error:
            logger.warning("the run %r could not be ended: %s", producer.log.id, error)
