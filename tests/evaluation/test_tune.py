"""Tuned sampling: one half of the images chooses, the other reports, and every verb takes the choice at its NFE."""

import dataclasses
import json
import math
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats

from i2i_bridge import load_run, registry, restore_files, tune
from i2i_bridge.app.restoration import with_sampler
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate, open_evaluation
from i2i_bridge.evaluation.results import read_evaluation
from i2i_bridge.evaluation.search import Search, rounds
from i2i_bridge.evaluation.shared_calls import SharedCalls
from i2i_bridge.evaluation.subjects import RunSubject, fingerprint_of
from i2i_bridge.evaluation.tune import halved
from i2i_bridge.metrics.base import Extractor
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.registry import register_extractor, register_sampler
from i2i_bridge.report.seeds import same_but_seed
from i2i_bridge.runs.checkpoint import save_checkpoint
from i2i_bridge.runs.plan import plan_of
from i2i_bridge.runs.shared import write_shared
from i2i_bridge.storage.lock import locked

PLANTED = {"sampler": {"name": "planted"}, "grid": "karras", "clip": False}


def blurred(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def planted(answer):
    """A sampler that makes all its calls and then gives a fixed function of X_1."""

    def sample(process, predict_x0, x_1, times, generator, *, start=None):
        for s in times[:-1].tolist():
            predict_x0(x_1, torch.full((len(x_1),), s, dtype=torch.float64))
            yield answer(x_1)

    return sample


@pytest.fixture
def folder(tmp_path):
    """A run folder of an untrained bridge that removes noise from 9 smooth photos."""
    for split, count in (("train", 1), ("val", 9)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (3, 3, 3), dtype=np.uint8)
            photo = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC)
            photo.save(tmp_path / "photos" / split / f"p{i}.png")
    return run_folder(tmp_path / "run", tmp_path / "photos")


def run_folder(folder, photos, **changes):
    table = {
        "name": "small",
        "summary": "a small one",
        "task": "restoration",
        "data": {"root": str(photos), "source": {"name": "images"}, "size": 16, "resize": "none"},
        "degradation": {"name": "noise", "std": 0.3},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1},
        "train": {"steps": 1, "batch_size": 2, "workers": 0, "precision": "fp32"},
        "evaluate": {"metrics": ["psnr"]},
    }
    recipe = parse_recipe(table | changes, "small")
    folder.mkdir()
    (folder / "recipe.toml").write_text(recipe.to_toml())
    weights = recipe.build_network().state_dict()
    save_checkpoint(folder / "checkpoints", 7, {"ema": weights}, {"imported": "small"}, keep=1)
    return folder


def tuned_file(folder, text="[nfe.2]\nsampler = { name = 'deterministic' }\ngrid = 'karras'\nclip = true\n"):
    head = "version = 1\nstep = 7\nmetric = 'psnr'\nprotocol = 'held-out@1'\nimages = 4\nseed = 0\n"
    (folder / "tuned.toml").write_text(head + text)


def restored(run, nfe):
    noisy = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return run.restore(noisy, nfe=nfe)


def test_the_planted_best_settings_win_and_are_taken_at_their_nfe_alone(folder):
    """kills: tuned-for-the-worst, tuned-at-every-nfe"""
    register_sampler("planted")(planted(blurred))
    run = load_run(folder, device="cpu")
    before = restored(run, 3)
    found = tune(run, nfe=[2, 1], metric="psnr", count=9)
    one, two = found.choices
    assert (one.nfe, one.candidates, two.nfe) == (1, 2, 2), "all samplers of the toolkit give the same with one call"
    assert two.settings["sampler"] == {"name": "planted"} and not two.is_own and found.images == (4, 5)
    assert two.difference.value == pytest.approx(two.tuned - two.own) and two.difference.value > 1
    assert 0 < two.difference.standard_error < two.difference.value
    first = found.file.read_bytes()
    tune(load_run(folder, device="cpu"), nfe=[1, 2], metric="psnr", count=9)
    assert found.file.read_bytes() == first, "the same arguments, the same file"

    run = load_run(folder, device="cpu")
    by_hand = load_run(folder, device="cpu", sample=['sample.sampler={name="planted"}'])
    assert np.array_equal(restored(run, 2), restored(by_hand, 2))
    assert np.array_equal(restored(run, 3), before), "another NFE keeps the recipe's settings"
    assert "planted" in run.tuned_line(2) and run.tuned_line(3) is None


