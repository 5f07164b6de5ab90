"""What every quantizer must do, whatever it loses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import InvalidArgumentError, SchemaError
from ..quant import Quantizer, load, save

Make = Callable[[int], Quantizer]
DIM = 24


def _rows(seed: int = 0, n: int = 700, dim: int = DIM) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(12, dim))
    return (centers[rng.integers(0, 12, n)] + rng.normal(size=(n, dim)) * 0.4).astype(np.float32)


def check_codes_stand_for_rows(make: Make) -> None:
    x = _rows()
    qz = make(DIM).fit(x)
    codes = qz.encode(x)
    assert codes.dtype == np.uint8 and codes.shape == (len(x), qz.code_bytes)
    back = qz.decode(codes)
    assert back.dtype == np.float32 and back.shape == x.shape
    error, spread = ((back - x) ** 2).sum(), ((x - x.mean(0)) ** 2).sum()
    assert error < 0.75 * spread, f"{qz.spec}: error {error / spread:.2f} of the variance"
    assert qz.errors(x)["mse"] * x.size <= error * 1.001


def check_codes_are_the_same_again(make: Make) -> None:
    x = _rows()
    a, b = make(DIM).fit(x), make(DIM).fit(x)
    np.testing.assert_array_equal(a.encode(x), b.encode(x))
    np.testing.assert_array_equal(a.encode(x)[5:9], a.encode(x[5:9]))  # a row's code does not depend on its neighbours
    assert save(a) == save(b)


def check_it_is_saved(make: Make) -> None:
    x = _rows()
    qz = make(DIM).fit(x)
    again = load(save(qz))
    assert again.spec == qz.spec and again.code_bytes == qz.code_bytes
    np.testing.assert_array_equal(again.encode(x), qz.encode(x))
    np.testing.assert_array_equal(again.decode(qz.encode(x)), qz.decode(qz.encode(x)))


def check_odd_input(make: Make) -> None:
    x = _rows()
    qz = make(DIM).fit(x)
    assert qz.encode(np.empty((0, DIM))).shape == (0, qz.code_bytes) and qz.decode(np.empty((0, qz.code_bytes), np.uint8)).shape == (0, DIM)
    assert qz.encode(x[0]).shape == (1, qz.code_bytes)
    # constant and huge rows, and values past the range learned: finite, whatever they become
    for rows in (np.zeros((3, DIM)), np.full((2, DIM), 5.0), x[:4] * 1e4, -x[:4] * 1e4):
        assert np.isfinite(qz.decode(qz.encode(rows))).all()
    constant = make(DIM).fit(np.ones((700, DIM), np.float32))
    assert np.isfinite(constant.decode(constant.encode(np.ones((2, DIM))))).all()


def check_refusals(make: Make) -> None:
    x = _rows()
    for wrong in (x[:, :5], np.full((3, DIM), np.nan), np.full((3, DIM), np.inf)):
        try:
            make(DIM).fit(x).encode(wrong)
        except SchemaError:
            continue
        raise AssertionError(f"rows {wrong.shape} {wrong.flat[0]} were taken")
    qz = make(DIM)
    if not qz.fitted:
        try:
            qz.encode(x)
        except InvalidArgumentError as why:
            assert "fit" in str(why)
        else:
            raise AssertionError("an untrained quantizer made codes")


def check_search(make: Make) -> None:
    x, queries = _rows(), _rows(1, 20)
    qz = make(DIM).fit(x)
    codes = qz.encode(x)
    decoded = qz.decode(codes).astype(np.float64)
    for metric in ("l2", "ip"):
        ids, distances = qz.search(queries, codes, k=7, metric=metric)
        exact = -(queries @ decoded.T) if metric == "ip" else ((queries[:, None] - decoded[None]) ** 2).sum(2)
        np.testing.assert_allclose(distances, np.sort(exact, 1)[:, :7], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(exact, ids, 1), distances, rtol=1e-4, atol=1e-4)
    ids, distances = qz.search(queries[0], codes[:3], k=5)
    assert (ids[0, 3:] == -1).all() and np.isinf(distances[0, 3:]).all()


CHECKS = [check_codes_stand_for_rows, check_codes_are_the_same_again, check_it_is_saved, check_odd_input, check_refusals, check_search]
