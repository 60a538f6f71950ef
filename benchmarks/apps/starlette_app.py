"""sse-starlette: a queue for each client, as its examples have it."""

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

TEXT = os.environ["BENCHMARK_TEXT"]
queues: set[asyncio.Queue[dict[str, object]]] = set()
numbers = itertools.count(1)


async def news(request: Request) -> EventSourceResponse:
    queue: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    queues.add(queue)

    async def stream() -> AsyncIterator[dict[str, str]]:
        try:
            while True:
                yield {"data": json.dumps(await queue.get())}
        finally:
            queues.discard(queue)

    return EventSourceResponse(stream())


async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        for _ in range(int(line.removeprefix(b"publish "))):
            message = {"n": next(numbers), "text": TEXT}
            for queue in queues:
                queue.put_nowait(message)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    port = int(os.environ["BENCHMARK_CONTROL"])
    async with await asyncio.start_server(control, "127.0.0.1", port):
        yield


app = Starlette(routes=[Route("/news", news)], lifespan=lifespan)
