"""Cluster the keys of patches and average their colors: ColorFormer, Algorithm 1, lines 10 to 16.

Rows of keys and colors are spooled to a temporary file and read back in chunks, so that memory use
does not grow with their number. scikit-learn is imported when it is first needed.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from sklearn.cluster import KMeans

MAX_KMEANS_ROWS = 100_000  # rows that k-means is fitted to
CHUNK_ROWS = 16_384  # rows read back from the temporary file at a time


def sample_indices(count: int, limit: int, seed: int) -> np.ndarray:
    """Return up to `limit` random numbers from 0 ... count - 1, ascending."""
    indices = np.random.default_rng(seed).choice(count, min(count, limit), replace=False)
    return np.sort(indices)


# --- Rows in a temporary file --------------------------------------------------------------------


class FeatureSpool:
    """Rows in a temporary file: key float16 (k,), ab float32 (2,).

    Args:
        file: empty temporary file.
        width: width k of a key.
        expected_rows: estimate of the number of rows, for a check of free disk space.
    Raises:
        OSError: the disk has too little free space.
    """

    def __init__(self, file: BinaryIO, width: int, expected_rows: int):
        self.dtype = np.dtype([("key", np.float16, (width,)), ("ab", np.float32, (2,))])
        self.file, self.rows = file, 0
        needed, folder = expected_rows * self.dtype.itemsize, tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(
                f"the temporary file needs about {needed / 1e6:.0f} MB, but {folder} has only "
                f"{free / 1e6:.0f} MB of free space. Free some space, choose another folder "
                "(environment variable TMPDIR), or use fewer photos."
            )

    def append(self, keys: Tensor, ab: Tensor, network: str) -> None:
        """Append keys (rows, k) and ab (rows, 2).

        Args:
            network: name of the network, for the error.
        Raises:
            ValueError: float16 cannot represent the keys.
        """
        rows = np.empty(len(keys), self.dtype)
        with np.errstate(over="ignore"):
            rows["key"], rows["ab"] = keys.numpy(), ab.numpy()
        if not np.isfinite(rows["key"]).all():
            raise ValueError(
                f"{network}: features are NaN or too large for float16; choose float32 or bfloat16 "
                "for the network."
            )
        self.file.write(rows.tobytes())
        self.rows += len(rows)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield all rows in order, CHUNK_ROWS at a time."""
        self.file.seek(0)
        while data := self.file.read(CHUNK_ROWS * self.dtype.itemsize):
            yield np.frombuffer(data, self.dtype)

    def keys_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the keys (len(rows), k) float32 of `rows`, which must be ascending."""
        parts: list[np.ndarray] = []
        start = 0
        for chunk in self.chunks():
            first, last = np.searchsorted(rows, (start, start + len(chunk)))
            parts.append(chunk["key"][rows[first:last] - start].astype(np.float32))
            start += len(chunk)
        return np.concatenate(parts)


# --- Clusters (lines 10 to 16) -------------------------------------------------------------------


def kmeans_class() -> "type[KMeans]":
    """Import scikit-learn's KMeans.

    Raises:
        RuntimeError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise RuntimeError(
            "building a color memory needs scikit-learn, which is not installed: "
            "pip install scikit-learn (or comfyui-colorist[memory])."
        ) from None
    return KMeans


def fit_centers(spool: FeatureSpool, entries: int, seed: int) -> np.ndarray:
    """Fit k-means to a sample of the rows: (entries, k) float32."""
    keys = spool.keys_of(sample_indices(spool.rows, MAX_KMEANS_ROWS, seed))
    with warnings.catch_warnings():  # with fewer distinct rows than clusters, some stay empty
        warnings.simplefilter("ignore")
        clusters = kmeans_class()(entries, n_init=1, random_state=seed, max_iter=100).fit(keys)
    return clusters.cluster_centers_.astype(np.float32)


def assign_and_average(
    spool: FeatureSpool, centers: np.ndarray, check_interrupt: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Assign all rows to their nearest center and average their keys.

    Returns:
        Mean key of each cluster (m, k) float64; number of its rows (m,); and the colors (bins, 4)
        int64: cluster, a and b in whole Lab units, number of rows. Empty clusters are dropped.
    """
    entries, width = centers.shape
    key_sums, row_counts = np.zeros((entries, width)), np.zeros(entries, np.int64)
    codes, bin_counts = np.empty(0, np.int64), np.empty(0, np.int64)
    squared_norms = np.square(centers).sum(1)
    for chunk in spool.chunks():
        check_interrupt()
        keys = chunk["key"].astype(np.float32)
        labels = (squared_norms - 2 * keys @ centers.T).argmin(1)
        np.add.at(key_sums, labels, keys)
        row_counts += np.bincount(labels, minlength=entries)
        a, b = np.rint(chunk["ab"]).astype(np.int64).clip(-128, 127).T
        codes = np.concatenate([codes, labels << 16 | (a + 128) << 8 | (b + 128)])
        codes, inverse = np.unique(codes, return_inverse=True)
        weights = np.concatenate([bin_counts, np.ones(len(chunk), np.int64)])
        bin_counts = np.bincount(inverse, weights).astype(np.int64)
    used = row_counts > 0
    new_index = np.cumsum(used) - 1
    a, b = (codes >> 8 & 255) - 128, (codes & 255) - 128
    bins = np.stack([new_index[codes >> 16], a, b, bin_counts], axis=1)
    return key_sums[used] / row_counts[used, None], row_counts[used], bins


def cluster_colors(
    bins: np.ndarray, entries: int, groups: int, seed: int, check_interrupt: Callable[[], None]
) -> np.ndarray:
    """Reduce the colors of each entry to `groups` mean colors, ordered by hue angle.

    Entries with fewer colors repeat them. The official program pads them with gray instead, and
    does not sort.

    Args:
        bins: colors as `assign_and_average` returns them.
    Returns:
        (groups, entries, 2) ab in Lab units.
    """
    values = np.empty((groups, entries, 2))
    borders = np.searchsorted(bins[:, 0], np.arange(entries + 1))
    for entry, (first, last) in enumerate(zip(borders, borders[1:], strict=False)):
        check_interrupt()
        colors, counts = bins[first:last, 1:3].astype(float), bins[first:last, 3]
        if len(colors) > groups:
            clusters = kmeans_class()(groups, n_init=2, random_state=seed)
            colors = clusters.fit(colors, sample_weight=counts).cluster_centers_
        colors = np.resize(colors, (groups, 2))
        values[:, entry] = colors[np.argsort(hue_degrees(colors), kind="stable")]
    return values


def hue_degrees(ab: np.ndarray) -> np.ndarray:
    """Return the hue angle of ab (..., 2) in degrees, 0 to 360."""
    return np.degrees(np.arctan2(ab[..., 1], ab[..., 0])) % 360