def overflowing(process, predict_x0, x_1, times, generator, *, start=None):
    """A sampler that gives NaN for images of a bright first pixel."""
    for state in planted(blurred)(process, predict_x0, x_1, times, generator):
        yield state * torch.where(x_1[:, :1, :1, :1] > 0, torch.nan, 1)


def test_settings_whose_results_are_not_finite_are_the_worst_and_end_nothing(folder, tmp_path):
    register_sampler("planted")(planted(blurred))
    register_sampler("overflowing")(overflowing)
    assert tune(load_run(folder, device="cpu"), nfe=[2], metric="psnr", count=9).choices[0].settings == PLANTED | {
        "grid": "karras"
    }
    own = run_folder(tmp_path / "own", tmp_path / "photos", sample={"sampler": {"name": "overflowing"}})
    (choice,) = tune(load_run(own, device="cpu"), nfe=[2], metric="psnr", count=9).choices
    assert choice.settings["sampler"] == {"name": "planted"} and choice.own == -math.inf
    assert restored(load_run(own, device="cpu"), 2) is not None


def test_settings_of_other_nfe_stay_where_they_are_of_the_same_search(folder):
    """kills: tuned-nfe-forgotten"""
    register_sampler("planted")(planted(blurred))
    tune(load_run(folder, device="cpu"), nfe=[2], metric="psnr", count=8)
    tune(load_run(folder, device="cpu"), nfe=[3], metric="psnr", count=8)
    assert [*load_run(folder).tuned.nfe] == ["2", "3"]
    tune(load_run(folder, device="cpu"), nfe=[4], metric="psnr", count=9, seed=1)
    assert [*load_run(folder).tuned.nfe] == ["4"], "chosen by other images"


def test_the_half_that_reports_chooses_nothing(folder):
    """kills: tuned-on-the-report, halves-overlap"""
    run = load_run(folder, device="cpu")
    setup = open_evaluation(run.recipe)
    first, second = halved(setup.dataset, setup.rules, 0)
    assert len(first) == 4 and sorted(first + second) == list(range(9))
    assert halved(setup.dataset, setup.rules, 0) == (first, second) != halved(setup.dataset, setup.rules, 1)
    known = [setup.dataset[index]["x_1"] for index in first]

    def best_on(half):
        return planted(lambda x: blurred(x) if any(torch.equal(x[0], y) for y in known) == half else -x)

    register_sampler("best-on-the-first")(best_on(True))
    register_sampler("best-on-the-second")(best_on(False))
    (choice,) = tune(run, nfe=[2], metric="psnr", count=9).choices
    assert choice.settings["sampler"] == {"name": "best-on-the-first"} and choice.difference.value < -1
    with pytest.raises(UserError, match="3 validation images; 4 are needed"):
        tune(run, nfe=[2], metric="psnr", count=3)


def test_settings_that_are_better_by_chance_only_are_not_taken(folder):
    """kills: tuned-by-chance"""
    run = load_run(folder, device="cpu", sample=["sample.sampler.name=ot-ode"])
    known = {index: open_evaluation(run.recipe).dataset[index]["x_1"] for index in range(9)}
    order = halved(open_evaluation(run.recipe).dataset, open_evaluation(run.recipe).rules, 0)[0]

    def lucky(x):
        """Much better on one of four images, somewhat worse on the others."""
        index = next((index for index, y in known.items() if torch.equal(x[0], y)), None)
        return blurred(x) if index == order[0] else x * 0.97

    for name in ("2m", "2m-sde", "ancestral", "deterministic", "eta", "heun"):
        registry.SAMPLERS._members[name] = planted(lambda x: -x)  # no candidate of the toolkit's own
    register_sampler("lucky")(planted(lucky))
    (choice,) = tune(run, nfe=[2], metric="psnr", count=9).choices
    assert choice.is_own and choice.difference.value == 0 and not (folder / "tuned.toml").exists()


def test_rounds_double_until_all_images_are_seen():
    # kills: a-round-of-the-same-images
    assert [list(rounds(images, 4)) for images in (1, 4, 5, 8, 9, 40)] == [
        [1], [4], [4, 5], [4, 8], [4, 8, 9], [4, 8, 16, 32, 40],
    ]  # fmt: skip


