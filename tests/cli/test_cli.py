"""The command: what it prints, its exit codes, and that every mistake is one line."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import interpreter
import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli.command import main
from i2i_bridge.images.montage import HEADER_HEIGHT

SMALL = """
name = "small"
summary = "a small one"
task = "restoration"
[data]
root = "{root}"
source = {{ name = "images", holdout = 0.3 }}
size = 16
resize = "none"
crop = "random"
[degradation]
name = "{degradation}"
[network]
name = "unet"
channels = 8
channel_mult = [1]
[train]
steps = 3
batch_size = 2
workers = 0
save_every = 2
sample_every = 3
log_every = 1
precision = "fp32"
[sample]
nfe = 2
[evaluate]
nfe = [1, 2]
metrics = ["psnr"]
"""


@pytest.fixture
def call(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    return run


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "small.toml").write_text(SMALL.format(root="photos", degradation="blur"))
    return tmp_path


def test_the_whole_way(call, workplace):
    code, out, _ = call("run", "small.toml", "--out", "runs/a", "--device", "cpu")
    assert code == 0, out
    assert "step 3/3" in out and "degraded input" in out and "PSNR (dB)" in out
    run = workplace / "runs" / "a"
    for file in (
        "recipe.toml",
        "metrics.csv",
        "metrics.jsonl",
        "samples/step-00000003.png",
        "evaluation/held-out/evaluation.json",
        "report/index.html",
    ):
        assert (run / file).is_file(), file
    code, out, _ = call("evaluate", "runs/a", "--nfe", "1", "2,5", "-n", "1", "--device", "cpu")
    assert code == 0 and [int(n) for n in re.findall(r"bridge +(\d+)", out)] == [1, 2, 5]
    code, out, _ = call("restore", "runs/a", "photos", "out", "--nfe", "3", "--device", "cpu")
    assert code == 0 and "wrote 8 images to out (3 network calls each)" in out
    assert sorted(path.name for path in Path("out").glob("[!.]*")) == [f"{i}.png" for i in range(8)]
    code, out, _ = call(
        "restore", "runs/a", "photos/0.png", "many/x.png", "--samples", "2", "--seed", "4", "--device", "cpu"
    )
    assert code == 0 and sorted(path.name for path in Path("many").iterdir()) == ["x-1.png", "x-2.png"]
    code, out, _ = call("train", "small.toml", "--out", "runs/a", "train.steps=5", "--device", "cpu")
    assert code == 0 and "resuming runs/a at step 3 of 5" in out


def test_compare(call, workplace):
    """Kills: rows that --nfe asks for not measured; other images compared; a page written over what is not one."""
    for out, more in (("runs/a", ()), ("runs/b", ("process.name=ot-ode",))):
        assert call("train", "small.toml", *more, "--out", out, "--device", "cpu")[0] == 0
    words = ["compare", "runs/a", "runs/b", "--nfe", "1", "3", "-n", "2", "--device", "cpu"]
    code, out, _ = call(*words, "--against", "bridge (a), NFE 3")
    assert code == 0 and "wrote runs/compare/index.html" in out and "Difference to bridge (a), NFE 3" in out
    assert re.search(r"^bridge \(b\) +3 +[+-]\d+\.\d+ ± \d+\.\d+", out, re.MULTILINE), out
    text = Path("runs/compare/index.html").read_text(encoding="utf-8")
    assert "bridge (a), NFE 3" in text and "bridge (b), NFE 3" in text and "NFE 2" not in text
    assert "every seed gives the same image" in text and "spread at most" in text
    rows = Path("runs/compare/table.csv").read_text().splitlines()
    assert [row.split(",")[:3] for row in rows[1:]] == [
        ["degraded input", "0", "2"], ["bridge (a)", "1", "2"], ["bridge (a)", "3", "2"], ["bridge (b)", "1", "2"],
        ["bridge (b)", "3", "2"],
    ]  # fmt: skip
    code, _, _ = call("compare", "runs/b", "--out", "one", "--single-file", "--device", "cpu")
    assert code == 0 and [file.name for file in Path("one").iterdir()] == ["index.html"]
    for words, part in (
        (["runs/a", "nowhere"], "nowhere: no such folder"),
        (["runs/a", "runs/a"], "given twice"),
        (["runs/a", "photos"], "not evaluated yet"),
        (["runs/a", "--out", "photos"], "not a page of i2i-bridge"),
        (["runs/b", "--against", "bridge, NFE 7"], "no row of the table; give one of: degraded input; bridge, NFE 1"),
        (["runs/a", "--protocol", "held-in"], "did you mean 'held-out'"),
    ):
        code, _, err = call("compare", *words, "--device", "cpu")
        assert code == 2 and part in err and err.count("\n") == 1, err
    # Others of the images than runs/b: a number of them, or of another seed's masks and noise.
    assert call("evaluate", "runs/a", "-n", "1", "--nfe", "1", "--device", "cpu")[0] == 0
    code, _, err = call("compare", "runs/a", "runs/b", "--device", "cpu")
    assert (
        code == 2 and "not comparable" in err and "the number of images (-n) is 1 and 2" in err and err.count("\n") == 1
    )
    assert call("evaluate", "runs/a", "--nfe", "1", "--device", "cpu")[0] == 0
    assert "the number of images (-n) is all and 2" in call("compare", "runs/a", "runs/b", "--device", "cpu")[2]
    assert Path("runs/compare/index.html").read_text(encoding="utf-8") == text, "the old page stays"


def test_a_folder_of_outside_images_is_scored_as_a_run_is(call, workplace):
    assert call("train", "small.toml", "--out", "runs/a", "--device", "cpu")[0] == 0
    code, out, _ = call("evaluate", "runs/a", "--nfe", "1", "--device", "cpu")
    assert code == 0 and "protocol held-out@1 " in out and "note: only" in out and re.search(r"\[\d+\.\d\d, ", out)
    own = next(line for line in out.splitlines() if line.startswith("bridge"))
    pictures = "runs/a/evaluation/held-out/images/nfe-1"
    for what in ("runs/a", "small.toml"):
        code, out, err = call(
            "evaluate", what, "--images", pictures, "--name", "theirs", "--out", f"out-{Path(what).stem}"
        )
        assert code == 0, err
        row = next(line for line in out.splitlines() if line.startswith("theirs"))
        assert row.split()[2:5] == own.split()[2:5] and "protocol held-out@1 " in out
    before = sorted(workplace.rglob("*"))
    code, out, err = call("evaluate", "runs/a", "--images", "photos", "--name", "x", "--out", "o")
    assert code == 2 and "20x24 pixels, but 16x16 are scored" in err and "belongs to no image" in err
    assert all(line.startswith("error: ") for line in err.splitlines()) and len(err.splitlines()) == 8
    assert sorted(workplace.rglob("*")) == before


def test_looking_around(call, workplace):
    for words, part in (
        (["list"], "restoration/jpeg-5"),
        (["list", "datasets"], "edges2shoes"),
        (["list", "samplers"], "2m-sde"),
        (["list", "degradations"], "inpaint"),
        (["show", "restoration/jpeg-5"], "fid = 4.6"),
        (["show", "edges2shoes"], "AtoB"),
        (["list", "protocols"], "i2sb-table7"),
        (["show", "held-out"], "version = 1"),
        (["show", "jpeg"], "quality: int"),
        (["show", "eta"], "eta: float = 0.5"),
        (["doctor"], "torchvision"),
        (["--help"], "Restore an image or a folder"),
    ):
        code, out, err = call(*words)
        assert code == 0 and part in out, (words, out, err)
    for verb in [
        "list",
        "show",
        "copy",
        "train",
        "distill",
        "restore",
        "export",
        "app",
        "evaluate",
        "report",
        "run",
        "preview",
        "check",
        "doctor",
    ]:
        code, out, _ = call(verb, "--help")
        assert code == 0 and len(out) > 200, verb


def test_copy_and_preview(call, workplace):
    assert call("copy", "demo/deblur", "mine.toml")[0] == 0
    assert Path("mine.toml").read_text() == (Path(__file__).parents[2] / "recipes/demo/deblur.toml").read_text()
    assert call("copy", "demo/deblur", "mine.toml")[0] == 2
    code, out, _ = call("preview", "small.toml", "sheet.png", "-n", "3")
    assert code == 0 and "clean x_0 | x_1, 3 rows" in out
    assert Image.open("sheet.png").size == (2 * 16 + 2, HEADER_HEIGHT + 3 * 16 + 2 * 2)
    assert call("preview", "small.toml", "sheet.png", "-n", "1")[0] == 0, "a sheet replaces a sheet"
    for photo in sorted(Path("photos").rglob("*.png")):
        before = photo.read_bytes()
        for vary in ([], ["--vary", "degradation.kernel=uniform,gaussian"]):
            code, _, err = call("preview", "small.toml", str(photo), *vary)
            assert code == 2 and "is an image of the dataset" in err and photo.read_bytes() == before
    code, out, _ = call("preview", "small.toml", "hole.png", "degradation.name=inpaint", 'degradation.mask="center"')
    assert code == 0 and "x_1 | mask" in out


def test_a_card_of_ones_own(call, workplace):
    """Registering a dataset without code: a card beside the data, named by any recipe from any folder."""
    for side in ("target", "source"):
        Path("scans", "all", side).mkdir(parents=True)
        for i in range(8):
            Image.effect_noise((20, 20), 40).convert("RGB").save(Path("scans", "all", side, f"{i}.png"))
    assert call("copy", "my-pairs", "scans/card.toml")[0] == 0
    card = Path("scans/card.toml")
    card.write_text(card.read_text().replace("path/to/my-pairs", "all").replace("holdout = 0.1", "holdout = 0.4"))
    assert call("check", "scans/card.toml")[0] == 0
    Path("pairs.toml").write_text(
        SMALL.format(root="photos", degradation="blur")
        .replace('root = "photos"', 'card = "scans/card.toml"')
        .replace('source = { name = "images", holdout = 0.3 }', "")
        .replace('[degradation]\nname = "blur"', "")
    )
    code, out, err = call("train", "pairs.toml", "--out", "runs/pairs", "--device", "cpu")
    assert code == 0, (out, err)
    # The run does not need the card any more.
    card.unlink()
    code, out, err = call("evaluate", "runs/pairs", "--device", "cpu")
    assert code == 0 and "degraded input" in out, err
    assert call("copy", "edges2shoes", "shoes.toml")[0] == 0 and "translation" in Path("shoes.toml").read_text()


def test_check_lists_all_problems_in_one_pass(call, workplace):
    assert call("check", "photos")[0] == 0
    Path("photos/a.png").write_bytes(b"broken")
    Path("photos/b.png").write_bytes(b"")
    Image.new("F", (8, 8), float("nan")).save("photos/c.tif")
    code, out, _ = call("check", "photos")
    assert code == 2 and all(name in out for name in ("a.png", "b.png", "c.tif"))
    for name in ("clean/1.png", "clean/2.png", "noisy/1.png", "noisy/3.png"):
        Path("pairs", name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 if name != "noisy/1.png" else 9, 8)).save(Path("pairs", name))
    code, out, _ = call("check", "pairs", "kind=paired_folders", "x_0=clean", "x_1=noisy")
    assert code == 2 and "2.png: no partner" in out and "3.png: no partner" in out and "differ in size" in out
    code, out, _ = call("check", "small.toml")
    assert code == 2 and "a.png" in out


BAD = [
    (["train", "nope"], "no recipe 'nope'"),
    (["train", "none.toml"], "none.toml: no such recipe file"),
    (["train", "photos"], "photos: not a recipe"),
    (["copy", "my-pair", "mine.toml"], "no recipe or dataset card 'my-pair'; did you mean 'my-pairs'"),
    (["copy", "demo/deblur"], "Missing argument 'file'; see i2i-bridge copy --help"),
    (["restore", "pretrained/photos", "photos", ""], "an empty argument after photos"),
    (["train", "small.toml", "--out", ""], "an empty argument after --out; is a variable of the shell unset?"),
    (["train", "small.toml", "--out="], "an empty argument after --out="),
    (["train", "small.toml", "data.root="], "'data.root=': no value"),
    (["data", "add", "new", "photos", "holdout="], "'holdout=': no value"),
    (["check", "nowhere"], "nowhere: no such folder, dataset card or recipe"),
    (["check", "demo/debluur"], "did you mean 'demo/deblur'"),
    (["train", "small.toml", "train.lrr=1"], "did you mean 'lr'"),
    (["train", "small.toml", "train.lr=fast"], "train.lr"),
    (["train", "small.toml", "data.root=nowhere"], "nowhere: no such folder"),
    (["train", "small.toml", "data.size=64"], "smaller than the crop 64x64"),
    (["train", "small.toml", "data.channels=2"], "cannot become one of 2"),
    (["train", "small.toml", "--plugin", "none.py"], "none.py: not an existing"),
    (["train", "small.toml", "--out", "small.toml"], "small.toml"),
    (["train"], "RECIPE"),
    (["train", "small.toml", "--device", "nonsense"], "device 'nonsense' is unknown"),
    (["train", "small.toml", "--device", "cuda:99"], "device 'cuda:99' is not here"),
    (["train", "small.toml", "data.size=15", "network.channel_mult=[1,1]"], "data.size 15: the network halves"),
    (["train", "small.toml", "train.steps=abc"], "small.toml with train.steps=abc: train.steps"),
    (["train", "small.toml", "sample.sampler.name=euler"], "load it: --plugin FILE.py"),
    (["check", "photos", "holdout=abc"], "holdout"),
    (["selftest", "--level", "medium"], "'--level': 'medium' is not one of"),
    (["show", "zzzzzz"], "`i2i-bridge list` shows recipes"),
    (["evaluate", "nowhere"], "not a run folder"),
    (["evaluate", "nowhere", "--nfe", "0"], "'--nfe'"),
    (["evaluate", "nowhere", "--nfe", "abc"], "valid integer"),
    (["evaluate", "nowhere", "--weights", "none"], "none: no such folder"),
    (["evaluate", "nowhere", "--name", "x"], "--name goes with --images"),
    (["evaluate", "small.toml", "--images", "photos"], "needs --name NAME"),
    (["evaluate", "small.toml", "--images", "photos", "--name", "x", "--out", "o", "--nfe", "2"], "--nfe is for runs"),
    (["evaluate", "small.toml", "--images", "none", "--name", "x", "--out", "o"], "none: no such folder"),
    (["evaluate", "small.toml", "--images", "empty", "--name", "x", "--out", "o"], "no images in this folder"),
    (["evaluate", "small.toml", "--images", "photos", "--name", "input", "--out", "o"], "choose a name"),
    (["evaluate", "small.toml", "--images", "photos", "--name", "x", "--out", "small.toml"], "is a file"),
    (
        ["evaluate", "small.toml", "--images", "photos", "--name", "x", "--out", "o", "--protocol", "held-aut"],
        "held-out",
    ),
    (
        ["evaluate", "small.toml", "--images", "photos", "--name", "x", "--out", "o", "--protocol", "i2sb-jpeg"],
        "--list",
    ),
    (["evaluate", "small.toml", "--images", "photos", "--name", "x", "--out", "o", "--list", "none"], "no such file"),
    (["run", "small.toml", 'evaluate.protocol="i2sb-jpeg"'], "--list"),
    (["restore", "nowhere", "photos", "out"], "not a run folder"),
    (["restore", "nowhere", "photos", "out", "--nfe", "-5"], "'--nfe'"),
    (["restore", "nowhere", "photos", "out", "--samples", "0"], "'--samples'"),
    (["restore", "nowhere", "photos", "out", "--nfe", "5000"], "1000"),
    (["report", "nowhere"], "not a run folder"),
    (["preview", "small.toml", "sheet.xyz"], "suffix"),
    (["preview", "small.toml", "sheet.png", "data.root=empty"], "no images"),
    (["check", "empty"], "no images"),
    (["check", "photos", "kind=paired_foldres"], "did you mean 'paired_folders'"),
    (["check", "photos", "kind=paired_folders"], "the key is missing"),
    (["list", "recipe"], "did you mean 'recipes'"),
    (["show", "jepg"], "did you mean 'jpeg'"),
    (["copy", "demo/deblur", "mine.txt"], "ends in .toml"),
    (["trian"], "trian"),
    (["doctor", "--loud"], "--loud"),
]


@pytest.mark.parametrize(("words", "part"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_every_mistake_is_one_line_and_exit_code_2(call, workplace, words, part):
    # kills: empty-argument-is-here, empty-value-is-here
    (workplace / "empty").mkdir()
    before = sorted(workplace.rglob("*"))
    code, out, err = call(*words)
    assert code == 2, (out, err)
    assert err.startswith("error: ") and err.count("\n") == 1 and part in err
    assert len(err) < 400, "more than a person reads"
    assert "Traceback" not in err + out
    assert sorted(workplace.rglob("*")) == before, "something half-written"


def test_nothing_typed_shows_the_help_alone(call):
    for words, verb in (([], "restore"), (["data"], "fetch")):
        code, out, err = call(*words)
        assert code == 2 and verb in out + err and "error:" not in out + err


def test_debug_shows_the_traceback(workplace):
    from i2i_bridge.errors import UserError

    with pytest.raises(UserError):
        main(["train", "nope", "--debug"])


PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
from i2i_bridge import register_dataset, register_degradation
from i2i_bridge.degradations.base import Degradation, Degraded

@register_dataset("scans")
class Scans:
    def __init__(self, root: str, split: str): self.files = sorted(Path(root).glob("*.png"))
    def __len__(self): return len(self.files)
    def __getitem__(self, i): return {"key": self.files[i].stem, "x_0": self.files[i], "x_1": self.files[-i - 1]}

@register_degradation("darken")
@dataclass(frozen=True)
class Darken(Degradation):
    gamma: float = 2.0
    def __call__(self, x_0, generator): return Degraded(((x_0 + 1) / 2) ** self.gamma * 2 - 1)
"""


