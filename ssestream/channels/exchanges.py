"""Which broker a `Channels` uses: an `Exchange` for each configuration that its apps have."""

import contextlib
import os
import weakref
from collections.abc import Iterator

import flask

from ..brokers import open_broker
from ..brokers.broker import Broker
from ..brokers.configuration import Configuration, configuration
from ..config import current_app
from ..runtime.threads import new_lock
from ..runtime.weak import snapshot
from .apps import Apps, configuration_of, naming_keys
from .exchange import ChannelObserver, Exchange
from .unheard import Audience


class Exchanges:
    """The exchanges of one `Channels`. There is mostly one, which all its apps share.

    The arguments are those of `Channels`, and checked. With a *url*, the broker is opened now.
    """

    def __init__(self, url: str | None, history: int | None, history_age: float | None) -> None:
        self._url, self._history, self._history_age = url, history, history_age
        self._configuration: Configuration | None = None
        #: The exchange for this configuration, once it was needed.
        self.own: Exchange | None = None
        self._apps = Apps()
        # The exchange for each configuration of an app that differs from `_configuration`.
        self._others: dict[Configuration, Exchange] = {}
        # Whether `init_app` was called.
        self._is_initialised = False
        # The exchange for all apps, while `with_broker` gives one.
        self._only: Exchange | None = None
        self._audience = Audience()
        self._observers: list[ChannelObserver] = []
        # Guards all fields. Nobody holds it while waiting.
        self._lock = new_lock()
        _all.add(self)
        if url is not None:
            self._configure(configuration(url, history, history_age))

    def init_app(self, app: flask.Flask) -> None:
        """See `Channels.init_app`."""
        self._take_from(app)
        self._is_initialised = True

    def current(self) -> Exchange:
        """The exchange with the broker of the current app.

        Raises ``RuntimeError`` if no app is current, and the apps have different brokers.
        """
        app = current_app()
        if (
            app is not None
            and self._url is None
            and not self._is_initialised
            and app not in self._apps
        ):
            self._take_from(app)
        if self._others:
            other = self._others.get(self._apps.current(app))
            if other is not None:
                return other
        own = self.own
        if own is not None:
            return own
        with self._lock:
            if self.own is None:
                if app is None:
                    wanted = configuration(self._url, self._history, self._history_age)
                    return self._configure(wanted)
                self._take_from(app)
            assert self.own is not None
            return self.own

    def all(self) -> list[Exchange]:
        """All exchanges that were needed so far."""
        with self._lock:
            own = [each for each in (self.own, self._only) if each is not None]
            return [*self._others.values(), *own]

    def observe(self, observer: ChannelObserver) -> None:
        """Tell *observer* of all exchanges of these channels, also of those that come later."""
        with self._lock:
            self._observers.append(observer)
        for exchange in self.all():
            exchange.observe(observer)

    @contextlib.contextmanager
    def with_broker(self, broker: Broker) -> Iterator[None]:
        """Use *broker* alone, for all apps, within a block of a test."""
        only = Exchange(broker, Audience(), None if self.own is None else self.own.json)
        # On the object, so that each other call of `current` costs no look at an attribute.
        self.current = lambda: only  # type: ignore[method-assign]
        self._only = only
        try:
            yield
        finally:
            del self.current
            only.close()
            self._only = None

    def _take_from(self, app: flask.Flask) -> None:
        """Take the configuration of channels and the JSON provider of *app*."""
        given = self._url, self._history, self._history_age
        with naming_keys():
            wanted = configuration_of(app, *given)
            with self._lock:
                if wanted != self._configuration and self._apps.another_has(
                    app, self._configuration
                ):
                    self._give_own_broker(app, wanted)
                else:
                    self._configure(wanted).use_json_of(app)
                self._apps.note(app, wanted)
                known = self._apps.all()
                unused = [self._others.pop(each) for each in [*self._others] if each not in known]
        for each in unused:
            each.close()

    def _give_own_broker(self, app: flask.Flask, wanted: Configuration) -> None:
        """Give *app* a broker of its own: *wanted* is not the configuration of these channels."""
        other = self._others.get(wanted)
        if other is None:
            other = self._others[wanted] = self._observed(
                Exchange(open_broker(*wanted), Audience())
            )
        other.use_json_of(app)

    def _configure(self, wanted: Configuration) -> Exchange:
        """Use the broker of the configuration *wanted* from now on, and return its exchange."""
        with self._lock:
            # Several apps with this configuration, or one app that is made again, share a broker.
            if self.own is not None and self._configuration == wanted:
                return self.own
            if self.own is not None and self.own.listener.tails:
                raise RuntimeError("these channels have subscribers already")
            own = self._observed(Exchange(open_broker(*wanted), self._audience))
            if self.own is not None:
                # A module may give functions before its app is configured.
                self.own.watchers.move_to(own.watchers)
                self.own.broker.close()
            self.own, self._configuration = own, wanted
            return own

    def _observed(self, exchange: Exchange) -> Exchange:
        for observer in self._observers:
            exchange.observe(observer)
        return exchange

    def forked(self) -> None:
        """This process is a child, and nobody else uses these exchanges in it."""
        self._lock = new_lock()
        for exchange in self.all():
            exchange.forked()
        if self.own is None:
            self._audience.forked()


_all: "weakref.WeakSet[Exchanges]" = weakref.WeakSet()


def all_exchanges() -> list[Exchange]:
    """Every exchange of this process."""
    return [exchange for exchanges in snapshot(lambda: _all) for exchange in exchanges.all()]


def _after_fork() -> None:
    for exchanges in snapshot(lambda: _all):
        exchanges.forked()


os.register_at_fork(after_in_child=_after_fork)
