"""The house rules that a reader would otherwise have to check by eye."""

import ast
import configparser
import graphlib
import json
import re
import sys
import types
from pathlib import Path

import pytest

import ssestream
from tests.conftest import HERE, LONGEST
from tests.house import (
    FILES,
    FOREIGN_WRITES,
    PACKAGE,
    PRIVATE_READS,
    PROTOCOLS,
    TESTS,
    TESTS_REACH,
    foreign_writes,
    imports_of,
    name_of,
    private_names,
    private_reads,
    protocols,
    reaches,
    too_long,
    tree_of,
)

#: The floors of the house. A room or a wing imports only from its own floor and from those
#: before it.
FLOORS = (
    {"browser", "compact_json", "errors", "plain", "printable", "settings", "runtime"},
    {"wire", "http", "brokers"},
    {"config", "message_queue", "overflow", "pipe", "same_origin", "text_source"},
    {"express", "flow", "response", "stream_ends", "stream_state"},
    {"stream"},
    {
        "async_handler",
        "async_items",
        "async_source",
        "channels",
        "datastar",
        "files",
        "formats",
        "handler",
        "handler_run",
        "htmx",
        "incoming",
        "once",
        "pipeline",
        "timers",
        "turbo",
    },
    {"producer", "run_keeper", "run_log", "runs", "tickets"},
    {
        "doctor",
        "gunicorn",
        "__init__",
        "__main__",
        "header_option",
        "health",
        "metrics",
        "operators",
        "testing",
        "top",
    },
)

FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}

#: What every installation has: the dependencies, and what they cannot be without.
EVERYBODY_HAS = {
    "flask",
    "gevent",
    "greenlet",
    "itsdangerous",
    "markupsafe",
    "pyee",
    "typing_extensions",
    "werkzeug",
}


def own_imports(file: Path) -> set[str]:
    """The rooms that *file* imports. A package is its ``__init__``."""
    rooms = {name_of(each) for each in FILES}
    found = set()
    for name in imports_of(file):
        if name.partition(".")[0] == "ssestream":
            own = name.removeprefix("ssestream").removeprefix(".")
            # Neither of them is a room if *name* is a class or a function.
            found |= {own, f"{own}.__init__".removeprefix(".")} & rooms
    return found


def wing_of(room: str) -> str:
    return room.partition(".")[0]


def test_every_room_has_its_floor() -> None:
    assert {wing_of(name_of(file)) for file in FILES} <= set(FLOOR_OF)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_room_imports_nothing_from_a_floor_above(file: Path) -> None:
    room = name_of(file)
    floor = FLOOR_OF[wing_of(room)]
    above = {name for name in own_imports(file) if FLOOR_OF[wing_of(name)] > floor}
    assert not above


def test_imports_go_one_way() -> None:
    graph = {name_of(file): own_imports(file) for file in FILES}
    # Raises CycleError, which names the circle.
    assert set(graphlib.TopologicalSorter(graph).static_order()) == set(graph)


def test_the_comment_in_the_package_draws_every_room() -> None:
    drawn = set(re.findall(r"^#\s+(\w+)(?:\.py|/) ", (PACKAGE / "__init__.py").read_text(), re.M))
    there = {wing_of(name_of(file)) for file in FILES}
    assert there - {"__init__"} <= drawn


def test_the_house_gets_no_worse() -> None:
    reads = [each for file in FILES for each in private_reads(file)]
    assert len(reads) <= PRIVATE_READS, "\n".join(reads)
    writes = [each for file in FILES for each in foreign_writes(file)]
    assert len(writes) <= FOREIGN_WRITES, "\n".join(writes)
    contracts = [each for file in FILES for each in protocols(file)]
    assert len(contracts) <= PROTOCOLS, "\n".join(contracts)
    assert len(contracts) == len(set(contracts))
    private = private_names()
    found = [each for file in TESTS for each in reaches(file, private)]
    assert len(found) <= TESTS_REACH, "\n".join(found)
    assert not too_long()


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
    assert len(errors) == 10
    assert all(issubclass(error, ssestream.SseStreamError) for error in errors)
    assert issubclass(ssestream.MessageError, ValueError)


