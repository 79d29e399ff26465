"""Unusable images, lost data workers and closed output: no training progress is lost."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from killing import digest, forked, photos, recipe_of
from PIL import Image

from i2i_bridge.data import loader
from i2i_bridge.data.check import ItemFacts, read_facts
from i2i_bridge.data.dataset import TRIES, PairDataset
from i2i_bridge.data.loader import LESS_MEMORY, training_batches, worker_problem
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.distributed import Ranks
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.training.guard import UnusableImages
from i2i_bridge.training.trainer import Progress, train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


def file_of(root, number, **settings):
    """The file of training sample `number`."""
    return root / "clean" / "train" / recipe_of(root, **settings).build_dataset("train").key_of(number)


def spoilt(root, folder, *numbers):
    """A copy of the photos in which the files of these samples are truncated."""
    shutil.copytree(root, folder)
    for number in numbers:
        file = file_of(folder, number)
        file.write_bytes(file.read_bytes()[:50])
    return folder


def skipping(root, **settings):
    recipe = recipe_of(root, **settings)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_error": "skip"})})


def at_step(step, act, lines=None):
    """A `report` callback that runs an action once, after a given step."""

    def report(event):
        if lines is not None:
            lines.append(str(event))
        if isinstance(event, Progress) and event.step == step:
            act()

    return report


def interrupt():
    raise KeyboardInterrupt


# Damaged images.


def test_an_image_that_breaks_late_ends_the_run_with_all_its_steps_saved(root, tmp_path):
    """The message names the saved step; after a repair, a resumed run has the bits of an uninterrupted one.

    kills: late-damage-loses-steps
    """
    train(recipe_of(root), tmp_path / "whole", cpu=True)
    own = spoilt(root, tmp_path / "own")
    file = file_of(own, 9)  # of step 3
    whole = file.read_bytes()
    recipe = recipe_of(own, save_every=100)
    with pytest.raises(UserError, match=r"not a readable image .*saved at step 2: repair it") as caught:
        train(recipe, tmp_path / "run", cpu=True, report=at_step(1, lambda: file.write_bytes(whole[:50])))
    assert caught.value.code == 2 and file.name in str(caught.value) and "data.on_error=skip" in str(caught.value)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints")[0].step == 2
    file.write_bytes(whole)
    train(recipe, tmp_path / "run", cpu=True)
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_a_vanished_image_may_be_passed_over_from_the_step_it_stopped_at(root, tmp_path):
    own = spoilt(root, tmp_path / "own")
    gone = file_of(own, 9).unlink
    with pytest.raises(UserError, match="no such file; saved at step 2"):
        train(recipe_of(own), tmp_path / "run", cpu=True, report=at_step(1, gone))
    assert train(skipping(own), tmp_path / "run", cpu=True).step == 6


def test_passed_over_images_are_the_same_for_any_workers_and_interruptions(root, tmp_path):
    """The same bits and the same list; each row names the sample, its image, the reason and the image instead.

    kills: replacement-is-not-keyed, unusable-rows-doubled
    """
    own = spoilt(root, tmp_path / "own", 1, 17)
    lines = []
    train(skipping(own), tmp_path / "whole", cpu=True, report=lambda event: lines.append(str(event)))
    asked = iter([False, True])
    train(skipping(own, workers=2), tmp_path / "parts", cpu=True, stop=lambda: next(asked))
    with pytest.raises(KeyboardInterrupt):  # after step 5 was written down, and before it was saved
        train(skipping(own, save_every=4), tmp_path / "parts", cpu=True, report=at_step(5, interrupt))
    assert latest_checkpoint(tmp_path / "parts" / "checkpoints")[0].step == 4
    train(skipping(own, workers=1), tmp_path / "parts", cpu=True)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    rows, others = (
        [json.loads(line) for line in (tmp_path / name / "unusable-images.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    assert rows == others
    data = skipping(own).build_dataset("train")
    bad = {data._name(data._index(number)) for number in (1, 17)}
    met = [n for n in range(24) if data._name(data._index(n)) in bad]
    assert len(met) >= 2 and sorted({row["sample"] for row in rows}) == met
    for row in rows:
        assert row["key"] in bad and row["step"] == row["sample"] // 4 + 1 and row["instead"] not in bad
        assert row["instead"] == data.sample(row["sample"])["key"] == data.key_of(row["sample"])
        assert "not a readable image" in row["reason"]
    said = [line for line in lines if "unusable images" in line]
    assert said[-1].count(f"{len(rows)} in all, listed in unusable-images.jsonl") == 1
    assert any(file_of(own, number).name in said[0] for number in (1, 17))


def test_a_repaired_image_breaks_the_promise_of_the_same_bits_and_that_is_said(root, tmp_path):
    """kills: repair-not-reported"""
    own = spoilt(root, tmp_path / "own", 1)
    good = (root / "clean" / "train" / file_of(own, 1).name).read_bytes()
    asked = iter([False, True])
    train(skipping(own), tmp_path / "run", cpu=True, stop=lambda: next(asked))
    for repaired in (False, True):
        if repaired:
            file_of(own, 1).write_bytes(good)
        lines = []
        train(skipping(own, steps=2 + repaired, schedule="cosine"), tmp_path / "run", cpu=True,
              report=lambda line: lines.append(str(line)))  # fmt: skip  # noqa: B023
        assert ("1 image that was unusable can be used now" in lines[1]) == repaired, lines


class Source:
    """Thirty items of which none can be read, or all but some."""

    def __init__(self, error, good=()):
        self.error, self.good, self.asked = error, good, []

    def __len__(self):
        return 30

    def __getitem__(self, index):
        if index in self.good:
            return {"key": str(index), "x_0": torch.zeros(3, 16, 16)}
        self.asked.append(index)
        raise self.error

    def dataset(self, on_error="skip"):
        return PairDataset(self, Geometry(16, resize="none"), lambda x, g: None, 3, 0, "train", on_error=on_error)


def test_a_data_set_of_which_nothing_can_be_read_ends_the_run(root):
    """Each other item is tried once, and no more than TRIES of them."""
    source = Source(UserError("broken"))
    with pytest.raises(UserError, match=f"{TRIES} images in a row cannot be used; the last: broken"):
        source.dataset().sample(5)
    tried = source.asked[::2]  # each once more, for its name
    assert len(tried) == len(set(tried)) == TRIES
    with pytest.raises(UserError, match=r"^broken$"):
        source.dataset("stop").sample(5)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_an_error_that_may_pass_is_no_reason_to_train_on_another_image(number):
    """Otherwise the same run would end with other weights when the network drive is available.

    kills: passing-errors-skipped
    """
    error = UserError("a.png: cannot be read")
    error.__cause__ = OSError(number, os.strerror(number))
    with pytest.raises(UserError, match="cannot be read") as caught:
        Source(error).dataset().sample(5)
    assert caught.value.code == 74


def test_a_broken_validation_image_costs_the_sample_picture_only(root, tmp_path):
    own = spoilt(root, tmp_path / "own")
    next((own / "clean" / "val").iterdir()).write_bytes(b"")
    lines = []
    train(recipe_of(own, steps=1), tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    assert sum("step-00000001.png not written" in line and "training continues" in line for line in lines) == 1
    assert latest_checkpoint(tmp_path / "run" / "checkpoints")[0].step == 1


# Data workers.


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, f"a data worker was killed, as a system does that is out of memory; {LESS_MEMORY}"),
        (signal.SIGBUS, "no room in shared memory (/dev/shm)"),
        (signal.SIGSEGV, "ended unexpectedly (SIGSEGV); train.workers=0 shows where"),
    ],
)
def test_a_dead_data_worker_ends_the_run_with_all_its_steps_saved(root, tmp_path, number, says):
    """A worker may end at any moment: here between two steps, while the training waits for no batch.

    kills: dead-worker-is-our-bug
    """
    recipe = recipe_of(root, workers=1, steps=300, save_every=1000)

    def kill():
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, number)

    with pytest.raises(UserError) as caught:
        train(recipe, tmp_path / "run", cpu=True, report=at_step(2, kill))
    assert says in str(caught.value) and caught.value.code == 75, caught.value
    step = latest_checkpoint(tmp_path / "run" / "checkpoints")[0].step
    assert f"saved at step {step}: run the same command again to resume" in str(caught.value) and 2 <= step < 300
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            "was killed, as a system does that is out of memory; x",
        ),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...",
            "no room in shared memory",
        ),
        ("unable to write to file </torch_7_1>: No space left on device (28)", "no room in shared memory"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "a data worker ended unexpectedly"),
        ("Caught RuntimeError in DataLoader worker process 0. shapes differ", None),
    ],
)
def test_what_torch_says_of_its_workers_is_put_into_words(text, says):
    """`worker_problem` also serves `check`, which uses a DataLoader."""
    problem = worker_problem(RuntimeError(text), [], "x")
    assert str(worker_problem(MemoryError(), [], "x")) == "not enough memory to read the images; x"
    assert (problem is None) if says is None else (says in str(problem) and problem.code == 75)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_lack_of_memory_names_the_workers(workers):
    data = Source(MemoryError()).dataset()
    batches = training_batches(data, 2, workers=workers)
    with pytest.raises(UserError, match=r"not enough memory .* lower train.workers") as caught:
        next(batches)
    assert caught.value.code == 75
    batches.close()


def test_a_worker_that_ends_between_two_batches_is_told_at_the_next(root):
    batches = training_batches(recipe_of(root).build_dataset("train"), 2, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with pytest.raises(UserError, match="a data worker was killed") as caught:
        next(batches)
    assert caught.value.code == 75


def test_a_worker_s_end_is_heard_while_a_batch_is_waited_for_alone():
    """Elsewhere torch's handler would raise in the middle of an optimizer step."""
    heard = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
    try:
        watch = loader._WorkerWatch([])
        signal.raise_signal(signal.SIGCHLD)
        assert not heard
        with watch.waiting():
            signal.raise_signal(signal.SIGCHLD)
        assert heard == [signal.SIGCHLD]
        watch.close()
        signal.raise_signal(signal.SIGCHLD)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError("gone")])
