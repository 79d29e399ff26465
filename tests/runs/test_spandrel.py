"""Restoration networks that spandrel reads become frozen regressions: the same result, a mean, and plain refusals."""

import json
import re

import numpy as np
import pytest
import torch
from killing import photos, recipe_of
from PIL import Image
from safetensors.torch import save_file

from i2i_bridge import load_run
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.networks import size
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.registry import NETWORKS
from i2i_bridge.runs.imports import import_spandrel, read_spandrel
from i2i_bridge.training.trainer import train

spandrel = pytest.importorskip("spandrel")


def network(kind, **options):
    """A network with random weights of an architecture that spandrel knows."""
    from spandrel.architectures.Compact import Compact
    from spandrel.architectures.SPAN import SPAN
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    if kind == "swinir":
        options = {"img_size": 16, "embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8} | options
    kinds = {"compact": Compact, "span": SPAN, "swinir": SwinIR}
    return kinds[kind](**options).eval()


def compact(scale):
    return network("compact", num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=scale)


def table_of(root, **changes):
    return recipe_of(root).model_dump(mode="json", exclude_none=True) | changes


def imported(file, folder, table):
    read = read_spandrel(file)
    recipe = parse_recipe(read.preset(table, frozenset()), "test")
    import_spandrel(read, recipe, folder)
    return load_run(folder, device="cpu")


def given(size=(21, 30), channels=3):
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(1))


FILES = {
    "params_ema": lambda weights: {"params": {k: v * 0 for k, v in weights.items()}, "params_ema": weights},
    "plain": lambda weights: weights,
    "module": lambda weights: {f"module.{name}": value for name, value in weights.items()},
}


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda: compact(1), "params_ema"),
        (lambda: compact(1), "safetensors"),
        (lambda: network("swinir", upsampler="", upscale=1), "plain"),
        (lambda: compact(1), "module"),
    ],
    ids=["compact", "compact-safetensors", "swinir", "compact-of-several-gpus"],
)
def test_a_run_gives_what_spandrel_gives(tmp_path, made, kind):
    """At a size that is no multiple of a window, and read again from the run folder alone."""
    # kills: spandrel-range-not-converted, raw-weights-before-the-average
    weights = {name: value.contiguous() for name, value in made().state_dict().items()}
    file = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pth")
    if kind == "safetensors":
        save_file(weights, file)
    else:
        torch.save(FILES[kind](weights), file)
    run = imported(file, tmp_path / "run", table_of(tmp_path))
    assert run.step == 0 and run.recipe.method["name"] == "regression" and run.recipe.network["name"] == "spandrel"
    x = given()
    expected = spandrel.ModelLoader().load_from_state_dict(weights)(x)
    restored = run.restore_batch({"x_1": x * 2 - 1}, nfe=1, generator=torch.Generator())
    torch.testing.assert_close(restored, expected * 2 - 1, atol=2e-6, rtol=0)
    assert (restored - (x * 2 - 1)).abs().max() > 1e-3, "the network does something"


@pytest.mark.parametrize("kind", ["compact", "span"])
def test_a_network_that_enlarges_gets_the_small_image(tmp_path, kind):
    # kills: spandrel-gets-the-enlarged-image
    file = tmp_path / "x4.pth"
    made = compact(4) if kind == "compact" else network("span", num_in_ch=3, num_out_ch=3, feature_channels=8)
    torch.save(made.state_dict(), file)
    table = table_of(tmp_path, degradation={"name": "sr4x", "filter": "bicubic"})
    run = imported(file, tmp_path / "run", table)
    small = np.random.default_rng(0).integers(0, 256, (13, 10, 3), dtype=np.uint8)
    x = torch.from_numpy(small).permute(2, 0, 1)[None] / 255
    expected = spandrel.ModelLoader().load_from_state_dict(made.state_dict())(x)[0].permute(1, 2, 0).numpy()
    restored = np.asarray(run.restore(Image.fromarray(small)))
    assert restored.shape == (52, 40, 3)
    assert np.abs(restored.astype(int) - np.rint(expected * 255)).max() <= 1
    pairs = table_of(tmp_path)
    del pairs["degradation"]
    pairs["data"] |= {"factor": 4, "enlarge": "nearest", "source": {"name": "paired_folders", "x_0": "a", "x_1": "b"}}
    assert np.array_equal(
        np.asarray(imported(file, tmp_path / "pairs", pairs).restore(Image.fromarray(small))), restored
    )
    others = {
        "its own size": table_of(tmp_path),
        "twice": table_of(tmp_path, degradation={"name": "downsample", "factor": 2}),
        "smooth": table_of(tmp_path, degradation={"name": "downsample", "factor": 4, "enlarge": "bicubic"}),
        "pairs": pairs | {"data": pairs["data"] | {"enlarge": "bicubic"}},
    }
    for name, other in others.items():
        with pytest.raises(UserError, match=r"enlarges 4 times, .* repeated 4 x 4; take") as refused:
            imported(file, tmp_path / "no", other)
        assert "\n" not in str(refused.value), name
    assert not (tmp_path / "no").exists()


