"""gunicorn workers that end streams when they stop, and a worker that serves more streams.

By itself, gunicorn waits for open streams until its ``graceful_timeout``, 30 seconds. Then it
kills the worker without cleanup. Either of these ends all streams at once, on SIGTERM,
SIGINT, a reload, ``max_requests`` and SIGTTOU:

* ``gunicorn -k ssestream.gunicorn.SseWorker app:app``
* for any other worker class, in ``gunicorn.conf.py``::

      from ssestream.gunicorn import post_worker_init

`SseWorker` also saves memory and time. If an app's answer is the body of a `ServerResponse`,
the worker takes over the socket and frees the request, with its greenlet, its environ and
its parser. Only the stream is left. The body may be in a middleware's wrapper, if
``unwrapping`` knows the wrapper.
"""

import gc
from collections.abc import Iterable, Iterator
from datetime import datetime
from types import CodeType
from typing import Any

import gevent
from gevent.server import StreamServer
from gunicorn.glogging import Logger
from gunicorn.http.wsgi import Response
from gunicorn.sock import ssl_context as make_ssl_context
from gunicorn.workers.ggevent import GeventWorker
from gunicorn.workers.sync import SyncWorker

from ..http.body import Body
from ..http.diagnosis import explain_standard_way_with
from ..http.registry import registry
from ..response import FLUSH_LATER, ServerResponse
from ..runtime.clock import clock
from ..runtime.forking import process
from .cohort import GroupedSender
from .connections import Connections, OnEnd, Serving, note_answer
from .heads import heads
from .listeners import ListenerName, keep_names
from .memory import Memory
from .sender import Sender
from .stopping import LOOK_MS, Stopping
from .unwrapping import unwrapped

# This module can be gunicorn's configuration itself (``-c python:ssestream.gunicorn``). Then
# gunicorn reads every name here that is also the name of a setting. So no name in this module
# may be the name of a setting, except the hook.
__all__ = ["SseWorker", "post_worker_init"]

#: Seconds between two signs of life to gunicorn's arbiter.
NOTIFY = 1.0

_LATER_KEY = "ssestream.post_request_later"


def post_worker_init(worker: Any) -> None:
    """gunicorn's hook: drain the streams of *worker* when it has to stop, for any reason.

    A gevent worker that stops serves the connections that it has just accepted, too. The hook
    also keeps Python's garbage collector from scanning the objects of the loaded app.
    """
    _freeze()
    in_greenlets, in_main_thread = (isinstance(worker, each) for each in (GeventWorker, SyncWorker))
    if in_greenlets:
        keep_names(worker)
    Stopping(worker, in_greenlets, in_main_thread).watch()


def _freeze() -> None:
    # The objects of the app live as long as the worker. Without this, the garbage collector
    # scans them each time that the number of streams has grown by a quarter.
    process.before_freeze()
    gc.collect()
    gc.freeze()


