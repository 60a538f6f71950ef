"""The plain value of an object from an app: without its proxy, and by no method of its class.

A proxy of Werkzeug's, such as ``current_user``, has its value only during its request. A value
that is kept is used later, so the proxy must be replaced first.

A subclass of ``str`` may override the methods that search, print or encode its text. Such an
object could pass a check as one text and be sent as another. A proxy may stand for such an
object. So every text and number is converted here before it is checked, joined or sent.
The functions call the methods of the built-in type, never the methods of the value's class.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from werkzeug.local import LocalProxy

T = TypeVar("T")

#: Characters of a wrong value that an error shows.
SHOWN = 100


def unproxied(value: Any) -> Any:
    """The value that the proxy *value* stands for, or *value* itself if it is no proxy.

    Raises ``RuntimeError`` if the proxy has no value now.
    """
    # type() tells a proxy from its value; isinstance() does not.
    while issubclass(type(value), LocalProxy):
        value = reader_of(value)()
    return value


def reader_of(proxy: Any) -> Callable[[], Any]:
    """A function that returns the value for which *proxy*, a proxy of Werkzeug's, stands now.

    The function raises ``RuntimeError`` if the proxy has no value then.
    """
    reader: Callable[[], Any] = proxy._get_current_object
    return reader


def plain_text(value: Any) -> str:
    """The text of *value*, a str or an object that ``isinstance()`` takes for one."""
    return value if type(value) is str else str.__str__(_real(value, str))


def shortened(value: object) -> str:
    """The ``repr`` of *value* for an error message, cut to `SHOWN` characters.

    A long text is cut before its ``repr`` is made, which takes several times its memory.
    """
    if isinstance(value, str):
        value = plain_text(value)[: SHOWN + 1]
    elif isinstance(value, bytes):
        value = bytes.__getitem__(value, slice(SHOWN + 1))
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def plain_int(value: Any) -> int:
    """The number of *value*, an int or an object that ``isinstance()`` takes for one."""
    return value if type(value) is int else int.__int__(_real(value, int))


def plain_bytes(value: Any) -> bytes:
    """The bytes of *value*, which ``isinstance()`` takes for bytes, bytearray or memoryview.

    Raises ``ValueError`` if they cannot be read, for example of a released memoryview.
    """
    try:
        return memoryview(_real(value, bytes, bytearray, memoryview)).tobytes()
    except (TypeError, BufferError) as error:
        raise ValueError(str(error)) from None


def _real(value: Any, kind: Callable[[Any], T], *others: type) -> T:
    """*value* itself if it is really of one of these types, or else converted to *kind*."""
    kinds: Any = (kind, *others)
    real: T = unproxied(value)
    # The proxy of another library is not known to `unproxied`.
    return real if issubclass(type(real), kinds) else kind(real)
