"""The function of a handler that code belongs to, known by the code's context."""

import contextvars
from typing import Any

from ssestream.runtime.writer import enter_writer, running_writer


class Writer:
    def wait_for(self, stream: Any, call_queue: object, bodies: list[Any]) -> None: ...

    def hold(self, timer: Any) -> None: ...


def test_code_belongs_to_the_writer_of_its_context_and_other_code_to_none() -> None:
    first, second = contextvars.copy_context(), contextvars.copy_context()
    writers = [Writer(), Writer()]
    enter_writer(first, writers[0])
    enter_writer(second, writers[1])
    assert first.run(running_writer) is writers[0]
    assert second.run(running_writer) is writers[1]
    assert running_writer() is None


def test_what_is_started_from_such_code_belongs_to_the_same_writer() -> None:
    context, writer = contextvars.copy_context(), Writer()
    enter_writer(context, writer)
    inner = context.run(contextvars.copy_context)
    assert inner.run(running_writer) is writer
