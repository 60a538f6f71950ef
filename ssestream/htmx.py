"""Messages for htmx: fragments of HTML that the page swaps in, and the last message of a stream.

The functions return messages for ``write`` and ``publish``. htmx 2 (with ``htmx-ext-sse``) swaps a
fragment in where its name stands: ``sse-swap="news"``. htmx 4 (with its ``hx-sse``) swaps in only
fragments without a name. Such a fragment can name its target itself.

Sources: https://htmx.org/extensions/sse/ and htmx 4's ``hx-sse.js``.
"""

from typing import Any

from .errors import MessageError
from .formats.markup import attributes, html_text, one_line
from .wire import Message

__all__ = ["close", "fragment"]

#: Events that an EventSource fires itself: a message of such a name would be taken for one.
_OWN = ("error", "open")


def fragment(
    html: Any, name: str | None = None, *, target: str | None = None, swap: str | None = None
) -> Message:
    """The message with the fragment *html*, a str or an object with ``__html__()``.

    *name* is the name of the event that the page asks for: ``sse-swap="news"`` of htmx 2, or
    ``hx-trigger="sse:news"``. With None, it is a ``message``. htmx 4 fires the event *name* in the
    page and swaps nothing in: leave *name* out there.

    *target* is for htmx 4: a CSS selector of the element that the fragment goes to, and *swap* how
    it goes there, as in ``hx-swap``. With None, the element with ``hx-sse:connect`` decides both.

    Raises `MessageError` for a wrong argument: another type, a *name* that no ``sse-swap`` can
    have, a line end in *target* or *swap*, a *target* beside a *name*.
    """
    text = html_text("html", html)
    if target is None and swap is None:
        return {"data": text} if name is None else {"event": _name(name), "data": text}
    if name is not None:
        raise MessageError("'target' is for a fragment without a name", "target")
    if target is None:
        raise MessageError("'swap' needs a 'target'", "swap")
    values = {
        "hx_target": one_line("target", target),
        "hx_swap": None if swap is None else one_line("swap", swap),
    }
    partial = attributes(values)
    return {"data": f"<hx-partial{partial}>{text}</hx-partial>"}


def close(name: str = "close") -> Message:
    """The message upon which the page closes the stream and does not come back.

    The page names it in ``sse-close="close"`` (htmx 2) or ``hx-sse:close="close"`` (htmx 4). Write
    it as the last: ``sse_stream.end(close())``. Raises `MessageError` for a *name* that cannot be
    the name of such an event.
    """
    return {"event": _name(name), "data": ""}


def _name(name: str) -> str:
    text = one_line("name", name)
    if text != text.strip() or "," in text:
        raise MessageError(
            f"'name' must have no comma and no space around it, as in sse-swap: {text[:40]!r}",
            "name",
        )
    if text in _OWN:
        raise MessageError(f"'name' must not be {text!r}: an EventSource fires it itself", "name")
    return text
