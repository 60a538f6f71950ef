"""Answers in three vendors' formats, as the vendors' own clients read them."""

import json
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import NODE_MODULES
from tests.kit.servers import Client, Server, body_of
from tests.servers.apps.formats import TEXT, TOOL_CALL

pytestmark = pytest.mark.server

WHOLE = "".join(TEXT)


@pytest.fixture(scope="module")
def openai() -> Any:
    # It takes a second to import, in each process that collects these tests.
    import openai

    return openai


@pytest.fixture(scope="module")
def anthropic() -> Any:
    # It takes seconds to import, in each process that collects these tests.
    import anthropic

    return anthropic


@pytest.fixture(scope="module", params=["gevent", "SseWorker", "gthread"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param, "tests.servers.apps.formats:app").start()
    yield server
    server.stop()


MESSAGES: Any = [{"role": "user", "content": "?"}]


def chat(openai: Any, server: Server, case: str, under: str = "") -> Iterator[Any]:
    url = f"{server.url}{under}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        completions = client.chat.completions
        with completions.create(model=case, messages=MESSAGES, stream=True) as chunks:
            yield from chunks


@contextmanager
def claude(anthropic: Any, server: Server, case: str, under: str = "") -> Iterator[Any]:
    url = f"{server.url}{under}"
    with (
        anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client,
        client.messages.stream(model=case, max_tokens=9, messages=MESSAGES) as stream,
    ):
        yield stream


@pytest.mark.long_except("gevent")
def test_the_openai_library_reads_an_answer(server: Server, openai: Any) -> None:
    chunks = list(chat(openai, server, "text"))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {(chunk.id, chunk.model) for chunk in chunks} == {(chunks[0].id, "parrot")}


def test_the_openai_library_reads_calls_of_tools(server: Server, openai: Any) -> None:
    deltas = [chunk.choices[0].delta for chunk in chat(openai, server, "chat")]
    calls = [call.model_dump() for delta in deltas for call in delta.tool_calls or ()]
    assert calls == [TOOL_CALL]
    assert "".join(delta.content or "" for delta in deltas) == "ab"


def test_whole_chunks_are_passed_on_as_they_are(server: Server, openai: Any) -> None:
    chunks = list(chat(openai, server, "relay"))
    assert [chunk.id for chunk in chunks] == ["theirs", "theirs"]
    assert chunks[0].choices[0].finish_reason == "length"


def test_the_openai_library_is_told_of_an_error_after_all_that_came(
    server: Server, openai: Any
) -> None:
    got: list[str] = []
    chunks = chat(openai, server, "fails")
    with pytest.raises(openai.APIError) as caught:
        got.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(got) == WHOLE
    assert caught.value.message == "The answer failed."
    assert caught.value.type == "server_error"


def test_the_anthropic_library_reads_an_answer(server: Server, anthropic: Any) -> None:
    with claude(anthropic, server, "text") as stream:
        assert "".join(stream.text_stream) == WHOLE
        message = stream.get_final_message()
    assert (message.model, message.role, message.stop_reason) == ("parrot", "assistant", "end_turn")
    assert [block.type for block in message.content] == ["text"]


def test_the_anthropic_library_reads_blocks_between_text(server: Server, anthropic: Any) -> None:
    with claude(anthropic, server, "anthropic") as stream:
        content: Any = stream.get_final_message().content
    assert [block.type for block in content] == ["text", "thinking", "text"]
    assert [content[0].text, content[1].thinking, content[2].text] == ["a", "hm", "b"]


def test_the_anthropic_library_is_told_of_an_error_after_all_that_came(
    server: Server, anthropic: Any
) -> None:
    got: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError) as caught,
        claude(anthropic, server, "fails") as stream,
    ):
        got.extend(stream.text_stream)
    assert "".join(got) == WHOLE
    assert "The answer failed." in str(caught.value)
    assert "secret" not in str(caught.value)


#: How a run ends, whether its client has a whole answer, and whether it gets an error.
ENDS = [
    ("text", True, False),
    ("is stopped", False, False),
    ("fails", False, True),
    ("is lost", False, True),
]


@pytest.mark.parametrize(("case", "is_whole", "is_error"), ENDS)
def test_the_openai_library_reads_a_run_whatever_its_end(
    server: Server, openai: Any, case: str, is_whole: bool, is_error: bool
) -> None:
    chunks: list[Any] = []
    with pytest.raises(openai.APIError) if is_error else nullcontext():
        chunks.extend(chat(openai, server, case, "/runs"))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE
    assert (chunks[-1].choices[0].finish_reason == "stop") == is_whole


@pytest.mark.parametrize(("case", "is_whole", "is_error"), ENDS)
def test_the_anthropic_library_reads_a_run_whatever_its_end(
    server: Server, anthropic: Any, case: str, is_whole: bool, is_error: bool
) -> None:
    got: list[str] = []
    message: Any = None
    with (
        pytest.raises(anthropic.APIStatusError) if is_error else nullcontext(),
        claude(anthropic, server, case, "/runs") as stream,
    ):
        got.extend(stream.text_stream)
        message = stream.get_final_message()
    assert "".join(got) == WHOLE
    if message is not None:
        assert message.stop_reason == ("end_turn" if is_whole else None)


