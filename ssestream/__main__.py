"""Publish to a channel, and see what comes, from a shell.

``python -m ssestream --help`` tells the rest.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .brokers import open_broker
from .brokers.broker import CONTROL, Broker, ChannelError, Position, Slice, check_name
from .channels import Channels
from .errors import BrokerError
from .positions import format_id, parse_id
from .printable import escape, escape_json
from .wire import Decoder, is_frame, with_id

#: What the shell is told: as other tools have it, and 128 + 2 for Ctrl-C.
FAILED, WRONG, INTERRUPTED = 1, 2, 130

_HELP = """\
exit codes:
  0    done
  1    the broker could not be reached, or could not do it
  2    wrong usage: an argument or a message that is not what it should be
  130  ended by Ctrl-C
"""

_PUBLISH = """\
A message is a JSON object with any of "data", "event", "retry" and "comment".
Without MESSAGE, or with -, each line of the standard input is one, and is published
as soon as it comes. The id of each that was stored is printed.

  python -m ssestream publish --url sqlite:///chat.db news '{"data": {"title": "..."}}'
"""

_KEEP = """\
How much a channel keeps belongs to its log. Publishing can only widen that; this says it
anew, also to less, which is forgotten then. An app whose own history is larger widens it again.

  python -m ssestream keep --url redis://localhost --history 100 news
"""

_TAIL = """\
Each message is printed as one line of JSON, with its id, which --since takes.
Characters that could steer a terminal are printed as JSON's escapes.
It goes on until Ctrl-C, or --count, or until the broker fails.

  python -m ssestream tail --url redis://localhost --last 10 news
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """In one line, as every error is told here."""
        self.exit(WRONG, f"{self.prog}: {escape(message)} (--help tells more)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what *arguments*, or the command line, say. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        url = options.url or os.environ.get("SSESTREAM_URL")
        if not url:
            raise ValueError("which broker? Give --url, or set SSESTREAM_URL")
        if url.startswith("memory:"):
            raise ValueError(
                "memory:// is inside one process and cannot be reached from another:"
                " the app needs sqlite:/// or redis://"
            )
        check_name(options.channel)
        if options.command == "publish":
            _publish(url, options)
        elif options.command == "keep":
            channels = Channels(url)
            channels.keep(options.channel, history=options.history, history_age=options.history_age)
        else:
            _tail(url, options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # Whoever read has enough. Python would flush once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokerError as error:
        return _fail(FAILED, error)
    except ValueError as error:
        return _fail(WRONG, error)


def _fail(code: int, error: Exception) -> int:
    print(f"python -m ssestream: {escape(' '.join(str(error).split()))}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ssestream",
        description="Publish to the channels of an app, and see what comes, from a shell.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    publish = _command(commands, "publish", "publish messages to a channel", _PUBLISH)
    publish.add_argument("message", nargs="?", metavar="MESSAGE", help="a JSON object")
    publish.add_argument(
        "--history",
        type=_positive,
        metavar="N",
        help="events that the channel keeps at least (default: as it does, 1000 if it is new)",
    )
    publish.add_argument(
        "--history-age",
        type=float,
        metavar="SECONDS",
        help="the age that they reach at least (default: as the channel has it, any if it is new)",
    )
    keep = _command(commands, "keep", "say how much a channel keeps", _KEEP)
    keep.add_argument("--history", type=_positive, metavar="N", help="events (default: as now)")
    keep.add_argument(
        "--history-age", type=float, metavar="SECONDS", help="their age (default: any)"
    )
    tail = _command(commands, "tail", "print what is published to a channel", _TAIL)
    start = tail.add_mutually_exclusive_group()
    start.add_argument("--since", metavar="ID", help="begin after the message with this id")
    start.add_argument(
        "--last", type=_positive, default=0, metavar="N", help="begin with the last N kept ones"
    )
    tail.add_argument("--count", type=_positive, metavar="N", help="end after N messages")
    return parser


def _command(commands: Any, name: str, what: str, description: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=description,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--url",
        metavar="URL",
        help="sqlite:///relative, sqlite:////absolute or redis://host:6379/0;"
        " by default what SSESTREAM_URL says in the environment, which other users cannot see",
    )
    command.add_argument("channel", metavar="CHANNEL")
    return command


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"a number from 1 on, and not {text!r}")
    return int(text)


def _publish(url: str, options: argparse.Namespace) -> None:
    channels = Channels(url, history=options.history, history_age=options.history_age)
    with contextlib.closing(channels):
        _publish_all(channels, options)


def _publish_all(channels: Channels, options: argparse.Namespace) -> None:
    if options.message not in (None, "-"):
        print(channels.publish(options.channel, _message(options.message)))
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        if line.strip():
            try:
                event_id = channels.publish(options.channel, _message(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            # One by one, as the next line may be long in coming.
            print(event_id, flush=True)


def _message(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'a message is JSON such as {{"data": "hello"}}: {error}') from error


def _tail(url: str, options: argparse.Namespace) -> None:
    with contextlib.closing(open_broker(url)) as broker:
        _print_all(broker, options)


def _print_all(broker: Broker, options: argparse.Namespace) -> None:
    left = options.count
    for position, frame in _follow(broker, options.channel, options.since, options.last):
        event_id = format_id({options.channel: position})
        for message in Decoder().feed(with_id(frame, event_id.encode())):
            # UTF-8, whatever the terminal is thought to be: as on the wire.
            line = escape_json(json.dumps(message, ensure_ascii=False)) + "\n"
            sys.stdout.buffer.write(line.encode())
            sys.stdout.buffer.flush()
            if left is not None:
                left -= 1
                if left == 0:
                    return


def _follow(
    broker: Broker, name: str, since: str | None, last: int
) -> Iterator[tuple[Position, bytes]]:
    """Every frame of the channel *name* after *since*, or but its *last* ones; for ever."""
    here = broker.read(name, 0, 0, 0)
    at = here.end if not last else Position(here.log, max(here.first - 1, here.last - last))
    if since is not None:
        found = (parse_id(since) or {}).get(name)
        if found is None:
            raise ValueError(f"--since is the id of a message of {name!r}, and not {since!r}")
        at = found
        if at.log == here.log and broker.read(name, at.number, 0, 0).misses(at):
            # Of a log that was put back to an earlier state.
            at = _after_gap(name, here)
    while True:
        piece = broker.wait({name: at}).get(name)
        if piece is None:
            continue
        if isinstance(piece, ChannelError):
            raise piece
        if piece.misses(at):
            at = _after_gap(name, piece)
        for number, frame, check in piece.entries:
            at = Position(piece.log, number, check)
            if is_frame(frame):
                yield at, frame
            elif not frame.startswith(CONTROL):
                print(
                    f"python -m ssestream: entry {number} of {name!r} is no message",
                    file=sys.stderr,
                )


def _after_gap(name: str, piece: Slice) -> Position:
    print(
        f"python -m ssestream: a gap: what came before this is not kept in {name!r} any more",
        file=sys.stderr,
    )
    return piece.beginning


if __name__ == "__main__":
    sys.exit(main())
