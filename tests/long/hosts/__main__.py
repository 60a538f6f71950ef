"""``python -m tests.long.hosts``: see the package."""

import argparse
import random
import sys
import threading
import time
from collections import Counter
from typing import Any, cast

import psutil

from tests.kit.redis_server import RedisServer
from tests.long.chaos.__main__ import WORKER_CLASSES, Chaos
from tests.long.hosts.redis_trio import RedisTrio, found_redis
from tests.long.hosts.street import HERE, Host, Street, enter

#: Seconds between two faults of a kind, on average.
CUT, ROLL, KILL, FAIL = 12.0, 20.0, 6.0, 20.0

#: Seconds for which a host is cut off: shorter and longer than nginx and a publisher wait.
AWAY = (1.0, 40.0)


class Faults:
    """Cuts hosts off, one at a time, kills workers, and reloads all hosts in turn."""

    def __init__(
        self, seed: int, seconds: float, hosts: list[Host], redis: RedisTrio | None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.log: list[str] = []
        self._hosts = hosts
        self._dice = random.Random(f"{seed}:faults")
        self._until = time.monotonic() + seconds
        ways: list[tuple[float, Any]]
        ways = [(CUT, self._cut), (ROLL, self._roll), (KILL, self._kill)]
        if redis is not None:
            ways.append((FAIL, lambda dice: self._fail_over(redis)))
        self._threads = [threading.Thread(target=self._run, args=way) for way in ways]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, apart: float, act: Any) -> None:
        dice = random.Random(self._dice.random())
        while time.monotonic() + apart < self._until:
            time.sleep(dice.uniform(0.2, 1.8) * apart)
            try:
                act(dice)
            except Exception as error:
                self.wrong.append(f"a fault could not be done: {error!r}")
                return

    def _did(self, what: str, of: Host, more: str = "") -> None:
        self.counts[what] += 1
        self.log.append(f"{time.monotonic():.2f} {of.address} {what} {more}".strip())

    def _cut(self, dice: random.Random) -> None:
        host, seconds = dice.choice(self._hosts), dice.uniform(*AWAY)
        self._did("hosts cut off", host, f"for {seconds:.1f} s")
        host.cut_off()
        time.sleep(seconds)
        host.come_back()

    def _roll(self, dice: random.Random) -> None:
        for host in self._hosts:
            self._did("hosts reloaded", host)
            host.reload()

    def _fail_over(self, redis: RedisTrio) -> None:
        self.counts["masters killed"] += 1
        self.log.append(f"{time.monotonic():.2f} the master of Redis killed")
        redis.fail_over()

    def _kill(self, dice: random.Random) -> None:
        host = dice.choice(self._hosts)
        assert host.process is not None
        for worker in psutil.Process(host.process.pid).children()[:1]:
            worker.kill()
            self._did("workers killed", host)


class Hosts(Chaos):
    """The clients and publishers of the chaos, before several hosts."""

    _address = HERE

    def _make_redis(self, executable: str | None) -> Any:
        bound = ("--bind", "127.0.0.1", HERE, "--protected-mode", "no")
        return RedisServer(executable or found_redis(), *bound, durable=True)

    def _make_server(self, worker_class: str, workers: int, config: dict[str, Any]) -> Any:
        url = self._url.replace("127.0.0.1", HERE)
        return Street(worker_class, {**config, "SSESTREAM_URL": url})

    def _make_faults(self) -> Any:
        return Faults(self.seed, self._seconds, self._server.hosts, None)


class FailingOver(Hosts):
    """With a Redis of which replicas take over. They may lack the master's last messages."""

    _may_lose = True

    #: The messages that no replica had.
    lost = 0

    def _make_redis(self, executable: str | None) -> Any:
        return RedisTrio(executable or found_redis())

    def _make_faults(self) -> Any:
        return Faults(self.seed, self._seconds, self._server.hosts, cast("RedisTrio", self._redis))

    def _is_whole(self, stored: list[int], published: int) -> bool:
        self.lost += published - len(stored)
        return sorted(set(stored)) == stored


def main() -> int:
    enter("tests.long.hosts", sys.argv[1:])
    parser = argparse.ArgumentParser(prog="python -m tests.long.hosts")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--broker", choices=("redis", "postgresql"), default="redis")
    parser.add_argument("--sentinel", action="store_true", help="kill the master of Redis, too")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--worker-class", choices=WORKER_CLASSES, default="gevent")
    parser.add_argument("--seconds", type=float, default=120.0, help="for which things go wrong")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    given = parser.parse_args()
    if given.sentinel and given.broker != "redis":
        parser.error("--sentinel is for Redis")
    print(f"== {given.broker}, {given.worker_class}, seed {given.seed}", flush=True)
    Street.pave()
    kind = FailingOver if given.sentinel else Hosts
    chaos = kind(
        given.broker,
        given.seed,
        messages=given.messages,
        clients=given.clients,
        workers=2,
        seconds=given.seconds,
        worker_class=given.worker_class,
    )
    wrong = chaos.run()
    if isinstance(chaos, FailingOver):
        print(f"{'lost':16}{chaos.lost} messages, with the masters")
    for sentence in wrong[:30]:
        print(f"WRONG: {sentence}")
    if wrong:
        print(f"== FAILED with {len(wrong)} faults, seed {given.seed}")
        return 1
    print("== every client has every message once and in order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
