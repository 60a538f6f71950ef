"""``python -m tests.long.reloads``: gunicorn reloads again and again while answers run.

Answers that can end while their worker waits for them must come whole. At one reload of twenty
there are some without an end, too: each must be broken, so that no client takes it for a whole one.
gunicorn's master handles no other reload while an old worker waits, so that these reloads take all
of its graceful timeout. The next reload comes as soon as another worker serves and as many answers
run as are asked for.

It exits with 1 if an answer was lost or taken for whole, and with 2 if it only ran out of time.

The seed decides how long the answers are, not when a reload meets them.
"""

import argparse
import functools
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import gevent
import gevent.socket

from ssestream.wire import Decoder
from tests.kit.servers import Server, ask, body_of

LAST_CHUNK = b"\r\n0\r\n\r\n"

#: Seconds that gunicorn waits for a worker that stops. Far more than an answer takes that can end.
GRACEFUL = 20

#: Pieces of an answer that can end, and the milliseconds between two.
PIECES, PACE = (3, 12), 150

#: The ways to write an answer: the paths of the app.
WAYS = ("/pipeline", "/handler", "/written", "/timer", "/async_pipeline", "/async_handler")

#: Pieces of an answer without an end.
ENDLESS = 1_000_000

#: So many answers without an end run at one reload of so many.
ENDLESS_ANSWERS, ONE_IN = 12, 20

#: Seconds without a byte of an answer, after which it is lost, and seconds for one reload.
PATIENCE = 120.0


class Reader:
    """A client that asks for one answer after another as long as it `asks`, at least for one."""

    def __init__(self, port: int, seed: str, is_endless: bool) -> None:
        self.asks = True
        #: Whether an answer has begun, and has not ended.
        self.is_reading = False
        self.ends: Counter[str] = Counter()
        self._port, self._dice, self._is_endless = port, random.Random(seed), is_endless
        self._running = gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            count = ENDLESS if self._is_endless else self._dice.randint(*PIECES)
            self.ends[self._read(count)] += 1
            if self._is_endless or not self.asks:
                return

    def _read(self, count: int) -> str:
        received, error = b"", ""
        path = f"{self._dice.choice(WAYS)}?count={count}&ms={PACE}"
        request = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        try:
            with gevent.socket.create_connection(("127.0.0.1", self._port), PATIENCE) as sock:
                sock.sendall(request.encode())
                while not received.endswith(LAST_CHUNK) and (data := sock.recv(1 << 16)):
                    received += data
                    self.is_reading = True
        except OSError as broken:
            error = repr(broken)
        finally:
            self.is_reading = False
        is_whole = received.endswith(LAST_CHUNK)
        pieces = [
            each["data"] for each in Decoder().feed(body_of(received)) if set(each) == {"data"}
        ]
        # Of an answer without an end, no list of a million pieces is made.
        has_all = len(pieces) == count + 1 and pieces == [*map(str, range(count)), "[DONE]"]
        if has_all and is_whole:
            return "whole"
        # Until its worker has waited, nothing ends an answer.
        if self._is_endless and not is_whole and pieces[:-1] == [*map(str, range(len(pieces) - 1))]:
            return "broken, and has no end"
        what = "taken for whole" if is_whole else "lost"
        return f"{what}, with {len(pieces)} of {count} pieces {error}: {received[-200:]!r}"

    def join(self) -> None:
        self._running.join()


def reload_under_answers(
    kind: str, seed: int, reloads: int, answers: int, seconds: float
) -> tuple[bool, bool]:
    """Reload a server of *kind* again and again, and print what came of it.

    Returns whether an answer was lost, and whether *seconds* were enough for all *reloads*.
    """
    server = Server(
        kind,
        "tests.servers.apps.endings:app",
        args=("-c", "tests/servers/apps/reload.conf.py", "--graceful-timeout", str(GRACEFUL))
        + ("--worker-connections", "4000"),
    )
    readers: list[Reader] = []
    done, began = 0, time.monotonic()
    try:
        server.start()
        # Some are between two answers at any time.
        for number in range(answers + answers // 5 + 1):
            readers.append(Reader(server.port, f"{seed}:{number}", False))
        assert server.process is not None
        pid = _pid(server)
        while done < reloads and time.monotonic() < began + seconds:
            endless: list[Reader] = []
            if done % ONE_IN == 0:
                for number in range(ENDLESS_ANSWERS):
                    endless.append(Reader(server.port, f"{seed}:{done}:{number}", True))
            _wait(functools.partial(_all_read, endless), "answers without an end to run")
            readers.extend(endless)
            _wait(lambda: sum(each.is_reading for each in readers) >= answers, "answers to run")
            server.process.send_signal(signal.SIGHUP)
            pid = _another_pid(server, pid)
            done += 1
            if done % 50 == 0:
                print(f"{done} of {reloads} reloads", flush=True)
        for reader in readers:
            reader.asks = False
        server.process.terminate()
        for reader in readers:
            reader.join()
    finally:
        server.stop()
        ends: Counter[str] = Counter()
        for reader in readers:
            ends += reader.ends
        took = time.monotonic() - began
        print(
            f"{kind}, seed {seed}: {done} of {reloads} reloads under {answers} answers"
            f" in {took:.0f} s"
        )
        wrong = {end: count for end, count in ends.items() if end.startswith(("taken", "lost"))}
        for end, count in (ends - Counter(wrong)).items():
            print(f"{count} answers: {end}")
        print("\n".join(list(wrong)[:20]) or "nothing is wrong", flush=True)
    return bool(wrong), done == reloads


def _all_read(readers: list[Reader]) -> bool:
    return all(each.is_reading for each in readers)


def _pid(server: Server) -> bytes:
    return ask(server.port, "/pid", connect=gevent.socket.create_connection, patience=PATIENCE)


def _another_pid(server: Server, old: bytes) -> bytes:
    """Wait until another worker than *old* serves."""
    with gevent.Timeout(PATIENCE, AssertionError("waited in vain for another worker to serve")):
        while (pid := _pid(server)) == old:
            gevent.sleep(0.05)
    return pid


def _wait(condition: Callable[[], bool], what: str) -> None:
    with gevent.Timeout(PATIENCE, AssertionError(f"waited in vain for {what}")):
        while not condition():
            gevent.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", default="SseWorker", choices=("SseWorker", "gevent", "gthread"))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3600.0, help="reload no more after these")
    given = parser.parse_args()
    print(f"{given.worker}, seed {given.seed}", flush=True)
    lost, all_done = reload_under_answers(
        given.worker, given.seed, given.reloads, given.answers, given.seconds
    )
    return 1 if lost else 0 if all_done else 2


if __name__ == "__main__":
    raise SystemExit(main())
