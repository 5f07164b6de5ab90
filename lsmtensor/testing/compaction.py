"""What every compaction policy must do, on layouts alone: no file is touched.

A policy is asked again and again, its decisions carried out by counting, and after each the layout must be one that the
engine accepts: merged runs are neighbours in version order, runs that share keys have intervals apart, no row is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ..lsm.compaction import DoNothing, Drop, Merge, Moment, Move, Policy
from ..lsm.layout import FileRef, Run, TableState

Make = Callable[[], Policy]
MAX_STEPS = 200


def run_of(number: int, level: int, rows: int, seqs: tuple[int, int], keys: tuple[int, int] = (0, 100)) -> Run:
    """A run of one file of ``rows`` rows of 100 bytes."""
    return Run(number, level, (FileRef(number, rows * 100, rows, 0, *keys, *seqs, ""),))


def table_of(runs: Iterable[Run]) -> TableState:
    ordered = tuple(sorted(runs, key=lambda r: r.min_seq, reverse=True))
    return TableState(1, "t", {}, {}, {}, ordered, 0, max((r.max_seq for r in ordered), default=0))


def settle(policy: Policy, table: TableState, moment: Moment | None = None) -> TableState:
    """Carry out what the policy asks for until it asks for nothing; check each step."""
    for _ in range(MAX_STEPS):
        decision = policy.choose(table, moment or Moment())
        assert decision == policy.choose(table, moment or Moment()), "the same layout, another answer: a policy keeps no state"
        if isinstance(decision, DoNothing):
            return table
        table = carry_out(table, decision)
    raise AssertionError(f"{policy} asked for {MAX_STEPS} things in a row; the last: {decision}")


def carry_out(table: TableState, decision: object) -> TableState:
    """The layout after a decision; raises `AssertionError` for one that the engine could not carry out."""
    assert isinstance(decision, (Merge, Move, Drop)), decision
    ids = [r.id for r in table.runs]
    assert decision.runs and set(decision.runs) <= set(ids) and len(set(decision.runs)) == len(decision.runs), decision
    chosen = [r for r in table.runs if r.id in decision.runs]
    rest = [r for r in table.runs if r.id not in decision.runs]
    if isinstance(decision, Drop):
        return replace(table, runs=tuple(rest))
    assert decision.level >= max(r.level for r in chosen), "rows never rise"
    if isinstance(decision, Move):
        assert any(r.level != decision.level for r in chosen), "a move that moves nothing would be asked for ever"
        return table_of(rest + [replace(r, level=decision.level) for r in chosen])
    places = sorted(ids.index(i) for i in decision.runs)
    assert places == list(range(places[0], places[-1] + 1)), "merged runs are neighbours in version order"
    assert len(chosen) > 1 or decision.level > chosen[0].level, "a merge that changes nothing would be asked for ever"
    seqs = min(r.min_seq for r in chosen), max(r.max_seq for r in chosen)
    keys = min(r.min_key for r in chosen), max(r.max_key for r in chosen)  # type: ignore[type-var]
    merged = run_of(max(ids) + 1, decision.level, sum(r.rows for r in chosen), seqs, keys)  # type: ignore[arg-type]
    after = table_of([*rest, merged])
    for newer, older in zip(after.runs, after.runs[1:], strict=False):
        assert older.max_seq < newer.min_seq, f"runs {newer.id} and {older.id} overlap in versions"
    assert sum(r.rows for r in after.runs) == sum(r.rows for r in table.runs), "rows were lost"
    return after


def check_many_flushes(make: Make) -> None:
    """Hundreds of flushes of like size: it settles after each, and the number of runs stays small."""
    policy, table = make(), table_of([])
    most = 0
    for version in range(1, 400):
        table = settle(policy, table_of([run_of(10_000 * version, 0, 10, (version, version)), *table.runs]))
        most = max(most, len(table.runs))
    assert sum(r.rows for r in table.runs) == 3990
    assert not policy.bounded or most <= 60, f"{most} runs"


def check_uneven_flushes(make: Make) -> None:
    """Sizes over six orders of magnitude, in any order."""
    policy, table = make(), table_of([])
    for version, rows in enumerate([1, 10**6, 3, 10**4, 10**6, 1, 1, 1, 10**5, 10**6, 5, 10**3] * 20, 1):
        table = settle(policy, table_of([run_of(10_000 * version, 0, rows, (version, version)), *table.runs]))


def check_an_empty_table(make: Make) -> None:
    assert isinstance(make().choose(table_of([]), Moment()), DoNothing)


CHECKS = [check_many_flushes, check_uneven_flushes, check_an_empty_table]
