"""What every codec must do: give back the bytes, all of them, whatever they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..codecs import Codec
from ..errors import LsmTensorError

Make = Callable[[int], Codec]
WIDTHS = (1, 2, 4, 8, 16)


def _inputs(width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(width)
    values = rng.normal(size=500).astype(np.float32)
    return [
        np.empty(0, np.uint8), np.zeros(1, np.uint8), np.zeros(4096, np.uint8), rng.integers(0, 256, 5000, dtype=np.uint8),
        values.view(np.uint8), values.astype(np.float16).astype(np.float32).view(np.uint8), np.arange(1000, dtype=np.int64).view(np.uint8),
        np.full(333, 7, np.uint8), np.array([np.nan, np.inf, -0.0, 1e-45], np.float32).view(np.uint8),
        (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.uint8),
    ]  # fmt: skip


def check_round_trip(make: Make) -> None:
    for width in WIDTHS:
        codec = make(width)
        for data in _inputs(width):
            before = data.copy()
            coded = codec.encode(data)
            assert coded.dtype == np.uint8 and coded.ndim == 1
            np.testing.assert_array_equal(data, before, err_msg="the input was changed")
            back = codec.decode(coded, len(data))
            np.testing.assert_array_equal(back, data, err_msg=f"{codec.name}, width {width}, {len(data)} bytes")


def check_it_is_deterministic(make: Make) -> None:
    data = _inputs(4)[4]
    np.testing.assert_array_equal(make(4).encode(data), make(4).encode(data))


def check_read_only_input(make: Make) -> None:
    data = _inputs(4)[4].copy()
    data.flags.writeable = False
    codec = make(4)
    coded = codec.encode(data).copy()
    coded.flags.writeable = False
    np.testing.assert_array_equal(codec.decode(coded, len(data)), data)


def check_compressors_notice_damage(make: Make) -> None:
    codec = make(4)
    if not codec.compresses:
        return
    data = np.tile(_inputs(4)[4], 3)
    coded = codec.encode(data)
    for cut in (0, 1, len(coded) // 2, len(coded) - 1):
        try:
            back = codec.decode(coded[:cut], len(data))
        except Exception as why:  # the libraries' own errors; the chain turns them into one of ours
            assert not isinstance(why, LsmTensorError) or why.args
        else:
            assert len(back) != len(data) or not np.array_equal(back, data)


CHECKS = [check_round_trip, check_it_is_deterministic, check_read_only_input, check_compressors_notice_damage]
