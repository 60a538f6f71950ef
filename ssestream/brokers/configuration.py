"""Check the arguments of `Channels` that choose a broker and its bounds, and fill in defaults."""

from typing import Any, NamedTuple


class Configuration(NamedTuple):
    """The checked arguments. Apps with equal configurations share one broker."""

    url: str
    history: int | None
    history_age: float | None


def configuration(url: Any, history: Any, history_age: Any) -> Configuration:
    """The checked configuration; a missing *url* becomes ``memory://``.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument. The message begins with the
    name of the argument.
    """
    check(url, history, history_age)
    return Configuration(url or "memory://", history, history_age)


def check(url: Any, history: Any, age: Any) -> None:
    """Raise as `configuration` does for a wrong argument. None is allowed for each."""
    if url is not None and (not isinstance(url, str) or not url):
        # The error does not show the URL, which may contain a password.
        found = "an empty one" if isinstance(url, str) else type(url).__name__
        raise TypeError(f"url is the URL of a broker, and not {found}")
    if history is not None and (not isinstance(history, int) or isinstance(history, bool)):
        raise TypeError(f"history is an int of events, not {type(history).__name__}")
    if history is not None and history < 1:
        raise ValueError(f"history must be at least 1, and is {history}")
    check_seconds("history_age", age)


def check_seconds(name: str, value: Any) -> None:
    """Raise ``TypeError`` or ``ValueError`` if *value* is no positive number of seconds or None."""
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} is a number of seconds or None, not {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, and is {value}")
