"""A new run that starts from another run's weights."""

import hashlib
import json
import re
import shlex
import shutil

import durability
import pytest
import torch
from killing import digest, photos, recipe_of
from safetensors.torch import save_file

from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.networks.unet import UNet
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.schema import MeanSettings
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.training.init import Difference, fit, recipe_from, with_init
from i2i_bridge.training.log import read_metrics
from i2i_bridge.training.trainer import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module", params=["bridge", "pix2pix"])
def source(request, root, tmp_path_factory):
    """A finished run of each method, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    train(recipe_of(root, method=request.param, steps=2), folder, cpu=True)
    return request.param, folder


def newest(folder):
    return latest_checkpoint(folder / "checkpoints")[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_first_state_is_the_average_of_the_source(root, source, tmp_path):
    """Network and average; a companion's weights as they were; moments and step from 0. All of it is written down.

    kills: init-from-raw-weights, init-leaves-the-companion
    """
    method, folder = source
    recipe, lines = recipe_of(root, method=method, lr=1e-3, keep=9), []
    train(with_init(recipe, folder), tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    there = newest(folder)
    (tmp_path / "run" / "checkpoints" / "step-00000006").rename(tmp_path / "last")
    for step in range(1, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    first = newest(tmp_path / "run")
    assert first.step == 0
    assert not same(there.tensors("ema"), there.tensors("network"))
    assert same(first.tensors("ema"), there.tensors("ema")) and same(first.tensors("network"), there.tensors("ema"))
    assert not any(value.any() for value in first.tensors("optimizer").values())
    if method == "pix2pix":
        assert same(first.tensors("discriminator"), there.tensors("discriminator"))
    sha256 = hashlib.sha256((there.folder / "ema.safetensors").read_bytes()).hexdigest()
    said = {"source": str(folder), "checkpoint": there.folder.name, "file": "ema.safetensors", "sha256": sha256}
    said |= dict.fromkeys(("taken", "of"), len(first.tensors("ema"))) | {"differences": []}
    assert json.loads((tmp_path / "run" / "init.json").read_text()) == said
    assert any(f"{folder}, step 2" in line and sha256 in line for line in lines), lines
    stored = load_recipe(tmp_path / "run" / "recipe.toml").train
    assert (stored.init, stored.init_sha256) == (str(folder), sha256)


def test_such_a_run_resumes_without_its_source(root, source, tmp_path):
    """Also where it was stopped before its first own save; and with the same bits."""
    method, folder = source
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    recipe = recipe_of(root, method=method, save_every=100)
    train(with_init(recipe, moved), tmp_path / "whole", cpu=True)
    for step in (0, 3):
        run = tmp_path / f"stopped-{step}"
        if step:
            asked = iter([False, False, True])
            train(with_init(recipe, moved), run, cpu=True, stop=lambda: next(asked))  # noqa: B023
        else:
            with pytest.raises(KeyboardInterrupt):
                train(with_init(recipe, moved), run, cpu=True, report=_interrupt)
        assert newest(run).step == step
    shutil.rmtree(moved)
    train(with_init(recipe, moved), tmp_path / "stopped-3", cpu=True)  # the same command
    train(recipe, tmp_path / "stopped-0", cpu=True)  # and without the source
    assert digest(tmp_path / "stopped-3") == digest(tmp_path / "stopped-0") == digest(tmp_path / "whole")
    assert load_recipe(tmp_path / "stopped-0" / "recipe.toml").train.init == str(moved)


def _interrupt(event):
    if not isinstance(event, str):
        raise KeyboardInterrupt


def test_what_cannot_be_started_from_is_refused_and_claims_no_folder(root, source, tmp_path):
    """kills: init-of-its-own-folder, other-init-on-resume"""
    method, folder = source
    recipe = recipe_of(root, method=method)
    wider = recipe.model_copy(update={"network": recipe.network | {"channels": 2 * recipe.network["channels"]}})
    (tmp_path / "empty").mkdir()
    shutil.copy(folder / "recipe.toml", tmp_path / "empty")
    shutil.copytree(folder, tmp_path / "unlisted")  # its file is none that the manifest's hashes are of
    durability.reseal(newest(tmp_path / "unlisted").folder, lambda manifest: manifest.update(files={}))
    for start, why in (
        (with_init(wider, folder, strict=True), r"tensors do not fit exactly, the first: .* there, .* here\)"),
        (with_init(recipe, tmp_path / "nowhere"), "nowhere is not a run folder"),
        (with_init(recipe, tmp_path / "empty"), "empty: no checkpoint yet"),
        (with_init(recipe, tmp_path / "unlisted"), "the checkpoint has no ema.safetensors"),
        (with_init(recipe, tmp_path / "run"), "a run cannot start from the weights of its own folder"),
    ):
        with pytest.raises(UserError, match=why):
            train(start, tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="started from no other weights; leave --init out"):
        train(with_init(recipe_of(root, method=method, steps=3), tmp_path / "empty"), folder, cpu=True)


def test_moments_that_the_weights_were_trained_for_stay_theirs(root, tmp_path):
    def preconditioned(source):
        recipe = recipe_of(source, steps=1)
        return recipe.model_copy(update={"target": {"name": "preconditioned"}})

    train(preconditioned(root), tmp_path / "a", cpu=True)
    other = photos(tmp_path / "other")
    for file in (other / "clean" / "train").glob("0*.png"):
        file.unlink()
    train(with_init(preconditioned(other), tmp_path / "a"), tmp_path / "b", cpu=True)
    train(preconditioned(other), tmp_path / "c", cpu=True)
    a, b, c = (load_recipe(tmp_path / name / "recipe.toml").target for name in "abc")
    assert a == b != c


def test_another_process_or_target_is_noted(root, tmp_path):
    train(recipe_of(root, steps=1), tmp_path / "a", cpu=True)
    recipe = recipe_of(root, steps=1).model_copy(update={"target": {"name": "x0"}})
    lines = []
    train(with_init(recipe, tmp_path / "a"), tmp_path / "b", cpu=True, report=lambda event: lines.append(str(event)))
    assert sum("the weights were trained with another target" in line for line in lines) == 1


def test_the_refusal_of_another_batch_is_a_command_that_works(root, tmp_path, capsys, monkeypatch):
    """kills: refusal-is-a-dead-end"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    recipe = "a folder/tiny.toml"
    (tmp_path / recipe).write_text(recipe_of(root, steps=1).to_toml())

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return ended.value.code, capsys.readouterr()

    words = ("train", recipe, "train.steps=2", "--out", "my run", "--device", "cpu")
    assert call(*words)[0] == 0
    for change in ("train.ema_decay=0.4", "train.batch_size=2"):
        code, said = call(*words, change)
        assert code == 2 and said.err.count("\n") == 1
        start = said.err.index("i2i-bridge train")
        program, *again = shlex.split(said.err[start:])
        assert program == "i2i-bridge" and change in again and again[:3] == ["train", "--from", "my run"]
        code, said = call(*again)
        assert code == 0 and "starting from the weights of" in said.out
    assert [newest(tmp_path / name).step for name in ("my run", "my run-2", "my run-3")] == [2, 2, 2]
    # Another network does not fit these weights: no such way is shown.
    code, said = call(*words, "network.channels=16")
    assert code == 2 and "--init" not in said.err and "choose another --out" in said.err


