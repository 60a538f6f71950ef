"""Which broker an app's channels have."""

import gc
from pathlib import Path
from typing import Any

import flask
import pytest

from ssestream.channels.exchanges import Exchanges


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
