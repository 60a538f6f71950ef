"""The ``redis://`` broker: logs in Redis streams, shared by all processes of all hosts.

Each channel has one Redis stream, such as ``ssestream:{news}``. The id of an entry is its
position: ``1763800000000000-17`` is entry 17 of the log that began in that microsecond.
Redis keeps the last id of a stream when it trims the stream, so numbers are never used
twice. A stream that was deleted or flushed begins another log. The hash
``ssestream:{news}:bounds`` holds the bounds of the log.

Lua scripts append and read, so that each append and each read is one step. A connection
blocks only while it waits, in ``XREAD``. The answer of ``XREAD`` only tells which channels
have new entries; a script then reads the entries.
"""

import contextlib
import hashlib
import inspect
import math
import os
import queue
import re
import select
import ssl
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

from ...runtime.clock import clock
from ...runtime.forking import AtFork
from ...runtime.loop import new_lock
from ..broker import (
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
from .target import Target, parse

Client = redis.Redis | redis.RedisCluster

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

#: Seconds in which Redis must accept a connection, and seconds in which it must answer.
ANSWER = 1.0

#: Seconds after which ``XREAD`` answers even without news. A listener finds a dead connection
#: within `BLOCK` and `ANSWER` together.
BLOCK = 5.0

#: Seconds between two checks of all logs. ``XREAD`` does not answer when a log is deleted, or
#: when a new log begins while the clock of the server is set back.
CHECK = 15.0

#: Seconds between two polls of a cluster.
POLL = 0.1

#: Channels that one script reads. Redis runs nothing else during a script.
AT_ONCE = 100

#: Default options of redis-py; a URL can override some of them. redis-py must not retry: it
#: would run a command twice if only the answer was lost. Its pools have no bound, because a
#: full pool of redis-py raises an error, while `_Pool` lets the caller wait.
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

#: The channel that `RedisBroker.ping` reads. Nobody need publish to it.
PINGED = "ssestream/ping"

#: Errors that may pass by themselves: Redis starts or stops, or another server becomes master.
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
-- The identity and last number of a log, and the XINFO of its stream as a table.
local function log_of(key)
  if redis.call('EXISTS', key) == 0 then return '', 0, {} end
  local info, said = {}, redis.call('XINFO', 'STREAM', key)
  for i = 1, #said, 2 do info[said[i]] = said[i + 1] end
  local log, last = string.match(info['last-generated-id'], '(%d+)-(%d+)')
  return log, tonumber(last), info
end

-- An entry is {id, {'f', frame, 't', microseconds, 'k', token, 'm', message}}. *message* is the
-- number of this message among all messages of the log. A control frame has the number of the
-- next message, and is kept as long as that message. An entry of an earlier version has no
-- *message*; every such entry counts as a message.
local function number(entry) return tonumber(string.match(entry[1], '-(%d+)')) end
local function id(log, n) return string.format('%s-%.0f', log, n) end
local function message(entry) return tonumber(entry[2][8]) or number(entry) end
local function messages_up_to(entry)
  local control = entry[2][8] and string.byte(entry[2][2]) == 0
  return control and message(entry) - 1 or message(entry)
end

-- How many control frames are among the entries that Redis has of a stream.
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

# A try without an answer may have run, or may still run later: Redis also runs commands from a
# closed connection, and may run commands from a newer connection first. Therefore each try
# after the first looks for its token in the newest entries, and sets a mark for earlier tries
# that run late.
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

-- A request for more widens the bounds of the log. A request for less changes nothing.
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

-- If the oldest entry is too old, remove it and up to 19 more entries that are too old.
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

# The caller gives its known log, number and check for each channel; the log '*' is any log.
# The script skips a channel if the newest entry of its log is at that position. The answer for
# a channel has the check of the entry with the known number, which shows another past.
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

# Set the bounds of a log if the log exists. Returns the new bounds.
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
    """Logs in Redis (see `broker.Broker`). Made for Redis 5 and later; tested with Redis 7.0.

    *url* has one of the following forms. redis-py gets the options in its query, such as
    ``?ssl_ca_certs=/etc/ca.pem``.

    ``redis://[user:password@]host:6379/0``, ``rediss://`` for TLS, ``unix:///path?db=0``
        One server, with the URL as redis-py defines it. Tested with each form, and with a
        password.

    ``redis+sentinel://[user:password@]host:26379,host:26379/service[/db]``
        The server that the sentinels name as the master. ``?sentinel_username=`` and
        ``?sentinel_password=`` are the account at the sentinels. ``rediss+sentinel://`` uses
        TLS to the sentinels and to the master. Tested with one sentinel and a failover; not
        tested with an account at the sentinels or with TLS.

    ``redis+cluster://[user:password@]host:7000``
        A cluster, found through any of its nodes; ``rediss+cluster://`` uses TLS. One ``XREAD``
        cannot wait for streams on several nodes, so the broker polls the nodes ten times a
        second, and an event may come a tenth of a second late. Tested with three masters while
        one master is killed and comes back; not tested with replicas, with moving slots or
        with TLS.

    Redis may hold a few more entries of a log than the log keeps. No reader gets such entries.

    Redis may lose entries that it has acknowledged. A machine that fails loses the newest
    entries, unless Redis is configured with ``appendfsync always``. A master that fails loses
    the entries that its replica does not have yet.

    Each process uses at most 50 connections at once, or the number in ``?max_connections=``,
    and one more connection to listen. With gevent's patches this holds for each thread. If all
    connections are in use, a caller waits for a free one. In a cluster, the number is for all
    nodes together.

    `append` and `read` raise `BrokerError` within 5 s, and `wait` within 7 s. Each sentinel or
    node of a cluster that does not answer either adds a second.
    """

    shared = True

    def __init__(
        self, url: str, history: int | None = None, history_age: float | None = None
    ) -> None:
        self._target = parse(url)
        self._open = _opener(self._target)
        self._asked = Bounds(history, history_age)
        self._warned = False
        # The holder of the pool: one for the process, or one for each thread in a patched
        # process, because a gevent socket works only in its own thread.
        self._common: Any = SimpleNamespace()
        self._own: Any = _Local()
        # Guards the waker and the held connections. Held for a few instructions only.
        self._lock = new_lock()
        self._waker: _PollableWaker | None = None
        # Whether `wake` was called before there was a waker.
        self._woken = False
        # The connections to close when the broker is dropped.
        self._held = _Held()
        weakref.finalize(self, self._held.close)
        # How often `close` was called.
        self._closed = 0
        # The time until which each read is tried only once.
        self._away = 0.0
        _brokers.add(self)

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
        # A read and no PING, which an account without any other right may send. Which keys the
        # account may use is a matter of each channel.
        with contextlib.suppress(ChannelError), self._errors(PINGED):
            self._news({PINGED: Position("*", 0)}, 0, 0)

    def wait(self, positions: Mapping[str, Position]) -> News:
        with self._errors():
            waker = self._my_bell()
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
                    # ``XREAD`` does not answer for a gap or an emptied log. Check again at each
                    # wait until the caller's positions show no such news any more.
                    if all(
                        piece.entries and not piece.misses(positions[name])
                        for name, piece in found.items()
                        if isinstance(piece, Slice)
                    ):
                        listener.checked = clock.now()
                if not found:
                    try:
                        names = listener.wait(positions, waker)
                    except exceptions.ResponseError as error:
                        # The error does not name the key, so look at each channel.
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
            waker = self._waker
            if waker is None or waker.process != os.getpid():
                # Nobody waits. A new waker could fail here for lack of file descriptors.
                self._woken = True
                return
        waker.wake()

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
        """Call *ask* with a connection, and return its result.

        Waits up to *patience* seconds for a free connection. In this time, also calls *ask*
        again after an error that may pass. *ask* is called with 0 the first time, and later
        with 1, because an earlier call may have taken effect.
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

    def before_fork(self) -> None:
        pass

    def after_fork(self) -> None:
        # The listener's connection belongs to the parent, which waits for an answer on it.
        self._listener = None

    def _holder(self) -> Any:
        return self._own if monkey.is_module_patched("socket") else self._common

    def _pool(self) -> "_Pool":
        holder = self._holder()
        pool: _Pool | None = getattr(holder, "pool", None)
        if pool is None or pool.process != os.getpid():
            # A client of a cluster connects when it is made, so this must not hold the lock.
            made = _Pool(self._open(), self._target.connections)
            with self._lock:
                pool = getattr(holder, "pool", None)
                if pool is None or pool.process != os.getpid():
                    pool = holder.pool = self._held.pool = made
            # Another thread or greenlet was first; share its pool.
            if pool is not made:
                made.close()
        return pool

    def _listen(self, pool: "_Pool") -> "_Listener | _Poller":
        if pool.cluster:
            return _Poller(pool)
        return _Listener(pool, self._open())

    def _my_bell(self) -> "_PollableWaker":
        with self._lock:
            if self._waker is None or self._waker.process != os.getpid():
                self._waker = _PollableWaker()
            if self._woken:
                self._woken = False
                self._waker.wake()
            return self._waker

    def _news(
        self, positions: Mapping[str, Position], limit: int, max_bytes: int
    ) -> dict[str, Slice]:
        """A slice of each channel that has news after its position in *positions*.

        A log with another identity or another past is news too.
        """
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
        """The same as `_news`, with a `ChannelError` in the place of a channel that fails.

        An error of a script does not name its key. The channels are halved until the channel
        that fails is alone.
        """
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
        """Raise a `BrokerError` for an error of redis-py.

        Raises a `ChannelError` if the error concerns only *channel*, and `Busy` for a lack of
        free connections. *channel* is None if the commands do not concern exactly one channel.
        """
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
    """The open connections of a broker between two calls.

    `close` runs when the broker is dropped, because Python warns of sockets that the garbage
    collector closes. If several threads have pools, this holds the pool that was made last.
    """

    def __init__(self) -> None:
        #: None before the first `RedisBroker.wait`, and while `wait` uses the listener.
        self.listener: _Listener | _Poller | None = None
        self.pool: _Pool | None = None

    def close(self) -> None:
        pool = self.pool
        # In a child after a fork, the connections belong to the parent.
        if pool is not None and pool.process == os.getpid():
            with contextlib.suppress(*ERRORS):
                pool.close()
                if self.listener is not None:
                    self.listener.close()


_brokers: weakref.WeakSet[RedisBroker] = weakref.WeakSet()
AtFork(_brokers)


class _NoTurn(Exception):
    """All connections of the pool stay in use."""


class _ClusterScript:
    """A script on the node of its keys.

    redis-py would load a script on all masters. After a lost connection, redis-py 6 may know
    of none.
    """

    def __init__(self, client: Any, text: str) -> None:
        self._client = client
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: list[Any], args: list[Any]) -> Any:
        try:
            return self._client.evalsha(self._sha, len(keys), *keys, *args)
        except exceptions.NoScriptError:
            node = self._client.get_node_from_key(keys[0])
            self._client.execute_command("SCRIPT LOAD", self._text, target_nodes=node)
            return self._client.evalsha(self._sha, len(keys), *keys, *args)


class _Pool:
    """The connections for commands that Redis answers at once, and the scripts.

    At most *connections* callers hold a `turn` at the same time. The listener needs no turn:
    otherwise a busy process would look like a Redis server that is down.
    """

    def __init__(self, client: Client, connections: int) -> None:
        self.process = os.getpid()
        self.client: Any = client
        self._connections = connections
        # With patched sockets, the callers are greenlets, even if threads are not patched.
        # Greenlets need gevent's semaphore, and plain threads need `_Turns`.
        patched = monkey.is_module_patched("socket")
        self._free: Any = gevent.lock.Semaphore(connections) if patched else _Turns(connections)
        self.cluster = isinstance(client, redis.RedisCluster)
        self.append, self.read, self.keep = (
            _ClusterScript(client, text) if self.cluster else client.register_script(text)
            for text in (_APPEND, _READ, _KEEP)
        )

    @contextlib.contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Hold one of the connections. Raises `_NoTurn` if none is free until *deadline*."""
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
            # A connection in use is closed later, when its user returns it.
            self.client.connection_pool.disconnect(inuse_connections=False)


class _Turns:
    """A semaphore for threads. Its timeout works even if a test stops the clock of Python."""

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


class _PollableWaker:
    """Wakes a waiting thread or greenlet from any thread, by a pipe.

    The waiter can wait for the waker and for a socket at the same time.
    """

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

    def wake(self) -> None:
        # A full pipe already wakes the waiter.
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"!")

    def wait(self, seconds: float, sock: Any = None) -> tuple[bool, bool]:
        """Wait up to *seconds*: whether the waker was woken, and whether *sock* can be read."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if sock is not None:
            poll.register(sock, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(max(seconds, 0) * 1000)}
        woken = self._read in ready
        if woken:
            os.read(self._read, 4096)
        return woken, bool(ready - {self._read})


class _Listener:
    """The one connection that waits for news of all channels, with ``XREAD``.

    A wake does not withdraw the ``XREAD``, because the next `wait` mostly asks for the same
    positions.
    """

    def __init__(self, pool: _Pool, client: Any) -> None:
        self.pool = pool
        self.checked = -math.inf
        self._client = client
        self._asked: dict[str, Position] | None = None
        self._until = 0.0
        # Whether Redis has allowed an ``XREAD`` on this connection.
        self._has_asked = False
        # Whether the account may use ``CLIENT UNBLOCK``, as far as is known.
        self._may_unblock = True
        try:
            self._connection = client.connection_pool.get_connection()
            self._id = self._introduce()
        except BaseException:
            client.close()
            raise

    def wait(self, positions: Mapping[str, Position], waker: _PollableWaker) -> list[str]:
        """The channels with new entries. An empty list after `BLOCK` seconds or a wake."""
        if positions != self._asked:
            if self._asked is not None:
                self._withdraw()
            if not positions:
                waker.wait(BLOCK)
                return []
            keys = [_key(name) for name in positions]
            behind = [_id(position) for position in positions.values()]
            if not self._has_asked:
                # The first ``XREAD`` does not block, so that a refusal is known before a wake
                # can end the wait.
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
        woken, answered = waker.wait(self._until - clock.now(), self._connection._sock)
        if answered:
            self._asked = None
            answer = self._connection.read_response()
            return [_name(key) for key in dict(answer or ())]
        if not woken:
            raise exceptions.TimeoutError("no answer to XREAD")
        return []

    def close(self) -> None:
        self._client.close()

    def _introduce(self) -> int:
        self._connection.send_command("CLIENT", "ID")
        return int(self._connection.read_response())

    def _withdraw(self) -> None:
        """End the pending ``XREAD``: by its answer, by unblocking, or by a new connection."""
        self._asked = None
        # The account may lack the right to unblock, and the CLIENT UNBLOCK may reach Redis
        # before the XREAD does. Then a new connection is needed.
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
                # Do not try again: Redis writes each refusal to its ACL log.
                self._may_unblock = False
        return False


class _Poller:
    """Polls a cluster for news, because one ``XREAD`` cannot wait on several nodes."""

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.checked = -math.inf

    def wait(self, positions: Mapping[str, Position], waker: _PollableWaker) -> list[str]:
        pipeline = self.pool.client.pipeline()
        for name, position in positions.items():
            pipeline.xrange(_key(name), min=_id(position, 1), count=1)
        answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception) and not _is_of_channel(answer):
                raise answer
        news = [name for name, some in zip(positions, answers, strict=True) if some]
        if not news:
            waker.wait(POLL)
        return news

    def close(self) -> None:
        pass


def _key(channel: str) -> str:
    # A cluster hashes only the part in braces, so all keys of a channel are on one node.
    return f"ssestream:{{{channel}}}"


def _bounds_key(channel: str) -> str:
    return f"{_key(channel)}:bounds"


def _written(bounds: Bounds) -> list[int | str]:
    """*bounds* for the scripts: ``""`` for None, and the age in microseconds."""
    history, age = bounds
    return ["" if history is None else history, "" if age is None else int(age * 1e6)]


def _bounds(history: bytes | None, age: bytes | None) -> Bounds:
    return Bounds(int(history) if history else None, int(age) / 1e6 if age else None)


def _name(key: bytes) -> str:
    return key.decode()[len("ssestream:{") : -1]


def _id(position: Position, further: int = 0) -> str:
    # The identity of a log in Redis is a number. Any other position, in an empty channel or in
    # the log of another broker, is before the first entry.
    return f"{position.log}-{position.number + further}" if position.log.isdecimal() else "0-0"


# Errors that concern one key only: the key has another type, does not hold a log, or is not
# allowed to this account.
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
    """Whether *error* stays until an operator acts: a wrong password, or an unsuitable server."""
    if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)):
        return True
    if isinstance(error, exceptions.NoPermissionError) or _is_untrusted(error):
        return True
    # An error reply that redis-py gives no class of its own lasts, except for these two: another
    # client's script ends, and a replica comes back.
    is_plain = type(error) is exceptions.ResponseError
    return is_plain and not str(error).startswith(("BUSY ", "NOREPLICAS "))


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether the server's certificate is the cause of *error*."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _may_pass(cause: object) -> bool:
    return isinstance(cause, PASSING) and not isinstance(cause, exceptions.AuthenticationError)


#: Options of redis-py that belong to a pool or a client, and not to a connection.
_OF_POOLS = ("max_connections", "single_connection_client", "auto_close_connection_pool")


def _opener(target: Target) -> Callable[[], Client]:
    """A function that makes a client for *target*.

    Raises ``ValueError`` if redis-py does not accept an option of the URL.
    """
    try:
        options = OPTIONS | parse_url(target.url)
        # A new connection checks its options but does not connect yet.
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
