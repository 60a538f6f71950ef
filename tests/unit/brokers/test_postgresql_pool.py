"""The connections of one process to PostgreSQL, and the callers that wait for them."""

import threading
import time
from typing import Any

import pytest

from ssestream.brokers.postgresql.pool import NoTurn, Pool
from tests.kit.brokers import Elsewhere
from tests.kit.servers import wait_until

#: A time that no test reaches.
LATE = time.monotonic() + 3600


class Counted:
    """A lock that counts how often it was released."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self.count += 1
        self._lock.release()


class Connection:
    """It is always free and well."""

    is_idle = is_fresh = True

    def allow(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def lock() -> Counted:
    return Counted()


@pytest.fixture
def pool(lock: Counted) -> Pool:
    made: Any = Connection
    return Pool(made, 1, lock)


def come(pool: Pool, lock: Counted, call: Any) -> Elsewhere:
    """Let another thread make *call*, which waits for a turn when this returns."""
    count = lock.count
    caller = Elsewhere(call)
    wait_until(lambda: lock.count > count, "the caller")
    return caller


def test_callers_get_their_turns_in_the_order_in_which_they_came(pool: Pool, lock: Counted) -> None:
    served = []

    def call(number: int) -> None:
        with pool.turn(LATE, 1):
            served.append(number)

    with pool.turn(LATE, 1):
        callers = [come(pool, lock, lambda n=n: call(n)) for n in range(10)]
    # A caller that comes now does not overtake the others.
    with pool.turn(LATE, 1):
        served.append(10)
    for each in callers:
        each.result()
    assert served == list(range(11))


def test_a_caller_that_waits_no_longer_takes_no_turn(pool: Pool, lock: Counted) -> None:
    def call() -> None:
        with pool.turn(0, 1):
            raise AssertionError("it got a turn")

    with pool.turn(LATE, 1):
        for caller in [come(pool, lock, call) for _ in range(3)]:
            with pytest.raises(NoTurn, match="stay in use"):
                caller.result()
    with pool.turn(0, 1):
        pass
