"""Data that are not 8-bit colour, from files through training to restored files: 16 bits, floats, any channels."""

import numpy as np
import pytest
from PIL import Image

from i2i_bridge import UserError, load_run
from i2i_bridge.cli.preview import contact_sheet
from i2i_bridge.evaluation.evaluate import evaluate
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.pixels import Picture, to_pixels, to_tensor
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.training.trainer import train

KINDS = {
    "16-bit grey, 12 of them used": (np.uint16, 1, ".png", [0, 4095]),
    "16-bit colour": (np.uint16, 3, ".tif", None),
    "float grey": (np.float32, 1, ".tif", [-1000.0, 3000.0]),
    "five channels": (np.uint8, 5, ".npy", None),
    "two float channels": (np.float32, 2, ".npy", [0.0, 1.0]),
}


def pixels_of(dtype, channels, value_range, seed):
    low, high = value_range or (0, np.iinfo(dtype).max)
    # Smooth: the geometry of training may resize.
    y, x = np.mgrid[0:40, 0:36] / 40
    waves = [np.sin(3 * x + 5 * y + seed + channel) for channel in range(channels)]
    values = low + (high - low) * (0.5 + 0.45 * np.stack(waves, axis=2))
    return (np.rint(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def recipe(kind, tmp_path):
    dtype, channels, suffix, value_range = kind
    for i in range(3):
        for folder in ("clean", "noisy"):
            picture = Picture(pixels_of(dtype, channels, value_range, i))
            write_picture(tmp_path / "data" / folder / f"{i}{suffix}", picture)
    source = {"name": "paired_folders", "root": str(tmp_path / "data"), "x_0": "clean", "x_1": "noisy"}
    data = {"source": source, "size": 32, "validation_size": 32, "resize": "none", "channels": channels}
    table = {
        "name": "deep",
        "summary": "deep pixels",
        "task": "restoration",
        "data": data if value_range is None else {**data, "value_range": value_range},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1, 1], "blocks_per_level": 1},
        # So small a step leaves the output at 0, which for this target means x_0_hat = X_t: NFE 1 returns its input.
        "train": {"steps": 1, "batch_size": 2, "workers": 0, "precision": "fp32", "lr": 1e-12},
        "evaluate": {"nfe": [1], "metrics": ["psnr", "ssim", "lpips"]},
    }
    return parse_recipe(table, "deep")


