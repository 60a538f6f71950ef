"""Text that came from elsewhere, as a log or a terminal may show it.

A control character could begin a line that looks like another entry of the log, or
could steer the terminal of the operator who reads it. A character that turns the
direction of writing could show a text as another.
"""

import json
import re
import unicodedata

#: Kept by `escape_json` of what is not printable: they join letters and emojis.
_JOINERS = "\u200c\u200d"


def escape(text: str) -> str:
    """*text* in one line, with ``\\x1b`` and the like for what cannot be printed."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def escape_json(line: str) -> str:
    """*line*, which is JSON, with JSON's escapes for all that may steer a terminal."""
    return _DOUBTFUL.sub(_replace, line)


_DOUBTFUL = re.compile("[^ -~]")


def _replace(found: re.Match[str]) -> str:
    # Controls, formats such as bidirectional overrides, and separators of lines.
    if unicodedata.category(found[0]) not in ("Cc", "Cf", "Zl", "Zp") or found[0] in _JOINERS:
        return found[0]
    return "\\u007f" if found[0] == "\x7f" else json.dumps(found[0])[1:-1]
