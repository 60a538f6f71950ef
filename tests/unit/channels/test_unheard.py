"""Publishing to ``memory://`` where no client can get it is said, once, and never without need."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import flask
import pytest

from ssestream import Channels, ServerResponse
from ssestream.channels import unheard
from ssestream.runtime.forking import process
from tests.kit.servers import PATIENCE, ROOT, Client, Server, wait_until

APP = "tests.servers.apps.memory:app"

HOOKED = ("-c", str(ROOT / "tests" / "servers" / "apps" / "reload.conf.py"))


def said(log: str) -> list[str]:
    """The causes that the log tells."""
    causes = {
        "several": "with more than one worker",
        "job": "in a job",
        "script": "in a script or a command",
    }
    lines = [line for line in log.splitlines() if "Channels('memory://')" in line]
    assert all("sqlite:/// or redis://" in line for line in lines)
    return sorted(cause for line in lines for cause, words in causes.items() if words in line)


def interrupt(server: Server) -> None:
    """End *server* as Ctrl-C does.

    A signal is lost while gunicorn's worker starts, or if it interrupts a thread's publish. So
    the signal is sent again until the server has ended.
    """
    assert server.process is not None
    for _ in range(12):
        server.process.send_signal(signal.SIGINT)
        try:
            server.process.wait(PATIENCE / 12)
            return
        except subprocess.TimeoutExpired:
            pass
    pytest.fail(f"the server does not end: {server.log()}")


# -- scripts, and what they start

_SCRIPT = """
import concurrent.futures, multiprocessing, os, sys, threading, time, urllib.request
from ssestream import Channels, SseStream
from ssestream.channels import unheard
channels = Channels()

def publish(count=2):
    for _ in range(count):
        channels.publish("news", {"data": "x"})

def follow():
    sse_stream = SseStream()
    sse_stream.pipe(open(os.devnull, "wb"))
    channels.subscribe(sse_stream, "news")

def start(how):
    process = multiprocessing.get_context(how).Process(target=publish)
    process.start()
    process.join()

def fork():
    if not os.fork():
        publish()
        os._exit(0)
    os.wait()

def publish_for_long():
    unheard.LONG, unheard.LOOK = 0.05, 0.01
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        publish()
        time.sleep(0.02)
    os._exit(1)

def serve():
    from werkzeug.serving import make_server
    def app(environ, start_response):
        publishing = threading.Thread(target=publish)
        publishing.start()
        # On a busy machine the server would be gone before the thread publishes.
        publishing.join()
        start_response("200 OK", [])
        return []
    server = make_server("127.0.0.1", 0, app)
    def ask():
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/").close()
        server.shutdown()
    threading.Thread(target=ask).start()
    server.serve_forever()

def start_server(how):
    process = multiprocessing.get_context(how).Process(target=serve)
    process.start()
    process.join()

if __name__ == "__main__":
    DOES
