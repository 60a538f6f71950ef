"""The numbers for OpenTelemetry's meter."""

from collections.abc import Callable, Iterable, Iterator

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from ..durations import BOUNDS, Durations, Listener
from ..metrics import Metrics
from ..number import Labels, Number

#: The beginning of each name, as OpenTelemetry parts names by dots.
PREFIX = "ssestream."


def observe(metrics: Metrics, meter: Meter | None = None) -> None:
    """Let *meter* read the numbers of this process at each export.

    Each worker exports its own numbers, so call this in each worker: at the import of the app, or
    after the fork with ``--preload``, where the SDK has to be set up, too. The folder of *metrics*
    is not used.

    :param meter: None for the meter ``"ssestream"`` of the global provider.
    """
    meter = get_meter("ssestream") if meter is None else meter
    for number in metrics.numbers():
        if number.kind == "histogram":
            continue
        make = (
            meter.create_observable_counter
            if number.kind == "counter"
            else meter.create_observable_gauge
        )
        make(PREFIX + number.name, [_reader(metrics, number.name)], description=number.text)
    for durations in metrics.durations:
        durations.listen(_recorder(meter, durations))


def _recorder(meter: Meter, durations: Durations) -> Listener:
    number = durations.number()
    histogram = meter.create_histogram(
        PREFIX + number.name,
        "s",
        number.text,
        explicit_bucket_boundaries_advisory=BOUNDS,
    )

    def record(seconds: float, labels: Labels) -> None:
        histogram.record(seconds, dict(zip(number.labels[:-1], labels, strict=True)))

    return record


def _reader(metrics: Metrics, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def read(options: CallbackOptions) -> Iterable[Observation]:
        return _observations(next(each for each in metrics.numbers() if each.name == name))

    return read


def _observations(number: Number) -> Iterator[Observation]:
    for labels, value in number.samples.items():
        yield Observation(value, dict(zip(number.labels, labels, strict=True)))
