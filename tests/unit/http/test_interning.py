"""Equal frames are kept once, and what is known of them is bounded."""

import tracemalloc

from ssestream.http.interning import SIZE, Shared


def test_the_bytes_that_are_known_of_what_waits_are_bounded() -> None:
    shared = Shared()
    frames = [b"%09d" % number * 100 for number in range(6 * SIZE // 900)]
    tracemalloc.start()
    try:
        for frame in frames:
            assert shared(bytes([*frame])) == frame
        assert shared(bytes(2 * SIZE)) == bytes(2 * SIZE)
        assert shared.large(bytes(2 * SIZE)) == bytes(2 * SIZE)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 3 * SIZE
    last = frames[-1]
    assert shared(bytes([*last])) is shared(bytes([*last]))
