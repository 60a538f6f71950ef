"""Text, bytes and numbers as they are, whatever the methods of their class say.

A subclass of ``str`` may say that no line end is in it, print as something else, or encode
itself as something else. A proxy only seems to be a str, and what it stands for may be such a
subclass. So nothing is looked at, joined or sent before it is of the very type itself: the
functions here ask the type, and never the value's own class.
"""

from typing import Any


def plain_text(value: Any) -> str:
    """The text of *value*, which is a str to ``isinstance()``."""
    # What a proxy gives may be of a subclass again.
    return str.__str__(value if issubclass(type(value), str) else str(value))


def plain_int(value: Any) -> int:
    """The number of *value*, which is an int to ``isinstance()``."""
    return int.__int__(value if issubclass(type(value), int) else int(value))


def plain_bytes(value: Any) -> bytes:
    """The bytes of *value*, which is bytes, a bytearray or a memoryview to ``isinstance()``.

    Raises ``ValueError`` where they are not to be had, as of a released memoryview.
    """
    own = issubclass(type(value), (bytes, bytearray, memoryview))
    try:
        return memoryview(value if own else bytes(value)).tobytes()
    except (TypeError, BufferError) as error:
        raise ValueError(str(error)) from None