# What must differ: a condition, and more outputs.

SMALL = {"channels": 8, "channel_mult": (1, 2), "blocks_per_level": 1}
FIRST = "input_blocks.0.0.weight"


def unet(seed=0, **options):
    """A network none of whose weights is 0 at its start."""
    torch.manual_seed(seed)
    network = UNet(**(SMALL | options)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1)
    return network


def started(source, network, condition_channels=0):
    fitted, differences = fit(source.state_dict(), network, 3, condition_channels)
    network.load_state_dict(network.state_dict() | fitted)
    return differences


def inputs(condition_channels=0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x_t, t = torch.randn(2, 3, 16, 16, generator=draw), torch.rand(2, generator=draw)
    return (x_t, t, 9 * torch.randn(2, condition_channels, 16, 16, generator=draw)) if condition_channels else (x_t, t)


@pytest.mark.parametrize("before", [0, 2])
def test_a_condition_added_to_the_source_changes_nothing_at_first(before):
    """kills: added-channels-drawn, added-channels-first"""
    source, network = unet(condition_channels=before), unet(1, condition_channels=5)
    differences = started(source, network, 5)
    assert differences == [Difference(FIRST, (8, 3 + before, 3, 3), (8, 8, 3, 3), "input channels added as zeros")]
    with torch.no_grad():
        for seed in range(3):
            x_t, t, condition = inputs(5, seed)
            old = source(x_t, t, condition[:, :before] if before else None)
            assert torch.equal(network(x_t, t, condition), old)


def test_outputs_beyond_the_networks_are_cut():
    """ADM's six outputs are the noise and then a variance. kills: outputs-cut-at-the-front"""
    source, network = unet(out_channels=6), unet(1)
    cut = "output channels cut"
    rows = [Difference("out.2.weight", (6, 8, 3, 3), (3, 8, 3, 3), cut), Difference("out.2.bias", (6,), (3,), cut)]
    assert started(source, network) == rows
    with torch.no_grad():
        assert torch.equal(network(*inputs()), source(*inputs())[:, :3])


def test_what_does_not_fit_is_left_alone_and_listed():
    """Another shape, a missing name, a surplus one, whole numbers for real ones; and channels that are no condition.

    kills: misfits-not-listed, surplus-not-listed, any-input-is-widened, whole-numbers-as-weights
    """
    source, network = unet(), unet(1, blocks_per_level=1)
    stored = {name: value.clone() for name, value in source.state_dict().items()}
    stored["time_embed.0.weight"] = torch.zeros(32, 9)
    stored["time_embed.2.bias"] = torch.zeros(32, dtype=torch.int64)
    stored["more.weight"] = torch.zeros(2, 2)
    stored[FIRST] = torch.zeros(8, 2, 3, 3)  # fewer channels than a state has
    middle = "middle_block.0.in_layers.2.weight"
    assert stored[middle].shape == (16, 16, 3, 3)
    stored[middle] = stored[middle][:, :12]
    del stored["out.2.bias"]
    fitted, differences = fit(stored, network, 3, 0)
    fresh = "does not fit: starts fresh"
    assert {row.tensor: row.action for row in differences} == {
        FIRST: fresh, middle: fresh, "time_embed.0.weight": fresh, "time_embed.2.bias": fresh,
        "out.2.bias": "missing: starts fresh", "more.weight": "not used",
    }  # fmt: skip
    assert fitted.keys() == network.state_dict().keys() - {row.tensor for row in differences}
    assert all(torch.equal(fitted[name], source.state_dict()[name]) for name in fitted)


@pytest.fixture(scope="module")
def prior(root, tmp_path_factory):
    """A denoiser of the same images, that never sees X_1."""
    folder = tmp_path_factory.mktemp("runs") / "prior"
    table = {
        "method": {"name": "unconditional-prior"},
        "process": {"name": "gaussian-prior"},
        "target": {"name": "eps"},
    }
    train(recipe_of(root, steps=2).model_copy(update=table), folder, cpu=True)
    return folder


def seeing(recipe, **options):
    return recipe.model_copy(update={"network": recipe.network | {"condition_channels": 3} | options})


def test_a_bridge_starts_from_a_prior(root, prior, tmp_path, capsys):
    """Its condition's weights are 0, all others the prior's; the command prints and writes down the table.

    Resuming needs no source and keeps the hash; a recipe with another hash is another run.
    kills: hash-not-in-the-recipe, hash-not-checked, other-hash-on-resume
    """
    recipe = seeing(recipe_of(root, steps=1, keep=9))
    (tmp_path / "tiny.toml").write_text(recipe.to_toml())
    words = ["train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--init", str(prior)])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "input channels added as zeros" in said
    assert "another process" in said and "another method" in said and "another target" in said
    there, sha256 = newest(prior), load_recipe(tmp_path / "run" / "recipe.toml").train.init_sha256
    assert sha256 == hashlib.sha256((there.folder / "ema.safetensors").read_bytes()).hexdigest()
    written = json.loads((tmp_path / "run" / "init.json").read_text())
    assert written["taken"] == written["of"] and written["sha256"] == sha256
    action = "input channels added as zeros"
    rows = [{"tensor": FIRST, "source": [8, 3, 3, 3], "network": [8, 6, 3, 3], "action": action}]
    assert written["differences"] == rows
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000001")
    first, weights = newest(tmp_path / "run"), there.tensors("ema")
    assert first.step == 0 and first.tensors("ema").keys() == weights.keys()
    for part in ("ema", "network"):
        for name, value in first.tensors(part).items():
            same_part = value[:, :3] if name == FIRST else value
            assert torch.equal(same_part, weights[name]) and (name != FIRST or not value[:, 3:].any())

    pinned = recipe.model_copy(update={"train": recipe.train.model_copy(update={"init_sha256": "0" * 64})})
    with pytest.raises(UserError, match=r"other settings \(train.init_sha256"):
        train(pinned, tmp_path / "run", cpu=True)
    with pytest.raises(UserError, match=r"not train.init_sha256 0.* has changed"):
        train(with_init(recipe, prior, sha256="0" * 64), tmp_path / "new", cpu=True)
    train(recipe, tmp_path / "run", cpu=True)
    assert newest(tmp_path / "run").step == 1
    assert load_recipe(tmp_path / "run" / "recipe.toml").train.init_sha256 == sha256


