"""Status and headers of a response, checked when the app sets them.

HTTP cannot carry every text in a header. A wrong text would fail in the server after the
view has returned, and some servers even send it. So it is refused at once, with an error
that names it. A value may hold tabs, spaces, visible ASCII and the upper half of Latin-1
(RFC 9110, section 5.5). Node's ``setHeader`` takes the same.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from werkzeug.datastructures import Headers

from ..plain import plain_int, plain_text, shortened

# A token (RFC 9110, section 5.6.2).
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_BAD_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

#: Headers whose value Werkzeug encodes as a URL. They may hold any character but controls.
_URLS = frozenset(("location", "content-location"))


def check_header_name(name: Any) -> str:
    """*name* as plain text.

    Raises ``TypeError`` for an empty name and for anything but a str. Raises
    ``ValueError`` for a name that is no token.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"a header's name is a str, not {shortened(name)}")
    text = plain_text(name)
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"not the name of a header: {shortened(text)}")
    return text


def check_header_value(name: str, value: Any) -> str:
    """*value* of the header *name* as plain text.

    Raises ``ValueError`` for a control character, or one beyond Latin-1.
    """
    if isinstance(value, str):
        text = plain_text(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        # Not str(value): an enum of ints prints as its name in some versions of Python.
        text = _digits(value, f"header {shortened(name)}")
    else:
        text = plain_text(str(value))
    found = (_CONTROL if name.lower() in _URLS else _BAD_IN_VALUE).search(text)
    if found is not None:
        what = f"U+{ord(found[0]):04X} at {found.start()}"
        if _CONTROL.match(found[0]):
            raise ValueError(
                f"header {shortened(name)}: a value must not hold control characters, and this one"
                f" has {what}: {shortened(text)}"
            )
        # The strings of WSGI are Latin-1 (PEP 3333).
        raise ValueError(
            f"header {shortened(name)}: a value must be Latin-1 text, and this one has {what}:"
            f" {shortened(text)}"
        )
    return text


def check_status(status: Any) -> str:
    """The status line of *status*, an int or a str.

    Raises ``TypeError`` for another type, ``ValueError`` for a number outside 200 to 599
    or a text that is not one line of Latin-1.
    """
    if isinstance(status, int) and not isinstance(status, bool):
        # Not str(status): an HTTPStatus prints as its name on Python 3.10.
        text = code = _digits(status, "a status")
    elif isinstance(status, str):
        text = plain_text(status).strip(" ")
        code = text.partition(" ")[0]
    else:
        raise TypeError(f"a status is an int or a str, not {type(status).__name__}")
    if not (len(code) == 3 and code.isascii() and code.isdigit() and "200" <= code <= "599"):
        raise ValueError(f"a status must be from 200 to 599, not {shortened(text)}")
    if not text.isprintable() or _BAD_IN_VALUE.search(text):
        raise ValueError(f"a status must be one line of Latin-1 text, not {shortened(text)}")
    return text


def _digits(value: Any, what: str) -> str:
    try:
        return str(plain_int(value))
    except ValueError as error:  # Python's own bound on the digits of an int
        raise ValueError(f"{what} is too large: {error}") from None


def grouped(headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """*headers* by name. If a name comes several times in pairs, its values become a list."""
    if isinstance(headers, Mapping):
        return dict(headers)
    grouped: dict[str, tuple[str, list[Any]]] = {}
    for name, value in headers:
        values = value if isinstance(value, (list, tuple)) else [value]
        grouped.setdefault(str(name).lower(), (name, []))[1].extend(values)
    return dict(grouped.values())


def checked(headers: Iterable[tuple[Any, Any]]) -> list[tuple[str, list[str]]]:
    """Each name with its values as text. Raises for a wrong one before any header is set.

    Raises as `check_header_name` and `check_header_value`, and ``TypeError`` for a value of
    another type than str, int or a list of them.
    """
    found = []
    for given, value in headers:
        name = check_header_name(given)
        values = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(v, (str, int)) and not isinstance(v, bool) for v in values):
            raise TypeError(
                f"header {shortened(name)}: a value is str, int or a list of them:"
                f" {shortened(value)}"
            )
        found.append((name, [check_header_value(name, v) for v in values]))
    return found


class CheckedHeaders(Headers):
    """The headers of a response that has not been sent yet.

    Werkzeug's own class checks values for line ends and for nothing else.
    """

    def __init__(self, headers: Any = None) -> None:
        if isinstance(headers, CheckedHeaders):
            # No check is needed: these values were checked before.
            super().__init__()
            self._list = list(headers)
        else:
            super().__init__(headers)

    def add(self, key: str, value: Any, /, **kwargs: Any) -> None:
        super().add(*self._checked(key, value, kwargs))

    def set(self, key: str, value: Any, /, **kwargs: Any) -> None:
        super().set(*self._checked(key, value, kwargs))

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, str):
            self.set(key, value)
        elif isinstance(key, slice):
            self._list[key] = [self._checked(*pair) for pair in value]
        else:
            name, its = value
            self._list[key] = self._checked(name, its)

    def copy(self) -> "CheckedHeaders":
        return self.__class__(self)

    def _checked(
        self, key: Any, value: Any, parameters: dict[str, Any] | None = None
    ) -> tuple[str, str]:
        name = check_header_name(key)
        if parameters:
            # Let Werkzeug write the parameters.
            plain = Headers()
            plain.add(name, value, **parameters)
            ((_, value),) = plain
        return name, check_header_value(name, value)
