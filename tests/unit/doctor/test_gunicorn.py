"""gunicorn's configuration, read by the real gunicorn from real files, and right or wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssestream.doctor.finding import Finding
from ssestream.doctor.gunicorn import examine_gunicorn, read_gunicorn
from ssestream.settings import Settings
from tests.kit.servers import Client, Server, wait_until

Examine = Callable[..., list[Finding]]

RIGHT = """
worker_class = "ssestream.gunicorn.SseWorker"
workers = 2
worker_connections = 500
graceful_timeout = 10
"""


@pytest.fixture
def examine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Examine the text of a gunicorn.conf.py, with more arguments."""
    monkeypatch.delenv("GUNICORN_CMD_ARGS", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)

    def examine(text: str, *arguments: str, settings: Settings | None = None) -> list[Finding]:
        file = tmp_path / "gunicorn.conf.py"
        file.write_text(text)
        return examine_gunicorn(["-c", str(file), *arguments], settings)

    return examine


def seen(found: list[Finding], level: str = "fault") -> list[str]:
    return [each.seen for each in found if each.level == level]


def test_a_right_configuration_has_no_fault_and_no_note(examine: Examine) -> None:
    found = examine(RIGHT, "app:app", settings=Settings(max_streams=400))
    assert {each.level for each in found} == {"ok"}
    assert len(found) == 4


def test_a_stock_worker_with_the_hook_has_no_fault(examine: Examine) -> None:
    text = "from ssestream.gunicorn import post_worker_init\nworker_class = 'gevent'\n"
    assert {each.level for each in examine(text)} == {"ok"}
    text = "from ssestream.gunicorn import post_worker_init\nthreads = 64\n"
    assert {each.level for each in examine(text)} == {"ok"}


def test_a_hook_of_the_apps_own_may_call_the_hook(examine: Examine) -> None:
    head = "import ssestream.gunicorn\nworker_class = 'gevent'\ndef post_worker_init(worker):\n"
    calls = examine(f"{head}    ssestream.gunicorn.post_worker_init(worker)\n")
    assert {each.level for each in calls} == {"ok"}
    (note,) = seen(examine(f"{head}    worker.log.info('ready')\n"), "note")
    assert "hook post_worker_init of the app's own" in note


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worker_class = 'sync'\n", "worker_class is sync"),
        ("threads = 4\n", "worker_class is gthread, and threads is 4"),
        ("worker_class = 'gevent'\n", "no hook post_worker_init"),
        (f"{RIGHT}graceful_timeout = 1\n", "graceful_timeout is 1 s"),
        (f"{RIGHT}worker_class = 'eventlet'\n", "worker_class is eventlet"),
        (f"{RIGHT}worker_class = 'tornado'\n", "worker_class is tornado"),
        (f"{RIGHT}worker_class = 'no.Such'\n", "worker_class is no.Such"),
        (f"{RIGHT}workers = 'two'\n", "gunicorn refuses its configuration: Error:"),
        ("import no_such_module\n", "No module named 'no_such_module'"),
    ],
)
def test_what_breaks_streams_is_a_fault(text: str, words: str, examine: Examine) -> None:
    found = examine(text)
    assert any(words in each for each in seen(found))
    assert all(each.why and each.change for each in found if each.level == "fault")


def test_what_may_be_meant_is_a_note(examine: Examine) -> None:
    more = "timeout = 0\nkeepalive = 75\nmax_requests = 100\npreload_app = True\n"
    found = examine(RIGHT + more, settings=Settings(max_streams=400, on_shutdown="finish"))
    assert seen(found) == []
    assert [each.partition(",")[0] for each in seen(found, "note")] == [
        "timeout is 0",
        "streams may finish (SSESTREAM_ON_SHUTDOWN)",
        "keepalive is 75 s",
        "max_requests is 100",
        "preload_app is on",
    ]


def test_the_streams_of_the_app_need_room(examine: Examine) -> None:
    full = examine(RIGHT, settings=Settings(max_streams=500))
    assert seen(full) == ["SSESTREAM_MAX_STREAMS is 500, and worker_connections is 500"]
    (note,) = seen(examine(RIGHT, settings=Settings()), "note")
    assert "SSESTREAM_MAX_STREAMS is None" in note
    threads = "from ssestream.gunicorn import post_worker_init\nthreads = 64\n"
    assert seen(examine(threads, settings=Settings(max_streams=64))) == [
        "SSESTREAM_MAX_STREAMS is 64, and threads is 64"
    ]


def test_more_connections_than_descriptors_are_a_note(examine: Examine) -> None:
    (note,) = seen(examine(f"{RIGHT}worker_connections = 10**9\n"), "note")
    assert "worker_connections is 1000000000, and this process may open" in note


def test_http_2_of_gunicorns_own(examine: Examine) -> None:
    if "http2_cleartext" not in read_gunicorn([]).settings:
        pytest.skip("this gunicorn has no HTTP/2")
    pytest.importorskip("h2")
    speaks = "http_protocols = 'h2,h1'\nhttp2_cleartext = 'both'\n"
    assert seen(examine(RIGHT + speaks)) == ["gunicorn's own HTTP/2 is on"]


def test_the_arguments_and_the_environment_count_as_for_gunicorn(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = [*sys.argv]
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--graceful-timeout 1 --keep-alive 20")
    found = examine(RIGHT, "--graceful-timeout", "8", "app:app")
    assert seen(found) == []
    assert seen(found, "note") == ["keepalive is 20 s"]
    assert any(
        "unrecognized arguments: --nonsense" in each for each in seen(examine("", "--nonsense"))
    )
    assert sys.argv == own
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
def test_gunicorn_behaves_as_the_fault_says(
    examine: Examine, serve: Callable[..., Server], tmp_path: Path
) -> None:
    """One stream takes the only place of a sync worker, which gunicorn kills after its timeout."""
    text = "worker_class = 'sync'\ntimeout = 1\n"
    (fault, _) = [each for each in examine(text) if each.level == "fault"]
    assert "one stream blocks it" in fault.why
    assert "open for 1 s (timeout)" in fault.why
    file = str(tmp_path / "gunicorn.conf.py")
    server = serve("sync", "tests.servers.apps.reload:app", args=("-c", file))
    stream = Client(server.port).get("/news?key=one")
    stream.read_until(b"data: ")
    worker = server.worker_pid()
    waiting = Client(server.port).get("/")
    wait_until(lambda: "WORKER TIMEOUT" in server.log(), "gunicorn to kill the worker")
    wait_until(lambda: server.worker_pid() != worker, "another worker")
    # Only the next worker has a place for the second client.
    assert b" 200 " in waiting.read_until(b"</title>")
    stream.read_to_end()
