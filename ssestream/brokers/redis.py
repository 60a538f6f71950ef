"""Logs in Redis, as streams: every process of every host reads the same ones.

One Redis stream for each channel, ``ssestream:{news}``. The id of an entry is
its position: ``1763800000000000-17`` is the 17th of the log that began in that
microsecond. Redis keeps the last id of a stream whatever is trimmed, so numbers
have no hole; a stream that was deleted or flushed begins another log. How much a log
keeps stands beside it, in the hash ``ssestream:{news}:bounds``.

Lua scripts append and read, so that each is one step. Only for the wait does a
connection block, in ``XREAD``, which says no more than where there is something.
"""

import contextlib
import inspect
import math
import os
import queue
import re
import select
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

import gevent.lock
import redis
from gevent import monkey
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from ..clock import clock
from ..hub import new_lock
from .broker import (
    CHECK_LENGTH,
    CONTROL,
    CONTROLS,
    HISTORY,
    WAITED,
    WAITED_BYTES,
    Bounds,
    BrokerError,
    Busy,
    ChannelError,
    Entry,
    News,
    Position,
    Slice,
)
from .redis_url import Target, parse

Client = redis.Redis | redis.RedisCluster

_T = TypeVar("_T")

# A thread's own, where the patched one is a greenlet's.
_Local: Any = monkey.get_original("_thread", "_local")

#: Seconds for which `RedisBroker.append` and `RedisBroker.read` wait for a free
#: connection and begin to try again. The last try is bounded by `ANSWER` twice, so
#: both raise within 5 s.
TRYING = 3.0

#: Seconds for which reads are tried once only, after one has tried for `TRYING` in
#: vain: one caller has waited for all.
AWAY = 1.0

#: Seconds between two tries.
PAUSE = 0.05

#: Seconds in which Redis must let itself be connected to, and answer.
ANSWER = 1.0

#: Seconds after which ``XREAD`` answers even if there is nothing: what a listener
#: takes at most, with `ANSWER`, to find that its connection is dead.
BLOCK = 5.0

#: Seconds between two looks at where all logs stand: what is deleted, or begins
#: anew under a clock that was set back, ends no ``XREAD``.
CHECK = 15.0

#: Seconds between two questions to a cluster.
POLL = 0.1

#: Channels that one script looks at, as nothing else runs in Redis meanwhile.
AT_ONCE = 100

#: A URL may set these otherwise. redis-py itself tries nothing again, as it does not
#: know that a command whose answer was lost may have been done. Its pools have no bound,
#: as they would refuse a caller where `_Pool` lets it wait.
OPTIONS: dict[str, Any] = {
    "socket_timeout": ANSWER,
    "socket_connect_timeout": ANSWER,
    "max_connections": 2**31,
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
}

ERRORS = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    exceptions.ChildDeadlockedError,
    OSError,
    MemoryError,
)

#: What may pass: Redis starts, stops, or another becomes the master.
PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.RedisClusterException,
    OSError,
)

_LOG = """
-- Identity and last number of a log, and what Redis says of its stream.
local function log_of(key)
  if redis.call('EXISTS', key) == 0 then return '', 0, {} end
  local info, said = {}, redis.call('XINFO', 'STREAM', key)
  for i = 1, #said, 2 do info[said[i]] = said[i + 1] end
  local log, last = string.match(info['last-generated-id'], '(%d+)-(%d+)')
  return log, tonumber(last), info
end

-- An entry is {id, {'f', frame, 't', microseconds, 'k', token, 'm', message}}. *message* counts
-- the messages of the log; a control frame has the count of the next message, so that it is
-- kept as long as that. Entries of earlier versions have none: all of them count.
local function number(entry) return tonumber(string.match(entry[1], '-(%d+)')) end
local function id(log, n) return string.format('%s-%.0f', log, n) end
local function message(entry) return tonumber(entry[2][8]) or number(entry) end
local function messages_up_to(entry)
  local control = entry[2][8] and string.byte(entry[2][2]) == 0
  return control and message(entry) - 1 or message(entry)
end

-- Of all that Redis has of a stream, how many are control frames.
local function controls_in(info)
  local first, last = info['first-entry'], info['last-entry']
  if not first then return 0 end
  return info['length'] - (messages_up_to(last) - message(first) + 1)
end

local function microseconds()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end
"""

