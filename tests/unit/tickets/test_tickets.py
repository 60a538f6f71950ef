"""Tickets: who is admitted to what, and everybody who is not."""

import base64
import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import URLSafeSerializer, URLSafeTimedSerializer
from werkzeug.exceptions import Forbidden, Unauthorized

from ssestream import BrokerError, Channels, ServerResponse, SseStream, Tickets, handler
from ssestream.channels.ids import parse_id
from ssestream.tickets.tickets import BROWSER, COOKIE, MOST
from tests.kit.following import Client, data_of
from tests.kit.insides import broker_of
from tests.kit.visit import on_threads_and_greenlets, until

KEY = "the key of the app"


class Admitting(flask.Flask):
    """An app with a stream for those who have a ticket. *options* are those of `Tickets.admit`."""

    def __init__(self, tickets: Tickets, **options: Any) -> None:
        super().__init__(__name__)
        self.admitted: list[Any] = []
        self.streams: list[SseStream] = []

        @self.get("/")
        def page() -> ServerResponse:
            res = ServerResponse()
            sse_stream = SseStream(flask.request)
            self.streams.append(sse_stream)
            self.admitted.append(tickets.admit(flask.request, sse_stream, **options))
            return sse_stream.pipe(res)

        @self.get("/handler")
        @handler
        def handled(req: Any, res: Any) -> None:
            sse_stream = SseStream(req)
            self.admitted.append(tickets.admit(req, sse_stream, **options))
            sse_stream.pipe(res)


@pytest.fixture
def channels(local: Callable[..., Channels]) -> Channels:
    """In memory: ``test_marks`` has what tickets ask of each kind of broker."""
    return local()


@pytest.fixture
def tickets(channels: Channels) -> Tickets:
    return Tickets(KEY, channels)


@pytest.fixture
def app(tickets: Tickets) -> Admitting:
    return Admitting(tickets)


