"""Slow clients, brokers that are away, and all of it at once."""

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssestream import BrokerError, Channels, SseStream
from ssestream.brokers.broker import PLAIN, News, Position, Slice, Terms
from ssestream.brokers.memory import MemoryBroker
from ssestream.channels import listener
from ssestream.wire import Decoder, encode, is_frame
from tests.kit.following import Client, Following, all_live, data_of, numbers, publish
from tests.kit.insides import exchange_of, listener_of, over
from tests.kit.programs import run_program
from tests.kit.promptness import at_best
from tests.kit.states import idle
from tests.kit.visit import in_greenlet, on_threads_and_greenlets, until


class Breakable(MemoryBroker):
    """One that can be away: *fails* says for which calls ("append", "read", "wait")."""

    def __init__(self, history: int = 1000) -> None:
        super().__init__(history, None)
        self.fails: set[str] = set()
        self.tried: list[tuple[str, float]] = []

    def _check(self, what: str) -> None:
        if what in self.fails:
            self.tried.append((what, time.monotonic()))
            raise BrokerError(f"no {what} today")

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        self._check("append")
        return super().append(channel, frame, terms)

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        self._check("read")
        return super().read(channel, after, limit, max_bytes)

    def wait(self) -> News:
        self._check("wait")
        found = super().wait()
        try:
            self._check("wait")
        except BrokerError:
            # An error takes no news away.
            for name, piece in found.items():
                if isinstance(piece, Slice) and piece.after is not None:
                    self.follow(name, piece.after)
            raise
        return found

    def leave(self, *calls: str) -> None:
        """Be away, also for one who waits already."""
        self.fails = set(calls or ("append", "read", "wait"))
        self.wake()

    def come_back(self) -> None:
        self.fails = set()

    def elsewhere(self, name: str, *span: int) -> None:
        """Another host, which has a broker, publishes."""
        for number in range(*span):
            MemoryBroker.append(self, name, b"event: %b\ndata: %d\n\n" % (name.encode(), number))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SOONEST", 0.01)
    monkeypatch.setattr(listener, "LATEST", 0.08)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@on_threads_and_greenlets
def test_news_that_is_late_is_none_for_who_has_come_meanwhile() -> None:
    """The last one of a channel has left while its news was on its way, and another came."""
    broker = Breakable()
    channels = over(broker)
    publish(channels, "news", 5)
    app = Following(channels, "news")
    with Client(app) as first:
        all_live(channels)
        waits, held, go_on = threading.Event(), threading.Event(), threading.Event()
        wait = broker.wait

        def late() -> News:
            waits.set()
            found = wait()
            if found and not go_on.is_set():
                held.set()
                until(go_on.is_set, "the others")
            return found

        broker.wait = late  # type: ignore[method-assign]
        broker.wake()
        until(waits.is_set, "the listener")
        publish(channels, "news", 5, 7)
        until(held.is_set, "the news")
    until(lambda: not channels.statistics(), "the first to be gone")
    publish(channels, "news", 7, 8)
    with Client(app) as second:
        go_on.set()
        publish(channels, "news", 8, 10)
        assert data_of(second.take(2)) == numbers(8, 10)
        all_live(channels)
        publish(channels, "news", 10, 11)
        assert data_of(second.take(3)) == numbers(8, 11)
    assert app.gaps == []
    assert first.messages == []


# -- slow clients


@on_threads_and_greenlets
def test_a_slow_client_holds_half_its_bounds_at_most_and_gets_everything() -> None:
    channels = Channels(history=5000)
    app = Following(channels, "news", stream={"max_messages": 100, "max_bytes": 40_000})
    with Client(app, send_buffer=4096) as slow, Client(app) as fast:
        for number in range(2000):
            channels.publish("news", {"data": f"{number:0500}"})
            if number % 20 == 0:
                fast.take(number)
        assert data_of(fast.take(2000)) == [f"{n:0500}" for n in range(2000)]
        until(lambda: channels.statistics()["news"].lagging == 1, "one to lag")
        assert data_of(slow.take(2000)) == [f"{n:0500}" for n in range(2000)]
        all_live(channels)
        publish(channels, "news", 1)
        assert slow.take(2001)[-1]["data"] == "0"
        for stream in app.streams:
            assert stream.most_messages <= 51
            assert stream.most_bytes <= 20_000 + 600
    assert app.gaps == []


