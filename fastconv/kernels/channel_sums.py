"""The sum of every channel over the images of a batch: the gradient of a bias."""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from ..driver import Row
from ..simd import array_at, fields
from .sums import make_sums

SumsBlock = Block("ChannelSums", "x sums", "n channels pixels part")


@lru_cache
def make_channel_sums(dtype):
    KIND = np.dtype(dtype).str[1:]
    sum_run, _ = make_sums(dtype)

    @tile_body(SumsBlock, dtype)
    def channel_sums(block, tile, worker):
        """sums[c] = the sum of x[:, c, :], image after image in float64.  Tile: `part` channels."""
        a = fields(block)
        x, sums = array_at(a.x, a.x_size, KIND), array_at(a.sums, a.sums_size, KIND)
        for channel in range(tile * a.part, min((tile + 1) * a.part, a.channels)):
            total = 0.0
            for image in range(a.n):
                total += sum_run(x, (image * a.channels + channel) * a.pixels, a.pixels)
            sums[channel] = total

    return channel_sums


def channel_sums_rows(x, sums, shape):
    """sums (channels) of x, dense, taken as of this shape (n, channels, pixels)."""
    n, channels, pixels = shape
    work = n * channels * (pixels * 0.15 + 5)
    part = max(1, min(channels, int(8000 * channels / max(1, work))))
    values = {"x": x, "sums": sums, "n": n, "channels": channels, "pixels": pixels, "part": part}
    return [Row(make_channel_sums(x.dtype), -(-channels // part), values, work)]
