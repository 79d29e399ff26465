"""The evaluation loop: results depend on the images only, records are reused, and rows are complete or absent."""

import dataclasses
import errno
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from forking import together
from PIL import Image

from i2i_bridge import load_run
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation import pictures, subjects
from i2i_bridge.evaluation.evaluate import (
    ensure_rows,
    evaluate,
    folder_subject,
    open_evaluation,
    read_evaluation,
)
from i2i_bridge.evaluation.loop import measure
from i2i_bridge.evaluation.records import Record, Records
from i2i_bridge.evaluation.scores import mean
from i2i_bridge.images.pixels import to_pixels, to_tensor
from i2i_bridge.methods.factory import build_method
from i2i_bridge.metrics import weights
from i2i_bridge.metrics.base import Estimate, Extractor, SetMetric
from i2i_bridge.metrics.distribution import KernelDistance
from i2i_bridge.metrics.frechet import Moments, frechet_distance, moments, write_moments
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.registry import register_extractor, register_metric
from i2i_bridge.runs.run import Run
from i2i_bridge.training.trainer import train

METRICS = ["psnr", "ssim", "fd-means", "kid-means", "diversity-rms"]


class Pointwise(torch.nn.Module):
    """A network that treats every pixel alone, so that batches cannot change its digits."""

    stride = 1

    def __init__(self, gain=0.4):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, x_t, t, condition=None):
        return torch.tanh(self.gain * x_t) * (1 + t[:, None, None, None])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small feature network, and a clock that stands still."""

    @register_extractor("means")
    class Means(Extractor):
        dimension = 6

        def __call__(self, images):
            return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)

    monkeypatch.setattr(subjects.time, "perf_counter", lambda: 0.0)
    monkeypatch.delenv("I2I_WEIGHTS_DIR", raising=False)


def photo(seed, side=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    for split, count in (("train", 2), ("val", 5)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(count):
            photo(i + 10 * (split == "val")).save(tmp_path / "photos" / split / f"p{i}.png")
    return tmp_path / "photos"


def recipe_of(photos, **changes):
    table = {
        "name": "small",
        "summary": "a small one",
        "task": "restoration",
        "data": {"root": str(photos), "source": {"name": "images"}, "size": 16, "resize": "none"},
        "degradation": {"name": "noise", "std": 0.3},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1},
        "train": {"steps": 1, "batch_size": 2, "workers": 0, "precision": "fp32"},
        "evaluate": {"metrics": ["psnr"]},
    }
    return parse_recipe(table | changes, "small")


def run_of(recipe, folder, gain=0.4, step=7):
    return Run(folder, recipe, build_method(recipe, Pointwise(gain)), step, torch.device("cpu"))


@pytest.fixture
def run(photos, tmp_path):
    return run_of(recipe_of(photos), tmp_path / "run")


def evaluated(run, nfe=(1, 3), metrics=METRICS, dataset=None, **options):
    rules = options.pop("protocol", None) or open_evaluation(run.recipe).rules
    return evaluate(
        run,
        dataset or open_evaluation(run.recipe, rules).dataset,
        nfe=list(nfe),
        metrics=metrics,
        protocol=rules,
        **options,
    )


def json_of(run, protocol="held-out"):
    return (run.folder / "evaluation" / protocol / "evaluation.json").read_bytes()


@pytest.fixture
def restored(monkeypatch):
    """The (row, key, draw) that were restored, without the trial of how many calls a method makes."""
    done = []
    original = subjects.RunSubject.restore

    def counted(self, row, items, draws):
        if getattr(self, "asked", False):
            done.extend((row, item["key"], draw) for item, draw in zip(items, draws, strict=True))
        return original(self, row, items, draws)

    trial = subjects.RunSubject.rows

    def rows(self, first):
        found = trial(self, first)
        self.asked = True
        return found

    monkeypatch.setattr(subjects.RunSubject, "restore", counted)
    monkeypatch.setattr(subjects.RunSubject, "rows", rows)
    return done


def test_what_lies_on_disk(run):
    # kills: draws-all-the-same
    result = evaluated(run)
    home = run.folder / "evaluation" / "held-out"
    assert [(row.name, row.nfe, row.images) for row in result.rows] == [
        ("input", 0, 5),
        ("nfe 1", 1, 5),
        ("nfe 3", 3, 5),
    ]
    assert list(result.rows[0].metrics) == METRICS and result.step == 7 and result.method == "bridge"
    assert math.isnan(result.rows[0].metrics["diversity-rms"].value), "one input has no diversity"
    assert result.rows[2].metrics["diversity-rms"].value > 0
    psnr = result.rows[1].metrics["psnr"]
    assert psnr.low < psnr.value < psnr.high and psnr.standard_error > 0
    assert result.protocol.id.startswith("held-out@1 ") and len(result.protocol.id.split()[1]) == 12
    assert any("only 5 images" in line for line in result.warnings) and any("2048" in line for line in result.warnings)
    lines = (home / "per_image.csv").read_text().splitlines()
    assert lines[0] == "key,row,nfe,seconds,psnr,ssim,diversity-rms" and len(lines) == 1 + 5 * 3
    scores = [float(line.split(",")[4]) for line in lines if ",nfe 1," in line]
    assert psnr.value == pytest.approx(np.mean(scores))
    for row in ("input", "clean", "nfe-1", "nfe-3"):
        assert [path.name for path in sorted((home / "images" / row).iterdir())] == [
            f"000{i}-p{i}.png" for i in range(5)
        ]
    table = json.loads((home / "evaluation.json").read_text())
    assert set(table["rows"][0]) == {"name", "nfe", "images", "metrics", "seconds_per_image"}
    assert set(table["rows"][0]["metrics"]["psnr"]) == {"value", "low", "high", "standard_error", "note"}
    assert table["rows"][0]["metrics"]["diversity-rms"]["value"] == "nan"


def test_data_digest_is_of_the_scored_pixels_sorted_by_key(run):
    """kills: a digest of files, of floats, or in the order of the dataset."""
    result = evaluated(run, nfe=[1], metrics=["psnr"])
    home = run.folder / "evaluation" / "held-out" / "images"
    each = []
    for i in range(5):
        total = hashlib.sha256()
        for side in ("clean", "input"):
            pixels = np.asarray(Image.open(home / side / f"000{i}-p{i}.png"))
            total.update(f"|u1{pixels.shape}".encode() + pixels.tobytes())
        each.append(total.hexdigest())
    assert result.data.digest == hashlib.sha256("".join(each).encode()).hexdigest() and result.data.items == 5


def test_stopped_anywhere_it_goes_on_to_the_same_bytes(run, restored, monkeypatch):
    """kills: records-never-read, and numbers that depend on where a call was stopped."""
    evaluated(run)
    wanted, work = json_of(run), sorted(restored)
    write = Records.write

    class Killed(BaseException):
        pass

    total = 5 * 4  # clean, input, nfe 1, nfe 3
    for k in range(0, total, 3):
        other = dataclasses.replace(run, folder=run.folder.with_name(f"run-{k}"))
        restored.clear()
        written = []

        def until(self, row, record, written=written, k=k):
            if len(written) == k:
                raise Killed
            write(self, row, record)
            written.append(record.key)

        monkeypatch.setattr(Records, "write", until)
        with pytest.raises(Killed):
            evaluated(other)
        assert not (other.folder / "evaluation" / "held-out" / "evaluation.json").exists()
        monkeypatch.setattr(Records, "write", write)
        evaluated(other)
        assert json_of(other) == wanted
        # Only the one record that was in the making is made twice.
        assert sorted(set(restored)) == work and len(restored) <= len(work) + 4


class Reordered(torch.utils.data.Dataset):
    def __init__(self, source, order):
        self.source, self.order = source, order

    def __len__(self):
        return len(self.order)

    def __getitem__(self, i):
        return self.source[self.order[i]]


def test_order_and_batches_change_no_digit(run):
    """kills: order-of-the-dataset, order-in-the-sum, one generator for a batch, features in the dataset's order."""
    evaluated(run)
    wanted, table = json_of(run), run.folder / "evaluation" / "held-out" / "per_image.csv"
    for name, order, batch in (
        ("reversed", [4, 3, 2, 1, 0], 1),
        ("mixed", [2, 0, 4, 1, 3], 3),
        ("batched", range(5), 4),
    ):
        other = dataclasses.replace(run, folder=run.folder.with_name(name))
        dataset = open_evaluation(run.recipe, open_evaluation(run.recipe).rules).dataset
        dataset.source = Reordered(dataset.source, list(order))
        evaluated(other, dataset=dataset, batch_size=batch)
        assert json_of(other) == wanted, name
        assert (other.folder / table.relative_to(run.folder)).read_bytes() == table.read_bytes(), name


