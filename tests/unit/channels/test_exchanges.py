"""Which broker an app gets: its own, or one that it shares."""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest
from flask.json.provider import DefaultJSONProvider

from ssestream import Channels, MessageError, SseStream
from ssestream.channels import watchers
from ssestream.channels.exchanges import Exchanges
from tests.kit.following import Client, Following, publish
from tests.kit.insides import broker_of, exchange_of
from tests.kit.states import nothing_remains
from tests.kit.visit import until


def app_with(url: str | None) -> flask.Flask:
    app = flask.Flask(__name__)
    app.config["SSESTREAM_URL"] = url
    return app


@pytest.fixture
def urls(tmp_path: Path) -> tuple[str, str]:
    return f"sqlite:///{tmp_path}/one.db", f"sqlite:///{tmp_path}/other.db"


def test_nothing_is_opened_before_it_is_needed() -> None:
    exchanges = Exchanges(None, None, None)
    assert exchanges.own is None
    assert exchanges.all() == []
    assert exchanges.current() is exchanges.current() is exchanges.own
    assert exchanges.all() == [exchanges.own]


def test_a_url_opens_its_broker_at_once_and_no_app_changes_it(urls: tuple[str, str]) -> None:
    exchanges = Exchanges(urls[0], None, None)
    own = exchanges.own
    assert own is not None
    exchanges.init_app(app_with(urls[1]))
    assert exchanges.current() is own
    with app_with(urls[1]).app_context():
        assert exchanges.current() is own


def test_apps_with_equal_configurations_share_one_and_others_have_their_own(
    urls: tuple[str, str],
) -> None:
    exchanges = Exchanges(None, None, None)
    one, same, other = app_with(urls[0]), app_with(urls[0]), app_with(urls[1])
    found: list[Any] = []
    for app in (one, same, other):
        exchanges.init_app(app)
    for app in (one, same, other):
        with app.app_context():
            found.append(exchanges.current())
    assert found[0] is found[1] is exchanges.own
    assert found[2] is not found[0]
    assert found[2].broker is not found[0].broker
    assert {*exchanges.all()} == {found[0], found[2]}
    with pytest.raises(RuntimeError, match="several apps with different brokers"):
        exchanges.current()


def test_an_app_that_is_gone_takes_its_broker_with_it(urls: tuple[str, str]) -> None:
    exchanges = Exchanges(None, None, None)
    one, other = app_with(urls[0]), app_with(urls[1])
    exchanges.init_app(one)
    exchanges.init_app(other)
    assert len(exchanges.all()) == 2
    del other
    gc.collect()
    assert exchanges.current() is exchanges.own
    exchanges.init_app(one)
    assert exchanges.all() == [exchanges.own]


def test_the_key_of_a_wrong_value_is_named() -> None:
    exchanges = Exchanges(None, None, None)
    app = app_with(None)
    app.config["SSESTREAM_HISTORY"] = 0
    with pytest.raises(ValueError, match="SSESTREAM_HISTORY must be at least 1"):
        exchanges.init_app(app)
    assert exchanges.all() == []
    # And the app may be used once the value is right.
    app.config["SSESTREAM_HISTORY"] = 1
    exchanges.init_app(app)
    assert exchanges.all() == [exchanges.own]


def test_a_child_process_has_listeners_of_its_own() -> None:
    exchanges = Exchanges("memory://", None, None)
    exchange = exchanges.current()
    listener = exchange.listener
    exchanges.forked()
    assert exchanges.current() is exchange
    assert exchange.listener is not listener


# -- as apps use them

Make = Callable[..., Channels]


def test_channels_are_configured_by_the_app() -> None:
    app = flask.Flask(__name__)
    app.config.update(SSESTREAM_HISTORY=3, SSESTREAM_HISTORY_AGE=60)
    channels = Channels(app)
    assert app.extensions["ssestream"] is channels
    publish(channels, "news", 10)
    assert len(channels.history("news")) == 3
    assert broker_of(channels).read("news", 0, 0, 0).bounds.age == 60


def test_init_app_takes_what_was_not_given(tmp_path: Path) -> None:
    app = flask.Flask(__name__)
    app.config.update(SSESTREAM_HISTORY=3, SSESTREAM_URL=f"sqlite:///{tmp_path}/events.db")
    channels = Channels(history=2)
    channels.init_app(app)
    publish(channels, "news", 10)
    assert len(channels.history("news")) == 2
    assert (tmp_path / "events.db").exists()
    broker_of(channels).close()