def test_the_error_of_a_difference_is_that_of_a_mean_of_differences():
    """scipy's: s / sqrt(n), s by n - 1; equal infinities differ by 0, and an image without a score takes no part."""
    # kills: tuned-error-by-n, tuned-error-of-one-image, tuned-equal-infinities-left-out
    ours = [30.0, 31.5, math.inf, 29.0, math.nan]
    theirs = [29.0, 31.0, math.inf, 29.5, 28.0]
    search = SimpleNamespace(metric="psnr", scorer=SimpleNamespace(sets={}))
    first, second = (
        SimpleNamespace(
            is_finite=True, records={i: SimpleNamespace(scores={"psnr": (v, "")}) for i, v in enumerate(row)}
        )
        for row in (ours, theirs)
    )
    found = Search.difference(search, first, second, range(5))
    changes = [1.0, 0.5, 0.0, -0.5]
    assert found.value == pytest.approx(np.mean(changes))
    assert found.standard_error == pytest.approx(stats.sem(changes))


def test_a_distance_between_sets_chooses_too(folder):
    @register_extractor("means")
    class Means(Extractor):
        dimension = 6

        def __call__(self, images):
            return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)

    register_sampler("planted")(planted(blurred))
    run = load_run(folder, device="cpu")
    (choice,) = tune(run, nfe=[2], metric="kid-means", count=9).choices
    assert choice.candidates > 4 and math.isfinite(choice.own)
    assert choice.is_own or choice.difference.standard_error > 0
    with pytest.raises(UserError, match="metric 'fd-means' has no paired standard error; tune by a kernel distance"):
        tune(run, nfe=[2], metric="fd-means", count=9)


