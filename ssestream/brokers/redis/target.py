"""Parse the URL of a Redis server, and make errors about it that contain no password.

redis-py reads a URL as browsers do: a ``#``, ``/`` or ``?`` in a password ends the host.
The rest of the password then becomes a path or a query, or is lost. This module refuses such
a URL, because only here can an error name the cause.
"""

import dataclasses
import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from ...printable import escape
from ..broker import shortage
from ..url import scheme_of, shown

#: Connections that one process uses at once by default, besides the listener's connection.
CONNECTIONS = 50

#: An example of a correct URL, for each kind of server.
_SHAPES = {
    "": "redis://[user:password@]host:6379/0",
    "cluster": "redis+cluster://[user:password@]host:7000",
    "sentinel": "redis+sentinel://[user:password@]host:26379,host:26379/service[/db]",
}

#: Options that are removed from the query, because the broker uses or sets them itself.
_OWN = {"decode_responses", "max_connections", "sentinel_username", "sentinel_password"}

_AT_AFTER_HOST = "it has an @ after the host"

_ENCODE = (
    "percent-encode the user name and the password, as urllib.parse.quote(password,"
    " safe='') does: # is %23, / is %2F, ? is %3F and @ is %40"
)


@dataclasses.dataclass(frozen=True)
class Target:
    """A Redis server, sentinel group or cluster, and its name in errors."""

    #: The URL for redis-py. With sentinels, the host is the placeholder ``sentinel``.
    url: str = dataclasses.field(repr=False)
    #: ``""`` for one server, ``"sentinel"`` or ``"cluster"``.
    kind: str
    #: The URL without user, password and query.
    where: str
    #: Connections that one process may use at once.
    connections: int
    #: Host and port of each sentinel; empty for the other kinds.
    sentinels: tuple[tuple[str, int], ...]
    #: The service whose master the sentinels name; ``""`` for the other kinds.
    service: str
    #: None if the URL has no ``sentinel_username``.
    sentinel_username: str | None = dataclasses.field(repr=False)
    #: None if the URL has no ``sentinel_password``.
    sentinel_password: str | None = dataclasses.field(repr=False)
    #: Whether the query may be the rest of a password.
    is_doubtful: bool
    #: Passwords, which no error may show.
    secrets: tuple[str, ...] = dataclasses.field(repr=False)

    def explain(self, error: BaseException) -> str:
        """A text for the log: the server, *error*, and the cause if it is a lack of descriptors."""
        if isinstance(error, MemoryError):
            return f"{self.where}: no memory"
        words = self._clean(str(error) or type(error).__name__)
        return f"{self.where}: {words}{self._cure(words)}{shortage(1)}"

    def _cure(self, words: str) -> str:
        if "unauthenticated" in words:  # what Redis says of a long command before a password
            return " (it wants a password)"
        if self.where.startswith("rediss") and "Timeout connecting" in words:
            return " (if it does not speak TLS, the URL begins with redis)"
        if not self.where.startswith(("rediss", "unix")) and "reset by peer" in words:
            return " (if it speaks TLS, the URL begins with rediss)"
        return ""

    def refuse(self, error: BaseException) -> str:
        """A text for the log about *error*, which redis-py raised for an option of the query."""
        if self.is_doubtful:
            return f"url {self.where.partition('://')[0]}://...: {_AT_AFTER_HOST}; {_ENCODE}"
        return f"url {self.where}: {self._clean(str(error))}"

    def _clean(self, words: str) -> str:
        for secret in self.secrets:
            words = words.replace(secret, "***")
        return escape(words)


def parse(url: str) -> Target:
    """Parse *url*. Raises ``ValueError`` if it is wrong; the error contains no password."""
    scheme, _, kind = scheme_of(url).partition("+")
    is_known = scheme in ("redis", "rediss", "unix") and kind in _SHAPES
    if not is_known or (kind and scheme == "unix"):
        raise ValueError(
            f"url {shown(url)}: the scheme must be redis, rediss, unix, redis+sentinel or"
            " redis+cluster"
        )
    whole, _, rest = url.partition("://")
    _check(scheme, kind, rest)
    try:
        # With "[" or "]" in a password, some versions of Python raise ValueError here.
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        hosts = parts.netloc.rpartition("@")[2]
        addresses = tuple(_address(host) for host in hosts.split(",")) if kind else ()
        password = parts.password
        if scheme != "unix" and not kind:
            _address(hosts)
    except ValueError:
        # The text of the original error may contain a part of a password.
        raise ValueError(
            f"url {whole}://...: the host or its port is not valid; {_shape(kind)}; {_ENCODE}"
        ) from None

    options = dict(pairs)
    connections = options.get("max_connections", str(CONNECTIONS))
    if not connections.isascii() or not connections.isdigit() or not 0 < int(connections) < 10**6:
        raise ValueError(f"url {whole}://...: max_connections must be an int from 1 to 999999")
    query = urlencode([pair for pair in pairs if pair[0] not in _OWN])
    service, path = "", parts.path
    netloc = parts.netloc
    if kind == "sentinel":
        service, _, db = path.strip("/").partition("/")
        if not service:
            raise ValueError(
                f"url {whole}://...: the name of the service is missing; {_shape(kind)}"
            )
        netloc, path = netloc[: len(netloc) - len(hosts)] + "sentinel", f"/{db}"
    passwords = [password, options.get("password"), options.get("sentinel_password")]
    secrets = {form for each in passwords if each for form in (each, unquote(each))}
    return Target(
        url=f"{scheme}://{netloc}{path}?{query}",
        kind=kind,
        where=escape(f"{whole}://{hosts}{parts.path}"),
        connections=int(connections),
        sentinels=addresses if kind == "sentinel" else (),
        service=service,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
        is_doubtful="@" in parts.query and "@" not in parts.netloc,
        # The longest secret comes first, because a secret may be part of another. Secrets of
        # at most 3 characters are left out: they would be found in ordinary words.
        secrets=tuple(sorted((each for each in secrets if len(each) > 3), key=len)[::-1]),
    )


def _check(scheme: str, kind: str, rest: str) -> None:
    """Raise ``ValueError`` if a character of a password has ended the host too early."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    names = [pair.partition("=")[0] for pair in query.split("&")]
    host = authority.rpartition("@")[2]
    reason = ""
    if "#" in rest:
        reason = "it has a #, which begins a fragment, and no broker uses a fragment"
    elif "@" in authority and re.search(r"[\[\]]", authority.rpartition("@")[0]):
        # Python 3.10 would accept such a URL.
        reason = "its user name or password has a [ or ]"
    elif " " in rest or not rest.isprintable():
        reason = "it has a space or a control character"
    elif scheme == "unix":
        # A unix URL without a host may have an @ in the path of its socket.
        if host and "@" in path + query:
            reason = _AT_AFTER_HOST
    elif (
        "@" in path
        # The value of an option may have an @, such as a password. The name of an option has
        # no @, and a URL with such options has a valid host before the query.
        or any("@" in name for name in names)
        or ("@" in query and (host.startswith(":") or not _is_host(host, kind)))
    ):
        reason = _AT_AFTER_HOST
    if reason:
        raise ValueError(f"url {scheme}{'+' * bool(kind)}{kind}://...: {reason}; {_ENCODE}")


def _is_host(text: str, kind: str) -> bool:
    try:
        for host in text.split(",") if kind else [text]:
            _address(host)
    except ValueError:
        return False
    return True


def _shape(kind: str) -> str:
    return f"a correct URL looks like {_SHAPES[kind]}"


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "localhost", parts.port or 26379
