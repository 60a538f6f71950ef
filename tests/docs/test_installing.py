"""The project of the page on installing, as its files stand there, on real servers."""

import configparser
import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.test_docs import blocks
from tests.kit.servers import ROOT, Client, Server

PAGE = ROOT / "docs" / "installing.rst"

pytestmark = pytest.mark.server


def written(folder: Path) -> set[str]:
    """Write the files of the page into *folder*, and return their names."""
    names = set()
    for block in blocks(PAGE, "python"):
        found = re.match(r"# (\S+)\n", block)
        if found is not None:
            names.add(found[1])
            file = folder / found[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(block)
    return names


def test_the_page_says_what_each_extra_is_for() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = re.findall(r"^``(\w+)`` {2,}\S", PAGE.read_text(), re.MULTILINE)
    assert named == list(setup["options.extras_require"])


@pytest.mark.long_except("SseWorker")
@pytest.mark.parametrize("kind", ["SseWorker", "flask"])
def test_the_project_serves_its_streams(
    kind: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    assert written(tmp_path) == {"shop/news.py", "shop/__init__.py", "gunicorn.conf.py"}
    args = () if kind == "flask" else ("-c", str(tmp_path / "gunicorn.conf.py"))
    app = "shop" if kind == "flask" else "shop:create_app()"
    server = serve(kind, app, args=args, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"})

    ticks = Client(server.port).get("/news/ticks")
    assert b"text/event-stream" in ticks.read_until(b"id: 1\n")
    ticks.fin()

    offers = Client(server.port).get("/news/offers")
    offers.read_until(b":ok\n\n")
    ask = urllib.request.Request(
        f"{server.url}/news/offers",
        b'{"tea": 3}',
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(ask, timeout=60) as answer:
        stored = json.load(answer)["id"]
    received = offers.read_until(b'data: {"tea":3}\n\n')
    assert f"id: {stored}\n".encode() in received
    offers.fin()
