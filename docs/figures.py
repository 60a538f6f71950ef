"""Draw the two figures of the page on the design: ``python docs/figures.py``.

The figures are text, so that a change of one shows in a comparison. They need no package.
"""

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent / "design"

#: The wings and the rooms beside them, from the public names down. Each row imports only from the
#: rows below it.
ROWS = (
    (("__init__, __main__", "the public names", "the command line"),),
    (
        ("gunicorn/", "SseWorker alone", "sends without a greenlet"),
        ("testing/", "a client and a clock", "for the tests of an app"),
    ),
    (
        ("channels/", "publish once", "each follower gets it"),
        ("pipeline, timers", "a source of messages", "intervals and timeouts"),
    ),
    (
        ("stream, pipe", "SseStream", "the queue of messages"),
        ("response", "ServerResponse", "Node's res for Flask"),
    ),
    (
        ("http/", "one response on its way", "the buffer of bytes"),
        ("brokers/", "where channels are kept", "memory, SQLite, Redis"),
        ("wire", "messages to text", "and back"),
    ),
    (
        ("runtime/", "where code runs", "loops, threads, forks"),
        ("settings, errors", "bounds and defaults", "what can go wrong"),
    ),
)

_STYLE = (
    "text{font:13px sans-serif;fill:#222}.b{font-weight:bold}.s{font-size:11px;fill:#555}"
    ".m{text-anchor:middle}.box{fill:#eef3fa;stroke:#4a6a94}.queue{fill:#fdf1dc;stroke:#a8741a}"
    ".line{fill:none;stroke:#4a6a94;stroke-width:1.5;marker-end:url(#tip)}"
    ".fast{stroke:#b0413e}.slow{stroke:#4f7d3a}"
)

_TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"'
    ' orient="auto"><path d="M0 0L8 4L0 8z" fill="#444"/></marker>'
)


def _sheet(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f"<defs>{_TIP}</defs>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _text(x: int, y: int, words: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def _box(x: int, y: int, width: int, lines: Iterable[str], kind: str = "box") -> list[str]:
    lines = list(lines)
    middle = x + width // 2
    height = 14 + 17 * len(lines)
    parts = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" class="{kind}"/>',
        _text(middle, y + 20, lines[0], "b m"),
    ]
    parts += [_text(middle, y + 37 + 17 * n, words, "s m") for n, words in enumerate(lines[1:])]
    return parts


def _arrow(path: str, kind: str = "") -> str:
    return f'<path d="{path}" class="line {kind}"/>'


def plan() -> str:
    """The wings, in rows: a row imports only from the rows below it."""
    width, step, wide = 640, 95, 190
    parts = []
    for number, row in enumerate(ROWS):
        y = 15 + number * step
        gap = (width - wide * len(row)) // (len(row) + 1)
        for place, lines in enumerate(row):
            parts += _box(gap + place * (wide + gap), y, wide, lines)
        if number:
            parts.append(_arrow(f"M{width // 2} {y - 28}V{y - 5}"))
    return _sheet(width, step * len(ROWS), "The wings: each row imports from those below", parts)


def queues() -> str:
    """The two queues in series, and the five ways past them."""
    parts = [
        *_box(10, 215, 130, ("write(), push()", "an app's message")),
        *_box(10, 25, 130, ("a broadcast", "a batch of events")),
        *_box(220, 215, 140, ("MessageQueue", "the stream's queue", "in messages"), "queue"),
        *_box(440, 215, 140, ("OutputBuffer", "the response's queue", "in bytes"), "queue"),
        *_box(660, 215, 120, ("the reader", "Body or Sender", "one chunk")),
        *_box(840, 215, 110, ("the socket", "in the kernel", "16 KiB ahead")),
        # The way through both queues.
        _arrow("M140 240H218", "slow"),
        _arrow("M360 240H438", "slow"),
        _text(399, 232, "pump", "s m"),
        _arrow("M580 240H658"),
        _arrow("M780 240H838"),
        _text(148, 258, "5", "b"),
        # Past the queue of messages.
        _arrow("M100 214C120 150 440 130 490 213", "slow"),
        _text(258, 146, "4  write through: no message waits", "s"),
        # To the reader that sleeps.
        _arrow("M110 77C180 130 640 100 710 213"),
        _text(400, 110, "3  to a reader that sleeps", "s"),
        # Straight to the socket.
        _arrow("M140 60C420 60 800 60 890 213", "fast"),
        _text(400, 62, "2  one send to a socket of its own", "s"),
        _arrow("M140 38C460 20 880 10 915 213", "fast"),
        _text(400, 22, "1  one send for each member of a cohort", "s"),
        _text(505, 302, "1 and 2: SseWorker only. 1 to 3: only if nothing waits.", "s m"),
    ]
    return _sheet(960, 315, "Two queues in series, and five ways to a socket", parts)


def figures() -> dict[str, str]:
    """The text of each figure by the name of its file."""
    return {"map.svg": plan(), "queues.svg": queues()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in figures().items():
        (FOLDER / name).write_text(text)
