"""Fréchet and kernel distances, against Gaussians of known moments, plain loops and the libraries' own formulas."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from i2i_bridge.errors import UserError
from i2i_bridge.metrics import distribution, kernel
from i2i_bridge.metrics.base import bootstrap_interval
from i2i_bridge.metrics.distribution import FID, KID, FrechetDistance, KIDPaired
from i2i_bridge.metrics.frechet import Moments, frechet_distance, moments, read_moments, write_moments
from i2i_bridge.metrics.kernel import kernel_distance


def exact(mean, root, n, seed):
    """n features whose sample mean and sample covariance (by n - 1) are mean and root^T root."""
    draws = np.random.default_rng(seed).normal(size=(n, len(root)))
    draws -= draws.mean(0)
    white = draws @ np.linalg.inv(np.linalg.cholesky(draws.T @ draws / (n - 1))).T
    return white @ root + mean


def features(n, d, seed, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


@pytest.mark.parametrize("n", [50, 3000])
def test_fid_of_gaussians_with_known_moments(n):
    """d^2 by the formula with scipy's matrix root, for covariances that do not commute."""
    # kills: frechet-trace-once, covariance-by-n, frechet-without-means
    rng = np.random.default_rng(7)
    roots, means = rng.normal(size=(2, 8, 8)), rng.normal(size=(2, 8))
    covariances = [root.T @ root for root in roots]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    truth = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    sets = [exact(mean, root, n, seed) for seed, (mean, root) in enumerate(zip(means, roots, strict=True))]
    assert FID().estimate(*sets, seed=0).value == pytest.approx(truth, rel=1e-6)


def test_fid_of_fewer_images_than_features():
    """Covariances of rank 5 in 300 dimensions, with common axes: d^2 = |mu|^2 + sum (s_1 - s_2)^2."""
    # kills: few-covariance-by-n, frechet-trace-once
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(300, 5)))[0].T
    one, other = rng.uniform(0.5, 3, (2, 5))
    sets = [exact(shift, scale[:, None] * axes, 40, shift) for shift, scale in ((0, one), (1, other))]
    truth = 300 + np.square(one - other).sum()
    assert FID().estimate(*sets, seed=0).value == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("n", [30, 400])
def test_fid_of_a_set_with_itself_is_zero_and_it_is_symmetric(n):
    a, b = features(n, 64, 0), features(n + 7, 64, 1, 0.2)
    scale = np.square(a).sum(1).mean()
    assert FID().estimate(a, a.copy(), seed=0).value < 1e-8 * scale
    there, back = (FID().estimate(*pair, seed=0).value for pair in ((a, b), (b, a)))
    assert there == pytest.approx(back, rel=1e-10)
    assert there > 0.01 * scale


