"""The short forms of ``python -m tests.long.chaos`` and of ``python -m tests.long.chaos.runs``.

The long form of the first is ``tox -e chaos``. ``SSESTREAM_RUNS`` and ``SSESTREAM_EVENTS`` make the
second longer, here too. With ``SSESTREAM_CLIENTS``, another number of clients have a channel each.
"""

import os
import random

import pytest

from tests.long.chaos.__main__ import Chaos
from tests.long.chaos.runs import RunsChaos

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


# The long form has each broker with each worker.
@pytest.mark.parametrize(
    ("kind", "worker_class"),
    [
        pytest.param("sqlite", "gevent", marks=pytest.mark.long),
        ("redis", "SseWorker"),
        pytest.param("postgresql", "SseWorker", marks=pytest.mark.long),
    ],
)
def test_every_client_gets_every_message_once_and_in_order_whatever_breaks(
    kind: str, worker_class: str, request: pytest.FixtureRequest
) -> None:
    executable = request.getfixturevalue("redis_executable") if kind == "redis" else None
    if kind == "postgresql":
        request.getfixturevalue("postgresql_programs")
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"{kind}, seed {seed}")  # shown when it fails
    chaos = Chaos(
        kind,
        seed,
        messages=3000,
        clients=24,
        workers=3,
        seconds=16.0,
        worker_class=worker_class,
        redis_executable=executable,
    )
    wrong = chaos.run()
    assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:10])


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_client_gets_every_message_of_its_own_channel(redis_executable: str) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")  # shown when it fails
    chaos = Chaos(
        "redis",
        seed,
        messages=10_000,
        clients=int(os.environ.get("SSESTREAM_CLIENTS", 500)),
        workers=3,
        seconds=40.0,
        worker_class="SseWorker",
        redis_executable=redis_executable,
        has_own=True,
    )
    wrong = chaos.run()
    assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:10])


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "worker_class"),
    [("sqlite", "SseWorker"), ("redis", "gevent"), ("postgresql", "SseWorker")],
)
def test_every_watcher_gets_all_of_its_run_and_each_run_has_one_end(
    kind: str, worker_class: str, request: pytest.FixtureRequest
) -> None:
    executable = request.getfixturevalue("redis_executable") if kind == "redis" else None
    if kind == "postgresql":
        request.getfixturevalue("postgresql_programs")
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"{kind}, seed {seed}")  # shown when it fails
    chaos = RunsChaos(
        kind,
        seed,
        runs=int(os.environ.get("SSESTREAM_RUNS", 16)),
        events=int(os.environ.get("SSESTREAM_EVENTS", 100)),
        together=8,
        workers=3,
        worker_class=worker_class,
        redis_executable=executable,
    )
    wrong = chaos.run()
    assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:10])
