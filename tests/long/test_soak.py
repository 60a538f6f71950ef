"""The short form of ``python -m tests.long.soak``. The long form is ``tox -e soak``."""

import random

import pytest

from tests.long.soak.__main__ import run

pytestmark = [pytest.mark.server, pytest.mark.long, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_every_client_gets_what_was_written_and_nothing_is_left(kind: str) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"{kind}, seed {seed}")  # shown when it fails
    wrong = run(kind, 300, seed)
    assert not wrong, f"seed {seed}:\n" + "\n".join(wrong[:10])
