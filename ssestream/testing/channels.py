"""Channels in memory, for the tests of an app that keeps its channels elsewhere."""

import contextlib
from collections.abc import Iterator

from ..brokers.memory import MemoryBroker
from ..channels.channels import Channels
from ..channels.exchanges import all_exchanges


@contextlib.contextmanager
def in_memory(
    channels: Channels, *, history: int | None = None, history_age: float | None = None
) -> Iterator[Channels]:
    """Let *channels* use an empty ``memory://`` of its own within a block, for every app.

    The broker of its URL or its configuration gets nothing. *history* and *history_age* are as for
    `Channels`. At the end of the block the streams that follow the channels end, and the events
    are forgotten. Gives *channels*.
    """
    with channels.exchanges.with_broker(MemoryBroker(history, history_age)):
        yield channels


def all_heard() -> bool:
    """Whether each stream has all events of ``memory://``, unless it lags behind."""
    for exchange in all_exchanges():
        for tail in [] if exchange.broker.shared else exchange.listener.tails.all():
            end = exchange.broker.read(tail.name, 0, 0, 0).end.number
            positions = [tail.position, *(cursor.position for cursor in tail.live.copy())]
            if any(at is not None and at.number != end for at in positions):
                return False
    return True