def test_fid_agrees_with_torchmetrics_and_torch_fidelity_where_they_are_sound():
    """Many more images than features."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    a, b = features(900, 20, 0), features(800, 20, 1, 0.1)
    ours = FID().estimate(a, b, seed=0).value
    theirs = [fid_features_to_statistics(torch.from_numpy(x).double()) for x in (a, b)]
    assert ours == pytest.approx(fid_statistics_to_metric(*theirs, False)["frechet_inception_distance"], rel=1e-8)
    tensors = [torch.from_numpy(value) for one in theirs for value in (one["mu"], one["sigma"])]
    assert ours == pytest.approx(float(_compute_fid(*tensors)), rel=1e-8)


@pytest.mark.parametrize("n", [40, 700])
def test_stored_statistics_give_the_same_number(n, tmp_path):
    a, b = features(n, 100, 0), features(n, 100, 1, 0.1)
    direct = FID().estimate(a, b, seed=0)
    write_moments(tmp_path / "ours.npz", moments(b))
    np.savez(tmp_path / "theirs.npz", mu=b.mean(0, dtype=np.float64), sigma=np.cov(b.astype(np.float64), rowvar=False))
    for file in ("ours.npz", "theirs.npz"):
        assert FID().estimate(a, read_moments(tmp_path / file), seed=0).value == pytest.approx(direct.value, rel=1e-7)
    assert FID().estimate(a, read_moments(tmp_path / "ours.npz"), seed=0).note == direct.note
    assert read_moments(tmp_path / "theirs.npz").count is None


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_stored_statistics_are_read_without_trust(tmp_path):
    """A file that would run code when it is unpickled does not."""
    # kills: statistics-unpickled
    mark = tmp_path / "touched"
    np.savez(tmp_path / "malicious.npz", mu=np.array([Malicious(mark)]), sigma=np.eye(1))
    with pytest.raises(UserError, match="malicious"):
        read_moments(tmp_path / "malicious.npz")
    assert not mark.exists()
    mu, sigma = np.zeros(3), np.eye(3)
    np.savez(tmp_path / "pickled.npz", mu=np.array([object()]), sigma=sigma)
    np.savez(tmp_path / "shape.npz", mu=mu, sigma=np.eye(4))
    np.savez(tmp_path / "odd.npz", mu=mu, sigma=np.triu(np.ones((3, 3))))
    np.savez(tmp_path / "nan.npz", mu=mu, sigma=sigma * math.nan)
    np.savez(tmp_path / "half.npz", mu=mu)
    (tmp_path / "text.npz").write_text("no")
    for file in ("absent", "pickled", "shape", "odd", "nan", "half", "text"):
        with pytest.raises(UserError, match=file):
            read_moments(tmp_path / f"{file}.npz")
    np.savez(tmp_path / "fine.npz", mu=mu, sigma=sigma)
    with pytest.raises(UserError, match="3 features cannot be compared with 4"):
        FID().estimate(features(9, 4, 0), read_moments(tmp_path / "fine.npz"), seed=0)


def loop(x, y, pairs=0):
    """1000 x KID, term by term; the first `pairs` rows of x and y are partners."""
    n, m, d = len(x), len(y), x.shape[1]
    k = lambda a, b: (float(a @ b) / d + 1) ** 3  # noqa: E731
    xx = [k(x[i], x[j]) for i in range(n) for j in range(n) if i != j]
    yy = [k(y[i], y[j]) for i in range(m) for j in range(m) if i != j]
    xy = [k(x[i], y[j]) for i in range(n) for j in range(m) if not i == j < pairs]
    return 1000 * (np.mean(xx) + np.mean(yy) - 2 * np.mean(xy))


def matched(x, y, pairs):
    """KID where row i of x and of y belong to one item for i < pairs."""
    partners = np.where(np.arange(len(x)) < pairs, np.arange(len(x)), -1)
    return KID().estimate_matched(x, y, partners, seed=0)


@pytest.mark.parametrize(("n", "m", "pairs"), [(9, 9, 0), (9, 9, 9), (7, 12, 7), (12, 7, 4), (5, 8, 0), (2, 5, 1)])
def test_kid_is_the_plain_double_loop(n, m, pairs):
    # kills: kid-degree-two, kid-without-dimension, kid-biased, kid-counts-own-pair, kid-cross-by-all-pairs
    x, y = features(n, 6, 0).astype(np.float64), features(m, 6, 1, 0.3).astype(np.float64)
    assert matched(x, y, pairs).value == pytest.approx(loop(x, y, pairs), rel=1e-10)
    if pairs == 0:
        assert KID().estimate(x, y, seed=0) == matched(x, y, 0)
    elif n == m == pairs:
        assert KIDPaired().estimate(x, y, seed=0).value == pytest.approx(loop(x, y, pairs), rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 90), (90, 60)])
def test_kid_of_sets_that_are_apart_agrees_with_torch_fidelity(n, m):
    """Their KID of one subset of all images; of sets of two sizes the mean over many random subsets."""
    # kills: kid-leaves-out-strangers
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    x, y = features(n, 10, 0).astype(np.float64), features(m, 10, 1, 0.3).astype(np.float64)
    options = {"kid_subset_size": min(n, m), "rng_seed": 0, "verbose": False, "kid_kernel": "poly"}
    options |= {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    options["kid_subsets"] = 1 if n == m else 3000
    theirs = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)[KEY_METRIC_KID_MEAN]
    ours = KID().estimate(x, y, seed=0)
    if n == m:
        assert ours.value == pytest.approx(1000 * theirs, rel=1e-10)
        assert ours.value == pytest.approx(1000 * float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))), rel=1e-10)
    else:
        assert ours.value == pytest.approx(1000 * theirs, abs=0.05 * ours.standard_error)


def test_paired_kid_is_torch_fidelitys_u_statistic():
    from torch_fidelity.metric_kid import mmd2

    x, y = features(60, 10, 0).astype(np.float64), features(60, 10, 1, 0.3).astype(np.float64)
    xx, xy, yy = ((a @ b.T / 10 + 1) ** 3 for a, b in ((x, x), (x, y), (y, y)))
    ours = KIDPaired().estimate(x, y, seed=0)
    assert ours.value == pytest.approx(1000 * mmd2(xx, xy, yy, mmd_est="u-statistic"), rel=1e-10)
    everything = matched(x, y, 60)
    assert (ours.value, ours.standard_error) == pytest.approx((everything.value, everything.standard_error), rel=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.95])
def test_kid_is_unbiased(rho):
    """Equal distributions give 0 on average, also where image i was restored from what was made of reference i."""
    # kills: kid-biased, kid-counts-own-pair
    rng = np.random.default_rng(0)
    values = []
    for _ in range(600):
        x, noise = rng.normal(size=(2, 20, 4))
        values.append(matched(x, rho * x + math.sqrt(1 - rho * rho) * noise, 20).value)
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


@pytest.mark.parametrize(("n", "m"), [(5, 6), (10, 15), (20, 40), (29, 30), (20, 120)])
def test_perfect_restorations_score_0_on_average(n, m):
    """The first n of m clean images, restored without a fault, against all m: 0 on average, for any n < m.

    With the partners' pairs in the cross term it would be about -2 (E k(y, y) - E k(y, y')) / m: many standard errors.
    """
    # kills: kid-counts-own-pair, kid-forgets-partners, kid-cross-by-all-pairs
    rng = np.random.default_rng(n)
    draws = [rng.gamma(2.0, 0.5, (m, 4)) for _ in range(800)]
    values = [matched(y[:n], y, n).value for y in draws]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    k = lambda a, b: 1000 * ((a * b).sum(-1) / 4 + 1) ** 3  # noqa: E731
    biased = -2 * np.mean([k(y[0], y[0]) - k(y[0], y[1]) for y in draws]) / m
    assert biased < -6 * error, "or the old form would pass too"


@pytest.mark.parametrize(("n", "m", "pairs"), [(30, 90, 30), (60, 60, 20), (90, 30, 30), (40, 80, 0)])
def test_kid_interval_covers_sets_with_partners(n, m, pairs):
    """The standard error is that of repeated draws where an item's restoration moves with its clean image."""
    # kills: kid-partners-left-out-apart, kid-error-quartered
    rng = np.random.default_rng(5)
    estimates = []
    for _ in range(300):
        y = rng.uniform(-1, 1, (m, 3)) ** 3 + 0.5
        x = rng.uniform(-1, 1, (n, 3)) ** 3 + 0.8
        x[:pairs] = y[:pairs] + 0.3
        estimates.append(matched(x, y, pairs))
    spread = np.std([estimate.value for estimate in estimates], ddof=1)
    assert np.mean([e.standard_error for e in estimates]) == pytest.approx(spread, rel=0.15)
    truth = np.mean([estimate.value for estimate in estimates])
    assert 0.88 <= np.mean([e.low <= truth <= e.high for e in estimates]) <= 0.99


