"""Records on the terminal, by rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import words


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar; gives the function that advances it."""
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(what, total=total)
        yield lambda n: bars.update(task, advance=n)


def table(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Columns after the first ``left`` are numbers, to the right."""
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for at, name in enumerate(head):
        shown.add_column(name, justify="left" if at < left else "right", overflow="fold", no_wrap=at >= left)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def main_job(console: Console, facts: dict[str, Any]) -> None:
    shown = Table(show_header=False, title="lsmtensor: the main job", title_justify="left", title_style="bold")
    shown.add_column(style="cyan")
    shown.add_column()
    shown.add_column()
    for heading, rows in words.summary(facts):
        for at, (what, figure) in enumerate(rows):
            shown.add_row(heading if at == 0 else "", what, figure, end_section=at == len(rows) - 1)
    console.print(shown)
    table(console, "Search through the database", words.SEARCH_HEAD, words.search(facts["search"]), left=2)


def bench(console: Console, name: str, records: list[dict[str, Any]]) -> None:
    table(console, f"bench {name}", words.BENCH_HEAD, words.bench(records), left=2)
