"""Training in several processes (forks connected by gloo): same gradients as one process, and a common end."""

import itertools
import json
import math
import os
import shutil
import signal
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from forking import together
from killing import digest, photos, recipe_of

import i2i_bridge.training.trainer as training
from i2i_bridge import load_run
from i2i_bridge.cli.command import main
from i2i_bridge.distributed import Ranks, check_devices, processes
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.storage.lock import locked
from i2i_bridge.training import step as stepping
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step
from i2i_bridge.training.trainer import train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


def plain(root, **settings):
    """The recipe without dropout, whose draws depend on the number of processes."""
    recipe = recipe_of(root, **settings)
    return recipe.model_copy(update={"network": recipe.network | {"dropout": 0.0}})


def gradients(recipe, dtype, rank, count):
    """The gradients of one step, of a batch shared by `count` processes."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == count
    state = TrainState(recipe, torch.device("cpu"))
    state.network.to(dtype)
    data, share = recipe.build_dataset("train"), 4 // count
    items = [data.sample(rank * share + n) for n in range(share)]
    batch = {name: torch.stack([item[name] for item in items]).to(dtype) for name in ("x_0", "x_1")}
    seen = {}

    def update(lr, name="network"):
        seen.update({key: p.grad.contiguous() for key, p in state.modules[name].named_parameters()})
        return torch.zeros(())

    state.update = update
    state.end_step = lambda: None
    training_step(state, batch, accelerator, torch.float32)  # float32: no autocast
    return seen


@pytest.mark.parametrize(
    ("dtype", "tolerance", "bucket"), [(torch.float32, 1e-5, stepping.BUCKET), (torch.float64, 1e-12, 500)]
)
def test_two_processes_have_the_gradient_of_one(root, tmp_path, monkeypatch, dtype, tolerance, bucket):
    """kills: gradients-not-shared, last-bucket-dropped; gradients of a bucket exchanged"""
    from safetensors.torch import load_file, save_file

    monkeypatch.setattr(stepping, "BUCKET", bucket)
    recipe = plain(root)
    one = gradients(recipe, dtype, 0, 1)
    ended = together(2, lambda rank: save_file(gradients(recipe, dtype, rank, 2), tmp_path / f"{rank}"), tmp_path)
    assert [process.code for process in ended] == [0, 0], ended
    scale = max(float(value.abs().max()) for value in one.values())
    for rank in range(2):
        two = load_file(tmp_path / f"{rank}")
        assert two.keys() == one.keys()
        assert max(float((two[name] - one[name]).abs().max()) for name in one) <= tolerance * scale


def trained_by(count, recipe, folder, log, **more):
    ended = together(count, lambda rank: train(recipe, folder, cpu=True, **more) and None, log)
    assert [process.code for process in ended] == [0] * count, ended


def test_the_number_of_processes_may_change_on_the_way(root, tmp_path):
    """2 processes, then 1, then 2: the same samples, times and noise, so the same weights up to the order of sums."""
    for count, steps in ((2, 2), (1, 4), (2, 6)):
        trained_by(count, plain(root, steps=steps, schedule="constant"), tmp_path / "parts", tmp_path / f"log-{steps}")
    train(plain(root, steps=6, schedule="constant"), tmp_path / "whole", cpu=True)
    whole, parts = (latest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("whole", "parts"))
    assert parts.step == 6 and parts.state["machine"]["processes"] == "2"
    said = (tmp_path / "log-6" / "rank-0.txt").read_text()
    a, b = (torch.cat([x.flatten() for x in found.tensors("network").values()]) for found in (whole, parts))
    # Adam's first steps turn a rounding of a zero gradient into a full step: most weights agree closely, all roughly.
    assert float((a - b).abs().median()) < 1e-6 and float((a - b).abs().max()) < 0.02, said


def test_one_process_that_is_asked_to_stop_stops_both(root, tmp_path):
    def work(rank):
        asked = iter([False, rank == 1, False, False])
        done = train(plain(root, steps=50), tmp_path / "run", cpu=True, stop=lambda: next(asked))
        return 75 if (done.step, done.finished) == (2, False) else 1

    assert [process.code for process in together(2, work, tmp_path)] == [75, 75]


def test_what_one_process_cannot_count_all_skip(root, tmp_path):
    """kills: loss-not-shown"""

    def work(rank):
        step = training.training_step

        def spoiled(state, batch, *rest):
            if rank == 1 and state.step == 1:
                batch["x_0"][0, 0, 0, 0] = math.nan
            return step(state, batch, *rest)

        training.training_step = spoiled
        train(plain(root, steps=3), tmp_path / "run", cpu=True, report=lambda event: print(event, flush=True))

    ended = together(2, work, tmp_path)
    assert [process.code for process in ended] == [0, 0], ended
    assert "step 2 skipped" in ended[0].said and "skipped" not in ended[1].said
    found, _ = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert found.state["skipped"] == 1 and digest(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"lr": 0.1}, "process 1 differs from process 0: learning rate"),
        ({"seed": 3}, "process 1 differs from process 0: settings"),
        ({"batch_size": 5}, "process 1: train.batch_size 5 cannot be shared by 2 processes"),
    ],
)
def test_processes_that_were_started_otherwise_end_at_once(root, tmp_path, change, part):
    # kills: ranks-not-compared
    def work(rank):
        train(plain(root, **(change if rank else {})), tmp_path / "run", cpu=True)

    ended = together(2, work, tmp_path)
    assert [process.code for process in ended] == [2, 2], ended
    assert part in ended[0].said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_other_data_in_one_process_are_noticed(root, tmp_path):
    other = photos(tmp_path / "other")
    (other / "clean" / "train" / "00.png").rename(other / "clean" / "train" / "99.png")

    def work(rank):
        os.chdir(other if rank else root)
        recipe = plain(root)
        data = recipe.data.model_copy(update={"root": "clean"})
        train(recipe.model_copy(update={"data": data}), tmp_path / "run", cpu=True)

    ended = together(2, work, tmp_path)
    assert [process.code for process in ended] == [2, 2] and "differs from process 0: images 12 (" in ended[1].said


def test_a_held_folder_refuses_all_processes(root, tmp_path):
    with locked(tmp_path / "run"):
        ended = together(2, lambda rank: train(plain(root), tmp_path / "run", cpu=True) and None, tmp_path)
    assert [process.code for process in ended] == [2, 2]
    assert all("another run is writing there" in process.said for process in ended)


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_a_lost_process_ends_the_others_in_time_by_its_name(root, tmp_path, how):
    """kills: lost-rank-not-named, rank-timeout-left-out"""
    lost = tmp_path / "lost"

    def work(rank):
        calls, soak = itertools.count(1), bool(os.environ.get("I2I_SOAK"))
        patience = 4 if soak else 600

        def stop():
            if next(calls) < 4:  # both processes call it once a step
                return False
            if rank == 0 and how == "hangs" and not soak:
                # Otherwise the other process might take a second on a busy machine, and be alive.
                while not lost.exists():
                    time.sleep(0.01)
                group = torch.distributed.group.WORLD
                assert int(group._get_backend(torch.device("cpu")).options._timeout.total_seconds()) == patience
                torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1), group)
            if rank == 1:
                lost.write_text(str(time.time()))
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                while True:
                    time.sleep(1)
            return False

        try:
            train(plain(root, steps=10**6, rank_timeout=patience), tmp_path / "run", cpu=True, stop=stop)
        finally:
            print(f"{time.time() - float(lost.read_text()):.1f} s after", flush=True)

    ended = together(2, work, tmp_path, hangs=1)
    assert ended[1].code == (-signal.SIGKILL if how == "killed" else None), ended
    assert ended[0].code == 2 and "process 1 ended, or did not answer in time" in ended[0].said, ended
    if os.environ.get("I2I_SOAK"):  # elsewhere the clock on the wall says nothing
        assert float(ended[0].said.split(" s after")[0].split()[-1]) < 4 + 5, ended[0].said
    assert latest_checkpoint(tmp_path / "run" / "checkpoints")[0].step >= 2


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    """Otherwise each process would train alone, in the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    class Alone:
        process_index, num_processes = 0, 1

    with pytest.raises(UserError, match="2 processes were started, but they do not see each other"):
        Ranks(Alone()).check_all_here()
    monkeypatch.delenv("WORLD_SIZE")
    Ranks(Alone()).check_all_here()


