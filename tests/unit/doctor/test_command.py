"""``python -m ssestream doctor``: its arguments, its words, its exit codes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ssestream.__main__ import main
from tests.kit.scripted import HEAD, Scripted, chunk
from tests.kit.servers import PATIENCE, ROOT


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error for *arguments*: one line, and exit code 2."""
    try:
        code = main(["doctor", *arguments])
    except SystemExit as error:
        code = int(str(error.code))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to examine: give a URL"),
        (("--reload", "5"), "--reload needs a URL"),
        (("example.com/clock",), "'example.com/clock'"),
        (("ftp://example.com/",), "'ftp://example.com/'"),
        (("http:///clock",), "'http:///clock'"),
        (("http://host:port/",), "'http://host:port/'"),
        (("http://host/a b",), "'http://host/a b'"),
        (("http://host/\x1b[2J",), "\\x1b"),
        (("--wait", "0", "http://host/"), "--wait"),
        (("--wait", "nan", "http://host/"), "--wait"),
        (("--wait", "soon", "http://host/"), "--wait"),
        (("--header", "Cookie", "http://host/"), "--header"),
        (("--header", "A: b\r\nC: d", "http://host/"), "--header"),
        (("--reload", "1", "http://host/"), "--reload"),
        (("--reload", "-5", "http://host/"), "--reload"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, *arguments)


def well(sock: socket.socket, request: str) -> None:
    head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    sock.sendall(head + chunk(":ok\n\n") + chunk(""))


def test_a_fault_is_exit_code_1_and_notes_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with Scripted(well) as server:
        assert main(["doctor", server.url]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out.startswith(f"{server.url}\n  ok      status 200")
        assert out.endswith("\nfaults: 0, notes: 2\n")
    assert main(["doctor", server.url]) == 1
    assert capsys.readouterr().out.endswith("\nfaults: 1, notes: 0\n")


def test_each_address_is_examined_in_its_turn(capsys: pytest.CaptureFixture[str]) -> None:
    with Scripted(well) as app, Scripted(well) as proxy:
        main(["doctor", "--header", "Cookie: a=b", app.url, proxy.url])
    out = capsys.readouterr().out
    assert out.index(app.url) < out.index(proxy.url)
    assert out.count("browsers get HTTP/1.1") == 1
    assert "Cookie: a=b\r\n" in app.requests[0]


def test_findings_come_as_they_are_made_and_ctrl_c_ends_the_command() -> None:
    def script(sock: socket.socket, request: str) -> None:
        sock.sendall(f"{HEAD}\r\n:ok\n\n".encode())
        server.stay(sock)

    with (
        Scripted(script) as server,
        subprocess.Popen(
            # A background job of a shell ignores SIGINT at first.
            [
                sys.executable,
                "-c",
                "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
                "from ssestream.__main__ import main; sys.exit(main())",
                *("doctor", "--wait", "600", server.url),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert b"first byte" in lines[2]
        process.send_signal(2)
        assert process.wait(PATIENCE) == 130


def test_the_set_up_is_examined_where_the_server_runs(tmp_path: Path) -> None:
    """A factory is called once: it may have effects. gunicorn's workers count for the channels."""
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\nfrom ssestream import Channels\nmade = []\n"
        "def create_app():\n    assert not made\n    made.append(Flask('shop'))\n"
        "    made[0].config['SSESTREAM_MAX_STREAMS'] = 2000\n    Channels(made[0])\n"
        "    return made[0]\n"
    )
    (tmp_path / "gunicorn.conf.py").write_text(
        "worker_class = 'ssestream.gunicorn.SseWorker'\nworkers = 3\n"
    )
    (tmp_path / "nginx.conf").write_text(
        "http { server { location / { proxy_pass http://app; proxy_read_timeout 10s; } } }"
    )
    done = subprocess.run(
        [sys.executable, "-m", "ssestream", "doctor", "--app", "shop:create_app()"]
        + [
            "--nginx",
            "nginx.conf",
            "--gunicorn=-c gunicorn.conf.py",
            "--broker",
            "mysql://app:secret-word@host",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stderr == ""
    assert done.returncode == 1
    titles = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert titles == [
        "the app shop:create_app()",
        "gunicorn",
        "nginx, by nginx.conf",
        "the broker",
        "faults: 4, notes: 2",
    ]
    assert "the channels are in memory://, and there are 3 workers" in done.stdout
    assert "SSESTREAM_MAX_STREAMS is 2000, and worker_connections is 1000" in done.stdout
    assert "server, location /: proxy_read_timeout is 10 s" in done.stdout
    assert "worker_connections is 512, with 1 workers: 256 streams" in done.stdout
    assert "secret-word" not in done.stdout
