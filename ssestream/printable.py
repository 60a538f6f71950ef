"""Untrusted text, made safe for a log or a terminal.

A control character could start a line that looks like another entry of the log, or could
steer the operator's terminal. A character that changes the direction of writing could make
one text look like another.
"""

import json
import re
import unicodedata

#: Invisible characters that `escape_json` keeps, because they join letters and emojis.
_JOINERS = "\u200c\u200d"


def escape(text: str) -> str:
    """*text* in one line. Characters that cannot be printed become escapes such as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def escape_json(line: str) -> str:
    """*line*, a line of JSON. Characters that may steer a terminal become escapes of JSON."""
    return _NOT_ASCII.sub(_replace, line)


#: Every character that is not printable ASCII. `_replace` keeps most of them, as they are letters.
_NOT_ASCII = re.compile("[^ -~]")


def _replace(found: re.Match[str]) -> str:
    # The categories are: controls, formats such as bidirectional overrides, separators of lines
    # and of paragraphs.
    if unicodedata.category(found[0]) not in ("Cc", "Cf", "Zl", "Zp") or found[0] in _JOINERS:
        return found[0]
    return "\\u007f" if found[0] == "\x7f" else json.dumps(found[0])[1:-1]
