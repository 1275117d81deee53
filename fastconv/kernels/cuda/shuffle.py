"""Values moved between channels and pixels, or among channels: a view with axes exchanged, and one copy."""

from ..._device import Rule
from .launch import counterpart
from .shaping import dense


@counterpart("shuffle.ChannelShuffle")
class ChannelShuffle(Rule):
    @staticmethod
    def forward(ctx, x, axis, groups):
        channels = x.shape[axis]
        ctx.args = axis, channels // max(1, groups)
        split = x.reshape(*x.shape[:axis], groups, channels // groups, *x.shape[axis + 1 :])
        return dense(split.swapaxes(axis, axis + 1)).reshape(x.shape)


@counterpart("shuffle.PixelShuffle")
class PixelShuffle(Rule):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        (c, h, w), lead = x.shape[-3:], x.shape[:-3]
        deep = x.reshape(*lead, c // factor**2, factor, factor, h, w)
        n = deep.ndim
        wide = dense(deep.transpose(*range(n - 4), n - 2, n - 4, n - 1, n - 3))
        return wide.reshape(*lead, c // factor**2, h * factor, w * factor)


@counterpart("shuffle.PixelUnshuffle")
class PixelUnshuffle(Rule):
    @staticmethod
    def forward(ctx, y, factor):
        ctx.factor = factor
        (c, h, w), lead = y.shape[-3:], y.shape[:-3]
        h, w = h // factor, w // factor
        wide = y.reshape(*lead, c, h, factor, w, factor)
        n = wide.ndim
        return dense(wide.transpose(*range(n - 4), n - 3, n - 1, n - 4, n - 2)).reshape(*lead, c * factor**2, h, w)
