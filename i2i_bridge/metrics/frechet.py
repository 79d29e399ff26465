"""The Fréchet distance between two sets of features, each taken for a Gaussian.

    d^2 = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1 S_2)^(1/2)   (Dowson & Landau, 1982; Heusel et al., 2017)

Ours, because the libraries take the trace from the eigenvalues of S_1 S_2: with fewer images than features that matrix
is singular, and the root of each eigenvalue that should be 0 is the root of a rounding error. With factors S = R^T R
the trace is the nuclear norm of R_1 R_2^T, the sum of its singular values, and no root is taken of a small number; for
few images R is just the centred features.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.reader import open_arrays

ROWS = 1024
"""Features in memory at a time."""


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features."""

    mean: np.ndarray
    """(d,) float64."""
    root: np.ndarray
    """R of the covariance S = R^T R: (r, d) float64, r <= d."""
    count: int | None = None
    """Of how many images; None if nobody knows."""


def moments(features: np.ndarray) -> Moments:
    """Mean and unbiased covariance of features (n, d), n >= 2, in float64 and in little memory.

    The order of the rows changes no digit.
    """
    order = canonical_order(features)
    n, d = features.shape
    chunks = [order[i : i + ROWS] for i in range(0, n, ROWS)]
    mean = sum((features[chunk].astype(np.float64).sum(0) for chunk in chunks), np.zeros(d)) / n
    if n <= d:
        return Moments(mean, (features[order].astype(np.float64) - mean) / np.sqrt(n - 1), n)
    covariance = np.zeros((d, d))
    for chunk in chunks:
        centred = features[chunk].astype(np.float64) - mean
        covariance += centred.T @ centred
    return Moments(mean, _root(covariance / (n - 1)), n)


def frechet_distance(a: Moments, b: Moments) -> float:
    """d^2 of the module's text; never negative.

    Raises:
        UserError: The features differ in number.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"statistics of {b.mean.size} features cannot be compared with {a.mean.size} features")
    trace = np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum()
    spread = np.square(a.root).sum() + np.square(b.root).sum()
    return max(0.0, float(np.square(a.mean - b.mean).sum() + spread - 2 * trace))


def read_moments(file: Path) -> Moments:
    """Stored statistics: an .npz with `mu` (d,) and `sigma` (d, d), as all FID programs write them.

    An integer `n` beside them says of how many images. Nothing is ever unpickled.

    Raises:
        UserError: The file is missing, or holds anything else.
    """
    try:
        with open_arrays(file) as stored:
            mean, covariance = stored["mu"].astype(np.float64), stored["sigma"].astype(np.float64)
            count = int(stored["n"]) if "n" in stored else None
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file of statistics") from error
    except Exception as error:  # zip, npy and key errors of many types
        raise UserError(f"{file}: not an .npz with mu and sigma ({type(error).__name__}: {error})") from error
    d = mean.size
    if mean.shape != (d,) or covariance.shape != (d, d) or not np.isfinite(covariance).all():
        raise UserError(f"{file}: mu is {mean.shape} and sigma {covariance.shape}; (d,) and (d, d) are wanted, finite")
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * abs(covariance).max()):
        raise UserError(f"{file}: sigma is not symmetric, so it is no covariance")
    return Moments(mean, _root((covariance + covariance.T) / 2), count)


def write_moments(file: Path, of: Moments) -> None:
    """Stores statistics for `read_moments`.

    Raises:
        UserError: The file cannot be written.
    """
    stream = io.BytesIO()
    arrays = {"mu": of.mean, "sigma": of.root.T @ of.root}
    if of.count is not None:
        arrays["n"] = np.asarray(of.count)
    np.savez(stream, allow_pickle=False, **arrays)
    write_whole(file, stream.getvalue())


def canonical_order(*features: np.ndarray, rows: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Indices (n,) that bring rows into an order which depends on their content only, by hash.

    Args:
        features: One array (n, d), or several whose rows i belong together.
        rows: Which rows of each array, (n,) each; by default all.
    """
    picked = [np.arange(len(features[0]))] * len(features) if rows is None else rows
    digests = [
        hashlib.blake2b(
            b"".join(np.ascontiguousarray(array[i]).tobytes() for array, i in zip(features, together, strict=True)),
            digest_size=16,
        ).digest()
        for together in zip(*picked, strict=True)
    ]
    return np.asarray(sorted(range(len(digests)), key=digests.__getitem__), dtype=np.intp)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    # Where the covariance is singular, rounding leaves tiny values of either sign.
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    root: np.ndarray = np.sqrt(values[kept])[:, None] * vectors.T[kept]
    return root
