"""Build the package, install its wheel as a user would, and serve one stream with it.

PyPI's own checks come between. Takes a folder to work in. Nothing is imported from the checkout.
"""

import configparser
import email
import subprocess
import sys
import urllib.request
import venv
import zipfile
from pathlib import Path

APP = """
from flask import Flask, request
from ssestream import ServerResponse, SseStream, pipeline
app = Flask(__name__)
@app.get("/")
def stream():
    return pipeline([{"id": 0, "data": "hello"}], SseStream(request), ServerResponse())
"""

#: The plugin for pytest.
PLUGIN = "pytest_ssestream.py"

checkout = Path(__file__).parent.parent
work = Path(sys.argv[1])
work.mkdir(parents=True, exist_ok=True)

# The wheel is built from the source distribution.
subprocess.run([sys.executable, "-m", "build", "--outdir", work / "dist", checkout], check=True)
# PyPI refuses a package with a description that it cannot show.
built = sorted((work / "dist").iterdir())
subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built], check=True)
[wheel] = (work / "dist").glob("*.whl")
names = zipfile.ZipFile(wheel).namelist()
written = {
    file.relative_to(checkout).as_posix()
    for file in (checkout / "ssestream").rglob("*.*")
    if file.is_file() and "__pycache__" not in file.parts
}
assert written <= set(names), written - set(names)
assert all(name.startswith(("ssestream/", "ssestream-")) for name in {*names} - {PLUGIN}), names
assert PLUGIN in names

# The links that a page of the package shows.
setup = configparser.ConfigParser()
setup.read(checkout / "setup.cfg")
urls = setup["metadata"]["project_urls"].strip().splitlines()
[metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
told = email.message_from_bytes(zipfile.ZipFile(wheel).read(metadata)).get_all("Project-URL")
assert told == [url.replace(" = ", ", ", 1) for url in urls], told
assert all(", https://" in url for url in told), told

venv.create(work / "venv", with_pip=True, clear=True)
python = work / "venv" / "bin" / "python"
subprocess.run(
    [python, "-m", "pip", "install", "-q", f"{wheel}[gunicorn,postgresql,redis]"], check=True
)
(work / "hello.py").write_text(APP)
where = subprocess.run(
    [python, "-c", "import ssestream; print(ssestream.__file__)"],
    cwd=work,
    check=True,
    capture_output=True,
    text=True,
).stdout
assert str(work) in where, where

found = "from importlib.metadata import entry_points as e; print(*e(group='pytest11').names)"
plugins = subprocess.run([python, "-c", found], check=True, capture_output=True, text=True).stdout
assert plugins.split() == ["ssestream"], plugins

# The scripts in Lua are read when the broker of Redis is imported.
subprocess.run([python, "-c", "import ssestream.brokers.redis"], cwd=work, check=True)

# The SQL for PostgreSQL is read by its command.
command = [python, "-m", "ssestream", "migrate", "--print"]
subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)

server = subprocess.Popen(
    [python, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", "hello:app"],
    cwd=work,
    stderr=subprocess.PIPE,
    text=True,
)
try:
    assert server.stderr is not None
    address = ""
    for line in server.stderr:
        print(line, end="")
        if "Listening at: " in line:
            address = line.partition("Listening at: ")[2].split()[0]
        if "Booting worker" in line:
            break
    with urllib.request.urlopen(address, timeout=20) as answer:
        body = answer.read()
finally:
    server.terminate()
    server.wait(20)
assert body == b":ok\n\nid: 0\ndata: hello\n\n", body
url = f"sqlite:///{work / 'events.db'}"
command = [python, "-m", "ssestream"]
subprocess.run(
    [*command, "publish", "--url", url, "news", '{"data": "kept"}'], cwd=work, check=True
)
tail = [*command, "tail", "--url", url, "--last", "1", "--count", "1", "news"]
told = subprocess.run(tail, cwd=work, check=True, capture_output=True, text=True, timeout=20).stdout
assert '"data": "kept"' in told, told
print("the wheel serves a stream and keeps a channel")
