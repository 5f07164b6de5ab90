"""What each of some calls did, as a tidy Arrow table: one row for each call and counter, ready to be joined, grouped and plotted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from ..metrics import Counters

SCHEMA = pa.schema([("call", pa.int64()), ("counter", pa.string()), ("amount", pa.float64())])


def counted(call: Callable[[Any], object], of: Iterable[Any]) -> pa.Table:
    """Columns call (0, 1, … in the order of ``of``), counter, amount: ``seconds``, and every counter of the engine that the call moved
    (`lsmtensor.metrics.Counters` says what they are). Other threads of this process must rest meanwhile: what they do counts too. Calls go the way
    that counts, which is slower: take times elsewhere.

        counted(lambda q: table.search(q, k=10), queries).group_by("counter").aggregate([("amount", "mean")])
    """
    calls: list[int] = []
    names: list[str] = []
    amounts: list[float] = []
    for number, item in enumerate(of):
        with Counters() as seen:
            begin = time.perf_counter()
            call(item)
            seconds = time.perf_counter() - begin
        for name, amount in {"seconds": seconds, **seen}.items():
            calls.append(number)
            names.append(name)
            amounts.append(float(amount))
    return pa.table([calls, names, amounts], schema=SCHEMA)
