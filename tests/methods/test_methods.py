"""Methods by name over any recipe, and regression."""

from types import SimpleNamespace

import pytest
import torch

from i2i_bridge.bridge.processes import I2SB, GaussianPrior, LinearFlow
from i2i_bridge.bridge.targets import I2SBTarget, VelocityTarget, X0Target
from i2i_bridge.cli.catalogue import description, listing
from i2i_bridge.errors import UserError
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.methods.calls import counted_calls
from i2i_bridge.methods.curriculum import Curriculum
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.geometry import method_geometry
from i2i_bridge.methods.latent import Latent, LatentMethod
from i2i_bridge.methods.mean import Mean
from i2i_bridge.methods.prior import Prior
from i2i_bridge.methods.regression import Regression
from i2i_bridge.recipe.load import load_recipe, parse_recipe
from i2i_bridge.recipe.presets import method_preset, preset_names
from i2i_bridge.registry import METHODS, register_method
from i2i_bridge.runs.run import Run
from i2i_bridge.training.schedule import learning_rate

RECIPES = [
    "demo/deblur", "demo/inpaint", "demo/colorize", "demo/pairs", "restoration/sr4x-pool", "restoration/inpaint-center",
    "translation/edges2shoes", "translation/colorization", "translation/facades-pix2pix",
]  # fmt: skip
SHOWN = ["bridge", "cdsb", "flow", "ot-ode", "palette", "pix2pix", "regression", "shortcut"]


class Spy(torch.nn.Module):
    """A network with a learned constant output that stores its inputs."""

    def __init__(self, answer=0.0):
        super().__init__()
        self.answer = torch.nn.Parameter(torch.tensor(answer))
        self.seen = []

    def forward(self, x_t, t, condition):
        self.seen.append((x_t, t, condition))
        return self.answer * torch.ones_like(x_t)


def preset(recipe, name, *settings):
    return load_recipe(recipe, settings, method_preset(name))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", SHOWN)
def test_a_preset_changes_the_method_alone(recipe, name):
    # kills: preset-touches-the-data
    plain, changed = load_recipe(recipe), preset(recipe, name)
    for table in ("data", "degradation", "evaluate", "reference", "task", "name"):
        assert getattr(plain, table) == getattr(changed, table)
    assert plain.train.seed == changed.train.seed
    assert changed.method_label == name
    assert changed.method["name"] == (name if name in ("regression", "pix2pix", "cdsb", "shortcut") else "bridge")
    method = build_method(changed, Spy())
    channels = changed.data.channels
    batch = {key: torch.rand(1, channels, 64, 64) for key in ("x_0", "x_1")}
    batch["condition"] = torch.rand(1, changed.condition_channels or 3, 64, 64)
    assert [loss for loss, _ in method.losses(batch, torch.Generator())][-1] == "network"


def test_the_same_network_and_training_for_all_that_walk():
    # kills: preset-trains-otherwise
    plain = load_recipe("restoration/blur-gaussian")
    for name in ("bridge", "flow", "ot-ode", "palette", "regression"):
        changed = preset("restoration/blur-gaussian", name)
        # Palette alone must see X_1 as a condition: it starts from noise.
        network = plain.network | ({"condition_channels": 3} if name == "palette" else {})
        assert changed.network == network and changed.train == plain.train
    assert preset("restoration/sr4x-pool", "palette").network["condition_channels"] == 3
    assert preset("restoration/blur-gaussian", "ot-ode").process == {"name": "ot-ode", "beta_max": 1.0}
    assert preset("restoration/blur-gaussian", "bridge").process == {"name": "i2sb", "beta_max": 1.0}
    assert preset("demo/colorize", "bridge") == load_recipe("demo/colorize")


def test_a_setting_on_top_of_a_preset_stays_out_of_the_next_recipe():
    # kills: presets-tables-changed
    preset = method_preset("ddnm")
    plain = load_recipe("demo/deblur", preset=preset)
    changed = load_recipe("demo/deblur", ["process.beta_max=11", "sample.guidance.name=dps"], preset)
    assert changed.process["beta_max"] == 11 and changed.sample.guidance == {"name": "dps"}
    assert load_recipe("demo/deblur", preset=preset) == plain


