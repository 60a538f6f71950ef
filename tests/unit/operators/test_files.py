"""The page, its script and its style."""

import gzip
import re
from pathlib import Path

from flask import Flask

from ssestream import operators
from ssestream.operators.files import digest_of
from ssestream.top import OpenStreams

FOLDER = Path(operators.__file__).parent
PAGE, SCRIPT, STYLE = ((FOLDER / f"page.{kind}").read_text() for kind in ("html", "js", "css"))


def app_with_page() -> Flask:
    app = Flask("app")
    page = operators.blueprint(OpenStreams(app), admit=lambda request: True)
    app.register_blueprint(page, url_prefix="/operators")
    return app


def test_the_page_names_its_files_with_their_hashes_and_they_are_kept_for_a_year() -> None:
    client = app_with_page().test_client()
    page = client.get("/operators/")
    assert page.headers["Cache-Control"] == "no-store, no-transform"
    named = re.findall(r'"(page-[0-9a-f]{16}\.(css|js))"', page.text)
    assert [kind for _, kind in named] == ["css", "js"]
    for (name, kind), text in zip(named, (STYLE, SCRIPT), strict=True):
        answer = client.get(f"/operators/{name}")
        assert answer.text == text
        assert answer.mimetype == {"css": "text/css", "js": "text/javascript"}[kind]
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_file_of_another_version_is_not_kept_and_nothing_else_is_served() -> None:
    client = app_with_page().test_client()
    answer = client.get("/operators/page-0123456789abcdef.js")
    assert answer.text == SCRIPT
    assert answer.headers["Cache-Control"] == "no-store, no-transform"
    for name in (f"page-{digest_of('js')}.html", "page-x.py", "views.py"):
        assert client.get(f"/operators/{name}").status_code == 404


def test_the_page_stands_under_a_strict_policy_and_in_no_frame() -> None:
    page = app_with_page().test_client().get("/operators/")
    policy = dict(
        each.strip().split(" ", 1) for each in page.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_has_no_code_or_style_of_its_own_and_the_script_makes_no_markup() -> None:
    assert not re.search(r"<style|<script(?! type=\"module\" src=)|\son\w+=|\sstyle=", PAGE)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", SCRIPT)
    assert "import" not in SCRIPT
    assert "http" not in STYLE + SCRIPT


def test_the_page_is_small() -> None:
    assert sum(len(gzip.compress(each.encode())) for each in (PAGE, SCRIPT, STYLE)) < 10_000


def test_the_page_works_below_any_path() -> None:
    assert not re.search(r"(href|src)=\"/", PAGE)
    page = app_with_page().test_client().get("/operators")
    assert page.status_code == 308
    assert page.headers["Location"].endswith("/operators/")


def test_each_field_has_a_label_and_each_table_a_name() -> None:
    for field in re.findall(r"<(?:input|textarea) [^>]*>", PAGE):
        labelled = re.search(r"<label[^>]*>[^<]*" + re.escape(field), PAGE)
        name = re.search(r'id="(\w+)"', field)
        assert labelled or (name and f'<label for="{name[1]}">' in PAGE), field
    for name in re.findall(r'aria-(?:labelledby|describedby)="([\w-]+)"', PAGE):
        assert f'id="{name}"' in PAGE
    for identifier in re.findall(r"find\('([\w-]+)'\)", SCRIPT):
        assert f'id="{identifier}"' in PAGE
