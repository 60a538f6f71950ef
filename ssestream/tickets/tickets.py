"""Tickets: short signed permissions to follow channels, for clients that can send no headers.

An EventSource sends the cookies of its site and nothing else. Where these are enough, a stream
needs no ticket (see ``docs/authentication.rst``). A ticket is for the rest: another host, an app
without cookies, a stream for somebody who has no session. A view that knows its user issues a
ticket, the page puts it into the address of the stream, and the view of the stream admits it.

A ticket is signed by ``itsdangerous`` and not encrypted: its holder can read it.
"""

import hashlib
import math
import re
import secrets
import time
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple, NoReturn

import flask
from itsdangerous import BadData, URLSafeSerializer
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.wrappers import Request, Response

from ..brokers.broker import check_name
from ..brokers.configuration import check_seconds
from ..channels.arguments import check_subscription
from ..channels.channels import Channels
from ..channels.cursor import Filter
from ..config import current_app
from ..http.hidden_query import hide_parameter
from ..http.request import environ_of
from ..plain import shortened, unproxied
from ..runtime.uncopyable import Uncopyable
from ..same_origin import checked_origins, refuse_other_sites
from ..stream import SseStream
from . import marks
from .arguments import checked_key, checked_keys, checked_names, key_of_json
from .ending import end_at
from .marks import LONGEST

#: The query parameter and the cookie that a ticket comes in.
PARAMETER, COOKIE = "ticket", "ssestream_ticket"

#: The cookie by which a browser that has used up a ticket is known again.
BROWSER = "ssestream_browser"

#: The most characters of a ticket. gunicorn refuses a request line of 4094.
MOST = 3072

_BROWSER = re.compile("[0-9a-f]{32}")


class Ticket(NamedTuple):
    """What a ticket says."""

    #: The channels that its holder may follow.
    channels: tuple[str, ...]
    #: The key of its holder, for `Channels.cut` and `Tickets.revoke`; None for nobody's.
    key: Hashable | None
    #: When it was issued, in seconds since 1970.
    issued_at: float
    #: When it expires, in seconds since 1970.
    expires_at: float
    #: Its own id, if it may be used only once; else None.
    id: str | None = None


