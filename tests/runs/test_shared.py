"""Shared runs: weights, recipe and model card in a folder, without paths of the machine; opened as any run."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import latent_recipe, latent_run, photos, recipe_of
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from i2i_bridge import evaluate, load_run, save_pretrained
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.registry import AUTOENCODERS
from i2i_bridge.runs.checkpoint import latest_checkpoint, save_checkpoint
from i2i_bridge.runs.shared import PICTURE, check_portable, portable, write_shared
from i2i_bridge.storage.toml import read_toml
from i2i_bridge.training.init import recipe_from
from i2i_bridge.training.trainer import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    train(recipe_of(root, steps=2, sample_every=2), folder, cpu=True)
    evaluate(load_run(folder, device="cpu"), nfe=[1], metrics=["psnr"])
    return folder


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def restored(folder):
    image = np.random.default_rng(0).integers(0, 256, (19, 22, 3), np.uint8)
    return load_run(folder, device="cpu").restore(image, nfe=3, seed=5)


def test_a_shared_run_restores_the_same_bits_and_holds_nothing_else(trained, root, tmp_path):
    """kills: shares-the-raw-weights, shared-recipe-with-paths"""
    out = load_run(trained, device="cpu").save_pretrained(tmp_path / "out", licence="mit")
    step = "checkpoints/step-00000002"
    assert files(out) == [
        "README.md",
        *(f"{step}/{name}" for name in ("ema.safetensors", "manifest.json", "manifest.sha256")),
        "recipe.toml",
    ]
    assert np.array_equal(restored(out), restored(trained))
    assert load_run(out).step == 2
    for file in files(out):
        assert str(root).encode() not in (out / file).read_bytes(), file
    with pytest.raises(UserError, match="imported weights, without the state of a training"):
        train(recipe_of(root, steps=3), out, cpu=True)


def test_both_stages_are_shared(trained, root, tmp_path):
    """kills: shares-one-stage"""
    table = recipe_of(root, steps=1).model_dump(mode="json", exclude_none=True)
    recipe = parse_recipe(table | {"mean": {"run": str(trained), "nfe": 1}}, "two")
    train(recipe, tmp_path / "two", cpu=True)
    out = save_pretrained(load_run(tmp_path / "two", device="cpu"), tmp_path / "out", licence="mit")
    assert np.array_equal(restored(out), restored(tmp_path / "two"))
    assert [file for file in files(out) if file.startswith("mean/")] and load_run(out).recipe.mean.run == "mine"


@pytest.fixture(scope="module")
def between_latents(root, tmp_path_factory):
    return latent_run(root, tmp_path_factory.mktemp("latent"))


def test_the_autoencoder_is_shared(between_latents, root, tmp_path):
    """The same bits, without the cache of latents and without a path of this machine; again from what was opened.

    kills: shared-without-autoencoder
    """
    assert list((between_latents / "latent" / "cache").rglob("*.safetensors"))
    run = load_run(between_latents, device="cpu")
    out = run.save_pretrained(tmp_path / "out", licence="mit")
    step = "latent/checkpoints/step-00000002"
    assert [file for file in files(out) if file.startswith("latent/")] == [
        *(f"{step}/{name}" for name in ("ema.safetensors", "manifest.json", "manifest.sha256")),
        "latent/recipe.toml",
    ]
    assert np.array_equal(restored(out), restored(between_latents))
    again = load_run(out, device="cpu").save_pretrained(tmp_path / "again", licence="mit")
    assert np.array_equal(restored(again), restored(between_latents)) and files(again) == files(out)
    for file in files(out):
        data = (out / file).read_bytes()
        assert str(root).encode() not in data and str(between_latents.parent).encode() not in data, file
    network = run.method.latent.autoencoder
    size = sum(parameter.numel() for parameter in network.parameters())
    card = (out / "README.md").read_text()
    assert f"- Autoencoder: 'run', {size:,} parameters: latents of 4 channels, sides divided by 2; an image" in card
    assert "- Autoencoder's training: step 2, 8 images seen" in card and "It needs plug-ins" not in card
    train(recipe_from(out, [f"data.root={root}"]), tmp_path / "from", cpu=True)
    assert load_run(tmp_path / "from").recipe.latent.sha256 == run.recipe.latent.sha256


def damaged(bundle, tmp_path, name="damaged"):
    shutil.copytree(bundle, tmp_path / name)
    return tmp_path / name, tmp_path / name / "latent" / "checkpoints" / "step-00000002"


def test_a_damaged_autoencoder_is_refused_in_one_line(between_latents, root, tmp_path):
    """Missing, damaged, of other weights, of another shape, of other channels or sides, a link, another method.

    kills: latent-of-other-channels
    """
    bundle = load_run(between_latents, device="cpu").save_pretrained(tmp_path / "bundle", licence="mit")

    def refused(folder, said):
        with pytest.raises(UserError, match=said) as refusal:
            load_run(folder, device="cpu")
        assert "\n" not in str(refusal.value)

    folder, _ = damaged(bundle, tmp_path, "missing")
    shutil.rmtree(folder / "latent")
    refused(folder, "latent: the copy of coder, which this run encodes by, is missing")
    (folder / "latent").symlink_to(bundle / "latent")
    refused(folder, "latent: is a link")
    folder, step = damaged(bundle, tmp_path, "no-weights")
    (step / "ema.safetensors").unlink()
    refused(folder, "ema.safetensors: damaged")
    folder, step = damaged(bundle, tmp_path, "bytes")
    data = bytearray((step / "ema.safetensors").read_bytes())
    data[-1] ^= 1
    (step / "ema.safetensors").write_bytes(data)
    refused(folder, "its SHA-256 differs from the manifest")
    folder, step = damaged(bundle, tmp_path, "other-weights")
    tensors = {name: value + 1 for name, value in load_file(step / "ema.safetensors").items()}
    shutil.rmtree(step.parent)
    save_checkpoint(step.parent, 2, {"ema": tensors}, {}, keep=1)
    refused(folder, r"latent: other weights than the run was trained with \(SHA-256")
    for key, wrong in (("channels = 4", "channels = 5"), ("halvings = 1", "halvings = 2")):
        folder, _ = damaged(bundle, tmp_path, key.replace(" ", ""))
        text = (folder / "latent" / "recipe.toml").read_text()
        assert text.count(key) == 1
        (folder / "latent" / "recipe.toml").write_text(text.replace(key, wrong))
        refused(folder, "step-00000002: .*(is missing|the recipe's network has)")
    for key, wrong, said in (
        (
            "channels = 4\nfactor = 2",
            "channels = 4\nfactor = 4",
            "latent.factor is 4, and that of the autoencoder there 2",
        ),
        ('name = "run"', 'name = "no-such"', r"unknown autoencoder 'no-such'; known: .*--plugin FILE.py"),
    ):
        folder, _ = damaged(bundle, tmp_path, wrong.split()[-1].strip('"'))
        text = (folder / "recipe.toml").read_text()
        assert text.count(key) == 1
        (folder / "recipe.toml").write_text(text.replace(key, wrong))
        refused(folder, said)
    folder, _ = damaged(bundle, tmp_path, "grey")
    text = (folder / "latent" / "recipe.toml").read_text()
    (folder / "latent" / "recipe.toml").write_text(re.sub(r"channels = 3\b", "channels = 1", text, count=1))
    refused(folder, "latent")


class Folded(nn.Module):
    """The pixels of 2x2 squares as channels, times a stored number."""

    channels, factor, extra = 12, 2, None

    def __init__(self, source: str) -> None:
        super().__init__()
        self.gain = nn.Parameter(load_file(Path(source, "gain.safetensors"))["gain"])

    def encode(self, x):
        return functional.pixel_unshuffle(x, 2) * self.gain

    def decode(self, latents):
        return functional.pixel_shuffle(latents / self.gain, 2)

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        save_file({"gain": self.gain.detach().cpu().clone()}, folder / "gain.safetensors")
        (folder / "config.json").write_text(json.dumps({"gain": "one number"}))
        if self.extra:
            (folder / self.extra).write_bytes(b"x")


@pytest.fixture
def folded(tmp_path):
    """An autoencoder of a plug-in; its source."""
    save_file({"gain": torch.tensor(2.0)}, tmp_path / "gain.safetensors")
    AUTOENCODERS.register("folded")(Folded)
    yield tmp_path
    AUTOENCODERS._members.pop("folded", None)
    Folded.extra = None


def test_an_autoencoder_of_a_plugin_is_shared_and_needs_the_plugin(folded, root, tmp_path):
    """kills: card-without-the-autoencoders-plugin"""
    train(latent_recipe(root, {"name": "folded", "source": str(folded)}), tmp_path / "run", cpu=True)
    run = load_run(tmp_path / "run", device="cpu")
    out = run.save_pretrained(tmp_path / "out", licence="mit")
    assert [file for file in files(out) if file.startswith("latent/")] == [
        "latent/config.json",
        "latent/gain.safetensors",
    ]
    assert np.array_equal(restored(out), restored(tmp_path / "run"))
    assert "It needs plug-ins, which are not part of it: autoencoder 'folded'" in (out / "README.md").read_text()
    del AUTOENCODERS._members["folded"]
    with pytest.raises(
        UserError, match=r"unknown autoencoder 'folded'; known: .* \(if it is your own, load it: --plugin FILE"
    ):
        load_run(out, device="cpu")


@pytest.mark.parametrize("name", ["options.pkl", "code.py", ".hidden.safetensors", "model.bin"])
def test_other_files_of_an_autoencoder_are_not_shared(folded, root, tmp_path, name):
    """kills: shares-any-file-of-the-autoencoder"""
    Folded.extra = name
    train(latent_recipe(root, {"name": "folded", "source": str(folded)}), tmp_path / "run", cpu=True)
    run = load_run(tmp_path / "run", device="cpu")
    with pytest.raises(UserError, match=f"latent/{re.escape(name)}: of autoencoder 'folded' only config.json and safe"):
        run.save_pretrained(tmp_path / "out", licence="mit")
    (tmp_path / "run" / "latent" / name).unlink()
    config = tmp_path / "run" / "latent" / "config.json"
    for text, said in (
        ('{"a": ["/etc/passwd"]}', "config.json: a: '/etc/passwd' leads out of the folder"),
        ("[" * 100_000, "config.json: cannot be read"),
        ("[]", "config.json: no table of settings"),
    ):
        config.write_text(text)
        with pytest.raises(UserError, match=said):
            run.save_pretrained(tmp_path / "out", licence="mit")
    config.unlink()
    config.symlink_to(folded / "gain.safetensors")
    with pytest.raises(UserError, match=r"only config\.json and safetensors"):
        run.save_pretrained(tmp_path / "out", licence="mit")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers (the extra latent)")
def test_an_autoencoder_of_diffusers_is_shared(root, tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3, layers_per_block=1,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "vae")
    train(latent_recipe(root, {"name": "autoencoder-kl", "source": str(tmp_path / "vae")}), tmp_path / "run", cpu=True)
    shutil.rmtree(tmp_path / "vae")
    out = load_run(tmp_path / "run", device="cpu").save_pretrained(tmp_path / "out", licence="mit")
    assert [file for file in files(out) if file.startswith("latent/")] == [
        "latent/config.json",
        "latent/diffusion_pytorch_model.safetensors",
    ]
    assert np.array_equal(restored(out), restored(tmp_path / "run"))
    assert str(tmp_path).encode() not in (out / "latent" / "config.json").read_bytes()
    config = json.loads((out / "latent" / "config.json").read_text())
    for change, said in (
        ({"in_channels": 1}, "does not decode to images of the channels and sides"),
        ({"in_channels": 1, "out_channels": 1}, "diffusion_pytorch_model.safetensors: "),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "config.json: AutoencoderKL"),
        ({"act_fn": "os.system"}, "config.json: AutoencoderKL"),
        ({"trust_remote_code": True}, "unknown key 'trust_remote_code'"),
    ):
        (out / "latent" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=said) as refusal:
            load_run(out, device="cpu")
        assert "\n" not in str(refusal.value)


def test_the_card_says_what_was_done(trained, tmp_path):
    """kills: card-of-another-step"""
    run = load_run(trained, device="cpu")
    card = (run.save_pretrained(tmp_path / "out", licence="cc-by-4.0") / "README.md").read_text()
    header = card.split("---\n")[1].splitlines()
    assert {
        "license: cc-by-4.0",
        "pipeline_tag: image-to-image",
        "library_name: i2i-bridge",
        "- image-restoration",
    } <= {*header}
    assert re.search(r"Protocol held-out@\d+ [0-9a-f]{12}, 3 images", card)
    assert "| degraded input | – |" in card and "| bridge | 1 |" in card
    assert "Images seen: 8 (batches of 4)" in card and "Training images: 12" in card
    assert re.search(r"Time of the steps: \d+ s", card)
    assert PICTURE not in card and not (tmp_path / "out" / PICTURE).exists()
    train(recipe_of(Path(run.recipe.data.root).parent, steps=2, keep=9), tmp_path / "later", cpu=True)
    evaluate(load_run(tmp_path / "later", device="cpu"), nfe=[1], metrics=["psnr"])
    run = load_run(tmp_path / "later", checkpoint=1, device="cpu")
    card = (run.save_pretrained(tmp_path / "first", licence="mit") / "README.md").read_text()
    assert "It was not evaluated." in card and "after step 1 of 2" in card


def test_pictures_only_where_they_are_asked_for(trained, tmp_path):
    run = load_run(trained, device="cpu")
    out = run.save_pretrained(tmp_path / "out", licence="mit", pictures=True)
    assert (out / PICTURE).read_bytes() == (trained / "samples" / "step-00000002.png").read_bytes()
    assert f"]({PICTURE})" in (out / "README.md").read_text()
    with pytest.raises(UserError, match="no picture of step 2"):
        load_run(out).save_pretrained(tmp_path / "again", licence="mit", pictures=True)
    assert not (tmp_path / "again").exists()


def test_a_card_of_ones_own_is_taken_as_it_is(trained, tmp_path):
    """kills: own-card-without-a-licence"""
    run, card = load_run(trained, device="cpu"), tmp_path / "card.md"
    card.write_text("---\nlicense: mit\n---\nMine.\n")
    assert (run.save_pretrained(tmp_path / "out", card=card) / "README.md").read_text() == card.read_text()
    card.write_text("---\ntags: []\n---\nlicense: mit\n")
    with pytest.raises(UserError, match="the licence stands in the card's header"):
        run.save_pretrained(tmp_path / "no", card=card)


def test_a_licence_in_a_card_is_an_identifier_or_several(trained, tmp_path):
    run, card = load_run(trained, device="cpu"), tmp_path / "card.md"
    for number, text in enumerate(("mit", '"mit"', "[mit, other]", "\n- mit\n- other", "mit\r")):
        card.write_text(f"\ufeff---\nlicense: {text}\n---\nMine.\n", newline="")
        shared = run.save_pretrained(tmp_path / str(number), card=card)
        assert (shared / "README.md").read_bytes().startswith(b"---\nlicense: ")
    for text in ("", "# mit", "<your licence>", "[]", "\ntags:\n- a", "\nlibrary_name: i2i-bridge"):
        card.write_text(f"---\nlicense: {text}\n---\nMine.\n")
        with pytest.raises(UserError, match="the licence stands in the card's header"):
            run.save_pretrained(tmp_path / "no", card=card)


@pytest.mark.parametrize("licence", [None, "", "MIT License", "mit\nevil: true", "a" * 60])
def test_no_licence_no_share(trained, tmp_path, licence):
    """kills: any-licence"""
    with pytest.raises(UserError, match="give the Hub's identifier of the licence") as refusal:
        load_run(trained, device="cpu").save_pretrained(tmp_path / "out", licence=licence)
    assert "\n" not in str(refusal.value) and not any(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(trained, tmp_path):
    """kills: shared-over-other-files"""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        load_run(trained, device="cpu").save_pretrained(tmp_path, licence="mit")
    assert files(tmp_path) == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    load_run(trained, device="cpu").save_pretrained(tmp_path / "empty", licence="mit")
    assert restored(tmp_path / "empty").shape == (19, 22, 3)


def test_what_comes_into_the_folder_meanwhile_is_kept(trained, tmp_path):
    # kills: share-lost-a-race
    out = tmp_path / "out"

    class Card(str):
        def encode(self, *rest):
            out.mkdir()
            (out / "mine.txt").write_text("mine")
            return super().encode(*rest)

    with pytest.raises(UserError, match="out: exists and is not empty; choose another folder"):
        write_shared(load_run(trained, device="cpu"), out, Card("---\nlicense: mit\n---\n"))
    assert files(tmp_path) == ["out/mine.txt"]


def test_names_in_the_card_are_only_text(trained, tmp_path):
    run = load_run(trained, device="cpu")
    text = "<img src=x onerror=y> | [a](javascript:b) `c`\n# \x1b[31md"
    object.__setattr__(run, "recipe", run.recipe.model_copy(update={"summary": text, "method_label": "b: [c\nd: e"}))
    card = (run.save_pretrained(tmp_path / "out", licence="mit") / "README.md").read_text()
    assert not re.search(r"(?<!\\)<img|\x1b|(?<!\\)\[a|^# d", card, re.MULTILINE)
    assert '- "b: [c\\nd: e"' in card.splitlines()


PLACES = [
    "/etc/passwd",
    "../up",
    "a/../../b",
    "~/x",
    "~",
    "C:\\x",
    "c:x",
    "\\\\host\\share",
    "https://a/b",
    "hf://a::b",
    "..",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "key", ["data.root", "data.source.file", "data.augment.mask", "degradation.folder", "train.init"]
)
def test_a_recipe_that_leads_out_is_refused_and_a_shared_one_never_does(key, place):
    """kills: recipe-leads-out, shared-recipe-with-paths"""
    table = {"name": "a", "summary": "see https://example.com/x", "data": {"augment": [{"mask": "in/side"}]}}
    check_portable(table)
    *parents, last = key.split(".")
    inner = table
    for parent in parents:
        inner = inner.setdefault(parent, {})
        inner = inner[0] if isinstance(inner, list) else inner
    inner[last] = place
    with pytest.raises(UserError, match=rf"^{key}: .* leads out of the folder"):
        check_portable(table)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_shared_passes_the_check(root, place):
    """kills: shared-recipe-with-paths"""
    table = recipe_of(root).model_dump(mode="json", exclude_none=True)
    table["data"] |= {
        "root": place,
        "source": {"name": "huggingface", "hub": "a/b", "download": True, "revision": place},
    }
    table["train"]["init"] = place
    shared = portable(parse_recipe(table, "t")).model_dump(mode="json", exclude_none=True)
    check_portable(shared)
    assert shared["data"]["source"]["hub"] == "a/b"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"card": "mine.toml"}, "data.card: 'mine.toml' is a file"),
        ({"card": "in/side"}, "data.card"),
        ({"card": 3}, "data.card"),
        ({"source": {"download": True}}, "data.source.download: a shared recipe must not download"),
        ({"source": {"download": "yes"}}, "must not download"),
    ],
)
def test_files_and_downloads_of_a_strangers_recipe_are_refused(data, said):
    """kills: recipe-downloads, recipe-names-a-card-file"""
    with pytest.raises(UserError, match=said):
        check_portable({"name": "a", "data": data})
    check_portable({"name": "a", "data": {"card": "open-photos", "source": {"download": False}}})


def test_the_shipped_run_can_be_shared_in_its_own_precision(tmp_path):
    """kills: shares-the-raw-weights"""
    run = load_run("pretrained/photos", device="cpu")
    out = run.save_pretrained(tmp_path / "out", licence="apache-2.0")
    first, second = (latest_checkpoint(place / "checkpoints")[0].tensors("ema") for place in (run.folder, out))
    assert {name: value.dtype for name, value in first.items()} == {name: value.dtype for name, value in second.items()}
    assert read_toml(out / "recipe.toml")["data"]["card"] == "open-photos"
    card = (out / "README.md").read_text()
    assert "(dataset card open-photos; licence: " in card and "- Process: `brownian {" in card
