"""Runs a workload: one file with ``setup``, ``run`` and ``check``.

    setup(options) -> state          inputs, built and touched before any clock runs
    cases(state) -> {name: {...}}    what is compared; each says who ("lsmtensor" or a peer) and its parameters
    run(state, case) -> {measure: number}     one sample; it times what counts and nothing else
    check(state, case, measures)     raises `AssertionError` where the sample's result was wrong
    ratios(state) -> [Ratio]         what is read off, round by round (optional)
    dataset(state) -> {...}          name and checksum;  teardown(state)  (optional)

Cases alternate (A B A B …) in one process, after warm-up rounds that are run and not recorded. Each is held on one core
unless it says ``"cores"``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..config import RunConfig
from ..errors import UnknownNameError
from ..registry import near
from . import WORKLOADS, record

Measures = dict[str, float]


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


@dataclass(frozen=True)
class Ratio:
    """In each round: ours over the best of ``others``, by ``measure`` (larger is better)."""

    name: str
    ours: str
    others: tuple[str, ...]
    measure: str


@dataclass
class Result:
    """Records by case, and ratios by name with their spread."""

    records: list[dict[str, Any]]
    ratios: dict[str, dict[str, Any]]


def load(name: str) -> ModuleType:
    """The module of a workload."""
    if name not in WORKLOADS:
        raise UnknownNameError(f"no workload named {name!r}; {near(name, WORKLOADS)}")
    return importlib.import_module(f".{name.replace('-', '_')}", __package__)


def run(workload: ModuleType, options: Options, say: Callable[[str], None] = print) -> Result:
    """All rounds of a workload. Raises `AssertionError` for a wrong result: no figure comes of it."""
    name = workload.__name__.rsplit(".", 1)[-1].replace("_", "-")
    say(f"{name}: building inputs")
    state = workload.setup(options)
    try:
        samples = _rounds(workload, state, options, say)
        cases, dataset = workload.cases(state), workload.dataset(state)
        ratios = {r.name: _ratio(r, samples) for r in workload.ratios(state)} if hasattr(workload, "ratios") else {}
        common = record.header(name, options.config, dataset, options.seed)
    finally:
        if hasattr(workload, "teardown"):
            workload.teardown(state)
    lines = [
        {
            **common, "case": case, **about, "rounds": options.rounds, "warmup": options.warmup, "quick": options.quick,
            "pinned": options.pin and about.get("cores", 1) == 1,
            "samples": {m: [s[m] for s in samples[case]] for m in samples[case][0]},
            "summary": {m: record.spread(s[m] for s in samples[case]) for m in samples[case][0]},
        }
        for case, about in cases.items()
    ]  # fmt: skip
    lines += [
        {**common, "case": f"ratio: {n}", "who": "ratio", "samples": {"ratio": r["samples"]}, "summary": {"ratio": r["summary"]}}
        for n, r in ratios.items()
    ]
    return Result(lines, ratios)


def _rounds(workload: ModuleType, state: Any, options: Options, say: Callable[[str], None]) -> dict[str, list[Measures]]:
    samples: dict[str, list[Measures]] = {}
    for number in range(-options.warmup, options.rounds):
        say(f"round {number + 1} of {options.rounds}" if number >= 0 else "warm-up")
        for case, about in workload.cases(state).items():
            with pinned(options.pin and about.get("cores", 1) == 1):
                measures = workload.run(state, case)
            workload.check(state, case, measures)
            if number >= 0:
                samples.setdefault(case, []).append({m: float(v) for m, v in measures.items()})
    return samples


def _ratio(ratio: Ratio, samples: dict[str, list[Measures]]) -> dict[str, Any]:
    ours = np.array([s[ratio.measure] for s in samples[ratio.ours]])
    best = np.max([[s[ratio.measure] for s in samples[other]] for other in ratio.others], axis=0)
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
    """Run by name; with ``out``, append the records to ``out/NAME.jsonl``."""
    result = run(load(name), options, say)
    path = None
    if out is not None:
        path = Path(out) / f"{name}.jsonl"
        record.write(path, result.records)
    return result, path