# A try whose answer was lost may have been done, or be done later: Redis reads
# what a closed connection has sent, and not in the order of connections. So all
# but the first look for their token, and leave a mark for those that are late.
_APPEND = (
    _LOG
    + """
local key, mark, bounds = KEYS[1], KEYS[2], KEYS[3]
local frame, token, again, control = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local asked_history, asked_age, usual, controls = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])

local history, age = unpack(redis.call('HMGET', bounds, 'history', 'age'))
local function answer(added) return {added, history, age} end

local done = redis.call('GET', mark)
if done then return answer(done) end

local log, last, info = log_of(key)
if again == '1' then
  for n = last, math.max(last - 9999, 1), -100 do
    local newest = redis.call('XREVRANGE', key, id(log, n), id(log, math.max(n - 99, 1)))
    if #newest == 0 then break end
    for _, entry in ipairs(newest) do
      if entry[2][6] == token then return answer(entry[1]) end
    end
  end
end

-- A log's bounds are its own: whoever asks for more widens them.
local function is_wider(asked, own)
  return asked ~= '' and own ~= '' and tonumber(asked) > tonumber(own)
end
if not history or log == '' then
  history, age = asked_history ~= '' and asked_history or usual, asked_age
  redis.call('HSET', bounds, 'history', history, 'age', age)
elseif is_wider(asked_history, history) or is_wider(asked_age, age) then
  if is_wider(asked_history, history) then history = asked_history end
  if is_wider(asked_age, age) then age = asked_age end
  redis.call('HSET', bounds, 'history', history, 'age', age)
end

local now = microseconds()
if log == '' then log = string.format('%.0f', now) end
local before = info['last-entry'] and messages_up_to(info['last-entry']) or 0
local most = history + math.min(controls_in(info) + control, controls)
local added = redis.call('XADD', key, 'MAXLEN', '~', string.format('%.0f', most), id(log, last + 1),
  'f', frame, 't', string.format('%.0f', now), 'k', token,
  'm', string.format('%.0f', before + 1))
if again == '1' then redis.call('SET', mark, added, 'EX', 300) end

-- The oldest goes when it is too old, and with it some of those that are, too.
if age ~= '' and info['first-entry'] then
  local oldest = now - age
  if tonumber(info['first-entry'][2][4]) <= oldest then
    local old = 0
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', 20)) do
      if tonumber(entry[2][4]) <= oldest then old = old + 1 end
    end
    redis.call('XTRIM', key, 'MAXLEN', redis.call('XLEN', key) - old)
  end
end
return answer(added)
"""
)

# For each key the log, the number and the check that the caller knows; '*' is any log.
# Tells of those that stand elsewhere, with the check that the caller's number has here.
_READ = (
    _LOG
    + """
local limit, bytes, digits = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local asked_history, asked_age = ARGV[4], ARGV[5]

local function check_of(entry)
  if not entry then return '' end
  local token = entry[2][6]
  return string.sub(string.gsub(token, '.', function(c)
    return string.format('%02x', string.byte(c))
  end), 1, digits)
end

local function at(key, log, n)
  if n < 1 then return nil end
  return redis.call('XRANGE', key, id(log, n), id(log, n))[1]
end

local function first_of(key, log, last, info, history, age)
  if not info['first-entry'] then return last + 1 end
  local first = number(info['first-entry'])
  local lost, oldest = -1, -1
  if history and controls_in(info) == 0 then first = math.max(first, last - history + 1)
  elseif history then lost = messages_up_to(info['last-entry']) - history end
  if age and age ~= '' then oldest = microseconds() - age end
  if lost < 0 and oldest < 0 then return first end
  local function is_lost(n)
    local entry = at(key, log, n)
    return not entry or message(entry) <= lost or tonumber(entry[2][4]) <= oldest
  end
  local high, middle = last + 1, first
  while first < high do
    if is_lost(middle) then first = middle + 1 else high = middle end
    middle = math.floor((first + high) / 2)
  end
  return first
end

local found = {}
for i = 1, #KEYS / 2 do
  local key, bounds = KEYS[2 * i - 1], KEYS[2 * i]
  local known, after, check = ARGV[3 + 3 * i], tonumber(ARGV[4 + 3 * i]), ARGV[5 + 3 * i]
  local log, last, info = log_of(key)
  local last_check = check_of(info['last-entry'])
  local other = check ~= '' and last_check ~= '' and check ~= last_check
  if log ~= known or last ~= after or other then
    local history, age = unpack(redis.call('HMGET', bounds, 'history', 'age'))
    if not history then history, age = tonumber(asked_history), asked_age end
    local here = ''
    if log ~= '' and (known == '*' or known == log) then here = check_of(at(key, log, after)) end
    if known ~= '*' and (known ~= log or after > last
        or (check ~= '' and here ~= '' and check ~= here)) then
      after = 0
    end
    local first, entries = first_of(key, log, last, info, history, age), {}
    local n, left = math.max(after + 1, first), limit
    while n <= last and left > 0 and bytes > 0 do
      local some = redis.call('XRANGE', key, id(log, n), id(log, last), 'COUNT', math.min(left, 8))
      if #some == 0 then break end
      for _, entry in ipairs(some) do
        if bytes <= 0 then break end
        entries[#entries + 1] = entry[1]
        entries[#entries + 1] = entry[2][2]
        entries[#entries + 1] = check_of(entry)
        bytes, left, n = bytes - #entry[2][2], left - 1, number(entry) + 1
      end
    end
    found[#found + 1] = {i, log, first, last, entries, here, last_check, history or '', age or ''}
    if limit > 0 and bytes <= 0 then break end
  end
end
return found
"""
)

# Sets what a log keeps, if there is one; says what it keeps.
_KEEP = (
    _LOG
    + """
local key, bounds = KEYS[1], KEYS[2]
local asked, age, usual = unpack(ARGV)
local log, last, info = log_of(key)
if log == '' then return {'', ''} end
local history = redis.call('HGET', bounds, 'history')
history = asked ~= '' and asked or history or usual
redis.call('HSET', bounds, 'history', history, 'age', age)
local most = history + math.max(controls_in(info), 0)
redis.call('XTRIM', key, 'MAXLEN', string.format('%.0f', most))
return {history, age}
"""
)


class RedisBroker:
    """See `broker.Broker`. Made for Redis 5 and later; tested with 7.0.

    *url* is one of these. Its query is handed to redis-py, as in
    ``?ssl_ca_certs=/etc/ca.pem``.

    ``redis://[user:password@]host:6379/0``, ``rediss://`` for TLS, ``unix:///path?db=0``
        As redis-py has them. Tested with each, and with a password.

    ``redis+sentinel://[user:password@]host:26379,host:26379/service[/db]``
        Whichever server the sentinels call the master. ``?sentinel_username=`` and
        ``?sentinel_password=`` are for the sentinels themselves, ``rediss+sentinel://``
        is TLS to all. Tested with one sentinel and a failover; not with these two.

    ``redis+cluster://[user:password@]host:7000``
        A cluster, by any of its nodes; ``rediss+cluster://`` for TLS. One ``XREAD`` cannot
        wait for streams of several nodes, so the nodes are asked ten times a second,
        and an event may be that late. Tested with three masters, one of which is
        killed and comes back; not with replicas, while slots move, or with TLS.

    Redis holds some more of a log than the log keeps.

    Redis may forget what it has acknowledged: a machine fails, unless it is told
    ``appendfsync always``; a master is lost before its replica had all.

    A process (with gevent's patches: each of its threads) asks on 50 connections at
    most, or as many as ``?max_connections=`` says, and one more listens. Who finds all of
    them in use waits for one. In a cluster 50 are for all nodes together.

    `append` and `read` raise within 5 s and `wait` within 7; and within a
    second more for each sentinel or node of a cluster that is away as well.
    """

    shared = True

    def __init__(
        self, url: str, history: int | None = None, history_age: float | None = None
    ) -> None:
        self._target = parse(url)
        self._open = _opener(self._target)
        self._asked = Bounds(history, history_age)
        self._warned = False
        # One pool for the process; in a patched one for each thread, as gevent's
        # sockets are of use in their own only.
        self._common: Any = SimpleNamespace()
        self._own: Any = _Local()
        # Held for a few instructions only.
        self._lock = new_lock()
        self._bell: _Bell | None = None
        # By a `wake` before there was a bell.
        self._woken = False
        # What the broker closes when it is dropped.
        self._held = _Held()
        weakref.finalize(self, self._held.close)
        self._closed = 0
        # Until when reads are tried once only.
        self._away = 0.0

    def append(self, channel: str, frame: bytes) -> Position:
        token = os.urandom(8)
        keys = [_key(channel), f"{_key(channel)}:{token.hex()}", _bounds_key(channel)]
        rest = [int(frame.startswith(CONTROL)), *_written(self._asked), HISTORY, CONTROLS]

        def add(again: int) -> list[bytes]:
            added: list[bytes] = self._pool().append(keys, [frame, token, again, *rest])
            return added

        added, *kept = self._try(add, TRYING, channel)
        if not self._warned:
            self._warned = _bounds(*kept).warn_of(self._asked, channel)
        log, number = added.decode().split("-")
        return Position(log, int(number), token.hex()[:CHECK_LENGTH])

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        def ask(again: int) -> Slice:
            return self._news({channel: Position("*", after)}, limit, max_bytes)[channel]

        patience = 0 if clock.now() < self._away else TRYING
        try:
            piece = self._try(ask, patience, channel)
        except BrokerError as error:
            if patience and _may_pass(error.__cause__):
                self._away = clock.now() + AWAY
            raise
        self._away = 0.0
        return piece

    def keep(self, channel: str, bounds: Bounds) -> Bounds:
        keys = [_key(channel), _bounds_key(channel)]

        def say(again: int) -> list[bytes]:
            kept: list[bytes] = self._pool().keep(keys, [*_written(bounds), HISTORY])
            return kept

        return _bounds(*self._try(say, TRYING, channel))

    def ping(self) -> None:
        # An account may have few rights, and an answer is an answer.
        with self._errors(), contextlib.suppress(exceptions.NoPermissionError):
            self._pool().client.ping()

    def wait(self, positions: Mapping[str, Position]) -> News:
        with self._errors():
            bell = self._my_bell()
        with self._lock:
            listener, self._held.listener = self._held.listener, None
            closed = self._closed
        try:
            with self._errors():
                pool = self._pool()
                if listener is None or listener.pool is not pool:
                    listener = self._listen(pool)
                found: News = {}
                if clock.now() > listener.checked + CHECK:
                    found = self._news_of_each(positions)
                    # What no ``XREAD`` tells of is told again until it is heeded.
                    if all(
                        piece.entries and not piece.misses(positions[name])
                        for name, piece in found.items()
                        if isinstance(piece, Slice)
                    ):
                        listener.checked = clock.now()
                if not found:
                    try:
                        names = listener.wait(positions, bell)
                    except exceptions.ResponseError as error:
                        # Redis does not say of which key it is.
                        if not _is_of_channel(error):
                            raise
                        found = self._news_of_each(positions)
                        if not any(isinstance(each, ChannelError) for each in found.values()):
                            raise
                    else:
                        found = self._news_of_each({name: positions[name] for name in names})
        except BaseException:
            if listener is not None:
                listener.close()
            raise
        with self._lock:
            if closed == self._closed:
                self._held.listener = listener
                return found
        listener.close()
        return found

    def wake(self) -> None:
        with self._lock:
            bell = self._bell
            if bell is None or bell.process != os.getpid():
                # Nobody waits. To make one here could fail for want of descriptors.
                self._woken = True
                return
        bell.ring()

    def close(self) -> None:
        with self._lock:
            listener, self._held.listener = self._held.listener, None
            pool = getattr(self._holder(), "pool", None)
            self._common, self._own = SimpleNamespace(), _Local()
            self._held.pool = None
            self._closed += 1
        if listener is not None:
            listener.close()
        if pool is not None:
            pool.close()
        self.wake()

    def _try(self, ask: Callable[[int], _T], patience: float, channel: str) -> _T:
        """The result of *ask*, which is given 0, or 1 where it may have been done before.

        For *patience* seconds it waits for a free connection, and is tried again where
        the failure may pass.
        """
        deadline, again = clock.now() + patience, 0
        while True:
            try:
                with self._errors(channel), self._pool().turn(deadline):
                    return ask(again)
            except BrokerError as error:
                if not _may_pass(error.__cause__) or clock.now() > deadline:
                    raise
            again = 1
            time.sleep(PAUSE)

    def _holder(self) -> Any:
        return self._own if monkey.is_module_patched("socket") else self._common

    def _pool(self) -> "_Pool":
        holder = self._holder()
        pool: _Pool | None = getattr(holder, "pool", None)
        if pool is None or pool.process != os.getpid():
            # A cluster's connects, so the lock is not held meanwhile.
            made = _Pool(self._open(), self._target.connections)
            with self._lock:
                pool = getattr(holder, "pool", None)
                if pool is None or pool.process != os.getpid():
                    pool = holder.pool = self._held.pool = made
            if pool is not made:  # several came first, and share one
                made.close()
        return pool

    def _listen(self, pool: "_Pool") -> "_Listener | _Poller":
        if pool.cluster:
            return _Poller(pool)
        return _Listener(pool, self._open())

    def _my_bell(self) -> "_Bell":
        with self._lock:
            if self._bell is None or self._bell.process != os.getpid():
                self._bell = _Bell()
            if self._woken:
                self._woken = False
                self._bell.ring()
            return self._bell

    def _news(
        self, positions: Mapping[str, Position], limit: int, max_bytes: int
    ) -> dict[str, Slice]:
        """What is to be had of all channels that do not stand at their position."""
        pool = self._pool()
        names, found = list(positions), {}
        step = 1 if pool.cluster else AT_ONCE
        for start in range(0, len(names), step):
            some = names[start : start + step]
            keys = [key for name in some for key in (_key(name), _bounds_key(name))]
            args: list[Any] = [limit, max_bytes, CHECK_LENGTH, *_written(self._asked)]
            for name in some:
                args += positions[name]
            for index, log, first, last, flat, check, last_check, *kept in pool.read(keys, args):
                entries = [
                    Entry(int(entry.partition(b"-")[2]), frame, own.decode())
                    for entry, frame, own in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
                ]
                found[some[index - 1]] = Slice(
                    log.decode(),
                    first,
                    last,
                    entries,
                    check.decode(),
                    last_check.decode(),
                    _bounds(*kept),
                )
        return found

    def _news_of_each(self, positions: Mapping[str, Position]) -> News:
        """The same for `wait`, with the error of a channel in its place."""
        try:
            return dict(self._news(positions, WAITED, WAITED_BYTES))
        except exceptions.ResponseError as error:
            if not _is_of_channel(error):
                raise
            if len(positions) == 1:
                return {name: ChannelError(name, self._target.explain(error)) for name in positions}
        pairs = list(positions.items())
        middle = len(pairs) // 2
        found = self._news_of_each(dict(pairs[:middle]))
        return found | self._news_of_each(dict(pairs[middle:]))

    @contextlib.contextmanager
    def _errors(self, channel: str | None = None) -> Iterator[None]:
        """Give what redis-py raises as a `BrokerError`, which may be of *channel* alone."""
        try:
            yield
        except _NoTurn as error:
            raise Busy(f"{self._target.where}: {error}") from None
        except ERRORS as error:
            text = self._target.explain(error)
            if channel is not None and _is_of_channel(error):
                raise ChannelError(channel, text) from error
            raise BrokerError(text, lasting=_is_lasting(error)) from error


