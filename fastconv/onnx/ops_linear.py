"""ONNX operators of linear algebra."""

import numpy as np

from .table import in_float, op


@op("MatMul")
def matmul(node, a, b):
    """Products of matrices, as NumPy's."""
    if a.dtype.kind == "f" and a.dtype.itemsize < 4:
        return np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
    return np.matmul(a, b)


@op("Gemm")
def gemm(node, a, b, c=None):
    """alpha A' B' + beta C."""
    kept, alpha, beta = a.dtype, node.get("alpha", 1.0), node.get("beta", 1.0)
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    if kept.kind == "f" and kept.itemsize < 4:
        a, b = a.astype(np.float32), b.astype(np.float32)
    y = a @ b
    y = y if alpha == 1 else y * np.asarray(alpha, y.dtype if y.dtype.kind == "f" else np.float64)
    if c is not None:
        y = y + (c if beta == 1 else c * np.asarray(beta, c.dtype if c.dtype.kind == "f" else np.float64))
    return y.astype(kept)


@op("Einsum")
@in_float
def einsum(node, *arrays):
    """Sums of products by Einstein's convention."""
    return np.einsum(node.attrs["equation"].replace(" ", ""), *arrays, optimize=len(arrays) > 2).astype(arrays[0].dtype)
