"""Wait for news of all channels: with ``XREAD`` on one server, by polls in a cluster."""

import contextlib
from collections.abc import Mapping
from typing import Any

from redis import exceptions

from ...runtime.clock import clock
from ...runtime.forking import process
from ..broker import Position
from ..waker import PollableWaker
from .client import ANSWER
from .errors import is_of_channel
from .keys import channel_of, entry_id, key_of
from .pool import Pool

#: Seconds after which ``XREAD`` answers even without news. A listener finds a dead connection
#: within `BLOCK` and `ANSWER` together.
BLOCK = 5.0

#: Seconds between two polls of a cluster.
POLL = 0.1


class Listener:
    """The one connection that waits for news of all channels, with ``XREAD``.

    A wake does not withdraw the ``XREAD``, because the next `wait` mostly asks for the same
    positions.
    """

    def __init__(self, pool: Pool, client: Any) -> None:
        self.pool = pool
        self._client = client
        self._asked: dict[str, Position] | None = None
        self._until = 0.0
        # Whether Redis has allowed an ``XREAD`` on this connection.
        self._has_asked = False
        # Whether the account may use ``CLIENT UNBLOCK``, as far as is known.
        self._may_unblock = True
        try:
            self._connection = client.connection_pool.get_connection()
            self._id = self._introduce()
        except BaseException:
            client.close()
            raise

    def wait(self, positions: Mapping[str, Position], waker: PollableWaker) -> list[str]:
        """The channels with new entries. An empty list after `BLOCK` seconds or a wake."""
        if positions != self._asked:
            if self._asked is not None:
                self._withdraw()
            if not positions:
                waker.wait(BLOCK)
                return []
            keys = [key_of(name) for name in positions]
            after = [entry_id(position) for position in positions.values()]
            if not self._has_asked:
                # The first ``XREAD`` does not block, so that a refusal is known before a wake
                # can end the wait.
                self._connection.send_command("XREAD", "COUNT", 1, "STREAMS", *keys, *after)
                answer = self._connection.read_response()
                self._has_asked = True
                if answer:
                    return [channel_of(key) for key in dict(answer)]
            block = int(BLOCK * 1000)
            self._connection.send_command(
                "XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", *keys, *after
            )
            self._asked = dict(positions)
            self._until = clock.now() + BLOCK + ANSWER
        woken, answered = waker.wait(self._until - clock.now(), self._socket)
        if answered:
            self._asked = None
            answer = self._connection.read_response()
            return [channel_of(key) for key in dict(answer or ())]
        if not woken:
            raise exceptions.TimeoutError("no answer to XREAD")
        return []

    def close(self) -> None:
        self._client.close()

    def silence(self) -> None:
        """Called in a child: let its copy of the connection be none."""
        if self._socket is not None:
            process.silence(self._socket)

    @property
    def _socket(self) -> Any:
        return self._connection._sock

    def _introduce(self) -> int:
        self._connection.send_command("CLIENT", "ID")
        return int(self._connection.read_response())

    def _withdraw(self) -> None:
        """End the pending ``XREAD``: by its answer, by unblocking, or by a new connection."""
        self._asked = None
        # The account may lack the right to unblock, and the CLIENT UNBLOCK may reach Redis
        # before the XREAD does. Then a new connection is needed.
        with contextlib.suppress(exceptions.ResponseError):
            if self._connection.can_read() or self._unblock():
                self._connection.read_response()
                return
        self._connection.disconnect()
        self._connection.connect()
        self._id = self._introduce()

    def _unblock(self) -> bool:
        if self._may_unblock:
            try:
                return bool(self.pool.client.client_unblock(self._id))
            except exceptions.NoPermissionError:
                # Do not try again: Redis writes each refusal to its ACL log.
                self._may_unblock = False
        return False


class Poller:
    """Polls a cluster for news, because one ``XREAD`` cannot wait on several nodes."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def wait(self, positions: Mapping[str, Position], waker: PollableWaker) -> list[str]:
        pipeline = self.pool.client.pipeline()
        for name, position in positions.items():
            pipeline.xrange(key_of(name), min=entry_id(position, 1), count=1)
        answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception) and not is_of_channel(answer):
                raise answer
        news = [name for name, some in zip(positions, answers, strict=True) if some]
        if not news:
            waker.wait(POLL)
        return news

    def close(self) -> None:
        pass

    def silence(self) -> None:
        pass
