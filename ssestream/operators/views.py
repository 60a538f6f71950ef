"""The views of the page, each behind the function of the app that admits operators."""

import json
from collections.abc import Callable
from typing import Any

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from ..channels.channels import Channels
from ..errors import BrokerError, ChannelEnded
from ..plain import unproxied
from ..response import ServerResponse
from ..runtime.callables import check_callable, kind_of
from ..runtime.loop import logger
from ..same_origin import check_origin
from ..stream import SseStream
from ..timers import clear_interval, set_interval
from ..top.open_streams import OpenStreams
from .files import file, page
from .looks import Looks, shown

#: A function of a request that returns whether an operator has made it, or the answer to anybody
#: else, such as a redirection to a log-in.
Admit = Callable[[flask.Request], Any]

#: Milliseconds between two looks.
PACE = 1000

#: Seconds after which a stream of the page ends, so that the page asks *admit* again.
ADMITTED = 300.0

#: The most bytes of a form, and the most characters of a search.
LARGEST, LONGEST = 64 * 1024, 200


def blueprint(streams: OpenStreams, *, admit: Admit, name: str = "operators") -> flask.Blueprint:
    """The page for operators, as a blueprint: ``app.register_blueprint(..., url_prefix=...)``.

    It shows the *streams* of all processes, live, publishes test events to their channels, and cuts
    streams.

    *admit* gets each request, also that of the script and of the stream. It returns True for an
    operator. With False, the answer is 403. It may also return a response, such as a redirection to
    a log-in, which is the answer then; or raise, as ``flask.abort(401)`` does. Any other value is a
    ``TypeError``: many a value is true.

    *name* is that of the blueprint. Raises ``TypeError`` for a wrong argument.
    """
    if not isinstance(streams, OpenStreams):
        raise TypeError(f"streams must be an OpenStreams, not {type(streams).__name__}")
    check_callable("admit", admit, "a function of the request")
    made = flask.Blueprint(name, __name__)
    made.before_request(lambda: _refusal(admit))
    made.after_request(_never_kept)
    made.add_url_rule("/", "page", page)
    made.add_url_rule("/page-<digest>.<kind>", "file", file)
    made.add_url_rule("/events", "events", lambda: _events(streams))

    def act(endpoint: str, action: Callable[..., None], *fields: str) -> None:
        made.add_url_rule(
            f"/{endpoint}",
            endpoint,
            lambda: _answer(lambda: action(streams, *_fields(*fields))),
            methods=["POST"],
        )

    act("cut", _cut, "stream")
    if streams.channels is not None:
        act("publish", _publish, "channel", "event", "data")
        act("close-channel", _close_channel, "channel")
        act("cut-key", _cut_key, "channel", "key")
    return made


# -- admission


def _refusal(admit: Admit) -> Response | None:
    """The answer to a request that is not admitted; None if it is."""
    request = unproxied(flask.request)
    if flask.request.endpoint != f"{flask.request.blueprint}.page":
        # Only the page itself may be opened by a link of another site.
        check_origin(request)
    admitted = unproxied(admit(request))
    if admitted is True:
        return None
    if admitted is False:
        flask.abort(403)
    if isinstance(admitted, Response):
        return admitted
    raise TypeError(f"admit must return True, False or a response, not {kind_of(admitted)}")


def _never_kept(response: flask.Response) -> flask.Response:
    """No cache keeps a view of an operator, and no refusal."""
    kept = "immutable" in response.headers.get("Cache-Control", "") and response.status_code == 200
    if not kept:
        # Of a stream, too: a proxy must not change it.
        response.headers["Cache-Control"] = "no-store, no-transform"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


# -- the page's stream


def _events(streams: OpenStreams) -> flask.Response:
    looks = Looks(streams, flask.request.args.get("find", "")[:LONGEST])
    res = ServerResponse()
    sse_stream = SseStream(flask.request, max_age=ADMITTED)

    def tell() -> None:
        # A slow client misses looks, and gets the newest one.
        if not sse_stream.writable_length:
            sse_stream.write({"event": "look", "data": looks.next()})

    sse_stream.pipe(res)
    tell()
    timer = set_interval(tell, PACE)
    res.on("close", lambda: clear_interval(timer))
    return res


# -- actions


def _fields(*names: str) -> list[str]:
    """The values of the form *names* in JSON, which a page of another site cannot send."""
    request = flask.request
    if not request.is_json:
        flask.abort(415)
    if request.content_length is None:
        flask.abort(411)
    if request.content_length > LARGEST:
        flask.abort(413)
    given = request.get_json(silent=True)
    if not isinstance(given, dict) or not all(isinstance(given.get(each), str) for each in names):
        flask.abort(400, f"the body is an object with {', '.join(names)}, each a str")
    return [given[each] for each in names]


def _answer(action: Callable[[], None]) -> flask.Response:
    """The answer to an *action*: 204, or the reason in JSON."""
    try:
        action()
        return flask.Response(status=204)
    except HTTPException as error:
        return _error(str(error.description), error.code or 500)
    except ChannelEnded:
        return _error("the channel has ended", 409)
    except (BrokerError, OSError) as error:
        return _error(str(error), 503)
    except ValueError as error:
        return _error(str(error), 400)


def _error(text: str, status: int) -> flask.Response:
    return flask.Response(json.dumps({"error": text}), status, mimetype="application/json")


def _publish(streams: OpenStreams, channel: str, event: str, data: str) -> None:
    _channels(streams).publish(channel, {"event": event or None, "data": data})
    _say("has published a test event to the channel %r", channel)


def _cut(streams: OpenStreams, stream: str) -> None:
    if not streams.cut(stream):
        flask.abort(404, "the stream is over, or no process tells of it")
    _say("has cut the stream %s", stream)


def _close_channel(streams: OpenStreams, channel: str) -> None:
    _channels(streams).close_channel(channel)
    _say("has ended the streams of the channel %r", channel)


def _cut_key(streams: OpenStreams, channel: str, key: str) -> None:
    _channels(streams).cut(channel, key)
    _say("has cut a key of the channel %r", channel)


def _channels(streams: OpenStreams) -> Channels:
    assert streams.channels is not None
    return streams.channels


def _say(what: str, *names: str) -> None:
    logger.info(f"operators: %s {what}", shown(flask.request.remote_addr or "a client"), *names)
