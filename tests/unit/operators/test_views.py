"""Who is admitted, which requests are refused, and what an operator can do."""

import itertools
import json
from typing import Any

import flask
import pytest
from werkzeug.local import LocalProxy

from ssestream import Channels, ServerResponse, SseStream, operators
from ssestream.operators.files import digest_of
from ssestream.operators.views import LARGEST
from ssestream.top import OpenStreams
from tests.kit.visit import Visit, until

POSTS = {
    "publish": {"channel": "news", "event": "", "data": "hello"},
    "cut": {"stream": "0000000a-1"},
    "close-channel": {"channel": "news"},
    "cut-key": {"channel": "news", "key": "user:7"},
}
GETS = ("", "events", f"page-{digest_of('js')}.js", f"page-{digest_of('css')}.css")

OTHER_SITE = {"Origin": "https://evil.example"}
CROSS = {"Sec-Fetch-Site": "cross-site"}
SAME_SITE = {"Sec-Fetch-Site": "same-site", "Origin": "https://evil.localhost"}


class Room:
    """An app with the page."""

    def __init__(self, admit: Any = lambda request: True, channels: Channels | None = None) -> None:
        self.channels = channels
        self.app = flask.Flask("app")
        self.streams = OpenStreams(self.app, channels)
        self.app.register_blueprint(
            operators.blueprint(self.streams, admit=admit), url_prefix="/operators"
        )
        self.client = self.app.test_client()

        @self.app.get("/follow/<channel>")
        def follow(channel: str) -> ServerResponse:
            sse_stream = SseStream(flask.request)
            assert channels is not None
            channels.subscribe(sse_stream, channel, key=flask.request.args.get("key"))
            return sse_stream.pipe(ServerResponse())

        @self.app.get("/log-in")
        def log_in() -> str:
            return "log in"

    def post(self, action: str, fields: Any, **options: Any) -> Any:
        return self.client.post(f"/operators/{action}", json=fields, **options)

    def answers(self, headers: dict[str, str] | None = None) -> list[Any]:
        """The answers to each request that the page makes."""
        gets = [self.client.get(f"/operators/{path}", headers=headers) for path in GETS]
        return [
            *gets,
            *(self.post(action, fields, headers=headers) for action, fields in POSTS.items()),
        ]


# -- who is admitted


def test_without_a_function_that_admits_there_is_no_page() -> None:
    streams = OpenStreams(flask.Flask("app"))
    with pytest.raises(TypeError, match="admit"):
        operators.blueprint(streams)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="admit must be a function of the request, not bool"):
        operators.blueprint(streams, admit=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="streams must be an OpenStreams, not Channels"):
        operators.blueprint(Channels(), admit=lambda request: True)  # type: ignore[arg-type]


def test_an_async_function_cannot_admit_since_a_coroutine_is_true() -> None:
    async def admit(request: flask.Request) -> bool:
        return False

    with pytest.raises(TypeError, match="admit must be a plain function"):
        operators.blueprint(OpenStreams(flask.Flask("app")), admit=admit)


def test_somebody_else_is_refused_everything_and_no_cache_keeps_it() -> None:
    asked: list[str] = []

    def admit(request: flask.Request) -> bool:
        asked.append(request.path)
        return request.headers.get("X-Operator") == "yes"

    room = Room(admit, Channels())
    answers = room.answers()
    assert [answer.status_code for answer in answers] == [403] * (len(GETS) + len(POSTS))
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store, no-transform"}
    assert asked == [f"/operators/{path}" for path in (*GETS, *POSTS)]
    page = room.client.get("/operators/", headers={"X-Operator": "yes"})
    assert (page.status_code, page.mimetype) == (200, "text/html")
    # The app's own views are open as before.
    assert room.client.get("/log-in").status_code == 200


def test_the_app_may_answer_itself_and_no_cache_keeps_it() -> None:
    room = Room(lambda request: flask.redirect("/log-in"))
    answer = room.client.get("/operators/")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/log-in")
    assert answer.headers["Cache-Control"] == "no-store, no-transform"

    def abort(request: flask.Request) -> bool:
        flask.abort(401)

    answer = Room(abort).client.get("/operators/")
    assert answer.status_code == 401
    assert answer.headers["Cache-Control"] == "no-store, no-transform"