def test_a_launcher_that_accelerate_does_not_see_is_refused(monkeypatch):
    """Otherwise each process of an evaluation would do all of it."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", lambda **options: SimpleNamespace(num_processes=1, process_index=0))
    with pytest.raises(UserError, match="2 processes were started, but accelerate sees 1"):
        processes()


def test_more_processes_than_devices_are_refused(monkeypatch):
    """kills: two-processes-on-one-device"""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_devices()  # none here: then they are processes of the CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for devices in (2, 1):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)  # noqa: B023
        if devices == 2:
            check_devices()
            continue
        with pytest.raises(
            UserError, match=r"2 processes for 1 CUDA device.*torchrun --nproc_per_node=1.*--device cpu"
        ):
            check_devices()


def test_an_image_that_breaks_late_ends_all_processes_with_a_save(root, tmp_path):
    """An error on rank 1 ends all ranks; with "skip", rank 0 lists the samples skipped by rank 1."""
    own = photos(tmp_path / "own")
    number = 10  # of step 3: the third of four samples, so the second process reads it
    file = own / "clean" / "train" / plain(own).build_dataset("train").key_of(number)
    whole = file.read_bytes()

    def work(rank, on_error="stop"):
        def stop():
            if rank == 1:
                file.write_bytes(whole[:50])
            return False

        recipe = plain(own, save_every=100)
        data = recipe.data.model_copy(update={"on_error": on_error})
        train(recipe.model_copy(update={"data": data}), tmp_path / "run", cpu=True, stop=stop)

    first = together(2, work, tmp_path)
    assert [process.code for process in first] == [2, 2], first
    assert latest_checkpoint(tmp_path / "run" / "checkpoints")[0].step == 2
    assert f"{file.name}: not a readable image" in first[1].said and "saved at step 2:" in first[1].said
    assert "process 1: " in first[0].said
    assert [process.code for process in together(2, lambda rank: work(rank, "skip"), tmp_path)] == [0, 0]
    rows = [json.loads(line) for line in (tmp_path / "run" / "unusable-images.jsonl").read_text().splitlines()]
    assert number in [row["sample"] for row in rows] and {row["key"] for row in rows} == {file.name}


def test_other_errors_are_not_blamed_on_processes():
    class Two:
        process_index, num_processes = 0, 2

    ranks = Ranks(Two())
    with pytest.raises(RuntimeError, match="shapes"), ranks.together():
        raise RuntimeError("shapes differ")
    with pytest.raises(UserError, match="another process ended"), ranks.together():
        raise RuntimeError("[gloo] Connection closed by peer")  # and there is no store to ask
    Two.num_processes = 1
    with pytest.raises(RuntimeError, match="gloo"), Ranks(Two()).together():
        raise RuntimeError("gloo")


def digits(folder, count, ranks, log):
    """The numbers of an evaluation of `count` images by `ranks` processes."""

    def work(rank):
        run = load_run(folder, device="cpu")
        evaluate(run, run.recipe.build_dataset("validation"), nfe=[1], metrics=["psnr", "ssim"], count=count)

    shutil.rmtree(folder / "evaluation", ignore_errors=True)
    if ranks == 1:
        work(0)  # here, where what it imports stays for the others
    else:
        ended = together(ranks, work, log)
        assert [process.code for process in ended] == [0] * ranks, ended
    (file,) = (folder / "evaluation").glob("*/evaluation.json")
    rows = json.loads(file.read_text())["rows"]
    table = [line for line in (file.parent / "per_image.csv").read_text().splitlines() if "input" in line]
    assert len(table) == count
    return [(row["name"], row["images"], row["metrics"]) for row in rows]


def test_an_evaluation_has_the_same_digits_by_any_number_of_processes(tmp_path):
    """`make soak` takes 1, 2, 3, 7, 97 and 101 images.

    kills: images-scored-twice
    """
    counts = (1, 2, 3, 7, 97, 101) if os.environ.get("I2I_SOAK") else (1, 3)
    own = photos(tmp_path / "pairs")
    for i in range(3, max(counts)):
        shutil.copy(own / "clean" / "train" / f"{i % 12:02d}.png", own / "clean" / "val" / f"{i:02d}.png")
    recipe = plain(own, steps=1)
    train(recipe, tmp_path / "run", cpu=True)
    for count in counts:
        found = [digits(tmp_path / "run", count, ranks, tmp_path / "log") for ranks in (1, 2, 3)]
        assert found[0] == found[1] == found[2] and found[0][0][1] == count


def test_a_stream_is_the_same_for_any_number_of_processes(root):
    """The sample numbers of a step, shared out: ids, cuts and degradations are functions of these alone."""
    from i2i_bridge.data.loader import _BatchSampler

    def numbers(counts):
        stream = []
        for step, count in enumerate(counts):
            shares = [next(iter(_BatchSampler(12, step, rank, count))) for rank in range(count)]
            stream += [n for share in shares for n in share]
        return stream

    assert numbers([1] * 5) == numbers([2, 1, 2, 3, 4]) == list(range(60))


def test_a_command_that_has_ended_is_in_no_group(tmp_path):
    """Otherwise gloo's threads run on while the interpreter ends, which now and then ends the process by a signal."""
    # kills: group-kept-at-exit
    import torch.distributed as group

    place = f"file://{tmp_path / 'group'}"
    group.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    with pytest.raises(SystemExit) as ended:
        main(["list", "processes"])
    assert ended.value.code == 0 and not group.is_initialized()
