"""Runs on the Hub: pushed and pulled through a fake server on loopback; what strangers' repositories may not do."""

import hashlib
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import FakeHub
from killing import latent_recipe, latent_run, photos, recipe_of
from safetensors.torch import save

from i2i_bridge import load_run
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.registry import AUTOENCODERS
from i2i_bridge.runs import hub
from i2i_bridge.storage import internet
from i2i_bridge.storage.tensors import read_safetensors
from i2i_bridge.training.trainer import train

pytest.importorskip("huggingface_hub")
STEP = "checkpoints/step-00000001"
CODER = "latent/checkpoints/step-00000002"
MANIFESTS = ("manifest.json", "manifest.sha256")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    train(recipe_of(photos(tmp_path_factory.mktemp("pairs")), steps=1), folder, cpu=True)
    return folder


@pytest.fixture(scope="module")
def shared(trained, tmp_path_factory):
    """The files of a shared run by name."""
    folder = load_run(trained, device="cpu").save_pretrained(tmp_path_factory.mktemp("s") / "run", licence="mit")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (internet.VARIABLE, *internet.LIBRARIES):
        monkeypatch.setenv(name, "")
    server = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_fake")
    yield server
    server.close()


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def restored(run):
    image = np.random.default_rng(0).integers(0, 256, (19, 22, 3), np.uint8)
    return load_run(run, device="cpu").restore(image, nfe=2, seed=5)


def refused(said, name="some/one"):
    with pytest.raises(UserError, match=said) as refusal:
        hub.pull(name)
    assert "\n" not in str(refusal.value)


def fetched(site):
    return {path.split("/", 5)[-1] for method, path in site.seen if "/resolve/" in path}


def test_a_pushed_run_comes_back_with_the_same_bits_and_is_pinned(site, trained, shared, tmp_path):
    """kills: fetched-at-every-use, pull-of-the-first-commit"""
    origin = load_run(trained, device="cpu").push_to_hub("me/denoiser", licence="mit")
    first = origin.revision
    assert site.head("me/denoiser") == first and set(site.repositories["me/denoiser"][first]) == set(shared)
    card = site.repositories["me/denoiser"][first]["README.md"].decode()
    assert 'load_run("me/denoiser")' in card and "license: mit" in card
    assert np.array_equal(restored("me/denoiser"), restored(trained))
    copy = hub.local_copy("me/denoiser")
    assert json.loads((copy / "hub.json").read_text()) == {"repository": "me/denoiser", "revision": first}
    assert sorted(path.name for path in copy.iterdir()) == ["README.md", "checkpoints", "hub.json", "recipe.toml"]
    # Another commit does not change what is here, nor does the network need to be there.
    site.commit("me/denoiser", shared | {"README.md": b"new"})
    asked = len(site.seen)
    assert load_run("me/denoiser").folder == copy and len(site.seen) == asked
    assert hub.pull(f"me/denoiser@{first}", tmp_path / "old")[1].revision == first
    place, second = hub.pull("me/denoiser")
    assert place == copy and second.revision == site.head("me/denoiser") != first
    assert (copy / "README.md").read_text() == "new"


def test_a_second_push_leaves_one_checkpoint(site, trained, shared):
    """kills: stale-checkpoint-on-the-hub"""
    old = "checkpoints/step-00000000"
    site.commit(
        "me/mine", {f"{old}/ema.safetensors": b"x", "samples.png": b"x", "model.py": b"x", ".gitattributes": b"x"}
    )
    load_run(trained, device="cpu").push_to_hub("me/mine", licence="mit")
    assert set(site.repositories["me/mine"][site.head("me/mine")]) == {*shared, "model.py", ".gitattributes"}