@pytest.mark.long_except("1", "None")
@pytest.mark.parametrize("value", [1, "yes", None, (), ("no", 401), object(), [True]])
def test_a_value_that_is_merely_true_admits_nobody(value: Any) -> None:
    room = Room(lambda request: value)
    answer = room.client.get("/operators/")
    assert answer.status_code == 500
    assert answer.headers["Cache-Control"] == "no-store, no-transform"
    room.app.testing = True
    with pytest.raises(TypeError, match="admit must return True, False or a response, not"):
        room.client.get("/operators/")


@pytest.mark.parametrize(("value", "status"), [(True, 200), (False, 403)])
def test_a_proxy_counts_as_its_value(value: bool, status: int) -> None:
    room = Room(lambda request: LocalProxy(lambda: value))
    assert room.client.get("/operators/").status_code == status


def test_admit_is_asked_for_the_request_of_an_operator_of_a_page_below_a_page() -> None:
    app = flask.Flask("app")
    outer = flask.Blueprint("outer", "outer")
    outer.register_blueprint(
        operators.blueprint(OpenStreams(app), admit=lambda request: False), url_prefix="/in"
    )
    app.register_blueprint(outer, url_prefix="/out")
    assert app.test_client().get("/out/in/").status_code == 403
    assert app.test_client().get("/out/in/events", headers=OTHER_SITE).status_code == 403


# -- other sites


@pytest.mark.parametrize("headers", [OTHER_SITE, CROSS, SAME_SITE])
def test_a_page_of_another_site_can_do_nothing(headers: dict[str, str]) -> None:
    channels = Channels()
    room = Room(channels=channels)
    answers = room.answers(headers)
    # A link of another site may lead to the page. It shows nothing in a frame.
    assert [answer.status_code for answer in answers] == [200] + [403] * (
        len(GETS) + len(POSTS) - 1
    )
    assert channels.history("news") == []


def test_a_form_of_another_site_that_a_browser_sends_without_an_origin_does_nothing() -> None:
    channels = Channels()
    room = Room(channels=channels)
    text = json.dumps(POSTS["publish"])
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = room.client.post("/operators/publish", data=text, content_type=kind)
        assert answer.status_code == 415
    assert channels.history("news") == []


def test_nothing_is_done_by_a_link() -> None:
    room = Room(channels=Channels())
    for action in POSTS:
        assert room.client.get(f"/operators/{action}").status_code == 405


# -- what an operator does


def test_a_test_event_is_published() -> None:
    channels = Channels()
    room = Room(channels=channels)
    assert room.post("publish", POSTS["publish"]).status_code == 204
    fields = {"channel": "news", "event": "headline", "data": "<b>\nline"}
    assert room.post("publish", fields).status_code == 204
    first, second = channels.history("news")
    assert first["data"] == "hello"
    assert first.get("event") in (None, "message")
    assert (second["event"], second["data"]) == ("headline", "<b>\nline")


@pytest.mark.long_except(
    "publish-fields0-400-name of a channel",
    "publish-fields6-413-",
    "cut-fields7-404-no process tells of it",
)
@pytest.mark.parametrize(
    ("action", "fields", "status", "reason"),
    [
        ("publish", {"channel": "<img>", "event": "", "data": ""}, 400, "name of a channel"),
        ("publish", {"channel": "news", "event": "a\nb", "data": ""}, 400, "event"),
        ("publish", {"channel": "news", "event": "", "data": 1}, 400, "each a str"),
        ("publish", {"channel": "news"}, 400, "each a str"),
        ("publish", ["news"], 400, "each a str"),
        ("publish", {"channel": "over", "event": "", "data": "x"}, 409, "has ended"),
        ("publish", {"channel": "news", "event": "", "data": "x" * LARGEST}, 413, ""),
        ("cut", {"stream": "0000000a-1"}, 404, "no process tells of it"),
        ("cut-key", {"channel": "a b", "key": "x"}, 400, "name of a channel"),
        ("close-channel", {"channel": ""}, 400, "name of a channel"),
    ],
)
def test_what_does_not_work_has_its_reason(
    action: str, fields: Any, status: int, reason: str
) -> None:
    channels = Channels()
    channels.end("over")
    answer = Room(channels=channels).post(action, fields)
    assert answer.status_code == status
    assert reason in answer.json["error"]
    assert answer.headers["Cache-Control"] == "no-store, no-transform"
    assert channels.history("news") == []


