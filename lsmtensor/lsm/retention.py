"""Which versions must stay readable: ``history=`` of a table or of the database.

``none`` keeps only the newest row of a key; a number keeps that many commits; ``forever`` and
durations (``one_day``, ``12h``, ``30m``) keep by time, judged by the commit times that layout edits record.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import InvalidArgumentError
from . import ops
from .layout import version_before

if TYPE_CHECKING:
    from .state import TableVersion
    from .tree import Tree

DEFAULT = "one_day"
_NAMED = {"one_hour": 3600, "one_day": 86400, "one_week": 7 * 86400}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse(history: str | int) -> tuple[str, int]:
    """("versions", n), ("seconds", s) or ("forever", 0)."""
    if isinstance(history, int) and not isinstance(history, bool) and history >= 0:
        return "versions", history
    if history == "none":
        return "versions", 0
    if history == "forever":
        return "forever", 0
    if history in _NAMED:
        return "seconds", _NAMED[history]
    match = re.fullmatch(r"(\d+)([smhdw])", str(history))
    if match:
        return "seconds", int(match[1]) * _UNITS[match[2]]
    raise InvalidArgumentError(
        f"history={history!r} is not a retention; give 'none', a number of versions, a duration such as '12h' or 'one_day', or 'forever'"
    )


def tag(tree: Tree, name: str) -> int:
    """The body of `Database.tag`."""
    tree.check_writable()
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"tag name {name!r}; give a non-empty text")
    with tree.writing:
        tree.install([ops.tag(name, tree.logged)])
        return tree.logged


def oldest_version(tree: Tree, history: str | int, visible: int) -> int:
    """The oldest version that this retention promises."""
    kind, amount = parse(history)
    if kind == "forever":
        return 0
    if kind == "versions":
        return max(0, visible - amount)
    cutoff = tree.env.clock.time_ns() - amount * 1_000_000_000
    return version_before(tree.manifest.layout.times, cutoff)


def oldest_needed(tree: Tree, table: TableVersion) -> tuple[int, list[int]]:
    """(oldest version of the retention, single older versions that tags and open snapshots hold)."""
    state, visible = tree.head()
    oldest = oldest_version(tree, table.state.options.get("history", DEFAULT), visible)
    held = {*state.layout.tags.values(), *(s.version for s in tree.holders())}
    return oldest, sorted(v for v in held if v < oldest)
