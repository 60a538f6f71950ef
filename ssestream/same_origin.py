"""Whether a request was made by a page of the app itself.

A browser sends the cookies of a site also when a page of another site makes the request. So a
view that answers by the session has to look where the request comes from. Browsers say so
themselves, in ``Sec-Fetch-Site`` (W3C Fetch Metadata) or at least in ``Origin`` (WHATWG Fetch).
"""

import re
from collections.abc import Iterable

from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Request

from .plain import shortened

#: An origin as a browser sends it: scheme, host and perhaps a port.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")

#: Characters of an origin that a refusal shows.
_SHOWN = 80


def check_origin(request: Request, allowed: Iterable[str] = ()) -> None:
    """Refuse *request* with 403 if a page of another site has made it.

    *request* is a Flask or Werkzeug request. *allowed* are further origins that may make it, as
    ``"https://app.example"``; another subdomain is another site. A client that is no browser says
    nothing of this, and is allowed: it has no cookies that somebody else could use.

    Raises werkzeug's `Forbidden`, which Flask answers with 403. Raises ``TypeError`` or
    ``ValueError`` for a wrong origin in *allowed*.
    """
    refuse_other_sites(request, checked_origins(allowed))


def checked_origins(allowed: Iterable[str]) -> frozenset[str]:
    """The origins *allowed*, in lower case. Raises as `check_origin` does."""
    if isinstance(allowed, str):
        raise TypeError("the allowed origins are a list of str, not one str")
    origins = set()
    for origin in allowed:
        if not isinstance(origin, str):
            raise TypeError(f"an allowed origin is a str, not {type(origin).__name__}")
        if not _ORIGIN.fullmatch(origin.lower()):
            raise ValueError(
                f"an allowed origin is a scheme and a host, as 'https://app.example', and not"
                f" {shortened(origin)}"
            )
        origins.add(origin.lower())
    return frozenset(origins)


def refuse_other_sites(request: Request, allowed: frozenset[str]) -> None:
    """As `check_origin`, with checked origins."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() in allowed:
        return
    site = request.headers.get("Sec-Fetch-Site")
    if site is None and origin is not None:
        # An old browser, or any browser without TLS. The scheme is not compared: behind a proxy
        # that speaks TLS, the app sees another one.
        host = origin.partition("://")[2].lower()
        site = "same-origin" if host == request.host.lower() else "cross-site"
    if site not in (None, "same-origin", "none"):
        named = "another site" if origin is None else f"the origin {origin[:_SHOWN]!r}"
        raise Forbidden(f"{named} may not make this request")
