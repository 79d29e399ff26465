"""Weights: found, read without trust, fetched from a server of our own on this machine, and verified."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from test_fetching import BODY, left, sha256, site  # noqa: F401

from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.metrics import weights
from i2i_bridge.metrics.weights import KNOWN, Weights
from i2i_bridge.registry import EXTRACTORS, METRICS

FROM_THE_FOLDER = sorted({*EXTRACTORS.names()} - {"efficientnet-lite0"})
"""Extractors whose weights lie in the user's folder; the others' come inside pip packages."""


@pytest.fixture
def call(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    return run


@pytest.fixture
def small(site, tmp_path, monkeypatch):  # noqa: F811
    """A file of 1 MB in place of the known ones, and an empty folder for it."""
    file = f"small-{sha256(BODY)[:8]}.pth"
    site.put(f"/{file}", BODY)
    known = Weights("small", "a network", f"{site.url}/{file}", 1, sha256(BODY)[:8], "a licence", ("lpips",))
    monkeypatch.setattr(weights, "KNOWN", (known,))
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "here"))
    return known


def test_the_known_files_are_those_of_the_libraries():
    """Addresses as torchvision and torch-fidelity have them; the file's name holds the hash that we demand."""
    # kills: hash-of-another-file
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision import models

    theirs = {
        "alexnet": models.AlexNet_Weights.IMAGENET1K_V1,
        "vgg16": models.VGG16_Weights.IMAGENET1K_V1,
        "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
    }
    assert [known.name for known in KNOWN] == ["alexnet", "vgg16", "inception", "resnet50"]
    for known in KNOWN:
        assert known.url == (theirs[known.name].url if known.name in theirs else URL_INCEPTION_V3)
        assert re.search(r"-([0-9a-f]{8})\.pth$", known.file)[1] == known.sha256
        if known.name in theirs:
            assert known.megabytes == round(theirs[known.name].meta["_file_size"])
        assert known.licence and known.metrics and all(metric in METRICS.names() for metric in known.metrics)


def test_each_part_that_needs_weights_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    needy = {metric for known in KNOWN for metric in known.metrics}
    packaged = {"st-lpips", *(name for name in METRICS.names() if name.endswith("efficientnet-lite0"))}
    for name in set(METRICS.names()) - packaged:
        reason = METRICS.get(name)().missing()
        assert (reason is not None) == (name in needy), name
        if reason:
            assert "I2I_WEIGHTS_DIR" in reason and "weights fetch" in reason and "\n" not in reason
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    for name in needy:
        assert f"{tmp_path}" in METRICS.get(name)().missing()
    for name in FROM_THE_FOLDER:
        with pytest.raises(UserError, match="does not exist"):
            EXTRACTORS.get(name)()(torch.zeros(1, 3, 64, 64))
    # Channels that no such network takes.
    assert all("5" in METRICS.get(name)().missing(5) for name in needy)


class Malicious:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_no_file_is_unpickled_on_trust(monkeypatch, tmp_path):
    """A file that would run code when it is loaded does not, whatever network asks for it."""
    # kills: a loader that trusts
    mark = tmp_path / "touched"
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    images = torch.zeros(1, 3, 64, 64)
    for known in KNOWN:
        torch.save({"a": Malicious(mark)}, tmp_path / known.file)
    for name in FROM_THE_FOLDER:
        with pytest.raises(UserError, match="it may be code"):
            EXTRACTORS.get(name)()(images)
    for name in ("lpips", "lpips-vgg"):
        with pytest.raises(UserError, match="it may be code"):
            METRICS.get(name)()(images, images)
    assert not mark.exists()
    torch.load(tmp_path / KNOWN[0].file, weights_only=False)
    assert mark.exists()  # so the file was malicious
    for content in ([1], {"a": 1}, torch.zeros(3)):
        torch.save(content, tmp_path / KNOWN[0].file)
        with pytest.raises(UserError, match="not a state dict, which holds tensors by name"):
            weights.load("alexnet", "lpips")
    (tmp_path / KNOWN[0].file).write_bytes(pickle.dumps({"a": 1})[:7])
    with pytest.raises(UserError, match="a bare pickle"):
        weights.load("alexnet", "lpips")


def test_weights_of_another_network_are_refused_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path))
    for known in KNOWN:
        torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / known.file)
    images = torch.zeros(1, 3, 64, 64)
    parts = [EXTRACTORS.get(name)() for name in FROM_THE_FOLDER]
    parts += [lambda x, name=name: METRICS.get(name)()(x, x) for name in ("lpips", "lpips-vgg")]
    for part in parts:
        with pytest.raises(UserError) as raised:
            part(images)
        assert re.search(r"\.pth: not .* weights \(", str(raised.value)) and "\n" not in str(raised.value)