def test_pixels_go_in_and_come_out_as_they_were(kind, recipe, tmp_path):
    # kills: range-ignored-in-writing
    dtype, channels, suffix, value_range = kind
    train(recipe, tmp_path / "run", cpu=True)
    run = load_run(tmp_path / "run", device="cpu")
    brought = pixels_of(dtype, channels, value_range, 7)
    write_picture(tmp_path / f"in{suffix}", Picture(brought))
    restore_files(run, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", nfe=1)
    restored = read_picture(tmp_path / f"out{suffix}").pixels
    assert restored.dtype == dtype and restored.shape == brought.shape
    span = np.subtract(*(value_range or (0, np.iinfo(dtype).max))[::-1])
    if np.dtype(dtype).kind == "u":
        assert np.array_equal(restored, brought)
    else:
        assert np.abs(restored - brought).max() < 1e-6 * span
    from_memory = run.restore(brought, nfe=1)
    assert from_memory.dtype == dtype and np.array_equal(from_memory, restored)


def test_it_is_scored_and_shown(kind, recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("I2I_WEIGHTS_DIR", raising=False)
    dtype, channels, _, _ = kind
    train(recipe, tmp_path / "run", cpu=True)
    run = load_run(tmp_path / "run", device="cpu")
    result = evaluate(run, recipe.build_dataset("validation"), nfe=[1], metrics=["psnr", "lpips"])
    # The pairs are equal and the bridge changes nothing: only rounding to the file's own codes keeps this exact.
    # kills: scored-in-8-bits
    psnr = {row.name: row.metrics["psnr"].value for row in result.rows}
    assert psnr["input"] == float("inf") and (psnr["nfe 1"] == float("inf") or dtype == np.float32)
    assert ("of 1 or 3 channels" in result.skipped["lpips"]) == (channels not in (1, 3))
    assert "x_0" in contact_sheet(recipe, tmp_path / "sheet.png", rows=2, split="train")
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"


def test_one_code_of_the_files_own_depth_is_seen_by_the_score(kind, recipe, tmp_path):
    """Sources one code off (of floats, a thousandth of the range): 20 log10(range / step) dB."""
    # kills: scored-in-8-bits
    dtype, _, suffix, value_range = kind
    train(recipe, tmp_path / "run", cpu=True)
    span = float(np.subtract(*(value_range or (0, np.iinfo(dtype).max))[::-1]))
    step = 1 if np.dtype(dtype).kind == "u" else span / 1000
    for file in (tmp_path / "data" / "noisy").glob(f"*{suffix}"):
        write_picture(file, Picture(read_picture(file).pixels + np.asarray(step, dtype)))
    run = load_run(tmp_path / "run", device="cpu")
    result = evaluate(run, recipe.build_dataset("validation"), nfe=[1], metrics=["psnr"])
    psnr = {row.name: row.metrics["psnr"].value for row in result.rows}
    assert psnr["input"] == pytest.approx(20 * np.log10(span / step), abs=0.1)


def test_range_maps_to_minus_one_and_one():
    codes = np.array([[[0], [4095], [2047]]], np.uint16)
    x = to_tensor(codes, (0, 4095))
    assert x.flatten()[:2].tolist() == [-1, 1] and np.array_equal(to_pixels(x, np.uint16, (0, 4095)), codes)
    # Values beyond the range are kept inside, and clamped in files.
    high = to_tensor(np.array([[[8190]]], np.uint16), (0, 4095))
    assert high.item() == pytest.approx(3) and to_pixels(high, np.uint16, (0, 4095)).item() == 4095


def test_floats_without_a_range_are_refused_in_one_line(tmp_path):
    write_picture(tmp_path / "data" / "a.tif", Picture(np.zeros((16, 16, 1), np.float32)))
    table = {
        "name": "floats",
        "summary": "no range",
        "task": "restoration",
        "data": {"source": {"name": "images", "root": str(tmp_path / "data")}, "size": 16, "channels": 1},
        "degradation": {"name": "noise", "std": 0.1},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1},
        "train": {"steps": 1},
    }
    dataset = parse_recipe(table, "floats").build_dataset("train")
    with pytest.raises(UserError, match=r"a\.tif: float pixels have no known range; set data\.value_range"):
        dataset[0]
    table["data"]["value_range"] = [1.0, 0.0]
    with pytest.raises(UserError, match="value_range"):
        parse_recipe(table, "floats")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_sixteen_bit_colour_survives(tmp_path, suffix, alpha):
    """Pillow alone would drop the low byte."""
    # kills: low-byte-dropped
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    opacity = rng.integers(0, 65536, (9, 7), dtype=np.uint16) if alpha else None
    write_picture(tmp_path / f"a{suffix}", Picture(pixels, opacity))
    picture = read_picture(tmp_path / f"a{suffix}")
    assert picture.pixels.dtype == np.uint16 and np.array_equal(picture.pixels, pixels)
    assert (picture.alpha is None) if opacity is None else np.array_equal(picture.alpha, opacity)


def test_arrays_are_read_without_trust(tmp_path):
    cases = {
        "objects.npy": np.array([[{"a": 1}]], dtype=object),
        "line.npy": np.zeros(5, np.uint8),
        "whole.npy": np.zeros((4, 4), np.int64),
        "nan.npy": np.full((4, 4), np.nan, np.float32),
    }
    for name, array in cases.items():
        np.save(tmp_path / name, array)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "nan.npy").read_bytes()[:-8])
    (tmp_path / "text.npy").write_text("not an array")
    for name in [*cases, "cut.npy", "text.npy", "missing.npy"]:
        with pytest.raises(UserError) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value), name