@pytest.mark.parametrize(
    "rate", [{}, {"beta_max": 0.6}, {"beta_min": 0.05}, {"beta_max": 0.6, "beta_min": 0.2}], ids=str
)
@pytest.mark.parametrize(("name", "other"), [("i2sb", "ot-ode"), ("ot-ode", "bridge")])
def test_the_noiseless_limit_has_the_rate_of_the_bridge(name, other, rate):
    """a_t and b_t are the recipe's, whichever of beta_max and beta_min it names and leaves at the default."""
    # kills: rate-of-another-default, beta-min-forgotten
    table = load_recipe("demo/jpeg").model_dump(mode="json") | {"process": {"name": name} | rate}
    changed = parse_recipe(method_preset(other)(table, frozenset()), "changed")
    assert changed.process["name"] == {"bridge": "i2sb"}.get(other, other)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    plain, limit = (recipe.build_process().coefficients(t) for recipe in (parse_recipe(table, "plain"), changed))
    assert torch.equal(plain.a, limit.a) and torch.equal(plain.b, limit.b)


def test_palette_sees_x_1_as_its_condition_alone():
    # kills: palette-walks-from-x-1
    recipe = preset("demo/sr4x", "palette")
    assert recipe.build_process() == GaussianPrior() and recipe.target == {"name": "eps"}
    x_0 = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    states = []
    for x_1 in (x_0 + 1, x_0 - 1):
        network = Spy()
        method = build_method(recipe, network)
        draws = [torch.Generator().manual_seed(i) for i in range(2)]
        list(method.losses({"x_0": x_0, "x_1": x_1}, draws))
        x_t, t, condition = network.seen[0]
        assert torch.equal(condition, x_1)
        states.append(x_t)
    _, b, c = (value.view(2, 1, 1, 1).float() for value in GaussianPrior().coefficients(t))
    assert torch.equal(*states)
    # X_t = b X_0 + c z, with the z that the generators give next.
    again = [torch.Generator().manual_seed(i) for i in range(2)]
    for g in again:
        torch.rand((), generator=g, dtype=torch.float64)
    z = torch.stack([torch.randn(3, 8, 8, generator=g) for g in again])
    assert torch.allclose(states[0], b * x_0 + c * z, atol=1e-6)
    # At t = 1 it starts from noise: restoring never reads X_1 but as the condition.
    walks = []
    for x_1 in (x_0 + 1, x_0 - 1):
        draws = [torch.Generator().manual_seed(i) for i in range(2)]
        walks.append(list(build_method(recipe, Spy()).trajectory({"x_1": x_1}, nfe=3, generator=draws)))
    assert all(torch.equal(*pair) for pair in zip(*walks, strict=True))


def test_pix2pix_is_sized_to_the_images():
    # kills: fewer-images-seen
    small, large = preset("demo/deblur", "pix2pix"), preset("translation/edges2shoes", "pix2pix")
    assert small.network == {"name": "pix2pix-unet", "levels": 6, "channels": 24}
    assert large.network == {"name": "pix2pix-unet", "levels": 8, "channels": 64}
    assert small.method["discriminator"] == {"name": "patchgan", "n_layers": 2, "channels": 24}
    assert large.method["discriminator"]["n_layers"] == 3
    assert (small.train.lr, small.train.betas, small.train.ema_decay) == (2e-4, (0.5, 0.999), 0.0)
    plain = load_recipe("demo/deblur").train
    assert small.train.batch_size == 4 and small.train.steps * 4 == plain.steps * plain.batch_size
    assert learning_rate(small.train, plain.steps - 1) == 2e-4 and learning_rate(small.train, small.train.steps) == 0
    # A colorization X_1 holds noise: the clean grey image is the networks' own condition, as the bridge's.
    assert preset("demo/colorize", "pix2pix").condition_channels == 3
    assert preset("demo/deblur", "pix2pix", "data.size=[96, 160]").network["levels"] == 5


