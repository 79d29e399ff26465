"""Tiles of a trained run: files, seams, sizes, what is refused, and what an interruption leaves."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import UserError, evaluate, load_run
from i2i_bridge.evaluation.subjects import fingerprint_of
from i2i_bridge.images.colour import low_band
from i2i_bridge.runs.restore import restore_files


@pytest.fixture(scope="module")
def run():
    return load_run("pretrained/photos", device="cpu")


def photo(height, width, seed=0):
    """Soft shapes and noise of 20 grey levels."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + y / b) for a, b in draws.uniform(4, 40, (6, 2))]
    shapes = 128 + 25 * sum(waves)[..., None] * draws.uniform(0.5, 1, 3)
    return (shapes + draws.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)


def test_no_seam_shows(run):
    """Gradients across the borders of tiles and in the ramps are those of the whole image, within 2 %."""
    # kills: tile-edges-weigh, tile-overwrites-its-neighbour
    image = photo(200, 232)
    whole, tiled = (run.restore(image, nfe=2, tile=tile, seed=3).astype(np.float64) for tile in (0, 96))
    assert 0 < np.abs(whole - tiled).mean() < 2
    rows, columns = run.tiled(96).method.network.windows(200, 232)
    for axis, spans in ((0, rows), (1, columns)):
        assert len(spans) > 2
        gradients = [np.abs(np.diff(result, axis=axis)).mean((1 - axis, 2)) for result in (whole, tiled)]
        edges = [span.start for span in spans[1:]] + [span.start + 96 for span in spans[:-1]]
        for name, places in (
            ("edges", [edge + k for edge in edges for k in (-1, 0)]),
            ("ramps", [edge + k for edge in edges for k in range(-8, 8)]),
        ):
            of_whole, of_tiles = (values[places].mean() for values in gradients)
            assert abs(of_tiles / of_whole - 1) < 0.02, (axis, name)


def test_sizes(run):
    """Sides that are no multiples of the stride, a tile as large as the image, a tile that is no multiple."""
    # kills: tile-not-rounded-to-the-stride
    image = photo(91, 70)
    whole = run.restore(image, nfe=1)
    assert run.restore(image, nfe=1, tile=61, overlap=13).shape == image.shape
    assert run.tiled(61, 13).tiles == (64, 13)
    for tile in (96, 4096):
        assert np.array_equal(run.restore(image, nfe=1, tile=tile), whole)
    # Narrower than a tile.
    assert run.restore(image[:, :5], nfe=1, tile=32).shape == (91, 5, 3)


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (15, None, "tile 15: at least 16 pixels"),
        (-1, None, "tile -1: at least 16 pixels"),
        (64, 33, "overlap 33: 0 to 32 pixels, half of the tile of 64"),
        (64, 64, "overlap 64: 0 to 32"),
        (64, -1, "overlap -1: 0 to 32"),
        (None, 16, "overlap 16: goes with a tile"),
        (0, 16, "overlap 16: goes with a tile"),
    ],
)
def test_bad_tiles_are_refused_in_one_line(run, tile, overlap, message):
    with pytest.raises(UserError, match=message) as caught:
        run.restore(photo(32, 32), tile=tile, overlap=overlap)
    assert "\n" not in str(caught.value)


def test_files_in_tiles(run, tmp_path):
    """As in Python; progress in tiles; and a folder is restored again where the tiles are others."""
    # kills: tiles-not-recorded, progress-of-tiles-forgotten
    (tmp_path / "in").mkdir()
    Image.fromarray(photo(80, 112)).save(tmp_path / "in" / "a.png")
    Image.fromarray(photo(48, 48)).save(tmp_path / "in" / "small.png")
    tiles, calls = [], []

    def restore(**options):
        return restore_files(
            run, tmp_path / "in", tmp_path / "out", nfe=2, **options,
            report_tiles=lambda *step: tiles.append(step), report_calls=lambda *step: calls.append(step),
        )  # fmt: skip

    outcome = restore(tile=64, overlap=16)
    assert outcome.written == 2 and outcome.nfe == 2
    # 2 rows and 2 columns in each of 2 calls; the small one is whole.
    assert tiles == [(k + 1, 8) for k in range(8)] and calls == [(1, 2), (2, 2)]
    wanted = run.restore(photo(80, 112), nfe=2, tile=64, overlap=16)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), wanted)
    assert restore(tile=64, overlap=16).skipped == 2
    assert restore(tile=64, overlap=24).skipped == 0
    assert restore().skipped == 0 and restore(tile=0).skipped == 2


