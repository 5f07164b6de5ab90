"""Records on the terminal, by rich."""

from __future__ import annotations

import threading
import time
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


@contextmanager
def working(what: str, console: Console | None = None, after: float = 1.0) -> Iterator[None]:
    """A line on stderr for what takes longer than ``after`` seconds, where somebody looks: how long by now, and what was written."""
    console = console or Console(stderr=True)
    begin, before, stop = time.monotonic(), _written(), threading.Event()

    def tell() -> None:
        if stop.wait(after):
            return
        with console.status(what) as line:
            while not stop.wait(0.2):
                written = f", {(_written() - before) / 1e6:,.0f} MB written" if before else ""
                line.update(f"{what}: {time.monotonic() - begin:.0f} s{written}")

    teller = threading.Thread(target=tell, name="lsmtensor-progress", daemon=True)
    if console.is_terminal:
        teller.start()
    try:
        yield
    finally:
        stop.set()
        if console.is_terminal:
            teller.join()


def _written() -> int:
    """Bytes that this process wrote, as the system counts them; 0 where it does not."""
    try:
        with open("/proc/self/io") as counted:
            return next(int(line.split()[1]) for line in counted if line.startswith("wchar"))
    except (OSError, StopIteration):
        return 0


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