class _Held:
    """What is open between two calls. The collector would warn of its sockets.

    Of the pools of several threads it is the last that was made.
    """

    def __init__(self) -> None:
        #: Taken out by the caller of `RedisBroker.wait`, to be its own.
        self.listener: _Listener | _Poller | None = None
        self.pool: _Pool | None = None

    def close(self) -> None:
        pool = self.pool
        # In a child they are its parent's.
        if pool is not None and pool.process == os.getpid():
            with contextlib.suppress(*ERRORS):
                pool.close()
                if self.listener is not None:
                    self.listener.close()


class _NoTurn(Exception):
    """All connections are in use."""


class _Pool:
    """Connections that answer at once, and what is asked on them.

    At most *connections* of them are in use by callers of `turn`. The listener does not
    stand in that queue: a busy process must not look like a Redis that is down.
    """

    def __init__(self, client: Client, connections: int) -> None:
        self.process = os.getpid()
        self.client: Any = client
        self._connections = connections
        # Greenlets wait in gevent's, also where threads are not patched; threads in theirs.
        patched = monkey.is_module_patched("socket")
        self._free: Any = gevent.lock.Semaphore(connections) if patched else _Turns(connections)
        self.cluster = isinstance(client, redis.RedisCluster)
        self.append = client.register_script(_APPEND)
        self.read = client.register_script(_READ)
        self.keep = client.register_script(_KEEP)

    @contextlib.contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """A free connection. Raises `_NoTurn` where there is none until *deadline*."""
        if not self._free.acquire(timeout=max(deadline - clock.now(), PAUSE)):
            raise _NoTurn(
                f"all {self._connections} connections of this process stay in use"
                " (?max_connections=... in the URL allows more)"
            )
        try:
            yield
        finally:
            self._free.release()

    def close(self) -> None:
        if self.cluster:
            self.client.close()
        else:
            # What is in use is closed when it is given back, to nobody.
            self.client.connection_pool.disconnect(inuse_connections=False)


