"""A job that a view forks has nothing of what its parent serves."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.kit.servers import ROOT, UWSGI, Client, Server, body_of, wait_until

pytestmark = pytest.mark.server

HOOKED = ("-c", str(ROOT / "tests" / "servers" / "apps" / "reload.conf.py"))

#: Those whose greenlets go on in a child.
GREENLETS = {
    "SseWorker": (),
    "gevent": HOOKED,
    "gevent_pywsgi": HOOKED,
    "pywsgi": (),
    # Otherwise the app is loaded, and its timer set, before uWSGI forks its worker.
    "uwsgi-gevent": ("--lazy-apps",),
}

LONG_UWSGI = pytest.param("uwsgi-gevent", marks=pytest.mark.long)

#: The servers of most tests, and uWSGI: its jobs have its own handlers of signals, and its bodies
#: have no chunks, so some tests do not fit.
WITH_UWSGI = pytest.mark.parametrize(
    "server", ["SseWorker", "gevent", "pywsgi", LONG_UWSGI], indirect=True, scope="module"
)

#: The paths of streams that write all the time.
BEATING = ("timer", "pipeline")

#: Seconds that a job lives which is not to end before its test.
LONG = 60

#: Starts a job, which may be over at once, and gives its process id.
Start = Callable[[str], int]


@pytest.fixture(scope="module", params=["SseWorker", "gevent", "pywsgi"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server for many tests: the keys of each test's streams are its own."""
    kind = str(request.param)
    if kind in UWSGI:
        request.getfixturevalue("uwsgi")
    broker = f"sqlite:///{tmp_path_factory.mktemp('jobs')}/events.db"
    server = Server(
        kind, "tests.servers.apps.jobs:app", args=GREENLETS[kind], env={"BROKER": broker}
    )
    yield server.start()
    server.stop()


@pytest.fixture
def job(server: Server) -> Iterator[Start]:
    """Start a job with a path of the app; each that is left ends with the test."""
    pids: list[int] = []

    def start(path: str) -> int:
        pids.append(ask(server, path)["pid"])
        return pids[-1]

    yield start
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ask(server: Server, path: str) -> Any:
    client = Client(server.port).get(path, "Connection: close")
    # The end of an ordinary response is not the library's, and a job has a copy of its socket.
    return json.loads(body_of(client.read_until(b"}\n")))


def opened(server: Server, path: str) -> Client:
    client = Client(server.port).get(path)
    client.read_until(b":ok\n\n")
    return client


def numbers(client: Client) -> list[int]:
    return [int(number) for number in re.findall(rb"data: (\d+)\n\n", body_of(client.received))]


def get_more(client: Client, count: int) -> None:
    enough = len(numbers(client)) + count
    while len(numbers(client)) < enough:
        data = client.sock.recv(65536)
        assert data, "it has ended"
        client.received += data


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize(
    "server",
    ["SseWorker", "gevent", "gevent_pywsgi", "pywsgi", LONG_UWSGI],
    indirect=True,
    scope="module",
)
def test_every_event_comes_once_while_it_lives(server: Server, job: Start) -> None:
    clients = [
        opened(server, f"/{path}?key={path}{n}")
        for path in ("timer", "pipeline", "channel")
        for n in range(2)
    ]
    for client in clients:
        get_more(client, 1)
    jobs = [job(f"/job?seconds={LONG}")]
    for client in clients:
        get_more(client, 15)
    jobs.append(job(f"/forked?seconds={LONG}"))
    for client in clients:
        get_more(client, 25)
    assert all(map(psutil.pid_exists, jobs))
    for client in clients:
        got = numbers(client)
        assert got == list(range(got[0], got[0] + len(got)))
        # Each beat in a chunk of its own, and each chunk as long as it says.
        assert client.received.count(b":ok") == 1


@pytest.mark.long_except("gevent")
def test_a_departure_is_seen_by_its_parent_alone(server: Server, job: Start) -> None:
    client = opened(server, "/quiet?key=before")
    long = job(f"/job?seconds={LONG}")
    late = opened(server, "/quiet?key=behind")
    client.fin()
    late.fin()
    for key in ("before", "behind"):
        assert server.wait_for(event="close", key=key)["pid"] == server.worker_pid()
    # Whatever the job had to say of it would have been said by now.
    assert job("/job?what=write&key=before") != long
    server.wait_for(event="wrote", key="before")
    for key in ("before", "behind"):
        assert len(server.events(event="close", key=key)) == 1


