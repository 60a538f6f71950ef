"""Parse the URL of a PostgreSQL server, and make errors about it that contain no password.

libpq reads a ``/`` or ``?`` in a password as the end of the host. This module refuses such a URL,
because the errors of libpq would show the rest of the password.
"""

import dataclasses
import re
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ...printable import escape
from ..broker import shortage
from ..url import scheme_of, shown
from .psycopg import options_of, reasons_of

#: Connections that one process uses at once by default, besides the listener's connection.
#: SQLAlchemy's pool has as many. A server allows 100 in all, if it is not told more.
CONNECTIONS = 5

_SHAPE = "a correct URL looks like postgresql://user:password@host:5432/database"

_ENCODE = (
    "percent-encode the user name and the password, as urllib.parse.quote(password, safe='')"
    " does: # is %23, / is %2F, ? is %3F and @ is %40"
)


@dataclasses.dataclass(frozen=True)
class Target:
    """A database, and its name in errors."""

    #: The options of libpq.
    options: dict[str, Any] = dataclasses.field(repr=False)
    #: The options of libpq for the connection that listens.
    listening: dict[str, Any] = dataclasses.field(repr=False)
    #: Whether a pooler stands between, so that a connection of its own is needed to listen.
    has_pooler: bool
    #: The URL without user, password and query.
    where: str
    #: Connections that one process may use at once.
    connections: int
    #: Passwords, which no error may show.
    secrets: tuple[str, ...] = dataclasses.field(repr=False)

    def explain(self, error: BaseException, cure: str = "") -> str:
        """A text for the log, in one line: the database, *error*, and its *cure*."""
        if isinstance(error, MemoryError):
            return f"{self.where}: no memory"
        words = "\n".join(reasons_of(error)) or type(error).__name__
        for secret in self.secrets:
            words = words.replace(secret, "***")
        # libpq puts details into lines of their own.
        words = "; ".join(line.strip() for line in words.splitlines())
        cure = f" ({cure})" if cure else ""
        return f"{self.where}: {escape(words)}{cure}{shortage(2)}"


def parse(url: str) -> Target:
    """Parse *url*. Raises ``ValueError`` if it is wrong; the error contains no password."""
    base, options = _split(url, "url")
    try:
        connections = int(options.pop("max_connections", str(CONNECTIONS)))
    except ValueError:
        connections = 0
    if not 0 < connections < 10**6:
        raise ValueError("url postgresql://...: max_connections must be an int from 1 to 999999")
    notify_url = options.pop("notify_url", "")
    mine = _options(base, options, "url")
    listening = _options(*_split(notify_url, "notify_url"), "notify_url") if notify_url else mine
    secrets = {str(each["password"]) for each in (mine, listening) if each.get("password")}
    secrets |= {quote(each, safe="") for each in secrets}
    hosts = mine.get("host", "localhost").split(",")
    ports = mine.get("port", "5432").split(",")
    # libpq takes one port for all hosts, too.
    ports *= len(hosts) if len(ports) == 1 else 1
    where = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
    return Target(
        options=mine,
        listening=listening,
        has_pooler=bool(notify_url),
        where=escape(f"postgresql://{where}/{mine.get('dbname', '')}"),
        connections=connections,
        # A secret of at most 3 characters would be found in ordinary words.
        secrets=tuple(sorted((each for each in secrets if len(each) > 3), key=len)[::-1]),
    )


def _split(url: str, name: str) -> tuple[str, dict[str, str]]:
    """*url* without its query, as libpq takes it, and the query."""
    # The last one is SQLAlchemy's name of the same.
    if scheme_of(url) not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ValueError(f"{name}: the scheme must be postgresql, not {shown(url)}; {_SHAPE}")
    rest = url.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    reason = ""
    if "#" in rest:
        reason = "it has a #"
    elif " " in rest or not rest.isprintable():
        reason = "it has a space or a control character"
    elif authority.count("@") > 1:
        reason = "it has more than one @ before the host"
    elif "@" in path or any("@" in key or not equal for key, equal, _ in pairs):
        reason = "it has an @ after the host, or an option without a value"
    if reason:
        raise ValueError(f"{name} postgresql://...: {reason}; {_ENCODE}")
    options = {unquote(key): unquote(value) for key, value in parse_qsl(query)}
    return f"postgresql://{authority}{path}", options


def _options(base: str, options: dict[str, str], name: str) -> dict[str, Any]:
    query = urlencode(options, quote_via=quote)
    try:
        return options_of(f"{base}?{query}" if query else base)
    except ValueError as error:
        # libpq names a wrong option, and shows no other part of a URL that has passed `_split`
        # but the user name and the password if their encoding is wrong.
        words = str(error).strip()
        reason = words if "URI query parameter" in words else "its encoding is wrong"
        raise ValueError(
            f"{name} postgresql://...: {escape(reason)}; {_SHAPE}; {_ENCODE}"
        ) from None
