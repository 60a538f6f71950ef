"""Reading back what a log keeps."""

from collections.abc import Callable

from ssestream import Channels
from tests.kit.following import Client, Following, data_of, numbers, publish
from tests.kit.visit import on_threads_and_greenlets

Make = Callable[..., Channels]


def test_history_gives_the_last_messages_as_a_browser_would_see_them(channels: Channels) -> None:
    ids = publish(channels, "news", 600)
    assert channels.history("news", 2) == [
        {"id": ids[598], "data": "598"},
        {"id": ids[599], "data": "599"},
    ]
    assert data_of(channels.history("news")) == numbers(600)
    assert channels.history("news", 0) == []
    assert channels.history("nothing") == []


def test_history_counts_messages_and_no_words(channels: Channels) -> None:
    publish(channels, "news", 5)
    for key in range(5):
        channels.cut("news", key)
        channels.close_channel("news")
    publish(channels, "news", 5, 7)
    channels.close_channel("news")
    assert data_of(channels.history("news", 4)) == numbers(3, 7)
    assert data_of(channels.history("news", 100)) == numbers(7)


@on_threads_and_greenlets
def test_a_page_made_of_the_history_goes_on_without_a_hole(channels: Channels) -> None:
    publish(channels, "news", 5)
    page = channels.history("news", 3)
    publish(channels, "news", 5, 8)
    with Client(Following(channels, "news", since=page[-1]["id"])) as client:
        publish(channels, "news", 8, 10)
        assert data_of(page) + data_of(client.take(5)) == numbers(2, 10)
