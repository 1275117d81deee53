"""The embedded digits, IDX files, the loader and random shifts."""

import gzip

import numpy as np
import pytest

from fastconv.data import DataLoader, digits, idx, load_idx_folder, random_shift, read_idx

pytestmark = pytest.mark.smoke


def idx_bytes(array, code=0x08):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, code, array.ndim]) + sizes + array.tobytes()


# ---- digits


def test_digits_split_has_the_stated_sizes_and_ranges():
    images, labels = digits("train", seed=0)
    test_images, test_labels = digits("test", seed=0)
    assert images.shape == (1437, 1, 8, 8) and test_images.shape == (360, 1, 8, 8)
    assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1
    assert labels.dtype == np.int64 and labels.shape == (1437,) and test_labels.shape == (360,)


def test_digits_train_and_test_together_are_the_whole_file():
    whole_images, whole_labels = digits("all")
    train, test = digits("train", seed=5), digits("test", seed=5)
    together = np.concatenate([train[0], test[0]]).reshape(1797, -1)
    labels = np.concatenate([train[1], test[1]])
    rows = sorted(map(bytes, np.c_[together, labels].astype(np.float32)))
    assert rows == sorted(map(bytes, np.c_[whole_images.reshape(1797, -1), whole_labels].astype(np.float32)))


def test_digits_test_split_has_each_class_in_proportion():
    whole = np.bincount(digits("all")[1])
    for seed in range(5):
        share = np.bincount(digits("test", seed)[1]) - whole * 360 / 1797
        assert np.abs(share).max() < 1


def test_digits_split_depends_on_the_seed_alone():
    assert np.array_equal(digits("test", 3)[0], digits("test", 3)[0])
    assert not np.array_equal(digits("test", 3)[0], digits("test", 4)[0])


def test_digits_refuses_an_unknown_split():
    with pytest.raises(ValueError, match="train, test, all, given 'valid'"):
        digits("valid")


# ---- IDX files


