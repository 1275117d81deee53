"""Floating-point numbers narrower than float32, as float32, which holds each of their values exactly.

NumPy has no bfloat16 and no float8, and fastconv computes in no half precision, so whatever file they are in they are
widened as they are read.  Names as in torch; sources: bfloat16 is the upper half of float32; float8_e5m2 the upper half
of float16; float8_e4m3fn: Micikevicius et al. 2022, arXiv 2209.05433, table 1 (no infinity, one NaN for each sign).
"""

import numpy as np


def _float16(raw):
    return raw.view("<f2").astype(np.float32)


def _bfloat16(raw):
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _float8_e5m2(raw):
    return _float16(raw.view("u1").astype("<u2") << 8)


def _float8_e4m3fn(raw):
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 15, byte & 7
    size = np.where(exponent > 0, np.ldexp(8.0 + fraction, exponent - 10), np.ldexp(1.0 * fraction, -9))
    size[(byte & 127) == 127] = np.nan
    return np.where(byte < 128, size, -size).astype(np.float32)[raw.view("u1")]


WIDEN = {
    "float16": (2, _float16),
    "bfloat16": (2, _bfloat16),
    "float8_e5m2": (1, _float8_e5m2),
    "float8_e4m3fn": (1, _float8_e4m3fn),
}
"""Name -> (bytes of one number, function from 1-d little-endian bytes to float32)."""
