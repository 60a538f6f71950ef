"""``python -m ssestream doctor`` before real servers, and nginx set wrong in each of its ways."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssestream.doctor.finding import Finding
from ssestream.doctor.outside import Outside, examine_reload, examine_url
from tests.kit.proxy import unchecked
from tests.kit.servers import ROOT, Server, free_port, wait_until

pytestmark = pytest.mark.server

APP = "tests.servers.apps.doctor:app"

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    default_type application/octet-stream;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    limit_conn_zone $binary_remote_addr zone=clients:1m;
    server {{
        listen 127.0.0.1:{plain};
        return 301 https://localhost:{port}$request_uri;
    }}
    server {{
        listen 127.0.0.1:{port} ssl{http2};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {wrong}
        }}
    }}
}}
"""

#: An `https` port of nginx, and its `http` port, for what is set wrong in its `location`.
Behind = Callable[..., tuple[int, int]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("SseWorker", APP)
    yield server.start()
    server.stop()


@pytest.fixture
def behind(
    nginx: str, certificate: tuple[str, str], tmp_path: Path, server: Server
) -> Iterator[Behind]:
    started: list[subprocess.Popen[bytes]] = []

    def start(wrong: str = "", http2: str = " http2", upstream: int = 0) -> tuple[int, int]:
        port, plain = free_port(), free_port()
        conf = tmp_path / "nginx.conf"
        conf.write_text(
            NGINX.format(
                folder=tmp_path,
                port=port,
                plain=plain,
                http2=http2,
                certificate=certificate[0],
                key=certificate[1],
                upstream=upstream or server.port,
                wrong=wrong,
            )
        )
        command = [nginx, "-p", str(tmp_path), "-c", str(conf), "-e", str(tmp_path / "error.log")]
        started.append(subprocess.Popen(command))
        wait_until((tmp_path / "nginx.pid").exists, "nginx")
        return port, plain

    yield start
    for process in started:
        process.terminate()
        process.wait(60)


def outside(wait: float) -> Outside:
    return Outside(wait=wait, context=unchecked())


def found(findings: Iterator[Finding]) -> tuple[list[str], list[str]]:
    """The faults, and the notes."""
    every = list(findings)
    return (
        [each.seen for each in every if each.level == "fault"],
        [each.seen for each in every if each.level == "note"],
    )


# -- nginx


@pytest.mark.long
def test_a_right_nginx_has_neither_fault_nor_note(behind: Behind) -> None:
    port, _ = behind()
    assert found(examine_url(f"https://localhost:{port}/kept", outside(17))) == ([], [])
    assert found(examine_url(f"https://localhost:{port}/probe", outside(20))) == ([], [])


@pytest.mark.long
def test_nginx_that_collects_events(behind: Behind) -> None:
    port, _ = behind("proxy_ignore_headers X-Accel-Buffering;")
    faults, _ = found(examine_url(f"https://localhost:{port}/probe", outside(20)))
    assert any("of the probe came up to" in each for each in faults), faults


def test_nginx_that_cuts_silent_streams(behind: Behind) -> None:
    port, _ = behind("proxy_read_timeout 2s;")
    faults, _ = found(examine_url(f"https://localhost:{port}/quiet?key=cut", outside(14)))
    (seen,) = faults
    assert "without its last chunk, after 2." in seen
    assert "of silence" in seen


def test_nginx_that_cannot_reach_the_app(behind: Behind) -> None:
    port, _ = behind(upstream=free_port())
    assert found(examine_url(f"https://localhost:{port}/kept", outside(1))) == (["status 502"], [])


def test_nginx_that_drops_the_last_id(behind: Behind) -> None:
    port, _ = behind('proxy_set_header Last-Event-ID "";')
    _, notes = found(examine_url(f"https://localhost:{port}/kept", outside(2)))
    assert any("is not given the event after it" in each for each in notes), notes


def test_nginx_without_http2(behind: Behind) -> None:
    port, _ = behind(http2="")
    _, notes = found(examine_url(f"https://localhost:{port}/kept", outside(2)))
    assert "browsers get HTTP/1.1" in notes


def test_nginx_with_too_few_connections_for_a_client(behind: Behind) -> None:
    port, _ = behind("limit_conn clients 1;", http2="")
    faults, _ = found(examine_url(f"https://localhost:{port}/kept", outside(2)))
    assert "a client that comes back with an id gets status 503" in faults


def test_nginx_that_compresses(behind: Behind) -> None:
    port, _ = behind("gzip on; gzip_types text/event-stream; gzip_min_length 0;")
    faults, notes = found(examine_url(f"https://localhost:{port}/kept", outside(2)))
    assert not faults
    assert "the stream is compressed (gzip)" in notes


def test_nginx_that_leads_to_tls(behind: Behind) -> None:
    port, plain = behind()
    faults, _ = found(examine_url(f"http://127.0.0.1:{plain}/kept", outside(1)))
    assert faults == [f"status 301, to 'https://localhost:{port}/kept'"]


def test_a_certificate_that_nobody_trusts(behind: Behind) -> None:
    port, _ = behind()
    faults, _ = found(examine_url(f"https://localhost:{port}/kept", Outside(wait=1)))
    (seen,) = faults
    assert "TLS with localhost fails: self-signed certificate" in seen


# -- middleware in the app


def examined(server: Server, path: str) -> tuple[int, str]:
    """The exit status and the words of the command for *path*."""
    url = f"http://127.0.0.1:{server.port}{path}"
    done = subprocess.run(
        [sys.executable, "-m", "ssestream", "doctor", url],
        cwd=ROOT,
        env=server.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    # The words of one finding stand on several lines.
    return done.returncode, " ".join(done.stdout.split())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gevent", pytest.param("waitress", marks=pytest.mark.long)])
@pytest.mark.parametrize("wrapper", ["collecting", "compressing"])
def test_a_middleware_that_holds_back(
    wrapper: str, kind: str, serve: Callable[..., Server]
) -> None:
    server = serve(kind, "tests.servers.apps.wrong:app", env={"WRAPPER": wrapper})
    status, words = examined(server, "/probe")
    assert status == 1
    # The probe writes for five seconds, and then all of it leaves.
    assert "fault events of the probe came up to 4." in words or "came up to 5." in words, words
    assert "a proxy or a middleware collects bytes" in words
    assert "exempt text/event-stream from compression" in words
    assert ("note the stream is compressed (gzip)" in words) == (wrapper == "compressing")
    status, words = examined(server, "/stream")
    assert status == 1
    assert "fault no head within 10 s" in words, words
    assert "exempt text/event-stream from the middleware" in words


@pytest.mark.long
def test_a_middleware_that_passes_all_on_is_no_fault(serve: Callable[..., Server]) -> None:
    server = serve("gevent", "tests.servers.apps.wrong:app", env={"WRAPPER": "passing"})
    status, words = examined(server, "/probe")
    assert status == 0
    assert "no hop holds events back" in words, words


# -- gunicorn


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("sync", ()),
        ("gthread", ("--threads", "1")),
        ("gevent", ("--worker-connections", "1")),
    ],
)
def test_a_gunicorn_with_room_for_one_stream(kind: str, args: tuple[str, ...]) -> None:
    server = Server(kind, APP, args=args)
    server.start()
    try:
        faults, _ = found(examine_url(f"http://127.0.0.1:{server.port}/kept", outside(2)))
    finally:
        server.stop()
    assert "while this stream is open, a second client gets no answer within 3 s" in faults


@pytest.mark.long_except("SseWorker-args0-ok")
@pytest.mark.parametrize(
    ("kind", "args", "level"),
    [
        ("SseWorker", (), "ok"),
        ("gevent", ("--graceful-timeout", "2"), "fault"),
        pytest.param("gthread", ("--graceful-timeout", "2"), "fault", marks=pytest.mark.long),
    ],
)
def test_what_a_reload_of_gunicorn_does_to_a_stream(
    kind: str, args: tuple[str, ...], level: str
) -> None:
    server = Server(kind, APP, args=args)
    server.start()
    try:
        assert server.process is not None
        url = f"http://127.0.0.1:{server.port}/kept"
        (finding,) = examine_reload(url, server.process.pid, outside(1))
        assert finding.level == level, finding
    finally:
        server.stop()