def test_a_client_that_is_slow_in_messages_is_bounded_in_messages() -> None:
    channels = Channels(history=5000)
    app = Following(channels, "news", stream={"max_messages": 100})
    with Client(app, send_buffer=4096) as slow:
        publish(channels, "news", 3000)
        assert data_of(slow.take(3000)) == numbers(3000)
        assert 0 < app.streams[0].most_messages <= 51


@on_threads_and_greenlets
def test_messages_of_a_megabyte_arrive_also_at_a_slow_client() -> None:
    channels = Channels()
    app = Following(channels, "news")
    with Client(app, send_buffer=65536) as slow, Client(app) as fast:
        # So many that it was told to wait, then what is larger than may wait.
        publish(channels, "news", 100)
        for number in range(8):
            channels.publish("news", {"data": chr(97 + number) * 1_000_000})
            publish(channels, "news", 20)
        expected = numbers(100)
        for number in range(8):
            expected += [chr(97 + number) * 1_000_000, *numbers(20)]
        assert data_of(fast.take(len(expected))) == expected
        assert data_of(slow.take(len(expected))) == expected
        for stream in app.streams:
            assert stream.most_bytes < 2_000_000
    assert app.gaps == []


@pytest.mark.parametrize("policy", ["close", "drop-oldest", "error"])
def test_no_policy_for_what_waits_ever_touches_a_channel(policy: str) -> None:
    channels = Channels()
    app = Following(channels, "news", stream={"max_messages": 20, "overflow": policy})
    with Client(app, send_buffer=4096) as slow:
        for number in range(300):
            channels.publish("news", {"data": f"{number:01000}"})
        assert len(set(data_of(slow.take(300)))) == 300


def test_one_who_is_so_slow_that_it_falls_out_of_the_history_is_told() -> None:
    channels = Channels(history=50)
    app = Following(channels, "news", stream={"max_messages": 20}, on_gap=lambda name: "snapshot")
    with Client(app, send_buffer=4096) as slow, Client(app) as fast:
        for number in range(500):
            channels.publish("news", {"data": f"{number:01000}"})
            fast.take(number + 1)
        until(lambda: channels.statistics()["news"].lagging == 1, "one to lag")
        messages = slow.take(50)
        while messages[-1]["data"] != f"{499:01000}":
            messages = slow.take(len(messages) + 1)
        # On a busy machine the kernel may take more for the slow client in the middle. The client
        # then falls out of the history once more.
        parts: list[list[int]] = [[]]
        for data in data_of(messages):
            if data == "snapshot":
                parts.append([])
            else:
                parts[-1].append(int(data))
        for part in parts:
            assert all(after == before + 1 for before, after in itertools.pairwise(part))
        assert parts[0][0] == 0
        assert parts[-1] == list(range(450, 500))
        found = [number for part in parts for number in part]
        assert found == sorted(set(found))
        gaps = len(parts) - 1
        assert gaps >= 1
        assert channels.statistics()["news"].gaps == gaps
    assert app.gaps == ["news"] * gaps


@pytest.mark.long
@on_threads_and_greenlets
def test_many_slow_clients_beside_fast_ones() -> None:
    channels = Channels(history=3000)
    # On a busy machine the slow ones wait for longer than a send timeout.
    app = Following(channels, "news", stream={"max_messages": 50, "send_timeout": None})
    slow = [Client(app, send_buffer=4096) for _ in range(20)]
    fast = [Client(app) for _ in range(20)]
    for number in range(1000):
        channels.publish("news", {"data": f"{number:0200}"})
        if number % 10 == 9:
            for client in fast:
                client.take(number + 1)
    expected = [f"{number:0200}" for number in range(1000)]
    turns = random.Random(3)
    behind = dict.fromkeys(slow, 0)
    while behind:
        client = turns.choice(list(behind))
        behind[client] = min(1000, behind[client] + turns.randrange(1, 300))
        client.take(behind[client])
        if behind[client] == 1000:
            del behind[client]
    for client in [*slow, *fast]:
        assert data_of(client.messages) == expected
        client.fin()
    idle(channels)
    assert app.gaps == []


# -- a broker that is away


