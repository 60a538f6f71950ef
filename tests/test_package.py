"""The house rules that a reader would otherwise have to check by eye."""

import ast
import configparser
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import ssestream

PACKAGE = Path(ssestream.__file__).parent

#: The rooms, in an order in which each imports only from those before it.
ROOMS = (
    "runtime.__init__",
    "http.__init__",
    "runtime.clock",
    "runtime.forking",
    "errors",
    "printable",
    "runtime.callables",
    "proxies",
    "plain",
    "runtime.uncopyable",
    "http.interning",
    "http.peer",
    "wire",
    "http.heads",
    "http.request",
    "runtime.preconditions",
    "runtime.threads",
    "runtime.loop",
    "settings",
    "message_queue",
    "http.registry",
    "runtime.origin",
    "runtime.emitter",
    "http.hangup",
    "http.connection",
    "http.output",
    "runtime.wheel",
    "http.keepalive",
    "http.diagnosis",
    "asyncviews",
    "http.outgoing",
    "http.compression",
    "http.body",
    "gunicorn.sender",
    "pipe",
    "jsontext",
    "belonging",
    "http.unsent",
    "stream",
    "brokers.broker",
    "brokers.configuration",
    "brokers.memory",
    "brokers.sqlite",
    "brokers.redis_url",
    "brokers.redis",
    "brokers.__init__",
    "channels.ids",
    "channels.publication",
    "channels.subscription",
    "channels.tail",
    "channels.fanout",
    "channels.ailing",
    "channels.listener",
    "channels.unheard",
    "channels.channels",
    "channels.__init__",
    "response",
    "runtime.threadloop",
    "pipeline",
    "timers",
    "http.draining",
    "gunicorn.stopping",
    "gunicorn.unwrapping",
    "gunicorn.worker",
    "gunicorn.__init__",
    "__init__",
    "__main__",
)

#: What every installation has: the dependencies, and what they cannot be without.
EVERYBODY_HAS = {"flask", "werkzeug", "gevent", "greenlet", "pyee", "typing_extensions"}

FILES = sorted(PACKAGE.rglob("*.py"))


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(file: Path) -> Iterator[str]:
    """Every module that *file* imports, anywhere in it; own ones begin with ``ssestream.``"""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = ""
            if node.level:
                package = [PACKAGE.name, *file.parent.relative_to(PACKAGE).parts]
                prefix = ".".join(package[: len(package) + 1 - node.level]) + "."
            if node.module:
                yield prefix + node.module
            else:
                yield from (prefix + alias.name for alias in node.names)


def test_every_room_is_in_the_plan() -> None:
    assert {name_of(file) for file in FILES} == set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_room_imports_only_from_rooms_before_it(file: Path) -> None:
    before = ROOMS[: ROOMS.index(name_of(file))]
    own = [name.removeprefix("ssestream.") for name in imports_of(file) if "ssestream" in name]
    # A package is its __init__.
    own = [name if name in ROOMS else f"{name}.__init__" for name in own]
    assert set(own) <= set(before)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_package_that_not_everybody_has_is_imported_where_its_name_is(file: Path) -> None:
    tops = {name.partition(".")[0] for name in imports_of(file)} - {"ssestream"}
    foreign = tops - set(sys.stdlib_module_names) - EVERYBODY_HAS
    assert foreign <= {file.stem, file.parent.name}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_library_neither_prints_nor_asserts_what_it_knows_to_be_false(file: Path) -> None:
    for node in ast.walk(tree_of(file)):
        where = f"{file.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Name) and file.name != "__main__.py":
            assert node.id not in ("print", "breakpoint"), where
        if isinstance(node, ast.Assert):
            assert not isinstance(node.test, ast.Constant), where
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: a bare except"


def test_all_is_sorted_and_is_what_is_public() -> None:
    public = {
        name
        for name, value in vars(ssestream).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert ssestream.__all__ == sorted(public)


@pytest.mark.parametrize("name", ssestream.__all__)
def test_a_public_name_says_what_it_is_for(name: str) -> None:
    value = getattr(ssestream, name)
    assert value.__doc__
    members = vars(value).items() if isinstance(value, type) else ()
    for member, what in members:
        if isinstance(what, types.FunctionType | property) and not member.startswith("_"):
            # One that Werkzeug has too is described there.
            inherited = any(hasattr(base, member) for base in value.__mro__[1:])
            assert what.__doc__ or inherited, f"{name}.{member}"


def test_an_error_is_named_for_what_happened_and_has_one_root() -> None:
    errors = [
        value
        for name in ssestream.__all__
        if isinstance(value := getattr(ssestream, name), type) and issubclass(value, Exception)
    ]
    assert len(errors) == 9
    assert all(issubclass(error, ssestream.SseStreamError) for error in errors)
    assert issubclass(ssestream.MessageError, ValueError)


def test_the_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_tox_tests_the_oldest_dependencies_that_are_allowed() -> None:
    setup, tox = configparser.ConfigParser(), configparser.ConfigParser(interpolation=None)
    setup.read(PACKAGE.parent / "setup.cfg")
    tox.read(PACKAGE.parent / "tox.ini")
    extras = setup["options.extras_require"]
    required = [setup["options"]["install_requires"], extras["gunicorn"], extras["redis"]]
    allowed = re.findall(r"^(\w+)(?:\[\w+\])?>=([\d.]+)$", "\n".join(required), re.MULTILINE)
    assert len(allowed) == sum(len(each.split()) for each in required)
    tested = re.findall(r"^(\w+)==([\d.]+)\.\*$", tox["testenv:lowest"]["deps"], re.MULTILINE)
    assert tested == allowed
    python = tox["testenv:lowest"]["base_python"].replace("py3", "3.")
    assert setup["options"]["python_requires"] == f">={python}"
