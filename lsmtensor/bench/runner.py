"""Runs a workload: one file with ``setup``, ``run`` and ``check``.

    setup(options) -> state          inputs, built and touched before any clock runs
    cases(state) -> {name: {...}}    what is compared; each says who ("lsmtensor" or a peer) and its parameters
    run(state, case) -> {measure: number}     one sample; it times what counts and nothing else
    check(state, case, measures)     raises `AssertionError` where the sample's result was wrong
    ratios(state) -> [Ratio]         what is read off, round by round (optional)
    dataset(state) -> {...}          name and checksum;  teardown(state)  (optional)

Cases alternate (A B A B …) in one process, after warm-up rounds that are run and not recorded. Each is held on one core
unless it says ``"cores"``. Files go below ``options.path``, a folder of the run's own that is gone afterwards. Before each round
a fixed piece of work is timed: where that changes, the machine did. Whole rounds are kept in a journal beside the records, from
which a run that was broken off goes on.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..config import RunConfig
from ..errors import UnknownNameError
from ..registry import near
from . import WORKLOADS, record
from .journal import Journal
from .pace import drift, pace
from .words import duration

Measures = dict[str, float]
AGAIN = " (again)"
"""What the second of two equal cases is called in an A/A run."""


@dataclass(frozen=True)
class Options:
    """What the command line says. Empty tuples mean all that there are."""

    config: RunConfig = field(default_factory=RunConfig)
    rounds: int = 9
    warmup: int = 1
    quick: bool = False
    seed: int = 0
    kernels: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    peers: tuple[str, ...] | None = None
    data: str | None = None
    folder: str | None = None
    pin: bool = True
    twice: bool = False
    only: str = ""
    minutes: float = float("inf")

    @property
    def path(self) -> Path:
        """Where a workload writes."""
        return Path(self.folder or ".")


@dataclass(frozen=True)
class Ratio:
    """In each round: ours over the best of ``others``, by ``measure`` (larger is better)."""

    name: str
    ours: str
    others: tuple[str, ...]
    measure: str


@dataclass
class Result:
    """Records by case, ratios by name with their spread, and what the machine did meanwhile, where it changed."""

    records: list[dict[str, Any]]
    ratios: dict[str, dict[str, Any]]
    drift: str | None = None
    interrupted: bool = False


def load(name: str) -> ModuleType:
    """The module of a workload."""
    if name not in WORKLOADS:
        raise UnknownNameError(f"no workload named {name!r}; {near(name, WORKLOADS)}")
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)


def run(workload: ModuleType, options: Options, say: Callable[[str], None] = print, journal: Path | None = None) -> Result:
    """All rounds of a workload. Raises `AssertionError` for a wrong result: no figure comes of it. Ctrl-C ends it with the rounds that are whole;
    with a ``journal`` the next run with the same options and code goes on behind them."""
    name = workload.__name__.rsplit(".", 1)[-1].replace("_", "-")
    say(f"{name}: building inputs")
    stop = time.perf_counter() + 60 * options.minutes
    with _folder(name, options) as options:
        state = workload.setup(options)
        try:
            cases, dataset = _chosen(workload, state, options), workload.dataset(state)
            common = record.header(name, options.config, dataset, options.seed)
            kept = Journal(journal, _same(common, cases, options))
            interrupted = False
            try:
                for number, samples, seconds in _rounds(workload, state, options, kept.count, stop, say):
                    kept.add(number, samples, seconds)
            except KeyboardInterrupt:
                if not kept.count:
                    raise
                interrupted = True
                say(f"broken off: {kept.count} of {options.rounds} rounds are kept" + (", the same command goes on behind them" if journal else ""))
            except AssertionError:
                kept.drop()
                raise
            rounds = kept.rounds[: options.rounds]
            asked = workload.ratios(state) if hasattr(workload, "ratios") else []
            ratios = {r.name: _ratio(r, rounds) for r in asked if {r.ours, *r.others} <= set(cases)}
        finally:
            if hasattr(workload, "teardown"):
                workload.teardown(state)
    if not interrupted:
        kept.drop()
    paces = kept.paces[: options.rounds]
    common |= {"rounds": len(rounds), "warmup": options.warmup, "quick": options.quick, "pace_ms": [1e3 * p for p in paces], "interrupted": interrupted}
    lines = []
    for case in rounds[0]:
        about = cases[case.removesuffix(AGAIN)]
        taken = {m: [r[case][m] for r in rounds] for m in rounds[0][case]}
        pinned_too = options.pin and about.get("cores", 1) == 1
        lines.append({**common, "case": case, **about, "pinned": pinned_too, "samples": taken, "summary": {m: record.spread(v) for m, v in taken.items()}})
    lines += [
        {**common, "case": f"ratio: {n}", "who": "ratio", "samples": {"ratio": r["samples"]}, "summary": {"ratio": r["summary"]}}
        for n, r in ratios.items()
    ]
    return Result(lines, ratios, drift(paces), interrupted)


def _same(common: dict[str, Any], cases: Iterable[str], options: Options) -> dict[str, Any]:
    """What two runs share whose rounds may be put together."""
    chosen = {n: getattr(options, n) for n in ("quick", "kernels", "indexes", "peers", "data", "pin", "twice", "warmup")}
    return {**{n: common[n] for n in ("workload", "config_hash", "dataset", "seed", "code", "machine", "packages")}, **chosen, "cases": list(cases)}


@contextmanager
def _folder(name: str, options: Options) -> Iterator[Options]:
    """The options with a new folder below theirs, which is removed at the end."""
    if options.folder is not None:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    made = tempfile.mkdtemp(prefix=f"lsmtensor-{name}-", dir=options.folder or ".")
    try:
        yield replace(options, folder=made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _rounds(
    workload: ModuleType, state: Any, options: Options, done: int, stop: float, say: Callable[[str], None]
) -> Iterator[tuple[int, dict[str, Measures], float]]:
    """(number, measures by case, seconds of the fixed work) of each round from ``done`` on; none that would end beyond the ``minutes`` of the run, but one."""
    begin = time.perf_counter()
    for number in [*range(-options.warmup, 0), *range(done, options.rounds)] if done < options.rounds else []:
        ran = max(0, number) - done
        each = (time.perf_counter() - begin) / max(1, ran)
        if ran > 0 and time.perf_counter() + each > stop:
            say(f"{number} rounds: another would end beyond {options.minutes:g} minutes")
            return
        left = f", {duration(each * (options.rounds - number))} left" if ran > 0 else ""
        say(f"round {number + 1} of {options.rounds}{left}" if number >= 0 else "warm-up")
        if number == done:
            begin = time.perf_counter()
        before = pace()
        samples: dict[str, Measures] = {}
        for label, (case, about) in _turns(_chosen(workload, state, options), number, options.twice):
            with pinned(options.pin and about.get("cores", 1) == 1):
                measures = workload.run(state, case)
            workload.check(state, case, measures)
            samples[label] = {m: float(v) for m, v in measures.items()}
        if number >= 0:
            yield number, samples, before


def _chosen(workload: ModuleType, state: Any, options: Options) -> dict[str, dict[str, Any]]:
    """The cases whose name the pattern ``options.only`` is found in."""
    there: dict[str, dict[str, Any]] = workload.cases(state)
    chosen = {case: about for case, about in there.items() if re.search(options.only, case)}
    if not chosen:
        raise UnknownNameError(f"no case matches {options.only!r}; there are: {', '.join(there)}")
    return chosen


def _turns(cases: dict[str, dict[str, Any]], number: int, twice: bool) -> Iterator[tuple[str, tuple[str, dict[str, Any]]]]:
    """What runs in a round, by its name in the record; of an A/A pair each is first in every other round."""
    for case, about in cases.items():
        pair = [case, case + AGAIN] if twice else [case]
        for label in pair[:: -1 if number % 2 else 1]:
            yield label, (case, about)


def _ratio(ratio: Ratio, rounds: list[dict[str, Measures]]) -> dict[str, Any]:
    ours = np.array([r[ratio.ours][ratio.measure] for r in rounds])
    best = np.max([[r[other][ratio.measure] for r in rounds] for other in ratio.others], axis=0)
    values = (ours / best).tolist()
    return {"samples": values, "summary": record.spread(values)}


@contextmanager
def pinned(wanted: bool) -> Iterator[None]:
    """This thread, and all that it starts, on one core; as before afterwards."""
    if not wanted or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_to(name: str, options: Options, out: str | None, say: Callable[[str], None] = print) -> tuple[Result, Path | None]:
    """Run by name; with ``out``, append the records to ``out/NAME.jsonl``, and go on with what a run that was broken off left there."""
    path = None if out is None else Path(out) / f"{name}.jsonl"
    result = run(load(name), options, say, None if path is None else path.with_suffix(".journal"))
    if path is not None:
        record.write(path, result.records)
    return result, path
