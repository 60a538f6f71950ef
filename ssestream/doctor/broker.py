"""The broker of an app's channels, by its URL. Nothing that the broker keeps is changed."""

from ..brokers import open_broker
from ..brokers.broker import Broker, BrokerError
from ..brokers.memory import MemoryBroker
from ..brokers.sqlite import SqliteBroker
from ..brokers.url import scheme_of
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
    if scheme_of(url).startswith("postgres"):
        return _examine_postgresql(broker)
    # It needs redis-py, which the broker of this URL has found.
    from .redis import examine_redis

    return examine_redis(url)


def _examine_postgresql(broker: Broker) -> list[Finding]:
    """Whether the database has the tables, and this account may use them."""
    try:
        # A right may be missing for one of the two only.
        broker.ping()
        broker.read("ssestream/ping", 0, 0, 0)
    except BrokerError as error:
        return [
            fault(
                f"PostgreSQL cannot be used: {error}",
                "nothing can be published, and no stream gets an event",
                "the database of SSESTREAM_URL, its tables (python -m ssestream migrate), and the"
                " rights of the account",
            )
        ]
    finally:
        broker.close()
    return []
