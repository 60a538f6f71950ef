"""Numbers, and the sums of those of several processes."""

from ssestream.metrics.number import Number, add_up


def test_the_samples_of_equal_labels_are_added() -> None:
    one = Number("closed", "counter", "Over.", ("cause",), {("client",): 2, ("age",): 1})
    two = Number("closed", "counter", "Over.", ("cause",), {("client",): 3, ("error",): 1})
    (total,) = add_up([[one], [two]])
    assert total.samples == {("client",): 5, ("age",): 1, ("error",): 1}
    assert (total.name, total.kind, total.labels) == ("closed", "counter", ("cause",))
    assert one.samples == {("client",): 2, ("age",): 1}


def test_a_number_that_only_one_has_is_kept_and_none_are_none() -> None:
    one = Number("open", "gauge", "Open.", (), {(): 2})
    assert add_up([[], [one], []]) == [one]
    assert add_up([]) == []


def test_the_greatest_of_a_maximum_counts() -> None:
    lags = [
        [Number("lag", "maximum", "Lag.", ("group",), {("a",): one, ("b",): 1.0})]
        for one in (2.0, 5.0, 3.0)
    ]
    (greatest,) = add_up(lags)
    assert greatest.samples == {("a",): 5.0, ("b",): 1.0}


def test_what_grows_outlives_its_process() -> None:
    kinds = {
        kind: Number("n", kind, "N.", (), {}).outlives
        for kind in ("counter", "histogram", "gauge", "maximum")
    }
    assert kinds == {"counter": True, "histogram": True, "gauge": False, "maximum": False}