def test_the_verbs(site, trained, tmp_path, capsys):
    assert call("share", "push", trained, "me/a") == 2
    assert "give the Hub's identifier of the licence" in capsys.readouterr().err and site.seen == []
    assert call("share", "card", trained, "card.md", "--licence", "mit", "--name", "me/a") == 0
    assert call("share", "push", trained, "me/a", "--card", "card.md") == 0
    commit = site.head("me/a")
    assert f"commit {commit}" in capsys.readouterr().out
    assert call("share", "pull", "me/a", "here") == 0
    assert (
        f"here holds me/a at commit {commit}; restore with: i2i-bridge restore here IN OUT" in capsys.readouterr().out
    )
    assert call("share", "pull", "me/a") == 0
    assert "restore with: i2i-bridge restore me/a IN OUT" in capsys.readouterr().out
    assert call("share", "save", "here", "saved", "--licence", "mit") == 0
    noisy = load_run(trained).recipe.data.root.replace("clean", "noisy") + "/val"
    for run in ("me/a", "here", "saved"):
        assert call("restore", run, noisy, f"out-{run[:4].replace('/', '-')}", "--device", "cpu") == 0
    assert f"me/a is the copy of commit {commit}" in capsys.readouterr().err
    first, second, third = ((tmp_path / out / "00.png").read_bytes() for out in ("out-me-a", "out-here", "out-save"))
    assert first == second == third


def test_every_verb_takes_the_name(site, trained, shared, tmp_path, capsys):
    """Results lie in runs/OWNER/NAME, beside a copy of the commit that was scored; training writes down the commit.

    kills: results-into-the-local-copy, init-forgets-the-commit, copy-of-another-commit
    """
    site.commit("me/a", shared)
    root = ("--root", load_run(trained).recipe.data.root)
    assert call("evaluate", "me/a", "-n", 1, "--metric", "psnr", "--device", "cpu", *root) == 0
    copy, place = hub.local_copy("me/a"), tmp_path / "runs" / "me" / "a"
    assert hub.read_origin(place) == hub.read_origin(copy) == hub.Origin("me/a", site.head("me/a"))
    assert (place / "evaluation").is_dir() and not (copy / "evaluation").exists()
    assert (
        call("evaluate", trained, "-n", 1, "--metric", "psnr", "--device", "cpu", "--out", "own", "--name", "own") == 0
    )
    numbers = [json.loads(next(f.rglob("evaluation.json")).read_text())["rows"] for f in (place, tmp_path / "own")]
    assert [row["metrics"] for row in numbers[0]] == [row["metrics"] for row in numbers[1]]
    assert call("report", "me/a", "--device", "cpu", *root) == 0 and (place / "report" / "index.html").is_file()
    assert call("compare", "me/a", "own", "--label", "me/a=theirs", "--device", "cpu", *root) == 0
    assert "theirs" in (tmp_path / "runs" / "compare" / "table.csv").read_text()
    assert call("export", "me/a", "graphs") == 0 and (tmp_path / "graphs" / "network.onnx").is_file()
    capsys.readouterr()
    (tmp_path / "tiny.toml").write_text(load_run(trained).recipe.to_toml())
    data = f"data.root={root[1]}"
    for out, words in (("i", ("tiny.toml", "--init", "me/a")), ("f", ("--from", "me/a", data))):
        words = ("train", *words, "train.steps=1", "--out", out, "--device", "cpu")
        assert call(*words) == call(*words) == 0
        started = json.loads((tmp_path / out / "init.json").read_text())
        assert started["source"] == "me/a" and started["differences"] == []
        assert started["repository"] == "me/a" and started["revision"] == site.head("me/a")
    asked = len(site.seen)
    assert call("evaluate", "me/a", "-n", 1, "--metric", "psnr", "--device", "cpu", *root) == 0
    assert len(site.seen) == asked
    site.commit("me/a", shared | {"README.md": b"new"})
    hub.pull("me/a")
    assert call("evaluate", "me/a", "-n", 1, "--device", "cpu", *root) == 2
    assert "runs/me/a: not a copy of " in capsys.readouterr().err


