"""Messages for Datastar: HTML and signals that the server patches into a page.

The functions return messages for ``write`` and ``publish``. They speak the protocol of Datastar 1.0
(https://data-star.dev/reference/sse_events). npm has the betas before it, at last 1.0.0-beta.11,
which call the same things by other names: *beta* is for these.

Datastar takes a clean end of a stream for its last word, and does not come back. A stream that a
page keeps open needs ``on_shutdown="cut"`` (see ``docs/endings.rst``).
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Request

from .compact_json import compact_json, json_text
from .config import app_dumps
from .errors import MessageError
from .formats.markup import html_text, lines_of, one_line, one_of
from .wire import Message

__all__ = ["patch_elements", "patch_signals", "read_signals"]

Mode = Literal["outer", "inner", "replace", "prepend", "append", "before", "after", "remove"]
Namespace = Literal["html", "svg", "mathml"]

#: The modes, each with its name in the betas. ``"remove"`` is an event of its own there.
_MODES = {
    "outer": "morph",
    "inner": "inner",
    "replace": "outer",
    "prepend": "prepend",
    "append": "append",
    "before": "before",
    "after": "after",
    "remove": "",
}

#: The modes that find their elements by the ids in the HTML, if there is no selector.
_BY_ID = ("outer", "replace", "remove")


def patch_elements(
    elements: Any = None,
    *,
    selector: str | None = None,
    mode: Mode = "outer",
    namespace: Namespace = "html",
    use_view_transition: bool = False,
    beta: bool = False,
) -> Message:
    """The message that patches *elements* into the page.

    *elements* is HTML, a str or an object with ``__html__()``. None is for the *mode* ``"remove"``
    with a *selector*. *selector* is the CSS selector of the elements that are patched; with None,
    they are found by the ids in *elements*. *mode* is what happens to them: ``"outer"`` and
    ``"inner"`` morph, ``"replace"`` puts the new element in the place of the old one.
    *namespace* is the one of *elements*, for parts of an SVG.

    *beta* is for Datastar before 1.0, which is what npm has. It knows no *namespace*, its
    ``"inner"`` does not morph, and its ``"remove"`` needs a *selector*.

    Raises `MessageError` for a wrong argument: another type, nothing to patch, a line end in
    *selector*, a *mode* that needs a *selector*.
    """
    mode_text = one_of("mode", mode, tuple(_MODES))
    namespace_text = one_of("namespace", namespace, ("html", "svg", "mathml"))
    html = "" if elements is None else html_text("elements", elements)
    target = None if selector is None else one_line("selector", selector)
    if not html.strip() and (mode_text != "remove" or target is None):
        raise MessageError("'elements' must not be empty: there is nothing to patch", "elements")
    if target is None and mode_text not in _BY_ID:
        raise MessageError(f"'selector' is needed for the mode {mode_text!r}", "selector")
    if beta:
        return _merge_fragments(html, target, mode_text, namespace_text, use_view_transition)
    return _message(
        "datastar-patch-elements",
        ("selector", target),
        ("mode", None if mode_text == "outer" else mode_text),
        ("namespace", None if namespace_text == "html" else namespace_text),
        ("useViewTransition", "true" if use_view_transition else None),
        ("elements", html or None),
    )


def _merge_fragments(
    html: str, target: str | None, mode: str, namespace: str, use_view_transition: bool
) -> Message:
    """The message of `patch_elements` for the betas. All arguments are checked."""
    if namespace != "html":
        raise MessageError("'namespace' is not known to Datastar before 1.0", "namespace")
    transition = "true" if use_view_transition else None
    if mode != "remove":
        return _message(
            "datastar-merge-fragments",
            ("selector", target),
            ("mergeMode", None if mode == "outer" else _MODES[mode]),
            ("useViewTransition", transition),
            ("fragments", html),
        )
    if target is None:
        raise MessageError(
            "'selector' is needed for the mode 'remove' in Datastar before 1.0", "selector"
        )
    return _message(
        "datastar-remove-fragments", ("selector", target), ("useViewTransition", transition)
    )


def patch_signals(
    signals: Mapping[str, Any], *, only_if_missing: bool = False, beta: bool = False
) -> Message:
    """The message that sets *signals* in the page.

    *signals* is a mapping of names and values for the app's JSON provider. A value of None removes
    the signal; in the betas it makes it null. With *only_if_missing*, signals that the page has
    keep their values. *beta* is for Datastar before 1.0.

    Raises `MessageError` if *signals* is no mapping or cannot be JSON.
    """
    if not isinstance(signals, Mapping):
        raise MessageError(
            f"'signals' must be a mapping of names and values, not {type(signals).__name__}",
            "signals",
        )
    try:
        text = json_text((app_dumps() or compact_json)(dict(signals)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageError(f"'signals' cannot be JSON: {error}", "signals") from error
    return _message(
        "datastar-merge-signals" if beta else "datastar-patch-signals",
        ("onlyIfMissing", "true" if only_if_missing else None),
        ("signals", text),
    )


def read_signals(request: Request) -> dict[str, Any]:
    """The signals that Datastar has sent with *request*: a Flask or Werkzeug request.

    They come in the parameter ``datastar`` of a GET or DELETE, and else as the JSON body. ``{}`` if
    the request has none, as with ``contentType: 'form'``. Anybody can send anything: check the
    values as those of a form.

    Raises werkzeug's `BadRequest`, which Flask answers with 400, for signals that are no JSON
    object. Raises ``TypeError`` for another *request*.
    """
    if not isinstance(request, Request):
        raise TypeError(
            f"request must be a Flask or Werkzeug request, not {type(request).__name__}"
        )
    text: str | bytes | None
    if request.method in ("GET", "HEAD", "DELETE"):
        text = request.args.get("datastar")
    else:
        text = request.get_data() if request.is_json else None
    if not text:
        return {}
    try:
        signals = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the signals of the request are no JSON: {error}") from None
    if not isinstance(signals, dict):
        raise BadRequest("the signals of the request are no JSON object")
    return signals


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _message(event: str, *arguments: tuple[str, str | None]) -> Message:
    """The message *event* with its *arguments*, one line for each line of a value."""
    lines = [
        f"{name} {line}"
        for name, value in arguments
        if value is not None
        for line in lines_of(value)
    ]
    return {"event": event, "data": "\n".join(lines)}
