"""nginx's configuration: does it cut, hold back or strip the streams that it passes on?

The files are read, and nginx is not run: it may be of another account, or in another container.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..settings import Settings
from .finding import Finding, fault, note, ok, with_names

#: The directives that pass a request on begin with these words.
KINDS = ("proxy", "uwsgi", "fastcgi", "scgi")

#: Seconds of silence after which nginx cuts an answer, and connections of a worker, by default.
READ_TIMEOUT, WORKER_CONNECTIONS = 60.0, 512

#: The deepest of blocks. nginx has some six levels, and more for nested locations.
DEEPEST = 50

#: Seconds of each unit of nginx's times.
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 2592000}

_TOKEN = re.compile(
    r"""\s+|\#[^\n]*
    |(?P<mark>[{};])
    |"(?P<double>(?:\\.|[^"\\])*)"
    |'(?P<single>(?:\\.|[^'\\])*)'
    |(?P<word>(?:\\.|\$\{[^}]*\}|[^\s;{}])+)
    |.""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Directive:
    """A line of the configuration.

    :ivar block: what is in its braces; None without braces.
    """

    name: str
    words: list[str]
    block: "list[Directive] | None" = None


#: By the name of a directive, the words of each line with it.
Lines = dict[str, list[list[str]]]


def examine_nginx(path: str, settings: Settings | None) -> list[Finding]:
    """Look at the file of nginx at *path*, and at those that it includes.

    :param settings: those of the app; None if the app is not known.
    """
    try:
        directives = read_nginx(Path(path))
    except OSError as error:
        return [
            fault(
                f"{error.filename} cannot be read: {error.strerror}",
                "nothing was seen",
                "the path, or an account that may read the configuration of nginx",
            )
        ]
    settings = Settings() if settings is None else settings
    found = list(_walk(directives, {}, "", settings))
    if not found:
        return [
            note(
                f"{path} passes no request on to an app",
                "nothing was seen",
                "the file that nginx is started with, mostly /etc/nginx/nginx.conf",
            )
        ]
    places = len({name for name, _ in found})
    return [*with_names(found, f"all {places} places"), *_room(directives, settings)]


# -- the files


def read_nginx(path: Path, outer: tuple[Path, ...] = ()) -> list[Directive]:
    """The directives in *path*, with those of included files in the place of each ``include``.

    :param outer: the files around *path*, the main one first. Relative paths begin in its folder.
    """
    tokens = _tokens(path.read_text("utf-8", "replace"))
    return list(_included(_block(tokens, 0), (*outer, path)))


def _tokens(text: str) -> Iterator[tuple[bool, str]]:
    """Each word of *text*, and whether it is one of the marks ``{``, ``}`` and ``;``."""
    for match in _TOKEN.finditer(text):
        if match.lastgroup is not None:
            yield match.lastgroup == "mark", match[match.lastgroup]


def _block(tokens: Iterator[tuple[bool, str]], depth: int) -> Iterator[Directive]:
    words: list[str] = []
    for is_mark, token in tokens:
        if not is_mark:
            words.append(token)
            continue
        if token == "}":
            return
        block = list(_block(tokens, depth + 1)) if token == "{" and depth < DEEPEST else None
        if words:
            yield Directive(words[0], words[1:], block)
        words = []


def _included(found: Iterable[Directive], files: tuple[Path, ...]) -> Iterator[Directive]:
    for each in found:
        if each.name == "include" and each.words:
            pattern = str(files[0].parent / each.words[0])
            # A path without a pattern must be there.
            paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
            for path in map(Path, paths):
                if path not in files:
                    yield from read_nginx(path, files)
        elif each.block is not None:
            yield Directive(each.name, each.words, list(_included(each.block, files)))
        else:
            yield each


# -- the places that pass requests on


def _walk(
    block: list[Directive], outer: Lines, place: str, settings: Settings
) -> Iterator[tuple[str, Finding]]:
    """The findings for each place in *block*, with the name of the place.

    :param outer: the lines of the blocks around it. They count where *block* has none of the name.
    """
    own: Lines = {}
    for each in block:
        if each.block is None:
            own.setdefault(each.name, []).append(each.words)
    lines = outer | own
    for kind in KINDS:
        if f"{kind}_pass" in own:
            yield from ((place, found) for found in _place(kind, lines, settings))
    for each in block:
        if each.block is not None:
            name = _name(each)
            inner = f"{place}, {name}" if place and name else place or name
            yield from _walk(each.block, lines, inner, settings)


def _name(directive: Directive) -> str:
    if directive.name == "server":
        names = [each.words for each in directive.block or [] if each.name == "server_name"]
        listens = [each.words for each in directive.block or [] if each.name == "listen"]
        words = (names or listens or [[]])[0]
        return " ".join(["server", *words[:1]])
    if directive.name in ("http", "events"):
        return ""
    return " ".join([directive.name, *directive.words])