def test_the_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_every_file_of_the_package_is_shipped() -> None:
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    data = setup["options.package_data"]
    folders = set()
    for file in PACKAGE.rglob("*.*"):
        if file.is_file() and "__pycache__" not in file.parts:
            package = ".".join(file.relative_to(PACKAGE.parent).parent.parts)
            # As setuptools reads them: one in each line. A space does not part them.
            patterns = ["*.py", *data.get(package, "").strip().splitlines()]
            assert any(file.match(pattern) for pattern in patterns), file
            folders.add(package)
    assert set(setup["options"]["packages"].split()) == folders


def test_tox_tests_the_oldest_dependencies_that_are_allowed() -> None:
    setup, tox = configparser.ConfigParser(), configparser.ConfigParser(interpolation=None)
    setup.read(PACKAGE.parent / "setup.cfg")
    tox.read(PACKAGE.parent / "tox.ini")
    extras = setup["options.extras_require"]
    required = [setup["options"]["install_requires"]]
    required += [extras[each] for each in ("gunicorn", "redis", "postgresql")]
    allowed = re.findall(r"^(\w+)(?:\[\w+\])?>=([\d.]+)$", "\n".join(required), re.MULTILINE)
    assert len(allowed) == sum(len(each.split()) for each in required)
    tested = re.findall(r"^(\w+)==([\d.]+)\.\*$", tox["testenv:lowest"]["deps"], re.MULTILINE)
    assert tested == allowed
    python = tox["testenv:lowest"]["base_python"].replace("py3", "3.")
    assert setup["options"]["python_requires"] == f">={python}"


def test_tox_tests_each_python_that_the_package_is_for() -> None:
    setup, tox = configparser.ConfigParser(), configparser.ConfigParser(interpolation=None)
    setup.read(PACKAGE.parent / "setup.cfg")
    tox.read(PACKAGE.parent / "tox.ini")
    classifiers = setup["metadata"]["classifiers"]
    named = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    tested = re.findall(r"\bpy(3)(\d+)\b", tox["tox"]["env_list"])
    assert named == [".".join(each) for each in tested]


@pytest.mark.node
def test_the_link_to_the_original_is_the_address_that_the_original_gives(packages: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    links = dict(re.findall(r"^(.+) = (.+)$", setup["metadata"]["project_urls"], re.MULTILINE))
    original = json.loads((packages / "ssestream" / "package.json").read_text())
    there = original["repository"].replace("git://", "https://").removesuffix(".git")
    assert links["Original for Node"] == there


def test_the_changes_begin_with_this_version() -> None:
    changes = (PACKAGE.parent / "CHANGES.rst").read_text()
    assert changes.startswith(f"Version {ssestream.__version__}\n---")


#: Rooms whose unit test file has another name. The files of a broker are parts of one, as are those
#: for OpenTelemetry.
TESTED_IN = {
    "brokers.memory_log": "unit/brokers/test_memory.py",
    "__main__": "servers/test_command.py",
    "handler_run": "unit/test_handler.py",
    "stream": "unit/stream/test_stream.py",
    "stream_state": "unit/test_flow.py",
}


def file_of_tests(room: str) -> str:
    wing, _, name = room.partition(".")
    if wing in ("brokers", "doctor", "metrics") and "." in name:
        name = name.partition(".")[0]
    folder = f"unit/{wing}/" if name else "unit/"
    return TESTED_IN.get(room, f"{folder}test_{name or wing}.py")


def test_every_room_has_a_test_file_of_its_name() -> None:
    rooms = {name_of(file) for file in FILES if file.stem != "__init__"}
    tests = Path(__file__).parent
    missing = {room for room in rooms if not (tests / file_of_tests(room)).is_file()}
    assert missing == set()


def test_the_files_of_tests_that_begin_first_are_there() -> None:
    missing = [name for name in LONGEST if not (HERE / name).is_file()]
    assert missing == []