def test_the_first_draw_is_that_of_a_single_restoration(run):
    """kills: first-draw-renamed."""
    item = open_evaluation(run.recipe, open_evaluation(run.recipe).rules).dataset[2]
    evaluated(run, nfe=[3], metrics=["diversity-rms"], batch_size=2)
    (alone,) = run.restore_batch({"x_1": item["x_1"][None]}, nfe=3, generator=[generator(0, "evaluate", item["key"])])
    shown = Image.open(run.folder / "evaluation" / "held-out" / "images" / "nfe-3" / "0002-p2.png")
    assert np.array_equal(np.asarray(shown), to_pixels(alone))


def test_rows_and_metrics_are_added_without_restoring_again(run, restored):
    """kills: rows-forgotten, pixels-not-kept."""
    evaluated(run, nfe=[1], metrics=["psnr"])
    assert {row for row, _, _ in restored} == {"nfe 1"}
    restored.clear()
    both = evaluated(run, nfe=[3], metrics=["psnr"])
    assert {row for row, _, _ in restored} == {"nfe 3"} and [row.name for row in both.rows] == [
        "input",
        "nfe 1",
        "nfe 3",
    ]
    restored.clear()
    scored = evaluated(run, nfe=[1], metrics=["ssim", "fd-means"])
    assert not restored and list(scored.rows[2].metrics) == ["ssim", "fd-means", "psnr"]
    alone = dataclasses.replace(run, folder=run.folder.with_name("alone"))
    evaluated(alone, nfe=[1, 3], metrics=["ssim", "fd-means", "psnr"])
    assert json_of(run) == json_of(alone)
    # Further draws are added to the one that is there, which stays what it was.
    restored.clear()
    spread = evaluated(run, nfe=[1, 3], metrics=["diversity-rms"])
    assert {draw for _, _, draw in restored} == {1, 2, 3} and spread.rows[1].metrics["psnr"] == both.rows[1].metrics[
        "psnr"
    ]


def test_a_row_that_nobody_asks_for_is_not_restored_anew(run, restored):
    evaluated(run, nfe=[1, 3], metrics=["psnr"])
    for file in (run.folder / "evaluation" / "held-out" / "records" / "nfe-3").iterdir():
        file.unlink()
    restored.clear()
    result = evaluated(run, nfe=[1], metrics=["psnr"])
    assert not restored and [row.name for row in result.rows] == ["input", "nfe 1"]
    assert not (run.folder / "evaluation" / "held-out" / "images" / "nfe-3" / "0000-p0.png").exists()
    assert [row.name for row in evaluated(run, nfe=[3], metrics=["psnr"]).rows] == ["input", "nfe 1", "nfe 3"]


def test_a_damaged_record_is_made_anew(run, restored):
    evaluated(run, nfe=[1], metrics=["psnr"])
    wanted = json_of(run)
    files = sorted((run.folder / "evaluation" / "held-out" / "records" / "nfe-1").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:40])
    files[1].write_bytes(b"")
    restored.clear()
    evaluated(run, nfe=[1], metrics=["psnr"])
    assert len(restored) == 2 and json_of(run) == wanted


def jpeg_protocol(run, quality):
    text = 'name = "mine"\nversion = 3\nsummary = "compressed"\nfile_format = "jpeg"\n'
    file = run.folder.with_name("mine.toml")
    file.write_text(f"{text}jpeg_quality = {quality}\n")
    return open_evaluation(run.recipe, file).rules


