"""Responses of one message, and how often they close."""

import flask

from ssestream import ServerResponse, SseStream
from tests.kit.visit import until


def ended(res: ServerResponse | None = None) -> ServerResponse:
    """A response of one message."""
    res = res or ServerResponse()
    sse_stream = SseStream(flask.request)
    sse_stream.pipe(res)
    sse_stream.end({"data": "hello"})
    return res


class Closes:
    """How often a response has closed; it may be asked in any thread."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, res: ServerResponse) -> ServerResponse:
        @res.on("close")
        def closed() -> None:
            self.count += 1

        return res

    def once(self) -> None:
        until(lambda: self.count, "close")
        assert self.count == 1