@WITH_UWSGI
def test_what_it_writes_to_its_parents_stream_goes_nowhere_and_is_told(
    server: Server, job: Start
) -> None:
    words = "writes to a stream of its parent"
    before = server.log().count(words)
    client = opened(server, "/timer?key=written")
    job("/job?what=write&key=written")
    told = server.wait_for(event="wrote", key="written")
    assert told["wrote"] == [False] * 3
    assert told["destroyed"]
    get_more(client, 10)
    assert b"from a job" not in client.received
    assert server.log().count(words) == before + 1


@pytest.mark.long_except("pywsgi")
def test_a_client_that_is_slow_gets_its_bytes_once(server: Server, job: Start) -> None:
    client = Client(server.port, receive_buffer=4096).get("/flood?messages=100")
    client.read_until(b":ok\n\n")
    long = job(f"/job?seconds={LONG}")
    while not client.received.endswith(b"\r\n0\r\n\r\n"):
        data = client.sock.recv(65536)
        assert data
        client.received += data
    assert psutil.pid_exists(long)
    body = body_of(client.received)
    assert [int(n) for n in re.findall(rb"data: (\d+) x{60000}\n\n", body)] == list(range(100))


@pytest.mark.parametrize("what", ["wait&seconds=60", "work"])
def test_its_end_by_a_signal_is_its_own(what: str, server: Server, job: Start) -> None:
    keys = [f"{path}-{what.partition('&')[0]}" for path in ("quiet", "timer")]
    clients = [opened(server, f"/{key.partition('-')[0]}?key={key}") for key in keys]
    pid = job(f"/job?what={what}")
    assert ask(server, f"/terminate?pid={pid}")["code"] == -signal.SIGTERM
    get_more(clients[1], 20)
    assert not any(server.events(event="close", key=key) for key in keys)
    assert not any(b"retry: " in client.received for client in clients)


def test_no_signal_is_lost_that_comes_while_it_is_forked(server: Server) -> None:
    client = opened(server, "/timer?key=signals")
    assert ask(server, "/terminate-at-once")["codes"] == [-signal.SIGTERM] * 20
    get_more(client, 1)


@pytest.mark.long_except("SseWorker")
@WITH_UWSGI
def test_it_ends_by_itself_when_it_is_done(server: Server, job: Start) -> None:
    client = opened(server, "/timer?key=done")
    # More than gunicorn's workers let pass before they look whether their master is there.
    jobs = [job("/job?seconds=2.5"), job("/forked?seconds=2.5")]
    for each in jobs:
        assert server.wait_for(event="job over", pid=each)["open"] == 0
    assert ask(server, f"/terminate?pid={jobs[0]}")["code"] == 0
    get_more(client, 1)


@pytest.mark.long_except("job-gevent", "forked-SseWorker")
@pytest.mark.parametrize(
    "server",
    ["SseWorker", "gevent", "gevent_pywsgi", "pywsgi", "uwsgi-gevent"],
    indirect=True,
    scope="module",
)
@pytest.mark.parametrize("path", ["job", "forked"])
def test_it_answers_nobody(path: str, server: Server, job: Start) -> None:
    opened(server, f"/quiet?key=answers-{path}").fin()
    long = job(f"/{path}?seconds={LONG}")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(server, "/pid")["pid"], range(400)))
    assert psutil.pid_exists(long)
    assert len(set(answers)) == 1
    assert long not in answers


