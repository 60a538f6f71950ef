"""once(): an event of a stream or a response, awaited."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ssestream import ServerResponse, SseStream, StreamDestroyed, once, set_timeout
from ssestream.http.outgoing import OutgoingMessage


class Sink:
    def __init__(self) -> None:
        self.took = True

    def write(self, chunk: bytes) -> bool:
        return self.took


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), 20))


def test_an_event_that_comes_later_is_awaited_and_gives_its_arguments() -> None:
    async def main() -> Any:
        emitter = OutgoingMessage()
        set_timeout(lambda: emitter.emit("own", 1, "two"), 10)
        args = await once(emitter, "own")
        return args, emitter.event_names()

    assert run(main) == ([1, "two"], set())


def test_drain_is_awaited_until_there_is_room() -> None:
    async def main() -> None:
        sse_stream = SseStream(high_water_mark=2)
        assert sse_stream.write({"data": 1})
        assert not sse_stream.write({"data": 2})
        set_timeout(lambda: sse_stream.pipe(Sink()), 10)
        assert await once(sse_stream, "drain") == []
        assert not sse_stream.writable_need_drain

    run(main)


def test_drain_that_has_come_already_is_not_waited_for() -> None:
    async def main() -> Any:
        return await once(SseStream(), "drain"), await once(ServerResponse(), "drain")

    assert run(main) == ([], [])


@pytest.mark.parametrize("late", [True, False], ids=["later", "before"])
def test_a_stream_that_closes_ends_the_wait(late: bool) -> None:
    async def main() -> Any:
        sse_stream = SseStream(high_water_mark=1)
        sse_stream.write({"data": 1})
        if late:
            set_timeout(sse_stream.destroy, 10)
        else:
            sse_stream.destroy()
        with pytest.raises(StreamDestroyed, match="'drain' will not come"):
            await once(sse_stream, "drain")
        assert await once(sse_stream, "close") == []

    run(main)


def test_close_is_awaited() -> None:
    async def main() -> Any:
        emitter = OutgoingMessage()
        set_timeout(emitter.destroy, 10)
        return await once(emitter, "close")

    assert run(main) == []


def test_an_error_is_raised_and_the_event_error_is_returned() -> None:
    async def main() -> Any:
        emitter = OutgoingMessage()
        set_timeout(lambda: emitter.emit("error", LookupError("no")), 10)
        with pytest.raises(LookupError):
            await once(emitter, "drain-that-never-comes")
        error = LookupError("yes")
        set_timeout(lambda: emitter.emit("error", error), 10)
        return await once(emitter, "error") == [error]

    assert run(main)


def test_a_cancelled_wait_leaves_no_handler() -> None:
    async def main() -> Any:
        emitter = OutgoingMessage()
        task = asyncio.create_task(once(emitter, "close"))
        await asyncio.sleep(0)
        assert emitter.event_names()
        task.cancel()
        await asyncio.wait([task])
        return emitter.event_names()

    assert run(main) == set()