@pytest.mark.parametrize(
    "what", ["weights", "step", "sampler", "clip", "seed", "seed of draws", "degradation", "file format"]
)
def test_each_ingredient_makes_old_records_worthless(run, photos, restored, what):
    """kills: weights-not-hashed, sampler-not-hashed, protocol-not-hashed."""
    changed, rules = run, None
    if what == "file format":
        rules = jpeg_protocol(run, 40)
    if what == "seed of draws":  # which changes no image of the dataset
        run = run_of(recipe_of(photos, degradation={"name": "jpeg", "quality": 20}), run.folder)
    evaluated(run, nfe=[1, 3], metrics=["psnr"], protocol=rules)
    restored.clear()
    evaluated(run, nfe=[1, 3], metrics=["psnr"], protocol=rules)
    assert not restored
    if what == "weights":
        changed = run_of(run.recipe, run.folder, gain=0.41)
    elif what == "step":
        changed = dataclasses.replace(run, step=8)
    elif what == "sampler":
        changed = run_of(recipe_of(photos, sample={"sampler": {"name": "eta", "eta": 0.0}}), run.folder)
    elif what == "clip":
        changed = run_of(recipe_of(photos, sample={"clip": True}), run.folder)
    elif what == "seed":
        changed = run_of(recipe_of(photos, evaluate={"seed": 1, "metrics": ["psnr"]}), run.folder)
    elif what == "seed of draws":
        changed = run_of(
            run.recipe.model_copy(update={"evaluate": run.recipe.evaluate.model_copy(update={"seed": 1})}), run.folder
        )
    elif what == "degradation":
        changed = run_of(recipe_of(photos, degradation={"name": "noise", "std": 0.31}), run.folder)
    else:
        rules = jpeg_protocol(run, 60)
    result = evaluated(changed, nfe=[1, 3], metrics=["psnr"], protocol=rules)
    assert len(restored) == 10 and [row.name for row in result.rows] == ["input", "nfe 1", "nfe 3"]


def test_one_changed_image_is_the_only_one_done_again(run, photos, restored):
    """kills: data-not-hashed."""
    before = evaluated(run, nfe=[1], metrics=["psnr"])
    photo(99).save(photos / "val" / "p3.png")
    restored.clear()
    with pytest.raises(UserError, match=r"other images \(5 then, 5 now, 1 with other pixels: 'p3.png'\)"):
        evaluated(run, nfe=[1], metrics=["psnr"])
    after = evaluated(run, nfe=[1], metrics=["psnr"], replace=True)
    assert [key for _, key, _ in restored] == ["p3.png"] and after.data.digest != before.data.digest
    shown = Image.open(run.folder / "evaluation" / "held-out" / "images" / "clean" / "0003-p3.png")
    assert np.array_equal(np.asarray(shown), np.asarray(photo(99)))
    # More images: those that are known stay.
    restored.clear()
    for i in (7, 8):
        photo(i).save(photos / "val" / f"q{i}.png")
    assert evaluated(run, nfe=[1], metrics=["psnr"], replace=True).data.items == 7
    assert [key for _, key, _ in restored] == ["q7.png", "q8.png"]


def test_an_edited_metric_scores_anew(run, tmp_path, restored):
    from i2i_bridge import load_plugin
    from i2i_bridge.registry import METRICS as REGISTERED

    text = "from i2i_bridge.metrics.base import Metric\nfrom i2i_bridge.registry import register_metric\n" + (
        '@register_metric("constant")\nclass Constant(Metric):\n    label = "constant"\n    higher_is_better = True\n'
        "    def __call__(self, restored, clean):\n        return restored.mean((1, 2, 3)) * 0 + VALUE\n"
    )
    values = []
    for value in (1, 2):
        (tmp_path / "mine.py").write_text(text.replace("VALUE", str(value)))
        sys.modules.pop("i2i_plugin_mine", None)
        REGISTERED._members.pop("constant", None)
        load_plugin(tmp_path / "mine.py")
        values.append(evaluated(run, nfe=[1], metrics=["constant"]).rows[1].metrics["constant"].value)
    assert values == [1, 2] and len(restored) == 5


def test_what_makes_one_call_has_one_row(run):
    """kills: duplicates of one row under the NFE that were asked for."""

    class OneCall:
        def __init__(self, network):
            self.network = network

        def with_network(self, network):
            return OneCall(network)

        def trajectory(self, batch, *, nfe, generator):
            x_1 = batch["x_1"]
            yield self.network(x_1, torch.zeros(len(x_1)))

    once = dataclasses.replace(run, method=OneCall(Pointwise()))
    result = evaluated(once, nfe=[1, 5, 20], metrics=["psnr"])
    assert [(row.name, row.nfe) for row in result.rows] == [("input", 0), ("nfe 1", 1)] and result.capped
    assert [row.name for row in evaluated(once, nfe=[5], metrics=["psnr"]).rows] == ["input", "nfe 1"]


def test_calls_are_counted_per_image(run):
    # kills: calls-of-a-batch
    """kills: the calls of a batch taken for those of an image, where a method takes its images one by one."""

    class OneByOne:
        def __init__(self, network):
            self.network = network

        def with_network(self, network):
            return OneByOne(network)

        def trajectory(self, batch, *, nfe, generator):
            for _ in range(2):
                yield torch.cat([self.network(x_1[None], torch.zeros(1)) for x_1 in batch["x_1"]])

    result = evaluated(dataclasses.replace(run, method=OneByOne(Pointwise())), nfe=[2], metrics=["psnr"], batch_size=4)
    assert [(row.name, row.nfe) for row in result.rows] == [("input", 0), ("nfe 2", 2)]
    assert evaluated(run, nfe=[3], metrics=["psnr"], batch_size=4).rows[-1].nfe == 3


