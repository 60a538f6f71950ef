"""``python -m ssestream migrate``: what it makes, prints and refuses."""

import subprocess
import sys
from typing import Any

import pytest

from ssestream import Channels
from ssestream.__main__ import main
from tests.kit.postgresql_server import PostgresqlServer


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["migrate", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_it_makes_the_tables_once(
    postgresql_server: PostgresqlServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = postgresql_server.make_empty_database()
    assert run(capsys, url) == (0, "the tables are made\n", "")
    assert run(capsys, url) == (0, "the tables are there already\n", "")
    channels = Channels(url)
    channels.publish("news", {"data": "1"})
    # What is there stays there.
    assert run(capsys, url)[0] == 0
    assert [message["data"] for message in channels.history("news")] == ["1"]
    channels.close()
    postgresql_server.drop_database(url)


def test_the_url_may_be_in_the_environment(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSESTREAM_URL", postgresql_url)
    assert run(capsys) == (0, "the tables are there already\n", "")


def test_it_prints_one_transaction_and_needs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--print")
    assert (code, err) == (0, "")
    assert out.startswith("BEGIN;\n")
    assert out.endswith("COMMIT;\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no database: give its URL, or set SSESTREAM_URL"),
        (("sqlite:///events.db",), 2, "for postgresql:// only"),
        (("postgresql://u:s@ecret@host/app",), 2, "percent-encode"),
        (("postgresql://u:secret@127.0.0.1:1/app",), 1, "127.0.0.1"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    arguments: Any,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SSESTREAM_URL", raising=False)
    ended, out, err = run(capsys, *arguments)
    assert (ended, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1
    assert "ecret" not in err


def test_without_psycopg_it_names_the_extra() -> None:
    program = "import sys; sys.modules['psycopg'] = None\nfrom ssestream.__main__ import main\n"
    program += "sys.exit(main(['migrate', '--print']))"
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert ended.returncode == 2
    assert b"pip install ssestream[postgresql]" in ended.stderr
