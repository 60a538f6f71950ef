"""One channel's error is that channel's, and what a broker refuses is told once."""

import contextlib
import logging
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from ssestream import BrokerError, Channels, SseStream
from ssestream.brokers.broker import ChannelError, Position
from ssestream.brokers.redis import listener as redis_listener
from ssestream.channels import ailing, health, listener, replay
from ssestream.runtime.forking import process
from tests.kit.brokers import all_closed, news, wait
from tests.kit.following import Client, Following, all_live, data_of, numbers, publish
from tests.kit.insides import broker_of, listener_of
from tests.kit.redis_server import RedisServer
from tests.kit.servers import ROOT
from tests.kit.visit import until

Start = Callable[..., RedisServer]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (listener, ailing):
        monkeypatch.setattr(module, "SOONEST", 0.01)
        monkeypatch.setattr(module, "LATEST", 0.08)
    monkeypatch.setattr(redis_listener, "LONGEST", 0.3)
    monkeypatch.setattr(redis_listener, "CHECK", 0.2)
    monkeypatch.setattr(redis_listener, "PART", 0.1)


@pytest.fixture
def opened() -> Iterator[Callable[[str], Channels]]:
    with all_closed(Channels) as opened:
        yield opened


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test before has said that there are several workers, of which memory:// would warn."""
    monkeypatch.setattr(process, "is_one_of_several", False)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# -- ways in which the log of the channel "bad" cannot be read, and what mends it


def another_type(server: RedisServer, channels: Channels) -> Callable[[], object]:
    client = server.client()
    client.delete("ssestream:{bad}")
    client.set("ssestream:{bad}", "x")
    return lambda: client.delete("ssestream:{bad}")


def entries_of_others(server: RedisServer, channels: Channels) -> Callable[[], object]:
    client = server.client()
    client.delete("ssestream:{bad}")
    client.xadd("ssestream:{bad}", {"mine": "x"}, id=f"{10**16}-3")
    return lambda: client.delete("ssestream:{bad}")


def a_key_that_is_not_allowed(server: RedisServer, channels: Channels) -> Callable[[], object]:
    def let(*patterns: str) -> None:
        server.client(username="admin", password="pw").acl_setuser(
            "default",
            enabled=True,
            nopass=True,
            commands=["+@all"],
            keys=patterns,
            channels=["*"],
            reset=True,
        )

    admin: dict[str, Any] = {"enabled": True, "passwords": ["+pw"], "commands": ["+@all"]}
    server.client().acl_setuser("admin", keys=["*"], reset=True, **admin)
    # It takes hold of connections that there are.
    let("ssestream:{good}*", "ssestream:{fine}*")
    return lambda: let("*")


REDIS = (another_type, entries_of_others, a_key_that_is_not_allowed)


@pytest.mark.server
@pytest.mark.parametrize("breaks", REDIS)
@pytest.mark.parametrize("when", ["before", "while"])
def test_one_key_that_cannot_be_read_holds_up_no_other_channel(
    redis_server: RedisServer,
    opened: Callable[[str], Channels],
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[RedisServer, Channels], Callable[[], object]],
    when: str,
) -> None:
    channels, elsewhere = opened(redis_server.url), opened(redis_server.url)
    mend = breaks(redis_server, channels) if when == "before" else None
    app = Following(channels)
    with (
        Client(app, "/?names=good") as good,
        Client(app, "/?names=bad") as bad,
        Client(app, "/?names=fine,bad") as both,
    ):
        if mend is None:
            all_live(channels)
            mend = breaks(redis_server, channels)
        until(lambda: told(caplog), "it to be told")
        for n in range(20):
            publish(elsewhere, "good", n, n + 1)
            assert data_of(good.take(n + 1))[-1] == str(n)
        assert channels.state == "listening"
        # Who comes now is not told of again, and is not held up.
        with Client(app, "/?names=bad"), Client(app, "/?names=good") as third:
            until(lambda: not channels.statistics()["good"].lagging, "it to be live")
            publish(elsewhere, "good", 20, 21)
            assert data_of(third.take(1)) == ["20"]
        with pytest.raises(BrokerError, match=r"bad|WRONGTYPE|script|key") as caught:
            channels.history("bad")
        assert isinstance(caught.value, ChannelError)
        assert len(told(caplog)) == 1, told(caplog)
        assert "'bad'" in told(caplog)[0]
        mend()
        until(lambda: len(told(caplog)) == 2, "it to be told that all is well")
        all_live(channels)
        publish(elsewhere, "bad", 1)
        publish(elsewhere, "fine", 1, 2)
        assert data_of(bad.take(1))[-1:] == ["0"]
        assert sorted(data_of(both.take(2))) == ["0", "1"]
    assert "again" in told(caplog)[1]
    assert len(told(caplog)) == 2, told(caplog)


