"""What an app gives to channels is checked before anything is done."""

from typing import Any

import flask
import pytest
from werkzeug.local import LocalProxy

from ssestream import Channels, SseStream
from ssestream.brokers.broker import PLAIN, Bounds
from ssestream.brokers.memory import MemoryBroker
from ssestream.channels.arguments import check_subscription, terms_of
from ssestream.errors import BrokerError
from ssestream.wire import Decoder
from tests.kit.insides import over
from tests.kit.sink import Sink
from tests.kit.visit import until


def check(**wrong: Any) -> None:
    right: dict[str, Any] = {
        "sse_stream": SseStream(),
        "names": ("news",),
        "since": None,
        "latest": 0,
        "filter": None,
    }
    check_subscription(**{**right, **wrong})


def test_right_arguments_are_no_error() -> None:
    check()
    check(since="news=abc.1", latest=3, filter=lambda message: True)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"sse_stream": "news"}, TypeError, "sse_stream must be an SseStream, not str"),
        ({"names": ()}, TypeError, "at least one channel"),
        ({"since": 3}, TypeError, "since must be an id or None, not int"),
        ({"filter": 3}, TypeError, "filter must be a function or None"),
        ({"latest": -1}, ValueError, "latest is an int from 0 on, and not -1"),
        ({"latest": True}, ValueError, "latest is an int from 0 on, and not True"),
        ({"latest": None}, ValueError, "latest is an int from 0 on, and not None"),
    ],
)
def test_a_wrong_argument_is_named(
    wrong: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check(**wrong)


def test_a_channel_without_terms_of_its_own_has_the_plain_ones() -> None:
    assert terms_of(None, None, None) is PLAIN


def test_the_terms_of_a_channel_are_what_was_asked() -> None:
    assert terms_of(10, 60.0, None).bounds == Bounds(10, 60.0)
    assert terms_of(None, None, 30.0).bounds is None
    assert terms_of(None, None, 30.0).ttl == 30.0


@pytest.mark.parametrize("wrong", [(0, None, None), (None, -1, None), (None, None, 0)])
def test_wrong_terms_are_refused(wrong: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"history|ttl"):
        terms_of(*wrong)


class Away(MemoryBroker):
    """One that cannot be read or waited for while *away*."""

    away = True

    def read(self, *args: Any) -> Any:
        self._check()
        return super().read(*args)

    def wait(self) -> Any:
        self._check()
        return super().wait()

    def _check(self) -> None:
        if self.away:
            raise BrokerError("away")


def test_the_values_of_proxies_are_taken_at_once() -> None:
    """They have none when the broker is back, as their request is over then."""
    broker, app, sink = Away(), flask.Flask(__name__), Sink()
    channels = over(broker)
    for number in range(5):
        broker.append("news", b"data: %d\n\n" % number)
    with app.test_request_context("/?latest=2&name=news"):
        flask.g.stream, flask.g.filter = SseStream(), lambda message: message["data"] != "4"
        stream = flask.g.stream
        stream.pipe(sink)
        channels.subscribe(
            LocalProxy(lambda: flask.g.stream),
            LocalProxy(lambda: flask.request.args["name"]),
            latest=LocalProxy(lambda: int(flask.request.args["latest"])),
            filter=LocalProxy(lambda: flask.g.filter),
            key=LocalProxy(lambda: flask.request.args["name"]),
            counted=LocalProxy(lambda: flask.g.stream),
        )
        assert channels.channel("news").subscribers == 1
        channels.unsubscribe(stream)
        assert channels.channel("news").subscribers == 0
        channels.subscribe(
            LocalProxy(lambda: flask.g.stream),
            "news",
            latest=LocalProxy(lambda: int(flask.request.args["latest"])),
            filter=LocalProxy(lambda: flask.g.filter),
        )
    broker.away = False
    broker.append("news", b"data: 5\n\n")
    until(lambda: b"data: 5" in b"".join(sink.got), "the broker to be back")
    messages = Decoder().feed(b"".join(sink.got))
    # The last one was not filtered out by an error.
    assert [each["data"] for each in messages if "data" in each][-1] == "5"
    assert not stream.destroyed
    stream.destroy()


def test_the_bounds_of_a_channel_are_taken_at_once() -> None:
    app = flask.Flask(__name__)
    channels = Channels("memory://")
    with app.test_request_context("/?keep=2"):
        keep: Any = LocalProxy(lambda: int(flask.request.args["keep"]))
        channel = channels.channel("news", history=keep)
    for number in range(5):
        channel.publish({"data": number})
    assert len(channel.history()) == 2
