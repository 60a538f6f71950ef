"""Tickets on real servers: in several workers, and beside the access logs of the servers."""

import http.client
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kit.servers import ROOT, Client, Server, body_of, wait_until

pytestmark = pytest.mark.server

PAGE = ROOT / "docs" / "authentication.rst"

Serve = Callable[..., Server]


def start(kind: str, serve: Serve, broker: str, *args: str) -> Server:
    return serve(kind, "tests.servers.apps.tickets:app", env={"BROKER": broker}, args=args)


def ask(server: Server, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def issued(server: Server, key: str, **query: Any) -> str:
    more = "".join(f"&{name}={value}" for name, value in query.items())
    status, body = ask(server, f"/ticket?key={key}{more}")
    assert status == 200
    return str(json.loads(body)["ticket"])


def admitted(server: Server, ticket: str, *headers: str) -> Client:
    client = Client(server.port).get(f"/events?ticket={ticket}", *headers, version="1.0")
    client.read_until(b":ok\n\n")
    return client


def pid_of(client: Client) -> bytes:
    return re.findall(rb"X-Pid: (\d+)", client.received)[0]


def in_both_workers(server: Server, ticket: str) -> list[Client]:
    """Clients with *ticket*, some in each of two workers."""
    clients: list[Client] = []

    def are_in_both() -> bool:
        clients.append(admitted(server, ticket))
        return len({pid_of(client) for client in clients}) == 2

    wait_until(are_in_both, "a client in each worker")
    return clients


@pytest.mark.long_except("sqlite-SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", pytest.param("gthread", marks=pytest.mark.long)])
def test_revoking_ends_the_streams_in_all_workers_and_lets_no_ticket_in_again(
    kind: str, serve: Serve, shared_url: str
) -> None:
    server = start(kind, serve, shared_url, "--workers", "2")
    ann, eve, unused = (issued(server, key) for key in ("ann", "eve", "ann"))
    hers, his = in_both_workers(server, ann), in_both_workers(server, eve)
    assert ask(server, "/revoke?key=ann")[0] == 200
    for client in hers:
        client.read_to_end()
    # In whichever worker they come back.
    for _ in range(5):
        for ticket in (ann, unused):
            status, body = ask(server, f"/events?ticket={ticket}")
            assert (status, "the ticket was revoked" in body) == (401, True)
    assert ask(server, "/publish?data=later")[0] == 200
    for client in his:
        client.read_until(b"data: later\n")
    assert all(b"later" not in client.received for client in hers)


@pytest.mark.long_except("redis")
def test_a_cut_ends_the_streams_of_its_key_in_all_workers_and_a_ticket_lets_them_in_again(
    serve: Serve, shared_url: str
) -> None:
    server = start("SseWorker", serve, shared_url, "--workers", "2")
    ann, eve = (issued(server, key) for key in ("ann", "eve"))
    hers, his = in_both_workers(server, ann), in_both_workers(server, eve)
    assert ask(server, "/cut?key=ann")[0] == 200
    for client in hers:
        client.read_to_end()
    again = admitted(server, ann)
    assert ask(server, "/publish?data=later")[0] == 200
    for client in (*his, again):
        client.read_until(b"data: later\n")
    assert all(b"later" not in client.received for client in hers)


@pytest.mark.long_except("sqlite")
def test_a_ticket_for_one_use_is_used_up_in_all_workers(serve: Serve, shared_url: str) -> None:
    server = start("SseWorker", serve, shared_url, "--workers", "2")
    once = issued(server, "ann", once=1)
    client = admitted(server, once)
    cookie = re.findall(rb"Set-Cookie: (ssestream_browser=\w+)", client.received)[0].decode()
    for _ in range(6):
        assert ask(server, f"/events?ticket={once}")[0] == 401
    # The browser that has used it reconnects, to whichever worker.
    for _ in range(6):
        admitted(server, once, f"Cookie: {cookie}").fin()


