"""Official Pix2pix weights become a run folder; files that hold more than weights are refused."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import load_run
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.networks.pix2pix import Pix2pixUNet, to_official
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.runs.imports import import_pix2pix

SETTINGS = ["network.channels=4", "data.size=64"]


@pytest.fixture
def recipe():
    return load_recipe("edges2shoes", SETTINGS, method_preset("pix2pix"))


@pytest.fixture
def official():
    torch.manual_seed(0)
    network = Pix2pixUNet(channels=4, levels=6)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return network


def test_round_trip(recipe, official, tmp_path):
    # kills: official-names-exchanged, import-forgets-the-statistics
    stored = to_official(official)
    assert "model.model.1.model.3.model.2.running_mean" in stored and "model.model.3.bias" in stored
    torch.save(stored, tmp_path / "latest_net_G.pth")
    import_pix2pix(tmp_path / "latest_net_G.pth", recipe, tmp_path / "run")
    run = load_run(tmp_path / "run", device="cpu")
    assert run.step == 0 and run.recipe == recipe
    x_1 = torch.rand(1, 3, 64, 64) * 2 - 1
    # By the running statistics: no draw stands between the two.
    run.method.inference = "eval"
    assert torch.equal(run.restore_batch({"x_1": x_1}, nfe=1, generator=torch.Generator()), official.eval()(x_1))
    # Files older than PyTorch 0.4.1.
    old = {name: value for name, value in stored.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    import_pix2pix(tmp_path / "old.pth", recipe, tmp_path / "old")
    assert load_run(tmp_path / "old", device="cpu").step == 0


class Code:
    def __reduce__(self):
        return (eval, ("open('ran', 'w')",))


def test_files_that_are_refused(recipe, official, tmp_path, monkeypatch):
    # kills: import-runs-code, import-not-strict
    monkeypatch.chdir(tmp_path)
    stored = to_official(official)
    torch.save(stored | {"extra": Code()}, "code.pth")
    torch.save({"model.model.0.weight": 3}, "number.pth")
    torch.save({name: value for name, value in stored.items() if "3.bias" not in name}, "missing.pth")
    torch.save(stored | {"model.model.9.weight": torch.zeros(1)}, "more.pth")
    torch.save(to_official(Pix2pixUNet(channels=8, levels=6)), "wide.pth")
    torch.save(to_official(Pix2pixUNet(channels=4, levels=7)), "deep.pth")
    (tmp_path / "noise.pth").write_bytes(b"\x80\x02no weights")
    with (tmp_path / "plain.pth").open("wb") as stream:
        pickle.dump(Code(), stream)
    for name, part in (
        ("code.pth", "refused"),
        ("plain.pth", "refused"),
        ("noise.pth", "a bare pickle"),
        ("number.pth", "not a state dict"),
        ("missing.pth", "'model.model.3.bias' is missing"),
        ("more.pth", "'model.model.9.weight' is none of"),
        ("wide.pth", r"'model.model.0.weight' is \(8, 3, 4, 4\), the recipe's network has \(4, 3, 4, 4\)"),
        ("deep.pth", "network.levels"),
        ("none.pth", "no such file"),
    ):
        with pytest.raises(UserError, match=part) as caught:
            import_pix2pix(tmp_path / name, recipe, tmp_path / "run")
        assert name in str(caught.value) and "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists() and not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="its network is 'unet', not 'pix2pix-unet'"):
        import_pix2pix(tmp_path / "missing.pth", load_recipe("demo/jpeg"), tmp_path / "run")


def test_the_verb(official, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(to_official(official), "latest_net_G.pth")
    edges = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    for split in ("train", "val"):
        (tmp_path / "pairs" / split).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.roll(edges, i, axis=0)).save(tmp_path / "pairs" / split / f"{split}{i}.png")
    Image.fromarray(edges[:, :64]).save("edges.png")

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return ended.value.code, capsys.readouterr()

    settings = [*SETTINGS, "data.root=pairs"]
    code, said = call("import", "pix2pix", "latest_net_G.pth", "edges2shoes", *settings, "--out", "run")
    assert code == 0 and "wrote run" in said.out, said.err
    code, said = call("restore", "run", "edges.png", "photo.png", "--device", "cpu")
    assert code == 0 and "(1 network call each)" in said.out and Image.open("photo.png").size == (64, 64)
    code, said = call("evaluate", "run", "--nfe", "1", "--metric", "psnr", "--device", "cpu")
    assert code == 0, said.err
    code, said = call("import", "pix2pix", "latest_net_G.pth", "edges2shoes", *settings, "--out", "run")
    assert code == 2 and "holds a run already" in said.err
    code, said = call("train", "edges2shoes", "--method", "pix2pix", "--out", "run", *settings, "--device", "cpu")
    assert code == 2 and "imported weights" in said.err and said.err.count("\n") == 1
