"""A job of a process that has several servers of gevent answers for none of them."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.kit.servers import Client, Server, body_of, free_port
from tests.servers.test_jobs import GREENLETS, LONG

pytestmark = pytest.mark.server

APP = "tests.servers.apps.several:app"


def ask(port: int, path: str, tls: bool = False) -> dict[str, int]:
    client = Client(port, tls).get(path, "Connection: close")
    answer: dict[str, int] = json.loads(body_of(client.read_until(b"}\n")))
    return answer


def who_answer(port: int, tls: bool = False) -> set[int]:
    with ThreadPoolExecutor(8) as threads:
        return set(threads.map(lambda _: ask(port, "/pid", tls)["pid"], range(40)))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SseWorker", "gevent", "gevent_pywsgi", "pywsgi"])
def test_it_answers_nobody_at_any_of_them(
    kind: str, serve: Callable[..., Server], certificate: tuple[str, str]
) -> None:
    # gevent_pywsgi has a server for each address that it is bound to.
    second = free_port()
    bound = ("-b", f"127.0.0.1:{second}") if kind == "gevent_pywsgi" else ()
    args = (*GREENLETS[kind], *bound)
    server = serve(kind, APP, args=args, env={"TLS_FILES": " ".join(certificate)})
    pid = server.worker_pid()
    ports = ask(server.port, "/ports")
    ask(server.port, "/start")
    own = {"job's": ports.pop("job's")}
    job = ask(server.port, f"/job?seconds={LONG}")["pid"]
    ports |= {"main": server.port} | ({"second": second} if kind == "gevent_pywsgi" else {})
    try:
        # It runs, and answers where its app lets it.
        assert who_answer(own["job's"]) == {job}
        answer = {name: who_answer(port, name == "tls") for name, port in ports.items()}
        assert answer == {name: {pid} for name in ports}
        # What the parent has closed is closed.
        ask(server.port, "/stop")
        with pytest.raises(ConnectionRefusedError):
            Client(ports["stopped"])
        assert psutil.pid_exists(job)
    finally:
        os.kill(job, signal.SIGKILL)
