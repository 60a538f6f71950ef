"""Metrics: the numbers of this process, or of all processes of the host."""

import atexit
import os
import weakref
from typing import Any

import flask

from ..channels.channels import Channels
from ..http.registry import registry
from ..runtime.callables import check_callable
from ..runtime.forking import process
from ..runtime.loop import logger
from ..runtime.uncopyable import Uncopyable
from ..runtime.weak import snapshot
from ..timers import set_interval
from .channel_numbers import ChannelNumbers, Group
from .durations import Durations
from .folder import Folder
from .number import Number
from .reading import read

#: Milliseconds after which a process writes its numbers again.
PACE = 5000


class Metrics(Uncopyable):
    """The numbers of streams and channels, for a system that watches them.

    :param app: the app whose processes are counted together; None for no app.
    :param channels: the `Channels` whose numbers are added; None adds none.
    :param group: a function from the name of a channel to a group of channels, such as
        ``"user"`` for ``"user.17"``. Its numbers are those of the group. None for a name leaves the
        channel out. Without a function, all channels are one group. Return few different groups:
        each is a time series. It is called for each message that this process publishes, so it must
        be quick. If it fails, or returns something else, this is logged once, and the channel is
        left out.
    :param folder: a folder of this host for the files in which the processes of *app* write their
        numbers every five seconds. None gives the numbers of one process only. All workers use the
        same folder, and nobody else uses it.
    :raise TypeError: if *channels* is no `Channels`, *group* is no plain function, or there is
        a *folder* and no *app*.
    """

    _only_one = "it counts in this process, each event once. Make another Metrics"

    def __init__(
        self,
        app: flask.Flask | None = None,
        channels: Channels | None = None,
        *,
        group: Group | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if channels is not None and not isinstance(channels, Channels):
            raise TypeError(f"channels must be a Channels, not {type(channels).__name__}")
        if group is not None:
            check_callable("group", group, "a function of the name of a channel, or None")
        if folder is not None and app is None:
            raise TypeError("a folder needs an app: its requests begin the writing in each worker")
        self._channels = None if channels is None else ChannelNumbers(channels, group)
        self._draining = Durations(
            "drain_seconds",
            "Seconds from the beginning of a stop of a process to the end of its last stream.",
            (),
        )
        self._folder = None if folder is None else Folder(folder)
        self._writes_in = 0
        self._failed = False
        _all.add(self)
        if app is not None and folder is not None:
            app.before_request(self._begin)

    def numbers(self) -> list[Number]:
        """The numbers of this process now."""
        of_channels = [] if self._channels is None else self._channels.read()
        return [*read(), self._draining.number(), *of_channels]

    @property
    def durations(self) -> list[Durations]:
        """The durations that are counted in this process, for the other rooms of the package."""
        of_channels = [] if self._channels is None else [self._channels.publishing]
        return [self._draining, *of_channels]

    def numbers_of_all(self) -> list[Number]:
        """The sums over all processes that share the folder; without one, as `numbers`.

        The numbers of other processes may be five seconds old. A counter never falls, as the
        counts of processes that are gone are kept in the folder.

        :raise OSError: if the folder cannot be written or read.
        """
        if self._folder is None:
            return self.numbers()
        self._folder.write(self.numbers())
        return self._folder.read()

    def _begin(self) -> None:
        """Before a request: let this process write its numbers from now on."""
        if self._writes_in == os.getpid() or process.is_job:
            return
        self._writes_in = os.getpid()
        set_interval(self._write, PACE)
        atexit.register(self._write)

    def _write(self) -> None:
        if self._folder is None or self._writes_in != os.getpid():
            return
        try:
            self._folder.write(self.numbers())
            self._failed = False
        except OSError as error:
            if not self._failed:
                logger.error("metrics: the numbers of this process are not written: %s", error)
            self._failed = True

    def drained(self, seconds: float) -> None:
        """Called when the last stream of a process that stops is over: the process ends soon."""
        self._draining.add(seconds)
        self._write()

    def after_fork(self) -> None:
        """Called in a child, which has no part in the counts and in the file of its parent."""
        self._draining.begin()
        if self._channels is not None:
            self._channels.begin()
        if self._folder is not None:
            self._folder.after_fork()


_all: Any = weakref.WeakSet()


def _drained(seconds: float) -> None:
    for metrics in snapshot(lambda: _all):
        metrics.drained(seconds)


registry.when_drained(_drained)


def _after_fork() -> None:
    for metrics in snapshot(lambda: _all):
        metrics.after_fork()


os.register_at_fork(after_in_child=_after_fork)