"""

#: What each script does, step by step, and the causes that each step tells. The last step is the
#: end of the script. A child tells for itself, and a step waits for its children.
SCRIPTS: dict[str, list[tuple[str, list[str]]]] = {
    "that publishes": [("publish()", []), ("end", ["script"])],
    "whose children publish": [
        ("start('fork')", ["job"]),
        ("start('spawn')", ["job"]),
        ("start('forkserver')", ["job"]),
        ("concurrent.futures.ProcessPoolExecutor(1).submit(publish).result()", ["job"]),
        ("threading.Thread(target=publish).start()", []),
        ("end", ["script"]),
    ],
    "that follows, and whose children publish": [
        ("follow()", []),
        ("fork()", ["job"]),
        ("start('fork')", ["job"]),
        ("start('spawn')", ["job"]),
        ("end", []),
    ],
    "whose children serve, and that follows or reads what it publishes": [
        ("start_server('fork')", []),
        ("start_server('spawn')", []),
        # Each of these has channels of its own, of which nothing is known yet.
        ("channels = Channels(); publish(); follow()", []),
        ("channels = Channels(); follow(); publish()", []),
        ("channels = Channels(); publish(); channels.history('news')", []),
        ("channels = Channels(); channels.history('news'); publish()", []),
        ("channels = Channels(); channels.history('news')", []),
        ("Channels('sqlite:///events.db').publish('news', {'data': 'x'})", []),
        ("end", []),
    ],
}


@pytest.mark.long_except("that publishes")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_and_its_children(name: str, tmp_path: Path) -> None:
    steps = SCRIPTS[name]
    file = tmp_path / "script.py"
    mark = "== a step"
    say = f"print({mark!r}, file=sys.stderr, flush=True)"
    does = [f"{say}; {'pass' if step == 'end' else step}" for step, _ in steps]
    file.write_text(_SCRIPT.replace("DOES", "\n    ".join(does)))
    done = subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    before, *logs = done.stderr.split(mark)
    assert said(before) == []
    assert [(step, said(log)) for (step, _), log in zip(steps, logs, strict=True)] == steps


def test_a_script_that_never_ends(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(_SCRIPT.replace("DOES", "publish_for_long()"))
    with subprocess.Popen(
        [sys.executable, str(file)], stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stderr is not None
        assert said(started.stderr.readline()) == ["script"]
        started.kill()


@pytest.mark.parametrize(("command", "causes"), [("publish", ["script"]), ("routes", [])])
def test_a_command_of_flask(command: str, causes: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", APP, command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert said(done.stderr) == causes


# -- servers

#: How each is started with one process that serves, and with two.
ONE = ("flask", "pywsgi", "waitress", "gthread", "gevent", "SseWorker")
TWO = {
    "sync": ("-w", "2"),
    "gthread": ("-w", "2", *HOOKED),
    "gevent": ("-w", "2"),
    "SseWorker": ("-w", "2"),
}


@pytest.mark.long_except("flask")
@pytest.mark.server
@pytest.mark.parametrize("kind", ONE)
def test_one_process_that_serves_may_publish_before_its_first_client(
    kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, APP, env={"THREAD": "1"})
    assert Client(server.port).get("/page").read_until(b"page\n")
    assert Client(server.port).get("/publish").read_until(b"published\n")
    client = Client(server.port).get("/stream")
    client.read_until(b"data: x\n\n")
    client.fin()
    assert Client(server.port).get("/publish").read_until(b"published\n")
    interrupt(server)
    assert said(server.log()) == []


@pytest.mark.server
@pytest.mark.parametrize("kind", ["pywsgi", "gthread"])
def test_a_server_to_which_nobody_came(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, APP, env={"THREAD": "1"})
    interrupt(server)
    assert said(server.log()) == []


def test_a_script_that_becomes_a_server() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers.apps.memory"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stderr is not None
        lines = []
        while "Running on" not in (line := started.stderr.readline()):
            assert line, lines
            lines.append(line)
        started.send_signal(signal.SIGINT)
        assert said("".join([*lines, *started.stderr])) == []


@pytest.mark.long_except("SseWorker", "gthread")
@pytest.mark.server
@pytest.mark.parametrize("kind", TWO)
def test_a_thread_of_one_of_several_workers(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, APP, args=TWO[kind], env={"THREAD": "1"})
    # No request has come to either.
    wait_until(lambda: len(said(server.log())) == 2, "both to say so")
    assert Client(server.port).get("/page").read_until(b"page\n")
    assert said(server.log()) == ["several", "several"]


@pytest.mark.long_except("SseWorker-/publish")
@pytest.mark.server
@pytest.mark.parametrize(
    ("kind", "before"), [("flask", "/page"), ("gthread", "/stream"), ("SseWorker", "/publish")]
)
def test_a_job_of_a_view(kind: str, before: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, APP)
    client = Client(server.port).get(before)
    client.read_until(b"\r\n\r\n")
    for count, how in enumerate(("os", "fork", "spawn"), 1):
        Client(server.port).get(f"/job?how={how}").read_until(b"done\n")
        assert said(server.log()) == ["job"] * count, how


# -- in a process of tests


@pytest.fixture
def local(unsaid: None, monkeypatch: pytest.MonkeyPatch) -> Channels:
    """Channels of a process that has said nothing yet, and has heard nothing."""
    for name in ("is_one_of_several", "serves"):
        monkeypatch.setattr(process, name, False)
    return Channels()


def test_a_thread_says_so_once_a_request_has(
    local: Channels, caplog: pytest.LogCaptureFixture
) -> None:
    app = flask.Flask(__name__)

    def publish() -> None:
        local.publish("news", {"data": "x"})

    def publish_in_thread() -> None:
        thread = threading.Thread(target=publish)
        thread.start()
        thread.join()

    publish_in_thread()
    assert said(caplog.text) == []
    # Of other channels, or of none.
    with app.test_request_context("/", environ_overrides={"wsgi.multiprocess": True}):
        ServerResponse()
    for _ in range(3):
        publish_in_thread()
    assert said(caplog.text) == ["several"]


def test_a_view_is_named(local: Channels, caplog: pytest.LogCaptureFixture) -> None:
    app = flask.Flask(__name__)

    @app.post("/publish")
    def publish() -> str:
        return local.publish("news", {"data": "x"})

    for _ in range(3):
        app.test_client().post("/publish?token=secret", environ_overrides=SEVERAL)
    assert said(caplog.text) == ["several"]
    assert "'/publish': Channels" in caplog.text
    assert "secret" not in caplog.text


SEVERAL = {"wsgi.multiprocess": True}


def test_a_test_may_publish_and_look(local: Channels, caplog: pytest.LogCaptureFixture) -> None:
    app = flask.Flask(__name__)

    @app.post("/publish")
    def publish() -> str:
        return local.publish("news", {"data": "x"})

    local.publish("news", {"data": "x"})
    app.test_client().post("/publish")
    local.publish("news", {"data": "x"})
    unheard._at_exit()
    assert said(caplog.text) == []
