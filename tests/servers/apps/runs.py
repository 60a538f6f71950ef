"""Runs of numbers, for watchers that reload while workers and brokers die."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask, request

from ssestream import Channels, Runs
from tests.servers.apps import tell

app = Flask(__name__)
app.config["SSESTREAM_RETRY_AFTER"] = [10, 100]
# A client that vanishes is noticed soon.
app.config["SSESTREAM_TCP_USER_TIMEOUT"] = 4.0
channels = Channels(os.environ["BROKER"])
runs = Runs(channels, ttl=float(os.environ.get("RUNS_TTL", 600)), cancel_after=4.0)


def numbers(id: str, count: int, pace: float) -> Iterator[dict[str, Any]]:
    try:
        for n in range(count):
            time.sleep(pace)
            yield {"data": n}
    finally:
        tell(closed=id)


async def async_numbers(id: str, count: int, pace: float) -> AsyncIterator[dict[str, Any]]:
    try:
        for n in range(count):
            await asyncio.sleep(pace)
            yield {"data": n}
    finally:
        tell(closed=id)


async def numbers_of_threads(id: str, count: int, pace: float) -> AsyncIterator[dict[str, Any]]:
    """Each needs a new thread, as asyncio does to look up an address."""
    for n in range(count):
        with ThreadPoolExecutor(1) as pool:
            await asyncio.get_running_loop().run_in_executor(pool, time.sleep, pace)
        yield {"data": n}


SOURCES: dict[str, Any] = {
    "plain": numbers,
    "async": async_numbers,
    "threads": numbers_of_threads,
}


@app.get("/start/<id>")
def start(id: str) -> dict[str, Any]:
    count, pace = int(request.args["count"]), float(request.args["pace"])
    source = SOURCES[request.args.get("source", "plain")](id, count, pace)
    on_disconnect: Any = request.args.get("on_disconnect", "continue")
    run = runs.start(source, id=id, on_disconnect=on_disconnect)
    return {"id": run.id, "pid": os.getpid()}


@app.post("/chat/<id>")
def chat(id: str) -> Any:
    count, pace = int(request.args["count"]), float(request.args["pace"])
    return runs.start(numbers(id, count, pace), id=id).stream(request)


@app.get("/runs/<id>")
def stream(id: str) -> Any:
    return runs.stream(id, request)


@app.get("/stop/<id>")
def stop(id: str) -> dict[str, Any]:
    return {"stopped": runs.stop(id), "pid": os.getpid()}


@app.get("/status/<id>")
def status(id: str) -> dict[str, Any]:
    return {"status": runs.status(id), "pid": os.getpid()}
