"""TLS between a process and PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from ssestream import BrokerError
from ssestream.brokers.postgresql import PostgresqlBroker
from tests.kit.brokers import all_closed, frames, news
from tests.kit.certificates import make_certificate
from tests.kit.postgresql_server import PostgresqlServer
from tests.kit.servers import wait_until

Open = Callable[..., PostgresqlBroker]

PASSWORD = "secret-word"


@pytest.fixture
def opened() -> Iterator[Open]:
    with all_closed(PostgresqlBroker) as opened:
        yield opened


@pytest.fixture
def server(certificate: tuple[str, str], postgresql_programs: Path) -> Iterator[PostgresqlServer]:
    """It lets the account ``app`` in with TLS and a password only."""
    server = PostgresqlServer(postgresql_programs)
    try:
        mine, key = map(server.take, certificate)
        server.start("ssl=on", f"ssl_cert_file={mine}", f"ssl_key_file={key}")
        role = f"CREATE ROLE app LOGIN SUPERUSER PASSWORD '{PASSWORD}'"
        server.execute("postgres", role)
        rules = Path(server.folder) / "data" / "pg_hba.conf"
        with_tls = "hostssl all app all scram-sha-256\nhostnossl all app all reject\n"
        rules.write_text(with_tls + rules.read_text())
        server.execute("postgres", "SELECT pg_reload_conf()")
        statement = "SELECT count(*) FROM pg_hba_file_rules WHERE type = 'hostssl'"
        wait_until(lambda: server.execute("postgres", statement) == [(1,)], "the rules")
        yield server
    finally:
        server.remove()


def url_of(server: PostgresqlServer, url: str, host: str = "localhost", **options: str) -> str:
    # The certificate is for the name. The address is given beside it: no look-up is tested here.
    options = {"hostaddr": server.address, "sslmode": "verify-full", **options}
    name = url.rpartition("/")[2]
    return f"postgresql://app:{PASSWORD}@{host}:{server.port}/{name}?{urlencode(options)}"


def test_a_trusted_server_is_used_to_write_and_to_listen(
    server: PostgresqlServer, certificate: tuple[str, str], opened: Open
) -> None:
    url = server.make_database()
    broker = opened(url_of(server, url, sslrootcert=certificate[0]))
    at = broker.append("news", b"1")
    broker.append("news", b"2")
    assert frames(news(broker, {"news": at})["news"]) == [b"2"]
    statement = (
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        " WHERE usename = 'app'"
    )
    assert server.execute("postgres", statement) == [(True,)]


def test_a_server_that_is_not_trusted_is_an_error_that_lasts_and_has_no_password(
    server: PostgresqlServer, certificate: tuple[str, str], tmp_path: Path, opened: Open
) -> None:
    url = server.make_database()
    other, _ = make_certificate(tmp_path)
    right = certificate[0]
    for wrong, words in (
        (url_of(server, url, sslrootcert=other), "certificate verify failed"),
        (url_of(server, url, sslrootcert=f"{tmp_path}/no"), "does not exist"),
        (url_of(server, url, "other.example", sslrootcert=right), "does not match host name"),
        (url_of(server, url, sslmode="disable"), "no encryption"),
    ):
        broker = opened(wrong)
        for call in (lambda broker=broker: broker.append("news", b"x"), broker.ping, broker.wait):
            with pytest.raises(BrokerError, match=words) as raised:
                call()
            assert raised.value.lasting
            assert PASSWORD not in str(raised.value)
    assert server.execute(url.rpartition("/")[2], "SELECT FROM ssestream.channels") == []


def test_a_server_without_tls_gets_no_password(
    postgresql_server: PostgresqlServer,
    postgresql_url: str,
    certificate: tuple[str, str],
    opened: Open,
) -> None:
    url = url_of(postgresql_server, postgresql_url, sslrootcert=certificate[0])
    with pytest.raises(BrokerError, match="does not support SSL") as raised:
        opened(url).append("news", b"x")
    assert raised.value.lasting
    assert PASSWORD not in str(raised.value)
