"""Links in a run folder are not followed: a run writes, sweeps, rotates and sets aside only files inside its folder."""

import hashlib
import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from killing import photos, recipe_of

from i2i_bridge.cli.evaluate import evaluate, report
from i2i_bridge.data.fetch import fetch, plan_fetch
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.items import ItemFacts
from i2i_bridge.evaluation.pictures import SavedPictures
from i2i_bridge.report import page
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.storage import download as downloading
from i2i_bridge.storage import files
from i2i_bridge.storage.lock import locked
from i2i_bridge.training.trainer import train

FOLDERS = (
    ".dead-x", ".tmp-x", ".tmp-recipe-1", "samples", "samples/.tmp-x", "samples/.dead-x", "checkpoints",
    "checkpoints/.dead-x", "checkpoints/.tmp-x", "checkpoints/.dead-step-00000001-7", "checkpoints/step-00000000",
    "checkpoints/step-00000001", "checkpoints/step-00000099", "checkpoints/damaged-step-00000002",
    "checkpoints/damaged-step-00000003", "checkpoints/mine", "mine",
)  # fmt: skip
"""Where a folder may lie, or a link to one."""
FILES = (
    ".x.part", "samples/.x.part", "checkpoints/.x.part", "metrics.csv", "metrics.jsonl", "recipe.toml", ".lock",
    "samples/step-00000004.png", "checkpoints/step-00000002/network.safetensors",
    "checkpoints/step-00000002/manifest.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(recipe_of(root, steps=2, sample_every=2), folder, cpu=True)
    return folder


def tree(folder):
    """Every name below a folder, with its kind and content."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in folder.rglob("*")
    }


def outside(folder):
    """A user's own files beside a run."""
    for name in ("a.txt", "inner/b.txt", "step-00000001/manifest.json", ".tmp-x/c.txt", "nfe-1/0000-00.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def linked(run, name, target):
    """Replace a path of the run by a link to outside."""
    place = run / name
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def attempt(action):
    """Run a function and return the line of its UserError, or ''; any other exception fails the test."""
    try:
        action()
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("name", FOLDERS)
def test_a_training_goes_on_and_leaves_what_a_link_leads_to(root, trained, tmp_path, name):
    """kills: sweep-follows-links, linked-checkpoint-rotated"""
    run, theirs = tmp_path / "run", outside(tmp_path / "theirs")
    shutil.copytree(trained, run)
    linked(run, name, theirs)
    before = tree(theirs)
    line = attempt(lambda: train(recipe_of(root, steps=5, sample_every=2, keep=1), run, cpu=True))
    assert tree(theirs) == before
    if name in ("samples", "checkpoints"):
        assert f"{run / name}: is a link" in line and "let a link lead to it" in line
    else:
        # A link that has the name of a newer checkpoint is passed over, and no step reaches it here.
        assert line == "" and latest_checkpoint(run / "checkpoints")[0].step == 5
    swept = Path(name).name.startswith((files.TEMPORARY, files.DEAD))
    assert (run / name).is_symlink() == (not swept)


@pytest.mark.parametrize("name", FILES)
def test_a_training_goes_on_and_leaves_the_file_that_a_link_leads_to(root, trained, tmp_path, name):
    run, theirs = tmp_path / "run", tmp_path / "theirs"
    shutil.copytree(trained, run)
    theirs.mkdir()
    copied = run / name
    (theirs / "file").write_bytes(copied.read_bytes() if copied.is_file() else b"mine")
    linked(run, name, theirs / "file")
    before = tree(theirs)
    lines = []
    line = attempt(lambda: train(recipe_of(root, steps=4, sample_every=2), run, cpu=True, report=lines.append))
    assert tree(theirs) == before
    assert bool(line) == (name == ".lock"), line


def test_a_log_is_not_appended_through_a_link(tmp_path):
    """kills: log-follows-links"""
    (tmp_path / "theirs").write_text("mine")
    (tmp_path / "metrics.csv").symlink_to("theirs")
    with pytest.raises(OSError, match=r"metrics\.csv"):
        files.append(tmp_path / "metrics.csv", b"1\n")
    assert (tmp_path / "theirs").read_text() == "mine"


def test_damaged_checkpoints_are_set_aside_beside_links(root, trained, tmp_path):
    """kills: set-aside-over-a-link"""
    run, theirs = tmp_path / "run", outside(tmp_path / "theirs")
    shutil.copytree(trained, run)
    before = tree(theirs)
    for _ in range(2):  # the second one does not delete the first
        (run / "checkpoints" / "step-00000002" / "manifest.json").write_text("{")
        (run / "checkpoints" / "damaged-step-00000002").exists() or linked(
            run, "checkpoints/damaged-step-00000002", theirs
        )
        train(recipe_of(root, steps=2), run, cpu=True)
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    aside = ["damaged-step-00000002", "damaged-step-00000002-2", "damaged-step-00000002-3"]
    assert names == [*aside, "step-00000001", "step-00000002"] and tree(theirs) == before
    assert (run / "checkpoints" / aside[0]).is_symlink()


def test_nothing_is_swept_before_the_folder_is_known_to_be_this_run(root, trained, tmp_path):
    """kills: swept-before-known"""
    strange = tmp_path / "home"
    for name in (".dead-x/a", ".tmp-mine/b", ".download.part", "samples/.tmp-x/c"):
        (strange / name).parent.mkdir(parents=True, exist_ok=True)
        (strange / name).write_text("mine")
    before = tree(strange)
    train(recipe_of(root, steps=1), strange, cpu=True)
    assert before.items() <= tree(strange).items()
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / ".dead-x").mkdir()
    (run / "checkpoints" / ".tmp-x").mkdir()
    (run / "checkpoints" / "step-00000002" / "manifest.json").write_text("{")
    (run / ".lock").touch()
    before = tree(run)
    with pytest.raises(UserError, match="holds a run of other settings"):
        train(recipe_of(root, steps=2, ema_decay=0.4), run, cpu=True)
    assert tree(run) == before
    (run / "recipe.toml").unlink()
    with pytest.raises(UserError, match=r"holds checkpoints but no recipe\.toml"):
        train(recipe_of(root, steps=2), run, cpu=True)
    assert (run / ".dead-x").is_dir() and (run / "checkpoints" / "step-00000002").is_dir()


def test_a_run_folder_that_a_link_leads_to_goes_on(root, trained, tmp_path):
    """The user's own choice: another disk."""
    shutil.copytree(trained, tmp_path / "disk" / "run")
    (tmp_path / "run").symlink_to("disk/run")
    (tmp_path / "disk" / "run" / "checkpoints" / ".tmp-x").mkdir()
    done = train(recipe_of(root, steps=4, keep=1, sample_every=4), tmp_path / "run", cpu=True)
    assert done.finished and (tmp_path / "run").is_symlink()
    names = sorted(path.name for path in (tmp_path / "disk" / "run" / "checkpoints").iterdir())
    assert names == ["step-00000004"] and (tmp_path / "run" / "samples" / "step-00000004.png").is_file()
    evaluate(str(tmp_path / "run"))
    report(tmp_path / "run")
    for name in ("evaluation/held-out/evaluation.json", "report/index.html"):
        assert (tmp_path / "disk" / "run" / name).is_file()
    (tmp_path / "new").symlink_to("disk/new")  # not there yet
    assert train(recipe_of(root, steps=1), tmp_path / "new", cpu=True).finished
    assert (tmp_path / "disk" / "new" / "recipe.toml").is_file()


def test_links_that_lead_nowhere(root, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="leads nowhere"):
        train(recipe_of(root, steps=1), tmp_path / "a", cpu=True)


def test_a_name_that_is_too_long_is_no_link(tmp_path):
    # kills: long-name-is-a-link
    for above in (False, True):
        (tmp_path / "a").unlink(missing_ok=True)
        (tmp_path / "a").symlink_to(tmp_path / "a")
        with pytest.raises((UserError, OSError)) as told:
            files.real_folder(tmp_path / "a", above=above).mkdir()
        assert "too long" not in str(told.value)
    with pytest.raises((UserError, OSError), match=r"File name too long") as told:
        files.real_folder(tmp_path / ("n" * 300)).mkdir()  # newer versions of Python refuse it here
    assert "link" not in str(told.value).rpartition("n: ")[2]


def test_removing_a_tree_unlinks_the_links_in_it(tmp_path):
    theirs = outside(tmp_path / "theirs")
    before = tree(theirs)
    gone = tmp_path / "gone"
    (gone / "a" / "b").mkdir(parents=True)
    (gone / "a" / "b" / "link").symlink_to(theirs)
    (gone / "a" / "file").symlink_to(theirs / "a.txt")
    files.remove(gone)
    (tmp_path / "link").symlink_to(theirs)
    files.remove(tmp_path / "link")
    files.remove(tmp_path / "never")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"] and tree(theirs) == before


def test_below_its_root_nothing_is_written_or_removed_through_a_link(tmp_path):
    """kills: root-not-heeded"""
    theirs = outside(tmp_path / "theirs")
    before = tree(theirs)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "inner").symlink_to(theirs)
    (tmp_path / "way").symlink_to("run")  # the root itself may be reached by a link
    for root in (tmp_path / "run", tmp_path / "way"):
        with pytest.raises(UserError, match=r"'inner' is a link, which is not followed"):
            files.write_whole(root / "inner" / "a.txt", b"new", root=root)
        with pytest.raises(OSError, match="is a link"):
            files.remove(root / "inner" / "a.txt", root=root)
        with pytest.raises(UserError, match="is a link"), locked(root / "inner", root=root):
            pass
    with pytest.raises(OSError, match="is a link"):
        files.publish_folder(tmp_path / "run" / "inner" / "new", [("a", b"1")])
    with pytest.raises(OSError, match="is a link"):
        files.retire_folder(tmp_path / "run" / "inner" / "inner")
    assert tree(theirs) == before
    files.write_whole(tmp_path / "way" / "deep" / "er" / "a.txt", b"new", root=tmp_path / "way")
    assert (tmp_path / "run" / "deep" / "er" / "a.txt").read_bytes() == b"new"


