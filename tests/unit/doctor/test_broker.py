"""A broker by its URL: which room examines it, and what no finding tells."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ssestream.doctor.broker import examine_broker
from tests.kit.servers import free_port

if TYPE_CHECKING:
    from tests.kit.postgresql_server import PostgresqlServer


def test_memory_is_a_note() -> None:
    (finding,) = examine_broker("memory://")
    assert finding.level == "note"
    assert "one worker" in finding.change


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://app:secret-word@host/", "mysql://..."),
        ("redis://app:secret-word#@host/0", "has a #"),
        ("redis://host:port", "the host or its port is not valid"),
        ("sqlite://", "names no file"),
        ("nothing", "without a scheme"),
    ],
)
def test_a_url_that_no_broker_can_use_is_a_fault_in_the_brokers_words(url: str, words: str) -> None:
    (finding,) = examine_broker(url)
    assert finding.level == "fault"
    assert words in finding.seen
    assert "secret-word" not in str(finding)


def test_each_kind_is_examined_in_its_room(tmp_path: Path) -> None:
    found = examine_broker(f"sqlite:///{tmp_path}/events.db")
    assert any(f"{tmp_path}/events.db" in each.seen for each in found)
    (finding,) = examine_broker(f"redis://app:secret-word@127.0.0.1:{free_port()}/0")
    assert finding.level == "fault"
    assert "refused" in finding.seen
    assert "secret-word" not in str(finding)


def test_a_postgresql_that_can_be_used_is_no_finding(
    postgresql_url: str, postgresql_server: "PostgresqlServer"
) -> None:
    assert examine_broker(postgresql_url) == []
    (finding,) = examine_broker(postgresql_server.url("postgres"))
    assert finding.level == "fault"
    assert "python -m ssestream migrate" in finding.seen
    (finding,) = examine_broker(f"postgresql://app:secret-word@127.0.0.1:{free_port()}/app")
    assert "secret-word" not in str(finding)
