"""The command ``python -m ssestream migrate``: make the tables of channels in PostgreSQL."""

import argparse
import os

HELP = """\
Makes the tables and functions of ssestream in the schema "ssestream" of a database, unless they are
there. Do this once, before the app uses channels of postgresql://, with an account that may make
a schema. The SQL that --print prints also names the rights that the app's own account needs.

  python -m ssestream migrate postgresql://owner@localhost/app
  python -m ssestream migrate --print | psql app
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to *parser*."""
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="postgresql://user:password@host:5432/database; the default is SSESTREAM_URL in the"
        " environment, which hides a password from other users",
    )
    parser.add_argument("--print", action="store_true", help="print the SQL, and do nothing")


def run(options: argparse.Namespace) -> str:
    """Make the tables, or return the SQL that makes them. Returns what to print.

    Raises ``ValueError`` for a wrong URL, and `BrokerError`.
    """
    url = options.url or os.environ.get("SSESTREAM_URL") or ""
    if not options.print:
        if not url:
            raise ValueError("no database: give its URL, or set SSESTREAM_URL")
        if not url.startswith("postgres"):
            raise ValueError(
                "migrate is for postgresql:// only: the other brokers make what they need"
            )
    try:
        from .postgresql import migration
    except ImportError as error:
        raise ValueError("migrate needs psycopg: pip install ssestream[postgresql]") from error
    if options.print:
        return migration.statements()
    if migration.migrate(url):
        return "the tables are made\n"
    return "the tables are there already\n"
