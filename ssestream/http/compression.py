"""gzip for one stream, flushed with every chunk.

A usual compressor holds events back until it has enough of them. This one ends each chunk
on a full byte (zlib's ``Z_SYNC_FLUSH``), so that the browser gets every event at once.
"""

import zlib
from typing import Any

from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

#: zlib's level, from 1 to 9. Events are short and alike; a higher level saves little more.
LEVEL = 6

#: A window of 4 KiB. With its tables it takes 38 KiB of memory; zlib's default takes 262. Most
#: repetition in a stream is with its last few events.
WINDOW_BITS, MEMORY_LEVEL = 12, 5


def accepts_gzip(environ: dict[str, Any]) -> bool:
    """Whether the client of a WSGI *environ* takes gzip (RFC 9110, section 12.5.3)."""
    accepted = parse_accept_header(environ.get("HTTP_ACCEPT_ENCODING"), Accept)
    gzip = accepted.quality("gzip")
    # A client that gives plain text a higher quality gets plain text.
    return bool(gzip > 0 and gzip >= accepted.quality("identity"))


class Gzip:
    """The compressor of one stream."""

    def __init__(self) -> None:
        # 16 more selects the framing of gzip.
        self._zlib = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + WINDOW_BITS, MEMORY_LEVEL)

    def chunk(self, data: bytes) -> bytes:
        """All of *data*, compressed and flushed."""
        return self._zlib.compress(data) + self._zlib.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """The last bytes of the gzip data."""
        return self._zlib.flush(zlib.Z_FINISH)
