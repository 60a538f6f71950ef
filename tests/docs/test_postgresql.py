"""The program of docs/postgresql.rst, with a real PostgreSQL behind it."""

from typing import Any

import pytest

from ssestream.brokers.postgresql.migration import statements
from tests.docs.test_docs import PROGRAMS, is_runnable
from tests.kit.servers import ROOT

PAGE = "docs_postgresql"


@pytest.mark.skipif(not is_runnable(PAGE), reason="flask-sqlalchemy or psycopg is not installed")
def test_an_order_and_its_event_are_there_together_or_not_at_all(postgresql_url: str) -> None:
    code = PROGRAMS[PAGE].replace("postgresql://app@localhost/shop", postgresql_url)
    sqlalchemy_url = postgresql_url.replace("://", "+psycopg://")
    code = code.replace("postgresql+psycopg://app@localhost/shop", sqlalchemy_url)
    page: dict[str, Any] = {"__name__": "orders"}
    exec(code, page)
    app, db, channels, order = (page[name] for name in ("app", "db", "channels", "Order"))
    client = app.test_client()
    with app.app_context():
        db.create_all()
        assert client.post("/orders", json={"pieces": 500}).status_code == 409
        assert client.post("/orders", json={"pieces": 7}).status_code == 200
        assert [each.pieces for each in order.query.all()] == [7]
        db.session.remove()
        told = [message["data"] for message in channels.history("orders")]
        assert [app.json.loads(data)["pieces"] for data in told] == [7]
        db.engine.dispose()
    channels.close()


def test_the_page_names_the_rights_that_the_sql_names() -> None:
    text = (ROOT / "docs" / "postgresql.rst").read_text()
    rights = [line.removeprefix("--   ") for line in statements().splitlines() if "GRANT" in line]
    assert len(rights) == 2
    assert all(right in text for right in rights)
