"""ONNX operators on boxes: NonMaxSuppression, RoiAlign."""

import numpy as np

from .table import in_float, op


def _corners(boxes, centred):
    """(y1, x1, y2, x2) of boxes in either form."""
    if centred:
        x, y, w, h = boxes.T
        return y - h / 2, x - w / 2, y + h / 2, x + w / 2
    y1, x1, y2, x2 = boxes.T
    return np.minimum(y1, y2), np.minimum(x1, x2), np.maximum(y1, y2), np.maximum(x1, x2)


def _overlap(box, others):
    """Intersection over union of one box with others."""
    height = np.maximum(0, np.minimum(box[2], others[2]) - np.maximum(box[0], others[0]))
    width = np.maximum(0, np.minimum(box[3], others[3]) - np.maximum(box[1], others[1]))
    common = height * width
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, others)]
    union = areas[0] + areas[1] - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0)


def kept_boxes(corners, scores, most, overlap, least):
    """Numbers of the boxes to keep: the best first, none that overlaps a better one by more than `overlap`."""
    order = np.argsort(-scores, kind="stable")
    order = order if least is None else order[scores[order] > least]
    kept = []
    while order.size and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(best)
        shares = _overlap([c[best] for c in corners], [c[order] for c in corners])
        order = order[shares <= overlap]
    return kept


@op("NonMaxSuppression")
def non_max_suppression(node, boxes, scores, most=None, overlap=None, least=None):
    """(image, class, box) of the boxes kept, for each image and class; no limit given keeps none."""
    most, overlap = (0 if v is None else np.asarray(v).reshape(-1)[0] for v in (most, overlap))
    least = None if least is None else np.asarray(least).reshape(-1)[0]
    found = []
    for image, per_class in enumerate(scores):
        corners = _corners(boxes[image], bool(node.get("center_point_box", 0)))
        for number, values in enumerate(per_class):
            found += [(image, number, box) for box in kept_boxes(corners, values, int(most), overlap, least)]
    return np.array(found, np.int64).reshape(-1, 3)


def _samples(low, step, count, per):
    """Places of the samples of each bin, (count, per)."""
    return low + step * (np.arange(count)[:, None] + (np.arange(per) + 0.5) / per)


def _line(places, size):
    """(low, high, weight of high, inside) of the bilinear taps along one axis."""
    inside = (places >= -1) & (places <= size)
    places = np.clip(places, 0, size - 1)
    low = np.floor(places).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), places - low, inside


@op("RoiAlign")
@in_float
def roi_align(node, x, rois, images):
    """The mean (largest) of bilinear samples in each bin of each box.  He et al., Mask R-CNN (2017), section 3."""
    height, width = node.get("output_height", 1), node.get("output_width", 1)
    scale, ratio = node.get("spatial_scale", 1.0), node.get("sampling_ratio", 0)
    half = node.opset >= 16 and node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    y = np.zeros((rois.shape[0], x.shape[1], height, width), x.dtype)
    for r, box in enumerate(rois.astype(np.float64)):
        x1, y1, x2, y2 = box * scale - (0.5 if half else 0)
        high, wide = (y2 - y1, x2 - x1) if half else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
        per_y = ratio or int(np.ceil(high / height))
        per_x = ratio or int(np.ceil(wide / width))
        if per_y < 1 or per_x < 1:
            continue
        places = _samples(y1, high / height, height, per_y), _samples(x1, wide / width, width, per_x)
        y[r] = _pooled(x[int(images[r])], *places, node.get("mode", "avg") == "max")
    return y


def _pooled(image, rows, columns, largest):
    """One box: image (C, H, W), rows (bins, samples), columns (bins, samples)."""
    top, bottom, fy, ok_y = _line(rows.reshape(-1), image.shape[1])
    left, right, fx, ok_x = _line(columns.reshape(-1), image.shape[2])
    shape = (image.shape[0], *rows.shape, *columns.shape)
    parts = [
        image[:, a][:, :, b] * (wa[:, None] * wb * (ok_y[:, None] & ok_x)).astype(image.dtype)
        for a, wa in ((top, 1 - fy), (bottom, fy))
        for b, wb in ((left, 1 - fx), (right, fx))
    ]
    if largest:
        return np.maximum.reduce(parts).reshape(shape).max(axis=(2, 4))
    return np.sum(parts, axis=0).reshape(shape).mean(axis=(2, 4))
