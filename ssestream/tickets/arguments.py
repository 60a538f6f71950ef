"""Check what an app gives to `Tickets`, and what it keeps of that in a ticket."""

from typing import Any

from ..brokers.broker import check_name
from ..channels.ids import check_fits
from ..plain import plain_text


def checked_keys(keys: Any) -> list[Any]:
    """The secret keys, which are one or a list. Raises as `Tickets` does."""
    if keys is None:
        raise ValueError("keys is None: set app.secret_key first")
    found = [keys] if isinstance(keys, (str, bytes)) else [*keys]
    if not found:
        raise ValueError("keys must not be empty")
    for key in found:
        if not isinstance(key, (str, bytes)):
            raise TypeError(f"a key is str or bytes, not {type(key).__name__}")
        if not key:
            raise ValueError("a key must not be empty")
    return found


def checked_names(names: Any) -> tuple[str, ...]:
    """The names of channels, each once. Raises ``TypeError`` or ``ValueError``."""
    if isinstance(names, (str, bytes)):
        raise TypeError("channels are a list of names, not one str")
    checked = tuple(dict.fromkeys(map(check_name, names)))
    if not checked:
        raise ValueError("channels must not be empty")
    if len(checked) > 1:
        check_fits(checked)
    return checked


def checked_key(key: Any) -> Any:
    """*key*, if it is the same after JSON: `Channels.cut` compares the ``repr()`` of keys.

    Raises ``TypeError`` for any other key.
    """
    if key is None or type(key) in (str, int):
        return plain_text(key) if isinstance(key, str) else key
    if type(key) is tuple and key:
        if None in key:
            raise TypeError("key must not hold None")
        return tuple(map(checked_key, key))
    raise TypeError(
        f"key is a str, an int or a tuple of these, not {type(key).__name__}: give the id of the"
        " user, for example"
    )


def key_of_json(key: Any) -> Any:
    """The key that JSON has made *key* of: a tuple is a list there."""
    return tuple(map(key_of_json, key)) if isinstance(key, list) else key
