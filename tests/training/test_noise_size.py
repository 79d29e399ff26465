"""Noise sized to what X_1 leaves unknown: the estimate against closed forms, the rule, and runs that use it."""

import math

import pytest
import torch
from test_training import photos, recipe_for, same, tensors_of  # noqa: F401 - photos is a fixture
from torch.nn import functional
from typer.testing import CliRunner

from i2i_bridge import UserError
from i2i_bridge.bridge.processes import (
    I2SB,
    NADB,
    OTODE,
    BrownianBridge,
    GaussianPrior,
    SourceNoise,
    VEBridge,
    VPBridge,
)
from i2i_bridge.cli.command import app
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.registry import PROCESSES
from i2i_bridge.training.noise_size import curve, noise_level, proposed, share_above, unknown_rms, with_measured_noise
from i2i_bridge.training.trainer import train


class Pairs:
    """Pairs in memory, with what `unknown_rms` reads of a dataset."""

    seed, on_error, channels = 5, "stop", 3

    def __init__(self, make, count=40):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(torch.Generator().manual_seed(index))

    def directions(self):
        return [self]


def blurred(rms, side=48):
    """x_0 = A x_1 + rms z, A a 5 x 5 kernel over all channels, plus a constant."""
    kernel = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(99)) / 5

    def make(g):
        x_1 = torch.rand(3, side, side, generator=g) * 2 - 1
        padded = functional.pad(x_1[None], [2] * 4, mode="replicate")
        clean = functional.conv2d(padded, kernel)[0] + 0.3
        return {"x_0": clean + rms * torch.randn(3, side, side, generator=g), "x_1": x_1}

    return make


@pytest.mark.parametrize("rms", [0.05, 0.15, 0.6])
def test_the_estimate_is_the_noise_of_gaussian_pairs(rms):
    """What a linear map and a constant explain is known; the rest is the noise, within 2 %."""
    # kills: unknown-from-one-pixel, unknown-about-zero
    estimate, pairs = unknown_rms(Pairs(blurred(rms)))
    assert pairs == 40 and estimate == pytest.approx(rms, rel=0.02)


def test_an_estimate_is_measured_on_pairs_that_it_was_not_fitted_on():
    """On its own 144 pixels a fit of 76 numbers leaves 0.69 of the noise; on other pixels more than all of it."""
    # kills: unknown-measured-where-fitted
    estimate, _ = unknown_rms(Pairs(blurred(0.3, side=12), count=2))
    assert estimate > 0.3


def test_only_the_unknown_pixels_count():
    """Outside the mask x_1 is x_0; inside it tells nothing, and the unknown is the spread of x_0."""
    # kills: unknown-ignores-the-mask

    def holed(g):
        x_0 = 0.4 * torch.randn(3, 32, 32, generator=g)
        mask = torch.zeros(1, 32, 32)
        mask[:, 8:24, 8:24] = 1
        return {"x_0": x_0, "x_1": x_0 * (1 - mask), "mask": mask}

    def nothing_open(g):
        return holed(g) | {"mask": torch.zeros(1, 32, 32)}

    # The rim sees known neighbours, which tell nothing of white noise.
    assert unknown_rms(Pairs(holed))[0] == pytest.approx(0.4, rel=0.03)
    assert unknown_rms(Pairs(nothing_open)) == (0.0, 0)


def test_an_own_condition_tells_of_x_0():
    def shown(g):
        x_0 = torch.randn(3, 24, 24, generator=g)
        noise = 0.2 * torch.randn(3, 24, 24, generator=g)
        return {"x_0": x_0 + noise, "x_1": torch.randn(3, 24, 24, generator=g), "condition": x_0}

    assert unknown_rms(Pairs(shown))[0] == pytest.approx(0.2, rel=0.03)


def test_damaged_items_are_passed_over_only_where_the_recipe_says_so():
    def sometimes(g):
        if g.initial_seed() % 3 == 0:
            raise UserError("damaged")
        return blurred(0.15)(g)

    data = Pairs(sometimes)
    with pytest.raises(UserError, match="damaged"):
        unknown_rms(data)
    data.on_error = "skip"
    estimate, pairs = unknown_rms(data)
    assert pairs == 26 and estimate == pytest.approx(0.15, rel=0.03)


SIZED = [I2SB(1.0, 0.2), BrownianBridge(0.7), SourceNoise(0.3), VEBridge(2.0), NADB()]


