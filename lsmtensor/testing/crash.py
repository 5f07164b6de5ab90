"""Power loss at every call that changes the disk, while working and again while recovering.

The workload runs once. Ahead of each of its calls (write, sync, create, truncate, link, rename, unlink, mkdir, directory sync) the
file system is asked what a power loss would leave, several times over with other luck, and each answer not seen before is opened
and checked: what returned is there, what was under way is there whole or not at all, every byte verifies, the next commit works.
While one is being opened, the same is done to the recovery.
"""

from __future__ import annotations

import gc
import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..config import RunConfig
from ..database import open as open_database
from ..env.memory import FaultyEnv
from ..errors import LsmTensorError
from . import workload
from .workload import Model, Step

# (share of what was not synced that survives, seed): nothing, everything, and mixtures with torn writes and lost names
LUCK = ((0.0, 0), (1.0, 0), (0.5, 1), (0.5, 2), (0.9, 3))
When = Callable[[str, str], bool]


def always(op: str, path: str) -> bool:
    return True


@dataclass
class Tried:
    """How often the power was lost: ``calls`` seen, states that were left, those that differed and were checked, in recovery too."""

    calls: int = 0
    left: int = 0
    checked: int = 0
    in_recovery: int = 0
    wrong: list[str] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)


def enumerate_crashes(
    steps: Sequence[Step] = workload.STEPS, config: RunConfig = workload.CONFIG, *, every: int = 1, luck: Iterable[tuple[float, int]] = LUCK,
    recovery_every: int = 0, prefix: bool = False, stop_at: int = 1, env: FaultyEnv | None = None, when: When = always,
) -> Tried:  # fmt: skip
    """Lose the power at each ``every``-th call, and during each ``recovery_every``-th recovery (0: none) at each of its calls.
    ``when(op, path)`` chooses among the calls.

    With ``prefix`` any earlier state is right too, as under ``wal.sync = none``: a prefix of the commits, never a hole. Ends when
    ``stop_at`` states were wrong; `Tried.wrong` says which. ``env`` is an empty file system of another kind, such as one whose syncs lie.
    """
    tried, allowed = Tried(), workload.models(list(steps))
    done: list[int] = []
    chances = tuple(luck)
    env = FaultyEnv() if env is None else env

    def lose(op: str, path: str) -> None:
        assert env is not None
        tried.calls += 1
        if not when(op, path) or tried.calls % every or len(tried.wrong) >= stop_at:
            return
        for keep, seed in chances:
            right = allowed[0 if prefix else len(done) : len(done) + 2]
            where = f"call {tried.calls} ({op} of {path}) in step {len(done)} ({steps[len(done)].name if len(done) < len(steps) else 'close'}), keep={keep}, seed={seed}"
            _look(tried, env, (keep, seed + 7 * tried.calls), right, config, where, recovery_every)

    env.watch(lose)
    workload.run(env, config, list(steps), done)
    return tried


def _look(
    tried: Tried, env: FaultyEnv, luck: tuple[float, int], right: list[Model], config: RunConfig, where: str, recovery_every: int
) -> None:  # fmt: skip
    after = env.crash(seed=luck[1], keep=luck[0])
    tried.left += 1
    state = hashlib.sha256(repr((len(right), id(right[-1]))).encode())
    for name in sorted(after.files):
        data = after.files[name].data
        state.update(f"{name}\0{len(data)}\0".encode() + data)
    if state.digest() in tried._seen:
        return
    tried._seen.add(state.digest())
    tried.checked += 1
    if recovery_every and tried.checked % recovery_every == 0:
        lose_again(tried, after.kill(), right, config, where)
        # killed, not cut off: what recovery reads is not all safe yet
        lose_again(tried, env.kill(), right, config, f"{where}, killed only")
    try:
        workload.check(after, right, config)
    except Exception as why:  # whatever it is, it is a finding
        tried.wrong.append(f"{where}: {type(why).__name__}: {why}")


def lose_again(
    tried: Tried, env: FaultyEnv, right: list[Model], config: RunConfig, where: str, luck: Iterable[tuple[float, int]] = ((0.0, 0), (0.5, 0)),
    when: When = always,
) -> None:  # fmt: skip
    """Open what was left, and lose the power at each call of that too; at the end what the recovery showed must be safe."""
    calls = 0

    def lose(op: str, path: str) -> None:
        nonlocal calls
        calls += 1
        for keep, seed in luck if when(op, path) else ():
            tried.in_recovery += 1
            _look(tried, env, (keep, seed + calls), right, config, f"{where}; then in recovery at call {calls} ({op} of {path}), keep={keep}", 0)

    env.watch(lose)
    try:
        db = open_database(workload.PATH, env=env, config=config)
        env.heal()
        shown = workload.held(db)
        workload.write(db)
        # what a recovery showed must outlive the power as the commits after it do
        with open_database(workload.PATH, env=env.crash(keep=0), config=config) as again:
            kept = workload.held(again)
        kept.tables.pop("after"), kept.indexes.pop("after")
        if kept != shown:
            raise AssertionError(f"recovered {workload.told(shown)}, which a power loss after the next commit turned into {workload.told(kept)}")
    except Exception as why:
        tried.wrong.append(f"{where}: {type(why).__name__}: {why}")


def enumerate_errors(
    op: str, code: int, steps: Sequence[Step] = workload.STEPS, config: RunConfig = workload.CONFIG, *, every: int = 1, lasting: bool = False,
    stop_at: int = 1,
) -> Tried:  # fmt: skip
    """Refuse the i-th ``op`` with an errno, for i = every, 2 every, …, until a life passes without meeting it (SQLite's way).

    The refusal must come as an error of ours or be survived; healed and opened again, the database holds what returned and what
    failed whole or not at all. With ``lasting`` every later call is refused too, reopening excepted.
    """
    tried, allowed, at = Tried(), workload.models(list(steps)), 0
    while len(tried.wrong) < stop_at:
        at += every
        env = FaultyEnv()
        env.fail(op, at, code, lasting=lasting)
        done: list[int] = []
        error = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an index that could not be stored is only warned of
                workload.run(env, config, list(steps), done)
        except LsmTensorError as why:
            error = str(why)
        except Exception as why:
            tried.wrong.append(f"{op} number {at} refused in step {len(done)}: {type(why).__name__}: {why}")
            continue
        if not error and sum(call == op for call, _ in env.calls) < at:
            return tried
        tried.calls += 1
        env.heal()
        gc.collect()  # the log keeps its failure, whose frames hold the database: freed, it lets go of the lock
        try:
            workload.check(env, allowed[len(done) : len(done) + 2], config)
            tried.checked += 1
        except Exception as why:
            tried.wrong.append(f"{op} number {at} refused in step {len(done)} ({error}): {type(why).__name__}: {why}")
    return tried
