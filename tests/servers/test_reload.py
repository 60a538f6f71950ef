"""Clients come back after a reload and after a kill, as an EventSource does."""

import http.client
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import psutil
import pytest

from ssestream.wire import Decoder
from tests.kit.servers import PATIENCE, Client, Server, wait_until
from tests.servers.apps.browser import browser
from tests.servers.test_shutdown import GRACEFUL, IN_TIME, gone_after

pytestmark = pytest.mark.server

CLIENTS = 500

#: The default of ``retry_after``, in milliseconds.
FIRST, LAST = 1000, 5000

#: Of 500 uniform draws a fifth of the window has 100. One of the five lies outside
#: these (by the binomial law) once in ten million runs, which leaves room for the
#: time that coming back takes.
FEWEST, MOST = 52, 152


class EventSource:
    """What a browser's does of its own accord: it remembers the id, and comes back."""

    def __init__(self, port: int, key: str) -> None:
        self.key = key
        self.visits: list[Visit] = []
        self.last_event_id = ""
        self.retry = 3000
        self.refused = 0
        self._port = port
        self._running = gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            try:
                self._visit()
            except ConnectionRefusedError:
                self.refused += 1
            gevent.sleep(self.retry / 1000)

    def _visit(self) -> None:
        with gevent.socket.create_connection(("127.0.0.1", self._port)) as sock:
            connection = http.client.HTTPConnection("127.0.0.1", self._port)
            connection.sock = sock
            headers = {"Last-Event-ID": self.last_event_id} if self.last_event_id else {}
            connection.request("GET", f"/news?key={self.key}", headers=headers)
            visit = Visit(self.last_event_id)
            self.visits.append(visit)
            with connection.getresponse() as answer:
                assert answer.status == 200
                self._read(visit, answer)
        visit.ended_at = time.monotonic()

    def _read(self, visit: "Visit", answer: http.client.HTTPResponse) -> None:
        decoder = Decoder()
        try:
            # Whatever ends without a last chunk raises.
            while data := answer.read1():
                for message in decoder.feed(data):
                    self._take(visit, message)
            visit.clean = True
        except (http.client.IncompleteRead, ConnectionResetError):
            pass

    def _take(self, visit: "Visit", message: Any) -> None:
        if "id" in message:
            self.last_event_id = message["id"]
        if "retry" in message:
            self.retry = visit.retry = message["retry"]
        if "data" in message:
            visit.pids.add(int(message["data"]))

    def leave(self) -> None:
        self._running.kill()


class Visit:
    """One connection of an `EventSource`."""

    def __init__(self, last_event_id: str) -> None:
        self.last_event_id = last_event_id
        #: The workers that messages came from.
        self.pids: set[int] = set()
        self.clean = False
        self.ended_at: float | None = None
        #: The last ``retry`` of the connection, in milliseconds.
        self.retry = 0


@contextmanager
def event_sources(port: int, count: int) -> Iterator[list[EventSource]]:
    sources = [EventSource(port, f"c{number}") for number in range(count)]
    try:
        yield sources
    finally:
        for source in sources:
            source.leave()


def let_run_until(condition: Callable[[], bool], what: str) -> None:
    """As `wait_until`, while the greenlets of this thread go on."""
    with gevent.Timeout(2 * PATIENCE, AssertionError(f"waited in vain for {what}")):
        while not condition():
            gevent.sleep(0.01)


