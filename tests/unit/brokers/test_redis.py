"""What is Redis's own among the brokers, against real servers."""

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from redis.cluster import RedisCluster

from ssestream.brokers import open_broker
from ssestream.brokers.broker import (
    END,
    PLAIN,
    Bounds,
    BrokerError,
    Busy,
    ChannelEnded,
    Position,
    Terms,
)
from ssestream.brokers.redis import RedisBroker, listener, subscriber
from ssestream.brokers.redis.client import opener
from ssestream.brokers.redis.keys import written_terms
from ssestream.brokers.redis.servers import OneServer
from ssestream.brokers.redis.target import parse
from tests.kit.brokers import Follower, all_closed, follow, frames, next_news, wait
from tests.kit.brokers import news as heard
from tests.kit.no_memory import LARGE, WELL, without_memory
from tests.kit.programs import run_program
from tests.kit.promptness import at_best, in_one_try
from tests.kit.redis_server import RedisServer, make_cluster
from tests.kit.servers import PATIENCE, ROOT, free_port, wait_until

pytestmark = pytest.mark.server

DOCS = ROOT / "docs" / "channels.rst"

Start = Callable[..., RedisServer]


@pytest.fixture
def broker() -> Iterator[Callable[..., RedisBroker]]:
    """Make brokers: ``broker(url)``; all are closed with the test."""
    with all_closed(
        lambda url, history=1000, history_age=None: RedisBroker(url, history, history_age)
    ) as broker:
        yield broker


def all_of(broker: RedisBroker, channel: str) -> list[bytes]:
    return frames(broker.read(channel, 0, 100_000, 1 << 30))


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()
    return thread, result


# -- restarts


@pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
def test_a_restart_loses_nothing_and_doubles_nothing(
    start_redis: Start, broker: Callable[..., RedisBroker], end: Callable[[RedisServer], None]
) -> None:
    server = start_redis(durable=True)
    follower = Follower(broker(server.url), "news")
    publisher = broker(server.url)
    stored: list[bytes] = []
    doubtful: set[bytes] = set()
    over = threading.Event()

    def publish() -> None:
        n = 0
        while not over.is_set():
            frame = b"%d" % n
            n += 1
            try:
                publisher.append("news", frame)
                stored.append(frame)
            except BrokerError:
                doubtful.add(frame)

    thread = threading.Thread(target=publish)
    thread.start()
    for _ in range(3):
        so_far = len(stored)
        wait_until(lambda so_far=so_far: len(stored) > so_far + 50, "some to be stored")
        end(server)
        server.start()
    so_far = len(stored)
    wait_until(lambda: len(stored) > so_far + 50, "some to be stored")
    over.set()
    thread.join()
    wait_until(lambda: stored[-1] in follower.frames, "the last")
    follower.stop()

    assert [frame for frame in follower.frames if frame not in doubtful] == stored
    assert len(set(follower.frames)) == len(follower.frames)
    assert follower.numbers == list(range(1, len(follower.numbers) + 1))
    assert follower.errors  # it did see the server go


