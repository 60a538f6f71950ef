"""What a stream takes of the descriptors of its process, and what comes of it where none are."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.kit.programs import run_program
from tests.kit.servers import MORE_SERVERS, ROOT, UWSGI, Client, Server, body_of, wait_until

#: The ways of ``tests.servers.apps.descriptors``.
WAYS = ("/plain", "/subscribed", "/timed", "/pipeline")

STREAMS = 10


#: The servers on which a stream takes a second one: waitress and uWSGI may close their own at any
#: time, so the watch has a copy, and mod_wsgi takes two by itself.
TAKE_TWO = ("waitress", "mod_wsgi", *UWSGI)


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def opened(server: Server, way: str, count: int) -> list[Client]:
    clients = [Client(server.port).get(way) for _ in range(count)]
    for client in clients:
        client.read_until(b"data: first\n\n")
    return clients


@pytest.fixture
def few() -> Iterator[Server]:
    server = Server(
        "flask", "tests.servers.apps.descriptors:app", env={"DESCRIPTORS": "64"}
    ).start()
    yield server
    server.stop()


@pytest.mark.server
@pytest.mark.parametrize(
    "kind",
    [
        *("gevent", "SseWorker", "gthread", "flask", "waitress"),
        *(
            pytest.param(kind, marks=pytest.mark.long)
            for kind in (
                *("gevent_pywsgi", "pywsgi", "sync", *MORE_SERVERS),
                *("granian", "mod_wsgi"),
            )
        ),
    ],
)
def test_a_stream_takes_one_descriptor_whatever_feeds_it(
    kind: str, need: Callable[[str], None]
) -> None:
    """That of its client's socket. What all of them share is there with the first."""
    need(kind)
    each = 2 if kind in TAKE_TWO else 1
    # A worker of ``sync`` has one stream at a time. On granian and mod_wsgi, only a heartbeat shows
    # that a client has left.
    count = 1 if kind == "sync" else STREAMS
    server = Server(kind, "tests.servers.apps.descriptors:app").start()
    try:
        pid = int(body_of(Client(server.port).get("/pid", "Connection: close").read_to_end()))

        def close(clients: list[Client], rest: int) -> None:
            while clients:
                clients.pop().rst()
            wait_until(lambda: descriptors_of(pid) <= rest, "them to be closed")

        for way in WAYS:
            warm = opened(server, way, 1)
            before = descriptors_of(pid)
            if kind == "sync":
                before -= 1
                close(warm, before)
            clients = opened(server, way, count)
            # In Apache's process, one of its own may be opened or closed meanwhile.
            others = 1 if kind == "mod_wsgi" else 0
            assert abs(descriptors_of(pid) - before - each * count) <= others, way
            close([*clients, *warm], before - each * len(warm) + others)
    finally:
        server.stop()


@pytest.mark.server
def test_forty_pipelines_need_no_more_than_sixty_four_descriptors(few: Server) -> None:
    clients = opened(few, "/pipeline", 40)
    for client in clients:
        while client.received.count(b"data: first") < 3:
            more = client.sock.recv(4096)
            assert more
            client.received += more


@pytest.mark.long_except("/plain-2", "/subscribed-2")
@pytest.mark.server
@pytest.mark.parametrize(
    ("way", "but"), [*((way, 2) for way in WAYS), ("/pipeline", 1), ("/pipeline", 3)]
)
def test_a_stream_that_cannot_be_had_is_an_error_and_the_process_recovers(
    few: Server, way: str, but: int
) -> None:
    """Of a process in which none was open before, and none of whose loops is there."""
    keeper = Client(few.port)
    keeper.get(f"/take?but={but}", "Content-Length: 0", method="POST").read_until(b"\r\n\r\n")
    refused = Client(few.port).get(way)
    refused.read_until(b"\r\n\r\n")
    if b" 200 " not in refused.received:
        assert b"500 INTERNAL SERVER ERROR" in refused.received
        wait_until(lambda: "none are left for the loop" in few.log(), "the log")
    Client(few.port).get("/give", "Content-Length: 0", method="POST").read_until(b"given back")
    opened(few, way, 3)
    assert len(few.log()) < 100_000


