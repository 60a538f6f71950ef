"""``ssestream.js`` is served with its hash, kept for ever, and small."""

import gzip
import json
import re
from pathlib import Path

import flask
import pytest
from werkzeug.routing import BuildError

from ssestream import Channels, browser
from ssestream import __version__ as version
from tests.kit.servers import ROOT

MODULE = browser.FILE.read_text()


def app_with_module() -> flask.Flask:
    app = flask.Flask(__name__)
    browser.init_app(app)

    @app.get("/")
    def page() -> str:
        return flask.render_template_string("{{ ssestream_url() }}")

    return app


@pytest.fixture
def client() -> "flask.testing.FlaskClient":
    return app_with_module().test_client()


def test_the_url_in_a_template_has_a_hash_and_is_kept_for_a_year(
    client: "flask.testing.FlaskClient",
) -> None:
    url = client.get("/").text
    assert re.fullmatch(r"/_ssestream/ssestream-[0-9a-f]{16}\.js", url)
    answer = client.get(url)
    assert answer.status_code == 200
    assert answer.text == MODULE
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    kept = {part.strip() for part in answer.headers["Cache-Control"].split(",")}
    assert kept == {"public", "max-age=31536000", "immutable"}
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("name", ["ssestream", "ssestream-0123456789abcdef"])
def test_a_url_without_a_hash_or_of_another_version_is_asked_for_each_time(
    client: "flask.testing.FlaskClient", name: str
) -> None:
    answer = client.get(f"/_ssestream/{name}.js")
    assert answer.text == MODULE
    assert answer.headers["Cache-Control"] == "no-cache"
    again = client.get(f"/_ssestream/{name}.js", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize("path", ["other.js", "ssestreamx.js", "ssestream.d.ts", "..%2fwire.js"])
def test_nothing_else_is_served(client: "flask.testing.FlaskClient", path: str) -> None:
    assert client.get(f"/_ssestream/{path}").status_code == 404


def test_an_app_below_a_path_has_the_url_below_it(client: "flask.testing.FlaskClient") -> None:
    url = client.get("/", environ_overrides={"SCRIPT_NAME": "/below"}).text
    assert url.startswith("/below/_ssestream/ssestream-")


def test_channels_serve_it_as_well_and_twice_is_once() -> None:
    app = app_with_module()
    channels = Channels()
    channels.init_app(app)
    Channels().init_app(app)
    browser.init_app(app)
    assert [rule.endpoint for rule in app.url_map.iter_rules()].count(browser.ENDPOINT) == 1
    other = flask.Flask(__name__)
    channels.init_app(other)
    with other.test_request_context():
        assert browser.ssestream_url() == app.test_client().get("/").text


def test_an_app_that_serves_already_gets_no_route_and_an_error_says_so() -> None:
    app = flask.Flask(__name__)
    app.test_client().get("/")
    Channels().init_app(app)
    with app.test_request_context(), pytest.raises(BuildError):
        browser.ssestream_url()
    with pytest.raises(AssertionError):
        browser.init_app(app)


def test_the_module_is_under_five_kilobytes_gzipped() -> None:
    assert len(gzip.compress(MODULE.encode())) < 5000


def test_the_module_needs_nothing_that_a_policy_forbids() -> None:
    """No text becomes code, and nothing else is loaded."""
    assert not re.search(r"\beval\b|new Function|innerHTML|import\b|require\(", MODULE)


def test_the_npm_package_has_the_same_module_and_version() -> None:
    folder = ROOT / "js"
    package = json.loads((folder / "package.json").read_text())
    for name in package["files"]:
        copied = (folder / name).read_text() == Path(browser.FILE.parent, name).read_text()
        assert copied, f"cp ssestream/{name} js/"
    assert package["version"] == version
    assert {package["main"], package["types"]} == {f"./{name}" for name in package["files"]}
