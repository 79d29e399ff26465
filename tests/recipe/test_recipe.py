import itertools
import math

import pytest
import torch

from i2i_bridge import registry
from i2i_bridge.data.cards import load_card
from i2i_bridge.errors import UserError
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.latent import Latent
from i2i_bridge.networks.autoencoder import ConvolutionalAutoencoder
from i2i_bridge.recipe.load import load_recipe, parse_recipe, recipe_file
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.storage.shipped import recipe_names
from i2i_bridge.training.schedule import learning_rate

NINE = {"jpeg-5", "jpeg-10", "sr4x-pool", "sr4x-bicubic", "blur-uniform", "blur-gaussian"} | {
    f"inpaint-{mask}" for mask in ("center", "freeform-10-20", "freeform-20-30")
}
SPLITS = ("train", "validation")
FOUR = {"edges2shoes", "edges2handbags", "day2night", "colorization"}
PIX2PIX = {f"{name}-pix2pix" for name in ("edges2shoes", "edges2handbags", "day2night", "facades")}


class Encoder(ConvolutionalAutoencoder):
    """An untrained autoencoder with the interface of those of [latent]."""

    channels, factor = 4, 4


def small(**changes):
    table = {
        "name": "small",
        "summary": "a small one",
        "task": "restoration",
        "data": {"root": "photos", "source": {"name": "images"}, "size": 16},
        "degradation": {"name": "noise", "std": 0.2},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1]},
        "train": {"steps": 5},
    }
    return table | changes


def test_the_tasks_of_the_paper_are_there():
    names = set(recipe_names())
    assert {f"restoration/{name}" for name in NINE} | {f"translation/{name}" for name in FOUR} <= names
    assert {f"translation/{name}" for name in (*PIX2PIX, "facades")} <= names
    assert {f"demo/{name}" for name in ("deblur", "sr4x", "jpeg", "inpaint", "colorize", "pairs")} <= names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_built_and_stepped(name):
    """Loaded, its network built (the big ones without memory), its degradation applied, its loss taken once."""
    recipe = load_recipe(name)
    assert recipe.name and recipe_file(name).is_file()
    channels = recipe.data.channels
    big = recipe.network["name"] == "adm256"
    if big:
        with torch.device("meta"):
            network = recipe.build_network()
        condition = recipe.network.get("condition_channels", 0)
        assert sum(p.numel() for p in network.parameters()) == (552_814_083 if condition else 552_807_171)
        # The very settings around a network of the same kind that fits a test.
        recipe = recipe.model_copy(
            update={
                "network": {
                    "name": "unet",
                    "channels": 8,
                    "channel_mult": [1],
                    "condition_channels": condition,
                }
            }
        )
    if recipe.network["name"] == "pix2pix-unet":
        with torch.device("meta"):
            assert sum(p.numel() for p in recipe.build_network().parameters()) == 54_413_955
        recipe = recipe.model_copy(update={"network": recipe.network | {"levels": 6, "channels": 4}})
        assert not recipe.condition_channels  # it sees X_1 itself
    # As in the paper; small ones of ours do what measured better.
    elif not (name.startswith("demo/") or name == "translation/edges-photo-64"):
        assert bool(recipe.network.get("condition_channels")) == (recipe.task == "translation")
    # In the place of the autoencoder that its first stage would train.
    latent = None if recipe.latent is None else Latent(Encoder(channels=4), (0.0,) * 4, (1.0,) * 4)
    method = build_method(recipe, recipe.build_network(), latent=latent)
    g = torch.Generator().manual_seed(0)
    x_0 = torch.rand(2, channels, 64, 64, generator=g) * 2 - 1
    degradation = recipe.build_degradation()
    batch = {"x_0": x_0, "x_1": x_0.flip(-1)}
    if degradation is not None:
        degraded = degradation(x_0, [torch.Generator().manual_seed(i) for i in range(2)])
        fields = {"x_1": degraded.x_1, "mask": degraded.mask, "condition": degraded.condition}
        batch |= {key: value for key, value in fields.items() if value is not None}
    if recipe.data.direction == "both":
        batch["direction"] = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 64, 64)
    *_, (_, loss) = method.losses(batch, g)
    loss.backward()
    gradients = [p.grad for p in method.network.parameters() if p.grad is not None]
    assert any(float(gradient.abs().sum()) > 0 for gradient in gradients)
    *_, restored = method.trajectory(batch, nfe=2, generator=g)
    assert restored.shape == x_0.shape


