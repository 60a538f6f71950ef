"""The tools of all parts: a worker and its clients, figures, and another checkout beside."""

import argparse
import contextlib
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

import ssestream

from ..beside import link, package_in, search_path


class Figure(NamedTuple):
    """One result of a part."""

    name: str
    value: float
    unit: str


#: A part takes its options and gives its figures, one after another.
Measure = Callable[[argparse.Namespace], Iterable[Figure]]


def parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """The options that every part has."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--beside", type=Path, help="another checkout, to compare its package with")
    made.add_argument("--rounds", type=int, default=5, help="with --beside; 5 if not given")
    made.add_argument("--json", action="store_true", help="print each figure as JSON")
    return made


def main(module: str, options: argparse.Namespace, measure: Measure) -> None:
    """Print the figures of a part, or compare them with the figures of another checkout."""
    # Each client takes a file descriptor of this process or of the worker.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    if options.beside:
        compare(module, options.beside, options.rounds)
        return
    for figure in measure(options):
        if options.json:
            print(json.dumps([*figure, str(Path(ssestream.__file__).parent.resolve())]), flush=True)
        else:
            print(f"{figure.name}: {spelled(figure.value)} {figure.unit}", flush=True)


def spelled(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# -- another checkout beside this one


def compare(module: str, checkout: Path, rounds: int) -> None:
    """Run the part with the package of *checkout* and with this one's, in turns."""
    here = Path(ssestream.__file__).parents[1]
    words = without_beside(sys.argv[1:])
    before: dict[tuple[str, str], list[float]] = {}
    now: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        sides = [(checkout, before), (here, now)]
        # The side that begins has the worse of a machine that warms up.
        for side, found in sides if number % 2 else reversed(sides):
            for figure in figures_of(module, side, words, whole=side is here):
                found.setdefault((figure.name, figure.unit), []).append(figure.value)
        print(f"round {number + 1} of {rounds} is done", file=sys.stderr, flush=True)
    print(f"{'':44}{'before':>10}{'now':>10}  now to before, median and range")
    for (name, unit), values in now.items():
        olds = before.get((name, unit), [])
        ratios = [new / old for new, old in zip(values, olds, strict=False) if old]
        line = f"{name}, {unit}".ljust(44)
        line += spelled(statistics.median(olds)).rjust(10) if olds else "-".rjust(10)
        line += spelled(statistics.median(values)).rjust(10)
        if ratios:
            middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
            line += f"  {middle:.2f} ({least:.2f} to {most:.2f})"
        print(line)


def without_beside(words: Sequence[str]) -> list[str]:
    """The options for a run with one package."""
    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ours.add_argument("--beside")
    ours.add_argument("--rounds")
    return ours.parse_known_args(words)[1]


def figures_of(module: str, checkout: Path, words: Sequence[str], whole: bool) -> list[Figure]:
    """The figures of one run with the package of *checkout*.

    An older package may not have all that the part measures. So without *whole*, the figures until
    an error count.
    """
    with tempfile.TemporaryDirectory() as folder:
        link(Path(folder), checkout)
        done = subprocess.run(
            [sys.executable, "-m", module, "--json", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": search_path(Path(folder))},
            stdout=subprocess.PIPE,
            text=True,
            check=whole,
        )
    if done.returncode:
        print(f"{checkout} cannot do all of {module}", file=sys.stderr, flush=True)
    found = []
    for line in done.stdout.splitlines():
        name, value, unit, package = json.loads(line)
        if package != str(package_in(checkout)):
            raise RuntimeError(f"{package} was measured, not the package of {checkout}")
        found.append(Figure(name, value, unit))
    return found


# -- a worker and its clients


@contextlib.contextmanager
def worker(
    app: str, kind: str = "gevent", *words: str, **environment: str
) -> Iterator[tuple[int, psutil.Process]]:
    """Start gunicorn with one worker of *kind*; give its port and the worker's process."""
    command = [sys.executable, "-m", "gunicorn", "-k", kind, "-b", "127.0.0.1:0"]
    server = subprocess.Popen(
        [*command, "--worker-connections", "5000", "--graceful-timeout", "1", *words, app],
        env={**os.environ, "PYTHONPATH": search_path(), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        port = pid = 0
        for line in server.stderr:
            if listening := re.search(r"Listening at: http://[\d.]+:(\d+)", line):
                port = int(listening[1])
            if booting := re.search(r"Booting worker with pid: (\d+)", line):
                pid = int(booting[1])
                break
        else:
            raise RuntimeError(f"gunicorn did not start {app}")
        yield port, psutil.Process(pid)
    finally:
        server.terminate()
        server.wait()


def ask(port: int, method: str, path: str) -> bytes:
    """The answer to a request, with its header. HTTP/1.0 has no chunks."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(f"{method} {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(4096):
            answer += data
    assert b" 200 OK" in answer, answer
    return answer


def connect(port: int, path: str, small: bool = False) -> socket.socket:
    """Connect a client and read up to the stream's first comment.

    A *small* client has a small receive buffer, and reads no byte more.
    """
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    received = b""
    while b":ok\n\n" not in received:
        data = sock.recv(1 if small else 4096)
        assert data, received
        received += data
    return sock


def cpu_of(process: psutil.Process) -> float:
    """The CPU seconds of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[len(ordered) * percent // 100]