EVALUATED = (
    "evaluation", "evaluation/held-out", "evaluation/held-out/images", "evaluation/held-out/records",
    "evaluation/held-out/images/nfe-1", "evaluation/held-out/records/nfe-1", "evaluation/held-out/.tmp-x",
    "evaluation/held-out/images/mine", "evaluation/held-out/images/.dead-x", "report", ".tmp-report", ".dead-report-1",
    "evaluation/other",
)  # fmt: skip
EVALUATED_FILES = (
    "evaluation/held-out/per_image.csv", "evaluation/held-out/evaluation.json", "evaluation/held-out/.lock",
    "evaluation/held-out/per_image.csv.part", "evaluation/held-out/records/features-restored.npy",
    "evaluation/held-out/images/nfe-1/0000-00.png", "evaluation/held-out/images/nfe-1/9999-x.png",
    "evaluation/held-out/.x.1.part", "report/index.html",
)  # fmt: skip


@pytest.fixture(scope="module")
def reported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(trained, folder)
    evaluate(str(folder))
    report(folder)
    return folder


@pytest.mark.parametrize("name", (*EVALUATED, *EVALUATED_FILES))
@pytest.mark.parametrize("anew", [False, True])
def test_evaluating_and_reporting_leaves_what_a_link_leads_to(reported, tmp_path, name, anew):
    run, theirs = tmp_path / "run", outside(tmp_path / "theirs")
    shutil.copytree(reported, run)
    if anew:
        shutil.rmtree(run / "evaluation")
        shutil.rmtree(run / "report")
    (theirs / "file").write_text("mine")
    linked(run, name, theirs / "file" if name in EVALUATED_FILES else theirs)
    before = tree(theirs)
    line = attempt(lambda: evaluate(str(run), nfe=[1, 2]))
    refused = name in EVALUATED[:6] or name in ("evaluation/held-out/images/mine", "evaluation/held-out/.lock")
    assert bool(line) == refused, line
    line = attempt(lambda: report(run))
    assert "\n" not in line and tree(theirs) == before
    assert (name == "report") == ("report: is a link" in line)
    swept = [path for path in run.iterdir() if path.name.startswith((files.TEMPORARY, files.DEAD))]
    assert swept in ([], [run / ".dead-report-1"])


