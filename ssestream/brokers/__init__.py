"""Where channels are kept: one file for each kind of log, and the contract of all."""

from ..printable import escape
from .broker import Broker
from .memory import MemoryBroker


def open_broker(url: str, history: int | None = None, history_age: float | None = None) -> Broker:
    """The broker that *url* names. Connects to nothing. Raises ``ValueError``.

    *history* and *history_age* are what it asks of the logs that it appends to (see
    `broker.Bounds`).
    """
    # Not by urlsplit(), the errors of which may hold a password.
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme == "memory":
        return MemoryBroker(history, history_age)
    if scheme == "sqlite":
        from .sqlite import SqliteBroker

        path = url[len("sqlite://") :]
        if len(path) < 2 or not path.startswith("/"):
            raise ValueError(f"url {url!r} names no file: sqlite:////var/lib/app/events.db is one")
        return SqliteBroker(path[1:], history, history_age)
    if scheme.partition("+")[0] in ("redis", "rediss", "unix"):
        try:
            from .redis import RedisBroker
        except ImportError as error:
            raise ValueError(
                f"url {scheme}://... needs redis-py: pip install ssestream[redis]"
            ) from error
        return RedisBroker(url, history, history_age)
    # Not the whole of it, which may hold a password.
    shown = f"{escape(scheme)}://..." if "://" in url else "without a scheme"
    raise ValueError(f"url {shown}: a broker is memory://, sqlite:///path or redis://host")