@on_threads_and_greenlets
def test_while_the_broker_is_away_streams_stay_open_and_then_catch_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = Breakable()
    channels = over(broker)
    app = Following(channels, "news")
    with Client(app) as client:
        last_id = publish(channels, "news", 3)[1]
        client.take(3)
        until(lambda: channels.state == "listening", "the listener")
        broker.leave()
        until(lambda: channels.state == "down", "it to be seen")
        with pytest.raises(BrokerError):
            channels.publish("news", {"data": "lost"})
        broker.elsewhere("news", 3, 6)
        with Client(app) as newcomer, Client(app, last_id=last_id) as again:
            until(lambda: len(broker.tried) > 8, "it to be tried again")
            broker.come_back()
            assert data_of(client.take(6)) == numbers(6)
            assert data_of(again.take(4)) == numbers(2, 6)
            until(lambda: channels.state == "listening", "it to be back")
            all_live(channels)
            publish(channels, "news", 6, 8)
            assert data_of(client.take(8)) == numbers(8)
            assert data_of(again.take(6)) == numbers(2, 8)
            assert data_of(newcomer.take(2)) == ["6", "7"]
    down, back = warnings(caplog)
    assert "no " in down
    assert "back" in back
    assert app.gaps == []


def test_the_broker_is_tried_at_growing_intervals_that_are_at_random() -> None:
    def first_pauses() -> float:
        broker = Breakable()
        channels = over(broker)
        broker.leave()
        stream = SseStream()
        channels.subscribe(stream, "news")
        until(lambda: len(broker.tried) > 14, "it to be tried again")
        times = [at for _, at in broker.tried]
        pauses = [after - before for before, after in itertools.pairwise(times[2:])]
        assert min(pauses[-4:]) > 0.03
        assert len({round(pause, 4) for pause in pauses[-5:]}) > 1
        broker.come_back()
        stream.destroy()
        idle(channels)
        return max(pauses[:2])

    at_best(first_pauses, 0.03 + 0.05)