@pytest.mark.node
@pytest.mark.long_except("SseWorker-text-True-False", "gthread-is lost-False-True")
@pytest.mark.parametrize(("case", "is_whole", "is_error"), ENDS)
def test_the_ai_sdk_reads_a_run_whatever_its_end(
    server: Server, node: str, case: str, is_whole: bool, is_error: bool
) -> None:
    got = read_by_the_ai_sdk(node, f"{server.url}/runs/ui/{quote(case)}")
    assert got["parts"] == [["text", WHOLE]]
    assert got["error"] == ("The answer failed." if is_error else None)


@pytest.mark.node
@pytest.mark.long_except(
    "SseWorker-text-parts0-None",
    "gevent-ui-parts1-None",
    "gthread-fails-parts2-The answer failed.",
)
@pytest.mark.parametrize(
    ("case", "parts", "error"),
    [
        ("text", [["text", WHOLE]], None),
        ("ui", [["text", "a"], ["source-url", "https://example.org/"], ["text", "b"]], None),
        ("fails", [["text", WHOLE]], "The answer failed."),
    ],
)
def test_the_ai_sdk_reads_an_answer(
    server: Server, node: str, case: str, parts: list[Any], error: str | None
) -> None:
    got = read_by_the_ai_sdk(node, f"{server.url}/ui/{case}")
    assert got == {"id": "m", "parts": parts, "error": error, "protocol": "v1"}


def read_by_the_ai_sdk(node: str, *args: str) -> Any:
    program = NODE_MODULES.parent / "ai_sdk.mjs"
    run = subprocess.run([node, program, *args], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.long_except("SseWorker")
@pytest.mark.node
def test_the_ai_sdk_resumes_the_answer_that_is_under_way_and_no_other(
    server: Server, node: str
) -> None:
    """Its ``resumeStream`` asks for ``/api/chat/ID/stream`` when the page is opened."""
    chats = f"{server.url}/chats"
    assert read_by_the_ai_sdk(node, chats, "first") is None
    whoever_started = Client(server.port).get("/chats/first", method="POST")
    whoever_started.read_until(b'"Hel"')
    whoever_started.fin()
    with resuming(node, chats, "first") as resumed:
        server.wait_for(resumed="first")
        urllib.request.urlopen(f"{chats}/first/go-on", b"", timeout=60).close()
        got = json.loads(resumed.communicate(timeout=240)[0])
    assert got == {"id": "m", "parts": [["text", "Hello"]], "error": None, "protocol": "v1"}
    assert read_by_the_ai_sdk(node, chats, "first") is None


@contextmanager
def resuming(node: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    program = NODE_MODULES.parent / "ai_sdk.mjs"
    resumed = subprocess.Popen([node, program, *args], stdout=subprocess.PIPE, text=True)
    with resumed:
        try:
            yield resumed
        finally:
            resumed.kill()


@pytest.mark.node
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("gevent", marks=pytest.mark.long),
        "SseWorker",
        pytest.param("gthread", marks=pytest.mark.long),
    ],
)
def test_an_answer_that_the_ai_sdk_has_resumed_is_whole_after_a_reload_of_the_server(
    kind: str, serve: Callable[..., Server], node: str, tmp_path: Path
) -> None:
    """It asks by GET, and would take a clean end for the end of the answer."""
    gate = tmp_path / "gate"
    server = serve(
        kind,
        "tests.servers.apps.formats:app",
        env={"GATE": str(gate)},
        args=("-c", "tests/servers/apps/reload.conf.py"),
    )
    chats = f"{server.url}/chats"
    whoever_started = Client(server.port).get("/chats/first", method="POST")
    whoever_started.read_until(b'"Hel"')
    whoever_started.fin()
    with resuming(node, chats, "first") as resumed:
        server.wait_for(resumed="first")
        other = Client(server.port).get("/chats/first/for-an-event-source", version="1.0")
        other.read_until(b'"Hel"')
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)
        # The worker ends the streams that may come back.
        assert b"finish" not in other.read_to_end()
        assert resumed.poll() is None
        gate.touch()
        got = json.loads(resumed.communicate(timeout=240)[0])
    assert (got["parts"], got["error"]) == ([["text", "Hello"]], None)


@pytest.mark.parametrize(
    ("path", "body", "last"),
    [
        ("/v1/chat/completions", {"model": "fails"}, b'"error":'),
        ("/ui/fails", {}, b'"type":"error"'),
        ("/v1/messages", {"model": "fails"}, b"event: error\n"),
    ],
)
def test_an_answer_that_fails_has_its_message_and_then_a_cut(
    server: Server, path: str, body: dict[str, str], last: bytes
) -> None:
    sent = json.dumps(body)
    client = Client(server.port)
    client.sock.sendall(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(sent)}\r\n\r\n{sent}".encode()
    )
    received = client.read_to_end()
    assert last in body_of(received).rpartition(b"\n\n")[0].rpartition(b"\n\n")[2]
    # The last chunk would tell the client that the answer is whole.
    assert not received.endswith(b"0\r\n\r\n")
