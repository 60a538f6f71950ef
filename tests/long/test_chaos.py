"""The short form of ``python -m tests.long.chaos``, whose long form is ``tox -e chaos``."""

import random

import pytest

from tests.long.chaos.__main__ import Chaos

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


# The long form has each broker with each worker.
@pytest.mark.parametrize(("kind", "worker_class"), [("sqlite", "gevent"), ("redis", "SseWorker")])
def test_every_client_gets_every_message_once_and_in_order_whatever_breaks(
    kind: str, worker_class: str, request: pytest.FixtureRequest
) -> None:
    executable = request.getfixturevalue("redis_executable") if kind == "redis" else None
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