def test_an_error_that_no_worker_caused_is_raised_as_it_is(error):
    with pytest.raises(type(error), match=str(error)):
        next(training_batches(Source(error).dataset(), 2))


def test_facts_of_items_are_read_like_batches():
    """kills: facts-of-other-channels"""
    source = Source(UserError("broken"), good=range(29))
    assert [fact for fact in read_facts(ItemFacts(source)) if isinstance(fact, str)] == ["broken"]
    assert all("channels" in fact for fact in list(read_facts(ItemFacts(source, channels=4)))[:-1])
    for error, raised, words in (
        (MemoryError(), UserError, "not enough memory to read the images; check smaller images"),
        (RuntimeError("shapes differ"), RuntimeError, "shapes differ"),
    ):
        with pytest.raises(raised, match=words):
            list(read_facts(ItemFacts(Source(error))))


def test_a_list_of_unusable_images_that_cannot_be_written_ends_nothing(tmp_path):
    lines = []
    ranks = Ranks(SimpleNamespace(process_index=0, num_processes=1))
    images = UnusableImages(tmp_path, 0, lines.append, ranks)
    (tmp_path / "unusable-images.jsonl").mkdir()
    images.add(2, 2, {"unusable": [[], [(7, "a.png", "broken")]], "key": ["c.png", "b.png"]})
    images.write()
    (line,) = lines
    assert "1 sample got another image" in line and "unusable-images.jsonl not written: " in line and "broken" in line


