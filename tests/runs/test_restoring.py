"""`restore` on files, for every kind of task with its inputs: image, mask, condition."""

import gc
import os
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import UserError, load_run
from i2i_bridge.degradations.colour import grey
from i2i_bridge.images.pixels import Picture, to_tensor
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.runs.batch import alpha_like, to_batch
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.training.trainer import train


@pytest.fixture
def run_of(tmp_path):
    """A run of a degradation after one step; the tests check format and known pixels, not quality."""

    def make(degradation, task="restoration", **network):
        (tmp_path / "photos").mkdir(exist_ok=True)
        for i in range(3):
            photo(i).save(tmp_path / "photos" / f"{i}.png")
        table = {
            "name": "small",
            "summary": "a small one",
            "task": task,
            "data": {"root": str(tmp_path / "photos"), "source": {"name": "images"}, "size": 32, "crop": "random"},
            "degradation": degradation,
            "network": {"name": "unet", "channels": 8, "channel_mult": [1, 1], "blocks_per_level": 1, **network},
            "train": {"steps": 1, "batch_size": 2, "workers": 0, "precision": "fp32"},
            "sample": {"nfe": 2},
        }
        train(parse_recipe(table, "small"), tmp_path / "run", cpu=True)
        return load_run(tmp_path / "run", device="cpu")

    return make


