"""nginx's configuration, right or with one thing wrong."""

import subprocess
from pathlib import Path

import pytest

from ssestream.doctor.finding import Finding
from ssestream.doctor.nginx import examine_nginx, read_nginx, seconds_of
from ssestream.settings import Settings

#: What {http}, {server} and {location} have more, in a configuration that nginx accepts.
NGINX = """
pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
    server {{
        listen 127.0.0.1:8080;  # a }} in a comment
        server_name example.com www.example.com;
        {server}
        location /static/ {{ root "/srv/{{"; }}
        location ~ "^/events/[a-z]{{1,9}}$" {{
            {location}
        }}
    }}
}}
"""

PASS = "proxy_pass http://127.0.0.1:8000;"

PLACE = "server example.com, location ~ ^/events/[a-z]{1,9}$: "


class Conf:
    """A file of nginx, which the real nginx takes for valid."""

    def __init__(self, folder: Path, nginx: str) -> None:
        self.file = folder / "nginx.conf"
        self._nginx = nginx

    def write(self, location: str = PASS, server: str = "", http: str = "") -> str:
        self.file.write_text(
            NGINX.format(folder=self.file.parent, http=http, server=server, location=location)
        )
        done = subprocess.run(
            [self._nginx, "-t", "-c", self.file, "-e", self.file.parent / "error.log"],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return str(self.file)


@pytest.fixture
def conf(tmp_path: Path, nginx: str) -> Conf:
    return Conf(tmp_path, nginx)


def one(found: list[Finding], level: str) -> Finding:
    (finding,) = [each for each in found if each.level == level]
    return finding


def test_a_right_one_has_only_good_findings(conf: Conf) -> None:
    found = examine_nginx(conf.write(), None)
    assert {each.level for each in found} == {"ok"}
    assert [each.seen for each in found] == [
        f"{PLACE}proxy_read_timeout is 60 s, by default, and a heartbeat comes after 15 s of"
        " silence",
        f"{PLACE}nginx heeds X-Accel-Buffering: events pass at once",
        "worker_connections is 1000, with 1 workers: 500 streams",
    ]


@pytest.mark.parametrize(
    ("where", "level", "seen", "change"),
    [
        (
            {"location": f"{PASS} proxy_read_timeout 10s;"},
            "fault",
            "proxy_read_timeout is 10 s, and a heartbeat comes after 15 s of silence",
            "proxy_read_timeout 60s;",
        ),
        ({"server": "proxy_read_timeout 15;"}, "fault", "proxy_read_timeout is 15 s", "60s"),
        ({"http": "proxy_read_timeout 900ms;"}, "fault", "proxy_read_timeout is 0.9 s", "60s"),
        (
            {"location": "uwsgi_pass 127.0.0.1:8000; uwsgi_read_timeout 5s;"},
            "fault",
            "uwsgi_read_timeout is 5 s",
            "uwsgi_read_timeout 60s;",
        ),
        (
            {"http": "proxy_ignore_headers X-Accel-Buffering;"},
            "fault",
            "proxy_ignore_headers X-Accel-Buffering",
            "proxy_buffering off;",
        ),
        (
            {"server": 'proxy_set_header Last-Event-ID "";'},
            "fault",
            "does not pass on the header Last-Event-ID",
            "take that line out",
        ),
        (
            {"location": f"{PASS} proxy_pass_request_headers off;"},
            "fault",
            "does not pass on the header Last-Event-ID",
            "take that line out",
        ),
        (
            {"http": "gzip on; gzip_types text/css text/event-stream;"},
            "note",
            "gzip is on, and gzip_types has text/css text/event-stream",
            "without text/event-stream",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    where: dict[str, str], level: str, seen: str, change: str, conf: Conf
) -> None:
    finding = one(examine_nginx(conf.write(**where), None), level)
    assert finding.seen.startswith(PLACE + seen) or seen in finding.seen
    assert finding.seen.startswith(PLACE)
    assert finding.why
    assert change in finding.change


@pytest.mark.parametrize(
    "where",
    [
        {"http": "proxy_read_timeout 5s;", "location": f"{PASS} proxy_read_timeout 1h;"},
        {
            "http": "proxy_ignore_headers X-Accel-Buffering;",
            "location": f"{PASS} proxy_buffering off;",
        },
        {
            # All lines of the name are replaced.
            "http": 'proxy_set_header Last-Event-ID "";',
            "location": f"{PASS} proxy_set_header Host $host;",
        },
        {"http": "gzip on; gzip_types text/css;"},
        {"http": "uwsgi_read_timeout 1s;"},
    ],
)
def test_a_line_counts_where_nothing_further_in_replaces_it(
    where: dict[str, str], conf: Conf
) -> None:
    assert {each.level for each in examine_nginx(conf.write(**where), None)} == {"ok"}


def test_the_settings_of_the_app_count(conf: Conf) -> None:
    path = conf.write()
    silent = one(examine_nginx(path, Settings(heartbeat=None)), "fault")
    assert "SSESTREAM_HEARTBEAT is None" in silent.seen
    slow = one(examine_nginx(path, Settings(heartbeat=60)), "fault")
    assert "a heartbeat comes after 60 s" in slow.seen
    many = one(examine_nginx(path, Settings(max_streams=501)), "note")
    assert "500 streams, and SSESTREAM_MAX_STREAMS is 501" in many.seen
    assert "worker_connections 1002;" in many.change


def test_included_files_are_read_in_their_places(conf: Conf) -> None:
    folder = conf.file.parent / "conf.d"
    folder.mkdir()
    (folder / "a.conf").write_text("proxy_read_timeout 7s; include conf.d/b.inc;")
    (folder / "b.inc").write_text("gzip on;")
    path = conf.write(http="include conf.d/*.conf; include nothing/*.conf;")
    found = examine_nginx(path, None)
    assert "proxy_read_timeout is 7 s" in one(found, "fault").seen
    names = [each.name for each in read_nginx(conf.file)[-1].block or []]
    assert "gzip" in names
    # nginx would refuse it, and the doctor comes to an end.
    (folder / "b.inc").write_text("include conf.d/a.conf; include conf.d/b.inc;")
    assert "proxy_read_timeout is 7 s" in one(examine_nginx(path, None), "fault").seen


def test_a_file_that_is_not_there_and_one_without_an_app(tmp_path: Path) -> None:
    path = tmp_path / "nginx.conf"
    missing = one(examine_nginx(str(path), None), "fault")
    assert missing.seen == f"{path} cannot be read: No such file or directory"
    path.write_text("http { include other.conf; }")
    assert "other.conf cannot be read" in one(examine_nginx(str(path), None), "fault").seen
    path.write_text("http { server { listen 80; location / { root /srv; } } }")
    assert "passes no request on" in one(examine_nginx(str(path), None), "note").seen


@pytest.mark.parametrize(
    "text",
    ["", "}", "{", "{" * 5000, "a 'b", 'a "b;', "server { location / { proxy_pass x; ", ";;"],
)
def test_a_broken_file_is_read_to_its_end(text: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(text)
    assert examine_nginx(str(tmp_path / "nginx.conf"), None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60),
        ("90s", 90),
        ("500ms", 0.5),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("2d", 172800),
        ("$variable", None),
        ("", None),
        ("5x", None),
    ],
)
def test_times_are_read_as_nginx_writes_them(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds
