"""What the apps that use one `Channels` say of its broker."""

import gc

import flask
import pytest

from ssestream.brokers.configuration import Configuration
from ssestream.channels.apps import Apps, configuration_of, naming_keys

ONE, TWO = Configuration("sqlite:////one.db", None, None), Configuration("memory://", 10, None)


def test_what_is_not_given_is_taken_from_the_app() -> None:
    app = flask.Flask(__name__)
    assert configuration_of(app, None, None, None) == ("memory://", None, None)
    app.config.update(SSESTREAM_URL="redis://host", SSESTREAM_HISTORY=5, SSESTREAM_HISTORY_AGE=60)
    assert configuration_of(app, None, None, None) == ("redis://host", 5, 60)
    assert configuration_of(app, "memory://", None, 7) == ("memory://", 5, 7)


def test_a_wrong_value_names_the_key_of_the_app() -> None:
    app = flask.Flask(__name__)
    app.config["SSESTREAM_HISTORY"] = 0
    with pytest.raises(ValueError, match=r"^SSESTREAM_HISTORY must be at least 1"), naming_keys():
        configuration_of(app, None, None, None)
    app.config["SSESTREAM_HISTORY"] = "5"
    with pytest.raises(TypeError, match=r"^SSESTREAM_HISTORY is an int"), naming_keys():
        configuration_of(app, None, None, None)


def test_the_current_app_goes_first_and_then_the_only_configuration() -> None:
    apps, one, two = Apps(), flask.Flask("one"), flask.Flask("two")
    apps.note(one, ONE)
    assert one in apps
    assert two not in apps
    assert apps.current(None) == apps.current(two) == ONE
    apps.note(two, TWO)
    assert (apps.current(one), apps.current(two)) == (ONE, TWO)
    assert apps.all() == {ONE, TWO}
    assert apps.another_has(two, ONE)
    assert not apps.another_has(one, ONE)


def test_of_several_configurations_none_is_guessed() -> None:
    apps, one, two = Apps(), flask.Flask("one"), flask.Flask("two")
    with pytest.raises(RuntimeError, match="no app is current"):
        apps.current(None)
    apps.note(one, ONE)
    apps.note(two, TWO)
    with pytest.raises(RuntimeError, match="no app is current"):
        apps.current(None)
    with pytest.raises(RuntimeError, match="the current app is none of them"):
        apps.current(flask.Flask("three"))


def test_an_app_that_nobody_uses_is_forgotten() -> None:
    apps, one, two = Apps(), flask.Flask("one"), flask.Flask("two")
    apps.note(one, ONE)
    apps.note(two, TWO)
    del two
    gc.collect()
    assert apps.current(None) == ONE
    assert apps.all() == {ONE}
