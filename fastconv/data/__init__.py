"""The embedded digits, IDX files (MNIST, Fashion-MNIST), a loader that shuffles and batches, random shifts.  NumPy only."""

from .augment import random_shift
from .digits import digits
from .idx import IdxFolder, load_idx_folder, read_idx
from .loader import DataLoader

__all__ = ["DataLoader", "IdxFolder", "digits", "load_idx_folder", "random_shift", "read_idx"]
