"""The clock of deadlines goes on while a test holds all the others."""

import ast
import contextlib
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import freezegun
import pytest

from ssestream import BrokerError, Channels
from ssestream.brokers.memory import MemoryBroker
from ssestream.brokers.postgresql import broker as postgresql_broker
from ssestream.brokers.redis import broker as redis_broker
from ssestream.brokers.sqlite import database
from ssestream.runtime.clock import clock
from ssestream.runtime.loop import current_loop
from ssestream.runtime.wheel import wheel_of
from tests.kit.servers import PATIENCE, ROOT, free_port

Hold = Callable[[str], AbstractContextManager[Any]]


def by_time_machine(moment: str) -> AbstractContextManager[Any]:
    time_machine = pytest.importorskip("time_machine")
    travel: AbstractContextManager[Any] = time_machine.travel(moment, tick=False)
    return travel


@pytest.fixture(params=[freezegun.freeze_time, by_time_machine], ids=["freezegun", "time-machine"])
def hold(request: pytest.FixtureRequest) -> Hold:
    """Stops the clocks of Python at a moment."""
    chosen: Hold = request.param
    return chosen


def goes_on() -> bool:
    began = clock.now()
    return any(clock.now() > began for _ in range(1_000_000))


def test_it_goes_on(hold: Hold) -> None:
    with hold("2026-01-01"):
        assert goes_on()


@pytest.mark.parametrize("moment", ["1990-01-01", "2100-01-01"])
def test_it_does_not_jump(hold: Hold, moment: str) -> None:
    before = clock.now()
    with hold(moment):
        assert 0 <= clock.now() - before < PATIENCE


def test_it_goes_on_where_it_is_imported_while_the_others_are_held() -> None:
    words = (
        "import freezegun\n"
        "with freezegun.freeze_time('2026-01-01'):\n"
        "    from ssestream.runtime.clock import clock\n"
        "    began = clock.now()\n"
        "    assert any(clock.now() > began for _ in range(1_000_000))\n"
        "assert 0 <= clock.now() - began < 60\n"
    )
    subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=True, timeout=PATIENCE)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[str]:
    url = f"sqlite:///{path}"
    Channels(url).publish("news", {"data": "x"})
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        yield url
    finally:
        holder.close()


def gives_up(call: Callable[[], object]) -> None:
    """*call* raises `BrokerError`, and soon."""
    raised = []

    def run() -> None:
        try:
            call()
        except BrokerError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert raised, "it goes on"


def test_a_locked_file_is_given_up_though_the_clock_stands(
    hold: Hold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE", 0.1)
    with locked(tmp_path / "events.db") as url, hold("2026-01-01"):
        channels = Channels(url)
        gives_up(lambda: channels.publish("news", {"data": "x"}))


def test_a_redis_that_is_away_is_given_up_though_the_clock_stands(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_broker, "TRYING", 0.1)
    channels = Channels(f"redis://127.0.0.1:{free_port()}/0")
    with hold("2026-01-01"):
        gives_up(lambda: channels.publish("news", {"data": "x"}))


@pytest.fixture
def silent() -> Iterator[int]:
    """A port whose listener accepts every connection, as its kernel does, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.long_except("freezegun-postgresql-publish", "time-machine-redis-history")
@pytest.mark.parametrize("how", ["publish", "history"])
@pytest.mark.parametrize(
    "kind",
    [
        "postgresql",
        "redis",
        *(
            pytest.param(f"redis+{kind}", marks=pytest.mark.long)
            for kind in ("sentinel", "cluster")
        ),
    ],
)
def test_a_server_that_never_answers_is_given_up_though_the_clock_stands(
    hold: Hold, silent: int, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_broker, "TRYING", 0.1)
    monkeypatch.setattr(postgresql_broker, "TRYING", 0.1)
    path = {"redis": "0", "redis+sentinel": "main", "redis+cluster": ""}.get(kind, "app")
    channels = Channels(f"{kind}://127.0.0.1:{silent}/{path}")
    calls: dict[str, Callable[[], object]] = {
        "publish": lambda: channels.publish("news", {"data": "x"}),
        "history": lambda: channels.history("news"),
    }
    with hold("2026-01-01"):
        gives_up(calls[how])


def test_what_is_due_is_kept_though_the_clock_stands(hold: Hold) -> None:
    kept = threading.Event()
    with hold("2026-01-01"):
        wheel_of(current_loop()).add(clock.now() + 0.05, lambda now: kept.set())
        assert kept.wait(PATIENCE)


def test_a_history_in_memory_outlives_a_test_that_moves_the_clock(hold: Hold) -> None:
    broker = MemoryBroker(10, 60.0)
    broker.append("news", b"data: before\n\n")
    with hold("2100-01-01"):
        broker.append("news", b"data: then\n\n")
        assert len(broker.read("news", 0, 10, 1000).entries) == 2
    assert len(broker.read("news", 0, 10, 1000).entries) == 2


@pytest.mark.parametrize(
    "path", sorted(Path(ROOT, "ssestream").rglob("*.py")), ids=lambda path: path.stem
)
def test_no_deadline_is_on_another_clock(path: Path) -> None:
    uses = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    }
    # The wall clock is for ages, expiries and clocks that several processes compare, and for
    # dates that clients get.
    named = ("logs", "deletion", "heads", "chat_completions", "probing", "redis", "open_streams")
    named += ("head", "server", "ledger")
    has_wall = path.stem in named
    allowed = {"sleep", *({"time"} if has_wall or path.parent.name == "tickets" else ())}
    if path.stem == "clock":
        allowed |= {"perf_counter", "clock_gettime", "CLOCK_MONOTONIC"}
    assert uses <= allowed
