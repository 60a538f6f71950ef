"""What README and docs say is true: their code runs, their commands are the ones used."""

import contextlib
import dataclasses
import datetime
import doctest
import functools
import importlib.util
import io
import math
import re
import runpy
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import docutils.core
import docutils.nodes
import docutils.parsers.rst
import docutils.parsers.rst.directives as directives
import pytest

import ssestream
from ssestream.http.registry import Cause
from ssestream.wire import Decoder
from tests.kit.servers import ROOT, Client, Server, free_port, wait_until

README = ROOT / "README.rst"
PAGES = sorted([*ROOT.glob("*.rst"), *ROOT.glob("docs/*.rst"), *ROOT.glob("benchmarks/*.rst")])

# Highlighting needs a package of its own and changes nothing here.
SETTINGS = {"syntax_highlight": "none", "report_level": 1, "halt_level": 5, "_disable_config": True}


class Toctree(docutils.parsers.rst.Directive):
    """The one directive of Sphinx here. GitHub shows nothing of it."""

    has_content = True
    option_spec = {"hidden": directives.flag, "caption": directives.unchanged_required}

    def run(self) -> list[docutils.nodes.Node]:
        return []


directives.register_directive("toctree", Toctree)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix("")).replace("/", "_").lower()


@functools.cache
def _literals(page: Path) -> list[tuple[list[str], str]]:
    """The classes and the text of each literal block; each page is read once in a process."""
    tree = docutils.core.publish_doctree(
        page.read_text(), str(page), settings_overrides={**SETTINGS, "warning_stream": False}
    )
    literals = tree.findall(docutils.nodes.literal_block)
    return [(block["classes"], block.astext()) for block in literals]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of *language* in *page*, from its first to its last."""
    return [text for classes, text in _literals(page) if classes == ["code", language]]


def program(page: Path) -> str:
    """All the Python of one page, which is one program."""
    return "\n\n\n".join(blocks(page, "python")) + "\n"


# Of nginx and ini are the files of one page, which `tests.docs.test_deploy` runs. Of docker and
# yaml are the files of another, for `tests.docs.test_running`.
LANGUAGES = ("python", "pycon", "shell", "javascript", "nginx", "ini", "docker", "yaml")

#: Packages that the program of a page needs, and that nothing else needs.
NEEDED = {
    "docs_authentication": ("flask_login",),
    "docs_extensions": ("flask_babel", "flask_sqlalchemy", "flask_wtf"),
    "docs_json": ("orjson", "msgspec"),
    "docs_postgresql": ("flask_sqlalchemy", "psycopg"),
    "docs_testing_views": ("flask_login",),
}

#: Pages that are several files, which import one another. `tests.docs.test_installing` and
#: `tests.servers.test_frameworks` run them.
FOLDERS = {"docs_frameworks", "docs_installing"}


def is_runnable(name: str) -> bool:
    has_all = all(importlib.util.find_spec(package) for package in NEEDED.get(name, ()))
    return has_all and name not in FOLDERS


PROGRAMS = {
    name_of(page): program(page)
    for page in PAGES
    if blocks(page, "python") and is_runnable(name_of(page))
}
VIEW = re.compile(r'^@app\.get\("(?P<path>[^"]+)"\)\n(?P<body>(?:.+\n|\n(?= ))+)', re.MULTILINE)
VIEWS = [
    pytest.param(name, view["path"], view["body"], id=f"{name}{view['path']}")
    for name, code in PROGRAMS.items()
    for view in VIEW.finditer(code)
]

# Every page's app under its name, on one server.
_MOUNTED = """
import importlib
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
names = {names!r}
apps = {{"/" + name: getattr(importlib.import_module(name), "app", None) for name in names}}
app = DispatcherMiddleware(NotFound(), {{path: app for path, app in apps.items() if app}})
"""


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("docs")
    for name, code in PROGRAMS.items():
        (folder / f"{name}.py").write_text(code)
    (folder / "mounted.py").write_text(_MOUNTED.format(names=list(PROGRAMS)))
    server = Server("gevent", "mounted:app", env={"PYTHONPATH": f"{ROOT}:{folder}"})
    yield server.start()
    server.stop()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_docutils_renders_every_page_without_a_warning(page: Path) -> None:
    warnings = io.StringIO()
    html = docutils.core.publish_string(
        page.read_text(),
        str(page),
        writer="html5",
        settings_overrides={**SETTINGS, "warning_stream": warnings},
    )
    assert warnings.getvalue() == ""
    assert b"<html" in html


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_row_of_a_table_has_no_empty_cell(page: Path) -> None:
    # In a simple table, text of a second line in the first column begins another row.
    tree = docutils.core.publish_doctree(page.read_text(), settings_overrides=SETTINGS)
    for table in tree.findall(docutils.nodes.tbody):
        for row in table.findall(docutils.nodes.row):
            cells = [cell.astext() for cell in row.findall(docutils.nodes.entry)]
            assert all(cells), cells


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_link_to_a_file_leads_to_one(page: Path) -> None:
    tree = docutils.core.publish_doctree(page.read_text(), settings_overrides=SETTINGS)
    references = tree.findall(docutils.nodes.reference)
    # A link to a section of the same page has no refuri.
    targets = [node["refuri"] for node in references if "refuri" in node]
    targets += [node["uri"] for node in tree.findall(docutils.nodes.image)]
    for target in targets:
        if "://" not in target:
            assert (page.parent / target).is_file(), target


#: A path in a page's text or commands that begins with a folder of this repository.
PATH = re.compile(r"(?<![\w./-])(?:\.ci|benchmarks|docs|examples|ssestream|tests)/[\w./-]*\w/?")

#: Files that a page lets its reader make.
MADE = {"tests/node/node_modules", "benchmarks/node/node_modules"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_path_of_this_repository_exists(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert path in MADE or (ROOT / path).exists() or (page.parent / path).exists(), path


def test_a_file_that_the_page_on_the_design_names_exists() -> None:
    page = ROOT / "docs" / "design.rst"
    tree = docutils.core.publish_doctree(page.read_text(), settings_overrides=SETTINGS)
    names = {node.astext() for node in tree.findall(docutils.nodes.literal)}
    files = {name for name in names if re.fullmatch(r"[\w/]+(\.py|/)", name)}
    assert len(files) > 20
    for name in files:
        inside = [*ROOT.glob(f"ssestream/{name}"), *ROOT.glob(f"ssestream/*/{name}")]
        assert inside or (ROOT / name).exists(), name


def test_the_figures_of_the_design_are_those_that_their_script_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "figures.py"))["figures"]()
    kept = {file.name: file.read_text() for file in (ROOT / "docs" / "design").iterdir()}
    assert drawn == kept


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_code_block_is_in_a_language_that_is_tested(page: Path) -> None:
    tree = docutils.core.publish_doctree(page.read_text(), settings_overrides=SETTINGS)
    for block in tree.findall(docutils.nodes.literal_block):
        assert block["classes"] in (
            [],
            *(["code", known] for known in LANGUAGES),
        )


def test_the_readme_and_the_page_on_porting_have_views_to_test() -> None:
    assert {"/clock", "/news"} == {view.values[1] for view in VIEWS if view.values[0] == "readme"}
    assert len([view for view in VIEWS if view.values[0] == "docs_porting"]) >= 8


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_python_of_a_page_compiles_block_by_block(name: str) -> None:
    page = next(page for page in PAGES if name_of(page) == name)
    for number, block in enumerate(blocks(page, "python")):
        compile(block, f"{name}, block {number}", "exec")


def test_the_test_of_the_page_on_porting_passes() -> None:
    page: dict[str, Any] = {"__name__": "porting"}
    exec(PROGRAMS["docs_porting"], page)
    page["test_plain"]()


@pytest.mark.skipif(not is_runnable("docs_json"), reason="orjson or msgspec is not installed")
@pytest.mark.parametrize("library", ["Orjson", "Msgspec"])
def test_the_json_of_a_page_is_sent_as_its_library_writes_it(library: str) -> None:
    page: dict[str, Any] = {"__name__": "json_page"}
    exec(PROGRAMS["docs_json"], page)
    app = page["app"]
    assert type(app.json).__name__ == "OrjsonProvider"
    app.json = page[f"{library}Provider"](app)
    with app.app_context():
        sse_stream = ssestream.SseStream()
        res = ssestream.ServerResponse()
        sse_stream.pipe(res)
        sse_stream.end(
            {"data": {"b": [1, "\u00fc"], "at": datetime.date(2026, 1, 2), "x": math.nan}}
        )
    *_, message = Decoder().feed(b"".join(res.response))
    assert message == {"data": '{"b":[1,"\u00fc"],"at":"2026-01-02","x":null}'}
    assert app.json.loads(message["data"])["b"] == [1, "\u00fc"]


@pytest.mark.server
@pytest.mark.parametrize(("name", "path", "body"), VIEWS)
def test_a_view_of_the_docs_answers_as_it_should(
    mounted: Server, name: str, path: str, body: str
) -> None:
    # HTTP/1.0, so that what comes is the body and not its chunks.
    # A job that the page on porting has.
    path = path.replace("<id>", "first")
    client = Client(mounted.port).get(f"/{name}{path}", version="1.0")
    head = client.read_until(b"\r\n\r\n").partition(b"\r\n\r\n")[0]
    status = int(head.split()[1])
    if "204" in body:
        assert status == 204
    elif ", 400" in body:
        assert status == 400
    elif "ssestream_url" in body:
        assert status == 200
        client.read_until(b"/_ssestream/ssestream-")
    elif "@login_required" in body or "tickets.admit" in body:
        # Nobody has logged in, or has a ticket. The page on authentication shows the log-in to
        # those who do not ask for a stream.
        assert status == (302 if "@login_required" in body else 401)
    elif re.search(r"\bme\(\)", body):
        # Nobody has logged in.
        assert status == 401
    elif "channels.history" in body or "watchers()" in body:
        # Its file is not on this machine.
        assert status == 500
    elif "channels.subscribe" in body:
        # A broker that is away refuses nobody.
        assert status == 200
        client.read_until(b":ok\n\n")
    else:
        assert status == 200
        assert b"Content-Type: text/event-stream" in head
        stream = client.read_until(b"data:").partition(b"\r\n\r\n")[2]
        if body.startswith("@handler") and "SseStream" not in body:
            assert stream.startswith(b"data: ")
        else:
            assert stream.startswith(b":ok\n\n" if "SseStream" in body else b"id:0\n")
    client.fin()


@pytest.mark.server
def test_the_clock_of_the_readme_sends_dates_with_ids_from_zero(mounted: Server) -> None:
    client = Client(mounted.port).get("/readme/clock", version="1.0")
    text = client.read_until(b"id: 1\n").partition(b"\r\n\r\n")[2]
    first, *_ = Decoder().feed(text.removeprefix(b":ok\n\n"))
    assert first["id"] == "0"
    assert first["retry"] == 20000
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", str(first["data"]))
    client.fin()


@pytest.mark.server
def test_a_source_that_holds_an_app_context_may_lose_its_client_at_any_time(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "held.py").write_text(
        "from flask import Flask, request\n"
        "from ssestream import ServerResponse, SseStream, pipeline\n"
        "app = Flask(__name__)\n"
        "def source():\n"
        "    with app.app_context():\n"
        "        try:\n"
        "            while True:\n"
        "                yield {'data': 'x' * 100000}\n"
        "        finally:\n"
        '            print(\'@event {"source": "closed"}\', flush=True)\n'
        "@app.get('/')\n"
        "def view():\n"
        "    res = pipeline(source(), SseStream(request), ServerResponse())\n"
        "    res.on('close', lambda: print('@event {\"res\": \"closed\"}', flush=True))\n"
        "    return res\n"
    )
    server = serve("gevent", "held:app", env={"PYTHONPATH": f"{ROOT}:{tmp_path}"})
    client = Client(server.port, receive_buffer=4096).get("/")
    client.read_until(b"data: ")
    client.rst()
    server.wait_for(source="closed")
    server.wait_for(res="closed")
    server.end()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_sessions_in_the_docs_went_as_they_are_shown(page: Path) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        failed, _ = doctest.testfile(str(page), module_relative=False)
    assert failed == 0, out.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_shell_of_the_docs_parses(page: Path) -> None:
    for block in blocks(page, "shell"):
        subprocess.run(["bash", "-n"], input=block.encode(), check=True)


@pytest.mark.node
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_javascript_of_the_docs_parses(page: Path, node: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "javascript")):
        file = tmp_path / f"{number}.js"
        file.write_text(block)
        subprocess.run([node, "--check", file], check=True)


def readme_commands() -> tuple[str, str]:
    """How the README runs the clock, and how it runs the tests."""
    run, tests = blocks(README, "shell")
    return run, tests


def test_the_readme_has_two_commands_of_one_line_that_begin_from_nothing() -> None:
    for command in readme_commands():
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q ")


def test_the_first_screen_of_the_readme_starts_a_stream_and_shows_its_code() -> None:
    lines = README.read_text().splitlines()
    screen = "\n".join(lines[:60])
    assert readme_commands()[0] in screen
    assert blocks(README, "python")[0].splitlines()[-1] in screen
    assert blocks(README, "javascript")[0].splitlines()[0] in screen


def test_the_readme_moves_and_has_a_test_for_each_of_the_five_things() -> None:
    text = README.read_text()
    (picture,) = re.findall(r"^\.\. image:: (.+)$", text, re.MULTILINE)
    assert (ROOT / picture).read_bytes().count(b"\x21\xf9\x04") > 5  # a frame each
    five = text.partition("Five things that others")[2].partition("\n\n\n")[0]
    points = five.split("\n* ")[1:]
    assert len(points) == 5
    for point in points:
        assert re.search(r"<tests/\w+/test_\w+\.py>`__", point), point


def test_the_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    shown = subprocess.run([ROOT / ".ci" / "run", "--show"], capture_output=True, check=True)
    assert shown.stdout.decode().splitlines() == [readme_commands()[1]]


@pytest.mark.server
def test_the_command_that_runs_the_clock_serves_a_page_where_the_readme_says() -> None:
    address = "http://127.0.0.1:8000"
    assert f"open {address} in a browser" in README.read_text()
    words = shlex.split(readme_commands()[0].rpartition(" && ")[2])
    assert words[0] == ".venv/bin/gunicorn"
    bind = words.index("-b") + 1
    assert f"http://{words[bind]}" == address
    # The same on a port that is free here.
    port = free_port()
    words[bind] = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "gunicorn", *words[1:]]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            page = wait_until(lambda: fetch(f"http://127.0.0.1:{port}/"), "the page")
        finally:
            process.terminate()
    assert b"EventSource" in page


def fetch(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read())
    except OSError:  # URLError, and a timeout on a busy machine
        return None


def test_the_page_of_public_names_has_each_of_them_and_their_public_members() -> None:
    text = (ROOT / "docs" / "api.rst").read_text()
    for name in ssestream.__all__:
        assert re.search(rf"``{name}[(`]", text), name
    for owner in (ssestream.SseStream, ssestream.ServerResponse, ssestream.Channels):
        for name in own_members(owner):
            assert re.search(rf"``{name}[(`]", text), f"{owner.__name__}.{name}"


def test_the_table_of_settings_has_each_of_them_with_its_default() -> None:
    text = (ROOT / "docs" / "api.rst").read_text()
    for field in dataclasses.fields(ssestream.Settings):
        default = repr(field.default).replace("'", '"')
        assert re.search(rf"^``{field.name}`` +``{re.escape(default)}`` ", text, re.MULTILINE)


def test_the_tables_of_statistics_have_each_field_and_each_cause() -> None:
    text = (ROOT / "docs" / "api.rst").read_text()
    for field in dataclasses.fields(ssestream.Statistics):
        assert re.search(rf"^``{field.name}`` ", text, re.MULTILINE), field.name
    # What was refused is counted by itself.
    for cause in set(get_args(Cause)) - {"refused"}:
        assert re.search(rf'^``"{cause}"`` ', text, re.MULTILINE), cause


# What Werkzeug, the server and the other parts of this package call, and what is Werkzeug's.
NOT_FOR_APPS = {
    "call_on_close",
    "current_exchange",
    "get_app_iter",
    "get_wsgi_headers",
    "get_wsgi_response",
}


def own_members(owner: type[Any]) -> set[str]:
    """What this package adds to the classes that *owner* is made of."""
    ours = [base for base in owner.__mro__ if base.__module__.startswith("ssestream.")]
    names = {name for base in ours for name in vars(base)}
    return {name for name in names if not name.startswith("_")} - NOT_FOR_APPS
