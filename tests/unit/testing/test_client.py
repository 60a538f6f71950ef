"""A client reads, waits, stalls, leaves and comes back as a browser does."""

from collections.abc import Callable

import pytest
from flask import Flask, request

from ssestream import ServerResponse, SseStream, statistics
from ssestream.runtime.clock import clock
from ssestream.testing import Event, WaitedInVain, stopped_clock, stream
from tests.kit.visit import on_threads_and_greenlets, until


@on_threads_and_greenlets
def test_events_come_in_order_with_their_types_and_ids(app: Flask) -> None:
    channels = app.extensions["ssestream"]
    with stream(app, "/news") as events:
        assert (events.status, events.headers["X-Accel-Buffering"]) == (200, "no")
        first = channels.publish("news", {"event": "flash", "data": {"n": 1}})
        second = channels.publish("news", {"data": "two\nlines"})
        assert events.take(2) == [
            Event('{"n":1}', "flash", first),
            Event("two\nlines", "message", second),
        ]
        assert (events.last_event_id, events.comments, events.ended) == (second, ["ok"], None)


@on_threads_and_greenlets
def test_the_handlers_of_close_have_run_when_the_block_is_over(
    app: Flask, ticks: Callable[[], int]
) -> None:
    for number in range(1, 21):
        with stream(app, "/ticks"):
            pass
        assert ticks() == number


@on_threads_and_greenlets
def test_a_handler_of_close_that_takes_a_while_has_returned_as_well(app: Flask) -> None:
    returned: list[bool] = []

    @app.get("/slow")
    def slow() -> ServerResponse:
        res = ServerResponse()
        SseStream(request).pipe(res)

        @res.on("close")
        def closed() -> None:
            began = clock.real()
            until(lambda: clock.real() > began + 0.2, "a while")
            returned.append(True)

        return res

    with stream(app, "/slow"):
        assert returned == []
    assert returned == [True]


def test_an_event_has_json(app: Flask) -> None:
    with stream(app, "/five") as events:
        assert [event.json() for event in events.take(5)] == [0, 1, 2, 3, 4]


def test_until_gives_the_events_up_to_the_one_that_fits(app: Flask) -> None:
    with stream(app, "/five") as events:
        assert [event.data for event in events.until(lambda event: event.data == "2")] == [
            "0",
            "1",
            "2",
        ]
        assert [event.data for event in events.rest()] == ["3", "4"]
        assert events.ended == "clean"


def test_until_gives_back_what_did_not_fit(app: Flask) -> None:
    with stream(app, "/five") as events:
        with pytest.raises(WaitedInVain, match="an event that fits did not come before its end"):
            events.until(lambda event: event.data == "9")
        assert len(events.pending()) == 5


def test_an_error_says_what_came_instead(app: Flask) -> None:
    channels = app.extensions["ssestream"]
    with stream(app, "/news") as events:
        channels.publish("news", {"data": "the only one"})
        with pytest.raises(WaitedInVain) as caught:
            events.take(2, timeout=0.2)
    text = str(caught.value)
    assert text.startswith("2 events did not come within 0.2 s. GET /news is open: ")
    assert "events so far: 1" in text
    assert "not taken: [Event(data='the only one'" in text
    assert "comments: ['ok']" in text


def test_a_response_that_is_no_stream_can_be_read_and_a_wait_for_an_event_says_so(
    app: Flask,
) -> None:
    with stream(app, "/secret") as events:
        assert (events.status, events.json()) == (401, {"error": "who are you?"})
        with pytest.raises(WaitedInVain, match="answered with 401 and application/json") as caught:
            events.next()
    assert "who are you?" in str(caught.value)
    with stream(app, "/elsewhere") as events, pytest.raises(WaitedInVain, match="302 to /login"):
        events.next()


def test_a_stream_has_no_text(app: Flask) -> None:
    with stream(app, "/ticks") as events, pytest.raises(WaitedInVain, match="take its events"):
        _ = events.text


def test_an_end_is_clean_or_a_cut(app: Flask) -> None:
    with stream(app, "/five") as events:
        events.rest()
        assert events.ended == "clean"
    # It stays so for a client that has left.
    assert events.ended == "clean"
    with stream(app, "/cut") as events:
        assert events.next().data == "half"
        app.extensions["stream"].destroy()
        assert events.rest() == []
        assert events.ended == "cut"
        with pytest.raises(WaitedInVain, match="GET /cut was cut"):
            events.next()
    assert events.ended == "cut"


