"""Servers that few Flask apps run on: what a stream has there, and what it has not."""

import json
import os
import re
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import servers
from tests.kit.promptness import at_best
from tests.kit.servers import PATIENCE, Client, Server, ask_json, wait_until
from tests.servers.test_departure import fin, rst
from tests.servers.test_diagnosis import CUTS, WRONG, recipe, stream, warnings_of
from tests.servers.test_vanished import BEAT, TIMEOUT, settings

pytestmark = pytest.mark.server

APP = "tests.servers.apps.app:app"

HEARTBEAT = 0.4

#: Seconds in which a stream opens that nothing holds back: before its first heartbeat, at 80 %.
OPENS = 0.25

#: Heartbeats in which a departure shows that no socket tells of.
HEARTBEATS = 4

SERVERS = ("cheroot", "granian", "mod_wsgi", "hypercorn")

#: uvicorn with an adapter, beside them: what else it has is in `test_diagnosis`.
A2WSGI = pytest.param("a2wsgi", marks=pytest.mark.long)

#: Of the servers, the ones that tell the app of a departure as far as a heartbeat shows it.
KEEPERS = ("granian", "mod_wsgi")

#: How long one that never reads keeps a thread of its server.
NEVER_READS = {"cheroot": "close", "granian": "it leaves", "mod_wsgi": "Apache's Timeout"}

Need = Callable[[str], None]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, need: Need) -> Iterator[Server]:
    kind = str(request.param)
    need(kind)
    app = f"wsgi:{APP}" if kind == "hypercorn" else APP
    if kind == "a2wsgi":
        kind, app = "uvicorn", "tests.servers.apps.asgi:a2wsgi_telling"
    settings = {"SSESTREAM_HEARTBEAT": HEARTBEAT, "SSESTREAM_SEND_TIMEOUT": 0.5}
    server = Server(kind, app, env={"SETTINGS": json.dumps(settings)})
    yield server.start()
    server.stop()


@pytest.mark.parametrize("server", [*SERVERS, A2WSGI], indirect=True, scope="module")
def test_a_stream_opens_at_once(server: Server) -> None:
    def opening() -> float:
        began = time.monotonic()
        client = Client(server.port).get(f"/quiet?key=opened{began}")
        client.read_until(b":ok\n\n")
        took = time.monotonic() - began
        client.fin()
        return took

    at_best(opening, OPENS)


def test_a_silent_stream_gets_heartbeats(server: Server) -> None:
    client = Client(server.port).get("/quiet?key=silent")
    client.read_until(b"\n:\n")
    client.fin()


def test_a_response_that_ends_is_whole(server: Server) -> None:
    client = Client(server.port).get("/ended?key=ended", "Connection: close")
    client.read_until(b"data: last\n\n")
    client.read_until(b"\r\n0\r\n\r\n")
    server.wait_for(event="finish", key="ended")


def test_a_client_that_never_reads_is_given_up(server: Server) -> None:
    client = Client(server.port, receive_buffer=4096).get("/flood?key=stalled")
    server.wait_for(event="close", key="stalled")
    client.fin()