def test_shared_calls_answer_as_the_network_and_only_equal_inputs_share(rng):
    """kills: shared-without-the-time, shared-without-the-condition, bytes-of-a-contiguous-view"""

    class Sum(torch.nn.Module):
        def forward(self, x_t, t, condition=None):
            return x_t + t[:, None, None, None] + (0 if condition is None else condition)

    network = SharedCalls(Sum())
    x, y = torch.randn(2, 1, 3, 4, 4, generator=rng)
    t, s = torch.ones(1, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    for inputs in ((x, t, None), (x, s, None), (x, t, y), (y, t, None), (x, t, None), (x.clone(), s, None)):
        assert torch.equal(network(*inputs), Sum()(*inputs))
    assert (network.calls, network.asked) == (4, 6)
    network(x, torch.tensor(0.5, dtype=torch.float64).expand(1), None)  # as samplers of plug-ins give times
    assert (network.calls, network.asked) == (4, 7)
    network.forget()
    network(x, t, None)
    assert network.calls == 5
    leaf = x.clone().requires_grad_()
    assert torch.autograd.grad(network(leaf, t).sum(), leaf)[0].shape == x.shape, "a guidance needs the gradient"


DAMAGED = [
    ("[nfe.2]\nsampler = 5\n", "nfe.2.sampler"),
    ("[nfe.0]\nsampler = { name = '2m' }\ngrid = 'karras'\nclip = true\n", "nfe.0"),
    ("[nfe.2]\nsampler = { name = 'none' }\ngrid = 'karras'\nclip = true\n", "nfe.2"),
    ("[nfe.2]\nsampler = { name = 'eta', eta = 7 }\ngrid = 'karras'\nclip = true\n", "eta must lie in"),
    ("[nfe.2]\nsampler = { name = '2m' }\ngrid = 'official'\nclip = true\n", "official"),
    ("[nfe.2]\nsampler = { name = '2m' }\ngrid = 'karras'\nclip = true\nnfe = 3\n", "unknown key 'nfe.2.nfe'"),
    ("nfe = [", "tuned.toml"),
    ("\0", "tuned.toml"),
]


@pytest.mark.parametrize("text,words", DAMAGED)
def test_a_damaged_file_is_one_line_and_tuning_again_replaces_it(folder, text, words):
    tuned_file(folder, text)
    with pytest.raises(UserError) as caught:
        load_run(folder, device="cpu")
    message = str(caught.value)
    assert words in message and "\n" not in message and message.startswith(str(folder / "tuned.toml"))
    assert message.endswith("; tune again, or delete tuned.toml")
    load_run(folder, device="cpu", tuned=False)
    load_run(folder, device="cpu", sample=["sample.clip=true"])


@pytest.mark.parametrize("target", ["nowhere", "tuned.toml"])
def test_a_link_that_leads_nowhere_is_no_missing_file(folder, target):
    # kills: tuned-link-ignored
    (folder / "tuned.toml").symlink_to(folder / target)
    with pytest.raises(UserError, match=r"tuned\.toml: .*; tune again, or delete tuned\.toml") as caught:
        load_run(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_searches_of_two_lists_are_two_searches(folder, tmp_path):
    # kills: tuned-list-forgotten
    register_sampler("planted")(planted(blurred))
    run = load_run(folder, device="cpu")
    for nfe, first in ((2, 0), (3, 0), (4, 1)):
        (tmp_path / "list").write_text("".join(f"p{i}.png\n" for i in range(first, first + 8)))
        setup = open_evaluation(run.recipe, list_file=tmp_path / "list")
        tune(run, setup.dataset, nfe=[nfe], metric="psnr", count=8, protocol=setup.rules)
        assert [*load_run(folder).tuned.nfe] == {2: ["2"], 3: ["2", "3"], 4: ["4"]}[nfe]
    assert "on 4 validation images of a list at step 7" in load_run(folder).tuned_line(4)


def test_two_searches_that_end_at_once_both_write_their_nfe(folder):
    """Another process has read the file, and writes it when this search has ended."""
    # kills: tuned-written-without-a-lock
    register_sampler("planted")(planted(blurred))
    run = load_run(folder, device="cpu")
    other = tune(run, nfe=[3], metric="psnr", count=8).file
    text = other.read_bytes()
    other.unlink()
    held, ended = os.pipe(), os.pipe()
    if not (child := os.fork()):
        try:
            with locked(folder / "evaluation", root=folder):
                os.write(held[1], b"1")
                os.read(ended[0], 1)
                time.sleep(1)
                other.write_bytes(text)
        finally:
            os._exit(0)
    os.read(held[0], 1)
    tune(run, nfe=[2], metric="psnr", count=8, report=lambda done, total: done == total and os.write(ended[1], b"1"))
    os.waitpid(child, 0)
    assert [*load_run(folder).tuned.nfe] == ["2", "3"]


def test_settings_of_another_step_are_not_used_and_a_line_says_so(folder):
    """kills: tuned-of-another-step"""
    tuned_file(folder)
    file = folder / "tuned.toml"
    file.write_text(file.read_text().replace("step = 7", "step = 2"))
    lines = []
    run = load_run(folder, device="cpu", report=lines.append)
    assert run.tuned is None and run.tuned_methods == {} and run.warnings == tuple(lines)
    assert lines == [f"{file}: found for step 2 and not used for step 7; run `i2i-bridge tune` once more"]


def test_the_recipes_own_sampler_can_be_chosen_on_the_web_page(folder):
    """kills: own-sampler-is-the-tuned"""
    tuned_file(folder)
    run = load_run(folder, device="cpu")
    own = with_sampler(run, run.recipe.sample.sampler["name"])
    assert with_sampler(run, "") is run and own.tuned is None
    assert np.array_equal(restored(own, 2), restored(load_run(folder, device="cpu", tuned=False), 2))


def test_a_setting_of_the_user_wins(folder):
    """kills: tuned-over-the-users"""
    plain = load_run(folder, device="cpu", sample=["sample.grid=quadratic"])
    tuned_file(folder)
    run = load_run(folder, device="cpu", sample=["sample.grid=quadratic"])
    assert run.tuned is None and np.array_equal(restored(run, 2), restored(plain, 2))
    run = load_run(folder, device="cpu", sample=["sample.nfe=2"])
    assert np.array_equal(restored(run, None), restored(load_run(folder, device="cpu"), 2))
    assert not np.array_equal(restored(run, 2), restored(load_run(folder, device="cpu", tuned=False), 2))


def test_tuned_and_other_sampling_are_told_apart_in_evaluations(folder):
    """kills: fingerprint-without-tuning, seeds-pooled-over-tuning"""
    own = load_run(folder, device="cpu")
    evaluate(own, nfe=[2, 3], metrics=["psnr"], count=4)
    before = read_evaluation(folder)
    assert b'"tuned"' not in (folder / "evaluation" / "held-out" / "evaluation.json").read_bytes()
    tuned_file(folder)
    run = load_run(folder, device="cpu")
    assert fingerprint_of(run) != fingerprint_of(own) == fingerprint_of(load_run(folder, device="cpu", tuned=False))
    after = evaluate(run, nfe=[2, 3], metrics=["psnr"], count=4)
    assert after == read_evaluation(folder) and [*after.tuned] == ["nfe 2"]
    assert after.tuned["nfe 2"] in after.warnings and "sampler deterministic, grid karras" in after.tuned["nfe 2"]
    psnr = {name: [row.metrics["psnr"].value for row in each.rows] for name, each in (("b", before), ("a", after))}
    assert psnr["a"][-1] == psnr["b"][-1] and psnr["a"][-2] != psnr["b"][-2]
    assert same_but_seed(run.recipe, after) != same_but_seed(run.recipe, dataclasses.replace(after, tuned={}))
    assert same_but_seed(run.recipe, after) == same_but_seed(run.recipe, after)
    assert RunSubject(own, [2]).tuned == {}


def test_restoring_export_and_sharing_take_it_and_say_so(folder, tmp_path):
    """kills: exports-the-recipes-sampling, shared-without-tuning, results-of-other-sampling-kept"""
    photo, lines = tmp_path / "photos" / "val", []
    restore_files(load_run(folder, device="cpu"), photo, tmp_path / "out", nfe=2, say=lines.append)
    assert lines == []
    untuned = (tmp_path / "out" / "p0.png").read_bytes()
    tuned_file(folder)
    run = load_run(folder, device="cpu")
    restore_files(run, photo, tmp_path / "out", nfe=2, say=lines.append)
    assert len(lines) == 1 and lines[0].startswith("nfe 2: tuned sampling (sampler deterministic")
    assert (tmp_path / "out" / "p0.png").read_bytes() != untuned, "results of other settings are made again"
    assert plan_of(run.method_at(2), 2) != plan_of(run.method, 2)
    shared = write_shared(run, tmp_path / "shared", "a card")
    assert np.array_equal(restored(load_run(shared, device="cpu"), 2), restored(run, 2))
    from i2i_bridge.runs.export import export

    export(run, tmp_path / "graphs", format="torch", nfe=2, say=lines.append)
    about = json.loads((tmp_path / "graphs" / "export.json").read_text())
    (whole,) = [each for each in about["restorations"] if each["nfe"] == 2]
    assert whole["tuned"] == lines[0] and lines[0] in lines[1:]
    assert [call["next"]["noise"] for call in whole["stages"][0]["calls"]] == [
        call.next.noise for call in plan_of(run.method_at(2), 2)[0].calls
    ]
    assert whole["stages"][0]["clip"] is True


def test_candidates_and_tuned_settings_share_one_critic(folder, tmp_path, monkeypatch):
    """Only training needs it, and it may be larger than the network."""
    # kills: critic-for-each-candidate, critic-for-each-tuned-nfe
    adversarial = run_folder(
        tmp_path / "adversarial", tmp_path / "photos", method={"name": "bridge", "adversarial": 0.1}
    )
    tuned_file(adversarial)
    critics, build = [], registry.DISCRIMINATORS.build
    monkeypatch.setattr(registry.DISCRIMINATORS, "build", lambda *a, **k: critics.append(build(*a, **k)) or critics[-1])
    run = load_run(adversarial, device="cpu")
    assert len(critics) == 1 and run.method_at(2).clip and not run.method_at(1).clip
    tune(run, nfe=[2], metric="psnr", count=8)
    assert len(critics) == 2


def test_the_verb(folder, tmp_path, capsys, monkeypatch):
    register_sampler("planted")(planted(blurred))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return ended.value.code, *capsys.readouterr()

    code, out, err = call("tune", "run", "--nfe", "1", "2", "--metric", "psnr", "-n", "8", "--device", "cpu")
    assert (code, err) == (0, "") and "4 images chose, 4 report" in out and "sampler planted" in out
    assert "note: nfe 1: nothing is better beyond chance" not in out and "wrote run/tuned.toml" in out
    code, out, _ = call("restore", "run", "photos/val/p0.png", "o.png", "--nfe", "2", "--device", "cpu")
    assert code == 0 and "note: nfe 2: tuned sampling (sampler planted" in out
    (tmp_path / "chosen.txt").write_text("".join(f"p{i}.png\n" for i in range(3, 8)))
    listed = call("tune", "run", "--nfe", "1", "--metric", "psnr", "--list", "chosen.txt", "--device", "cpu")
    assert listed[0] == 0 and "2 images chose, 3 report" in listed[1]
    for words, wrong in (
        (("none",), "not a run folder"),
        (("run", "--nfe", "0"), "--nfe"),
        (("run", "--metric", "fd-nothing"), "fd-nothing"),
        (("run", "-n", "3"), "equal to 4"),
    ):
        given = ["tune", *words]
        given += [] if "--nfe" in words else ["--nfe", "2"]
        given += [] if "--metric" in words else ["--metric", "psnr"]
        code, _, err = call(*given, "--device", "cpu")
        assert code == 2 and wrong in err and err.count("\n") == 1, err
    one = run_folder(tmp_path / "one", tmp_path / "photos", method={"name": "regression"})
    code, _, err = call("tune", str(one), "--nfe", "2", "--metric", "psnr", "--device", "cpu")
    assert code == 2 and "answers in one call: there is nothing to tune" in err
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    code, _, err = call("tune", "run", "--nfe", "2", "--metric", "psnr", "--device", "cpu")
    assert code == 2 and "run: cannot be written, and tuned settings belong there" in err