def test_settings_with_which_the_weights_would_fit_are_shown(root, tmp_path, capsys):
    """And do make them fit. kills: hint-of-the-wrong-network"""
    train(recipe_of(root, steps=1), tmp_path / "a", cpu=True)
    recipe = recipe_of(root, steps=1)
    network = {"name": "unet", "channels": 16, "channel_mult": [1], "condition_channels": 3}
    (tmp_path / "tiny.toml").write_text(recipe.model_copy(update={"network": network}).to_toml())
    words = ["train", str(tmp_path / "tiny.toml"), "--init", str(tmp_path / "a"), "--out", str(tmp_path / "b")]
    with pytest.raises(SystemExit):
        main([*words, "--device", "cpu"])
    said = capsys.readouterr()
    found = re.search(r"with ((?:network\.|'network\.).*?)(?:\)|$)", said.out + said.err, flags=re.MULTILINE)
    settings = shlex.split(found[1])
    assert settings == ["network.channels=8", "network.channel_mult=[1, 2]", "network.blocks_per_level=1"]
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
    with pytest.raises(SystemExit) as ended:
        main([*words, "--device", "cpu", *settings])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "starts fresh" not in said and "would with" not in said


def test_strict_refuses_what_would_be_changed(root, prior, tmp_path, capsys):
    """kills: strict-is-not"""
    (tmp_path / "tiny.toml").write_text(seeing(recipe_of(root, steps=1)).to_toml())
    words = ["train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run"), "--device", "cpu", "--init-strict"]
    for more, says in (
        (["--init", str(prior)], "1 tensor does not fit exactly, the first: input_blocks.0.0.weight (8x3x3x3 there"),
        ([f"train.init={prior}"], "does not fit exactly"),
        ([], "nothing to start from; give --init"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        said = capsys.readouterr()
        assert ended.value.code == 2 and says in said.err and said.err.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_files_of_weights(root, prior, tmp_path):
    """A safetensors file, a .pt of plain tensors, narrow numbers: the same first state, but for their rounding."""
    weights = newest(prior).tensors("ema")
    save_file(weights, tmp_path / "a.safetensors")
    torch.save(weights, tmp_path / "b.pt")
    save_file({name: value.bfloat16() for name, value in weights.items()}, tmp_path / "c.safetensors")
    stored = newest(prior).folder / "network.safetensors"  # of a checkpoint, without the average
    (tmp_path / "d.safetensors").write_bytes(stored.read_bytes())
    recipe = seeing(recipe_of(root, steps=1, keep=9))
    for name in ("a.safetensors", "b.pt", "c.safetensors", "d.safetensors"):
        run = tmp_path / name[0]
        train(with_init(recipe, tmp_path / name), run, cpu=True)
        written = json.loads((run / "init.json").read_text())
        assert written["file"] == name and "checkpoint" not in written and written["taken"] == written["of"]
        assert written["sha256"] == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    train(with_init(recipe, prior), tmp_path / "run", cpu=True)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == digest(tmp_path / "run") != digest(tmp_path / "c")
    assert digest(tmp_path / "d") != digest(tmp_path / "a")


def test_files_that_are_no_weights_are_one_line(root, prior, tmp_path):
    """kills: nothing-fits-starts-anyway"""
    weights = newest(prior).tensors("ema")
    name = "middle_block.0.in_layers.2.weight"
    save_file({f"model.{key}": value for key, value in weights.items()}, tmp_path / "names.safetensors")
    save_file(weights | {name: weights[name] * torch.nan}, tmp_path / "nan.safetensors")
    save_file(weights | {name: weights[name].double() + 1e300}, tmp_path / "large.safetensors")
    whole = (newest(prior).folder / "ema.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x02no weights")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    for file, says in (
        ("names.safetensors", "none of its tensors fits the recipe's network"),
        ("nan.safetensors", f"'{name}' holds numbers that are not finite"),
        ("large.safetensors", f"'{name}' holds numbers that are not finite"),
        ("cut.safetensors", "not a readable safetensors file"),
        ("empty.safetensors", "not a readable safetensors file"),
        ("pickle.pt", "a bare pickle"),
        ("nowhere.safetensors", "cannot be read"),
        ("readme.md", "not a run folder .* nor a file of weights"),
    ):
        with pytest.raises(UserError, match=says) as refused:
            train(with_init(recipe_of(root), tmp_path / file), tmp_path / "run", cpu=True)
        line = str(refused.value)
        assert file in line and "\n" not in line and line.startswith("train.init: "), line
        assert not (tmp_path / "run").exists()


def test_imported_weights_are_trained_on(root, tmp_path):
    """The average of an official checkpoint, in a run whose network sees X_1 besides."""
    from test_hostile import official, settings

    from i2i_bridge.runs.imports import import_i2sb, released

    network, stored = official()
    torch.save(stored, tmp_path / "latest.pt")
    recipe = load_recipe("jpeg-5", settings(), released)
    import_i2sb(tmp_path / "latest.pt", recipe, tmp_path / "official")
    bridge = seeing(_on(load_recipe("jpeg-5", settings()), root))
    train(with_init(bridge, tmp_path / "official"), tmp_path / "run", cpu=True, stop=lambda: True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000001")
    first = newest(tmp_path / "run").tensors("network")
    for (name, _), average in zip(network.named_parameters(), stored["ema"]["shadow_params"], strict=True):
        value = first[name]
        assert torch.equal(value[:, :3] if name == FIRST else value, average), name


def _on(recipe, root):
    """A recipe on the pictures of these tests."""
    data = recipe.data.model_copy(
        update={"card": None, "root": str(root / "clean"), "source": {"name": "images"}, "resize": "none", "size": 16}
    )
    training = recipe_of(root, steps=2, keep=9).train
    return recipe.model_copy(update={"data": data, "train": training})


def test_an_official_checkpoint_is_a_file_of_weights(root, tmp_path):
    """Its average, without its prefix, also from ADM's six outputs.

    kills: official-init-from-raw-weights, official-prefix-kept
    """
    from test_hostile import official, settings

    network, stored = official()
    head = list(dict(network.named_parameters())).index("out.2.bias")
    for name in ("out.2.weight", "out.2.bias"):
        raw = stored["net"][f"diffusion_model.{name}"]
        stored["net"][f"diffusion_model.{name}"] = torch.cat([raw, raw + 7])
        place = head if name == "out.2.bias" else head - 1
        average = stored["ema"]["shadow_params"][place]
        stored["ema"]["shadow_params"][place] = torch.cat([average, average + 7])
    torch.save(stored, tmp_path / "latest.pt")
    recipe = _on(load_recipe("jpeg-5", settings()), root)
    train(with_init(recipe, tmp_path / "latest.pt"), tmp_path / "run", cpu=True, stop=lambda: True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000001")
    first = newest(tmp_path / "run").tensors("network")
    for (name, value), average in zip(network.named_parameters(), stored["ema"]["shadow_params"], strict=True):
        assert torch.equal(first[name], average[:3] if name.startswith("out.2") else average), name
        assert torch.equal(first[name], value.detach() * 0.5)


def test_added_channels_keep_the_networks_own_start_by_option():
    """kills: added-at-random-are-zero"""
    source, network = unet(), unet(1, condition_channels=5)
    fitted, (row,) = fit(source.state_dict(), network, 3, 5, added="random")
    assert torch.equal(fitted[FIRST][:, :3], source.state_dict()[FIRST])
    assert torch.equal(fitted[FIRST][:, 3:], network.state_dict()[FIRST][:, 3:])
    assert row == Difference(FIRST, (8, 3, 3, 3), (8, 8, 3, 3), "input channels added at random")


# Fine-tuning in one word: train --from RUN.


def call(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_a_run_is_fine_tuned_in_one_word(root, prior, tmp_path, capsys, monkeypatch):
    """Recipe and data of the run but for the settings given, its weights, a new folder; the same command resumes.

    kills: from-without-its-weights
    """
    monkeypatch.chdir(tmp_path)
    words = ("train", "--from", prior, "train.steps=3", "train.lr=1e-5", "train.keep=9", "--device", "cpu")
    code, out, err = call(capsys, *words)
    assert code == 0 and f"starting from the weights of {prior}, step 2" in out, err
    folder = tmp_path / "runs" / "tiny-from-prior"
    old, new = load_recipe(prior / "recipe.toml"), load_recipe(folder / "recipe.toml")
    changed = {"steps": 3, "lr": 1e-5, "keep": 9, "init": str(prior), "init_sha256": new.train.init_sha256}
    assert new == old.model_copy(update={"train": old.train.model_copy(update=changed)})
    assert same(first_of(folder).tensors("network"), newest(prior).tensors("ema"))
    code, out, err = call(capsys, *words, "train.steps=4")
    assert code == 0 and "resuming runs/tiny-from-prior at step 3 of 4" in out, err
    for more, says in (
        (["--init", prior], "--from and --init: give one of them"),
        (["--method", "flow"], "--from and --method: give one of them"),
        (["train.stepz=4"], "stepz"),
    ):
        code, out, err = call(capsys, *words, *more)
        assert code == 2 and says in err and err.count("\n") == 1, err
    for words, says in (
        (["--from", "nowhere"], "nowhere: not a run folder"),
        (["demo/denoise", "--from", prior], "the recipe is that of the run; leave demo/denoise out"),
        ([], "Missing argument 'RECIPE'"),
    ):
        code, out, err = call(capsys, "train", *words)
        assert code == 2 and says in err and err.count("\n") == 1, err


def first_of(folder):
    """The checkpoint of step 0, where all are kept."""
    for later in sorted((folder / "checkpoints").glob("step-*"))[1:]:
        later.rename(folder / later.name)
    first = newest(folder)
    for later in folder.glob("step-*"):
        later.rename(folder / "checkpoints" / later.name)
    assert first.step == 0
    return first


def test_fine_tuning_starts_ahead_of_a_fresh_start(root, tmp_path):
    """The loss of the first step, on the same samples, times and noise: from a run of another task or from scratch."""
    recipe = recipe_of(root, steps=60, lr=1e-2, save_every=100, log_every=60)
    train(recipe, tmp_path / "noise", cpu=True)
    noisier = recipe_from(tmp_path / "noise", ["degradation.std=0.4", "train.steps=1", "train.log_every=1"])
    train(noisier, tmp_path / "tuned", cpu=True)
    fresh = noisier.train.model_copy(update={"init": None, "init_sha256": None})
    train(noisier.model_copy(update={"train": fresh}), tmp_path / "fresh", cpu=True)
    (tuned,), (scratch,) = (read_metrics(tmp_path / name) for name in ("tuned", "fresh"))
    assert tuned["loss"] < 0.8 * scratch["loss"], (tuned, scratch)


def test_imported_runs_are_trained_on_in_one_word(root, tmp_path):
    from test_hostile import official, settings

    from i2i_bridge.runs.imports import import_i2sb, released

    torch.save(official()[1], tmp_path / "latest.pt")
    import_i2sb(tmp_path / "latest.pt", _on(load_recipe("jpeg-5", settings(), released), root), tmp_path / "official")
    train(recipe_from(tmp_path / "official", ["train.steps=1"]), tmp_path / "run", cpu=True)
    stored = load_recipe(tmp_path / "run" / "recipe.toml")
    assert newest(tmp_path / "run").step == 1 and stored.process["name"] == "official-grid"
    assert json.loads((tmp_path / "run" / "init.json").read_text())["differences"] == []


def test_the_first_stage_of_a_fine_tuned_run_is_its_copy(root, tmp_path):
    """kills: from-needs-the-first-stage"""
    train(recipe_of(root, steps=1).model_copy(update={"method": {"name": "regression"}}), tmp_path / "first", cpu=True)
    second = recipe_of(root, steps=1).model_copy(update={"mean": MeanSettings(run=str(tmp_path / "first"))})
    train(second, tmp_path / "second", cpu=True)
    shutil.rmtree(tmp_path / "first")
    train(recipe_from(tmp_path / "second"), tmp_path / "third", cpu=True)
    assert load_recipe(tmp_path / "third" / "recipe.toml").mean.run == str(tmp_path / "second" / "mean")