def test_kid_jackknife_leaves_an_item_out_whole():
    """The variance by its definition: KID again without each item, restoration and partner together."""
    # kills: kid-partners-left-out-apart, kid-error-quartered
    x, y, pairs = features(7, 4, 0).astype(np.float64), features(9, 4, 1, 0.3).astype(np.float64), 4
    gone = lambda a, *rows: np.delete(a, rows, 0)  # noqa: E731
    strata = [
        [loop(gone(x, i), gone(y, i), pairs - 1) for i in range(pairs)],
        [loop(gone(x, i), y, pairs) for i in range(pairs, 7)],
        [loop(x, gone(y, i), pairs) for i in range(pairs, 9)],
    ]
    variance = sum((len(v) - 1) / len(v) * np.square(np.array(v) - np.mean(v)).sum() for v in strata)
    assert matched(x, y, pairs).standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("pairs", [0, 5])
def test_kid_of_a_set_larger_than_a_block_is_that_of_its_groups(monkeypatch, pairs):
    """Pairs within groups of a block's size, all pairs of the two sets; the jackknife leaves an item out of its own."""
    # kills: kid-group-counts-as-the-whole, kid-partners-of-the-first-group-alone
    monkeypatch.setattr(kernel, "BLOCK", 4)
    x, y = features(6, 3, 0).astype(np.float64), features(11, 3, 1, 0.3).astype(np.float64)
    k = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731

    def value(x_out=-1, y_out=-1):
        own = []
        for rows, out in ((x, x_out), (y, y_out)):
            groups = np.array_split(np.arange(len(rows)), math.ceil(len(rows) / 4))
            means = [
                np.mean([k(rows[i], rows[j]) for i in g for j in g if i != j and out not in (i, j)]) for g in groups
            ]
            own.append(np.mean(means))
        cross = [
            k(x[i], y[j]) for i in range(6) for j in range(11)
            if i != x_out and j != y_out and (i != j or i >= pairs)
        ]  # fmt: skip
        return sum(own) - 2 * np.mean(cross)

    strata = [
        [value(i, i) for i in range(pairs)], [value(i, -1) for i in range(pairs, 6)],
        [value(-1, i) for i in range(pairs, 11)],
    ]  # fmt: skip
    variance = sum((len(v) - 1) / len(v) * np.square(np.array(v) - np.mean(v)).sum() for v in strata if v)
    assert kernel_distance(x, y, pairs) == pytest.approx((value(), variance), rel=1e-9)