def test_paper_settings():
    jpeg, blur = load_recipe("jpeg-5"), load_recipe("restoration/blur-uniform")
    assert jpeg.process == {"name": "i2sb", "beta_max": 0.3} and blur.process == {
        "name": "ot-ode",
        "beta_max": 1.0,
    }
    assert jpeg.train.lr == 5e-5 and jpeg.train.batch_size == 256 and jpeg.train.micro_batch == 2
    assert learning_rate(jpeg.train, 0) == 5e-5 and learning_rate(jpeg.train, 1000) == pytest.approx(4.95e-5)
    assert jpeg.reference.rows[0] == {"method": "I2SB", "nfe": 1000, "fid": 4.6, "ca": 67.9}
    for name in recipe_names():
        reference = load_recipe(name).reference
        if name.startswith("restoration/"):
            assert reference is not None and "I2SB (Liu" in reference.source


def test_pix2pix_settings_of_the_paper():
    """Steps = epochs x floor(pairs / batch)."""
    for name, epochs, batch in (
        ("edges2shoes", 15, 4),
        ("edges2handbags", 15, 4),
        ("day2night", 17, 4),
        ("facades", 200, 1),
    ):
        recipe = load_recipe(f"{name}-pix2pix")
        card = load_card(recipe.data.card)
        train = recipe.train
        assert train.steps == epochs * (card.splits["train"] // batch) and train.batch_size == batch
        assert (train.lr, train.betas, train.ema_decay) == (2e-4, (0.5, 0.999), 0.0)
        jitter = (recipe.data.load_size, recipe.data.crop, recipe.data.flip)
        assert jitter == ((None, "center", False) if "edges" in name else (286, "random", True))
        bridge = load_recipe(f"translation/{name}")
        assert (recipe.data, recipe.degradation) == (bridge.data, bridge.degradation)
    assert learning_rate(train, 39_999) == 2e-4 and learning_rate(train, 60_000) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"trian": {}}, "unknown key 'trian'; did you mean 'train'"),
        ({"train": {"steps": 5, "lrr": 1e-4}}, "unknown key 'train.lrr'; did you mean 'lr'"),
        ({"train": {"steps": 5, "lr": "1e-4"}}, "train.lr: .*number.*, got '1e-4'"),
        ({"train": {"steps": 0}}, "train.steps: .*greater than 0.*got 0"),
        ({"train": {}}, "train.steps: the key is missing"),
        ({"task": "restore"}, "task: .*'restoration' or 'translation'"),
        ({"data": {"size": [16]}}, "data.size"),
        ({"data": {"root": "x", "resize": "streched"}}, "data.resize"),
        ({"method": {"name": "pix2pics"}}, "unknown method 'pix2pics'; did you mean 'pix2pix'"),
        ({"method": {"name": "pix2pix", "inference": "test"}}, "method 'pix2pix': inference"),
        ({"method": {"name": "bridge", "l1_weight": 1.0}}, "unknown key 'l1_weight'"),
        ({"process": {"name": "i2bs"}}, "unknown process 'i2bs'; did you mean 'i2sb'"),
        ({"process": {"name": "i2sb", "beta": 1.0}}, "unknown key 'beta'; did you mean 'beta_m"),
        ({"process": {"name": "i2sb", "beta_max": -1.0}}, "must be positive"),
        ({"process": {"name": "flow"}}, "no sigma_t"),
        ({"target": {"name": "velocity"}}, "straight path"),
        ({"degradation": {"name": "jpeg", "quality": 500}}, "quality = 500 is outside 1..100"),
        ({"data": {"root": "x", "value_range": [-1e308, 1e308]}}, "value_range .*low < high"),
        ({"data": {"root": "x", "align": "crop"}}, "data.align = 'crop' is for pairs, but .degradation. makes x_1"),
        ({"network": {"name": "unet", "widht": 8}}, "unknown key 'widht'"),
        ({"sample": {"sampler": {"name": "ancestrl"}}}, "did you mean 'ancestral'"),
        ({"sample": {"sampler": {"name": "eta", "etta": 0.5}}}, "unknown key 'etta'; did you mean 'eta'"),
        ({"sample": {"nfe": 0}}, "sample.nfe"),
        ({"sample": {"sampler": {"name": "eta", "eta": 3.0}}}, r"eta must lie in \[0, 1\], got 3.0"),
        ({"sample": {"sampler": {"name": "eta", "eta": "high"}}}, "sampler 'eta': eta: .*number.*'high'"),
        ({"process": {"name": "gaussian-prior"}, "sample": {"sampler": {"name": "ot-ode"}}}, "starts from noise"),
        ({"process": {"name": "ot-ode"}, "proposal": {"name": "mixture"}}, "forward SDE"),
        ({"sample": {"grid": "official"}}, "belongs to the process 'official-grid'"),
        ({"network": {"name": "unet", "in_channels": 1}}, "network.in_channels is 1, but data.channels is 3"),
        ({"train": {"steps": 1, "betas": [2.0, 3.0]}}, "train.betas.0.*less than 1, got 2.0"),
        ({"sample": {"sampler": "euler"}}, r"sample.sampler: should be a table, such as \{ name"),
        (
            {"train": {"steps": 1, "freeze": "[input.*]"}},
            r"array, such as .256, 256., got '.input\.\*.'; its texts need quotes, which a shell",
        ),
        ({"data": {"size": ""}}, "data.size: should be an array, such as .256, 256. or should be a valid integer"),
        ({"sample": {"grid": "unifrom"}}, "did you mean 'uniform'"),
        ({"evaluate": {"nfe": [1, 0]}}, "evaluate.nfe.1"),
        ({"evaluate": {"metrics": ["pnsr"]}}, "did you mean 'psnr'"),
    ],
)
def test_mistakes_are_one_line_with_key_and_value(changes, part):
    # kills: endless-range-in-a-recipe
    with pytest.raises(UserError, match=part) as caught:
        parse_recipe(small(**changes), "mine.toml")
    assert str(caught.value).startswith("mine.toml: ") and "\n" not in str(caught.value)


