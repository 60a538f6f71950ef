"""Where bytes of an event stream stop: between two events, or within one.

A comment or an id of this package may only go where it cannot damage an app's event (WHATWG HTML,
section 9.2.6).
"""

#: Between two events; after a complete line of an event; in the middle of a line.
BETWEEN, IN_EVENT, IN_LINE = range(3)


def end_of(frame: bytes, before: int) -> int:
    """Where *frame* stops, such as `IN_LINE`, if the bytes before it stopped at *before*."""
    # A single CR may be half of a line end; two are almost never that.
    if frame.endswith((b"\n\n", b"\n\r\n", b"\r\r")):
        return BETWEEN
    if frame in (b"\n", b"\r\n") and before != IN_LINE:
        return BETWEEN
    return IN_EVENT if frame.endswith(b"\n") else IN_LINE
