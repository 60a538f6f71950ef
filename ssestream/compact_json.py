"""Compact JSON, as ``json.JSONEncoder`` writes it: without spaces, and text without escapes.

Most messages are small, and for these ``JSONEncoder.encode`` takes longer to prepare the writing
than to write. Here the encoder of the ``json`` module is called directly, with the same result.
"""

import json
from collections.abc import Callable
from json import encoder
from typing import Any

from flask.json.provider import DefaultJSONProvider

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


def compact_json(value: Any, default: Callable[[Any], Any] = json_value) -> str:
    """*value* as compact JSON. *default* makes a value that JSON has of any other value.

    Raises ``TypeError`` for a value that cannot be JSON. Raises ``ValueError`` for NaN, for an
    infinity and for a value that holds itself.
    """
    if c_encoder is None:
        return json.dumps(
            value, default=default, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
    # The order is: the containers around the value, to find one that holds itself; default;
    # encoder of text; indent; separators; sort_keys; skipkeys; allow_nan. The first keeps the
    # encoder from being made only once: another thread may encode at the same time.
    encode = c_encoder({}, default, _quoted, None, ":", ",", False, False, False)
    return "".join(encode(value, 0))
