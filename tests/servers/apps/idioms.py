"""The idioms of Express programs that use ssestream, each beside its port.

The JavaScript stands in a comment above the view. ``tell`` tells the test.
"""

import itertools
import threading
import time

import gevent
from flask import Flask, request, session
from pyee import EventEmitter

from ssestream import (
    ServerResponse,
    SseStream,
    StreamError,
    clear_interval,
    pipeline,
    set_interval,
)
from tests.servers.apps import tell

app = Flask(__name__)
app.secret_key = "for the tests"


# A timer that writes, cleared when the client has left:
#
#     const timer = setInterval(() => sse.write({ data: ++ticks }), 20)
#     res.on('close', () => { clearInterval(timer); sse.unpipe(res) })
#
ticks: dict[str, int] = {}


@app.get("/timer/<name>")
def timer(name):
    res = ServerResponse()
    sse = SseStream(request)
    sse.pipe(res)
    ticks[name] = 0

    def tick():
        ticks[name] += 1
        sse.write({"id": ticks[name], "data": f"tick {ticks[name]}"})

    pusher = set_interval(tick, 20)

    @res.on("close")
    def closed():
        clear_interval(pusher)
        sse.unpipe(res)
        tell(idiom="timer", name=name)

    return res


@app.get("/timer/<name>/ticks")
def timer_ticks(name):
    return str(ticks[name])


# A set of everybody's streams, written to by whoever posts:
#
#     clients.add(sse)
#     res.on('close', () => clients.delete(sse))
#     app.post('/chat', (req, res) => { for (const c of clients) c.write(...) })
#
clients: set[SseStream] = set()


@app.get("/chat")
def chat():
    res = ServerResponse()
    sse = SseStream(request)
    clients.add(sse)
    sse.pipe(res)

    @res.on("close")
    def closed():
        clients.discard(sse)
        tell(idiom="chat", left=len(clients))

    return res


@app.post("/chat")
def say():
    for client in tuple(clients):
        client.write({"event": "said", "data": request.get_json()})
    return {"clients": len(clients)}


# A callback that hears when its message was handed on, or that it never will be:
#
#     sse.write({ data: 'hello' }, 'utf-8', (error) => console.log(error))
#
@app.get("/callback")
def callback():
    res = ServerResponse()
    sse = SseStream(request)
    sse.pipe(res)

    def written(when):
        return lambda error: tell(idiom="callback", when=when, error=type(error).__name__)

    sse.write({"data": "hello"}, "utf-8", written("early"))

    @res.on("close")
    def closed():
        went = sse.write({"data": "too late"}, "utf-8", written("late"))
        tell(idiom="callback", when="closed", went=went)

    return res


# The older name of write:
#
#     sse.writeMessage({ event: 'greeting', data: 'hello' }, 'utf-8', done)
#
@app.get("/write-message")
def write_message():
    res = ServerResponse()
    sse = SseStream(request)
    sse.pipe(res)
    sse.write_message(
        {"event": "greeting", "data": "hello"},
        "utf-8",
        lambda error: tell(idiom="write_message", error=error),
    )
    return res


# An emitter of the whole program, listened to while the client is there:
#
#     const forward = (item) => sse.write({ data: item })
#     news.on('item', forward)
#     res.on('close', () => news.off('item', forward))
#
news = EventEmitter()


@app.get("/emitter")
def emitter():
    res = ServerResponse()
    sse = SseStream(request)
    sse.pipe(res)

    def forward(item):
        sse.write({"data": item})

    news.on("item", forward)

    @res.on("close")
    def closed():
        news.remove_listener("item", forward)
        tell(idiom="emitter", left=len(news.listeners("item")))

    return res


@app.post("/emitter")
def emit():
    return {"heard": news.emit("item", request.get_json())}


# A source of messages, resumed after the last one that the client has seen:
#
#     const from = Number(req.get('Last-Event-ID') ?? -1) + 1
#     const source = Readable.from(numbers(from))
#     pipeline(source, sse, res, (error) => console.log('closed'))
#
@app.get("/source")
def source():
    sse = SseStream(request)
    start = int(request.headers.get("Last-Event-ID", -1)) + 1
    return pipeline(numbers(start), sse, ServerResponse())


