"""``python -m tests.long.chaos``: see the package."""

import argparse
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import gevent

from ssestream import Channels
from ssestream.channels.ids import parse_id
from tests.kit.redis_server import RedisServer
from tests.kit.servers import ROOT, Server
from tests.long.chaos import author, text
from tests.long.chaos.clients import Crowd, Follower
from tests.long.chaos.faults import Faults

CHANNELS = [f"channel-{number}" for number in range(8)]

BROKERS = ("sqlite", "redis", "postgresql")

WORKER_CLASSES = ("gevent", "SseWorker")

PUBLISHERS = ("anne", "bert")

#: Seconds without a message for anybody, after which nothing is waited for any more.
PATIENCE = 30.0

#: Clients of a hundred that come when messages flow already.
LATE = 15


class Chaos:
    """One run. *seconds* is how long messages are published and things go wrong.

    If *has_own*, each client has a channel of its own, and stays longer. Things go wrong less often
    then, as all clients come back each time.
    """

    def __init__(
        self,
        kind: str,
        seed: int,
        *,
        messages: int,
        clients: int,
        workers: int,
        seconds: float,
        worker_class: str,
        redis_executable: str | None = None,
        has_own: bool = False,
    ) -> None:
        self.seed = seed
        self.wrong: list[str] = []
        self._names = [f"user/{number}" for number in range(clients)] if has_own else CHANNELS
        self._has_own = has_own
        self._patience = PATIENCE + clients / 50
        self._messages = messages
        self._clients = clients
        self._seconds = seconds
        self._folder = tempfile.mkdtemp(prefix="ssestream-chaos-")
        self._redis = self._make_redis(redis_executable) if kind == "redis" else None
        self._url = f"sqlite:///{self._folder}/events.db"
        #: The server of the broker, if it has one.
        self._database: Any = self._redis
        if self._redis is not None:
            self._url = self._redis.url
        elif kind == "postgresql":
            self._database = self._make_postgresql()
        # Nothing is to fall out of it.
        self._history = 2 * messages + 100
        config = {
            "SSESTREAM_URL": self._url,
            "SSESTREAM_HISTORY": self._history,
            "SSESTREAM_HEARTBEAT": 1.0,
            # Little, so that those who read slowly lag.
            "SSESTREAM_MAX_BYTES": 32 * 1024,
            "SSESTREAM_RETRY": [10, 500],
            "SSESTREAM_RETRY_AFTER": [50, 1000],
        }
        self._server = self._make_server(worker_class, workers, config)
        self._channels = Channels(self._url, history=self._history)
        self._publishers: list[subprocess.Popen[bytes]] = []
        self._followers: list[Follower] = []

    #: Whether its Redis may lose the end of a log, which clients are told of as a gap.
    _may_lose = False

    #: Where its PostgreSQL listens.
    _address = "127.0.0.1"

    def _make_redis(self, executable: str | None) -> RedisServer:
        executable = executable or shutil.which("redis-server")
        assert executable is not None, "redis-server is not installed"
        return RedisServer(executable, durable=True)

    def _make_postgresql(self) -> Any:
        # Not everybody has psycopg.
        from tests.kit.postgresql_server import PostgresqlServer, programs_of_postgresql

        programs = programs_of_postgresql()
        assert programs is not None, "PostgreSQL is not installed"
        server = PostgresqlServer(programs, self._address).start()
        self._url = server.make_database()
        server.stop()
        return server

    def _make_server(self, worker_class: str, workers: int, config: dict[str, Any]) -> Any:
        return Server(
            worker_class,
            "tests.servers.apps.channels:app",
            env={"CHANNELS_CONFIG": json.dumps(config), "CHANNELS_LOOK": "1"},
            args=("-c", "tests/servers/apps/reload.conf.py", "--workers", str(workers))
            # Each worker has room for all clients, when the others are gone.
            + ("--worker-connections", str(2 * self._clients + 1000)),
        )

    def _make_faults(self) -> Any:
        pace = 0.25 if self._has_own else 1.0
        return Faults(self.seed, self._seconds, self._server, self._database, pace)

    def run(self) -> list[str]:
        """Everything; the sentences that say what is wrong."""
        began = time.monotonic()
        try:
            if self._database is not None:
                self._database.start()
            self._server.start()
            crowd = Crowd(self._server.port, self.seed, stay=120.0 if self._has_own else 4.0)
            self._come(crowd)
            crowd.may_lose = self._may_lose
            faults = self._make_faults()
            started = time.monotonic()
            faults.begin()
            self._publish()
            while not faults.over or any(each.poll() is None for each in self._publishers):
                gevent.sleep(0.05)
            published = time.monotonic()
            self.wrong += faults.wrong
            told = list(map(self._told, PUBLISHERS, self._publishers))
            crowd.settling = True
            self._close()
            logs = {name: self._log(name) for name in self._names}
            judged = time.monotonic()
            self._settle(crowd, {name: len(log) for name, log in logs.items()})
            settled = time.monotonic()
        finally:
            for follower in self._followers:
                follower.leave()
            for publisher in self._publishers:
                publisher.kill()
                publisher.wait()
            self._server.stop()
            if self._database is not None:
                self._database.remove()
        self._judge(logs, told)
        self._look_at_server()
        self._report(crowd, faults, logs, told, published - started, settled - judged)
        print(f"{time.monotonic() - began:.0f} s in all", flush=True)
        if not self.wrong:
            shutil.rmtree(self._folder)
        else:
            (Path(self._folder) / "server.log").write_text(self._server.log())
            (Path(self._folder) / "wrong.log").write_text("\n".join(self.wrong))
            (Path(self._folder) / "faults.log").write_text("\n".join(faults.log))
            print(f"what was stored and logged is kept in {self._folder}", flush=True)
        return self.wrong

    def _come(self, crowd: Crowd) -> None:
        """Let all but the late be there and know where they are, before anything goes wrong."""
        dice = random.Random(f"{self.seed}:clients")
        for number in range(self._clients):
            count = 1 if dice.random() < 0.5 else dice.randint(2, len(CHANNELS))
            late = number and dice.random() < LATE / 100
            after = dice.uniform(0.1, 0.8) * self._seconds if late else 0.0
            names = [self._names[number]] if self._has_own else dice.sample(CHANNELS, count)
            names.sort()
            self._followers.append(Follower(crowd, f"client-{number}", names, after))
        early = [follower for follower in self._followers if not follower.late]
        self._wait(lambda: all(follower.open for follower in early), "streams to open")
        # Who has no id yet begins "now", and later again with each visit.
        for name in self._names:
            self._channels.publish(name, {"data": text(name, "host", 1)})
        once = dict.fromkeys(self._names, 1)
        self._wait(lambda: all(each.has_all(once) for each in early), "the first messages")

    def _wait(self, condition: Any, what: str) -> None:
        with gevent.Timeout(self._patience, AssertionError(f"waited in vain for {what}")):
            while not condition():
                faults = [fault for follower in self._followers for fault in follower.faults]
                assert not faults, f"{what}: {faults[:3]}\n{self._server.log()[-3000:]}"
                gevent.sleep(0.01)

    def _publish(self) -> None:
        for number, name in enumerate(PUBLISHERS):
            share = (self._messages + number) // len(PUBLISHERS)
            arguments = ["--url", self._url, "--name", name, "--messages", str(share)]
            arguments += ["--seconds", str(self._seconds), "--history", str(self._history)]
            # Not a pipe: with thousands of channels, the answer is larger than a pipe takes.
            with (Path(self._folder) / f"{name}.json").open("wb") as answer:
                self._publishers.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.long.chaos.publisher", *arguments]
                        + ["--seed", str(self.seed), *self._names],
                        stdout=answer,
                        cwd=ROOT,
                    )
                )

    def _told(self, name: str, publisher: "subprocess.Popen[bytes]") -> dict[str, Any]:
        if publisher.returncode:
            self.wrong.append(f"a publisher failed, with {publisher.returncode}")
            return {"published": {}, "errors": 0, "found": 0}
        told: dict[str, Any] = json.loads((Path(self._folder) / f"{name}.json").read_bytes())
        return told

    def _log(self, name: str) -> list[tuple[str, str, int]]:
        """The authors of all that *name* holds. Its numbers begin with 1 and have no hole."""
        authors = []
        for number, message in enumerate(self._channels.history(name), 1):
            positions = parse_id(str(message["id"]))
            if positions is None or positions[name].number != number:
                self.wrong.append(f"entry {number} of {name} has the id {message['id']}")
            authors.append(author(str(message["data"])))
        return authors

    def _close(self) -> None:
        """Publish some more until the last who came late, and begins "now", has begun."""
        deadline, number = time.monotonic() + self._patience, 1
        while time.monotonic() < deadline:
            behind = [each for each in self._followers if len(each.first) < len(each.channels)]
            if not behind:
                return
            number += 1
            for name in {name for each in behind for name in each.channels}:
                self._channels.publish(name, {"data": text(name, "host", number)})
            gevent.sleep(1)

    def _settle(self, crowd: Crowd, last: dict[str, int]) -> None:
        seen, deadline = -1, time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if all(follower.has_all(last) for follower in self._followers):
                return
            if crowd.counts["messages"] != seen:
                seen, deadline = crowd.counts["messages"], time.monotonic() + PATIENCE
            gevent.sleep(0.05)

    def _judge(
        self, logs: dict[str, list[tuple[str, str, int]]], told: list[dict[str, Any]]
    ) -> None:
        for publisher, one in zip(PUBLISHERS, told, strict=True):
            for name, log in logs.items():
                mine = [number for _, by, number in log if by == publisher]
                published = one["published"].get(name, 0)
                if not self._is_whole(mine, published):
                    self.wrong.append(
                        f"{publisher} published {published} messages to {name},"
                        f" and the log has {len(mine)}, {len(set(mine))} of them different"
                    )
        for follower in self._followers:
            self.wrong += [f"{follower.name}: {fault}" for fault in follower.faults]
            for name in follower.channels:
                self._judge_one(follower, name, logs[name])

    def _is_whole(self, stored: list[int], published: int) -> bool:
        """Whether the log has what one publisher published."""
        return stored == list(range(1, published + 1))

    def _judge_one(self, follower: Follower, name: str, log: list[tuple[str, str, int]]) -> None:
        who = f"{follower.name} on {len(follower.channels)} channels, {name}"
        first = follower.first.get(name)
        if first is None or (first and not (follower.late or follower.gaps[name])):
            self.wrong.append(f"{who}: began behind {first}")
            return
        expected = list(enumerate(log[first:], first + 1))
        held = follower.held[name]
        if held == expected:
            return
        numbers = [number for number, _ in held]
        missing = sorted({number for number, _ in expected} - set(numbers))
        words = f"{who}: {len(missing)} missing ({missing[:5]}), "
        words += f"{len(numbers) - len(set(numbers))} double, "
        words += "in order" if numbers == sorted(numbers) else "not in order"
        wrong = set(held) - set(expected)
        words += f", {len(wrong)} with data of others" if wrong else ""
        visits = "\n    ".join(map(str, list(follower.visits)[-3:]))
        self.wrong.append(f"{words}; its last visits\n    {visits}")

    def _look_at_server(self) -> None:
        for event in [] if self._may_lose else self._server.events(event="gap"):
            self.wrong.append(f"a worker told of a gap: {event}")
        for trace in re.findall(r"^Traceback.*(?:\n .*)*\n.*", self._server.log(), re.MULTILINE):
            self.wrong.append("in the server's log:\n" + trace)

    def _report(
        self,
        crowd: Crowd,
        faults: Faults,
        logs: dict[str, list[tuple[str, str, int]]],
        told: list[dict[str, Any]],
        publishing: float,
        settling: float,
    ) -> None:
        counts = crowd.counts
        several = sum(len(follower.channels) > 1 for follower in self._followers)
        late = sum(follower.late for follower in self._followers)
        stored = sum(map(len, logs.values()))
        behind = self._server.events(event="lagging")
        lagging = max((event["streams"] for event in behind), default=0)
        errors, found = sum(one["errors"] for one in told), sum(one["found"] for one in told)
        rows: dict[str, str] = {
            "stored": f"{stored:,} messages in {len(logs)} channels",
            "clients": f"{len(self._followers)}, {several} on several channels, {late} came late",
            "delivered": f"{counts['messages']:,} messages, {counts['replayed']:,} replayed",
            "lagging": f"{lagging} at once in one worker, a stream once for each channel",
            "visits": f"{counts['visits']:,}: {counts['left']:,} left by the client,"
            f" {counts['ended']:,} ended, {counts['cut'] + counts['failed']:,} cut",
            "publish raised": f"{errors} times, of which {found} were stored",
            "publishing": f"{publishing:.1f} s, {stored / publishing:,.0f} messages a second",
            "delivering": f"{counts['messages'] / (publishing + settling):,.0f} messages a second",
            "settled in": f"{settling:.1f} s",
            "gaps": f"{counts['gaps']} told",
            "longest wait": f"{crowd.longest_wait:.1f} s for the head of an answer",
        }
        rows |= {what: str(number) for what, number in sorted(faults.counts.items())}
        for what, figure in rows.items():
            print(f"{what:16}{figure}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.long.chaos")
    parser.add_argument("--url", choices=BROKERS, action="append", help="the broker")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--worker-class", action="append", help="gevent and SseWorker in turn")
    parser.add_argument("--seconds", type=float, default=90.0, help="for which things go wrong")
    parser.add_argument("--seed", type=int, default=None, help="one at random, unless given")
    parser.add_argument("--own", action="store_true", help="a channel for each client")
    arguments = parser.parse_args(argv)
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    result = 0
    kinds, classes = arguments.url or BROKERS, arguments.worker_class or WORKER_CLASSES
    for worker_class, kind in itertools.product(classes, kinds):
        print(
            f"== {kind}: {arguments.messages:,} messages, {arguments.clients} clients,"
            f" {arguments.workers} workers ({worker_class}), seed {seed}",
            flush=True,
        )
        wrong = Chaos(
            kind,
            seed,
            messages=arguments.messages,
            clients=arguments.clients,
            workers=arguments.workers,
            seconds=arguments.seconds,
            worker_class=worker_class,
            has_own=arguments.own,
        ).run()
        for sentence in wrong[:30]:
            print(f"WRONG: {sentence}")
        if wrong:
            words = Counter(sentence.partition(":")[0] for sentence in wrong)
            print(f"== {kind}: FAILED with {len(wrong)} faults, seed {seed}", flush=True)
            print(f"   {dict(words.most_common(5))}\n", flush=True)
            result = 1
        else:
            print(f"== {kind}: every client has every message once and in order\n", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
