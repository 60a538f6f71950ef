"""Where the producer of a channel may live, and what ends it: the statements of docs/jobs.rst.

The watcher of each channel is in the process of the test.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psutil
import pytest

from ssestream import Channels
from tests.kit.following import Client, Following
from tests.kit.promptness import at_best
from tests.kit.redis_server import RedisServer
from tests.kit.servers import ROOT, Server, ask_json, wait_until
from tests.kit.states import end_all_of
from tests.servers.apps.producing import TTL, produce

rq = pytest.importorskip("rq")
pytest.importorskip("celery")

from tests.servers.apps.tasks import tasks  # noqa: E402 - it needs Celery

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

HOOKED = ("-c", "tests/servers/apps/reload.conf.py")

SCRIPT = ("-m", "tests.servers.apps.producing")

#: Steps of a job that is over in about a second.
SHORT = 20

#: Seconds until a death is told.
IN_TIME = TTL + 5


@pytest.fixture(scope="module")
def redis(redis_executable: str) -> Iterator[RedisServer]:
    server = RedisServer(redis_executable).start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def env(redis: RedisServer) -> dict[str, str]:
    own = {"BROKER": redis.url, "QUEUE": redis.url, "PYTHONPATH": str(ROOT)}
    return {**os.environ, **own}


@pytest.fixture(scope="module")
def channels(redis: RedisServer) -> Iterator[Channels]:
    channels = Channels(redis.url)
    yield channels
    end_all_of(channels)


@contextlib.contextmanager
def running(env: dict[str, str], *command: str) -> Iterator[psutil.Process]:
    """A process that is killed at the end, with its children."""
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        shown = psutil.Process(process.pid)
        try:
            yield shown
        finally:
            children = shown.children(recursive=True) if process.poll() is None else []
            for each in (*children, process):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    each.kill()


class Watched:
    """A client of the channel *name*, and what it has got."""

    def __init__(self, channels: Channels, name: str) -> None:
        self._client = Client(Following(channels, name, since="start"))
        self.pid = 0

    def begins(self) -> int:
        """The process of the producer, once it has begun."""
        self.pid = int(self._client.take(3)[0]["data"])
        return self.pid

    def end(self) -> str:
        """The only last message. All numbers before it came once and in order."""
        _, *steps, last = self._client.all()
        self._client.__exit__(None, None, None)
        assert [each["data"] for each in steps] == [str(n) for n in range(len(steps))]
        return str(last["event"])

    def lost_after(self) -> float:
        """Seconds until the death of the producer, which is now, is told."""
        died = time.monotonic()
        assert self.end() == "lost"
        return time.monotonic() - died


Watch = Callable[[], tuple[str, Watched]]


def watch_of(channels: Channels) -> Watch:
    def watch() -> tuple[str, Watched]:
        name = f"job:{os.urandom(6).hex()}"
        return name, Watched(channels, name)

    return watch


@pytest.fixture
def watch(channels: Channels) -> Watch:
    """A new channel, and who watches it."""
    return watch_of(channels)


class Stage(NamedTuple):
    """A broker for a web server, and who watches its channels."""

    env: dict[str, str]
    watch: Watch


@pytest.fixture
def stage(request: pytest.FixtureRequest, sqlite_url: str) -> Iterator[Stage]:
    """With Redis, or with a file of SQLite."""
    if request.param == "redis":
        yield Stage(request.getfixturevalue("env"), request.getfixturevalue("watch"))
        return
    channels = Channels(sqlite_url)
    env = {**os.environ, "BROKER": sqlite_url, "PYTHONPATH": str(ROOT)}
    yield Stage(env, watch_of(channels))
    end_all_of(channels)


BOTH = pytest.mark.parametrize(
    "stage", ["redis", pytest.param("sqlite", marks=pytest.mark.long)], indirect=True
)


# -- a script: cron, a shell, a process that a view starts


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_script_that_a_signal_ends_is_lost(
    number: signal.Signals, env: dict[str, str], watch: Watch
) -> None:
    def death() -> float:
        name, watched = watch()
        with running(env, *SCRIPT, name):
            os.kill(watched.begins(), number)
            return watched.lost_after()

    at_best(death, IN_TIME)


def test_a_script_that_ctrl_c_ends_is_lost_at_once(env: dict[str, str], watch: Watch) -> None:
    def interruption() -> float:
        name, watched = watch()
        with running(env, *SCRIPT, name):
            os.kill(watched.begins(), signal.SIGINT)
            return watched.lost_after()

    # Before the lease has run out.
    at_best(interruption, TTL / 2)


@pytest.mark.long
def test_a_script_that_is_frozen_is_lost_and_learns_it(
    env: dict[str, str], watch: Watch, channels: Channels
) -> None:
    def freeze() -> float:
        name, watched = watch()
        with running(env, *SCRIPT, name):
            os.kill(watched.begins(), signal.SIGSTOP)
            seconds = watched.lost_after()
            os.kill(watched.pid, signal.SIGCONT)
            wait_until(lambda: channels.history(f"{name}/told"), "the script to be told")
        assert [each.get("event") for each in channels.history(name)][-1] == "lost"
        return seconds

    at_best(freeze, IN_TIME)


@pytest.mark.parametrize(("fails", "status"), [("0", "done"), ("1", "failed")])
def test_a_script_that_is_over_is_done_or_failed(
    fails: str, status: str, env: dict[str, str], watch: Watch
) -> None:
    name, watched = watch()
    with running(env, *SCRIPT, name, "5", fails):
        assert watched.end() == status


# -- RQ


@pytest.fixture(scope="module")
def queue(redis: RedisServer) -> Any:
    # Not a Channels' connection: RQ keeps pickles, which are no UTF-8.
    import redis as redis_py

    return rq.Queue("jobs", connection=redis_py.Redis.from_url(redis.url))


def rq_worker(env: dict[str, str]) -> contextlib.AbstractContextManager[psutil.Process]:
    # The work horses need not load the module again.
    code = "import rq.cli, tests.servers.apps.producing; rq.cli.main()"
    return running(env, "-c", code, "worker", "jobs", "--url", env["QUEUE"])


@pytest.fixture(scope="module")
def worker_of_rq(env: dict[str, str]) -> Iterator[psutil.Process]:
    with rq_worker(env) as worker:
        yield worker


def test_a_job_of_rq_is_done_or_failed(
    worker_of_rq: psutil.Process, queue: Any, watch: Watch
) -> None:
    for fails, status in ((False, "done"), (True, "failed")):
        name, watched = watch()
        queue.enqueue(produce, name, SHORT, fails)
        assert watched.begins() != worker_of_rq.pid
        assert watched.end() == status


@pytest.mark.long
def test_a_job_of_rq_that_takes_too_long_has_failed(
    worker_of_rq: psutil.Process, queue: Any, watch: Watch
) -> None:
    name, watched = watch()
    # Steps for longer than the worker lets it.
    queue.enqueue(produce, name, 10 * SHORT, job_timeout=4)
    watched.begins()
    assert watched.end() == "failed"


@pytest.mark.long
def test_a_work_horse_that_is_killed_is_lost(
    worker_of_rq: psutil.Process, queue: Any, watch: Watch
) -> None:
    def death() -> float:
        name, watched = watch()
        queue.enqueue(produce, name)
        os.kill(watched.begins(), signal.SIGKILL)
        return watched.lost_after()

    at_best(death, IN_TIME)
    assert worker_of_rq.is_running()


@pytest.mark.long
def test_a_worker_of_rq_that_stops_lets_its_work_horse_end(
    env: dict[str, str], queue: Any, watch: Watch
) -> None:
    name, watched = watch()
    with rq_worker(env) as worker:
        queue.enqueue(produce, name, 3 * SHORT)
        watched.begins()
        worker.terminate()
        assert watched.end() == "done"
        worker.wait(60)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_work_horse_outlives_its_worker(
    number: signal.Signals, env: dict[str, str], queue: Any, watch: Watch
) -> None:
    name, watched = watch()
    with rq_worker(env) as worker:
        queue.enqueue(produce, name, 3 * SHORT)
        watched.begins()
        worker.send_signal(number)
        worker.wait(60)
        assert watched.end() == "done"


# -- Celery


def celery_worker(env: dict[str, str]) -> contextlib.AbstractContextManager[psutil.Process]:
    app = ("-m", "celery", "-A", "tests.servers.apps.tasks:tasks", "worker")
    return running(env, *app, "-c", "1", "--without-gossip", "--without-mingle", "-l", "WARNING")


@pytest.fixture(scope="module")
def worker_of_celery(env: dict[str, str], redis: RedisServer) -> Iterator[psutil.Process]:
    tasks.conf.broker_url = redis.url
    with celery_worker(env) as worker:
        yield worker


@pytest.mark.long
def test_a_task_of_celery_is_done_or_failed(worker_of_celery: psutil.Process, watch: Watch) -> None:
    for fails, status in ((False, "done"), (True, "failed")):
        name, watched = watch()
        tasks.send_task("produce", (name, SHORT, fails))
        assert watched.begins() != worker_of_celery.pid
        assert watched.end() == status


@pytest.mark.long
def test_a_task_whose_process_is_killed_is_lost_and_the_worker_goes_on(
    worker_of_celery: psutil.Process, watch: Watch
) -> None:
    def death() -> float:
        name, watched = watch()
        tasks.send_task("produce", (name,))
        os.kill(watched.begins(), signal.SIGKILL)
        return watched.lost_after()

    at_best(death, IN_TIME)
    name, watched = watch()
    tasks.send_task("produce", (name, SHORT))
    assert watched.end() == "done"


@pytest.mark.long
def test_a_worker_of_celery_that_stops_lets_its_task_end(
    worker_of_celery: psutil.Process, watch: Watch
) -> None:
    name, watched = watch()
    tasks.send_task("produce", (name, 3 * SHORT))
    watched.begins()
    worker_of_celery.terminate()
    assert watched.end() == "done"
    worker_of_celery.wait(60)


# -- the web server


@pytest.mark.long
@BOTH
@pytest.mark.parametrize("how", ["killed", "reloaded"])
@pytest.mark.parametrize(("kind", "where"), [("SseWorker", "greenlet"), ("gthread", "thread")])
def test_a_greenlet_or_thread_of_the_web_server_ends_with_its_worker(
    kind: str,
    where: str,
    how: str,
    serve: Callable[..., Server],
    stage: Stage,
) -> None:
    server = serve(kind, "tests.servers.apps.producing:app", env=stage.env, args=HOOKED)

    def death() -> float:
        name, watched = stage.watch()
        ask_json(server, f"/start/{where}/{name}")
        pid = watched.begins()
        if how == "killed":
            os.kill(pid, signal.SIGKILL)
        else:
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not psutil.pid_exists(pid), "the worker to end")
        return watched.lost_after()

    at_best(death, IN_TIME)


@contextlib.contextmanager
def asking(server: Server, path: str, method: str = "GET") -> Iterator[None]:
    """A client that has asked for *path* and waits for its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path)
        yield


