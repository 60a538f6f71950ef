"""Text, bytes and numbers as they are, whatever the methods of their class say.

A subclass of ``str`` may say that no line end is in it, print as something else, or encode
itself as something else. A proxy only seems to be a str, and what it stands for may be such a
subclass. So nothing is looked at, joined or sent before it is of the very type itself: the
functions here ask the type, and never the value's own class.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from .proxies import behind

T = TypeVar("T")


def plain_text(value: Any) -> str:
    """The text of *value*, which is a str to ``isinstance()``."""
    return value if type(value) is str else str.__str__(_real(value, str))


def plain_int(value: Any) -> int:
    """The number of *value*, which is an int to ``isinstance()``."""
    return value if type(value) is int else int.__int__(_real(value, int))


def plain_bytes(value: Any) -> bytes:
    """The bytes of *value*, which is bytes, a bytearray or a memoryview to ``isinstance()``.

    Raises ``ValueError`` where they are not to be had, as of a released memoryview.
    """
    try:
        return memoryview(_real(value, bytes, bytearray, memoryview)).tobytes()
    except (TypeError, BufferError) as error:
        raise ValueError(str(error)) from None


def _real(value: Any, kind: Callable[[Any], T], *others: type) -> T:
    """*value* as one of these types, or of a subclass; what stands for one is made the first."""
    kinds: Any = (kind, *others)
    real: T = behind(value)
    # A proxy may be of another kind, which Werkzeug does not know.
    return real if issubclass(type(real), kinds) else kind(real)
