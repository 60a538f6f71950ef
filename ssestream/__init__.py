"""Server-Sent Events for WSGI: Node's ssestream for Flask, Werkzeug and gunicorn."""

# The rooms and wings of the package, from the ground up. A room imports only from its own
# floor and from the floors below. tests/test_package.py checks this.
#
#   errors.py          the errors that the package raises
#   settings.py        every bound and duration, its default and the reason for it
#   plain.py           the plain value of what an app hands over
#   compact_json.py    JSON without spaces, for data that is no text
#   printable.py       untrusted text, made safe for a log or a terminal
#   browser.py         ssestream.js for the pages of an app
#   runtime/           where code runs: threads, loops, timers, events
#
#   wire.py            messages to text/event-stream, and back
#   http/              one response on its way to one client
#   brokers/           where channels are kept
#
#   config.py          the configuration of the current Flask app: settings, JSON
#   message_queue.py   the messages that wait in a stream
#   text_source.py     event-stream text in a source, as messages
#   pipe.py            one stream piped to one destination
#   overflow.py        when too much waits in a stream, and which clients are the reason
#   same_origin.py     check_origin: whether a page of the app itself made a request
#
#   express.py         Express's conveniences: res.status(404).json(...)
#   response.py        ServerResponse: Node's res as a Flask response
#
#   stream_state.py    the state of a stream, and its ties to a request and to channels
#   stream_ends.py     how a stream ends, and how it loses one of its destinations
#   flow.py            all that moves messages through a stream, under one lock
#   stream.py          SseStream: the public face of a flow
#
#   channels/          publish once; every subscriber gets it, in order
#   formats/           models' answers as three vendors' clients read them; HTML in messages
#   datastar.py        messages for Datastar
#   htmx.py            messages for htmx
#   turbo.py           messages for Turbo
#   async_source.py    an async source, drawn from in the asyncio loop of the process
#   async_items.py     the same for a greenlet that draws as from an iterator
#   pipeline.py        a source of messages, drawn through a stream
#   handler_run.py     one call of the function of a handler
#   async_handler.py   the same for an async def
#   handler.py         @handler: Express's (req, res), a function that writes between waits
#   incoming.py        req: Express's names over Flask's request
#   once.py            await an event of a stream
#   files.py           tail_file: a followed file as a source
#   timers.py          set_interval and its family
#   run_log.py         the log of one run: its beginning, its state, its end
#   producer.py        the source of a run, drawn into its log
#   run_keeper.py      the leases of the runs that this process produces or streams
#   runs.py            Runs: producers that outlive their requests
#   tickets/           signed permissions to follow channels
#
#   header_option.py   the option --header of the commands
#   doctor/            why does a stream hang? asked from outside, and of its set-up
#   health.py          views for probes: alive, ready
#   metrics/           numbers for those who watch an app
#   top/               which clients are open on which channels
#   operators/         a page for operators: open streams, rates, the last ends, actions
#   testing/           clients and a clock for the tests of an app
#   gunicorn/          SseWorker only; no other server enters here
#   __main__.py        the command line

from .channels.channel import Channel
from .channels.channels import Channels
from .errors import (
    BrokerError,
    BufferFull,
    ChannelEnded,
    ClientDisconnected,
    HeadersSent,
    MessageError,
    SseStreamError,
    StreamDestroyed,
    StreamError,
    WriteAfterEnd,
)
from .handler import handler
from .http.registry import Statistics, drain, statistics
from .once import once
from .pipeline import pipeline
from .response import ServerResponse
from .runs import Run, Runs
from .same_origin import check_origin
from .settings import Settings
from .stream import SseStream
from .tickets import Tickets
from .timers import clear_interval, clear_timeout, set_interval, set_timeout

__version__ = "0.2.0"

__all__ = [
    "BrokerError",
    "BufferFull",
    "Channel",
    "ChannelEnded",
    "Channels",
    "ClientDisconnected",
    "HeadersSent",
    "MessageError",
    "Run",
    "Runs",
    "ServerResponse",
    "Settings",
    "SseStream",
    "SseStreamError",
    "Statistics",
    "StreamDestroyed",
    "StreamError",
    "Tickets",
    "WriteAfterEnd",
    "check_origin",
    "clear_interval",
    "clear_timeout",
    "drain",
    "handler",
    "once",
    "pipeline",
    "set_interval",
    "set_timeout",
    "statistics",
]