def test_memory_does_not_grow_with_the_images(photos, tmp_path, monkeypatch):
    """kills: features or images of all items held at once: the features of 240 items alone would be 7.8 MB."""

    @register_extractor("wide")
    class Wide(Extractor):
        dimension = 8192

        def __call__(self, images):
            return images.mean((1, 2, 3))[:, None].expand(-1, 8192).contiguous()

    @register_metric("shift")
    class Shift(SetMetric):
        label, higher_is_better, extractor = "shift", False, "wide"

        def estimate(self, restored, reference, *, seed):
            return Estimate(float(restored[0, 0] - reference[0, 0]))

    def grow_strings():
        # Paths are interned strings, and their table grows in one large step: here, not somewhere on the way.
        numbers = itertools.count()
        while tracemalloc.get_traced_memory()[1] < 1e6:
            sys.intern(f"grown {next(numbers)}")

    peaks = []
    for count in (40, 240):
        folder = tmp_path / f"many-{count}"
        (folder / "val").mkdir(parents=True)
        for i in range(count):
            photo(i, 8).save(folder / "val" / f"{i:03d}.png")
        recipe = recipe_of(
            folder, data={"root": str(folder), "source": {"name": "images"}, "size": 8, "resize": "none"}
        )
        run = run_of(recipe, tmp_path / f"run-{count}")
        monkeypatch.setattr(pictures, "ALL_PICTURES", 4)
        monkeypatch.setattr(pictures, "SOME_PICTURES", 4)
        rules = open_evaluation(recipe).rules
        dataset = open_evaluation(recipe, rules).dataset
        if count == 40:  # whatever is loaded once
            warm = dataclasses.replace(run, folder=tmp_path / "warm")
            evaluated(warm, nfe=[1], metrics=["psnr", "shift"], protocol=open_evaluation(recipe, count=2).rules)
        tracemalloc.start()
        grow_strings()
        tracemalloc.stop()
        tracemalloc.start()
        evaluated(run, nfe=[1], metrics=["psnr", "shift"], dataset=dataset)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2e6, peaks


def test_mean_says_what_it_leaves_out():
    estimate = mean(np.array([1.0, math.nan, 3.0]), 0)
    assert estimate.value == 2 and "2 of 3" in estimate.note and 1 <= estimate.low < 2 < estimate.high <= 3
    assert mean(np.array([math.nan]), 0).note == "applies to no image"
    keys = ["a.png", "b.png", "c.png", "d.png"]
    infinite = mean(np.array([math.inf, 31.0, math.nan, 30.0]), 0, keys)
    assert infinite.value == 30.5 and infinite.low == 30 and infinite.high == 31 and infinite.standard_error == 0.5
    assert infinite.note == ("applies to 3 of 4 images; infinite for 1 of 3 images and the mean of the others: a.png")
    everywhere = mean(np.full(4, math.inf), 0, keys)
    assert everywhere.value == math.inf and everywhere.note == "infinite for every image"
    assert mean(np.full(5, math.inf), 0).value == math.inf
    many = mean(np.array([math.inf] * 4 + [1.0]), 0, [*keys, "e.png"])
    assert many.note.endswith("4 of 5 images and the mean of the others: a.png, b.png, c.png ...")


def test_standard_error_is_s_by_n_minus_1_over_root_n():
    # kills: standard-error-by-n, standard-error-without-root
    values = np.array([1.0, 2.0, 4.0, 9.0])
    assert mean(values, 0).standard_error == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-12)
    assert mean(np.append(values, math.nan), 0).standard_error == mean(values, 0).standard_error
    # Of repeated draws it is the spread of the mean.
    draws = np.random.default_rng(0).gamma(2.0, 1.0, (2000, 5))
    variances = [mean(row, 0).standard_error ** 2 for row in draws[:400]]
    assert np.mean(variances) == pytest.approx(2 / 5, rel=0.15)


def test_equal_pairs_and_perfect_restorations_are_named(run, photos):
    """One pair without a degradation does not make the row infinite, and both are said by name."""
    # kills: one-equal-pair-makes-the-row-infinite
    source = {"name": "paired_folders", "x_0": "x_0", "x_1": "x_1"}
    recipe = recipe_of(
        photos,
        data={"root": str(photos), "source": source, "size": 16, "resize": "none"},
        degradation=None,
        task="translation",
    )
    for split in ("train", "val"):
        for file in sorted((photos / split).iterdir()):
            for side in ("x_0", "x_1"):
                (photos / split / side).mkdir(exist_ok=True)
                Image.open(file).save(photos / split / side / file.name)
            file.unlink()
    for file in sorted((photos / "val" / "x_1").iterdir())[1:]:
        pixels = np.asarray(Image.open(file)).astype(int)
        Image.fromarray((pixels + 9).clip(0, 255).astype(np.uint8)).save(file)
    result = evaluated(run_of(recipe, run.folder), nfe=[1], metrics=["psnr", "ssim"])
    psnr = result.rows[0].metrics["psnr"]
    assert 20 < psnr.value < 40 and "infinite for 1 of 5" in psnr.note and psnr.note.endswith(": p0")
    assert "x_0 and x_1 are equal in 1 of 5 images: p0" in result.warnings


def other_photos(folder):
    (folder / "photos" / "val").mkdir(parents=True)
    (folder / "photos" / "train").mkdir()
    for i in range(5):
        photo(50 + i).save(folder / "photos" / "val" / f"p{i}.png")
        photo(70 + i).save(folder / "photos" / "train" / f"p{i}.png")
    return folder


def test_an_evaluation_is_never_replaced_by_one_of_other_images(run, photos, tmp_path, monkeypatch):
    """A recipe with a relative root, evaluated from two folders that both have it (old runs keep relative roots)."""
    # kills: other-images-over-it, other-number-of-other-images
    elsewhere = other_photos(tmp_path / "elsewhere")
    relative = run_of(recipe_of("photos"), run.folder)
    monkeypatch.chdir(tmp_path)
    first = evaluated(relative, nfe=[1], metrics=["psnr"])
    there = {path: path.read_bytes() for path in sorted(run.folder.rglob("*")) if path.is_file()}
    monkeypatch.chdir(elsewhere)
    for options in ({}, {"protocol": open_evaluation(relative.recipe, count=2).rules}):
        with pytest.raises(UserError, match=r"other images .* with other pixels: 'p0.png'.*--root.*--replace"):
            evaluated(relative, nfe=[1], metrics=["psnr"], **options)
        with pytest.raises(UserError, match="other images"):  # of other weights too
            evaluated(run_of(relative.recipe, run.folder, gain=0.7), nfe=[1], metrics=["psnr"], **options)
    assert {path: path.read_bytes() for path in sorted(run.folder.rglob("*")) if path.is_file()} == there
    assert evaluated(relative, nfe=[1], metrics=["psnr"], replace=True).data.digest != first.data.digest
    monkeypatch.chdir(tmp_path)
    (run.folder / "evaluation" / "held-out" / "data.json").unlink()  # as an earlier version left it
    with pytest.raises(UserError, match="other images"):
        evaluated(relative, nfe=[1], metrics=["psnr"])