def test_what_the_user_sets_wins():
    # kills: preset-over-the-user
    changed = preset("demo/deblur", "pix2pix", "train.steps=20", "network.channels=8", "train.lr=1e-3", "data.size=128")
    assert (changed.train.steps, changed.train.decay_from, changed.train.lr) == (20, 10, 1e-3)
    assert changed.network == {"name": "pix2pix-unet", "levels": 7, "channels": 8}
    with pytest.raises(UserError, match="--method palete: no such method; did you mean 'palette'"):
        method_preset("palete")
    with pytest.raises(UserError, match="unknown key 'l1_weigth'; did you mean 'l1_weight'"):
        preset("demo/deblur", "pix2pix", "method.l1_weigth=3")


def test_methods_are_listed_and_shown():
    assert set(SHOWN) <= set(preset_names()) == {name for name, _ in listing("methods")}
    assert "l1_weight: float = 100.0" in description("pix2pix")
    assert "n_layers: int = 3" in description("patchgan")
    assert "X_1 is only seen" in description("palette")
    assert 'name = "gaussian-prior"' in description("demo/deblur", "palette")
    assert load_recipe("demo/deblur").method_label == "bridge"


@pytest.mark.parametrize(
    ("process", "target", "read"),
    [
        (I2SB(), I2SBTarget(), lambda x_1, f: x_1 - I2SB().sigma(1.0).item() * f),
        (LinearFlow(), VelocityTarget(), lambda x_1, f: x_1 - f),
        (GaussianPrior(), X0Target(), lambda x_1, f: 0 * x_1 + f),
    ],
)
def test_regression_reads_the_target_at_t_1(process, target, read):
    # kills: regression-at-another-time, regression-mask-forgotten
    x_0, x_1 = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    network = Spy(0.3)
    method = Regression(network, process, target, condition=True)
    with counted_calls(method) as calls:
        (restored,) = method.trajectory({"x_1": x_1}, nfe=20, generator=torch.Generator())
    assert (calls.count, calls.images) == (1, 2) and torch.allclose(restored, read(x_1, 0.3), atol=1e-6)
    x_t, t, condition = network.seen[0]
    assert torch.equal(x_t, x_1) and torch.equal(condition, x_1) and bool((t == 1).all())
    ((name, loss),) = method.losses({"x_0": x_0, "x_1": x_1}, torch.Generator())
    assert name == "network" and loss.item() == pytest.approx((read(x_1, 0.3) - x_0).square().mean().item(), rel=1e-5)
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1
    ((_, half),) = method.losses({"x_0": x_0, "x_1": x_1, "mask": mask}, torch.Generator())
    assert half.item() == pytest.approx(((read(x_1, 0.3) - x_0).square() * mask).mean().item(), rel=1e-5)


def test_regression_puts_known_pixels_back_and_learns_beyond_the_clip():
    """The walk clips, and keeps X_1 where the mask is 0; the loss is of the unclipped answer, or it would not teach."""
    # kills: regression-without-known-pixels, regression-taught-by-the-clipped
    x_1 = torch.rand(1, 1, 4, 4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    method = Regression(Spy(3.0), I2SB(), X0Target(), clip=True)
    (restored,) = method.trajectory({"x_1": x_1, "mask": mask}, nfe=1, generator=torch.Generator())
    assert torch.equal(restored, torch.where(mask > 0, torch.ones(()), x_1))
    ((_, loss),) = method.losses({"x_0": torch.ones(1, 1, 4, 4), "x_1": x_1}, torch.Generator())
    assert loss.item() == pytest.approx(4.0)


def test_regression_takes_the_recipes_own_read_out():
    assert build_method(preset("demo/colorize", "regression"), Spy()).target == I2SBTarget()
    palette = preset("demo/colorize", "palette")
    assert build_method(palette.model_copy(update={"method": {"name": "regression"}}), Spy()).target == X0Target()


def test_an_image_of_one_stride_is_not_padded(tmp_path):
    """A U-Net of 2^levels works down to one value; twice that would be another image."""
    # kills: smallest-side-ignored
    recipe = preset("demo/deblur", "pix2pix", "network.channels=4")
    network = recipe.build_network().eval()
    shapes = []
    network.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape[-2:])))
    run = Run(tmp_path, recipe, build_method(recipe, network), 0, torch.device("cpu"))
    for size in ((64, 64), (1, 65)):
        restored = run.restore_batch({"x_1": torch.rand(1, 3, *size)}, nfe=1, generator=torch.Generator())
        assert restored.shape[-2:] == size
    assert shapes == [(64, 64), (64, 128)]


