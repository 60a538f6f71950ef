"""An app, loaded as its server loads it, in a process of its own as the command is."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssestream.doctor.finding import Finding
from tests.kit.servers import ROOT

Examine = Callable[..., list[Finding]]

CODE = """
import json, sys
from ssestream.doctor.app import examine_app
workers = json.loads(sys.argv[2])
print(json.dumps([vars(each) for each in examine_app(sys.argv[1], workers)]))
"""

PATCHED = "from gevent import monkey; monkey.patch_all()\n"

APP = "from flask import Flask\nfrom ssestream import Channels\napp = Flask(__name__)\n"


@pytest.fixture
def examine(tmp_path: Path) -> Examine:
    """Examine the text of shop.py. *files* are more modules."""

    def examine(
        text: str, name: str = "shop:app", workers: int | None = 2, **files: str
    ) -> list[Finding]:
        for module, its_text in {"shop": text, **files}.items():
            (tmp_path / f"{module}.py").write_text(its_text)
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CODE}"]
            + [name, json.dumps(workers)],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return [Finding(**each) for each in json.loads(done.stdout)]

    return examine


def seen(found: list[Finding], level: str = "fault") -> list[str]:
    return [each.seen for each in found if each.level == level]


def test_a_right_app_has_no_fault_and_no_note(examine: Examine) -> None:
    found = examine(PATCHED + APP + "channels = Channels('sqlite:///events.db')\n")
    assert {each.level for each in found} == {"ok"}
    assert len(found) == 3


def test_an_app_that_leaves_patching_to_gunicorn_is_right_there(examine: Examine) -> None:
    found = examine(APP)
    assert seen(found) == []
    (note,) = seen(found, "note")
    assert note == "the app does not call gevent.monkey.patch_all()"


@pytest.mark.long_except("shop:(-SyntaxError", "nowhere:app-No module named 'nowhere'")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:app", "No module named 'nowhere'"),
        ("shop:nobody", "no attribute 'nobody'"),
        ("shop", "no attribute 'application'"),
        ("shop:create('x')", "ValueError: x"),
        ("shop:app.wsgi_app", "after the colon comes a name"),
        ("shop:(", "SyntaxError"),
    ],
)
def test_an_app_that_does_not_load(name: str, words: str, examine: Examine) -> None:
    (text,) = seen(examine(f"{APP}def create(text):\n    raise ValueError(text)\n", name))
    assert words in text


def test_a_factory_is_called_as_gunicorn_calls_it(examine: Examine) -> None:
    text = "from flask import Flask\ndef create(name, beat):\n    app = Flask(name)\n"
    text += "    app.config['SSESTREAM_HEARTBEAT'] = beat\n    return app\n"
    assert seen(examine(text, "shop:create('shop', beat=90)")) == ["SSESTREAM_HEARTBEAT is 90 s"]


@pytest.mark.long
def test_a_module_that_was_imported_before_the_patches(examine: Examine) -> None:
    late = f"import prices\n{PATCHED}{APP}"
    (text,) = seen(examine(late, prices="from time import sleep\nfrom socket import socket\n"))
    assert text.endswith("not patched: prices.sleep, prices.socket")
    early = f"{PATCHED}import prices\n{APP}"
    assert seen(examine(early, prices="from time import sleep\nfrom socket import socket\n")) == []
    whole = f"import prices\n{PATCHED}{APP}"
    assert seen(examine(whole, prices="import time, socket\n")) == []


def test_a_wrong_setting(examine: Examine) -> None:
    (text,) = seen(examine(f"{APP}app.config['SSESTREAM_MAX_BYTES'] = '1 MiB'\n"))
    assert text == "a setting is wrong: SSESTREAM_MAX_BYTES is an int, not str"


def test_channels_in_memory_with_several_workers(examine: Examine) -> None:
    text = f"{APP}channels = Channels()\n"
    assert seen(examine(text)) == ["the channels are in memory://, and there are 2 workers"]
    assert seen(examine(text, workers=1)) == []
    assert "the channels are in memory://" in seen(examine(text, workers=None), "note")


def test_channels_that_only_the_app_knows(examine: Examine) -> None:
    text = f"{APP}def begin():\n    Channels(app)\nbegin()\n"
    assert seen(examine(text)) == ["the channels are in memory://, and there are 2 workers"]
    wrong = f"{APP}app.config['SSESTREAM_URL'] = 'mysql://app:secret-word@host'\nall = Channels()\n"
    (text,) = seen(examine(wrong))
    assert "mysql://..." in text
    assert "secret-word" not in text


def test_an_app_that_is_not_flasks(examine: Examine) -> None:
    found = examine("def app(environ, start_response):\n    return []\n")
    assert seen(found) == []
    assert "shop:app is a function, and no Flask app" in seen(found, "note")
