"""Who uses a broker in a process of its own: scripts, and a WSGI app."""

import gc
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from ssestream.brokers import open_broker
from ssestream.brokers.broker import Broker, BrokerError, Position, Slice
from tests.kit.brokers import news
from tests.servers.apps import tell


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """``/append?channel=&frame=`` gives the number, ``/read?channel=`` what there is."""
    query = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
    broker = _broker()
    if environ["PATH_INFO"] == "/append":
        answer: Any = broker.append(query["channel"], query["frame"].encode())
    else:
        piece = broker.read(query["channel"], 0, 1000, 1 << 20)
        answer = [entry.frame.decode() for entry in piece.entries]
    body = json.dumps(answer).encode()
    length = str(len(body))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", length)])
    return [body]


#: More appends than so many return in a massacre.
ENOUGH = 100

#: Ticks of a greenlet that show that another greenlet's wait does not hold it up.
MANY = 20

_opened: list[Broker] = []


def _broker() -> Broker:
    if not _opened:
        _opened.append(open_broker(os.environ["BROKER"], 1000, None))
    return _opened[0]


def append(broker: Broker, channel: str, count: str, mark: str) -> None:
    """As many appends as it can; the frame begins with the time."""
    from gevent import monkey

    tell(patched=monkey.is_module_patched("socket"))
    for number in range(int(count)):
        broker.append(channel, f"{time.monotonic()} {mark} {number}".encode())


def knock(broker: Broker, channel: str) -> None:
    """One append for each line that comes."""
    broker.read(channel, 0, 0, 0)
    tell(ready=True)
    for _ in sys.stdin:
        broker.append(channel, str(time.monotonic()).encode())


def wait(broker: Broker, *channels: str) -> None:
    """Tell of whatever comes, for ever."""
    for channel in channels:
        broker.follow(channel, broker.read(channel, 0, 0, 0).end)
    tell(waits=True)
    while True:
        for channel, piece in broker.wait().items():
            assert isinstance(piece, Slice)
            for number, frame, _ in piece.entries:
                tell(channel=channel, number=number, frame=frame.decode())


def fork(broker: Broker, channel: str) -> None:
    """Parent and child both append, several times, after the parent has."""
    tell(who="before", position=broker.append(channel, b"before"))
    child = os.fork()
    who = "parent" if child else "child"
    for _ in range(3):
        tell(who=who, position=broker.append(channel, who.encode()))
    if child:
        assert os.waitpid(child, 0)[1] == 0
        tell(who="after", position=broker.append(channel, b"after"))
        frames = [e.frame.decode() for e in broker.read(channel, 0, 1000, 1 << 20).entries]
        tell(who="reader", frames=frames)
    else:
        os._exit(0)


def greenlets(broker: Broker, channel: str) -> None:
    """A greenlet waits, and one ticks meanwhile; a thread of gevent's pool appends."""
    import gevent

    ticks: list[float] = []
    # Not in the middle of it, where it takes as long as all the rest.
    gc.collect()

    def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            gevent.sleep(0.001)

    gevent.spawn(tick)
    waiter = gevent.spawn(news, broker, {channel: Position("", 0)})
    while len(ticks) < MANY:
        gevent.sleep(0.001)
    before = len(ticks)
    assert not waiter.ready()
    gevent.get_hub().threadpool.apply(broker.append, (channel, b"x"))
    waiter.join()
    tell(ticks=before, found=[e.frame.decode() for e in waiter.value[channel].entries])


def starved(broker: Broker, channel: str) -> None:
    """Do everything while no descriptor is to be had, and again when there are some."""
    broker.append(channel, b"one")
    position = Position("", 0)
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: broker.append(channel, b"more"),
        "read": lambda: broker.read(channel, 0, 10, 1000).entries,
        "wait": lambda: news(broker, {channel: position}),
        "wake": broker.wake,
    }

    def all_of_them() -> dict[str, str]:
        said = {}
        for name, call in calls.items():
            try:
                call()
                said[name] = "done"
            except BrokerError as error:
                said[name] = str(error)
        return said

    broker.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))

    def starved() -> dict[str, str]:
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            said = all_of_them()
        for fd in held:
            os.close(fd)
        return said

    tell(starved=starved())
    tell(afterwards=all_of_them())
    # With what is open already nothing more is needed.
    tell(open=starved())


def massacre(broker: Broker, channel: str, seed: str, kills: str, at_once: str) -> None:
    """Processes append as fast as they can and are killed, each at any moment.

    Tells which appends returned: a child tells before it begins the next one. On a slow disk it
    takes more kills until there are enough of them.
    """
    chance = random.Random(int(seed))
    left = int(kills)
    children: dict[int, int] = {}
    returned = 0

    def tell_of(child: int) -> int:
        os.waitpid(child, 0)
        with open(children.pop(child)) as file:
            lines = file.read().splitlines()
        tell(returned=lines)
        return len(lines)

    while left or returned <= ENOUGH:
        while len(children) < int(at_once):
            ours, theirs = os.pipe()
            child = os.fork()
            if not child:
                mark = os.getpid()
                for count in range(1 << 30):
                    position = broker.append(channel, f"{mark} {count}".encode() + b"." * 3000)
                    os.write(theirs, f"{position.number} {mark} {count}\n".encode())
            os.close(theirs)
            children[child] = ours
        time.sleep(chance.uniform(0, 0.03))
        # Sometimes all of them, so that the next has to clear up after everybody.
        count = 1 if chance.random() < 0.7 else len(children)
        victims = chance.sample(sorted(children), count)
        for child in victims:
            os.kill(child, signal.SIGKILL)
        returned += sum(tell_of(child) for child in victims)
        left = max(left - count, 0)
    for child in list(children):
        os.kill(child, signal.SIGKILL)
        tell_of(child)


if __name__ == "__main__":
    url, what, *arguments = sys.argv[1:]
    if what == "greenlets":
        from gevent import monkey

        monkey.patch_all()
    globals()[what](open_broker(url, int(os.environ.get("HISTORY", "1000")), None), *arguments)