def test_paired_difference_of_two_rows():
    """The difference of the two values, with the error of the difference: far below that of either row."""
    # kills: paired-difference-is-a-sum
    rng = np.random.default_rng(2)
    differences, seen = [], []
    for _ in range(150):
        y = rng.normal(size=(40, 3))
        first, second = y + 0.4, y + 0.5 + 0.02 * rng.normal(size=y.shape)
        one, other = (KIDPaired().estimate(x, y, seed=0) for x in (first, second))
        found = KIDPaired().difference(first, second, y, seed=0)
        assert found.value == pytest.approx(one.value - other.value, rel=1e-9, abs=1e-9)
        differences.append(found)
        seen.append((one.standard_error, other.standard_error))
    spread = np.std([found.value for found in differences], ddof=1)
    assert np.mean([found.standard_error for found in differences]) == pytest.approx(spread, rel=0.2)
    assert spread < 0.5 * np.hypot(*np.mean(seen, 0))
    with pytest.raises(UserError, match="sets of 4 and 5 images are no pairs"):
        KIDPaired().difference(features(5, 3, 0), features(4, 3, 1), features(5, 3, 2), seed=0)


@pytest.mark.parametrize("pairs", [0, 4, 7], ids=["apart", "some-partners", "all-partners"])
def test_difference_of_means_of_kid_is_the_jackknife_over_items(pairs):
    """Two seeds against one row, with plain loops: the difference of the means again without each item."""
    # kills: kid-difference-unpaired, kid-difference-of-the-first-seed
    y = features(9 if pairs < 7 else 7, 4, 1, 0.3).astype(np.float64)
    rows = [features(7, 4, seed, 0.1 * seed).astype(np.float64) for seed in (2, 3, 4)]
    gone = lambda a, *at: np.delete(a, at, 0)  # noqa: E731
    strata = [[(i, i, pairs - 1) for i in range(pairs)]]
    strata += [[(i, (), pairs) for i in range(pairs, 7)], [((), i, pairs) for i in range(pairs, len(y))]]

    def change(x_out=(), y_out=(), left=pairs):
        one, two, other = (loop(gone(x, x_out), gone(y, y_out), left) for x in rows)
        return (one + two) / 2 - other

    values = [np.array([change(*out) for out in stratum]) for stratum in strata]
    variance = sum((len(v) - 1) / len(v) * np.square(v - v.mean()).sum() for v in values if len(v))
    partners = np.where(np.arange(7) < pairs, np.arange(7), -1)
    found = KID().difference_of_means(rows[:2], rows[2:], y, partners, seed=0)
    assert found.value == pytest.approx(change(), rel=1e-9)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert found.high - found.value == pytest.approx(1.96 * found.standard_error, rel=1e-9)
    if pairs == 7:
        paired = KIDPaired().difference_of_means(rows[:2], rows[2:], y, partners, seed=0)
        assert paired.value == pytest.approx(found.value, rel=1e-9)
    assert FID().difference_of_means(rows[:1], rows[2:], y, partners, seed=0) is None