@pytest.mark.parametrize("calls", [("wait",), ("read",), ("read", "wait"), ("append",)])
def test_whatever_fails_all_is_well_when_it_is_back(
    calls: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of waiting, of catching up, of finding the end of the log."""
    broker = Breakable()
    channels = over(broker)
    ids = publish(channels, "news", 600)
    app = Following(channels, "news", stream={"max_messages": 20})
    with Client(app) as live, Client(app, send_buffer=4096, last_id=ids[0]) as slow:
        publish(channels, "news", 600, 601)
        live.take(1)
        for turn in range(5):
            broker.leave(*calls)
            tried = len(broker.tried)
            broker.elsewhere("news", 601 + turn, 602 + turn)
            with Client(app, "/?names=news,other", ids[-1]) as newcomer:
                if calls != ("append",):
                    until(lambda tried=tried: len(broker.tried) > tried, "a failure")  # type: ignore[misc]
                broker.come_back()
                slow.take(100 * turn + 50)
                assert data_of(newcomer.take(2 + turn)) == numbers(600, 602 + turn)
                # In the other it begins when the broker can say where that ends.
                until(lambda: not channels.channel("other").statistics().lagging, "that")
                channels.publish("other", {"data": turn})
                assert newcomer.take(3 + turn)[-1]["data"] == str(turn)
        assert data_of(live.take(6)) == numbers(600, 606)
        assert data_of(slow.take(605)) == numbers(1, 606)
    assert app.gaps == []
    idle(channels)


def test_a_reader_that_fails_alone_is_not_forgotten() -> None:
    """The listener waits all the while, and has no error of its own."""
    broker = Breakable()
    channels = over(broker)
    ids = publish(channels, "news", 500)
    app = Following(channels, "news")
    with Client(app):
        until(lambda: channels.state == "listening", "the listener")
        read, failures = broker.read, [1, 1, 1]

        def failing(channel: str, after: int, limit: int, max_bytes: int) -> Slice:
            if limit and failures:
                failures.pop()
                raise BrokerError("not now")
            return read(channel, after, limit, max_bytes)

        broker.read = failing  # type: ignore[method-assign]
        with Client(app, last_id=ids[9]) as client:
            assert data_of(client.take(490)) == numbers(10, 500)
        assert not failures


def test_a_broker_that_is_down_all_along_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Also where asking it works, and waiting does not."""
    broker = Breakable()
    channels = over(broker)
    broker.leave()
    stream = SseStream()
    channels.subscribe(stream, "news")
    until(lambda: len(broker.tried) > 10, "it to be tried again")
    assert len(warnings(caplog)) == 1
    assert channels.state == "down"
    stream.destroy()
    idle(channels)


def test_a_log_that_begins_anew_is_a_gap_also_for_those_who_are_there() -> None:
    broker = MemoryBroker(1000, None)
    channels = over(broker)
    app = Following(channels, "news", "other", on_gap=lambda name: f"all of {name}", key="k")
    with Client(app) as client:
        publish(channels, "news", 5)
        client.take(5)
        broker._logs.clear()
        broker._identity = "0badcafe"
        publish(channels, "news", 2)
        assert data_of(client.take(8))[5:] == ["all of news", "0", "1"]
        # Its numbers are those of another log: this is not an old cut.
        channels.cut("news", "k")
        assert len(client.all()) == 8
    assert app.gaps == ["news"]


NO_MESSAGES = (
    b"",
    b"event: no end of line",
    b"data: no blank line\n",
    b"data: one\n\ndata: two\n\n",
    b"data: one\rdata: two\n\n",
    b"event: x\nid: 7\ndata: x\n\n",
    b"data: x\nid\n\n",
    b"id: 7\n\n",
    b"data: \xff\n\n",
    b"hello\n\n",
    b"\n\n",
)


@pytest.mark.parametrize("frame", NO_MESSAGES)
def test_what_is_no_message_is_left_out_and_told_once(
    frame: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It harms no event before or after it: for a live stream, one that comes back, a filter."""
    broker = MemoryBroker(1000, None)
    channels = over(broker)
    last_id = publish(channels, "news", 1)[0]
    app, both = Following(channels, "news"), Following(channels, "news", "other")
    filtered = Following(channels, "news", filter=lambda message: True)
    with Client(app) as live, Client(both) as other, Client(filtered) as third:
        all_live(channels)
        publish(channels, "news", 1, 2)
        broker.append("news", frame)
        publish(channels, "news", 2, 3)
        for client in (live, other, third):
            assert client.take(2) == client.messages
            assert data_of(client.messages) == ["1", "2"]
        # Large ones go another way.
        broker.append("news", frame)
        channels.publish("news", {"data": "x" * 20_000})
        assert len(live.take(3)[2]["data"]) == 20_000
    with Client(app, last_id=last_id) as again, Client(both, last_id=last_id) as other:
        for client in (again, other):
            assert data_of(client.take(3))[:2] == ["1", "2"]
    assert len(channels.history("news")) == 4
    assert len(warnings(caplog)) == 1
    assert "is not a message" in warnings(caplog)[0]
    assert app.gaps == both.gaps == []


@pytest.mark.parametrize(
    "message",
    [
        {"data": ""},
        {"data": "\n\n"},
        {"data": "a\r\nb\rc\n"},
        {"data": "\nid: 7"},
        {"comment": "id: 7\n\nx"},
        {"event": "id", "data": "é\x85\u2028"},
        {"retry": 0},
        {"comment": "a", "event": "b", "retry": 7, "data": {"id": "\n"}},
    ],
)
def test_whatever_is_a_message_is_none_of_these(message: dict[str, Any]) -> None:
    assert is_frame(encode(message))


# -- one who is cut while nobody could hear it


def test_who_may_have_missed_its_cut_is_ended_and_asked_anew() -> None:
    broker = Breakable(history=10)
    channels = over(broker)
    with (
        Client(Following(channels, "news", key="k")) as keyed,
        Client(Following(channels, "news")) as other,
    ):
        publish(channels, "news", 1)
        keyed.take(1)
        other.take(1)
        until(lambda: channels.state == "listening", "the listener")
        broker.leave("wait")
        until(lambda: channels.state == "down", "it to be seen")
        channels.cut("news", "k")
        publish(channels, "news", 1, 30)
        broker.come_back()
        assert keyed.all()[0]["data"] == "0"
        assert data_of(other.take(11)) == ["0", *numbers(20, 30)]


def nobody_is_behind(channels: Channels) -> bool:
    return not any(each.lagging for each in channels.statistics().values())


@pytest.mark.parametrize("calls", [("read",), ("read", "wait")])
def test_a_cut_is_not_lost_on_who_subscribed_before_it_while_the_broker_could_not_be_read(
    calls: tuple[str, ...],
) -> None:
    broker = Breakable()
    channels = over(broker)
    publish(channels, "news", 1)
    broker.leave(*calls)
    with (
        Client(Following(channels, "news", key="k")) as keyed,
        Client(Following(channels, "news")) as other,
        Client(Following(channels, "empty", key="k")) as unpublished,
    ):
        channels.cut("news", "k")
        until(lambda: channels.state == "down", "it to be seen")
        broker.come_back()
        # Its client comes back, and the view decides again.
        assert data_of(keyed.all()) == []
        until(lambda: nobody_is_behind(channels), "the others to be live")
        publish(channels, "news", 1, 2)
        publish(channels, "empty", 2, 3)
        assert data_of(other.take(1)) == ["1"]
        assert data_of(unpublished.take(1)) == ["2"]


def test_a_cut_is_heard_by_who_subscribed_while_the_broker_could_not_be_read_beside_others() -> (
    None
):
    broker = Breakable()
    channels = over(broker)
    publish(channels, "news", 1)
    with Client(Following(channels, "news")) as first:
        until(lambda: channels.state == "listening", "the listener")
        broker.leave("read", "wait")
        until(lambda: channels.state == "down", "it to be seen")
        with (
            Client(Following(channels, "news", key="k")) as cut,
            Client(Following(channels, "news", key="other")) as kept,
        ):
            channels.cut("news", "k")
            broker.come_back()
            assert data_of(cut.all()) == []
            until(lambda: nobody_is_behind(channels), "the others to be live")
            publish(channels, "news", 1, 2)
            assert data_of(kept.take(1)) == ["1"]
            assert data_of(first.take(1)) == ["1"]


def test_a_cut_that_the_log_keeps_no_more_ends_who_came_back_while_it_could_not_be_read() -> None:
    broker = Breakable(history=10)
    channels = over(broker)
    ids = publish(channels, "news", 3)
    broker.leave("read", "wait")
    app = Following(channels, "news", key="k")
    with Client(app, last_id=ids[0]) as keyed:
        channels.cut("news", "k")
        publish(channels, "news", 3, 30)
        until(lambda: channels.state == "down", "it to be seen")
        broker.come_back()
        assert data_of(keyed.all()) == []


@on_threads_and_greenlets
@pytest.mark.parametrize("calls", [("read",), ("read", "wait")])
@pytest.mark.parametrize("entries", [0, 300])
def test_a_close_is_not_lost_on_who_subscribed_before_it_while_the_broker_could_not_be_read(
    calls: tuple[str, ...], entries: int
) -> None:
    broker = Breakable()
    channels = over(broker)
    publish(channels, "news", 1)
    publish(channels, "others", 1)
    broker.leave(*calls)
    with (
        Client(Following(channels, "news")) as one,
        Client(Following(channels, "news", "others", latest=1)) as several,
        Client(Following(channels, "others")) as kept,
        Client(Following(channels, "empty")) as unpublished,
    ):
        channels.close_channel("news")
        publish(channels, "news", 1, 1 + entries)
        until(lambda: channels.state == "down", "it to be seen")
        broker.come_back()
        assert data_of(one.all()) == []
        several.all()
        until(lambda: nobody_is_behind(channels), "the others to be live")
        publish(channels, "others", 1, 2)
        publish(channels, "empty", 2, 3)
        assert data_of(kept.take(1)) == ["1"]
        assert data_of(unpublished.take(1)) == ["2"]
    # The channel can be followed again.
    with Client(Following(channels, "news")) as again:
        all_live(channels)
        publish(channels, "news", 500, 501)
        assert data_of(again.take(1)) == ["500"]


@on_threads_and_greenlets
@pytest.mark.parametrize("late", [False, True])
def test_a_close_is_heard_by_who_subscribed_while_the_broker_could_not_be_read_beside_others(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the listener or a reader is the first to read again."""
    broker = Breakable()
    channels = over(broker)
    ids = publish(channels, "news", 3)
    with Client(Following(channels, "news")) as first:
        until(lambda: channels.state == "listening", "the listener")
        broker.leave("read", "wait")
        until(lambda: channels.state == "down", "it to be seen")
        with (
            Client(Following(channels, "news")) as new,
            Client(Following(channels, "news"), last_id=ids[0]) as back,
        ):
            channels.close_channel("news")
            publish(channels, "news", 3, 4)
            if late:
                wait = broker.wait

                def late_wait() -> News:
                    if channels.state == "down" and not broker.fails:
                        return {}
                    found = wait()
                    cursors = listener_of(channels).tails.get("news").cursors  # type: ignore
                    until(lambda: all(each.position for each in cursors), "the readers")
                    return found

                monkeypatch.setattr(broker, "wait", late_wait)
            broker.come_back()
            assert data_of(new.all()) == []
            assert data_of(back.all()) == numbers(1, 3)
            assert data_of(first.all()) == []
    # Who was ended is not ended again.
    with Client(Following(channels, "news"), last_id=ids[2]) as again:
        assert data_of(again.take(1)) == ["3"]
        all_live(channels)


@on_threads_and_greenlets
def test_one_that_follows_a_channel_with_an_old_close_goes_on_through_an_outage() -> None:
    broker = Breakable()
    channels = over(broker)
    publish(channels, "news", 1)
    channels.close_channel("news")
    with Client(Following(channels, "news")) as first:
        all_live(channels)
        until(lambda: channels.state == "listening", "the listener")
        broker.leave("read", "wait")
        until(lambda: channels.state == "down", "it to be seen")
        with Client(Following(channels, "news")) as second:
            broker.elsewhere("news", 1, 2)
            broker.come_back()
            assert data_of(first.take(1)) == ["1"]
            all_live(channels)
            publish(channels, "news", 2, 3)
            assert data_of(first.take(2)) == ["1", "2"]
            assert data_of(second.take(1)) == ["2"]


# -- all at once


class Piece:
    """A destination that takes as much as it is allowed to."""

    def __init__(self) -> None:
        self.decoder = Decoder()
        self.messages: list[dict[str, Any]] = []
        self.room = 0
        self.left = False
        self._lock = threading.Lock()
        self._handlers: dict[str, Callable[[], object]] = {}

    def on(self, event: str, handler: Callable[[], object]) -> None:
        self._handlers[event] = handler

    def remove_listener(self, event: str, handler: Callable[[], object]) -> None:
        self._handlers.pop(event)

    def write(self, frame: bytes) -> bool:
        with self._lock:
            if not self.left:
                found = self.decoder.feed(frame)
                self.messages += [m for m in found if m != {"comment": "ok"}]
        self.room -= 1
        return self.room > 0

    def leave(self) -> None:
        """What comes now has not been seen."""
        with self._lock:
            self.left = True

    def allow(self, room: int) -> None:
        self.room = room
        if "drain" in self._handlers:
            self._handlers["drain"]()


def pause(turns: random.Random) -> None:
    (gevent.sleep if in_greenlet() else time.sleep)(turns.choice((0, 0, 0.0002, 0.002)))


def together(functions: list[Callable[[], None]]) -> None:
    """Run all to their end; what one raises is raised."""
    if in_greenlet():
        gevent.joinall([gevent.spawn(function) for function in functions], raise_error=True)
        return
    errors: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


class Wanderer:
    """A client that comes, reads fast or slowly, leaves at any time and comes back."""

    def __init__(self, channels: Channels, names: tuple[str, ...], seed: int) -> None:
        self.channels = channels
        self.names = names
        self.turns = random.Random(seed)
        self.seen: dict[str, list[int]] = {name: [] for name in names}
        self.gaps: list[str] = []
        self.last_id: str | None = None

    def visit(self, enough: Callable[[], bool]) -> None:
        turns = self.turns
        stream = SseStream(max_messages=turns.choice((20, 100, 1000)))
        stream.on("gap", self.gaps.append)
        piece = Piece()
        is_piped = turns.random() < 0.5
        if is_piped:
            stream.pipe(piece)
        names = turns.sample(self.names, len(self.names))
        self.channels.subscribe(stream, *names, since=self.last_id)
        if not is_piped:
            stream.pipe(piece)
        leave_at = turns.choice((0, 3, 30, 300, 10**9))
        while len(piece.messages) < leave_at and not enough():
            piece.allow(turns.choice((1, 10, 200)))
            self.take(piece)
            pause(turns)
        piece.leave()
        self.take(piece)
        stream.destroy()

    def take(self, piece: Piece) -> None:
        while piece.messages:
            message = piece.messages.pop(0)
            self.last_id = message["id"]
            if "data" in message:
                name, number = message["data"].split()
                self.seen[name].append(int(number))


def torture(seed: int, broker: Breakable, channels: Channels, each: int) -> None:
    """Publishers, clients and a broker that comes and goes, all at random."""
    turns = random.Random(seed)
    names = ("a", "b", "c")
    done: list[str] = []
    clients = [
        Wanderer(channels, tuple(turns.sample(names, turns.randint(1, 3))), turns.random())  # type: ignore[arg-type]
        for _ in range(8)
    ]
    # Whoever has no id yet begins anywhere: this one is before the first event.
    for client in clients:
        client.last_id = ",".join(f"{name}=.0" for name in client.names)

    def publisher(name: str, seed: int) -> None:
        turns = random.Random(seed)
        number = 0
        while number < each:
            try:
                channels.publish(name, {"data": f"{name} {number}"})
                number += 1
            except BrokerError:
                pause(turns)
            if turns.random() < 0.2:
                pause(turns)
        done.append(name)

    def breaker() -> None:
        turns = random.Random(seed)
        while len(done) < len(names):
            broker.leave(*turns.choice((("read",), ("wait",), ("read", "wait"), ())))
            pause(turns)
            broker.come_back()
            for _ in range(5):
                pause(turns)
        broker.come_back()

    def wander(client: Wanderer) -> None:
        def enough() -> bool:
            return all(len(client.seen[name]) >= each for name in client.names)

        deadline = time.monotonic() + 60
        while not enough():
            assert time.monotonic() < deadline, f"seed {seed}: {client.names} stands still"
            client.visit(lambda: enough() or time.monotonic() > deadline)

    together(
        [
            *(lambda name=name: publisher(name, turns.random()) for name in names),  # type: ignore[misc]
            *(lambda client=client: wander(client) for client in clients),  # type: ignore[misc]
            breaker,
        ]
    )
    for client in clients:
        assert client.gaps == [], f"seed {seed}"
        for name, seen in client.seen.items():
            assert seen == list(range(each)), f"seed {seed}: channel {name}"
    idle(channels)
    until(lambda: not exchange_of(channels).subscriptions, "the subscriptions to be gone")


@pytest.mark.long_except("0", "1")
@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_everybody_gets_everything_once_and_in_order(seed: int) -> None:
    broker = Breakable(history=10_000)
    torture(seed, broker, over(broker), 400)


#: Where the listener and the readers are greenlets, too, as in gunicorn's worker.
PATCHED = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from ssestream.channels import listener
from tests.unit.channels.test_listener import Breakable, over, torture
listener.SOONEST, listener.LATEST = 0.01, 0.08
broker = Breakable(history=10_000)
gevent.spawn(torture, int(sys.argv[1]), broker, over(broker), 400).get()
print("well")
"""


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_the_same_in_the_greenlets_of_a_patched_process(seed: int) -> None:
    done = run_program(PATCHED, str(seed))
    assert done.stdout == "well\n", done.stderr


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.sampled_from("ab"), st.integers(1, 40)),
            st.tuples(st.just("read"), st.integers(0, 3), st.integers(1, 60)),
            st.tuples(st.just("return"), st.integers(0, 3), st.sampled_from(["a", "b", "ab"])),
            st.tuples(st.just("break"), st.sampled_from(["wait", "read"]), st.just(0)),
            st.tuples(st.just("mend"), st.just(0), st.just(0)),
        ),
        max_size=30,
    )
)
def test_any_order_of_events_gives_the_same_history(steps: list[tuple[str, Any, Any]]) -> None:
    broker = Breakable()
    channels = over(broker)
    published = {"a": 0, "b": 0}
    clients = [Steps(channels, names) for names in ("a", "b", "ab", "ba")]
    for what, which, amount in steps:
        if what == "publish":
            for _ in range(amount):
                broker.elsewhere(which, published[which], published[which] + 1)
                published[which] += 1
        elif what == "read":
            clients[which].piece.allow(amount)
        elif what == "return":
            clients[which].come_back()
        elif what == "break":
            broker.leave(which)
        else:
            broker.come_back()
    broker.come_back()
    for client in clients:
        client.read_all(published)
        assert client.gaps == []
        client.stream.destroy()
    idle(channels)


class Steps:
    """A client that does as it is told."""

    def __init__(self, channels: Channels, names: str) -> None:
        self.channels = channels
        self.names = names
        self.last_id = ",".join(f"{name}=.0" for name in names)
        self.gaps: list[str] = []
        self.seen: dict[str, list[str]] = {name: [] for name in names}
        self.piece = Piece()
        self.stream = SseStream(max_messages=20)
        self.follow()

    def follow(self) -> None:
        self.stream = SseStream(max_messages=20)
        self.stream.on("gap", self.gaps.append)
        self.piece = Piece()
        self.stream.pipe(self.piece)
        self.channels.subscribe(self.stream, *self.names, since=self.last_id)

    def come_back(self) -> None:
        self.piece.leave()
        self.stream.destroy()
        self.take()
        self.follow()

    def take(self) -> None:
        while self.piece.messages:
            message = self.piece.messages.pop(0)
            if "data" in message:
                self.seen[message["event"]].append(message["data"])
            self.last_id = message["id"]

    def read_all(self, published: dict[str, int]) -> None:
        expected = {name: numbers(published[name]) for name in self.names}

        def all_there() -> bool:
            self.piece.allow(1000)
            self.take()
            return sum(map(len, self.seen.values())) >= sum(map(len, expected.values()))

        until(all_there, f"{expected}")
        assert self.seen == expected


# -- a log that has lost its end


class Forgetful(Breakable):
    """One whose machine crashed, and had not written the end of a log to its disk."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: dict[str, Position] = {}

    def lose(self, name: str, count: int) -> None:
        log = self._logs[name]
        before = Position(self._identity, log.last, log.check)
        for _ in range(count):
            log.kept.pop()
        log.last -= count
        self.follow(name, Position(self._identity, log.last, log.check))
        self.lost[name] = before
        self.wake()

    def wait(self) -> News:
        found = super().wait()
        lost, self.lost = self.lost, {}
        for name, before in lost.items():
            found[name] = self.read(name, 0, 0, 0).told_after(before)
        return found


@on_threads_and_greenlets
def test_who_was_beyond_the_end_of_a_log_is_told_and_skips_nothing_that_comes_then() -> None:
    broker = Forgetful()
    channels = over(broker)
    app = Following(channels, "news")
    with Client(app) as client:
        publish(channels, "news", 5)
        client.take(5)
        broker.lose("news", 2)
        until(lambda: app.gaps == ["news"], "the gap")
        # What is kept comes again, and then what has the numbers of the lost ones.
        assert data_of(client.take(8))[5:] == numbers(3)
        all_live(channels)
        publish(channels, "news", 7, 9)
        assert data_of(client.take(10))[8:] == numbers(7, 9)
    assert app.gaps == ["news"]


class Late(MemoryBroker):
    """What it has found for who waits reaches them only when it is not *held* any more."""

    held = False
    in_hand: News = {}

    def wait(self) -> News:
        self.in_hand = found = super().wait()
        while self.held and found:
            time.sleep(0.001)
        return found


@on_threads_and_greenlets
def test_who_has_read_on_beyond_what_the_listener_gets_has_missed_nothing() -> None:
    broker = Late(1000, None)
    channels = over(broker)
    app = Following(channels, "news")
    ids = publish(channels, "news", 2)
    # It comes behind these, so that no one keeps them for who comes later.
    with Client(app) as first:
        all_live(channels)
        broker.held = True
        publish(channels, "news", 2, 3)
        until(lambda: "news" in broker.in_hand, "the listener to have this in hand")
        publish(channels, "news", 3, 4)
        with Client(app, last_id=ids[0]) as second:
            second.take(3)
            all_live(channels)
            broker.held = False
            publish(channels, "news", 4, 6)
            assert data_of(first.take(4)) == numbers(2, 6)
            assert data_of(second.take(5)) == numbers(1, 6)
    assert app.gaps == []
