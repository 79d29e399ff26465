"""Untrusted weight files: none is executed, bad ones are rejected quickly in one line, and good ones are read."""

import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
from hostile import Call, pickled, tensor, zipped
from speed import unit

from i2i_bridge import load_run
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.networks.unet import UNet
from i2i_bridge.networks.weights import load_weights
from i2i_bridge.recipe.load import load_recipe, parse_recipe
from i2i_bridge.runs.checkpoint import save_checkpoint
from i2i_bridge.runs.imports import import_i2sb, released, released_settings
from i2i_bridge.storage import pt_reader, tensors
from i2i_bridge.storage.tensors import read_pt, read_safetensors

ROOT = Path(__file__).parents[2]


@pytest.fixture
def real_reader(monkeypatch):
    """A process started afresh for each file, as everywhere but in tests."""
    monkeypatch.setattr(tensors, "subprocess", subprocess)


def test_no_hostile_file_runs_and_each_is_refused_within_a_second(tmp_path):
    """At least 60 files: no canary, no process, connection, library or file written elsewhere; time and memory small.

    The time is that of the processor, after the start of the child and the import of torch.
    """
    # kills: import-runs-code, overlapping-tensors, storage-anywhere, archive-not-checked
    home = tmp_path
    code = (
        "import json, sys; from pathlib import Path; import hostile; home = Path(sys.argv[1]);"
        "[(home / part).mkdir() for part in ('files', 'out')];"
        "files = hostile.attacks(home / 'files', home / 'canary');"
        "print(json.dumps([(str(f), *r) for f, r in zip(files, hostile.run_apart(files, home / 'out'))]))"
    )
    # Not under `make coverage`: that writes files, and takes time.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)], capture_output=True, text=True, env=environment, cwd=home, check=True
    )
    results = [
        (Path(file), hostile.Read(*rest)) for file, *rest in __import__("json").loads(done.stdout.splitlines()[-1])
    ]
    assert len(results) >= 60
    assert not (home / "canary").exists()
    for file, read in results:
        assert read.refusal and "\n" not in read.refusal and len(read.refusal) < 250, (file, read)
        assert not read.refusal.startswith(("ESCAPED", "DIED")), (file, read)
        assert read.events == [], (file, read)
        assert read.seconds < 50 * unit(), (file, read)
        size = file.stat().st_size / 2**20 if file.is_file() and file.stat().st_size < 2**40 else 0
        assert read.megabytes < 2 * size + 256, (file, read)


def test_the_real_child_refuses_too(tmp_path, real_reader):
    """The whole path with the child process; every file is rejected before torch is imported."""
    (tmp_path / "files").mkdir()
    files = {file.name: file for file in hostile.attacks(tmp_path / "files", tmp_path / "canary")}
    for name in ("os-system-zip.pt", "eval-legacy.pt", "fifo.pt", "zero.pt", "folder.pt", "trick-bytearray-bomb.pt"):
        with pytest.raises(UserError) as caught:
            read_pt(files[name])
        assert str(caught.value).startswith(f"{files[name]}: ") and len(str(caught.value)) <= 300
    for odd in (Path("a\0b"), tmp_path / ("x" * 300)):
        with pytest.raises(UserError):
            read_pt(odd)
    assert not (tmp_path / "canary").exists()


def test_torch_itself_would_not_run_it_either(tmp_path):
    """A second barrier behind the scan: with weights_only the loader alone rejects code."""
    # kills: unsafe-load
    file, canary = tmp_path / "code.pt", tmp_path / "canary"
    file.write_bytes(zipped(pickled({"a": Call(open, str(canary), "w")})))
    with pytest.raises(pt_reader.Refused, match="damaged or malicious"):
        pt_reader.load(str(file), "state dict", frozenset({16}))
    assert not canary.exists()
    torch.load(file, weights_only=False)
    assert canary.exists()  # so the file was malicious