def test_paired_kid_of_several_seeds_is_the_jackknife_over_pairs():
    # kills: paired-kid-of-the-first-seed, kid-error-halved
    y = features(8, 3, 9, 0.2).astype(np.float64)
    rows = [features(6, 3, seed, 0.2 * seed).astype(np.float64) for seed in (1, 2, 3)]
    partners = np.array([5, 1, -1, 0, 7, 2])  # row 2 has no partner and takes no part
    pairs = [(i, partner) for i, partner in enumerate(partners) if partner >= 0]

    def change(left):
        x_at, y_at = zip(*left, strict=True)
        one, *others = (loop(x[list(x_at)], y[list(y_at)], len(left)) for x in rows)
        return one - np.mean(others)

    values = np.array([change(pairs[:i] + pairs[i + 1 :]) for i in range(5)])
    found = KIDPaired().difference_of_means(rows[:1], rows[1:], y, partners, seed=0)
    assert found.value == pytest.approx(change(pairs), rel=1e-9)
    assert found.standard_error == pytest.approx(math.sqrt(0.8 * np.square(values - values.mean()).sum()), rel=1e-9)


def test_error_of_a_difference_of_kid_is_that_of_repeated_draws(monkeypatch):
    """Two blocks, more clean images than restorations; each row's own error would be several times too large."""
    # kills: kid-difference-unpaired
    monkeypatch.setattr(kernel, "BLOCK", 100)
    rng = np.random.default_rng(4)
    found, own = [], []
    for _ in range(80):
        y = rng.normal(size=(180, 3))
        x = y[:150] + 0.3
        rows = x, x + 0.03 + 0.02 * rng.normal(size=x.shape)
        partners = np.arange(150)
        found.append(KID().difference_of_means(rows[:1], rows[1:], y, partners, seed=0))
        own.append(KID().estimate_matched(rows[0], y, partners, seed=0).standard_error)
    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.35)
    assert spread < 0.5 * np.mean(own)
    with pytest.raises(UserError, match="rows of 4 and 5 images have no paired difference"):
        KID().difference_of_means([features(5, 3, 0)], [features(4, 3, 1)], features(5, 3, 2), partners[:5], seed=0)


@pytest.mark.parametrize("sizes", [(80, 80), (1100, 1100)], ids=["one-block", "two-blocks"])
def test_kid_interval_covers(sizes):
    """The standard error is that of repeated draws, and 95 % of the intervals hold the true value."""
    # kills: kid-error-not-over-blocks
    n, repeats = sizes[0], 150 if sizes[0] < 1000 else 40
    rng = np.random.default_rng(1)
    estimates = [
        KID().estimate(rng.uniform(-0.5, 1.5, (n, 2)), rng.uniform(-1, 1, (n, 2)), seed=0) for _ in range(repeats)
    ]
    truth = 1000 * expected_kid(0.5)
    spread = np.std([estimate.value for estimate in estimates], ddof=1)
    assert np.mean([e.standard_error for e in estimates]) == pytest.approx(spread, rel=0.25)
    inside = np.mean([e.low <= truth <= e.high for e in estimates])
    assert 0.9 <= inside <= 1
    assert np.mean([e.value for e in estimates]) == pytest.approx(truth, abs=4 * spread / math.sqrt(repeats))


