"""The self-test passes on this machine, and fails for each planted fault."""

import json
import os
import subprocess
import sys

import pytest
import torch

from i2i_bridge.cli import selftest
from i2i_bridge.cli.command import main
from i2i_bridge.cli.selftest import run_checks
from i2i_bridge.cli.toy_runs import Bench, Failed, gradient_difference, largest_difference
from i2i_bridge.errors import UserError


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, full=False)


def test_what_is_here_holds(tmp_path, capsys):
    """Every check of the quick level, through the command; nothing is left behind."""
    with pytest.raises(SystemExit) as ended:
        main(["selftest", "--dir", str(tmp_path / "runs"), "--json", str(tmp_path / "found.json")])
    said, errors = capsys.readouterr()
    assert ended.value.code in (0, None), said + errors
    found = json.loads((tmp_path / "found.json").read_text())
    names = [check["name"] for check in found["checks"]]
    assert names == list(selftest.CHECKS)
    assert found["passed"] and all(check["passed"] for check in found["checks"]) and "torch" in found["machine"]
    assert f"{len(names)} of {len(names)} hold" in said and list((tmp_path / "runs").iterdir()) == []


def test_gradients_are_the_first_moments():
    # kills: selftest-compares-weights
    left = {"optimizer/a/exp_avg": torch.full((4,), 2.0), "network/a": torch.zeros(4)}
    right = {"optimizer/a/exp_avg": torch.tensor([2.0, 2.0, 2.0, 2.4]), "network/a": torch.ones(4)}
    assert gradient_difference(left, right) == pytest.approx(0.1) and gradient_difference(left, left) == 0
    assert "gradients of 3 steps differ by" in selftest._compare_gradients(left, left, "x")
    with pytest.raises(Failed, match=r"gradients differ by 1\.0e-01 of their norm"):
        selftest._compare_gradients(left, right, "x")


def test_broken_promises_are_failures(tmp_path, monkeypatch, capsys):
    """Exit code 1, and the table names what failed."""
    # kills: selftest-always-passes

    def breaks(bench):
        raise Failed("a rename did not\nput it there")

    def crashes(bench):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(selftest, "CHECKS", {"flush": breaks, "lock": crashes, "fine": lambda bench: "well"})
    with pytest.raises(SystemExit) as ended:
        main(["selftest", "--dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert ended.value.code == 1 and "1 of 3 hold; not: flush, lock" in said
    assert said.count("FAILED") == 2 and "did not put it there" in said


def test_a_run_that_ends_before_it_is_killed_says_why(tmp_path):
    # kills: selftest-kills-what-has-ended
    class Ending(Bench):
        def start(self, name, *launcher, **settings):
            words = [sys.executable, "-S", "-c", "raise SystemExit('error: no room')"]
            out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            return subprocess.Popen(words, start_new_session=True, **out)

    with pytest.raises(Failed, match="ended after step 0: error: no room"):
        selftest.check_resume(Ending(tmp_path, full=False))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be written"):
        list(run_checks("quick", tmp_path / "file"))


def test_rename_and_flush_are_looked_at(bench, monkeypatch):
    # kills: a self-test of other writes than the runs' own
    monkeypatch.setattr(os, "replace", lambda source, target, **folders: None)
    with pytest.raises((Failed, OSError)):
        selftest.check_flush(bench)


def test_locks_that_do_not_hold(bench, monkeypatch):
    import fcntl

    # kills: a self-test of another lock than the runs' own
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: None)
    with pytest.raises(Failed, match="two processes hold the same lock"):
        selftest.check_lock(bench)
    monkeypatch.setattr(selftest, "LOCKER", "print('not')")
    with pytest.raises(Failed, match="cannot be locked"):
        selftest.check_lock(bench)


def test_a_difference_of_one_bit_is_seen():
    # kills: selftest-rounds
    left = {"a": torch.ones(3), "b": torch.zeros(2)}
    right = {"a": torch.ones(3), "b": torch.zeros(2)}
    assert largest_difference(left, right) == 0
    right["a"].view(torch.int32)[1] ^= 1
    assert largest_difference(left, right) > 0
    with pytest.raises(Failed, match="different tensors"):
        largest_difference(left, {"a": torch.ones(3)})
    with pytest.raises(Failed, match="differ by"):
        selftest._compare(left, right, "x")


def test_a_run_without_a_checkpoint(bench):
    with pytest.raises(Failed, match="no checkpoint"):
        bench.state("none")


def test_the_cause_of_ranks_that_fail_is_named(bench, monkeypatch, capsys):
    # kills: selftest-names-last-line
    start = bench.start
    monkeypatch.setattr(bench, "start", lambda name, *launcher, **settings: start(name, *launcher, batch_size=3))
    with pytest.raises(Failed, match=r"exit code 1: error: train\.batch_size 3 cannot be shared by 2 processes"):
        selftest.check_ranks(bench)
    assert "cannot be shared" in capsys.readouterr().err
    assert selftest._cause("\n") == "no output" and selftest._cause("one\ntwo\n") == "one"
    assert (
        selftest._cause("a note\ntorch.distributed.DistStoreError: gone\n====")
        == "torch.distributed.DistStoreError: gone"
    )


def test_a_process_that_does_not_come_back(bench, monkeypatch):
    monkeypatch.setattr(selftest, "PATIENCE", 0.2)
    process = bench.start("slow")
    with pytest.raises(Failed, match="did not reach its checkpoint"):
        selftest._wait_until(process, lambda: False)
    process.communicate()
    assert process.returncode != 0 and os.name == "posix"


def test_a_verb_that_is_interrupted_says_so(tmp_path, monkeypatch, capsys):
    # kills: interruption-unsaid

    def interrupted(bench):
        raise KeyboardInterrupt

    monkeypatch.setattr(selftest, "CHECKS", {"flush": interrupted})
    with pytest.raises(SystemExit) as ended:
        main(["selftest", "--dir", str(tmp_path)])
    assert ended.value.code == 130 and capsys.readouterr().err.splitlines()[-1] == "error: interrupted"