def test_overrides(tmp_path):
    recipe = load_recipe(
        "jpeg-5", ["train.lr=1e-4", "data.root=/some/where", "evaluate.nfe=[1, 7]", "process.name=ot-ode"]
    )
    assert recipe.train.lr == 1e-4 and recipe.data.root == "/some/where" and recipe.evaluate.nfe == [1, 7]
    assert recipe.process == {"name": "ot-ode"}
    texts = load_recipe("jpeg-5", ["mean.run=2024", "summary=1e3", "data.root=2024-01-01", "train.init=7"])
    assert texts.mean is not None and (texts.mean.run, texts.summary) == ("2024", "1e3")
    assert (texts.data.root, texts.train.init) == ("2024-01-01", "7")
    for override, part in (
        ("train.lr", "key.key=value"),
        ("train.lr.x=1", "is a value"),
        ("train.lrr=1", "did you mean 'lr'"),
    ):
        with pytest.raises(UserError, match=part):
            load_recipe("jpeg-5", [override])


def test_a_recipe_survives_its_file(tmp_path):
    for name in recipe_names():
        recipe = load_recipe(name)
        file = tmp_path / "r.toml"
        file.write_text(recipe.to_toml())
        assert load_recipe(file) == recipe


def test_files_that_are_not_recipes(tmp_path):
    file = tmp_path / "r.toml"
    for text in ("[data", "a = 1\na = 2\n", "\x00"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"r\.toml"):
            load_recipe(file)
    with pytest.raises(UserError, match="no recipe 'jpeg-11'; did you mean 'jpeg-1"):
        load_recipe("jpeg-11")
    with pytest.raises(UserError, match="no such recipe file"):
        load_recipe(tmp_path / "none.toml")


def test_another_dataset_replaces_the_recipes_own():
    # kills: options of one kind handed to another; an order of overrides that matters
    for overrides in (["data.card=my-photos", "data.root=here"], ["data.root=here", "data.card=my-photos"]):
        for name in ("demo/pairs", "demo/deblur", "restoration/jpeg-5"):
            assert load_recipe(name, overrides).data_table() == {"name": "images", "holdout": 0.1, "root": "here"}
    other = load_recipe("demo/deblur", ["data.source.name=images", "data.root=here"])
    assert other.data_table() == {"name": "images", "root": "here"}
    more = load_recipe("demo/deblur", ["data.card=my-photos", "data.source.holdout=0.5", "data.root=here"])
    assert more.data_table() == {"name": "images", "holdout": 0.5, "root": "here"}


@pytest.mark.parametrize(
    "settings",
    [
        ["process.name=brownian", "process.sigma_1=0.9"],
        ["sample.sampler.name=eta", "sample.sampler.eta=0.1", "sample.nfe=3"],
        ["degradation.name=jpeg", "degradation.quality=[5, 20]", "degradation.backend=pillow"],
        ['method={name = "pix2pix"}', "method.l1_weight=7.0", "method.discriminator.n_layers=2"],
        ["data.card=my-photos", "data.source.holdout=0.5", "data.root=here"],
    ],
    ids=lambda settings: settings[0],
)
def test_settings_mean_the_same_in_any_order(settings):
    """Another name clears its table of the recipe's own options, and never of one that the user gave before it."""
    # kills: name-clears-what-was-given-before
    extra = ["network.name=pix2pix-unet", "network.levels=5"] if "pix2pix" in settings[0] else []
    recipes = [load_recipe("demo/deblur", [*extra, *order]) for order in itertools.permutations(settings)]
    assert all(recipe == recipes[0] for recipe in recipes)
    for setting in settings:
        keys, _, value = setting.partition("=")
        found = recipes[0].model_dump()
        for key in keys.split(".") if "{" not in value and keys != "data.card" else ():
            found = found[key]
        assert "{" in value or keys == "data.card" or str(found).replace("(", "[").replace(")", "]") == value


