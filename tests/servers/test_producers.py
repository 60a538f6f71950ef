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
from typing import Any

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


@pytest.fixture
def watch(channels: Channels, request: pytest.FixtureRequest) -> Watch:
    """A new channel, and who watches it."""

    def watch() -> tuple[str, Watched]:
        name = f"job:{os.urandom(6).hex()}"
        return name, Watched(channels, name)

    return watch


# -- a script: cron, a shell, a process that a view starts


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


def test_a_script_that_is_over_is_done(env: dict[str, str], watch: Watch) -> None:
    name, watched = watch()
    with running(env, *SCRIPT, name, str(SHORT)):
        assert watched.end() == "done"


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


def test_a_job_of_rq_that_takes_too_long_has_failed(
    worker_of_rq: psutil.Process, queue: Any, watch: Watch
) -> None:
    name, watched = watch()
    # Steps for longer than the worker lets it.
    queue.enqueue(produce, name, 10 * SHORT, job_timeout=4)
    watched.begins()
    assert watched.end() == "failed"


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


def test_a_task_of_celery_is_done_or_failed(worker_of_celery: psutil.Process, watch: Watch) -> None:
    for fails, status in ((False, "done"), (True, "failed")):
        name, watched = watch()
        tasks.send_task("produce", (name, SHORT, fails))
        assert watched.begins() != worker_of_celery.pid
        assert watched.end() == status


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


@pytest.mark.parametrize("how", ["killed", "reloaded"])
@pytest.mark.parametrize(("kind", "where"), [("SseWorker", "greenlet"), ("gthread", "thread")])
def test_a_greenlet_or_thread_of_the_web_server_ends_with_its_worker(
    kind: str,
    where: str,
    how: str,
    serve: Callable[..., Server],
    env: dict[str, str],
    watch: Watch,
) -> None:
    server = serve(kind, "tests.servers.apps.producing:app", env=env, args=HOOKED)

    def death() -> float:
        name, watched = watch()
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
def asking(server: Server, path: str) -> Iterator[None]:
    """A client that has asked for *path* and waits for its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        yield


@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_a_worker_waits_for_a_producer_in_a_request_when_it_is_reloaded(
    kind: str, serve: Callable[..., Server], env: dict[str, str], watch: Watch
) -> None:
    server = serve(kind, "tests.servers.apps.producing:app", env=env, args=HOOKED)
    name, watched = watch()
    with asking(server, f"/request/{name}?steps={3 * SHORT}"):
        watched.begins()
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        assert watched.end() == "done"


@pytest.mark.parametrize("kind", ["SseWorker", "gthread"])
def test_a_producer_in_a_request_is_lost_with_its_process(
    kind: str, serve: Callable[..., Server], env: dict[str, str], watch: Watch
) -> None:
    server = serve(kind, "tests.servers.apps.producing:app", env=env, args=HOOKED)

    def death() -> float:
        name, watched = watch()
        with asking(server, f"/request/{name}"):
            os.kill(watched.begins(), signal.SIGKILL)
            return watched.lost_after()

    at_best(death, IN_TIME)


def posted(server: Server) -> str:
    """A job of the example."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/jobs")
        return str(connection.getresponse().headers["Location"]).rpartition("/")[2]


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
