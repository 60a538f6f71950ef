"""Streams that are sent to together, and what takes one of them out of it."""

import itertools
import random
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original
from werkzeug.test import EnvironBuilder

from ssestream import Channels, ServerResponse, SseStream
from ssestream.brokers.broker import Entry, Position
from ssestream.channels.ids import parse_id
from ssestream.channels.publication import Batch, Publication
from ssestream.gunicorn import flush
from ssestream.gunicorn.cohort import GroupedSender
from ssestream.http.connection import Connection
from ssestream.http.outgoing import body_of
from ssestream.settings import Settings
from ssestream.stream import flow_of
from ssestream.wire import Decoder, id_block
from tests.kit.following import data_of, numbers
from tests.kit.insides import listener_of
from tests.kit.visit import as_a_greenlet, until

QUIET = Settings(heartbeat=None)


pytestmark = pytest.mark.usefixtures("greenlets_listen")


class Direct:
    """A client, and the stream that is sent to it with no server between."""

    def __init__(
        self, channels: Channels, *names: str, pushing: type = SseStream, **options: Any
    ) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        environ = {**EnvironBuilder().get_environ(), "gunicorn.socket": theirs}
        self.stream: SseStream = pushing(environ)
        self.response = ServerResponse()
        self.stream.pipe(self.response)
        body_of(self.response).open(Connection.of(environ), QUIET)
        own = body_of(self.response).connection.take_over()
        theirs.close()
        self.over: list[Any] = []
        self.sender = GroupedSender(body_of(self.response), own, True, self.over.append)
        self.sender.begin(b"")
        self._decoder = Decoder()
        self._received = b""
        self.messages: list[dict[str, Any]] = []
        until(lambda: self._read() or b":ok\n\n" in self._body, "the opening")
        channels.subscribe(self.stream, *names, **options)
        until(lambda: self._read() or b"\nid: " in self._body, "its place")

    _body = b""

    def _read(self) -> None:
        """What has come, without waiting for more."""
        try:
            while data := self.sock.recv(65536):
                self._received += data
        except BlockingIOError:
            pass
        while b"\r\n" in self._received:
            size, _, rest = self._received.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                return
            self._body += rest[:length]
            decoded = self._decoder.feed(rest[:length])
            self.messages += [message for message in decoded if "data" in message]
            assert rest[length : length + 2] == b"\r\n"
            self._received = rest[length + 2 :]

    def was_sent(self, data: bytes) -> bool:
        """Whether *data* is in all that has come."""
        self._read()
        return data in self._body

    def take(self, count: int) -> list[str]:
        """The data of the first *count* messages, waited for."""
        until(lambda: self._read() or len(self.messages) >= count, f"{count} messages")
        assert len(self.messages) == count
        return data_of(self.messages)

    def last_id(self) -> str:
        self._read()
        return re.findall(rb"^id: (.*)$", self._body, re.MULTILINE)[-1].decode()

    @property
    def cohort(self) -> Any:
        cursor = self.sender.cursor
        return None if cursor is None else cursor.place

    def close(self) -> None:
        self.sock.close()


def check_places(channels: Channels, name: str = "news") -> None:
    """Whoever is live is either in a cohort or apart, and nobody else is in either."""
    feed = listener_of(channels).tails.get(name)
    if feed is not None:
        together = {cursor for cohort in feed.groups for cursor in cohort.members}
        assert not together & feed.apart
        assert together | feed.apart == feed.live
        assert feed.live <= feed.cursors


@as_a_greenlet
def test_who_was_sent_the_same_is_in_one_cohort() -> None:
    channels = begun()
    clients = [Direct(channels, "news") for _ in range(5)]
    channels.publish("news", {"data": "1"})
    for client in clients:
        assert client.take(1) == ["1"]
    assert clients[0].cohort is not None
    assert len({id(client.cohort) for client in clients}) == 1
    # A broadcast need not look at any of them by itself.
    assert listener_of(channels).tails.get("news").apart == set()
    check_places(channels)
    channels.publish("news", {"data": "2"})
    for client in clients:
        assert client.take(2) == ["1", "2"]
        assert client.messages[-1]["id"] == clients[0].messages[-1]["id"]
    statistics = channels.statistics()["news"]
    assert (statistics.subscribers, statistics.delivered, statistics.lagging) == (5, 10, 0)
    sent = len(b"id: \ndata: 1\n\n") + len(clients[0].messages[0]["id"])
    place = len(b"id: \n\n") + len(clients[0].messages[0]["id"])
    assert body_of(clients[0].response).sent() == (2, len(b":ok\n\n") + place + 2 * sent)
    for client in clients:
        client.close()


