"""The part of the contract that codes rows on grids; see contract.py. The definitions stand in numpy_grid.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from .declare import kernel, plain


def _guard(x: np.ndarray, *rest: Any) -> tuple[Any, ...]:
    return plain(x), *(plain(a) if isinstance(a, np.ndarray) else a for a in rest)


@kernel("quantized", "rounding", _guard)
def turn(x: np.ndarray, signs: np.ndarray, back: bool) -> np.ndarray:
    """float32 (n, d): rows turned by a random orthogonal map, or back.

    Round after round rows are multiplied by signs, float32 (rounds, d) of +1 and -1, and a Hadamard transform over sqrt(t) is made of their first t
    values, in odd rounds of their last t, the largest power of two up to d. After four rounds every value depends on every other (Ailon & Chazelle,
    STOC 2006; Gao et al., SIGMOD 2025, turn so as well). O(rounds n d log d).
    """
    from . import numpy_grid

    return numpy_grid.turn(x, signs, back)


@kernel("quantized", "rounding", _guard)
def scalar_encode(x: np.ndarray, low: np.ndarray, by: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (n, ceil(d bits / 8)): rint((x - low) by) of rows float32 (n, d), low and by float32 (d,), between 0 and 2**bits - 1, back to back,
    the lowest bit first. O(n d)."""
    from . import numpy_grid

    return numpy_grid.scalar_encode(x, low, by, bits)


@kernel("quantized", "rounding", _guard)
def grid_encode(x: np.ndarray, bits: int, second: int, shares: np.ndarray) -> np.ndarray:
    """uint8 (n, bytes): codes of rows float32 (n, d) as `scalar_encode` packs them, each row on a grid of its own; then where the grid begins and its
    step, float32.

    Of grids over shares, float32 (s,) >= 1, of a row's range, around its middle, the one of the least squared error; the first of equals. With
    ``second`` bits what is left is coded again, on a grid as wide as a step: its codes stand behind those of the first. O(n d s).
    """
    from . import numpy_grid

    return numpy_grid.grid_encode(x, bits, second, shares)


@kernel("quantized", "rounding", _guard)
def angle_encode(x: np.ndarray, bits: int, shares: np.ndarray) -> np.ndarray:
    """uint8 (n, bytes): codes of rows float32 (n, d) on grids of the points -(2**bits - 1) / 2 to (2**bits - 1) / 2, and a factor, float32.

    Of grids that reach to shares, float32 (s,) >= 1, of a row's largest value, the one whose points p lie at the smallest angle to the row; the factor is
    |x|^2 / <p, x>, so that factor p has the row's own inner product with it (Gao & Long, SIGMOD 2024). O(n d s).
    """
    from . import numpy_grid

    return numpy_grid.angle_encode(x, bits, shares)


@kernel("quantized", "exact", _guard)
def half_encode(x: np.ndarray, brain: bool) -> np.ndarray:
    """uint16 (n, d): the bits of rows float32 (n, d), finite, in half precision (IEEE's, or with ``brain`` bfloat16), rounded to even; values past its range
    take its ends. O(n d)."""
    from . import numpy_grid

    return numpy_grid.half_encode(x, brain)
