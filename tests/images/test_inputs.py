"""`run.restore` from Python: every type of image is accepted, and the result has the same type."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from test_restoring import photo, run_of  # noqa: F401  a fixture

from i2i_bridge import UserError


@pytest.fixture
def run(run_of, tmp_path):  # noqa: F811
    photo(1, (20, 12)).save(tmp_path / "a.png")
    return run_of({"name": "jpeg", "quality": 10})


def test_every_form_gives_the_same_pixels_in_its_own_form(run, tmp_path):
    # kills: range-not-heeded, samples-all-alike, array-of-another-type
    # also: channels taken for rows; results of another form
    codes = np.asarray(Image.open(tmp_path / "a.png"))
    wanted = run.restore(codes, nfe=1)
    assert wanted.shape == (12, 20, 3) and wanted.dtype == np.uint8
    tensor = torch.from_numpy(codes.copy()).permute(2, 0, 1)
    floats = (codes / 255).astype(np.float32)
    for given in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        Image.fromarray(codes),
    ):
        assert np.array_equal(np.asarray(run.restore(given, nfe=1)), wanted)

    back = run.restore(tensor, nfe=1)
    assert back.dtype == torch.uint8 and np.array_equal(back.permute(1, 2, 0).numpy(), wanted)
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        scaled = torch.from_numpy(floats).permute(2, 0, 1) * (high - low) + low
        restored = run.restore(scaled, nfe=1, value_range=(low, high))
        assert restored.dtype == torch.float32 and restored.shape == (3, 12, 20)
        found = (restored - low) / (high - low) * 255
        assert (found.permute(1, 2, 0) - torch.from_numpy(wanted.astype(np.float32))).abs().max() < 0.51
    half = run.restore(tensor.half() / 255, nfe=1, value_range=(0, 1))
    assert half.dtype == torch.float16
    for dtype in (np.float16, np.float32, np.float64):
        array = run.restore(floats.astype(dtype), nfe=1, value_range=(0, 1))
        assert array.dtype == dtype and np.abs(array.astype(float) * 255 - wanted).max() < 0.6
        assert run.restore(floats.astype(dtype)[None], nfe=1, value_range=(0, 1)).dtype == dtype

    # Several at once, each as alone.
    other = np.ascontiguousarray(codes[::-1])
    alone = run.restore(other, nfe=1)
    assert np.array_equal(run.restore(np.stack([codes, other]), nfe=1), np.stack([wanted, alone]))
    batch = run.restore(torch.stack([tensor, tensor.flip(1)]), nfe=1)
    assert batch.shape == (2, 3, 12, 20) and np.array_equal(batch[1].permute(1, 2, 0).numpy(), alone)
    mixed = run.restore([tmp_path / "a.png", other, tensor[None]], nfe=1)
    assert isinstance(mixed[0], Image.Image) and np.array_equal(np.asarray(mixed[0]), wanted)
    assert np.array_equal(mixed[1], alone) and mixed[2].shape == (1, 3, 12, 20)

    told = []
    samples = run.restore([codes, other], nfe=2, samples=3, seed=5, report=lambda *step: told.append(step))
    assert told == [(i, 12) for i in range(1, 13)]
    assert len(samples) == 3 and all(len(one) == 2 for one in samples)
    for k, one in enumerate(samples):
        assert np.array_equal(one[1], run.restore(other, nfe=2, seed=5 + k))
    assert not np.array_equal(samples[0][0], samples[1][0])


def test_what_is_no_image_is_told_what_is_one(run):
    # kills: endless-range, image-without-pixels, seed-of-a-fraction
    # kills: floats-far-above-their-range, floats-far-below-their-range
    # also: the tensor itself in the message; floats whose range nobody said
    image = torch.rand(3, 12, 20)
    for given, options, says in (
        (image, {}, r"no known range.* value_range=\(0, 1\) or \(-1, 1\); or give uint8"),
        (image.numpy().transpose(1, 2, 0), {}, "no known range"),
        (image * 255, {"value_range": (0, 1)}, r"beyond value_range=\(0, 1\)"),
        (image * 1.25, {"value_range": (0, 1)}, r"beyond value_range=\(0, 1\)"),
        (image - 0.25, {"value_range": (0, 1)}, r"beyond value_range=\(0, 1\)"),
        (image, {"value_range": (1, 0)}, "value_range"),
        *((image, {"value_range": ends}, "give .low, high.") for ends in (1, (0,), (0, 1, 2), "ab", (0, math.inf))),
        (image, {"value_range": (-1e308, 1e308)}, "give .low, high."),
        (Image.new("RGB", (0, 3)), {}, "an image of 0x3 pixels"),
        (image, {"value_range": (0, 1), "seed": 3.0}, "seed 3.0: give a whole number"),
        (image[0], {}, r"a tensor of shape \(12, 20\); an image is \(C, H, W\)"),
        (image.long(), {}, "a tensor of torch.int64"),
        (image.permute(1, 2, 0), {"value_range": (0, 1)}, "12 channels cannot become one of 3"),
        ({"image": image}, {}, "not an image: dict; give a file"),
        (None, {}, "not an image: NoneType"),
        ([], {}, "a list of no images"),
        (np.zeros((0, 4, 4, 3), np.uint8), {}, "no images"),
        (b"nothing", {}, r"the bytes given: not a readable image \(none of PNG, JPEG"),
        (np.zeros((12, 20, 3), np.uint8), {"samples": 0}, "samples=0"),
        (np.zeros((12, 20, 3), np.uint8), {"nfe": 0}, "nfe 0"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            run.restore(given, **options)
        assert len(str(caught.value)) < 260


def test_masks_may_be_boolean_and_one_for_all(run_of):  # noqa: F811
    # kills: booleans-refused, one mask for each image needed, masks exchanged
    run = run_of({"name": "inpaint", "mask": "center"})
    images = np.stack([np.asarray(photo(i, (20, 12))) for i in range(2)])
    hole = np.zeros((12, 20), bool)
    hole[3:9, 4:9] = True
    white = hole.astype(np.uint8) * 255
    wanted = run.restore(images, mask=white, nfe=1)
    assert np.array_equal(wanted[:, ~hole], images[:, ~hole]) and not np.array_equal(wanted, images)
    masks = (hole, torch.from_numpy(hole), torch.from_numpy(hole)[None], torch.from_numpy(hole)[None].float())
    for mask in (*masks, Image.fromarray(white), [hole, white], np.stack([hole, hole])[..., None]):
        assert np.array_equal(run.restore(images, mask=mask, nfe=1), wanted)
    shifted = run.restore(images, mask=[hole, np.roll(hole, 5, 1)], nfe=1)
    assert np.array_equal(shifted[0], wanted[0]) and np.array_equal(shifted[1][hole], images[1][hole])
    with pytest.raises(UserError, match="3 images as mask for 2"):
        run.restore(images, mask=[hole] * 3)


def test_a_run_is_one_line(run):
    # kills: a page of settings and weights in a notebook
    assert len(repr(run)) < 200 and "recipe 'small', step 1, cpu" in repr(run)