@pytest.mark.parametrize(
    ("kind", "where"),
    [("SseWorker", "greenlet"), pytest.param("gthread", "thread", marks=pytest.mark.long)],
)
def test_each_place_in_the_web_server_has_an_end_of_its_own(
    kind: str, where: str, serve: Callable[..., Server], env: dict[str, str], watch: Watch
) -> None:
    server = serve(kind, "tests.servers.apps.producing:app", env=env, args=HOOKED)
    jobs = []
    with contextlib.ExitStack() as stack:
        for place in ("request", "pipeline", f"start/{where}"):
            for fails, status in ((0, "done"), (1, "failed")):
                name, watched = watch()
                path = f"/{place}/{name}?steps=5&fails={fails}"
                stack.enter_context(asking(server, path))
                jobs.append((place, status, watched))
        assert [(place, watched.end()) for place, _, watched in jobs] == [
            (place, status) for place, status, _ in jobs
        ]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("POST", f"steps={3 * SHORT}", "done"),
        ("GET", f"steps={3 * SHORT}&finish", "done"),
        ("GET", "", "lost"),
    ],
)
def test_a_pipeline_goes_on_in_a_reload_if_its_stream_does(
    kind: str,
    method: str,
    query: str,
    status: str,
    serve: Callable[..., Server],
    env: dict[str, str],
    watch: Watch,
) -> None:
    server = serve(kind, "tests.servers.apps.producing:app", env=env, args=HOOKED)
    name, watched = watch()
    with asking(server, f"/pipeline/{name}?{query}", method):
        watched.begins()
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        assert watched.end() == status


