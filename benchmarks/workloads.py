"""The workloads in which each client has a producer or a channel of its own.

The apps for them are ``apps/*_own.py`` and ``node/ssestream-own.js``.
"""

import contextlib
import dataclasses
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from .contenders import NODE
from .servers import Contender, Failure, cores, cpu_of, end, free_ports, start

#: What a contender runs for these workloads instead of its usual app.
APPS = {
    "ours:app": "ours_own:app",
    "generator:app": "generator_own:app",
    f"{NODE}/ssestream.js": f"{NODE}/ssestream-own.js",
}

#: Milliseconds between two messages of a stream, and the messages of a second.
TICK, TICKS = 100, 10
TOKEN, TOKENS = 25, 40
#: The events of a second over all channels.
EVENTS = 1000
#: One stream at full speed has to carry so many messages for each second of the plan.
FULL = 20_000


@dataclass(frozen=True)
class Workload:
    what: str
    #: The path of a stream. ``{count}`` is the number of its messages.
    path: str
    clients: tuple[int, ...]
    #: How many times longer than the plan's seconds it is measured.
    longer: float = 1
    #: Whether each stream has numbers of its own, and a time in each message.
    own: bool = True
    #: Whether the path ends with the number of the client.
    numbered: bool = False
    #: The messages of a second after which a stream ends; 0 if it does not end.
    ends: int = 0
    broker: str | None = None

    def count(self, seconds: float) -> int:
        """The messages of a stream that ends; 0 if it does not end."""
        return max(1, round(self.ends * seconds * self.longer)) if self.ends else 0

    def options(self, seconds: float) -> list[str]:
        """The load client's options."""
        count = self.count(seconds)
        return [
            *("--path", self.path.format(count=count), "--own", str(int(self.own))),
            *("--numbered", str(int(self.numbered)), "--count", str(count)),
        ]

    def contender(self, usual: Contender) -> Contender | None:
        """The contender with its app for this workload, or None if it takes no part."""
        if not APPS.keys() & set(usual.command):
            return None
        is_ours = "ours:app" in usual.command
        if self.broker not in (None, "redis") and not is_ours:
            return None
        command = tuple(APPS.get(word, word) for word in usual.command)
        return dataclasses.replace(usual, command=command)

    def has_room(self, contender: Contender, clients: int) -> bool:
        """Whether the process has the descriptors for so many clients."""
        # By hand, each client has a connection to Redis as well.
        each = 2 if self.broker == "redis" and contender.name == "generator" else 1
        return clients * each + 200 < resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    @property
    def missing(self) -> str | None:
        if self.broker == "redis" and shutil.which("redis-server") is None:
            return "there is no redis-server; Debian has it in redis-server"
        return None


WORKLOADS = {
    "timers": Workload(
        "a timer for each of the clients, 10 messages a second",
        f"/timers?interval={TICK}",
        (1000,),
        longer=4,
    ),
    "sources": Workload(
        "a generator for each of the clients, 10 messages a second",
        f"/sources?interval={TICK}",
        (1000,),
        longer=4,
    ),
    "tokens": Workload(
        "streams of 40 messages a second that end after a while, so many at a time",
        f"/sources?interval={TOKEN}&count={{count}}",
        (200,),
        longer=20 / 3,
        ends=TOKENS,
    ),
    "write": Workload(
        "a loop that writes one message to each of the clients", "/write", (1000,), own=False
    ),
    "full": Workload("one stream, write and drain", "/full?count={count}", (1,), ends=FULL),
    **{
        f"users-{broker}": Workload(
            f"a channel for each of the clients, {EVENTS:,} events a second, {words}",
            "/users/",
            (100, 1000, 5000, 10_000),
            longer=2,
            numbered=True,
            broker=broker,
        )
        for broker, words in (("memory", "in memory"), ("sqlite", "SQLite"), ("redis", "Redis"))
    },
    **{
        f"fresh-{broker}": Workload(
            f"opening a new channel for each of the clients, {words}",
            "/users/",
            (5000,),
            numbered=True,
            broker=broker,
        )
        for broker, words in (("memory", "in memory"), ("sqlite", "SQLite"), ("redis", "Redis"))
    },
}


class Broker:
    """The broker of a visit."""

    def __init__(self, url: str | None = None, process: "subprocess.Popen[bytes] | None" = None):
        self.url = url
        self._process = process

    @property
    def environment(self) -> dict[str, str]:
        return {"BENCHMARK_URL": self.url} if self.url else {}

    @property
    def is_a_server(self) -> bool:
        return self._process is not None

    def cpu(self) -> float:
        """The CPU seconds of Redis so far; 0 if it is another broker."""
        return cpu_of([self._process.pid]) if self._process else 0.0


@contextlib.contextmanager
def broker_of(workload: Workload | None) -> Iterator[Broker]:
    """A fresh broker for one contender. Redis runs on the clients' core and stores nothing."""
    kind = workload.broker if workload else None
    with tempfile.TemporaryDirectory() as folder:
        if kind != "redis":
            urls = {"memory": "memory://", "sqlite": f"sqlite:///{folder}/events.db"}
            yield Broker(urls.get(kind or ""))
            return
        port = free_ports(1)[0]
        command = [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port)),
            *("--save", "", "--maxclients", "19000", "--dir", folder),
        ]
        process = start(command, cores()[1], stdout=subprocess.DEVNULL)
        try:
            wait_for(port, process)
            yield Broker(f"redis://127.0.0.1:{port}/0", process)
        finally:
            end(process)


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failure("Redis does not listen")
        time.sleep(0.02)
