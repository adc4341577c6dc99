"""Exponential buckets: the bucket of a value, the scale that a span of values needs, and counters at a coarser scale.

Source: OpenTelemetry metrics data model, ExponentialHistogram. At scale s, ``base = 2 ** 2 ** -s``, and bucket i counts values in
(base ** i, base ** (i + 1)].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_SCALE = 20
"""Scale at which a series begins; the largest at which every index fits into 32 bits."""

_EXPONENT_BIAS = 1023
_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_ONE = _EXPONENT_BIAS << _MANTISSA_BITS
_LEAST_INDEX = (-1022 << MAX_SCALE) - 1


def bucket_index(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Gives the index at scale 20 of values above 0; shape (n,).

    The index at scale s is this one shifted right by 20 - s. Exact powers of two are exact, and so is every value that is
    not the double next to a boundary; subnormal values are taken as the smallest normal one, as the data model allows.
    """
    bits = np.ascontiguousarray(values, np.float64).view(np.int64)
    mantissa = (bits & _MANTISSA | _ONE).view(np.float64)
    # The logarithm of the mantissa alone: 2^-33 of a bucket is lost, with that of the whole value it would be 2^-23.
    fraction = np.log2(mantissa)
    fraction *= 1 << MAX_SCALE
    index = fraction.astype(np.int64)
    # Not every mathematical library rounds the logarithm of a number just below 2 to one below 1.
    np.minimum(index, (1 << MAX_SCALE) - 1, out=index)
    index -= mantissa == 1.0
    index += ((bits >> _MANTISSA_BITS) - _EXPONENT_BIAS) << MAX_SCALE
    return np.maximum(index, _LEAST_INDEX, out=index).astype(np.int32)


def shift_for(
    low: npt.NDArray[np.int32], high: npt.NDArray[np.int32], shift: npt.NDArray[np.uint8], width: int
) -> npt.NDArray[np.uint8]:
    """Gives the least shift, not below the one given, at which low to high takes at most ``width`` buckets; shape (n,)."""
    result = shift.copy()
    while True:
        wide = (high >> result) - (low >> result) >= width
        if not wide.any():
            return result
        result[wide] += 1


def coarser(counters: npt.NDArray[Any], low: npt.NDArray[np.int32], more: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Gives counters at scales lower by ``more``.

    Args:
        counters: shape (n, width); bucket i of a row stands in column i modulo width.
        low: the lowest bucket of each row that may not be zero, shape (n,).
        more: shape (n,).
    """
    number, width = counters.shape
    first = low[:, None]
    index = first + (np.arange(width) - first) % width
    result = np.zeros_like(counters)
    np.add.at(result, (np.arange(number)[:, None], (index >> more[:, None]) % width), counters)
    return result


def unrolled(counters: npt.NDArray[Any], low: npt.NDArray[np.int32], width: int) -> npt.NDArray[Any]:
    """Gives buckets low to low + width - 1 of each row in order, shape (n, width); counters and low as for ``coarser``."""
    number, columns = counters.shape
    twice = np.concatenate([counters, counters], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(twice, width, axis=1)
    result: npt.NDArray[Any] = windows[np.arange(number), low % columns]
    return result
