"""Rows of a color memory - keys and colours of patches - and their clusters.

ColorFormer, Algorithm 1 (supplement), lines 10 to 16. Rows lie in a temporary file and come back in
chunks, so that memory does not grow with their number. scikit-learn is imported when it is used.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

CLUSTER_ROWS = 100_000  # rows, at most, that k-means looks at
CHUNK_ROWS = 16_384  # read back from the temporary file at once


def sample(count: int, most: int, seed: int) -> np.ndarray:
    """Up to `most` of the numbers 0 ... count - 1, ascending."""
    chosen = np.random.default_rng(seed).choice(count, min(count, most), replace=False)
    return np.sort(chosen)


# --- Rows on the disk ----------------------------------------------------------------------------


class Spool:
    """Rows in an unlinked temporary file: key float16 (k,), ab float32 (2,)."""

    def __init__(self, file, width: int, rows_expected: int):
        self.kind = np.dtype([("key", np.float16, (width,)), ("ab", np.float32, (2,))])
        self.file, self.rows = file, 0
        needed, folder = rows_expected * self.kind.itemsize, tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(
                f"the temporary file needs about {needed / 1e6:.0f} MB, but {folder} has "
                f"{free / 1e6:.0f} MB free. Make room, choose another folder (environment variable "
                "TMPDIR), or take fewer photos."
            )

    def append(self, keys: Tensor, ab: Tensor, network: str) -> None:
        """Add rows: keys (rows, k) and ab (rows, 2). ValueError where float16 cannot hold them."""
        rows = np.empty(len(keys), self.kind)
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
        """All rows in their order, CHUNK_ROWS at a time."""
        self.file.seek(0)
        while data := self.file.read(CHUNK_ROWS * self.kind.itemsize):
            yield np.frombuffer(data, self.kind)

    def keys_of(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), k) float32; `rows` ascending."""
        found, start = [], 0
        for chunk in self.chunks():
            first, last = np.searchsorted(rows, (start, start + len(chunk)))
            found.append(chunk["key"][rows[first:last] - start].astype(np.float32))
            start += len(chunk)
        return np.concatenate(found)


# --- Clusters (lines 10 to 16) -------------------------------------------------------------------


def k_means() -> type:
    """scikit-learn's KMeans. RuntimeError says what to install where it is missing."""
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise RuntimeError(
            "building a color memory needs scikit-learn, which is not installed: "
            "pip install scikit-learn (or comfyui-colorist[memory])."
        ) from None
    return KMeans


def centers(spool: Spool, entries: int, seed: int) -> np.ndarray:
    """(entries, k) float32: k-means of a sample of the rows."""
    keys = spool.keys_of(sample(spool.rows, CLUSTER_ROWS, seed))
    with warnings.catch_warnings():  # fewer different rows than clusters: the rest stay empty
        warnings.simplefilter("ignore")
        clusters = k_means()(entries, n_init=1, random_state=seed, max_iter=100).fit(keys)
    return clusters.cluster_centers_.astype(np.float32)


def labelled(
    spool: Spool, centers: np.ndarray, check_interrupt: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows go to their nearest center.

    Returns:
        keys (m, k) float64, the mean of each cluster's rows; the number of its rows (m,); and the
        colours: (bins, 4) int64 with cluster, a, b in whole Lab units, number of rows. Clusters
        without rows are left out.
    """
    entries, width = centers.shape
    sums, counts = np.zeros((entries, width)), np.zeros(entries, np.int64)
    codes, numbers = np.empty(0, np.int64), np.empty(0, np.int64)
    norms = np.square(centers).sum(1)
    for chunk in spool.chunks():
        check_interrupt()
        keys = chunk["key"].astype(np.float32)
        labels = (norms - 2 * keys @ centers.T).argmin(1)
        np.add.at(sums, labels, keys)
        counts += np.bincount(labels, minlength=entries)
        a, b = np.rint(chunk["ab"]).astype(np.int64).clip(-128, 127).T
        codes = np.concatenate([codes, labels << 16 | (a + 128) << 8 | (b + 128)])
        codes, place = np.unique(codes, return_inverse=True)
        weights = np.concatenate([numbers, np.ones(len(chunk), np.int64)])
        numbers = np.bincount(place, weights).astype(np.int64)
    there = counts > 0
    new = np.cumsum(there) - 1
    a, b = (codes >> 8 & 255) - 128, (codes & 255) - 128
    bins = np.stack([new[codes >> 16], a, b, numbers], axis=1)
    return sums[there] / counts[there, None], counts[there], bins


def color_groups(
    bins: np.ndarray, entries: int, groups: int, seed: int, check_interrupt: Callable[[], None]
) -> np.ndarray:
    """(groups, entries, 2): n mean colours of each cluster, by hue angle.

    The published program fills clusters of few colours up with grey, and does not sort.
    """
    values = np.empty((groups, entries, 2))
    borders = np.searchsorted(bins[:, 0], np.arange(entries + 1))
    for entry, (first, last) in enumerate(zip(borders, borders[1:], strict=False)):
        check_interrupt()
        colors, numbers = bins[first:last, 1:3].astype(float), bins[first:last, 3]
        if len(colors) > groups:
            clusters = k_means()(groups, n_init=2, random_state=seed)
            colors = clusters.fit(colors, sample_weight=numbers).cluster_centers_
        colors = np.resize(colors, (groups, 2))
        values[:, entry] = colors[np.argsort(hue(colors), kind="stable")]
    return values


def hue(ab: np.ndarray) -> np.ndarray:
    """(..., 2) ab -> hue angle in degrees, 0 to 360."""
    return np.degrees(np.arctan2(ab[..., 1], ab[..., 0])) % 360
