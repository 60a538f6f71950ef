"""Clients that do what an EventSource does, and note what they hold."""

import http.client
import random
import socket
import struct
import time
from collections import Counter, deque
from typing import Any

import gevent
import gevent.socket

from ssestream.channels.ids import UNKNOWN, parse_id
from ssestream.wire import Decoder
from tests.long.chaos import author

#: Seconds that a client waits at most before it comes back, whatever it is told.
LONGEST_PAUSE = 1.0


class Visit:
    """One connection."""

    def __init__(self, last_event_id: str) -> None:
        self.began = time.monotonic()
        self.last_event_id = last_event_id
        self.worker = "?"
        self.messages = 0
        self.end = "?"

    def __str__(self) -> str:
        return (
            f"at {self.began:.2f} with {self.last_event_id or 'no id'} to worker {self.worker}:"
            f" {self.messages} messages, {self.end}"
        )


class Crowd:
    """What all clients know together."""

    def __init__(self, port: int, seed: int, stay: float = 4.0) -> None:
        self.port = port
        self.seed = seed
        #: Seconds that a visit lasts on average, unless the client counts or turns at the door.
        self.stay = stay
        self.counts: Counter[str] = Counter()
        #: The longest time in seconds from a request to the head of its answer.
        self.longest_wait = 0.0
        #: The newest number of each channel that anybody has seen.
        self.newest: Counter[str] = Counter()
        #: They come back when they are cut, and do not leave by themselves any more.
        self.settling = False
        #: What they hold may be lost by the broker. They must be told of each gap.
        self.may_lose = False