@pytest.mark.server
def test_of_a_thousand_channels_two_may_fail(
    redis_server: RedisServer, opened: Callable[[str], Channels]
) -> None:
    broker = broker_of(opened(redis_server.url))
    names = [f"of/{n}" for n in range(1000)]
    ends = {name: Position("", 0) for name in names}
    client = redis_server.client()
    for name in ("of/3", "of/777"):
        client.set(f"ssestream:{{{name}}}", "x")
    broker.append("of/500", b"one")
    found = news(broker, ends)
    until(lambda: found.update(broker.wait()) or len(found) > 2, "the news")
    assert set(found) == {"of/3", "of/777", "of/500"}
    for name in ("of/3", "of/777"):
        error = found.pop(name)
        assert isinstance(error, ChannelError)
        assert error.channel == name
        ends.pop(name)
    # The others wait as ever.
    broker.wake()
    assert set(wait(broker, ends)) <= {"of/500"}


def damage(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as other:
        other.execute(statement)
    other.close()


BAD = "(SELECT id FROM channels WHERE name = 'bad')"


@pytest.mark.parametrize(
    ("statement", "mending"),
    [
        (
            f"UPDATE events SET frame = 7 WHERE channel = {BAD}",
            f"DELETE FROM events WHERE channel = {BAD}",
        ),
        (
            f"UPDATE events SET number = 'many' WHERE number = 2 AND channel = {BAD}",
            f"DELETE FROM events WHERE channel = {BAD}",
        ),
        (
            "UPDATE channels SET last = 'many' WHERE name = 'bad'",
            "UPDATE channels SET last = 3 WHERE name = 'bad'",
        ),
        (
            "UPDATE channels SET log = x'00' WHERE name = 'bad'",
            "DELETE FROM channels WHERE name = 'bad'",
        ),
    ],
)
def test_a_row_that_is_damaged_holds_up_no_other_channel(
    tmp_path: Path,
    opened: Callable[[str], Channels],
    caplog: pytest.LogCaptureFixture,
    statement: str,
    mending: str,
) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    channels, elsewhere = opened(url), opened(url)
    last_id = publish(elsewhere, "bad", 3)[0]
    damage(tmp_path / "events.db", statement)
    app = Following(channels)
    with Client(app, "/?names=good") as good, Client(app, "/?names=bad", last_id):
        until(lambda: told(caplog), "it to be told")
        for n in range(20):
            publish(elsewhere, "good", n, n + 1)
            assert data_of(good.take(n + 1))[-1] == str(n)
        assert channels.state == "listening"
        with pytest.raises(ChannelError, match="bad"):
            channels.history("bad")
        assert len(told(caplog)) == 1, told(caplog)
        damage(tmp_path / "events.db", mending)
        until(lambda: len(told(caplog)) == 2, "it to be told that all is well")
        publish(elsewhere, "good", 20, 21)
        assert data_of(good.take(21))[-1] == "20"
    assert len(told(caplog)) == 2, told(caplog)


def test_an_append_to_a_damaged_channel_is_an_error_of_that_channel(
    tmp_path: Path, opened: Callable[[str], Channels]
) -> None:
    channels = opened(f"sqlite:///{tmp_path}/events.db")
    publish(channels, "bad", 1)
    damage(tmp_path / "events.db", "UPDATE channels SET last = 'many' WHERE name = 'bad'")
    with pytest.raises(ChannelError, match="bad"):
        publish(channels, "bad", 1)
    publish(channels, "good", 1)


@pytest.mark.server
def test_of_a_channel_that_nobody_follows_any_more_nothing_is_said(
    redis_server: RedisServer, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    channels = opened(redis_server.url)
    redis_server.client().set("ssestream:{bad}", "x")
    with Client(Following(channels), "/?names=bad"):
        until(lambda: told(caplog), "it to be told")
    until(lambda: channels.statistics() == {}, "it to be followed by nobody")
    # The turn of a try that began before.
    listener_of(channels).replay.ailing._try("bad")
    assert len(told(caplog)) == 1, told(caplog)


# -- what is refused for good


@pytest.mark.server
@pytest.mark.parametrize("command", ["subscribe", "evalsha", "xrange", "xinfo", "xadd"])
def test_what_an_acl_forbids_is_told_once_and_once_when_it_is_allowed(
    redis_server: RedisServer,
    opened: Callable[[str], Channels],
    caplog: pytest.LogCaptureFixture,
    command: str,
) -> None:
    """Of which each use may fail alone, and the others work."""
    channels, elsewhere = (
        opened(redis_server.url),
        opened(f"{redis_server.url}?username=b&password=b"),
    )
    client = redis_server.client()
    client.execute_command("ACL", "SETUSER", "b", "on", ">b", "~*", "&*", "+@all")
    client.execute_command("ACL", "SETUSER", "admin", "on", ">b", "~*", "+@all")
    admin = redis_server.client(username="admin", password="b")
    ids = publish(elsewhere, "news", 3)
    with Client(Following(channels, "news")) as live:
        publish(elsewhere, "news", 3, 4)
        live.take(1)
        admin.execute_command("ACL", "SETUSER", "default", f"-{command}")
        admin.execute_command("CLIENT", "KILL", "USER", "default", "SKIPME", "yes")
        # Enough of it for many turns, and somebody comes who is to read on.
        with Client(Following(channels, "news"), last_id=ids[0]) as behind:
            over, n = time.monotonic() + 0.7, 4
            while time.monotonic() < over:
                publish(elsewhere, "news", n, n + 1)
                gevent.sleep(0.01)
                n += 1
            said = [words for words in told(caplog) if "is back" not in words]
            assert len(said) <= 2, said
            admin.execute_command("ACL", "SETUSER", "default", "+@all")
            assert data_of(live.take(n - 3)) == numbers(3, n)
            assert data_of(behind.take(n - 1)) == numbers(1, n)
    assert len(told(caplog)) <= 4, told(caplog)


def account(server: RedisServer, *channels: str) -> str:
    """The URL of an account that may do everything, but on these Pub/Sub channels only."""
    server.client().acl_setuser(
        "b",
        enabled=True,
        passwords=["+b"],
        commands=["+@all"],
        keys=["*"],
        channels=channels,
        reset=True,
        reset_channels=True,
    )
    return f"redis://b:b@127.0.0.1:{server.port}/0"


@pytest.mark.server
def test_what_may_not_be_announced_is_stored_and_told_once_and_found(
    redis_server: RedisServer, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    channels, elsewhere = opened(redis_server.url), opened(account(redis_server))
    with Client(Following(channels, "news")) as client:
        all_live(channels)
        publish(elsewhere, "news", 20)
        assert data_of(client.take(20)) == numbers(0, 20)
    (words,) = told(caplog)
    assert "&ssestream:*" in words
    # Redis writes each refusal to its ACL log.
    log: Any = redis_server.client().acl_log()
    assert sum(entry["count"] for entry in log) == 1


@pytest.mark.server
def test_an_account_that_may_subscribe_to_nothing_is_an_error_that_lasts(
    redis_server: RedisServer, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    channels, elsewhere = opened(account(redis_server)), opened(redis_server.url)
    with Client(Following(channels, "news")) as client:
        until(lambda: channels.state == "down", "it to be told")
        publish(elsewhere, "news", 3)
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert record.levelno == logging.ERROR
        assert "&ssestream:*" in record.getMessage()
        assert "an operator must correct this" in record.getMessage()
        account(redis_server, "ssestream:*")
        assert data_of(client.take(3)) == numbers(0, 3)
        until(lambda: channels.state == "listening", "it to be back")


@pytest.mark.server
def test_a_pubsub_channel_that_is_not_allowed_is_told_and_holds_up_no_other(
    redis_server: RedisServer, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    url = account(redis_server, "ssestream:{good}*")
    channels, elsewhere = opened(url), opened(redis_server.url)
    app = Following(channels)
    with Client(app, "/?names=good") as good, Client(app, "/?names=bad") as bad:
        until(lambda: told(caplog), "it to be told")
        publish(elsewhere, "bad", 3)
        publish(elsewhere, "good", 3)
        assert data_of(good.take(3)) == numbers(0, 3)
        # The checks find these.
        assert data_of(bad.take(3)) == numbers(0, 3)
        assert channels.state == "listening"
        account(redis_server, "ssestream:*")
        subscribed = redis_server.client().pubsub_channels
        until(lambda: len(subscribed()) == 2, "it to be tried again")
    assert "'bad'" in told(caplog)[0]
    assert "&ssestream:*" in told(caplog)[0]


@pytest.mark.long
def test_what_works_and_fails_in_turn_is_told_twice(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than the time between two failures on a busy machine.
    monkeypatch.setattr(health, "STEADY", 8.0)
    channels = Channels()
    broker: Any = broker_of(channels)
    read, failures = broker.read, [0]
    is_failing = True

    def fails(name: str, after: int, limit: int, max_bytes: int) -> Any:
        # Only what a reader asks for.
        if limit == replay.READ and is_failing:
            failures[0] += 1
            raise BrokerError("not this")
        return read(name, after, limit, max_bytes)

    broker.read = fails
    ids = publish(channels, "news", 500)
    with Client(Following(channels, "news"), last_id=ids[0]) as client:
        until(lambda: failures[0] > 20, "many turns")
        assert 1 <= len(told(caplog)) <= 3, told(caplog)
        is_failing = False
        assert data_of(client.take(499)) == numbers(1, 500)
        until(lambda: "is back" in told(caplog)[-1], "it to be told")
        assert len(told(caplog)) <= 4, told(caplog)


@pytest.mark.server
def test_a_wrong_password_is_an_error_that_lasts(
    start_redis: Start, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis("--requirepass", "right-password")
    channels = opened(f"redis://:wrong-password@127.0.0.1:{server.port}/0")
    with pytest.raises(BrokerError) as caught:
        channels.ping()
    assert caught.value.lasting
    channels.subscribe(SseStream(), "news")
    until(lambda: told(caplog), "it to be told")
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR
    assert "an operator must correct this" in record.getMessage()
    assert "wrong-password" not in caplog.text


def test_a_missing_directory_is_an_error_that_lasts(
    tmp_path: Path, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    channels = opened(f"sqlite:///{tmp_path}/none/events.db")
    with pytest.raises(BrokerError, match="no directory") as caught:
        channels.ping()
    assert caught.value.lasting
    channels.subscribe(SseStream(), "news")
    until(lambda: told(caplog), "it to be told")
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
    (tmp_path / "none").mkdir()
    until(lambda: channels.state == "listening", "it to be back")
    channels.ping()


def a_text(path: Path) -> None:
    path.write_text("no database\n" * 100)


def a_database_of_others(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE events (mine)")
    other.close()


def a_half(path: Path) -> None:
    with contextlib.closing(Channels(f"sqlite:///{path}")) as channels:
        channels.publish("news", {"data": "x"})
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("make", [a_text, a_database_of_others, a_half, Path.mkdir])
def test_so_is_a_file_that_is_no_log(
    make: Callable[[Path], object],
    tmp_path: Path,
    opened: Callable[[str], Channels],
    caplog: pytest.LogCaptureFixture,
) -> None:
    make(tmp_path / "events.db")
    channels = opened(f"sqlite:///{tmp_path}/events.db")
    with pytest.raises(BrokerError, match=str(tmp_path)) as caught:
        channels.ping()
    assert caught.value.lasting
    channels.subscribe(SseStream(), "news")
    until(lambda: told(caplog), "it to be told")
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


#: What an account without rights meets. The superuser may do all, and gives that up first.
_WITHOUT_RIGHTS = """
import os, sys
from ssestream import BrokerError, Channels
import ssestream.brokers.sqlite  # while the folder of Python may be read
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
channels = Channels("sqlite:///" + sys.argv[1])
try:
    channels.ping()
except BrokerError as error:
    print(error.lasting, error)
"""


@pytest.mark.parametrize("which", ["unreadable", "read-only", "directory"])
def test_so_is_a_file_that_may_not_be_read_or_written(which: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Where everybody may go, as pytest's own folder is not.
        Path(folder).chmod(0o777)
        path = Path(folder) / "in" / "events.db"
        path.parent.mkdir()
        with contextlib.closing(Channels(f"sqlite:///{path}")) as channels:
            channels.publish("news", {"data": "x"})
        path.chmod({"unreadable": 0, "read-only": 0o444, "directory": 0o666}[which])
        path.parent.chmod(0o555 if which == "directory" else 0o777)
        command = [sys.executable, "-c", _WITHOUT_RIGHTS, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        path.parent.chmod(0o777)
    assert done.stdout.startswith("True "), done
    assert "must be allowed to write the file" in done.stdout


@pytest.mark.server
@pytest.mark.parametrize(
    ("user", "rights"),
    [
        ("b", ["nocommands"]),
        ("b", ["~*", "+@all", "-evalsha"]),
        ("b", ["off", "~*", "+@all"]),
        ("nobody", ["~*", "+@all"]),
    ],
)
def test_so_is_an_account_without_rights(
    redis_server: RedisServer,
    opened: Callable[[str], Channels],
    caplog: pytest.LogCaptureFixture,
    user: str,
    rights: list[str],
) -> None:
    redis_server.client().execute_command("ACL", "SETUSER", "b", "on", ">pw", *rights)
    lasts(opened(f"redis://{user}:pw@127.0.0.1:{redis_server.port}/0"), caplog)


@pytest.mark.server
def test_so_is_a_database_that_there_is_not(
    redis_server: RedisServer, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    lasts(opened(f"redis://127.0.0.1:{redis_server.port}/99"), caplog)


@pytest.mark.long
@pytest.mark.server
def test_so_is_a_certificate_that_nobody_vouches_for(
    start_redis: Start,
    certificate: tuple[str, str],
    opened: Callable[[str], Channels],
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = ("--tls-cert-file", certificate[0], "--tls-key-file", certificate[1])
    server = start_redis(
        *files, "--tls-ca-cert-file", certificate[0], "--tls-auth-clients", "no", tls=True
    )
    url = f"rediss://localhost:{server.port}/0"
    opened(f"{url}?ssl_ca_certs={certificate[0]}").ping()
    lasts(opened(url), caplog)
    plain = opened(f"redis://localhost:{server.port}/0")
    with pytest.raises(BrokerError, match="if it speaks TLS, the URL begins with rediss"):
        plain.ping()


def lasts(channels: Channels, caplog: pytest.LogCaptureFixture) -> None:
    """All that is asked of *channels* is an error that lasts, and one line says so."""
    for call in (channels.ping, lambda: channels.publish("news", {"data": "x"})):
        with pytest.raises(BrokerError) as caught:
            call()
        assert caught.value.lasting, caught.value
    channels.subscribe(SseStream(), "news")
    until(lambda: told(caplog), "it to be told")
    assert [each.levelno for each in caplog.records] == [logging.ERROR]
    assert ":pw" not in caplog.text


def ping(channels: Channels) -> str:
    """What is said of an outage that passes; nothing where there is none."""
    try:
        channels.ping()
    except BrokerError as error:
        return f"lasting: {error}" if error.lasting else str(error)
    return ""


@pytest.mark.server
def test_a_redis_that_loads_and_a_name_that_is_not_known_yet_are_outages_that_pass(
    start_redis: Start, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    # It answers once for each KiB that it loads.
    slowly = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
    server = start_redis(*slowly)
    channels = opened(server.url)
    for number in range(200):
        server.client().set(f"key-{number}", f"{number:0200}")
    server.client().save()
    server.kill()
    server._answers = lambda: True  # type: ignore[method-assign]
    server.start()
    until(lambda: "is loading" in ping(channels), "it to load")
    assert not ping(channels).startswith("lasting")
    channels.subscribe(SseStream(), "news")
    until(lambda: channels.state == "listening", "it to have loaded")
    assert ping(channels) == ""
    unknown = ping(opened("redis://no-such-host.invalid:6379/0"))
    assert unknown.startswith("redis://no-such-host.invalid")
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.server
def test_a_broker_that_is_down_is_an_outage_that_passes(
    redis_server: RedisServer, opened: Callable[[str], Channels], caplog: pytest.LogCaptureFixture
) -> None:
    channels = opened(redis_server.url)
    channels.ping()
    channels.subscribe(SseStream(), "news")
    until(lambda: channels.state == "listening", "the listener")
    redis_server.kill()
    with pytest.raises(BrokerError) as caught:
        channels.ping()
    assert not caught.value.lasting
    until(lambda: channels.state == "down", "it to be seen")
    assert [each.levelno for each in caplog.records] == [logging.WARNING]


def test_memory_can_always_be_pinged() -> None:
    Channels().ping()
