"""Who uses brokers in the tests, beside the test itself."""

import contextlib
import json
import operator
import os
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import redis

from ssestream.brokers.broker import Broker, BrokerError, Position, Slice
from ssestream.brokers.memory import MemoryBroker
from tests.kit.servers import PATIENCE, ROOT

NEVER = Position("", 0)
LOTS = 1 << 30

T = TypeVar("T")


class Actor:
    """A process that uses a broker."""

    def __init__(self, *args: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.servers.apps.brokers", *args],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def next(self, key: str) -> Any:
        """The next that it tells, which is of *key*."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        return json.loads(line.partition(b"@event ")[2])[key]

    def knock(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def tells(self) -> list[dict[str, Any]]:
        """All that it tells until its end, which is a good one."""
        assert self.process.stdout is not None
        lines = self.process.stdout.read().splitlines()
        assert self.process.wait() == 0
        return [json.loads(line.partition(b"@event ")[2]) for line in lines]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass


class Elsewhere:
    """What *function* gives in a plain thread."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._result: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], args: Any) -> None:
        try:
            self._result.append(function(*args))
        except BaseException as error:
            self._error = error

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert self.over, "it hangs"
        if self._error is not None:
            raise self._error
        return self._result[0]


@contextlib.contextmanager
def all_closed(
    make: Callable[..., T], close: Callable[[T], object] = operator.methodcaller("close")
) -> Iterator[Callable[..., T]]:
    """Give *make*. At the end, *close* everything that it has made."""
    made: list[T] = []

    def noted(*args: Any, **kwargs: Any) -> T:
        made.append(make(*args, **kwargs))
        return made[-1]

    yield noted
    for each in made:
        close(each)


_followed: "weakref.WeakKeyDictionary[Any, set[str]]" = weakref.WeakKeyDictionary()


def follow(broker: Broker, positions: Mapping[str, Position]) -> None:
    """Let *broker* follow exactly *positions*, each anew."""
    for name in _followed.get(broker, set()) - positions.keys():
        broker.unfollow(name)
    for name, at in positions.items():
        broker.follow(name, at)
    _followed[broker] = set(positions)


def wait(broker: Broker, positions: Mapping[str, Position]) -> dict[str, Any]:
    """What one `wait` gives to who follows exactly *positions* from now on."""
    follow(broker, positions)
    return broker.wait()


def news(broker: Broker, positions: Mapping[str, Position]) -> dict[str, Any]:
    """The same when it gives something."""
    follow(broker, positions)
    return next_news(broker)


def next_news(broker: Broker) -> dict[str, Any]:
    """What `wait` gives when it gives something."""
    while not (found := broker.wait()):
        pass
    return found


def frames(piece: Slice) -> list[bytes]:
    return [entry.frame for entry in piece.entries]


def plain(piece: Slice) -> tuple[str, int, int, list[tuple[int, bytes]]]:
    """Without checks and bounds."""
    return (*piece[:3], [entry[:2] for entry in piece.entries])


def plainly(news: Mapping[str, Slice]) -> dict[str, tuple[str, int, int, list[tuple[int, bytes]]]]:
    return {name: plain(piece) for name, piece in news.items()}


def everything(broker: Broker, channel: str) -> Slice:
    return broker.read(channel, 0, LOTS, LOTS)


def left_behind(broker: Broker, url: str) -> int:
    """The rows, keys or logs of all channels."""
    if isinstance(broker, MemoryBroker):
        return broker.number_of_logs()
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            return len(client.keys("ssestream:*"))
    if url.startswith("postgresql"):
        import psycopg

        with psycopg.connect(url) as postgresql:
            tables = ("ssestream.channels", "ssestream.events")
            rows = [postgresql.execute(f"SELECT count(*) FROM {each}") for each in tables]
            return sum(int(each.fetchall()[0][0]) for each in rows)
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
        counts = [db.execute(f"SELECT count(*) FROM {each}") for each in ("channels", "events")]
        return sum(each.fetchone()[0] for each in counts)


class Follower:
    """Reads one channel to its end, again and again, as a process's listener does."""

    def __init__(self, broker: Broker, channel: str) -> None:
        self.frames: list[bytes] = []
        self.numbers: list[int] = []
        self.errors: list[BrokerError] = []
        self._broker = broker
        self._channel = channel
        self._over = False
        broker.follow(channel, Position("", 0))
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._over:
            try:
                news = self._broker.wait()
            except BrokerError as error:
                self.errors.append(error)
                time.sleep(0.01)
                continue
            if self._channel in news:
                piece = news[self._channel]
                for number, frame, _ in piece.entries:
                    self.numbers.append(number)
                    self.frames.append(frame)

    def stop(self) -> None:
        self._over = True
        self._broker.wake()
        self._thread.join(60)
        assert not self._thread.is_alive()