@pytest.mark.long
@BOTH
@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_a_worker_waits_for_a_producer_in_a_request_when_it_is_reloaded(
    kind: str, serve: Callable[..., Server], stage: Stage
) -> None:
    server = serve(kind, "tests.servers.apps.producing:app", env=stage.env, args=HOOKED)
    name, watched = stage.watch()
    with asking(server, f"/request/{name}?steps={3 * SHORT}"):
        watched.begins()
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        assert watched.end() == "done"


@pytest.mark.long
@BOTH
@pytest.mark.parametrize("place", ["request", pytest.param("pipeline", marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_a_producer_in_a_request_is_lost_with_its_process(
    kind: str, place: str, serve: Callable[..., Server], stage: Stage
) -> None:
    server = serve(kind, "tests.servers.apps.producing:app", env=stage.env, args=HOOKED)

    def death() -> float:
        name, watched = stage.watch()
        with asking(server, f"/{place}/{name}"):
            os.kill(watched.begins(), signal.SIGKILL)
            return watched.lost_after()

    at_best(death, IN_TIME)


def posted(server: Server) -> str:
    """A job of the example."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/jobs")
        return str(connection.getresponse().headers["Location"]).rpartition("/")[2]


@pytest.mark.long
def test_a_script_that_a_view_has_started_outlives_a_reload_and_its_worker(
    serve: Callable[..., Server], env: dict[str, str], channels: Channels
) -> None:
    own = {**env, "SSESTREAM_URL": env["BROKER"], "JOB_SECONDS": "3"}
    server = serve("SseWorker", "examples.progress:app", env=own, args=HOOKED)
    job = posted(server)
    wait_until(lambda: channels.history(f"job:{job}"), "the job to begin")
    os.kill(server.worker_pid(), signal.SIGKILL)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    with Client(Following(channels, f"job:{job}", since="start")) as client:
        messages = client.all()
    assert len(messages) == 101
    assert messages[-1]["event"] == "done"


@pytest.mark.long
def test_the_page_of_the_example_is_told_of_a_job_that_has_died(
    serve: Callable[..., Server], env: dict[str, str], channels: Channels
) -> None:
    own = {**env, "SSESTREAM_URL": env["BROKER"], "JOB_SECONDS": "60"}
    server = serve("SseWorker", "examples.progress:app", env=own, args=HOOKED)
    job = posted(server)
    wait_until(lambda: channels.history(f"job:{job}"), "the job to begin")
    (process,) = psutil.Process(server.worker_pid()).children()
    process.kill()
    with Client(Following(channels, f"job:{job}", since="start")) as client:
        last = client.all()[-1]
    assert (last["event"], last["data"]) == ("failed", '{"what":"the process of the job has died"}')
