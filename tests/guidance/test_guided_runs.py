"""Guidance from the recipe to the restored file: refused combinations, and guided runs in training and evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import load_run
from i2i_bridge.bridge.processes import GaussianPrior
from i2i_bridge.bridge.targets import EpsTarget
from i2i_bridge.cli.command import main
from i2i_bridge.degradations.downsample import SuperResolution4x
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate
from i2i_bridge.guidance.availability import why_not
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.prior import Prior
from i2i_bridge.recipe.load import load_recipe, parse_recipe
from i2i_bridge.recipe.presets import KNOWN_OPERATOR, UNCONDITIONAL, method_preset
from i2i_bridge.registry import DEGRADATIONS, GUIDANCES
from i2i_bridge.training.trainer import train


@pytest.fixture
def photos(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(3):
            picture(i).save(tmp_path / "photos" / split / f"{i}.png")
    return tmp_path / "photos"


def picture(seed, size=(44, 36)):
    rows, columns = np.mgrid[: size[1], : size[0]]
    waves = np.sin(rows[..., None] / (3 + seed) + np.arange(3)) + np.cos(columns[..., None] / (4 + seed))
    return Image.fromarray((127 + 60 * waves).astype(np.uint8))


def table(photos, degradation, **changes):
    return {
        "name": "small",
        "summary": "a small one",
        "task": "restoration",
        "data": {"root": str(photos), "source": {"name": "images"}, "size": 32, "crop": "random"},
        "degradation": degradation,
        "network": {"name": "unet", "channels": 8, "channel_mult": [1, 1], "blocks_per_level": 1},
        "train": {"steps": 1, "batch_size": 2, "workers": 0, "precision": "fp32"},
        "sample": {"nfe": 3},
        "evaluate": {"nfe": [2], "metrics": ["psnr"]},
    } | changes


def trained(photos, degradation, **changes):
    folder = photos.parent / "run"
    train(parse_recipe(table(photos, degradation, **changes), "small"), folder, cpu=True)
    return folder


def block_means(pixels):
    height, width = pixels.shape[0] // 4, pixels.shape[1] // 4
    return np.asarray(pixels, float).reshape(height, 4, width, 4, 3).mean((1, 3))


# ------------------------------------------------------------------------------------------------------- refusals


def test_what_has_no_operator_is_refused_with_the_reason(photos):
    # kills: refusal-forgotten
    cases = [
        ({"name": "jpeg", "quality": 10}, "ddnm", "Jpeg rounds its coefficients, so it is not linear in x_0"),
        ({"name": "motion-blur"}, "ddnm", "draws its angle anew for each image"),
        ({"name": "motion-blur", "length": 9, "angle": 30}, "dps", "slanted kernel"),
        ({"name": "mixture", "degradations": [{"name": "blur"}]}, "cddb", "another operator for each image"),
        ({"name": "compose", "degradations": [{"name": "blur"}]}, "pigdm", "a chain of operators"),
        (None, "ddnm", "a task learned from pairs has none"),
        ({"name": "sr4x"}, "pigdm", "is for a diffusion from noise"),
        ({"name": "sr4x"}, "dnm", "did you mean 'ddnm'"),
    ]
    for degradation, name, words in cases:
        with pytest.raises(UserError, match=words) as refused:
            parse_recipe(table(photos, degradation, sample={"guidance": {"name": name}}), "mine.toml")
        assert str(refused.value).startswith("mine.toml: ") and "\n" not in str(refused.value)


def test_why_not_answers_for_every_degradation_and_method():
    tables = {
        "noise": {"std": 0.1},
        "jpeg": {"quality": 10},
        "mixture": {"degradations": [{"name": "blur"}]},
        "compose": {"degradations": [{"name": "blur"}]},
        "kornia": {"op": "RandomInvert"},
    }
    linear = set()
    for name in DEGRADATIONS.names():
        degradation = DEGRADATIONS.build({"name": name} | tables.get(name, {}))
        reasons = {method: why_not(method, degradation) for method in (*GUIDANCES.names(), "ddrm")}
        assert "singular" in reasons.pop("ddrm")
        assert len({reason is None for reason in reasons.values()}) == 1
        if None in reasons.values():
            linear.add(name)
    assert {"sr4x", "downsample", "blur", "inpaint", "crop-out", "colorization", "noise", "defocus"} <= linear
    assert linear.isdisjoint({"jpeg", "haze", "rain", "mixture", "compose", "motion-blur"})
    assert "learned from pairs" in why_not("ddnm", None)
    with pytest.raises(UserError, match="unknown guidance"):
        why_not("ddnn", None)


# -------------------------------------------------------------------------------------------------- a run, guided


def test_a_trained_run_is_sampled_with_another_guidance(photos, tmp_path):
    """load_run(sample=...): the same weights, and A of the restored image is y, whatever its size."""
    # kills: sample-settings-ignored, size-forgotten
    # Of stride 8, so that 36 x 44 pixels are padded; the cubic reaches over the edge, and mirrors the image otherwise.
    network = {"name": "unet", "channels": 8, "channel_mult": [1, 1, 1, 1], "blocks_per_level": 1}
    folder = trained(photos, {"name": "sr4x", "filter": "bicubic"}, network=network)
    run = load_run(folder, device="cpu")
    led = load_run(folder, device="cpu", sample=["sample.guidance.name=ddnm", "sample.guidance.noise_std=0"])
    assert run.recipe.sample.guidance is None and led.recipe.sample.nfe == 3
    small = np.random.default_rng(0).uniform(0, 1, (9, 11, 3)).astype(np.float32)
    with_values = ["data.value_range=[0, 1]"]
    with pytest.raises(
        UserError, match=r"'data.value_range=\[0, 1\]': a trained run takes other settings of \[sample\]"
    ):
        load_run(folder, device="cpu", sample=with_values)
    batch = {"x_1": torch.from_numpy(small).permute(2, 0, 1)[None].repeat_interleave(4, 2).repeat_interleave(4, 3)}
    for one, gap in ((run, (0.01, 10)), (led, (0, 1e-5))):
        restored = one.restore_batch(batch, nfe=3, generator=[torch.Generator().manual_seed(0)])
        residual = (SuperResolution4x("bicubic").reduce(restored) - batch["x_1"][..., ::4, ::4]).abs().max()
        assert gap[0] <= float(residual) <= gap[1]


@pytest.mark.parametrize("name", ["ddnm", "back-projection", "cddb", "dps"])
def test_a_guided_bridge_is_evaluated_and_counted(photos, name):
    folder = trained(photos, {"name": "inpaint"})
    run = load_run(folder, device="cpu", sample=[f"sample.guidance.name={name}"])
    rows = evaluate(run, run.recipe.build_dataset("validation"), nfe=[1, 4], metrics=["psnr"]).rows
    assert [row.nfe for row in rows] == [0, 1, 4]
    assert all(np.isfinite(row.metrics["psnr"].value) for row in rows)


@pytest.mark.parametrize("name", ["ddnm", "dps", "pigdm"])
@pytest.mark.parametrize("degradation", [{"name": "sr4x"}, {"name": "inpaint"}, {"name": "colorization"}])
def test_a_prior_is_trained_and_guided(photos, name, degradation):
    tables = KNOWN_OPERATOR[name]
    network = {"name": "unet", "channels": 8, "channel_mult": [1, 1], "blocks_per_level": 1} | tables["network"]
    folder = trained(photos, degradation, **(tables | {"network": network}))
    run = load_run(folder, device="cpu")
    assert isinstance(run.method, Prior)
    rows = evaluate(run, run.recipe.build_dataset("validation"), nfe=[3], metrics=["psnr"]).rows
    assert rows[-1].nfe == 3 and np.isfinite(rows[-1].metrics["psnr"].value)


def test_restore_takes_sample_settings_on_the_command_line(photos, tmp_path, capsys):
    # kills: sample-settings-ignored
    folder = trained(photos, {"name": "sr4x", "filter": "pool"})
    picture(5, (12, 10)).save(tmp_path / "small.png")

    def restored(*words):
        with pytest.raises(SystemExit) as done:
            main(["restore", str(folder), str(tmp_path / "small.png"), str(tmp_path / "out.png"), *words])
        if done.value.code:
            return capsys.readouterr().err
        return np.asarray(Image.open(tmp_path / "out.png"))

    wanted = np.asarray(picture(5, (12, 10)), float)
    led, free = (
        np.abs(block_means(restored(*words)) - wanted).mean() for words in (("--set", "sample.guidance.name=ddnm"), ())
    )
    # Rounding and clipping of the written pixels is all that is left.
    assert led < 3 and led < 0.5 * free
    assert "takes other settings of [sample] only" in restored("--set", "train.lr=1")
    assert "unknown key 'sample.guidence'; did you mean 'guidance'?" in restored("--set", "sample.guidence.name=ddnm")


# ---------------------------------------------------------------------------------------------------- the prior


class Recorder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x_t, t, condition):
        self.seen.append((x_t, condition))
        return torch.zeros_like(x_t)


def test_a_prior_learns_whole_clean_images():
    """Its loss is the same whatever the degraded image, the mask and the condition are, and counts every pixel."""
    # kills: prior-masked
    prior = Prior(Recorder(), GaussianPrior(), EpsTarget())
    x_0 = torch.rand(2, 3, 8, 8)
    mask = torch.zeros(2, 1, 8, 8)
    losses = [
        [float(value) for _, value in prior.losses(batch, torch.Generator().manual_seed(0))]
        for batch in ({"x_0": x_0, "x_1": x_0}, {"x_0": x_0, "x_1": x_0 * 9, "mask": mask, "condition": x_0})
    ]
    assert losses[0] == losses[1]
    assert losses[0][0] == pytest.approx(1, abs=0.2)
    assert all(condition is None for _, condition in prior.network.seen)
    assert isinstance(prior.with_network(Recorder()), Prior)


def test_a_prior_refuses_what_would_not_be_one(photos):
    for changes, words in (
        ({"process": {"name": "i2sb"}, "target": {"name": "i2sb"}}, "process.name = 'gaussian-prior'"),
        (
            {"network": {"name": "unet", "channels": 8, "channel_mult": [1, 1], "condition_channels": 3}},
            "never sees X_1",
        ),
    ):
        with pytest.raises(UserError, match=words):
            trained(photos, {"name": "sr4x"}, **(UNCONDITIONAL | {"network": {"name": "unet"}} | changes))


def test_presets_fit_the_shipped_recipes_that_have_an_operator():
    """--method ddnm|dps|pigdm: the recipe's data and degradation, an unconditional prior, and that guidance."""
    for name in ("demo/sr4x", "demo/inpaint", "demo/deblur", "demo/colorize", "demo/jpeg"):
        plain = load_recipe(name)
        for method in KNOWN_OPERATOR:
            if method != "unconditional-prior" and why_not(method, plain.build_degradation()) is not None:
                with pytest.raises(UserError, match="needs a known linear operator"):
                    load_recipe(name, preset=method_preset(method))
                continue
            recipe = load_recipe(name, preset=method_preset(method))
            assert recipe.method == {"name": "unconditional-prior"} and recipe.method_label == method
            assert (recipe.data, recipe.degradation, recipe.evaluate) == (plain.data, plain.degradation, plain.evaluate)
            assert recipe.network == plain.network | {"condition_channels": 0}
            wanted = None if method == "unconditional-prior" else {"name": method}
            assert recipe.sample.guidance == wanted and recipe.sample.clip


@pytest.mark.parametrize("method", ["regression", "pix2pix"])
def test_methods_of_one_call_take_no_guidance(photos, method):
    recipe = load_recipe("demo/sr4x", ["sample.guidance.name=ddnm"])
    assert recipe.build_guidance() is not None
    # The preset leaves it out; who asks for it is told.
    alone = load_recipe("demo/sr4x", preset=method_preset(method))
    build_method(alone, alone.build_network())
    led = load_recipe("demo/sr4x", ["sample.guidance.name=ddnm"], preset=method_preset(method))
    with pytest.raises(UserError, match=f"'{method}' answers in one call"):
        build_method(led, led.build_network())
