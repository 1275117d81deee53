"""A loader that shuffles and batches arrays held in memory."""

import numpy as np


class DataLoader:
    """Iterates over arrays of one length in batches: `for x, y in DataLoader(images, labels, batch_size=32)`.

    arrays: one or more arrays whose first dimension counts the samples; a single array gives batches that are arrays,
    several give tuples.
    shuffle: each pass has its own order, a function of `seed` and the number of the pass alone, so a run can be
    repeated exactly.
    drop_last: leave out a last batch that is shorter than batch_size.
    epoch: the number of the next pass; set it to continue a run.
    """

    def __init__(self, *arrays, batch_size=1, shuffle=False, drop_last=False, seed=0):
        if not arrays:
            raise TypeError("DataLoader: at least one array is needed")
        self.arrays = tuple(np.asarray(array) for array in arrays)
        if any(array.ndim == 0 for array in self.arrays):
            raise ValueError("DataLoader: arrays must have at least one dimension, given a single number")
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) > 1:
            raise ValueError(f"DataLoader: arrays must have one length, given {', '.join(map(str, lengths))}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)):
            raise TypeError(f"DataLoader: batch_size must be a whole number, given {batch_size!r}")
        if batch_size < 1:
            raise ValueError(f"DataLoader: batch_size must be at least 1, given {batch_size}")
        self.samples = lengths[0]
        self.batch_size = int(batch_size)
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.seed = seed
        self.epoch = 0

    def __len__(self):
        """The number of batches in one pass."""
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self):
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.samples) if self.shuffle else None
        self.epoch += 1
        return self._batches(order)

    def _batches(self, order):
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            rows = slice(start, start + self.batch_size)
            if order is not None:
                rows = order[rows]
            batch = [array[rows] for array in self.arrays]
            yield tuple(batch) if len(batch) > 1 else batch[0]
