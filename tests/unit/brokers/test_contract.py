"""What every broker does: one contract, and the same tests over all of them.

Another broker is another entry in `KINDS` of ``tests.conftest``. Here, the broker of Redis also has
the rows of Valkey.
"""

import http.client
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from ssestream.brokers import open_broker
from ssestream.brokers.broker import (
    LOG,
    WAITED,
    WAITED_BYTES,
    Broker,
    Position,
    Slice,
    check_name,
)
from tests.conftest import KINDS
from tests.kit.brokers import (
    LOTS,
    NEVER,
    Actor,
    Elsewhere,
    all_closed,
    everything,
    follow,
    frames,
    news,
    next_news,
    plain,
    plainly,
    wait,
)
from tests.kit.promptness import at_best
from tests.kit.servers import PATIENCE, Server, wait_until
from tests.servers.apps.brokers import MANY

Open = Callable[..., Broker]

VALKEY = pytest.param("valkey", marks=pytest.mark.long)


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open brokers: ``opened(url, history=1000, history_age=None)``; closed with the test."""
    with all_closed(
        lambda url, history=1000, history_age=None: open_broker(url, history, history_age)
    ) as opened:
        yield opened


@pytest.fixture(params=[*KINDS, VALKEY])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=[*KINDS[1:], VALKEY])
def shared_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def broker(url: str, opened: Open) -> Broker:
    return opened(url)


# -- names and positions


@pytest.mark.parametrize("name", ["a", "A", ".", "..", "0", "user/7", "a:b@c.d+e-f_g", "x" * 100])
def test_a_good_name_is_taken(name: str, broker: Broker) -> None:
    assert check_name(name) == name
    position = broker.append(name, name.encode())
    assert plain(everything(broker, name)) == (position.log, 1, 1, [(1, name.encode())])
    assert news(broker, {name: NEVER})[name].last == 1


# -- append and read


def test_making_one_opens_nothing(url: str) -> None:
    before = os.listdir("/proc/self/fd")
    threads = threading.active_count()
    made = open_broker(url, 1000, None)
    assert os.listdir("/proc/self/fd") == before
    assert threading.active_count() == threads
    made.close()


def test_a_channel_in_which_nothing_was_published_has_no_log(broker: Broker) -> None:
    # The logs of a process have one identity, so that its end is seen in those, too.
    log = everything(broker, "news").log
    assert (log == "") == broker.shared
    assert plain(everything(broker, "news")) == (log, 1, 0, [])
    assert plain(broker.read("news", 10**18 - 1, 0, 0)) == (log, 1, 0, [])


def test_what_is_appended_is_numbered_from_1_on_and_read_in_order(broker: Broker) -> None:
    positions = [broker.append("news", b"%d" % n) for n in range(1, 21)]
    (log,) = {position.log for position in positions}
    assert LOG.fullmatch(log)
    assert [position.number for position in positions] == list(range(1, 21))
    expected = [(n, b"%d" % n) for n in range(1, 21)]
    assert plain(everything(broker, "news")) == (log, 1, 20, expected)
    for after in range(25):
        assert plain(broker.read("news", after, LOTS, LOTS)) == (
            log,
            1,
            20,
            expected[after:],
        )


def test_each_channel_has_a_log_of_its_own(broker: Broker) -> None:
    names = ["news", "News", "news.", "news:1", "news/1"]
    positions = [broker.append(name, name.encode()) for name in names]
    assert [position.number for position in positions] == [1] * 5
    # One identity for all that ends with the process.
    assert len({position.log for position in positions}) == (5 if broker.shared else 1)
    for name in names:
        assert frames(everything(broker, name)) == [name.encode()]


def test_a_read_is_bounded_by_count(broker: Broker) -> None:
    for n in range(10):
        broker.append("news", b"%d" % n)
    assert frames(broker.read("news", 2, 3, LOTS)) == [b"2", b"3", b"4"]
    assert plain(broker.read("news", 2, 0, LOTS))[1:] == (1, 10, [])


def test_a_read_is_bounded_by_bytes_but_gives_one(broker: Broker) -> None:
    for _ in range(10):
        broker.append("news", b"x" * 100)
    assert len(broker.read("news", 0, LOTS, 1).entries) == 1
    assert len(broker.read("news", 0, LOTS, 100).entries) == 1
    assert len(broker.read("news", 0, LOTS, 101).entries) == 2
    assert len(broker.read("news", 9, LOTS, 101).entries) == 1


@pytest.mark.parametrize(
    "frame", [b"", b"\0", b"\0close", bytes(range(256)), b"data: \xc3\xa9\r\n\n", b"1", b"\xff\xfe"]
)
def test_a_frame_comes_back_as_it_was(frame: bytes, broker: Broker) -> None:
    broker.append("news", frame)
    assert frames(everything(broker, "news")) == [frame]
    assert frames(news(broker, {"news": NEVER})["news"]) == [frame]


def test_a_frame_may_have_many_megabytes(broker: Broker) -> None:
    large = [os.urandom(1 << 20) for _ in range(8)]
    for frame in large:
        broker.append("news", frame)
    assert frames(broker.read("news", 0, LOTS, 3 << 20)) == large[:3]
    assert frames(everything(broker, "news")) == large
    assert frames(news(broker, {"news": NEVER})["news"]) == large[: WAITED_BYTES >> 20]


# -- what a log forgets


@pytest.mark.parametrize("history", [1, 5, 100])
def test_a_log_keeps_so_many_entries_and_says_where_it_begins(
    history: int, url: str, opened: Open
) -> None:
    broker = opened(url, history)
    for n in range(1, 251):
        broker.append("news", b"%d" % n)
        first = max(1, n + 1 - history)
        piece = everything(broker, "news")
        assert piece[1:3] == (first, n)
        assert [entry.number for entry in piece.entries] == list(range(first, n + 1))
    assert frames(broker.read("news", 3, 1, LOTS)) == [b"%d" % (251 - history)]


def test_a_log_forgets_what_is_old_also_when_nothing_comes(url: str, opened: Open) -> None:
    broker = opened(url, history_age=0.1)
    (log,) = {broker.append("news", b"x").log for _ in range(50)}
    wait_until(lambda: everything(broker, "news").first == 51, "it to forget")
    # But never a number, nor who it is.
    assert plain(everything(broker, "news")) == (log, 51, 50, [])
    assert plain(broker.read("news", 7, LOTS, LOTS)) == (log, 51, 50, [])
    assert broker.append("news", b"y")[:2] == (log, 51)
    assert plain(everything(broker, "news")) == (log, 51, 51, [(51, b"y")])


def test_a_log_forgets_the_old_and_keeps_the_young(url: str, opened: Open) -> None:
    broker = opened(url, history_age=0.15)
    begin = time.monotonic()
    # The times before and behind each append: its own is between them.
    appended: list[tuple[float, float]] = []
    while time.monotonic() < begin + 0.5:
        asked = time.monotonic()
        broker.append("news", b"x")
        appended.append((asked, time.monotonic()))
        before = time.monotonic()
        piece = everything(broker, "news")
        after = time.monotonic()
        assert piece.last == len(appended)
        assert [entry.number for entry in piece.entries] == list(range(piece.first, piece.last + 1))
        # The clocks of this test and of the log differ by little.
        young = sum(at > after - 0.12 for at, _ in appended)
        old = sum(at < before - 0.18 for _, at in appended)
        assert old < piece.first <= len(appended) - young + 1
        time.sleep(0.002)
    assert everything(broker, "news").first > 1


def test_a_gap_is_seen_by_whoever_asks_for_what_is_forgotten(url: str, opened: Open) -> None:
    broker = opened(url, history=3)
    broker.append("news", b"x")
    for _ in range(5):
        broker.append("news", b"x")
    piece = broker.read("news", 1, LOTS, LOTS)
    assert piece.first == 4 > 1 + 1
    assert [entry.number for entry in piece.entries] == [4, 5, 6]
    # Who stands right before the oldest has missed nothing.
    assert broker.read("news", 3, LOTS, LOTS).first == 3 + 1


def test_reading_goes_on_while_others_append_and_trim(url: str, opened: Open) -> None:
    broker = opened(url, history=20)
    broker.append("news", b"1")

    def write() -> None:
        for n in range(2, 1501):
            broker.append("news", b"%d" % n)

    writer = Elsewhere(write)
    at, reads = 0, 0
    while at < 1500:
        piece = broker.read("news", at, 7, LOTS)
        numbers = [entry.number for entry in piece.entries]
        assert len(numbers) == min(7, piece.last + 1 - max(at + 1, piece.first))
        assert numbers == list(range(max(at + 1, piece.first), piece.last + 1))[:7]
        assert all(frame == b"%d" % number for number, frame, _ in piece.entries)
        assert piece.last + 1 - piece.first <= 20
        at = numbers[-1] if numbers else at
        reads += 1
    writer.result()
    assert reads > 1


def test_of_logs_that_keep_more_than_is_asked_a_broker_names_the_first_only(
    opened: Open, shared_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        opened(shared_url, 20).append(name, b"x")
    few = opened(shared_url, 10)
    for name in ("one", "two", "one"):
        few.append(name, b"x")
    (record,) = (each for each in caplog.records if each.name.startswith("ssestream"))
    assert record.levelname == "WARNING"
    assert "the log of 'one' keeps 20 events, as set earlier, and not 10 events" in record.message


# -- many writers


def check_log(piece: Slice, appended: dict[int, bytes]) -> None:
    """It is what was appended, all of it, and nothing twice."""
    assert [entry.number for entry in piece.entries] == list(range(1, len(appended) + 1))
    assert {entry.number: entry.frame for entry in piece.entries} == appended


def test_plain_threads_append_without_loss(broker: Broker) -> None:
    appended: dict[str, dict[int, bytes]] = {"a": {}, "b": {}}

    def write(mark: int) -> None:
        for n in range(100):
            for name, those in appended.items():
                frame = b"%d %d" % (mark, n)
                those[broker.append(name, frame).number] = frame

    for thread in [Elsewhere(write, mark) for mark in range(6)]:
        thread.result()
    for name, those in appended.items():
        assert len(those) == 600
        check_log(everything(broker, name), those)


def test_greenlets_append_without_loss(broker: Broker) -> None:
    appended: dict[int, bytes] = {}

    def write(mark: int) -> None:
        for n in range(50):
            frame = b"%d %d" % (mark, n)
            appended[broker.append("news", frame).number] = frame
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(write, mark) for mark in range(6)], raise_error=True)
    assert len(appended) == 300
    check_log(everything(broker, "news"), appended)


# -- waiting


def test_waiting_gives_at_once_what_there_is(broker: Broker) -> None:
    position = broker.append("news", b"1")
    broker.append("news", b"2")
    broker.append("sports", b"3")
    found = news(broker, {"news": position, "sports": NEVER, "empty": NEVER})
    assert plainly(found) == {
        "news": (position.log, 1, 2, [(2, b"2")]),
        "sports": (found["sports"].log, 1, 1, [(1, b"3")]),
    }


def test_waiting_gives_the_same_again_to_who_has_not_moved_on(broker: Broker) -> None:
    first = broker.append("news", b"1")
    last = broker.append("news", b"2")
    for at in (NEVER, NEVER, first, NEVER, first, first):
        assert news(broker, {"news": at})["news"].entries[0].number == at.number + 1
        # Having seen the end does not make it forget that there is a way to it.
        broker.wake()
        assert wait(broker, {"news": last}) == {}


def test_waiting_finds_what_came_between_two_waits(broker: Broker) -> None:
    at = {"news": broker.append("news", b"1"), "sports": broker.append("sports", b"1")}
    broker.wake()
    assert wait(broker, at) == {}
    broker.append("news", b"2")
    broker.append("sports", b"2")
    broker.wake()
    wait(broker, {})
    assert news(broker, {"news": at["news"]}).keys() == {"news"}
    assert news(broker, {"sports": at["sports"]}).keys() == {"sports"}


def test_waiting_ends_when_something_comes(broker: Broker) -> None:
    at = dict.fromkeys(("news", "sports", "weather"), NEVER)
    for n in range(1, 21):
        name = ("news", "sports")[n % 2]
        waiter = Elsewhere(news, broker, at)
        position = broker.append(name, b"%d" % n)
        assert plainly(waiter.result()) == {
            name: (position.log, 1, position.number, [(position.number, b"%d" % n)])
        }
        at[name] = position


def test_waiting_does_not_end_for_what_it_was_not_asked_about(broker: Broker) -> None:
    waiter = Elsewhere(news, broker, {"news": NEVER})
    for _ in range(5):
        broker.append("sports", b"x")
    broker.append("news", b"x")
    assert waiter.result().keys() == {"news"}


def test_a_wake_ends_the_wait_or_the_next_one(broker: Broker) -> None:
    at = {"news": broker.append("news", b"x")}
    broker.wake()
    broker.wake()
    assert Elsewhere(wait, broker, at).result() == {}
    for _ in range(20):
        waiter = Elsewhere(wait, broker, at)
        broker.wake()
        assert waiter.result() == {}


def test_a_wake_takes_nothing_away(broker: Broker) -> None:
    broker.append("news", b"x")
    broker.wake()
    assert news(broker, {"news": NEVER})["news"].last == 1


@pytest.mark.parametrize("number", [0, 1, 7, 10**18 - 1])
def test_who_stands_in_another_log_is_given_this_one_from_its_beginning(
    number: int, broker: Broker
) -> None:
    elsewhere = {"news": Position("deadbeef", number)}
    assert [piece[1:] for piece in plainly(news(broker, elsewhere)).values()] == [(1, 0, [])]
    position = broker.append("news", b"x")
    assert plainly(news(broker, elsewhere)) == {"news": (position.log, 1, 1, [(1, b"x")])}
    # And where everybody else has seen the end.
    broker.wake()
    assert wait(broker, {"news": position}) == {}
    assert plainly(news(broker, elsewhere)) == {"news": (position.log, 1, 1, [(1, b"x")])}


def test_waiting_gives_so_many_at_once_and_the_rest_the_next_time(broker: Broker) -> None:
    for n in range(1, 601):
        broker.append("news", b"%d" % n)
    at, got = NEVER, []
    while at.number < 600:
        piece = news(broker, {"news": at})["news"]
        assert 0 < len(piece.entries) <= WAITED
        assert piece.last == 600
        got += piece.entries
        at = Position(piece.log, got[-1].number)
    assert [entry[:2] for entry in got] == [(n, b"%d" % n) for n in range(1, 601)]


def test_waiting_tells_of_what_is_already_forgotten(url: str, opened: Open) -> None:
    broker = opened(url, history_age=0.05)
    position = broker.append("news", b"x")
    wait_until(lambda: not everything(broker, "news").entries, "it to forget")
    assert plainly(news(broker, {"news": NEVER})) == {"news": (position.log, 2, 1, [])}


@pytest.mark.long_except("memory")
def test_waiting_for_thousands_of_channels_gives_all_that_comes(broker: Broker) -> None:
    names = [f"user/{n}" for n in range(3000)]
    at = dict.fromkeys(names, NEVER)
    for name in names[::2]:
        broker.append(name, name.encode())
    waiter = Elsewhere(lambda: [broker.append(name, name.encode()) for name in names[1::2]])
    while len(left := [name for name in names if at[name] == NEVER]) > 0:
        for name, piece in news(broker, at).items():
            assert name in left
            assert frames(piece) == [name.encode()]
            at[name] = Position(piece.log, piece.last)
    waiter.result()


def test_waiting_and_waking_leave_nothing_behind(broker: Broker) -> None:
    def once() -> None:
        position = broker.append("news", b"x")
        waiter = Elsewhere(wait, broker, {"news": position})
        broker.wake()
        waiter.result()
        broker.close()

    once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        once()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_was_closed_opens_again(broker: Broker) -> None:
    position = broker.append("news", b"1")
    broker.close()
    broker.close()
    assert broker.append("news", b"2")[:2] == (position.log, 2)
    broker.close()
    assert frames(everything(broker, "news")) == [b"1", b"2"]
    broker.close()
    assert news(broker, {"news": position})["news"].last == 2
    waiter = Elsewhere(news, broker, {"news": Position(position.log, 2)})
    broker.close()
    broker.append("news", b"3")
    assert waiter.result()["news"].last == 3


# -- following


def test_a_position_moves_past_what_was_told(broker: Broker) -> None:
    first = broker.append("news", b"1")
    follow(broker, {"news": first})
    at = first
    for n in range(2, 5):
        last = broker.append("news", b"%d" % n)
        piece = next_news(broker)["news"]
        assert frames(piece) == [b"%d" % n]
        assert (piece.after, piece.read_to) == (at, last)
        at = last
    broker.wake()
    assert broker.wait() == {}


def test_what_is_followed_again_from_before_is_told_again(broker: Broker) -> None:
    first = broker.append("news", b"1")
    broker.append("news", b"2")
    for _ in range(3):
        broker.follow("news", first)
        assert frames(next_news(broker)["news"]) == [b"2"]


def test_a_wait_that_has_begun_heeds_who_is_followed_and_left_meanwhile(broker: Broker) -> None:
    broker.append("news", b"1")
    follow(broker, {"sports": NEVER, "weather": NEVER})
    waiter = Elsewhere(next_news, broker)
    broker.unfollow("sports")
    broker.append("sports", b"goal")
    broker.follow("news", NEVER)
    assert waiter.result().keys() == {"news"}
    broker.append("weather", b"rain")
    assert next_news(broker).keys() == {"weather"}
    broker.follow("sports", NEVER)
    assert frames(next_news(broker)["sports"]) == [b"goal"]


def test_to_leave_what_is_not_followed_does_nothing(broker: Broker) -> None:
    broker.unfollow("news")
    follow(broker, {"news": NEVER})
    broker.unfollow("sports")
    broker.append("news", b"1")
    assert next_news(broker).keys() == {"news"}


def test_what_comes_between_two_waits_is_told_once(broker: Broker) -> None:
    names = [f"user/{n}" for n in range(300)]
    follow(broker, dict.fromkeys(names, NEVER))
    broker.wake()
    broker.wait()
    told: dict[str, list[bytes]] = {name: [] for name in names}
    for turn in range(3):
        for name in names:
            broker.append(name, b"%d" % turn)
        while sum(map(len, told.values())) < len(names) * (turn + 1):
            for name, piece in next_news(broker).items():
                told[name] += frames(piece)
    assert told == {name: [b"0", b"1", b"2"] for name in names}


def test_threads_follow_and_leave_while_one_waits(broker: Broker) -> None:
    names = [f"user/{n}" for n in range(40)]
    told: dict[str, list[int]] = {name: [] for name in names}
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            for name, piece in broker.wait().items():
                assert isinstance(piece, Slice)
                numbers = [entry.number for entry in piece.entries]
                assert piece.after is not None
                assert numbers[:1] in ([], [piece.after.number + 1])
                told[name] += numbers

    def come_and_go(mine: list[str]) -> None:
        for turn in range(10):
            for name in mine:
                broker.follow(name, broker.read(name, 0, 0, 0).end)
                broker.append(name, b"x")
                if turn < 9:
                    broker.unfollow(name)

    listener = Elsewhere(listen)
    for thread in [Elsewhere(come_and_go, names[n::4]) for n in range(4)]:
        thread.result()
    # The last one of each was followed to the end.
    wait_until(lambda: all(10 in numbers for numbers in told.values()), "the last of each")
    over.set()
    broker.wake()
    listener.result()


@pytest.mark.long_except("sqlite", "redis")
def test_a_greenlet_that_waits_lets_others_go_on(url: str, actor: Callable[..., Actor]) -> None:
    (told,) = actor(url, "greenlets", "news").tells()
    assert told["found"] == ["x"]
    assert told["ticks"] >= MANY


@pytest.mark.long
def test_without_descriptors_it_says_so_and_goes_on_when_there_are_some(
    url: str, actor: Callable[..., Actor]
) -> None:
    starved, afterwards, open_already = actor(url, "starved", "news").tells()
    done = dict.fromkeys(("append", "read", "wait", "wake"), "done")
    assert afterwards["afterwards"] == done
    assert open_already["open"] == done
    said = starved["starved"]
    assert said.pop("wake") == "done"
    if url == "memory://":
        assert set(said.values()) == {"done"}
    else:
        assert all("no file descriptor left" in words for words in said.values()), said
        assert not any("allowed" in words for words in said.values())


# -- other processes


def test_a_process_may_fork(url: str, opened: Open, actor: Callable[..., Actor]) -> None:
    told = actor(url, "fork", "news").tells()
    logs = {who: {t["position"][0] for t in told if t["who"] == who} for who in ("parent", "child")}
    read = next(t["frames"] for t in told if t["who"] == "reader")
    assert (read[0], read[-1]) == ("before", "after")
    if opened(url).shared:
        assert logs["parent"] == logs["child"]
        assert sorted(read[1:-1]) == ["child"] * 3 + ["parent"] * 3
    else:
        # Both go on, each in its own way, and nobody must take one for the other.
        assert logs["parent"] != logs["child"]
        assert read[1:-1] == ["parent"] * 3


def get(server: Server, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", path, headers={"Connection": "close"})
    answer = connection.getresponse()
    assert answer.status == 200
    body = answer.read()
    connection.close()
    return json.loads(body)


@pytest.mark.long_except("sqlite-gevent_pywsgi")
@pytest.mark.server
@pytest.mark.parametrize("kind", ["gevent", "gevent_pywsgi", "gthread", "sync"])
def test_a_worker_of_every_class_appends(
    kind: str, url: str, opened: Open, serve: Callable[..., Server]
) -> None:
    server = serve(kind, "tests.servers.apps.brokers:app", env={"BROKER": url})
    broker = opened(url)
    waiter = Elsewhere(news, broker, {"news": NEVER}) if broker.shared else None
    for n in range(1, 6):
        assert get(server, f"/append?channel=news&frame=f{n}")[1] == n
    assert get(server, "/read?channel=news") == ["f1", "f2", "f3", "f4", "f5"]
    if waiter is not None:
        assert waiter.result()["news"].entries[0][:2] == (1, b"f1")
        assert frames(everything(broker, "news")) == [b"f1", b"f2", b"f3", b"f4", b"f5"]


@pytest.mark.long_except("sqlite")
def test_a_process_without_gevents_patches_appends(
    shared_url: str, opened: Open, actor: Callable[..., Actor]
) -> None:
    waiter = Elsewhere(news, opened(shared_url), {"news": NEVER})
    assert actor(shared_url, "append", "news", "3", "x").tells() == [
        {"at": pytest.approx(time.monotonic(), abs=PATIENCE), "patched": False}
    ]
    assert waiter.result()["news"].entries[0].number == 1
    assert everything(opened(shared_url), "news").last == 3


@pytest.mark.long_except("sqlite")
def test_processes_append_without_loss(
    shared_url: str, opened: Open, actor: Callable[..., Actor]
) -> None:
    broker = opened(shared_url)
    actors = [actor(shared_url, "append", "news", "200", str(mark)) for mark in range(4)]
    at, got = NEVER, []
    while len(got) < 800:
        piece = news(broker, {"news": at})["news"]
        got += piece.entries
        at = Position(piece.log, got[-1].number)
    for each in actors:
        each.tells()
    assert [entry.number for entry in got] == list(range(1, 801))
    for mark in range(4):
        ours = [frame.split()[2] for _, frame, _ in got if frame.split()[1] == b"%d" % mark]
        assert ours == [b"%d" % n for n in range(200)]


def test_another_process_hears_of_it_within_50_ms(
    shared_url: str, opened: Open, actor: Callable[..., Actor]
) -> None:
    broker = opened(shared_url)
    other = actor(shared_url, "knock", "news")
    assert other.next("ready")
    at = NEVER

    def knock() -> float:
        nonlocal at
        waiter = Elsewhere(lambda at=at: (news(broker, {"news": at}), time.monotonic()))
        other.knock()
        found, heard = waiter.result()
        piece = found["news"]
        at = Position(piece.log, piece.last)
        return float(heard - float(piece.entries[-1].frame))

    # Most knocks of a try, as a single one may be quick by chance.
    at_best(lambda: statistics.median(knock() for _ in range(11)), 0.05)


def test_a_second_broker_goes_on_where_the_first_ended(shared_url: str, opened: Open) -> None:
    first = opened(shared_url)
    position = first.append("news", b"1")
    first.close()
    second = opened(shared_url)
    assert second.append("news", b"2")[:2] == (position.log, 2)
    assert frames(everything(second, "news")) == [b"1", b"2"]