def test_an_evaluation_knows_its_tiles(run, tmp_path):
    """Other numbers have another fingerprint, and a line under the table; whole, the fingerprint is as it was."""
    # kills: tiles-not-in-the-fingerprint
    tiled = run.tiled(128, 32)
    prints = {fingerprint_of(one) for one in (run, tiled, run.tiled(128, 16), run.tiled(136, 32))}
    assert len(prints) == 4
    assert fingerprint_of(run.in_tiles(0, None)) == fingerprint_of(run)
    assert fingerprint_of(tiled) == fingerprint_of(load_run("pretrained/photos", device="cpu").tiled(128, 32))
    scored = evaluate(tiled, nfe=[1], metrics=["psnr"], count=1, out=tmp_path / "tiles", name="tiles")
    assert "images larger than 128x128 pixels: restored in tiles of that size that share 32" in scored.warnings
    assert scored.fingerprint == fingerprint_of(tiled) and scored.method == "tiles"


def test_tuned_sampling_in_tiles(run):
    """Settings tuned for a number of calls use the same tiled network, whose calls are counted."""
    # kills: tuned-methods-whole
    tuned = dataclasses.replace(run, tuned_methods={2: run.method.with_network(run.method.network)})
    tiled = tuned.tiled(32)
    assert tiled.method_at(2) is not tiled.method and tiled.method_at(2).network is tiled.method.network
    assert tiled.tiles == (32, 8)


def test_frames_of_a_video(run, tmp_path):
    """In the order of their numbers; of one size; what does not move is restored alike in each frame."""
    # kills: frames-by-letter, frames-of-any-size
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("f10", "f9", "f1"):
        Image.fromarray(photo(40, 48)).save(frames / f"{name}.png")
    outcome = restore_files(run, frames, tmp_path / "out", nfe=3, seed=4, tile=32, sequence=True)
    assert [job.name for job in outcome.jobs] == ["f1.png", "f9.png", "f10.png"]
    pictures = [np.asarray(Image.open(tmp_path / "out" / job.name)) for job in outcome.jobs]
    assert np.array_equal(pictures[0], pictures[1]) and np.array_equal(pictures[0], pictures[2])
    Image.fromarray(photo(40, 56)).save(frames / "f2.png")
    with pytest.raises(UserError, match=r"f2\.png: 56x40 pixels, and the first frame of the sequence has 48x40"):
        restore_files(run, frames, tmp_path / "out", sequence=True)
    with pytest.raises(UserError, match="a sequence is a folder of frames"):
        restore_files(run, frames / "f1.png", tmp_path / "one.png", sequence=True)


def test_colours_of_the_input(run, tmp_path):
    """Files and Python alike: the low band is that of X_1, up to rounding to 8 bits."""
    # kills: colour-fix-not-applied, colour-fix-not-recorded
    (tmp_path / "in").mkdir()
    image = photo(64, 96)
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    fixed, plain = (run.restore(image, nfe=1, colour_fix=kind).astype(np.float64) for kind in ("wavelet", "none"))

    def error(result):
        return np.abs(low_band(torch.from_numpy(result - image).permute(2, 0, 1)).numpy()).max()

    assert error(fixed) < 0.5 < error(plain)
    restore_files(run, tmp_path / "in", tmp_path / "out", nfe=1)
    again = restore_files(run, tmp_path / "in", tmp_path / "out", nfe=1, colour_fix="wavelet")
    assert again.skipped == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), fixed.astype(np.uint8))
    hole = np.full((64, 96), 255, np.uint8)
    with pytest.raises(UserError, match="which has a hole"):
        run.restore(image, mask=hole, colour_fix="mean")


def test_an_interruption_leaves_nothing(tmp_path):
    """Ctrl-C in the middle of the tiles: exit code 130, no traceback, and no file, whole or half."""
    # kills: progress-of-tiles-forgotten
    Image.fromarray(photo(512, 512)).save(tmp_path / "large.png")
    command = [
        sys.executable, "-u", "-m", "i2i_bridge.cli", "restore", "pretrained/photos", "large.png", "out/large.png",
        "--tile", "32", "--nfe", "5", "--device", "cpu",
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tmp_path,
        start_new_session=True,
        # Otherwise a test run in the background of a shell, which ignores Ctrl-C, would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("tiles "))
    # 21 rows and columns of tiles in each of 5 calls.
    assert line.startswith("tiles 220/2205")
    os.killpg(process.pid, signal.SIGINT)
    out = process.stdout.read()
    assert process.wait() == 130 and "Traceback" not in out and len(out.splitlines()) <= 2, out
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["large.png"]
