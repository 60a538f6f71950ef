"""Counts of the package that should only go down: ``python -m tests.house`` prints them.

``test_package`` fails if a count is above its bound. A change that lowers a count lowers the
bound, too.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import ssestream

PACKAGE = Path(ssestream.__file__).parent

FILES = sorted(PACKAGE.rglob("*.py"))

#: The tests, in Python. npm's packages have some, too.
TESTS = sorted(
    file for file in Path(__file__).parent.rglob("*.py") if "node_modules" not in file.parts
)

#: Reads of private attributes of another object, anywhere in the package. The aim is 25.
PRIVATE_READS = 16

#: Writes to attributes of another object. The aim is 40.
FOREIGN_WRITES = 17

#: How often tests reach into private names of the package.
TESTS_REACH = 49

#: The protocols of the package, and no two have one name.
PROTOCOLS = 8

#: The most lines of a file, and how many files may come near.
MOST_LINES, MANY_LINES, FILES_WITH_MANY = 450, 400, 3

#: Files that are longer for now, with their lines: they may only become shorter. Strike out a
#: file that has become short enough.
TOO_LONG: dict[str, int] = {}


@functools.cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


@functools.cache
def nodes_of(file: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree_of(file)))


@functools.cache
def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(file: Path) -> Iterator[str]:
    """Every module that *file* imports, anywhere in it; own ones begin with ``ssestream.``"""
    for node in nodes_of(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = ""
            if node.level:
                package = [PACKAGE.name, *file.parent.relative_to(PACKAGE).parts]
                prefix = ".".join(package[: len(package) + 1 - node.level]) + "."
            if node.module:
                yield prefix + node.module
            # Any name may be a module, too.
            before = f"{prefix}{node.module}." if node.module else prefix
            yield from (before + alias.name for alias in node.names)


def _of_others(file: Path) -> Iterator[ast.Attribute]:
    """The attributes in *file* that are not looked up on self, cls or super()."""
    for node in nodes_of(file):
        if isinstance(node, ast.Attribute):
            # super() is a call of a name, too.
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls", "super")):
                yield node


def private_reads(file: Path) -> Iterator[str]:
    """The private attributes of other objects that *file* reaches into."""
    for node in _of_others(file):
        if node.attr.startswith("_") and not node.attr.startswith("__"):
            yield f"{name_of(file)}:{node.lineno} {ast.unparse(node)}"


def foreign_writes(file: Path) -> Iterator[str]:
    """The attributes of other objects that *file* sets or deletes."""
    for node in _of_others(file):
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            yield f"{name_of(file)}:{node.lineno} {ast.unparse(node)}"


def protocols(file: Path) -> Iterator[str]:
    """The names of the protocols that *file* has."""
    for node in nodes_of(file):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
            if bases & {"Protocol", "typing.Protocol"}:
                yield node.name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names() -> set[str]:
    """The private names that the package gives to attributes, functions, classes and globals."""
    names: set[str] = set()
    for file in FILES:
        for node in nodes_of(file):
            if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
    return set(filter(is_private, names))


def reaches(file: Path, private: set[str]) -> Iterator[str]:
    """Where the test *file* reaches into the *private* names: by attribute, import or text."""
    for node in _of_others(file):
        if node.attr in private:
            yield f"{_place(file, node)} {ast.unparse(node)}"
    for node in nodes_of(file):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssestream"):
            for name in (alias.name for alias in node.names if alias.name in private):
                yield f"{_place(file, node)} {node.module}.{name}"
        # As in ``monkeypatch.setattr(module, "_name", value)``.
        elif isinstance(node, ast.Call) and _called(node).endswith(("getattr", "setattr")):
            for name in (each.value for each in node.args if isinstance(each, ast.Constant)):
                if name in private:
                    yield f"{_place(file, node)} {ast.unparse(node)}"


def _called(node: ast.Call) -> str:
    """The last part of the name of what *node* calls."""
    function = node.func
    return str(getattr(function, "attr", getattr(function, "id", "")))


def _place(file: Path, node: ast.stmt | ast.expr) -> str:
    return f"{file.relative_to(Path(__file__).parent)}:{node.lineno}"


def lines_of(file: Path) -> int:
    return len(file.read_text().splitlines())


def too_long() -> set[str]:
    """The files that have grown, and those that are too long, or too many over `MANY_LINES`."""
    lines = {name_of(file): lines_of(file) for file in FILES}
    grown = {name for name, bound in TOO_LONG.items() if lines.get(name, 0) > bound}
    many = {name for name in lines if lines[name] > MANY_LINES} - TOO_LONG.keys()
    most = {name for name in lines if lines[name] > MOST_LINES} - TOO_LONG.keys()
    return grown | (many if len(many) > FILES_WITH_MANY else most)


def main() -> None:
    for what, find, bound in (
        ("private attributes of others", private_reads, PRIVATE_READS),
        ("writes to attributes of others", foreign_writes, FOREIGN_WRITES),
        ("protocols", protocols, PROTOCOLS),
    ):
        found = [each for file in FILES for each in find(file)]
        print(*found, sep="\n")
        print(f"-- {what}: {len(found)} (at most {bound})\n")
    private = private_names()
    found = [each for file in TESTS for each in reaches(file, private)]
    print(*found, sep="\n")
    print(f"-- reaches of tests into private names: {len(found)} (at most {TESTS_REACH})\n")
    for file in FILES:
        if lines_of(file) > MANY_LINES:
            print(f"{name_of(file)}: {lines_of(file)} lines")
    print(f"-- at most {FILES_WITH_MANY} files over {MANY_LINES} lines, none over {MOST_LINES}")


if __name__ == "__main__":
    main()
