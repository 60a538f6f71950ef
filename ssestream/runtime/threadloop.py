"""The event loop of a pipeline's thread: gevent in a thread, without a file descriptor.

On a threaded server the source of each pipeline has a thread. The source may wait there in
gevent's way, so that its client's departure ends the wait at once. gevent would give each
such thread a libev loop. A libev loop takes two file descriptors, and aborts the process
when there are none left. This loop takes none: it sleeps in a lock. It has timers and calls
from other threads. The one loop that all streams of the process share watches file
descriptors for it.
"""

import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent.hub import Hub, set_hub

from .children import child_watcher
from .clock import clock
from .deadlines import Deadlines
from .loop import Loop
from .threads import ThreadQueue, Wake
from .waits import join_through


class ThreadLoop:
    """A loop with the interface of ``gevent.core.loop``.

    *shared* is the `Loop` that watches file descriptors for this loop.
    """

    #: This is not the loop of the main thread.
    default = False
    #: Priorities make no difference here.
    MINPRI = MAXPRI = 0
    #: In seconds. gevent takes it as the shortest interval for polling.
    approx_timer_resolution = 0.001

    def __init__(self, shared: Loop) -> None:
        self.shared = shared
        #: The hub that runs this loop; gevent sets it.
        self.error_handler: Any = None
        # Whether `run` goes on while no watcher is active, as another thread may still call.
        self._stays = True
        self._calls: deque[_Call] = deque()
        # Each call from another thread wakes the loop.
        self._wake = Wake()
        self._deadlines = Deadlines()
        self._active: set[Watcher] = set()

    # -- what gevent calls

    def run(self, nowait: bool = False, once: bool = False) -> None:
        """Run until nothing more can happen. gevent never asks for *nowait* or *once* here."""
        while True:
            for _ in range(len(self._calls)):
                self._run_call(self._calls.popleft())
            self._call_due()
            if not self._calls:
                if not self._stays and not any(each.ref for each in self._active):
                    return
                self._sleep()

    def run_callback(self, callback: Callable[..., object], *args: Any) -> "_Call":
        call = _Call(callback, args)
        self._calls.append(call)
        return call

    def run_callback_threadsafe(self, callback: Callable[..., object], *args: Any) -> "_Call":
        call = self.run_callback(callback, *args)
        self._wake.wake()
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

    check = idle  # gevent closes descriptors in its first call, after those of `closing_fd`

    def fork(self, ref: bool = True, priority: int | None = None) -> "Watcher":
        # It never fires: a child process does not have this thread.
        return Watcher(self, ref=False)

    def install_sigchld(self) -> None:
        """Do nothing: the default loop has the handler of the signal."""

    def child(self, pid: int, trace: int = 0, ref: bool = True) -> Any:
        return child_watcher(self, pid, ref)

    def signal(self, *args: Any, **options: Any) -> "Watcher":
        raise TypeError("signal watchers are only available on the default loop")

    def handle_error(self, context: Any, kind: Any, value: Any, traceback: Any) -> None:
        self.error_handler.handle_error(context, kind, value, traceback)

    def closing_fd(self, fd: int) -> bool:
        """Fire all watchers of *fd*, which is about to be closed. True if there were any."""
        waiting = [each for each in self._active if isinstance(each, Descriptor) and each.fd == fd]
        for each in waiting:
            self.run_callback(each.fire)
        return bool(waiting)

    def reinit(self) -> None:
        """Called after a fork. Nothing to do: a child has neither this thread nor *shared*."""

    def now(self) -> float:
        return clock.real()

    def update_now(self) -> None:
        pass

    update = update_now

    def destroy(self) -> None:
        for watcher in list(self._active):
            watcher.close()

    def _format(self) -> str:
        return "without descriptors"

    # -- how it runs

    def end_when_idle(self) -> None:
        """Let `run` return when no watcher is active, as no other thread calls any more."""
        self._stays = False

    def _run_call(self, call: "_Call") -> None:
        callback, args = call.begin()
        if callback is not None and args is not None:
            self.call(callback, args)
        call.stop()

    def call(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Call *callback*, and let the hub print any exception."""
        try:
            callback(*args)
        except BaseException:
            self.error_handler.handle_error(callback, *sys.exc_info())

    def _call_due(self) -> None:
        for timer, start in self._deadlines.take_due():
            # An earlier one of them may have stopped it.
            if timer.starts == start:
                timer.fire()

    def _sleep(self) -> None:
        self._wake.sleep(self._deadlines.seconds_left())

    def arm(self, timer: "Timer", seconds: float) -> None:
        self._deadlines.add(timer, seconds)

    def is_active(self, watcher: "Watcher", active: bool) -> None:
        if active:
            self._active.add(watcher)
        else:
            self._active.discard(watcher)


class _Call:
    """A call that `ThreadLoop.run_callback` has queued. It can be stopped.

    It is true until the call has returned or was stopped, as gevent expects.
    """

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args: tuple[Any, ...] | None = args

    def begin(self) -> tuple[Callable[..., object] | None, tuple[Any, ...] | None]:
        """Return what to call with what. The call is no longer pending, but still true."""
        callback, self.callback = self.callback, None
        return callback, self.args

    def stop(self) -> None:
        self.callback = self.args = None

    close = stop

    def __bool__(self) -> bool:
        return self.args is not None

    @property
    def pending(self) -> bool:
        return self.callback is not None


class Watcher:
    """The base class of all watchers. By itself it never fires."""

    def __init__(self, loop: ThreadLoop, ref: bool) -> None:
        self.loop = loop
        #: Whether the loop keeps running while this watcher is active.
        self.ref = ref
        self.callback: Callable[..., object] | None = None
        self.args: tuple[Any, ...] = ()
        #: How often it was started or stopped. A callback for an older start does nothing.
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
        """Call the callback. Runs in the loop's thread only."""
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
        """Restart the timer. It fires next after *repeat* seconds."""
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
    """A watcher that any thread may fire."""

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
    """A watcher of a file descriptor.

    The shared loop does the watching. Its own watcher fires once and is then dropped, and is
    made again after this one has fired.
    """

    def __init__(self, loop: ThreadLoop, fd: int, events: int, ref: bool) -> None:
        super().__init__(loop, ref)
        if fd < 0:  # as gevent's own loops: otherwise its waiter would wait for ever
            raise ValueError(f"fd must be positive: {fd}")
        self.fd, self.events = fd, events
        # The watcher in the shared loop. Only the shared loop's thread touches it.
        self._watcher: Any = None
        self._passes_events = False

    def start(
        self,
        callback: Callable[..., object],
        *args: Any,
        update: bool = True,
        pass_events: bool = False,
    ) -> None:
        self._passes_events = pass_events
        super().start(callback, *args, update=update)

    def fire(self, events: int = 0) -> None:
        callback, args = self.callback, self.args
        if callback is not None:
            self.loop.call(callback, (events, *args) if self._passes_events else args)

    def _begin(self) -> None:
        self.loop.shared.call(self._watch, self.starts)

    def _end(self) -> None:
        # The caller may close the descriptor next. So return only when nothing watches it.
        if self.loop.shared.here():
            self._drop()
        elif not (self.loop.shared.is_copy or sys.is_finalizing()):  # else its thread has gone
            stopped = ThreadQueue()
            self.loop.shared.call(self._unwatch, stopped)
            stopped.get()

    def _watch(self, start: int) -> None:
        if self.starts == start:
            self._watcher = self.loop.shared.libev.io(self.fd, self.events)
            self._watcher.start(self._ready, start, pass_events=True)

    def _ready(self, events: int, start: int) -> None:
        self._drop()
        self.loop.run_callback_threadsafe(self._fire_once, events, start)

    def _fire_once(self, events: int, start: int) -> None:
        if self.starts == start:
            self.fire(events)
        if self.starts == start:  # the callback has not stopped it
            self._begin()

    def _unwatch(self, stopped: Any) -> None:
        self._drop()
        stopped.put(None)

    def _drop(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()


def run_in_hub(main: Callable[[], object], shared: Loop) -> None:
    """Run *main* in the calling thread, under a hub of gevent's, so that *main* can wait in it.

    The thread must be *main*'s own: its hub is destroyed in the end. *shared* watches file
    descriptors for it.
    """
    loop = ThreadLoop(shared)
    hub = Hub(loop=loop)
    set_hub(hub)
    try:
        main()
        loop.end_when_idle()
        # Let the hub's greenlet end. An unfinished greenlet of an ended thread is never
        # collected, and would hold the objects of its last call for ever.
        join_through(hub, main)
    finally:
        hub.destroy(destroy_loop=True)
