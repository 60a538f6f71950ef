"""What a log may see of a query after a secret was taken out of it."""

import flask
import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from ssestream.http.hidden_query import hide_parameter

SECRET = "c2VjcmV0"


def requested(query: str) -> Request:
    environ = EnvironBuilder("/events", query_string=query).get_environ()
    environ["RAW_URI"] = environ["REQUEST_URI"] = f"/events?{query}"
    return flask.Request(environ)


@pytest.mark.parametrize(
    ("query", "hidden"),
    [
        (f"ticket={SECRET}", "ticket=-"),
        (f"a=1&ticket={SECRET}&lastEventId=x%3D1", "a=1&ticket=-&lastEventId=x%3D1"),
        # Werkzeug reads all of these as the same parameter.
        (f"%74icket={SECRET}&ticket={SECRET}", "%74icket=-&ticket=-"),
        (f"ticket={SECRET}%26b=2", "ticket=-"),
        ("ticket=", "ticket=-"),
        ("a=1", "a=1"),
        ("ticket", "ticket"),
        ("tickets=1", "tickets=1"),
        ("", ""),
    ],
)
def test_each_value_of_the_parameter_is_replaced_and_nothing_else(query: str, hidden: str) -> None:
    request = requested(query)
    # The request may have been read before.
    assert request.url
    assert request.full_path
    assert len(request.values) == len(request.args)
    hide_parameter(request, "ticket")
    assert request.environ["QUERY_STRING"] == hidden
    if query:
        assert request.environ["RAW_URI"] == f"/events?{hidden}"
        assert request.environ["REQUEST_URI"] == f"/events?{hidden}"
    for text in (repr(request), request.url, request.full_path, str(request.args), str(request)):
        assert SECRET not in text
    assert SECRET not in str(request.environ.values())
    assert request.args.get("a") == ("1" if "a=1" in query else None)


def test_a_server_that_has_no_other_uri_is_no_error() -> None:
    request = requested(f"ticket={SECRET}")
    del request.environ["RAW_URI"], request.environ["REQUEST_URI"]
    hide_parameter(request, "ticket")
    assert request.environ["QUERY_STRING"] == "ticket=-"