class Follower:
    """One client, from when it comes for the first time."""

    def __init__(self, crowd: Crowd, name: str, channels: list[str], after: float = 0.0) -> None:
        self.name = name
        self.channels = channels
        self.last_event_id = ""
        #: Whether it comes when messages flow already.
        self.late = after > 0
        #: The stream is open: whatever is published from now on is for it.
        self.open = False
        #: The number behind which it began, once its ids say that.
        self.first: dict[str, int] = {}
        #: For each channel number and author of what came, as it came.
        self.held: dict[str, list[tuple[int, tuple[str, str, int]]]] = {
            channel: [] for channel in channels
        }
        self.faults: list[str] = []
        #: Gaps in each channel.
        self.gaps: Counter[str] = Counter()
        self.visits: deque[Visit] = deque(maxlen=500)
        self._crowd = crowd
        self._dice = random.Random(f"{crowd.seed}:{name}")
        self._retry = 100
        self._known: Counter[str] = Counter()
        self._running = gevent.spawn_later(after, self._run)

    def leave(self) -> None:
        self._running.kill()

    def has_all(self, last: dict[str, int]) -> bool:
        return all(
            channel in self.first
            and (self.held[channel][-1][0] if self.held[channel] else self.first[channel])
            >= last[channel]
            for channel in self.channels
        )

    def _run(self) -> None:
        while True:
            visit = Visit(self.last_event_id)
            self.visits.append(visit)
            self._crowd.counts["visits"] += 1
            try:
                visit.end = self._visit(visit)
            except OSError as error:
                visit.end = f"failed: {error!r}"
                self._crowd.counts["failed"] += 1
            gevent.sleep(min(self._retry / 1000, LONGEST_PAUSE))

    def _visit(self, visit: Visit) -> str:
        stays = self._crowd.settling
        way = "stays" if stays else self._dice.choice(WAYS)
        if not (stays or self.first):
            # One that does not know its place yet would come back to another "now". It leaves
            # as soon as it knows, before its first event, or stays.
            stays = self._dice.random() < 0.3
            way = "stays" if stays else "looks in"
        seconds = None if stays else self._dice.expovariate(1 / self._crowd.stay)
        messages = self._dice.randint(1, 300) if way == "counts" else None
        if way == "looks in":
            messages, seconds = 0, None
        sock: Any = gevent.socket.socket()
        try:
            if way == "crawls":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", self._crowd.port))
            with gevent.Timeout(0.01 if way == "turns at the door" else seconds, False):
                end = self._read(visit, sock, messages, crawling=way == "crawls")
                self._crowd.counts[end] += 1
                return end
            if self._dice.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._crowd.counts["left"] += 1
            return f"left ({way})"
        finally:
            sock.close()

    def _read(self, visit: Visit, sock: Any, most: int | None, crawling: bool) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._crowd.port)
        connection.sock = sock
        headers = {"Accept": "text/event-stream"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        channels = ",".join(self.channels)
        connection.request("GET", f"/news?client={self.name}&channels={channels}", headers=headers)
        self._known = Counter(self._crowd.newest)
        decoder = Decoder()
        size = 300 if crawling else self._dice.choice((100, 3000, 65536))
        try:
            asked = time.monotonic()
            with connection.getresponse() as answer:
                waited = time.monotonic() - asked
                self._crowd.longest_wait = max(self._crowd.longest_wait, waited)
                visit.worker = answer.getheader("X-Worker", "?")
                if answer.status != 200:  # upon which an EventSource gives up
                    self.faults.append(f"was answered {answer.status}")
                while data := answer.read1(size):
                    for message in decoder.feed(data):
                        self._take(visit, message)
                        if visit.messages == most and self.first:
                            # What has come behind it is not read, as if it had not come.
                            self._crowd.counts["left"] += 1
                            return "left in the midst"
                    if crawling:
                        gevent.sleep(0.01)
            return "ended"
        except (http.client.HTTPException, ConnectionError):
            return "cut"

    def _take(self, visit: Visit, message: dict[str, Any]) -> None:
        """A whole event. What a cut leaves of one is nothing to an EventSource."""
        if "retry" in message:
            self._retry = message["retry"]
        if message.get("comment") == "ok":
            self.open = True
        if "data" not in message:
            if "id" in message:
                self._place(visit, message["id"])
            return
        if message.get("event") == "gap" and self._crowd.may_lose:
            self._begin_again(message["data"], visit)
            return
        if message.get("event") == "gap":
            self.faults.append(f"was told of a gap in {message['data']}, {visit}")
            return
        positions = parse_id(message.get("id", ""))
        channel = author(message["data"])[0]
        if positions is None or channel not in positions or channel not in self.held:
            self.faults.append(f"got {message['data'][:40]!r} with the id {message.get('id')!r}")
            return
        self.last_event_id = message["id"]
        number = positions[channel].number
        for name, position in positions.items():
            if position == UNKNOWN and self._crowd.may_lose:
                continue  # it will be told of a gap there
            if position == UNKNOWN:
                self.faults.append(f"got an id that does not know {name}; the visit {visit}")
                continue
            self.first.setdefault(name, position.number - (name == channel))
        held = self.held[channel]
        before = held[-1][0] if held else self.first[channel]
        if number != before + 1:
            self.faults.append(f"got {channel} {number} behind {before}; the visit {visit}")
        held.append((number, author(message["data"])))
        visit.messages += 1
        self._crowd.counts["messages"] += 1
        if number <= self._known[channel]:
            self._crowd.counts["replayed"] += 1
        if number > self._crowd.newest[channel]:
            self._crowd.newest[channel] = number

    def _begin_again(self, channel: str, visit: Visit) -> None:
        """The end of the log that it followed is lost. What it holds is of another past."""
        self.gaps[channel] += 1
        print(f"{self.name} was told of a gap in {channel}, {visit}", flush=True)
        self._crowd.counts["gaps"] += 1
        self.held[channel] = []
        self.first.pop(channel, None)

    def _place(self, visit: Visit, id: str) -> None:
        """It is told where it stands. Before the first event that is where it begins."""
        positions = parse_id(id)
        if positions is None or positions.keys() != set(self.channels):
            self.faults.append(f"was told to stand at {id!r}; the visit {visit}")
            return
        for name, position in positions.items():
            if position != UNKNOWN:
                self.first.setdefault(name, position.number)
        self.last_event_id = id


#: How a visit ends, unless it is ended: after some time, after so many messages in
#: the midst of what came, before the answer, and after some time of slow reading.
WAYS = ("stays",) * 9 + ("counts",) * 7 + ("turns at the door",) * 2 + ("crawls",) * 2
