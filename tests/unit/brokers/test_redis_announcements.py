"""How followers hear of what is appended in Redis: by Pub/Sub, or without it, in one server and
in a cluster.

The check of all logs would find what is not announced. Most tests here switch it off.
"""

import contextlib
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import exceptions
from redis.crc import key_slot

from ssestream import Channels
from ssestream.brokers.broker import BrokerError, ChannelError, Entry, Position, Slice
from ssestream.brokers.redis import RedisBroker, listener, poller
from ssestream.brokers.redis import broker as room
from ssestream.brokers.redis.announcement import MOST_BYTES
from ssestream.brokers.redis.follow_requests import FollowRequests
from ssestream.brokers.redis.subscriber import Subscriber
from tests.kit.brokers import Elsewhere, all_closed, everything, frames, next_news
from tests.kit.following import Client, Following, all_live, data_of, numbers, publish
from tests.kit.redis_server import RedisServer, make_cluster, move_slot
from tests.kit.servers import PATIENCE, ROOT, wait_until
from tests.kit.states import end_all_of
from tests.kit.visit import until
from tests.unit.brokers.test_redis import Follower, pool_of, works

pytestmark = pytest.mark.server

Start = Callable[..., RedisServer]
Open = Callable[..., RedisBroker]

#: What lets a server be as one before Redis 7.
BEFORE_7 = """
rename-command SSUBSCRIBE ""
rename-command SUNSUBSCRIBE ""
rename-command SPUBLISH ""
"""