def test_a_recipe_fetches_nothing(site, trained, shared, tmp_path, capsys):
    """Its train.init names a run on the Hub: only a copy that is there is used. kills: recipe-fetches"""
    site.commit("me/a", shared)
    recipe = load_run(trained).recipe
    (tmp_path / "tiny.toml").write_text(recipe.to_toml())
    words = ("train", "tiny.toml", "train.init=me/a", "train.steps=1", "--out", "r", "--device", "cpu")
    assert call(*words) == 2
    assert capsys.readouterr().err.endswith("train.init: there is no me/a; from the Hub: i2i-bridge share pull me/a\n")
    assert site.seen == [] and not (tmp_path / "r").exists()
    hub.pull("me/a")
    assert call(*words) == 0


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "NAME"), ("report", "NAME"), ("compare", "NAME", "NAME"), ("app", "NAME"),
        ("export", "NAME", "out"), ("train", "--from", "NAME"), ("train", "demo/jpeg", "--init", "NAME"),
        ("distill", "NAME"), ("tune", "NAME", "--nfe", "1", "--metric", "psnr"),
    ],
)  # fmt: skip
def test_each_verb_says_what_the_hub_refuses_in_one_line(site, words, capsys):
    """A private or gated repository, offline mode, a mistyped recipe or file: never a traceback, nor a look-up."""
    site.repositories["some/one"] = {}
    site.answers["some/one"] = (403, "GatedRepo")
    named = [word.replace("NAME", "some/one") for word in words]
    assert call(*named) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: some/one: its owner gives access on request")
    asked = len(site.seen)
    assert call("--offline", *named) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: 'some/one' on the Hub needs the internet")
    for name in ("demo/denoise", "restoration/no-such", "weights/a.safetensors" if "--init" in words else "runs/a"):
        assert call(*(word.replace("NAME", name) for word in words)) == 2
        said = capsys.readouterr().err
        says_to_train = name == "demo/denoise" and words[0] != "compare" and "--init" not in words
        assert said.count("\n") == 1 and ("train first" in said) == says_to_train
    assert len(site.seen) == asked


def test_only_the_files_of_a_run_are_fetched(site, shared, tmp_path):
    """kills: fetches-everything, older-checkpoint-fetched"""
    older = "checkpoints/step-00000000/ema.safetensors"
    odd = {
        name: b"import os"
        for name in (
            "../evil", "a/../../evil", "/evil", "model.py", "pytorch_model.bin", "hub.json", "options.pkl", older,
            f"{STEP}/optimizer.safetensors", "checkpoints/../recipe.toml", "mean/../../recipe.toml", "recipe.toml\n",
            f"{STEP}/ema.safetensors/..", "CHECKPOINTS/step-00000001/ema.safetensors", "evaluation/x/evaluation.json",
        )
    }  # fmt: skip
    site.commit("some/one", shared | odd)
    said = []
    folder, _ = hub.pull("some/one", tmp_path / "in" / "run", report=said.append)
    assert fetched(site) == set(shared)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *shared,
        "hub.json",
    }
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["run"]
    assert f"{len(odd)} other files of the repository are not fetched" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[data]\nroot = "/etc"', "data.root: '/etc' leads out of the folder"),
        ('[degradation]\nname = "inpaint"\nfolder = "../../masks"', "degradation.folder: .* leads out"),
        ('[data]\ncard = "x.toml"', "data.card: 'x.toml' is a file"),
        ('[data.source]\nname = "huggingface"\nhub = "a/b"\ndownload = true', "must not download"),
        ("UNET", "^some/one: recipe.toml: unknown network 'no-such'"),
        ("not toml", "recipe.toml"),
    ],
)
def test_a_strangers_recipe_is_checked_before_anything_else_is_fetched(site, shared, text, said):
    """kills: recipe-unchecked"""
    recipe = shared["recipe.toml"].replace(b'name = "unet"', b'name = "no-such"') if text == "UNET" else text.encode()
    site.commit("some/one", shared | {"recipe.toml": recipe})
    refused(said)
    assert fetched(site) == {"recipe.toml"} and not hub.local_copy("some/one").exists()


def test_sizes_are_bounded_before_the_download(site, shared):
    """kills: weights-of-any-size, recipe-of-any-size"""
    site.commit("some/one", shared)
    for name, said in (
        (f"{STEP}/ema.safetensors", r"ema.safetensors has 1099511627776 bytes; its recipe's network has at most \d+$"),
        ("recipe.toml", "at most 1048576 are read"),
        ("README.md", "at most 1048576 are read"),
        (f"{STEP}/manifest.json", "at most 1048576 are read"),
    ):
        site.seen.clear()
        site.declared = {name: 2**40}
        refused(said)
        assert name not in fetched(site)
    for size in (None, -1, "9"):
        site.declared = {"README.md": size}
        refused("does not say how large README.md is")
    site.declared = {"README.md": 1}
    refused("README.md is not the file of 1 bytes")
    assert not hub.local_copy("some/one").exists()