def test_time_and_memory_are_limited(tmp_path, monkeypatch, real_reader):
    """A child that hangs, dies or takes too much memory becomes one line."""
    honest = tmp_path / "honest.pt"
    torch.save({"a": torch.zeros(2)}, honest)
    for body in ("import time; time.sleep(60)", "import os; os._exit(3)", "print('no json')"):
        (tmp_path / "child.py").write_text(body)
        monkeypatch.setattr(pt_reader, "__file__", str(tmp_path / "child.py"))
        monkeypatch.setattr("i2i_bridge.storage.tensors.SECONDS", 1)
        monkeypatch.setattr("i2i_bridge.storage.tensors.PATIENCE", 1)
        with pytest.raises(UserError, match=r"honest.pt: (could not be read within 1 s|cannot be read)"):
            read_pt(honest)
    code = (
        "from i2i_bridge.storage import pt_reader; pt_reader.limit(2**26, final=True)\n"
        "try: bytearray(2**28)\nexcept MemoryError: print('limited')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout == "limited\n"
    # kills: pt-time-unlimited
    code = "from i2i_bridge.storage import pt_reader; pt_reader.limit_time(1)\nfor _ in range(10**9): pass"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode < 0


def test_the_child_s_own_answers(tmp_path, monkeypatch):
    """`answer` gives None or a line, also where memory or the disk run out."""
    file, out = tmp_path / "honest.pt", tmp_path / "out.safetensors"
    torch.save(OrderedDict(a=torch.arange(6.0).reshape(2, 3).t(), b=torch.ones(2, dtype=torch.bfloat16)), file)
    monkeypatch.setattr(pt_reader, "limit", lambda *a, **k: None)
    monkeypatch.setattr(sys, "addaudithook", lambda hook: None)
    assert pt_reader.answer(str(file), "state dict", str(out), False) is None
    tensors = read_safetensors(out)
    # A transposed tensor keeps its values.
    assert torch.equal(tensors["a"], torch.arange(6.0).reshape(2, 3).t()) and tensors["b"].dtype == torch.bfloat16
    assert pt_reader.answer(str(file), "i2sb", str(out), False).startswith("not a checkpoint of the official I2SB code")
    for error, says in (
        (MemoryError(), "needs more memory"),
        (OSError(28, "No space left on device"), "No space left"),
    ):

        def fails(*arguments, error=error):
            raise error

        monkeypatch.setattr(pt_reader, "load", fails)
        assert says in pt_reader.answer(str(file), "state dict", str(out), False)


def test_the_old_format_only_where_it_is_asked_for(tmp_path):
    """Files of PyTorch before 1.6 are scanned and limited alike; without `legacy` they are refused."""
    old, code = tmp_path / "old.pt", tmp_path / "code.pt"
    torch.save({"a": torch.arange(4.0)}, old, _use_new_zipfile_serialization=False)
    assert torch.equal(read_pt(old, legacy=True)["a"], torch.arange(4.0))
    with pytest.raises(UserError, match=r"PyTorch before 1\.6"):
        read_pt(old)
    code.write_bytes(hostile.legacy(pickled({"a": Call(open, str(tmp_path / "canary"), "w")})))
    with pytest.raises(UserError, match="it may be code"):
        read_pt(code, legacy=True)
    assert not (tmp_path / "canary").exists()


def test_tied_and_large_archives_come_in(tmp_path, real_reader):
    """Two names for one tensor, and a zip64 archive."""
    tied, wide = tmp_path / "tied.pt", tmp_path / "wide.pt"
    value = torch.arange(4.0)
    torch.save({"a": value, "b": value[:2], "c": torch.zeros(64)}, tied)
    found = read_pt(tied)
    assert torch.equal(found["a"], value) and torch.equal(found["b"], value[:2])
    data = zipped(pickled({"a": tensor((4,))}), storages={"0": np.arange(4, dtype=np.float32).tobytes()})
    start, length, count = len(data), int.from_bytes(data[-10:-6], "little"), int.from_bytes(data[-14:-12], "little")
    offset = int.from_bytes(data[-6:-2], "little")
    import struct

    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, offset)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start - 22, 1)
    wide.write_bytes(data[:-22] + record + locator + data[-22:])
    assert torch.equal(read_pt(wide)["a"], torch.arange(4.0))


ATTACKS = dict(hostile.safetensors_attacks())


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_safetensors(name, tmp_path):
    # kills: header-not-limited, safetensors-nan
    import time

    file = tmp_path / f"{name}.safetensors"
    file.write_bytes(ATTACKS[name]())
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        read_safetensors(file)
    assert time.process_time() - start < 50 * unit()
    assert str(caught.value).startswith(f"{file}: ") and len(str(caught.value)) <= 300 + len(str(tmp_path))


def test_safetensors_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for file, says in (
        (tmp_path, "not a regular file"),
        (tmp_path / "fifo", "regular file"),
        (tmp_path / "x", "No such"),
    ):
        with pytest.raises(UserError, match=says):
            read_safetensors(file)


def test_a_short_header_of_too_many_tensors_is_refused(tmp_path):
    """One whose entries are as short as can be, so that its length does not tell."""
    header = b"{" + b",".join(b'"%x":0' % i for i in range(tensors.MAX_TENSORS + 1)) + b"}"
    assert len(header) <= tensors.MAX_HEADER
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match=f"more than {tensors.MAX_TENSORS} tensors"):
        read_safetensors(tmp_path / "a.safetensors")


