"""The npm package in ``js/``: what it holds, and that Node, a browser and TypeScript take it."""

import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NODE_MODULES
from tests.kit.servers import ROOT, wait_until
from tests.servers.apps.browser import browser

pytestmark = pytest.mark.node

NAME = "ssestream-browser"

PROGRAM = """
import * as all from 'ssestream-browser'
const parser = new all.EventStreamParser()
const blocks = parser.feed(new TextEncoder().encode('id: 1\\ndata: hello\\n\\n'))
console.log(JSON.stringify({ names: Object.keys(all), blocks, ...all.SharedEventSource }))
"""

#: What the types allow, and after each ``@ts-expect-error`` what they refuse.
TYPES = """
import { EventStreamParser, SharedEventSource, type BreakReason } from 'ssestream-browser'
const source: EventTarget = new SharedEventSource('/a')
const events = new SharedEventSource(new URL('http://x/'), {
  share: 'group', replay: 5, heartbeat: 1000, maxDelay: 5, closeOn: ['close', 'end'],
  method: 'POST', body: '{}', headers: { A: 'b' }, token: async () => 'x',
  signal: AbortSignal.timeout(5), lastEventId: '1', withCredentials: true,
})
events.onmessage = (event) => event.data.toUpperCase()
events.addEventListener('price', (event) => event.lastEventId.trim())
events.addEventListener('error', () => events.reason?.code === 'silence' && events.reason.status)
const reason: BreakReason | null = events.reason
const state: 'connecting' | 'open' | 'waiting' | 'closed' = events.state
const drop: Pick<EventSource, 'url' | 'readyState' | 'withCredentials' | 'close'> = events
const blocks = new EventStreamParser('1').feed(new Uint8Array())
blocks[0]?.[1]?.length
// @ts-expect-error
events.readyState = 1
// @ts-expect-error
new SharedEventSource('/a', { heartbeat: 'often' })
// @ts-expect-error
new SharedEventSource()
// @ts-expect-error
events.state === 'broken'
export { source, reason, state, drop }
"""

PAGE = """<!doctype html><link rel="icon" href="data:,"><title>Packed</title>
<script type="importmap">
  { "imports": { "ssestream-browser": "/node_modules/ssestream-browser/ssestream.js" } }
</script>
<script type="module">
  import { SharedEventSource } from 'ssestream-browser'
  window.source = new SharedEventSource('/events.sse')
  source.onmessage = (event) => (document.title = event.data)
</script>
"""


def npm(folder: Path, *arguments: str) -> str:
    # A cache of its own, and no network: the package needs no other.
    env = {**os.environ, "npm_config_cache": f"{folder}/cache", "npm_config_offline": "true"}
    command = ["npm", *arguments, "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packed(node: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The package as npm packs it, and what npm says of it."""
    if shutil.which("npm") is None:
        pytest.skip("left out, as npm is not installed")
    folder = tmp_path_factory.mktemp("packed")
    packages = json.loads(npm(folder, "pack", "--json", str(ROOT / "js")))
    # Up to npm 11 it is a list, and from npm 12 on an object.
    (found,) = packages.values() if isinstance(packages, dict) else packages
    return folder / found["filename"], found


@pytest.fixture(scope="module")
def project(packed: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has installed it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "package.json").write_text('{"name": "project", "type": "module"}')
    npm(folder, "install", str(packed[0]))
    return folder


def test_the_package_has_the_module_its_types_its_license_and_nothing_else(
    packed: tuple[Path, dict[str, Any]],
) -> None:
    found = {each["path"]: each["size"] for each in packed[1]["files"]}
    own = {"ssestream.js": "ssestream", "ssestream.d.ts": "ssestream", "LICENSE": "."}
    assert found.keys() == {*own, "README.md", "package.json"}
    for name, folder in own.items():
        assert found[name] == (ROOT / folder / name).stat().st_size, name


def test_node_imports_it_from_a_project(node: str, project: Path) -> None:
    (project / "main.js").write_text(PROGRAM)
    done = subprocess.run(
        [node, "main.js"], cwd=project, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == {
        "names": ["EventStreamParser", "SharedEventSource"],
        "blocks": [["message", "hello", "1"]],
        "CONNECTING": 0,
        "OPEN": 1,
        "CLOSED": 2,
    }


@pytest.mark.long
@pytest.mark.parametrize("resolution", ["bundler", "nodenext"])
def test_a_program_with_its_types_compiles_and_a_wrong_one_does_not(
    node: str, project: Path, resolution: str
) -> None:
    compiler = NODE_MODULES / "typescript" / "bin" / "tsc"
    if not compiler.is_file():
        pytest.skip("left out, as npm's typescript is not installed: npm ci --prefix tests/node")
    (project / "main.ts").write_text(TYPES)
    module = "esnext" if resolution == "bundler" else "nodenext"
    options = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2022,dom,dom.iterable"]
    options += ["--module", module, "--moduleResolution", resolution]
    command = [node, str(compiler), *options, "main.ts"]
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


class Handler(SimpleHTTPRequestHandler):
    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".sse": "text/event-stream",
    }

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(project: Path) -> Iterator[str]:
    """The address of the project's files."""
    (project / "index.html").write_text(PAGE)
    (project / "events.sse").write_text("data: hello\n\nevent: close\ndata\n\n")
    handler = functools.partial(Handler, directory=str(project))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.browser
def test_a_browser_imports_it_by_an_import_map(
    chromium: tuple[str, str], site: str, tmp_path: Path
) -> None:
    with browser(chromium, tmp_path / "profile") as driver:
        driver.get(site)
        wait_until(lambda: driver.title == "hello", "the event")
        wait_until(
            lambda: driver.execute_script("return source.reason?.code") == "closing", "the end"
        )