def test_every_choice_reaches_the_bridge(tmp_path):
    """A recipe whose every choice differs from the default, against the bridge that is built from it."""
    # kills: sampler-options-ignored, grid-ignored, proposal-ignored, clip-ignored
    from i2i_bridge.bridge.processes import BrownianBridge
    from i2i_bridge.bridge.proposals import MixtureProposal
    from i2i_bridge.bridge.samplers import eta_sampler
    from i2i_bridge.bridge.targets import X0Target
    from i2i_bridge.bridge.time_grids import karras
    from i2i_bridge.methods.factory import build_method

    recipe = parse_recipe(
        {
            "name": "all",
            "summary": "all choices",
            "task": "restoration",
            "data": {"source": {"name": "images", "root": str(tmp_path)}, "size": 32},
            "process": {"name": "brownian", "sigma_1": 0.7},
            "target": {"name": "x0"},
            "proposal": {"name": "mixture", "forward_ratio": 0.25},
            "network": {"name": "unet", "channels": 8, "channel_mult": [1, 1], "condition_channels": 3},
            "train": {"steps": 1},
            "sample": {"sampler": {"name": "eta", "eta": 0.3}, "grid": "karras", "nfe": 7, "clip": True},
        },
        "all",
    )
    bridge = build_method(recipe, torch.nn.Identity())
    assert bridge.process == BrownianBridge(0.7) and bridge.target == X0Target()
    assert bridge.proposal == MixtureProposal(0.25) and bridge.condition and bridge.clip
    assert (bridge.sampler, bridge.sampler_options, bridge.grid) == (eta_sampler, {"eta": 0.3}, karras)


def test_validation_takes_the_centre_and_mirrors_nothing(tmp_path):
    # kills: validation-cropped-at-random, validation-mirrored
    import numpy as np
    from PIL import Image

    place = np.stack([*np.mgrid[0:40, 0:48], np.zeros((40, 48))], axis=2).astype(np.uint8)
    for i in range(8):
        Image.fromarray(place).save(tmp_path / f"{i}.png")
    settings = [f"data.root={tmp_path}", "data.size=16", "data.validation_size=16", 'data.resize="none"']
    recipe = load_recipe("restoration/jpeg-5", ["data.source.holdout=0", *settings, 'data.crop="random"'])
    corners = {
        split: {tuple(((item["x_0"][:2, 0, 0] + 1) * 127.5).round().int().tolist()) for item in items}
        for split, items in ((name, map(recipe.build_dataset(name).__getitem__, range(8))) for name in SPLITS)
    }
    assert corners["validation"] == {(12, 16)} and len(corners["train"]) > 4


def test_validation_has_a_size_and_a_seed_of_its_own(tmp_path):
    """Its size is validation_size where given, else size; its draws are of evaluate.seed, training's of train.seed."""
    # kills: validation-of-the-training-size, validation-drawn-by-the-training-seed
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (64, 64), (9 * i, 80, 200)).save(tmp_path / f"{i}.png")

    def items(*settings):
        changes = ["data.card=my-photos", "data.source.holdout=0", f"data.root={tmp_path}", "data.size=32", *settings]
        recipe = load_recipe("jpeg-5", [*changes, "degradation.name=noise", "degradation.std=0.3"])
        return [recipe.build_dataset(split)[1]["x_1"] for split in SPLITS]

    train, validation = items()
    assert train.shape == validation.shape == (3, 32, 32)
    assert [x.shape[-1] for x in items("data.validation_size=48")] == [32, 48]
    other, same = items("train.seed=5")
    assert torch.equal(same, validation) and not torch.equal(other, train)
    same, other = items("evaluate.seed=5")
    assert torch.equal(same, train) and not torch.equal(other, validation)