@pytest.mark.parametrize("skip", [True, False])
def test_moments_are_measured_without_the_images_that_may_be_skipped(root, tmp_path, skip):
    own = spoilt(root, tmp_path / "own", 0)
    change = {"target": {"name": "preconditioned"}}
    recipe = (skipping(own, steps=1) if skip else recipe_of(own, steps=1)).model_copy(update=change)
    if skip:
        train(recipe, tmp_path / "run", cpu=True)
        assert load_recipe(tmp_path / "run" / "recipe.toml").target["var_0"] > 0
        return
    with pytest.raises(UserError, match="not a readable image"):
        train(recipe, tmp_path / "run", cpu=True)


def test_images_that_are_all_one_colour_have_no_moments(root, tmp_path):
    for file in root.rglob("*.png"):
        grey = tmp_path / "grey" / file.relative_to(root)
        grey.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 48), (90, 90, 90)).save(grey)
    recipe = recipe_of(tmp_path / "grey", data="paired", steps=1)
    with pytest.raises(UserError, match=r"^target: "):
        train(recipe.model_copy(update={"target": {"name": "preconditioned"}}), tmp_path / "run", cpu=True)


def test_another_error_of_the_data_is_raised_as_it_is_after_a_save(root, tmp_path):
    """Such as an error in a plug-in, of which a traceback shows the place."""
    recipe = recipe_of(root, save_every=100)
    from i2i_bridge.data.sources import folders

    plain = folders.CleanImages.__getitem__
    broken = []

    def failing(self, index):
        if broken:
            raise ZeroDivisionError("in a plug-in")
        return plain(self, index)

    folders.CleanImages.__getitem__ = failing
    try:
        with pytest.raises(ZeroDivisionError, match="in a plug-in"):
            train(recipe, tmp_path, cpu=True, report=at_step(2, lambda: broken.append(True)))
    finally:
        folders.CleanImages.__getitem__ = plain
    assert latest_checkpoint(tmp_path / "checkpoints")[0].step == 2


