"""Convolution and pooling on the CPU at the hardware's limit, forward and backward, from Numba and NumPy alone."""