def test_a_plugin_brings_a_dataset_and_a_degradation(call, workplace):
    Path("mine.py").write_text(PLUGIN)
    Path("dark.toml").write_text(SMALL.format(root="photos", degradation="darken"))
    assert call("train", "dark.toml")[0] == 2
    code, out, _ = call("train", "dark.toml", "--plugin", "mine.py", "--out", "runs/dark", "--device", "cpu")
    assert code == 0, out
    assert "darken" in call("list", "degradations", "--plugin", "mine.py")[1]
    pairs = SMALL.format(root="photos", degradation="x").replace('[degradation]\nname = "x"\n', "")
    Path("pairs.toml").write_text(pairs.replace('"images", holdout = 0.3', '"scans"'))
    code, out, _ = call(
        "train", "pairs.toml", "--plugin", "mine.py", "--out", "runs/pairs", "train.workers=1", "--device", "cpu"
    )
    assert code == 0, out
    code, out, _ = call("evaluate", "runs/pairs", "--plugin", "mine.py", "--device", "cpu")
    assert code == 0 and "psnr" in out.lower()


def test_a_signal_saves_and_the_same_command_goes_on(workplace):
    """A real process group with data workers, Ctrl-C: exit code 75, a checkpoint, and a resume.

    Other signals: training/test_saving.py.
    """
    # kills: workers-heed-signals
    command = [
        sys.executable,
        "-u",
        "-m",
        "i2i_bridge.cli",
        "train",
        "small.toml",
        "--out",
        "runs/a",
        "--device",
        "cpu",
        "train.steps=100000",
        "train.sample_every=100000",
        "train.save_every=100000",
        "train.workers=2",
    ]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    os.killpg(process.pid, signal.SIGINT)
    out = process.stdout.read()
    assert process.wait() == 75 and "run the same command again to resume" in out, out
    assert out.count("stopping after this step") == 1, "data workers answered as well"
    step = int(re.search(r"at step (\d+)", out).group(1))
    assert step >= 3
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline().startswith("training ")
    assert f"resuming runs/a at step {step} of" in process.stdout.readline()
    process.kill()
    process.wait()


def test_the_commands_need_no_network(workplace):
    """Training, restoring and evaluating open no socket (but those between their own processes, AF_UNIX)."""
    code = """
import socket, sys
def hook(event, arguments):
    inner = event in ("socket.__new__", "socket.connect", "socket.bind") and arguments[0].family == socket.AF_UNIX
    if event.startswith(("socket.", "urllib.")) and not inner and event != "socket.gethostname":
        raise SystemExit(f"network: {event} {arguments}")  # an Exception would be swallowed by whoever asks
sys.addaudithook(hook)
from i2i_bridge.cli.command import main
from i2i_bridge.images.montage import HEADER_HEIGHT
for words in (["run", "small.toml", "--out", "runs/a"], ["restore", "runs/a", "photos", "out"], ["evaluate", "runs/a"]):
    try:
        main([*words, "--device", "cpu"])
    except SystemExit as ended:
        if ended.code:
            raise
"""
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    done = interpreter.python("-c", code, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