def test_a_folder_that_became_a_link_during_an_evaluation_gets_no_picture(tmp_path):
    """kills: pictures-through-links"""
    theirs, images = outside(tmp_path / "theirs"), tmp_path / "run" / "images"
    images.mkdir(parents=True)
    (images / "nfe-1").symlink_to(theirs)
    before = tree(theirs)
    with pytest.raises(UserError, match="'nfe-1' is a link, which is not followed"):
        SavedPictures(images, tmp_path / "run", 1).write(
            ItemFacts(0, "a.png", "", "", "", False), {"nfe 1": torch.zeros(3, 4, 4)}
        )
    assert tree(theirs) == before


def test_a_page_that_was_killed_on_the_way_leaves_nothing_to_the_next(reported, tmp_path):
    """kills: page-in-progress-stays"""
    run = tmp_path / "run"
    shutil.copytree(reported, run)
    pid = os.fork()
    if pid == 0:
        page.render = lambda template, **values: os.kill(os.getpid(), 9)
        report(run)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert (run / ".tmp-report" / "table.csv").is_file()
    (run / ".dead-report-7").mkdir()
    report(run)
    assert not list(run.glob(".*report*")) and (run / "report" / "index.html").is_file()
    assert not (run / "report" / ".lock").exists()
    (run / ".tmp-report").mkdir()
    (run / ".tmp-report" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="in the way"):
        report(run)
    assert (run / ".tmp-report" / "letter.txt").read_text() == "mine"


