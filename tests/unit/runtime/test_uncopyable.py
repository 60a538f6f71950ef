"""Objects of which there is only one."""

import copy
import pickle
from collections.abc import Callable

import pytest

from ssestream.runtime.uncopyable import Uncopyable


class Socketed(Uncopyable):
    _only_one = "it has a socket. Open another one"


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_is_refused_with_the_reason(how: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="a Socketed can be neither copied nor pickled") as caught:
        how(Socketed())
    assert "it has a socket. Open another one" in str(caught.value)
    with pytest.raises(TypeError, match="there is only one of it"):
        how(Uncopyable())


def test_the_reason_has_the_article_of_the_name() -> None:
    with pytest.raises(TypeError, match="an Emitter can be neither"):
        copy.copy(type("Emitter", (Uncopyable,), {})())


class Named(Socketed):
    def __reduce__(self) -> str:  # type: ignore[override]
        return "NAMED"


NAMED = Named()


def test_a_subclass_may_say_how_it_is_copied() -> None:
    assert copy.copy(NAMED) is NAMED
    assert pickle.loads(pickle.dumps(NAMED)) is NAMED
