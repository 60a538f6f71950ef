"""A real PgBouncer in transaction mode, before a real PostgreSQL."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.kit.postgresql_server import PostgresqlServer
from tests.kit.servers import free_port, wait_until

CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {size}
"""


class PgBouncer:
    """A pooler with *size* connections to *server*, for any number of clients."""

    def __init__(self, executable: str, server: PostgresqlServer, size: int = 2) -> None:
        self.port = free_port()
        # It refuses to run as root.
        user = "postgres" if os.geteuid() == 0 else None
        self.folder = tempfile.mkdtemp(prefix="ssestream-pgbouncer-")
        folder = Path(self.folder)
        file = folder / "pgbouncer.ini"
        words = {"server": server.port, "port": self.port, "folder": folder, "size": size}
        file.write_text(CONFIGURATION.format(**words))
        (folder / "users").write_text('"postgres" ""\n')
        folder.chmod(0o755)
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [executable, str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user
            )
        wait_until(self._answers, "PgBouncer to answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, (Path(self.folder) / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def url(self, url: str) -> str:
        """The same database as that of *url*, by way of the pooler."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{url.rpartition('/')[2]}"

    def remove(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)