def _place(kind: str, lines: Lines, settings: Settings) -> Iterator[Finding]:
    yield from _timeout(kind, lines, settings.heartbeat)
    ignored = [word.lower() for words in lines.get(f"{kind}_ignore_headers", []) for word in words]
    if _word(lines, f"{kind}_buffering") == "off":
        yield ok(f"{kind}_buffering is off: events pass at once")
    elif "x-accel-buffering" in ignored:
        yield fault(
            f"{kind}_ignore_headers X-Accel-Buffering, and {kind}_buffering is on",
            "nginx collects the events of a stream until its buffer is full",
            f"{kind}_buffering off; in this location",
        )
    else:
        yield ok("nginx heeds X-Accel-Buffering: events pass at once")
    yield from _asked(kind, lines)
    types = [word for words in lines.get("gzip_types", []) for word in words]
    if _word(lines, "gzip") == "on" and {"text/event-stream", "*"} & set(types):
        yield note(
            f"gzip is on, and gzip_types has {' '.join(types)}",
            "nginx compresses streams in spite of no-transform, and needs more memory for each",
            "gzip_types without text/event-stream",
        )


def _timeout(kind: str, lines: Lines, heartbeat: float | None) -> Iterator[Finding]:
    name = f"{kind}_read_timeout"
    seconds = seconds_of(" ".join(lines[name][-1])) if name in lines else READ_TIMEOUT
    if seconds is None:
        return  # a variable
    seen = f"{name} is {seconds:g} s" + ("" if name in lines else ", by default")
    if heartbeat is None:
        yield fault(
            f"{seen}, and SSESTREAM_HEARTBEAT is None",
            f"nginx cuts each stream that is silent for {seconds:g} s",
            "SSESTREAM_HEARTBEAT = 15, or nothing: 15 is the default",
        )
    elif seconds <= heartbeat:
        yield fault(
            f"{seen}, and a heartbeat comes after {heartbeat:g} s of silence",
            f"nginx cuts each stream that is silent for {seconds:g} s",
            f"{name} {max(60, 2 * heartbeat):.0f}s; in this location, or SSESTREAM_HEARTBEAT ="
            f" {seconds / 2:g}",
        )
    else:
        yield ok(f"{seen}, and a heartbeat comes after {heartbeat:g} s of silence")


def _asked(kind: str, lines: Lines) -> Iterator[Finding]:
    """Whether the app is told the last id that a client has got."""
    # In WSGI's own form for uwsgi and FastCGI.
    names = ("last-event-id", "http_last_event_id")
    set_to = {
        words[0].lower(): words[1:]
        for name in (f"{kind}_set_header", f"{kind}_param")
        for words in lines.get(name, [])
        if words
    }
    empty = [name for name in names if set_to.get(name) == [""]]
    if empty or _word(lines, f"{kind}_pass_request_headers") == "off":
        yield fault(
            f"nginx does not pass on the header Last-Event-ID ({kind}_set_header or"
            f" {kind}_pass_request_headers)",
            "a client that comes back is not given what it missed",
            "take that line out of this location",
        )


def _word(lines: Lines, name: str) -> str:
    """The first word of the last line with *name*; "" if there is none."""
    words = lines.get(name, [[]])[-1]
    return words[0] if words else ""


def seconds_of(text: str) -> float | None:
    """The seconds of a time such as ``60``, ``500ms`` or ``1h 30m``; None if it is none."""
    parts = re.findall(r"(\d+)(ms|[smhdwM]?)", text)
    if "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        return None
    return float(sum(int(number) * UNITS[unit or "s"] for number, unit in parts)) if parts else None


# -- how many streams there is room for


def _room(directives: list[Directive], settings: Settings) -> Iterator[Finding]:
    lines: Lines = {each.name: [each.words] for each in directives}
    for each in directives:
        if each.name == "events":
            lines |= {inner.name: [inner.words] for inner in each.block or []}
    connections = _word(lines, "worker_connections") or str(WORKER_CONNECTIONS)
    processes = _word(lines, "worker_processes") or "1"
    if processes == "auto":
        processes = str(os.cpu_count() or 1)
    if not (connections.isdecimal() and processes.isdecimal()):
        return
    # One of the client, and one to the app.
    streams = int(connections) * int(processes) // 2
    seen = f"worker_connections is {connections}, with {processes} workers: {streams} streams"
    most = settings.max_streams
    if most is not None and most > streams:
        yield note(
            f"{seen}, and SSESTREAM_MAX_STREAMS is {most} for each worker of the app",
            "a stream takes two connections; without a free one, nginx answers nothing any more",
            f"worker_connections {2 * most}; in events, and worker_rlimit_nofile above it",
        )
    else:
        yield ok(seen)
