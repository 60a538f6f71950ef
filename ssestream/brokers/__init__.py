"""The brokers, which keep the logs of channels, and the choice of one by URL."""

from .broker import Broker
from .memory import MemoryBroker
from .url import scheme_of, shown


def open_broker(url: str, history: int | None = None, history_age: float | None = None) -> Broker:
    """Make the broker for *url*, without connecting to anything.

    The broker asks for *history* and *history_age* in each log to which it appends (see
    `broker.Bounds`). Raises ``ValueError`` for a URL that no broker can use.
    """
    # urlsplit() is not used: its errors may contain the password.
    scheme = scheme_of(url)
    if scheme == "memory":
        return MemoryBroker(history, history_age)
    if scheme == "sqlite":
        from .sqlite import SqliteBroker

        path = url[len("sqlite://") :]
        if len(path) < 2 or not path.startswith("/"):
            # The URL may be of another broker, with a password.
            raise ValueError(
                "url sqlite://... names no file: sqlite:////var/lib/app/events.db does"
            )
        return SqliteBroker(path[1:], history, history_age)
    if scheme.partition("+")[0] in ("redis", "rediss", "unix"):
        try:
            from .redis import RedisBroker
        except ImportError as error:
            raise ValueError(
                f"url {scheme}://... needs redis-py: pip install ssestream[redis]"
            ) from error
        return RedisBroker(url, history, history_age)
    if scheme.partition("+")[0] in ("postgresql", "postgres"):
        try:
            from .postgresql import PostgresqlBroker
        except ImportError as error:
            raise ValueError(
                f"url {scheme}://... needs psycopg: pip install ssestream[postgresql]"
            ) from error
        return PostgresqlBroker(url, history, history_age)
    raise ValueError(
        f"url {shown(url)}: a broker is memory://, sqlite:///path, redis://host"
        " or postgresql://host/database"
    )
