"""Which requests a page of another site has made. ``tests/pages`` has a real browser."""

from typing import Any

import flask
import pytest
from werkzeug.exceptions import Forbidden

from ssestream import check_origin

APP = flask.Flask(__name__)


def asked(*allowed: str, **headers: str) -> None:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    with APP.test_request_context("/", headers=sent):
        check_origin(flask.request, allowed)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost"},
        # Behind a proxy that speaks TLS, and by an address in capitals.
        {"Origin": "https://localhost"},
        {"Origin": "http://LOCALHOST"},
        # Somebody has typed the address.
        {"Sec_Fetch_Site": "none"},
        # The browser knows better than the Host of a proxy.
        {"Sec_Fetch_Site": "same-origin", "Origin": "https://app.example"},
    ],
)
def test_what_its_own_page_asks_for_is_allowed(headers: dict[str, str]) -> None:
    asked(**headers)


FOREIGN = [
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site", "Origin": "http://other.localhost"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:8001"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://localhost", "Sec_Fetch_Site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_what_another_site_asks_for_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Forbidden, match="may not make this request"):
        asked(**headers)
    with pytest.raises(Forbidden):
        asked("https://app.example", **headers)


def test_an_allowed_origin_may_ask_and_nobody_like_it() -> None:
    allowed = ("https://App.example", "http://localhost:5173")
    asked(*allowed, Origin="https://app.example", Sec_Fetch_Site="cross-site")
    asked(*allowed, Origin="http://localhost:5173", Sec_Fetch_Site="same-site")
    for other in (
        "http://app.example",
        "https://app.example.evil.example",
        "https://app.example:444",
        "https://app.example/",
        "https://evil.example",
    ):
        with pytest.raises(Forbidden):
            asked(*allowed, Origin=other, Sec_Fetch_Site="cross-site")


@pytest.mark.parametrize("wrong", ["app.example", "https://", "https://a/b", "*", "", "null"])
def test_what_is_no_origin_is_refused_before_any_request(wrong: str) -> None:
    with pytest.raises(ValueError, match="an allowed origin is a scheme and a host"):
        asked(wrong)


def test_origins_are_a_list_of_str() -> None:
    wrong: Any
    for wrong in ("https://app.example", [b"https://app.example"], [None]):
        with pytest.raises(TypeError, match="allowed origin"), APP.test_request_context("/"):
            check_origin(flask.request, wrong)


def test_a_long_origin_is_not_repeated_whole() -> None:
    with pytest.raises(Forbidden) as caught:
        asked(Origin="http://" + "x" * 5000)
    assert len(str(caught.value.description)) < 200
