"""A block gives channels an empty memory, whatever their broker is."""

from pathlib import Path

from flask import Flask

from ssestream import Channels
from ssestream.testing import in_memory, stream
from tests.kit.visit import until


def test_the_broker_gets_nothing(tmp_path: Path) -> None:
    channels = Channels(f"sqlite:///{tmp_path}/events.db")
    with in_memory(channels) as given:
        assert given is channels
        channels.publish("news", {"data": "of a test"})
        assert [each["data"] for each in channels.history("news")] == ["of a test"]
    assert not (tmp_path / "events.db").exists()
    assert channels.history("news") == []
    channels.close()


def test_each_block_begins_empty(app: Flask) -> None:
    channels: Channels = app.extensions["ssestream"]
    channels.publish("news", {"data": "before"})
    for _ in range(2):
        with in_memory(channels):
            assert channels.history("news") == []
            channels.publish("news", {"data": "within"})
    assert [each["data"] for each in channels.history("news")] == ["before"]


def test_an_app_with_another_broker_uses_it_too(tmp_path: Path) -> None:
    channels = Channels()
    apps = [Flask("one"), Flask("two")]
    apps[1].config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/events.db"
    for each in apps:
        channels.init_app(each)
    with in_memory(channels):
        with apps[0].app_context():
            channels.publish("news", {"data": "shared"})
        with apps[1].app_context():
            assert len(channels.history("news")) == 1
        another = Flask("three")
        another.config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/others.db"
        channels.init_app(another)
        with another.app_context():
            assert len(channels.history("news")) == 1
    assert not list(tmp_path.iterdir())


def test_its_bounds_are_the_blocks() -> None:
    channels = Channels()
    with in_memory(channels, history=2):
        for number in range(3):
            channels.publish("news", {"data": number})
        assert [each["data"] for each in channels.history("news")] == ["1", "2"]


def test_the_streams_of_the_block_end_with_it(app: Flask) -> None:
    channels: Channels = app.extensions["ssestream"]
    with in_memory(channels):
        events = stream(app, "/news")
        channels.publish("news", {"data": "one"})
        assert events.next().data == "one"
    until(lambda: events.ended, "the end of the stream")
    events.close()
    assert channels.statistics() == {}