def test_what_is_known_is_read_once(run):
    """Looking at the images first costs no second reading where all is there, and none where nothing is there."""
    dataset, reads = open_evaluation(run.recipe, open_evaluation(run.recipe).rules).dataset, []
    source = dataset.source

    class Counted(Reordered):
        def __getitem__(self, i):
            reads.append(i)
            return super().__getitem__(i)

    dataset.source = Counted(source, range(5))
    evaluated(run, nfe=[1], metrics=["psnr"], dataset=dataset)
    first = sorted(reads)
    reads.clear()
    evaluated(run, nfe=[1], metrics=["psnr"], dataset=dataset)
    assert len(reads) <= len(first)


def test_a_trained_run_finds_its_images_from_anywhere(photos, tmp_path, monkeypatch):
    # kills: relative-root-kept
    monkeypatch.chdir(tmp_path)
    train(recipe_of("photos"), tmp_path / "run", cpu=True)
    assert load_run(tmp_path / "run", device="cpu").recipe.data.root == str(photos)
    train(recipe_of("photos", train=recipe_of("photos").train.model_dump() | {"steps": 2}), tmp_path / "run", cpu=True)
    monkeypatch.chdir(other_photos(tmp_path / "elsewhere"))
    (result,) = {ensure_rows(tmp_path / "run", [1], device="cpu").data.digest}
    shown = Image.open(tmp_path / "run" / "evaluation" / "held-out" / "images" / "clean" / "0000-p0.png")
    assert np.array_equal(np.asarray(shown), np.asarray(photo(10))) and result
    # The same words here mean other images: another run.
    with pytest.raises(UserError, match=r"data\.root"):
        train(recipe_of("photos", train={"steps": 3, "batch_size": 2, "workers": 0, "precision": "fp32"}),
              tmp_path / "run", cpu=True)  # fmt: skip
    # Moved with its folder, as to another machine, it goes on.
    photos.rename(tmp_path / "elsewhere" / "moved")
    shutil.rmtree(tmp_path / "elsewhere" / "photos")
    (tmp_path / "elsewhere" / "moved").rename(tmp_path / "elsewhere" / "photos")
    more = {"steps": 3, "batch_size": 2, "workers": 0, "precision": "fp32"}
    assert train(recipe_of("photos", train=more), tmp_path / "run", cpu=True).step == 3
    # A sum that is rounded on the way depends on the order.
    values = np.array([1e16, 1.0, -1e16, 1.0] * 5)
    assert mean(values, 0).value == mean(values[::-1], 0).value == 0.5


def test_intervals_cover_the_truth():
    """A 95 % interval of 40 skewed values holds the mean of their distribution in nine draws of ten at least."""
    rng = np.random.default_rng(0)
    held = [(found := mean(rng.exponential(1.0, 40), i)).low <= 1.0 <= found.high for i in range(200)]
    assert 0.88 <= np.mean(held) <= 0.99, np.mean(held)


# Baselines, references, formats


@pytest.mark.parametrize(
    "degradation",
    [{"name": "sr4x", "filter": "pool"}, {"name": "sr4x", "filter": "bicubic"}, {"name": "downsample", "factor": 2}],
)
def test_super_resolution_has_a_bicubic_row(photos, tmp_path, degradation):
    """Against torch's own cubic kernel, and Pillow's. kills: bicubic-of-the-blocks."""
    run = run_of(recipe_of(photos, degradation=degradation), tmp_path / "run")
    result = evaluated(run, nfe=[1], metrics=["psnr"])
    assert [row.name for row in result.rows] == ["input", "bicubic", "nfe 1"]
    made = run.recipe.build_degradation()
    scale, small = made.scale, torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x_1 = made.prepare(small, torch.Generator()).x_1
    ours = made.simple_restorations(x_1)["bicubic"]
    # With antialias=True torch uses a = -1/2, as Pillow; enlarging needs none.
    theirs = F.interpolate(small, scale_factor=scale, mode="bicubic", antialias=True)
    assert torch.allclose(ours, theirs, atol=1e-5)
    for i in range(3):
        side = 4 * scale
        pillow = Image.fromarray(small[0, i].numpy()).resize((side, side), Image.Resampling.BICUBIC)
        assert np.allclose(ours[0, i].numpy(), np.asarray(pillow), atol=1e-5)
    assert recipe_of(photos).build_degradation().simple_restorations(x_1) == {}


def test_jpeg_protocol_compresses_outputs_not_references(run):
    rules = jpeg_protocol(run, 40)
    result = evaluated(run, nfe=[1], metrics=["psnr"], protocol=rules)
    item = open_evaluation(run.recipe, rules).dataset[0]
    pixels = (((item["x_1"].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0)).to(torch.uint8).numpy()
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=40)
    home = run.folder / "evaluation" / "mine" / "images"
    assert np.array_equal(np.asarray(Image.open(home / "input" / "0000-p0.png")), np.asarray(Image.open(stored)))
    assert np.array_equal(np.asarray(Image.open(home / "clean" / "0000-p0.png")), np.asarray(photo(10)))
    assert result.protocol.id.startswith("mine@3 ") and read_evaluation(run.folder, "mine") == result
    with pytest.raises(UserError, match=r"not evaluated yet under held-out \(but under mine\)"):
        read_evaluation(run.folder)


def test_what_is_left_out_is_the_recipes_and_the_protocols(run):
    # kills: evaluates-another-protocol
    jpeg_protocol(run, 40)
    file = run.folder.with_name("mine.toml")
    told = evaluate(run, nfe=[1], metrics=["psnr"], protocol=file, count=2, name="told")
    assert told.protocol.id.startswith("mine@3 ") and told.data.items == 2
    plain = evaluate(run)
    assert plain.protocol.name == "held-out" and plain.data.items == 5
    assert [row.name for row in plain.rows] == ["input", *(f"nfe {n}" for n in run.recipe.evaluate.nfe)]
    assert set(plain.rows[0].metrics) == {"psnr"}
    assert plain == evaluated(run, nfe=run.recipe.evaluate.nfe, metrics=run.recipe.evaluate.metrics)