def test_a_reload_under_traffic_loses_nobody_for_good(serve: Callable[..., Server]) -> None:
    # gunicorn closes a connection unanswered if its request does not come in that time.
    args = (*GRACEFUL, "--keep-alive", "60")
    server = serve("SseWorker", "tests.servers.apps.reload:app", args=args)
    old = server.worker_pid()
    assert server.process is not None
    with event_sources(server.port, CLIENTS) as sources:
        let_run_until(lambda: all(s.visits and s.visits[0].pids for s in sources), "messages")
        began = time.monotonic()
        server.process.send_signal(signal.SIGHUP)
        let_run_until(lambda: all(len(s.visits) > 1 and s.visits[1].pids for s in sources), "all")
        new = server.worker_pid()
        assert new != old
        first_ends = {}
        for source in sources:
            first, second = source.visits
            assert first.clean
            assert first.pids == {old}
            assert second.pids == {new}
            assert first.ended_at is not None
            # Far below the graceful timeout, also on a busy machine.
            assert first.ended_at - began < IN_TIME
            first_ends[source.key] = first.ended_at
        told = [source.visits[0].retry for source in sources]
    # Every close handler ran, once, and the worker is no more.
    keys = sorted(first_ends)
    assert sorted(event["key"] for event in server.events(event="close", pid=old)) == keys
    gone_after(old, began)

    # The new one was told what each had seen last, which is what the old one sent.
    opened = server.events(event="open", pid=new)
    assert sorted(event["key"] for event in opened) == keys
    seen = {source.key: source.visits[1].last_event_id for source in sources}
    assert all(event["last_event_id"] == seen[event["key"]] for event in opened)
    assert all(last_id.startswith(f"{old}-") for last_id in seen.values())

    # They were told to come one after another, over the whole of the window. On a busy machine
    # some come later than they were told.
    pauses = [event["at"] - first_ends[event["key"]] for event in opened]
    assert min(pauses) >= FIRST / 1000
    assert FIRST <= min(told) <= max(told) <= LAST
    shares = Counter(min(4, (each - FIRST) * 5 // (LAST - FIRST)) for each in told)
    assert all(FEWEST <= shares[number] <= MOST for number in range(5)), shares


def test_a_killed_worker_leaves_no_client_hanging(serve: Callable[..., Server]) -> None:
    server = serve("gevent", "tests.servers.apps.reload:app")
    clients = [Client(server.port).get(f"/news?key=k{number}") for number in range(200)]
    for client in clients:
        client.read_until(b"data: ")
    old = server.worker_pid()
    os.kill(old, signal.SIGKILL)
    began = time.monotonic()
    for client in clients:
        try:
            client.read_to_end()
        except ConnectionResetError:
            pass
        assert not client.received.endswith(b"0\r\n\r\n")
    assert time.monotonic() - began < PATIENCE
    # The master is well, and what it starts serves them.
    again = [Client(server.port).get(f"/news?key=k{number}") for number in range(200)]
    for client in again:
        client.read_until(b"data: ")
    new = server.worker_pid()
    assert new != old
    assert all(f"data: {new}\n".encode() in client.received for client in again)
    assert server.process is not None
    assert server.process.poll() is None
    assert [child.pid for child in psutil.Process(server.process.pid).children()] == [new]


@pytest.mark.long
@pytest.mark.browser
def test_a_browser_comes_back_to_the_worker_after_the_killed_one(
    serve: Callable[..., Server], chromium: tuple[str, str], tmp_path: Path
) -> None:
    server = serve("gevent", "tests.servers.apps.reload:app")
    old = server.worker_pid()
    with browser(chromium, tmp_path) as driver:
        driver.get(server.url)
        driver.execute_script(
            "window.got = []; window.errors = [];"
            "window.source = new EventSource('/news?key=page');"
            "source.onmessage = (e) => got.push([Number(e.data), e.lastEventId]);"
            "source.onerror = () => errors.push(source.readyState);"
        )

        def got_from(pid: int) -> list[str]:
            got = driver.execute_script("return window.got")
            return [last_id for sender, last_id in got if sender == pid]

        wait_until(lambda: len(got_from(old)) >= 3, "messages")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: server.worker_pid() != old, "another worker")
        new = server.worker_pid()
        wait_until(lambda: len(got_from(new)) >= 3, "messages of the other worker")
        # Nothing but a connection that broke: CONNECTING, and never CLOSED.
        assert set(driver.execute_script("return window.errors")) == {0}
        assert server.wait_for(event="open", pid=new)["last_event_id"] == got_from(old)[-1]
