"""ChannelNumbers: the numbers of a `Channels` in this process, by groups of channels."""

from collections import Counter
from collections.abc import Callable
from typing import get_args

from ..brokers.broker import CONTROL, PLAIN, Position, Refused, Terms
from ..channels.channels import Channels
from ..channels.exchange import ChannelObserver
from ..channels.health import State
from ..channels.lag import lags_of
from ..channels.leases import LAST_WORDS
from ..channels.statistics import ChannelStatistics
from ..channels.watchers import REPORTS
from ..errors import BrokerError, ChannelEnded
from ..run_keeper import STOPS
from ..runtime.callables import kind_of
from ..runtime.clock import clock
from ..runtime.loop import logger
from ..runtime.threads import new_lock
from .durations import Durations
from .lags import Lags
from .number import Kind, Labels, Number

#: From the name of a channel to the group that its numbers count in; None counts it nowhere.
Group = Callable[[str], str | None]

#: Each counter, its sentence, and its value in the statistics of a channel.
COUNTERS: tuple[tuple[str, str, Callable[[ChannelStatistics], int]], ...] = (
    ("delivered_events", "Events that streams got from channels.", lambda each: each.delivered),
    (
        "replayed_events",
        "Events of these that were read from the log, for streams that were behind.",
        lambda each: each.replayed,
    ),
    ("gaps", "Times that a stream had missed events that are lost.", lambda each: each.gaps),
)

#: The channels of the library itself begin so.
OWN = (LAST_WORDS, REPORTS, STOPS)


class ChannelNumbers(ChannelObserver):
    """The numbers of *channels* in this process, from now on."""

    def __init__(self, channels: Channels, group: Group | None) -> None:
        self._channels, self._group = channels, group
        self._lags = Lags()
        #: The time that it took to store each message.
        self.publishing = Durations(
            "publish_seconds", "Seconds that it took to store a message.", ("group",)
        )
        self.begin()
        channels.exchanges.observe(self)

    def begin(self) -> None:
        """Begin with no counts, as a new process does."""
        self._lock = new_lock()
        # By the name of the counter: the counts of channels that no stream follows any more, and
        # the counts that were read last.
        self._gone: dict[str, Counter[Labels]] = {name: Counter() for name, *_ in COUNTERS}
        self._read: dict[str, Counter[Labels]] = {name: Counter() for name, *_ in COUNTERS}
        self._failed: Counter[Labels] = Counter()
        self._has_failed = False
        self.publishing.begin()

    # -- called by exchanges

    def forgotten(self, name: str, numbers: ChannelStatistics) -> None:
        """Keep the counts of the channel *name*, which no stream follows any more."""
        labels = self._labels(name)
        if labels is not None:
            with self._lock:
                for counter, _, value in COUNTERS:
                    self._gone[counter][labels] += value(numbers)

    def timed(self, append: Callable[..., Position]) -> Callable[..., Position]:
        """*append* of a broker, with a count of its messages."""

        def timed_append(channel: str, frame: bytes, terms: Terms = PLAIN) -> Position:
            if frame.startswith(CONTROL) or channel.startswith(OWN):
                return append(channel, frame, terms)
            began = clock.real()
            try:
                position = append(channel, frame, terms)
            except (ChannelEnded, Refused):  # the broker works, and has answered
                raise
            except BrokerError:
                labels = self._labels(channel)
                if labels is not None:
                    with self._lock:
                        self._failed[labels] += 1
                raise
            seconds = clock.real() - began
            labels = self._labels(channel)
            if labels is not None:
                self.publishing.add(seconds, labels)
            return position

        return timed_append

    def _labels(self, name: str) -> Labels | None:
        """The group of the channel *name*; None if the channel is not counted."""
        if self._group is None:
            return ("all",)
        try:
            group = self._group(name)
            if group is None:
                return None
            if not isinstance(group, (str, int)):
                # Each object would be a time series of its own.
                raise TypeError(f"group must return a str or None, and returned {kind_of(group)}")
            return (str(group),)
        except BaseException:  # a gevent.Timeout is no Exception; the message is stored
            if not self._has_failed:
                self._has_failed = True
                logger.exception("metrics: the group of the channel %r is not known", name)
            return None

    # -- the numbers

    def read(self) -> list[Number]:
        """The numbers at this moment. No counter is less than it was."""
        exchanges = self._channels.exchanges.all()
        # First the counts of forgotten channels: one that is forgotten meanwhile is then missing,
        # and not counted twice.
        with self._lock:
            counts = {name: Counter(gone) for name, gone in self._gone.items()}
            failed = Counter(self._failed)
        followed: Counter[Labels] = Counter()
        followers: Counter[Labels] = Counter()
        lagging: Counter[Labels] = Counter()
        lag_events: Counter[Labels] = Counter()
        lag_seconds: dict[Labels, float] = {}
        states: Counter[Labels] = Counter({(state,): 0 for state in get_args(State)})
        for exchange in exchanges:
            states[(exchange.listener.health.state,)] += 1
            for name, each in exchange.listener.tails.statistics_of_all().items():
                labels = self._labels(name)
                if labels is not None:
                    followed[labels] += 1
                    followers[labels] += each.subscribers
                    lagging[labels] += each.lagging
                    lag_events[labels] += 0
                    lag_seconds.setdefault(labels, 0.0)
                    for counter, _, value in COUNTERS:
                        counts[counter][labels] += value(each)
        lags = {
            name: lag
            for exchange in exchanges
            for name, lag in lags_of(exchange.listener.tails).items()
        }
        published = self.publishing.number()
        for labels in (*followed, *((group,) for group, _ in published.samples)):
            failed.setdefault(labels, 0)
        with self._lock:
            seconds = self._lags.seconds(lags)
            for counter, now in counts.items():
                # Not less than it was: a channel that is being forgotten is in neither count.
                self._read[counter] |= now
                for labels in now:
                    self._read[counter].setdefault(labels, 0)
            counts = {name: Counter(read) for name, read in self._read.items()}
        for name, lag in lags.items():
            labels = self._labels(name)
            if labels is not None:
                lag_events[labels] += lag.events
                lag_seconds[labels] = max(lag_seconds.get(labels, 0.0), seconds[name])

        def by_group(kind: Kind, name: str, text: str, samples: dict[Labels, float]) -> Number:
            return Number(name, kind, text, ("group",), samples)

        return [
            by_group(
                "gauge",
                "followed_channels",
                "Channels that streams follow, counted in each process.",
                dict(followed),
            ),
            by_group(
                "gauge", "channel_followers", "Streams that follow a channel.", dict(followers)
            ),
            by_group(
                "gauge",
                "lagging_followers",
                "Streams of these that are behind their channel.",
                dict(lagging),
            ),
            by_group(
                "gauge",
                "lagging_events",
                "Events that the streams which are behind have yet to get.",
                dict(lag_events),
            ),
            by_group(
                "maximum",
                "greatest_lag_seconds",
                "Seconds for which the next event of the stream that is furthest behind waits.",
                lag_seconds,
            ),
            *(by_group("counter", name, text, dict(counts[name])) for name, text, _ in COUNTERS),
            published,
            by_group(
                "counter",
                "failed_publications",
                "Messages that the broker has not stored, or of which its answer is lost.",
                dict(failed),
            ),
            Number(
                "broker_states",
                "gauge",
                "Processes by the state of the broker of their channels.",
                ("state",),
                dict(states),
            ),
            Number(
                "processes_without_broker",
                "gauge",
                "Processes that cannot use the broker of their channels.",
                (),
                {(): float(states[("down",)] > 0)},
            ),
        ]
