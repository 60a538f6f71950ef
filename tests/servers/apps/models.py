"""Answers of a model, drawn with the async clients of ``openai`` and ``httpx``."""

import asyncio
import json
import os

import httpx
import openai
from flask import Flask, request

from ssestream import ServerResponse, SseStream, handler, once, pipeline
from tests.servers.apps import tell

URL = os.environ["MODEL_URL"]

app = Flask(__name__)


def prompt(count):
    return [{"role": "user", "content": json.dumps(count)}]


async def by_openai(count, who):
    try:
        async with openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="m", messages=prompt(count), stream=True
            )
            async for chunk in stream:
                yield {"data": chunk.choices[0].delta.content}
    finally:
        tell(event="ended", who=who)


async def by_httpx(count, who):
    body = {"model": "m", "messages": prompt(count), "stream": True}
    try:
        async with (
            httpx.AsyncClient() as client,
            client.stream("POST", f"{URL}/chat/completions", json=body, timeout=60) as answer,
        ):
            # The text of an event stream, as it comes.
            async for text in answer.aiter_text():
                yield text
    finally:
        tell(event="ended", who=who)


SOURCES = {"openai": by_openai, "httpx": by_httpx}


@app.get("/pipeline/<kind>/<int(signed=True):count>/<who>")
def piped(kind, count, who):
    source = SOURCES[kind](None if count < 0 else count, who)
    return pipeline(source, SseStream(request), ServerResponse())


@app.get("/handler/<kind>/<int(signed=True):count>/<who>")
@handler
async def handled(req, res, kind, count, who):
    res.write_head(200, {"Content-Type": "text/event-stream"})
    async for item in SOURCES[kind](None if count < 0 else count, who):
        text = item if isinstance(item, str) else f"data: {item['data']}\n\n"
        if not res.write(text):
            await once(res, "drain")
    res.end()


@app.get("/stuck/<who>")
@handler
async def stuck(req, res, who):
    """Waits in one await, with no write."""
    res.flush_headers()
    try:
        await asyncio.sleep(60)
    finally:
        tell(event="ended", who=who)


@app.get("/state")
def state():
    return {
        "pid": os.getpid(),
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }
