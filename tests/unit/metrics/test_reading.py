"""The numbers of the streams of one process."""

from flask import Flask, request

from ssestream import ServerResponse, SseStream, statistics
from ssestream.http.registry import REASONS
from ssestream.metrics.number import Number
from ssestream.metrics.reading import read
from tests.kit.visit import Visit, until


def by_name() -> dict[str, Number]:
    return {number.name: number for number in read()}


def test_each_number_of_the_statistics_is_there() -> None:
    before, numbers = statistics(), by_name()
    assert numbers["opened_streams"].samples == {(): before.opened}
    assert numbers["refused_streams"].samples == {(): before.refused}
    assert numbers["messages"].samples == {(): before.messages}
    assert numbers["message_bytes"].samples == {(): before.bytes}
    assert numbers["dropped_messages"].samples == {(): before.dropped}
    assert numbers["heartbeats"].samples == {(): before.heartbeats}
    assert numbers["waiting_bytes"].samples == {(): before.waiting}
    closed = numbers["closed_streams"].samples
    assert {cause: value for (cause,), value in closed.items() if value} == before.closed
    assert set(closed) == {(cause,) for cause in REASONS}


def test_a_stream_is_counted_while_it_is_open_and_by_its_cause_when_it_is_over() -> None:
    app = Flask("app")
    app.add_url_rule("/", view_func=lambda: SseStream(request).pipe(ServerResponse()))
    before = by_name()
    with Visit(app) as visit:
        visit.read_until(b":ok")
        opened = by_name()
        assert opened["open_streams"].samples[()] == before["open_streams"].samples[()] + 1
        assert opened["opened_streams"].samples[()] == before["opened_streams"].samples[()] + 1
    left = before["closed_streams"].samples[("client",)] + 1
    until(lambda: by_name()["closed_streams"].samples[("client",)] == left, "the departure")
