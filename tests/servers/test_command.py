"""``python -m ssestream``: publish and tail, their words and their exit codes."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssestream import Channels
from ssestream.__main__ import main
from tests.kit.redis_server import RedisServer
from tests.kit.servers import ROOT, free_port, wait_until


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/events.db"


@pytest.fixture
def channels(url: str) -> Channels:
    return Channels(url)


def run(*arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> tuple[Any, ...]:
    """The exit code and what was written, as text, of the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ssestream", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Tail:
    """``tail`` in a process of its own."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ssestream", "tail", *arguments],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def messages(self, count: int) -> list[dict[str, Any]]:
        """The next *count* that it prints."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(count)]
        assert all(line.endswith(b"\n") for line in lines), (lines, self.process.poll())
        return [json.loads(line) for line in lines]

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said to the standard error, once it has ended."""
        out, err = self.process.communicate(timeout=60)
        assert out == b""
        return self.process.returncode, err.decode()


@pytest.fixture
def tail() -> Iterator[Callable[..., Tail]]:
    with contextlib.ExitStack() as ending:

        def start(*arguments: str, **options: Any) -> Tail:
            started = Tail(*arguments, **options)
            ending.enter_context(started.process)
            ending.callback(started.process.kill)
            return started

        yield start


def has_printed(tail: Tail) -> bool:
    """Whether it has printed something that was not read."""
    assert tail.process.stdout is not None
    return bool(select.select([tail.process.stdout], [], [], 0)[0])


def errors_of(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """What *arguments* are refused with, in this process: one line, and nothing else."""
    try:
        ended: Any = main(arguments)
    except SystemExit as error:
        ended = error.code
    out, err = capsys.readouterr()
    assert (ended, out) == (code, ""), err
    assert err.count("\n") == 1
    assert err.startswith("python -m ssestream")
    return err


# -- publish


def test_a_message_is_published_and_its_id_printed(url: str, channels: Channels) -> None:
    message = '{"event": "headline", "data": {"title": "Grüße"}, "retry": 5}'
    code, out, err = run("publish", "--url", url, "news", message)
    assert (code, err) == (0, "")
    (stored,) = channels.history("news")
    assert stored == {
        "id": out.strip(),
        "event": "headline",
        "retry": 5,
        "data": '{"title":"Grüße"}',
    }


@pytest.mark.parametrize("dash", [(), ("-",)])
def test_each_line_of_the_standard_input_is_a_message(
    url: str, channels: Channels, dash: tuple[str, ...]
) -> None:
    lines = ['{"data": 1}', "", '{"data": "안녕\\n👋"}', "  ", '{"comment": "last"}']
    code, out, err = run("publish", "--url", url, "news", *dash, stdin="\r\n".join(lines).encode())
    assert (code, err) == (0, "")
    stored = channels.history("news")
    assert [message["id"] for message in stored] == out.split()
    assert [message.get("data") for message in stored] == ["1", "안녕\n👋", None]


def test_a_line_is_published_before_the_next_one_comes(url: str, channels: Channels) -> None:
    command = [sys.executable, "-m", "ssestream", "publish", "--url", url, "news"]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(b'{"data": %d}\n' % number)
            process.stdin.flush()
            event_id = process.stdout.readline().decode().strip()
            assert channels.history("news")[-1] == {"id": event_id, "data": str(number)}
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_wrong_line_is_named_and_those_before_it_are_stored(url: str, channels: Channels) -> None:
    code, out, err = run("publish", "--url", url, "news", stdin=b'{"data": 1}\n\n{"data": \n')
    assert code == 2
    assert err.startswith("python -m ssestream: line 3: a message is JSON such as ")
    assert err.count("\n") == 1
    assert [message["id"] for message in channels.history("news")] == [out.strip()]


def test_the_history_is_bounded_as_the_publisher_is_told(url: str) -> None:
    lines = b"".join(b'{"data": %d}\n' % number for number in range(30))
    assert run("publish", "--url", url, "--history", "5", "news", stdin=lines)[0] == 0
    kept = Channels(url, history=5).history("news")
    assert [message["data"] for message in kept] == ["25", "26", "27", "28", "29"]


def test_a_message_of_the_command_removes_nothing_of_a_longer_history(url: str) -> None:
    """Without --history, the command leaves the bound to the programs that publish."""
    longer = Channels(url, history=300)
    for number in range(300):
        longer.publish("news", {"data": number})
    assert run("publish", "--url", url, "news", '{"data": "one more"}')[0] == 0
    kept = [message["data"] for message in longer.history("news")]
    assert kept == [*(str(number) for number in range(1, 300)), "one more"]


def test_the_url_may_come_from_the_environment(url: str, channels: Channels) -> None:
    assert run("publish", "news", '{"data": 1}', env={"SSESTREAM_URL": url})[0] == 0
    assert len(channels.history("news")) == 1


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("hello", "a message is JSON such as"),
        ('"hello"', "a message is a mapping"),
        ("[]", "a message is a mapping"),
        ("{}", "nothing in it"),
        ('{"dat": 1}', "did you mean 'data'?"),
        ('{"id": 1, "data": 1}', "'id' is given by the log"),
        ('{"event": "a\\nb"}', "'event' must not hold a line feed"),
        ('{"data": NaN}', "cannot be JSON"),
        ('{"data": "\\ud800"}', "lone surrogate"),
        ("[" * 100_000, "a message is JSON such as"),
    ],
)
def test_what_is_no_message_is_refused_with_2(
    url: str, channels: Channels, capsys: pytest.CaptureFixture[str], message: str, word: str
) -> None:
    assert word in errors_of(capsys, 2, "publish", "--url", url, "news", message)
    assert channels.history("news") == []


# -- tail


def test_a_tail_prints_what_comes_one_json_line_each(
    url: str, channels: Channels, tail: Callable[..., Tail]
) -> None:
    first = channels.publish("news", {"data": "before"})
    # Even where text is thought to be ASCII.
    following = tail("--url", url, "--since", first, "news", env={"PYTHONIOENCODING": "ascii"})
    ids = [
        channels.publish("news", {"event": "headline", "data": {"title": "Grüße"}}),
        channels.publish("news", {"data": "two\nlines\u2028 of text"}),
        channels.publish("news", {"comment": "no data", "retry": 7}),
    ]
    channels.publish("sports", {"data": "elsewhere"})
    assert following.messages(3) == [
        {"event": "headline", "id": ids[0], "data": '{"title":"Grüße"}'},
        {"id": ids[1], "data": "two\nlines\u2028 of text"},
        {"comment": "no data", "id": ids[2], "retry": 7},
    ]
    # And it goes on.
    for number in range(300):
        last = channels.publish("news", {"data": number})
    assert [message["data"] for message in following.messages(300)] == [
        str(number) for number in range(300)
    ]
    again = tail("--url", url, "--last", "2", "--count", "2", "news")
    assert [message["id"] for message in again.messages(2)][-1] == last
    assert again.end() == (0, "")


def test_a_tail_prints_nothing_that_steers_a_terminal(
    url: str, channels: Channels, tail: Callable[..., Tail]
) -> None:
    hostile = "a\x1b[2J\x07\x7f\x9b1m\u202e\u2066\u2028\ufeff\U000e0041 é\u200d\U0001f600"
    channels.publish("news", {"data": hostile})
    tailing = tail("--url", url, "--last", "1", "--count", "1", "news")
    out, _ = tailing.process.communicate(timeout=60)
    line = out.decode()
    assert json.loads(line)["data"] == hostile
    shown = line.rstrip("\n").replace("\u200d", "")
    assert shown.isprintable()
    assert "é" in shown
    assert "\U0001f600" in shown


def test_what_the_command_says_is_in_one_line_that_steers_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for hostile in ("sqlite:////none/\x1b[2J/x.db", "what\x1b[2J://x", "sqlite:////n\x9b\n/e.db"):
        for command in ("publish", "tail"):
            code = 1 if hostile.startswith("sqlite") else 2
            message = ["{}"] if command == "publish" else []
            if message:
                message = ['{"data": 1}']
            err = errors_of(capsys, code, command, "--url", hostile, "news", *message)
            assert err.rstrip("\n").isprintable()


def test_a_tail_begins_now_where_nothing_else_is_said(
    url: str, channels: Channels, tail: Callable[..., Tail]
) -> None:
    before = channels.publish("news", {"data": "before"})
    following = tail("--url", url, "news")

    def publish_until_it_prints() -> bool:
        channels.publish("news", {"data": "after"})
        return has_printed(following)

    wait_until(publish_until_it_prints, "the tail to print")
    (message,) = following.messages(1)
    assert message["data"] == "after"
    assert message["id"] != before


def test_a_tail_of_a_channel_in_which_nothing_was_published_gets_the_first(
    url: str, channels: Channels, tail: Callable[..., Tail]
) -> None:
    following = tail("--url", url, "--last", "5", "news")
    event_id = channels.publish("news", {"data": "first"})
    assert following.messages(1) == [{"id": event_id, "data": "first"}]


class Key:
    """What a stream is known by may look like anything."""

    def __repr__(self) -> str:
        return "somebody\n\ndata: a word\n\n"


@pytest.mark.parametrize("word", ["close_channel", "cut"])
def test_a_tail_prints_no_word_to_those_who_read_the_channel(
    url: str, channels: Channels, tail: Callable[..., Tail], word: str
) -> None:
    first = channels.publish("news", {"data": 1})
    if word == "cut":
        channels.cut("news", Key())
    else:
        channels.close_channel("news")
    last = channels.publish("news", {"data": 2})
    following = tail("--url", url, "--since", first, "--count", "1", "news")
    assert following.messages(1) == [{"id": last, "data": "2"}]
    assert following.end() == (0, "")


@pytest.mark.long
def test_a_tail_tells_of_a_gap_and_goes_on_with_what_is_kept(
    tmp_path: Path, tail: Callable[..., Tail]
) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    channels = Channels(url, history=5)
    ids = [channels.publish("news", {"data": number}) for number in range(40)]
    elsewhere = Channels(f"sqlite:///{tmp_path}/other.db").publish("news", {"data": "other"})
    log, number, check = ids[-1].split(".")
    other = f"{int(check, 16) ^ 1:06x}"
    for since in (ids[0], elsewhere, f"{log}.{int(number) + 9}", f"{log}.{number}.{other}"):
        following = tail("--url", url, "--since", since, "--count", "5", "news")
        kept = [message["data"] for message in following.messages(5)]
        assert kept == ["35", "36", "37", "38", "39"], since
        code, err = following.end()
        assert code == 0
        assert "a gap" in err
        assert err.count("\n") == 1


def test_a_tail_ends_by_ctrl_c_with_130_and_says_nothing(
    url: str, channels: Channels, tail: Callable[..., Tail]
) -> None:
    channels.publish("news", {"data": 1})
    following = tail("--url", url, "--last", "1", "news")
    following.messages(1)
    following.process.send_signal(signal.SIGINT)
    assert following.end() == (130, "")


def test_a_tail_whose_reader_has_enough_ends_quietly(
    url: str, channels: Channels, tail: Callable[..., Tail]
) -> None:
    channels.publish("news", {"data": 1})
    following = tail("--url", url, "--last", "1", "news")
    following.messages(1)
    assert following.process.stdout is not None
    following.process.stdout.close()
    channels.publish("news", {"data": 2})
    assert following.process.wait(60) == 0
    assert following.process.stderr is not None
    assert following.process.stderr.read() == b""


def test_a_tail_of_one_process_prints_what_another_publishes(
    url: str, channels: Channels, tail: Callable[..., Tail]
) -> None:
    following = tail("--url", url, "--last", "9", "--count", "9", "news")
    lines = b"".join(b'{"data": %d}\n' % number for number in range(9))
    code, out, _ = run("publish", "--url", url, "news", stdin=lines)
    assert code == 0
    assert [message["id"] for message in following.messages(9)] == out.split()
    assert following.end() == (0, "")


@pytest.mark.long
@pytest.mark.server
def test_both_commands_work_with_redis_and_say_in_one_line_when_it_is_gone(
    redis_server: RedisServer, tail: Callable[..., Tail]
) -> None:
    url = redis_server.url
    following = tail("--url", url, "--last", "9", "news")
    lines = b"".join(b'{"data": %d}\n' % number for number in range(9))
    code, out, err = run("publish", "--url", url, "news", stdin=lines)
    assert (code, err) == (0, "")
    assert [message["id"] for message in following.messages(9)] == out.split()
    redis_server.stop()
    code, err = following.end()
    assert code == 1
    assert err.count("\n") == 1
    assert "Traceback" not in err


# -- the end of a channel


def test_a_channel_is_ended_with_a_last_message(
    url: str, channels: Channels, tail: Callable[..., Tail], capsys: pytest.CaptureFixture[str]
) -> None:
    first = channels.publish("job", {"data": 1})
    following = tail("--url", url, "--since", first, "job")
    assert run("end", "--url", url, "job", '{"event": "done", "data": "bye"}') == (0, "", "")
    (message,) = following.messages(1)
    assert (message["event"], message["data"]) == ("done", "bye")
    assert following.end() == (0, "")
    # A second end changes nothing, and whoever publishes is told.
    assert "has ended already" in errors_of(capsys, 0, "end", "--url", url, "job")
    assert "'job' has ended" in errors_of(capsys, 1, "publish", "--url", url, "job", '{"data": 2}')
    assert [each["data"] for each in channels.history("job")] == ["1", "bye"]


@pytest.mark.long
@pytest.mark.parametrize("message", [(), ('{"data": "bye"}',)])
def test_a_tail_of_a_channel_that_has_ended_prints_all_of_it_and_ends(
    url: str, channels: Channels, tail: Callable[..., Tail], message: tuple[str, ...]
) -> None:
    ids = [channels.publish("job", {"data": number}) for number in range(300)]
    assert run("end", "--url", url, "job", *message)[0] == 0
    # Entries that are no messages may follow the end.
    channels.cut("job", "ann")
    expected = [*map(str, range(300)), *(["bye"] if message else [])]
    for begin, count in ((), 0), (("--since", ids[297]), 298), (("--since", ids[-1]), 300):
        following = tail("--url", url, *begin, "job")
        found = following.messages(len(expected) - count)
        assert [each["data"] for each in found] == expected[count:]
        assert following.end() == (0, "")
    last = tail("--url", url, "--last", "2", "job")
    assert [each["data"] for each in last.messages(2)] == expected[-2:]
    assert last.end() == (0, "")


def test_a_tail_ends_also_if_the_last_entry_is_too_old(
    url: str, channels: Channels, tail: Callable[..., Tail]
) -> None:
    first = channels.publish("job", {"data": 1})
    channels.end("job")
    channels.keep("job", history_age=0.01)
    wait_until(lambda: not channels.history("job"), "the events to be old")
    code, err = tail("--url", url, "--since", first, "job").end()
    assert (code, "a gap" in err) == (0, True)


@pytest.mark.long
def test_a_channel_is_deleted_at_once_or_after_its_ttl(url: str, channels: Channels) -> None:
    channels.publish("job", {"data": 1})
    assert run("delete", "--url", url, "job") == (0, "", "")
    assert channels.history("job") == []
    assert run("publish", "--url", url, "--ttl", "0.01", "job", '{"data": 1}')[0] == 0
    wait_until(lambda: not channels.history("job"), "the channel to be gone")
    channels.publish("job", {"data": 1})
    assert run("end", "--url", url, "--ttl", "0.01", "job") == (0, "", "")
    wait_until(lambda: not channels.history("job"), "the channel to be gone")


@pytest.mark.long
@pytest.mark.server
def test_a_channel_of_redis_is_ended_and_deleted(redis_url: str, tail: Callable[..., Tail]) -> None:
    channels = Channels(redis_url)
    first = channels.publish("job", {"data": 1})
    following = tail("--url", redis_url, "--since", first, "job")
    assert run("end", "--url", redis_url, "job", '{"data": "bye"}') == (0, "", "")
    assert [each["data"] for each in following.messages(1)] == ["bye"]
    assert following.end() == (0, "")
    assert run("delete", "--url", redis_url, "job") == (0, "", "")
    assert channels.history("job") == []


# -- what is refused


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "COMMAND"),
        (("shout",), "shout"),
        (("publish",), "CHANNEL"),
        (("publish", "news", '{"data": 1}'), "--url"),
        (("publish", "--url", "memory://", "news", "{}"), "inside one process"),
        (("tail", "--url", "memory://", "news"), "inside one process"),
        (("tail", "--url", "http://localhost", "news"), "a broker is memory://, sqlite:///path"),
        (("tail", "--url", "sqlite://", "news"), "names no file"),
        (("tail", "--url", "sqlite:///x.db", "a b"), "the name of a channel"),
        (("tail", "--url", "sqlite:///x.db", "--count", "0", "news"), "--count"),
        (("tail", "--url", "sqlite:///x.db", "--last", "-1", "news"), "--last"),
        (("tail", "--url", "sqlite:///x.db", "--last", "1", "--since", "x", "news"), "not allowed"),
        (("publish", "--url", "sqlite:///x.db", "--history", "x", "news", "{}"), "--history"),
        (("publish", "--url", "sqlite:///x.db", "--history-age", "-1", "n", "{}"), "history_age"),
        (("publish", "--url", "sqlite:///x.db", "--ttl", "0", "n", "{}"), "ttl"),
        (("end", "--url", "sqlite:///x.db", "--ttl", "-1", "n"), "ttl"),
        (("end", "--url", "sqlite:///x.db", "n", "hello"), "a message is JSON"),
        (("delete", "--url", "sqlite:///x.db", "a b"), "the name of a channel"),
    ],
)
def test_wrong_usage_is_told_in_one_line_with_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    word: str,
) -> None:
    monkeypatch.delenv("SSESTREAM_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert word in errors_of(capsys, 2, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("since", ["", "17", "sports=4c1b9a20.1", "news=x", "\n"])
def test_an_id_that_is_none_of_the_channel_is_refused_with_2(
    url: str, channels: Channels, capsys: pytest.CaptureFixture[str], since: str
) -> None:
    channels.publish("news", {"data": 1})
    assert "--since" in errors_of(capsys, 2, "tail", "--url", url, "--since", since, "news")


@pytest.mark.parametrize("command", [("publish", '{"data": 1}'), ("tail",)])
def test_a_broker_that_is_not_to_be_had_is_told_in_one_line_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    name, *message = command
    url = f"sqlite:///{tmp_path}/nowhere/events.db"
    assert "nowhere" in errors_of(capsys, 1, name, "--url", url, "news", *message)


@pytest.mark.long
@pytest.mark.parametrize("command", [("publish", '{"data": 1}'), ("tail",)])
def test_a_redis_that_is_not_there_is_told_in_one_line_with_1(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    name, *message = command
    errors_of(capsys, 1, name, "--url", f"redis://127.0.0.1:{free_port()}", "news", *message)


def test_the_process_has_the_exit_code_and_shows_no_traceback(tmp_path: Path) -> None:
    code, out, err = run("tail", "--url", f"sqlite:///{tmp_path}", "news")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    code, out, err = run("tail", "--url", "memory://", "news")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("publish",), ("end",), ("delete",), ("tail",)])
def test_the_help_tells_of_every_option_and_exit_code(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "exit codes:" in text
    for code in (0, 1, 2, 130):
        assert f"\n  {code} " in text
    words = {
        (): ["publish", "end", "delete", "keep", "tail"],
        ("publish",): [
            "--url",
            "--history",
            "--history-age",
            "--ttl",
            "CHANNEL",
            "MESSAGE",
            "input",
        ],
        ("end",): ["--url", "--ttl", "CHANNEL", "MESSAGE"],
        ("delete",): ["--url", "CHANNEL"],
        ("tail",): ["--url", "--since", "--last", "--count", "CHANNEL", "Ctrl-C"],
    }
    for word in words[arguments]:
        assert word in text
