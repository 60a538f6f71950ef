"""The command line: publish to a channel, print its events, end it, delete it, and set its bounds.

And examine a stream that hangs, and show which streams are open.

``python -m ssestream --help`` shows all commands and options.
"""

import argparse
import contextlib
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .brokers import migrate, open_broker
from .brokers.broker import CONTROL, END, Broker, ChannelError, Position, Slice, check_name
from .channels.channels import Channels
from .channels.history import before_last
from .channels.ids import id_of, parse_id
from .doctor import command as doctor
from .errors import BrokerError
from .printable import escape, escape_json
from .top import command as top
from .wire import Decoder, is_frame, with_id

#: Exit codes, as in other tools. Ctrl-C is 128 + 2, for SIGINT.
FAILED, WRONG, INTERRUPTED = 1, 2, 130

_HELP = """\
exit codes:
  0    done
  1    the broker or the app failed or could not be reached; the doctor found a fault
  2    wrong usage: an argument or a message is wrong
  130  ended by Ctrl-C
"""

_PUBLISH = """\
A message is a JSON object with any of "data", "event", "retry" and "comment".
Without MESSAGE, or with -, each line of the standard input is a message, and is published
as soon as it comes. The id of each stored message is printed.

  python -m ssestream publish --url sqlite:///chat.db news '{"data": {"title": "..."}}'
"""

_KEEP = """\
The log of a channel remembers how much it keeps. Publishing can only make it keep more. This
command can also make it keep less, and then the log drops its oldest events. An app with a
larger history of its own makes the log keep more again.

  python -m ssestream keep --url redis://localhost --history 100 news
"""

_END = """\
Nothing more can be published to the channel, and its streams end. MESSAGE, a JSON object, is the
last message; without it, none is published. Does nothing if the channel has ended already.

  python -m ssestream end --url sqlite:///chat.db --ttl 3600 job:7 '{"event": "done", "data": ""}'
"""

_DELETE = """\
All that the broker keeps of the channel is freed. Streams that follow it stay open: end the channel
first if they should end.

  python -m ssestream delete --url sqlite:///chat.db job:7
"""

_TAIL = """\
Each message is printed as one line of JSON, with its id. Use the id with --since.
Characters that could control a terminal are printed as JSON escapes.
The command goes on until Ctrl-C, until --count, until the end of the channel, or until the broker
fails. All messages of a channel that has ended are printed, unless --since or --last is given.

  python -m ssestream tail --url redis://localhost --last 10 news
"""