def numbers(start):
    for number in range(start, 100):
        yield {"id": number, "data": {"number": number}}


@app.get("/source/endless")
def endless_source():
    return pipeline(rare_numbers(), SseStream(request), ServerResponse())


def rare_numbers():
    try:
        for number in itertools.count():
            yield {"id": number, "data": "rare"}
            gevent.sleep(3600)
    finally:
        tell(idiom="source", closed=True)


# A job that tells its progress while it works, and ends the stream when it is done:
#
#     for (const step of [1, 2, 3]) { await work(); sse.write({ event: 'progress', ... }) }
#     sse.end({ event: 'done' })
#
@app.get("/job")
def job():
    res = ServerResponse()
    sse = SseStream(request)
    sse.pipe(res)

    def run():
        for step in (1, 2, 3):
            time.sleep(0.01)
            sse.write({"event": "progress", "data": {"step": step}})
        sse.end({"event": "done", "data": ""})

    threading.Thread(target=run).start()
    res.on("finish", lambda: tell(idiom="job", event="finish"))
    res.on("close", lambda: tell(idiom="job", event="close"))
    return res


# Headers and cookies of the response, set before the stream takes it:
#
#     res.setHeader('Access-Control-Allow-Origin', '*')
#     res.cookie('seen', 'yes'); req.session.visits += 1
#     sse.pipe(res)
#
@app.get("/headers")
def headers():
    res = ServerResponse()
    res.header("Access-Control-Allow-Origin", "*")
    res.set_cookie("seen", "yes", httponly=True)
    session["visits"] = session.get("visits", 0) + 1
    sse = SseStream(request)
    sse.pipe(res)
    sse.write({"data": {"visits": session["visits"]}})
    return res


@app.after_request
def stamp(response):
    response.headers["X-Stamp"] = "after_request"
    return response


# One stream of the whole program, piped into every response:
#
#     const broadcast = new SseStream()
#     app.get('/broadcast', (req, res) => broadcast.pipe(res))
#     res.on('close', () => broadcast.unpipe(res))
#
broadcast = SseStream()


@app.get("/broadcast")
def receive():
    res = ServerResponse()
    broadcast.pipe(res)

    @res.on("close")
    def closed():
        broadcast.unpipe(res)
        tell(idiom="broadcast")

    return res


@app.post("/broadcast")
def send():
    return {"written": broadcast.write({"data": request.get_json()})}


# A stream that outlives its response: taken off one, and piped into the next.
# What is written in between waits for it.
#
#     box.unpipe(res); res.write(': paused\n\n')     // res stays open
#     box.write({ data: 'kept' })
#     box.pipe(nextRes)
#
box = SseStream()
shown: list[ServerResponse] = []


@app.get("/pause")
def listen():
    res = ServerResponse()
    box.pipe(res)
    shown.append(res)
    res.on("unpipe", lambda source: tell(idiom="pause", unpiped=source is box))
    return res


@app.post("/pause")
def pause():
    res = shown[-1]
    box.unpipe(res)
    res.write(": paused\n\n")
    return {"ended": res.writable_ended, "closed": res.closed}


@app.post("/pause/write")
def write_while_paused():
    went = box.write({"data": request.get_json()})
    return {"written": went, "waiting": box.writable_length}


@app.post("/pause/again")
def pipe_again():
    # A head is sent once: Node's res.writeHead throws ERR_HTTP_HEADERS_SENT here.
    try:
        box.pipe(shown[-1])
    except StreamError as error:
        return {"error": type(error).__name__}
    return {"error": None}


# Nothing to stream. A browser that gets 204 does not come back:
#
#     if (finished) return res.status(204).end()
#
@app.get("/none")
def none():
    return ServerResponse(204)


@app.get("/none/flask")
def none_of_flask():
    return "", 204