def test_functions_of_on_empty_that_are_given_before_init_app_wait_in_its_broker(
    urls: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "BEAT", 0.05)
    channels = Channels()
    called: list[str] = []
    channels.channel("room").on_empty(called.append, grace=0)
    before = exchange_of(channels)
    channels.init_app(app_with(urls[0]))
    assert exchange_of(channels) is not before
    until(lambda: not before.watchers.is_running, "nobody to wait there")
    with Client(Following(channels, "room", counted=True)):
        until(lambda: channels.channel("room").watchers() == 1, "it to be counted")
    until(lambda: called == ["room"], "the call")
    channels.close()


def test_what_is_used_in_an_app_takes_that_from_it_too(tmp_path: Path) -> None:
    app = flask.Flask(__name__)
    app.config.update(SSESTREAM_HISTORY=3, SSESTREAM_URL=f"sqlite:///{tmp_path}/events.db")
    channels = Channels()
    with app.app_context():
        publish(channels, "news", 10)
    assert len(channels.history("news")) == 3
    assert (tmp_path / "events.db").exists()
    broker_of(channels).close()


def test_what_is_published_outside_of_the_app_is_written_as_in_it() -> None:
    class Provider(DefaultJSONProvider):
        @staticmethod
        def default(value: Any) -> Any:
            return "of the app" if value is Ellipsis else DefaultJSONProvider.default(value)

    app = flask.Flask(__name__)
    app.json = Provider(app)
    channels = Channels(app)
    channels.publish("news", {"data": [...]})
    with app.app_context():
        channels.publish("news", {"data": [...]})
    with pytest.raises(MessageError):
        Channels().publish("news", {"data": [...]})
    assert [message["data"] for message in channels.history("news")] == ['["of the app"]'] * 2


def test_an_app_that_is_made_twice_keeps_its_channels() -> None:
    channels = Channels()
    for _ in range(2):
        channels.init_app(flask.Flask(__name__))
        publish(channels, "news", 1)
    assert len(channels.history("news")) == 2


def two_apps(tmp_path: Path, *, history: int | None = None) -> tuple[Any, ...]:
    """Channels, and two apps whose brokers differ, or only what they keep."""
    channels, apps = Channels(), []
    for number in (1, 2):
        app = flask.Flask(f"app{number}")
        app.config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/{1 if history else number}.db"
        if history and number == 2:
            app.config["SSESTREAM_HISTORY"] = history
        channels.init_app(app)
        apps.append(app)
    return channels, *apps


def test_two_apps_have_each_their_own_broker(tmp_path: Path) -> None:
    channels, one, two = two_apps(tmp_path)
    for app in (one, two, one):
        with app.app_context():
            channels.publish("news", {"data": app.name})
            channels.channel("sports").publish({"data": app.name})
    for app, count in ((one, 2), (two, 1)):
        with app.app_context():
            for name in ("news", "sports"):
                assert [each["data"] for each in channels.history(name)] == [app.name] * count
        other = Channels(app.config["SSESTREAM_URL"])
        assert len(other.history("news")) == count
        other.close()
    channels.close()


def test_the_streams_of_two_apps_follow_each_their_own_broker(tmp_path: Path) -> None:
    channels, one, two = two_apps(tmp_path)
    streams, chunks = {}, {}
    for app in (one, two):
        with app.app_context():
            chunks[app] = []
            streams[app] = piped(chunks[app])
            channels.subscribe(streams[app], "news", key="k")
            until(lambda: channels.state == "listening", "the listener")
            assert channels.statistics()["news"].subscribers == 1
    for app in (one, two):
        with app.app_context():
            channels.publish("news", {"data": app.name})
    for app in (one, two):
        until(lambda app=app: b"data" in b"".join(chunks[app]), "the event")  # type: ignore[misc]
        assert b"".join(chunks[app]).count(b"data: ") == 1
        assert app.name.encode() in b"".join(chunks[app])
    with two.app_context():
        channels.cut("news", "k")
    until(lambda: streams[two].destroyed or streams[two].writable_ended, "the cut")
    assert not streams[one].writable_ended
    # Wherever it is called, as a handler has no context.
    channels.unsubscribe(streams[one])
    with one.app_context():
        assert channels.statistics() == {}
    channels.close()


def piped(chunks: list[bytes]) -> SseStream:
    stream = SseStream()
    stream.pipe(type("Page", (), {"write": staticmethod(chunks.append)})())
    return stream


