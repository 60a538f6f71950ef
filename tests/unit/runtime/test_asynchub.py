"""asyncio in a thread of a monkey-patched process: what libraries start there runs."""

import json
import subprocess
import sys

import pytest

from tests.kit.servers import ROOT

_PROGRAM = """
from gevent import monkey; monkey.patch_all()
import asyncio, contextvars, json, os, queue, socket, subprocess, sys, threading, time
import anyio.to_thread
from ssestream import set_timeout
from ssestream.runtime.asyncloop import AsyncTask
from ssestream.runtime.loop import current_loop

def run(main):
    ended = []
    AsyncTask("", main, contextvars.Context(), lambda *outcome: ended.append(outcome))
    deadline = time.monotonic() + 60
    while not ended:
        if time.monotonic() > deadline:
            return "it hangs"
        time.sleep(0.001)
    return str(ended[0][0] if ended[0][1] is None else repr(ended[0][1]))

# As on every server: the main thread's hub is known.
current_loop()
results = {}
for name, body in json.loads(sys.stdin.read()).items():
    exec("async def main():\\n    loop = asyncio.get_running_loop()\\n" + body)
    results[name] = run(main)
print(json.dumps(results))
"""

#: What is done in a coroutine, and its result.
BODIES = {
    "to_thread": ("return await asyncio.to_thread(lambda: time.sleep(0.01) or 1)", "1"),
    "anyio": ("return await anyio.to_thread.run_sync(lambda: time.sleep(0.01) or 1)", "1"),
    "side by side": (
        """
    begin = time.monotonic()
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.5) for _ in range(4)))
    return time.monotonic() - begin < 1.5""",
        "True",
    ),
    "thread": (
        """
    done, words = asyncio.Event(), queue.Queue()
    def answer():
        assert words.get() == "question"
        loop.call_soon_threadsafe(done.set)
    threading.Thread(target=answer).start()
    words.put("question")
    await done.wait()
    return 1""",
        "1",
    ),
    "a loop in a thread": (
        """
    async def inside():
        return 1
    return await asyncio.to_thread(asyncio.run, inside())""",
        "1",
    ),
    "a pipe that a thread closes": (
        """
    def close():
        reads, writes = os.pipe()
        os.set_blocking(reads, False)
        os.close(writes)
        time.sleep(0.01)  # gevent closes it in the next turn of its loop
        return os.read(reads, 1), os.close(reads)
    return await asyncio.to_thread(close)""",
        "(b'', None)",
    ),
    "getaddrinfo": ("return len(await loop.getaddrinfo('127.0.0.1', 80)) > 0", "True"),
    "sockets": (
        """
    async def answer(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=1 << 21)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1 << 21)
    writer.write(b"x" * 1_000_000 + b"\\n")
    line = await reader.readexactly(1_000_001)
    writer.close()
    server.close()
    return len(line)""",
        "1000001",
    ),
    "subprocess": (
        """
    child = await asyncio.create_subprocess_exec("sh", "-c", "echo a; exit 3", stdout=-1)
    return (await child.communicate())[0], child.returncode""",
        "(b'a\\n', 3)",
    ),
    "many subprocesses": (
        """
    async def one(code):
        return await (await asyncio.create_subprocess_exec("sh", "-c", f"exit {code}")).wait()
    return await asyncio.gather(*map(one, range(20))) == list(range(20))""",
        "True",
    ),
    "a subprocess that blocks": ("return subprocess.run(['sh', '-c', 'exit 4']).returncode", "4"),
    "a subprocess in a thread": (
        "return (await asyncio.to_thread(subprocess.run, ['sh', '-c', 'exit 5'])).returncode",
        "5",
    ),
    "a killed subprocess": (
        """
    child = await asyncio.create_subprocess_exec("sleep", "60")
    child.kill()
    return await child.wait()""",
        "-9",
    ),
    "lock": (
        """
    lock, held = threading.Lock(), threading.Event()
    def hold():
        with lock:
            held.set()
            time.sleep(0.05)
    set_timeout(hold, 1)
    while not held.is_set():
        await asyncio.sleep(0.001)
    with lock:
        return 1""",
        "1",
    ),
    "timeout": (
        """
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.01)
    except asyncio.TimeoutError:
        return 1""",
        "1",
    ),
}


def run(bodies: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps(bodies),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.long
def test_it_runs_and_the_process_ends() -> None:
    ran = run(
        {
            name: body if body.startswith("\n") else f"    {body}"
            for name, (body, _) in BODIES.items()
        }
    )
    assert ran.stderr == ""
    assert json.loads(ran.stdout) == {name: expected for name, (_, expected) in BODIES.items()}


def test_the_process_ends_with_a_loop_that_a_call_has_left_open() -> None:
    body = "    global left; left = await asyncio.to_thread(asyncio.new_event_loop)"
    ran = run({"open": body})
    assert json.loads(ran.stdout) == {"open": "None"}
