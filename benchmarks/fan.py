"""A fan: each client has a stream of its own, and one writer writes to all of them."""

from flask import request

from ssestream import ServerResponse, SseStream


class Fan:
    """The streams of the clients that are there."""

    def __init__(self) -> None:
        self.streams: set[SseStream] = set()

    def view(self) -> ServerResponse:
        """A view that opens the stream of one more client."""
        res = ServerResponse()
        sse_stream = SseStream(request)
        sse_stream.pipe(res)
        self.streams.add(sse_stream)
        res.on("close", lambda: self.streams.discard(sse_stream))
        return res
