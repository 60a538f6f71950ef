"""The configuration of docs/deploy.rst, as it stands there."""

import itertools
import json
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ssestream.settings import DEFAULTS
from tests.kit.promptness import at_best, in_one_try
from tests.kit.proxy import (
    APP,
    CONF,
    FILES,
    MAIN,
    PAGE,
    SITE,
    SYSCTL,
    UNIT,
    UNIX,
    Deployment,
    Gunicorn,
    changed,
    unit_in,
    unit_of,
)
from tests.kit.servers import Client, body_of, chunks_of, free_port, wait_until
from tests.servers.apps.browser import browser

pytestmark = pytest.mark.server

Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(nginx: str, certificate: tuple[str, str], tmp_path: Path) -> Iterator[Deploy]:
    made: list[Deployment] = []

    def start(**changes: Any) -> Deployment:
        made.append(Deployment(nginx, certificate, tmp_path, **changes))
        return made[-1].start()

    yield start
    for deployment in made:
        deployment.stop()


@pytest.fixture(scope="module")
def deployed(
    nginx: str, certificate: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """The files of the page with no change beyond ports, paths and names."""
    deployment = Deployment(nginx, certificate, tmp_path_factory.mktemp("deploy"))
    try:
        yield deployment.start()
    finally:
        deployment.stop()


@pytest.fixture(scope="module", params=[False, True], ids=["tcp", "unix"])
def either(
    request: pytest.FixtureRequest,
    nginx: str,
    certificate: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The same, with gunicorn behind nginx by TCP, and by a Unix socket."""
    folder = tmp_path_factory.mktemp("deploy")
    deployment = Deployment(nginx, certificate, folder, unix=request.param)
    try:
        yield deployment.start()
    finally:
        deployment.stop()


def ended_by_the_server(client: Client) -> bool:
    """It was told when to come back, and got the last chunk."""
    client.read_until(b"0\r\n\r\n")
    return re.search(rb"\nretry: [1-5]\d\d\d\n\n$", body_of(client.received)) is not None


def times_in(text: bytes) -> list[float]:
    """When the app wrote the messages that have come whole."""
    return [float(at) for at in re.findall(rb"data: ([\d.]+)\n", text)]


def median_of(attempt: Callable[[], float]) -> float:
    """The seconds of most of some rounds, as a single round may be quick by chance."""
    return statistics.median(attempt() for _ in range(9))


# -- events


@pytest.mark.long_except("tcp")
def test_the_first_event_arrives_within_100_ms_of_being_written(either: Deployment) -> None:
    def first() -> float:
        client = either.client("/times")
        while not times_in(client.received):
            client.received += client.sock.recv(65536)
        delay = time.monotonic() - times_in(client.received)[0]
        client.fin()
        return delay

    at_best(lambda: median_of(first), 0.1)


@pytest.mark.long_except("1.1")
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_it_is_the_header_of_a_stream_that_does_it(version: str, deploy: Deploy) -> None:
    ignore = ("http2;", "http2;\n proxy_ignore_headers X-Accel-Buffering;")
    # nginx's default, where the file says nothing.
    speaking = ("proxy_http_version 1.1;", f"proxy_http_version {version};")
    client = Client(deploy(site=(ignore, speaking)).https, tls=True).get("/times?count=10")
    client.read_until(b"data: ")
    arrived = time.monotonic()
    client.read_until(b"0\r\n\r\n")
    # The first has come no earlier than the last was written.
    written = times_in(client.received)
    assert len(written) == 10
    assert arrived > written[-1]


@pytest.mark.long
def test_a_compressing_nginx_holds_no_event_back(deploy: Deploy) -> None:
    compress = ("http2;", "http2;\n gzip_types text/event-stream;")
    deployment = deploy(site=(compress,))

    def first() -> float:
        client = Client(deployment.https, tls=True).get("/times", "Accept-Encoding: gzip")
        text = b""
        while not times_in(text):
            client.received += client.sock.recv(65536)
            if b"\r\n\r\n" in client.received:
                text = zlib.decompressobj(31).decompress(body_so_far(client.received))
        delay = time.monotonic() - times_in(text)[0]
        assert b"Content-Encoding: gzip" in client.received
        client.fin()
        return delay

    at_best(lambda: median_of(first), 0.1)


def body_so_far(response: bytes) -> bytes:
    return b"".join(chunks_of(response))


def test_as_it_is_nginx_compresses_no_stream(deployed: Deployment) -> None:
    client = deployed.client("/times", "Accept-Encoding: gzip")
    assert b"Content-Encoding" not in client.received
    client.fin()


# -- silence


SHORT = ("proxy_read_timeout 60s;", "proxy_read_timeout 2s;")


@pytest.mark.long
def test_a_silent_stream_outlives_the_read_timeout_of_nginx(deploy: Deploy) -> None:
    deployment = deploy(site=(SHORT,), settings={"SSESTREAM_HEARTBEAT": 0.5})
    keys = (f"k{number}" for number in itertools.count())

    def be_silent() -> tuple[bool, str]:
        key = next(keys)
        client = deployment.client(f"/quiet?key={key}")
        began = time.monotonic()
        while body_so_far(client.received).count(b":\n") < 16:
            data = client.sock.recv(65536)
            if not data:
                return False, deployment.errors()
            client.received += data
        # Sixteen beats, of 0.4 s at least, are three such timeouts.
        assert time.monotonic() - began > 3 * 2
        assert deployment.gunicorn.events(event="close", key=key) == []
        client.fin()
        return True, "it stays"

    # A server that has no turn for so long sends no beat, and nginx rightly cuts its streams.
    in_one_try(be_silent, tries=4)


@pytest.mark.long
def test_without_the_heartbeat_nginx_cuts_it(deploy: Deploy) -> None:
    deployment = deploy(site=(SHORT,), settings={"SSESTREAM_HEARTBEAT": None})
    client = deployment.client("/quiet?key=a")
    began = time.monotonic()
    client.read_to_end()
    assert time.monotonic() - began > 1.5
    assert not client.received.endswith(b"0\r\n\r\n")
    assert "upstream timed out" in deployment.errors()
    deployment.gunicorn.wait_for(event="close", key="a")


# -- clients who leave, and those who do not read


@pytest.mark.long_except("tcp-fin-/quiet")
@pytest.mark.parametrize("path", ["/quiet", "/handled/stream", "/handled/by-hand"])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_client_that_leaves_nginx_is_noticed_at_once(
    either: Deployment, how: str, path: str
) -> None:
    numbers = itertools.count()

    def departure() -> float:
        key = f"{how}{next(numbers)}{path}"
        client = either.client(f"{path}?key={key}")
        client.read_until(b":ok\n\n")
        left = time.monotonic()
        getattr(client, how)()
        closed: float = either.gunicorn.wait_for(event="close", key=key)["at"]
        return closed - left

    at_best(lambda: median_of(departure), 0.1)


@pytest.mark.long
def test_a_client_that_takes_nothing_is_cut(deploy: Deploy) -> None:
    deployment = deploy(settings={"SSESTREAM_SEND_TIMEOUT": 1})
    client = deployment.client("/flood?key=a", receive_buffer=4096)
    deployment.gunicorn.wait_for(event="close", key="a")
    assert deployment.gunicorn.events(event="finish") == []
    client.rst()


# -- what the app is told


def test_the_app_knows_the_client_by_what_nginx_says_and_by_nothing_else(
    either: Deployment,
) -> None:
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "gopher", "Host": "example.com"}
    for source in ("127.0.0.1", "127.0.0.2"):
        status, _, body = either.ask("/who", lies, source)
        assert status == 200
        told = json.loads(body)
        assert (told["address"], told["scheme"]) == (source, "https")
        assert told["host"] == "example.com"


def test_with_a_balancer_in_front_it_is_whom_the_balancer_names(deploy: Deploy) -> None:
    more = ("X-Forwarded-For $remote_addr;", "X-Forwarded-For $proxy_add_x_forwarded_for;")
    deployment = deploy(site=(more,), app=(("x_for=1", "x_for=2"),))
    # What the balancer sends for a client that lies to it.
    _, _, body = deployment.ask("/who", {"X-Forwarded-For": "192.0.2.1, 198.51.100.7"})
    assert json.loads(body)["address"] == "198.51.100.7"


def test_the_limit_for_each_client_counts_clients_and_not_nginx(deploy: Deploy) -> None:
    deployment = deploy(conf=(("workers = 2\n", "workers = 1\n"),))
    clients = [deployment.client(f"/quiet?key={number}") for number in range(20)]
    for client in clients:
        client.read_until(b":ok\n\n")
    # One more is told to come back.
    status, _, body = deployment.ask("/quiet?key=more")
    assert status == 200
    assert re.fullmatch(rb"event: ssestream-retry\nretry: [1-5]\d\d\d\n\n", body)
    # Another client is not; its stream ends after two messages.
    _, _, body = deployment.ask("/ticking?key=other&count=2", source="127.0.0.2")
    assert body.count(b"data: tick") == 2
    for client in clients:
        client.fin()


def test_the_last_event_id_reaches_the_app(deployed: Deployment) -> None:
    client = deployed.client("/quiet?key=resumed", "Last-Event-ID: 41-é")
    opened = deployed.gunicorn.wait_for(event="open", key="resumed")
    assert opened["last_event_id"] == "41-é"
    client.fin()


def test_whoever_comes_without_tls_is_sent_to_it(deployed: Deployment) -> None:
    head = Client(deployed.http).get("/quiet?key=a").read_until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 301 ")
    assert b"Location: https://localhost/quiet?key=a\r\n" in head


# -- reload, restart, stop


@pytest.mark.long
def test_a_reload_of_gunicorn_ends_streams_cleanly_and_nobody_sees_an_error(
    deploy: Deploy,
) -> None:
    deployment = deploy()
    gunicorn = deployment.gunicorn
    clients = [deployment.client(f"/ticking?key={number}") for number in range(10)]
    for client in clients:
        client.read_until(b"data: tick")
    old = gunicorn.workers()
    assert len(old) == 2
    seen: list[int] = []
    done = threading.Event()

    def ask_on() -> None:
        while not done.is_set():
            seen.append(deployment.ask("/who")[0])

    others = threading.Thread(target=ask_on)
    others.start()
    try:
        gunicorn.reload()
        for number, client in enumerate(clients):
            assert ended_by_the_server(client)
            last = re.findall(rb"id: (\d+)\n", client.received)[-1].decode()
            again = deployment.client(f"/quiet?key=again{number}", f"Last-Event-ID: {last}")
            assert again.received.startswith(b"HTTP/1.1 200 ")
            opened = gunicorn.wait_for(event="open", key=f"again{number}")
            assert opened["last_event_id"] == last
            again.fin()
        wait_until(lambda: not any(worker.is_running() for worker in old), "the old workers to go")
        so_far = len(seen)
        wait_until(lambda: len(seen) > so_far + 20, "some more answers")
    finally:
        done.set()
        others.join()
    assert set(seen) == {200}
    assert len(gunicorn.workers()) == 2


def test_while_gunicorn_is_away_streams_are_told_to_come_back(deploy: Deploy) -> None:
    deployment = deploy()
    deployment.gunicorn.stop()
    status, headers, body = deployment.ask("/quiet?key=a", {"Accept": "text/event-stream"})
    assert status == 200
    assert re.fullmatch(rb"retry: [2-6]000\n\n", body)
    assert headers["Content-Type"] == "text/event-stream"
    # Whoever asks for anything else hears the truth.
    assert deployment.ask("/who")[0] == 502
    assert deployment.ask("/who", {"Accept": "*/*"})[0] == 502
    deployment.restart_gunicorn()
    wait_until(lambda: deployment.ask("/who")[0] == 200, "gunicorn")


@pytest.mark.long
def test_a_reload_of_nginx_cuts_what_is_left_after_a_while(deploy: Deploy) -> None:
    deployment = deploy(main=(("worker_shutdown_timeout 10s;", "worker_shutdown_timeout 1s;"),))
    client = deployment.client("/quiet?key=a")
    client.read_until(b":ok\n\n")
    assert deployment.nginx is not None
    old = psutil.Process(deployment.nginx.pid).children()
    deployment.nginx.send_signal(signal.SIGHUP)
    deployment.gunicorn.wait_for(event="close", key="a")
    client.read_to_end()
    wait_until(lambda: not any(worker.is_running() for worker in old), "the old workers to go")
    assert deployment.ask("/who")[0] == 200


@pytest.mark.long
@pytest.mark.parametrize("max_fails", [True, False])
def test_a_second_host_has_its_share_as_soon_as_it_is_back(
    max_fails: bool, deploy: Deploy, tmp_path: Path
) -> None:
    port = free_port()
    # The control: without it nginx goes on to leave the host out.
    site = () if max_fails else ((" max_fails=0", ""),)
    # Each worker of nginx remembers failures for itself.
    main = (("worker_processes auto;", "worker_processes 1;"),)
    deployment = deploy(second=port, site=site, main=main)
    # While it is away, nobody hears of it.
    assert {deployment.ask("/who")[0] for _ in range(10)} == {200}
    folder = tmp_path / "second"
    folder.mkdir()
    shutil.copy(tmp_path / "app.py", folder)
    bind = ('bind = "127.0.0.1:8000"', f'bind = "127.0.0.1:{port}"')
    (folder / "gunicorn.conf.py").write_text(changed(FILES[CONF], (bind,)))
    second = Gunicorn(folder, unit_in(folder), {}).start()
    try:
        wait_until(lambda: second.log().count("Booting worker") == 2, "the second host")
        clients = [deployment.client(f"/quiet?key={number}") for number in range(20)]
        for client in clients:
            client.read_until(b":ok\n\n")
        share = connections(second.workers())
        assert 8 <= share <= 12 if max_fails else share < 5
    finally:
        second.stop()
    # Those of the first go on.
    first = deployment.gunicorn.workers()
    wait_until(lambda: connections(first) == 20 - share, "nothing but streams")
    for client in clients:
        client.fin()


@pytest.mark.long
def test_systemd_hears_that_it_is_ready_and_stops_it_in_time(deploy: Deploy) -> None:
    deployment = deploy()
    gunicorn = deployment.gunicorn
    assert b"READY=1" in gunicorn.notify.recv(4096).split(b"\n")
    clients = [deployment.client(f"/quiet?key={number}") for number in range(10)]
    for client in clients:
        client.read_until(b":ok\n\n")
    assert gunicorn.process is not None
    # KillMode=mixed: to the master alone.
    gunicorn.process.terminate()
    gunicorn.process.wait(float(gunicorn.unit["TimeoutStopSec"]))
    assert gunicorn.process.returncode == 0
    for client in clients:
        assert ended_by_the_server(client)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_systemd_takes_the_unit(unix: bool, tmp_path: Path) -> None:
    text = unit_in(tmp_path)
    if unix:
        line = FILES[UNIT + UNIX].partition("\n")[2]
        text = changed(text, (("[Service]\n", f"[Service]\n{line}\n"),))
    assert unit_of(text).sections() == ["Unit", "Service", "Install"]
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        file = tmp_path / "app.service"
        file.write_text(text)
        done = subprocess.run([analyze, "verify", "--man=no", file], capture_output=True, text=True)
        # It may have something to say on other units of the machine.
        assert [line for line in done.stderr.splitlines() if "app.service" in line] == []


# -- many


def connections(processes: list[psutil.Process]) -> int:
    """How many are open in all of *processes*."""
    return sum(
        each.status == psutil.CONN_ESTABLISHED
        for process in processes
        for each in process.net_connections()
    )


@pytest.mark.long
def test_a_stream_takes_two_connections_of_nginx_and_one_of_gunicorn(deploy: Deploy) -> None:
    deployment = deploy()
    assert deployment.nginx is not None
    proxies = psutil.Process(deployment.nginx.pid).children()
    workers = deployment.gunicorn.workers()

    def in_use() -> tuple[int, int]:
        return connections(proxies), connections(workers)

    clients = [deployment.client(f"/quiet?key={number}") for number in range(20)]
    for client in clients:
        client.read_until(b":ok\n\n")
    wait_until(lambda: in_use() == (40, 20), "two and one for each")
    for client in clients:
        client.fin()
    wait_until(lambda: in_use() == (0, 0), "all to be closed")


def test_the_numbers_of_the_page_agree_with_each_other() -> None:
    conf: dict[str, Any] = {}
    exec(FILES[CONF], conf)
    app: dict[str, Any] = {"__name__": __name__}
    exec(FILES[APP], app)
    settings = app["app"].config
    service = unit_of(FILES[UNIT])["Service"]
    sysctl = dict(line.split(" = ") for line in FILES[SYSCTL].splitlines()[1:])
    text = FILES[MAIN] + FILES[SITE]

    def of_nginx(name: str) -> int:
        return int(re.findall(rf"\b{name} (\d+)s?;", text)[0])

    streams = 20_000
    assert f"{streams:,} open streams" in PAGE.read_text()
    assert conf["workers"] * settings["SSESTREAM_MAX_STREAMS"] >= streams
    assert settings["SSESTREAM_MAX_STREAMS"] < conf["worker_connections"]
    assert conf["worker_connections"] < int(service["LimitNOFILE"])
    assert conf["graceful_timeout"] < int(service["TimeoutStopSec"])
    assert 2 * streams < of_nginx("worker_connections") < of_nginx("worker_rlimit_nofile")
    assert of_nginx("proxy_read_timeout") > 2 * DEFAULTS.heartbeat
    first, last = map(int, sysctl["net.ipv4.ip_local_port_range"].split())
    assert last - first + 1 > 2 * streams
    # Nobody may be given the port that gunicorn listens on.
    assert int(conf["bind"].rpartition(":")[2]) < first
    for name in sysctl:
        assert Path("/proc/sys", *name.split(".")).is_file()


# -- browsers


OPEN = """
window.delays = [];
window.sources = [...Array(10).keys()].map((number) => {
    const source = new EventSource(`/times?key=${arguments[0]}${number}`);
    source.count = 0;
    source.onmessage = (event) => {
        source.count += 1;
        delays.push(Date.now() - 1000 * (Number(event.data) + arguments[1]));
    };
    return source;
});
"""


@pytest.fixture
def chrome(chromium: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(chromium, tmp_path_factory.mktemp("chromium")) as driver:
        driver.execute_cdp_cmd("Security.setIgnoreCertificateErrors", {"ignore": True})
        yield driver


def visit(chrome: Any, deployment: Deployment, key: str) -> str:
    """Open ten streams from a page of the app; the protocol that it came by."""
    chrome.get(f"https://localhost:{deployment.https}/page")
    # The browser's clock against that of the messages.
    chrome.execute_script(OPEN, key, time.time() - time.monotonic())
    protocol = "return performance.getEntriesByType('navigation')[0].nextHopProtocol"
    return str(chrome.execute_script(protocol))


def counts(chrome: Any) -> list[int]:
    """How many messages each of the ten has got."""
    return list(chrome.execute_script("return sources.map((source) => source.count)"))


@pytest.mark.long
@pytest.mark.browser
def test_over_http_2_a_browser_has_more_than_six_streams(chrome: Any, deployed: Deployment) -> None:
    assert visit(chrome, deployed, "h2-") == "h2"

    def delay() -> float:
        """The milliseconds of most of the next messages."""
        before = counts(chrome)
        chrome.execute_script("delays.length = 0")
        wait_until(
            lambda: all(now > then + 20 for now, then in zip(counts(chrome), before, strict=True)),
            "messages on all ten",
        )
        return statistics.median(chrome.execute_script("return delays"))

    at_best(delay, 100)
    # One that it closes leaves, though the connection stays.
    chrome.execute_script("sources[3].close()")
    others = {f"h2-{number}" for number in range(10) if number != 3}

    def closed() -> set[str]:
        return {told["key"] for told in deployed.gunicorn.events(event="times closed")}

    deployed.gunicorn.wait_for(event="times closed", key="h2-3")
    before = counts(chrome)
    wait_until(
        lambda: sum(now > then for now, then in zip(counts(chrome), before, strict=True)) == 9,
        "the other nine to go on",
    )
    assert not closed() & others
    chrome.execute_script("sources.forEach((source) => source.close())")
    wait_until(lambda: closed() >= others, "all to leave")


@pytest.mark.long
@pytest.mark.browser
def test_over_http_1_1_it_has_six(chrome: Any, deploy: Deploy) -> None:
    deployment = deploy(site=(("ssl http2;", "ssl;"),))
    assert visit(chrome, deployment, "h1-") == "http/1.1"

    def flowing() -> int:
        return sum(count > 0 for count in counts(chrome))

    wait_until(lambda: flowing() >= 6, "six to flow")
    wait_until(lambda: max(counts(chrome)) > 50, "time for a seventh")
    assert flowing() == 6
    chrome.execute_script("sources.find((source) => source.count).close()")
    wait_until(lambda: flowing() == 7, "the seventh to take the place")


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.parametrize("later", [True, False])
def test_a_browser_comes_back_after_gunicorn_was_away(
    later: bool, chrome: Any, deploy: Deploy
) -> None:
    # The control: without that line a browser gives up.
    without = ("error_page 502 503 504 = @later;", "")
    deployment = deploy(site=() if later else (without,))
    chrome.get(f"https://localhost:{deployment.https}/page")
    deployment.gunicorn.stop()
    chrome.execute_script(
        "window.states = []; window.source = new EventSource('/times');"
        "source.onmessage = () => { window.got = true; };"
        "source.onerror = () => { states.push(source.readyState); };"
    )
    states = wait_until(lambda: chrome.execute_script("return states"), "an answer")
    connecting, closed = 0, 2
    if not later:
        assert states == [closed]
        return
    assert states[0] == connecting
    deployment.restart_gunicorn()
    wait_until(lambda: chrome.execute_script("return window.got"), "a message")
