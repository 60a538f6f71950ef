"""One street with its broker, its publishers and its audience, and what is measured there."""

import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil

from tests.kit.redis_server import RedisServer
from tests.kit.servers import ROOT
from tests.long.hosts.audience import Audience
from tests.long.hosts.redis_trio import RedisTrio, found_redis
from tests.long.hosts.street import HERE, Host, Street

#: The channel that all clients follow.
NEWS = "news"

#: Messages a second, where time is not what is measured.
PACE = 20

#: Of the apps that are measured. A cut-off host is noticed by its silence: see `street.SILENCE`.
CONFIG = {"SSESTREAM_HEARTBEAT": 1.0}


class Publisher:
    """A process of `tests.long.hosts.publisher`, on *host* or beside the broker."""

    def __init__(self, url: str, host: Host | None) -> None:
        command = [sys.executable, "-m", "tests.long.hosts.publisher", "--url", url]
        self.process = subprocess.Popen(
            command if host is None else host.inside(*command),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def stop(self) -> None:
        with self.process as process:
            process.kill()


def make_broker(kind: str) -> Any:
    """It is reached at `street.HERE`. "sentinel" is a Redis with replicas."""
    if kind == "sentinel":
        return RedisTrio(found_redis())
    if kind == "redis":
        return RedisServer(found_redis(), "--bind", "127.0.0.1", HERE, "--protected-mode", "no")
    from tests.kit.postgresql_server import PostgresqlServer, programs_of_postgresql

    programs = programs_of_postgresql()
    assert programs is not None, "PostgreSQL is not installed"
    return PostgresqlServer(programs, HERE)


class Publishing(NamedTuple):
    per_second: float
    #: Microseconds of the broker's CPU time for a message.
    broker: float


class Delivery(NamedTuple):
    per_second: float
    #: Microseconds of CPU time for a delivery, of each part.
    cpu: dict[str, float]


class Measuring:
    """A street of so many hosts, with so many clients."""

    def __init__(self, kind: str, hosts: int, workers: int, worker_class: str) -> None:
        self.workers = hosts * workers
        self.broker = make_broker(kind)
        # A message is as safe as the server's own defaults make it.
        self.broker.start(*(["fsync=on"] if kind == "postgresql" else []))
        url = self.broker.make_database() if kind == "postgresql" else self.broker.url
        self._url = url.replace("127.0.0.1", HERE)
        config = {**CONFIG, "SSESTREAM_URL": self._url}
        self.street = Street(worker_class, config, hosts, workers)
        self.street.start()
        self._publishers = [
            Publisher(self._url, host) for host in self.street.hosts for _ in range(workers)
        ]
        self._audience: Audience | None = None
        self._numbers = itertools.count(1)

    def stop(self) -> None:
        if self._audience is not None:
            self._audience.close()
        for publisher in self._publishers:
            publisher.stop()
        self.street.stop()
        self.broker.remove()

    # -- the clients

    @property
    def audience(self) -> Audience:
        assert self._audience is not None
        return self._audience

    def gather(self, channels: list[str]) -> None:
        """Let a new audience come, with a client for each of *channels*."""
        if self._audience is not None:
            self._audience.close()
        self._audience = Audience(self.street.port, channels)
        self._audience.run_until(lambda: self.audience.is_whole, "all streams to open")
        self._numbers = itertools.count(1)
        # A stream that has an id comes back to its place.
        self._round([NEWS] if channels[0] == NEWS else channels)

    def _round(self, channels: list[str]) -> None:
        """Publish one message to each of *channels*, and wait until all clients have theirs."""
        number = next(self._numbers)
        count = len(self._publishers)
        for place, publisher in enumerate(self._publishers):
            # If there is a single channel, the publishers take turns.
            if names := channels[(place + number) % count :: count]:
                publisher.tell(names=names, number=number)
        wanted = self.audience.count + len(self.audience.clients)
        self.audience.run_until(lambda: self.audience.count >= wanted, f"message {number}")

    # -- CPU time

    def _processes(self) -> dict[str, list[psutil.Process]]:
        street = self.street
        roots = {
            "workers": [host.process for host in street.hosts],
            "nginx": [street.nginx],
            "broker": [self.broker.process],
            "publishers": [publisher.process for publisher in self._publishers],
        }
        found = {}
        for part, processes in roots.items():
            tops = [psutil.Process(each.pid) for each in processes if each is not None]
            found[part] = [each for top in tops for each in (top, *top.children(recursive=True))]
        return {**found, "clients": [psutil.Process()]}

    def _seconds(self) -> dict[str, float]:
        """The CPU seconds of each part so far."""
        seconds = {}
        for part, processes in self._processes().items():
            times = [process.cpu_times() for process in processes]
            seconds[part] = sum(each.user + each.system for each in times)
        return seconds

    # -- publishing and delivery

    def publishing(self, seconds: float, *, own: bool) -> Publishing:
        """All publishers at once, with a channel for each if *own*."""
        before = self._seconds()
        for number, publisher in enumerate(self._publishers):
            publisher.tell(names=[f"of-{number}" if own else "of-all"], seconds=seconds)
        told = [publisher.answer() for publisher in self._publishers]
        messages = sum(each["messages"] for each in told)
        broker = self._seconds()["broker"] - before["broker"]
        longest = max(each["seconds"] for each in told)
        return Publishing(messages / longest, broker / messages * 1e6)

    def delivery(self, seconds: float, clients: int, *, own: bool) -> Delivery:
        """One message at a time for each client, the next when all clients have the last."""
        channels = [f"user-{number}" if own else NEWS for number in range(clients)]
        self.gather(channels)
        names = channels if own else [NEWS]
        warm = time.monotonic() + seconds / 4
        while time.monotonic() < warm:
            self._round(names)
        before, count, began = self._seconds(), self.audience.count, time.monotonic()
        while time.monotonic() < began + seconds:
            self._round(names)
        passed, deliveries = time.monotonic() - began, self.audience.count - count
        after = self._seconds()
        return Delivery(
            deliveries / passed,
            {part: (after[part] - before[part]) / deliveries * 1e6 for part in before},
        )

    # -- one channel, a steady pace, and what happens meanwhile

    def during(self, act: Callable[[], None]) -> int:
        """Publish at `PACE` while *act* runs. Gives the number of the last message.

        Afterwards every client has the last message, and lacks others for good.
        """
        publisher = Publisher(self._url, None)
        try:
            publisher.tell(names=[NEWS], first=next(self._numbers), pace=PACE)
            act()
            publisher.tell()
            answers: list[int] = []
            asking = threading.Thread(target=lambda: answers.append(publisher.answer()["last"]))
            asking.start()
            self.audience.run_until(lambda: answers, "the publisher's last message")
            asking.join()
        finally:
            publisher.stop()
        last = answers[0]
        self._numbers = itertools.count(last + 1)
        self.audience.run_until(
            lambda: all(each.has(last) for each in self.audience.clients), "the last message"
        )
        return last

    def host_of(self) -> dict[int, Host]:
        """The host of each worker."""
        found = {}
        for host in self.street.hosts:
            assert host.process is not None
            for worker in psutil.Process(host.process.pid).children():
                found[worker.pid] = host
        return found

    def streams(self) -> Counter[str]:
        """The number of streams on each host, as the clients see it."""
        hosts = self.host_of()
        counts = Counter({host.address: 0 for host in self.street.hosts})
        for client in self.audience.clients:
            if client.worker in hosts:
                counts[hosts[client.worker].address] += 1
        return counts

    def do(self, act: Callable[[], None]) -> None:
        """*act*, in a thread of its own, while the clients are served."""
        errors: list[BaseException] = []

        def run() -> None:
            try:
                act()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.audience.run_until(lambda: not thread.is_alive(), "what is done to the hosts")
        if errors:
            raise errors[0]
