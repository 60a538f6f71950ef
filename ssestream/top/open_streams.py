"""OpenStreams: the streams that are open now, in this process or in all processes of the host."""

import contextlib
import heapq
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask

from ..channels.channels import Channels
from ..channels.cursor import Cursor
from ..http.body import Body
from ..http.registry import registry, statistics
from ..runtime.clock import clock
from ..runtime.forking import process
from ..runtime.loop import logger
from ..runtime.uncopyable import Uncopyable
from ..timers import set_interval
from .ledger import Ledger

#: The most streams and the most channels of a process that are told. Those with the most bytes that
#: wait, and those with the most streams, come first.
MOST = 500

#: Milliseconds after which a process looks whether somebody watches, and writes its streams then.
PACE = 1000

#: Seconds after which a watcher has gone, and after which a process that has written nothing has.
GONE = 10.0

#: A file whose time is that of the last look of a watcher.
WATCHED = "watched"

#: The id of a stream, and the name of the file that orders the process of the stream to cut it.
_ID = re.compile("[0-9a-f]{8}-[0-9]{1,18}")
_ORDER = "{}.cut"


class OpenStreams(Uncopyable):
    """The open streams of *app*: their clients, their channels, and what waits for them.

    :param app: the app whose streams are told.
    :param channels: the `Channels` that the streams follow; None for none.
    :param folder: a folder of this host in which all workers tell of their streams, while somebody
        watches. None tells of one process only. It may be the folder of `Metrics`.
    """

    _only_one = "it is told of each stream of this process. Make another OpenStreams"

    def __init__(
        self,
        app: flask.Flask,
        channels: Channels | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if channels is not None and not isinstance(channels, Channels):
            raise TypeError(f"channels must be a Channels, not {type(channels).__name__}")
        #: The `Channels` that the streams follow; None for none.
        self.channels = channels
        self._folder = None if folder is None else Path(folder) / "open"
        self._writes_in = 0
        self._has_warned = False
        self._ledger = Ledger()
        registry.observe(self._ledger)
        os.register_at_fork(after_in_child=self._ledger.begin)
        if self._folder is not None:
            app.before_request(self._begin)

    def view(self) -> flask.Response:
        """The open streams of all processes, for ``python -m ssestream top URL``.

        It has the addresses of clients. Return it from a view of the app's own, behind the check
        that admits operators.
        """
        text = json.dumps({"processes": self.of_all()})
        headers = {"Cache-Control": "no-store"}
        return flask.Response(text, headers=headers, mimetype="application/json")

    def of_all(self) -> list[dict[str, Any]]:
        """The open streams of each process that uses the folder; without one, of this process.

        Those of another process may be a second old, and are not there at the first call. They
        are not there either if the folder cannot be written, which is logged once.
        """
        own = self.of_process()
        if self._folder is None:
            return [own]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / WATCHED).touch()
        except OSError as error:
            self._warn(error)
        others = (each for each in self._read(self._folder) if each["process"] != own["process"])
        return [own, *others]

    def of_process(self) -> dict[str, Any]:
        """The open streams of this process."""
        following = self._following()
        bodies = [each for each in registry.streams() if isinstance(each, Body)]
        first = heapq.nlargest(MOST, bodies, key=Body.waiting)
        now, numbers = clock.now(), statistics()
        return {
            "process": os.getpid(),
            # The clock of all processes of the host, for rates.
            "at": clock.real(),
            "open": len(bodies),
            "opened": numbers.opened,
            "closed": numbers.closed,
            "refused": numbers.refused,
            "messages": numbers.messages,
            "waiting": numbers.waiting,
            "draining": registry.draining,
            "channels": self._channels_of_process(),
            "streams": [
                self._told(body, following.get(id(body.connection), []), now) for body in first
            ],
            "ends": self._ledger.ends(),
        }

    def cut(self, stream: str) -> bool:
        """Cut the open stream with the id *stream*, as `of_all` tells it.

        Its connection is cut and the messages that wait for it are dropped, as by
        ``res.destroy()``. A browser reconnects, and gets the messages of its channels that it has
        missed. A stream of another process is cut within about a second. Returns False if no told
        stream has this id.

        :raise OSError: if the order for another process cannot be written into the folder.
        """
        if not _ID.fullmatch(stream):
            return False
        if self._cut_here(stream):
            return True
        told = (each["id"] for process in self.of_all()[1:] for each in process["streams"])
        if self._folder is None or stream not in told:
            return False
        (self._folder / _ORDER.format(stream)).touch()
        return True

    def _cut_here(self, stream: str) -> bool:
        """Cut the stream with this id, if this process has it."""
        if not stream.startswith(self._ledger.token):
            return False
        for body in registry.streams():
            if self._ledger.id_of(body) == stream:
                body.cut("error")
                return True
        return False

    def _following(self) -> dict[int, list[Cursor]]:
        """The cursors of streams, by the id() of the connections of their requests."""
        found: dict[int, list[Cursor]] = {}
        for exchange in [] if self.channels is None else self.channels.exchanges.all():
            for subscription in exchange.subscriptions:
                connection = subscription.flow.connection
                if connection is not None:
                    found.setdefault(id(connection), []).extend(subscription.cursors)
        return found

    def _channels_of_process(self) -> dict[str, dict[str, int]]:
        numbers = [
            (name, each)
            for exchange in ([] if self.channels is None else self.channels.exchanges.all())
            for name, each in exchange.listener.tails.statistics_of_all().items()
        ]
        return {
            name: {
                "streams": each.subscribers,
                "behind": each.lagging,
                "delivered": each.delivered,
            }
            for name, each in heapq.nlargest(MOST, numbers, key=lambda pair: pair[1].subscribers)
        }

    def _told(self, body: Body, cursors: list[Cursor], now: float) -> dict[str, Any]:
        messages, length = body.sent()
        return {
            "id": self._ledger.id_of(body),
            "client": body.name,
            "seconds": self._ledger.seconds(body, now),
            "messages": messages,
            "bytes": length,
            "waiting": body.waiting(),
            "channels": {cursor.name: _events_behind(cursor) for cursor in cursors},
        }

    # -- the folder

    def _begin(self) -> None:
        """Before a request: let this process write its streams from now on, if somebody watches."""
        if self._writes_in == os.getpid() or process.is_job:
            return
        self._writes_in = os.getpid()
        set_interval(self._write, PACE)

    def _write(self) -> None:
        folder = self._folder
        if folder is None or self._writes_in != os.getpid():
            return
        part = folder / f"{os.getpid()}.part"
        try:
            if _age(folder / WATCHED) > GONE:
                return
            self._obey(folder)
            part.write_text(json.dumps(self.of_process()))
            part.replace(folder / f"{os.getpid()}.json")
            self._has_warned = False
        except FileNotFoundError:  # nobody has watched yet
            return
        except OSError as error:
            with contextlib.suppress(OSError):
                # On a full disk, it is a part of what fills the disk.
                part.unlink()
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        """Log *error* once, until this process has written again."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "top: the folder cannot be written, and a look misses the streams of some"
                " processes: %s",
                error,
            )

    def _obey(self, folder: Path) -> None:
        """Cut the streams of this process that another process was asked to cut."""
        for order in folder.glob(_ORDER.format(f"{self._ledger.token}-*")):
            # On a read-only disk, the order stays, and its stream is over.
            self._cut_here(order.stem)
            order.unlink(missing_ok=True)

    def _read(self, folder: Path) -> Iterator[dict[str, Any]]:
        for order in folder.glob(_ORDER.format("*")):
            # Its process has gone.
            with contextlib.suppress(OSError):
                if _age(order) > GONE:
                    order.unlink()
        for file in sorted(folder.glob("*.json")):
            # Another process may remove it, too. On a read-only disk, nobody can. A power cut may
            # leave a file that is not whole.
            with contextlib.suppress(OSError, ValueError):
                if _age(file) < GONE:
                    yield json.loads(file.read_text())
                else:
                    file.unlink()


def _age(file: Path) -> float:
    return time.time() - file.stat().st_mtime


def _events_behind(cursor: Cursor) -> int:
    """How many entries of its log the stream of *cursor* has not got, as far as that is known."""
    end, at = cursor.tail.position, cursor.position
    if end is None or at is None or at.log != end.log:
        return 0
    return max(0, int(end.number) - at.number)
