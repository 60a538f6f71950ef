"""The scheme of a broker's URL: all that an error may show of a URL that is wrong."""

import re

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def scheme_of(url: str) -> str:
    """The scheme of *url*, in lower case; ``""`` if *url* does not begin with a scheme and ``://``.

    Without such a beginning, each part of *url* may be a password.
    """
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def shown(url: str) -> str:
    """*url* for an error: its scheme alone."""
    scheme = scheme_of(url)
    return f"{scheme}://..." if scheme else "without a scheme and ://"
