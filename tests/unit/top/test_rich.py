"""The screen in a terminal."""

import io
from typing import Any

import pytest

from ssestream.top.screen import Screen, screen_of

rich = pytest.importorskip("rich.console")


def drawn(*screens: Screen | str, height: int = 40) -> str:
    from ssestream.top.rich import show

    file = io.StringIO()
    show(screens, rich.Console(file=file, width=100, height=height, force_terminal=False))
    return file.getvalue()


def screen(streams: int, client: str = "192.0.2.1 '/news'") -> Screen:
    told = {"seconds": 5.0, "messages": 1, "bytes": 9, "waiting": 0, "channels": {"news": 0}}
    process: dict[str, Any] = {
        "process": 17,
        "open": streams,
        "messages": 10,
        "draining": False,
        "channels": {"news": {"streams": streams, "behind": 0}},
        "streams": [{"client": client, **told} for _ in range(streams)],
    }
    return screen_of({"processes": [process]})


def test_the_line_and_both_tables_are_there() -> None:
    text = drawn(screen(2))
    assert "2 streams open in 1 process" in text
    for heading in (*screen(1).channels.columns, *screen(1).streams.columns):
        assert heading in text
    assert text.count("192.0.2.1 '/news'") == 2


def test_no_more_rows_than_the_terminal_has_lines() -> None:
    text = drawn(screen(100), height=24)
    assert len(text.rstrip().splitlines()) <= 24
    assert "more)" in text


def test_a_name_is_no_markup() -> None:
    assert "[red]a[/red] [link=x]" in drawn(screen(1, client="[red]a[/red] [link=x]"))


def test_an_error_is_shown_above_the_last_look() -> None:
    lines = drawn(screen(1), "it does not answer [for now]").splitlines()
    place = lines.index("it does not answer [for now]")
    assert "1 stream open" in lines[place + 1]
