"""The definitions of the kernels that code rows on grids."""

from __future__ import annotations

import numpy as np

from ..errors import InvalidArgumentError


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (n, ceil(d bits / 8)): values (n, d) below 2**bits, back to back, the lowest bit first."""
    codes = values.astype(np.uint8)
    if bits == 8:
        return codes
    if bits == 4 and codes.shape[1] % 2 == 0:
        return codes[:, ::2] | codes[:, 1::2] << np.uint8(4)
    each = (codes[:, :, None] >> np.arange(bits, dtype=np.uint8)) & np.uint8(1)
    return np.packbits(each.reshape(len(codes), codes.shape[1] * bits), axis=1, bitorder="little")


def window(d: int) -> int:
    """The largest power of two that is not above d."""
    return 1 << (d.bit_length() - 1)


def turn(x: np.ndarray, signs: np.ndarray, back: bool) -> np.ndarray:
    y, d = np.array(x, np.float32), x.shape[1]
    t, rounds = window(d), len(signs)
    by = np.float32(1 / np.sqrt(t))
    for r in reversed(range(rounds)) if back else range(rounds):
        part = slice(d - t, d) if r % 2 else slice(0, t)
        if not back:
            y *= signs[r]
        y[:, part] = _hadamard(y[:, part]) * by
        if back:
            y *= signs[r]
    return y


def _hadamard(x: np.ndarray) -> np.ndarray:
    n, t = x.shape
    h = 1
    while h < t:
        pairs = x.reshape(n, t // (2 * h), 2, h)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(n, t)
        h *= 2
    return x


def check(bits: int, second: int, shares: np.ndarray) -> None:
    if not (1 <= bits <= 8 and 0 <= second <= 8 and len(shares)):
        raise InvalidArgumentError(f"codes of {bits} and {second} bits, {len(shares)} grids; give 1 to 8, 0 to 8, 1 or more")


def scalar_encode(x: np.ndarray, low: np.ndarray, by: np.ndarray, bits: int) -> np.ndarray:
    y = (x - low) * by
    return packed(np.clip(np.rint(y, out=y), 0, np.float32(2**bits - 1), out=y), bits)


def grid_encode(x: np.ndarray, bits: int, second: int, shares: np.ndarray) -> np.ndarray:
    check(bits, second, shares)
    one, top = np.float32(1), np.float32(2**bits - 1)
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    middle, half = (low + high) / 2, (high - low) / 2
    best = np.full((len(x), 1), np.inf, np.float32)
    codes, steps, lows = np.zeros(x.shape, np.float32), np.zeros_like(low), low.copy()
    for share in shares:
        start, step = middle - half * share, 2 * half * share / top
        step = np.where(step > 0, step, one)
        tried = np.clip(np.rint((x - start) * (one / step)), 0, top)
        missed = tried * step + start - x
        error = np.einsum("nd,nd->n", missed, missed)[:, None]
        better = error < best
        codes = np.where(better, tried, codes)
        best, steps, lows = np.where(better, error, best), np.where(better, step, steps), np.where(better, start, lows)
    parts = [packed(codes, bits)]
    if second:
        finer = np.float32(2**second)
        rest = (x - (codes * steps + lows)) * (one / steps) + np.float32(0.5)  # 0 to 1 where the first level did not clip
        parts.append(packed(np.clip(np.floor(rest * finer), 0, finer - 1), second))
    return np.concatenate([*parts, lows.view(np.uint8), steps.view(np.uint8)], 1)


def angle_encode(x: np.ndarray, bits: int, shares: np.ndarray) -> np.ndarray:
    check(bits, 0, shares)
    top = np.float32(2**bits - 1)
    spread = np.abs(x).max(1, keepdims=True)
    spread = np.where(spread > 0, spread, np.float32(1))
    best = np.full((len(x), 1), -1, np.float32)
    points, inner = np.zeros(x.shape, np.float32), np.zeros((len(x), 1), np.float32)
    for share in shares:
        unit = spread * np.float32(2 * share / (top + 1))
        tried = np.clip(np.floor(x * (np.float32(1) / unit)) + np.float32(0.5), -top / 2, top / 2)
        dot = np.einsum("nd,nd->n", tried, x)[:, None]
        angle = dot * dot / np.einsum("nd,nd->n", tried, tried)[:, None]
        better = angle > best
        points, inner, best = np.where(better, tried, points), np.where(better, dot, inner), np.where(better, angle, best)
    square = np.einsum("nd,nd->n", x, x)[:, None]
    factor = np.where(inner > 0, square / np.where(inner > 0, inner, 1), np.float32(0)).astype(np.float32)
    return np.concatenate([packed(points + top / 2, bits), factor.view(np.uint8)], 1)


def half_encode(x: np.ndarray, brain: bool) -> np.ndarray:
    if not brain:
        return np.clip(x, -65504, 65504).astype("<f2").view(np.uint16)
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    # the largest finite values would round to infinity
    return np.where((rounded & np.uint32(0x7F80)) == 0x7F80, bits >> np.uint32(16) & np.uint32(0x8000) | np.uint32(0x7F7F), rounded).astype(np.uint16)