@as_a_greenlet
def test_a_cohort_is_no_larger_than_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssestream.gunicorn.cohort.STREAMS_AT_ONCE", 3)
    channels = begun()
    clients = [Direct(channels, "news") for _ in range(8)]
    for number in range(1, 4):
        channels.publish("news", {"data": str(number)})
        for client in clients:
            assert client.take(number) == numbers(1, number + 1)
    cohorts = {id(client.cohort): client.cohort for client in clients}
    assert sorted(len(cohort.members) for cohort in cohorts.values()) == [2, 3, 3]
    # Who leaves makes room for who comes.
    clients.pop().close()
    clients.append(Direct(channels, "news"))
    until(lambda: channels.channel("news").subscribers == 8, "the one who left")
    channels.publish("news", {"data": "last"})
    assert clients[-1].take(1) == ["last"]
    assert len({id(client.cohort) for client in clients}) == 3
    for client in clients:
        client.close()


@as_a_greenlet
def test_what_is_written_meanwhile_comes_in_its_order() -> None:
    channels = begun()
    one, other = Direct(channels, "news"), Direct(channels, "news")
    for number in range(50):
        channels.publish("news", {"data": f"news {number}"})
        one.stream.write({"data": f"own {number}"})
        other.take(number + 1)
    seen = one.take(100)
    own, news = ([f"{kind} {number}" for number in range(50)] for kind in ("own", "news"))
    assert [each for each in seen if each in own] == own
    assert [each for each in seen if each in news] == news
    # What is published goes by way of the listener, so that what is written is first.
    assert all(seen.index(first) < seen.index(then) for first, then in zip(own, news, strict=True))
    assert other.take(50) == news
    # Its own went with the flush of a turn, and took it out of the cohort.
    assert body_of(one.response).sent()[0] == 100
    assert body_of(other.response).sent()[0] == 50
    assert channels.statistics()["news"].delivered == 100
    one.close()
    other.close()


def leaves(how: str, channels: Channels, client: Direct) -> None:
    if how == "unsubscribe":
        channels.unsubscribe(client.stream, "news")
    elif how == "another channel":
        channels.subscribe(client.stream, "sports")
    elif how == "unpipe":
        client.stream.unpipe()
    elif how == "a second pipe":
        client.stream.pipe(SecondDestination())
    elif how == "end":
        client.stream.end()
    elif how == "destroy":
        client.stream.destroy()
    elif how == "a write":
        client.stream.write({"data": "x"})
    elif how == "a beat":
        assert body_of(client.response).buffer.put_into_silence(b":\n")
    else:
        assert how == "the client"
        client.close()
        until(lambda: client.response.closed, "its departure")


def begun(**options: Any) -> Channels:
    """Channels with a log that all begin behind."""
    channels = Channels(**options)
    channels.publish("news", {"data": "before"})
    return channels


class SecondDestination:
    def write(self, chunk: bytes) -> None:
        pass


HOW = [
    "unsubscribe",
    "another channel",
    "unpipe",
    "a second pipe",
    "end",
    "destroy",
    "a write",
    "a beat",
    "the client",
]


@pytest.mark.parametrize("how", HOW)
@as_a_greenlet
def test_whatever_else_happens_to_one_takes_it_out(how: str) -> None:
    channels = begun()
    clients = [Direct(channels, "news") for _ in range(3)]
    channels.publish("news", {"data": "1"})
    for client in clients:
        client.take(1)
    cohort = clients[1].cohort
    assert len(cohort.members) == 3
    leaves(how, channels, clients[1])
    assert clients[1].cohort is None
    assert len(cohort.members) == 2
    check_places(channels)
    channels.publish("news", {"data": "2"})
    for client in (clients[0], clients[2]):
        assert client.take(2) == ["1", "2"]
    for client in clients:
        client.close()


@as_a_greenlet
def test_one_that_takes_no_more_is_left_behind_and_loses_nothing() -> None:
    channels = begun()
    slow, quick = Direct(channels, "news"), Direct(channels, "news")
    text = "x" * 8000
    for number in range(200):
        channels.publish("news", {"data": f"{number} {text}"})
        quick.take(number + 1)
    assert slow.cohort is None
    assert quick.cohort is not None
    assert body_of(slow.response).buffer.length > 0
    assert slow.take(200) == quick.take(200)
    until(lambda: channels.statistics()["news"].lagging == 0, "the slow one to be live")
    assert channels.statistics()["news"].delivered == 400
    until(
        lambda: body_of(slow.response).sent() == body_of(quick.response).sent(),
        "the registry to agree",
    )
    channels.publish("news", {"data": "last"})
    assert slow.take(201)[-1] == quick.take(201)[-1] == "last"
    assert slow.cohort is not None
    check_places(channels)
    slow.close()
    quick.close()


