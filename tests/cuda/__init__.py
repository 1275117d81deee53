"""The GPU path.  Two commands, each a process of its own, since Numba decides when it is imported what cuda is:

    NUMBA_ENABLE_CUDASIM=1 pytest tests/cuda     the tables of cases on Numba's simulator, shrunk; needs no GPU
    pytest tests/cuda/test_ptx.py                every kernel compiled to PTX; needs numba-cuda, nvidia-nvvm and
                                                 nvidia-cuda-nvrtc, no GPU and no driver

Where a GPU can be used, `pytest tests/cuda` runs all of this on it, and the checkers of the CUDA toolkit watch it with

    compute-sanitizer --tool memcheck  python -m pytest tests/cuda -x
    compute-sanitizer --tool racecheck python -m pytest tests/cuda -x
"""
