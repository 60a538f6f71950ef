"""The pages on containers, on what to watch and on sizing, as they stand there."""

import ast
import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gunicorn
import pytest

import ssestream
from ssestream.settings import DEFAULTS
from tests.docs.test_docs import PROGRAMS, blocks
from tests.kit.servers import NO_CONTROL_SOCKET, ROOT, Client, Server, free_port, wait_until

CONTAINERS = ROOT / "docs" / "containers.rst"
WATCHING = ROOT / "docs" / "watching.rst"

(CONF,) = blocks(CONTAINERS, "python")
(IMAGE,) = blocks(CONTAINERS, "docker")
(DEPLOYMENT,) = blocks(CONTAINERS, "yaml")
(HOOK,) = (block for block in blocks(WATCHING, "python") if "post_worker_init" in block)
(HEALTH,) = (block for block in blocks(WATCHING, "python") if "/live" in block)

# The stream that a client of the container has open.
STREAM = """

from flask import request
from ssestream import ServerResponse, SseStream

@app.route("/stream")
def stream():
    res = ServerResponse()
    sse_stream = SseStream(request)
    sse_stream.pipe(res)
    return res
"""


def settings_of(conf: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    exec(conf, settings)
    return settings


def app_of(folder: Path) -> Any:
    """The app of the page on what to watch, with its events in *folder*."""
    page: dict[str, Any] = {"__name__": __name__}
    database = f"{folder}/events.db"
    exec(PROGRAMS["docs_watching"].replace("/var/lib/app/events.db", database), page)
    return page["app"]


class Container(Server):
    """What the image starts, in a folder with the files of the two pages."""

    def __init__(self, folder: Path, hook: str = "") -> None:
        super().__init__("container", "app:app", port=free_port())
        self.folder = folder
        conf = CONF.replace("0.0.0.0:8000", f"127.0.0.1:{self.port}")
        assert conf != CONF
        (folder / "gunicorn.conf.py").write_text(f"{conf}\n{hook}")
        events = f"{folder}/events.db"
        app = HEALTH.replace("/var/lib/app/events.db", events)
        (folder / "app.py").write_text(app + STREAM)
        self.env["PYTHONPATH"] = f"{ROOT}:{folder}"

    def _command(self) -> list[str]:
        (command,) = re.findall(r"^CMD (\[.*\])$", IMAGE, re.MULTILINE)
        words = json.loads(command)
        assert words[:3] == ["gunicorn", "-c", "gunicorn.conf.py"]
        conf = str(self.folder / "gunicorn.conf.py")
        return [sys.executable, "-m", "gunicorn", *NO_CONTROL_SOCKET, "-c", conf, *words[3:]]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(tmp_path, HOOK.replace("60_000", "100"))
    yield made
    made.stop()


@pytest.mark.server
def test_the_container_answers_its_probes_and_ends_its_streams_in_the_time_it_has(
    container: Container,
) -> None:
    container.start()
    for path in probes():
        client = Client(container.port).get(path)
        client.read_until(b"HTTP/1.1 204")
        client.fin()
    stream = Client(container.port).get("/stream")
    stream.read_until(b":ok\n\n")
    # A balancer keeps its connections to the app, for longer than the app has to stop.
    kept = Client(container.port).get("/live")
    kept.read_until(b"HTTP/1.1 204")
    assert container.process is not None
    began = time.monotonic()
    container.process.send_signal(signal.SIGTERM)
    stream.read_until(b"0\r\n\r\n")
    assert re.search(rb"retry: [1-5]\d{3}\n", stream.received)
    # Its stream has ended, and the balancer closes the connection that it has kept.
    kept.fin()
    assert container.process.wait(settings_of(CONF)["graceful_timeout"]) == 0
    assert time.monotonic() - began < settings_of(CONF)["graceful_timeout"]
    assert "graceful timeout" not in container.log()


@pytest.mark.server
def test_the_hook_reports_the_numbers_of_its_worker(container: Container) -> None:
    container.start()
    stream = Client(container.port).get("/stream")
    stream.read_until(b":ok\n\n")

    def reported() -> list[dict[str, Any]]:
        lines = re.findall(r"streams (\{.*\})\n", container.log())
        return [numbers for line in lines if (numbers := json.loads(line))["open"] == 1]

    wait_until(reported, "a report of the stream")
    assert reported()[0]["pid"] == container.worker_pid()
    stream.fin()


def test_the_app_is_alive_while_its_broker_is_not(tmp_path: Path) -> None:
    client = app_of(tmp_path / "missing").test_client()
    assert client.get("/live").status_code == 204
    assert client.get("/ready").status_code == 204
    assert client.get("/broker").status_code == 503
    client = app_of(tmp_path).test_client()
    assert client.get("/broker").status_code == 204


def numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(rf"\b{name}: (\d+)$", DEPLOYMENT, re.MULTILINE)]


def probes() -> list[str]:
    return re.findall(r"path: (\S+)", DEPLOYMENT)


def test_the_deployment_is_yaml() -> None:
    yaml = pytest.importorskip("yaml")
    deployment = yaml.safe_load(DEPLOYMENT)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] > 0
    assert deployment["spec"]["selector"]["matchLabels"] == {"app": "app"}


def test_the_numbers_of_the_deployment_agree_with_those_of_gunicorn() -> None:
    conf = settings_of(CONF)
    (grace,) = numbers("terminationGracePeriodSeconds")
    (pause,) = numbers("seconds")
    assert grace >= pause + conf["graceful_timeout"] + 5
    assert {int(conf["bind"].rpartition(":")[2])} == {*numbers("containerPort"), *numbers("port")}
    assert {*probes()} == {"/live", "/ready"}
    assert f"EXPOSE {numbers('containerPort')[0]}" in IMAGE
    # A worker that stands still is found by gunicorn before Kubernetes, or at the same time.
    assert conf["timeout"] >= numbers("periodSeconds")[-1] * numbers("failureThreshold")[-1]
    full = re.search(r'SSESTREAM_MAX_STREAMS"\] = ([\d_]+)', HEALTH)
    assert full is not None
    assert int(full[1]) < conf["worker_connections"]


def test_the_image_has_the_instructions_that_docker_knows() -> None:
    known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "CMD"}
    for line in IMAGE.splitlines():
        assert line.partition(" ")[0] in known
        shlex.split(line)


def test_each_line_for_an_alarm_is_one_that_the_log_can_have() -> None:
    table = WATCHING.read_text().partition("Lines for an alarm")[2]
    lines = re.findall(r"^``(.+?)``  ", table, re.MULTILINE)
    assert len(lines) >= 8
    texts = list(texts_of(ssestream)) + list(texts_of(gunicorn))
    for line in lines:
        assert any(line in text for text in texts), line


def texts_of(package: Any) -> Iterator[str]:
    """All the texts in the code of *package*."""
    for file in Path(package.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_times_of_hosts_are_longer_than_the_heartbeat() -> None:
    table = (ROOT / "docs" / "hosts.rst").read_text()
    seconds = [int(each) for each in re.findall(r"^\S.{33} +(\d+) s ", table, re.MULTILINE)]
    assert len(seconds) >= 6
    assert DEFAULTS.heartbeat is not None
    assert min(seconds) >= 2 * DEFAULTS.heartbeat
