"""Real sentinels with one thing wrong: the finding names the sentinel or the server."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from ssestream.doctor.finding import Finding
from ssestream.doctor.redis import examine_redis
from tests.kit.redis_server import RedisServer
from tests.kit.servers import free_port, wait_until
from tests.unit.doctor.test_redis import seen

Start = Callable[..., RedisServer]


def at(server: RedisServer) -> str:
    return f"127.0.0.1:{server.port}"


def one(found: list[Finding], words: str) -> Finding:
    (finding,) = [each for each in found if words in each.seen]
    return finding


@dataclass
class Group:
    """A master, a replica, and sentinels that know each other."""

    master: RedisServer
    replica: RedisServer | None
    sentinels: list[RedisServer]

    def url(self, *sentinels: RedisServer, query: str = "") -> str:
        hosts = ",".join(at(each) for each in sentinels or self.sentinels)
        return f"redis+sentinel://{hosts}/mine/0{query}"


def monitor(master: RedisServer, quorum: int, down_after: int = 60_000) -> str:
    return (
        f"sentinel monitor mine 127.0.0.1 {master.port} {quorum}\n"
        f"sentinel down-after-milliseconds mine {down_after}\n"
        "sentinel failover-timeout mine 60000\n"
    )


def facts(sentinel: RedisServer) -> dict[str, str]:
    with closing(sentinel.client(decode_responses=True, protocol=2)) as client:
        flat = client.execute_command("SENTINEL", "MASTER", "mine")
    return dict(zip(flat[::2], flat[1::2], strict=True))


@pytest.fixture
def make(start_redis: Start) -> Callable[..., Group]:
    def make_group(
        count: int = 3, quorum: int = 2, replica: bool = True, down_after: int = 60_000
    ) -> Group:
        master = start_redis(durable=True)
        configuration = f"replicaof 127.0.0.1 {master.port}\n"
        other = start_redis(durable=True, configuration=configuration) if replica else None
        sentinels = [
            start_redis("--sentinel", configuration=monitor(master, quorum, down_after))
            for _ in range(count)
        ]
        for each in sentinels:
            # A sentinel tells its address by Pub/Sub at the master, every two seconds.
            wait_until(
                lambda each=each: (  # type: ignore[misc]
                    facts(each)["num-other-sentinels"] == str(count - 1)
                    and facts(each)["num-slaves"] == str(int(replica))
                ),
                "the sentinels to know all",
            )
        if other is not None:
            # The replica itself counts as connected a little before its master says so.
            with closing(master.client()) as client:
                wait_until(lambda: is_in_step(client.info("replication")), "the replica")
        return Group(master, other, sentinels)

    return make_group


def is_in_step(master: Any) -> bool:
    """Whether the replica has all of its *master*, by the master's own words."""
    replica = master.get("slave0", {})
    return replica.get("state") == "online" and replica["offset"] == master["master_repl_offset"]


@pytest.mark.long
def test_a_whole_group_has_neither_fault_nor_note(make: Callable[..., Group]) -> None:
    group = make()
    found = examine_redis(group.url())
    assert [each for each in found if each.level != "ok"] == []
    assert one(found, "quorum").seen.startswith("all 3 sentinels: the quorum of 2 can be met")
    assert (
        one(found, "name the master").seen == f"all 3 sentinels name the master {at(group.master)}"
    )
    assert one(found, "it takes writes").seen.startswith(f"the master {at(group.master)}: ")
    assert one(found, "has all rights").seen.startswith("the master and its replicas: ")
    with closing(group.master.client()) as client:
        assert client.dbsize() == 0


@pytest.mark.long
def test_a_sentinel_that_is_down_is_named(make: Callable[..., Group]) -> None:
    group = make(down_after=300)
    for each in group.sentinels[:2]:
        each.stop()
    last = group.sentinels[2]
    with closing(last.client(decode_responses=True, protocol=2)) as client:
        wait_until(
            lambda: (
                str(client.execute_command("SENTINEL", "SENTINELS", "mine")).count("s_down") >= 2
            ),
            "the last sentinel to see it",
        )
    found = examine_redis(group.url())
    gone = [each for each in seen(found, "note") if "this sentinel does not answer" in each]
    assert [each.partition(": ")[0] for each in gone] == list(map(at, group.sentinels[:2]))
    (lacking,) = [each for each in found if each.level == "fault"]
    assert lacking.seen.startswith(f"{at(last)}: the quorum of 2 cannot be met: NOQUORUM")
    assert "operator" in lacking.why


def test_no_sentinel_at_all_is_a_fault(make: Callable[..., Group]) -> None:
    group = make(1, 1, replica=False)
    group.sentinels[0].stop()
    texts = seen(examine_redis(group.url()))
    assert "no sentinel names a master of mine" in texts


def test_sentinels_that_name_different_masters(
    make: Callable[..., Group], start_redis: Start
) -> None:
    group = make(1, 1, replica=False)
    other = start_redis(durable=True)
    stray = start_redis("--sentinel", configuration=monitor(other, 1))
    fault = one(examine_redis(group.url(*group.sentinels, stray)), "different masters")
    assert fault.level == "fault"
    assert f"{at(group.sentinels[0])}: {at(group.master)}" in fault.seen
    assert f"{at(stray)}: {at(other)}" in fault.seen
    assert "SENTINEL REMOVE mine" in fault.change


