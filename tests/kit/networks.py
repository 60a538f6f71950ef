"""Two networks of their own with a cable between them: gunicorn here, a client there."""

import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.kit.servers import NO_CONTROL_SOCKET, ROOT

_SCRIPT = """
set -eu
ip link set lo up
ip link add here type veth peer name there
unshare --net sleep 600 & elsewhere=$!
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
until ip link set there netns $elsewhere 2>/dev/null && ! ip link show there >/dev/null 2>&1
do sleep 0.01; done
ip address add 10.77.0.1/24 dev here
CABLE
ip link set here up
inside() { nsenter --net=/proc/$elsewhere/ns/net "$@"; }
inside ip address add 10.77.0.2/24 dev there
inside ip link set there up
"$1" -m gunicorn -k gevent -b 10.77.0.1:8000 ${2-} tests.servers.apps.app:app &
BESIDE
inside "$1" -c '
import socket, time
def connect(path, port=8000):
    while True:
        try:
            sock = socket.create_connection(("10.77.0.1", port))
            break
        except OSError:
            time.sleep(0.05)
    sock.sendall(b"GET %b HTTP/1.1\\r\\nHost: there\\r\\n\\r\\n" % path)
    return sock
CLIENT
' &
read -r _
AFTERWARDS
"""


def skip_unless_permitted(command: list[str]) -> None:
    """Skip the test unless *command* succeeds, which makes a network and what is needed in it."""
    tools = all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip"))
    if not tools or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("left out, as no network of its own is permitted here; the others try the same")


def start_networks(
    client: str, cable: str = "", afterwards: str = "", beside: str = "", **options: Any
) -> "subprocess.Popen[Any]":
    """Start gunicorn with ``apps.app``, and the program *client*, which can ``connect(path)``.

    *cable* is what is set on its end ``here``. *beside* starts what else runs beside gunicorn.
    *afterwards* is done when a line comes on standard input. *options* are `subprocess.Popen`'s. It
    skips the test where this is not permitted.
    """
    make = ["unshare", "--net", "--map-root-user", "bash", "-c"]
    skip_unless_permitted([*make, f"set -e\nip link add here type veth peer name there\n{cable}"])
    script = _SCRIPT
    parts = {"CABLE": cable, "BESIDE": beside, "CLIENT": client, "AFTERWARDS": afterwards}
    for name, text in parts.items():
        script = script.replace(f"\n{name}\n", f"\n{text}\n")
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT), **options.pop("env")}
    return subprocess.Popen(
        [*make, script, "bash", sys.executable, *NO_CONTROL_SOCKET],
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **options,
    )
