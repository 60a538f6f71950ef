"""Child processes that are started in a thread with a hub of its own."""

import pytest
from gevent.core import loop as libev_loop

from ssestream.runtime.children import child_watcher
from tests.kit.programs import run_program

_PROGRAM = """
from gevent import monkey; monkey.patch_all()
import os, subprocess, time
import gevent
from ssestream.runtime.children import expect_children
from ssestream.runtime.loop import current_loop
from ssestream.runtime.threadloop import run_in_hub
from ssestream.runtime.threads import start_thread

shared, codes = current_loop(), []
expect_children()
def start(code):
    codes.append((code, subprocess.run(["sh", "-c", f"exit {code}"]).returncode))

def fork(code):
    pid = os.fork()
    if not pid:
        os._exit(code)
    codes.append((code, os.waitpid(pid, 0)[1] >> 8))

# One thread, as that of async sources: in a patched process the locks that a fork takes are
# gevent's, and many threads that fork at the same time may hang.
def main():
    gevent.joinall([gevent.spawn(HOW, code) for code in range(20)])

start_thread(run_in_hub, (main, shared))
deadline = time.monotonic() + 60
while len(codes) < 20 and time.monotonic() < deadline:
    time.sleep(0.001)
print(sorted(codes) == [(code, code) for code in range(20)] or codes)
"""


@pytest.mark.long_except("start")
@pytest.mark.parametrize("how", ["start", "fork"])
def test_each_greenlet_gets_the_exit_code_of_its_own_child(how: str) -> None:
    ran = run_program(_PROGRAM.replace("HOW", how), options=("-W", "ignore"))
    assert (ran.stdout, ran.stderr) == ("True\n", "")


def test_without_the_default_loop_it_is_gevents_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssestream.runtime.children.default_loop", lambda: None)
    loop = libev_loop(default=False)
    with pytest.raises(TypeError, match="default loop"):
        child_watcher(loop, 1, True)
    loop.destroy()