def test_weights_are_held_to_their_hashes_and_to_the_recipe(site, shared):
    """kills: pull-without-hashes"""
    weights = bytearray(shared[f"{STEP}/ema.safetensors"])
    weights[-1] ^= 1
    site.commit("some/one", shared | {f"{STEP}/ema.safetensors": bytes(weights)})
    refused("its SHA-256 differs from the manifest")
    site.commit("some/one", {name: data for name, data in shared.items() if "ema" not in name})
    refused("ema.safetensors: damaged")
    site.commit("some/one", {name: data for name, data in shared.items() if "checkpoints" not in name})
    refused("not a run of i2i-bridge")
    evil = json.loads(shared[f"{STEP}/manifest.json"])
    evil["files"] = {"../../../x.safetensors": {"bytes": 0, "sha256": ""}}
    text = json.dumps(evil).encode()
    seal = f"{hashlib.sha256(text).hexdigest()}  manifest.json\n".encode()
    site.commit("some/one", shared | {f"{STEP}/manifest.json": text, f"{STEP}/manifest.sha256": seal})
    refused("it names '../../../x.safetensors'")
    assert not hub.local_copy("some/one").exists()


@pytest.fixture(scope="module")
def between_latents(tmp_path_factory):
    return latent_run(photos(tmp_path_factory.mktemp("latent-pairs")), tmp_path_factory.mktemp("latent"))


def test_a_run_between_latents_comes_back_with_its_autoencoder(site, between_latents, tmp_path):
    """The same bits; another commit replaces the copy. kills: autoencoder-not-fetched, latent-is-another-file"""
    first = load_run(between_latents, device="cpu").push_to_hub("me/latents", licence="mit").revision
    published = site.repositories["me/latents"][first]
    assert {name for name in published if name.startswith("latent/")} == {
        "latent/recipe.toml",
        *(f"latent/checkpoints/step-00000002/{name}" for name in ("ema.safetensors", *MANIFESTS)),
    }
    assert np.array_equal(restored("me/latents"), restored(between_latents))
    site.commit("me/latents", published | {"README.md": b"new"})
    place, _ = hub.pull("me/latents")
    assert (place / "README.md").read_text() == "new"
    site.commit("me/latents", {name: data for name, data in published.items() if "README" not in name})
    load_run(between_latents, device="cpu").push_to_hub("me/latents", licence="mit")
    assert set(site.repositories["me/latents"][site.head("me/latents")]) == set(published)


def test_a_strangers_autoencoder_is_checked_before_the_copy_is_there(site, between_latents, tmp_path, trained):
    """Missing, of a wrong hash, of other weights, of another size or shape, of another method, with other names.

    kills: autoencoder-unchecked, weights-of-any-size
    """
    folder = load_run(between_latents, device="cpu").save_pretrained(tmp_path / "out", licence="mit")
    good = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    own = {name: data for name, data in good.items() if not name.startswith("latent/")}
    odd = {
        f"latent/{name}": b"import os"
        for name in ("../evil.safetensors", "x/../../evil.safetensors", "code.py", "weights.bin", "a/b.safetensors")
    } | {"latent/../../config.json": b"{}", "latent//x.safetensors": b"", f"{CODER}/../../recipe.toml": b""}
    site.commit("some/one", good | odd)
    place, _ = hub.pull("some/one", tmp_path / "in" / "run")
    assert fetched(site) == set(good) and not list(tmp_path.rglob("*evil*"))
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == {*good, "hub.json"}

    site.commit("some/one", own)
    refused("^some/one: latent: the copy of coder, which this run encodes by, is missing")
    site.commit("some/one", {name: data for name, data in good.items() if not name.startswith(CODER)})
    refused("no checkpoint in latent/")
    weights = bytearray(good[f"{CODER}/ema.safetensors"])
    weights[-1] ^= 1
    site.commit("some/one", good | {f"{CODER}/ema.safetensors": bytes(weights)})
    refused("latent/.*its SHA-256 differs from the manifest")
    other = re.search(rb'sha256 = "([0-9a-f]{64})"', good["recipe.toml"])[1]
    site.commit("some/one", good | {"recipe.toml": good["recipe.toml"].replace(other, b"0" * 64)})
    refused("^some/one: latent: other weights than the run was trained with")
    site.commit("some/one", good | {"recipe.toml": good["recipe.toml"].replace(b"factor = 2", b"factor = 4")})
    refused("^some/one: latent: latent.factor is 4, and that of the autoencoder there 2")
    text = good["latent/recipe.toml"]
    site.commit("some/one", good | {"latent/recipe.toml": text.replace(b"halvings = 1", b"halvings = 2")})
    refused("latent/checkpoints/step-00000002: ")
    site.commit("some/one", good | {"latent/recipe.toml": text.replace(b'root = "', b'root = "/etc/')})
    refused("data.root: '/etc/.* leads out of the folder")
    run = load_run(trained, device="cpu").save_pretrained(tmp_path / "bridge", licence="mit")
    bridge = {
        f"latent/{path.relative_to(run).as_posix()}": path.read_bytes() for path in run.rglob("*") if path.is_file()
    }
    site.commit("some/one", own | bridge)
    refused("a run of method 'bridge', not of 'autoencoder'")
    site.commit("some/one", good)
    site.declared = {f"{CODER}/ema.safetensors": 2**40}
    refused(r"ema.safetensors has 1099511627776 bytes; its recipe's network has at most \d+$")
    assert not hub.local_copy("some/one").exists()


