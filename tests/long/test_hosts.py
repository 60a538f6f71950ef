"""The short form of ``python -m tests.long.hosts``, of which ``tox -e hosts`` is the long one."""

import random
import signal
import subprocess
import sys

import pytest

from tests.kit.networks import skip_unless_permitted
from tests.kit.servers import ROOT
from tests.long.hosts.street import UNSHARE

#: What a street is made of. Not every kernel that has networks of their own has bridges.
TRY_IT = """
set -e
ip link add street type bridge
ip link add host type veth peer name out
ip link set host master street
unshare --net true
"""


@pytest.mark.long
@pytest.mark.server
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such networks")
def test_three_hosts_that_are_cut_off_and_reloaded_lose_nothing(
    nginx: str, redis_executable: str
) -> None:
    skip_unless_permitted([*UNSHARE, "bash", "-c", TRY_IT])
    seed = random.SystemRandom().randrange(1_000_000)
    command = [sys.executable, "-m", "tests.long.hosts", "--seed", str(seed), "--seconds", "16"]
    command += ["--messages", "1000", "--clients", "12", "--worker-class", "SseWorker"]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = program.communicate()
    finally:
        # If the test is given up, the program still ends its servers.
        program.send_signal(signal.SIGINT)
        program.wait()
    assert program.returncode == 0, said
    assert said.endswith("== every client has every message once and in order\n")
