"""`RedisBroker`: the contract of a broker, kept with one Redis server or several."""

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gevent import monkey
from redis import exceptions

from ...runtime.clock import clock
from ...runtime.forking import AtFork
from ...runtime.threads import new_lock
from ..broker import (
    CHECK_LENGTH,
    CONTROL,
    CONTROLS,
    HISTORY,
    PLAIN,
    WAITED,
    WAITED_BYTES,
    Bounds,
    BrokerError,
    ChannelEnded,
    ChannelError,
    News,
    Position,
    Refused,
    Slice,
    Terms,
)
from ..waker import PollableWaker
from .announcement import MOST_BYTES
from .client import opener
from .errors import is_of_channel, may_pass
from .explained import explained
from .follow_requests import FollowRequests
from .held import Held
from .keys import (
    bounds_key_of,
    bounds_of,
    key_of,
    slice_of,
    written_bounds,
    written_terms,
    written_time,
)
from .listener import Listener
from .pool import Pool
from .servers import Nodes, OneServer
from .target import parse

_T = TypeVar("_T")

# The unpatched class, which is local to a real thread. gevent's is local to a greenlet.
_Local: Any = monkey.get_original("_thread", "_local")

#: Seconds in which `RedisBroker.append` and `RedisBroker.read` wait for a free connection and
#: begin new tries. Each try takes at most `ANSWER` to connect and `ANSWER` for the answer, so
#: both methods raise within 5 s.
TRYING = 3.0

#: Seconds in which each read is tried only once, after a read has failed for `TRYING`
#: seconds. Otherwise each caller would wait for the same server in turn.
AWAY = 1.0

#: Seconds between two tries.
PAUSE = 0.05

#: Seconds for which a log with an age stays in Redis when its newest entry is too old: without
#: a follower in milliseconds, and while a process follows the log.
GRACE, HOLD = 5000, 600.0

#: The channel that `RedisBroker.ping` reads. Nobody need publish to it.
PINGED = "ssestream/ping"