def expected_kid(shift):
    """KID of the squares [-1, 1]^2 + shift and [-1, 1]^2: k is a polynomial, so Gauss-Legendre sums are exact."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    mass = np.outer(weights, weights).reshape(-1) / 4
    mean = lambda a, b: mass @ (a @ b.T / 2 + 1) ** 3 @ mass  # noqa: E731
    return mean(grid + shift, grid + shift) + mean(grid, grid) - 2 * mean(grid + shift, grid)


def test_kid_of_a_set_with_itself_and_of_large_sets(monkeypatch):
    x = features(30, 8, 0)
    assert abs(matched(x, x.copy(), 30).value) < 1e-9
    assert abs(KIDPaired().estimate(x, x.copy(), seed=0).value) < 1e-9
    # Blocks are as large as the paper's subsets, and each image is in one of them.
    x, y = features(2500, 4, 2), features(2500, 4, 3, 0.5)
    for estimate in (matched(x, y, 2500), KIDPaired().estimate(x, y, seed=0)):
        assert estimate.standard_error > 0
        assert estimate.value == pytest.approx(KID().estimate(x, y, seed=0).value, rel=0.02)
    assert KID().estimate(x, y, seed=1).value != KID().estimate(x, y, seed=0).value
    # A small set against a large one: all of both take part, up to a limit, whichever is the larger.
    few, whole = x[:40], KID().estimate(x[:40], y, seed=0)
    assert KID().estimate(few, y, seed=1).value == pytest.approx(whole.value, rel=0.01)
    assert KID().estimate(y, few, seed=0).value == pytest.approx(whole.value, rel=0.01)
    monkeypatch.setattr(distribution, "LARGEST", 300)
    fewer = matched(few, y, 40)
    assert fewer.value == pytest.approx(whole.value, abs=4 * fewer.standard_error) and fewer != whole


def test_order_changes_no_digit(tmp_path):
    """Shuffled rows, and rows that lie in a file, give the very same numbers."""
    # kills: order-shows
    for n in (50, 1500):
        a, b = features(n, 24, 0), features(n, 24, 1, 0.1)
        shuffled = np.random.default_rng(2).permutation(n)
        stored = np.lib.format.open_memmap(tmp_path / f"{n}.npy", mode="w+", dtype=np.float32, shape=a.shape)
        stored[:] = a[shuffled]
        for metric in (FID(), KID(), KIDPaired()):
            assert metric.estimate(stored, b[shuffled], seed=0) == metric.estimate(a, b, seed=0)
        for metric in (FID(), KID()):
            assert metric.estimate(a, b[shuffled], seed=0) == metric.estimate(a, b, seed=0)
        half = np.where(np.arange(n) < n // 2, np.arange(n), -1)
        order = np.argsort(shuffled)  # where the rows of b are found in the shuffled ones
        partners = np.where(half < 0, -1, order[half])[shuffled]
        found = KID().estimate_matched(stored, b[shuffled], partners, seed=0)
        assert found == KID().estimate_matched(a, b, half, seed=0)


def test_memory_is_flat(tmp_path):
    """80 MB of features in a file need a few MB of memory."""
    # kills: memory-not-flat
    stored = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float32, shape=(80_000, 256))
    rng = np.random.default_rng(0)
    for start in range(0, len(stored), 8000):
        stored[start : start + 8000] = rng.normal(size=(8000, 256))
    tracemalloc.start()
    moments(stored)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6, peak


def test_notes_and_refusals():
    few = FID().estimate(features(10, 4, 0), features(3000, 4, 1), seed=0)
    assert few.note.startswith("n = 10 < 2048: dominated by sample-size bias")
    assert all(map(math.isnan, (few.low, few.high, few.standard_error)))
    assert FID().estimate(features(2048, 4, 0), features(3000, 4, 1), seed=0).note == ""
    for metric in (FID(), KID(), KIDPaired()):
        alone = metric.estimate(
            features(1, 4, 0), features(1 if metric.label.startswith("KID-paired") else 9, 4, 1), seed=0
        )
        assert math.isnan(alone.value)
        assert "at least 2" in alone.note
        with pytest.raises(UserError, match="5 features cannot be compared with 4"):
            metric.estimate(features(9, 4, 0), features(9, 5, 1), seed=0)
    for pairs in (0, 1, 2):
        value, variance = kernel_distance(*np.zeros((2, 2, 3)), pairs)
        assert abs(value) < 1e-12 and math.isnan(variance)
    assert issubclass(FID, FrechetDistance)
    assert frechet_distance(Moments(np.zeros(2), np.eye(2)), Moments(np.ones(2), 2 * np.eye(2))) == pytest.approx(4)


def test_bootstrap_interval():
    """It covers the mean of the population about 95 times in 100, and order, NaN and infinity do it no harm."""
    # kills: bootstrap-of-half
    rng = np.random.default_rng(0)
    sets = rng.gamma(4, 0.25, size=(200, 60))
    intervals = [bootstrap_interval(list(values), 0, resamples=300) for values in sets]
    assert 0.89 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.99
    values = list(sets[0])
    low, high = bootstrap_interval(values, 0)
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / math.sqrt(60), rel=0.15)
    assert bootstrap_interval([*values[::-1], math.nan], 0) == (low, high)
    assert bootstrap_interval(values, 1) != (low, high)
    low, high = bootstrap_interval([math.inf, *values], 0)  # PSNR of one equal pair
    assert 0 < low < high == math.inf
    assert all(map(math.isnan, bootstrap_interval([1.0, math.nan], 0)))
