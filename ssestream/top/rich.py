"""The screen of ``top`` in a terminal, drawn by the package ``rich``."""

from collections.abc import Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from .screen import Screen, Table

#: Lines of the terminal that are not rows: the line on top, and the titles and heads of two tables.
OTHER_LINES = 7


def show(screens: Iterable[Screen | str], console: Console | None = None) -> None:
    """Draw each of *screens* in the place of the one before. A str is drawn above the last one."""
    console = Console() if console is None else console
    last: Screen | None = None
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        for screen in screens:
            above = screen if isinstance(screen, str) else ""
            if isinstance(screen, Screen):
                last = screen
            live.update(_drawn(last, above, console.height), refresh=True)


def _drawn(screen: Screen | None, above: str, height: int) -> Group:
    # No str: rich would read markup in it.
    parts: list[Text | RichTable] = [Text(above, style="bold red")] if above else []
    if screen is not None:
        room = max(2, height - OTHER_LINES - len(parts))
        channels = min(len(screen.channels.rows), room // 3)
        parts.append(Text(screen.line, style="bold"))
        parts.append(_table(screen.channels, channels))
        parts.append(_table(screen.streams, room - channels))
    return Group(*parts)


def _table(table: Table, most: int) -> RichTable:
    left = len(table.rows) - most
    title = Text(table.title if left <= 0 else f"{table.title} ({left} more)")
    drawn = RichTable(title=title, title_justify="left", box=None, expand=True)
    for number, column in enumerate(table.columns):
        drawn.add_column(
            column, justify="right" if column.isupper() and number > 1 else "left", no_wrap=True
        )
    for row in table.rows[:most]:
        drawn.add_row(*map(Text, row))
    return drawn
