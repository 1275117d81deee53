"""What users of PyTorch write where it has no such operation: the usual composition of its own functions."""

from math import comb, prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def soft_pool2d(x: Tensor, kernel: int) -> Tensor:
    """The weighted mean by two average poolings; without care for large inputs."""
    weights = x.exp()
    return F.avg_pool2d(weights * x, kernel) / F.avg_pool2d(weights, kernel)


def blur_pool2d(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Reflection and a depthwise convolution with the binomial filter."""
    taps = torch.tensor([comb(kernel - 1, i) / 2 ** (kernel - 1) for i in range(kernel)])
    weight = torch.outer(taps, taps).expand(x.shape[1], 1, -1, -1)
    before, after = (kernel - 1) // 2, kernel // 2
    return F.conv2d(F.pad(x, [before, after] * 2, mode="reflect"), weight, None, stride, groups=x.shape[1])


def mixed_pool2d(x: Tensor, alpha: float, kernel: int, stride: int) -> Tensor:
    """Both poolings, blended."""
    return alpha * F.max_pool2d(x, kernel, stride) + (1 - alpha) * F.avg_pool2d(x, kernel, stride)


def stochastic_pool2d(x: Tensor, kernel: int) -> Tensor:
    """In evaluation: the mean of each window's values, weighted by themselves where they are positive."""
    weights = x.relu()
    total = F.avg_pool2d(weights, kernel)
    return torch.where(total > 0, F.avg_pool2d(weights * x, kernel) / total.clamp_min(1e-30), 0.0)


def spatial_pyramid_pool2d(x: Tensor, levels: tuple[int, ...]) -> Tensor:
    """One adaptive pooling a level."""
    return torch.cat([F.adaptive_max_pool2d(x, level).flatten(1) for level in levels], 1)


def roi_align(x: Tensor, boxes: Tensor, size: int, scale: float, samples: int) -> Tensor:
    """One grid for all samples of all boxes of one image, and the mean of each bin's samples."""
    corners = boxes[:, 1:] * scale - 0.5
    places = (torch.arange(size * samples) + 0.5) / (size * samples)
    sides = corners[:, 2:] - corners[:, :2]
    columns, rows = (corners[:, i, None] + places * sides[:, i, None] for i in (0, 1))
    columns, rows = columns.clamp(0, x.shape[3] - 1), rows.clamp(0, x.shape[2] - 1)
    k, n = len(boxes), size * samples
    grid = torch.stack([columns[:, None].expand(k, n, n), rows[:, :, None].expand(k, n, n)], -1)
    grid = (2 * grid + 1) / torch.tensor([x.shape[3], x.shape[2]]) - 1
    sampled = F.grid_sample(x, grid.reshape(1, k * n, n, 2), "bilinear", "border", False)
    return F.avg_pool2d(sampled.reshape(x.shape[1], k, n, n).transpose(0, 1), samples)


def roi_pool(x: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    """One adaptive maximum a box, whose bins are those of the paper."""
    pools = []
    for image, left, top, right, bottom in (
        (boxes * torch.tensor([1, scale, scale, scale, scale])).round().int().tolist()
    ):
        pools.append(F.adaptive_max_pool2d(x[image, :, top : bottom + 1, left : right + 1], size))
    return torch.stack(pools)


def deform_conv2d(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """3x3, stride 1, padding 1: the im2col matrix as the weighted sum of four gathered corners, then one product."""
    n, c, h, w = x.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    tap = torch.arange(9)[:, None, None]
    offset = offset.reshape(n, 9, 2, h, w)
    down, right = rows + tap // 3 - 1 + offset[:, :, 0], columns + tap % 3 - 1 + offset[:, :, 1]
    top, left = down.floor(), right.floor()
    pixels, matrix = x.flatten(2), torch.zeros(())
    for i, weight_down in ((top, 1 - (down - top)), (top + 1, down - top)):
        for j, weight_right in ((left, 1 - (right - left)), (left + 1, right - left)):
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            share = weight_down * weight_right * inside if mask is None else weight_down * weight_right * inside * mask
            place = (i.clamp(0, h - 1) * w + j.clamp(0, w - 1)).long().reshape(n, 1, -1)
            matrix = matrix + pixels.gather(2, place.expand(n, c, -1)) * share.reshape(n, 1, -1)
    return (weight.flatten(1) @ matrix.reshape(n, c * 9, h * w)).reshape(n, -1, h, w)


def deform_conv2d_sampled(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    """3x3, stride 1, padding 1: every tap by grid_sample into the im2col matrix, then one product."""
    n, c, h, w = x.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    offset, sampled = offset.reshape(n, 9, 2, h, w), []
    for tap in range(9):
        down, right = rows + tap // 3 - 1 + offset[:, tap, 0], columns + tap % 3 - 1 + offset[:, tap, 1]
        grid = torch.stack([(2 * right + 1) / w - 1, (2 * down + 1) / h - 1], -1)
        sampled.append(F.grid_sample(x, grid, "bilinear", "zeros", False))
    matrix = torch.stack(sampled, 2).reshape(n, c * 9, h * w)
    return (weight.flatten(1) @ matrix).reshape(n, -1, h, w)


def adder2d(x: Tensor, weight: Tensor) -> Tensor:
    """3x3, stride 1, padding 1: unfold, and a broadcast over all filters."""
    patches = F.unfold(x, 3, padding=1)
    distances = (patches[:, None] - weight.flatten(1)[None, :, :, None]).abs().sum(2)
    return -distances.reshape(len(x), len(weight), *x.shape[2:])


def shift2d(x: Tensor, shift: np.ndarray) -> Tensor:
    """One padded image, cut out for each group of channels that move alike."""
    reach, (h, w) = int(np.abs(shift).max()), x.shape[2:]
    padded, parts, first = F.pad(x, [reach] * 4), [], 0
    for last in range(1, len(shift) + 1):
        if last == len(shift) or (shift[last] != shift[first]).any():
            i, j = (int(step) + reach for step in shift[first])
            parts.append(padded[:, first:last, i : i + h, j : j + w])
            first = last
    return torch.cat(parts, 1)


def active_shift2d(x: Tensor, displacement: Tensor) -> Tensor:
    """Each channel as an image of its own, sampled on its moved grid."""
    n, c, h, w = x.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    down, right = rows + displacement[:, 0, None, None], columns + displacement[:, 1, None, None]
    grid = torch.stack([(2 * right + 1) / w - 1, (2 * down + 1) / h - 1], -1)
    images = x.transpose(0, 1).reshape(c, n, h, w)
    return F.grid_sample(images, grid, "bilinear", "zeros", False).reshape(c, n, h, w).transpose(0, 1)


def involution2d(x: Tensor, kernel: Tensor, size: int) -> Tensor:
    """Unfold, a product with each pixel's kernel, and the sum over the taps."""
    n, groups, taps, h, w = kernel.shape
    patches = F.unfold(x, size, padding=size // 2).reshape(n, groups, x.shape[1] // groups, taps, h, w)
    return (patches * kernel[:, :, None]).sum(3).reshape(x.shape)


def non_local(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """The matrix of all pairs."""
    return g @ torch.softmax(theta.transpose(1, 2) @ phi, -1).transpose(1, 2)


def locally_connected2d(x: Tensor, weight: Tensor) -> Tensor:
    """3x3, stride 1, padding 1: unfold and one einsum."""
    patches = F.unfold(x, 3, padding=1).reshape(len(x), prod(weight.shape[1:4]), -1)
    return torch.einsum("nkp,okp->nop", patches, weight.flatten(1, 3).flatten(2)).reshape(len(x), -1, *x.shape[2:])
