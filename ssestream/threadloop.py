"""gevent in a thread of its own, without a descriptor: the loop of a pipeline's thread.

On a threaded server each source has a thread, and may wait there in gevent's way, which
its client's departure ends at once. gevent would give each such thread a loop of libev's,
which takes two descriptors, and ends the process where there are none. This loop sleeps in
a lock. It has timers, and calls from other threads; descriptors are watched for it by the
one loop that all streams of the process share.

It has the methods of gevent's own loops that gevent calls in a thread, under their names.
"""

import heapq
import itertools
import queue
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent import monkey
from gevent.hub import Hub, set_hub

from .clock import clock
from .hub import Home

_ThreadQueue: Callable[[], Any] = monkey.get_original("queue", "SimpleQueue")


class ThreadLoop:
    """See ``gevent.core.loop``. *shared* watches descriptors for it."""

    #: Not that of the main thread.
    default = False
    #: Seconds, for whoever polls.
    approx_timer_resolution = 0.001

    def __init__(self, shared: Home) -> None:
        self.shared = shared
        #: The hub, while it runs this.
        self.error_handler: Any = None
        #: Whether it waits for other threads' calls where there is nothing else to do.
        self.stays = True
        self._calls: deque[_Call] = deque()
        # Rung for each call that comes from another thread.
        self._bell = _ThreadQueue()
        # When each is due, a number that no other has, the timer, and its number of starts.
        self._timers: list[tuple[float, int, Timer, int]] = []
        self._numbers = itertools.count()
        self._active: set[Watcher] = set()

    # -- what gevent calls

    def run(self, nowait: bool = False, once: bool = False) -> None:
        """Until there is nothing left that might happen."""
        while True:
            for _ in range(len(self._calls)):
                self._make(self._calls.popleft())
            self._call_due()
            if not self._calls:
                if not self.stays and not any(each.ref for each in self._active):
                    return
                self._sleep()

    def run_callback(self, callback: Callable[..., object], *args: Any) -> "_Call":
        call = _Call(callback, args)
        self._calls.append(call)
        return call

    def run_callback_threadsafe(self, callback: Callable[..., object], *args: Any) -> "_Call":
        call = self.run_callback(callback, *args)
        self._bell.put(None)
        return call

    def timer(
        self, after: float, repeat: float = 0.0, ref: bool = True, priority: int | None = None
    ) -> "Timer":
        return Timer(self, after, repeat, ref)

    def async_(self, ref: bool = True, priority: int | None = None) -> "Async":
        return Async(self, ref)

    def io(
        self, fd: int, events: int, ref: bool = True, priority: int | None = None
    ) -> "Descriptor":
        return Descriptor(self, fd, events, ref)

    def idle(self, ref: bool = True, priority: int | None = None) -> "Idle":
        return Idle(self, ref)

    def fork(self, ref: bool = True, priority: int | None = None) -> "Watcher":
        # The thread is not there any more in a child.
        return Watcher(self, ref=False)

    def child(self, *args: Any, **options: Any) -> "Watcher":
        # As any loop of gevent's says beside the main thread.
        raise TypeError("child watchers are only available on the default loop")

    def signal(self, *args: Any, **options: Any) -> "Watcher":
        raise TypeError("signal watchers are only available on the default loop")

    def handle_error(self, context: Any, kind: Any, value: Any, traceback: Any) -> None:
        self.error_handler.handle_error(context, kind, value, traceback)

    def closing_fd(self, fd: int) -> bool:
        """Wake what waits for *fd*, which is about to be closed. Whether anything does."""
        waiting = [each for each in self._active if isinstance(each, Descriptor) and each.fd == fd]
        for each in waiting:
            self.run_callback(each.fire)
        return bool(waiting)

    def reinit(self) -> None:
        """In a child of this process, which has no other thread and no loop to share."""

    def now(self) -> float:
        return clock.now()

    def update_now(self) -> None:
        pass

    update = update_now

    def destroy(self) -> None:
        for watcher in list(self._active):
            watcher.close()

    def _format(self) -> str:
        return "without descriptors"

    # -- how it runs

    def _make(self, call: "_Call") -> None:
        callback, args = call.callback, call.args
        call.callback = None
        if callback is not None and args is not None:
            self.call(callback, args)
        call.args = None

    def call(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """What it raises is the hub's to print."""
        try:
            callback(*args)
        except BaseException:
            self.error_handler.handle_error(callback, *sys.exc_info())

    def _call_due(self) -> None:
        now = clock.now()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers))
        for _, _, timer, start in due:
            if timer.starts == start:
                timer.fire()

    def _sleep(self) -> None:
        timers = self._timers
        while timers and timers[0][2].starts != timers[0][3]:  # stopped meanwhile
            heapq.heappop(timers)
        seconds = max(0.0, timers[0][0] - clock.now()) if timers else None
        try:
            self._bell.get(timeout=seconds)
            while True:
                self._bell.get_nowait()
        except queue.Empty:
            pass

    def arm(self, timer: "Timer", seconds: float) -> None:
        due = clock.now() + seconds
        heapq.heappush(self._timers, (due, next(self._numbers), timer, timer.starts))

    def is_active(self, watcher: "Watcher", active: bool) -> None:
        if active:
            self._active.add(watcher)
        else:
            self._active.discard(watcher)


