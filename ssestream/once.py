"""once(): await an event of a stream or a response, as with ``once`` of ``node:events``."""

import contextlib
from typing import Any

from .errors import StreamDestroyed


async def once(emitter: Any, event: str) -> list[Any]:
    """Wait for *event* of *emitter*, and return its arguments. For an ``async def``.

    *emitter* is a stream, a response or the ``req`` of a handler. This is how an async function
    waits for room::

        if not res.write(chunk):
            await once(res, "drain")

    Returns at once for ``"drain"`` if there is room by now, and for ``"close"`` if the emitter
    has closed. Raises the exception of ``"error"`` if that event comes first, and
    `StreamDestroyed` if *emitter* closes before any other event comes. Node's ``events.once``.
    """
    # Not before it is needed: asyncio takes 30 ms and some memory of each process.
    import asyncio

    loop = asyncio.get_running_loop()
    came: asyncio.Future[list[Any]] = loop.create_future()

    def settle(args: list[Any], error: BaseException | None) -> None:
        if came.done():
            return
        if error is None:
            came.set_result(args)
        else:
            came.set_exception(error)

    # Handlers run in another thread.
    def tell(args: list[Any], error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, args, error)

    def fail(error: Any = None) -> None:
        known = isinstance(error, BaseException)
        tell([], error if known else StreamDestroyed(f"an error: {error!r}"))

    def close() -> None:
        tell([], StreamDestroyed(f"it has closed, and {event!r} will not come"))

    handlers: list[tuple[str, Any]] = [(event, lambda *args: tell(list(args), None))]
    events = ("error", "close") if hasattr(emitter, "write") else ("close",)
    handlers += [(each, fail if each == "error" else close) for each in events if each != event]
    for name, handler in handlers:
        emitter.on(name, handler)
    try:
        # The event may have come since the caller has looked.
        if getattr(emitter, "destroyed", False):
            settle([], None) if event == "close" else close()
        elif event == "drain" and not emitter.writable_need_drain:
            tell([], None)
        return await came
    finally:
        for name, handler in handlers:
            emitter.off(name, handler)
