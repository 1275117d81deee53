"""A small classifier on one page."""

import numpy as np

from ..autograd import no_grad
from .confusion import confusion_matrix
from .style import DIVERGING, INK, picture, title_of
from .tiles import tiles


def network_picture(path, model, image, confusion, caption):
    """What a small classifier has learned: first-layer filters, feature maps of one image, the confusion matrix.

    path: where the PNG goes; model: an nn.Sequential that begins with Conv2d of one input channel, a norm and ReLU;
    image: (1, H, W); confusion: (classes, classes) counts, rows true; caption: what the image is.
    """
    filters = model[0].weight.data[:, 0]
    with no_grad():
        maps = model[:3].eval()(image[None])[0]
    figure = picture(11, 4.8)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.3, 1))[0]
    upper, lower = left.subfigures(2, 1, squeeze=False)[:, 0]
    limit = np.abs(filters).max()
    title_of(upper, f"{len(filters)} filters of the first layer (dark -{limit:.2f}, light +{limit:.2f})")
    tiles(upper, filters, colours=DIVERGING, low=-limit, high=limit)
    title_of(lower, f"{caption}, and its {len(maps)} feature maps (more is darker)")
    tiles(lower, maps, colours=INK, low=0, high=None, first=image[0])
    confusion_matrix(confusion, figure=right)
    return figure.write(path)
