"""Which broker, and how much it keeps: what an app says, checked and with its defaults."""

from typing import Any, NamedTuple


class Configuration(NamedTuple):
    """Apps for which all of this is the same share a broker."""

    url: str
    history: int | None
    history_age: float | None


def configuration(url: Any, history: Any, history_age: Any) -> Configuration:
    """Raises ``TypeError`` or ``ValueError``, beginning with the name of the argument."""
    check(url, history, history_age)
    return Configuration(url or "memory://", history, history_age)


def check(url: Any, history: Any, age: Any) -> None:
    """The same, where nothing need be given yet."""
    if url is not None and (not isinstance(url, str) or not url):
        # It may hold a password.
        what = "an empty one" if isinstance(url, str) else type(url).__name__
        raise TypeError(f"url is the URL of a broker, and not {what}")
    if history is not None and (not isinstance(history, int) or isinstance(history, bool)):
        raise TypeError(f"history is an int of events, not {type(history).__name__}")
    if history is not None and history < 1:
        raise ValueError(f"history must be at least 1, and is {history}")
    if age is not None and (not isinstance(age, (int, float)) or isinstance(age, bool)):
        raise TypeError(f"history_age is a number of seconds or None, not {type(age).__name__}")
    if age is not None and not 0 < age < float("inf"):
        raise ValueError(f"history_age must be positive and finite, and is {age}")