class Tickets(Uncopyable):
    """Issues tickets and admits their holders to the channels of *channels*.

    *keys* is a secret key, as ``app.secret_key``, or a list of them: the first signs, and all are
    tried for a ticket that comes. To rotate, put the new key in front and drop the old one when the
    last ticket that it signed has expired.

    *channels* is the `Channels` that streams subscribe to. With None, it is the one of the current
    app (``channels.init_app(app)``).

    *salt* tells tickets with equal *keys* apart: a ticket is good where the salt is the same. Give
    each app its own if several share a key.

    *grace* is for tickets that are used up: the number of seconds after the first use in which the
    same browser may come back. None means until the ticket expires. The browser is known by a
    cookie, which `admit` sets.

    *origins* are the origins of other sites whose pages may use tickets together with the cookies
    of this one (see `check_origin`).

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, such as a key that is not set.
    """

    _only_one = "it has the secret keys and the channels of this process. Make another Tickets"

    def __init__(
        self,
        keys: str | bytes | Iterable[str | bytes],
        channels: Channels | None = None,
        *,
        salt: str = "ssestream.tickets",
        grace: float | None = None,
        origins: Iterable[str] = (),
    ) -> None:
        if channels is not None and not isinstance(channels, Channels):
            raise TypeError(f"channels must be a Channels, not {type(channels).__name__}")
        if not isinstance(salt, str) or not salt:
            raise ValueError(f"salt must be a str with something in it, not {shortened(salt)}")
        check_seconds("grace", grace)
        self._given = channels
        self._salt = salt
        self._grace = grace
        self._origins = checked_origins(origins)
        # itsdangerous signs with the last key.
        self._serializer = URLSafeSerializer(
            checked_keys(keys)[::-1],
            salt=salt,
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def __repr__(self) -> str:
        return f"<Tickets {self._salt!r}>"

    # -- for the view that knows its user

    def issue(
        self,
        channels: Iterable[str],
        *,
        key: Hashable | None = None,
        expires: float = 60.0,
        once: bool = False,
    ) -> str:
        """A ticket for *channels*: text that needs no quoting in a URL.

        *key* names the holder, as the key of `Channels.subscribe`: a str, an int or a tuple of
        these. With None, the ticket cannot be revoked. *expires* is the number of seconds that it
        is good for, at most a day; a stream that it has admitted ends then. With *once*, it admits
        one browser only.

        Connects to nothing. Raises ``TypeError`` or ``ValueError`` for a wrong argument: a name
        that no channel can have, such as one with ``*``; no channel at all, or more than fit.
        """
        names = checked_names(channels)
        key = checked_key(unproxied(key))
        if not isinstance(once, bool):
            raise TypeError(f"once is a bool, not {type(once).__name__}")
        check_seconds("expires", expires)
        if expires is None or expires > LONGEST:
            raise ValueError(f"expires is a number of seconds up to {LONGEST:.0f}, not {expires}")
        now = time.time()
        content: dict[str, Any] = {
            "c": names,
            "i": round(now, 3),
            "e": round(now + expires, 3),
        }
        if key is not None:
            content["k"] = key
        if once:
            content["o"] = secrets.token_hex(12)
        ticket = str(self._serializer.dumps(content))
        if len(ticket) > MOST:
            raise ValueError(
                f"{len(names)} channels are too many for one ticket: it would have"
                f" {len(ticket)} characters, and {MOST} are the most"
            )
        return ticket

    def set_cookie(self, response: Response, ticket: str, *, path: str = "/") -> None:
        """Let *response* set *ticket* as a cookie, for streams below *path*.

        The page need not know such a ticket, and no server writes it to its access log. The cookie
        is HttpOnly, ``SameSite=Strict``, and Secure if the current request is. Raises ``TypeError``
        or ``ValueError`` if *ticket* is no ticket of these keys.
        """
        if not isinstance(ticket, str):
            raise TypeError(f"ticket is a str, not {type(ticket).__name__}")
        content = self._read(ticket)
        if content is None:
            raise ValueError("ticket is no ticket that these keys have signed")
        response.set_cookie(
            COOKIE,
            ticket,
            max_age=max(0, round(content.expires_at - time.time())),
            path=path,
            secure=flask.has_request_context() and flask.request.is_secure,
            httponly=True,
            samesite="Strict",
        )

    # -- for the view of the stream

    def admit(
        self,
        request: Any,
        sse_stream: SseStream,
        *,
        channels: Iterable[str] | None = None,
        since: str | None = None,
        latest: int = 0,
        filter: Filter | None = None,
    ) -> Ticket:
        """Let *sse_stream* follow what the ticket of *request* names, and nothing else.

        The ticket comes in the header ``Authorization: Bearer``, or else in the query parameter
        ``ticket``, or else in the cookie of `set_cookie`. It is taken out of the query, so that
        later lines of a log do not have it. *channels* are the channels of this view; the ticket
        must name all of them, and the stream follows them alone. With None, it follows all that
        the ticket names. *since*, *latest* and *filter* are those of `Channels.subscribe`.

        When the ticket expires, the stream ends, and its client is told when to come back
        (``retry_after``). Returns what the ticket says.

        Raises werkzeug's `Unauthorized` (401) if there is no ticket, if it is not signed by these
        keys, has expired, is used up or revoked: another ticket can help. Raises `Forbidden` (403)
        if it does not name all of *channels*, and if the request has cookies and a page of another
        site has made it. Raises `BrokerError` if the broker cannot say whether the ticket is used
        up or revoked, and as `Channels.subscribe` for the other arguments.
        """
        environ = environ_of(request)
        # Flask's own request, so that it forgets the ticket, too.
        request = environ.get("werkzeug.request") or Request(environ)
        text = _ticket_of(request)
        hide_parameter(request, PARAMETER)
        if request.cookies:
            refuse_other_sites(request, self._origins)
        if text is None:
            _refuse("there is no ticket")
        ticket = self._read(text)
        # Collectors of errors keep the variables of functions.
        del text
        if ticket is None:
            _refuse("the ticket is not valid", "invalid_token")
        if ticket.expires_at <= time.time():
            _refuse("the ticket has expired", "invalid_token")
        names = ticket.channels
        if channels is not None:
            names = checked_names(channels)
            if not set(names) <= set(ticket.channels):
                raise Forbidden("the ticket is for other channels")
        check_subscription(sse_stream, names, since, latest, filter)
        its_channels = self._channels()
        self._check_revoked(its_channels, ticket)
        # A HEAD opens no stream.
        if ticket.id is not None and request.method != "HEAD":
            self._use_up(its_channels, ticket.id, ticket.expires_at, request)
        its_channels.subscribe(
            sse_stream, *names, since=since, latest=latest, filter=filter, key=ticket.key
        )
        try:
            # Again: `revoke` may have come before the stream followed its channels.
            self._check_revoked(its_channels, ticket)
        except BaseException:
            its_channels.unsubscribe(sse_stream)
            sse_stream.destroy()
            raise
        end_at(sse_stream, ticket.expires_at)
        return ticket

    # -- for the one who takes access away

    def revoke(self, key: Hashable, *names: str) -> None:
        """Refuse all tickets of *key* that were issued until now, and end its streams.

        *names* are the channels whose streams with this *key* end now, in all processes, as by
        `Channels.cut`. Streams of other channels go on until their tickets expire. Tickets that are
        issued a second later are good, so the app itself must refuse to issue more.

        Raises ``TypeError`` or ``ValueError`` for a wrong argument, and `BrokerError`.
        """
        key = checked_key(unproxied(key))
        if key is None:
            raise ValueError("key must be the key of a ticket, and not None")
        names = tuple(map(check_name, names))
        channels = self._channels()
        # First the mark: a client that is cut comes back with the ticket that it has.
        marks.revoke(channels.current_exchange().broker, self._salt, key)
        for name in names:
            channels.cut(name, key)

    # -- inside

    def _channels(self) -> Channels:
        if self._given is not None:
            return self._given
        app = current_app()
        found = None if app is None else app.extensions.get("ssestream")
        if not isinstance(found, Channels):
            raise RuntimeError(
                "these tickets do not know their channels: write Tickets(keys, channels), or call"
                " init_app() of the Channels with the current app"
            )
        return found

    def _read(self, text: str) -> Ticket | None:
        """What the ticket *text* says; None if it is not signed by one of the keys."""
        if len(text) > MOST or not text.isascii():
            return None
        # Nothing is raised from here: the error of itsdangerous has a part of the ticket in it.
        try:
            content: Any = self._serializer.loads(text)
        except BadData:
            return None
        try:
            return _ticket_of_json(content)
        except (TypeError, ValueError, KeyError):
            return None  # signed with the same key and salt, but no ticket

    def _check_revoked(self, channels: Channels, ticket: Ticket) -> None:
        if ticket.key is not None:
            broker = channels.current_exchange().broker
            if marks.is_revoked(broker, self._salt, ticket.key, ticket.issued_at):
                _refuse("the ticket was revoked", "invalid_token")

    def _use_up(self, channels: Channels, id: str, expires_at: float, request: Request) -> None:
        broker = channels.current_exchange().broker
        if not marks.use_up(broker, id, _browser_of(request), expires_at, self._grace):
            _refuse("the ticket was used before", "invalid_token")


def _ticket_of_json(content: Any) -> Ticket:
    """The ticket with this *content*. Raises an error for what `Tickets.issue` cannot have made."""
    ticket = Ticket(
        checked_names(content["c"]),
        checked_key(key_of_json(content.get("k"))),
        float(content["i"]),
        float(content["e"]),
        content.get("o"),
    )
    if not math.isfinite(ticket.issued_at + ticket.expires_at):
        raise ValueError("a time is no number")
    if ticket.id is not None:
        check_name(ticket.id)
    return ticket


def _ticket_of(request: Request) -> str | None:
    header = request.headers.get("Authorization", "")
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.args.get(PARAMETER) or request.cookies.get(COOKIE)


def _browser_of(request: Request) -> str:
    """The id of the browser of *request*. A browser without one gets one with the response."""
    known = request.cookies.get(BROWSER, "")
    if _BROWSER.fullmatch(known):
        return known
    new = secrets.token_hex(16)
    if flask.has_request_context():
        secure = request.is_secure

        @flask.after_this_request
        def set_cookie(response: Any) -> Any:
            response.set_cookie(BROWSER, new, secure=secure, httponly=True, samesite="Strict")
            return response

    return new


def _refuse(why: str, error: str | None = None) -> NoReturn:
    # RFC 6750: a request without a token gets no error code.
    values: dict[str, str | None] = {}
    if error is not None:
        values = {"error": error, "error_description": why}
    raise Unauthorized(why, www_authenticate=WWWAuthenticate("bearer", values))
