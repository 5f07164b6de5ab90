"""Rows coded on grids in Numba: the loops of numpy_grid.py, a row at a time."""

from __future__ import annotations

import numpy as np
from numba import njit

from .contract_grid import half_encode
from .numpy_grid import check, window

_jit = njit(nogil=True, cache=True, error_model="numpy")


@_jit
def _turn(y, signs, back, t):  # type: ignore[no-untyped-def]
    n, d = y.shape
    rounds, by = signs.shape[0], np.float32(1 / np.sqrt(t))
    for i in range(n):
        for step in range(rounds):
            r = rounds - 1 - step if back else step
            at = d - t if r % 2 else 0
            if not back:
                for j in range(d):
                    y[i, j] *= signs[r, j]
            h = 1
            while h < t:
                for first in range(at, at + t, 2 * h):
                    for j in range(first, first + h):
                        a, b = y[i, j], y[i, j + h]
                        y[i, j], y[i, j + h] = a + b, a - b
                h *= 2
            for j in range(at, at + t):
                y[i, j] *= by
            if back:
                for j in range(d):
                    y[i, j] *= signs[r, j]


def turn(x: np.ndarray, signs: np.ndarray, back: bool) -> np.ndarray:
    y = x.copy()
    _turn(y, signs, back, window(x.shape[1]))
    return y


@_jit
def _pack(codes, bits, out, at):  # type: ignore[no-untyped-def]
    """Codes (d,) behind each other from byte ``at`` of ``out``; returns where they end."""
    waiting, have = np.uint32(0), np.uint32(0)
    for code in codes:
        waiting |= np.uint32(code) << have
        have += np.uint32(bits)
        if have >= 8:
            out[at] = waiting & np.uint32(255)
            at += 1
            waiting >>= np.uint32(8)
            have -= np.uint32(8)
    if have:
        out[at] = waiting
        at += 1
    return at


@_jit
def _between(v, top):  # type: ignore[no-untyped-def]
    return min(max(v, np.float32(0)), top)


@_jit
def _scalar(x, low, by, bits, out):  # type: ignore[no-untyped-def]
    codes, top = np.empty(x.shape[1], np.float32), np.float32(2**bits - 1)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            codes[j] = np.rint(_between((x[i, j] - low[j]) * by[j], top))
        _pack(codes, bits, out[i], 0)


def scalar_encode(x: np.ndarray, low: np.ndarray, by: np.ndarray, bits: int) -> np.ndarray:
    out = np.empty((len(x), -(-x.shape[1] * bits // 8)), np.uint8)
    _scalar(x, low, by, bits, out)
    return out


@_jit
def _grid(x, bits, second, shares, out, floats):  # type: ignore[no-untyped-def]
    d = x.shape[1]
    one, top, finer = np.float32(1), np.float32(2**bits - 1), np.float32(2**second)
    codes, rest = np.empty(d, np.float32), np.empty(d, np.float32)
    for i in range(x.shape[0]):
        low, high = x[i].min(), x[i].max()
        middle, half = (low + high) / np.float32(2), (high - low) / np.float32(2)
        best, begin, step = np.float32(np.inf), low, one
        for share in shares:
            start, unit = middle - half * share, np.float32(2) * half * share / top
            if not unit > 0:
                unit = one
            inverse, error = one / unit, np.float32(0)
            for v in x[i]:
                missed = np.rint(_between((v - start) * inverse, top)) * unit + start - v
                error += missed * missed
            if error < best:
                best, begin, step = error, start, unit
        inverse = one / step
        for j in range(d):
            codes[j] = np.rint(_between((x[i, j] - begin) * inverse, top))
            rest[j] = np.floor(_between(((x[i, j] - (codes[j] * step + begin)) * inverse + np.float32(0.5)) * finer, finer - one))
        at = _pack(codes, bits, out[i], 0)
        if second:
            _pack(rest, second, out[i], at)
        floats[i, 0], floats[i, 1] = begin, step


def grid_encode(x: np.ndarray, bits: int, second: int, shares: np.ndarray) -> np.ndarray:
    check(bits, second, shares)
    out = np.empty((len(x), -(-x.shape[1] * bits // 8) + -(-x.shape[1] * second // 8)), np.uint8)
    floats = np.empty((len(x), 2), np.float32)
    _grid(x, bits, second, shares, out, floats)
    return np.concatenate([out, floats.view(np.uint8)], 1)


@_jit
def _angle(x, bits, shares, out, factors):  # type: ignore[no-untyped-def]
    d = x.shape[1]
    reach, codes = np.float32((2**bits - 1) / 2), np.empty(d, np.float32)
    for i in range(x.shape[0]):
        spread = square = inner = np.float32(0)
        best, inverse = np.float32(-1), np.float32(1)
        for v in x[i]:
            spread = max(spread, abs(v))
            square += v * v
        if not spread > 0:
            spread = np.float32(1)
        for share in shares:
            by, dot, norm = np.float32(1) / (spread * np.float32(2 * share / 2**bits)), np.float32(0), np.float32(0)
            for v in x[i]:
                point = min(max(np.floor(v * by) + np.float32(0.5), -reach), reach)
                dot += point * v
                norm += point * point
            if dot * dot / norm > best:
                best, inverse, inner = dot * dot / norm, by, dot
        for j in range(d):
            codes[j] = min(max(np.floor(x[i, j] * inverse) + np.float32(0.5), -reach), reach) + reach
        _pack(codes, bits, out[i], 0)
        factors[i, 0] = square / inner if inner > 0 else np.float32(0)


def angle_encode(x: np.ndarray, bits: int, shares: np.ndarray) -> np.ndarray:
    check(bits, 0, shares)
    out, factors = np.empty((len(x), -(-x.shape[1] * bits // 8)), np.uint8), np.empty((len(x), 1), np.float32)
    _angle(x, bits, shares, out, factors)
    return np.concatenate([out, factors.view(np.uint8)], 1)


__all__ = ["angle_encode", "grid_encode", "half_encode", "scalar_encode", "turn"]
