"""HTML in messages: checks of what an app hands over, and attributes that cannot break out.

The text of an element is the app's own HTML, and is sent as it is. A template escapes what it
shows of its users.
"""

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import escape

from ..errors import MessageError
from ..plain import plain_text, shortened

#: Where `wire.encode` begins a new line.
_LINE_END = re.compile("\r\n|\n|\r")

#: The name of an attribute, or of an action of Turbo's.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

#: Characters of a wrong value that an error shows.
_SHOWN = 40


def html_text(name: str, value: Any) -> str:
    """The HTML of the argument *name*: a str, or an object with ``__html__()`` (MarkupSafe's).

    Raises `MessageError` for another type.
    """
    if not isinstance(value, str) and callable(getattr(value, "__html__", None)):
        value = value.__html__()
    if not isinstance(value, str):
        raise MessageError(
            f"{name!r} must be HTML, a str or an object with __html__(), not {_kind(value)}", name
        )
    return plain_text(value)


def lines_of(text: str) -> list[str]:
    """The lines of *text*, as `wire.encode` divides them."""
    return _LINE_END.split(text)


def one_line(name: str, value: Any) -> str:
    """The text of the argument *name*, a str with something in it and without a line end.

    Raises `MessageError` for anything else: a second line could be read as another argument.
    """
    if not isinstance(value, str):
        raise MessageError(f"{name!r} must be str, not {_kind(value)}", name)
    text = plain_text(value)
    if not text.strip():
        raise MessageError(f"{name!r} must not be empty", name)
    if _LINE_END.search(text):
        raise MessageError(f"{name!r} must not hold a line end: {text[:_SHOWN]!r}", name)
    return text


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """The argument *name*, one of *choices*. Raises `MessageError` for anything else."""
    if not isinstance(value, str) or plain_text(value) not in choices:
        raise MessageError(
            f"{name!r} is one of {', '.join(choices)}, and not {shortened(value)}", name
        )
    return plain_text(value)


def name_text(name: str, value: Any) -> str:
    """The argument *name*: letters, digits, ``-`` and ``_``. Raises `MessageError`."""
    text = one_line(name, value)
    if not _NAME.fullmatch(text):
        raise MessageError(
            f"{name!r} has only letters, digits, - and _, and not {text[:_SHOWN]!r}", name
        )
    return text


def attributes(values: Mapping[str, Any]) -> str:
    """*values* as the attributes of an element, each after a space and escaped.

    None leaves an attribute out. An underscore in a name becomes a hyphen. Raises `MessageError`.
    """
    written = []
    for key, value in values.items():
        if value is not None:
            name = name_text("the name of an attribute", key).replace("_", "-")
            written.append(f' {name}="{escape(one_line(key, value))}"')
    return "".join(written)


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