def test_fetch_puts_a_whole_verified_file_there(small, tmp_path, site):  # noqa: F811
    seen = []
    place = tmp_path / "here"
    assert weights.fetch(small, place, lambda *now: seen.append(now))
    assert (place / small.file).read_bytes() == BODY and left(place) == [small.file]
    assert seen[-1] == (len(BODY), len(BODY))
    assert not weights.fetch(small, place)
    assert len(site.seen) == 1


def test_a_broken_line_is_resumed(small, tmp_path, site):  # noqa: F811
    site.put(f"/{small.file}", BODY, stop=400_000)
    weights.fetch(small, tmp_path / "here")
    assert (tmp_path / "here" / small.file).read_bytes() == BODY
    assert [asked for _, asked in site.seen] == [None, "bytes=400000-", "bytes=800000-"]


def test_what_is_wrong_ends_in_one_line_and_leaves_no_file(small, tmp_path, site):  # noqa: F811
    # kills: weights-hash-not-compared
    place = tmp_path / "here"
    for answer, says in (
        ({"data": BODY[:-1] + b"x"}, "the sha256 begins with"),
        ({"data": BODY, "until": 500_000, "etag": None, "ranges": False}, "broke off"),
        ({"data": b"<html>sign in</html>", "kind": "text/html"}, "a web page instead"),
        (None, "the server says 404"),
    ):
        if answer is None:
            del site.pages[f"/{small.file}"]
        else:
            site.put(f"/{small.file}", **answer)
        with pytest.raises(UserError, match=says):
            weights.fetch(small, place)
        assert not (place / small.file).exists()
    (place / small.file).write_bytes(b"mine")
    with pytest.raises(UserError, match="delete it, then fetch again"):
        weights.fetch(small, place)
    assert (place / small.file).read_bytes() == b"mine"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        weights.fetch(small, tmp_path / "file")


def test_the_verbs(small, tmp_path, site, call, monkeypatch):  # noqa: F811
    # kills: weights-licence-not-asked, verify-says-ok
    place = tmp_path / "here"
    code, out, _ = call("weights", "verify")
    assert code == 2 and f"missing {small.file}" in out
    code, out, err = call("weights", "fetch", "lpips")
    assert code == 2 and "a licence" in out and small.url in out and "--yes" in err and err.count("\n") == 1
    assert site.seen == [] and not place.exists()
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _: True, "readline": lambda _: "n\n"})())
    assert call("weights", "fetch")[0] == 130 and site.seen == []
    code, out, err = call("weights", "fetch", "small", "--yes")
    assert code == 0 and f"ready: {place}" in out and "now set" not in out, err
    assert out.index("a licence") < out.index(f"{small.file}: ")
    assert call("weights", "verify", "lpips")[:2] == (0, f"ok      {small.file}\n")
    assert "there already" in call("weights", "fetch")[1]
    assert re.search(r"small .*lpips +here", call("weights", "list")[1])
    other = tmp_path / "other"
    code, out, _ = call("weights", "fetch", "--folder", other, "--yes")
    assert code == 0 and f"now set I2I_WEIGHTS_DIR={other}" in out and (other / small.file).is_file()
    (place / small.file).write_bytes(b"x" * 9)
    code, out, _ = call("weights", "verify")
    assert code == 2 and re.match(rf"wrong   {small.file}: its sha256 begins with [0-9a-f]{{8}}, not", out)
    for words, says in ((["verify", "lpip"], "did you mean 'lpips'"), (["fetch", "zebra"], "no weights are known for")):
        code, _, err = call("weights", *words)
        assert code == 2 and says in err and err.count("\n") == 1
    monkeypatch.delenv(weights.VARIABLE)
    for verb in ("verify", "fetch"):
        code, _, err = call("weights", verb)
        assert code == 2 and "--folder" in err and err.count("\n") == 1
    assert "no folder" in call("weights", "list")[1]


def test_the_folder_and_warnings(small, tmp_path, monkeypatch):
    """`use_folder` is what --weights means; a file that is not the published one is worth a warning."""
    place = tmp_path / "here"
    with pytest.raises(UserError, match="no such folder"):
        weights.use_folder(place)
    monkeypatch.delenv(weights.VARIABLE)
    assert weights.folder() is None and weights.warnings(["lpips"]) == []
    place.mkdir()
    monkeypatch.setenv(weights.VARIABLE, "elsewhere")
    weights.use_folder(place)
    assert weights.folder() == place and weights.warnings(["lpips"]) == []
    (place / small.file).write_bytes(b"mine")
    (line,) = weights.warnings(["psnr", "lpips"])
    assert line.startswith("lpips: ") and "not the published file" in line
    assert weights.warnings(["psnr"]) == []
    (place / small.file).write_bytes(BODY)
    assert weights.warnings(["lpips"]) == []
