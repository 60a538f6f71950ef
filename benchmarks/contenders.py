"""The contenders: how to start each of them, and which are missing on this machine."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from gunicorn.config import make_settings

from .servers import BUILD, HERE, Contender

# gunicorn 23 has no control socket, and does not know the option.
NO_CONTROL_SOCKET = ("--no-control-socket",) if "control_socket_disable" in make_settings() else ()

GUNICORN = (
    *(sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:{port}", *NO_CONTROL_SOCKET),
    *("--worker-connections", "20000", "--backlog", "4096", "--log-level", "warning"),
)
NODE = HERE / "node"
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


def nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(
            "ours-gevent",
            "ssestream on gunicorn -k gevent, with its hook",
            (*GUNICORN, "-k", "gevent", "-c", "python:ours_conf", "ours:app"),
        ),
        Contender(
            "ours-worker",
            "ssestream on its own worker",
            (*GUNICORN, "-k", "ssestream.gunicorn.SseWorker", "ours:app"),
        ),
        Contender(
            "generator",
            "a generator written by hand, gunicorn -k gevent",
            (*GUNICORN, "-k", "gevent", "generator:app"),
        ),
        Contender("npm-ssestream", "npm ssestream on Express", ("node", f"{NODE}/ssestream.js")),
        Contender("better-sse", "npm better-sse on Express", ("node", f"{NODE}/better-sse.js")),
        Contender(
            "sse-starlette",
            "sse-starlette on uvicorn and uvloop",
            (
                *(sys.executable, "-m", "uvicorn", "--loop", "uvloop", "--http", "httptools"),
                *("--host", "127.0.0.1", "--port", "{port}", "--backlog", "4096"),
                *("--no-access-log", "--log-level", "warning", "starlette_app:app"),
            ),
            greets=False,
        ),
        Contender(
            "nchan",
            "nginx and nchan",
            (nginx() or "nginx", "-p", "{folder}", "-c", "{folder}/nginx.conf"),
            over_http=True,
            # nchan numbers the messages of a second with 15 bits. Beyond 32,768 in a second on
            # one channel, messages do not arrive.
            most_a_second=30_000,
            files={
                "nginx.conf": (HERE / "apps" / "nchan.conf")
                .read_text()
                .replace("{module}", str(NCHAN))
                .replace("{descriptors}", "20000")
            },
        ),
        Contender(
            "floor",
            "C: one send of one shared buffer",
            (str(BUILD / "floor"), "{port}", "{control}", "{text}"),
        ),
    )
}


#: The contenders of another checkout, and the contenders of this one that they are beside.
BEFORE = {"before-gevent": "ours-gevent", "before-worker": "ours-worker"}


def before(checkout: Path) -> dict[str, Contender]:
    """The contenders that run the package of another checkout with all else the same."""
    made = {}
    for name, ours in BEFORE.items():
        now = CONTENDERS[ours]
        what = f"{now.what}, of the other checkout"
        made[name] = dataclasses.replace(now, name=name, what=what, checkout=checkout)
    return made


def npm_packages_are_here() -> bool:
    names = json.loads((NODE / "package.json").read_text())["dependencies"]
    return all((NODE / "node_modules" / name).is_dir() for name in names)


def missing(contender: Contender) -> str | None:
    """Say which program is missing for a contender, or return None."""
    if contender.command[0] == "node":
        if shutil.which("node") is None:
            return "there is no node; Debian has it in nodejs"
        if not npm_packages_are_here():
            return "its npm packages are not here: npm ci --prefix benchmarks/node"
    if contender.name == "sse-starlette":
        for module in ("sse_starlette", "uvicorn", "uvloop", "httptools"):
            if importlib.util.find_spec(module) is None:
                return f"there is no {module}; tox installs it"
    if contender.name == "nchan" and (nginx() is None or not NCHAN.exists()):
        return "there is no nginx with nchan; Debian has it in libnginx-mod-nchan"
    if contender.name == "floor" and not (BUILD / "floor").exists():
        return "there is no C compiler"
    return None


def build(npm: bool = True) -> None:
    """Build the two C programs and install the npm packages, if they are missing."""
    BUILD.mkdir(exist_ok=True)
    for name in ("load", "floor"):
        source, target = HERE / "native" / f"{name}.c", BUILD / name
        if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
            continue
        compiler = shutil.which("cc")
        if compiler is None:
            raise SystemExit("the load client is written in C, and there is no cc here")
        # Build it beside its place and then move it: two runs may do this at the same time.
        fresh = target.with_suffix(".new")
        command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(source)]
        subprocess.run(command, check=True)
        fresh.replace(target)
    if npm and shutil.which("npm") and not npm_packages_are_here():
        command = ["npm", "ci", "--prefix", str(NODE), "--no-audit", "--no-fund"]
        # If this fails, npm has printed the reason, and its contenders are left out.
        subprocess.run([*command, "--loglevel=error"], stdout=subprocess.DEVNULL)


def versions() -> dict[str, str]:
    """The versions of the programs and packages of the contenders here."""
    found = {}
    for name in ("gunicorn", "gevent", "sse-starlette", "uvicorn", "uvloop"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for command in (["node", "--version"], [nginx() or "nginx", "-v"]):
        with contextlib.suppress(OSError):
            told = subprocess.run(command, capture_output=True, text=True)
            if number := re.search(r"\d+\.[\d.]+", told.stdout + told.stderr):
                found[Path(command[0]).name] = number[0]
    found.update(json.loads((NODE / "package.json").read_text())["dependencies"])
    return found