@pytest.mark.parametrize("process", SIZED, ids=repr)
def test_noise_is_scaled_alone(process):
    """`with_noise(f)`: the same a and b, and f c, at every time."""
    # kills: rates-scaled-by-the-factor
    assert process.noise_key in process.with_noise(1.0)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    before = process.coefficients(t)
    options = {key: value for key, value in vars(process).items() if key not in process.with_noise(1.0)}
    after = type(process)(**options, **process.with_noise(0.3)).coefficients(t)
    assert torch.allclose(after.a, before.a, atol=1e-14) and torch.allclose(after.b, before.b, atol=1e-14)
    assert torch.allclose(after.c, 0.3 * before.c, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("process", SIZED, ids=repr)
@pytest.mark.parametrize("rms", [0.02, 0.15, 0.9])
def test_the_rule_is_two_thirds_of_the_unknown_in_the_middle(process, rms):
    """c/b at t = 1/2 is 2/3 rms, so that the noise exceeds the unknown on less than half of [0, 1]."""
    # kills: noise-as-large-as-the-unknown
    fitted = type(process)(**{**vars(process), **proposed(process, rms)})
    assert noise_level(fitted, 0.5).item() == pytest.approx(2 / 3 * rms, rel=0.01)
    assert share_above(fitted, rms) < 0.5


def test_the_rule_of_the_measurements():
    """Where regression leaves 0.15: sigma_1 = 0.1, of i2sb the same total, of source-noise sigma_s = 0.1."""
    assert proposed(BrownianBridge(), 0.15) == {"sigma_1": 0.1}
    assert proposed(SourceNoise(), 0.15) == {"sigma_s": 0.1}
    fitted = proposed(I2SB(), 0.15)
    assert I2SB(**fitted).sigma(1.0).item() == pytest.approx(0.1, rel=0.01)
    assert fitted["beta_max"] / fitted["beta_min"] == pytest.approx(3, rel=0.01)
    for process in (OTODE(), VPBridge(), GaussianPrior()):
        assert process.noise_key is None
    with pytest.raises(ValueError, match="cannot be scaled"):
        proposed(VPBridge(), 0.15)


@pytest.mark.parametrize(("sigma_1", "rms"), [(0.1, 0.15), (0.5, 0.15), (1.0, 0.02), (0.05, 0.9)])
def test_the_share_of_a_brownian_bridge_in_closed_form(sigma_1, rms):
    """sigma_1 sqrt(t / (1 - t)) > rms on t > rms^2 / (rms^2 + sigma_1^2)."""
    # kills: share-below
    wanted = sigma_1**2 / (sigma_1**2 + rms**2)
    assert share_above(BrownianBridge(sigma_1), rms) == pytest.approx(wanted, abs=2e-4)


def told(recipe, folder):
    lines = []
    train(recipe, folder, cpu=True, report=lambda event: lines.append(str(event)))
    return lines


AUTO = [
    ({"name": "brownian", "sigma_1": "auto"}, {"name": "preconditioned"}),
    ({"name": "i2sb", "beta_max": "auto"}, {"name": "i2sb"}),
    ({"name": "source-noise", "sigma_s": "auto"}, {"name": "velocity"}),
]


@pytest.mark.parametrize(("process", "target"), AUTO, ids=lambda part: part["name"])
def test_auto_becomes_a_number_of_the_run_and_resumes_with_the_same_bits(photos, tmp_path, process, target):  # noqa: F811
    """The run's recipe holds the number; the same command, with "auto" still, goes on with it to the bit."""
    # kills: auto-measured-anew
    recipe = recipe_for(photos, process=process, target=target)
    assert recipe.auto_noise is not None
    lines = told(recipe, tmp_path / "whole")
    asked = iter([False, True])
    train(recipe, tmp_path / "parts", cpu=True, stop=lambda: next(asked), report=lambda event: None)
    written = load_recipe(tmp_path / "parts" / "recipe.toml")
    assert written.auto_noise is None
    rms, pairs = unknown_rms(recipe.build_dataset("train"))
    assert pairs == 24
    assert written.process == process | proposed(recipe.any_process(), rms)
    key = recipe.auto_noise
    assert sum(f"process.{key} = {written.process[key]:g}" in line for line in lines) == 1
    assert not any("process." in line for line in told(recipe, tmp_path / "parts")[1:])
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts"))
    assert load_recipe(tmp_path / "parts" / "recipe.toml").process == written.process
    other = written.process | {key: 2 * written.process[key]}
    with pytest.raises(UserError, match=rf"process.{key}: .* there, .* here"):
        train(recipe_for(photos, process=other, target=target), tmp_path / "parts", cpu=True)


def test_seeds_of_one_recipe_get_the_same_noise(photos):  # noqa: F811
    """Else their runs could not be pooled."""
    # kills: unknown-of-the-runs-own-crops
    found = set()
    for seed in (0, 1, 2):
        recipe = recipe_for(photos, process=AUTO[0][0], train={"seed": seed})
        data = recipe.build_dataset("train")
        found.add(with_measured_noise(recipe, data)[0].process["sigma_1"])
        assert data.seed == seed
    assert len(found) == 1


def test_auto_is_read_before_a_training_and_refused_where_a_number_is_needed(photos, tmp_path):  # noqa: F811
    recipe = recipe_for(photos, process=AUTO[0][0])
    file = tmp_path / "auto.toml"
    file.write_text(recipe.to_toml())
    assert load_recipe(file).process["sigma_1"] == "auto"
    with pytest.raises(UserError, match=r"is measured when training starts.*train it, or give a number"):
        load_recipe(file).build_process()
    assert load_recipe(file, preset=method_preset("ot-ode")).build_process() == OTODE()
    rated = recipe_for(photos, process=AUTO[1][0])
    file.write_text(rated.to_toml())
    assert load_recipe(file, preset=method_preset("ot-ode")).build_process() == OTODE(0.3)
    same_pairs = recipe_for(photos, process=AUTO[0][0], degradation={"name": "noise", "std": 0.0})
    with pytest.raises(UserError, match=r"process.sigma_1: X_1 leaves nothing .* give a number"):
        with_measured_noise(same_pairs, same_pairs.build_dataset("train"))


@pytest.mark.parametrize(
    ("process", "wanted"),
    [
        ({"name": "brownian", "sigma_1": "Auto"}, "sigma_1: .*number"),
        ({"name": "brownian", "sigma_1": "large"}, "sigma_1: .*number"),
        ({"name": "ot-ode", "beta_max": "auto"}, "beta_max: .*number"),
        ({"name": "i2sb", "beta_min": "auto"}, "beta_min: .*number"),
        ({"name": "vp-bridge", "beta_d": "auto"}, "beta_d: .*number"),
        ({"name": "i2sb", "beta_max": "auto", "beta_min": 0.1}, "process.beta_min: leave it out"),
        ({"name": "official-grid", "beta_max": "auto"}, "beta_max: .*number"),
    ],
)
def test_words_that_mean_no_noise_are_refused(photos, process, wanted):  # noqa: F811
    with pytest.raises(UserError, match=wanted) as caught:
        recipe_for(photos, process=process)
    assert "\n" not in str(caught.value)


def test_too_much_noise_is_said_and_changes_nothing(photos, tmp_path):  # noqa: F811
    """Only where c/b exceeds the unknown on more than half of [0, 1], that is at t = 1/2, and once, at the start."""
    # kills: noise-note-late
    brownian = {"name": "brownian", "sigma_1": 2.0}
    loud = recipe_for(photos, process=brownian)
    data = loud.build_dataset("train")
    rms, _ = unknown_rms(data)
    lines = told(loud, tmp_path / "loud")
    notes = [line for line in lines if "the state's noise exceeds" in line]
    share = 100 * 4 / (4 + rms**2)
    assert notes == [
        f"note: the state's noise exceeds what X_1 leaves unknown (rms {rms:.2g}) on {share:.0f} % of [0, 1]; sigma_1 "
        f"{proposed(BrownianBridge(), rms)['sigma_1']:g} proposed"
    ]
    assert load_recipe(tmp_path / "loud" / "recipe.toml").process == brownian
    assert not any("noise exceeds" in line for line in told(loud, tmp_path / "loud"))
    for factor, said in ((0.98, 0), (1.02, 1)):
        recipe = recipe_for(photos, process={"name": "brownian", "sigma_1": factor * rms})
        assert len(with_measured_noise(recipe, data)[1]) == said
    for quiet in (
        recipe_for(photos, process=brownian, method={"name": "regression"}),
        recipe_for(photos, process={"name": "vp-bridge"}),
        recipe_for(photos, process={"name": "ot-ode"}),
        recipe_for(
            photos, process=brownian, reference={"source": "a paper, Table 1", "protocol": "its own", "rows": []}
        ),
    ):
        assert with_measured_noise(quiet, data) == (quiet, [])


def test_preview_shows_the_noise_beside_the_unknown(photos, tmp_path):  # noqa: F811
    recipe = recipe_for(photos, process=AUTO[0][0])
    file = tmp_path / "auto.toml"
    file.write_text(recipe.to_toml())
    rms, _ = unknown_rms(recipe.build_dataset("train"))
    sigma_1 = proposed(BrownianBridge(), rms)["sigma_1"]
    done = CliRunner().invoke(app, ["preview", str(file), str(tmp_path / "sheet.png")])
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert f"process.sigma_1 = {sigma_1:g}" in text and f"beside rms {rms:.3g}" in text
    levels = [sigma_1 * math.sqrt(t / (1 - t)) for t in (0.05, 0.1, 0.2, 0.5, 0.8, 0.9)]
    assert "c/b " + " ".join(f"{level:.3g}" for level in levels) in text
    assert "above it on 31 % of [0, 1]" in text
    for name in ("ot-ode", "gaussian-prior"):
        target = {"name": "x0"}
        quiet = recipe_for(photos, process={"name": name}, target=target)
        assert curve(quiet, quiet.build_dataset("train")) == []


def test_every_process_says_whether_its_noise_can_be_sized():
    for name in PROCESSES.names():
        process = PROCESSES.build({"name": name})
        if process.noise_key is not None:
            assert process.noise_key in PROCESSES.options(name) and not process.deterministic
            assert set(process.with_noise(1.0)) <= set(PROCESSES.options(name))
