"""The numbers of one process."""

from flask import Flask, request

from ssestream import Channels, ServerResponse, SseStream, statistics
from ssestream.http.registry import REASONS
from ssestream.metrics.number import Number
from ssestream.metrics.reading import Group, read
from tests.kit.visit import Visit, until


def by_name(channels: Channels | None = None, group: Group | None = None) -> dict[str, Number]:
    return {number.name: number for number in read(channels, group)}


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


def test_channels_are_counted_in_the_groups_that_the_app_names() -> None:
    channels = Channels()
    app = Flask("app")

    @app.get("/<path:names>")
    def view(names: str) -> ServerResponse:
        sse_stream = SseStream(request)
        channels.subscribe(sse_stream, *names.split("/"))
        return sse_stream.pipe(ServerResponse())

    def group(name: str) -> str | None:
        return None if name == "hidden" else name.partition(".")[0]

    with Visit(app, "/user.1/news/hidden") as one, Visit(app, "/user.2/user.1") as two:
        one.read_until(b":ok")
        two.read_until(b":ok")
        numbers = by_name(channels, group)
        assert numbers["followed_channels"].samples == {("user",): 2, ("news",): 1}
        assert numbers["channel_followers"].samples == {("user",): 3, ("news",): 1}
        assert numbers["lagging_followers"].samples == {("user",): 0, ("news",): 0}
        until(lambda: channels.state == "listening", "the listener")
        assert numbers["processes_without_broker"].samples == {(): 0}
        everything = by_name(channels)
        assert everything["channel_followers"].samples == {("all",): 5}


def test_a_broker_that_is_down_is_told() -> None:
    channels = Channels("sqlite:////nowhere/at/all/events.db")
    app = Flask("app")

    @app.get("/")
    def view() -> ServerResponse:
        sse_stream = SseStream(request)
        channels.subscribe(sse_stream, "news")
        return sse_stream.pipe(ServerResponse())

    with Visit(app) as visit:
        visit.read_until(b":ok")
        until(lambda: channels.state == "down", "the failure")
        assert by_name(channels)["processes_without_broker"].samples == {(): 1}
