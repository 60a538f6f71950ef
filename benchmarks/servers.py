"""Start a server and its clients, each on its own core, and measure their CPU and memory."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .beside import link, package_in, search_path

HERE = Path(__file__).parent
BUILD = HERE / ".build"

#: A hundred characters, so that a message is about 130 bytes.
TEXT = "All the news that fits into a hundred characters".ljust(99, ".") + "!"

PATIENCE = 20.0


class Failure(Exception):
    """A server or the load client has failed."""


def cores() -> tuple[int, int]:
    """The server's core and the client's core: the same if there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def start(command: Sequence[str], core: int, **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process on one core and in its own group. Its children stay there, too."""
    mine = os.sched_getaffinity(0)
    # A child inherits the core of its parent.
    os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen(command, start_new_session=True, **options)
    finally:
        os.sched_setaffinity(0, mine)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def cpu_of(pids: Iterable[int]) -> float:
    """Seconds of CPU time of all threads of these processes."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


@dataclass(frozen=True)
class Contender:
    name: str
    #: A description for the tables.
    what: str
    #: The command. ``{port}``, ``{control}`` and ``{folder}`` are replaced.
    command: tuple[str, ...]
    #: Whether a stream's body begins at once. Otherwise the header is timed.
    greets: bool = True
    #: Whether messages are published by HTTP instead of the second port.
    over_http: bool = False
    #: The most messages that may be published in a second; 0 is no limit.
    most_a_second: int = 0
    #: Another checkout, if its package ``ssestream`` is to be measured instead of this one's.
    checkout: Path | None = None
    #: Files for its folder, by name. The same names are replaced in their texts.
    files: Mapping[str, str] = field(default_factory=dict)


class Server:
    """A contender's running processes."""

    def __init__(self, contender: Contender, variables: Mapping[str, str] | None = None) -> None:
        self.contender = contender
        self.port, self.control = free_ports(2)
        if contender.over_http:
            self.control = self.port
        self._folder = tempfile.TemporaryDirectory()
        values = {
            "port": self.port,
            "control": self.control,
            "folder": self._folder.name,
            "text": TEXT,
        }
        for name, text in contender.files.items():
            Path(self._folder.name, name).write_text(text.format(**values))
        if contender.checkout:
            link(Path(self._folder.name), contender.checkout)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        environment = {
            **os.environ,
            "BENCHMARK_PORT": str(self.port),
            "BENCHMARK_CONTROL": str(self.control),
            "BENCHMARK_TEXT": TEXT,
            "NODE_ENV": "production",
            "PYTHONPATH": os.pathsep.join([search_path(), str(HERE / "apps")]),
        }
        environment.update(variables or {})
        if contender.checkout:
            environment["BENCHMARK_PACKAGE"] = str(package_in(contender.checkout))
        self.process = start(
            [word.format(**values) for word in contender.command],
            cores()[0],
            cwd=self._folder.name,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        for port in (self.control, self.port):
            while True:
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", port)) as sock,
                ):
                    # A socket can connect to itself, if the kernel gives it this very port.
                    if sock.getsockname() != sock.getpeername():
                        break
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise Failure(f"{self.contender.name} does not listen:\n{self.log()}")
                time.sleep(0.02)

    def log(self) -> str:
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def processes(self) -> list[int]:
        """The ids of all processes of the group, with gunicorn's and nginx's masters."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    # The fields after the name: state, parent, group. A name may hold anything.
                    fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                    if int(fields[2]) == self.process.pid:
                        found.append(int(entry))
        return found

    def cpu(self) -> float:
        """Seconds of CPU time of all its processes and threads."""
        return cpu_of(self.processes())

    def memory(self) -> int:
        """The proportional set size of its processes, in bytes."""
        total = 0
        for pid in self.processes():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self) -> None:
        end(self.process)
        self._log.close()
        self._folder.cleanup()


class Load:
    """The process of all clients: see ``native/load.c``."""

    def __init__(
        self,
        server: Server,
        patience: float = 10,
        spin: bool = True,
        options: Sequence[str] = (),
    ) -> None:
        self._process = start(
            [
                *(str(BUILD / "load"), "--port", str(server.port)),
                *("--control", str(server.control), "--text", TEXT),
                *("--greets", str(int(server.contender.greets))),
                *("--over-http", str(int(server.contender.over_http))),
                *("--most-a-second", str(server.contender.most_a_second)),
                *("--patience", str(patience)),
                # If it shares the server's core, it must sleep to let the server work.
                *("--spin", str(int(spin and len(set(cores())) > 1))),
                *options,
            ],
            cores()[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, command: str, one: float, two: float) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{command} {one} {two}\n".encode())
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise Failure(f"the load client ended at {command} {one} {two}")
        result: dict[str, float] = json.loads(answer)
        return result

    def stop(self) -> None:
        end(self._process)


@contextlib.contextmanager
def running(
    contender: Contender,
    patience: float = 10,
    spin: bool = True,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[tuple[Server, Load]]:
    """Start a fresh server and a fresh load client, and end both afterwards in any case."""
    server = Server(contender, variables)
    try:
        load = Load(server, patience, spin, options)
        try:
            yield server, load
        finally:
            load.stop()
    finally:
        server.stop()


def machine() -> dict[str, float]:
    """Seconds that the two cores were busy, and that other machines of the host took."""
    ticks = os.sysconf("SC_CLK_TCK")
    busy = steal = 0
    wanted = {f"cpu{core}" for core in cores()}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *numbers = line.split()
        if name in wanted:
            user, nice, system, _, _, irq, softirq, stolen, *_ = map(int, numbers)
            busy += user + nice + system + irq + softirq
            steal += stolen
    return {"busy": busy / ticks, "steal": steal / ticks}


def kernel_memory() -> int | None:
    """Bytes in the kernel's slabs and socket buffers, for both ends of all connections."""
    slab = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Slab:"):
            slab = int(line.split()[1]) * 1024
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return slab + int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")
    return None
