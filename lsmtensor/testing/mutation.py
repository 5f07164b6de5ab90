"""Do the suites see anything? Every sync and every checksum is taken away once; the suite must find a wrong answer each time."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

from ..env.memory import FaultyEnv
from . import damage, workload
from .crash import enumerate_crashes

Site = tuple[str, str, str]  # "sync" or "sync_dir", kind of file or folder, the function that asked

# a sync that the suite cannot miss, and why it is there all the same
SPARE: dict[Site, str] = {}
CHECKS = re.compile(r"crc|root|leaf|leaves|chain|wrong|computed")


def _site(op: str, path: str) -> Site:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and ("lsmtensor/env" in frame.f_code.co_filename or frame.f_code.co_name == "__exit__"):
        frame = frame.f_back
    assert frame is not None
    kind = path.rpartition("/")[2] if op == "sync_dir" else damage.kind_of(path)
    return op, "folder" if op == "sync_dir" and kind not in ("wal", "sst", "blob", "readers") else kind, frame.f_code.co_name


def sync_sites(steps: list[workload.Step] = workload.STEPS) -> list[Site]:
    """Every place of the engine that asks for a sync while the workload runs and is opened again after a kill."""
    seen: dict[Site, None] = {}

    class Listening(FaultyEnv):
        def deaf(self, op: str, path: str) -> bool:
            seen.setdefault(_site(op, path))
            return False

    env = Listening()
    workload.run(env, steps=steps, close=False)
    after = env.crash(keep=1)
    workload.check(after, workload.models(steps)[-1:])
    return sorted(seen)


def misses_sync(site: Site, every: int = 1) -> str:
    """What the crash suite finds when the syncs of a place are answered without being done; empty where it notices nothing."""

    class Deaf(FaultyEnv):
        def deaf(self, op: str, path: str) -> bool:
            return _site(op, path) == site

    # without waiting for syncs, a killed writer leaves much that is read back and not safe: what recovery itself must sync
    lazy = workload.CONFIG.with_set("wal.sync=none")
    tried = enumerate_crashes(config=lazy, every=60 * every, luck=((0.5, 1),), recovery_every=2, prefix=True, env=Deaf())
    if not tried.wrong:
        tried = enumerate_crashes(every=every, luck=((0.0, 0), (0.5, 1)), recovery_every=25, env=Deaf())
    return tried.wrong[0] if tried.wrong else ""


def checks_of(module: ModuleType) -> list[tuple[str, int]]:
    """(qualified function, number of the check in it) of every comparison of a checksum, hash or root in a module."""
    found = []
    for name, function in _functions(module):
        found += [(name, n) for n in range(len(_tests(ast.parse(textwrap.dedent(inspect.getsource(function))))))]
    return found


def _functions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):  # what dataclass makes has no source
            yield from ((f"{name}.{n}", f) for n, f in vars(value).items() if inspect.isfunction(f) and f.__code__.co_filename == module.__file__)


def _tests(tree: ast.AST) -> list[ast.If]:
    """The ``if`` statements that refuse bytes whose checksum is wrong."""
    ifs = [n for n in ast.walk(tree) if isinstance(n, ast.If) and isinstance(n.body[-1], (ast.Raise, ast.Return))]
    return [n for n in ifs if CHECKS.search(ast.unparse(n.test))]


@contextmanager
def without_check(module: ModuleType, name: str, number: int) -> Iterator[str]:
    """The module with one of its checks taken away; gives the check's text."""
    owner: Any = module if "." not in name else getattr(module, name.split(".")[0])
    last = name.split(".")[-1]
    original = getattr(owner, last)
    tree = ast.parse(textwrap.dedent(inspect.getsource(original)))
    test = _tests(tree)[number]
    text = ast.unparse(test.test)
    test.test = ast.Constant(False)
    space: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(tree), module.__file__ or "", "exec", flags=annotations_flag)
    exec(code, module.__dict__, space)
    places = [(owner, last)] if owner is not module else [
        (m, n) for key, m in list(sys.modules.items()) if key.startswith("lsmtensor") for n, v in list(vars(m).items()) if v is original
    ]  # fmt: skip
    for place, attribute in places:
        setattr(place, attribute, space[last])
    try:
        yield text
    finally:
        for place, attribute in places:
            setattr(place, attribute, original)


def misses_check(module: ModuleType, name: str, number: int, every: int = 7) -> str:
    """What the bad-bytes suite finds when a check is taken away; empty where it notices nothing."""
    with without_check(module, name, number):
        found = damage.try_damages(every, faults=("flip", "cut", "swapped", "foreign"))
    return found.wrong[0] if found.wrong else ""


annotations_flag = annotations.compiler_flag  # the functions were compiled with it
