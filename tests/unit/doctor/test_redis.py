"""A real Redis, right or set wrong, in the eyes of an account that may do more or less."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ssestream.doctor.finding import Finding
from ssestream.doctor.redis import examine_redis
from tests.conftest import HERE
from tests.kit.redis_server import RedisServer
from tests.kit.servers import free_port, wait_until

Start = Callable[..., RedisServer]

DOCS = HERE.parent / "docs" / "channels.rst"


def seen(found: list[Finding], level: str = "fault") -> list[str]:
    return [each.seen for each in found if each.level == level]


def documented_rights() -> list[str]:
    """The rights that the docs give to the account *app*."""
    found = re.search(r"ACL SETUSER app (.*?)\n\n", DOCS.read_text(), re.DOTALL)
    assert found is not None
    return found[1].replace("\\", " ").split()


def test_a_right_server_has_no_fault_and_no_note_and_stays_as_it_is(start_redis: Start) -> None:
    server = start_redis(durable=True)
    found = examine_redis(server.url)
    assert {each.level for each in found} == {"ok"}
    assert len(found) == 7
    with closing(server.client()) as client:
        assert client.dbsize() == 0


def test_a_server_that_is_not_there(start_redis: Start) -> None:
    server = start_redis()
    server.stop()
    (finding,) = examine_redis(server.url)
    assert finding.level == "fault"
    assert "refused" in finding.seen


def test_a_wrong_password(start_redis: Start) -> None:
    server = start_redis("--requirepass", "right-word")
    (finding,) = examine_redis(f"redis://:wrong-word@127.0.0.1:{server.port}/0")
    assert finding.level == "fault"
    assert "password" in finding.seen
    assert "wrong-word" not in str(finding)


@pytest.mark.parametrize(
    ("options", "level", "words"),
    [
        (("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"), "fault", "allkeys-lru"),
        (("--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"), "note", "volatile-ttl"),
        (("--client-output-buffer-limit", "pubsub 65536 32768 10"), "fault", "pubsub is 65536"),
        (("--client-output-buffer-limit", "pubsub 8mb 4mb 10"), "note", "pubsub is 8388608"),
    ],
)
def test_a_setting_that_loses_or_delays_events(
    options: tuple[str, ...], level: str, words: str, start_redis: Start
) -> None:
    (text,) = seen(examine_redis(start_redis(*options, durable=True).url), level)
    assert words in text


def test_a_setting_by_which_redis_refuses_to_publish_is_none(start_redis: Start) -> None:
    server = start_redis("--maxmemory", "100mb", durable=True)
    assert {each.level for each in examine_redis(server.url)} == {"ok"}


def test_a_server_that_keeps_nothing_over_a_restart(redis_server: RedisServer) -> None:
    (finding,) = [each for each in examine_redis(redis_server.url) if each.level != "ok"]
    assert finding.level == "note"
    assert finding.seen == "appendonly is off, and save is ''"
    assert "all logs" in finding.why


def test_the_documented_rights_are_enough(start_redis: Start) -> None:
    server = start_redis(configuration=f"user app {' '.join(documented_rights())}")
    found = examine_redis(f"redis://app:password@127.0.0.1:{server.port}/0")
    assert seen(found) == []
    assert seen(found, "note") == [
        "this account may not use INFO",
        "this account may not use CONFIG GET",
    ]


@pytest.mark.parametrize(
    "command",
    [each.lstrip("+") for each in documented_rights() if each.startswith("+") and "@" not in each],
)
def test_each_right_that_lacks_is_named(command: str, redis_server: RedisServer) -> None:
    name = command.partition("|")[0]
    rights = [each for each in documented_rights() if each != f"+{command}"]
    with closing(redis_server.client()) as client:
        client.execute_command("ACL SETUSER", "app", *rights)
        found = examine_redis(f"redis://app:password@127.0.0.1:{redis_server.port}/0")
        assert client.dbsize() == 0
    level = "note" if name in ("pttl", "pexpire", "persist") else "fault"
    assert re.search(rf"\b{name}\b", "\n".join(seen(found, level)), re.IGNORECASE), found


def test_an_account_without_the_pubsub_channels(start_redis: Start) -> None:
    rights = [each for each in documented_rights() if not each.startswith("&")]
    server = start_redis(configuration=f"user app resetchannels {' '.join(rights)}")
    found = examine_redis(f"redis://app:password@127.0.0.1:{server.port}/0")
    (text,) = seen(found)
    assert "PUBLISH, SUBSCRIBE" in text
    assert "&ssestream:*" in found[1].change


@pytest.mark.parametrize(
    ("configuration", "word", "change"),
    [
        ("min-replicas-to-write 1", "NOREPLICAS", "min-replicas-to-write"),
        ("maxmemory 1", "OOM", "more maxmemory"),
        ("replicaof 127.0.0.1 {port}", "READONLY", "the address of the master"),
    ],
)
def test_a_server_that_refuses_writes_says_why(
    configuration: str, word: str, change: str, start_redis: Start
) -> None:
    text = configuration.format(port=free_port())
    found = examine_redis(start_redis(configuration=text).url)
    (refusal,) = [each for each in found if each.level == "fault"]
    assert f"refuses every write ({word})" in refusal.seen
    assert change in refusal.change


def test_a_server_that_cannot_write_to_its_disk(start_redis: Start) -> None:
    server = start_redis(configuration="stop-writes-on-bgsave-error yes")
    with closing(server.client()) as client:
        client.config_set("save", "3600 1")
        # The file of a snapshot cannot take the place of a folder.
        (Path(server.folder) / "dump.rdb").mkdir()
        client.bgsave()
        wait_until(lambda: client.info()["rdb_last_bgsave_status"] == "err", "the save to fail")
    (text,) = seen(examine_redis(server.url))
    assert "refuses every write (MISCONF)" in text
