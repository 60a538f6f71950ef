"""The numbers of this process, read from the registry of streams and from channels."""

from collections import Counter
from collections.abc import Callable

from ..channels.channels import Channels
from ..http.registry import REASONS, statistics
from .number import Labels, Number

#: From the name of a channel to the group that its numbers count in; None counts it nowhere.
Group = Callable[[str], str | None]

ONE: Labels = ()


def read(channels: Channels | None, group: Group | None) -> list[Number]:
    """The numbers of this process at this moment."""
    found = _of_streams()
    if channels is not None:
        found += _of_channels(channels, group)
    return found


def _of_streams() -> list[Number]:
    now = statistics()

    def counter(name: str, text: str, value: float) -> Number:
        return Number(name, "counter", text, (), {ONE: value})

    return [
        Number("open_streams", "gauge", "Streams that are open now.", (), {ONE: now.open}),
        counter("opened_streams", "Streams that were opened.", now.opened),
        Number(
            "closed_streams",
            "counter",
            "Streams that are over, by the cause of their end.",
            ("cause",),
            # Each cause is there from the beginning: a rate needs the zero before the first.
            {(cause,): now.closed.get(cause, 0) for cause in REASONS},
        ),
        counter(
            "refused_streams", "Streams that were refused, as there were too many.", now.refused
        ),
        counter("messages", "Messages that servers have taken.", now.messages),
        counter("message_bytes", "Bytes of these messages.", now.bytes),
        counter("dropped_messages", "Messages dropped by overflow='drop-oldest'.", now.dropped),
        counter("heartbeats", "Heartbeats that were sent.", now.heartbeats),
        Number(
            "waiting_bytes",
            "gauge",
            "Bytes that wait for the clients of all open streams.",
            (),
            {ONE: now.waiting},
        ),
    ]


def _of_channels(channels: Channels, group: Group | None) -> list[Number]:
    followers: Counter[Labels] = Counter()
    lagging: Counter[Labels] = Counter()
    followed: Counter[Labels] = Counter()
    for name, each in channels.statistics().items():
        place = "all" if group is None else group(name)
        if place is not None:
            followed[(place,)] += 1
            followers[(place,)] += each.subscribers
            lagging[(place,)] += each.lagging
    labels = ("group",)
    return [
        Number(
            "followed_channels",
            "gauge",
            "Channels that streams follow, counted in each process.",
            labels,
            dict(followed),
        ),
        Number(
            "channel_followers", "gauge", "Streams that follow a channel.", labels, dict(followers)
        ),
        Number(
            "lagging_followers",
            "gauge",
            "Streams of these that are behind their channel.",
            labels,
            dict(lagging),
        ),
        Number(
            "processes_without_broker",
            "gauge",
            "Processes that cannot use the broker of their channels.",
            (),
            {ONE: float(channels.state == "down")},
        ),
    ]
