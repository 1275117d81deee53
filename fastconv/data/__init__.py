"""The embedded digits, IDX files of MNIST and its kin, a shuffling loader, random shifts; NumPy alone."""

from .augment import random_shift
from .digits import digits
from .idx import IdxFolder, load_idx_folder, read_idx
from .loader import DataLoader

__all__ = ["DataLoader", "IdxFolder", "digits", "load_idx_folder", "random_shift", "read_idx"]
