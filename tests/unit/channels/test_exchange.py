"""One broker and the streams of this process: how they end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ssestream import Channels
from tests.kit.following import Client, Following, data_of, publish
from tests.kit.insides import broker_of, listener_of
from tests.kit.states import nothing_remains
from tests.kit.visit import until

Make = Callable[..., Channels]


def held(folder: Path) -> set[Any]:
    """This process's open files below *folder*, and its TCP connections."""
    process = psutil.Process()
    files = {each.path for each in process.open_files() if each.path.startswith(str(folder))}
    return files | {(each.laddr, each.raddr) for each in process.net_connections("tcp")}


def test_close_ends_the_streams_the_listener_and_the_connections(
    make: Make, tmp_path: Path
) -> None:
    channels, other = make(), make()
    before = held(tmp_path)
    publish(channels, "news", 2)
    with (
        Client(Following(channels, "news", latest=2)) as client,
        Client(Following(channels, "news", "sports")),
    ):
        client.take(2)
        until(lambda: channels.state == "listening", "the listener")
        assert broker_of(channels).shared == bool(held(tmp_path) - before)
        channels.close()
        assert channels.state == "idle"
        assert not listener_of(channels).is_running
        assert data_of(client.all()) == ["0", "1"]
    nothing_remains(channels)
    until(lambda: not held(tmp_path) - before, "the connections to be closed")
    # It opens again, for whoever asks.
    assert len(channels.history("news")) == 2
    with Client(Following(channels, "news", latest=1)) as client:
        publish(channels, "news", 2, 3)
        assert data_of(client.take(2)) == ["1", "2"]
    other.close()
    other.close()


def test_close_of_unused_channels_does_nothing() -> None:
    Channels().close()
    Channels("redis://127.0.0.1:1/0").close()