def photo(seed, size=(44, 36)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def hole(size=(44, 36)):
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[10:20, 12:30] = 255
    return Image.fromarray(pixels)


def test_inpainting_needs_a_mask_and_keeps_what_is_known(run_of, tmp_path):
    # kills: mask-lost-when-restoring
    run = run_of({"name": "inpaint", "mask": "center"})
    source, unknown = photo(7), np.asarray(hole()) > 0
    with pytest.raises(UserError, match="needs a mask"):
        run.restore(source)
    with pytest.raises(UserError, match="the mask is 20x20 pixels and the image 44x36"):
        run.restore(source, mask=hole((20, 20)))
    restored = np.asarray(run.restore(source, mask=hole(), nfe=3))
    assert np.array_equal(restored[~unknown], np.asarray(source)[~unknown])
    assert not np.array_equal(restored[unknown], np.asarray(source)[unknown])
    # What lies under the hole is not read.
    emptied = np.where(unknown[..., None], 0, np.asarray(source)).astype(np.uint8)
    assert np.array_equal(np.asarray(run.restore(Image.fromarray(emptied), mask=hole(), nfe=3)), restored)


def test_a_folder_without_what_its_run_needs_is_refused_once(run_of, tmp_path):
    # kills: missing-mask-per-image, missing-label-per-image
    run = run_of({"name": "inpaint", "mask": "center"})
    masks = tmp_path / "photos"
    for words, wrong in (
        ({}, "needs a mask of the hole"),
        ({"mask": masks, "label": 1}, "takes no label"),
        ({"mask": masks, "condition": masks}, "takes no condition image"),
    ):
        with pytest.raises(UserError, match=wrong):
            restore_files(run, tmp_path / "photos", tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_a_mixture_with_and_without_holes_needs_no_mask(run_of, tmp_path):
    # kills: mixture-refused-without-mask
    kinds = [{"name": "inpaint", "mask": "center"}, {"name": "noise", "std": 0.1}]
    mixed = run_of({"name": "mixture", "degradations": kinds})
    assert restore_files(mixed, tmp_path / "photos", tmp_path / "out").written == 3


def test_a_mask_for_a_degradation_that_draws_one_is_refused(run_of, tmp_path):
    # kills: mask-beside-degrade-ignored
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    Image.new("L", (32, 32), 255).save(tmp_path / "m.png")
    run = run_of({"name": "inpaint", "mask": "center"})
    with pytest.raises(UserError, match="--degrade draws its own mask; leave it out"):
        restore_files(run, tmp_path / "a.png", tmp_path / "b.png", degrade=True, mask=tmp_path / "m.png")
    assert not (tmp_path / "b.png").exists()


def test_masks_of_a_folder_are_found_by_name(run_of, tmp_path):
    # kills: last-mask-of-a-name
    run = run_of({"name": "inpaint", "mask": "center"})
    for folder in ("in", "masks"):
        (tmp_path / folder / "deep").mkdir(parents=True)
    for name in ("a", "deep/b", "c"):
        photo(3).save(tmp_path / "in" / f"{name}.png")
    for name in ("a", "deep/b"):
        hole().save(tmp_path / "masks" / f"{name}.bmp")
    Image.new("L", (44, 36), 0).save(tmp_path / "masks" / "a.png")  # of several with one name the first is taken
    outcome = restore_files(run, tmp_path / "in", tmp_path / "out", mask=tmp_path / "masks")
    assert outcome.written == 2 and outcome.nfe == 2
    assert len(outcome.problems) == 1 and "no mask for" in outcome.problems[0] and "c.png" in outcome.problems[0]
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")) == [
        "a.png",
        "deep/b.png",
    ]


def test_masks_are_named_where_they_mark_nothing_or_all(run_of, tmp_path):
    # kills: masks-not-named
    run = run_of({"name": "inpaint", "mask": "center"})
    photo(7).save(tmp_path / "a.png")
    ones = Image.fromarray((np.asarray(hole()) > 0).astype(np.uint8))
    erased = photo(7)
    erased.putalpha(Image.fromarray(255 - np.asarray(hole())))
    results = []
    for name, image, said in (("white", hole(), None), ("ones", ones, "1 is taken"), ("erased", erased, "transparent")):
        image.save(tmp_path / f"{name}.png")
        outcome = restore_files(run, tmp_path / "a.png", tmp_path / "out.png", mask=tmp_path / f"{name}.png")
        assert len(outcome.notes) == (said is not None) and all(said in note for note in outcome.notes)
        results.append(np.asarray(Image.open(tmp_path / "out.png")))
    assert all(np.array_equal(result, results[0]) for result in results)
    for value, says in ((0, "marks no pixel"), (90, "not a mask")):
        Image.new("L", (44, 36), value).save(tmp_path / "mask.png")
        with pytest.raises(UserError, match=says):
            restore_files(run, tmp_path / "a.png", tmp_path / "out.png", mask=tmp_path / "mask.png")
    Image.new("L", (44, 36), 255).save(tmp_path / "mask.png")
    (note,) = restore_files(run, tmp_path / "a.png", tmp_path / "out.png", mask=tmp_path / "mask.png").notes
    assert "marks every pixel" in note
    with pytest.raises(UserError, match=r"would overwrite the mask .*mask\.png"):
        restore_files(run, tmp_path / "a.png", tmp_path / "mask.png", mask=tmp_path / "mask.png")


def test_a_stopped_folder_of_restorations_goes_on(run_of, tmp_path):
    # kills: done-whatever-the-settings, done-whatever-the-weights
    run = run_of({"name": "jpeg", "quality": 10})
    for i in range(3):
        photo(i, (20, 20)).save(tmp_path / "photos" / f"{i}.png")
    out = tmp_path / "out"

    def again(run=run, **options):
        outcome = restore_files(run, tmp_path / "photos", out, nfe=1, **options)
        return outcome.written, outcome.skipped

    assert again() == (3, 0)
    before = [(path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(out.glob("*.png"))]
    (out / "1.png").unlink()
    assert again() == (1, 2)
    after = [(path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(out.glob("*.png"))]
    assert after[0] == before[0] and after[2] == before[2] and after[1][1] == before[1][1]
    assert again(seed=1) == (3, 0) and again(existing="skip") == (0, 3) and again(existing="overwrite") == (3, 0)
    assert again() == (0, 3)
    # Trained on, in the same folder: the results would be those of the older weights.
    recipe = run.recipe.model_copy(update={"train": run.recipe.train.model_copy(update={"steps": 2})})
    train(recipe, tmp_path / "run", cpu=True)
    later = load_run(tmp_path / "run", device="cpu")
    assert again(later) == (3, 0) and again(later) == (0, 3)


def test_super_resolution_enlarges_a_small_image(run_of, tmp_path):
    run = run_of({"name": "sr4x", "filter": "bicubic"})
    assert run.restore(photo(1, (11, 7))).size == (44, 28)
    transparent = photo(1, (11, 7)).convert("RGBA")
    transparent.putalpha(128)
    restored = run.restore(transparent)
    assert restored.size == (44, 28) and restored.mode == "RGBA"
    assert set(np.asarray(restored)[..., 3].ravel()) == {128}


def test_a_super_resolution_takes_a_mask_of_the_restored_size(run_of):
    """Where the mask is black, the result is the enlarged input, to the code."""
    # kills: mask-of-the-small-image
    run = run_of({"name": "sr4x"})
    small, mask = photo(1, (11, 9)), np.asarray(hole())
    with pytest.raises(UserError, match="the mask is 11x9 pixels and the restored image 44x36"):
        run.restore(small, mask=Image.new("L", (11, 9), 255))
    restored = np.asarray(run.restore(small, mask=hole(), nfe=2))
    repeated = np.asarray(small).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(restored[mask == 0], repeated[mask == 0])
    assert not np.array_equal(restored[mask > 0], repeated[mask > 0])


def test_alpha_is_enlarged_as_smoothly_as_the_picture(run_of):
    """The opacity of a 4x restoration is Pillow's bicubic enlargement of the input's, to the code."""
    # kills: alpha-enlarged-by-nearest
    run = run_of({"name": "sr4x", "filter": "bicubic"})
    transparent = photo(1, (11, 7)).convert("RGBA")
    ramp = np.linspace(0, 255, 77).round().astype(np.uint8).reshape(7, 11)
    transparent.putalpha(Image.fromarray(ramp))
    alpha = np.asarray(run.restore(transparent, nfe=1))[..., 3].astype(int)
    wanted = np.asarray(Image.fromarray(ramp).resize((44, 28), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(alpha - wanted).max() <= 1  # Pillow's own rounding of 8-bit weights
    assert len(np.unique(alpha)) > 77


@pytest.mark.parametrize(
    ("degradation", "kept"),
    [
        ({"name": "sr4x", "filter": "pool"}, (44, 36)),
        ({"name": "inpaint", "mask": "freeform"}, (44, 36)),
        ({"name": "blur", "kernel": "gaussian"}, (44, 36)),
        ({"name": "jpeg", "quality": 10}, (32, 32)),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else "",
)
def test_degrade_starts_from_a_clean_photo(run_of, tmp_path, degradation, kept):
    run = run_of(degradation)
    photo(5).save(tmp_path / "clean.png")
    outcome = restore_files(run, tmp_path / "clean.png", tmp_path / "out" / "x.png", degrade=True, seed=3)
    assert outcome.written == 1
    degraded, restored = (Image.open(tmp_path / "out" / f"{name}.png") for name in ("x-degraded", "x"))
    assert degraded.size == restored.size == kept
    assert not np.array_equal(np.asarray(degraded), np.asarray(photo(5).crop((0, 0, *kept))))


def test_deep_alpha_and_a_condition_of_a_range_keep_their_codes():
    """16-bit opacity is enlarged in 16 bits; the condition is read by data.value_range, as in training."""
    # kills: alpha-cut-at-8-bits, condition-restored-in-its-whole-range
    ramp = np.linspace(0, 65535, 48).reshape(6, 8).astype(np.uint16)
    large = alpha_like(ramp, np.zeros((24, 32, 3), np.uint16))
    assert large.dtype == np.uint16 and large.min() < 700 and large.max() > 64800 and len(np.unique(large)) > 48
    assert alpha_like(None, large[..., None]) is None and alpha_like(ramp, ramp[..., None]) is ramp
    table = {
        "name": "deep", "summary": "a condition", "task": "translation", "train": {"steps": 1},
        "data": {"source": {"name": "images", "root": "."}, "own_condition": True, "value_range": [0.0, 4095.0]},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1, 1], "condition_channels": 1},
    }  # fmt: skip
    recipe = parse_recipe(table, "deep")
    pixels = np.random.default_rng(0).integers(0, 4096, (8, 8, 1)).astype(np.uint16)
    batch = to_batch(recipe, Picture(pixels.repeat(3, 2)), None, Picture(pixels), torch.Generator())
    assert torch.equal(batch["condition"], batch["x_1"][:, :1]) and batch["condition"].max() > 0.9


@pytest.mark.parametrize("degradation", [{"name": "sr4x"}, {"name": "blur"}, {"name": "inpaint"}], ids=str)
def test_degrading_first_keeps_the_opacity(run_of, tmp_path, degradation):
    """The degraded and the restored file have the clean file's alpha, cut to the size that is degraded."""
    # kills: degraded-without-alpha
    run = run_of(degradation)
    clean = photo(5, (46, 37)).convert("RGBA")
    ramp = np.linspace(0, 255, 37 * 46).reshape(37, 46).astype(np.uint8)
    clean.putalpha(Image.fromarray(ramp))
    clean.save(tmp_path / "clean.png")
    restore_files(run, tmp_path / "clean.png", tmp_path / "out" / "x.png", degrade=True, nfe=1)
    degraded, restored = (np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) for name in ("x-degraded", "x"))
    height, width = degraded.shape[:2]
    assert restored.shape == degraded.shape == (height, width, 4)
    assert np.array_equal(degraded[..., 3], ramp[:height, :width])
    lost = 12 if degradation["name"] == "sr4x" else 0  # it was reduced four times between
    assert np.abs(restored[..., 3].astype(int) - ramp[:height, :width]).max() <= lost


@pytest.mark.parametrize("chain", [False, True])
def test_degrading_first_shows_the_network_the_clean_grey_image(run_of, tmp_path, monkeypatch, chain):
    """The condition is the grey image without noise, as in training; x_1 has the noise once."""
    # kills: condition-from-the-noisy-picture
    noisy = {"name": "colorization", "noise_std": 0.5}
    chained = {"name": "compose", "degradations": [noisy, {"name": "noise", "std": 0.1}]}
    run = run_of(chained if chain else noisy, task="translation", condition_channels=3)
    photo(5, (44, 36)).save(tmp_path / "clean.png")
    seen = []
    plain = type(run.method).trajectory
    monkeypatch.setattr(
        type(run.method), "trajectory", lambda self, batch, **k: seen.append(batch) or plain(self, batch, **k)
    )
    restore_files(run, tmp_path / "clean.png", tmp_path / "x.png", degrade=True, nfe=1)
    clean = to_tensor(np.asarray(photo(5, (44, 36))))[None]
    (batch,) = seen
    condition, x_1 = (batch[name][..., :36, :44] for name in ("condition", "x_1"))
    assert (condition - grey(clean)).abs().max() <= 1 / 255 + 1e-6
    assert (x_1 - condition).std().item() == pytest.approx(0.5, rel=0.05)


def test_colorization_turns_grey_into_colour(run_of, tmp_path):
    run = run_of({"name": "colorization", "noise_std": 0.5}, task="translation", condition_channels=3)
    grey = photo(2).convert("L")
    restored = run.restore(grey, seed=1)
    assert restored.mode == "RGB" and restored.size == grey.size
    pixels = np.asarray(restored).astype(int)
    assert np.abs(pixels[..., 0] - pixels[..., 2]).max() > 3
    # The noise of X_1 is of the seed: the same again, another one otherwise.
    assert np.array_equal(np.asarray(run.restore(grey, seed=1)), np.asarray(restored))
    assert not np.array_equal(np.asarray(run.restore(grey, seed=2)), np.asarray(restored))


def test_degrade_without_a_degradation_is_refused(run_of, tmp_path):
    run = run_of({"name": "noise", "std": 0.1})
    pairs = run.recipe.model_copy(update={"degradation": None})
    object.__setattr__(run, "recipe", pairs)
    photo(1).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="learns from pairs and has no degradation"):
        restore_files(run, tmp_path / "a.png", tmp_path / "b.png", degrade=True)
    with pytest.raises(UserError, match="animation_side: shows the states of trajectory=True"):
        restore_files(run, tmp_path / "a.png", tmp_path / "b.png", animation_side=64)
    assert not (tmp_path / "b.png").exists()


CONDITIONED = '''
from pathlib import Path

from i2i_bridge import register_dataset

@register_dataset("mapped")
def mapped(root: str, split: str):
    """Pairs whose network sees a third image, a grey map."""
    clean = sorted(Path(root, "clean").glob("*.png"))
    return [
        {"key": f.stem, "x_0": f, "x_1": f.parents[1] / "noisy" / f.name, "condition": f.parents[1] / "map" / f.name}
        for f in clean
    ]
'''


def test_a_condition_of_ones_own(tmp_path):
    """cond is any image, not only X_1: trained, evaluated and restored with it, refused without."""
    # kills: own-condition-ignored
    from i2i_bridge.evaluation.evaluate import evaluate
    from i2i_bridge.plugins import load_plugin

    (tmp_path / "mine.py").write_text(CONDITIONED)
    load_plugin(tmp_path / "mine.py")
    for side in ("clean", "noisy", "map"):
        (tmp_path / side).mkdir()
        for i in range(3):
            photo(i).convert("L" if side == "map" else "RGB").save(tmp_path / side / f"{i}.png")
    table = {
        "name": "mapped", "summary": "with a map", "task": "translation",
        "data": {"root": str(tmp_path), "source": {"name": "mapped"}, "size": 32, "own_condition": True},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1, 1], "condition_channels": 1},
        "train": {"steps": 1, "batch_size": 2, "lr": 0.1, "workers": 0, "precision": "fp32"}, "sample": {"nfe": 2},
    }  # fmt: skip
    recipe = parse_recipe(table, "mapped")
    item = recipe.build_dataset("train").sample(0)
    assert item["condition"].shape == (1, 32, 32) and item["x_1"].shape == (3, 32, 32)
    # Cut alike: the map is the grey of the very pixels of x_0, to a code.
    luma = (item["x_0"] * item["x_0"].new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    assert float((luma - item["condition"][0]).abs().max()) < 0.01
    train(recipe, tmp_path / "run", cpu=True)
    run = load_run(tmp_path / "run", device="cpu")
    assert evaluate(run, run.recipe.build_dataset("validation"), nfe=[1], metrics=["psnr"]).rows[1].images == 3
    source = tmp_path / "noisy" / "0.png"
    one, other = (np.asarray(run.restore(source, condition=tmp_path / "map" / f"{i}.png")) for i in (0, 1))
    assert not np.array_equal(one, other)
    outcome = restore_files(run, tmp_path / "noisy", tmp_path / "out", condition=tmp_path / "map")
    assert outcome.written == 3
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "0.png")), one)
    with pytest.raises(UserError, match="needs a condition image"):
        run.restore(source)
    with pytest.raises(UserError, match="the condition is 20x20 pixels and the image 44x36"):
        run.restore(source, condition=hole((20, 20)))
    for changes, part in (
        ({"own_condition": False}, "brings a condition of its own, but data.own_condition is False"),
        ({"source": {"name": "paired_folders", "x_0": "clean", "x_1": "noisy"}}, "brings no condition"),
    ):
        wrong = parse_recipe({**table, "data": {**table["data"], **changes}}, "mapped")
        with pytest.raises(UserError, match=part):
            wrong.build_dataset("train").sample(0)
    three = {
        **table["data"],
        "own_condition": False,
        "source": {"name": "paired_folders", "x_0": "clean", "x_1": "noisy"},
    }
    with pytest.raises(UserError, match="the condition has 3 channels, but"):
        parse_recipe({**table, "data": three}, "mapped").build_dataset("train").sample(0)
    with pytest.raises(UserError, match="nothing would see it"):
        parse_recipe({**table, "network": {"name": "unet", "channels": 8, "channel_mult": [1]}}, "mapped")