def test_a_broker_that_is_away_is_a_503() -> None:
    room = Room(channels=Channels("sqlite:////nowhere/at/all/events.db"))
    answer = room.post("publish", POSTS["publish"])
    assert answer.status_code == 503
    assert answer.json["error"]


def test_an_app_without_channels_can_only_cut() -> None:
    room = Room()
    answer = room.post("cut", POSTS["cut"])
    assert answer.status_code == 404
    assert answer.json == {"error": "the stream is over, or no process tells of it"}
    for action in ("publish", "close-channel", "cut-key"):
        assert room.post(action, POSTS[action]).status_code == 404


def test_one_stream_a_key_and_a_channel_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    channels = Channels()
    room = Room(channels=channels)
    paths = ("news", "news?key=user:7", "news", "sports")
    visits = [
        Visit(room.app, f"/follow/{path}", REMOTE_ADDR=f"192.0.2.{n}")
        for n, path in enumerate(paths)
    ]
    try:
        for visit in visits:
            visit.read_until(b":ok")
        (process,) = room.streams.of_all()
        ids = {each["client"].partition(" ")[0]: each["id"] for each in process["streams"]}
        caplog.set_level("INFO", "ssestream")
        for action, fields, over in (
            ("cut", {"stream": ids["192.0.2.0"]}, visits[0]),
            ("cut-key", {"channel": "news", "key": "user:7"}, visits[1]),
            ("close-channel", {"channel": "news"}, visits[2]),
        ):
            assert room.post(action, fields).status_code == 204
            over.read_to_end()
        assert [each["client"] for each in room.streams.of_all()[0]["streams"]] == [
            "192.0.2.3 '/follow/sports'"
        ]
    finally:
        for visit in visits:
            visit.fin()
    said = [each.getMessage() for each in caplog.records if "operators:" in each.getMessage()]
    assert [each.partition("127.0.0.1 ")[2] for each in said] == [
        f"has cut the stream {ids['192.0.2.0']}",
        "has cut a key of the channel 'news'",
        "has ended the streams of the channel 'news'",
    ]


# -- the page's own stream


def looks_of(visit: Visit) -> list[dict[str, Any]]:
    lines = visit.body.decode().split("\n")
    pairs = itertools.pairwise(lines)
    return [
        json.loads(two.removeprefix("data: "))
        for one, two in pairs
        if one == "event: look" and two.endswith("}")
    ]


def test_the_stream_gives_a_look_at_once_and_then_each_second() -> None:
    room = Room(channels=Channels())
    with Visit(room.app, "/operators/events?find=follow") as page:
        page.read_until(b"event: look\n")
        assert page.headers("Cache-Control") == ["no-store, no-transform"]
        with Visit(room.app, "/follow/news") as visit:
            visit.read_until(b":ok")

            def told() -> bool:
                page.received += page.sock.recv(65536)
                return any(each["streams"]["rows"] for each in looks_of(page))

            until(told, "the stream to be told")
        look = looks_of(page)[-1]
        # The stream of the page is open, too, and the search leaves it out.
        assert look["open"] == 2
        assert [each["channels"] for each in look["streams"]["rows"]] == [["news"]]


def test_a_client_that_takes_nothing_has_few_looks_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ssestream.operators.views.PACE", 1)
    room = Room(channels=Channels())
    with Visit(room.app, "/operators/events", send_buffer=4096) as page:
        page.read_until(b"event: look\n")
        seen: list[int] = []

        def looked() -> bool:
            seen.append(room.streams.of_all()[0]["waiting"])
            return len(seen) > 300

        until(looked, "many looks")
        assert max(seen) < 64 * 1024


def test_the_stream_ends_now_and_then_so_that_admit_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ssestream.operators.views.ADMITTED", 0.05)
    asked: list[str] = []

    def admit(request: flask.Request) -> bool:
        asked.append(request.path)
        return len(asked) < 2

    room = Room(admit)
    with Visit(room.app, "/operators/events") as page:
        page.read_to_end()
        # The browser comes back after so many milliseconds.
        assert b"\nretry: " in page.received
    assert room.client.get("/operators/events").status_code == 403
    assert asked == ["/operators/events"] * 2
