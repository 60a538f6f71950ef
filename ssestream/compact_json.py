"""Compact JSON, as ``json.JSONEncoder`` writes it: without spaces, and text without escapes.

Most messages are small, and for these ``JSONEncoder.encode`` takes longer to prepare the writing
than to write. Here the encoder of the ``json`` module is called directly, with the same result, and
is made once for many values.
"""

import json
from collections.abc import Callable
from json import encoder
from typing import Any

from flask.json.provider import DefaultJSONProvider

from .plain import plain_bytes, plain_text
from .runtime.callables import kind_of

#: The encoder in C. None if this Python has none.
c_encoder: Any = getattr(encoder, "c_make_encoder", None)

# Writes text in quotes, and escapes only what must be.
_quoted: Any = encoder.encode_basestring


def json_value(value: Any, own: Callable[[Any], Any] = DefaultJSONProvider.default) -> Any:
    """A value that JSON has, for *value* that it has not.

    *own* is the ``default`` of an app's JSON provider. A Pydantic model that it refuses is
    written in its own JSON mode. Raises ``TypeError`` for any other *value* that *own* refuses.
    """
    try:
        return own(value)
    except TypeError:
        # Pydantic itself is not imported, as not every app has it.
        dump = getattr(type(value), "model_dump", None)
        if dump is None:
            raise
        return dump(value, mode="json")


def json_writer(default: Callable[[Any], Any]) -> Callable[[Any], str]:
    """A function that writes a value as compact JSON.

    *default* makes a value that JSON has of any other value. The function raises ``TypeError``
    for a value that cannot be JSON, and ``ValueError`` for NaN, for an infinity and for a value
    that holds itself.
    """
    # The encoders that nobody uses now. An encoder notes the containers around the value, to find
    # one that holds itself. So two threads, or two greenlets, must not use it at the same time.
    spare: list[Any] = []

    def write(value: Any) -> str:
        if c_encoder is None:
            return json.dumps(
                value, default=default, ensure_ascii=False, allow_nan=False, separators=(",", ":")
            )
        try:
            encode = spare.pop()
        except IndexError:
            # The order is: the noted containers; default; encoder of text; indent; separators;
            # sort_keys; skipkeys; allow_nan.
            encode = c_encoder({}, default, _quoted, None, ":", ",", False, False, False)
        text = "".join(encode(value, 0))
        # Not after an error: the encoder then still has the containers around the wrong value.
        spare.append(encode)
        return text

    return write


#: *value* as compact JSON, outside of an app.
compact_json = json_writer(json_value)


def json_text(text: object) -> str:
    """The JSON *text*, as an app's provider has returned it: str, or bytes of UTF-8.

    Raises ``TypeError`` for another type.
    """
    if isinstance(text, str):
        return plain_text(text)
    if isinstance(text, bytes):
        return (text if type(text) is bytes else plain_bytes(text)).decode()
    raise TypeError(f"the app's JSON provider gave {kind_of(text)}, and not str or bytes")
