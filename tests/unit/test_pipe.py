"""One stream piped to one destination."""

from ssestream import SseStream
from tests.kit.visit import on_threads_and_greenlets, until


@on_threads_and_greenlets
def test_a_destination_that_fails_is_let_go_and_the_others_stay(
    raised: type[BaseException],
) -> None:
    class Sink:
        def __init__(self, fails: bool = False) -> None:
            self.got: list[bytes] = []
            self.fails = fails

        def write(self, chunk: bytes) -> None:
            self.got.append(chunk)
            if self.fails and b"data" in chunk:
                raise raised

    sse_stream, errors = SseStream(), []
    sse_stream.on("error", errors.append)
    first, last = Sink(fails=True), Sink()
    sse_stream.pipe(first)
    sse_stream.pipe(last)
    for number in range(3):
        sse_stream.write({"data": number})
    sse_stream.end()
    until(lambda: sse_stream.destroyed, "the end")
    assert b"".join(last.got) == b":ok\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert b"".join(first.got) == b":ok\n\ndata: 0\n\n"
    until(lambda: errors, "the error")
    assert [type(error) for error in errors] == [raised]
