"""Messages for Turbo: ``<turbo-stream>`` elements, each of which changes one place of a page.

The functions return messages for ``write`` and ``publish``. The page listens with
``<turbo-stream-source src="/events">``.

Source: https://turbo.hotwired.dev/reference/streams
"""

from typing import Any, Literal

from .errors import MessageError
from .formats.markup import attributes, html_text, name_text, one_of
from .wire import Message

__all__ = [
    "after",
    "append",
    "before",
    "prepend",
    "refresh",
    "remove",
    "replace",
    "turbo_stream",
    "update",
]

Method = Literal["morph", "replace"]


def append(target: str | None = None, html: Any = "", *, targets: str | None = None) -> Message:
    """*html* becomes the last child of *target*. See `turbo_stream`."""
    return _on_targets("append", target, html, targets)


def prepend(target: str | None = None, html: Any = "", *, targets: str | None = None) -> Message:
    """*html* becomes the first child of *target*. See `turbo_stream`."""
    return _on_targets("prepend", target, html, targets)


def before(target: str | None = None, html: Any = "", *, targets: str | None = None) -> Message:
    """*html* comes before *target*. See `turbo_stream`."""
    return _on_targets("before", target, html, targets)


def after(target: str | None = None, html: Any = "", *, targets: str | None = None) -> Message:
    """*html* comes after *target*. See `turbo_stream`."""
    return _on_targets("after", target, html, targets)


def replace(
    target: str | None = None,
    html: Any = "",
    *,
    targets: str | None = None,
    method: Method | None = None,
) -> Message:
    """*html* takes the place of *target*; it is morphed with the *method* ``"morph"``."""
    return _on_targets("replace", target, html, targets, method)


def update(
    target: str | None = None,
    html: Any = "",
    *,
    targets: str | None = None,
    method: Method | None = None,
) -> Message:
    """*html* becomes the content of *target*; it is morphed with the *method* ``"morph"``."""
    return _on_targets("update", target, html, targets, method)


def remove(target: str | None = None, *, targets: str | None = None) -> Message:
    """*target* is taken out of the page. See `turbo_stream`."""
    _check_target("remove", target, targets)
    return turbo_stream("remove", target, targets=targets)


def refresh(
    *,
    request_id: str | None = None,
    method: Method | None = None,
    scroll: Literal["preserve", "reset"] | None = None,
) -> Message:
    """The page is loaded again, and morphed with the *method* ``"morph"``.

    *request_id* is the ``X-Turbo-Request-Id`` of the request that has caused it: the page that sent
    this request does not load again. *scroll* is ``"preserve"`` or ``"reset"``. None leaves each
    out. Raises `MessageError` for a wrong argument.
    """
    if scroll is not None:
        one_of("scroll", scroll, ("preserve", "reset"))
    return turbo_stream(
        "refresh", request_id=request_id, method=_checked_method(method), scroll=scroll
    )


def turbo_stream(
    action: str,
    target: str | None = None,
    html: Any = None,
    *,
    targets: str | None = None,
    **other: str | None,
) -> Message:
    """The message with a ``<turbo-stream>`` of any *action*, also of one that the page defines.

    *target* is the id of the element that it concerns, or *targets* a CSS selector of several.
    *html* is a str or an object with ``__html__()``; with None there is no ``<template>``. *other*
    are further attributes: ``request_id="7"`` is ``request-id="7"``. Attributes are escaped, and
    *html* is the app's own and is not.

    Raises `MessageError` for a wrong argument: another type, an empty *target*, both *target* and
    *targets*, an *action* that no element can have.
    """
    if target is not None and targets is not None:
        raise MessageError("'targets' is given beside 'target': give one of them", "targets")
    values = {"action": name_text("action", action), "target": target, "targets": targets}
    template = "" if html is None else f"<template>{html_text('html', html)}</template>"
    written = attributes({**values, **other})
    return {"data": f"<turbo-stream{written}>{template}</turbo-stream>"}


def _on_targets(
    action: str, target: str | None, html: Any, targets: str | None, method: str | None = None
) -> Message:
    _check_target(action, target, targets)
    text = html_text("html", html)
    return turbo_stream(action, target, text, targets=targets, method=_checked_method(method))


def _check_target(action: str, target: str | None, targets: str | None) -> None:
    if target is None and targets is None:
        raise MessageError(f"'target' or 'targets' is needed for {action!r}", "target")


def _checked_method(method: str | None) -> str | None:
    return None if method is None else one_of("method", method, ("morph", "replace"))