def refusal(app: flask.Flask, query: str, status: int = 401, **headers: str) -> str:
    """The reason of a refusal, without its HTML."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = app.test_client(use_cookies=False).get(f"/?{query}", headers=sent)
    assert answer.status_code == status
    return re.findall("<p>(.*)</p>", answer.get_data(as_text=True))[0]


# -- who is admitted


@on_threads_and_greenlets
def test_a_stream_follows_what_its_ticket_names(
    tickets: Tickets, app: Admitting, channels: Channels
) -> None:
    ticket = tickets.issue(["news", "sports"], key=("ann", 7))
    with Client(app, f"/?ticket={ticket}&channels=secrets&names=secrets") as client:
        for name in ("secrets", "news", "sports"):
            channels.publish(name, {"data": name})
        assert data_of(client.take(2)) == ["news", "sports"]
        # No id tells of a channel that the stream does not follow.
        assert set(parse_id(client.last_id) or {}) == {"news", "sports"}
    said = app.admitted[0]
    assert (said.channels, said.key, said.id) == (("news", "sports"), ("ann", 7), None)
    assert 59 < said.expires_at - said.issued_at < 61


@on_threads_and_greenlets
def test_a_ticket_comes_in_a_header_a_parameter_or_a_cookie(
    tickets: Tickets, app: Admitting
) -> None:
    good, bad = tickets.issue(["news"]), "bad"
    for path, environ in (
        (f"/?ticket={good}", {}),
        ("/", {"HTTP_AUTHORIZATION": f"Bearer {good}"}),
        ("/", {"HTTP_AUTHORIZATION": f"bearer  {good} "}),
        ("/", {"HTTP_COOKIE": f"{COOKIE}={good}"}),
        # The first of them counts.
        (f"/?ticket={bad}", {"HTTP_AUTHORIZATION": f"Bearer {good}"}),
        (f"/?ticket={good}", {"HTTP_COOKIE": f"{COOKIE}={bad}"}),
        (f"/?ticket={good}", {"HTTP_AUTHORIZATION": "Basic x"}),
    ):
        with Client(app, path, **environ):
            assert app.admitted.pop().channels == ("news",)


@on_threads_and_greenlets
def test_a_handler_admits_by_its_req(tickets: Tickets, app: Admitting, channels: Channels) -> None:
    with Client(app, f"/handler?ticket={tickets.issue(['news'])}") as client:
        channels.publish("news", {"data": "1"})
        assert data_of(client.take(1)) == ["1"]


@on_threads_and_greenlets
def test_the_options_of_subscribe_are_passed_on(tickets: Tickets, channels: Channels) -> None:
    for number in range(4):
        channels.publish("news", {"data": number})
    app = Admitting(tickets, latest=3, filter=lambda message: message["data"] != "2")
    with Client(app, f"/?ticket={tickets.issue(['news'])}") as client:
        assert data_of(client.take(2)) == ["1", "3"]


@on_threads_and_greenlets
def test_a_client_comes_back_with_its_id_and_another_ticket(
    tickets: Tickets, app: Admitting, channels: Channels
) -> None:
    with Client(app, f"/?ticket={tickets.issue(['news'])}") as client:
        channels.publish("news", {"data": "1"})
        client.take(1)
    channels.publish("news", {"data": "2"})
    ticket = tickets.issue(["news"])
    with Client(app, f"/?ticket={ticket}&lastEventId={client.last_id}") as again:
        assert data_of(again.take(1)) == ["2"]
    with Client(app, f"/?ticket={ticket}", client.last_id) as again:
        assert data_of(again.take(1)) == ["2"]


@pytest.mark.long_except("threads")
@on_threads_and_greenlets
def test_a_stream_ends_when_its_ticket_does(tickets: Tickets, app: Admitting) -> None:
    began = time.time()
    with Client(app, f"/?ticket={tickets.issue(['news'], expires=2)}") as client:
        assert "retry" in client.all()[-1]
        assert time.time() - began >= 0.3


def test_channels_of_the_current_app_are_found(local: Callable[..., Channels]) -> None:
    tickets = Tickets(KEY)
    app = Admitting(tickets)
    query = f"ticket={tickets.issue(['news'])}"
    app.testing = True
    with pytest.raises(RuntimeError, match=r"write Tickets\(keys, channels\)"):
        app.test_client().get(f"/?{query}")
    local().init_app(app)
    with Client(app, f"/?{query}"):
        assert app.admitted


def test_a_channel_that_has_ended_is_no_content(
    tickets: Tickets, app: Admitting, channels: Channels
) -> None:
    channels.publish("news", {"data": "1"})
    with Client(app, f"/?ticket={tickets.issue(['news'])}&lastEventId=") as client:
        channels.end("news", {"data": "2"})
        client.all()
    ticket = tickets.issue(["news"])
    headers = {"Last-Event-ID": client.last_id}
    assert app.test_client().get(f"/?ticket={ticket}", headers=headers).status_code == 204


# -- keys


def test_keys_rotate(channels: Channels) -> None:
    old, both, new = (Tickets(keys, channels) for keys in ("old", ["new", b"old"], b"new"))
    ticket = old.issue(["news"])
    for tickets in (old, both):
        with Client(Admitting(tickets), f"/?ticket={ticket}"):
            pass
    assert refusal(Admitting(new), f"ticket={ticket}") == "the ticket is not valid"
    # The first one signs.
    ticket = both.issue(["news"])
    with Client(Admitting(new), f"/?ticket={ticket}"):
        pass
    assert refusal(Admitting(old), f"ticket={ticket}") == "the ticket is not valid"


# -- who is refused


def test_nobody_is_admitted_without_a_ticket(app: Admitting) -> None:
    for query in ("", "ticket=", "tickets=x"):
        assert refusal(app, query) == "there is no ticket"
    assert refusal(app, "", Authorization="Bearer ") == "there is no ticket"
    assert app.admitted == []
    # A refused view leaves no stream.
    until(lambda: all(stream.destroyed for stream in app.streams), "the streams to be over")


def forged(tickets: Tickets) -> dict[str, str]:
    good = tickets.issue(["news"], key="ann")
    content, _, signature = good.rpartition(".")
    now = time.time()
    fields = {"c": ["news", "secrets"], "i": now, "e": now + 60, "k": "eve"}
    other = base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()
    salt = "ssestream.tickets"
    return {
        "garbage": "garbage",
        "a dot": ".",
        "no signature": f"{content}.",
        "no content": f".{signature}",
        "content of another": f"{other}.{signature}",
        "a changed signature": f"{content}.{signature.swapcase()}",
        "cut short": good[:-1],
        "twice": f"{good}.{signature}",
        "not ASCII": "é" + good,
        "NUL": good + "%00",
        "very long": "A" * 100_000,
        "the key of somebody else": URLSafeSerializer("guess", salt=salt).dumps(fields),
        "the weaker digest": URLSafeSerializer(KEY, salt=salt).dumps(fields),
    }


@pytest.mark.parametrize("how", forged(Tickets(KEY)))
def test_a_forged_ticket_is_refused(how: str, tickets: Tickets, app: Admitting) -> None:
    assert refusal(app, f"ticket={forged(tickets)[how]}") == "the ticket is not valid"
    assert app.admitted == []


def test_what_the_app_has_signed_for_something_else_is_no_ticket(app: Admitting) -> None:
    app.secret_key = KEY
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    now = time.time()
    fields = {"c": ["news"], "i": now, "e": now + 60}
    for text in (serializer.dumps(fields), URLSafeTimedSerializer(KEY).dumps(fields)):
        assert refusal(app, f"ticket={text!s}") == "the ticket is not valid"


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"c": ["news"], "i": 0, "e": "soon"},
        {"c": ["news"], "i": 0, "e": float("nan")},
        {"c": ["news"], "i": 0, "e": float("inf")},
        {"c": ["*"], "i": 0, "e": 1e12},
        {"c": [], "i": 0, "e": 1e12},
        {"c": "news", "i": 0, "e": 1e12},
        {"c": [["news"]], "i": 0, "e": 1e12},
        {"c": ["news"], "i": 0, "e": 1e12, "k": {"a": 1}},
        {"c": ["news"], "i": 0, "e": 1e12, "k": True},
        {"c": ["news"], "i": 0, "e": 1e12, "o": 5},
        {"c": ["news"], "i": 0, "e": 1e12, "o": "a b"},
    ],
)
def test_content_that_no_ticket_has_is_refused_although_it_is_signed(
    content: Any, tickets: Tickets, app: Admitting
) -> None:
    kwargs = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    serializer = URLSafeSerializer(KEY, salt="ssestream.tickets", signer_kwargs=kwargs)
    signed = serializer.dumps(content)
    # The signature itself is right.
    assert serializer.loads(tickets.issue(["news"]))["c"] == ["news"]
    assert refusal(app, f"ticket={signed!s}") == "the ticket is not valid"


def test_a_ticket_that_has_expired_is_refused(tickets: Tickets, app: Admitting) -> None:
    ticket = tickets.issue(["news"], expires=0.05)
    time.sleep(0.06)
    assert refusal(app, f"ticket={ticket}") == "the ticket has expired"


def test_a_ticket_of_another_app_is_refused(channels: Channels, app: Admitting) -> None:
    # Another key, and the same key with a salt of its own.
    for other in (Tickets("another", channels), Tickets(KEY, channels, salt="another")):
        assert refusal(app, f"ticket={other.issue(['news'])}") == "the ticket is not valid"


def test_a_ticket_for_other_channels_is_refused(tickets: Tickets) -> None:
    app = Admitting(tickets, channels=["a", "b"])
    for names in (["c"], ["a"], ["a", "c"]):
        query = f"ticket={tickets.issue(names)}"
        assert refusal(app, query, 403) == "the ticket is for other channels"


@on_threads_and_greenlets
def test_a_view_may_follow_fewer_channels_than_the_ticket_names(
    tickets: Tickets, channels: Channels
) -> None:
    app = Admitting(tickets, channels=["a"])
    with Client(app, f"/?ticket={tickets.issue(['a', 'b'])}") as client:
        for name in ("b", "a"):
            channels.publish(name, {"data": name})
        assert data_of(client.take(1)) == ["a"]


def test_no_ticket_is_issued_for_a_pattern(tickets: Tickets) -> None:
    for name in ("*", "user:*", "user:?", "user:[ab]", "#", "user.>", "%", "a,b", "a=b", ""):
        with pytest.raises(ValueError, match="the name of a channel"):
            tickets.issue([name])


@pytest.mark.parametrize("where", ["header", "parameter"])
def test_a_foreign_channel_in_an_id_is_not_followed(
    where: str, tickets: Tickets, app: Admitting, channels: Channels
) -> None:
    own = channels.publish("news", {"data": "first"})
    foreign = channels.publish("secrets", {"data": "secret 1"})
    channels.publish("secrets", {"data": "secret 2"})
    path, last_id = f"/?ticket={tickets.issue(['news'])}", f"{foreign},{own}"
    if where == "parameter":
        path, last_id = f"{path}&lastEventId={last_id}", ""
    with Client(app, path, last_id or None) as client:
        channels.publish("secrets", {"data": "secret 3"})
        channels.publish("news", {"data": "second"})
        assert data_of(client.take(1)) == ["second"]
        # The ids keep the client's own position there for a while, as a view may follow it later.
        assert b"secret " not in client.received


# -- once


@pytest.fixture
def once(tickets: Tickets) -> str:
    return tickets.issue(["news"], once=True)


def cookie_of(client: Client) -> str:
    return next(each for each in client.headers("Set-Cookie") if each.startswith(BROWSER))


@on_threads_and_greenlets
def test_a_ticket_for_one_use_admits_one_browser(once: str, app: Admitting) -> None:
    with Client(app, f"/?ticket={once}") as client:
        cookie = cookie_of(client)
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        mine = cookie.partition(";")[0]
        # Somebody else has read it in a log.
        assert refusal(app, f"ticket={once}") == "the ticket was used before"
        foreign = f"{BROWSER}={'0' * 32}"
        assert refusal(app, f"ticket={once}", Cookie=foreign) == "the ticket was used before"
    # The same browser reconnects, and gets no second cookie.
    with Client(app, f"/?ticket={once}", HTTP_COOKIE=mine) as client:
        assert client.headers("Set-Cookie") == []


@on_threads_and_greenlets
def test_a_browser_that_has_a_cookie_already_keeps_it(
    tickets: Tickets, once: str, app: Admitting
) -> None:
    mine = f"{BROWSER}={'a' * 32}"
    for ticket in (once, tickets.issue(["news"], once=True), once):
        with Client(app, f"/?ticket={ticket}", HTTP_COOKIE=mine) as client:
            assert client.headers("Set-Cookie") == []
    # What is no id is replaced.
    other = tickets.issue(["news"], once=True)
    with Client(app, f"/?ticket={other}", HTTP_COOKIE=f"{BROWSER}=x") as client:
        assert re.fullmatch(BROWSER + "=[0-9a-f]{32};.*", cookie_of(client))


@on_threads_and_greenlets
def test_a_handler_gives_the_cookie_too(once: str, app: Admitting) -> None:
    with Client(app, f"/handler?ticket={once}") as client:
        mine = cookie_of(client).partition(";")[0]
    assert refusal(app, f"ticket={once}") == "the ticket was used before"
    with Client(app, f"/handler?ticket={once}", HTTP_COOKIE=mine):
        pass


def test_the_grace_bounds_the_reconnects(channels: Channels) -> None:
    tickets = Tickets(KEY, channels, grace=0.05)
    app, ticket = Admitting(tickets), tickets.issue(["news"], once=True)
    mine = f"{BROWSER}={'a' * 32}"
    with Client(app, f"/?ticket={ticket}", HTTP_COOKIE=mine):
        pass
    time.sleep(0.06)
    assert refusal(app, f"ticket={ticket}", Cookie=mine) == "the ticket was used before"


def test_looking_at_the_head_uses_nothing_up(once: str, app: Admitting) -> None:
    assert app.test_client().head(f"/?ticket={once}").status_code == 200
    with Client(app, f"/?ticket={once}"):
        pass


def test_a_call_that_is_wrong_uses_nothing_up(once: str, tickets: Tickets, app: Admitting) -> None:
    wrong: Any = "no stream"
    with (
        app.test_request_context(f"/?ticket={once}") as context,
        pytest.raises(TypeError, match="sse_stream"),
    ):
        tickets.admit(context.request, wrong)
    with (
        app.test_request_context(f"/?ticket={once}") as context,
        pytest.raises(ValueError, match="latest"),
    ):
        tickets.admit(context.request, SseStream(), latest=-1)
    with Client(app, f"/?ticket={once}"):
        pass


def test_a_ticket_that_cannot_be_asked_about_admits_nobody(
    once: str, tickets: Tickets, app: Admitting, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any) -> None:
        raise BrokerError("it is away")

    app.testing = True
    for name, ticket in (("append", once), ("read", tickets.issue(["news"], key="ann"))):
        with monkeypatch.context() as patch:
            patch.setattr(broker_of(channels), name, away)
            with pytest.raises(BrokerError):
                app.test_client().get(f"/?ticket={ticket}")
    # A ticket that nobody can have used up or revoked needs no broker.
    with monkeypatch.context() as patch:
        patch.setattr(broker_of(channels), "read", away)
        with Client(app, f"/?ticket={tickets.issue(['news'])}"):
            pass


# -- revocation


@on_threads_and_greenlets
def test_revoking_ends_the_streams_of_a_key_and_refuses_its_tickets(
    tickets: Tickets, app: Admitting, channels: Channels
) -> None:
    ann, eve = (tickets.issue(["news", "sports"], key=key) for key in ("ann", "eve"))
    unused = tickets.issue(["sports"], key="ann")
    with Client(app, f"/?ticket={ann}") as first, Client(app, f"/?ticket={eve}") as second:
        tickets.revoke("ann", "news")
        assert first.all() == []
        for ticket in (ann, unused):
            assert refusal(app, f"ticket={ticket}") == "the ticket was revoked"
        channels.publish("news", {"data": "1"})
        assert data_of(second.take(1)) == ["1"]
        assert not app.streams[1].destroyed
    nobodys = tickets.issue(["news"])
    with Client(app, f"/?ticket={nobodys}"):
        pass


@on_threads_and_greenlets
def test_a_ticket_that_is_issued_later_is_good(
    tickets: Tickets, app: Admitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets.revoke("ann")
    with monkeypatch.context() as patch:
        now = time.time()
        patch.setattr("ssestream.tickets.tickets.time.time", lambda: now + 2)
        ticket = tickets.issue(["news"], key="ann")
    with Client(app, f"/?ticket={ticket}"):
        pass


@on_threads_and_greenlets
def test_revoking_between_the_look_and_the_subscription_is_not_missed(
    tickets: Tickets, app: Admitting, channels: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = tickets.issue(["news"], key="ann")
    subscribe = channels.subscribe

    def revoked_before(*args: Any, **options: Any) -> None:
        tickets.revoke("ann", "news")
        subscribe(*args, **options)

    monkeypatch.setattr(channels, "subscribe", revoked_before)
    assert refusal(app, f"ticket={ticket}") == "the ticket was revoked"
    until(lambda: not channels.statistics(), "nothing to be followed")
    assert app.streams[0].destroyed


@on_threads_and_greenlets
def test_cut_ends_the_streams_that_tickets_have_admitted(
    tickets: Tickets, app: Admitting, channels: Channels
) -> None:
    for key in (7, "7", ("a", 7)):
        with Client(app, f"/?ticket={tickets.issue(['news'], key=key)}") as client:
            channels.cut("news", key)
            assert client.all() == []


@pytest.mark.parametrize(
    ("key", "names", "error"),
    [(None, ["news"], ValueError), (1.5, ["news"], TypeError), ("ann", ["*"], ValueError)],
)
def test_a_wrong_revocation_revokes_nothing(
    key: Any, names: list[str], error: type[Exception], tickets: Tickets, app: Admitting
) -> None:
    ticket = tickets.issue(["news"], key="ann")
    with pytest.raises(error):
        tickets.revoke(key, *names)
    with Client(app, f"/?ticket={ticket}"):
        pass


# -- pages of other sites


def test_a_request_with_cookies_must_come_from_a_page_of_the_app(
    tickets: Tickets, app: Admitting, channels: Channels
) -> None:
    ticket = tickets.issue(["news"])
    evil = {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}
    words = "the origin &#39;https://evil.example&#39; may not make this request"
    assert refusal(app, "", 403, Cookie=f"{COOKIE}={ticket}", **evil) == words
    assert refusal(app, f"ticket={ticket}", 403, Cookie="session=x", **evil) == words
    headers = {"HTTP_ORIGIN": "https://evil.example", "HTTP_SEC_FETCH_SITE": "cross-site"}
    # Without cookies the ticket alone decides.
    with Client(app, f"/?ticket={ticket}", **headers):
        pass
    allowing = Admitting(Tickets(KEY, channels, origins=["https://evil.example"]))
    with Client(allowing, f"/?ticket={ticket}", HTTP_COOKIE="session=x", **headers):
        pass


# -- nothing tells the ticket


def everything_about(tickets: Tickets, request: flask.Request) -> str:
    """What a collector of errors could tell of a refusal: each error, and each variable."""
    with pytest.raises(Unauthorized) as caught:
        tickets.admit(request, SseStream(request))
    told, error = [repr(request), request.url, str(request.environ)], caught.value
    chain: BaseException | None = error
    while chain is not None:
        told.append(f"{chain!r} {vars(chain)}")
        chain = chain.__cause__ or chain.__context__
    frames = [entry.frame.f_locals for entry in caught.traceback[1:]]
    assert len(frames) >= 2
    return " ".join([*told, *map(str, frames)])


def test_no_line_and_no_error_has_a_ticket(
    tickets: Tickets, app: Admitting, caplog: pytest.LogCaptureFixture
) -> None:
    app.testing = True
    expired, other = tickets.issue(["news"], expires=0.01), Tickets("x").issue(["news"])
    time.sleep(0.02)
    with caplog.at_level(logging.DEBUG):
        for ticket in (expired, other):
            with app.test_request_context(f"/?ticket={ticket}") as context:
                told = everything_about(tickets, context.request)
                assert ticket.rpartition(".")[2] not in told
        with Client(app, f"/?ticket={tickets.issue(['news'], expires=2)}") as client:
            client.all()
    assert "ticket has expired" in caplog.text
    assert "ticket=" not in caplog.text.replace("ticket=-", "")
    assert KEY not in repr(tickets)


def test_the_reason_stands_in_the_challenge(tickets: Tickets, app: Admitting) -> None:
    client = app.test_client()
    # Some versions of Werkzeug end it with a space.
    assert client.get("/").headers["WWW-Authenticate"].strip() == "Bearer"
    told = client.get("/?ticket=x").headers["WWW-Authenticate"]
    assert 'error_description="the ticket is not valid"' in told
    assert "error=invalid_token" in told.replace('"invalid_token"', "invalid_token")


# -- the cookie


def test_a_ticket_may_be_a_cookie(tickets: Tickets, app: Admitting) -> None:
    ticket = tickets.issue(["news"], expires=90)

    @app.post("/ticket")
    def issue() -> flask.Response:
        response = flask.make_response("", 204)
        tickets.set_cookie(response, ticket, path="/")
        return response

    client = app.test_client()
    cookie = client.post("/ticket", base_url="https://localhost").headers["Set-Cookie"]
    for part in (f"{COOKIE}={ticket}", "HttpOnly", "Secure", "SameSite=Strict", "Path=/"):
        assert part in cookie
    assert re.search("Max-Age=(89|90);", cookie)
    assert "Secure" not in client.post("/ticket").headers["Set-Cookie"]
    wrong: Any
    for wrong, error in (("x", ValueError), (None, TypeError)):
        with pytest.raises(error, match="ticket is"):
            tickets.set_cookie(flask.Response(), wrong)


# -- what an app may ask for


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"expires": 0}, ValueError, "expires"),
        ({"expires": -1}, ValueError, "expires"),
        ({"expires": None}, ValueError, "expires"),
        ({"expires": 86401}, ValueError, "up to 86400"),
        ({"expires": "60"}, TypeError, "expires"),
        ({"expires": True}, TypeError, "expires"),
        ({"once": 1}, TypeError, "once"),
        ({"key": 1.5}, TypeError, "key"),
        ({"key": object()}, TypeError, "key"),
        ({"channels": "news"}, TypeError, "channels"),
        ({"channels": []}, ValueError, "channels"),
    ],
)
def test_a_wrong_argument_is_named(
    options: dict[str, Any], error: type[Exception], words: str, tickets: Tickets
) -> None:
    with pytest.raises(error, match=words):
        tickets.issue(**{"channels": ["news"], **options})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"keys": None}, ValueError, "secret_key"),
        ({"keys": []}, ValueError, "keys"),
        ({"channels": "memory://"}, TypeError, "channels must be a Channels"),
        ({"salt": ""}, ValueError, "salt"),
        ({"salt": b"x"}, ValueError, "salt"),
        ({"grace": "5"}, TypeError, "grace"),
        ({"origins": "https://a"}, TypeError, "origins"),
        ({"origins": ["*"]}, ValueError, "origin"),
    ],
)
def test_a_wrong_setting_is_named(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Tickets(**{"keys": KEY, **options})


def test_a_ticket_fits_in_a_request_line(tickets: Tickets) -> None:
    names = [f"room:{number:04}" for number in range(40)]
    assert len(tickets.issue(names, key="x" * 100, once=True)) < MOST
    assert re.fullmatch(r"[\w.-]+", tickets.issue(names))
    long = secrets.token_hex(2500)
    with pytest.raises(ValueError, match="too many for one ticket"):
        tickets.issue(names, key=long)


def test_a_request_is_flasks_werkzeugs_or_an_environ(
    tickets: Tickets, app: Admitting, channels: Channels
) -> None:
    wrong: Any = "request"
    with pytest.raises(TypeError, match="request must be"):
        tickets.admit(wrong, SseStream())
    with app.test_request_context("/?ticket=x", headers={"Cookie": "a=b", "Origin": "null"}):
        environ = {**flask.request.environ}
        del environ["werkzeug.request"]
        with pytest.raises(Forbidden):
            tickets.admit(environ, SseStream())
        assert environ["QUERY_STRING"] == "ticket=-"
