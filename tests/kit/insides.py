"""The insides of the package that tests look at, where nothing public tells the same.

Tests ask this room. A name of the package that changes is then changed here alone.
"""

from typing import Any

from ssestream import Channels, ServerResponse, SseStream
from ssestream.brokers.broker import Broker
from ssestream.channels.exchange import Exchange
from ssestream.channels.listener import Listener
from ssestream.channels.unheard import Audience
from ssestream.http.connection import Connection
from ssestream.http.outgoing import OutgoingMessage, body_of
from ssestream.runtime.calls import CallQueue
from ssestream.runtime.emitter import Emitter
from ssestream.runtime.wheel import TimerHandle, TimerWheel
from ssestream.settings import Settings
from ssestream.stream import flow_of
from ssestream.timers import Timer

# -- channels


def exchange_of(channels: Channels) -> Exchange:
    return channels._exchange


def listener_of(channels: Channels) -> Listener:
    return exchange_of(channels).listener


def broker_of(channels: Channels) -> Any:
    """Of any kind, with the members of its kind."""
    return exchange_of(channels).broker


def heard(channels: Channels, name: str) -> int:
    """The number of the last entry that the listener has."""
    position = listener_of(channels).tails.get(name).position
    return 0 if position is None else position.number


def over(broker: Broker) -> Channels:
    """`Channels` with *broker*, which no URL names."""
    channels = Channels("memory://")
    channels.exchanges.own = Exchange(broker, Audience())
    return channels


# -- streams and responses


def settings_of(stream: SseStream) -> Settings:
    return flow_of(stream).settings


def call_queue_of(emitter: Emitter) -> CallQueue:
    return emitter._call_queue


def keepalive_of(outgoing: OutgoingMessage | ServerResponse) -> Any:
    """The keepalive of an open *outgoing*."""
    return body_of(outgoing)._keepalive


def check_of(keepalive: Any) -> TimerHandle:
    """The place of *keepalive* in its wheel."""
    return keepalive._timer


def socket_of(connection: Connection) -> Any:
    return connection._sock


# -- timers


def is_armed(timer: Timer) -> bool:
    """Whether *timer* has a watcher in its loop."""
    return not timer.is_over


def slots_of(wheel: TimerWheel) -> dict[int, list[TimerHandle]]:
    """The timers of *wheel* by the numbers of their slots."""
    # The wheel's own thread may be adding some.
    return wheel._slots.copy()


def entered_in(wheel: TimerWheel) -> list[TimerHandle]:
    # Another thread may add one meanwhile.
    return [each for slot in list(slots_of(wheel).values()) for each in list(slot)]