@pytest.fixture
def opened() -> Iterator[Open]:
    """Make brokers: ``opened(url)``; all are closed with the test."""
    with all_closed(lambda url, age=None: RedisBroker(url, 1000, age)) as opened:
        yield opened


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no log be checked in its turn."""
    monkeypatch.setattr(listener, "CHECK", 3600.0)


def url_of(cluster: list[RedisServer], account: str = "") -> str:
    return f"redis+cluster://{account}127.0.0.1:{cluster[0].port}/0"


def fresh(name: str, size: int = 0) -> bytes:
    return f"data: {name} ".encode().ljust(size, b"x") + b"\n\n"


def confirmed(cluster: list[RedisServer]) -> list[int]:
    """To how many sharded Pub/Sub channels somebody is subscribed, at each node."""
    counts = []
    for node in cluster:
        with contextlib.closing(node.client()) as client:
            counts.append(len(client.execute_command("PUBSUB SHARDCHANNELS")))
    return counts


class Crowd:
    """Follows *names* in one broker, and holds what comes."""

    def __init__(self, broker: RedisBroker, names: list[str]) -> None:
        self.held: dict[str, list[bytes]] = {name: [] for name in names}
        self.errors: list[BrokerError] = []
        self._broker = broker
        self._over = False
        for name in names:
            broker.follow(name, Position("", 0))
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def have(self, sent: list[bytes]) -> bool:
        """Whether *sent* has come in each channel."""
        return all(held == sent for held in self.held.values())

    def stop(self) -> None:
        self._over = True
        self._broker.wake()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _follow(self) -> None:
        while not self._over:
            try:
                for name, piece in self._broker.wait().items():
                    assert isinstance(piece, Slice)
                    self.held[name] += frames(piece)
            except BrokerError as error:
                self.errors.append(error)
                time.sleep(0.01)


# -- sharded Pub/Sub


def test_each_node_of_a_cluster_announces_its_own(
    start_redis: Start, opened: Open, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "poll", None)  # nothing is polled
    cluster = make_cluster(start_redis, 2)
    names = [f"of/{n}" for n in range(20)]
    reader, writer = opened(url_of(cluster)), opened(url_of(cluster))
    crowd = Crowd(reader, names)
    wait_until(lambda: sum(confirmed(cluster)) == 20, "the subscriptions")
    assert min(confirmed(cluster)) > 0, "both nodes have some"
    for number in range(5):
        for name in names:
            writer.append(name, fresh(str(number)))
    sent = [fresh(str(number)) for number in range(5)]
    wait_until(lambda: crowd.have(sent), "all of it")
    for name in names[:10]:
        reader.unfollow(name)
    wait_until(lambda: sum(confirmed(cluster)) == 10, "the subscriptions to end")
    crowd.stop()
    assert crowd.errors == []


@pytest.mark.long
def test_followers_move_with_the_slot_of_their_channels(
    start_redis: Start, opened: Open, unchecked: None
) -> None:
    cluster = make_cluster(start_redis, 2)
    slot = key_slot(b"news")
    numbered = (f"news/{number}" for number in itertools.count())
    names = [*itertools.islice((each for each in numbered if key_slot(each.encode()) == slot), 4)]
    source, target = cluster if slot < 8192 else cluster[::-1]
    reader, writer = opened(url_of(cluster)), opened(url_of(cluster))
    crowd = Crowd(reader, names)
    wait_until(lambda: confirmed([source]) == [4], "the subscriptions")
    sent: list[bytes] = []

    def append(more: int) -> None:
        for _ in range(more):
            frame = fresh(str(len(sent)))
            for name in names:
                writer.append(name, frame)
            sent.append(frame)

    append(1)
    # Forth and back.
    for old, new in (source, target), (target, source):
        steps = move_slot("ssestream:{news}", old, new)
        assert [next(steps) for _ in range(3)] == ["before", "migrating", "moved a key"]
        # Redis appends nothing while it has half of the keys of a channel.
        appending = Elsewhere(append, 3)
        time.sleep(1.0)
        assert "told a node" in iter(steps)
        # Now the old node sends all on to the new one, which may not know the scripts.
        appending.result()
        assert list(steps) == ["told a node"]
        wait_until(lambda: crowd.have(sent), "what came meanwhile")
        wait_until(lambda new=new: confirmed([new]) == [4], "the subscriptions")  # type: ignore[misc]
        append(2)
        wait_until(lambda: crowd.have(sent), "what came after it")
    crowd.stop()
    assert crowd.errors == []


# -- before Redis 7


def test_a_cluster_before_redis_7_is_polled(
    start_redis: Start, opened: Open, unchecked: None, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make_cluster(start_redis, 1, BEFORE_7)
    names = [f"of/{n}" for n in range(20)]
    reader, writer = opened(url_of(cluster)), opened(url_of(cluster))
    works(writer)
    crowd = Crowd(reader, names)
    for number in range(3):
        for name in names:
            writer.append(name, fresh(str(number)))
    sent = [fresh(str(number)) for number in range(3)]
    wait_until(lambda: crowd.have(sent), "all of it")
    # One that is left gets nothing more, and one that comes gets what there is.
    reader.unfollow(names[0])
    reader.follow(names[1], Position("", 0))
    writer.append(names[0], fresh("last"))
    began = time.monotonic()
    writer.append(names[2], fresh("last"))
    wait_until(lambda: crowd.held[names[2]] == [*sent, fresh("last")], "the last")
    assert time.monotonic() - began < poller.POLL + PATIENCE
    wait_until(lambda: crowd.held[names[1]] == [*sent, *sent], "all of it again")
    assert crowd.held[names[0]] == sent
    crowd.stop()
    assert crowd.errors == []
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


# -- what an announcement carries


@pytest.mark.parametrize("clustered", [False, True])
def test_small_entries_are_announced_and_large_ones_are_read(
    start_redis: Start, opened: Open, unchecked: None, clustered: bool
) -> None:
    servers = make_cluster(start_redis, 1) if clustered else [start_redis()]
    url = url_of(servers) if clustered else servers[0].url
    reader, writer = opened(url), opened(url)
    follower = Follower(reader, "news")
    subscribed = servers[0].client().pubsub_channels
    wait_until(lambda: confirmed(servers) == [1] if clustered else subscribed(), "it to listen")
    heard: Any = []
    with contextlib.closing(servers[0].client()) as client:
        said = client.pubsub(ignore_subscribe_messages=True)
        said.ssubscribe("ssestream:{news}@0") if clustered else said.psubscribe("ssestream:*")
        said.get_message(timeout=60)
        sizes = [10, MOST_BYTES - 2, MOST_BYTES - 1, 10, 100_000, 1_000_000, 10]
        sent = [fresh(str(number), size) for number, size in enumerate(sizes)]
        for frame in sent:
            writer.append("news", frame)
        while len(heard) < len(sizes):
            message = (
                said.get_sharded_message(timeout=5) if clustered else said.get_message(timeout=5)
            )
            heard += [message["data"]] if message else []
        said.close()
    wait_until(lambda: len(follower.frames) >= len(sent), "all of it")
    follower.stop()
    assert follower.frames == sent
    assert follower.errors == []
    carried = [each.partition(b"\n")[2] for each in heard]
    assert carried == [frame if len(frame) <= MOST_BYTES else b"" for frame in sent]
    assert {len(frame) for frame in sent} >= {MOST_BYTES, MOST_BYTES + 1}


# -- a log that expires


def test_news_that_has_come_before_a_connection_fails_is_not_lost(
    start_redis: Start, opened: Open, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_redis()
    reader, writer = opened(server.url), opened(server.url)
    reader.follow("news", writer.append("news", fresh("one")))
    came: list[str] = []
    failed: list[str] = []
    pass_on, check = FollowRequests.pass_on, Subscriber.check

    def passing(self: FollowRequests, name: str, *args: Any) -> bool:
        came.append(name)
        return pass_on(self, name, *args)

    def checking(self: Subscriber) -> None:
        check(self)
        if came and not failed:
            failed.append(came.pop())
            raise exceptions.ConnectionError("the connection of another server is gone")

    with contextlib.closing(server.client()) as client:
        waiting = Elsewhere(next_news, reader)
        wait_until(client.pubsub_channels, "the subscription")
        writer.append("news", fresh("two"))
        assert frames(waiting.result()["news"]) == [fresh("two")]
    monkeypatch.setattr(FollowRequests, "pass_on", passing)
    monkeypatch.setattr(Subscriber, "check", checking)
    # The first may be read, because the subscription is new. What comes then is announced.
    for number in itertools.count(3):
        came.clear()
        sent = fresh(str(number))
        writer.append("news", sent)
        try:
            next_news(reader)
        except BrokerError as error:
            why = str(error)
            break
    assert failed
    assert "is gone" in why
    assert frames(next_news(reader)["news"]) == [sent]
    writer.append("news", fresh("last"))
    assert frames(next_news(reader)["news"]) == [fresh("last")]


def test_news_is_taken_back_only_of_channels_that_are_still_followed() -> None:
    requests, at = FollowRequests(), Position("log", 1, "check")
    for name in ("moved", "failed", "left", "anew"):
        requests.follow(name, at)
    stood = {name: requests.at(name) for name in requests.names()}
    requests.begin()
    piece = Slice("log", 1, 2, [Entry(2, fresh("two"), "other")], "check", "other")
    pieces = dict.fromkeys(requests.names(), piece) | {"failed": ChannelError("failed", "why")}
    for name, each in pieces.items():
        assert requests.pass_on(name, stood[name], each, {})  # type: ignore[arg-type]
    requests.unfollow("left")
    requests.follow("anew", Position("log", 2, "other"))
    requests.take_changes(10)
    requests.take_back()
    now = {name: requests.at(name) for name in pieces}
    assert now == {"moved": at, "failed": at, "left": None, "anew": Position("log", 2, "other")}
    assert requests.take_changes(10) == {"moved": True, "failed": True}


@pytest.mark.long
def test_an_empty_channel_leaves_nothing_in_redis_and_an_id_of_it_is_one_gap(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "GRACE", 100)
    # Long enough for a busy machine to hand the events on.
    channels = Channels(redis_server.url, history_age=3.0)
    before = publish(channels, "news", 3)
    with contextlib.closing(redis_server.client()) as client:
        wait_until(lambda: client.keys("ssestream:*") == [], "the keys to be gone")
        app = Following(channels, "news")
        with Client(app, last_id=before[-1]) as back, Client(app, last_id=before[0]) as behind:
            until(lambda: app.gaps == ["news", "news"], "the gaps")
            with Client(app) as new:
                all_live(channels)
                publish(channels, "news", 3, 6)
                for each in (back, behind, new):
                    assert data_of(each.take(3)) == numbers(3, 6)
        assert app.gaps == ["news", "news"]
        end_all_of(channels)


def test_a_follower_of_a_channel_whose_entries_are_all_too_old_gets_the_next_one(
    redis_server: RedisServer,
) -> None:
    channels = Channels(redis_server.url, history_age=2.0)
    app = Following(channels, "news")
    with contextlib.closing(redis_server.client()) as client:
        with Client(app) as there:
            all_live(channels)
            publish(channels, "news", 2)
            assert data_of(there.take(2)) == numbers(0, 2)
            until(lambda: channels.history("news") == [], "all to be too old")
            publish(channels, "news", 2, 4)
            assert data_of(there.take(4)) == numbers(0, 4)
            last_id = there.last_id
        # It missed nothing while it was away.
        with Client(app, last_id=last_id) as back:
            all_live(channels)
            publish(channels, "news", 4, 5)
            assert data_of(back.take(1)) == numbers(4, 5)
        assert app.gaps == []
        # Nobody follows the channel any more, and nobody asks for it.
        keys = ("ssestream:{news}", "ssestream:{news}:bounds")
        assert all(0 < client.pttl(key) <= 1000 * room.HOLD for key in keys)  # type: ignore[operator]
    end_all_of(channels)


@pytest.mark.long
def test_a_log_that_is_followed_lives_on_until_it_is_followed_no_more(
    redis_server: RedisServer,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "GRACE", 3000)
    monkeypatch.setattr(listener, "CHECK", 0.1)
    monkeypatch.setattr(listener, "PART", 0.02)
    monkeypatch.setattr(room, "HOLD", 4.0)
    reader, writer = opened(redis_server.url, 0.2), opened(redis_server.url, 0.2)
    with contextlib.closing(redis_server.client()) as client:
        follower = Follower(reader, "news")
        wait_until(client.pubsub_channels, "the subscription")
        first = writer.append("news", fresh("one"))
        # It is announced. The log may have lost it by now.
        wait_until(lambda: follower.numbers == [1], "the first")
        for _ in range(2):
            # The checks let it live longer before its end.
            wait_until(lambda: client.pttl("ssestream:{news}") < 2500, "its time to pass")
            wait_until(lambda: client.pttl("ssestream:{news}") > 2500, "a check")
        assert client.exists("ssestream:{news}", "ssestream:{news}:bounds") == 2
        second = writer.append("news", fresh("two"))
        assert second[:2] == (first.log, 2)
        wait_until(lambda: follower.numbers == [1, 2], "the next")
        reader.unfollow("news")
        wait_until(lambda: client.keys("ssestream:*") == [], "the keys to be gone")
    follower.stop()
    assert follower.errors == []


# -- rights


def rights_in_docs() -> str:
    """The rights that the docs name for a cluster."""
    text = (ROOT / "docs" / "channels.rst").read_text()
    found = re.search(r"ACL SETUSER app (.*?)\n\n(A cluster needs .*?)\. ", text, re.DOTALL)
    assert found is not None
    rights = found[1].replace("\\", " ")
    for word in ("+subscribe", "+unsubscribe", "+publish"):
        rights = rights.replace(f" {word} ", " ")
    return " ".join([*rights.split(), *re.findall(r"\+[a-z+| ]+(?=``)", found[2])])


def test_an_account_of_a_cluster_may_have_few_rights(start_redis: Start, opened: Open) -> None:
    """The rights in the docs are enough, and nothing that is not among them is tried."""
    cluster = make_cluster(start_redis, 1, f"user app {rights_in_docs()}")
    each = opened(url_of(cluster, "app:password@"), 60)
    works(each)
    each.append("last", fresh("one"))
    each.delete("last")
    with contextlib.closing(cluster[0].client()) as client:
        assert client.acl_log() == []


def test_a_right_to_pubsub_that_is_missing_in_a_cluster_is_named(
    start_redis: Start, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make_cluster(start_redis, 1)
    with contextlib.closing(cluster[0].client()) as client:
        everything_else = ["on", ">b", "+@all", "~*", "resetchannels"]
        client.execute_command("ACL SETUSER", "b", *everything_else)
        each, other = opened(url_of(cluster, "b:b@")), opened(url_of(cluster))
        # What may not be announced is stored, and told once.
        for number in range(3):
            each.append("news", fresh(str(number)))
        assert len(frames(everything(other, "news"))) == 3
        (words,) = [record.getMessage() for record in caplog.records]
        assert "&ssestream:*" in words
        assert "spublish" in words
        # And who may not listen is told that, until it may.
        each.follow("news", Position("", 0))

        def refused() -> BrokerError | None:
            try:
                each.wait()
            except BrokerError as error:
                return error
            return None

        error = wait_until(refused, "the refusal")
        assert error.lasting
        assert "&ssestream:*" in str(error)
        assert "ssubscribe" in str(error)
        client.execute_command("ACL SETUSER", "b", "&ssestream:*")
        wait_until(lambda: not refused() and confirmed(cluster) == [1], "the right")
        found: Any = {}
        each.follow("news", Position("", 0))
        wait_until(lambda: found.update(each.wait()) or found, "news")
        assert len(found["news"].entries) == 3


def test_the_command_that_an_account_lacks_is_named(
    redis_server: RedisServer, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(redis_server.client()) as client:
        client.execute_command(
            "ACL SETUSER", "b", "on", ">b", "+@all", "-subscribe", "-publish", "~*", "&*"
        )
        url = f"redis://b:b@127.0.0.1:{redis_server.port}/0"
        each = opened(url)
        each.append("news", fresh("one"))
        (words,) = [record.getMessage() for record in caplog.records]
        assert "publish" in words
        each.follow("news", Position("", 0))
        with pytest.raises(BrokerError, match="subscribe") as caught:
            wait_until(each.wait, "the refusal")
        assert caught.value.lasting
        assert "Pub/Sub channels &ssestream:*" in str(caught.value)
    assert pool_of(each)