def test_weights_that_are_not_finite_are_refused():
    network = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="run: 'bias' holds numbers that are not finite"):
        load_weights(network, network.state_dict() | {"bias": torch.tensor([1.0, float("nan")])}, "run")


# An official checkpoint.

TINY = {"channels": 16, "channel_mult": [1, 2], "blocks_per_level": 1, "head_channels": 8}


def settings(condition=0):
    options = [f"network.{key}={value}" for key, value in TINY.items()]
    return ["network.name=unet", *options, f"network.condition_channels={condition}", "data.size=32"]


def official(condition=0, seed=0):
    """A network, and the checkpoint of it that the official code would save."""
    torch.manual_seed(seed)
    network = UNet(condition_channels=condition, **TINY)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5)
    network(torch.zeros(1, 3 + condition, 32, 32), torch.zeros(1)).sum().backward() if not condition else None
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000, 0.99)
    average = [parameter.detach() * 0.5 for parameter in network.parameters()]
    stored = {
        "net": OrderedDict((f"diffusion_model.{name}", value) for name, value in network.state_dict().items()),
        "ema": {"decay": 0.99, "num_updates": 3, "shadow_params": average, "collected_params": None},
        "optimizer": optimizer.state_dict(),
        "sched": scheduler.state_dict(),
    }
    return network, stored


@pytest.mark.parametrize(("name", "process"), [("jpeg-5", "official-grid"), ("inpaint-center", "official-grid-ode")])
def test_an_official_checkpoint_comes_in(name, process, tmp_path):
    """Names lose their prefix, the average takes the names of the parameters in order, and the schedule is theirs."""
    # kills: average-is-the-network, released-without-its-grid
    network, stored = official()
    torch.save(stored, tmp_path / "latest.pt")
    (tmp_path / "options.pkl").write_bytes(pickled(Call(open, str(tmp_path / "canary"), "w")))
    recipe = load_recipe(name, settings(), released)
    import_i2sb(tmp_path / "latest.pt", recipe, tmp_path / "run")
    run = load_run(tmp_path / "run", device="cpu")
    assert run.recipe.process["name"] == process and run.recipe.sample.grid == "official"
    assert run.recipe.process["beta_max"] == (0.3 if name == "jpeg-5" else 1.0)
    assert max(run.recipe.evaluate.nfe) == 999
    for (_, ours), theirs in zip(run.method.network.named_parameters(), stored["ema"]["shadow_params"], strict=True):
        assert torch.equal(ours, theirs)
    from i2i_bridge.runs.checkpoint import latest_checkpoint

    kept = latest_checkpoint(tmp_path / "run" / "checkpoints")[0].tensors("network")
    assert all(torch.equal(kept[key], value) for key, value in network.state_dict().items())
    batch = {"x_1": torch.rand(1, 3, 32, 32), "mask": torch.ones(1, 1, 32, 32)}
    draws = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    first, second = (run.restore_batch(batch, nfe=3, generator=draw) for draw in draws)
    assert torch.equal(first, second) == (process == "official-grid-ode")  # without noise, no draw counts
    assert not (tmp_path / "canary").exists()


def test_the_golden_official_checkpoint(golden, tmp_path):
    """A file that the official code itself wrote."""
    tiny = ["network.name=unet", "network.channels=32", "network.channel_mult=[1, 2, 2]", "network.blocks_per_level=1"]
    tiny += ["network.attention_factors=[2, 4]", "network.head_channels=16", "data.size=64"]
    file = golden / "tiny_ckpt" / "latest.pt"
    stored = torch.load(file, weights_only=True)
    condition = stored["net"]["diffusion_model.input_blocks.0.0.weight"].shape[1] - 3
    recipe = load_recipe("jpeg-5", [*tiny, f"network.condition_channels={condition}"], released)
    import_i2sb(file, recipe, tmp_path / "run")
    run = load_run(tmp_path / "run", device="cpu")
    for ours, theirs in zip(run.method.network.parameters(), stored["ema"]["shadow_params"], strict=True):
        assert torch.equal(ours, theirs)


