"""ONNX operators on signals: windows, Fourier transforms, mel scales."""

from typing import Any

import numpy as np

from .ops_cast import dtype_of
from .table import bounded, op


def _window(terms):
    def evaluate(node, size):
        count = int(np.asarray(size).reshape(-1)[0])
        bounded((count,), np.float64)
        length = count if node.get("periodic", 1) else count - 1
        angle = 2 * np.pi * np.arange(count) / max(length, 1)
        y = sum(weight * np.cos(k * angle) for k, weight in enumerate(terms))
        return np.asarray(y).astype(dtype_of(node.get("output_datatype", 1)))

    return evaluate


op("HannWindow")(_window((0.5, -0.5)))
op("HammingWindow")(_window((25 / 46, -21 / 46)))
op("BlackmanWindow")(_window((0.42, -0.5, 0.08)))


def _complex(x):
    return x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]


def _pairs(z, dtype):
    return np.stack([z.real, z.imag], -1).astype(dtype)


@op("DFT")
def dft(node, x, length=None, axis=None):
    """The discrete Fourier transform along an axis; the last axis holds real and imaginary parts."""
    axis = int(np.asarray(axis).reshape(-1)[0]) if axis is not None else node.get("axis", 1 if node.opset < 20 else -2)
    axis = axis % x.ndim
    inverse, one_sided = node.get("inverse", 0), node.get("onesided", 0)
    count = x.shape[axis] if length is None else int(np.asarray(length).reshape(-1)[0])
    if inverse and one_sided:
        return np.fft.irfft(_complex(x), count if length is not None else None, axis)[..., None].astype(x.dtype)
    z = (np.fft.ifft if inverse else np.fft.fft)(_complex(x), count, axis)
    if one_sided:
        z = np.take(z, np.arange(count // 2 + 1), axis)
    return _pairs(z, x.dtype)


@op("STFT")
def stft(node, x, step, window: Any = None, length=None):
    """Fourier transforms of windows of a signal (N, T, 1 or 2): (N, frames, frequencies, 2)."""
    step = int(np.asarray(step).reshape(-1)[0])
    count = int(np.asarray(length).reshape(-1)[0]) if length is not None else window.shape[0]
    signal = _complex(x)
    frames = np.lib.stride_tricks.sliding_window_view(signal, count, 1)[:, ::step]
    if window is not None:
        frames = frames * window
    z = np.fft.fft(frames, axis=-1)
    return _pairs(z[..., : count // 2 + 1] if node.get("onesided", 1) else z, x.dtype)


@op("MelWeightMatrix")
def mel_weights(node, bands, length, rate, low, high):
    """Triangles that turn a spectrum into bands of the mel scale, (length // 2 + 1, bands)."""
    bands, length, rate, low, high = (np.asarray(v).reshape(-1)[0] for v in (bands, length, rate, low, high))
    count, rows = int(bands), int(length) // 2 + 1
    mel = 2595 * np.log10(1 + np.array([low, high], np.float64) / 700)
    edges = mel[0] + np.arange(count + 2) * (mel[1] - mel[0]) / (count + 2)
    bins = ((int(length) + 1) * (700 * (10 ** (edges / 2595) - 1)) // rate).astype(np.int64)
    y = np.zeros((rows, count))
    for band in range(count):
        left, centre, right = bins[band : band + 3]
        if centre == left:
            y[centre, band] = 1
        else:
            y[left : centre + 1, band] = (np.arange(left, centre + 1) - left) / (centre - left)
        if right > centre:
            y[centre:right, band] = (right - np.arange(centre, right)) / (right - centre)
    return y.astype(dtype_of(node.get("output_datatype", 1)))
