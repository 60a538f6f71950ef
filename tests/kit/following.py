"""Clients of channels: real requests to an app in this process."""

from collections.abc import Callable
from typing import Any

import flask

from ssestream import Channels, ServerResponse, SseStream
from ssestream.flow import Flow
from ssestream.stream import flow_of
from ssestream.wire import Decoder
from tests.kit.servers import PATIENCE
from tests.kit.visit import Visit, until


class WatchedFlow(Flow):
    """The flow of a `Watched`."""

    __slots__ = ()

    def enqueue(self, frame: bytes, callback: Any) -> bool:
        result = super().enqueue(frame, callback)
        self._look()
        return result

    def hand_on_together(self, frames: list[bytes]) -> int:
        result = super().hand_on_together(frames)
        self._look()
        return result

    def _look(self) -> None:
        stream = self.stream
        if isinstance(stream, Watched):
            stream.most_messages = max(stream.most_messages, stream.writable_length)
            stream.most_bytes = max(stream.most_bytes, self.waiting_bytes())


class Watched(SseStream):
    """One that knows how much has waited in it at most."""

    most_messages = most_bytes = 0

    def __init__(self, request: Any = None, **options: Any) -> None:
        super().__init__(request, **options)
        flow_of(self).__class__ = WatchedFlow


class Following(flask.Flask):
    """An app whose page follows *names*, or those in its query (``?names=a,b``).

    *options* are those of `Channels.subscribe`, *stream* those of the `SseStream`, which is of
    *kind*. What ``on_gap(stream, name)`` returns is written as a snapshot. A slow client is not
    cut, however long a busy machine takes.
    """

    def __init__(
        self,
        channels: Channels,
        *names: str,
        stream: dict[str, Any] | None = None,
        kind: type[Watched] = Watched,
        on_gap: Callable[[str], Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(__name__)
        self.names = names
        self.streams: list[Watched] = []
        self.gaps: list[str] = []

        @self.get("/")
        def page() -> ServerResponse:
            res = ServerResponse()
            sse_stream = kind(flask.request, **{"send_timeout": None, **(stream or {})})
            self.streams.append(sse_stream)

            @sse_stream.on("gap")
            def gap(name: str) -> None:
                self.gaps.append(name)
                if on_gap is not None:
                    sse_stream.write({"event": "snapshot", "data": on_gap(name)})

            asked = flask.request.args.get("names")
            sse_stream.pipe(res)
            channels.subscribe(sse_stream, *(asked.split(",") if asked else names), **options)
            return res


class Client(Visit):
    """One who follows, and has said *last_id* when it came. It is there once this returns."""

    def __init__(self, app: Any, path: str = "/", last_id: str | None = None, **kwargs: Any):
        if last_id is not None:
            kwargs["HTTP_LAST_EVENT_ID"] = last_id.encode().decode("latin-1")
        super().__init__(app, path, **kwargs)
        self.messages: list[dict[str, Any]] = []
        self._decoder = Decoder()
        self._decoded = 0
        # The ids that it was sent, with messages or without.
        self._ids: list[str] = []
        self.read_until(b":ok\n\n")

    def take(self, count: int) -> list[dict[str, Any]]:
        """The first *count* messages, once there are so many."""
        while len(self._decode()) < count:
            data = self.sock.recv(65536)
            assert data, f"closed after {len(self.messages)}, the last {self.messages[-3:]}"
            self.received += data
        return self.messages[:count]

    def all(self) -> list[dict[str, Any]]:
        """Every message until the server ends the stream."""
        self.read_to_end()
        return self._decode()

    def _decode(self) -> list[dict[str, Any]]:
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return self.messages
        # A copy of all that has come, at each piece that comes, takes seconds with megabytes.
        new = self._decoder.feed(self.received[max(self._decoded, head + 4) :])
        self._decoded = len(self.received)
        for message in new:
            self._ids += [message["id"]] if "id" in message else []
            # A block with only an id is no message: a browser fires no event for it.
            if message.keys() != {"id"} and message != {"comment": "ok"}:
                self.messages.append(message)
        return self.messages

    @property
    def last_id(self) -> str:
        """As a browser has it."""
        return self._ids[-1]

    def has_id(self) -> bool:
        """Whether it has an id once it has read what there is, without waiting."""
        self.sock.setblocking(False)
        try:
            self.received += self.sock.recv(65536)
        except BlockingIOError:
            pass
        finally:
            self.sock.settimeout(PATIENCE)
        self._decode()
        return bool(self._ids)


def publish(channels: Channels, name: str, *span: int) -> list[str]:
    """Publish the numbers of `range` of *span* in the channel *name*; their ids."""
    return [channels.publish(name, {"data": number}) for number in range(*span)]


def are_live(channels: Channels) -> bool:
    """Whether nobody reads on from the log."""
    return not any(each.lagging for each in channels.statistics().values())


def all_live(channels: Channels) -> None:
    until(lambda: are_live(channels), "all to be live")


def all_handed_on(channels: Channels) -> None:
    """All that was published until now has come to the streams that are live, or was withheld."""
    with Client(Following(channels, "another")) as client:
        all_live(channels)
        # The first may be heard of together with the events before it, and the second is not.
        for count in (1, 2):
            channels.publish("another", {"data": count})
            client.take(count)


def data_of(messages: list[dict[str, Any]]) -> list[Any]:
    return [message.get("data") for message in messages]


def numbers(*spans: int) -> list[str]:
    """``numbers(3)`` is what `publish` of 0, 1 and 2 gives; ``numbers(3, 5)`` of 3 and 4."""
    return [str(number) for number in range(*spans)]