class _Call:
    """What `ThreadLoop.run_callback` returns: it may be stopped, and is true until it was made."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args: tuple[Any, ...] | None = args

    def stop(self) -> None:
        self.callback = self.args = None

    close = stop

    def __bool__(self) -> bool:
        return self.args is not None

    @property
    def pending(self) -> bool:
        return self.callback is not None


class Watcher:
    """One that never fires. The others are of its kind."""

    def __init__(self, loop: ThreadLoop, ref: bool) -> None:
        self.loop = loop
        #: Whether the loop goes on for it.
        self.ref = ref
        self.callback: Callable[..., object] | None = None
        self.args: tuple[Any, ...] = ()
        #: How often it was started or stopped.
        self.starts = 0
        self.pending = False

    @property
    def active(self) -> bool:
        return self.callback is not None

    def start(self, callback: Callable[..., object], *args: Any, update: bool = True) -> None:
        if not callable(callback):
            raise TypeError(f"Expected callable, not {callback!r}")
        self.callback, self.args = callback, args
        self.starts += 1
        self.loop.is_active(self, True)
        self._begin()

    def stop(self) -> None:
        self.starts += 1
        self.callback, self.args = None, ()
        self.loop.is_active(self, False)
        self._end()

    def close(self) -> None:
        self.stop()

    def fire(self) -> None:
        """In the loop."""
        if self.callback is not None:
            self.loop.call(self.callback, self.args)

    def __enter__(self) -> "Watcher":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self) -> None:
        pass

    def _end(self) -> None:
        pass


class Timer(Watcher):
    def __init__(self, loop: ThreadLoop, after: float, repeat: float, ref: bool) -> None:
        super().__init__(loop, ref)
        self._after = after
        self._repeat = repeat

    def again(self, callback: Callable[..., object], *args: Any, update: bool = True) -> None:
        """Start it anew, and let the next time be after its *repeat*."""
        self.stop()
        self._after = self._repeat
        self.start(callback, *args)

    def fire(self) -> None:
        callback, args = self.callback, self.args
        if callback is None:
            return
        if self._repeat:
            self.loop.arm(self, self._repeat)
        else:
            self.stop()
        self.loop.call(callback, args)

    def _begin(self) -> None:
        self.loop.arm(self, self._after)


class Async(Watcher):
    """Fired from any thread."""

    def send(self) -> None:
        self.loop.run_callback_threadsafe(self.fire)

    def send_ignoring_arg(self, _: object) -> None:
        self.send()


class Idle(Watcher):
    def _begin(self) -> None:
        self.loop.run_callback(self._idle)

    def _idle(self) -> None:
        if self.active:
            self.fire()
            self.loop.run_callback(self._idle)


class Descriptor(Watcher):
    """Watched in the shared loop, once for each time that it fires here."""

    def __init__(self, loop: ThreadLoop, fd: int, events: int, ref: bool) -> None:
        super().__init__(loop, ref)
        self.fd, self.events = fd, events
        # Touched in the shared loop only.
        self._watcher: Any = None

    def _begin(self) -> None:
        self.loop.shared.call(self._watch, self.starts)

    def _end(self) -> None:
        # Whoever stops it may close the descriptor next, which nobody may watch by then.
        if self.loop.shared.here():
            self._drop()
            return
        stopped = _ThreadQueue()
        self.loop.shared.call(self._unwatch, stopped)
        stopped.get()

    def _watch(self, start: int) -> None:
        if self.starts == start:
            self._watcher = self.loop.shared.loop.io(self.fd, self.events)
            self._watcher.start(self._ready, start)

    def _ready(self, start: int) -> None:
        self._drop()
        self.loop.run_callback_threadsafe(self._fire_once, start)

    def _fire_once(self, start: int) -> None:
        if self.starts == start:
            self.fire()
        if self.starts == start:  # it goes on
            self._begin()

    def _unwatch(self, stopped: Any) -> None:
        self._drop()
        stopped.put(None)

    def _drop(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()


def run_in_hub(main: Callable[[], object], shared: Home) -> None:
    """Run *main*, which waits in gevent's way, in the calling thread, which is its own."""
    loop = ThreadLoop(shared)
    hub = Hub(loop=loop)
    set_hub(hub)
    try:
        main()
        loop.stays = False
        # Its greenlet must come to its end, or it would hold for ever what it ran
        # last: nothing can be collected from a thread that is no more.
        hub.join()
    finally:
        hub.destroy(destroy_loop=True)
