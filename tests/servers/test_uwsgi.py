"""The promises of a stream on uWSGI: departures, heartbeats, stalled clients, ends."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.test_docs import blocks
from tests.kit.promptness import at_best
from tests.kit.servers import ROOT, UWSGI, Client, Server, free_port, wait_until
from tests.servers.test_departure import AT_ONCE

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("uwsgi")]

APP = "tests.servers.apps.app:app"

SETTINGS = {"SSESTREAM_HEARTBEAT": 0.2, "SSESTREAM_SEND_TIMEOUT": 0.5}

(RECIPE,) = (
    code for code in blocks(ROOT / "docs" / "stopping.rst", "python") if "uwsgidecorators" in code
)


#: Each of uWSGI's modes: the first in each run, the others with the long tests.
MODES = [
    mode if number == 0 else pytest.param(mode, marks=pytest.mark.long)
    for number, mode in enumerate(UWSGI)
]


@pytest.fixture(scope="module", params=UWSGI)
def server(request: pytest.FixtureRequest, uwsgi: None) -> Iterator[Server]:
    server = Server(request.param, APP, env={"SETTINGS": json.dumps(SETTINGS)})
    yield server.start()
    server.stop()


def test_a_silent_stream_gets_heartbeats(server: Server) -> None:
    client = Client(server.port).get("/quiet?key=silent")
    client.read_until(b":ok\n\n:\n")
    client.fin()
    server.wait_for(event="close", key="silent")


def test_a_client_that_never_reads_is_cut(server: Server) -> None:
    client = Client(server.port, receive_buffer=4096).get("/flood?key=stalled")
    opened = server.wait_for(event="open", key="stalled")
    closed = server.wait_for(event="close", key="stalled")
    assert closed["at"] - opened["at"] >= 0.25
    client.fin()


def test_a_response_that_ends_is_whole(server: Server) -> None:
    client = Client(server.port).get("/ended?key=ended")
    assert client.read_to_end().endswith(b"data: last\n\n")
    server.wait_for(event="finish", key="ended")


@pytest.mark.long_except("SIGTERM")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGHUP-lazy", "touch"])
def test_a_worker_that_stops_ends_its_streams_cleanly(
    how: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    how, _, lazy = how.partition("-")
    (tmp_path / "drained.py").write_text(
        f"import signal\n\nfrom ssestream import drain, statistics\n\n\n{RECIPE}\n\n"
        "from tests.servers.apps.app import app\ndrain_under_uwsgi()\n"
    )
    touched = tmp_path / "touched"
    touched.touch()
    # uWSGI compares whole seconds: a touch in the same second would be none.
    an_hour_ago = time.time() - 3600
    os.utime(touched, (an_hour_ago, an_hour_ago))
    server = serve(
        "uwsgi-gevent",
        "drained:app",
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        args=("--touch-reload", str(touched), *(("--lazy-apps",) if lazy else ())),
    )
    clients = [Client(server.port).get(f"/quiet?key=s{number}") for number in range(5)]
    for client in clients:
        client.read_until(b":ok\n\n")
    assert server.process is not None
    if how == "touch":
        touched.touch()
    else:
        server.process.send_signal(signal.Signals[how])
    for client in clients:
        assert re.search(rb"\nretry: \d+\n\n$", client.read_to_end())
    for number in range(5):
        server.wait_for(event="finish", key=f"s{number}")
    if how == "SIGTERM":
        server.process.wait(60)
    else:
        # The next worker serves at the same port.
        client = Client(server.port).get("/quiet?key=next")
        client.read_until(b":ok\n\n")
        client.fin()


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            uwsgi_param PATH_INFO $document_uri;
            uwsgi_param QUERY_STRING $query_string;
            uwsgi_param REQUEST_METHOD $request_method;
            uwsgi_param SERVER_NAME $server_name;
            uwsgi_param SERVER_PORT $server_port;
            uwsgi_param SERVER_PROTOCOL $server_protocol;
            uwsgi_pass 127.0.0.1:{upstream};
        }}
    }}
}}
"""


def left_within(server: Server, port: int) -> float:
    """Seconds until a departure at *port* is noticed."""
    key = f"left{len(server.events(event='open'))}"
    client = Client(port).get(f"/quiet?key={key}")
    client.read_until(b":ok\n\n")
    left = time.monotonic()
    client.fin()
    closed: float = server.wait_for(event="close", key=key)["at"]
    return closed - left


@pytest.mark.parametrize("mode", MODES)
def test_uwsgi_pass_of_nginx_hides_no_departure(
    mode: str, nginx: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    upstream, port = free_port(), free_port()
    args = ("--socket", f"127.0.0.1:{upstream}")
    server = serve(mode, APP, port=upstream, args=args)
    conf = tmp_path / "nginx.conf"
    conf.write_text(NGINX.format(folder=tmp_path, port=port, upstream=upstream))
    command = [nginx, "-p", str(tmp_path), "-c", str(conf), "-e", str(tmp_path / "error.log")]
    process = subprocess.Popen(command)
    try:
        wait_until((tmp_path / "nginx.pid").exists, "nginx")
        at_best(lambda: left_within(server, port), AT_ONCE)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("mode", MODES)
def test_the_router_of_http_hides_none(mode: str, serve: Callable[..., Server]) -> None:
    upstream, port = free_port(), free_port()
    args = ("--socket", f"127.0.0.1:{upstream}", "--http", f"127.0.0.1:{port}")
    args = (*args, "--http-to", f"127.0.0.1:{upstream}")
    server = serve(mode, APP, port=upstream, args=args)
    at_best(lambda: left_within(server, port), AT_ONCE)
