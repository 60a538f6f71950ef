"""Messages for property tests: hostile ones, common ones, and what arrives of them."""

import json
import re
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

#: What a serialiser or a parser of event streams is most likely to trip over.
FRAGMENTS = (
    *("\r", "\n", "\r\n", "\n\n", "\r\r", "\n\r"),
    *("\0", "\t", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x7f", "\x85"),
    *("\u2028", "\u2029", "\ufeff", "\ufffd", "\U0001f600", "e\u0301", "한국어"),
    *(":", " ", "  ", ": ", ":\n", " :", '"', "\\", "{}", "null"),
    *("data", "data:", "data: x", "\ndata: x\n\n", "\r\rdata: x\r\r"),
    *("id: 5", "\nid: 5", "event: x", "\nevent: x", "retry: 1", "\nretry: 1\n", ":ok\n\n"),
)

#: Half of a surrogate pair: text that no UTF-8 can hold.
SURROGATES = ("\ud800", "\udfff", "data\udc80")

_LINE_END = re.compile("\r\n|\n|\r")

#: Text with a bias to `FRAGMENTS`, without surrogates.
text = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=6).map("".join)

#: The same, and now and then a surrogate in it.
broken_text = st.lists(
    st.sampled_from(FRAGMENTS + SURROGATES) | st.text(max_size=6), max_size=6
).map("".join)

#: Text in one line.
line = text.map(lambda value: _LINE_END.sub(" ", value))

#: An id as text: in one line, and without NUL.
plain_id = line.map(lambda value: value.replace("\0", "0"))


def _nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> Any:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=8,
    )


#: Whatever JSON can hold, floats included.
json_values = _nested(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    text,
)

#: What no message should hold, in any field.
junk = st.one_of(
    st.sampled_from(
        [
            *(True, False, 1.5, float("nan"), float("inf"), 1j, ..., object(), type, print),
            *(b"\xff", bytearray(b"\xc3"), memoryview(b"\xed\xa0\x80"), {1, 2}, iter([])),
            *({"a": b""}, [float("nan")], {(1, 2): 3}, {"a": [object()]}, 10**5000, -1),
            *(timedelta(-1), "\ud800", ["\udfff"], (x for x in "ab"), range(3)),
        ]
    ),
    st.binary(max_size=8),
    broken_text,
)

#: Right in every field, and as nasty as what is right can be.
right_messages = st.fixed_dictionaries(
    {},
    optional={
        "comment": text | st.none(),
        "event": line | st.none(),
        "id": plain_id | st.integers() | st.none(),
        "retry": st.integers(0) | st.timedeltas(min_value=timedelta()) | st.none(),
        "data": text | text.map(str.encode) | json_values,
    },
)

_wrong_field = st.one_of(
    st.tuples(st.sampled_from(["comment", "event", "id", "retry", "data"]), junk),
    st.tuples(st.sampled_from(["comment", "event", "id", "data"]), broken_text),
    st.tuples(broken_text | st.integers() | st.none(), junk),
).map(lambda item: {item[0]: item[1]})

#: Right, or wrong in a field, or in the name of one.
any_messages = st.one_of(
    right_messages,
    st.builds(lambda message, wrong: {**message, **wrong}, right_messages, _wrong_field),
)

#: Bytes that nobody promised to be an event stream.
any_bytes = st.lists(
    st.sampled_from([fragment.encode() for fragment in FRAGMENTS])
    | st.sampled_from([b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf0\x9f", b"data: x\r\n", b"\r\n\r\n"])
    | st.binary(max_size=4),
    max_size=12,
).map(b"".join)

#: Where to cut a frame: see `pieces`.
cuts = st.lists(st.integers(1, 9) | st.integers(1, 120), max_size=12)


# -- what npm's ssestream serialises rightly as well

_SAFE = 2**53

# JavaScript puts keys that look like integers first.
_node_key = text.map(lambda value: value if not value.isdigit() else f"_{value}")

_node_json = _nested(st.none() | st.booleans() | st.integers(-_SAFE, _SAFE) | text, _node_key)

_node_data = st.one_of(
    text.map(lambda value: value or "-"),
    st.lists(_node_json, max_size=4),
    st.dictionaries(_node_key, _node_json, max_size=4),
)

_node_fields = {
    "comment": line | st.none(),
    "event": line | st.none(),
    "id": st.one_of(
        plain_id.map(lambda value: value or "-"),
        st.integers(-_SAFE, _SAFE).map(lambda value: value or 1),
        st.none(),
    ),
    "retry": st.integers(1, _SAFE) | st.none(),
}

#: Messages that npm's ssestream puts on the wire as this package does: none of
#: the divergences in ``wire.py`` touches them. One field at least is there.
node_messages = st.one_of(
    st.fixed_dictionaries({"data": _node_data}, optional=_node_fields),
    st.fixed_dictionaries({**_node_fields, "retry": st.integers(1, _SAFE)}),
)


# -- what arrives


def arrival(message: dict[str, Any]) -> dict[str, str | int]:
    """What the other side should get: ids as text, line ends as one, JSON as text."""
    arrived: dict[str, str | int] = {}
    for field, value in message.items():
        if value is None:
            continue
        if field == "retry":
            one = timedelta(milliseconds=1)
            arrived[field] = value // one if isinstance(value, timedelta) else int(value)
        elif field == "data" and not isinstance(value, (str, bytes)):
            # Its own line ends are escaped.
            arrived[field] = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        else:
            plain = value.decode() if isinstance(value, bytes) else str(value)
            if plain or field not in ("comment", "event"):
                arrived[field] = _LINE_END.sub("\n", plain)
    return arrived


def pieces(data: bytes, lengths: list[int]) -> list[bytes]:
    """*data* cut into pieces of these *lengths*, and the rest."""
    found = []
    for length in lengths:
        found.append(data[:length])
        data = data[length:]
    return [*found, data]
