"""Optimized product quantization: a rotation learned together with the codebooks (Ge et al., TPAMI 2014)."""

from __future__ import annotations

import numpy as np

from . import REGISTRY
from .base import rotated
from .pq import Pq


@REGISTRY.register("opq")
class Opq(Pq):
    """``rounds`` times: code the rotated rows, then the rotation that brings rows nearest to what their codes stand for."""

    name = "opq"
    learned = ("codebooks", "turn")

    def __init__(self, dim: int, m: int = 8, bits: int = 8, rounds: int = 8, iterations: int = 6, seed: int = 0) -> None:
        super().__init__(dim, m, bits, iterations, seed)
        self._params = {"m": m, "bits": bits, "rounds": rounds, "iterations": iterations}
        self.rounds = int(rounds)
        self._turn = np.eye(dim, dtype=np.float32)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {**super()._shapes(), "turn": (self.dim, self.dim)}

    def _fit(self, x: np.ndarray) -> None:
        few = x[: 256 * 2**self.bits] if len(x) > 256 * 2**self.bits else x
        few = few[:16384]
        # principal axes, dealt to the parts so that each gets its share of the variance
        values, axes = np.linalg.eigh(np.cov(few.astype(np.float64), rowvar=False) if len(few) > 1 else np.eye(self.dim))
        order, floor = np.argsort(-values), max(float(values.max()) * 1e-9, 1e-30)
        load, parts = np.zeros(self.m), [[] for _ in range(self.m)]  # type: ignore[var-annotated]
        for axis in order:
            open_ = [i for i in range(self.m) if len(parts[i]) < self.dim // self.m]
            chosen = min(open_, key=lambda i: load[i])
            parts[chosen].append(axis)
            load[chosen] += np.log(max(values[axis], floor) / floor)
        self._turn = np.ascontiguousarray(axes[:, np.concatenate(parts)], np.float32)
        for _ in range(self.rounds):
            turned = few @ self._turn
            super()._fit(turned)
            left, _, right = np.linalg.svd(few.T.astype(np.float64) @ super()._decode(super()._encode(turned)))
            self._turn = np.ascontiguousarray(left @ right, np.float32)
        super()._fit(x @ self._turn)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return super()._encode(rotated(x, np.ascontiguousarray(self._turn.T)))

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return rotated(super()._decode(codes), self._turn)
