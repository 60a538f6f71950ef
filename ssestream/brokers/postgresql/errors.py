"""What an error of PostgreSQL means, and how this package's errors are raised for it."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from ..broker import BrokerError, Busy, ChannelError
from .pool import NoTurn
from .psycopg import Error, OperationalError, reasons_of
from .target import Target

#: All errors that a call may raise.
ERRORS = (Error, OSError, MemoryError)

#: The cure for a database without the tables of this version.
MIGRATE = "make its tables with: python -m ssestream migrate URL"

#: The cures of errors by their SQLSTATE, or by the class of their SQLSTATE, its first two digits.
CURES = {
    "42P01": MIGRATE,
    "42883": MIGRATE,
    "3F000": MIGRATE,
    "42703": MIGRATE,
    "42501": "python -m ssestream migrate --print shows the rights that an account needs",
    "25006": "the server is a standby, or read-only: it takes no events; with several hosts in the"
    " URL, add ?target_session_attrs=read-write",
    "53100": "make room on its disk",
    "53300": "the server allows no more connections: raise its max_connections, or have a pooler",
    "55P03": "a transaction that has published to this channel is not committed yet",
    "26": "a pooler stands between: give the URL of the server itself as ?notify_url=",
    "42P05": "a pooler stands between: give the URL of the server itself as ?notify_url=",
}

#: The SQLSTATEs, and their classes, of errors that may pass by themselves: the connection, a
#: transaction that has met another one, resources, a lock, an operator, the system.
PASSING = ("08", "40", "53", "55", "57", "58", "25006")

#: The SQLSTATEs of errors with which the server has undone the call: a lock that was not free, a
#: deadlock, and a transaction that cannot be put in a row with others. Another try is a first try.
UNDONE = ("55P03", "40P01", "40001")

#: Damage of single rows, what this package's own functions say of it, values that are too great,
#: and an entry with a number that the log has already.
_OF_CHANNEL = ("XX001", "XX002", "22", "23")

#: A server that refuses a connection tells no SQLSTATE. These words are its lasting reasons.
_REFUSED = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|does not exist|not permitted to log"
    r"|permission denied|certificate|not accept SSL|does not support SSL|no such user"
    r"|not allowed"
)


class WrongVersion(Exception):
    """The tables are of another version of ssestream."""


@contextlib.contextmanager
def explained(target: Target, channel: str | None = None) -> Iterator[None]:
    """Raise a `BrokerError` for an error of psycopg.

    Raises a `ChannelError` if the error concerns only *channel*, and `Busy` for a lack of free
    connections. *channel* is None if the call does not concern exactly one channel.
    """
    try:
        yield
    except NoTurn as error:
        raise Busy(f"{target.where}: {error}") from None
    except WrongVersion as error:
        raise BrokerError(target.explain(error), lasting=True) from error
    except ERRORS as error:
        text = target.explain(error, cure_of(error))
        if channel is not None and is_of_channel(error):
            raise ChannelError(channel, text) from error
        raise BrokerError(text, lasting=is_lasting(error)) from error


def state_of(error: object) -> str:
    """The SQLSTATE of *error*; ``""`` if the server has not told one."""
    return getattr(error, "sqlstate", None) or ""


def cure_of(error: object) -> str:
    state = state_of(error)
    return CURES.get(state) or CURES.get(state[:2], "")


def is_of_channel(error: object) -> bool:
    return state_of(error).startswith(_OF_CHANNEL)


def may_pass(cause: Any) -> bool:
    """Whether another try may help."""
    if state := state_of(cause):
        return state.startswith(PASSING)
    # Another address may be well again soon.
    is_refused = isinstance(cause, Error) and all(map(_REFUSED.search, reasons_of(cause)))
    return isinstance(cause, (OperationalError, OSError)) and not is_refused


def is_lasting(error: BaseException) -> bool:
    """Whether *error* stays until an operator acts: a wrong password, or missing tables."""
    return not may_pass(error) and not isinstance(error, MemoryError)
