"""Several searches over one snapshot as one: by rank or by weighted score.

``rrf`` adds 1 / (60 + rank) of each list (Cormack, Clarke & Buettcher, SIGIR 2009). ``weighted(dense=…, text=…, sparse=…)`` adds scores, each list's brought
to 0 … 1 by its own least and largest, times the weights; lists without a weight count 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import InvalidArgumentError, UnknownNameError
from ..lsm.state import View
from ..registry import Spec, near
from .dense import answer_schema, search_view
from .lexical import search_sparse, search_text

RANK = 60
# a list is this many times as long as the answer, at least so long
LONGER, LEAST = 4, 50
KINDS = ("dense", "text", "sparse")
# what each list calls its measure, and what becomes of it here
MEASURE = {"dense": "_distance", "text": "_score", "sparse": "_score"}


def search(
    view: View, tree: Any, q: Any, text: Any, sparse: Any, *, k: int, column: str | None, where: Any, columns: Sequence[str] | None, fusion: Any,
    index: str | None, metric: str | None, explain: bool, params: dict[str, Any],
) -> Any:  # fmt: skip
    """The body of `TableView.search` where words or sparse vectors are asked for."""
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
        raise InvalidArgumentError(f"k={k!r}; give 1 or more")
    asked = [kind for kind, what in zip(KINDS, (q, text, sparse), strict=True) if what is not None]
    weights = _weights(fusion, asked)
    known = ("recall",) if sparse is not None else ()
    for name in params if q is None else ():
        if name not in known:
            raise UnknownNameError(f"search has no parameter {name!r} here; {near(name, known)}")
    if explain:
        return {"searches": asked, "fusion": str(fusion) if len(asked) > 1 else None, "k": k, "each": k if len(asked) == 1 else max(LONGER * k, LEAST)}
    many = int(k) if len(asked) == 1 else max(LONGER * int(k), LEAST)
    own = column if len(asked) == 1 else None
    wanted = columns if len(asked) == 1 else view.table.schema.primary_key
    lists: dict[str, pa.Table] = {}
    if q is not None:
        if np.ndim(q) != 1:
            raise InvalidArgumentError(f"q has shape {np.shape(q)}; beside text or sparse give one vector")
        lists["dense"] = search_view(
            view, tree, q, k=many, column=column, where=where, columns=wanted, index=index, metric=metric, explain=False, params=params
        )
    if text is not None:
        lists["text"] = search_text(view, text, many, own, where, wanted, tree.config)
    if sparse is not None:
        lists["sparse"] = search_sparse(view, sparse, many, own, where, wanted, tree.config, params.get("recall"))
    if len(asked) == 1:
        return lists[asked[0]]
    return _fused(view, lists, weights, int(k), columns)


def _weights(fusion: Any, asked: list[str]) -> dict[str, float] | None:
    """None for rrf."""
    if fusion == "rrf":
        return None
    spec = Spec.of(fusion)
    if spec.name == "rrf" and not spec.params:
        return None
    known = set(spec.params) <= set(KINDS) and all(isinstance(w, (int, float)) and w >= 0 for w in spec.params.values())
    if spec.name != "weighted" or not known:
        raise InvalidArgumentError(f"fusion={fusion!r}; give rrf, or weighted(dense=…, text=…, sparse=…) with weights of 0 or more")
    return {kind: float(spec.params.get(kind, 1)) for kind in asked}


def _fused(view: View, lists: dict[str, pa.Table], weights: dict[str, float] | None, k: int, columns: Sequence[str] | None) -> pa.Table:
    keys = list(view.table.schema.primary_key)
    every: dict[tuple[Any, ...], dict[str, float]] = {}
    score: dict[tuple[Any, ...], float] = {}
    for kind, table in lists.items():
        measure = table.column(MEASURE[kind]).to_numpy()
        good = -measure if kind == "dense" else measure
        low, span = (good.min(), max(float(good.max() - good.min()), 1e-12)) if len(good) else (0.0, 1.0)
        for rank, key in enumerate(zip(*(table.column(name).to_pylist() for name in keys), strict=True)):
            every.setdefault(key, {})[kind] = float(measure[rank])
            # the last of a list still counts for something against those that are not on it
            adds = 1 / (RANK + 1 + rank) if weights is None else weights[kind] * (0.01 + 0.99 * float(good[rank] - low) / span)
            score[key] = score.get(key, 0.0) + adds
    best = sorted(score, key=lambda key: (-score[key], key))[:k]
    made = _rows(view, best, keys, columns)
    made = made.append_column("_score", pa.array([score[key] for key in best], pa.float64()))
    for kind in lists:
        made = made.append_column(f"_{kind}", pa.array([every[key].get(kind) for key in best], pa.float32()))
    return made


def _rows(view: View, best: list[tuple[Any, ...]], keys: list[str], columns: Sequence[str] | None) -> pa.Table:
    """The columns of some rows, in order."""
    schema = answer_schema(view, columns)
    if not best:
        return schema.empty_table()
    sought = view.table.codec.encode(view.table.schema.keys([key if len(keys) > 1 else key[0] for key in best]))
    return view.rows(*view.locate(sought), schema)