class RedisBroker:
    """Logs in Redis 5 and later, or Valkey (see `broker.Broker`). Tested: Redis 7.0, Valkey 9.1.

    *url* has one of the following forms. redis-py gets the options in its query, such as
    ``?ssl_ca_certs=/etc/ca.pem``.

    ``redis://[user:password@]host:6379/0``, ``rediss://`` for TLS, ``unix:///path?db=0``
        One server, with the URL as redis-py defines it. Tested with each form, Valkey without
        TLS, and with a password.

    ``redis+sentinel://[user:password@]host:26379,host:26379/service[/db]``
        The server that the sentinels name as the master. ``?sentinel_username=`` and
        ``?sentinel_password=`` are the account at the sentinels. ``rediss+sentinel://`` uses
        TLS to the sentinels and to the master. Tested with one sentinel and a failover; not
        tested with an account at the sentinels or with TLS.

    ``redis+cluster://[user:password@]host:7000``
        A cluster, found through any of its nodes; ``rediss+cluster://`` uses TLS. From Redis 7
        on, each node announces the events of its channels. Before Redis 7, the broker polls the
        nodes ten times a second, for each followed channel. While the slot of a channel moves,
        Redis appends nothing to it, and `append` tries again for 3 s. Tested with three masters
        of which one is killed, with slots that move, and without the commands of sharded Pub/Sub;
        not tested with replicas or with TLS.

    Each append is announced by Pub/Sub, and each process subscribes to the channels that it
    follows. So an event costs the same with any number of channels. An event that is appended
    without an announcement, such as by a process with an earlier version, comes some seconds late
    (see ``listener``). With an ACL, the account needs the Pub/Sub channels ``&ssestream:*``.

    A log with an age expires in Redis a few seconds after its newest entry has become too old,
    or some minutes after that while a process follows the log.

    Redis may hold a few more entries of a log than the log keeps. No reader gets such entries.

    Redis may lose entries that it has acknowledged. A machine that fails loses the newest
    entries, unless Redis is configured with ``appendfsync always``. A master that fails loses
    the entries that its replica does not have yet.

    Each process uses at most 50 connections at once, or the number in ``?max_connections=``,
    and one more connection to listen. With gevent's patches this holds for each thread. If all
    connections are in use, a caller waits for a free one. In a cluster, the number is for all
    nodes together.

    `append` and `read` raise `BrokerError` within 5 s, and `wait` within 7 s. Each further
    sentinel or cluster node that does not answer adds a second.
    """

    shared = True

    def __init__(
        self, url: str, history: int | None = None, history_age: float | None = None
    ) -> None:
        self._target = parse(url)
        self._open = opener(self._target)
        self._asked, self._warned = Bounds(history, history_age), False
        # The connections to close when the broker is dropped.
        self._held = Held()
        weakref.finalize(self, self._held.close)
        self._begin()
        # How often `close` was called.
        self._closed = 0
        # The time until which each read is tried only once.
        self._tried_once_until = 0.0
        _brokers.add(self)

    def _begin(self) -> None:
        #: Guards the waker and the held connections. Held for a few instructions only.
        self.lock = new_lock()
        self._waker: PollableWaker | None = None
        # Whether `wake` was called since `wait` last asked.
        self._woken = False
        # Whether the waker was woken for a change of what is followed, since then.
        self._hurries = False
        self._requests = FollowRequests()
        self._forget()

    def _forget(self) -> None:
        """Forget all connections; the next calls make new ones."""
        # Two holders, and one of them is used. The process has one pool. A patched process has
        # one pool for each thread, because a gevent socket works only in its own thread.
        self._common: dict[str, Pool] = {}
        self._own: Any = _Local()
        self._held.forget()

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        token, asked = os.urandom(8), terms.bounds or self._asked
        keys = [key_of(channel), f"{key_of(channel)}:{token.hex()}", bounds_key_of(channel)]
        rest = [int(frame.startswith(CONTROL)), *written_bounds(asked), HISTORY, CONTROLS]
        check = token.hex()[:CHECK_LENGTH]

        def add(again: int) -> list[bytes]:
            pool = self._pool()
            announced = [*pool.announces(channel), MOST_BYTES, check, GRACE]
            args = [frame, token, again, *rest, *announced, *written_terms(terms)]
            added: list[bytes] = pool.append(keys, args)
            return added

        added, *kept, refusal = self._try(add, TRYING, channel)
        if added in (b"refused", b"ended"):
            raise Refused(channel) if added == b"refused" else ChannelEnded(channel)
        if not self._warned:
            self._warned = bounds_of(*kept).warn_of(asked, channel)
        self._note(refusal)
        log, number = added.decode().split("-")
        return Position(log, int(number), check)

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        def read(again: int) -> Slice:
            return self._news({channel: Position("*", after)}, limit, max_bytes)[channel]

        patience = 0 if clock.real() < self._tried_once_until else TRYING
        try:
            piece = self._try(read, patience, channel)
        except BrokerError as error:
            if patience and may_pass(error.__cause__):
                self._tried_once_until = clock.real() + AWAY
            raise
        self._tried_once_until = 0.0
        return piece

    def renew(self, channel: str, of: Position, lease: float | None) -> bool:
        keys = [key_of(channel), bounds_key_of(channel)]
        args = [of.log, written_time(lease)]
        return bool(self._try(lambda again: self._pool().renew(keys, args), TRYING, channel))

    def delete(self, channel: str) -> None:
        keys = [key_of(channel), bounds_key_of(channel)]

        # Another try must not delete what was published after a try whose answer was lost.
        of = self.read(channel, 0, 0, 0).log

        def delete(again: int) -> bytes:
            return bytes(self._pool().delete(keys, [*self._pool().announces(channel), of]))

        self._note(self._try(delete, TRYING, channel))

    def _note(self, refusal: bytes) -> None:
        """Note that Redis has not announced a change; *refusal* is empty if it has."""
        if refusal:
            self._pool().refused(refusal.decode("utf-8", "replace"))

    def keep(self, channel: str, bounds: Bounds, ttl: float | None = None) -> Bounds:
        keys = [key_of(channel), bounds_key_of(channel)]
        asked = [*written_bounds(bounds), HISTORY, written_time(ttl), int(HOLD * 1000)]
        kept = self._try(lambda again: self._pool().keep(keys, asked), TRYING, channel)
        return bounds_of(*kept)

    def ping(self) -> None:
        # A read, and not a PING: an account that may do nothing else may send a PING. An account
        # that may not use this one key may still use the keys of channels.
        with contextlib.suppress(ChannelError), self._errors(PINGED):
            self._news({PINGED: Position("*", 0)}, 0, 0)

    def follow(self, channel: str, position: Position) -> None:
        self._requests.follow(channel, position)
        self._hurry()

    def unfollow(self, channel: str) -> None:
        self._requests.unfollow(channel)
        self._hurry()

    def wait(self) -> News:
        listener: Listener | None = None
        try:
            with self._errors():
                waker = self._my_waker()
                with self.lock:
                    listener = self._held.take_listener()
                    closed = self._closed
                pool = self._pool()
                if listener is None or listener.pool is not pool:
                    listener = self._listen(pool)
                    self._held.use_listener(listener)
                found = listener.wait(waker, self._take_wake, self._news_of_each)
        except BaseException:
            if listener is not None:
                listener.close()
            raise
        with self.lock:
            if closed == self._closed:
                self._held.put_listener(listener)
                return found
        listener.close()
        return found

    def wake(self) -> None:
        with self.lock:
            self._woken = True
            waker = self._waker
        # Nobody waits if there is no waker. A new one could fail for lack of file descriptors.
        if waker is not None:
            waker.wake()

    def _hurry(self) -> None:
        """Let a `wait` that has begun heed a change of what is followed."""
        with self.lock:
            waker = None if self._hurries else self._waker
            self._hurries = waker is not None or self._hurries
        if waker is not None:
            waker.wake()

    def _take_wake(self) -> bool:
        """Whether `wake` was called since the last time."""
        with self.lock:
            woken, self._woken, self._hurries = self._woken, False, False
        return woken

    def close(self) -> None:
        with self.lock:
            listener = self._held.take_listener()
            pool = self._holder().get("pool")
            self._forget()
            self._closed += 1
        if listener is not None:
            listener.close()
        if pool is not None:
            pool.close()
        self.wake()

    def _try(self, command: Callable[[int], _T], patience: float, channel: str) -> _T:
        """Call *command* with a connection, and return its result.

        Waits up to *patience* seconds for a free connection. In this time, also calls *command*
        again after an error that may pass. *command* is called with 0 the first time, and later
        with 1, because an earlier call may have taken effect.
        """
        deadline, again = clock.real() + patience, 0
        while True:
            try:
                with self._errors(channel), self._pool().turn(deadline):
                    return command(again)
            except BrokerError as error:
                if not may_pass(error.__cause__) or clock.real() > deadline:
                    raise
            again = 1
            time.sleep(PAUSE)

    def before_fork(self) -> None:
        pass

    def after_fork(self) -> None:
        # The connections belong to the parent. The child drops its copies, so that they close.
        self._held.forked()
        self._begin()

    def _holder(self) -> dict[str, Pool]:
        return vars(self._own) if monkey.is_module_patched("socket") else self._common

    def _pool(self) -> Pool:
        holder = self._holder()
        pool = holder.get("pool")
        if pool is None or pool.process != os.getpid():
            # A client of a cluster connects when it is made, so this must not hold the lock.
            made = Pool(self._open(), self._target.connections)
            with self.lock:
                pool = holder.get("pool")
                if pool is None or pool.process != os.getpid():
                    pool = holder["pool"] = made
                    self._held.put_pool(made)
            # Another thread or greenlet was first; share its pool.
            if pool is not made:
                made.close()
        return pool

    def _listen(self, pool: Pool) -> Listener:
        servers = Nodes(pool.client) if pool.cluster else OneServer(self._open())
        return Listener(pool, servers, self._requests)

    def _my_waker(self) -> PollableWaker:
        with self.lock:
            if self._waker is None:
                self._waker = PollableWaker()
                if self._woken:
                    self._waker.wake()
            return self._waker

    def _news(
        self, positions: Mapping[str, Position], limit: int, max_bytes: int, hold: float = 0.0
    ) -> dict[str, Slice]:
        """A slice of each channel that has news after its position in *positions*.

        A log with another identity or another past is news too.
        """
        pool = self._pool()
        names, found = list(positions), {}
        step = 1 if pool.cluster else len(names) or 1
        for start in range(0, len(names), step):
            some = names[start : start + step]
            keys = [key for name in some for key in (key_of(name), bounds_key_of(name))]
            args: list[Any] = [limit, max_bytes, CHECK_LENGTH, *written_bounds(self._asked)]
            args.append(int(hold * 1000))
            for name in some:
                args += positions[name]
            for index, *answer in pool.read(keys, args):
                found[some[index - 1]] = slice_of(*answer)
        return found

    def _news_of_each(self, positions: Mapping[str, Position]) -> News:
        """The same as `_news`, with a `ChannelError` in the place of a channel that fails.

        An error of a script does not name its key. The channels are halved until the channel
        that fails is alone.
        """
        try:
            return dict(self._news(positions, WAITED, WAITED_BYTES, HOLD))
        except exceptions.ResponseError as error:
            if not is_of_channel(error):
                raise
            if len(positions) == 1:
                return {name: ChannelError(name, self._target.explain(error)) for name in positions}
        pairs = list(positions.items())
        middle = len(pairs) // 2
        found = self._news_of_each(dict(pairs[:middle]))
        return found | self._news_of_each(dict(pairs[middle:]))

    def _errors(self, channel: str | None = None) -> contextlib.AbstractContextManager[None]:
        return explained(self._target, channel)


_brokers: weakref.WeakSet[RedisBroker] = weakref.WeakSet()
AtFork(_brokers)
