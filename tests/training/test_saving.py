"""Training when saves fail, and when it is stopped by a signal."""

import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from faults import Full, disk
from killing import digest, photos, recipe_of

import i2i_bridge.training.preparation as preparation
import i2i_bridge.training.trainer as training
from i2i_bridge.data import loader
from i2i_bridge.errors import UserError
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.training.log import MetricsLog, read_metrics
from i2i_bridge.training.trainer import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


def trained(root, folder, system, **settings):
    lines = []
    with disk(system):
        train(recipe_of(root, **settings), folder, cpu=True, report=lambda event: lines.append(str(event)))
    return [line for line in lines if "not saved" in line]


def test_a_save_that_fails_is_said_and_training_goes_on(root, tmp_path):
    # kills: failures-not-forgiven
    lines = trained(root, tmp_path / "bumpy", Full({1, 3, 4}))
    assert len(lines) == 3 and "No space left on device (need " in lines[0]
    assert lines[0].endswith("; training continues, there is no checkpoint yet")
    assert lines[2].endswith("; training continues, last good step 2")
    train(recipe_of(root), tmp_path / "smooth", cpu=True)
    assert digest(tmp_path / "bumpy") == digest(tmp_path / "smooth")


def test_the_third_failure_in_a_row_ends_the_run(root, tmp_path):
    # kills: failures-forgiven-for-ever
    with pytest.raises(UserError, match=r"Read-only file system; 3 times in a row; last good step 2") as caught:
        trained(root, tmp_path, Full({3, 4, 5, 6}, errno.EROFS))
    assert caught.value.code == 74
    assert latest_checkpoint(tmp_path / "checkpoints")[0].step == 2


def test_a_failure_of_the_last_save_is_an_error(root, tmp_path):
    # kills: last-failure-forgiven
    with pytest.raises(UserError, match=r"No space left .*; last good step 5") as caught:
        trained(root, tmp_path, Full({6}))
    assert caught.value.code == 74


def test_a_folder_that_is_deleted_meanwhile_is_made_again(root, tmp_path):
    def report(event):
        if isinstance(event, training.Progress) and event.step == 3:
            shutil.rmtree(tmp_path / "run")

    train(recipe_of(root), tmp_path / "run", cpu=True, report=report)
    train(recipe_of(root), tmp_path / "whole", cpu=True)
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
    assert (tmp_path / "run" / "recipe.toml").read_text() == (tmp_path / "whole" / "recipe.toml").read_text()


def test_what_a_training_can_do_without_does_not_end_it(root, tmp_path):
    lines = []

    def report(event):
        lines.append(str(event))
        if isinstance(event, training.Progress) and event.step == 1:
            for name in ("metrics.csv", "metrics.jsonl"):
                (tmp_path / name).unlink()
                (tmp_path / name).mkdir()
            (tmp_path / "samples").write_text("")

    train(recipe_of(root, steps=2), tmp_path, cpu=True, report=report)
    assert sum("metrics.jsonl not written (Is a directory); training continues" in line for line in lines) == 1
    assert sum("samples/step-00000002.png not written" in line for line in lines) == 1
    assert latest_checkpoint(tmp_path / "checkpoints")[0].step == 2


def test_room_is_looked_for_before_anything_is_written(root, tmp_path, monkeypatch):
    monkeypatch.setattr("i2i_bridge.runs.checkpoint.free_bytes", lambda folder: 1000)
    with pytest.raises(UserError, match=r"a checkpoint needs .* and 0.001 MB are free"):
        train(recipe_of(root), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def test_a_run_that_began_at_the_same_moment_keeps_its_folder(root, tmp_path, monkeypatch):
    def late(folder, parts):
        (folder / "step-00000001").mkdir(parents=True)

    monkeypatch.setattr(preparation, "check_space", late)
    with pytest.raises(UserError, match="another run has just begun there"):
        train(recipe_of(root), tmp_path / "run", cpu=True)


def started(root, folder, **settings):
    """The command in a fork; its process id, once it has saved something."""
    file = folder.with_suffix(".toml")
    file.write_text(recipe_of(root, workers=2, **settings).to_toml())
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, which the command keeps
        out = os.open(folder.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)  # not the one that pytest keeps
        code = 1
        try:
            from i2i_bridge.cli.command import main

            main(["train", str(file), "--out", str(folder), "--device", "cpu"])
        except SystemExit as ended:
            code = ended.code
        finally:
            os._exit(code)
    return pid


def until(condition):
    """Wait for a condition that another process fulfils, without a time limit."""
    while not condition():
        time.sleep(0.02)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_to_every_process_of_a_job_saves_and_the_same_command_goes_on(root, tmp_path, name):
    """As a scheduler sends it, to the workers as well; they do not care, and are gone in the end.

    kills: workers-heed-signals
    """
    number, folder = getattr(signal, name), tmp_path / "run"
    pid = started(root, folder, steps=10**6, save_every=10**6)  # it does not end before the signal comes
    metrics = folder / "metrics.csv"

    def rows():
        return metrics.read_text().count("\n") if metrics.exists() else 0

    def ended():
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    until(lambda: rows() > 4)  # each worker has given a batch
    workers = children(pid)
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker, number)
    first = rows()
    # Longer than the batches that were loaded before: a dead worker would end the run meanwhile.
    until(lambda: rows() > first + 20 or ended())
    assert not ended(), folder.with_suffix(".txt").read_text()
    os.kill(pid, number)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    said = folder.with_suffix(".txt").read_text()
    assert said.count("stopping after this step") == 1 and "run the same command again to resume" in said, said
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    step = latest_checkpoint(folder / "checkpoints")[0].step
    assert 0 < step < 10**6
    lines = []
    recipe = recipe_of(root, steps=step + 1)
    train(recipe, folder, cpu=True, report=lambda event: lines.append(str(event)))
    assert f"at step {step} of" in lines[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_signal_to_a_worker_that_has_just_been_forked_does_nothing(root, tmp_path, monkeypatch):
    """kills: forked-worker-stops-the-run"""
    init_worker = loader._init_worker

    def late(worker):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)  # the second one would end it
        init_worker(worker)

    monkeypatch.setattr(loader, "_init_worker", late)
    pid = started(root, tmp_path / "run", steps=3)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = (tmp_path / "run.txt").read_text()
    assert code == 0 and "stopping after this step" not in said, said


