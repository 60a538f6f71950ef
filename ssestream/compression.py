"""Own compression of a stream: gzip, flushed with whatever is sent.

A compressor that does not know of streams holds events back until it has enough
of them. This one ends each chunk on a byte of its own (``Z_SYNC_FLUSH``,
RFC 1951 as zlib has it), so that the browser has every event as soon as it comes.
"""

import zlib
from typing import Any

from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

#: Of 1 to 9. Events are short and alike, and higher ones find little more.
LEVEL = 6

#: A window of 4 KiB and its tables are 38 KiB of state, where zlib's own choice is
#: 262: most of what repeats in a stream was in its last few events.
WINDOW_BITS, MEMORY_LEVEL = 12, 5


def accepts_gzip(environ: dict[str, Any]) -> bool:
    """Whether the client of a WSGI *environ* takes gzip (RFC 9110, section 12.5.3)."""
    accepted = parse_accept_header(environ.get("HTTP_ACCEPT_ENCODING"), Accept)
    gzip = accepted.quality("gzip")
    # Who weighs plain text more gets that.
    return bool(gzip > 0 and gzip >= accepted.quality("identity"))


class Gzip:
    """The compressor of one stream."""

    def __init__(self) -> None:
        # 16 more asks for gzip's framing.
        self._zlib = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + WINDOW_BITS, MEMORY_LEVEL)

    def chunk(self, data: bytes) -> bytes:
        """*data*, compressed, all of it."""
        return self._zlib.compress(data) + self._zlib.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """What ends the stream."""
        return self._zlib.flush(zlib.Z_FINISH)
