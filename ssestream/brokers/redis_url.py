"""What the URL of a Redis says, and errors about it that hold no password.

redis-py reads a URL as browsers do: a ``#``, ``/`` or ``?`` in a password ends the host,
and the rest of the password becomes a path, a query or nothing. Such a URL is refused
here, where the cause can still be told.
"""

import dataclasses
import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from ..printable import escape
from .broker import shortage

#: Connections of one process that are in use at once, besides the listener's.
CONNECTIONS = 50

#: What the URL must have been, for each kind.
_SHAPES = {
    "": "redis://[user:password@]host:6379/0",
    "cluster": "redis+cluster://[user:password@]host:7000",
    "sentinel": "redis+sentinel://[user:password@]host:26379,host:26379/service[/db]",
}

#: Options of the query that are taken out of it: of these the broker itself decides.
_OWN = {"decode_responses", "max_connections", "sentinel_username", "sentinel_password"}

_BEHIND = "it has an @ behind the place of the host"

_ENCODE = (
    "percent-encode the user's name and the password in it, as urllib.parse.quote(password,"
    " safe='') does: # is %23, / is %2F, ? is %3F and @ is %40"
)


@dataclasses.dataclass(frozen=True)
class Target:
    """Which Redis, and how to call it in an error."""

    #: For redis-py. Of sentinels it has no host.
    url: str = dataclasses.field(repr=False)
    #: ``""``, ``"sentinel"`` or ``"cluster"``.
    kind: str
    #: The URL without user, password and query.
    where: str
    connections: int
    sentinels: tuple[tuple[str, int], ...]
    service: str
    sentinel_username: str | None = dataclasses.field(repr=False)
    sentinel_password: str | None = dataclasses.field(repr=False)
    #: Whether the query may be the rest of a password.
    is_doubtful: bool
    #: What no error may show.
    secrets: tuple[str, ...] = dataclasses.field(repr=False)

    def explain(self, error: BaseException) -> str:
        """In words for the log: *error*, where it came from and, if known, why."""
        if isinstance(error, MemoryError):
            return f"{self.where}: no memory"
        return f"{self.where}: {self._clean(str(error) or type(error).__name__)}{shortage(1)}"

    def refuse(self, error: BaseException) -> str:
        """The same of an option in the query that redis-py does not take."""
        if self.is_doubtful:
            return f"url {self.where.partition('://')[0]}://...: {_BEHIND}; {_ENCODE}"
        return f"url {self.where}: {self._clean(str(error))}"

    def _clean(self, words: str) -> str:
        for secret in self.secrets:
            words = words.replace(secret, "***")
        return escape(words)


def parse(url: str) -> Target:
    """What *url* says. Raises ``ValueError``, with nothing in it that may be a password."""
    whole, _, rest = url.partition("://")
    scheme, _, kind = whole.lower().partition("+")
    if kind not in _SHAPES or (kind and scheme == "unix"):
        raise ValueError(
            "url: redis, rediss, unix, redis+sentinel and redis+cluster are known, not"
            f" {escape(whole)}"
        )
    _check(scheme, kind, rest)
    try:
        # "[" and "]" in a password are taken for an address by some Pythons.
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        hosts = parts.netloc.rpartition("@")[2]
        addresses = tuple(_address(host) for host in hosts.split(",")) if kind else ()
        password = parts.password
        if scheme != "unix" and not kind:
            _address(hosts)
    except ValueError:
        # Its words may hold the half of a password.
        raise ValueError(
            f"url {whole}://...: the host or its port is none; {_shape(kind)}, and {_ENCODE}"
        ) from None

    options = dict(pairs)
    connections = options.get("max_connections", str(CONNECTIONS))
    if not connections.isascii() or not connections.isdigit() or not 0 < int(connections) < 10**6:
        raise ValueError(f"url {whole}://...: max_connections is an int from 1 on")
    query = urlencode([pair for pair in pairs if pair[0] not in _OWN])
    service, path = "", parts.path
    netloc = parts.netloc
    if kind == "sentinel":
        service, _, db = path.strip("/").partition("/")
        if not service:
            raise ValueError(f"url {whole}://...: it names no service; {_shape(kind)}")
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
        # The longest first, as one may be a part of another. A short one is no secret,
        # and would be found in any word.
        secrets=tuple(sorted((each for each in secrets if len(each) > 3), key=len)[::-1]),
    )


def _check(scheme: str, kind: str, rest: str) -> None:
    """Raise ``ValueError`` where a part of a password has ended the host."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path, _, query = rest[len(authority) :].partition("?")
    names = [pair.partition("=")[0] for pair in query.split("&")]
    host = authority.rpartition("@")[2]
    reason = ""
    if "#" in rest:
        reason = "it has a #, which begins what no broker has"
    elif " " in rest or not rest.isprintable():
        reason = "it has a space or a control character"
    elif scheme == "unix":
        # The path of a socket may have an @.
        if host and "@" in path + query:
            reason = _BEHIND
    elif (
        "@" in path
        # An option's value may have one, such as a password. Its name has none, and a
        # host stands before the query.
        or any("@" in name for name in names)
        or ("@" in query and (host.startswith(":") or not _is_host(host, kind)))
    ):
        reason = _BEHIND
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
    return f"one is {_SHAPES[kind]}"


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "localhost", parts.port or 26379