@pytest.mark.long_except("<lambda>0", "<lambda>1")
@pytest.mark.parametrize(
    "call",
    [
        lambda channels: channels.publish("news", {"data": 1}),
        lambda channels: channels.history("news"),
        lambda channels: channels.subscribe(SseStream(), "news"),
        lambda channels: channels.cut("news", "k"),
        lambda channels: channels.close_channel("news"),
        lambda channels: channels.state,
        lambda channels: channels.statistics(),
    ],
)
def test_outside_of_two_apps_with_two_brokers_nothing_is_guessed(
    tmp_path: Path, call: Callable[[Channels], object]
) -> None:
    channels, _one, _two = two_apps(tmp_path)
    with pytest.raises(RuntimeError, match=r"app_context\(\)"):
        call(channels)
    with flask.Flask("another").app_context(), pytest.raises(RuntimeError, match="none of them"):
        call(channels)
    assert not list(tmp_path.iterdir())


def test_two_apps_that_keep_differently_are_two_as_well(tmp_path: Path) -> None:
    channels, one, two = two_apps(tmp_path, history=3)
    for app in (one, two):
        with app.app_context():
            publish(channels, app.name, 10)
            assert len(channels.history(app.name)) == (10 if app is one else 3)
    channels.close()


def test_an_app_that_is_gone_is_none(tmp_path: Path) -> None:
    """As in tests, each of which makes an app with a database of its own."""
    channels = Channels()
    for number in range(3):
        app = flask.Flask(__name__)
        app.config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/{number}.db"
        channels.init_app(app)
        channels.publish("news", {"data": number})
        assert [each["data"] for each in channels.history("news")] == [str(number)]
        with app.app_context():
            assert len(channels.history("news")) == 1
        del app
    channels.close()


def test_apps_that_say_nothing_of_these_channels_have_each_their_own_too(tmp_path: Path) -> None:
    channels, apps = Channels(), [flask.Flask(f"app{number}") for number in (1, 2)]
    for number, app in enumerate(apps):
        app.config["SSESTREAM_URL"] = f"sqlite:///{tmp_path}/{number}.db"
        with app.app_context():
            channels.publish("news", {"data": app.name})
            assert [each["data"] for each in channels.history("news")] == [app.name]
    channels.close()


def test_the_json_of_each_of_two_apps_is_its_own(tmp_path: Path) -> None:
    channels, one, two = two_apps(tmp_path)
    for app in (one, two):
        app.json.default = lambda value, app=app: app.name  # type: ignore[attr-defined]
    for app in (one, two):
        with app.app_context():
            channels.publish("news", {"data": [...]})
            (message,) = channels.history("news")
            assert message["data"] == f'["{app.name}"]'
    channels.close()


def test_channels_with_subscribers_are_not_configured_anew(local: Make) -> None:
    channels = local()
    channels.subscribe(SseStream(), "news")
    app = flask.Flask(__name__)
    app.config["SSESTREAM_HISTORY"] = 7
    with pytest.raises(RuntimeError, match="subscribers"):
        channels.init_app(app)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SSESTREAM_URL", "http://example.org"),
        ("SSESTREAM_URL", "sqlite://"),
        ("SSESTREAM_URL", "sqlite://relative.db"),
        ("SSESTREAM_URL", ""),
        ("SSESTREAM_URL", 7),
        ("SSESTREAM_HISTORY", "100"),
        ("SSESTREAM_HISTORY", 0),
        ("SSESTREAM_HISTORY", True),
        ("SSESTREAM_HISTORY_AGE", "1h"),
        ("SSESTREAM_HISTORY_AGE", 0),
        ("SSESTREAM_HISTORY_AGE", float("nan")),
    ],
)
def test_a_wrong_configuration_names_its_key(key: str, value: Any) -> None:
    app = flask.Flask(__name__)
    app.config[key] = value
    with pytest.raises((TypeError, ValueError), match=rf"^{key}\b"):
        Channels(app)
    option = key.removeprefix("SSESTREAM_").lower()
    with pytest.raises((TypeError, ValueError)):
        Channels(**{option: value})
    assert "ssestream" not in app.extensions


def test_of_two_threads_that_come_first_both_publish_in_one_log() -> None:
    for _ in range(50):
        channels = Channels()
        together = threading.Barrier(4)

        def run(channels: Channels = channels, together: threading.Barrier = together) -> None:
            together.wait()
            channels.publish("news", {"data": "x"})

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(channels.history("news")) == 4


def test_a_child_process_begins_with_no_subscribers(local: Make, tmp_path: Path) -> None:
    channels = Channels(f"sqlite:///{tmp_path}/events.db")
    stream = SseStream()
    channels.subscribe(stream, "news")
    child = os.fork()
    if not child:
        code = 1
        try:
            assert channels.statistics() == {}
            assert channels.state == "idle"
            channels.publish("news", {"data": "from the child"})
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    # Behind the block that tells where it stands.
    until(lambda: stream.writable_length == 2, "what the child has published")
    stream.destroy()
    nothing_remains(channels)
    broker_of(channels).close()
