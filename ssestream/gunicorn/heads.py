"""The heads of gunicorn's responses, made once for all streams that have the same."""

import time
from typing import Any

from gunicorn.http.wsgi import Response

from ..http.kept_heads import HEADS
from ..runtime.loop import logger


class _Heads:
    """Makes the heads of gunicorn's responses, and keeps them for one second.

    A head contains the date. Within one second most heads are equal, and formatting the date
    is half of the work.
    """

    def __init__(self) -> None:
        self._written: dict[tuple[Any, ...], bytes] = {}
        self._second = 0
        self._has_failed = False

    def of(self, response: Any) -> bytes | None:
        """Return the head of *response*, which says that its connection closes.

        Returns ``b""`` if the head was sent already. Returns None, and warns once, if gunicorn
        makes its heads in another way. Then only gunicorn can send *response*.
        """
        if response.headers_sent:
            return b""
        second = int(time.time())
        if second != self._second or len(self._written) >= HEADS:
            self._second = second
            self._written.clear()
        what = (response.req.version, response.status, response.chunked, *response.headers)
        head = self._written.get(what)
        if head is None:
            try:
                head = self._written[what] = _Draft(response).head()
            except Exception:
                if not self._has_failed:
                    self._has_failed = True
                    logger.warning(
                        "SseWorker cannot make the head of a response with this version of"
                        " gunicorn, and sends its streams as gunicorn's gevent worker does",
                        exc_info=True,
                    )
        return head


class _Draft(Response):
    """A copy of *response* that writes its head to itself, so that the response stays as it is."""

    def __init__(self, response: Response) -> None:
        self.__dict__.update(vars(response))
        self.sock = self
        self._data = b""

    def head(self) -> bytes:
        """The head, which says that the connection closes."""
        self.force_close()
        self.send_headers()
        if not (self._data.startswith(b"HTTP/") and self._data.endswith(b"\r\n\r\n")):
            raise ValueError(f"not the head of a response: {self._data[:100]!r}")
        return self._data

    def sendall(self, data: bytes) -> None:
        """Take *data* as a socket does. Called by `send_headers`."""
        self._data += data


heads = _Heads()