class Folded(torch.nn.Module):
    """The pixels of 2x2 squares as channels, times a stored number."""

    channels, factor = 12, 2

    def __init__(self, source: str) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(read_safetensors(Path(source, "gain.safetensors"))["gain"])

    def encode(self, x):
        return torch.nn.functional.pixel_unshuffle(x, 2) * self.gain

    def decode(self, latents):
        return torch.nn.functional.pixel_shuffle(latents / self.gain, 2)

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "gain.safetensors").write_bytes(save({"gain": self.gain.detach().cpu()}))
        (folder / "config.json").write_text("{}")


def test_the_files_of_another_autoencoder_are_fetched_and_checked(site, trained, tmp_path):
    """kills: encoder-of-any-size, encoder-config-unchecked, autoencoder-unchecked"""
    (tmp_path / "gain.safetensors").write_bytes(save({"gain": torch.tensor(2.0)}))
    AUTOENCODERS.register("folded")(Folded)
    try:
        root = Path(load_run(trained).recipe.data.root).parent
        train(latent_recipe(root, {"name": "folded", "source": str(tmp_path)}), tmp_path / "run", cpu=True)
        origin = load_run(tmp_path / "run", device="cpu").push_to_hub("me/a", licence="mit")
        assert np.array_equal(restored("me/a"), restored(tmp_path / "run"))
        good = site.repositories["me/a"][origin.revision]
        for name, data, said in (
            ("config.json", b'{"a": "../up"}', "^some/one: latent/config.json: a: '../up' leads out of the folder"),
            ("config.json", b"no JSON", "^some/one: latent/config.json: cannot be read"),
            ("gain.safetensors", save({"gain": torch.tensor(3.0)}), "other weights than the run was trained with"),
            ("gain.safetensors", b"\x80\x02c", "not a readable safetensors file"),
        ):
            site.commit("some/one", good | {f"latent/{name}": data})
            refused(said)
        site.commit("some/one", good)
        site.declared = {"latent/gain.safetensors": 2**40}
        refused("latent/gain.safetensors has 1099511627776 bytes; an autoencoder has at most 4000000000")
    finally:
        del AUTOENCODERS._members["folded"]
    site.seen.clear()
    refused("unknown autoencoder 'folded'; known: .*--plugin FILE.py")
    assert fetched(site) <= {"recipe.toml"} and not hub.local_copy("some/one").exists()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, "RepoNotFound"), "no such run on the Hub, or a private one: check the name, or log in"),
        ((401, "RepoNotFound"), "no such run on the Hub, or a private one"),
        ((403, "GatedRepo"), "its owner gives access on request"),
        ((500, ""), "the Hub says 500"),
        ((403, ""), "not allowed to you; log in"),
    ],
)
def test_what_the_hub_refuses_is_one_line(site, answer, said, capsys):
    site.repositories["some/one"] = {}
    site.answers["some/one"] = answer
    refused(said)
    assert call("restore", "some/one", "in.png", "out.png") == 2
    error = capsys.readouterr().err
    note, last = error.splitlines()
    assert note == "note: there is no folder some/one; looking for it on the Hugging Face Hub"
    assert last.startswith("error: some/one: ")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, ""), "not allowed to you; log in with a token that may write"),
        ((403, ""), "not allowed to you; log in with a token that may write"),
        ((500, ""), "the Hub says 500"),
    ],
)
def test_what_the_hub_refuses_to_take_is_one_line(site, trained, answer, said):
    site.answers["me/mine"] = answer
    with pytest.raises(UserError, match=f"^me/mine: {said}"):
        load_run(trained, device="cpu").push_to_hub("me/mine", licence="mit")