class SseWorker(GeventWorker):
    """gunicorn's gevent worker, with streams that need no greenlet after their request.

    All other answers are sent as in the gevent worker. These include streams in an unknown
    wrapper of a middleware, streams over TLS or HTTP/2, and answers to HEAD.

    Until a stream is over, it counts as one of the ``worker_connections``. Its line in the
    access log and its call of the hook ``post_request`` come when it is over. If the
    configuration uses neither, nothing of the request is kept.
    """

    def init_process(self) -> None:
        # Do this before the app is loaded, as loading may fork jobs.
        self._stopping = Stopping(self, in_greenlets=True)
        hook = self.cfg.settings["post_request"]
        self._post_request = None if hook.get() is type(hook).default else hook.get()
        if self._post_request is not None:
            self.cfg.set("post_request", self._post_request_now_or_later)
        # Keep requests for another class of logger, too: it may count them without writing.
        self._keeps_requests = (
            self._post_request is not None
            or type(self.log) is not Logger
            or writes_access_log(self.cfg)
        )
        super().init_process()

    def load_wsgi(self) -> None:
        self.wsgi: Any
        super().load_wsgi()
        # Only the server can speak TLS, or frame another protocol such as uwsgi.
        if not self.cfg.is_ssl and self._protocol() == "http":
            self._app = self.wsgi
            self.wsgi = self._run_app
        explain_standard_way_with(self._why_standard_way)
        _freeze()

    def run(self) -> None:
        self._memory = Memory(self.log)
        servers = [self._serve(listener) for listener in self.sockets]
        notify_at = 0.0
        while self.alive:
            self._stopping.look()
            if clock.now() >= notify_at:
                notify_at = clock.now() + NOTIFY
                self.notify()
            gevent.sleep(LOOK_MS / 1000)
        for server in servers:
            server.close()
        self._stopping.look()
        began = clock.now()
        while any(len(server.pool) for server in servers):
            waited = self._stopping.is_quick and self._stopping.has_waited()
            if waited or clock.now() > began + self.cfg.graceful_timeout:
                self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
                for server in servers:
                    # stop() kills the greenlets in the pool, but a stream is no greenlet. Take
                    # out streams with running handlers first.
                    for stream in [each for each in server.pool if _is_stream(each)]:
                        server.pool.discard(stream)
                    server.stop(timeout=0)
                return
            self.notify()
            gevent.sleep(LOOK_MS / 1000)

    def notify(self) -> None:
        self._stopping.look()
        super().notify()

    def handle_quit(self, sig: int, frame: Any) -> None:
        if self._stopping.is_quick:
            return
        if not registry.has_open:
            super().handle_quit(sig, frame)
        else:
            self._stopping.begin_soon()

    def _serve(self, listener: Any) -> StreamServer:
        """Serve *listener* as the gevent worker does, with a pool that can hold streams."""
        listener.setblocking(1)
        pool = Connections(self.worker_connections)
        options = {"ssl_context": make_ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        name = ListenerName(listener)

        def handle(client: Any, address: Any) -> None:
            if not self._memory.has_room_for_one(len(pool) - 1):
                client.close()
                return
            gevent.getcurrent().serve_in(pool)
            self.handle(name, client, address)

        server_class = _SharingServer if self.cfg.workers > 1 else StreamServer
        server: StreamServer = server_class(listener, handle=handle, spawn=pool, **options)
        server.start()
        return server

    # -- a request whose answer is a stream

    def _run_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        response: Any = getattr(start_response, "__self__", None)
        note_answer(None)
        if type(response) is not Response:  # HTTP/2 has another class
            body: Iterable[bytes] = self._app(environ, start_response)
            return body
        began = datetime.now() if self._keeps_requests else None
        flush: list[Body] = []
        environ[FLUSH_LATER] = flush
        body = self._app(environ, start_response)
        # A middleware may call the app or start_response() as late as the first chunk
        # (PEP 3333). Then there is no status yet.
        environ.pop(FLUSH_LATER, None)
        note_answer(getattr(body, "gi_code", type(body)))
        if response.status is None:
            return body
        own, owed = (body, body) if type(body) is Body else unwrapped(body)
        if type(own) is Body and response.response_length is None and not response.upgrade:
            return _Handover(own, body, owed, response, environ, began)
        if flush:
            send_head(response, body, *flush)
        return body

    def is_already_handled(self, respiter: Any) -> bool:
        if type(respiter) is not _Handover:
            return bool(super().is_already_handled(respiter))
        if not self._take_over(respiter):
            send_head(respiter.response, respiter.outer, respiter.body)
            return False
        # For gunicorn the connection is over. Its gevent worker ends it on StopIteration.
        raise StopIteration

    def _why_standard_way(self, body: Body) -> str:
        """Say, for the log, why the worker itself does not send *body*."""
        greenlet = gevent.getcurrent()
        answer = greenlet.answer if isinstance(greenlet, Serving) else None
        if not isinstance(body.outgoing, ServerResponse):
            return "its view returns an SseStream in a Response, and no ServerResponse"
        if self.cfg.is_ssl:
            return "gunicorn speaks TLS itself, which a proxy in front can do instead"
        if self._protocol() != "http":
            return f"gunicorn speaks {self._protocol()} here, and not HTTP"
        if not body.reachable:
            return "there is no client socket in the environ, which a middleware may have replaced"
        if isinstance(answer, CodeType):
            name = f"the generator {answer.co_name}() of {answer.co_filename}"
            return f"a middleware has put its body into {name}"
        if answer in (None, Body, _Handover):
            return "the response has a Content-Length, or its connection is HTTP/2"
        return f"a middleware has put its body into a {answer.__module__}.{answer.__qualname__}"

    def _protocol(self) -> str:
        return str(getattr(self.cfg, "protocol", "http"))

    def _take_over(self, handover: "_Handover") -> bool:
        """Take over the socket of *handover*. Return False if that is impossible."""
        body, response = handover.body, handover.response
        # Make the head before taking the socket: afterwards gunicorn could not send the response.
        head = heads.of(response)
        if head is None or body.connection is None:
            return False
        sock = body.connection.take_over()
        if sock is None:
            return False
        greenlet = gevent.getcurrent()
        pool = greenlet.pool
        pool.hand_on(greenlet, body)
        on_end = pool.discard_stream
        if handover.began is not None:
            handover.environ[_LATER_KEY] = True
            on_end = self._end_of_request(response, handover.environ, handover.began, on_end)
        if handover.owed is not body:
            on_end = closing(handover.owed, on_end)
        response.force_close()
        response.headers_sent = True
        # Only a body of chunks that are sent as they were written can be sent to many at once.
        sender_class = GroupedSender if response.chunked and body.is_plain else Sender
        sender = sender_class(body, sock, response.chunked, on_end)
        try:
            sender.begin(head)
        except BaseException:
            sender.break_off()
            raise
        return True

    def _end_of_request(
        self, response: Any, environ: dict[str, Any], began: datetime, discard: OnEnd
    ) -> OnEnd:
        def on_end(sender: Sender) -> None:
            try:
                self._close_request(sender, response, environ, began)
            finally:
                # Do this last: a stopping worker exits when its pool is empty.
                discard(sender)

        return on_end

    def _close_request(
        self, sender: Sender, response: Any, environ: dict[str, Any], began: datetime
    ) -> None:
        response.sent = sender.sent
        self.log.access(response, response.req, environ, datetime.now() - began)
        if self._post_request is not None:
            del environ[_LATER_KEY]
            try:
                self._post_request(self, response.req, environ, response)
            except Exception:
                self.log.exception("Exception in post_request hook")

    def _post_request_now_or_later(
        self, worker: Any, req: Any, environ: dict[str, Any], response: Any
    ) -> None:
        if _LATER_KEY not in environ and self._post_request is not None:
            self._post_request(worker, req, environ, response)


class _SharingServer(StreamServer):
    """Accepts one connection at a time, and leaves the others to the other workers."""

    max_accept = 1


class _Handover:
    """A body with its request and response, on the way to `SseWorker.is_already_handled`.

    It is also an iterable: if its socket cannot be taken over, the server iterates the body
    as usual.
    """

    def __init__(
        self,
        body: Body,
        outer: Any,
        owed: Any,
        response: Any,
        environ: dict[str, Any],
        began: datetime | None,
    ) -> None:
        self.body = body
        #: The app's answer: the body, or a middleware's wrapper around it.
        self.outer = outer
        #: The iterable whose ``close()`` is called when the body is over.
        self.owed = owed
        self.response = response
        self.environ = environ
        self.began = began
        self.close = outer.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.outer)


def closing(owed: Any, on_end: OnEnd) -> OnEnd:
    """Call ``owed.close()`` before *on_end*: the server owes it to a middleware (PEP 3333)."""

    def close_first(sender: Sender) -> None:
        try:
            owed.close()
        finally:
            on_end(sender)

    return close_first


def send_head(response: Any, body: Any, *bodies: Body) -> None:
    """Send the head. If that fails, end *body* and the streamed *bodies* inside it.

    Closing *body* is not enough: it may be a middleware's generator. A generator that has not
    started passes no ``close()`` on.
    """
    try:
        response.write(b"")
    except BaseException:
        try:
            if hasattr(body, "close"):
                body.close()
        finally:
            for each in bodies:
                each.close()
        raise


def _is_stream(member: Any) -> bool:
    return isinstance(member, Body)


def writes_access_log(cfg: Any) -> bool:
    return bool(
        cfg.accesslog
        or cfg.logconfig
        or cfg.logconfig_dict
        or getattr(cfg, "logconfig_json", None)
        or (cfg.syslog and not cfg.disable_redirect_access_to_syslog)
    )
