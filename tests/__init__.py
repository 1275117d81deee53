"""Tests.  `pytest -m smoke` is the quick part; it also passes with NUMBA_DISABLE_JIT=1 and with FASTCONV_DEBUG=1."""