def test_memory_does_not_grow_with_the_files(run_of, tmp_path):
    # kills: restored-pictures-kept
    run = run_of({"name": "jpeg", "quality": 10})
    (tmp_path / "many").mkdir()
    for i in range(28):
        photo(i, (32, 32)).save(tmp_path / "many" / f"{i:02d}.png")
    held = []

    def weigh(done, total):
        if done not in (16, total):  # torch's and Python's own small caches fill up during the first ones
            return
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
        held.append((sum(t.untyped_storage().nbytes() for t in tensors), tracemalloc.get_traced_memory()[0]))

    tracemalloc.start()
    try:
        restore_files(run, tmp_path / "many", tmp_path / "out", report=weigh)
    finally:
        tracemalloc.stop()
    (tensors, early), (tensors_late, late) = held
    one = 32 * 32 * 3  # bytes of one picture, an eighth of what a float32 one and its restoration take
    assert tensors_late - tensors < one and late - early < 10 * one, held


def test_a_folder_that_cannot_be_written_is_named_before_the_network_is_called(run_of, tmp_path):
    run = run_of({"name": "noise", "std": 0.1})
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        photo(1).save(tmp_path / "in" / name)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir(mode=0o500)
    places = ["file/out"] if os.geteuid() == 0 else ["file/out", "locked", "locked/out"]  # root may write anywhere
    for source, target in [("in", place) for place in places] + [("in/a.png", "file/out/a.png")]:
        with pytest.raises(UserError, match=r"cannot be written .*choose another folder"):
            restore_files(run, tmp_path / source, tmp_path / target, report_calls=lambda done, total: 1 / 0)


@pytest.mark.parametrize("nfe", ["5", 2.5, 0, True])
def test_a_number_of_calls_is_checked_before_any_file(run_of, tmp_path, nfe):
    photo(1).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="give a number from 1 to 1000"):
        restore_files(run_of({"name": "noise", "std": 0.1}), tmp_path / "a.png", tmp_path / "b.png", nfe=nfe)


def test_a_link_in_a_folder_of_restorations_is_not_followed(run_of, tmp_path):
    # kills: results, steps and degraded inputs written through a folder that is a link
    run = run_of({"name": "noise", "std": 0.1})
    (tmp_path / "in" / "sub").mkdir(parents=True)
    photo(1).save(tmp_path / "in" / "sub" / "a.png")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "theirs")
    for degrade in (False, True):
        done = restore_files(run, tmp_path / "in", tmp_path / "out", trajectory=True, degrade=degrade)
        assert done.written == 0 and len(done.problems) == 1 and "'sub' is a link" in done.problems[0]
    assert not list((tmp_path / "theirs").iterdir())
