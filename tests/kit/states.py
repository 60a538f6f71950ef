"""Waits for what the package does by itself, until it is done."""

import threading

from ssestream import Channels
from ssestream.runtime.emitter import Emitter
from ssestream.runtime.timerheap import heaps
from ssestream.runtime.wheel import TimerHandle, TimerWheel, wheels
from tests.kit.following import Client
from tests.kit.insides import broker_of, call_queue_of, entered_in, exchange_of, listener_of
from tests.kit.visit import until


def idle(channels: Channels) -> None:
    """Wait until neither the listener of *channels* nor one of its readers runs."""
    until(lambda: not listener_of(channels).is_running, "the listener to end")


def forget_timers() -> None:
    """End the timers and the checks of streams that earlier tests have left in this process.

    A clock that a test moves by minutes would run a short one of them ten thousand times.
    """
    for _, heap in heaps():
        for entry in heap.entries():
            entry.is_over = True
            heap.discard(entry)
    for _, wheel in wheels():
        for handle in entered_in(wheel):
            handle.cancel()


def end_all_of(channels: Channels) -> None:
    """Destroy the streams of *channels*, and close its broker once nobody listens."""
    for subscription in exchange_of(channels).subscriptions:
        subscription.stream.destroy()
    idle(channels)
    broker_of(channels).close()


def nothing_remains(channels: Channels) -> None:
    """Wait until nothing of the streams of *channels* is left."""
    until(lambda: channels.statistics() == {}, "the last to leave")
    until(lambda: channels.state == "idle", "the listener to end")
    # The stream's own thread or greenlet takes its subscription out, after the last event.
    until(lambda: not exchange_of(channels).subscriptions, "the subscriptions to be gone")
    idle(channels)
    assert not listener_of(channels).tails


def place_of(client: Client) -> str:
    """The id of a client that has got no event."""
    until(client.has_id, "the place")
    assert client.messages == []
    return client.last_id


def settled(emitter: Emitter) -> None:
    """Wait until every event of *emitter* that is due by now was emitted."""
    reached = threading.Event()
    call_queue_of(emitter).call_soon(reached.set)
    until(reached.is_set, "the events")


def entered(wheel: TimerWheel, *timers: TimerHandle) -> None:
    until(lambda: set(timers) <= set(entered_in(wheel)), "all of them")
