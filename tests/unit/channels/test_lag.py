"""How far the streams of a channel are behind."""

from ssestream import Channels
from ssestream.channels.lag import Lag, lags_of
from ssestream.channels.tail import RECENT
from tests.kit.following import Following
from tests.kit.insides import listener_of
from tests.kit.visit import Visit, until

LINE = "x" * 8000


def lags(channels: Channels) -> dict[str, Lag]:
    return lags_of(listener_of(channels).tails)


def test_only_a_stream_that_is_behind_has_a_lag_and_it_is_to_the_furthest() -> None:
    channels = Channels()
    app = Following(channels, "news")
    with (
        Visit(app, send_buffer=4096) as slow,
        Visit(app, send_buffer=4096) as slower,
        Visit(app) as quick,
    ):
        for visit in (slow, slower, quick):
            visit.read_until(b":ok\n\n")
        channels.publish("sports", {"data": "of no interest"})
        until(lambda: channels.statistics()["news"].lagging == 0, "all to be live")
        assert lags(channels) == {}
        for number in range(200):
            channels.publish("news", {"data": f"{number} {LINE}"})
        quick.read_until(b"199 xxx")
        until(lambda: channels.statistics()["news"].lagging == 2, "two to be behind")
        until(lambda: lags(channels)["news"].end.number == 200, "all to be known here")

        def in_the_middle() -> bool:
            """Whether one stream has got more than the other, and not yet all."""
            lag = lags(channels)["news"]
            missing = lag.end.number - lag.furthest.number
            return missing < lag.events < 2 * missing

        slow.read_until(b"\ndata: 80 xxx")
        until(in_the_middle, "the one that reads to be ahead of the furthest")
        assert lags(channels)["news"].seconds > 0
        slow.read_until(b"199 xxx")
        slower.read_until(b"199 xxx")
        until(lambda: lags(channels) == {}, "all to be live")


def test_the_seconds_are_those_of_the_first_missing_entry_that_is_kept() -> None:
    channels = Channels()
    app = Following(channels, "news")
    with Visit(app, send_buffer=4096) as slow:
        slow.read_until(b":ok\n\n")
        until(lambda: channels.statistics()["news"].lagging == 0, "it to be live")
        for number in range(100):
            channels.publish("news", {"data": f"{number} {LINE}"})
        until(lambda: channels.statistics()["news"].lagging == 1, "it to be behind")
        until(lambda: lags(channels)["news"].end.number == 100, "all to be known here")
        early = lags(channels)["news"].seconds
        until(lambda: lags(channels)["news"].seconds > early + 0.05, "the lag to grow")
        # What was missing first is kept no more, so the seconds are too few.
        for number in range(RECENT):
            channels.publish("news", {"data": f"{number} {LINE}"})
        until(lambda: lags(channels)["news"].end.number == 100 + RECENT, "all to be known here")
        assert lags(channels)["news"].events > RECENT
        slow.read_until(f"\ndata: {RECENT - 1} xxx".encode())
