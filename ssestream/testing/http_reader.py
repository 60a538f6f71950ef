"""A response of HTTP/1.1, read piece by piece as it comes."""

import email.parser
import email.policy

from werkzeug.datastructures import Headers

#: Statuses without a body.
BODYLESS = (204, 304)


class HttpReader:
    """Pieces of bytes in, the head and the body out. *method* is the method of the request."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._received = bytearray()
        self._body = bytearray()
        #: The status and the headers; None before they have come.
        self.head: tuple[int, Headers] | None = None
        #: Whether the framing has marked the end of the body.
        self.is_complete = False
        # The bytes of the body that are still to come, or of the current chunk; None where only
        # the end of the connection ends the body.
        self._left: int | None = None
        self._is_chunked = False

    def feed(self, data: bytes) -> None:
        """Take *data*."""
        self._received += data
        while self.head is None:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self._received = rest
            self._begin(head.decode("latin-1"))
        while self._received and not self.is_complete:
            if not (self._read_chunk() if self._is_chunked else self._read_plain()):
                return

    def take(self) -> bytes:
        """The bytes of the body since the last call."""
        body, self._body = bytes(self._body), bytearray()
        return body

    def close(self) -> None:
        """The connection has ended without an error."""
        if self.head is not None and not self._is_chunked and self._left is None:
            self.is_complete = True

    def _begin(self, head: str) -> None:
        line, _, lines = head.partition("\r\n")
        status = int(line.split(" ", 2)[1])
        if 100 <= status < 200:  # another head follows
            return
        parser = email.parser.HeaderParser(policy=email.policy.HTTP)
        headers = Headers(list(parser.parsestr(lines).raw_items()))
        self._is_chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = headers.get("Content-Length")
        self._left = 0 if self._is_chunked else None if length is None else int(length)
        bodyless = self._method == "HEAD" or status in BODYLESS
        self.is_complete = bodyless or (self._left == 0 and not self._is_chunked)
        self.head = status, headers

    def _read_plain(self) -> bool:
        piece = self._received[: self._left]
        self._body += piece
        del self._received[: len(piece)]
        if self._left is not None:
            self._left -= len(piece)
            self.is_complete = self._left == 0
        return False

    def _read_chunk(self) -> bool:
        """Read on in the current chunk. Returns whether there may be more to read."""
        if not self._left:
            line, end, rest = self._received.partition(b"\r\n")
            if not end:
                return False
            if not line:  # the end of the last chunk
                self._received = rest
                return True
            size = int(line.partition(b";")[0], 16)
            if size < 0:
                raise ValueError(f"a chunk has the size {size}")
            if size == 0:  # perhaps trailers follow, and then an empty line
                self.is_complete = b"\r\n\r\n" in self._received
                return False
            self._received, self._left = rest, size
        piece = self._received[: self._left]
        self._body += piece
        self._left -= len(piece)
        del self._received[: len(piece)]
        return True