@pytest.mark.long
def test_a_client_that_comes_back_with_new_tickets_misses_nothing(
    serve: Serve, tmp_path: Path
) -> None:
    server = start("SseWorker", serve, f"sqlite:///{tmp_path}/a.db", "--workers", "2")
    seen: list[str] = []
    last_id = ""
    for number in range(4):
        ticket = issued(server, "ann", expires=3)
        client = Client(server.port).get(
            f"/events?ticket={ticket}&lastEventId={last_id}", version="1.0"
        )
        client.read_until(b":ok\n\n")
        assert ask(server, f"/publish?data=during{number}")[0] == 200
        body = body_of(client.read_to_end()).decode()
        # It ends by itself, and tells when to come back.
        assert body.endswith("\n\n")
        assert re.search(r"event: ssestream-retry\nretry: [1-5]\d\n\n$", body)
        seen += re.findall("data: (.*)", body)
        last_id = re.findall("id: (.*)", body)[-1]
        assert ask(server, f"/events?ticket={ticket}")[0] == 401
        assert ask(server, f"/publish?data=between{number}")[0] == 200
    expected = [f"{when}{number}" for number in range(4) for when in ("during", "between")]
    assert seen == expected[: len(seen)]
    assert len(seen) == 7


@pytest.mark.long_except("gevent")
@pytest.mark.parametrize(
    "kind",
    [
        "SseWorker",
        "gevent",
        "gthread",
        pytest.param("sync", marks=pytest.mark.long),
        pytest.param("gevent_pywsgi", marks=pytest.mark.long),
    ],
)
def test_no_log_of_gunicorn_has_a_ticket(kind: str, serve: Serve, tmp_path: Path) -> None:
    broker = f"sqlite:///{tmp_path}/a.db"
    words = '%(r)s %(q)s %(f)s {"%({raw_uri}e)s"} {"%({query_string}e)s"}'
    log = ("--access-logfile", "-", "--access-logformat", words, "--log-level", "debug")
    server = start(kind, serve, broker, *log)
    good = issued(server, "ann", once=1)
    client = admitted(server, good)
    client.fin()
    for ticket in (good, f"{good}x"):
        assert ask(server, f"/events?ticket={ticket}&a=1")[0] == 401
    wait_until(
        lambda: len(re.findall(r"GET /events\?ticket=-", server.log())) >= 3, "the access log"
    )
    assert good not in server.log()
    assert good.rpartition(".")[2] not in server.log()
    assert "ticket=-&a=1" in server.log()


def log_of_a_stream(server: Server, ticket: str, line: str) -> str:
    """The log, when it has the *line* of a stream that *ticket* has opened."""
    admitted(server, ticket).fin()
    wait_until(lambda: line in server.log(), "the line of the request")
    return server.log()


@pytest.mark.parametrize("kind", ["flask", "uwsgi-gevent"])
def test_the_log_of_a_server_that_reads_no_environ_has_a_ticket_as_the_docs_say(
    kind: str, request: pytest.FixtureRequest, serve: Serve, tmp_path: Path
) -> None:
    if kind == "uwsgi-gevent":
        request.getfixturevalue("uwsgi")
    server = start(kind, serve, f"sqlite:///{tmp_path}/a.db")
    ticket = issued(server, "ann")
    assert ticket in log_of_a_stream(server, ticket, "GET /events")


def test_uwsgi_leaves_a_ticket_out_with_the_format_of_the_docs(
    uwsgi: None, serve: Serve, tmp_path: Path
) -> None:
    (words,) = re.findall(r"``--log-format '(.+?)'``", PAGE.read_text())
    broker = f"sqlite:///{tmp_path}/a.db"
    server = start("uwsgi-gevent", serve, broker, "--log-format", words)
    ticket = issued(server, "ann")
    assert ticket not in log_of_a_stream(server, ticket, "127.0.0.1 GET /events 200")
