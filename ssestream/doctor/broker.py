"""The broker of an app's channels, by its URL. Nothing that the broker keeps is changed."""

from ..brokers import open_broker
from ..brokers.memory import MemoryBroker
from ..brokers.sqlite import SqliteBroker
from .finding import Finding, fault, note
from .sqlite import examine_sqlite


def examine_broker(url: str) -> list[Finding]:
    """Look at the broker at *url*. No finding has the password of *url*."""
    try:
        broker = open_broker(url)
    except ValueError as error:
        return [
            fault(
                f"no broker can use the URL: {error}",
                "the app raises this error when it makes its channels",
                "SSESTREAM_URL, or the argument of Channels()",
            )
        ]
    if isinstance(broker, MemoryBroker):
        return [
            note(
                "memory:// is inside one process",
                "with several workers, an event reaches only the clients of the worker that"
                " publishes it; a restart loses all events",
                "one worker, or SSESTREAM_URL = 'sqlite:////var/lib/app/events.db' or"
                " 'redis://host'",
            )
        ]
    if isinstance(broker, SqliteBroker):
        return examine_sqlite(url[len("sqlite:///") :])
    # It needs redis-py, which the broker of this URL has found.
    from .redis import examine_redis

    return examine_redis(url)
