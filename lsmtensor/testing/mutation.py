"""Do the suites see anything? Every sync and every check of a checksum is taken away once; the suites must find a wrong answer each time.

A mutant runs only the faults that can show it. A sync that is not done is looked for at the calls that follow it, and in recoveries
of writers that were killed with something unsynced. What a check has to refuse is learnt first: one sweep of damage over the engine as it
is notes which checks each damage meets, and without a check only the damage that met it is tried again.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType, FrameType, ModuleType
from typing import Any

from ..env.memory import FaultyEnv, MemoryEnv
from . import damage, workload
from .crash import Tried, enumerate_crashes, lose_again
from .workload import Model

Site = tuple[str, str, str, int]  # "sync" or "sync_dir", kind of file or folder, the function that asked, its line in there
Check = tuple[str, str, int]  # module, function, number of the check in it

# what the suites cannot miss, and why it is there all the same
SPARE_SYNCS = {("wal", "seal_wal", 13): "without its end record a log is read as one that was killed, and sealed again"}
SPARE_CHECKS: dict[Check, str] = {
    ("wal.reader", "LogReader._check_end", 0): "of a closed log the layout says too where it ends; tests/test_wal.py has those of killed writers",
    ("lsm.manifest", "_read_frame", 0): "the chain of roots tells as well",
    ("sstable.reader", "TableReader._sections", 2): "the directory is a leaf of the hash tree",
    ("sstable.reader", "TableReader.verify", 0): "only bytes that somebody fitted to their CRC32C come so far",
    ("sstable.reader", "TableReader.verify", 1): "the root is compared when the file is opened",
    ("pages", "check", 0): "small segments have no pages; tests/test_diskann.py damages those of the index",
}
SCENES = ((True, "blake3"), (False, "none"))  # closed or as a killed process leaves it, and the kind of hash tree
LUCK = ((0.0, 0), *((0.5, seed) for seed in range(12)))  # what is lost by chance behind a sync that was not done
MODULES = ("wal.format", "wal.reader", "lsm.manifest", "lsm.recover", "lsm.segments", "sstable.reader", "sstable.checks", "container", "pages")
CHECKS = re.compile(r"crc32c\(|_crc\(|!= crc|root|leaves\[-1|chain|wrong\b|computed|noted|promised|whose")


# -- syncs -------------------------------------------------------------------------------------------------------------


def _site(op: str, path: str) -> Site:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and ("lsmtensor/env" in frame.f_code.co_filename or frame.f_code.co_name == "__exit__"):
        frame = frame.f_back
    assert frame is not None
    kind = path.rpartition("/")[2] if op == "sync_dir" else damage.kind_of(path)
    kind = "folder" if op == "sync_dir" and kind not in ("wal", "sst", "blob", "readers") else kind
    return op, kind, frame.f_code.co_name, frame.f_lineno - frame.f_code.co_firstlineno


def sync_sites(steps: Sequence[workload.Step] = workload.STEPS) -> list[Site]:
    """Every place of the engine that asks for a sync while the workload runs and is opened again after a kill."""
    seen: dict[Site, None] = {}

    class Listening(FaultyEnv):
        def deaf(self, op: str, path: str) -> bool:
            seen.setdefault(_site(op, path))
            return False

    env = Listening()
    workload.run(env, steps=list(steps), close=False)
    workload.check(env.crash(keep=1), workload.models(list(steps))[-1:])
    return sorted(seen)


def misses_sync(site: Site) -> str:
    """What the crash suite finds when the syncs of a place are answered without being done; empty where it notices nothing."""

    class Deaf(FaultyEnv):
        near = 0  # calls that are still close behind a sync that was not done

        def deaf(self, op: str, path: str) -> bool:
            if _site(op, path) != site:
                return False
            self.near = 60
            return True

        def behind(self, op: str, path: str) -> bool:
            self.near -= 1
            return self.near >= 0

    env = Deaf()
    found = enumerate_crashes(when=env.behind, luck=LUCK[:4], env=env)
    if found.wrong:
        return found.wrong[0]

    def kill(op: str, path: str) -> None:
        """Where something is not synced yet; recovery has to make it safe."""
        if op in ("sync", "sync_dir") and not tried.wrong:
            left = writer.kill()
            lose_again(tried, left, right[len(done) : len(done) + 2], workload.CONFIG, f"killed at {op} of {path} in step {len(done)}", LUCK, left.behind)

    writer, tried, done, right = Deaf(), Tried(), list[int](), workload.models()
    writer.watch(kill)
    workload.run(writer, done=done)
    return tried.wrong[0] if tried.wrong else ""


# -- checks ------------------------------------------------------------------------------------------------------------


def checks_of(module: ModuleType) -> list[Check]:
    """Every ``if`` of a module that compares a checksum, hash, root or place and then raises or refuses."""
    return [check for check, _ in _ifs(module.__name__.removeprefix("lsmtensor."), ast.parse(inspect.getsource(module)))]


def _ifs(module: str, tree: ast.Module) -> Iterator[tuple[Check, ast.If]]:
    for owner, function in _functions(tree):
        tests = [n for n in ast.walk(function) if isinstance(n, ast.If) and isinstance(n.body[-1], (ast.Raise, ast.Return))]
        for number, test in enumerate(n for n in tests if CHECKS.search(ast.unparse(n.test))):
            yield (module, owner + function.name, number), test


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.", inner) for inner in node.body if isinstance(inner, ast.FunctionDef))


@contextmanager
def edited(modules: Sequence[str], change: Callable[[Check, ast.expr], ast.expr], **names: Any) -> Iterator[dict[Check, str]]:
    """The modules with the tests of their checks as ``change`` makes them, which may use ``names``; gives each check's text."""
    texts: dict[Check, str] = {}
    kept: list[tuple[Any, CodeType]] = []
    for name in modules:
        module = importlib.import_module(f"lsmtensor.{name}")
        vars(module).update(names)
        tree = ast.parse(inspect.getsource(module))
        changed: dict[str, None] = {}
        for check, test in _ifs(name, tree):
            texts[check] = ast.unparse(test.test)
            test.test = ast.copy_location(change(check, test.test), test.test)
            changed[check[1]] = None
        codes = dict(_codes(compile(ast.fix_missing_locations(tree), module.__file__ or "", "exec")))
        for function in changed:
            target = _plain(module, function)
            kept.append((target, target.__code__))
            target.__code__ = codes[function]
    try:
        yield texts
    finally:
        for target, code in kept:
            target.__code__ = code


