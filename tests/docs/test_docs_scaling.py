"""docs/scaling.md: its launch lines, read by the launchers' own parsers, and its SLURM script, run with stand-ins."""

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from killing import photos, recipe_of

from i2i_bridge.errors import UserError
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.training.trainer import train

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith(("torchrun", "accelerate"))
]
(SCRIPT,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("line", LINES)
def test_launch_lines_are_read_by_their_launchers(line):
    program, *words = shlex.split(line, comments=True)
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        given = get_args_parser().parse_args(words)
        started = given.training_script, given.training_script_args[0]
        assert given.standalone or int(given.nnodes) == 2
    else:
        from accelerate.commands.launch import launch_command_parser

        given = launch_command_parser().parse_args(words[1:])
        started = given.training_script, given.training_script_args[0]
        assert given.num_processes >= 2
    assert given.module and started[0] == "i2i_bridge.cli" and started[1] in ("train", "evaluate")


def test_there_are_lines_for_one_machine_and_several():
    assert len(LINES) == 6 and sum("nnodes=2" in line or "num_machines 2" in line for line in LINES) == 2


@pytest.mark.parametrize("variable", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_a_launch_that_would_shard_is_refused(variable, tmp_path, monkeypatch):
    # kills: sharding-ignored
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=r"training shards nothing.*--multi_gpu"):
        train(recipe_of(tmp_path), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def program(folder, name, text):
    file = folder / name
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.mark.skipif(sys.platform == "win32", reason="no bash here")
def test_the_slurm_script_goes_back_into_the_queue_on_75_only(tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(SCRIPT)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    program(tmp_path, "scontrol", f'[ "$1" = show ] && echo node0 && exit; echo "$@" >> {tmp_path / "requeued"}')
    program(tmp_path, "srun", 'echo "$MASTER_ADDR $WORLD_SIZE"; exit "$CODE"')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"}
    for code in (0, 1, 2, 74, 75):
        done = subprocess.run(["bash", script], env=environment | {"CODE": str(code)}, capture_output=True, text=True)
        assert done.returncode == code and done.stdout == "node0 16\n", done.stderr
        assert (tmp_path / "requeued").exists() == (code == 75)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_two_tasks_of_the_slurm_script_train_together(tmp_path):
    """Its `srun` line, by a stand-in that starts two tasks as SLURM does."""
    recipe = recipe_of(photos(tmp_path / "pairs"), steps=2)
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    program(tmp_path, "python", f'exec {sys.executable} "$@" --device cpu')
    task = 'SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & tasks+=($!)'
    program(tmp_path, "srun", f"for i in 0 1; do {task}; done; for t in ${{tasks[@]}}; do wait $t || exit; done")
    program(tmp_path, "scontrol", "echo 127.0.0.1")
    script = tmp_path / "job.sh"
    script.write_text(SCRIPT.replace("restoration/jpeg-5", "r.toml").replace("29500", str(20000 + os.getpid() % 10000)))
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    environment = os.environ | given | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert latest_checkpoint(tmp_path / "runs" / "jpeg" / "checkpoints")[0].step == 2
