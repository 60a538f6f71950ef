"""A real PostgreSQL on a free port, to be stopped, killed, frozen and started again."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from ssestream.brokers.postgresql.migration import migrate
from tests.kit.servers import free_port, wait_until

#: The database that each other one is a copy of.
TEMPLATE = "migrated"

LOOPBACK = "127.0.0.1"

#: A folder in memory, on Linux, and the bytes that must be free there.
MEMORY, ROOM = Path("/dev/shm"), 2 << 30


def programs_of_postgresql() -> Path | None:
    """The folder of PostgreSQL's programs, which are in nobody's PATH."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(found, key=lambda each: float(each.parts[-3]), default=None)
    return None if newest is None else newest.parent


def in_memory() -> str | None:
    """A folder in memory, where a new database takes a tenth of the time; None if there is none."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        return str(MEMORY)
    return None


def change(url: str, *statements: str) -> None:
    """Do *statements* behind the broker's back, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as db:
        for each in statements:
            db.execute(each)


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class PostgresqlServer:
    """One server and its data, with the programs of the folder *programs*.

    The server keeps nothing over a crash of the machine, but all over the end of its processes.
    It listens at *address*. With another one than the default, all clients are let in. With
    *primary*, it is a standby of that server, which runs. Its files are in *parent*, or where all
    temporary files are.
    """

    def __init__(
        self,
        programs: Path,
        address: str = LOOPBACK,
        primary: "PostgresqlServer | None" = None,
        parent: str | None = None,
    ) -> None:
        self.address = address
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="ssestream-postgresql-", dir=parent)
        # The server refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._programs = programs
        self._data = str(Path(self.folder) / "data")
        self._numbers = itertools.count(1)
        self.process: subprocess.Popen[bytes] | None = None
        if primary is not None:
            source = f"host={primary.address} port={primary.port} user=postgres"
            self._run("pg_basebackup", "-D", self._data, "-d", source, "-R", "-c", "fast")
            return
        locale = ("-E", "UTF8", "--locale=C")
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", *locale)
        if address != LOOPBACK:
            with (Path(self._data) / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all trust\n")

    def _run(self, program: str, *args: str) -> None:
        command = [str(self._programs / program), *args, "--no-sync"]
        subprocess.run(command, user=self._user, cwd=self.folder, check=True, capture_output=True)

    def start(self, *settings: str) -> "PostgresqlServer":
        """On the same port and the same data as before. A setting is ``name=value``."""
        given = ["fsync=off", "max_connections=200", "unix_socket_directories=", *settings]
        command = [str(self._programs / "postgres"), "-D", self._data, "-p", str(self.port)]
        command += ["-h", self.address, *(word for each in given for word in ("-c", each))]
        with (Path(self.folder) / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self.folder,
                # A frozen server is frozen with all its processes.
                start_new_session=True,
            )
        wait_until(self._answers, "PostgreSQL to answer")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (Path(self.folder) / "log").read_text()
        try:
            self.client("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def take(self, path: str) -> str:
        """Copy the file *path* for the server, so that nobody else can read it."""
        copy = Path(self.folder) / Path(path).name
        shutil.copyfile(path, copy)
        copy.chmod(0o600)
        if self._user is not None:
            shutil.chown(copy, self._user)
        return str(copy)

    # -- databases

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@{self.address}:{self.port}/{database}"

    def client(self, database: str) -> "psycopg.Connection[Any]":
        """For what a test asks or does behind the broker's back."""
        return psycopg.connect(self.url(database), autocommit=True)

    def execute(self, database: str, statement: str) -> list[Any]:
        """The rows of *statement*."""
        with self.client(database) as db:
            cursor = db.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def make_empty_database(self) -> str:
        """The URL of a database without any table."""
        name = f"empty{next(self._numbers)}"
        self.execute("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def make_database(self) -> str:
        """The URL of a database with the tables, in which nothing was ever published."""
        name = f"events{next(self._numbers)}"
        with self.client("postgres") as db:
            found = db.execute("SELECT FROM pg_database WHERE datname = %s", (TEMPLATE,))
            if found.fetchone() is None:
                db.execute(f"CREATE DATABASE {TEMPLATE}")
                migrate(self.url(TEMPLATE))
            db.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(name), sql.Identifier(TEMPLATE)
                )
            )
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Also if somebody still uses it."""
        name = url.rpartition("/")[2]
        self.execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    # -- a standby

    def replicate(self) -> None:
        """Answer no transaction from now on before a standby has it."""
        self.configure("synchronous_standby_names = '*'")
        statement = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: self.execute("postgres", statement) == [(1,)], "the standby to follow")

    def detach(self) -> None:
        """Let this standby get no more of its primary."""
        self.configure("primary_conninfo = ''")
        statement = "SELECT count(*) FROM pg_stat_wal_receiver"
        wait_until(lambda: self.execute("postgres", statement) == [(0,)], "the standby to stop")

    def wait_for(self, primary: "PostgresqlServer") -> None:
        """Wait until this standby has all that *primary* has committed."""
        ((at,),) = primary.execute("postgres", "SELECT pg_current_wal_lsn()::text")
        statement = f"SELECT pg_last_wal_replay_lsn() >= '{at}'"
        wait_until(lambda: self.execute("postgres", statement) == [(True,)], "the standby")

    def promote(self) -> None:
        """Let this standby be a primary, which takes writes."""
        self.execute("postgres", "SELECT pg_promote()")

    def configure(self, setting: str) -> None:
        """Change a setting, written ``name = value``, of the running server."""
        self.execute("postgres", f"ALTER SYSTEM SET {setting}")
        self.execute("postgres", "SELECT pg_reload_conf()")

    # -- the end

    def stop(self) -> None:
        """As an operator does who does not wait for the clients."""
        self._end(signal.SIGINT)

    def stop_at_once(self) -> None:
        """As ``pg_ctl stop -m immediate`` does: the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """As a failing machine does, or one without memory."""
        if self.process is not None:
            killed = self._signal_all(signal.SIGKILL)
            self.process.wait(60)
            self.process = None
            # The next server starts only when all processes of this one have gone.
            wait_until(lambda: not any(map(_is_running, killed)), "the processes to end")

    def freeze(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def remove(self) -> None:
        # The server frees its shared memory, and writes nothing.
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal_all(self, number: signal.Signals) -> list[psutil.Process]:
        """The server has a process for each connection, in a group of its own."""
        assert self.process is not None
        server = psutil.Process(self.process.pid)
        # Before it could start another one.
        server.suspend()
        them = [*server.children(), server]
        for each in them:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)
        return them

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None
