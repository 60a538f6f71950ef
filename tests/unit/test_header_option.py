"""The option ``--header`` of the commands."""

import argparse

import pytest

from ssestream.header_option import header


def test_a_header_has_a_name_and_a_value() -> None:
    assert header("Authorization: Bearer a:b ") == ("Authorization", "Bearer a:b")
    assert header("X-Empty:") == ("X-Empty", "")


@pytest.mark.parametrize("text", ["", "Cookie", ": value", "X: 1\r\nY: 2", "X: 1\n", "X\x00: 1"])
def test_what_is_none_or_would_end_the_line_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be 'NAME: VALUE', not "):
        header(text)