def _codes(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner.co_qualname, inner
            yield from _codes(inner)


def _plain(module: ModuleType, name: str) -> Any:
    """The function object of a qualified name, whatever decorates it."""
    owner, _, last = name.rpartition(".")
    found = vars(getattr(module, owner) if owner else module)[last]
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    found = found.func if isinstance(found, cached_property) else found
    return inspect.unwrap(found)


@dataclass
class Met:
    """The damage that one check met in a sweep: how often, and some of it, with what came of it, to try again."""

    often: int = 0
    some: list[tuple[str, str, MemoryEnv, list[Model]]] = field(default_factory=list)


def meetings(every: int, keep: int = 25, scenes: Sequence[tuple[bool, str]] = SCENES, faults: tuple[str, ...] = damage.FAULTS) -> dict[Check, Met]:
    """Which damage each check refuses, of every ``every``-th; of each fault up to ``keep``, drawn by chance."""
    now: set[Check] = set()
    luck = random.Random(0)

    def heard(check: Check, refuses: Any) -> Any:
        if refuses:
            now.add(check)
        return refuses

    def listening(check: Check, test: ast.expr) -> ast.expr:
        return ast.Call(ast.Name("_heard", ast.Load()), [ast.parse(repr(check), mode="eval").body, test], [])

    with edited(MODULES, listening, _heard=heard) as texts:
        met = {check: Met() for check in texts}
        drawn: dict[tuple[Check, str], list[tuple[str, str, MemoryEnv, list[Model]]]] = {}
        for closed, hashes in scenes:
            right, config = workload.models(damage.TINY)[-1 if closed else 0 :], damage.CONFIG.with_set(f"sstable.hash={hashes}")
            envs = damage.made(closed=closed, config=config), damage.another(closed, config)
            for _, fault, told, copy in damage.damages(*envs, every, faults):
                now.clear()
                outcome = damage.read(copy.crash(keep=1), right, verify=True)
                for check in now:
                    met[check].often += 1
                    some = drawn.setdefault((check, fault), [])
                    if len(some) < keep:
                        some.append((told, outcome, copy, right))
                    elif (at := luck.randrange(met[check].often)) < keep:
                        some[at] = (told, outcome, copy, right)
    for (check, _), some in drawn.items():
        met[check].some += some
    return met


def misses_check(check: Check, met: Met) -> str:
    """What another answer, or damage of which nothing is told any more, comes of a check that is taken away; empty where nothing does."""
    with edited(check[:1], lambda this, test: ast.Constant(False) if this == check else test):
        for told, before, copy, right in met.some:
            outcome = damage.read(copy.crash(keep=1), right, verify=True)
            if outcome != before and outcome != "said":
                return f"{told}: {outcome}"
    return ""