def test_positions_hold_over_a_restart(
    start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    server = start_redis(durable=True)
    reader = broker(server.url)
    first = reader.append("news", b"one")
    server.kill()
    server.start()
    second = reader.append("news", b"two")
    assert second[:2] == (first.log, 2)
    news = heard(reader, {"news": first})
    assert [(name, *piece[:3], frames(piece)) for name, piece in news.items()] == [
        ("news", first.log, 1, 2, [b"two"])
    ]


def test_a_flushed_database_begins_another_log(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    reader = broker(redis_server.url)
    before = reader.append("news", b"one")
    thread, result = in_thread(lambda: heard(reader, {"news": before}))
    redis_server.client().flushall()
    after = broker(redis_server.url).append("news", b"two")
    # What waits may see that it has gone before it sees that it is back.
    thread.join(60)
    assert after.number == 1
    assert int(after.log) > int(before.log)
    assert result[0]["news"].log in (after.log, "")
    assert frames(heard(reader, {"news": before})["news"]) == [b"two"]


@pytest.fixture
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each followed log be checked ten times a second."""
    monkeypatch.setattr(listener, "CHECK", 0.1)
    monkeypatch.setattr(listener, "PART", 0.02)


def quiet(server: RedisServer, broker: RedisBroker, positions: dict[str, Position]) -> None:
    """Follow *positions* until Redis has confirmed all, and there is no news."""
    follow(broker, positions)

    def all_confirmed() -> bool:
        broker.wake()
        assert broker.wait() == {}
        return len(server.client().pubsub_channels()) == len(positions)

    wait_until(all_confirmed, "the subscriptions")
    # The last answers, and the first reading of the logs.
    for _ in range(10):
        broker.wake()
        assert broker.wait() == {}


def test_a_log_that_began_anew_under_an_earlier_clock_is_found(
    redis_server: RedisServer, broker: Callable[..., RedisBroker], quick_checks: None
) -> None:
    reader = broker(redis_server.url)
    before = reader.append("news", b"one")
    quiet(redis_server, reader, {"news": before})
    client = redis_server.client()
    client.delete("ssestream:{news}")
    client.xadd("ssestream:{news}", {"f": b"two", "t": 5, "k": b"?"}, id="5-1")
    found: dict[str, Any] = {}
    # The log may be found while it is gone.
    wait_until(lambda: found.update(reader.wait()) or (found and found["news"].log), "news")
    assert (*found["news"][:3], frames(found["news"])) == ("5", 1, 1, [b"two"])


@pytest.mark.parametrize("count", [1, 250])
def test_each_followed_log_is_checked_in_its_turn(
    redis_server: RedisServer,
    broker: Callable[..., RedisBroker],
    quick_checks: None,
    count: int,
) -> None:
    """A process with an earlier version appends and announces nothing."""
    reader = broker(redis_server.url)
    at = {f"of/{n}": reader.append(f"of/{n}", b"one") for n in range(count)}
    quiet(redis_server, reader, at)
    client = redis_server.client()
    for name, position in at.items():
        entry: Any = {"f": b"two", "t": 5, "k": b"?"}
        client.xadd(f"ssestream:{{{name}}}", entry, id=f"{position.log}-2")
    found: dict[str, Any] = {}
    wait_until(lambda: found.update(reader.wait()) or len(found) == count, "all of it")
    assert {name: frames(piece) for name, piece in found.items()} == {key: [b"two"] for key in at}


def test_a_log_that_has_lost_its_end_is_found_on_the_next_connection(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    client = redis_server.client()
    writer = broker(redis_server.url)
    first = writer.append("news", b"one")
    copy: Any = client.dump("ssestream:{news}")
    last = writer.append("news", b"two")
    client.restore("ssestream:{news}", 0, copy, replace=True)
    reader = broker(redis_server.url)
    for _ in range(2):
        piece = heard(reader, {"news": last})["news"]
        assert (*piece[:3], frames(piece)) == (first.log, 1, 1, [b"one"])
    client.delete("ssestream:{news}")
    for _ in range(2):
        assert heard(reader, {"news": last})["news"][:4] == ("", 1, 0, [])


def test_a_forgotten_script_is_given_again(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    reader = broker(redis_server.url)
    reader.append("news", b"one")
    redis_server.client().script_flush()
    reader.append("news", b"two")
    assert all_of(reader, "news") == [b"one", b"two"]


# -- while Redis is away


def test_making_one_connects_to_nothing() -> None:
    closed = free_port()
    for scheme in ("redis", "rediss", "redis+sentinel", "redis+cluster"):
        RedisBroker(f"{scheme}://127.0.0.1:{closed}/0", 10, None).close()


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis+carrier-pigeon://h", "redis://h:port"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r"edis|[Pp]ort"):
        RedisBroker(url, 10, None)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "rediss+cluster", "unix"])
@pytest.mark.parametrize(
    "password",
    [
        "hunter2#",
        "hunter2/x",
        "hunter2?x",
        "hunter2?x=1",
        "a@hunter2#x",
        "a@hunter2/x",
        "1@2?hunter2",
    ]
    + ["#hunter2", "/hunter2", "[hunter2]", "hunter2[", "hunter2 x", "hunter2\n"],
)
@pytest.mark.parametrize("user", ["", "me"])
def test_a_password_that_is_not_encoded_is_told_and_not_shown(
    scheme: str, password: str, user: str
) -> None:
    with pytest.raises(ValueError, match="percent-encode") as caught:
        open_broker(f"{scheme}://{user}:{password}@127.0.0.1:1/0", 10, None)
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in shown.rpartition("ValueError: ")[2]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_password_that_looks_like_a_port_is_not_shown() -> None:
    with pytest.raises(ValueError, match="percent-encode") as caught:
        open_broker("redis://me:1234?hunter2=x@127.0.0.1:1/0", 10, None)
    assert "hunter2" not in str(caught.value)
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p%23%2F%3F%40@127.0.0.1/0",
        "redis://:p@ss@127.0.0.1/0",
        "redis://127.0.0.1/0?password=p@ss",
        "redis://127.0.0.1?client_name=a@b",
        "rediss://[::1]:6379/0",
        "unix:///run/a@b/redis.sock?db=2",
        "unix://me:pw@/run/redis.sock",
        "redis+sentinel://me:pw@h,h2:1/mine/0?sentinel_password=p@ss&sentinel_username=me",
        "redis+cluster://h:1?require_full_coverage=false&client_name=x",
    ],
)
def test_a_good_url_is_taken(url: str) -> None:
    open_broker(url, 10, None).close()


@pytest.mark.parametrize(
    ("query", "words"),
    [("max_connections=0", "max_connections"), ("max_connections=many", "max_connections")]
    + [("colour=blue", "colour"), ("db=x", "db")],
)
def test_a_wrong_option_of_a_url_is_named_at_once(query: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        open_broker(f"redis://:secret@127.0.0.1:1/0?{query}", 10, None)
    assert "secret" not in str(caught.value)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["redis", "redis+sentinel", "redis+cluster"])
def test_what_is_down_raises_in_time_and_without_the_password(
    broker: Callable[..., RedisBroker], kind: str
) -> None:
    port = free_port()

    def ask() -> tuple[bool, list[float]]:
        reader = broker(f"{kind}://me:secret@127.0.0.1:{port}/0")
        calls: list[tuple[Callable[[], object], float]] = [
            (lambda: reader.append("news", b"one"), 5),
            (lambda: reader.read("news", 0, 10, 1000), 5),
            # One has waited for it, and the next need not.
            (lambda: reader.read("news", 0, 10, 1000), 2),
            (lambda: wait(reader, {"news": Position("", 0)}), 7),
        ]
        took = []
        for call, _ in calls:
            began = time.monotonic()
            with pytest.raises(BrokerError, match=f"127.0.0.1:{port}") as caught:
                call()
            took.append(time.monotonic() - began)
            assert "secret" not in str(caught.value)
        return all(each < most for each, (_, most) in zip(took, calls, strict=True)), took

    in_one_try(ask, tries=4)


def test_what_is_down_for_a_moment_costs_the_publisher_nothing(
    start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    server = start_redis(durable=True)
    publisher = broker(server.url)
    publisher.append("news", b"one")
    server.stop()
    thread, result = in_thread(lambda: publisher.append("news", b"two"))
    server.start()
    thread.join(60)
    assert result[0].number == 2


def test_what_is_down_for_a_moment_costs_the_reader_nothing(
    start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    server = start_redis(durable=True)
    reader = broker(server.url)
    reader.append("news", b"one")
    server.stop()
    thread, result = in_thread(lambda: all_of(reader, "news"))
    server.start()
    thread.join(60)
    assert result == [[b"one"]]


@pytest.mark.long_except("redis")
@pytest.mark.parametrize("kind", ["redis", "redis+sentinel", "redis+cluster"])
def test_a_connection_that_was_forgotten_on_the_way_costs_the_reader_nothing(
    start_redis: Start, broker: Callable[..., RedisBroker], kind: str
) -> None:
    """As a balancer does with one that was idle: what is sent on it gets no answer."""
    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    server = start_redis(*(options if kind == "redis+cluster" else ()))
    port = server.port
    if kind == "redis+cluster":
        server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: server.client().cluster("info")["cluster_state"] == "ok", "the cluster")
    if kind == "redis+sentinel":
        configuration = f"sentinel monitor mine 127.0.0.1 {port} 1\n"
        port = start_redis("--sentinel", configuration=configuration).port
    path = "mine/0" if kind == "redis+sentinel" else "0"
    reader = broker(f"{kind}://127.0.0.1:{port}/{path}")
    reader.append("news", b"one")
    with unanswered(reader):
        assert all_of(reader, "news") == [b"one"]


def pool_of(broker: RedisBroker) -> Any:
    return broker._pool()


@contextlib.contextmanager
def unanswered(broker: RedisBroker) -> Iterator[None]:
    """Let what *broker* sends on its idle connections go nowhere."""
    client: Any = pool_of(broker).client
    clients = (
        [node.redis_connection for node in client.get_nodes()]
        if pool_of(broker).cluster
        else [client]
    )
    pairs = []
    for each in clients:
        for connection in each.connection_pool._available_connections if each else ():
            sock = connection._sock
            if sock is not None:
                pair = socket.socketpair()
                pairs.append((pair, os.dup(sock.fileno())))
                os.dup2(pair[0].fileno(), sock.fileno())
    assert pairs
    try:
        yield
    finally:
        for pair, copy in pairs:
            os.close(copy)
            for end in pair:
                end.close()


def test_more_callers_than_connections_wait_for_one(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    each = broker(f"{redis_server.url}?max_connections=3")
    start, errors, numbers = threading.Barrier(40), [], []

    def call() -> None:
        start.wait()
        try:
            numbers.append(each.append("news", b"one").number)
            each.read("news", 0, 10, 1000)
        except BrokerError as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(numbers) == list(range(1, 41))
    assert len(clients_of(redis_server)) <= 3


@pytest.mark.long
def test_a_queue_for_a_connection_ends_in_time_and_is_no_redis_that_is_down(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    each = broker(f"{redis_server.url}?max_connections=1")
    at = each.append("news", b"one")
    with pool_of(each).turn(time.monotonic() + 1):
        began = time.monotonic()
        with pytest.raises(Busy, match="max_connections") as caught:
            each.read("news", 0, 10, 1000)
        with pytest.raises(Busy):
            each.append("news", b"two")
        assert 1 < time.monotonic() - began < PATIENCE
        assert isinstance(caught.value, BrokerError)
        # The listener does not stand in it.
        assert frames(heard(each, {"news": Position(at.log, 0)})["news"]) == [b"one"]
    assert all_of(each, "news") == [b"one"]


@pytest.mark.long
def test_a_frozen_redis_raises_in_time_and_later_stores_at_most_once(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    numbers = itertools.count()

    def freeze() -> float:
        name, publisher = f"news{next(numbers)}", broker(redis_server.url)
        publisher.append(name, b"before")
        redis_server.freeze()
        try:
            began = time.monotonic()
            with pytest.raises(BrokerError):
                publisher.append(name, b"once")
            took = time.monotonic() - began
        finally:
            redis_server.thaw()
        # All its tries wait in the sockets; a late one is read before what is new.
        client = redis_server.client()
        wait_until(lambda: client.xlen(f"ssestream:{{{name}}}") == 2, "a late try")
        publisher.append(name, b"after")
        assert all_of(publisher, name) == [b"before", b"once", b"after"]
        return took

    at_best(freeze, 5)


def test_a_frozen_redis_fails_a_wait_in_time(
    redis_server: RedisServer, broker: Callable[..., RedisBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber, "SILENCE", 0.2)
    monkeypatch.setattr(subscriber, "ANSWER", 1.0)
    monkeypatch.setattr(listener, "LONGEST", 0.2)
    reader = broker(redis_server.url)
    at = reader.append("news", b"one")
    assert wait(reader, {"news": at}) == {}
    redis_server.freeze()
    try:
        follower = Follower(reader, "news")
        wait_until(lambda: follower.errors, "an error")
    finally:
        redis_server.thaw()
    reader.append("news", b"two")
    wait_until(lambda: follower.frames == [b"one", b"two"], "all")
    follower.stop()


def test_a_subscriber_that_connects_again_takes_the_same_connection(
    redis_server: RedisServer,
) -> None:
    """A pool holds each connection that it has given, and a quiet process connects often."""
    servers = OneServer(redis_server.client())
    first = servers.connect("")
    first.disconnect()
    second = servers.connect("")
    assert second is first
    second.send_command("PING")
    assert second.read_response() in (b"PONG", "PONG")
    servers.close()


def test_a_wake_before_the_first_wait_of_a_new_connection_ends_that_wait(
    redis_server: RedisServer,
    broker: Callable[..., RedisBroker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener, "LONGEST", 1000.0)
    monkeypatch.setattr(listener, "CHECK", 1000.0)
    reader = broker(redis_server.url)
    position = reader.append("news", b"data: 1\n\n")
    for _ in range(3):
        reader.close()
        reader.wake()
        assert wait(reader, {"news": position}) == {}


def test_a_wake_is_answered_at_once_though_redis_is_frozen(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    reader = broker(redis_server.url)
    quiet(redis_server, reader, {"news": reader.append("news", b"one")})

    def wake() -> float:
        thread, result = in_thread(reader.wait)
        began = time.monotonic()
        reader.wake()
        thread.join(60)
        assert result == [{}]
        return time.monotonic() - began

    redis_server.freeze()
    try:
        at_best(wake, 1)
    finally:
        redis_server.thaw()


# -- announcements that are not the log's


def test_announcements_that_come_twice_or_from_others_neither_double_nor_lose_an_event(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    reader = broker(redis_server.url)
    follower = Follower(reader, "news")
    with contextlib.closing(redis_server.client()) as client:
        said = client.pubsub(ignore_subscribe_messages=True)
        said.psubscribe("ssestream:*")
        genuine: list[Any] = []

        def heard(count: int) -> bool:
            message = said.get_message(timeout=0.01)
            genuine.extend([message] if message else [])
            return len(genuine) >= count

        # The subscriptions of the follower and of the test have begun.
        count = 0
        while not heard(3):
            count += 1
            reader.append("news", b"data: %d\n\n" % count)
        wait_until(lambda: len(follower.frames) == count, "all")
        channel, last = genuine[-1]["channel"], genuine[-1]["data"]
        entry, _, rest = last.partition(b" ")
        log, _, number = entry.partition(b"-")
        ahead = b"%b-%d " % (log, int(number) + 1)
        rubbish = [
            *(each["data"] for each in reversed(genuine)),
            b"",
            b"\n",
            b"\0\xff" * 100,
            b"1-x 1  0 0 0 \ndata: no\n\n",
            b"-" * 10_000,
            # The next number, behind another entry than the last.
            ahead + rest,
            # The next number of another log.
            b"1-%d " % (int(number) + 1) + rest,
            # No number of a log ever.
            b"%b-%b " % (log, b"9" * 400) + rest,
        ]
        for each in rubbish:
            client.publish(channel, each)
            reader.append("news", b"data: %d\n\n" % (count := count + 1))
        said.close()
    wait_until(lambda: len(follower.frames) >= count, "the last")
    follower.stop()
    assert follower.frames == [b"data: %d\n\n" % each for each in range(1, count + 1)]
    assert follower.errors == []


# -- tries whose answer is lost


class Thief:
    """Hands connections on to Redis, and keeps the answer to what holds *word*, once."""

    def __init__(self, port: int, word: bytes) -> None:
        self._word = word
        self._to = port
        self.stolen = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            while asked := client.recv(65536):
                server.sendall(asked)
                answer = server.recv(65536)
                # That the script is not known yet is no answer to steal.
                known = not answer.startswith(b"-NOSCRIPT")
                if self._word in asked and known and not self.stolen:
                    self.stolen += 1
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_try_whose_answer_is_lost_is_not_stored_twice(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    direct = broker(redis_server.url)
    direct.append("news", b"before")
    thief = Thief(redis_server.port, b"stolen goods")
    try:
        publisher = broker(f"redis://127.0.0.1:{thief.port}/0")
        position = publisher.append("news", b"stolen goods")
        publisher.append("news", b"after")
    finally:
        thief.close()
    assert thief.stolen == 1
    assert position.number == 2
    assert all_of(direct, "news") == [b"before", b"stolen goods", b"after"]


def test_an_end_whose_answer_is_lost_is_stored_once(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    direct = broker(redis_server.url)
    for name, frame in (("job", b"stolen goods"), ("other", END + b" stolen")):
        thief = Thief(redis_server.port, b"stolen")
        try:
            ender = broker(f"redis://127.0.0.1:{thief.port}/0")
            ender.append(name, b"before")
            terms = Terms(end=True, reason="stolen")
            # No error: it has ended the log, though it did not hear so at once.
            assert ender.append(name, frame, terms).number == 2
        finally:
            thief.close()
        assert thief.stolen == 1
        ends = [b"stolen goods", END + b" stolen"] if name == "job" else [END + b" stolen"]
        assert all_of(direct, name) == [b"before", *ends]
        with pytest.raises(ChannelEnded):
            direct.append(name, b"again", terms)


def test_a_deletion_whose_answer_is_lost_deletes_nothing_that_came_later(
    redis_server: RedisServer,
    broker: Callable[..., RedisBroker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    direct = broker(redis_server.url)
    direct.append("job", b"before")
    # The word is in the arguments of the deletion alone: where it is announced.
    thief = Thief(redis_server.port, b"ssestream:{job}@0")
    try:
        deleter = broker(f"redis://127.0.0.1:{thief.port}/0")
        slept = time.sleep

        def publish_meanwhile(seconds: float) -> None:
            if thief.stolen and not all_of(direct, "job"):
                direct.append("job", b"after")
            slept(seconds)

        monkeypatch.setattr(time, "sleep", publish_meanwhile)
        deleter.delete("job")
    finally:
        thief.close()
    assert thief.stolen == 1
    assert all_of(direct, "job") == [b"after"]
    direct.delete("job")
    assert all_of(direct, "job") == []


@pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
def test_each_channel_has_one_end_though_redis_restarts_while_it_ends(
    start_redis: Start, broker: Callable[..., RedisBroker], end: Callable[[RedisServer], None]
) -> None:
    server = start_redis(durable=True)
    brokers = [broker(server.url) for _ in range(2)]
    ended: dict[str, list[str]] = {}
    over = threading.Event()
    go = threading.Barrier(2)
    count = 0

    def end_all(number: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # the end of the test
            end_each(number)

    def end_each(number: int) -> None:
        nonlocal count
        n = 0
        while not over.is_set():
            name = f"job{n}"
            go.wait(60)
            try:
                brokers[number].append(name, b"end %d" % number, Terms(end=True))
                result = "mine"
            except ChannelEnded:
                result = "ended"
            except BrokerError:
                result = "doubtful"
            go.wait(60)
            ended.setdefault(name, []).append(result)
            n += 1
            count = max(count, n)
            go.wait(60)

    threads = [threading.Thread(target=end_all, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        so_far = count
        wait_until(lambda so_far=so_far: count > so_far + 20, "some to end")
        end(server)
        server.start()
    so_far = count
    wait_until(lambda: count > so_far + 20, "some to end")
    over.set()
    go.abort()
    for thread in threads:
        thread.join()
    for name, results in ended.items():
        stored = all_of(brokers[0], name)
        assert results.count("mine") <= 1, (name, results)
        if "mine" in results or "ended" in results:
            assert [len(stored), stored[-1]] == [2, END], (name, results, stored)
        else:
            assert stored == [] or [len(stored), stored[-1]] == [2, END]


def test_a_first_try_that_comes_after_the_second_is_not_stored(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    publisher = broker(redis_server.url)
    keys = ["ssestream:{news}", "ssestream:{news}:01", "ssestream:{news}:bounds"]
    call = pool_of(publisher).append
    rest = [0, 1000, "", 1000, 100, "PUBLISH", "ssestream:{news}@0", 100, "010203", 5000]
    rest += written_terms(PLAIN)
    second = call(keys, [b"frame", b"\1", 1, *rest])
    assert call(keys, [b"frame", b"\1", 0, *rest]) == second
    assert call(keys, [b"frame", b"\1", 1, *rest]) == second
    assert all_of(publisher, "news") == [b"frame"]


def test_a_call_that_is_broken_off_leaves_no_answer_for_the_next_one(
    redis_server: RedisServer,
    broker: Callable[..., RedisBroker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    each = broker(redis_server.url)
    each.append("news", b"one")
    pool = pool_of(each).client.connection_pool
    connection = pool.get_connection()
    pool.release(connection)

    def interrupted() -> None:
        raise KeyboardInterrupt

    redis_server.freeze()
    with monkeypatch.context() as patched:
        patched.setattr(connection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            each.append("news", b"two")
    thread, result = in_thread(lambda: each.append("news", b"three"))
    redis_server.thaw()
    thread.join(60)
    # The broken call is stored before or after the other, as Redis likes.
    entries = each.read("news", 0, 10, 1000).entries
    assert (result[0].number, b"three", result[0].check) in entries


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process its size so")
def test_a_lack_of_memory_is_an_error_that_loses_nothing(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    broker(redis_server.url).append("large", b"x" * LARGE)
    assert without_memory(RedisBroker, redis_server.url) == WELL


# -- bounds


def test_old_entries_are_not_shown_and_then_thrown_away(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    young = broker(redis_server.url, history_age=0.15)
    for n in range(30):
        young.append("news", b"old %d" % n)
    wait_until(lambda: not all_of(young, "news"), "all to be old")
    assert young.read("news", 0, 10, 1000)[1:4] == (31, 30, [])
    client = redis_server.client()
    # On a busy machine the later appends have removed some of the first.
    kept = client.xlen("ssestream:{news}")
    assert 0 < kept <= 30
    # Its age is the log's, and not of the process that reads.
    assert all_of(broker(redis_server.url), "news") == []
    young.append("news", b"new")
    assert client.xlen("ssestream:{news}") == max(kept - 20, 0) + 1
    young.append("news", b"new")
    assert client.xlen("ssestream:{news}") <= 2


def test_only_what_has_become_old_goes(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    young = broker(redis_server.url, history_age=60)
    client = redis_server.client()
    seconds, _ = client.time()  # type: ignore[misc]
    for n in range(1, 101):
        age = 120 - n  # so that the 60 first are too old
        entry = {"f": b"%d" % n, "t": (seconds - age) * 1_000_000, "k": b"?"}
        client.xadd("ssestream:{news}", entry, id=f"5-{n}")  # type: ignore[arg-type]
    piece = young.read("news", 0, 1000, 100_000)
    # A second or two may have passed.
    assert 59 <= piece.first <= 65
    assert [entry.number for entry in piece.entries] == list(range(piece.first, 101))


def test_redis_holds_little_more_than_the_history(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    small = broker(redis_server.url, history=10)
    for n in range(1000):
        small.append("news", b"%d" % n)
    assert redis_server.client().xlen("ssestream:{news}") <= 10 + 100  # a node
    assert small.read("news", 0, 5, 1000).first == 991


def test_news_of_large_entries_comes_in_pieces(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    reader = broker(redis_server.url)
    for n in range(20):
        reader.append("news", b"%d" % (n % 10) * 300_000)
    piece = heard(reader, {"news": Position("", 0)})["news"]
    assert [entry.number for entry in piece.entries] == [1, 2, 3, 4]
    piece = heard(reader, {"news": Position(piece.log, 4)})["news"]
    assert [entry.number for entry in piece.entries] == [5, 6, 7, 8]


def test_a_thousand_channels_are_waited_for_together(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    reader, publisher = broker(redis_server.url), broker(redis_server.url)
    positions = {f"of/{n}": Position("", 0) for n in range(1000)}
    thread, result = in_thread(lambda: heard(reader, positions))
    publisher.append("of/999", b"one")
    thread.join(60)
    assert frames(result[0]["of/999"]) == [b"one"]
    for name in positions:
        publisher.append(name, b"more")
    found = heard(reader, positions)
    wait_until(lambda: found.update(reader.wait()) or len(found) == 1000, "all of it")


# -- connections


def clients_of(server: RedisServer) -> list[dict[str, str]]:
    with server.client(client_name="asks") as client:
        everybody: Any = client.client_list()
    return [each for each in everybody if each["name"] != "asks"]


def test_one_connection_listens_and_publishers_share_the_others(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    each = broker(redis_server.url)
    follower = Follower(each, "news")
    for n in range(100):
        each.append("news", b"%d" % n)
    wait_until(lambda: len(follower.frames) == 100, "all")
    for _ in range(100):
        each.wake()
    subscribed = [int(client["sub"]) for client in clients_of(redis_server)]
    assert sum(subscribed) == 1
    assert len(subscribed) <= 3  # the publisher and the listener may ask at once
    follower.stop()
    each.close()
    wait_until(lambda: not clients_of(redis_server), "all to be closed")
    assert each.append("news", b"again").number == 101


def test_a_wait_for_other_channels_keeps_its_connection(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    reader = broker(redis_server.url)
    for n in range(5):
        reader.wake()
        assert wait(reader, {f"channel-{m}": Position("", 0) for m in range(n + 1)}) == {}
    listening = [each for each in clients_of(redis_server) if each["sub"] != "0"]
    assert len(listening) == 1
    reader.append("channel-4", b"one")
    assert list(heard(reader, {"channel-4": Position("", 0)})) == ["channel-4"]


def test_a_listener_whose_connection_is_cut_finds_what_came_meanwhile(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    reader = broker(redis_server.url)
    follower = Follower(reader, "news")
    client = redis_server.client(client_name="asks")
    for n in range(20):
        client.client_kill_filter(_type="normal", skipme=True)
        reader.append("news", b"%d" % n)
    wait_until(lambda: len(follower.frames) >= 20, "all")
    follower.stop()
    assert follower.frames == [b"%d" % n for n in range(20)]


def test_nothing_is_left_of_a_closed_one(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    def use() -> None:
        each = RedisBroker(redis_server.url, 10, None)
        each.append("news", b"one")
        wait(each, {"news": Position("", 0)})
        each.close()

    use()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        use()
    # Those of the tests before may be closed meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= before
    wait_until(lambda: not clients_of(redis_server), "Redis to see them go")


DROPPED = """
import gc, sys, time
from ssestream import Channels, SseStream
for way in ("dropped", "left"):
    channels = Channels(sys.argv[1])
    channels.publish("news", {"data": "x"})
    stream = SseStream()
    channels.subscribe(stream, "news")
    while channels.state != "listening":
        time.sleep(0.01)
    if way == "dropped":
        stream.destroy()
        while channels._exchange.listener._listening:
            time.sleep(0.01)
        del channels, stream
        gc.collect()
"""


def test_nothing_is_left_to_the_collector(redis_server: RedisServer) -> None:
    done = run_program(DROPPED, redis_server.url, options=("-X", "dev", "-W", "always"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_process_has_its_own_connections(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    each = broker(redis_server.url)
    at = each.append("news", b"one")
    each.wake()
    wait(each, {"news": at})  # the question is still open now
    child = os.fork()
    if child == 0:
        try:
            each.wake()
            quiet = wait(each, {"news": at}) == {}
            each.append("child", b"%d" % quiet)
            heard(each, {"news": at})
            each.append("child", b"heard")
        finally:
            os._exit(0)
    try:
        wait_until(lambda: all_of(each, "child") == [b"1"], "the child")
        # Its wake was not ours.
        thread, result = in_thread(lambda: heard(each, {"news": at}))
        each.append("news", b"two")
        thread.join(60)
        assert frames(result[0]["news"]) == [b"two"]
        wait_until(lambda: all_of(each, "child") == [b"1", b"heard"], "the child")
    finally:
        os.waitpid(child, 0)


@contextlib.contextmanager
def a_forked_child() -> Iterator[int]:
    """The process id of a child that does nothing until the end."""
    end, of_parent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(of_parent)
            os.read(end, 1)
        finally:
            os._exit(0)
    try:
        yield child
    finally:
        os.close(end)
        os.close(of_parent)
        os.waitpid(child, 0)


def connected(process: int, port: int) -> set[Any]:
    """The addresses from which *process* is connected to *port* of this host."""
    connections = psutil.Process(process).net_connections("tcp")
    return {each.laddr for each in connections if each.raddr and each.raddr.port == port}


def test_a_forked_process_that_uses_no_broker_keeps_none_of_its_connections(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    before = connected(os.getpid(), redis_server.port)
    each = broker(redis_server.url)
    at = each.append("news", b"one")
    each.wake()
    assert wait(each, {"news": at}) == {}
    ours = connected(os.getpid(), redis_server.port) - before
    assert len(ours) == 2  # to ask and to listen
    with a_forked_child() as child:
        wait_until(
            lambda: not ours & connected(child, redis_server.port), "the copies to be closed"
        )
        # The parent's own are as they were.
        assert connected(os.getpid(), redis_server.port) - before == ours
        assert all_of(each, "news") == [b"one"]


def test_a_forked_process_keeps_nothing_of_one_that_waits(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    before = connected(os.getpid(), redis_server.port)
    each = broker(redis_server.url)
    at = each.append("news", b"one")
    thread, result = in_thread(lambda: heard(each, {"news": at}))
    wait_until(lambda: redis_server.client().pubsub_channels(), "it to wait")
    ours = connected(os.getpid(), redis_server.port) - before
    with a_forked_child() as child:
        wait_until(lambda: not ours & connected(child, redis_server.port), "the copies to be gone")
        each.append("news", b"two")
        thread.join(60)
        assert frames(result[0]["news"]) == [b"two"]


@pytest.mark.parametrize("kind", ["redis", "redis+sentinel", "redis+cluster"])
def test_a_forked_process_keeps_nothing_of_one_that_reads(
    kind: str, start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    server = make_cluster(start_redis, 1)[0] if kind == "redis+cluster" else start_redis()
    ports, path = [server.port], "0"
    if kind == "redis+sentinel":
        configuration = f"sentinel monitor mine 127.0.0.1 {server.port} 1\n"
        ports.append(start_redis("--sentinel", configuration=configuration).port)
        path = "mine/0"
    each = broker(f"{kind}://127.0.0.1:{ports[-1]}/{path}")
    each.append("news", b"one")

    def of(process: int) -> set[Any]:
        return set().union(*(connected(process, port) for port in ports))

    before, over = of(os.getpid()), threading.Event()

    def read() -> None:
        while not over.is_set():
            with contextlib.suppress(BrokerError):
                each.read("news", 0, 1, 1000)

    server.freeze()
    # Each has a connection of its own now, which waits for an answer.
    threads = [in_thread(read)[0] for _ in range(3)]
    try:
        wait_until(lambda: len(of(os.getpid()) - before) > 1, "them to wait")
        ours = of(os.getpid())
        with a_forked_child() as child:
            wait_until(lambda: not ours & of(child), "the copies to be gone")
    finally:
        over.set()
        server.thaw()
        for thread in threads:
            thread.join(60)
    assert all_of(each, "news") == [b"one"]


FROZEN = """
from gevent import monkey
monkey.patch_all()
import os, sys, time
import gevent
from ssestream import Channels, SseStream
from tests.servers.apps import tell

channels, got = Channels(sys.argv[1]), []

class Sink:
    def write(self, chunk):
        got.append(chunk)
        return True

def request():
    stream = SseStream()
    stream.pipe(Sink())
    channels.subscribe(stream, "news")
    channels.publish("news", {"data": "before"})
    while not any(b"before" in chunk for chunk in got):
        gevent.sleep(0.01)
    gevent.sleep(0.1)  # the listener waits again
    tell(forks=os.getpid())
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    tell(child=child)
    for number in range(20):
        channels.publish("news", {"data": number})
        while not any(b"data: %d\\n" % number in chunk for chunk in got):
            gevent.sleep(0.01)
    tell(heard=len(b"".join(got).split(b"data: ")) - 1)
    sys.stdin.read()

gevent.spawn(request).join()
"""


def test_a_job_that_is_forked_while_a_greenlet_waits_keeps_nothing_of_it(
    redis_server: RedisServer,
) -> None:
    command = [sys.executable, "-c", FROZEN, redis_server.url]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        told: dict[str, int] = {}
        while "heard" not in told:
            told |= json.loads(parent.stdout.readline().partition("@event ")[2])
        job = psutil.Process(told["child"])
        try:
            assert told["heard"] == 21
            assert not connected(job.pid, redis_server.port)
            # When the parent is gone, Redis knows it, and the job does not spin.
            parent.kill()
            parent.wait()
            clients = redis_server.client()
            wait_until(lambda: len(clients.client_list()) == 1, "the parent's to be gone")
            before = job.cpu_times()
            with pytest.raises(psutil.TimeoutExpired):
                job.wait(0.5)
            after = job.cpu_times()
            assert after.user + after.system - before.user - before.system < 0.3
        finally:
            job.kill()


PATCHED = """
from gevent import monkey
start_thread = monkey.get_original("_thread", "start_new_thread")
monkey.patch_all()
import gevent, json, sys, time
from ssestream.brokers.broker import Position
from ssestream.brokers.redis import RedisBroker

broker = RedisBroker(sys.argv[1], 10000, None)
ticks, got, woken = [], [], []

def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.001)

def listen():
    broker.follow("news", Position("", 0))
    while True:
        news = broker.wait()
        woken.append(not news)
        for number, frame, _ in news["news"].entries if news else ():
            got.append(number)

def publish(n):
    for m in range(50):
        broker.append("news", b"%d %d" % (n, m))

def crowd():
    began = len(ticks)
    greenlets = [gevent.spawn(broker.read, "news", 0, 1, 1) for _ in range(200)]
    gevent.joinall(greenlets, raise_error=True)
    return len(ticks) > began

gevent.spawn(tick)
gevent.spawn(listen)
with gevent.Timeout(60):
    while len(ticks) < 20:
        gevent.sleep(0.001)
    pause = max(after - before for before, after in zip(ticks, ticks[1:]))
    publishers = [gevent.spawn(publish, n) for n in range(4)]
    for n in range(4, 8):
        start_thread(publish, (n,))
    while len(got) < 400:
        gevent.sleep(0.001)
    woken.clear()
    crowded = crowd()
    start_thread(broker.wake, ())
    while True not in woken:
        gevent.sleep(0.001)
print(json.dumps({"pause": pause, "crowded": crowded, "in order": got == list(range(1, 401))}))
"""


def test_a_patched_process_waits_in_a_greenlet_and_publishes_from_any_thread(
    redis_server: RedisServer,
) -> None:
    def pause() -> float:
        redis_server.client().flushall()
        done = run_program(PATCHED, redis_server.url, options=("-W", "error"))
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["in order"]
        assert said["crowded"]
        return float(said["pause"])

    # And not until Redis answers.
    at_best(pause, 2)


# -- ways to reach it


def works(each: RedisBroker) -> None:
    """Append, read, wait, and wait for what comes while it waits."""
    at = each.append("news", b"one")
    each.append("sports", b"goal")
    assert frames(heard(each, {"news": Position(at.log, at.number - 1)})["news"]) == [b"one"]
    positions = {"news": at, "nothing": Position("", 0)}
    thread, result = in_thread(lambda: wait_until(lambda: wait(each, positions), "news"))
    each.append("news", b"two")
    thread.join(60)
    assert frames(result[0]["news"]) == [b"two"]
    each.wake()
    assert wait(each, {"nothing": Position("", 0)}) == {}
    assert frames(each.read("sports", 0, 10, 1000)) == [b"goal"]


def test_a_password(start_redis: Start, broker: Callable[..., RedisBroker]) -> None:
    server = start_redis("--requirepass", "s3cret/:@")
    works(broker(f"redis://:s3cret%2F%3A%40@127.0.0.1:{server.port}/3"))

    def ask() -> float:
        began = time.monotonic()
        with pytest.raises(BrokerError, match=r"(?i)password"):
            broker(f"redis://:wrong@127.0.0.1:{server.port}/3").append("news", b"one")
        return time.monotonic() - began

    # It is no use to try again.
    at_best(ask, 1)


def test_an_account_may_have_few_rights(
    start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    """The rights in the docs are enough, and nothing that is not among them is tried."""
    documented = re.search(r"ACL SETUSER app (.*?)\n\n", DOCS.read_text(), re.DOTALL)
    assert documented is not None
    rights = documented[1].replace("\\", " ").split()
    assert rights[1] == ">password"
    server = start_redis(configuration=f"user app {' '.join(rights)}")
    each = broker(f"redis://app:password@127.0.0.1:{server.port}/1", history_age=60)
    works(each)
    each.append("last", b"one")
    assert list(heard(each, {"last": Position("", 0)})) == ["last"]
    assert each.keep("last", Bounds(10, 60)) == (10, 60)
    assert server.client(db=1).pttl("ssestream:{last}") > 0
    assert server.client().acl_log() == []


@pytest.mark.long
def test_tls(
    start_redis: Start, broker: Callable[..., RedisBroker], certificate: tuple[str, str]
) -> None:
    cert, key = certificate
    files = ["--tls-cert-file", cert, "--tls-key-file", key]
    server = start_redis(*files, "--tls-auth-clients", "no", tls=True)
    works(broker(f"rediss://localhost:{server.port}/0?ssl_ca_certs={cert}"))
    with pytest.raises(BrokerError, match=r"(?i)certificate"):
        broker(f"rediss://localhost:{server.port}/0").read("news", 0, 1, 1)


def test_a_unix_socket(start_redis: Start, broker: Callable[..., RedisBroker]) -> None:
    server = start_redis("--unixsocket", "redis.sock")
    works(broker(f"unix://{server.folder}/redis.sock?db=2"))


def test_what_a_url_says_of_answers_does_no_harm(
    redis_server: RedisServer, broker: Callable[..., RedisBroker]
) -> None:
    works(broker(f"{redis_server.url}?decode_responses=true&protocol=3&max_connections=7"))


@pytest.mark.long
def test_a_sentinel_leads_to_the_master_and_then_to_the_next(
    start_redis: Start, broker: Callable[..., RedisBroker]
) -> None:
    master = start_redis("--requirepass", "pw", "--masterauth", "pw")
    replica = start_redis(
        *["--requirepass", "pw", "--masterauth", "pw"],
        *["--replicaof", "127.0.0.1", str(master.port)],
    )
    sentinel = start_redis(
        "--sentinel",
        configuration=f"""
sentinel monitor mine 127.0.0.1 {master.port} 1
sentinel auth-pass mine pw
sentinel down-after-milliseconds mine 300
sentinel failover-timeout mine 2000
""",
    )
    each = broker(f"redis+sentinel://:pw@127.0.0.1:{sentinel.port}/mine/0")
    works(each)
    other = replica.client(password="pw")
    wait_until(lambda: other.xlen("ssestream:{news}") == 2, "the replica to have all")
    asked = sentinel.client()
    wait_until(
        lambda: asked.execute_command("SENTINEL", "REPLICAS", "mine"), "the sentinel to know it"
    )

    follower = Follower(each, "news")
    wait_until(lambda: len(follower.frames) == 2, "what there is")
    master.kill()

    def published() -> bool:
        try:
            each.append("news", b"three")
        except BrokerError:
            return False
        return True

    wait_until(published, "the failover", 60)
    wait_until(lambda: len(follower.frames) == 3, "what came after it")
    follower.stop()
    assert follower.frames == [b"one", b"two", b"three"]


@pytest.mark.long
def test_a_new_look_at_the_slots_takes_no_connection_away(start_redis: Start) -> None:
    node = start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    node.client().cluster("ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: node.client().cluster("info")["cluster_state"] == "ok", "the cluster")
    client: Any = opener(parse(f"redis+cluster://127.0.0.1:{node.port}/0"))()
    thread, answers = in_thread(lambda: [client.blpop("nothing", 0.5) for _ in range(3)])
    while thread.is_alive():
        client.nodes_manager.initialize()
        thread.join(0.01)
    assert answers == [[None, None, None]]
    client.close()


@pytest.mark.parametrize("lost", ["get_node", "get_redis_connection"])
def test_a_node_that_another_thread_has_just_lost_is_an_error_that_passes(
    lost: str,
    start_redis: Start,
    broker: Callable[..., RedisBroker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = make_cluster(start_redis, 1)[0]
    reader, writer = (broker(f"redis+cluster://127.0.0.1:{node.port}/0") for _ in range(2))
    first = writer.append("news", b"one")

    def lose(*args: object, **options: object) -> None:
        monkeypatch.undo()

    # In redis-py this happens between two steps of a call, by an error in another thread.
    monkeypatch.setattr(RedisCluster, lost, lose)
    follow(reader, {"news": Position("", 0)})
    with pytest.raises(BrokerError, match="not known any more"):
        reader.wait()
    assert frames(next_news(reader)["news"]) == [b"one"]
    if lost == "get_redis_connection":
        monkeypatch.setattr(RedisCluster, lost, lose)
        with contextlib.suppress(BrokerError):
            assert writer.append("news", b"two").log == first.log


def test_a_cluster(start_redis: Start, broker: Callable[..., RedisBroker]) -> None:
    client = shutil.which("redis-cli")
    if client is None:
        pytest.skip("redis-cli makes the cluster")
    options = ["--cluster-enabled", "yes", "--cluster-port"]
    nodes = [start_redis(*options, str(free_port()), durable=True) for _ in range(3)]
    hosts = [f"127.0.0.1:{node.port}" for node in nodes]
    subprocess.run(
        [client, "--cluster", "create", *hosts, "--cluster-yes"], check=True, capture_output=True
    )
    for node in nodes:
        asked = node.client()
        wait_until(
            lambda asked=asked: asked.cluster("info")["cluster_state"] == "ok",  # type: ignore
            "the cluster",
        )
    each = broker(f"redis+cluster://{hosts[0]}/0")
    works(each)
    at = {f"of/{n}": each.append(f"of/{n}", b"one") for n in range(20)}
    assert all(node.client().dbsize() for node in nodes), "they live on several"
    news = heard(each, {name: Position("", 0) for name in at})
    wait_until(lambda: news.update(each.wait()) or len(news) == 20, "all of it")
    assert {name: piece.log for name, piece in news.items()} == {
        name: position.log for name, position in at.items()
    }

    # One node fails and comes back.
    follower = Follower(each, "of/7")
    loop = next(node for node in nodes if node.client().keys("ssestream:{of/7}"))
    loop.kill()
    thread, result = in_thread(lambda: each.append("of/7", b"two"))
    loop.start()
    thread.join(60)
    assert [position[:2] for position in result] == [(at["of/7"].log, 2)]
    wait_until(lambda: follower.frames == [b"one", b"two"], "what came meanwhile")
    follower.stop()
