"""What the Flask apps that use one `Channels` say about its broker."""

import contextlib
import gc
import weakref
from collections.abc import Iterator

import flask

from ..brokers.configuration import Configuration, configuration
from ..runtime.weak import snapshot


class Apps:
    """The configuration of each app that uses one `Channels`.

    Nothing here holds an app: an app that nobody else uses is forgotten.
    """

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[flask.Flask, Configuration]
        self._of = weakref.WeakKeyDictionary()

    def __contains__(self, app: flask.Flask) -> bool:
        return app in self._of

    def note(self, app: flask.Flask, its: Configuration) -> None:
        self._of[app] = its

    def all(self) -> set[Configuration]:
        """The configurations of all apps."""
        return {*snapshot(self._of.values)}

    def another_has(self, app: flask.Flask, wanted: Configuration | None) -> bool:
        """Whether an app other than *app* has the configuration *wanted*."""
        return any(its == wanted for each, its in snapshot(self._of.items) if each is not app)

    def current(self, app: flask.Flask | None) -> Configuration:
        """The configuration of *app*, the current app, or else the only one that there is.

        Raises ``RuntimeError`` if the apps have several.
        """
        its = None if app is None else self._of.get(app)
        if its is not None:
            return its
        # Collect apps that nobody uses any more, so that only living apps count.
        if len(self.all()) > 1:
            gc.collect()
        known = self.all()
        if len(known) != 1:
            nobody = "no app is current" if app is None else "the current app is none of them"
            raise RuntimeError(
                "these channels belong to several apps with different brokers"
                " (SSESTREAM_URL, SSESTREAM_HISTORY, SSESTREAM_HISTORY_AGE), and here"
                f" {nobody}: use the channels in 'with app.app_context():' of an app for which"
                " init_app() was called"
            )
        return known.pop()


def configuration_of(
    app: flask.Flask, url: str | None, history: int | None, history_age: float | None
) -> Configuration:
    """The configuration for *app*: each argument that is None is taken from ``app.config``."""
    given = {"url": url, "history": history, "history_age": history_age}
    taken = {
        name: app.config.get(f"SSESTREAM_{name.upper()}") if value is None else value
        for name, value in given.items()
    }
    return configuration(**taken)


@contextlib.contextmanager
def naming_keys() -> Iterator[None]:
    """Name the key in the app's configuration in an error that begins with an argument's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        name, _, rest = str(error).partition(" ")
        raise type(error)(f"SSESTREAM_{name.upper()} {rest}") from None