@as_a_greenlet
@pytest.mark.parametrize("when", ["together", "apart"])
def test_one_for_which_nothing_can_be_kept_breaks_off_and_no_other(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the next chunk of the others would follow the middle of this one."""
    channels = begun()
    clients = [Direct(channels, "news") for _ in range(4)]
    text = "x" * 8000
    sent = 0
    if when == "together":
        channels.publish("news", {"data": f"0 {text}"})
        sent = 1
        for client in clients:
            client.take(1)
        assert len({id(client.cohort) for client in clients}) == 1
    bad, *others = clients
    connection = body_of(bad.response).connection
    # The kernel will not say when there is room.
    connection._watch._epoll.unregister(connection._fd)
    for number in range(sent, 200):
        channels.publish("news", {"data": f"{number} {text}"})
        gevent.sleep(0)
    until(lambda: bad.over, "its end")
    assert "its stream failed" in caplog.text
    for client in others:
        assert client.take(200) == [f"{number} {text}" for number in range(200)]
    until(lambda: channels.statistics()["news"].subscribers == 3, "the others to stay")
    check_places(channels)
    for client in clients:
        client.close()


class Interrupted:
    """A socket during whose first send something else happens, in another thread."""

    def __init__(self, sock: Any, meanwhile: Callable[[], object]) -> None:
        self._sock = sock
        self._meanwhile: Callable[[], object] | None = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def send(self, *args: Any) -> int:
        sent: int = self._sock.send(*args)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            # Not gevent's, which would give way.
            thread = get_original("threading", "Thread")(target=meanwhile)
            thread.start()
            thread.join()
        return sent


@pytest.mark.parametrize("how", ["unsubscribe", "unpipe", "another channel"])
@as_a_greenlet
def test_who_is_taken_out_while_it_is_sent_to_is_in_no_cohort(how: str) -> None:
    channels = begun()
    client, other = Direct(channels, "news"), Direct(channels, "news")
    sock = client.sender.sock

    def leave() -> None:
        client.sender.sock = sock
        leaves(how, channels, client)

    client.sender.sock = Interrupted(sock, leave)
    channels.publish("news", {"data": "1"})
    assert other.take(1) == ["1"]
    assert client.take(1) == ["1"]
    assert client.cohort is None
    check_places(channels)
    channels.publish("news", {"data": "2"})
    assert other.take(2) == ["1", "2"]
    if how == "another channel":
        assert client.take(2) == ["1", "2"]
    else:
        gevent.idle()
        client.take(1)
    client.close()
    other.close()


@pytest.mark.parametrize("known", [True, False])
@as_a_greenlet
def test_who_follows_one_more_channel_while_it_is_sent_to_gets_an_id_with_both(known: bool) -> None:
    channels = begun()
    if known:
        channels.publish("sports", {"data": "before"})
    client = Direct(channels, "news")
    sock = client.sender.sock

    def follow() -> None:
        client.sender.sock = sock
        channels.subscribe(client.stream, "sports")

    client.sender.sock = Interrupted(sock, follow)
    channels.publish("news", {"data": "1"})
    assert client.take(1) == ["1"]
    other = Direct(channels, "news", "sports")
    positions = parse_id(other.last_id())
    until(lambda: parse_id(client.last_id()) == positions, "its id")
    client.close()
    other.close()


@as_a_greenlet
def test_what_was_sent_directly_counts_as_written() -> None:
    """Or nobody would look whether it is taken."""
    channels = begun()
    early = Direct(channels, "news")
    channels.publish("news", {"data": "1"})
    early.take(1)
    late = Direct(channels, "news")
    before = time.monotonic()
    channels.publish("news", {"data": "2"})
    assert late.take(1) == ["2"]
    assert late.cohort is early.cohort
    assert body_of(late.response).buffer.written_at >= before
    for client in (early, late):
        client.close()


@as_a_greenlet
def test_an_id_that_waits_for_an_event_by_hand_does_not_follow_a_newer_one() -> None:
    channels = begun()
    client = Direct(channels, "news")
    buffer = body_of(client.response).buffer
    client.response.write("data: by hand\n")
    flow_of(client.stream).write_uncounted(id_block("waits"))
    until(lambda: not buffer.length and buffer.waiting_reader, "all to be sent")
    assert not client.was_sent(b"waits")
    channels.publish("news", {"data": "1"})
    assert client.take(1) == ["by hand\n1"]
    assert client.cohort is not None
    client.response.write("data: whole\n\n")
    assert client.take(2)[1] == "whole"
    assert not client.was_sent(b"waits")
    # It knows that no event is half written: a block comes at once.
    flow_of(client.stream).write_uncounted(id_block("comes"))
    until(lambda: client.was_sent(b"id: comes\n\n"), "the id")
    client.close()


@as_a_greenlet
def test_a_push_of_ones_own_sees_all() -> None:
    class Seeing(SseStream):
        def push(self, frame: bytes) -> bool:
            seen.append(frame)
            return super().push(frame)

    seen: list[bytes] = []
    channels = begun()
    client = Direct(channels, "news", pushing=Seeing)
    for number in range(1, 4):
        channels.publish("news", {"data": str(number)})
        client.take(number)
    assert len(seen) == 3
    client.close()


@pytest.mark.parametrize("seed", range(4))
@as_a_greenlet
def test_any_mix_from_any_thread_comes_whole_and_in_order(seed: int) -> None:
    chance = random.Random(seed)
    channels = begun(history=100_000)
    clients = [Direct(channels, "news") for _ in range(4)]
    plan = [(chance.randrange(3), chance.randrange(4)) for _ in range(400)]

    def write(kind: int) -> None:
        for index, (what, which) in enumerate(plan):
            if what == 0:
                channels.publish("news", {"data": f"{kind} all {index}"})
            else:
                clients[which].stream.write({"data": f"{kind} one {index}"})
            if index % 50 == 0:
                gevent.sleep(0)

    threads = [gevent.get_hub().threadpool.spawn(write, kind) for kind in (1, 2)]
    write(0)
    for thread in threads:
        thread.get()
    for which, client in enumerate(clients):
        mine = [index for index, (what, who) in enumerate(plan) if what != 0 and who == which]
        to_all = [index for index, (what, _) in enumerate(plan) if what == 0]
        got = client.take(3 * (len(mine) + len(to_all)))
        for kind, (word, expected) in itertools.product(range(3), (("all", to_all), ("one", mine))):
            begin = f"{kind} {word} "
            assert [text for text in got if text.startswith(begin)] == [
                f"{begin}{index}" for index in expected
            ]
    check_places(channels)
    for client in clients:
        client.close()


def joined(count: int) -> tuple[Channels, list[Direct]]:
    """So many clients in one cohort. Each has got one event."""
    channels = begun()
    clients = [Direct(channels, "news") for _ in range(count)]
    channels.publish("news", {"data": "1"})
    for client in clients:
        assert client.take(1) == ["1"]
    assert len({id(client.cohort) for client in clients}) == 1
    assert clients[0].cohort is not None
    return channels, clients


def leave_together(channels: Channels, clients: list[Direct], data: list[str]) -> None:
    """Each of *clients* has got *data*, gets one more event in the same cohort, and leaves."""
    channels.publish("news", {"data": "last"})
    for client in clients:
        assert client.take(len(data) + 1) == [*data, "last"]
    assert len({id(client.cohort) for client in clients}) == 1
    assert clients[0].cohort is not None
    assert len({body_of(client.response).sent()[0] for client in clients}) == 1
    check_places(channels)
    for client in clients:
        client.close()


@as_a_greenlet
def test_one_that_leaves_has_its_position_and_its_counts() -> None:
    channels, (one, other) = joined(2)
    for number in range(2, 6):
        channels.publish("news", {"data": str(number)})
        one.take(number)
    cursor, cohort = one.sender.cursor, one.cohort
    assert cursor is not None
    before = body_of(one.response).sent()
    one.sender.leave()
    assert one.cohort is None
    assert cursor.position == cohort.position
    assert body_of(one.response).sent() == before == body_of(other.response).sent()
    assert channels.statistics()["news"].delivered == 10
    # The others go on, and what they get counts for them alone.
    cursor.complicate()
    channels.publish("news", {"data": "6"})
    assert one.take(6) == other.take(6) == numbers(1, 7)
    assert one.cohort is None
    assert cursor.position == cohort.position
    assert body_of(one.response).sent()[0] == body_of(other.response).sent()[0] == 6
    assert channels.statistics()["news"].delivered == 12
    for client in (one, other):
        client.close()


@as_a_greenlet
def test_one_that_joins_has_counts_of_its_own() -> None:
    channels, clients = joined(2)
    for number in range(2, 5):
        channels.publish("news", {"data": str(number)})
        clients[0].take(number)
    late = Direct(channels, "news")
    channels.publish("news", {"data": "5"})
    late.take(1)
    channels.publish("news", {"data": "6"})
    assert late.take(2) == ["5", "6"]
    assert late.cohort is clients[0].cohort
    for client in clients:
        assert client.take(6) == numbers(1, 7)
        assert body_of(client.response).sent()[0] == 6
    assert body_of(late.response).sent()[0] == 2
    assert channels.statistics()["news"].delivered == 14
    for client in (*clients, late):
        client.close()


@as_a_greenlet
def test_one_that_leaves_in_another_thread_was_sent_all_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channels, clients = joined(3)
    first, leaver = clients[0].sender.sock, clients[1]
    thread = get_original("threading", "Thread")(target=leaver.sender.leave)
    real = flush.socket_send

    def send(sock: Any, chunk: bytes, flags: int) -> int:
        if sock is first and thread.ident is None:
            thread.start()
            thread.join(0.05)
            # It waits until all members were sent the batch.
            assert thread.is_alive()
            assert len(leaver.cohort.members) == 3
        return real(sock, chunk, flags)

    monkeypatch.setattr(flush, "socket_send", send)
    cohort = leaver.cohort
    channels.publish("news", {"data": "2"})
    for client in clients:
        assert client.take(2) == ["1", "2"]
    thread.join()
    assert leaver.cohort is None
    assert len(cohort.members) == 2
    leave_together(channels, clients, ["1", "2"])


@as_a_greenlet
def test_one_that_takes_half_a_chunk_gets_the_rest_and_comes_back() -> None:
    channels, clients = joined(3)
    slow = clients[1]
    slow.sender.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    text = "x" * 12_000
    channels.publish("news", {"data": text})
    assert clients[0].take(2) == clients[2].take(2) == ["1", text]
    assert slow.cohort is None
    assert len(clients[0].cohort.members) == 2
    # It counts as waiting until the kernel has all of it.
    buffer = body_of(slow.response).buffer
    assert buffer.length > 12_000
    assert body_of(slow.response).sent()[0] == 1
    assert slow.take(2) == ["1", text]
    until(lambda: not buffer.length, "the rest to be sent")
    leave_together(channels, clients, ["1", text])


@pytest.mark.parametrize("which", range(3))
@as_a_greenlet
def test_one_with_a_broken_socket_ends_alone(which: int) -> None:
    channels, clients = joined(3)
    broken = clients.pop(which)
    broken.sender.sock.shutdown(socket.SHUT_WR)
    channels.publish("news", {"data": "2"})
    for client in clients:
        assert client.take(2) == ["1", "2"]
    until(lambda: broken.over, "its end")
    assert body_of(broken.response).sent()[0] == 1
    until(lambda: channels.channel("news").subscribers == 2, "it to be gone")
    leave_together(channels, clients, ["1", "2"])
    broken.close()


@pytest.mark.parametrize("what", ["a batch", "the loop"])
@as_a_greenlet
def test_a_cohort_that_has_missed_something_sends_nothing_and_parts(what: str) -> None:
    channels, clients = joined(3)
    cohort = clients[0].cohort
    before, loop = cohort.position, body_of(clients[0].response).call_queue.loop
    if what == "a batch":
        before = Position(before.log, before.number + 1)
    else:
        loop = None
    frame = b"data: x\n\n"
    missed = Publication(before.log, Entry(before.number + 1, frame))
    assert cohort.send(Batch(before, missed, [frame]), loop, 0.0) == 0
    assert not cohort
    assert {client.cohort for client in clients} == {None}
    check_places(channels)
    leave_together(channels, clients, ["1"])


@as_a_greenlet
def test_an_event_that_is_too_large_for_a_batch_reaches_each_member() -> None:
    channels, clients = joined(3)
    text = "x" * 20_000
    channels.publish("news", {"data": text})
    for client in clients:
        assert client.take(2) == ["1", text]
        assert client.cohort is None
    for client in clients:
        until(lambda client=client: not body_of(client.response).buffer.length, "it to be sent")
    leave_together(channels, clients, ["1", text])


@as_a_greenlet
def test_one_with_a_filter_is_in_no_cohort() -> None:
    channels, clients = joined(2)
    odd = Direct(channels, "news", filter=lambda message: int(str(message["data"])) % 2)
    for number in range(2, 8):
        channels.publish("news", {"data": str(number)})
        for client in clients:
            client.take(number)
        assert odd.cohort is None
    assert odd.take(3) == ["3", "5", "7"]
    assert len(clients[0].cohort.members) == 2
    check_places(channels)
    for client in (*clients, odd):
        client.close()