def test_no_such_revision(site, shared):
    site.commit("some/one", shared)
    refused("no such commit, tag or branch", "some/one@0123abc")


def test_no_network_no_package_offline(site, shared, monkeypatch, capsys):
    """kills: hub-offline"""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with monkeypatch.context() as changed:
        changed.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        refused("the Hub did not answer")
    with monkeypatch.context() as changed:
        changed.setitem(__import__("sys").modules, "huggingface_hub", None)
        refused(r"pip install 'i2i-bridge\[share\]'")
    site.commit("some/one", shared)
    for words in (("restore", "some/one", "in.png", "out.png"), ("share", "pull", "some/one")):
        assert call("--offline", *words) == 2
        assert capsys.readouterr().err == (
            "error: 'some/one' on the Hub needs the internet, which --offline (or I2I_OFFLINE=1) forbids\n"
        )
    assert site.seen == []
    monkeypatch.setenv(internet.VARIABLE, "0")
    hub.pull("some/one")
    monkeypatch.setenv(internet.VARIABLE, "1")
    assert load_run("some/one").step == 1, "what is here is used"


@pytest.mark.parametrize(
    "name",
    [
        "runs/mine", "pretrained/mine", "here/mine", "nofolder", "a/b/c", "../a/b", "/a/b", "a/b.", "-a/b", "a/..",
        "a/.b", "a/b@", "a/b@c@d", "a/b@../c",
    ],
)  # fmt: skip
def test_what_is_a_path_is_never_looked_for_on_the_hub(site, name, tmp_path):
    """kills: folder-on-the-hub"""
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match="not a run folder"):
        load_run(name)
    assert site.seen == []


def test_a_path_that_exists_wins(site, shared, trained, tmp_path):
    load_run(trained, device="cpu").save_pretrained(tmp_path / "some" / "one", licence="mit")
    assert load_run("some/one").step == 1 and site.seen == []


@pytest.mark.parametrize("name", ["", "a", "a/b/c", "../b", "a/b@", "a--b/c", "a/b..c", "a/b\n", "a" * 200 + "/b"])
def test_names_are_checked(site, name):
    refused("is no name of the Hub", name)
    assert site.seen == []


def test_other_folders_are_left_alone(site, shared, tmp_path):
    """kills: pull-over-other-files"""
    site.commit("some/one", shared)
    site.commit("some/two", shared)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(UserError, match="no copy of this run"):
        hub.pull("some/one", tmp_path / "mine")
    hub.pull("some/one", tmp_path / "one")
    with pytest.raises(UserError, match="no copy of this run"):
        hub.pull("some/two", tmp_path / "one")
    (tmp_path / "one" / "evaluation").mkdir()
    site.commit("some/one", shared | {"README.md": b"new"})
    with pytest.raises(UserError, match="also holds evaluation, which would be lost"):
        hub.pull("some/one", tmp_path / "one")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with pytest.raises(UserError, match="no copy of this run"):
        hub.pull("some/one", tmp_path / "link")


@pytest.mark.parametrize("origin", ["{}", "not JSON"])
def test_an_interrupted_pull_goes_on_and_keeps_no_file_of_another_commit(site, shared, monkeypatch, origin):
    """kills: parts-of-two-commits"""
    site.commit("some/one", shared | {"README.md": b"old"})
    whole = site._answer

    def breaks(request, method):
        if request.path.endswith("README.md"):
            raise ConnectionResetError
        whole(request, method)

    monkeypatch.setattr(site, "_answer", breaks)
    refused("the Hub did not answer")
    monkeypatch.setattr(site, "_answer", whole)
    site.seen.clear()
    folder, _ = hub.pull("some/one")
    assert fetched(site) == {"README.md"} and (folder / "README.md").read_text() == "old"
    part = folder.with_name(".one.part")
    assert not part.exists()
    part.mkdir()
    (part / "hub.json").write_text(origin)
    (part / "evil.py").write_text("")
    site.commit("some/one", shared)
    folder, _ = hub.pull("some/one")
    assert not (folder / "evil.py").exists()