@pytest.mark.long
@pytest.mark.parametrize(("kind", "until"), NEVER_READS.items())
def test_one_that_never_reads_keeps_its_thread_until(
    kind: str, until: str, need: Need, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    need(kind)
    monkeypatch.setattr(servers, "_MOD_WSGI", "Timeout 8\n" + servers._MOD_WSGI)
    env = {"SETTINGS": json.dumps({"SSESTREAM_SEND_TIMEOUT": 0.5})}
    server = serve(kind, APP, env=env, threads=1)
    client = Client(server.port, receive_buffer=4096).get("/flood?key=stalled")
    server.wait_for(event="close", key="stalled")
    other = Client(server.port).get("/ticks", "Connection: close")
    if until != "close":
        other.sock.settimeout(1)
        with pytest.raises(TimeoutError):
            other.read_until(b"}")
        other.sock.settimeout(PATIENCE)
    if until == "it leaves":
        client.fin()
    other.read_until(b"}")


def vanishing(**more: float) -> dict[str, str]:
    return settings(heartbeat=BEAT, tcp_user_timeout=TIMEOUT, send_timeout=TIMEOUT, **more)


@pytest.mark.long
@pytest.mark.parametrize("kind", KEEPERS)
def test_elsewhere_only_its_age_ends_one_that_vanishes(
    kind: str, need: Need, serve: Callable[..., Server]
) -> None:
    need(kind)
    age = 4 * (BEAT + TIMEOUT)
    server = serve(kind, APP, env=vanishing(max_age=age), threads=1)
    client = Client(server.port).get("/quiet?key=vanished")
    client.read_until(b":ok\n\n")
    client.vanish()
    opened = server.wait_for(event="open", key="vanished")
    closed = server.wait_for(event="close", key="vanished")
    # The age has up to a fifth less, so that the streams of one moment do not end in one.
    assert closed["at"] - opened["at"] > age / 2
    Client(server.port).get("/ticks", "Connection: close").read_until(b"}")


@pytest.mark.long
@pytest.mark.parametrize("server", KEEPERS, indirect=True, scope="module")
@pytest.mark.parametrize("leave", [fin, rst])
def test_a_heartbeat_shows_a_departure(server: Server, leave: Callable[[Client], None]) -> None:
    def departure() -> float:
        key = f"left{time.monotonic()}"
        client = Client(server.port).get(f"/quiet?key={key}")
        client.read_until(b":ok\n\n")
        left = time.monotonic()
        leave(client)
        closed: float = server.wait_for(event="close", key=key)["at"]
        return closed - left

    at_best(departure, HEARTBEATS * HEARTBEAT)


@pytest.mark.long
@pytest.mark.parametrize("server", ["hypercorn", "a2wsgi"], indirect=True, scope="module")
def test_an_asgi_server_hides_a_departure(server: Server) -> None:
    client = Client(server.port).get("/quiet?key=hidden")
    client.read_until(b":ok\n\n")
    client.fin()
    # The stream's own timer ticks every 20 ms for as long as it is open.
    many = 2 * HEARTBEATS * HEARTBEAT / 0.02
    wait_until(lambda: ask_json(server, "/ticks").get("hidden", 0) > many, "heartbeats in vain")
    assert not server.events(event="close", key="hidden")


@pytest.mark.parametrize("server", ["granian", "mod_wsgi"], indirect=True, scope="module")
def test_a_destroyed_stream_looks_whole_behind_mod_wsgi_alone(server: Server) -> None:
    client = Client(server.port).get("/destroyed?key=destroyed", "Connection: close")
    looks_whole = client.read_to_end().endswith(b"\r\n0\r\n\r\n")
    assert looks_whole == (server.kind == "mod_wsgi")
    server.wait_for(event="close", key="destroyed")


@pytest.mark.parametrize("path", ["/stream", pytest.param("/iterated", marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", SERVERS)
def test_what_a_server_lacks_is_said_once(
    kind: str, path: str, need: Need, serve: Callable[..., Server]
) -> None:
    need(kind)
    app = "tests.servers.apps.wrong:app"
    server = serve(kind, f"wsgi:{app}" if kind == "hypercorn" else app)
    assert stream(server, "/slow-page").read_until(b"other")

    def warned() -> list[str]:
        # Apache writes the time and the client in front of a line.
        return [line for line in server.log().splitlines() if "WARNING ssestream" in line]

    assert warned() == []
    clients = [stream(server, path), stream(server, path)]
    for client in clients:
        client.read_until(b":ok\n\n")
    (warning,) = warned()
    if kind == "hypercorn":
        assert f"{path!r}: hypercorn runs this app on an ASGI server" in warning
    elif kind == "cheroot":
        assert f"{path!r}: cheroot {CUTS}" in warning
    else:
        assert f"{path!r}: {kind} keeps the client's socket to itself" in warning
        does = "waits for open streams when it stops, and may cut them: "
        assert f"ssestream. {kind} {does if kind == 'granian' else CUTS}" in warning
    assert "secret" not in warning


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("cheroot", "drain_on_sigterm"),
        pytest.param("mod_wsgi", "drain_under_mod_wsgi", marks=pytest.mark.long),
    ],
)
def test_nothing_is_said_of_a_stop_that_the_recipe_makes_clean(
    kind: str, function: str, need: Need, serve: Callable[..., Server], tmp_path: Path
) -> None:
    need(kind)
    let_others_read(tmp_path)
    server = serve(kind, "drained:app", env=recipe(tmp_path, function, WRONG))
    stream(server).read_until(b":ok\n\n")
    said = [line for line in server.log().splitlines() if "WARNING ssestream" in line]
    assert len(said) == (kind == "mod_wsgi")
    assert CUTS not in server.log()


def test_a_stream_that_takes_cheroots_last_thread_is_told_of(
    need: Need, serve: Callable[..., Server]
) -> None:
    need("cheroot")
    server = serve("cheroot", "tests.servers.apps.wrong:app", threads=1)
    stream(server).read_until(b":ok\n\n")
    (warning,) = warnings_of(server)
    assert "the last of the 1 threads of its server" in warning
    assert f"ssestream. cheroot {CUTS}" in warning


def let_others_read(folder: Path) -> None:
    """Let Apache's user read *folder*."""
    for each in (folder, *folder.parents):
        if each.stat().st_uid == os.getuid() and not each.stat().st_mode & stat.S_IXOTH:
            each.chmod(0o755)


def is_told_to_come_back(server: Server, client: Client) -> None:
    assert re.search(rb"\nretry: \d+\n\n\r\n$", client.read_until(b"0\r\n\r\n")[:-5])
    server.wait_for(event="finish", key="s")


def test_cheroot_ends_streams_cleanly_by_the_recipe(
    need: Need, serve: Callable[..., Server], tmp_path: Path
) -> None:
    need("cheroot")
    server = serve("cheroot", "drained:app", env=recipe(tmp_path, "drain_on_sigterm"))
    client = Client(server.port).get("/quiet?key=s")
    client.read_until(b":ok\n\n")
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    is_told_to_come_back(server, client)
    server.process.wait(60)


@pytest.mark.long_except("graceful")
@pytest.mark.parametrize("how", ["touch", "graceful"])
def test_mod_wsgi_ends_streams_cleanly_by_the_recipe(
    how: str, need: Need, serve: Callable[..., Server], tmp_path: Path
) -> None:
    need("mod_wsgi")
    let_others_read(tmp_path)
    server = serve("mod_wsgi", "drained:app", env=recipe(tmp_path, "drain_under_mod_wsgi"))
    client = Client(server.port).get("/quiet?key=s")
    client.read_until(b":ok\n\n")
    assert server.process is not None
    assert server.apache_folder is not None
    if how == "touch":
        os.utime(server.apache_folder / "app.wsgi")
        # mod_wsgi looks at the script when somebody comes.
        Client(server.port).get("/ticks", "Connection: close").read_to_end()
    else:
        server.process.send_signal(signal.SIGUSR1)
    is_told_to_come_back(server, client)


@pytest.mark.long
def test_granian_waits_for_its_streams_and_then_cuts_them(
    need: Need, serve: Callable[..., Server]
) -> None:
    need("granian")
    server = serve("granian", APP, args=("--workers-kill-timeout=2",))
    client = Client(server.port).get("/quiet?key=s")
    client.read_until(b":ok\n\n")
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(60)
    assert not client.read_to_end().endswith(b"0\r\n\r\n")
    wait_until(lambda: "shutdown completed" in server.log(), "the end")
