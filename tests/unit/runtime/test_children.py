"""Child processes that are started in threads with a hub of their own."""

import pytest
from gevent.core import loop as libev_loop

from ssestream.runtime.children import child_watcher
from tests.kit.programs import run_program

_PROGRAM = """
from gevent import monkey; monkey.patch_all()
import os, subprocess, time
from ssestream.runtime.children import expect_children
from ssestream.runtime.loop import current_loop
from ssestream.runtime.threadloop import run_in_hub
from ssestream.runtime.threads import start_thread

shared, started, codes = current_loop(), [], []
expect_children()
# Threads that import one module at a time may hang: the lock of the import is gevent's.
subprocess.run(["true"])

def wait_for_all(code):
    started.append(code)
    while len(started) < 20:
        time.sleep(0.001)

def start(code):
    child = subprocess.Popen(["sh", "-c", f"read line; exit {code}"], stdin=subprocess.PIPE)
    wait_for_all(code)
    child.communicate(b"go\\n")
    codes.append((code, child.returncode))

def fork(code):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(reader, 1)
        os._exit(code)
    wait_for_all(code)
    os.write(writer, b"x")
    codes.append((code, os.waitpid(pid, 0)[1] >> 8))

# The children end at the same time, and start one after another: threads that fork at the same
# time may hang, as the locks that a fork takes are gevent's.
for code in range(20):
    start_thread(run_in_hub, (lambda code=code: HOW(code), shared))
    while len(started) <= code:
        time.sleep(0.001)
deadline = time.monotonic() + 60
while len(codes) < 20 and time.monotonic() < deadline:
    time.sleep(0.001)
print(sorted(codes) == [(code, code) for code in range(20)] or codes)
"""


@pytest.mark.long_except("start")
@pytest.mark.parametrize("how", ["start", "fork"])
def test_each_thread_gets_the_exit_code_of_its_own_child(how: str) -> None:
    ran = run_program(_PROGRAM.replace("HOW", how), options=("-W", "ignore"))
    assert (ran.stdout, ran.stderr) == ("True\n", "")


def test_without_the_default_loop_it_is_gevents_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssestream.runtime.children.default_loop", lambda: None)
    loop = libev_loop(default=False)
    with pytest.raises(TypeError, match="default loop"):
        child_watcher(loop, 1, True)
    loop.destroy()
