"""The source of a run, drawn into the log of the run while its broker comes and goes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import gevent
import gevent.event
import pytest

from ssestream.brokers.broker import PLAIN, BrokerError, Position, Refused, Slice, Terms
from ssestream.brokers.memory import MemoryBroker
from ssestream.producer import Limits, Producer
from ssestream.run_log import RunLog, Status
from tests.kit.brokers import everything, frames
from tests.kit.visit import until

LIMITS = Limits(1000, 1_000_000)


class Flaky(MemoryBroker):
    """The answers of some appends are lost: before the entry was stored, or after.

    An append that is late is stored only as the next one comes. The broker may then be away for
    the next read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loses: dict[int, str] = {}
        self.calls = 0
        self.late: list[tuple[str, bytes, Terms]] = []
        self.is_away = False

    def append(self, channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
        self.calls += 1
        lost = self.loses.get(self.calls, "")
        while self.late:
            with contextlib.suppress(Refused):
                super().append(*self.late.pop())
        if "late" in lost:
            self.late.append((channel, frame, terms))
        if lost == "before" or self.late:
            raise BrokerError("away")
        try:
            position = super().append(channel, frame, terms)
        except Refused:
            self.is_away = "late, then away" in self.loses.values()
            raise
        if lost == "after":
            raise BrokerError("no answer")
        return position

    def read(self, channel: str, after: int, limit: int, max_bytes: int) -> Slice:
        if self.is_away:
            self.is_away = False
            raise BrokerError("away")
        return super().read(channel, after, limit, max_bytes)


def last_frame(status: Status, error: BaseException | None) -> bytes:
    return f"event: {status}\n\n".encode()


def produced(broker: MemoryBroker, source: Any) -> tuple[Producer, list[Producer]]:
    log = RunLog(broker, "answer")
    begin = log.begin("continue", "", LIMITS.bounds, 60)
    over: list[Producer] = []
    producer = Producer(log, begin, source, None, LIMITS, last_frame, over.append)
    producer.start()
    return producer, over


@pytest.mark.parametrize("lost", ["before", "after", "late", "late, then away"])
def test_a_lost_answer_loses_no_message_and_doubles_none(lost: str) -> None:
    broker = Flaky()
    # The first call begins the run. Equal messages are told apart by their numbers.
    broker.loses = {3: lost, 4: lost, 9: lost}
    _, over = produced(broker, [{"data": n // 2} for n in range(8)])
    until(lambda: bool(over), "the end")
    stored = frames(everything(broker, "run:answer"))
    assert stored[1:-1] == [
        *(b"data: %d\n\n" % (n // 2) for n in range(8)),
        b"event: done\n\n",
    ]


def test_a_control_frame_between_two_messages_takes_no_number_from_them() -> None:
    broker = MemoryBroker()

    def source() -> Iterator[dict[str, int]]:
        for n in range(5):
            broker.append("run:answer", b"\0cut 'ann'")
            yield {"data": n}

    _, over = produced(broker, source())
    until(lambda: bool(over), "the end")
    stored = [each for each in frames(everything(broker, "run:answer")) if each[0]]
    assert stored == [*(b"data: %d\n\n" % n for n in range(5)), b"event: done\n\n"]


def test_a_run_whose_log_was_deleted_is_over(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()

    def source() -> Iterator[dict[str, int]]:
        yield {"data": 1}
        broker.delete("run:answer")
        yield {"data": 2}

    _, over = produced(broker, source())
    until(lambda: bool(over), "the end")
    assert everything(broker, "run:answer").last == 0
    assert "its log was deleted or is lost" in caplog.text


def test_a_source_that_was_stopped_before_it_began_is_closed_undrawn() -> None:
    broker = MemoryBroker()
    log = RunLog(broker, "answer")
    begin = log.begin("continue", "", LIMITS.bounds, 60)
    drawn: list[int] = []
    source = (drawn.append(n) for n in range(3))
    over: list[Producer] = []
    producer = Producer(log, begin, source, None, LIMITS, last_frame, over.append)
    producer.stop()
    producer.start()
    until(lambda: bool(over), "the end")
    assert drawn == []
    assert list(source) == []


def test_a_source_that_its_app_wakes_after_the_stop_may_wait_in_its_finally() -> None:
    broker = MemoryBroker()
    woken = gevent.event.Event()
    steps: list[str] = []

    def source() -> Iterator[dict[str, int]]:
        yield {"data": 1}
        try:
            woken.wait()
        finally:
            steps.append("ended")

    class Closing:
        """Its close() waits."""

        def __iter__(self) -> Iterator[dict[str, int]]:
            return source()

        def close(self) -> None:
            gevent.sleep(0.005)
            steps.append("closed")

    def run() -> None:
        producer, over = produced(broker, Closing())
        until(lambda: everything(broker, "run:answer").last == 2, "the first message")
        producer.stop()
        woken.set()
        until(lambda: bool(over), "the end")

    gevent.spawn(run).get()
    assert steps == ["ended", "closed"]


def test_a_process_that_stops_ends_its_runs_as_lost() -> None:
    broker = MemoryBroker()

    def source() -> Iterator[dict[str, int]]:
        yield {"data": 1}
        gevent.sleep(60)

    producer, over = produced(broker, source())
    until(lambda: everything(broker, "run:answer").last == 2, "the first message")
    producer.lose()
    until(lambda: bool(over), "the end")
    assert frames(everything(broker, "run:answer"))[1:3] == [b"data: 1\n\n", b"event: lost\n\n"]