def test_a_client_that_has_left_has_what_came_before(app: Flask) -> None:
    channels = app.extensions["ssestream"]
    with stream(app, "/news") as events:
        channels.publish("news", {"data": "one"})
        first = events.next()
    assert events.ended is None
    assert events.pending() == []
    with pytest.raises(WaitedInVain, match="GET /news was left by this client: events so far: 1"):
        events.next()
    events.close()
    events.reconnect()
    channels.publish("news", {"data": "two"})
    assert (first.data, events.next().data) == ("one", "two")
    events.close()


def test_it_comes_back_with_its_id_and_its_cookies(app: Flask) -> None:
    channels = app.extensions["ssestream"]
    with stream(app, "/news") as events:
        channels.publish("news", {"data": "one"})
        events.next()
        events.reconnect()
        channels.publish("news", {"data": "two"})
        assert events.next().data == "two"
    with stream(app, "/visits") as events:
        assert events.next().data == "1 nobody"
        events.reconnect()
        assert events.next().data == "2 nobody"


def test_events_that_come_while_it_is_away_are_not_lost(app: Flask) -> None:
    channels = app.extensions["ssestream"]
    with stream(app, "/news") as events:
        channels.publish("news", {"data": "one"})
        last = events.next().id
    channels.publish("news", {"data": "two"})
    with stream(app, "/news", last_event_id=last) as events:
        assert events.next().data == "two"


def test_it_comes_back_after_retry_on_a_stopped_clock(app: Flask) -> None:
    with stopped_clock() as hand, stream(app, "/ticks") as events:
        hand.advance(1)
        assert events.next().id == "0"
        assert events.retry == 2000
        events.reconnect()
        assert hand.now == 3
        hand.advance(1)
        assert events.next().id == "1"


def test_it_does_not_come_back_where_a_browser_would_not(app: Flask) -> None:
    with stream(app, "/secret") as events, pytest.raises(WaitedInVain, match="does not come back"):
        events.reconnect()


def test_a_test_client_has_its_session_and_its_headers(app: Flask) -> None:
    client = app.test_client()
    with client.session_transaction() as session:
        session["visits"] = 41
    client.environ_base["HTTP_X_USER"] = "anna"
    with stream(client, "/visits") as events:
        assert events.next().data == "42 anna"
    with client.session_transaction() as session:
        assert session["visits"] == 42


def test_a_body_is_posted_as_json_and_headers_are_sent(app: Flask) -> None:
    with stream(app, "/five", json={"start": 7}) as events:
        assert events.next().data == "7"
    with stream(app, "/five?start=3") as events:
        assert events.next().data == "3"
    with stream(app, "/five", query_string={"start": 4}, method="GET") as events:
        assert events.next().data == "4"
    with stream(app, "/visits", headers={"X-User": "ben"}) as events:
        assert events.next().data == "1 ben"


def test_a_stalled_client_is_cut_and_others_are_not(app: Flask) -> None:
    before = statistics().closed.get("stalled", 0)
    channels = app.extensions["ssestream"]
    with stopped_clock() as hand, stream(app, "/news") as stalled, stream(app, "/news") as reads:
        stalled.stall()
        channels.publish("news", {"data": "x"})
        assert reads.next().data == "x"
        hand.advance(20)
        assert (stalled.ended, reads.ended) == ("cut", None)
        # The clock moves for the streams of other tests, too.
        assert statistics().closed["stalled"] > before


def test_a_client_reads_on_after_it_was_stalled(app: Flask) -> None:
    channels = app.extensions["ssestream"]
    with stream(app, "/news") as events:
        events.stall()
        channels.publish("news", {"data": "late"})
        with pytest.raises(WaitedInVain, match="this client is stalled"):
            events.next(timeout=0.1)
        events.resume()
        assert events.next().data == "late"


def test_a_compressed_stream_is_read(app: Flask) -> None:
    app.config["SSESTREAM_COMPRESS"] = True
    with stream(app, "/five", headers={"Accept-Encoding": "gzip"}) as events:
        assert events.headers["Content-Encoding"] == "gzip"
        assert [event.data for event in events.rest()] == ["0", "1", "2", "3", "4"]


def test_an_error_in_the_block_is_not_hidden_by_the_departure(app: Flask) -> None:
    before = statistics().opened
    closed = sum(statistics().closed.values())
    with pytest.raises(ZeroDivisionError), stream(app, "/ticks"):
        _ = 1 / 0
    assert statistics().opened == before + 1
    until(lambda: sum(statistics().closed.values()) > closed, "the stream to be over")