# Output that nobody reads.


def command(*words, close=()):
    """Run a command in a fork with descriptors connected to a closed pipe; returns the exit code and other output."""
    reader, writer = os.pipe()
    said = os.memfd_create("said")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            import sys

            os.close(reader)
            for number in (1, 2):
                os.dup2(writer if number in close else said, number)
            sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
            sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, closefd=False)
            from i2i_bridge import console
            from i2i_bridge.cli.command import main

            console.console.file = sys.stdout
            console.errors.file = sys.stderr
            main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
        finally:
            os._exit(code)
    os.close(reader)
    os.close(writer)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(said, "r") as stream:
        stream.seek(0)
        return code, stream.read()


@pytest.mark.parametrize("close", [(1,), (1, 2)], ids=["stdout", "stdout and stderr"])
def test_a_training_that_nobody_reads_is_saved_and_resumes(root, tmp_path, close):
    """kills: lost-output-loses-steps"""
    (tmp_path / "tiny.toml").write_text(recipe_of(root, save_every=100).to_toml())
    words = ("train", tmp_path / "tiny.toml", "--out", tmp_path / "run", "--device", "cpu")
    code, said = command(*words, close=close)
    assert code == 75
    (line,) = said.splitlines() or [""]
    if 2 not in close:
        assert line.startswith("error: the output cannot be written any more; saved ") and "at step 1;" in line
    assert latest_checkpoint(tmp_path / "run" / "checkpoints")[0].step == 1
    code, said = command(*words)
    assert code == 0 and "at step 1 of 6: bit for bit" in said and "step 6/6" in said


@pytest.mark.parametrize(
    "words", [["list"], ["show", "demo/deblur"], ["--help"], ["train", "--help"], ["doctor"], ["check", "nowhere"]]
)
@pytest.mark.parametrize("close", [(1,), (1, 2)], ids=["stdout", "stdout and stderr"])
def test_other_verbs_end_quietly_where_nobody_reads(words, close):
    code, said = command(*words, close=close)
    if words[0] == "check":
        assert code == 2 and len(said.splitlines()) == (2 not in close)
    else:
        assert (code, said) == (141, "")


@pytest.mark.parametrize("ignored", [True, False], ids=["nohup", "terminal"])
def test_a_closed_terminal_saves_and_nohup_goes_on(root, tmp_path, ignored, monkeypatch):
    """kills: closed-terminal-kills"""
    import i2i_bridge.training.trainer as training
    from i2i_bridge.cli.train import train_run

    plain = training.training_step

    def hung_up(state, *rest):
        if state.step == 2:
            os.kill(os.getpid(), signal.SIGHUP)
        return plain(state, *rest)

    monkeypatch.setattr(training, "training_step", hung_up)

    def work():
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        return 0 if train_run(recipe_of(root), tmp_path, device="cpu") else 75

    assert forked(work) == (0 if ignored else 75)
    assert latest_checkpoint(tmp_path / "checkpoints")[0].step == (6 if ignored else 3)
