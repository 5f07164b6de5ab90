"""Which index, with which parameters: measured on the rows themselves, few at first, all of them for the best.

Successive halving (Jamieson & Talwalkar, AISTATS 2016): every candidate is built over a small part of the rows and its dial turned up until the recall
wanted is reached; those that come near the best go on to four times the rows.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidArgumentError, LsmTensorError
from ..registry import Spec
from . import REGISTRY, create, load
from .base import VectorIndex
from .dial import LADDER, check_recall

# rows of the first stage, or up to four times as many, and of each further one so many times more
FIRST, GROWTH = 8192, 4
# held out as queries, and those that are timed
HELD_OUT, TIMED = 200, 60
# what costs more than so many times the best goes no further
WITHIN = 3.0
# a build over r times the rows takes about r to this power as long
POWER = 1.15
# beside the defaults of every index there is
VARIANTS = ("fqg(passes=1, ef_construction=80)", "fqg(degree=64, ef_construction=128)", "hnsw(m=32)", "gwi(leaf=100)")


@dataclass(frozen=True)
class Trial:
    """One candidate over ``rows`` rows: ``spec`` with its dial as it was turned, recall@k, the median of one query at a time, bytes in memory for
    all rows there are, and what became of it."""

    spec: str
    rows: int
    recall: float
    microseconds: float
    build_seconds: float
    bytes: int
    verdict: str = ""

    def __str__(self) -> str:
        if np.isinf(self.microseconds):
            return self.spec
        return (
            f"{self.spec}: recall {self.recall:.3f}, {self.microseconds:,.0f} us a query, built in {self.build_seconds:.2f} s over {self.rows:,} rows, "
            f"{self.bytes / 2**20:,.1f} MiB"
        )


@dataclass(frozen=True)
class Tuned:
    """What `tune` chose: ``spec`` for `create`, ``why`` in words, and every trial in order."""

    spec: str
    why: str
    trials: tuple[Trial, ...]
    metric: str

    def create(self, dim: int, **rest: Any) -> VectorIndex:
        """An empty index of it."""
        return create(self.spec, dim=dim, metric=self.metric, **rest)

    def __str__(self) -> str:
        return "\n".join([self.why, "", *(f"{trial}{'; ' if trial.verdict else ''}{trial.verdict}" for trial in self.trials)])


def tune(
    x: Any, recall: float = 0.95, budget: float = 60.0, *, metric: str = "l2", k: int = 10, queries: Any = None, memory: int | None = None,
    specs: Iterable[str] | None = None, kernel: str | None = None, threads: int | None = None, seed: int = 0,
) -> Tuned:  # fmt: skip
    """The index and its parameters for rows (n, dim): of those that reach ``recall`` at ``k`` the fastest, one query at a time.

    ``budget`` is in seconds: what would not fit is not begun (a first stage is). ``memory`` is in bytes, the rows counted, for the index over all rows;
    those that read from a file count what they hold and are timed from one in the page cache. ``queries`` (q, dim) are what will be asked; without them
    some rows are held out. ``specs`` are the candidates, by default every index there is and some variants. Choices by time may differ from run to run.
    Raises `InvalidArgumentError` for fewer than 2 rows and arguments out of range.
    """
    check_recall(recall)
    if not isinstance(budget, (int, float)) or isinstance(budget, bool) or not budget > 0:
        raise InvalidArgumentError(f"budget={budget!r}; give seconds, more than 0")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidArgumentError(f"k={k!r}; give 1 or more")
    shape = np.shape(x)
    if len(shape) != 2 or shape[0] < 2:
        raise InvalidArgumentError(f"x of shape {shape}; give rows (n, dim), 2 or more")
    return _Tuning(x, recall, budget, metric, k, queries, memory, kernel, threads, seed).run(_candidates(specs))


def _candidates(specs: Iterable[str] | None) -> list[str]:
    if specs is not None:
        return list(dict.fromkeys(str(Spec.of(spec)) for spec in specs))
    names = [name for name in REGISTRY.names() if name != "hybrid"]
    return names + [spec for spec in VARIANTS if Spec.parse(spec).name in names]


class _Tuning:
    def __init__(
        self, x: Any, recall: float, budget: float, metric: str, k: int, queries: Any, memory: int | None, kernel: str | None, threads: int | None,
        seed: int,
    ) -> None:  # fmt: skip
        self.recall, self.metric, self.memory, self.budget = recall, metric, memory, budget
        self.deadline = time.monotonic() + budget
        self.how: dict[str, Any] = {"metric": metric, "kernel": kernel, "threads": threads}
        self.exact = create("flat", dim=np.shape(x)[1], **self.how)
        rows = self.exact._check(x, "x")
        order = np.random.default_rng(seed).permutation(len(rows))
        asked = 0 if queries is not None else min(HELD_OUT, len(rows) // 2)
        self.queries = rows[order[:asked]] if queries is None else self.exact._check(queries, "queries")[:HELD_OUT]
        if len(self.queries) == 0:
            raise InvalidArgumentError("queries of no rows; give some of what will be asked, or None")
        self.rows, self.order, self.k = rows, order[asked:], min(k, len(rows) - asked)
        self.trials: list[Trial] = []

    def run(self, left: Sequence[str]) -> Tuned:
        sizes, self.candidates = [len(self.order)], len(left)
        while sizes[0] > GROWTH * FIRST:
            sizes.insert(0, sizes[0] // GROWTH)
        stage: list[tuple[Trial, str]] = []
        for number, size in enumerate(sizes):
            rows = np.ascontiguousarray(self.rows[np.sort(self.order[:size])])
            _, far = self.exact._kernels.topk(self.queries, rows, self.k, self.exact._code, None)
            limit = far[:, -1:] + 1e-5 * np.abs(far[:, -1:]) + 1e-6
            before, stage_before, stage = {spec: trial for trial, spec in stage}, stage, []
            for at, spec in enumerate(left):
                expected = before[spec].build_seconds * GROWTH**POWER if before else 0.0
                if before and time.monotonic() + expected > self.deadline:
                    self._say(before[spec], f"{size:,} rows would have taken {expected:.0f} s, beyond the budget of {self.budget:g}")
                    if at == 0:
                        return self._chosen(stage_before, size)
                    continue
                if not before and stage and time.monotonic() > self.deadline:
                    self.trials.append(Trial(spec, size, 0.0, np.inf, np.inf, 0, f"not begun: beyond the budget of {self.budget:g} s"))
                    continue
                try:
                    trial = self._trial(spec, rows, limit)
                except LsmTensorError as why:
                    self.trials.append(Trial(spec, size, 0.0, np.inf, np.inf, 0, f"cannot be used: {why}"))
                    continue
                self.trials.append(trial)
                stage.append((trial, spec))
            if not stage:
                raise InvalidArgumentError(f"none of the candidates can be used: {'; '.join(f'{t.spec} {t.verdict}' for t in self.trials)}")
            left = self._kept(stage, last=number == len(sizes) - 1)
        return self._chosen(stage, len(self.order))

    def _trial(self, spec: str, rows: np.ndarray, limit: np.ndarray) -> Trial:
        begin = time.perf_counter()
        index = create(spec, dim=rows.shape[1], **self.how)
        index.add(rows, copy=False)
        seconds = time.perf_counter() - begin
        stats = index.stats()
        with tempfile.TemporaryDirectory() as folder:
            if "resident" in stats:
                index.save(os.path.join(folder, "x.index"))
                index = load(os.path.join(folder, "x.index"), kernel=self.how["kernel"], threads=self.how["threads"])
            params, reached = self._dialled(index, limit)
            times = []
            for query in self.queries[:TIMED]:
                at = time.perf_counter()
                index.search(query, self.k, **params)
                times.append(time.perf_counter() - at)
        known, chosen = index._settings(), Spec.parse(spec)
        turned = Spec(chosen.name, {**chosen.params, **{name: value for name, value in params.items() if name in known}})
        size = int(stats.get("resident", stats["bytes"]) * len(self.rows) / len(rows))
        return Trial(str(turned), len(rows), reached, float(np.median(times)) * 1e6, seconds, size)

    def _dialled(self, index: VectorIndex, limit: np.ndarray) -> tuple[dict[str, int], float]:
        """The first step of the dial that reaches the recall, or the last, and what it reaches."""
        params: dict[str, int] = {}
        reached = 0.0
        for value in LADDER if index.dial else (0,):
            params = {index.dial: value} if index.dial else {}
            far = index._near(self.queries, self.k, None, **params)[1]
            reached = float((far <= limit).mean())
            if reached >= self.recall or value >= len(index):
                break
        return params, reached

    def _fits(self, trial: Trial) -> bool:
        return trial.recall >= self.recall and (self.memory is None or trial.bytes <= self.memory)

    def _ranked(self, stage: list[tuple[Trial, str]]) -> list[tuple[Trial, str]]:
        """Those that fit, the best first; then the others, by what they lack."""

        def rank(pair: tuple[Trial, str]) -> tuple[Any, ...]:
            trial = pair[0]
            over = 0 if self.memory is None else max(0, trial.bytes - self.memory)
            lacks = (0, 0.0) if self._fits(trial) else (over, -trial.recall)
            return not self._fits(trial), lacks, trial.microseconds

        return sorted(stage, key=rank)

    def _kept(self, stage: list[tuple[Trial, str]], last: bool) -> list[str]:
        """Those that go on, the best first; of each other its trial says why not."""
        ranked = self._ranked(stage)
        best, kept = ranked[0][0].microseconds, []
        for place, (trial, spec) in enumerate(ranked):
            slower = f"{trial.microseconds / best:,.2f} times as slow as the best"
            if self.memory is not None and trial.bytes > self.memory:
                verdict = f"{trial.bytes / 2**20:,.1f} MiB are over the {self.memory / 2**20:,.1f} allowed"
            elif trial.recall < self.recall:
                verdict = f"reaches {trial.recall:.3f} at most"
            elif trial.microseconds > WITHIN * best:
                verdict = slower
            else:
                verdict = slower if last and place else ""
                kept.append(spec)
            if verdict:
                self._say(trial, verdict)
        return kept or [ranked[0][1]]

    def _say(self, trial: Trial, verdict: str) -> None:
        at = self.trials.index(trial)
        self.trials[at] = Trial(**{**trial.__dict__, "verdict": verdict})

    def _chosen(self, stage: list[tuple[Trial, str]], size: int) -> Tuned:
        ranked = self._ranked(stage)
        best = ranked[0][0]
        wants = f"recall@{self.k} of {self.recall:g}" + (f" within {self.memory / 2**20:,.1f} MiB" if self.memory is not None else "")
        parts = [f"{best}."]
        if self._fits(best):
            parts.append(f"The fastest of {self.candidates} candidates with {wants}; {len(self.trials)} trials.")
        else:
            parts.append(f"Nothing has {wants}: this comes nearest.")
        second = next((trial for trial, _ in ranked[1:] if self._fits(trial)), None)
        if second is not None and self._fits(best):
            parts.append(f"Next: {second}.")
        if best.rows < len(self.order):
            parts.append(f"Measured over {best.rows:,} of {len(self.order):,} rows: {size:,} would have been beyond the budget of {self.budget:g} s. Recall falls as rows grow: calibrate.")
        return Tuned(best.spec, " ".join(parts), tuple(self.trials), self.metric)