class Sided(torch.nn.Identity):
    """A network of a stride and a smallest side."""

    def __init__(self, stride, smallest_side=None):
        super().__init__()
        self.stride, self.smallest_side = stride, smallest_side


def test_sides_suit_all_networks_that_see_the_image():
    """Of two stages the least common multiple of both strides, and a smallest side that is a multiple of it."""

    # kills: stride-of-the-larger-network, smallest-side-off-the-stride, smallest-side-of-latents
    def regression(network, **given):
        return Regression(network, LinearFlow(), X0Target(), **given)

    assert method_geometry(regression(Sided(4))) == (4, 8)
    assert method_geometry(regression(Sided(4, 20))) == (4, 20)
    for first, second, wanted in ((6, 4, (12, 12)), (2, 8, (8, 16)), (6, 10, (30, 30))):
        two = Bridge(Sided(first), LinearFlow(), X0Target(), mean=Mean(regression(Sided(second))))
        assert method_geometry(two) == wanted
    latent = Latent(SimpleNamespace(factor=8), (0.0,), (1.0,))
    assert method_geometry(LatentMethod(regression(Sided(4, 20)), latent)) == (32, 160)


def test_a_prior_trains_by_the_curriculum_of_the_samples_numbers():
    """Without them the first steps, at t = 1 alone, would have other times, and strata none."""
    # kills: number-lost-in-a-prior
    network = Spy()
    prior = Prior(network, GaussianPrior(), X0Target(), curriculum=Curriculum(source_steps=1, batch_size=4))
    x = torch.rand(4, 3, 8, 8)
    for step, all_at_source in ((0, True), (1, False)):
        list(prior.losses({"x_0": x, "x_1": x, "number": torch.arange(4) + 4 * step}, torch.Generator()))
        assert bool((network.seen[-1][1] == 1).all()) is all_at_source


def test_a_regression_is_told_the_label():
    # kills: regression-forgets-the-label
    class Labelled(Spy):
        def forward(self, x_t, t, condition, label):
            self.seen.append(label)
            return self.answer * torch.ones_like(x_t)

    network, x = Labelled(), torch.rand(2, 3, 8, 8)
    method = Regression(network, LinearFlow(), X0Target(), label=True)
    batch = {"x_0": x, "x_1": x, "label": torch.tensor([5, 2])}
    list(method.losses(batch, torch.Generator()))
    list(method.trajectory(batch, nfe=1, generator=torch.Generator()))
    assert [label.tolist() for label in network.seen] == [[5, 2], [5, 2]]


def test_a_method_of_a_plugin_that_still_says_walk(tmp_path):
    """Its class stays as it is; copies with another network and a run's first stage work, too.

    kills: walk-of-a-plugin-forgotten
    """

    class Old:
        def __init__(self, recipe, network):
            self.network = network

        def with_network(self, network):
            return Old(None, network)

        def walk(self, batch, *, nfe, generator):
            yield self.network(batch["x_1"], torch.ones(1), None)

    register_method("test-old")(Old)
    try:
        recipe = load_recipe("demo/deblur")
        recipe = recipe.model_copy(update={"method": {"name": "test-old"}})
        method = build_method(recipe, Spy(0.25))
    finally:
        del METHODS._members["test-old"]
    assert not hasattr(Old, "trajectory") and not hasattr(method, "trajectory")
    batch = {"x_1": torch.zeros(1, 3, 8, 8)}
    for copy, answer in ((method, 0.25), (method.with_network(Spy(0.5)), 0.5)):
        run = Run(tmp_path, recipe, copy, 1, torch.device("cpu"))
        assert torch.equal(run.restore_batch(batch, nfe=1, generator=[torch.Generator()]), batch["x_1"] + answer)
        assert torch.equal(Mean(copy)(batch, [torch.Generator()]), batch["x_1"] + answer)
