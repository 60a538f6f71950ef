"""A stand-in for a model's server: it streams chat completions slowly, and knows who is there."""

import asyncio
import contextlib
import json
import threading
from typing import Any

#: Seconds between two pieces of an answer.
PAUSE = 0.02


class Model:
    """The server, in a thread of this process. A context manager.

    It answers every request with pieces ``"piece0 "``, ``"piece1 "`` and so on, as events of
    ``/chat/completions``. The first message of the request says how many: None is endless.
    """

    def __init__(self) -> None:
        #: The number of clients that an answer goes to now, and of all that there were.
        self.connected = self.seen = 0
        self.port = 0
        self._ready = threading.Event()
        # Made in the thread.
        self._loop: Any = None
        self._over: Any = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "Model":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()

    async def _answer(self, reader: Any, writer: Any) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split()[0])
            count = json.loads(
                json.loads(await reader.readexactly(length))["messages"][0]["content"]
            )
            self.connected += 1
            self.seen += 1
            # The client sends nothing more: its next byte is the end of the connection.
            gone = asyncio.ensure_future(reader.read(1))
            try:
                await self._stream(writer, count, gone)
            finally:
                self.connected -= 1
                gone.cancel()
                writer.close()

    async def _stream(self, writer: Any, count: int | None, gone: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Connection: close\r\n\r\n")
        number = 0
        while not gone.done() and number != count:
            delta = {"index": 0, "delta": {"content": f"piece{number} "}, "finish_reason": None}
            chunk = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            writer.write(b"data: %s\n\n" % json.dumps({**chunk, "choices": [delta]}).encode())
            await writer.drain()
            await asyncio.wait([gone], timeout=PAUSE)
            number += 1
        writer.write(b"data: [DONE]\n\n")
