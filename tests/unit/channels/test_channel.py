"""The handle on one channel. What its methods do is tested with what they call."""

import copy

import pytest

from ssestream import Channel, Channels, SseStream
from tests.kit.following import data_of


def test_a_handle_does_what_its_channels_do(channels: Channels) -> None:
    channel = channels.channel("news", history=2)
    for n in range(3):
        event_id = channel.publish({"data": n})
    assert channel.name == "news"
    assert channel.history(1) == channels.history("news", 1)
    assert data_of(channel.history()) == ["1", "2"]
    assert channel.history()[-1]["id"] == event_id
    stream = SseStream()
    channel.subscribe(stream, key="ann")
    assert channel.subscribers == channel.statistics().subscribers == 1
    channel.cut("bob")
    channels.unsubscribe(stream)
    assert channel.subscribers == 0
    channel.close()
    assert channel.end({"data": "bye"})
    assert not channel.end()
    channel.delete()
    assert channel.history() == []


def test_a_handle_has_one_channels() -> None:
    channel = Channels("memory://").channel("news")
    assert isinstance(channel, Channel)
    with pytest.raises(TypeError, match="Make another with channels"):
        copy.copy(channel)
    with pytest.raises(ValueError, match="the name of a channel"):
        Channels("memory://").channel("a b")
