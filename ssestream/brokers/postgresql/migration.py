"""Make the tables of a database, and tell whether it has those of this version."""

from importlib.resources import files

from .errors import MIGRATE, WrongVersion, explained
from .psycopg import Connection, connect
from .target import Target, parse

#: The version of the tables and functions in the files of SQL.
VERSION = 1

#: These files, in their order.
FILES = ("tables", "removal", "append", "batch", "read")

#: Seconds in which the tables must be made. Other sessions may have locked them.
MAKING = 60.0

#: Two processes make no tables at the same time: a number for PostgreSQL's advisory locks.
_LOCK = 0x535345


def statements() -> str:
    """The SQL that makes the tables, as one transaction."""
    folder = files(__package__)
    texts = [folder.joinpath(f"{name}.sql").read_text("utf-8") for name in FILES]
    return "\n".join(["BEGIN;\n", *texts, "COMMIT;\n"])


def migrate(url: str) -> bool:
    """Make the tables in the database of *url*. Returns False if they are there already.

    Raises ``ValueError`` for a wrong URL, and `BrokerError`, also if the tables are of a later
    version.
    """
    target = parse(url)
    with explained(target), connect(target.listening, prepares=False) as db:
        db.allow(MAKING)
        db.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        if _has_tables(db):
            check_version(db)
            return False
        db.execute(statements())
        return True


def check_version(db: Connection) -> None:
    """Raise `WrongVersion` if the tables are of another version. Raises as psycopg without them."""
    row = db.execute("SELECT max(version) FROM ssestream.version").fetchone()
    version = row[0] if row else None
    if version is None or version < VERSION:
        raise WrongVersion(f"its tables are of version {version}, not {VERSION}: {MIGRATE}")
    if version > VERSION:
        raise WrongVersion(
            f"its tables are of version {version}, and this ssestream knows version {VERSION}:"
            " install the ssestream that has run python -m ssestream migrate"
        )


def open_connection(target: Target, *, listens: bool = False) -> Connection:
    """A connection to a database with the tables of this version."""
    options = target.listening if listens else target.options
    db = connect(options, prepares=listens or not target.has_pooler)
    try:
        db.allow(ANSWER)
        check_version(db)
    except BaseException:
        db.close()
        raise
    return db


def _has_tables(db: Connection) -> bool:
    row = db.execute("SELECT to_regclass('ssestream.version') IS NOT NULL").fetchone()
    return bool(row and row[0])


#: Seconds in which the server must answer a call.
ANSWER = 2.0
