"""``python -m tests.long.chaos.runs``: runs and their watchers, while workers and the broker die.

Each run has one to three watchers, which leave at random and come back with their last id. In the
end each watcher must hold all messages of its run, once and in order, and each run has one end.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from typing import Any

import gevent
import gevent.socket
import psutil

from ssestream import BrokerError, Channels
from ssestream.wire import Decoder
from tests.kit.redis_server import RedisServer
from tests.kit.servers import Server
from tests.long.chaos.faults import Faults

#: The last messages of runs.
ENDS = ("done", "failed", "stopped", "lost")

#: Seconds that nothing comes to any watcher before nothing is waited for any more.
PATIENCE = 30.0

#: Seconds that further faults are planned for, when runs go on after those of the plan.
AGAIN = 40.0

#: Seconds between two freezes of a worker, on average, and how long it is frozen.
FREEZE, FROZEN = 6.0, (0.3, 4.0)


class Watcher:
    """One client of one run, from its first visit until it is answered with 204."""

    def __init__(self, chaos: "RunsChaos", id: str, number: int) -> None:
        self.id = id
        self.name = f"{id}/{number}"
        self.messages: list[tuple[str | None, str]] = []
        self.is_done = False
        self._chaos = chaos
        self._dice = random.Random(f"{chaos.seed}:{self.name}")
        self._last_id = ""

    def follow(self) -> None:
        gevent.sleep(self._dice.uniform(0, 1))
        while not self.is_done:
            with contextlib.suppress(OSError, AssertionError):
                self._visit()
            gevent.sleep(self._dice.uniform(0.01, 0.3))

    def _visit(self) -> None:
        # Before its start, a run is answered with 204, too.
        has_started = self._chaos.has_started(self.id)
        leaves_at = time.monotonic() + self._dice.expovariate(1 / 2.0)
        sock = gevent.socket.create_connection(("127.0.0.1", self._chaos.port), timeout=5)
        try:
            lines = [f"GET /runs/{self.id} HTTP/1.0", "Host: localhost"]
            lines += [f"Last-Event-ID: {self._last_id}"] if self._last_id else []
            sock.sendall("\r\n".join([*lines, "", ""]).encode())
            head = b""
            while b"\r\n\r\n" not in head:
                data = sock.recv(65536)
                if not data:
                    return
                head += data
            head, _, data = head.partition(b"\r\n\r\n")
            status = int(head.split()[1])
            if status == 204 and has_started:
                self.is_done = True
            if status != 200:
                return
            self._chaos.visits += 1
            decoder = Decoder()
            self._take(decoder.feed(data))
            while time.monotonic() < leaves_at or self._chaos.settling:
                left = leaves_at - time.monotonic()
                sock.settimeout(1.0 if self._chaos.settling else max(0.05, min(5.0, left)))
                try:
                    data = sock.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    return
                self._take(decoder.feed(data))
        finally:
            sock.close()

    def _take(self, messages: list[Any]) -> None:
        for message in messages:
            self._last_id = str(message.get("id", self._last_id))
            # A browser fires no event for a block without data.
            if "data" in message:
                event: Any = message.get("event")
                self.messages.append((event, str(message.get("data", ""))))
                self._chaos.heard_at = time.monotonic()


class RunsChaos:
    """Many runs, *together* at a time, in *workers* that die."""

    def __init__(
        self,
        kind: str,
        seed: int,
        *,
        runs: int,
        events: int,
        together: int,
        workers: int,
        worker_class: str,
        redis_executable: str | None = None,
        fault_pace: float = 1.0,
        seconds: float = 7200.0,
    ) -> None:
        self.seed, self.settling, self.heard_at = seed, False, time.monotonic()
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        #: How often watchers have come.
        self.visits = 0
        self._runs, self._events, self._together = runs, events, together
        self._folder = tempfile.mkdtemp(prefix="ssestream-runs-")
        #: The server of the broker, if it has one.
        self._database = self._make_database(kind, redis_executable)
        self._url = f"sqlite:///{self._folder}/events.db"
        self._worker_class, self._workers = worker_class, workers
        self._fault_pace, self._until = fault_pace, time.monotonic() + seconds
        self._started: set[str] = set()
        self._dice = random.Random(f"{seed}:runs")
        self.port = 0

    def _make_database(self, kind: str, redis_executable: str | None) -> Any:
        if kind == "redis":
            executable = redis_executable or shutil.which("redis-server")
            assert executable is not None, "redis-server is not installed"
            return RedisServer(executable, durable=True)
        if kind == "postgresql":
            # Not everybody has psycopg.
            from tests.kit.postgresql_server import PostgresqlServer, programs_of_postgresql

            programs = programs_of_postgresql()
            assert programs is not None, "PostgreSQL is not installed"
            return PostgresqlServer(programs)
        return None

    def has_started(self, id: str) -> bool:
        return id in self._started

    def run(self) -> list[str]:
        """Everything; the sentences that say what is wrong."""
        if self._database is not None:
            self._database.start()
            is_redis = isinstance(self._database, RedisServer)
            self._url = self._database.url if is_redis else self._database.make_database()
        self._server = Server(
            self._worker_class,
            "tests.servers.apps.runs:app",
            # A run must outlive the whole of a long chaos: it is judged at the end.
            env={"BROKER": self._url, "RUNS_TTL": "7200"},
            args=("-c", "tests/servers/apps/reload.conf.py", "--workers", str(self._workers)),
        )
        try:
            self._server.start()
            self.port = self._server.port
            self._play()
        finally:
            self._server.stop()
            if self._database is not None:
                self._database.remove()
            shutil.rmtree(self._folder, ignore_errors=True)
        return self.wrong

    def _play(self) -> None:
        pace = 0.02
        seconds = self._runs / self._together * self._events * pace
        seconds = min(AGAIN, max(4.0, seconds))
        faults = [Faults(self.seed, seconds, self._server, self._database, self._fault_pace)]
        ending = threading.Event()
        freezer = threading.Thread(target=self._freeze, args=(ending,))
        watchers: list[Watcher] = []
        greenlets: list[Any] = []
        queue = [f"run{number}" for number in reversed(range(self._runs))]
        faults[0].begin()
        freezer.start()
        starters = [
            gevent.spawn(self._start, queue, pace, watchers, greenlets)
            for _ in range(self._together)
        ]
        try:
            while not all(starter.ready() for starter in starters):
                gevent.sleep(0.05)
                # On a busy machine runs take longer than planned, and so do workers that boot. If
                # faults went on before a worker serves, none would ever serve.
                over = faults[-1].over and not faults[-1].wrong
                if over and self._ask("/status/none") is not None:
                    seed = f"{self.seed}:{len(faults)}"
                    more = Faults(seed, AGAIN, self._server, self._database, self._fault_pace)
                    faults.append(more)
                    more.begin()
            gevent.joinall(starters, raise_error=True)
            while not faults[-1].over:
                gevent.sleep(0.05)
        finally:
            ending.set()
            freezer.join()
        for each in faults:
            self.wrong += each.wrong
            self.counts += each.counts
        self.settling, self.heard_at = True, time.monotonic()
        while not all(each.is_done for each in watchers):
            if time.monotonic() > self.heard_at + PATIENCE:
                break
            gevent.sleep(0.05)
        gevent.killall(greenlets)
        self._judge(watchers)
        self._report(watchers)

    def _report(self, watchers: list[Watcher]) -> None:
        ends = [f"{self.counts[end]} {end}" for end in ENDS]
        events = sum(len(watcher.messages) for watcher in watchers)
        print(
            f"seed {self.seed}: {len(self._started)} of {self._runs} runs ({', '.join(ends)}),"
            f" {events} messages at {len(watchers)} watchers in {self.visits} visits",
            flush=True,
        )
        faults = {name: self.counts[name] for name in sorted(self.counts) if name not in ENDS}
        print(f"faults: {faults}", flush=True)

    def _start(
        self, queue: list[str], pace: float, watchers: list[Watcher], greenlets: list[Any]
    ) -> None:
        """Start runs one after another, and their watchers."""
        while queue and time.monotonic() < self._until:
            id = queue.pop()
            own = [Watcher(self, id, number) for number in range(self._dice.randint(1, 3))]
            following = [gevent.spawn(watcher.follow) for watcher in own]
            watchers += own
            greenlets += following
            source = self._dice.choice(("plain", "async"))
            path = f"/start/{id}?count={self._events}&pace={pace}&source={source}"
            while self._ask(path) is None:
                gevent.sleep(0.1)
            self._started.add(id)
            if len(self._started) % 100 == 0:
                print(f"{len(self._started)} of {self._runs} runs have started", flush=True)
            # On a busy machine a run takes longer than its pace. No more of them go on together.
            gevent.joinall(following, timeout=PATIENCE + self._events * pace)

    def _ask(self, path: str) -> Any:
        try:
            sock = gevent.socket.create_connection(("127.0.0.1", self.port), timeout=10)
            try:
                sock.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
                answer = http.client.HTTPResponse(sock)
                answer.begin()
                body = answer.read()
                return json.loads(body) if answer.status == 200 else None
            finally:
                sock.close()
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def _freeze(self, over: threading.Event) -> None:
        dice = random.Random(f"{self.seed}:freezer")
        while not over.wait(dice.expovariate(1 / FREEZE)):
            assert self._server.process is not None
            workers = psutil.Process(self._server.process.pid).children()
            if not workers:
                continue
            worker = dice.choice(workers)
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGSTOP)
                over.wait(dice.uniform(*FROZEN))
                os.kill(worker.pid, signal.SIGCONT)
                self.counts["workers frozen"] += 1

    def _judge(self, watchers: list[Watcher]) -> None:
        channels = Channels(self._url)
        logs: dict[str, list[tuple[str | None, str]]] = {}
        for id in sorted(self._started):
            try:
                stored = channels.history(f"run:{id}")
            except BrokerError as error:
                self.wrong.append(f"{id} cannot be read: {error}")
                continue
            logs[id] = [(each.get("event"), str(each.get("data", ""))) for each in stored]  # type: ignore[misc]
            numbers = [data for event, data in logs[id] if event is None]
            ends = [event for event, _ in logs[id] if event is not None]
            if len(ends) != 1 or not logs[id] or logs[id][-1][0] not in ENDS:
                self.wrong.append(f"{id} has the ends {ends}, after {len(numbers)} messages")
                continue
            self.counts[str(ends[0])] += 1
            if numbers != [str(n) for n in range(len(numbers))]:
                self.wrong.append(f"{id} has lost or doubled messages: {numbers}")
            if ends[0] == "done" and len(numbers) != self._events:
                self.wrong.append(f"{id} is done after {len(numbers)} of {self._events}")
        for watcher in watchers:
            if watcher.messages != logs.get(watcher.id):
                self.wrong.append(
                    f"the watcher {watcher.name} has {watcher.messages[-3:]} of"
                    f" {len(watcher.messages)}, and not {logs.get(watcher.id, [])[-3:]} of"
                    f" {len(logs.get(watcher.id, []))}; done: {watcher.is_done}"
                )
        channels.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    environ = os.environ
    parser.add_argument("--broker", default="sqlite", choices=("sqlite", "redis", "postgresql"))
    parser.add_argument("--worker", default="gevent", choices=("gevent", "SseWorker", "gthread"))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--runs", type=int, default=int(environ.get("SSESTREAM_RUNS", 1000)))
    parser.add_argument("--events", type=int, default=int(environ.get("SSESTREAM_EVENTS", 200)))
    parser.add_argument("--together", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    # A worker that boots takes long on a busy machine, and no run can start while all boot.
    parser.add_argument("--fault-pace", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=7200.0, help="start no more after these")
    given = parser.parse_args()
    print(f"{given.broker}, {given.worker}, seed {given.seed}", flush=True)
    chaos = RunsChaos(
        given.broker,
        given.seed,
        runs=given.runs,
        events=given.events,
        together=given.together,
        workers=given.workers,
        worker_class=given.worker,
        fault_pace=given.fault_pace,
        seconds=given.seconds,
    )
    wrong = chaos.run()
    print("\n".join(wrong) or "nothing is wrong")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