def test_two_evaluations_of_a_protocol_do_not_meet(reported, tmp_path):
    """kills: evaluation-not-locked"""
    run = tmp_path / "run"
    shutil.copytree(reported, run)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with locked(run / "evaluation" / "held-out"):
            os.write(writing, b"x")
            signal.pause()
    try:
        os.read(reading, 1)
        before = tree(run)
        with pytest.raises(UserError, match="another evaluation is being written there"):
            evaluate(str(run), nfe=[1])
        assert tree(run) == before
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    evaluate(str(run), nfe=[1])


@pytest.mark.parametrize("name", ["", "files", "unpacked", ".lock", "files/a.bin.part", "files/a.bin.part.version"])
def test_a_fetch_leaves_what_a_link_leads_to(tmp_path, monkeypatch, name):
    """kills: fetch-through-links"""
    monkeypatch.setenv("I2I_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    theirs = outside(tmp_path / "theirs")
    (theirs / "unpacked").mkdir()
    (theirs / "unpacked" / "b.txt").write_text("mine")
    card = tmp_path / "home" / "datasets" / "mine.toml"
    card.parent.mkdir(parents=True)
    card.write_text(
        'name = "mine"\nsummary = ""\n[dataset]\nname = "images"\n'
        f'[[download]]\nurl = "http://127.0.0.1:9/a.bin"\nsha256 = "{hashlib.sha256(b"a.txt").hexdigest()}"\n'
    )
    is_file = name.startswith((".lock", "files/"))
    linked(tmp_path, f"data.part/{name}".rstrip("/"), theirs / "a.txt" if is_file else theirs)
    before = tree(theirs)
    plan = plan_fetch("mine", tmp_path / "data")
    line = attempt(lambda: fetch(plan, lambda title: nullcontext(lambda *now: None)))
    assert "\n" not in line and tree(theirs) == before
    assert ("is a link" in line) == (name in ("", "files", "unpacked"))