def test_official_checkpoints_that_are_refused(tmp_path):
    _, stored = official()
    recipe = load_recipe("jpeg-5", settings(), released)

    def refused(content, says, recipe=recipe):
        torch.save(content, tmp_path / "latest.pt")
        with pytest.raises(UserError, match=says) as caught:
            import_i2sb(tmp_path / "latest.pt", recipe, tmp_path / "run")
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()

    short = stored["ema"] | {"shadow_params": stored["ema"]["shadow_params"][:-1]}
    refused(stored | {"ema": short}, "moving average has .* they must agree")
    refused(stored | {"ema": {"shadow_params": [1]}}, "official I2SB code")
    refused({"net": stored["net"]}, "official I2SB code")
    refused(stored | {"net": {}}, "official I2SB code")
    renamed = {name.removeprefix("diffusion_model."): value for name, value in stored["net"].items()}
    refused(stored | {"net": renamed}, "do not begin with 'diffusion_model.'")
    refused(official(condition=3)[1], "latest.pt: 'input_blocks.0.0.weight' is .* the recipe's network has")
    refused(stored, "not how the official checkpoints were trained", load_recipe("jpeg-5", settings()))
    refused(
        stored,
        "not how the official checkpoints were trained",
        load_recipe("jpeg-5", [*settings(), "process.name=flow", "target.name=velocity"], released),
    )


def test_released_checkpoints_keep_their_rate():
    """The released code trains I2SB with beta_max = 0.3 and OT-ODE with 1.0; a rate that the recipe names stays."""
    # kills: ot-ode-released-with-0.3
    for name, theirs, beta_max in (("i2sb", "official-grid", 0.3), ("ot-ode", "official-grid-ode", 1.0)):
        assert released({"process": {"name": name}}, frozenset())["process"] == {"name": theirs, "beta_max": beta_max}
        given = released({"process": {"name": name, "beta_max": 0.6}}, frozenset())
        assert given["process"] == {"name": theirs, "beta_max": 0.6}
    assert released({}, frozenset())["process"] == {"name": "official-grid", "beta_max": 0.3}


def test_a_setting_of_the_user_is_taken_or_refused_when_a_released_checkpoint_comes_in():
    # kills: released-drops-beta-min, released-refuses-ot-ode
    for value in ("ot-ode", '"ot-ode"', "official-grid-ode"):
        chosen = released_settings([f"process.name={value}", "process.beta_max=0.7", "sample.nfe=5"])
        recipe = load_recipe("jpeg-5", chosen, released)
        assert recipe.process == {"name": "official-grid-ode", "beta_max": 0.7}
        assert (recipe.sample.grid, recipe.sample.nfe) == ("official", 5)
    table = {"process": {"name": "i2sb", "beta_min": 0.1}}
    assert released(table, frozenset())["process"] == {"name": "official-grid", "beta_max": 0.3}
    # The released grid has one rate at its ends: another one is refused, and not left out.
    table = load_recipe("jpeg-5").model_dump(mode="json") | {"process": {"name": "i2sb", "beta_min": 0.2}}
    with pytest.raises(UserError, match="unknown key 'beta_min'"):
        parse_recipe(released(table, frozenset()), "x")


def test_released_leaves_a_table_that_it_does_not_know():
    for table in ({"process": 3}, {"process": {"name": "flow"}}):
        assert released(table, frozenset()) == table
    changed = released({"sample": 1, "evaluate": {"nfe": [1000, "x"]}}, frozenset())
    assert changed["process"] == {"name": "official-grid", "beta_max": 0.3} and changed["evaluate"]["nfe"] == [999, "x"]


def test_the_verb(tmp_path, capsys):
    torch.save(official()[1], tmp_path / "latest.pt")

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code, capsys.readouterr()

    words = ["import", "i2sb", tmp_path / "latest.pt", *settings(), "--recipe", "jpeg-5", "--out", tmp_path / "run"]
    code, said = call(*words)
    assert code == 0 and "wrote" in said.out, said.err
    code, said = call(*words)
    assert code == 2 and "holds a run already" in said.err and said.err.count("\n") == 1


# A run folder of a stranger: its manifest may be consistent, and its contents still not be.


def run_folder(tmp_path):
    recipe = load_recipe("jpeg-5", settings(), released)
    network = recipe.build_network()
    folder = tmp_path / "run"
    save_checkpoint(folder / "checkpoints", 1, {"ema": network.state_dict()}, {}, 2)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    return folder, folder / "checkpoints" / "step-00000001"


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "a/../../b", "", ".", "\0", "x" * 5000])
def test_a_manifest_s_names_stay_in_their_folder(name, tmp_path):
    import json

    folder, step = run_folder(tmp_path)
    manifest = json.loads((step / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (step / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError) as caught:
        load_run(folder, device="cpu")
    assert str(step) in str(caught.value) and "\n" not in str(caught.value)


def test_each_is_refused_in_this_process_too(tmp_path):
    """The steps of the child process: scan and loader raise only `Refused`."""
    for file in hostile.attacks(tmp_path, tmp_path / "canary"):
        with pytest.raises(pt_reader.Refused):
            pt_reader.load(str(file), "state dict", pt_reader.examine(str(file)))
    assert not (tmp_path / "canary").exists()