PIPELINE = """
import os, resource, threading, time
import gevent
from ssestream import SseStream, pipeline, set_timeout
fired = threading.Event()
set_timeout(fired.set, 1)
assert fired.wait(60)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
hoard = []
try:
    while True:
        hoard.append(os.dup(0))
except OSError:
    pass

class Sink:
    got = b""
    def write(self, chunk):
        self.got += chunk

def source():
    for number in range(3):
        gevent.sleep(0.01)
        with gevent.Timeout(0.02, False):
            gevent.event.Event().wait()
        yield {"data": number}

sink = Sink()
pipeline(source(), SseStream(), sink)
deadline = time.monotonic() + 60
while b"data: 2" not in sink.got and time.monotonic() < deadline:
    time.sleep(0.01)
print(sink.got)
"""


def test_a_source_needs_none_to_wait() -> None:
    program = "import gevent.event\n" + PIPELINE
    done = run_program(program)
    assert done.stdout.rstrip() == repr(b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n")
    assert not done.stderr


FIRST = """
import os, resource, time
from ssestream import ServerResponse, SseStream, set_timeout
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
hoard = []

def take(but):
    try:
        while True:
            hoard.append(os.dup(0))
    except OSError:
        for _ in range(but):
            os.close(hoard.pop())

def give():
    while hoard:
        os.close(hoard.pop())

fired = []
for but in range(3):
    take(but)
    for make in (ServerResponse, lambda: set_timeout(fired.append, 1, "too early")):
        try:
            make()
            print("no error")
        except OSError as error:
            print("none are left for the loop" in str(error))
    give()
set_timeout(fired.append, 1, 1)
deadline = time.monotonic() + 60
while not fired and time.monotonic() < deadline:
    time.sleep(0.01)
print(fired)
"""


def test_a_loop_that_cannot_be_had_is_an_error_and_not_the_end_of_the_process() -> None:
    done = run_program(FIRST)
    assert done.stdout.split() == ["True"] * 6 + ["[1]"], done.stdout + done.stderr
    assert not done.stderr


WATCHED = """
import os, resource
from flask import Flask, request
from ssestream import ServerResponse, SseStream, set_timeout, statistics
from tests.kit.visit import Visit

app, hoard = Flask("x"), []

@app.get("/<take>")
def view(take):
    try:
        while take == "all":
            hoard.append(os.dup(0))
    except OSError:
        pass
    res = ServerResponse()
    SseStream(request).pipe(res)
    return res

set_timeout(print, 1)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for take in ("all", "none"):
    visit = Visit(app, "/" + take)
    visit.read_until(b"\\r\\n\\r\\n")
    print(visit.head.split(" ")[1], statistics().open)
    while hoard:
        os.close(hoard.pop())
"""


def test_a_departure_that_cannot_be_watched_for_is_an_error_and_the_next_one_is() -> None:
    done = run_program(WATCHED)
    assert done.stdout.split() == ["500", "0", "200", "1"], done.stdout + done.stderr


EVENTLET = """
import warnings
warnings.simplefilter("ignore")
import eventlet
PATCH
import flask
from ssestream import Channels, ServerResponse, SseStream, set_timeout

def in_request():
    with flask.Flask("x").test_request_context("/"):
        SseStream(flask.request)

def iterated():
    next(iter(SseStream()))

def run(call):
    try:
        call()
        print("no error")
    except RuntimeError as error:
        print("eventlet" in str(error) and "gevent" in str(error))

calls = [
    in_request,
    iterated,
    ServerResponse,
    lambda: set_timeout(print, 1),
    lambda: Channels("memory://").subscribe(SseStream(), "news"),
]
for call in calls:
    eventlet.spawn(run, call).wait()
"""


@pytest.mark.long_except("eventlet.monkey_patch()")
@pytest.mark.parametrize("patch", ["eventlet.monkey_patch()", "eventlet.monkey_patch(os=True)", ""])
def test_a_process_of_eventlets_is_told_at_once(patch: str) -> None:
    # Not imported here: eventlet would look at every later fork of this process.
    if importlib.util.find_spec("eventlet") is None:
        pytest.skip("eventlet is not installed")
    program = EVENTLET.replace("PATCH", patch)
    # eventlet's own resolver imports every package that dnspython knows, and patches some to death.
    env = os.environ | {"EVENTLET_NO_GREENDNS": "yes"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == ["True"] * 5, done.stdout + done.stderr
