"""The heads of streams: the headers of a new response, the headers that are sent, kept heads.

Most streams have equal heads. Making a head takes a tenth of the time to open a stream, so a head
is made once for all streams that have the same.
"""

import functools
from collections.abc import Hashable
from typing import Any
from wsgiref.util import is_hop_by_hop

import werkzeug
from werkzeug.datastructures import Headers
from werkzeug.utils import get_content_type

from ..runtime.loop import logger
from ..wire import HEADERS
from .checked_headers import CheckedHeaders

#: The ``Content-Encoding`` of a response until it is sent. Compressors that work on Flask's
#: responses would hold back small pieces. They ignore ``no-transform``, but they leave an
#: encoded response alone. It is set from the beginning, because Flask has several ways to set
#: the type later. It is removed before sending, because it is wrong on the wire (RFC 9110,
#: section 8.4.1).
UNCOMPRESSED = "identity"

#: The headers that all streams without headers of their own share.
STREAM = CheckedHeaders([*HEADERS.items(), ("Content-Encoding", UNCOMPRESSED)])

#: The number of heads to keep.
HEADS = 100
_heads: dict[Hashable, list[tuple[str, str]]] = {}

#: Headers of one request or of one client. A head with one of them is not kept: no other stream
#: has the same, and a cookie may be a secret.
_OF_REQUEST = ("location", "content-location", "content-length", "set-cookie")


@functools.cache
def beginning(response_class: Any) -> CheckedHeaders:
    """The headers of a new response of that class."""
    mimetype = response_class.default_mimetype
    pairs = [("Content-Encoding", UNCOMPRESSED)]
    if mimetype is not None:
        pairs.insert(0, ("Content-Type", get_content_type(mimetype, "utf-8")))
    return CheckedHeaders(pairs)


def complete(headers: Headers, response: werkzeug.Response) -> None:
    """Make *headers*, a copy of the headers of *response*, ready to be sent.

    A stream gets the headers that it lacks. Headers that must not be sent are removed.
    """
    if response.mimetype == "text/event-stream" and response.status_code not in (204, 304):
        usual = HEADERS["Content-Type"]
        if headers["Content-Type"] != usual and "charset" not in response.mimetype_params:
            headers["Content-Type"] = usual
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
    if headers.get("Content-Encoding", "").lower() == UNCOMPRESSED:
        del headers["Content-Encoding"]
    if response.status_code == 204:  # strict servers refuse a type without a body
        headers.remove("Content-Type")
    for name in {name for name, _ in headers if is_hop_by_hop(name)}:
        logger.debug("left out the hop-by-hop header %r", name)
        del headers[name]


def key_of(status: str, headers: Headers) -> Hashable:
    """The key of the head that is made of *status* and *headers*."""
    return status if headers is STREAM else (status, *headers)


def kept(key: Hashable) -> list[tuple[str, str]] | None:
    """A copy of the head that was kept under *key*; None if there is none."""
    head = _heads.get(key)
    return None if head is None else head[:]


def keep(key: Hashable, head: list[tuple[str, str]]) -> None:
    """Keep a copy of *head* under *key*, unless it has one of the headers `_OF_REQUEST`."""
    if not any(name.lower() in _OF_REQUEST for name, _ in head):
        if len(_heads) >= HEADS:
            _heads.clear()
        _heads[key] = head[:]
