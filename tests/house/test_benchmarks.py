"""The benchmarks run; what they measure is for `make bench`."""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import interpreter
import pytest
import torch

from i2i_bridge.degradations.contract import check_degradation
from i2i_bridge.metrics.packaged import EFFICIENTNET_LITE0, ST_LPIPS_ALEX

ROOT = Path(__file__).parents[2]


def run(folder, script, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return interpreter.python(str(ROOT / "tests" / "benchmarks" / script), *options, cwd=folder, env=environment)


def test_the_gpu_script_runs_dry(tmp_path):
    # kills: a case that breaks only where a GPU is lent; a training that counts no FLOPs
    pytest.importorskip("diffusers", reason="of the extra `bench`")
    done = run(tmp_path, "gpu.py", "--dry-run")
    assert done.returncode == 0, done.stderr[-2000:]
    tables = json.loads((tmp_path / "runs" / "bench" / "gpu.json").read_text())
    beside = {"ours", "ours, torch's norms", "ours, cuDNN by trial", "diffusers", "diffusers, channels_last"}
    assert {row["case"] for row in tables["16 x 16, training"]} == beside | {"ours, checkpointing"}
    sampling = tables["16 x 16, sampling, ms per NFE of a batch"]
    assert {row["case"] for row in sampling} == beside and {row["batch"] for row in sampling} == {1, 2}
    assert all(row["images/s"] > 0 and row["MFU, %"] > 0 for row in sampling)
    assert tables["network"][0]["parameters, M"] == pytest.approx(0.827491)


def test_the_twins_are_one_network():
    """diffusers' UNet2DModel with our weights answers what ours answers: an independent implementation of ADM."""
    # kills: heads-inside-qkv, doubled-kernel-mirrored, scale-without-one
    pytest.importorskip("diffusers", reason="of the extra `bench`")
    code = (
        "import torch, twins\n"
        "mine = twins.ours(twins.TINY).eval(); yours = twins.theirs(twins.TINY, 16, mine).eval()\n"
        "x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.9])\n"
        "with torch.inference_mode(): a, b = mine(x, t), yours(x, t)\n"
        "print((a - b).abs().max().item(), a.std().item())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "benchmarks")])}
    done = interpreter.python("-c", code, env=environment)
    apart, spread = map(float, done.stdout.split())
    assert apart < 1e-4 < 0.1 < spread


WEIGHED = EFFICIENTNET_LITE0.file() is not None and ST_LPIPS_ALEX.file() is not None
"""Whether the extra `metrics` is installed."""


def evidence():
    """The script as a module; its degradation is registered as a plug-in's would be."""
    spec = importlib.util.spec_from_file_location("gpu_evidence", ROOT / "tests" / "benchmarks" / "gpu_evidence.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_evidence"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_evidence(tmp_path, monkeypatch, capsys):
    """Runs the script here, where its libraries are; its exit code and output."""
    script, numbers = evidence(), (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    monkeypatch.chdir(tmp_path)

    def run(*options):
        # It counts its minutes from the start of the process, that of all tests.
        monkeypatch.setattr(sys, "argv", ["gpu_evidence.py", "--dry-run", "--minutes", "10000", *options])
        return script.main(), capsys.readouterr()

    yield run
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def test_the_evidence_script_runs_dry(tmp_path, run_evidence):
    # kills: a row, loss or measure that breaks only where a GPU is lent
    # Both tasks with some rows, then the others on one task: those of the script, and some that run only where named.
    one_call = ["regression", "pix2pix"]
    code, said = run_evidence("--out", "out", "--rows", *one_call, "i2sb", "--commit", "abc")
    assert code == 0, said
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["about"]["commit"] == "abc" and not found["about"]["stopped"]
    rows = {(row["task"], row["row"]): row for row in found["rows"]}
    assert rows.keys() == {(task, row) for task in ("inpaint", "edges") for row in ("input", *one_call, "i2sb")}
    for (task, name), row in rows.items():
        if name == "input":
            continue
        assert row["steps"] == 2 and "failed" not in row, (task, name)
        assert row["nfe"].keys() == ({"1"} if name in one_call else {"1", "2"})
        for halves in row["nfe"].values():
            assert {"psnr"} | ({"kid", "st_lpips"} if WEIGHED else set()) == halves["report"].keys()
            assert ("report minus regression" in halves) == (name != "regression")
        assert len(row["curve"]) == (name in ("regression", "i2sb"))
    assert said.out.splitlines()[-1].startswith("| edges | i2sb |")
    kept = list((tmp_path / "out").glob("*.safetensors"))
    assert {file.name.partition("-")[0] for file in kept} == {"inpaint", "edges"}
    assert sum(file.stat().st_size for file in kept) <= 16_000_000
    assert (tmp_path / "out" / "sheet.png").is_file()
    weights = next(file for file in kept if file.name.startswith("inpaint-"))
    students = {name: {"method": {"name": name}} for name in ("consistency", "inverse-bridge")}
    # A row that starts from weights and hardly moves gives what they give.
    started = {"started": {"train": {"init": str(weights), "lr": 1e-12}}}
    left = [row for row in sys.modules["gpu_evidence"].ROWS if row not in (*one_call, "i2sb")]
    asked = [*left, *students, *started, "cdsb", "two-stages"]
    options = ["--tasks", "inpaint", "--rows", *asked, "teacher", "--curve", "curriculum"]
    options += ["--more-rows", json.dumps(students | started), "--teacher", str(weights)]
    code, said = run_evidence("--out", "few", *options)
    assert code == (0 if WEIGHED else 1), said
    _, teacher, *rows = json.loads((tmp_path / "few" / "results.json").read_text())["rows"]
    assert "failed" not in teacher and "steps" not in teacher
    assert {row["row"] for row in rows} == set(asked) and len(left) == 4
    for row in rows:
        if row["row"] == "curriculum-perceptual" and not WEIGHED:
            assert "metrics" in row["failed"]
            continue
        assert row["steps"] == 2 and "failed" not in row, row
        assert len(row.get("curve", [])) == (row["row"] == "curriculum")
        assert ("first stage" in row) == (row["row"] == "two-stages")
        if row["row"] == "started":
            psnr = [answer["nfe"]["2"]["report"]["psnr"][0] for answer in (row, teacher)]
            assert psnr[0] == pytest.approx(psnr[1], abs=1e-3)
        assert {f"report minus teacher, NFE {nfe}" for nfe in (1, 2)} <= row["nfe"]["1"].keys()


def test_the_cost_of_cdsb_runs_small(tmp_path, monkeypatch):
    # kills: a row of the script that breaks
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    import cdsb

    weighed = []

    def weigh(command, **options):
        """The memory of the first row stands for all."""
        if not weighed:
            weighed.append(interpreter.Subprocess.run(command))
        return weighed[0]

    monkeypatch.setattr(cdsb, "subprocess", SimpleNamespace(run=weigh))
    monkeypatch.setattr(sys, "argv", ["cdsb.py", "--tiny", "--rounds", "1"])
    cdsb.main()
    (_, (*rows,)) = json.loads((tmp_path / "runs" / "bench" / "cdsb.json").read_text()).values()
    cost = {row["step"]: row["times the bridge"] for row in rows}
    assert list(cost) == ["bridge", "half 0", "forward half", "backward half"]
    assert all(row["MB"] >= 0 for row in rows)  # less than the imports left behind may not show


def test_the_evidence_script_outlives_a_row_and_a_stop(tmp_path):
    # kills: a failed row that ends the run; SIGTERM that loses what was measured
    broken = {"broken": {"process": {"name": "brownian"}, "target": {"name": "eps"}}}
    options = ["--dry-run", "--tasks", "jpeg10", "--rows", "broken", "i2sb", "--more-rows", json.dumps(broken)]
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "gpu_evidence.py"), *options, "--steps", "1000000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "jpeg10 i2sb begins" in line:
                process.terminate()
        assert process.wait() == 1
    found = json.loads((tmp_path / "runs" / "evidence" / "results.json").read_text())
    given, first, second = found["rows"]
    assert found["about"]["stopped"] and given["nfe"]["1"]["report"]["psnr"][0] > 0
    assert "'eps' is 0/0" in first["failed"]
    assert second["cut short"] and second["nfe"] == {}


def test_the_evidence_script_packs_the_weights_that_python_then_finds(tmp_path):
    # kills: weights without the metadata that their package is found by
    if not WEIGHED:
        pytest.skip("of the extra `metrics`")
    assert run(tmp_path, "gpu_evidence.py", "--pack", "packed").returncode == 0
    code = (
        "from i2i_bridge.metrics.packaged import EFFICIENTNET_LITE0, ST_LPIPS_ALEX\n"
        "print(EFFICIENTNET_LITE0.file(), ST_LPIPS_ALEX.file(), sep='\\n')"
    )
    places = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "packed"), str(ROOT)])}
    done = interpreter.python("-c", code, env=places)
    assert all(Path(line).is_relative_to(tmp_path / "packed") for line in done.stdout.split())
    assert sum(file.stat().st_size for file in (tmp_path / "packed").rglob("*")) < 30_000_000