def features_of(folder, names=None):
    images = [to_tensor(np.asarray(Image.open(path))) for path in sorted(folder.glob("*.png"))]
    stacked = torch.stack(images)
    return torch.cat([stacked.mean((2, 3)), stacked.std((2, 3))], 1).numpy()


def test_sets_are_compared_with_what_the_protocol_names(run, photos, tmp_path):
    """kills: reference-of-the-scored-images-only, statistics-ignored."""
    values = {}
    clean = features_of(photos / "val")
    write_moments(tmp_path / "stored.npz", Moments(clean.mean(0) + 1, np.cov(clean.T), 10))
    for reference in ("paired", "split", "stored.npz"):
        file = tmp_path / f"{reference.partition('.')[0]}.toml"
        text = f'name = "r-{reference}"\nversion = 1\nsummary = "three images"\nn = 3\nfid_reference = "{reference}"\n'
        file.write_text(text)
        rules = open_evaluation(run.recipe, file).rules
        result = evaluated(run, nfe=[1], metrics=["fd-means", "kid-means", "psnr"], protocol=rules)
        assert result.data.items == 3
        values[reference] = result.rows[1].metrics["fd-means"].value
        assert ("kid-means" in result.skipped) == (reference == "stored.npz")
        restored = features_of(run.folder / "evaluation" / f"r-{reference}" / "images" / "nfe-1")
        against = {"paired": moments(clean[:3]), "split": moments(clean)}.get(reference)
        against = against or Moments(clean.mean(0) + 1, np.cov(clean.T), 10)
        assert values[reference] == pytest.approx(frechet_distance(moments(restored), against), rel=1e-5)
    assert len(set(values.values())) == 3
    (tmp_path / "stored.npz").unlink()
    result = evaluated(
        run, nfe=[1], metrics=["fd-means", "psnr"], protocol=open_evaluation(run.recipe, tmp_path / "stored.toml").rules
    )
    assert "stored.npz" in result.skipped["fd-means"] and "fd-means" not in result.rows[1].metrics


def test_kid_leaves_out_partners_by_key(run, tmp_path):
    """`split` with three of five images, in the order of a list: the kernel's own loop over features and keys."""
    # kills: partners-by-position, difference-with-the-first-row
    file = tmp_path / "mine.toml"
    text = 'name = "mine"\nversion = 1\nsummary = "three"\nlist = "some.txt"\nfid_reference = "split"\n'
    file.write_text(text)
    (tmp_path / "some.txt").write_text("p4.png\np1.png\np3.png\n")
    rules = open_evaluation(run.recipe, file, list_file=tmp_path / "some.txt").rules
    result = evaluated(run, metrics=["kid-means", "kid-paired-means"], protocol=rules)
    images = run.folder / "evaluation" / "mine" / "images"
    scores = {}
    for row in ("input", "nfe-1", "nfe-3"):
        x, shown = features_of(images / row), features_of(images / "clean")
        y = np.concatenate([features_of(run_photos(run)), shown])[:5]
        keys, own = [4, 1, 3], KernelDistance()
        found = own.estimate_matched(x, y, np.array(keys), seed=0)
        scores[row] = result.rows[len(scores)].metrics["kid-means"]
        assert scores[row].value == pytest.approx(found.value, rel=1e-6)
        assert scores[row].standard_error == pytest.approx(found.standard_error, rel=1e-6)
    notes = [row.metrics["kid-paired-means"].note for row in result.rows]
    values = [row.metrics["kid-paired-means"].value for row in result.rows]
    assert notes[0] == "" and notes[1].startswith("nfe 1 minus input: ")
    assert notes[2].startswith(f"nfe 3 minus nfe 1: {values[2] - values[1]:+.3g} [")


def test_a_kid_that_was_thinned_is_measured_anew(run, tmp_path, monkeypatch):
    """An evaluation.json of the version whose KID had a bias: no old number is shown beside a new one."""
    # kills: old-kid-shown
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nversion = 1\nsummary = "three"\nn = 3\nfid_reference = "split"\n')
    wanted = evaluated(run, metrics=["psnr", "kid-means"], protocol=open_evaluation(run.recipe, file).rules)
    place = run.folder / "evaluation" / "mine" / "evaluation.json"
    table = json.loads(place.read_text())
    for row in table["rows"]:
        row["metrics"]["kid-means"] |= {"value": -404.0, "note": "the larger set was thinned to n = 3"}
    place.write_text(json.dumps(table))
    old = read_evaluation(run.folder, "mine").rows[1].metrics["kid-means"]
    assert math.isnan(old.value) and "evaluate again" in old.note
    (run.folder / "recipe.toml").write_text(run.recipe.to_toml())
    monkeypatch.setattr("i2i_bridge.evaluation.evaluate.load_run", lambda folder, **options: run)
    assert ensure_rows(run.folder, [1], file) == wanted


def run_photos(run):
    return Path(run.recipe.data.root) / "val"


def test_images_smaller_than_a_window_skip_that_metric(run, photos, capsys):
    # kills: small-image-ends-it
    for file in (photos / "val").iterdir():
        Image.open(file).resize((8, 8)).save(file)
    table = run.recipe.model_dump(mode="json")
    small = parse_recipe(table | {"data": table["data"] | {"size": [8, 8]}}, "small")
    run = run_of(small, run.folder)
    result = evaluated(run, nfe=[1], metrics=["psnr", "ssim", "psnr-y:border=2", "psnr:border=4", "ssim-y"])
    assert list(result.rows[0].metrics) == ["psnr", "psnr-y:border=2"]
    assert result.skipped == {
        "ssim": "ssim needs images of at least 11x11 pixels; these are 8x8",
        "psnr:border=4": "psnr:border=4 needs images of at least 9x9 pixels; these are 8x8",
        "ssim-y": "ssim-y needs images of at least 11x11 pixels; these are 8x8",
    }
    # Nothing else is left: then the reason is the whole answer.
    with pytest.raises(UserError, match="nothing to measure: ssim needs"):
        evaluated(dataclasses.replace(run, folder=run.folder.with_name("other")), nfe=[1], metrics=["ssim"])