def test_a_bridge_starts_from_it(tmp_path):
    """`[mean]`: a regressor of others gets texture; it is not trained itself."""
    root = photos(tmp_path / "pairs")
    torch.save(compact(1).state_dict(), tmp_path / "net.pth")
    run = imported(tmp_path / "net.pth", tmp_path / "regressor", table_of(root))
    recipe = parse_recipe(table_of(root, mean={"run": str(tmp_path / "regressor")}), "test")
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 2})})
    train(recipe, tmp_path / "bridge", cpu=True)
    bridge = load_run(tmp_path / "bridge", device="cpu")
    x_1 = given((16, 16)) * 2 - 1
    start = bridge.method.mean({"x_1": x_1}, torch.Generator())
    torch.testing.assert_close(start, run.restore_batch({"x_1": x_1}, nfe=1, generator=torch.Generator()))
    with pytest.raises(UserError, match=r"network 'spandrel' is frozen; .*\[mean\]"):
        train(run.recipe, tmp_path / "trained", cpu=True)
    assert not (tmp_path / "trained").exists(), "refused before a folder is made"


class Code:
    def __reduce__(self):
        return (eval, ("open('ran', 'w')",))


def test_files_that_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = compact(1).state_dict()
    torch.save({"params": weights | {"x": Code()}}, "bad.pth")
    torch.save({"a": torch.zeros(2)}, "unknown.pth")
    torch.save({name: value for name, value in weights.items() if name != "body.2.bias"}, "cut.pth")
    torch.save(
        network("compact", num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=2, upscale=1).state_dict(), "grey.pth"
    )
    for name, part in (
        ("bad.pth", "refused: it may be code"),
        ("unknown.pth", "spandrel knows no network with these tensors"),
        ("cut.pth", "spandrel cannot build its network"),
        ("grey.pth", "takes 1 channel and recipe 'tiny' has 3; data.channels=1"),
        ("none.pth", "no such file"),
    ):
        with pytest.raises(UserError, match=re.escape(part)) as refused:
            imported(tmp_path / name, tmp_path / "run", table_of(tmp_path))
        assert "\n" not in str(refused.value) and name in str(refused.value)
    assert not (tmp_path / "run").exists() and not (tmp_path / "ran").exists()


def test_weights_that_give_another_result_than_spandrel_s_are_not_imported(tmp_path):
    """Such as those of a network whose options spandrel found only in part."""
    # kills: spandrel-result-unchecked
    torch.save(compact(1).state_dict(), tmp_path / "net.pth")
    read = read_spandrel(tmp_path / "net.pth")
    recipe = parse_recipe(read.preset(table_of(tmp_path), frozenset()), "test")
    read.found.model.register_forward_hook(lambda module, given, result: result + 1 / 255)
    with pytest.raises(UserError, match="Compact built from its options does not give spandrel's result"):
        import_spandrel(read, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_network_of_a_recipe_is_checked(monkeypatch):
    """A run folder may be a stranger's: names are looked up, options have bounds, nothing is imported by name."""
    # kills: spandrel-any-class, spandrel-not-counted
    good = {"name": "spandrel", "architecture": "Compact", "model": "SRVGGNetCompact", "options": {"num_conv": 2}}
    assert sum(p.numel() for p in size.build_checked(NETWORKS, good).parameters()) > 0
    # SwinIR, whose constructor reads numbers from linspace; a small one, and a small limit.
    swinir = {"window_size": 8, "embed_dim": 16, "depths": [2], "num_heads": [4]}
    monkeypatch.setattr(size, "MAX_PARAMETERS", 1000)
    for change, part in (
        ({"architecture": "os"}, "unknown spandrel architecture 'os'"),
        ({"model": "CompactArch"}, "class 'CompactArch'"),
        ({"options": {"num_feats": 3}}, "unknown key 'num_feats'; did you mean 'num_feat'?"),
        ({"options": {"num_feat": 10**6}}, "num_feat = 1000000 is outside"),
        ({"architecture": "SwinIR", "model": "SwinIR", "options": swinir}, "parameters; at most"),
    ):
        with pytest.raises(UserError, match=re.escape(part)):
            size.build_checked(NETWORKS, good | change)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed: pip install "i2i-bridge\[spandrel\]"'):
        size.build_checked(NETWORKS, good)


def test_the_command_line(tmp_path, capsys):
    torch.save(compact(1).state_dict(), tmp_path / "net.pth")
    words = ["import", "spandrel", str(tmp_path / "net.pth"), "--recipe", "demo/jpeg", "--out", str(tmp_path / "run")]
    for code, out in ((0, "wrote"), (2, "")):
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capsys.readouterr()
        assert ended.value.code == code and said.out.startswith(out), said.err
    assert said.err == f"error: {tmp_path / 'run'} holds a run already; choose another --out\n"
    run = load_run(tmp_path / "run", device="cpu")
    assert run.recipe.method_label == "RealESRGAN Compact"
    json.dumps(run.recipe.network)
