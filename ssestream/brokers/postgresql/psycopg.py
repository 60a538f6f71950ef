"""Connections of psycopg 3 that wait as this process waits, and never for longer than allowed."""

import math
import select
from typing import Any

import psycopg
from gevent import monkey
from gevent.socket import wait_read, wait_readwrite
from psycopg import conninfo, pq

from ...runtime.clock import clock

#: All errors of psycopg.
Error = psycopg.Error

#: What closing a connection may raise.
ERRORS_OF_CLOSING = (psycopg.Error, OSError)

#: The errors of psycopg after which the connection may be lost.
OperationalError = psycopg.OperationalError

#: The error of a server that takes no writes: a standby, or one that is read-only.
ReadOnly = psycopg.errors.ReadOnlySqlTransaction

#: Seconds in which each address of a server must accept a connection. libpq takes no less.
CONNECTING = 2

#: What psycopg puts before the errors of several addresses, and before each of them.
_SEVERAL, _EACH = "Multiple connection attempts failed. All failures were:\n- ", "\n- "

#: Seconds for which a connection counts as fresh after its use.
RECENT = 0.05

#: What psycopg waits for, and is told: bits.
READ, WRITE = 1, 2

_poll: Any = monkey.get_original("select", "poll")


class Connection(psycopg.Connection):
    """A connection in autocommit mode.

    psycopg chooses how to wait when it is imported, and waits without a bound. Here the caller says
    with `allow` for how long the server may be silent. In a process that gevent has patched, other
    greenlets run meanwhile, even if psycopg was imported before the patch.
    """

    _patience = math.inf

    # When somebody has last begun to use the connection.
    _used_at = -math.inf

    def allow(self, seconds: float) -> None:
        """Give up, and close the connection, when the server is silent for *seconds*."""
        self._patience = seconds
        self._used_at = clock.real()

    def wait(self, gen: Any, interval: float = 0.0, timeout: float | None = None) -> Any:
        """Do what psycopg asks for: wait for the socket each time that *gen* yields."""
        try:
            wanted = next(gen)
            while True:
                ready = _wait(self.pgconn.socket, wanted, self._patience)
                if not ready:
                    # The answer to this may still come. Nobody else may take it for his own.
                    self.pgconn.finish()
                    raise OperationalError("the server does not answer")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value

    @classmethod
    def _connect_gen(cls, conninfo: str = "", **options: Any) -> Any:
        """What psycopg does to connect to one address, for no longer than ``connect_timeout``.

        psycopg's own deadline is on ``time.monotonic()``, which a test may stop. psycopg 3.2 gives
        its deadline in the *options*, and later versions give none.
        """
        deadline = clock.real() + _seconds_to_connect(conninfo)
        step = super()._connect_gen(conninfo, **options)
        try:
            wanted = next(step)
            while True:
                # psycopg goes on several times a second, even if nothing is ready.
                ready = yield wanted
                if clock.real() > deadline:
                    raise psycopg.errors.ConnectionTimeout("connection timeout expired")
                wanted = step.send(ready)
        except StopIteration as end:
            return end.value

    @property
    def is_fresh(self) -> bool:
        """Whether the server has sent nothing since the last use, such as its end.

        Does not look if the last use was just now: a look at the socket costs a system call.
        """
        if not self.is_idle:
            return False
        is_recent = clock.real() < self._used_at + RECENT
        return is_recent or not _wait_in_thread(self.pgconn.socket, READ, 0)

    @property
    def is_idle(self) -> bool:
        """Whether the server has answered everything, and no transaction is open."""
        return not self.closed and bool(self.pgconn.transaction_status == pq.TransactionStatus.IDLE)

    def payloads(self) -> list[str]:
        """The payloads of the notifications that have come. Does not wait."""
        self.pgconn.consume_input()
        found = []
        while (each := self.pgconn.notifies()) is not None:
            found.append(each.extra.decode("utf-8", "replace"))
        return found


def connect(options: dict[str, Any], *, prepares: bool) -> Connection:
    """Connect with the *options* of libpq. Statements are prepared at once, or never."""
    options = {"connect_timeout": CONNECTING, "fallback_application_name": "ssestream"} | options
    made: Connection = Connection.connect(
        **options, autocommit=True, prepare_threshold=0 if prepares else None
    )
    return made


def _seconds_to_connect(text: str) -> float:
    """The ``connect_timeout`` of the options in *text*, as libpq understands it."""
    seconds = float(conninfo.conninfo_to_dict(text).get("connect_timeout") or 0)
    return max(CONNECTING, seconds) if seconds > 0 else math.inf


def options_of(url: str) -> dict[str, Any]:
    """The options of libpq in *url*. Raises ``ValueError``, whose text may have a password."""
    try:
        return dict(conninfo.conninfo_to_dict(url))
    except Error as error:
        raise ValueError(str(error)) from None


def reasons_of(error: BaseException) -> list[str]:
    """The text of *error*, without the place in the SQL; one text for each address that failed."""
    words = str(error).strip()
    context = error.diag.context if isinstance(error, Error) else None
    if context:
        words = words.partition(context)[0].rstrip().removesuffix("CONTEXT:")
    return (words.partition(_SEVERAL)[2] or words).split(_EACH)


def is_connection(connection: Any) -> bool:
    return isinstance(connection, psycopg.Connection)


def fetch(connection: Any, statement: str, parameters: tuple[Any, ...]) -> Any:
    """The row of *statement*, which is part of the transaction of an app's *connection*."""
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        return cursor.execute(statement, parameters).fetchone()


def _wait(descriptor: int, wanted: int, seconds: float) -> int:
    """What of *wanted* can be done now, as soon as there is something; 0 after *seconds*."""
    if not monkey.is_module_patched("select"):
        return _wait_in_thread(descriptor, wanted, seconds)
    bound = None if math.isinf(seconds) else seconds
    wait = wait_read if wanted == READ else wait_readwrite
    try:
        wait(descriptor, timeout=bound)
    except TimeoutError:
        return 0
    return _wait_in_thread(descriptor, wanted, 0)


def _wait_in_thread(descriptor: int, wanted: int, seconds: float) -> int:
    poll = _poll()
    mask = (select.POLLIN if wanted & READ else 0) | (select.POLLOUT if wanted & WRITE else 0)
    poll.register(descriptor, mask)
    found = 0
    for _, events in poll.poll(None if math.isinf(seconds) else seconds * 1000):
        # A socket that is cut can be read and written: each tells of the error.
        if events & ~select.POLLOUT:
            found |= READ
        if events & ~select.POLLIN:
            found |= WRITE
    return found & wanted