def test_masks_are_shown_and_a_changed_one_counts(photos, tmp_path, restored):
    recipe = recipe_of(photos, degradation={"name": "inpaint", "mask": "center"})
    run = run_of(recipe, tmp_path / "run")
    evaluated(run, nfe=[1], metrics=["psnr"])
    mask = np.asarray(Image.open(run.folder / "evaluation" / "held-out" / "images" / "mask" / "0000-p0.png"))
    assert set(np.unique(mask)) == {0, 255} and mask[8, 8, 0] == 255 and mask[0, 0, 0] == 0


def test_two_items_of_one_key_are_refused(run):
    dataset = open_evaluation(run.recipe, open_evaluation(run.recipe).rules).dataset
    dataset.source = Reordered(dataset.source, [0, 1, 1])
    with pytest.raises(UserError, match=r"two items have the key 'p1\.png'"):
        evaluated(run, metrics=["psnr"], dataset=dataset)


def test_a_metric_of_a_plugin_that_is_not_loaded_is_named(run):
    from i2i_bridge.registry import METRICS as REGISTERED

    evaluated(run, nfe=[1], metrics=["psnr", "fd-means"])
    del REGISTERED._members["fd-means"]
    result = evaluated(run, nfe=[1], metrics=["psnr"])
    assert "--plugin" in result.skipped["fd-means"] and list(result.rows[0].metrics) == ["psnr"]
    with pytest.raises(UserError, match="nothing to measure"):
        evaluated(run, nfe=[1], metrics=["lpips"], count=1, protocol=open_evaluation(run.recipe, count=1).rules)


def test_records_hold_what_was_put_in(tmp_path):
    records = Records(tmp_path)
    record = Record("a/ü\udc80", "f", {"psnr": (math.inf, "c"), "x": (math.nan, "d")}, 0.5, 3)
    record.pixels = np.arange(24, dtype=np.uint16).reshape(1, 2, 4, 3)
    record.features["net"] = np.ones(5, np.float32)
    records.write("nfe 3", record)
    back = records.read("nfe 3", record.key, "f", None)
    assert back.scores["psnr"] == (math.inf, "c") and math.isnan(back.scores["x"][0]) and back.calls == 3
    assert np.array_equal(back.pixels, record.pixels) and back.pixels.dtype == np.uint16
    assert records.read("nfe 3", record.key, "other") is None and records.read("nfe 1", record.key, "f") is None
    lean = records.read("nfe 3", record.key, "f")
    assert lean.pixels is None and lean.stored == {"pixels", "net"}
    records.write("input", Record("k", "f"))
    assert records.read("input", "k", "f").stored == frozenset()


# Outside images


def outside(run, images, out, name="theirs", **options):
    setup = open_evaluation(run.recipe, **options)
    subject, problems = folder_subject(setup, images, name, out)
    if problems:
        return problems
    return measure(subject, setup.dataset, setup.rules, ["psnr", "ssim", "fd-means", "diversity-rms"], out)


@pytest.mark.parametrize("names", ["pictures", "keys", "tree"])
def test_a_runs_own_pictures_score_its_own_numbers(run, tmp_path, names):
    # kills: outside-truncated
    """kills: outside images that are rounded, resized or matched otherwise than a run's."""
    result = evaluated(run, nfe=[3])
    pictures = run.folder / "evaluation" / "held-out" / "images" / "nfe-3"
    folder = pictures
    if names != "pictures":
        folder = tmp_path / "theirs"
        for i in range(5):
            file = folder / ("deep/er" if names == "tree" else "") / f"p{i}.{'bmp' if i == 2 else 'png'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.open(pictures / f"000{i}-p{i}.png").save(file)
    theirs = outside(run, folder, tmp_path / "out")
    assert [row.name for row in theirs.rows] == ["theirs"] and theirs.method == "theirs"
    assert theirs.protocol == result.protocol and theirs.data == result.data
    for metric in ("psnr", "ssim", "fd-means"):
        # As text: not a number equals nothing, itself neither.
        assert repr(theirs.rows[0].metrics[metric]) == repr(result.rows[1].metrics[metric])
    home = tmp_path / "out" / "evaluation" / "held-out"
    assert {path.name for path in (home / "images").iterdir()} == {"theirs", "clean", "input"}
    assert repr(ensure_rows(tmp_path / "out", [1, 5])) == repr(read_evaluation(tmp_path / "out"))
    # A changed file is scored anew.
    photo(50).save(sorted(folder.rglob("*.*"))[0])
    assert outside(run, folder, tmp_path / "out").rows[0].metrics["psnr"] != theirs.rows[0].metrics["psnr"]


def test_other_sampling_settings_leave_the_runs_own_numbers(trained, tmp_path, capsys):
    # kills: settings-not-handed-on
    """kills: --set ignored; the run's own evaluation overwritten."""
    words = ["evaluate", str(trained), "--nfe", "3", "--metric", "psnr"]
    out = ["--name", "clipped", "--out", str(tmp_path / "clipped")]

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        return ended.value.code

    assert call() == 0
    kept = (trained / "evaluation/held-out/evaluation.json").read_bytes()
    assert call("--set", "sample.clip=true", *out) == 0
    assert (trained / "evaluation/held-out/evaluation.json").read_bytes() == kept
    own, other = read_evaluation(trained), read_evaluation(tmp_path / "clipped")
    assert (own.method, other.method) == ("bridge", "clipped") and own.data == other.data
    assert [row.name for row in other.rows] == ["input", "nfe 3"] and own.fingerprint != other.fingerprint
    for extra, message in (
        (["--set", "sample.clip=true"], "needs --name"),
        (["--set", "train.lr=1", *out], "[sample] only"),
        (["--set", "sample.clip=true", "--name", "a", "--out", str(trained)], "is a run folder"),
        (out[:2], "--name goes with"),
    ):
        capsys.readouterr()
        assert call(*extra) == 2
        assert message in capsys.readouterr().err


