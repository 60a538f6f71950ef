"""The numbers of one channel in this process."""

import dataclasses

import pytest

from ssestream import Channels, SseStream
from tests.kit.visit import until


def test_a_channel_counts_its_streams_and_events_and_nothing_of_other_channels() -> None:
    channels = Channels()
    streams = [SseStream(), SseStream()]
    for stream in streams:
        channels.subscribe(stream, "news")
    channels.publish("news", {"data": "1"})
    channels.publish("sports", {"data": "2"})
    until(lambda: channels.statistics()["news"].delivered == 2, "the event at both")
    numbers = channels.statistics()["news"]
    assert (numbers.subscribers, numbers.published) == (2, 1)
    assert (numbers.replayed, numbers.lagging, numbers.gaps) == (0, 0, 0)
    for stream in streams:
        stream.destroy()
    until(lambda: "news" not in channels.statistics(), "the last to leave")


def test_the_numbers_of_one_moment_do_not_change() -> None:
    channels = Channels()
    stream = SseStream()
    channels.subscribe(stream, "news")
    before = channels.statistics()["news"]
    channels.publish("news", {"data": "1"})
    until(lambda: channels.statistics()["news"].delivered == 1, "the event")
    assert before.delivered == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.delivered = 1  # type: ignore[misc]
    stream.destroy()