@pytest.mark.parametrize(
    "code, dtype", [(0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx_reads_every_type(tmp_path, code, dtype, zipped):
    array = np.arange(2 * 3 * 5).reshape(2, 3, 5).astype(dtype)
    content = idx_bytes(array, code)
    (tmp_path / "file").write_bytes(gzip.compress(content) if zipped else content)
    result = read_idx(tmp_path / "file")
    assert np.array_equal(result, array)
    assert result.dtype.isnative and result.flags.writeable


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
HOSTILE = {
    "empty": (b"", "begins with nothing"),
    "other": (b"\x89PNG....", "begins with 89 50 4e 47"),
    "type code": (b"\0\0\x0a\x01" + GOOD[4:], "not an IDX file"),
    "no dimensions": (b"\0\0\x08\0", "not an IDX file"),
    "many dimensions": (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x", "255 dimensions"),
    "short header": (GOOD[:13], "announces 3 dimensions but ends after 2"),
    "short data": (GOOD[:-1], "24 bytes, but only 23 bytes follow"),
    "long data": (GOOD + b"x", "24 bytes, but more bytes follow"),
    "huge": (b"\0\0\x08\3" + b"\xff" * 12 + b"x" * 9, "at most 4294967296 bytes"),
    "huge but empty": (b"\0\0\x08\3\0\0\0\0" + b"\xff" * 8, "at most 4294967296 bytes"),
    "large promise": (b"\0\0\x08\1\x7f\xff\xff\xff" + b"x" * 9, "but only 9 bytes follow"),
}


@pytest.mark.parametrize("content, message", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx_refuses_false_headers(tmp_path, content, message, zipped):
    (tmp_path / "file").write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "file")


def test_read_idx_refuses_damaged_gzip_files(tmp_path):
    whole = gzip.compress(GOOD)
    for damaged in (whole[:-9], whole[:14], whole[:12] + b"\xff\xff\xff" + whole[15:], whole[:-8] + b"\0" * 8):
        (tmp_path / "file").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged gzip file"):
            read_idx(tmp_path / "file")


def test_read_idx_survives_any_single_wrong_byte(tmp_path):
    path = tmp_path / "file"
    for position in range(16):
        for value in (0, 1, 0x7F, 0xFF):
            path.write_bytes(GOOD[:position] + bytes([value]) + GOOD[position + 1 :])
            try:
                assert read_idx(path).size == 24
            except ValueError as error:
                assert str(path) in str(error)


def test_read_idx_does_not_unpack_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "MAX_BYTES", 1 << 20)
    (tmp_path / "file").write_bytes(gzip.compress(b"\0\0\x08\1\0\x10\0\1" + bytes(1 << 24)))
    with pytest.raises(ValueError, match="at most 1048576 bytes"):
        read_idx(tmp_path / "file")


def write_folder(folder, train=5, test=3, size=(6, 7), ending="", test_name="t10k"):
    random = np.random.default_rng(0)
    arrays = []
    for name, count in (("train", train), (test_name, test)):
        images = random.integers(0, 256, (count, *size)).astype(np.uint8)
        labels = random.integers(0, 10, count).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx_bytes(array)
            (folder / f"{name}-{kind}-ubyte{ending}").write_bytes(gzip.compress(content) if ending else content)
            arrays.append(array)
    return arrays


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("test_name", ["t10k", "test"])
def test_load_idx_folder(tmp_path, ending, test_name):
    wanted = write_folder(tmp_path, ending=ending, test_name=test_name)
    data = load_idx_folder(tmp_path)
    assert all(np.array_equal(given, array) for given, array in zip(data, wanted, strict=True))
    assert data.train_images.dtype == np.uint8 and data.train_labels.dtype == np.int64


def test_load_idx_folder_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        load_idx_folder(tmp_path / "nowhere")
    write_folder(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte\.gz"):
        load_idx_folder(tmp_path)


def test_load_idx_folder_refuses_files_that_do_not_fit_together(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    with pytest.raises(ValueError, match="5 train images but 4 labels"):
        load_idx_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros((5, 1), np.uint8)))
    with pytest.raises(ValueError, match=r"labels must be uint8 \(N,\), given uint8 \(5, 1\)"):
        load_idx_folder(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((3, 6, 6), np.uint8)))
    with pytest.raises(ValueError, match="training images are 6x7, test images 6x6"):
        load_idx_folder(tmp_path)


# ---- the loader


def test_loader_batches_in_order_without_shuffling():
    images, labels = np.arange(20).reshape(10, 2), np.arange(10)
    batches = list(DataLoader(images, labels, batch_size=4))
    assert [len(batch[1]) for batch in batches] == [4, 4, 2]
    assert np.array_equal(np.concatenate([batch[0] for batch in batches]), images)


@pytest.mark.parametrize(
    "samples, batch, drop, count",
    [(10, 4, False, 3), (10, 4, True, 2), (8, 4, False, 2), (3, 4, True, 0), (0, 4, False, 0)],
)
def test_loader_length(samples, batch, drop, count):
    loader = DataLoader(np.arange(samples), batch_size=batch, drop_last=drop)
    assert len(loader) == count == len(list(loader))


def test_loader_shuffles_every_pass_anew_and_repeats_with_the_seed():
    labels = np.arange(50)

    def passes(seed, epoch=0):
        loader = DataLoader(labels, batch_size=8, shuffle=True, seed=seed)
        loader.epoch = epoch
        return [np.concatenate(list(loader)).tolist() for _ in range(3)]

    first, second, third = passes(1)
    assert sorted(first) == sorted(second) == sorted(third) == labels.tolist()
    assert len({tuple(first), tuple(second), tuple(third), tuple(labels)}) == 4
    assert passes(1) == [first, second, third] and passes(2)[0] != first
    assert passes(1, epoch=2)[0] == third


def test_loader_keeps_images_and_labels_together():
    labels = np.arange(30)
    for images, batch_labels in DataLoader(labels[:, None] * 2, labels, batch_size=7, shuffle=True):
        assert np.array_equal(images[:, 0], batch_labels * 2)


def test_loader_refuses_bad_arguments():
    with pytest.raises(ValueError, match="given 3, 4"):
        DataLoader(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="at least 1, given 0"):
        DataLoader(np.zeros(3), batch_size=0)
    with pytest.raises(TypeError, match=r"whole number, given 2\.5"):
        DataLoader(np.zeros(3), batch_size=2.5)
    with pytest.raises(TypeError, match="at least one array"):
        DataLoader(batch_size=2)
    with pytest.raises(ValueError, match="at least one dimension"):
        DataLoader(np.float32(1))


# ---- random shifts


def test_random_shift_by_nothing_changes_nothing():
    images = digits("test")[0][:5]
    assert np.array_equal(random_shift(images, 0, np.random.default_rng(0)), images)


class _Always:
    """Stands in for a random generator and gives one value."""

    def __init__(self, value):
        self.value = value

    def uniform(self, low, high, shape):
        return np.full(shape, self.value)


def test_random_shift_by_whole_and_half_pixels():
    images = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 3, 4)
    down_right = np.zeros_like(images)
    down_right[..., 1:, 1:] = images[..., :-1, :-1]
    assert np.array_equal(random_shift(images, 1, _Always(1.0)), down_right)
    up_left = np.zeros_like(images)
    up_left[..., :-1, :-1] = images[..., 1:, 1:]
    assert np.array_equal(random_shift(images, 1, _Always(-1.0)), up_left)
    assert random_shift(images, 1, _Always(0.5))[0, 0, 1, 1] == images[0, 0, :2, :2].mean()


def test_random_shift_refuses_bad_arguments():
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"given shape \(8, 8\)"):
        random_shift(np.zeros((8, 8), np.float32), 1, random)
    with pytest.raises(ValueError, match="from 0 to 1 pixel, given 2"):
        random_shift(np.zeros((1, 1, 8, 8), np.float32), 2, random)
    with pytest.raises(TypeError, match="uint8"):
        random_shift(np.zeros((1, 1, 8, 8), np.uint8), 1, random)