#: A word of a message that may be a URL, or a part of one.
_MAY_BE_URL = re.compile(r"[^\s']*([@?]|:[^\s'])[^\s']*")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with *message* in one line, as for every other error of this command.

        An argument at a wrong place may be a URL with a password.
        """
        message = _MAY_BE_URL.sub("...", message)
        self.exit(WRONG, f"{self.prog}: {escape(message)} (see --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in *arguments*, and return its exit code. None means the command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        if options.command == "doctor":
            return _examine(options)
        if options.command == "migrate":
            print(migrate.run(options), end="")
            sys.stdout.flush()
            return 0
        if options.command == "top":
            top.run(options, print)
            sys.stdout.flush()
            return 0
        url = options.url or os.environ.get("SSESTREAM_URL")
        if not url:
            raise ValueError("no broker: give --url, or set SSESTREAM_URL")
        if url.startswith("memory:"):
            raise ValueError(
                "memory:// is inside one process, and another process cannot reach it:"
                " the app needs sqlite:///, redis:// or postgresql://"
            )
        check_name(options.channel)
        if options.command == "tail":
            _tail(url, options)
        else:
            _change(url, options)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # The reader of the output has closed the pipe. Python flushes once more at its exit, so
        # let that go to /dev/null.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokerError, top.NoAnswer) as error:
        return _fail(FAILED, error)
    except ValueError as error:
        return _fail(WRONG, error)


def _fail(code: int, error: Exception) -> int:
    _say(" ".join(str(error).split()))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ssestream",
        description="Publish to the channels of an app, print their events, find out why a stream"
        " hangs, and show which streams are open, from a shell.",
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
        help="the least number of events to keep (default: no change; 1000 for a new channel)",
    )
    publish.add_argument(
        "--history-age",
        type=float,
        metavar="SECONDS",
        help="the least age up to which to keep events (default: no change; any age for a new"
        " channel)",
    )
    publish.add_argument(
        "--ttl",
        type=float,
        metavar="SECONDS",
        help="delete the channel so long after its last message (default: no change; never for a"
        " new channel)",
    )
    end = _command(commands, "end", "end a channel", _END)
    end.add_argument("message", nargs="?", metavar="MESSAGE", help="a JSON object")
    end.add_argument(
        "--ttl",
        type=float,
        metavar="SECONDS",
        help="delete the channel so long after its end (default: no change)",
    )
    _command(commands, "delete", "delete all that is kept of a channel", _DELETE)
    keep = _command(commands, "keep", "set how much a channel keeps", _KEEP)
    keep.add_argument(
        "--history", type=_positive, metavar="N", help="number of events (default: no change)"
    )
    keep.add_argument(
        "--history-age",
        type=float,
        metavar="SECONDS",
        help="the greatest age of events (default: any age)",
    )
    tail = _command(commands, "tail", "print the messages of a channel", _TAIL)
    start = tail.add_mutually_exclusive_group()
    start.add_argument("--since", metavar="ID", help="begin after the message with this id")
    start.add_argument(
        "--last", type=_positive, default=0, metavar="N", help="begin with the last N messages"
    )
    tail.add_argument("--count", type=_positive, metavar="N", help="end after N messages")
    examining = commands.add_parser(
        "doctor",
        help="find out why a stream hangs",
        description=doctor.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_arguments(examining)
    watching = commands.add_parser(
        "top",
        help="show which clients are open on which channels",
        description=top.HELP,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_arguments(watching)
    migrating = commands.add_parser(
        "migrate",
        help="make the tables of channels in PostgreSQL",
        description=migrate.HELP,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    migrate.add_arguments(migrating)
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
        help="sqlite:///relative, sqlite:////absolute, redis://host:6379/0 or"
        " postgresql://host:5432/database;"
        " the default is SSESTREAM_URL in the environment, which hides a password from other users",
    )
    command.add_argument("channel", metavar="CHANNEL")
    return command


def _examine(options: argparse.Namespace) -> int:
    """Print all that the doctor finds, as soon as it is found."""
    levels = []
    for what, findings in doctor.examine(options):
        print(escape(what), flush=True)
        for finding in findings:
            levels.append(finding.level)
            print(textwrap.indent(str(finding), "  "), flush=True)
    faults, notes = levels.count("fault"), levels.count("note")
    print(f"faults: {faults}, notes: {notes}")
    return FAILED if faults else 0


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**9:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 999999999, not {text!r}")
    return int(text)


def _change(url: str, options: argparse.Namespace) -> None:
    """Run each command that changes the log of a channel."""
    bounds: dict[str, Any] = {}
    if options.command == "publish":
        bounds = {"history": options.history, "history_age": options.history_age}
    with contextlib.closing(Channels(url, **bounds)) as channels:
        if options.command == "publish":
            _publish_all(channels, options)
        elif options.command == "end":
            message = None if options.message is None else _message(options.message)
            if not channels.end(options.channel, message, ttl=options.ttl):
                _say(f"{options.channel!r} has ended already")
        elif options.command == "delete":
            channels.delete(options.channel)
        else:
            channels.keep(options.channel, history=options.history, history_age=options.history_age)


def _publish_all(channels: Channels, options: argparse.Namespace) -> None:
    channel = channels.channel(options.channel, ttl=options.ttl)
    if options.message not in (None, "-"):
        print(channel.publish(_message(options.message)))
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        if line.strip():
            try:
                event_id = channel.publish(_message(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            # Flush each id now, because the next line may come much later.
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
    remaining = options.count
    for position, frame in _follow(broker, options.channel, options.since, options.last):
        event_id = id_of(options.channel, position)
        for message in Decoder().feed(with_id(frame, event_id.encode())):
            # Always print UTF-8, as on the wire. Python may assume another encoding.
            line = escape_json(json.dumps(message, ensure_ascii=False)) + "\n"
            sys.stdout.buffer.write(line.encode())
            sys.stdout.buffer.flush()
            if remaining is not None:
                remaining -= 1
                if remaining == 0:
                    return


def _follow(
    broker: Broker, name: str, since: str | None, last: int
) -> Iterator[tuple[Position, bytes]]:
    """Yield the frames of the channel *name* and their positions, until the channel ends.

    Begins after the id *since*, or with the *last* messages if *since* is None.
    """
    state = broker.read(name, 0, 0, 0)
    at = before_last(broker, name, state, last) or state.end
    if since is not None:
        found = (parse_id(since) or {}).get(name)
        if found is None:
            raise ValueError(f"--since must be the id of a message of {name!r}, not {since!r}")
        at = found
        if at.log == state.log and broker.read(name, at.number, 0, 0).misses(at):
            # The log no longer has every entry after the id.
            at = _after_gap(name, state)
    elif state.ended and not last:
        at = state.beginning
    if _has_ended(state, at):
        return
    broker.follow(name, at)
    while True:
        piece = broker.wait().get(name)
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
            elif frame.startswith(END):
                return
            elif not frame.startswith(CONTROL):
                _say(f"entry {number} of {name!r} is no message")
        at = piece.read_to
        if _has_ended(piece, at):
            return


def _has_ended(piece: Slice, at: Position) -> bool:
    """Whether no message can follow the position *at* in the log of *piece*, which has ended."""
    return at.log == piece.log and 0 < piece.ended <= at.number


def _after_gap(name: str, piece: Slice) -> Position:
    _say(f"a gap: earlier messages of {name!r} are lost")
    return piece.beginning


def _say(what: str) -> None:
    print(f"python -m ssestream: {escape(what)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