def test_the_second_signal_ends_at_once(root, tmp_path, monkeypatch):
    """kills: second-signal-waits"""
    folder = tmp_path / "run"
    plain = training.training_step

    def slow(state, *rest):
        while state.step == 3:
            time.sleep(1)
        return plain(state, *rest)

    monkeypatch.setattr(training, "training_step", slow)
    pid = started(root, folder)
    until(lambda: (folder / "checkpoints" / "step-00000003").exists())
    os.kill(pid, signal.SIGTERM)
    until(lambda: "stopping after this step" in folder.with_suffix(".txt").read_text())
    os.kill(pid, signal.SIGTERM)  # the step never ends
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGTERM
    assert latest_checkpoint(folder / "checkpoints")[0].step == 3


def test_a_worker_that_is_stuck_is_reaped(root, monkeypatch):
    """A reader that ignores signals, as workers do, and blocks on a file."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # of the two waits for it to end
    from i2i_bridge.data.loader import training_batches

    data = recipe_of(root).build_dataset("train")
    plain = data._item

    def stuck(item, draw):
        while draw[0] >= 8:
            time.sleep(1)
        return plain(item, draw)

    data._item = stuck
    batches = training_batches(data, 4, workers=1)
    next(batches)
    batches.close()
    assert not [pid for pid in children(os.getpid()) if _is_worker(pid)]


def _is_worker(pid):
    return "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]


def test_a_line_that_a_crash_cut_off_is_written_again(tmp_path):
    for step in (1, 2, 3):
        MetricsLog(tmp_path, after_step=step).write({"step": step, "loss": 0.5})
    for name, cut in (("metrics.jsonl", '{"step": 4, "lo'), ("metrics.csv", "4,0.")):
        with (tmp_path / name).open("a") as stream:
            stream.write(("7\n" if name.endswith("l") else "") + cut)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    MetricsLog(tmp_path, after_step=2).write({"step": 3, "loss": 0.25})
    assert read_metrics(tmp_path)[-1] == {"step": 3, "loss": 0.25} and len(read_metrics(tmp_path)) == 3
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss", "1,0.5", "2,0.5", "3,0.25"]
    MetricsLog(tmp_path, after_step=0).write({"step": 1, "loss": 0.125})
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["step,loss", "1,0.125"]
    MetricsLog(tmp_path, after_step=0, writes=False).write({"step": 1})
    assert len(read_metrics(tmp_path)) == 1


def test_values_stand_under_their_names_after_another_keep_best(tmp_path):
    # kills: csv-by-position
    MetricsLog(tmp_path, after_step=0).write({"step": 1, "validation_psnr": 20.0})
    MetricsLog(tmp_path, after_step=1, columns=["validation_ssim"]).write({"step": 2, "validation_ssim": 0.5})
    lines = ["step,validation_psnr,validation_ssim", "1,20.0,", "2,,0.5"]
    assert (tmp_path / "metrics.csv").read_text().splitlines() == lines
    MetricsLog(tmp_path, after_step=2).write({"step": 3})
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [*lines, "3,,"]


def test_files_written_by_a_killed_start_are_swept(root, tmp_path):
    # kills: leftovers-stay
    train(recipe_of(root, steps=1), tmp_path, cpu=True)
    (tmp_path / "checkpoints" / ".tmp-step-00000002-99").mkdir()
    for file in (tmp_path / ".recipe.toml.99.part", tmp_path / "samples" / ".a.png.99.part"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("half")
    train(recipe_of(root, steps=2), tmp_path, cpu=True)
    left = [path.name for path in tmp_path.rglob(".*") if path.name != ".lock"]
    assert left == []


@pytest.mark.parametrize("name", ["recipe.toml", "metrics.csv", "metrics.jsonl", "best.json", "samples/step-1.png"])
def test_a_new_run_writes_over_no_file_of_a_user(root, tmp_path, name):
    """kills: recipe-of-a-user-replaced, log-of-a-user-replaced

    A recipe.toml with comments, from which one trains into its own folder, and a log by another program.
    """
    recipe = recipe_of(root, steps=1)
    own = {"recipe.toml": recipe.to_toml() + "# a comment\n"}.get(name, "mine")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(own)
    with pytest.raises(UserError, match=f"{name}.*choose another --out"):
        train(recipe, tmp_path, cpu=True)
    assert (tmp_path / name).read_text() == own
    (tmp_path / name).unlink()
    train(recipe, tmp_path, cpu=True)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_start_that_was_killed_before_its_first_checkpoint_starts_anew(root, tmp_path, steps):
    train(recipe_of(root, steps=1), tmp_path, cpu=True)
    shutil.rmtree(tmp_path / "checkpoints")
    train(recipe_of(root, steps=steps), tmp_path, cpu=True)
    assert latest_checkpoint(tmp_path / "checkpoints")[0].step == steps
