"""The list of the pages of docs/, and the pages that are made from docstrings.

``tox -e site`` builds the site itself, and takes a warning for an error.
"""

import ast
import re
from pathlib import Path

import pytest

import ssestream
from ssestream.http import diagnosis
from ssestream.runtime.emitter import Emitter
from tests.docs.test_docs import own_members
from tests.kit.servers import ROOT

DOCS = ROOT / "docs"
INDEX = (DOCS / "index.rst").read_text()


def listed() -> list[str]:
    """The pages that the front page describes, as names for a toctree."""
    links = re.findall(r"<([\w/]+)\.rst>`_(?!_)", INDEX)
    return list(links)


def in_toctrees(text: str) -> list[str]:
    trees = re.findall(r"^\.\. toctree::\n(?:   :.*\n)*\n((?:   .*\n)+)", text, re.MULTILINE)
    return [line.strip() for tree in trees for line in tree.splitlines()]


def test_the_front_page_describes_the_pages_in_the_order_of_the_site() -> None:
    assert listed() == in_toctrees(INDEX)


def test_the_site_has_every_page() -> None:
    pages = {page.stem for page in DOCS.glob("*.rst")} - {"index"}
    assert {*in_toctrees(INDEX)} == pages | {"reference/index"}
    made = {page.stem for page in (DOCS / "reference").glob("*.rst")} - {"index"}
    assert {*in_toctrees((DOCS / "reference" / "index.rst").read_text())} == made


def test_each_example_has_a_page_and_each_page_a_picture_that_its_test_takes() -> None:
    examples = {file.stem for file in (ROOT / "examples").glob("*.py")}
    pages = {name: "" for name in listed() if name in examples} | {"hypermedia": ""}
    pages = {name: (DOCS / f"{name}.rst").read_text() for name in pages}
    # A job is a part of its example.
    named = set(re.findall(r"examples[/.](\w+)", "\n".join(pages.values())))
    assert named >= examples - {"progress_job"}
    tests = "\n".join(file.read_text() for file in (ROOT / "tests" / "pages").glob("test_*.py"))
    for name, text in pages.items():
        assert f".. image:: {name}.png\n   :alt: " in text
        assert (DOCS / f"{name}.png").stat().st_size > 5000
        assert f'"{name}"' in "".join(re.findall(r"take_picture\(.*", tests)), name


def test_the_page_on_streams_that_hang_is_found_at_the_beginning_and_in_the_log() -> None:
    assert "<docs/hangs.rst>" in (ROOT / "README.rst").read_text()
    assert "<hangs.rst>" in INDEX.partition("First steps\n")[0]
    (named,) = re.findall(r"docs/\w+\.rst", diagnosis.MORE)
    assert (ROOT / named) == DOCS / "hangs.rst"


def test_the_list_of_the_public_names_is_whole() -> None:
    names = (DOCS / "api.rst").read_text().partition("from ssestream import (")[2].partition(")")[0]
    assert re.findall(r"\w+", names) == sorted(ssestream.__all__, key=_as_imports_are_sorted)


def _as_imports_are_sorted(name: str) -> tuple[bool, str]:
    return name[0].islower(), name


def public_names_of(module: str) -> list[str]:
    """The names of *module* that Sphinx shows. Not everybody can import each module."""
    file = ROOT.joinpath(*module.split("."))
    tree = ast.parse(
        (file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).read_text()
    )
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [name for name in defined if not name.startswith("_")]


def documented(module: str) -> set[str]:
    """The names of *module* that a page of docs/reference takes the docstring of."""
    text = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.rst"))
    names = set()
    current = ""
    for directive, name in re.findall(r"^\.\. (currentmodule|auto\w+):: ([\w.]+)", text, re.M):
        if directive in ("currentmodule", "automodule"):
            current = name
        full = name if name.startswith("ssestream.") else f"{current}.{name}"
        names.add(full)
        if directive == "automodule" and f"automodule:: {name}\n   :members:\n" in text:
            names |= {f"{name}.{each}" for each in public_names_of(name)}
    return {full.rpartition(".")[2] for full in names if full.rpartition(".")[0] == module}


@pytest.mark.parametrize(
    "module",
    [
        "ssestream",
        "ssestream.datastar",
        "ssestream.doctor",
        "ssestream.files",
        "ssestream.formats",
        "ssestream.gunicorn",
        "ssestream.health",
        "ssestream.htmx",
        "ssestream.metrics",
        "ssestream.metrics.opentelemetry",
        "ssestream.metrics.prometheus_client",
        "ssestream.operators",
        "ssestream.testing",
        "ssestream.tickets",
        "ssestream.top",
        "ssestream.turbo",
    ],
)
def test_the_reference_has_each_public_name(module: str) -> None:
    public = set(public_names_of(module))
    if module == "ssestream.tickets":
        # The package has it under its own name.
        public -= set(ssestream.__all__)
    assert documented(module) >= public


def test_the_reference_has_each_member_of_a_response() -> None:
    text = (DOCS / "reference" / "streams.rst").read_text().partition("ServerResponse\n")[2]
    members = re.findall(r"\w+", text.partition(":members:")[2])
    # docs/api.rst says what every emitter of events has.
    of_emitter = set(vars(Emitter)) & own_members(ssestream.ServerResponse)
    assert sorted(members) == sorted(own_members(ssestream.ServerResponse) - of_emitter)


def test_a_name_is_documented_once() -> None:
    pages = [page.read_text() for page in sorted(Path(DOCS, "reference").glob("*.rst"))]
    names = re.findall(r"^\.\. auto(?!module)\w+:: (.+)", "\n".join(pages), re.M)
    assert len(names) == len(set(names))
