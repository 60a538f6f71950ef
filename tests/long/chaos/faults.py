"""What goes wrong: when, from the seed, and how it is done. In a thread of its own."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil

from tests.kit.servers import Server

#: Seconds between two faults of a kind, on average.
KILL, RELOAD, DATABASE = 4.0, 12.0, 10.0

#: Seconds for which the server of the broker is away. The first time longer than `publish` tries.
AWAY, LONG_AWAY = (0.2, 5.0), (4.5, 6.0)

#: Seconds for which it is frozen: shorter, so that what it was asked meanwhile and
#: does afterwards is the same `publish` still trying.
FROZEN = (0.2, 2.0)


class Faults:
    """Faults for so many *seconds*. With a *pace* below 1, the times between them are longer."""

    def __init__(
        self,
        seed: int | str,
        seconds: float,
        server: Server,
        database: Any,
        pace: float = 1.0,
    ) -> None:
        self.counts: Counter[str] = Counter()
        #: What went wrong with doing it.
        self.wrong: list[str] = []
        #: When each was done, by the clock that all processes share.
        self.log: list[str] = []
        self._server = server
        self._database = database
        self._began = 0.0
        self._dice = random.Random(f"{seed}:faults")
        plans = [
            self._times(seconds, KILL / pace, self._kill),
            self._times(seconds, RELOAD / pace, self._reload),
        ]
        threads = [sorted(plans[0] + plans[1], key=lambda plan: plan[0])]
        if database is not None:
            threads.append(self._database_plan(seconds, DATABASE / pace))
        self._threads = [threading.Thread(target=self._run, args=(plan,)) for plan in threads]

    def begin(self) -> None:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    @property
    def over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _times(
        self, seconds: float, apart: float, act: Callable[[], None]
    ) -> list[tuple[float, Callable[[], None]]]:
        count = max(2, round(seconds / apart))
        return [(self._dice.uniform(0, seconds), act) for _ in range(count)]

    def _database_plan(
        self, seconds: float, apart: float
    ) -> list[tuple[float, Callable[[], None]]]:
        count = max(3, round(seconds / apart))
        times = sorted(self._dice.uniform(0, seconds) for _ in range(count))
        # Each in turn, and then any.
        ways = ["stopped", "killed", "frozen"]
        ways += self._dice.choices(ways, k=count - 3)
        plan = []
        for number, (at, how) in enumerate(zip(times, ways, strict=True)):
            span = FROZEN if how == "frozen" else AWAY if number else LONG_AWAY
            plan.append((at, self._database_fault(how, self._dice.uniform(*span))))
        return plan

    def _run(self, plan: list[tuple[float, Callable[[], None]]]) -> None:
        for at, act in plan:
            time.sleep(max(0.0, self._began + at - time.monotonic()))
            try:
                act()
            except Exception as error:
                self.wrong.append(f"a fault could not be done: {error!r}")
                return

    def _did(self, what: str, of: str = "") -> None:
        self.counts[what] += 1
        self.log.append(f"{time.monotonic():.2f} {what} {of}".strip())

    def _kill(self) -> None:
        assert self._server.process is not None
        master = psutil.Process(self._server.process.pid)
        while workers := master.children():
            worker = self._dice.choice(workers)
            # An old worker may end by itself meanwhile, after a reload.
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
                self._did("workers killed", str(worker.pid))
                return

    def _reload(self) -> None:
        assert self._server.process is not None
        self._server.process.send_signal(signal.SIGHUP)
        self._did("reloads")

    def _database_fault(self, how: str, seconds: float) -> Callable[[], None]:
        def act() -> None:
            assert self._database is not None
            self._did(f"broker {how}", f"for {seconds:.1f} s")
            if how == "frozen":
                self._database.freeze()
            elif how == "killed":
                self._database.kill()
            else:
                self._database.stop()
            time.sleep(seconds)
            if how == "frozen":
                self._database.thaw()
            else:
                self._database.start()

        return act