def test_unpublished_weights_are_a_warning(run, monkeypatch):
    monkeypatch.setattr(weights, "warnings", lambda metrics: [f"{', '.join(metrics)}: not the published file"])
    assert "psnr: not the published file" in evaluated(run, metrics=["psnr"]).warnings


def test_all_mistakes_of_a_folder_are_named_in_one_pass(run, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    photo(1).save(folder / "p0.png")
    photo(1, 12).save(folder / "p1.png")
    (folder / "p2.png").write_bytes(b"nothing")
    photo(1).save(folder / "p3.png")
    photo(1).save(folder / "p3.bmp")
    photo(1).save(folder / "other.png")
    problems = "\n".join(outside(run, folder, tmp_path / "out"))
    for part in ("p1.png: 12x12 pixels, but 16x16", "p2.png: not a readable image", "p3.png: a second image of",
                 "other.png: belongs to no image", "no image of 'p4.png'"):  # fmt: skip
        assert part in problems, (part, problems)
    assert problems.count("\n") == 4 and not (tmp_path / "out").exists()
    for name in ("input", "nfe 5", "--", "mask"):
        with pytest.raises(UserError, match="choose a name"):
            outside(run, folder, tmp_path / "out", name=name)


# Processes, and runs on disk


@pytest.fixture
def trained(photos, tmp_path):
    train(recipe_of(photos), tmp_path / "trained", cpu=True)
    return tmp_path / "trained"


def test_rows_are_ensured(trained, restored):
    first = ensure_rows(trained, [1], device="cpu")
    assert [row.name for row in first.rows] == ["input", "nfe 1"]
    run = load_run(trained, device="cpu")
    evaluated(run, nfe=[1], metrics=["psnr"], protocol=open_evaluation(run.recipe, count=3).rules)
    restored.clear()
    # Goes on with what was measured last: three images.
    second = ensure_rows(trained, [1, 2], device="cpu")
    assert {row for row, _, _ in restored} == {"nfe 2"} and second.data.items == 3
    restored.clear()
    (trained.parent / "photos" / "val").rename(trained.parent / "photos" / "gone")
    assert ensure_rows(trained, [2], device="cpu") == second and not restored, "needs no data"


LOGGED = """
import os
from pathlib import Path
from i2i_bridge.metrics.base import ItemMetric
from i2i_bridge.registry import register_metric

@register_metric("logged")
class Logged(ItemMetric):
    label, higher_is_better = "logged", True

    def of(self, sample):
        with Path(os.environ["LOG"]).open("a") as log:
            log.write(f"{os.environ.get('RANK', '0')} {sample.item['key']}\\n")
        return float(sample.restored.mean())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_two_processes_score_every_image_once(trained, tmp_path, monkeypatch):
    """kills: images-scored-twice (a sampler that pads), digits that depend on the number of processes."""
    (tmp_path / "logged.py").write_text(LOGGED)
    tables, shares = [], []
    for processes in (1, 2):
        log = tmp_path / f"log-{processes}"
        monkeypatch.setenv("LOG", str(log))
        words = ["evaluate", str(trained), "--nfe", "1", "3", "--metric", "psnr", "--metric", "diversity-rms"]
        words += ["--metric", "logged", "--plugin", str(tmp_path / "logged.py"), "--device", "cpu"]
        ended = together(processes, lambda rank, words=words: main(words), tmp_path / f"said-{processes}")
        assert all(process.code == 0 for process in ended), ended
        said = "".join(process.said for process in ended)
        assert len(re.findall(r"5 images, protocol held-out@1 [0-9a-f]{12}\n", said)) == 1, said
        home = trained / "evaluation" / "held-out"
        table = json.loads((home / "evaluation.json").read_text())
        for row in table["rows"]:
            row.pop("seconds_per_image")
        tables.append(table)
        shares.append(sorted(log.read_text().splitlines()))
        home.rename(trained / f"evaluated-by-{processes}")
    assert tables[0] == tables[1] and tables[0]["data"]["items"] == 5
    assert shares[0] == sorted(f"0 p{i}.png" for i in range(5) for _ in range(3))
    assert shares[1] == sorted(f"{i % 2} p{i}.png" for i in range(5) for _ in range(3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_mistake_in_one_process_ends_both(trained, tmp_path):
    """kills: a process that waits for ever for one that gave up."""
    (trained.parent / "photos" / "val" / "p3.png").write_bytes(b"broken")
    words = ["evaluate", str(trained), "--nfe", "1", "--device", "cpu"]
    ended = together(2, lambda rank: main(words), tmp_path)
    assert all(process.code not in (0, None) for process in ended), ended
    assert any("p3.png: not a readable image" in process.said for process in ended)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("name", ["evaluation.json", "data.json", ".safetensors"])
def test_an_error_that_may_pass_gives_up_no_evaluation(run, monkeypatch, number, name):
    # kills: an evaluation called damaged and replaced, or rows dropped from it, since the disk failed once
    evaluated(run, nfe=[1, 2], metrics=["psnr"])
    home = run.folder / "evaluation"
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    real = os.open

    def opened(path, *words, **more):
        if str(path).startswith(str(home)) and str(path).endswith(name):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *words, **more)

    with monkeypatch.context() as failing:
        failing.setattr(os, "open", opened)
        with pytest.raises(UserError, match=r"cannot be read .* no damage; give the same command again") as caught:
            evaluated(run, nfe=[1], metrics=["psnr"])
    assert caught.value.code == 74
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    assert [row.name for row in evaluated(run, nfe=[1], metrics=["psnr"]).rows][-2:] == ["nfe 1", "nfe 2"]


def test_a_users_own_pictures_stay_beside_those_of_an_evaluation(run):
    # kills: whatever ends in .png removed
    evaluated(run, nfe=[1], metrics=["psnr"])
    images = run.folder / "evaluation" / "held-out" / "images"
    for name in ("mine/a.png", "nfe-1/figure.png", "nfe-1/9999-gone.png"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_text("mine")
    evaluated(run, nfe=[1], metrics=["psnr"])
    there = [(images / name).exists() for name in ("mine/a.png", "nfe-1/figure.png", "nfe-1/9999-gone.png")]
    assert there == [True, True, False]
