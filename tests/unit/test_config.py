"""What the current app says: its settings and its JSON."""

from decimal import Decimal
from typing import Any

import flask
import pytest
from flask import Flask
from flask.json.provider import DefaultJSONProvider, JSONProvider

from ssestream import MessageError, SseStream
from ssestream.config import (
    KNOWN,
    app_dumps,
    app_json,
    app_settings,
    client_of,
    current_app,
    known,
    of_request,
)
from ssestream.settings import DEFAULTS, Settings
from tests.kit.insides import settings_of


class Unhashable:
    """Of an app that knows its clients by an object of its own."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, environ: dict[str, Any]) -> str:
        return "everybody"


def test_streams_with_the_same_settings_share_them() -> None:
    app = Flask(__name__)
    with app.app_context():
        assert settings_of(SseStream()) is DEFAULTS
        app.config["SSESTREAM_HEARTBEAT"] = 1.0
        apps = settings_of(SseStream())
        assert apps.heartbeat == 1.0
        assert settings_of(SseStream()) is apps
        assert settings_of(SseStream(max_age=60)) is settings_of(SseStream(max_age=60))
        assert settings_of(SseStream(max_age=60)).heartbeat == 1.0
        # What an app changes holds from then on, and is looked at.
        app.config["SSESTREAM_HEARTBEAT"] = 2.0
        assert settings_of(SseStream()).heartbeat == 2.0
        app.config["SSESTREAM_HEARTBEAT"] = True
        with pytest.raises(TypeError, match="SSESTREAM_HEARTBEAT"):
            SseStream()
        del app.config["SSESTREAM_HEARTBEAT"]
        app.config["SSESTREAM_CLIENT_KEY"] = Unhashable()
        assert settings_of(SseStream(max_age=60)).max_age == 60
    assert apps.heartbeat == 1.0


def test_a_name_that_is_no_setting_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    app.config |= {"SSESTREAM_HEARTBEET": 5, "SSESTREAM_URL": "memory://", "SSESTREAM_NONSENSE": 1}
    with app.app_context():
        for _ in range(3):
            SseStream()
    first, second = [record.getMessage() for record in caplog.records]
    assert first == (
        "SSESTREAM_HEARTBEET in the app's configuration is no setting, but SSESTREAM_HEARTBEAT is"
    )
    assert second == "SSESTREAM_NONSENSE in the app's configuration is no setting"


def test_a_name_of_ten_megabytes_is_told_of_in_short(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_" + "D" * 10**7] = 1
    with app.app_context():
        SseStream()
    (record,) = caplog.records
    assert len(record.getMessage()) < 200


def test_a_pair_may_be_a_list_as_in_json() -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_RETRY_AFTER"] = [10, 20]
    with app.app_context():
        assert settings_of(SseStream()).retry_after == (10, 20)
        assert settings_of(SseStream(retry=[1, 2])).retry == (1, 2)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="retry"):
            SseStream(retry=[2, 1])  # type: ignore[arg-type]


def test_settings_of_many_kinds_are_not_all_kept() -> None:
    for number in range(3 * KNOWN):
        assert settings_of(SseStream(max_age=1000 + number)).max_age == 1000 + number
    assert len(known) <= KNOWN


def test_a_bound_for_each_client_without_a_key_to_know_clients_by_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_MAX_STREAMS_PER_CLIENT"] = 5
    for _ in range(3):
        with app.app_context():
            SseStream()
    (told,) = [each.getMessage() for each in caplog.records if "PER_CLIENT" in each.getMessage()]
    assert "SSESTREAM_CLIENT_KEY" in told
    app.config["SSESTREAM_CLIENT_KEY"] = lambda environ: environ["REMOTE_ADDR"]
    with app.app_context():
        SseStream()
    assert len([each for each in caplog.records if "PER_CLIENT" in each.getMessage()]) == 1


def test_outside_of_an_app_there_are_the_defaults() -> None:
    assert current_app() is None
    assert app_settings() is DEFAULTS
    assert app_json() is None
    assert app_dumps() is None


def test_the_current_app_is_no_proxy() -> None:
    app = Flask(__name__)
    with app.app_context():
        assert current_app() is app
        assert app_json() is app.json


def test_flasks_json_is_compact_and_keeps_the_order() -> None:
    with Flask(__name__).app_context():
        dumps = app_dumps()
        assert dumps is not None
        assert dumps({"b": "é", "a": [1, 2]}) == '{"b":"é","a":[1,2]}'
        with pytest.raises(ValueError, match="JSON"):
            dumps(float("nan"))


def test_flasks_provider_is_asked_for_other_values_also_by_what_is_set_later() -> None:
    app = Flask(__name__)
    dumps = app_dumps(app.json)
    assert dumps is not None
    assert dumps(Decimal("1.50")) == '"1.50"'
    app.json.default = lambda value: "later"  # type: ignore[attr-defined]
    assert dumps([object()]) == '["later"]'


def test_its_attributes_for_answers_change_no_event() -> None:
    app = Flask(__name__)
    app.json.ensure_ascii = app.json.sort_keys = True  # type: ignore[attr-defined]
    app.json.compact = False  # type: ignore[attr-defined]
    dumps = app_dumps(app.json)
    assert dumps is not None
    assert dumps({"b": "é", "a": 1}) == '{"b":"é","a":1}'


def test_a_dumps_of_an_apps_own_is_called_with_the_options_of_json() -> None:
    class Own(DefaultJSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            return "own " + super().dumps(obj, **kwargs)

    app = Flask(__name__)
    app.json = Own(app)
    dumps = app_dumps(app.json)
    assert dumps is not None
    assert dumps({"b": "é", "a": 1}) == 'own {"b":"é","a":1}'
    # Also one that is set on the object.
    flasks = DefaultJSONProvider(app)
    dumps = app_dumps(flasks)
    assert dumps is not None
    flasks.dumps = lambda obj, **kwargs: "set later"  # type: ignore[method-assign]
    assert dumps(1) == "set later"


def test_another_provider_writes_as_it_likes() -> None:
    class Own(JSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            assert kwargs == {}
            return f"<{obj}>"

        def loads(self, s: str | bytes, **kwargs: Any) -> Any:
            raise NotImplementedError

    app = Flask(__name__)
    dumps = app_dumps(Own(app))
    assert dumps is not None
    assert dumps(5) == "<5>"


@pytest.mark.parametrize("client", ["10.0.0.1", 7, ("a", 1), None])
def test_a_client_is_known_by_what_the_app_says(client: Any) -> None:
    environ = {"client": client}
    assert client_of(environ, DEFAULTS) is None
    assert client_of(environ, Settings(client_key=lambda environ: environ["client"])) == client


def test_a_client_that_has_no_hash_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must return a hashable value or None.* a list"):
        client_of({}, Settings(client_key=lambda environ: []))


# -- the end of the worker


def test_the_last_message_of_a_stream_is_encoded_once_and_shared() -> None:
    app = Flask(__name__)
    app.config["SSESTREAM_INTERRUPTED"] = {"event": "over", "data": {"at": Decimal(1)}}
    with app.app_context():
        settings = settings_of(SseStream())
        assert settings.interrupted == b'event: over\ndata: {"at":"1"}\n\n'
        assert settings_of(SseStream()) is settings
        own = [settings_of(SseStream(interrupted={"data": "own"})) for _ in range(2)]
        assert own[0] is own[1]
        assert own[0].interrupted == b"data: own\n\n"
        assert settings_of(SseStream(interrupted=None)).interrupted is None
        app.config["SSESTREAM_INTERRUPTED"] = {"dada": "x"}
        with pytest.raises(MessageError, match="SSESTREAM_INTERRUPTED is a wrong message: unknown"):
            SseStream()
        app.config["SSESTREAM_INTERRUPTED"] = "too late"
        with pytest.raises(TypeError, match="SSESTREAM_INTERRUPTED is a message"):
            SseStream()


@pytest.mark.parametrize(
    ("method", "says", "becomes"),
    [
        ("GET", None, None),
        ("HEAD", None, None),
        ("POST", None, "finish"),
        ("PUT", None, "finish"),
        ("QUERY", None, "finish"),
        ("POST", "reconnect", "reconnect"),
        ("POST", "cut", "cut"),
        ("GET", "finish", "finish"),
    ],
)
def test_the_method_decides_what_the_end_of_the_worker_means_where_the_app_does_not(
    method: str, says: Any, becomes: str | None
) -> None:
    app = Flask(__name__)
    with app.test_request_context(method=method):
        environ = flask.request.environ
        if says is not None:
            app.config["SSESTREAM_ON_SHUTDOWN"] = says
        settings = settings_of(SseStream(flask.request))
        assert settings.on_shutdown == becomes
        assert settings_of(SseStream(flask.request)) is settings
        assert of_request(settings, environ) is settings
        # A stream of its own kind says more than its app and its method.
        assert settings_of(SseStream(flask.request, on_shutdown="cut")).on_shutdown == "cut"