def test_a_sentinel_that_has_not_heard_of_a_failover(
    make: Callable[..., Group], start_redis: Start
) -> None:
    """It asks a server that no other sentinel knows, so it hears of nothing."""
    group = make(1, 1, replica=False)
    other = start_redis(durable=True)
    newest = f"{monitor(other, 1)}sentinel config-epoch mine 7\nsentinel current-epoch 7\n"
    heard = start_redis("--sentinel", configuration=newest)
    found = examine_redis(group.url(*group.sentinels, heard))
    assert seen(found) == []
    differ = one(found, "different masters")
    assert "the newest configuration counts" in differ.seen
    assert one(found, "it takes writes").seen.startswith(f"the master {at(other)}: ")


def test_an_account_that_one_sentinel_refuses(make: Callable[..., Group]) -> None:
    group = make(1, 1, replica=False)
    with closing(group.sentinels[0].client()) as client:
        client.execute_command("ACL SETUSER", "default", "-sentinel")
    found = examine_redis(group.url())
    refused = one(found, "this sentinel refuses: ")
    assert refused.level == "fault"
    assert refused.seen.startswith(f"{at(group.sentinels[0])}: ")
    assert "+sentinel +ping" in refused.change


def test_a_master_that_is_a_replica_is_not_written_to(
    make: Callable[..., Group], start_redis: Start
) -> None:
    group = make(1, 1, replica=False)
    elsewhere = start_redis()
    with closing(group.master.client()) as client:
        client.replicaof("127.0.0.1", elsewhere.port)
    found = examine_redis(group.url())
    (refused,) = [each for each in found if each.level == "fault" and "READONLY" in each.seen]
    assert refused.seen.startswith(f"the master {at(group.master)}: ")
    assert not any("it takes writes" in each.seen for each in found)


def test_one_sentinel_and_no_replica_are_notes(make: Callable[..., Group]) -> None:
    group = make(1, 1, replica=False)
    notes = seen(examine_redis(group.url()), "note")
    assert notes == ["mine has 1 sentinel", f"the master {at(group.master)}: it has no replica"]


@pytest.mark.long
def test_a_url_with_one_of_three_sentinels(make: Callable[..., Group]) -> None:
    group = make()
    (note,) = seen(examine_redis(group.url(group.sentinels[1])), "note")
    assert note == "the URL names 1 of 3 sentinels"


@pytest.mark.long
def test_a_replica_that_is_behind_and_one_that_stands_still(make: Callable[..., Group]) -> None:
    group = make(1, 1)
    assert group.replica is not None
    group.replica.freeze()
    with closing(group.master.client()) as client:
        client.set("large", b"x" * (3 << 20))
    notes = seen(examine_redis(group.url()), "note")
    group.replica.thaw()
    assert any(
        each.startswith(f"the master {at(group.master)}: its replica {at(group.replica)} is behind")
        for each in notes
    ), notes
    assert any(
        each.startswith(f"the replica {at(group.replica)}: it does not answer") for each in notes
    )


@pytest.mark.long
def test_settings_of_the_replica_count_after_a_failover(make: Callable[..., Group]) -> None:
    group = make(1, 1)
    assert group.replica is not None
    with closing(group.replica.client()) as client:
        client.config_set("appendonly", "no")
    found = examine_redis(group.url())
    assert seen(found) == []
    plain = one(found, "appendonly is off")
    assert plain.seen.startswith(f"the replica {at(group.replica)}: ")
    assert plain.why.startswith("after a failover to it, ")


def test_what_is_no_sentinel_and_a_service_that_none_knows(
    make: Callable[..., Group],
) -> None:
    group = make(1, 1, replica=False)
    found = examine_redis(group.url(group.master, group.sentinels[0]))
    wrong = one(found, "this is no sentinel: unknown command")
    assert wrong.level == "fault"
    assert wrong.seen.startswith(f"{at(group.master)}: ")
    assert "26379" in wrong.change
    found = examine_redis(group.url().replace("/mine/", "/other/"))
    assert "no sentinel names a master of other" in seen(found)
    assert "sentinel monitor other" in one(found, "No such master").change


def test_passwords_of_sentinels_are_used_and_not_told(
    start_redis: Start,
) -> None:
    master = start_redis(durable=True)
    configuration = f"{monitor(master, 1)}requirepass right-word\n"
    group = Group(master, None, [start_redis("--sentinel", configuration=configuration)])
    found = examine_redis(group.url(query="?sentinel_password=right-word"))
    assert seen(found) == []
    found = examine_redis(group.url(query="?sentinel_password=wrong-word"))
    assert one(found, "this sentinel refuses").seen.startswith(f"{at(group.sentinels[0])}: ")
    assert "wrong-word" not in "".join(map(str, found))


def test_a_master_at_an_address_that_only_the_sentinel_reaches(start_redis: Start) -> None:
    nowhere = free_port()
    configuration = (
        f"sentinel monitor mine 127.0.0.1 {nowhere} 1\nsentinel down-after-milliseconds mine 300\n"
    )
    sentinel = start_redis("--sentinel", configuration=configuration)
    wait_until(lambda: "o_down" in facts(sentinel)["flags"], "the sentinel to see it")
    found = examine_redis(f"redis+sentinel://{at(sentinel)}/mine")
    gone = one(found, "it does not answer")
    assert gone.seen.startswith(f"the master 127.0.0.1:{nowhere}: ")
    assert "127.0.0.1" in gone.change
    down = one(found, f"takes the master 127.0.0.1:{nowhere} for down")
    assert (down.level, down.seen.startswith(at(sentinel))) == ("fault", True)
