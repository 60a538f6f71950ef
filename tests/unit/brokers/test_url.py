"""No error about a URL shows a password, even if its ``://`` is wrong."""

import contextlib

import pytest

from ssestream.__main__ import main
from ssestream.brokers import open_broker
from ssestream.brokers.postgresql.migration import migrate
from ssestream.brokers.redis.target import parse
from ssestream.brokers.url import scheme_of, shown

PASSWORD = "hunter2"

WRONG = [
    f"redis:/:{PASSWORD}@h:1/0",
    f"redis::{PASSWORD}@h:1/0",
    f"redis//:{PASSWORD}@h:1/0",
    f" redis://:{PASSWORD}@h",
    f"rediss:/:{PASSWORD}@h",
    f"redis+sentinel:/:{PASSWORD}@h:1/m",
    f"redis+cluster:/:{PASSWORD}@h:1",
    f"postgresql:/u:{PASSWORD}@h/d",
    f"postgresql//u:{PASSWORD}@h/d",
    f"postgres:u:{PASSWORD}@h/d",
    f"unix:/x?password={PASSWORD}",
    f"sqlite://:{PASSWORD}@x",
    f"sqlite:/:{PASSWORD}@x",
    f":{PASSWORD}@h",
    f"user:{PASSWORD}@h/d",
    f"user:{PASSWORD}@://h/d",
    f"valkey://:{PASSWORD}@h",
    f"postgresql://h/d?notify_url=postgresql:/u:{PASSWORD}%40h/d",
]


def test_a_scheme_is_a_word_before_a_colon_and_two_slashes() -> None:
    assert scheme_of("Redis+Cluster://h") == "redis+cluster"
    assert shown("Redis+Cluster://h") == "redis+cluster://..."
    for url in ("", "redis", "redis:", "redis:/", "://h", "u:p@://h", " redis://h"):
        assert scheme_of(url) == ""
        assert shown(url) == "without a scheme and ://"


@pytest.mark.parametrize("url", WRONG)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="url") as caught:
        open_broker(url)
    for read in (parse, migrate):
        # A URL that one of them takes is of another broker.
        with pytest.raises(ValueError, match="url") as other:
            read(url)
        assert PASSWORD not in str(other.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("url", WRONG)
@pytest.mark.parametrize(
    "command",
    [
        ["tail", "--url", "URL", "news"],
        ["publish", "--url=URL", "news", "{}"],
        ["migrate", "URL"],
        ["doctor", "--broker", "URL"],
        ["doctor", "URL"],
        # Mistakes of the command line itself.
        ["tail", "news", "URL"],
        ["URL", "tail", "news"],
        ["tail", "--last", "URL", "news"],
        ["migrate", "URL", "URL"],
        ["top", "URL"],
    ],
)
def test_no_command_shows_a_password(
    url: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # Some mistakes are found by the parser of the command line, which exits.
    with contextlib.suppress(SystemExit):
        main([each.replace("URL", url) for each in command])
    told = "".join(capsys.readouterr())
    assert told
    assert PASSWORD not in told.replace("\n", "").replace(" ", "")
