"""Parse what Redis sends on a connection that is subscribed.

redis-py would wait for the rest of a reply that has come in part, and needs ten times the time:
a process that follows thousands of channels gets thousands of replies when it subscribes.
"""

from typing import Any

from redis import exceptions

#: The errors of which something is to be known, by their first word.
_ERRORS: dict[bytes, type[exceptions.ResponseError]] = {
    b"NOPERM": exceptions.NoPermissionError,
    b"MOVED": exceptions.MovedError,
    b"CLUSTERDOWN": exceptions.ClusterDownError,
}


class _Incomplete(Exception):
    """The rest of the reply has not come yet."""


class Replies:
    """A parser for the protocol of Redis, RESP 2, and for the pushes of RESP 3."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Any]:
        """The replies that *data* completes.

        A reply is a list, bytes, an int, None or an error. Raises redis-py's ``InvalidResponse``
        if it is not RESP.
        """
        data = self._rest + data
        replies: list[Any] = []
        at = 0
        try:
            while at < len(data):
                reply, at = _reply(data, at)
                replies.append(reply)
        except _Incomplete:
            pass
        self._rest = data[at:]
        return replies


def _reply(data: bytes, at: int) -> tuple[Any, int]:
    """The reply that begins at *at*, and where it ends."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise _Incomplete
    kind, line, end = data[at : at + 1], data[at + 1 : end], end + 2
    if kind == b"$":
        if line == b"-1":
            return None, end
        after = end + int(line)
        if len(data) < after + 2:
            raise _Incomplete
        return data[end:after], after + 2
    if kind in (b"*", b">"):
        parts = []
        for _ in range(int(line)):
            part, end = _reply(data, end)
            parts.append(part)
        return parts, end
    if kind == b":":
        return int(line), end
    if kind == b"+":
        return line, end
    if kind == b"_":
        return None, end
    if kind == b"-":
        word, _, rest = line.partition(b" ")
        error = _ERRORS.get(word)
        text = (line if error is None else rest).decode("utf-8", "replace")
        return (exceptions.ResponseError if error is None else error)(text), end
    raise exceptions.InvalidResponse(f"this is not Redis's protocol: {data[at : at + 40]!r}")