def test_load_size_reaches_the_geometry_of_training_alone(tmp_path):
    # kills: load-size-ignored
    from PIL import Image

    ramp = torch.arange(100).expand(100, 100).to(torch.uint8).numpy()
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    settings = [f"data.root={tmp_path}", "data.size=32", "data.validation_size=32", "data.load_size=64"]
    recipe = load_recipe("demo/sr4x", ["data.card=my-photos", "data.source.holdout=0", *settings])
    assert recipe.data.load_size == 64
    widths = [item["x_0"].max() - item["x_0"].min() for item in (recipe.build_dataset(s)[0] for s in SPLITS)]
    # Half of a picture resized to 64, and the whole of one resized to 32: half and all of the grey levels.
    assert widths[0].item() == pytest.approx(99 / 127.5 / 2, abs=0.03)
    assert widths[1].item() == pytest.approx(99 / 127.5, abs=0.03)


@pytest.mark.parametrize("setting", ["data.source.root.a=1", "data.source.root.a.b=1", "data.source.root.a.b.c=1"])
def test_keys_below_an_option_that_is_no_table_are_one_line(setting):
    # kills: an entry of an option that is a text looked up by its letters
    recipe = load_recipe("demo/jpeg", [setting])
    with pytest.raises(UserError, match="root"):
        recipe.build_dataset("train")


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ([1.0, 0.0], "list"),
        (torch.linspace(1, 0, 7), "1.0, 0.83"),
        (torch.tensor([1.0, 0.5, 0.25]), "1.0, 0.5, 0.25"),
        (torch.tensor([1.0, 1.0, 0.0]), "1.0, 1.0, 0.0"),
        (torch.tensor([1.0, math.nan, 0.0]), "1.0, nan, 0.0"),
    ],
)
def test_a_grid_of_a_user_has_as_many_steps_as_calls_and_ends_at_the_clean_image(times, shown, monkeypatch):
    # kills: grid-not-tried
    monkeypatch.setitem(registry.TIME_GRIDS._members, "mine", lambda process, nfe: times)
    with pytest.raises(UserError, match=f"grid 'mine': for 2 calls .*3 times that fall to 0, got .?{shown}"):
        parse_recipe(small(sample={"grid": "mine"}), "mine.toml")


@pytest.mark.parametrize("grid", sorted(set(registry.TIME_GRIDS.names()) - {"official"}))
def test_every_grid_falls_to_the_clean_image(grid):
    parse_recipe(small(sample={"grid": grid}), "mine.toml")


def test_a_sampler_of_a_user_yields_all_channels(monkeypatch):
    # kills: sampler-tried-on-one-channel
    def grey(process, predict_x0, x_1, times, generator):
        yield x_1[:, :1]

    monkeypatch.setitem(registry.SAMPLERS._members, "grey", grey)
    with pytest.raises(UserError, match="sampler 'grey': it must yield tensors of x_1's shape"):
        parse_recipe(small(sample={"sampler": {"name": "grey"}}), "mine.toml")


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("regression", ["train.loss=l1"], "train.loss is for bridges, and method 'regression' does not read it"),
        ("pix2pix", ["train.at_source=0.5"], "train.at_source is for bridges, and method 'pix2pix'"),
        ("cdsb", ["train.time=stratified"], "train.time is for bridges, and method 'cdsb'"),
        (None, ["method.perceptual_until=0.5"], "method.perceptual_until does nothing without method.perceptual"),
        (None, ["method.discriminator.channels=8"], "method.discriminator does nothing without method.adversarial"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(method, settings, words):
    # kills: unread-curriculum, option-without-its-weight
    preset = None if method is None else method_preset(method)
    with pytest.raises(UserError, match=words):
        load_recipe("demo/jpeg", settings, preset)


def test_settings_that_are_read_or_change_nothing_are_taken():
    # kills: a bridge's curriculum in the recipe, which other methods leave alone, refused with it
    load_recipe("demo/jpeg", ["train.loss=l1", "method.adversarial=0.5", "method.discriminator.channels=8"])
    load_recipe("demo/jpeg", ["train.loss=mse"], method_preset("regression"))
    load_recipe("demo/jpeg", ["method.discriminator.channels=8"], method_preset("pix2pix"))
    load_recipe("demo/jpeg", ["train.loss=l1"], method_preset("shortcut"))


def test_a_message_names_the_key_however_many_settings_there_are():
    # kills: settings-hide-the-key
    many = [f"data.source.{name}=1" for name in ("holdout",)] + ["data.card=my-photos", "data.root=" + "a" * 90]
    with pytest.raises(UserError) as caught:
        load_recipe("demo/jpeg", [*many, "network.channel_mult=[1,2,2,2,2,2,2,2]", "process.sigma_1=Auto"])
    assert str(caught.value).startswith("demo/jpeg with 5 settings: process 'brownian': sigma_1: should be")