@WITH_UWSGI
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_it_holds_up_no_end_of_a_stream(version: str, server: Server, job: Start) -> None:
    path = f"/quiet?key=end-{version}"
    client = Client(server.port).get(path, "Connection: close", version=version)
    client.read_until(b":ok\n\n")
    long = job(f"/job?seconds={LONG}")
    ask(server, f"/end?key=end-{version}")
    client.read_to_end()
    assert b"data: last" in client.received
    assert psutil.pid_exists(long)


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", "gevent"])
def test_nor_the_end_of_its_worker(kind: str, serve: Callable[..., Server]) -> None:
    server = serve(kind, "tests.servers.apps.jobs:app", args=GREENLETS[kind])
    client = opened(server, "/quiet?key=a")
    job = psutil.Process(ask(server, f"/forked?seconds={LONG}")["pid"])
    pid = server.worker_pid()
    os.kill(pid, signal.SIGTERM)
    client.read_to_end()
    assert b"\nretry: " in client.received
    wait_until(lambda: not psutil.pid_exists(pid), "the worker to be gone")
    assert job.is_running()
    # Whoever comes is answered by the worker that took its place, and not left to the job.
    server.wait_for(event="close", key="a")
    opened(server, "/quiet?key=b").fin()
    assert server.wait_for(event="close", key="b")["pid"] != job.pid
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port)).close()
    os.kill(job.pid, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SseWorker", "gevent"])
def test_a_job_says_and_ends_nothing_behind_tls(
    kind: str, serve: Callable[..., Server], certificate: tuple[str, str]
) -> None:
    files = ("--certfile", certificate[0], "--keyfile", certificate[1])
    server = serve(kind, "tests.servers.apps.jobs:app", args=(*GREENLETS[kind], *files))
    clients = [Client(server.port, tls=True).get(f"/{path}?key={path}") for path in BEATING]
    quiet = Client(server.port, tls=True).get("/quiet?key=quiet")
    quiet.read_until(b":ok\n\n")
    for path in (f"/job?seconds={LONG}", f"/forked?seconds={LONG}", "/job?seconds=0"):
        client = Client(server.port, tls=True).get(path, "Connection: close")
        pid = json.loads(body_of(client.read_until(b"}\n")))["pid"]
        for each in clients:
            get_more(each, 15)
    # A job has ended, and another one is ended.
    server.wait_for(event="job over", pid=pid)
    client = Client(server.port, tls=True).get("/terminate?pid=" + str(pid), "Connection: close")
    client.read_until(b"}\n")
    for each in clients:
        get_more(each, 15)
        got = numbers(each)
        assert got == list(range(got[0], got[0] + len(got)))
    assert not server.events(event="close")
    Client(server.port, tls=True).get("/end?key=quiet", "Connection: close").read_until(b"}\n")
    quiet.read_until(b"data: last\n\n")
    server.wait_for(event="close", key="quiet")
    clients[0].fin()
    assert server.wait_for(event="close", key="timer")["pid"] == server.worker_pid()


@pytest.mark.long_except("gthread-forkserver")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize(
    "kind", ["SseWorker", "gthread", pytest.param("gevent", marks=pytest.mark.long)]
)
def test_a_job_that_is_a_new_process_has_nothing_of_its_parents_streams(
    kind: str, method: str, serve: Callable[..., Server]
) -> None:
    if method == "forkserver" and kind in GREENLETS and sys.version_info >= (3, 14):
        pytest.skip("gevent's patches break forkserver on Python 3.14, also without ssestream")
    server = serve(kind, "tests.servers.apps.jobs:app", args=GREENLETS.get(kind, HOOKED))
    clients = [opened(server, f"/{path}?key={path}") for path in BEATING]
    before = sockets_of(server.worker_pid())
    jobs = [ask(server, f"/job?method={method}&seconds={seconds}")["pid"] for seconds in (LONG, 0)]
    server.wait_for(event="job over", pid=jobs[1])
    for each in clients:
        get_more(each, 15)
    assert not before & sockets_of(jobs[0])
    assert ask(server, f"/terminate?pid={jobs[0]}")["code"] == -signal.SIGTERM
    for each in clients:
        get_more(each, 15)
        got = numbers(each)
        assert got == list(range(got[0], got[0] + len(got)))
    assert not server.events(event="close")
    clients[0].fin()
    assert server.wait_for(event="close", key="timer")["pid"] == server.worker_pid()


def sockets_of(pid: int) -> set[str]:
    """The sockets that a process has open."""
    found = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            found |= {target} if target.startswith("socket:") else set()
    return found


@pytest.mark.long_except("gthread")
@pytest.mark.parametrize(
    "kind",
    [
        "gthread",
        "sync",
        *(pytest.param(kind, marks=pytest.mark.long) for kind in ("waitress", "uwsgi-threads")),
    ],
)
def test_nor_does_one_of_a_threaded_server(
    kind: str, serve: Callable[..., Server], request: pytest.FixtureRequest
) -> None:
    if kind in UWSGI:
        request.getfixturevalue("uwsgi")
    args: tuple[str, ...] = HOOKED if kind in ("gthread", "sync") else ()
    args = ("--lazy-apps",) if kind in UWSGI else args
    args = (*args, "--workers", "2") if kind == "sync" else args
    server = serve(kind, "tests.servers.apps.jobs:app", args=args, env={})
    client = Client(server.port).get("/timer?key=a", version="1.0")
    client.read_until(b"data: 0\n\n")
    job = psutil.Process(ask(server, f"/job?seconds={LONG}")["pid"])
    job.kill() if kind == "sync" else ask(server, f"/terminate?pid={job.pid}")
    client.read_until(b"data: 30\n\n")
    assert re.findall(rb"data: (\d+)\n\n", client.received)[:31] == [b"%d" % n for n in range(31)]


LEFT_BEHIND = "a timer that was set before this process was forked"


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gthread"])
def test_a_timer_that_preload_leaves_in_the_master_is_named_once_in_a_worker(
    serve: Start, kind: str
) -> None:
    server = serve(kind, "tests.servers.apps.preloaded:app", args=("--preload",))
    assert LEFT_BEHIND not in server.log()
    for _ in range(2):
        Client(server.port).get("/").read_until(b"data: false\n\n")
    wait_until(lambda: LEFT_BEHIND in server.log(), "the warning")
    (line,) = [line for line in server.log().splitlines() if LEFT_BEHIND in line]
    assert "not here: tests.servers.apps.preloaded.tick. Set it in" in line


def test_with_lazy_apps_it_runs_in_the_worker_of_uwsgi(serve: Start, uwsgi: object) -> None:
    args = ("--master", "--lazy-apps")
    server = serve("uwsgi-threads", "tests.servers.apps.preloaded:app", args=args, env={})
    Client(server.port).get("/", version="1.0").read_until(b"data: true\n\n")


#: Each worker and each broker once; the rest of their pairs are nearly the same.
PAIRS = [("SseWorker", "memory"), ("gevent", "sqlite"), ("gthread", "redis")]
ALL_PAIRS = itertools.product(["SseWorker", "gevent", "gthread"], ["memory", "sqlite", "redis"])


@pytest.mark.long_except("SseWorker-memory")
@pytest.mark.parametrize(
    ("kind", "broker"),
    [pytest.param(*pair, marks=[] if pair in PAIRS else [pytest.mark.long]) for pair in ALL_PAIRS],
)
def test_so_is_all_else_that_a_module_begins_and_an_event_is_there(
    serve: Start, kind: str, broker: str, request: pytest.FixtureRequest
) -> None:
    env = {"FOLLOWS": "1", "BROKER": request.getfixturevalue(f"{broker}_url")}
    server = serve(kind, "tests.servers.apps.preloaded:app", args=("--preload",), env=env)
    assert "before this process was forked" not in server.log()
    client = Client(server.port).get("/news")
    client.read_until(b"\ndata: from the module\n\n")
    for words in (
        "a pipeline that was started before this process was forked (gunicorn --preload) runs in"
        " the parent process only, and not here: source. Start it in",
        "a subscription to a channel that was made before this process was forked (gunicorn"
        " --preload) runs in the parent process only, and not here: 'news'. Make it in",
        "a function for an empty channel that was given before this process was forked (gunicorn"
        " --preload) runs in the parent process only, and not here: 'room'. Give it in",
    ):
        assert server.log().count(words) == 1


@pytest.mark.parametrize(
    ("args", "env"), [((), {}), (("--preload",), {"PATCHED": "1"})], ids=["loaded", "patched"]
)
def test_a_timer_that_runs_in_the_worker_is_not_named(
    serve: Start, args: tuple[str, ...], env: dict[str, str]
) -> None:
    server = serve("gevent", "tests.servers.apps.preloaded:app", args=args, env=env)
    Client(server.port).get("/").read_until(b"data: true\n\n")
    assert "before this process was forked" not in server.log()
