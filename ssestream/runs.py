"""Runs: answers, reports and agents that belong to their user, and not to the request.

A run has a source, which produces messages, and any number of watchers. The source is drawn in one
process, in a greenlet of its own, and each message is stored in the log of a channel before anybody
gets it. A watcher gets all messages, in every process that uses the same broker. A run has exactly
one end, also when its process is killed. See ``docs/runs.rst``.
"""

import uuid
from collections.abc import AsyncIterable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .brokers.broker import Refused
from .brokers.configuration import check_seconds
from .channels.channels import Channels
from .channels.last_message import Last, Status, last_frame, last_message
from .channels.leases import end_lapsed
from .channels.publication import cut_frame
from .config import app_dumps, app_json
from .errors import BrokerError
from .plain import shortened
from .producer import Limits, Producer
from .response import ServerResponse
from .run_keeper import Keeper
from .run_log import PREFIX, OnDisconnect, RunLog, State, digest_of
from .runtime.callables import check_callable
from .runtime.loop import current_loop
from .runtime.threads import new_lock
from .runtime.uncopyable import Uncopyable
from .settings import Options
from .stream import SseStream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .channels.exchange import Exchange


class Runs(Uncopyable):
    """The runs in *channels*.

    A run is kept *ttl* seconds after its end. It fails beyond *max_events* messages or *max_bytes*
    bytes. A run with ``on_disconnect="cancel"`` is stopped when nobody has watched it for
    *cancel_after* seconds.

    *last* is a function that makes the last message of a run from its status (``"done"``,
    ``"failed"``, ``"stopped"`` or ``"lost"``) and the exception of its source, or None. It returns
    None for no message. If it fails, this is logged, and the usual message is sent. All processes
    need the same *last*: any of them may end a run.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """

    _only_one = "it keeps the runs of this process. Make another Runs with the same Channels"

    def __init__(
        self,
        channels: Channels,
        *,
        ttl: float = 600.0,
        max_events: int = 10_000,
        max_bytes: int = 16 * 1024 * 1024,
        cancel_after: float = 5.0,
        last: Last = last_message,
    ) -> None:
        if not isinstance(channels, Channels):
            raise TypeError(f"channels must be a Channels, not {type(channels).__name__}")
        for name, seconds in (("ttl", ttl), ("cancel_after", cancel_after)):
            if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
                what = "None" if seconds is None else type(seconds).__name__
                raise TypeError(f"{name} is a number of seconds, not {what}")
            check_seconds(name, seconds)
        for name, number in (("max_events", max_events), ("max_bytes", max_bytes)):
            if not isinstance(number, int) or isinstance(number, bool):
                raise TypeError(f"{name} is an int, not {type(number).__name__}")
            if number < 1:
                raise ValueError(f"{name} must be at least 1, and is {number}")
        check_callable("last", last, "a function of a status and an exception")
        self._channels = channels
        self._ttl = float(ttl)
        self._limits = Limits(max_events, max_bytes)
        self._cancel_after = float(cancel_after)
        self._make_last = last
        # Guards the dict. Nobody holds it while waiting.
        self._lock = new_lock()
        self._keepers: dict[int, Keeper] = {}

    def start(
        self,
        source: Iterable[Any] | AsyncIterable[Any],
        *,
        id: str | None = None,
        key: Hashable | None = None,
        on_disconnect: OnDisconnect = "continue",
    ) -> "Run":
        """Start the run *id* with *source*, and return at once.

        *source* is an iterable or a generator of messages, also an async one, as of `pipeline`.
        It is drawn in this process, outside every request and app context. If there is a run *id*
        already, in any process, that run is returned, and *source* is closed. With None, the run
        has a new id.

        *key* names the owner of the run, as the key of a subscription (see `Channels.subscribe`).
        `stream` can ask for it. *on_disconnect* says what happens when nobody watches the run any
        more: ``"continue"``, or ``"cancel"`` to stop it.

        Raises ``TypeError`` or ``ValueError`` for a wrong argument, and ``ValueError`` if there is
        a run *id* with another key. Raises `BrokerError` if the run could not be begun. A run whose
        start is interrupted, by a ``gevent.Timeout`` of the view for example, is lost.
        """
        drawn: Any = source
        if hasattr(drawn, "__aiter__"):
            # Not before it is needed: asyncio takes 30 ms and some memory of each process.
            from .async_items import AsyncItems

            drawn = AsyncItems(drawn)
        try:
            return self._start(drawn, id, key, on_disconnect)
        except BaseException:
            _close(drawn)
            raise

    def _start(
        self,
        source: Iterable[Any],
        id: str | None,
        key: Hashable | None,
        on_disconnect: OnDisconnect,
    ) -> "Run":
        if isinstance(source, (str, bytes, Mapping)) or not hasattr(source, "__iter__"):
            raise TypeError(f"source must be an iterable of messages, not {type(source).__name__}")
        if on_disconnect not in ("continue", "cancel"):
            raise ValueError(
                f"on_disconnect is 'continue' or 'cancel', and not {shortened(on_disconnect)}"
            )
        digest = digest_of(cut_frame(key))
        exchange = self._channels.current_exchange()
        log = RunLog(exchange.broker, uuid.uuid4().hex if id is None else id)
        run = Run(self, log.id)
        keeper = self._keeper(exchange)
        # Call this first: it may start a thread and fail, and then there may be no run.
        current_loop()
        try:
            begin = log.begin(on_disconnect, digest, self._limits.bounds, self._ttl)
        except Refused:
            state = self._state(log)
            if state is not None and state.key != digest:
                raise ValueError(f"there is a run {log.id!r} with another key") from None
            _close(source)
            return run
        if not exchange.broker.shared:
            exchange.audience.published()
        dumps = app_dumps(app_json() or exchange.json)
        producer = Producer(
            log, begin, source, dumps, self._limits, self._last_frame, keeper.remove
        )
        try:
            keeper.add(producer, on_disconnect)
            producer.start()
        except BaseException:
            # Nobody renews the lease from now on, so the run is lost.
            keeper.remove(producer)
            raise
        return run

    def stream(
        self,
        id: str,
        request: Any,
        *,
        key: Hashable | None = None,
        **options: "Unpack[Options]",
    ) -> ServerResponse:
        """A response that streams the run *id*: all of it, and then what comes.

        A client with a ``Last-Event-ID`` gets what follows that message. The response ends after
        the last message of the run. It is a 204 if there is no such run, if the client has all of
        it, and if *key* is given and is not the key of the run. *options* are settings of the
        stream. Raises ``TypeError`` or ``ValueError`` for a wrong argument.
        """
        digest = digest_of(cut_frame(key))
        exchange = self._channels.current_exchange()
        log = RunLog(exchange.broker, id)
        # This process may have to end the run, with its last message.
        self._keeper(exchange)
        # While the broker is away, nobody knows whether the run is stopped without watchers. Count
        # the stream then.
        counted = True
        try:
            state = self._state(log)
        except BrokerError:
            # The broker is away. A client that was refused might never come back.
            if digest:
                raise
        else:
            if state is None or (digest and digest != state.key):
                nothing = ServerResponse(204)
                nothing.end()
                return nothing
            counted = state.on_disconnect == "cancel"
        res = ServerResponse()
        sse_stream = SseStream(request, **options)
        sse_stream.pipe(res)
        self._channels.subscribe(sse_stream, log.name, since="start", key=key, counted=counted)
        return res

    def stop(self, id: str) -> bool:
        """Stop the run *id*, in whichever process it is produced. Its source is closed at once.

        Returns True if this call has stopped it. Does nothing, and returns False, if there is no
        such run or if it has ended. Raises ``TypeError`` or ``ValueError`` for a wrong *id*, and
        `BrokerError`.
        """
        exchange = self._channels.current_exchange()
        log = RunLog(exchange.broker, id)
        keeper = self._keeper(exchange)
        state = self._state(log)
        if state is None or state.status != "running":
            return False
        stopped = log.end(state.begin, "stopped", self._last_frame("stopped", None))
        if stopped:
            keeper.tell_stopped(log, state.begin.log)
        return stopped

    def status(self, id: str) -> Status | None:
        """``"running"``, ``"done"``, ``"failed"``, ``"stopped"`` or ``"lost"``.

        None if there is no such run. Raises as `stop`.
        """
        exchange = self._channels.current_exchange()
        state = self._state(RunLog(exchange.broker, id))
        return None if state is None else state.status

    def _state(self, log: RunLog) -> State | None:
        """The state of the run of *log*. A run whose producer has died is ended first."""
        state = log.state()
        if state is not None and state.is_lapsed:
            end_lapsed(log.broker, log.name, state.begin, self._last_frame("lost", None))
            state = log.state()
        return state

    def _keeper(self, exchange: "Exchange") -> Keeper:
        with self._lock:
            keeper = self._keepers.get(id(exchange))
            if keeper is None:
                keeper = self._keepers[id(exchange)] = Keeper(exchange, self._cancel_after)
                exchange.say_lost(PREFIX, lambda: self._last_frame("lost", None))
            return keeper

    def _last_frame(self, status: Status, error: BaseException | None) -> bytes | None:
        """The last message of a run, serialised; None for none."""
        return last_frame(self._make_last, status, error)


class Run(Uncopyable):
    """A handle on the run *id*."""

    _only_one = "it is a handle of its Runs. Use the id"

    def __init__(self, runs: Runs, id: str) -> None:
        #: The id of the run.
        self.id = id
        self._runs = runs

    @property
    def status(self) -> Status | None:
        """See `Runs.status`."""
        return self._runs.status(self.id)

    def stream(self, request: Any, **options: Any) -> ServerResponse:
        """See `Runs.stream`."""
        return self._runs.stream(self.id, request, **options)

    def stop(self) -> bool:
        """See `Runs.stop`."""
        return self._runs.stop(self.id)


def _close(source: Any) -> None:
    close = getattr(source, "close", None)
    if callable(close):
        close()