def test_the_parts_of_the_evidence_script(rng, monkeypatch):
    # kills: figures of the half that was selected on; a clock that runs while a row is measured
    script = evidence()
    assert check_degradation(script.Edges()) == []

    now = [0.0]
    monkeypatch.setattr(script, "time", SimpleNamespace(process_time=lambda: now[0]))
    budget = script.Budget(10.0, None, lambda: None, cuda=False)
    now[0] = 2.0
    with budget.paused():
        now[0] = 100.0
    now[0] = 103.0
    assert budget.share(1) == pytest.approx(0.5)

    judge = script.Judge(script.pixels(torch.randint(0, 254, (9, 3, 32, 32), generator=rng)), 0)
    selection, report = judge.halves["selection"], judge.halves["report"]
    assert sorted([*selection, *report]) == list(range(9)) and abs(len(selection) - len(report)) == 1
    two, one = (judge.marks(judge.truth + codes / 127.5) for codes in (2, 1))
    table = script.settled(judge.table(two, {"one": one}, judge.halves))
    assert table.keys() == {"selection", "report", "report minus one"}
    assert table["report"]["psnr"] == pytest.approx([20 * math.log10(255 / 2), 0], abs=1e-4)
    assert table["report minus one"]["psnr"] == pytest.approx([-20 * math.log10(2), 0], abs=1e-4)