class _Turns:
    """A semaphore of threads, whose timeout is on no clock that a test may stop."""

    def __init__(self, number: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(number):
            self._free.put(None)

    def acquire(self, timeout: float) -> bool:
        try:
            self._free.get(timeout=timeout)
        except queue.Empty:
            return False
        return True

    def release(self) -> None:
        self._free.put(None)


class _Bell:
    """Rung from any thread, and waited for together with a socket."""

    _read = _write = -1

    def __init__(self) -> None:
        self.process = os.getpid()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def __del__(self) -> None:
        if self._read >= 0:
            os.close(self._read)
            os.close(self._write)

    def ring(self) -> None:
        # Where it is full it rings.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")

    def wait(self, seconds: float, sock: Any = None) -> tuple[bool, bool]:
        """Whether it was rung, and whether *sock* has something to read."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if sock is not None:
            poll.register(sock, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(max(seconds, 0) * 1000)}
        rung = self._read in ready
        if rung:
            os.read(self._read, 4096)
        return rung, bool(ready - {self._read})


class _Listener:
    """The one connection that waits for news of all channels.

    What it has asked stays asked when its owner is woken, as mostly the same is
    wanted again.
    """

    def __init__(self, pool: _Pool, client: Any) -> None:
        self.pool = pool
        self.checked = -math.inf
        self._client = client
        self._asked: dict[str, Position] | None = None
        self._until = 0.0
        # Whether this connection may ask at all, and be told to stop.
        self._has_asked = False
        self._may_unblock = True
        try:
            self._connection = client.connection_pool.get_connection()
            self._id = self._introduce()
        except BaseException:
            client.close()
            raise

    def wait(self, positions: Mapping[str, Position], bell: _Bell) -> list[str]:
        """The channels in which there is something; none after a while, or a ring."""
        if positions != self._asked:
            if self._asked is not None:
                self._withdraw()
            if not positions:
                bell.wait(BLOCK)
                return []
            keys = [_key(name) for name in positions]
            behind = [_id(position) for position in positions.values()]
            if not self._has_asked:
                # Without waiting, so that a refusal is known before a bell ends the wait.
                self._connection.send_command("XREAD", "COUNT", 1, "STREAMS", *keys, *behind)
                answer = self._connection.read_response()
                self._has_asked = True
                if answer:
                    return [_name(key) for key in dict(answer)]
            block = int(BLOCK * 1000)
            self._connection.send_command(
                "XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", *keys, *behind
            )
            self._asked = dict(positions)
            self._until = clock.now() + BLOCK + ANSWER
        rung, answered = bell.wait(self._until - clock.now(), self._connection._sock)
        if answered:
            self._asked = None
            answer = self._connection.read_response()
            return [_name(key) for key in dict(answer or ())]
        if not rung:
            raise exceptions.TimeoutError("no answer to XREAD")
        return []

    def close(self) -> None:
        self._client.close()

    def _introduce(self) -> int:
        self._connection.send_command("CLIENT", "ID")
        return int(self._connection.read_response())

    def _withdraw(self) -> None:
        """Have what was asked answered, or forgotten."""
        self._asked = None
        # Not everybody may do this; and it may come before the question does.
        with contextlib.suppress(exceptions.ResponseError):
            if self._connection.can_read() or self._unblock():
                self._connection.read_response()
                return
        self._connection.disconnect()
        self._connection.connect()
        self._id = self._introduce()

    def _unblock(self) -> bool:
        if self._may_unblock:
            try:
                return bool(self.pool.client.client_unblock(self._id))
            except exceptions.NoPermissionError:
                # Redis notes each refusal.
                self._may_unblock = False
        return False


class _Poller:
    """What asks a cluster, again and again."""

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.checked = -math.inf

    def wait(self, positions: Mapping[str, Position], bell: _Bell) -> list[str]:
        pipeline = self.pool.client.pipeline()
        for name, position in positions.items():
            pipeline.xrange(_key(name), min=_id(position, 1), count=1)
        answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception) and not _is_of_channel(answer):
                raise answer
        news = [name for name, some in zip(positions, answers, strict=True) if some]
        if not news:
            bell.wait(POLL)
        return news

    def close(self) -> None:
        pass


def _key(channel: str) -> str:
    # The braces are what a cluster hashes by.
    return f"ssestream:{{{channel}}}"


def _bounds_key(channel: str) -> str:
    return f"{_key(channel)}:bounds"


def _written(bounds: Bounds) -> list[int | str]:
    """*bounds* as the scripts have them: ``""`` for None, and an age in microseconds."""
    history, age = bounds
    return ["" if history is None else history, "" if age is None else int(age * 1e6)]


def _bounds(history: bytes | None, age: bytes | None) -> Bounds:
    return Bounds(int(history) if history else None, int(age) / 1e6 if age else None)


def _name(key: bytes) -> str:
    return key.decode()[len("ssestream:{") : -1]


def _id(position: Position, further: int = 0) -> str:
    # The logs of other brokers have other names.
    return f"{position.log}-{position.number + further}" if position.log.isdecimal() else "0-0"


# What a server says of one key: it has another type, is none of ours, or not for this account.
_OF_CHANNEL = re.compile(
    r"WRONGTYPE|user_script:\d+:|(?i:no permissions to access)"
    r"|can't access at least one of the keys|permissions to access one of the keys"
)
_OF_ALL = re.compile(r"can't run this command|permissions to run|READONLY|OOM|MISCONF|NOREPLICAS")


def _is_of_channel(error: object) -> bool:
    if not isinstance(error, exceptions.ResponseError):
        return False
    words = str(error)
    return bool(_OF_CHANNEL.search(words)) and not _OF_ALL.search(words)


def _is_lasting(error: BaseException) -> bool:
    """Whether a password is wrong, or the server is none that can do this."""
    if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
        return True
    # Of the server's words those are known that pass, and a right may be given at any time.
    known = (*PASSING, exceptions.OutOfMemoryError, exceptions.NoPermissionError)
    return type(error) is exceptions.ResponseError and not isinstance(error, known)


def _may_pass(cause: object) -> bool:
    return isinstance(cause, PASSING) and not isinstance(cause, exceptions.AuthenticationError)


#: Options of redis-py's that are none of a connection.
_OF_POOLS = ("max_connections", "single_connection_client", "auto_close_connection_pool")


def _opener(target: Target) -> Callable[[], Client]:
    """What makes a client for *target*. Raises ``ValueError`` for an option of the URL."""
    try:
        options = OPTIONS | parse_url(target.url)
        # A connection takes its options when it is made, and connects later.
        connection = options.pop("connection_class", redis.Connection)
        others = inspect.signature(redis.RedisCluster).parameters if target.kind else ()
        connection(**{name: options[name] for name in options.keys() - {*_OF_POOLS, *others}})
    except (TypeError, ValueError, exceptions.RedisError) as error:
        raise ValueError(target.refuse(error)) from None
    if target.kind == "":
        return lambda: redis.Redis.from_url(target.url, **OPTIONS)
    if target.kind == "cluster":
        return lambda: redis.RedisCluster.from_url(target.url, **OPTIONS)

    options = OPTIONS | parse_url(target.url)
    del options["host"]
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    shared = ("socket_", "ssl", "retry", "protocol")
    own = {name: value for name, value in options.items() if name.startswith(shared)}
    own["username"], own["password"] = target.sentinel_username, target.sentinel_password
    return lambda: Sentinel(target.sentinels, sentinel_kwargs=own, **options).master_for(
        target.service
    )
