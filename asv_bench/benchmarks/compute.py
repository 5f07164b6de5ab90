"""Kernels: every one that a backend declares, over the arguments that its agreement test uses; distances at a real size too."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from lsmtensor import kernels
from lsmtensor.kernels.contract import COSINE, IP, KERNELS, L1, L2
from lsmtensor.testing.kernels import ARGUMENTS

from . import common


def weight(args: tuple[Any, ...]) -> int:
    return sum(a.nbytes if isinstance(a, np.ndarray) else weight(a) if isinstance(a, tuple) else 0 for a in args)


def skip(why: str) -> None:
    raise NotImplementedError(why)  # asv's word for "not applicable here"


class Every:
    """Calls are short: this shows overhead, and a kernel that became slow. A kernel that changes its arguments changes copies, made
    outside the clock, one a call."""

    params = [sorted(set(KERNELS) & set(ARGUMENTS)), common.backends()]
    param_names = ["kernel", "backend"]
    number, rounds, repeat = 1, 1, (5, 30, 1.0)

    def setup(self, name: str, backend: str) -> None:
        chosen = kernels.choose(backend)
        if name not in chosen.names():
            skip(f"{backend} has no {name}")
        self.run = getattr(chosen, name)
        args = max(ARGUMENTS[name](np.random.default_rng(0)), key=weight)
        if name.startswith("page_"):  # over a net of codes, and these pages
            (bare, pages), asked = args[:2], args[2:]
            codes = chosen.code_net(*bare)
            self.args = (codes, *pages) if name == "page_net" else (chosen.page_net(codes, *pages), *asked)
        elif isinstance(args[0], tuple) and not name.endswith("_net"):  # a net is a backend's own form of its first argument
            net = {"pq": "pq_net", "sparse": "sparse_net"}.get(name.split("_")[0], "code_net")
            self.args = (getattr(chosen, net)(*args[0]), *args[1:])
        else:
            self.run(*copy.deepcopy(args))
            self.args = copy.deepcopy(args)

    def time_kernel(self, name: str, backend: str) -> None:
        self.run(*self.args)


class Distances:
    """Exact top 10 of one query and of 64, over rows in memory."""

    params = [common.backends(), [1, 64], ["l2", "cosine", "ip", "l1"]]
    param_names = ["backend", "queries", "metric"]

    def setup(self, backend: str, queries: int, metric: str) -> None:
        rng = np.random.default_rng(0)
        self.points = rng.standard_normal((common.rows(4000), 384), dtype=np.float32)
        self.queries = rng.standard_normal((queries, 384), dtype=np.float32)
        self.metric = {"l2": L2, "cosine": COSINE, "ip": IP, "l1": L1}[metric]
        self.topk = kernels.choose(backend).topk
        self.topk(self.queries, self.points[:64], 10, self.metric, None)

    def time_topk(self, backend: str, queries: int, metric: str) -> None:
        self.topk(self.queries, self.points, 10, self.metric, None)
