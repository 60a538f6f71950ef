"""What clients do to a server.

Each behaviour is a function of a `Visit`. It says of each stream that it asks
for what may become of it, ``may_be``: mostly one thing, as whoever leaves
does so while the server would go on for ever. Where two things race
(a client that leaves while its stream ends) it names both.
"""

import json
import random
import time
from collections.abc import Callable
from typing import Any

import gevent

from tests.long.soak.client import PATIENCE, Answer, Line, ask, request

#: Seconds in which a stalled client is cut.
SEND_TIMEOUT = 2.0

#: More messages than anybody stays for.
ENDLESS = 1_000_000

#: Buffers so small that a client who does not read is felt at once.
SMALL = 16 * 1024


class Visit:
    """One client's coming, with all of its connections."""

    def __init__(self, port: int, seed: int, number: int, behaviour: "Behaviour") -> None:
        self.behaviour = behaviour
        self.port = port
        # Its own, so that what it does is the same whoever is there beside it.
        self.random = random.Random(f"{seed}/{number}")
        self.answers: list[Answer] = []
        self.lines: list[Line] = []
        self._number = number

    def connect(self, receive_buffer: int | None = None) -> Line:
        # Several addresses, as one has ports for 28,000 connections in a minute only.
        line = Line(self.port, f"127.0.0.{1 + self._number % 50}", receive_buffer)
        self.lines.append(line)
        return line

    def want(
        self,
        way: str,
        *headers: str,
        may_be: set[str | None],
        whole: int | None = None,
        first: int = 1,
        size: int = 10,
        method: str = "GET",
        version: str = "1.1",
        options: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> tuple[Answer, bytes]:
        """An answer to come, and the request for it, which is not sent yet."""
        key = f"{self._number}.{len(self.answers)}"
        answer = Answer(key, size, first, head=method == "HEAD")
        answer.may_be = may_be
        answer.whole = whole
        self.answers.append(answer)
        if options:
            arguments["options"] = json.dumps(options)
        arguments |= {"key": key, "size": size}
        return answer, request(way, *headers, method=method, version=version, **arguments)

    def get_large(self, way: str, **arguments: Any) -> tuple[Line, Answer]:
        """An answer of large messages, on a connection that takes little at a time."""
        line = self.connect(SMALL)
        return line, self.get(line, way, size=4000, send_buffer=SMALL, **arguments)

    def get(self, line: Line, way: str, *headers: str, **arguments: Any) -> Answer:
        answer, wire = self.want(way, *headers, **arguments)
        line.send(wire)
        return answer

    def whole_stream(self) -> tuple[Answer, bytes]:
        """One of any size and pace, that ends by itself."""
        way = self.random.choice(["/paced", "/iterated", "/drawn"])
        size = self.random.choice([10, 10, 500, 4000])
        count = self.random.randrange(20)
        if self.random.random() < 0.05:
            size, count = 150_000, 3
        return self.want(
            way,
            may_be={"ended"},
            whole=count,
            size=size,
            count=count,
            ms=self.random.choice([0, 0, 2, 10]),
            end=1,
        )

    def ticking(self, line: Line, **more: Any) -> Answer:
        """One that goes on until somebody leaves."""
        way = self.random.choice(["/paced", "/paced", "/iterated", "/drawn"])
        ms = self.random.choice([2, 5, 20])
        return self.get(line, way, **{"may_be": {"client"}, "count": ENDLESS, "ms": ms, **more})

    def stay(self, line: Line, answer: Answer) -> None:
        """Read the beginning, which is the head at least."""
        messages = self.random.randrange(15)
        line.read(answer, lambda seen: seen.ok and seen.messages >= messages)

    def leave(self, line: Line) -> None:
        self.random.choice([line.fin, line.rst])()

    def wait_until_cut(self, answer: Answer) -> None:
        """By what the server says, as whoever reads nothing cannot see it."""
        end = time.monotonic() + PATIENCE
        while ask(self.port, f"/is-over/{answer.key}") != b"yes" and time.monotonic() < end:
            gevent.sleep(SEND_TIMEOUT / 2)

    def check(self, answer: Answer, right: bool, sentence: str) -> None:
        if not right:
            answer.faults.append(sentence)

    def must_be_cut(self, line: Line, answer: Answer, **how: Any) -> None:
        line.read(answer, **how)
        self.check(answer, answer.over, "was to be cut, and goes on")
        self.check(answer, not answer.clean, "was to be cut, and got a clean end")


def reads_to_the_end(visit: Visit) -> None:
    line = visit.connect()
    for _ in range(visit.random.choice([1, 1, 1, 3])):
        answer, wire = visit.whole_stream()
        line.send(wire)
        line.read(answer)
        visit.check(answer, answer.clean, "got no clean end")


def leaves(visit: Visit) -> None:
    line = visit.connect()
    visit.stay(line, visit.ticking(line))
    line.fin()


def resets(visit: Visit) -> None:
    line = visit.connect()
    visit.stay(line, visit.ticking(line))
    line.rst()


def half_closes(visit: Visit) -> None:
    line = visit.connect()
    answer = visit.ticking(line)
    visit.stay(line, answer)
    line.half_close()
    visit.must_be_cut(line, answer)


def leaves_in_silence(visit: Visit) -> None:
    """From a stream to which nothing is written that could fail."""
    line = visit.connect()
    answer = visit.get(line, "/paced", may_be={"client"}, whole=3, count=3)
    line.read(answer, lambda seen: seen.messages == 3)
    visit.leave(line)


def leaves_with_buffers_full(visit: Visit) -> None:
    """While the server sits in its send."""
    line = visit.connect(SMALL)
    answer = visit.get(
        line, "/drawn", may_be={"client"}, count=ENDLESS, size=4000, send_buffer=SMALL
    )
    line.read(answer, lambda seen: seen.messages)
    gevent.sleep(visit.random.uniform(0, 0.1))
    visit.random.choice([line.fin, line.rst, line.half_close])()


def leaves_before_the_head(visit: Visit) -> None:
    line = visit.connect()
    if visit.random.random() < 0.5:
        visit.get(line, "/paced", may_be={"client", None})
    else:
        answer, wire = visit.whole_stream()
        answer.may_be = {"client", "ended", None}
        answer.whole = None
        line.send(wire)
    gevent.sleep(visit.random.choice([0, 0, 0.001, 0.01]))
    visit.leave(line)


def leaves_at_the_end(visit: Visit) -> None:
    line = visit.connect()
    answer = visit.get(line, "/paced", may_be={"client", "ended"}, whole=5, count=5, ms=2, end=1)
    line.read(answer, lambda seen: seen.messages == 5)
    visit.leave(line)


def sends_half_a_request(visit: Visit) -> None:
    """With all of its key or nothing of it: pywsgi serves a head that the connection's end ends."""
    line = visit.connect()
    _, wire = visit.want("/paced", may_be={"client", None})
    in_path = visit.random.randrange(wire.index(b"?"))
    in_head = visit.random.randrange(wire.index(b"\n"), len(wire) - 1)
    line.send(wire[: visit.random.choice([in_path, in_head])])
    gevent.sleep(visit.random.choice([0, 0.01]))
    visit.leave(line)


def stalls(visit: Visit) -> None:
    line, answer = visit.get_large(
        "/drawn",
        may_be={"stalled"},
        count=ENDLESS,
        options={"send_timeout": SEND_TIMEOUT},
    )
    line.read(answer, lambda seen: seen.messages >= 3)
    # Not by the clock, which says little on a busy machine.
    visit.wait_until_cut(answer)
    visit.must_be_cut(line, answer, until=lambda seen: seen.messages > 1000)


def reads_slowly(visit: Visit) -> None:
    """But reads: nobody may cut it, though it takes much longer than the send timeout."""
    line, answer = visit.get_large(
        "/drawn",
        may_be={"ended"},
        whole=150,
        count=150,
        options={"send_timeout": SEND_TIMEOUT},
    )
    # All that has come, each time: a kernel tells its peer that there is room only
    # when there is much of it, and until then the server sees no reading.
    line.read(answer, pause=0.1)
    if line.pause > SEND_TIMEOUT / 2:  # on so busy a machine it was no reader after all
        answer.may_be.add("stalled")
        answer.whole = None
    else:
        visit.check(answer, answer.clean, f"was cut, though it read every {line.pause:.2f} s")


def is_written_to_without_regard(visit: Visit) -> None:
    """Perhaps so early that it is cut before it was opened."""
    line, answer = visit.get_large(
        "/reckless",
        may_be={"overflow", None},
        count=ENDLESS,
        options={"max_messages": 50},
    )
    line.read(answer, lambda seen: seen.ok)
    visit.wait_until_cut(answer)
    visit.must_be_cut(line, answer)


def loses_the_oldest(visit: Visit) -> None:
    """Of a stream that drops them: what it misses is what is counted as dropped."""
    line, answer = visit.get_large(
        "/reckless",
        may_be={"ended"},
        count=200,
        options={"max_messages": 20, "overflow": "drop-oldest"},
    )
    answer.lossy = True
    line.read(answer, lambda seen: seen.ok)
    gevent.sleep(0.1)
    line.read(answer)
    visit.check(answer, answer.clean, "got no clean end")
    visit.check(answer, answer.messages + answer.missed == 200, "did not get the last message")


def asks_for_the_head(visit: Visit) -> None:
    line = visit.connect()
    for _ in range(2):
        head = visit.get(line, "/paced", may_be={None}, method="HEAD", count=3, end=1)
        line.read(head)
    answer, wire = visit.whole_stream()
    line.send(wire)
    line.read(answer)
    visit.check(answer, answer.clean, "got no clean end behind a HEAD")


def sends_a_request_behind(visit: Visit) -> None:
    """Another is read when the first is whole, and never when its client has left."""
    line = visit.connect()
    if visit.random.random() < 0.5:
        (one, wire), (two, more) = visit.whole_stream(), visit.whole_stream()
        line.send(wire + more)
        for answer in (one, two):
            line.read(answer)
            visit.check(answer, answer.clean, "got no clean end, with another behind or before")
        return
    first = visit.ticking(line)
    _, wire = visit.whole_stream()
    visit.answers[-1].may_be = {None}
    visit.answers[-1].whole = None
    line.send(wire)
    visit.stay(line, first)
    visit.random.choice([line.fin, line.rst, line.half_close])()


def comes_back(visit: Visit) -> None:
    """With the last id that it has seen, until it has seen everything."""
    seen = 0
    for leaves_early in (True, True, False):
        line = visit.connect()
        headers = [f"Last-Event-ID: {seen}"] if seen else []
        answer = visit.get(
            line,
            "/paced",
            *headers,
            may_be={"client"} if leaves_early else {"ended"},
            whole=None if leaves_early else 10,
            first=seen + 1,
            count=ENDLESS if leaves_early else seen + 10,
            ms=2,
            end=1,
        )
        if leaves_early:
            line.read(answer, lambda at: at.messages >= 10)
            visit.leave(line)
        else:
            line.read(answer)
        seen += answer.messages
    visit.check(answer, answer.clean, "got no clean end")


def stays_until_it_is_old(visit: Visit) -> None:
    line = visit.connect()
    answer = visit.ticking(line, may_be={"age"}, options={"max_age": 0.3})
    line.read(answer)
    visit.check(answer, answer.clean and answer.retries == 1, "was not ended as an old one is")


def is_refused(visit: Visit) -> None:
    """As its client has another open, or as the process has."""
    line = visit.connect()
    by_client = visit.random.random() < 0.5
    headers = [f"X-Client: {visit._number}"] if by_client else []
    way = "/paced" if by_client else "/full/paced"
    answer = visit.get(line, "/paced", *headers, may_be={"client"})
    line.read(answer, lambda seen: seen.ok)
    other = visit.connect()
    refused = visit.get(other, way, *headers, may_be={"refused"}, whole=0, count=5)
    other.read(refused)
    visit.check(refused, refused.clean and refused.retries == 1, "was not refused in order")
    visit.leave(line)


def is_destroyed(visit: Visit) -> None:
    """Perhaps before a busy server has come to open it."""
    line = visit.connect()
    error = {"error": 1} if visit.random.random() < 0.5 else {}
    answer = visit.get(
        line,
        "/destroyed",
        may_be={"error", None},
        of=visit.random.choice(["stream", "response"]),
        count=visit.random.randrange(10),
        ms=visit.random.choice([1, 10, 50]),
        **error,
    )
    visit.must_be_cut(line, answer)


def speaks_http_1_0(visit: Visit) -> None:
    """To whom only the connection's end tells the stream's."""
    line = visit.connect()
    if visit.random.random() < 0.5:
        answer = visit.get(
            line, "/paced", may_be={"ended"}, whole=10, count=10, ms=2, end=1, version="1.0"
        )
        line.read(answer)
        visit.check(answer, answer.over, "was kept")
    else:
        visit.stay(line, visit.ticking(line, version="1.0"))
        visit.leave(line)


def listens_to_the_beat(visit: Visit) -> None:
    line = visit.connect()
    answer = visit.get(
        line, "/silent", may_be={"ended"}, whole=0, ms=500, options={"heartbeat": 0.1}
    )
    line.read(answer)
    visit.check(answer, answer.clean, "got no clean end")


class Behaviour:
    """How often it comes, of a hundred, and with how many connections."""

    def __init__(self, act: Callable[[Visit], None], share: int, connections: int = 1) -> None:
        self.act = act
        self.name = act.__name__.replace("_", " ")
        self.share = share
        self.connections = connections


BEHAVIOURS = [
    Behaviour(reads_to_the_end, 12),
    Behaviour(leaves, 8),
    Behaviour(resets, 8),
    Behaviour(half_closes, 8),
    Behaviour(leaves_in_silence, 6),
    Behaviour(leaves_with_buffers_full, 5),
    Behaviour(leaves_before_the_head, 7),
    Behaviour(leaves_at_the_end, 5),
    Behaviour(sends_half_a_request, 4),
    Behaviour(stalls, 3),
    Behaviour(reads_slowly, 2),
    Behaviour(is_written_to_without_regard, 2),
    Behaviour(loses_the_oldest, 2),
    Behaviour(asks_for_the_head, 4),
    Behaviour(sends_a_request_behind, 5),
    Behaviour(comes_back, 3, connections=3),
    Behaviour(stays_until_it_is_old, 3),
    Behaviour(is_refused, 3, connections=2),
    Behaviour(is_destroyed, 4),
    Behaviour(speaks_http_1_0, 4),
    Behaviour(listens_to_the_beat, 2),
]


def come(port: int, seed: int, number: int) -> Visit:
    """Visit *number* of the run with this *seed*."""
    dice = random.Random(f"{seed}:{number}")
    behaviour = dice.choices(BEHAVIOURS, [each.share for each in BEHAVIOURS])[0]
    return Visit(port, seed, number, behaviour)
