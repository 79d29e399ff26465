"""Two stages ([mean]): a bridge that starts from a frozen run's output."""

import json
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import digest, photos, recipe_of
from torch import nn

from i2i_bridge.bridge.processes import I2SB, BrownianBridge, LinearFlow, SourceNoise
from i2i_bridge.bridge.samplers import ancestral, deterministic
from i2i_bridge.bridge.targets import I2SBTarget, VelocityTarget, X0Target, estimate_moments
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate, open_evaluation
from i2i_bridge.evaluation.subjects import fingerprint_of
from i2i_bridge.methods import bridge as bridge_module
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.methods.curriculum import Curriculum
from i2i_bridge.methods.geometry import pad_to_stride
from i2i_bridge.methods.mean import Mean
from i2i_bridge.methods.regression import Regression
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.recipe.schema import MeanSettings
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.training.identity import is_same_run
from i2i_bridge.training.teacher import student_recipe
from i2i_bridge.training.trainer import train


class Gives(nn.Module):
    """A method with a constant output that stores its inputs."""

    def __init__(self, answer):
        super().__init__()
        self.answer = nn.Parameter(answer)
        self.seen = []

    def forward(self, x_t, t, condition):
        self.seen.append((x_t.detach().clone(), None if condition is None else condition.detach().clone()))
        return self.answer.expand_as(x_t)


def images(seed, count=2):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def mean_of_answer(answer, condition=False):
    network = Gives(answer).requires_grad_(False).eval()
    return Mean(Regression(network, LinearFlow(), X0Target(), condition=condition))


def draws(count=2, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


PROCESSES = [
    (I2SB(), I2SBTarget(), ancestral),
    (LinearFlow(), VelocityTarget(), deterministic),
    (BrownianBridge(), I2SBTarget(), ancestral),
]


@pytest.mark.parametrize(("process", "target", "sampler"), PROCESSES)
def test_from_a_mean_that_is_x_0_a_bridge_that_changes_nothing_is_exact(process, target, sampler):
    """A network that says 0 says X_0 = X_t for these targets; where the noise is none on the way, X_1 is the answer."""
    # kills: starts-from-x-1
    x_0 = images(0)
    bridge = Bridge(Gives(torch.zeros(1)), process, target, sampler=sampler, mean=mean_of_answer(x_0))
    (*_, last) = bridge.trajectory({"x_1": images(1)}, nfe=1, generator=draws())
    assert torch.allclose(last, x_0, atol=1e-6)


def test_at_the_source_the_target_is_of_the_mean_and_the_answer_is_clipped():
    # kills: mean-not-clipped, mean-forgotten-in-training
    x_0, x_1, answer = images(0), images(1), 3 * images(2)
    network = Gives(torch.zeros(1))
    bridge = Bridge(
        network, LinearFlow(), VelocityTarget(), curriculum=Curriculum(at_source=1.0), mean=mean_of_answer(answer)
    )
    ((_, loss),) = bridge.losses({"x_0": x_0, "x_1": x_1}, draws())
    start = answer.clamp(-1, 1)
    assert bool((answer.abs() > 1).any()) and torch.equal(network.seen[0][0], start)
    assert loss.item() == pytest.approx((start - x_0).square().mean().item(), rel=1e-5)


def test_the_condition_stays_the_users_x_1():
    # kills: condition-replaced-by-the-mean
    x_1, answer, own = images(1), images(2), images(3)
    for batch, condition in (({"x_1": x_1}, x_1), ({"x_1": x_1, "condition": own}, own)):
        mean = mean_of_answer(answer, condition=True)
        network = Gives(torch.zeros(1))
        bridge = Bridge(network, LinearFlow(), VelocityTarget(), condition=True, sampler=deterministic, mean=mean)
        list(bridge.trajectory(batch, nfe=1, generator=draws()))
        list(bridge.losses(batch | {"x_0": images(0)}, draws()))
        assert [torch.equal(seen, condition) for _, seen in network.seen] == [True, True]
        assert all(torch.equal(seen, condition) for _, seen in mean.method.network.seen)
        assert torch.equal(network.seen[0][0], answer)


def test_outside_the_hole_x_1_stays():
    """Also where the mean's own method does not put known pixels back."""
    # kills: mask-ignored-by-the-mean

    class Bare:
        network = Gives(torch.full((1,), 0.25))

        def trajectory(self, batch, *, nfe, generator):
            yield self.network(batch["x_1"], None, None)

    x_1 = 2 * images(1)  # a noisy X_1 may leave [-1, 1]
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    start = Mean(Bare())({"x_1": x_1, "mask": mask}, draws())
    assert torch.equal(start, torch.where(mask > 0, torch.tensor(0.25), x_1))


def test_the_mean_learns_nothing():
    # kills: mean-trained-too
    answer = images(2)
    mean = mean_of_answer(answer)
    mean.method.network.requires_grad_(True)
    bridge = Bridge(Gives(torch.zeros(1)), LinearFlow(), X0Target(), mean=mean)
    for _, loss in bridge.losses({"x_0": images(0), "x_1": images(1)}, draws()):
        loss.backward()
    assert mean.method.network.answer.grad is None and bridge.network.answer.grad is not None
    assert not {id(p) for p in bridge.network.parameters()} & {id(p) for p in mean.method.network.parameters()}
    assert bridge.with_network(Gives(torch.ones(1))).mean is mean


def test_a_guidance_measures_the_users_x_1(monkeypatch):
    # kills: guidance-measures-the-mean
    seen = []
    monkeypatch.setattr(bridge_module, "measure", lambda degradation, degraded, size: seen.append(degraded.x_1))
    monkeypatch.setattr(bridge_module, "Guided", lambda *arguments: None)
    x_1 = images(1)
    bridge = Bridge(
        Gives(torch.zeros(1)), LinearFlow(), X0Target(), guidance=object(), degradation=object(),
        mean=mean_of_answer(images(2)),
    )  # fmt: skip
    bridge.trajectory({"x_1": x_1}, nfe=1, generator=draws())
    assert torch.equal(seen[0], x_1)


def test_a_mean_that_gives_x_1_back_is_no_mean():
    """Losses and walks are the same, to the bit: a mean of one call draws nothing."""
    # kills: mean-takes-a-draw

    class Same:
        network = nn.Identity()

        def trajectory(self, batch, *, nfe, generator):
            yield batch["x_1"]

    batch = {"x_0": images(0), "x_1": images(1)}
    for process in (I2SB(), SourceNoise(sigma_s=0.2)):
        plain = Bridge(Gives(torch.full((1,), 0.1)), process, X0Target())
        if isinstance(process, SourceNoise):
            plain.sampler = deterministic
        started = Bridge(plain.network, process, X0Target(), sampler=plain.sampler, mean=Mean(Same()))
        losses = [loss.item() for bridge in (plain, started) for _, loss in bridge.losses(batch, draws())]
        assert losses[0] == losses[1]
        walks = [list(bridge.trajectory(batch, nfe=3, generator=draws())) for bridge in (plain, started)]
        assert all(torch.equal(*pair) for pair in zip(*walks, strict=True))


# Whole runs


def test_the_page_as_it_stands(tmp_path, monkeypatch, capsys):
    # kills: a verb, recipe, option or key of the page that is renamed
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    page = page.split("## Two stages: start from a mean")[1].split("\n## ")[0]
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (table,) = re.findall(r"^```toml\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small = [
        "train.steps=2",
        "train.batch_size=2",
        "train.workers=0",
        "network.channels=8",
        "network.channel_mult=[1,1]",
        "data.size=32",
        "data.load_size=40",
        "data.validation_size=32",
    ]
    added = re.search(r"For PMRF's own process add `([^`]*)`", page)[1].split()
    for line in [*commands.splitlines(), f"{commands.splitlines()[1]}-pmrf {' '.join(added)}"]:
        with pytest.raises(SystemExit) as ended:
            main([*line.split()[1:], *small])
        assert ended.value.code == 0, (line, capsys.readouterr())
    wanted = MeanSettings.model_validate(tomllib.loads(table)["mean"])
    found = load_recipe("runs/two-stages/recipe.toml").mean
    assert (wanted.nfe, str(Path(wanted.run).absolute())) == (found.nfe, found.run)
    shutil.rmtree("runs/regression")
    assert load_run("runs/two-stages-pmrf", device="cpu").recipe.process["name"] == "source-noise"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


def first_stage(root, **settings):
    recipe = recipe_of(root, steps=3, **settings)
    return recipe.model_copy(update={"method": {"name": "regression"}, "method_label": "regression"})


@pytest.fixture(scope="module")
def regression(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "regression"
    train(first_stage(root), folder, cpu=True)
    return folder


def second_stage(root, mean, **settings):
    nfe = settings.pop("nfe", 1)
    return recipe_of(root, **settings).model_copy(update={"mean": MeanSettings(run=str(mean), nfe=nfe)})


def newest(folder):
    return latest_checkpoint(folder / "checkpoints")[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def two_stages(root, regression, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("runs") / "two", []
    train(second_stage(root, regression), folder, cpu=True, report=lambda event: lines.append(str(event)))
    return folder, lines


def test_the_run_folder_holds_a_copy_and_says_of_what(root, regression, two_stages):
    folder, lines = two_stages
    first, copy = newest(regression), newest(folder / "mean")
    assert not same(first.tensors("ema"), first.tensors("network"))
    assert same(copy.tensors("ema"), first.tensors("ema")) and copy.step == first.step == 3
    recipe = load_recipe(folder / "recipe.toml")
    assert recipe.mean.run == str(regression)
    assert is_same_run(recipe, recipe), "a run goes on by the recipe that it wrote"
    assert any(f"the answer of {regression}, step 3" in line and recipe.mean.sha256 in line for line in lines), lines
    # The first run is as it was, and no weight of it is among the second's.
    assert same(newest(regression).tensors("ema"), first.tensors("ema"))
    assert newest(folder).tensors("network").keys() == first.tensors("network").keys()


def test_weights_of_the_same_mean_are_not_called_another(root, two_stages, tmp_path):
    # kills: same-mean-called-another
    lines = []
    recipe = second_stage(root, two_stages[0] / "mean", init=str(two_stages[0]), steps=1)
    train(recipe, tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    assert any("starting from the weights of" in line for line in lines)
    assert not any("with another mean" in line for line in lines), lines


def test_no_student_learns_from_a_bridge_of_two_stages(two_stages):
    # kills: two-stages-taught
    with pytest.raises(UserError, match=r"teacher\.run: .* starts from another run's answer; take a bridge without"):
        student_recipe(two_stages[0])


def test_it_restores_from_one_folder_wherever_that_lies(root, regression, two_stages, tmp_path):
    """The start of the bridge is the answer of the first run, and it is what the run restores from."""
    # kills: mean-opened-where-it-was, mean-left-out-of-restoring
    folder = tmp_path / "moved"
    shutil.copytree(two_stages[0], folder)
    # The first run is nowhere: the recipe's path leads to nothing.
    text = (folder / "recipe.toml").read_text().replace(str(regression), str(tmp_path / "gone"))
    (folder / "recipe.toml").write_text(text)
    run, first = load_run(folder, device="cpu"), load_run(regression, device="cpu")
    x_1 = images(5)[:, :, :7, :5]
    (answer,) = first.restore_batch({"x_1": x_1[:1]}, nfe=1, generator=draws(1))
    start = run.method.mean({"x_1": pad_to_stride(x_1[:1], 2, 4)}, draws(1))
    assert torch.allclose(start[..., :7, :5], answer.clamp(-1, 1), atol=1e-6)
    # The walk of a bridge without [mean] from that answer.
    alone = replace(run, method=replace(run.method, mean=None))
    ours = run.restore_batch({"x_1": x_1[:1]}, nfe=2, generator=draws(1))
    theirs = alone.restore_batch({"x_1": start}, nfe=2, generator=draws(1))
    assert ours.shape == x_1[:1].shape and torch.allclose(ours, theirs[..., :7, :5], atol=1e-6)
    calls = []
    run.restore((x_1[0].permute(1, 2, 0).numpy() + 1) / 2, nfe=3, value_range=(0, 1),
                report=lambda done, total: calls.append((done, total)))  # fmt: skip
    assert calls[-1] == (4, 4)


def test_a_stopped_run_ends_with_the_same_bits_without_the_first_run(root, regression, two_stages, tmp_path):
    # kills: resumes-from-the-first-run
    moved = tmp_path / "first"
    shutil.copytree(regression, moved)
    asked = iter([False, False, True])
    recipe = second_stage(root, moved)
    train(recipe, tmp_path / "run", cpu=True, stop=lambda: next(asked))
    assert newest(tmp_path / "run").step == 3
    shutil.rmtree(moved)
    train(recipe, tmp_path / "run", cpu=True)
    assert digest(tmp_path / "run") == digest(two_stages[0])


def test_another_first_run_is_refused_on_resume_and_a_moved_one_is_not(root, regression, two_stages, tmp_path):
    # kills: other-mean-on-resume
    folder = tmp_path / "run"
    shutil.copytree(two_stages[0], folder)
    moved = tmp_path / "elsewhere"
    shutil.copytree(regression, moved)
    assert train(second_stage(root, moved, steps=7), folder, cpu=True).step == 7
    assert load_recipe(folder / "recipe.toml").mean.run == str(regression)
    other = tmp_path / "other"
    train(first_stage(root, seed=5), other, cpu=True)
    for recipe, why in (
        (second_stage(root, other, steps=8), "holds a run of other settings .mean.run"),
        (second_stage(root, tmp_path / "nowhere", steps=8), "nowhere: not a run folder .*the run started from"),
        (second_stage(root, regression, nfe=2, steps=8), "holds a run of other settings .mean.nfe"),
        (recipe_of(root, steps=8), "holds a run of other settings .mean"),
    ):
        with pytest.raises(UserError, match=why):
            train(recipe, folder, cpu=True)


def test_a_damaged_missing_linked_or_exchanged_copy_is_refused(root, regression, two_stages, tmp_path):
    # kills: mean-not-compared
    def fresh(name):
        shutil.copytree(two_stages[0], tmp_path / name)
        return tmp_path / name

    damaged = fresh("damaged")
    file = newest(damaged / "mean").folder / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    missing = fresh("missing")
    shutil.rmtree(missing / "mean")
    linked = fresh("linked")
    shutil.rmtree(linked / "mean")
    (linked / "mean").symlink_to(two_stages[0] / "mean")
    exchanged = fresh("exchanged")
    shutil.rmtree(exchanged / "mean")
    train(first_stage(root, seed=5), exchanged / "mean", cpu=True)
    nested = fresh("nested")
    (nested / "mean" / "recipe.toml").write_text((two_stages[0] / "recipe.toml").read_text())
    for folder, why in (
        (damaged, "ema.safetensors: damaged"),
        (missing, "mean: the copy of .*regression, which this run starts from, is missing"),
        (linked, "mean: is a link"),
        (exchanged, "other weights than the run was trained with"),
        (nested, "mean"),
    ):
        with pytest.raises(UserError, match=why):
            load_run(folder, device="cpu")
        with pytest.raises(UserError, match=why):
            train(second_stage(root, regression, steps=9), folder, cpu=True)


def test_what_cannot_be_a_first_stage_is_refused_and_claims_no_folder(root, regression, two_stages, tmp_path):
    # kills: mean-of-other-channels, mean-of-a-mean
    grey = first_stage(root)
    grey = grey.model_copy(update={"data": grey.data.model_copy(update={"channels": 1})})
    train(grey, tmp_path / "grey", cpu=True)
    (tmp_path / "empty").mkdir()
    shutil.copy(regression / "recipe.toml", tmp_path / "empty")
    deep = recipe_of(root, method="pix2pix", steps=1)
    deep = deep.model_copy(update={"network": {"name": "pix2pix-unet", "levels": 4, "channels": 4}})
    wide = deep.model_copy(update={"data": deep.data.model_copy(update={"size": 32})})
    wide = wide.model_copy(update={"network": {"name": "pix2pix-unet", "levels": 5, "channels": 4}})
    train(wide, tmp_path / "deep", cpu=True)
    wrong = second_stage(root, regression)
    wrong = wrong.model_copy(update={"mean": wrong.mean.model_copy(update={"sha256": "0" * 64})})
    for recipe, why in (
        (second_stage(root, tmp_path / "grey"), "mean.run: .*grey was trained with data.channels 1, this recipe has 3"),
        (second_stage(root, tmp_path / "nowhere"), "mean.run: .*nowhere: not a run folder"),
        (second_stage(root, tmp_path / "empty"), "mean.run: .*empty: no checkpoint yet"),
        (second_stage(root, two_stages[0]), "mean.run: .*starts from another run's answer itself"),
        (second_stage(root, tmp_path / "deep"), "the network of mean.run halves its input 5 times"),
        (wrong, "holds other weights .*than mean.sha256 says"),
    ):
        with pytest.raises(UserError, match=why) as refused:
            train(recipe, tmp_path / "run", cpu=True)
        assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["mean.nfe=2"], "mean.run: the key is missing"),
        (["mean={run = 5}"], "mean.run: .*string"),
        (["mean.run=a", "mean.rum=a"], "unknown key 'mean.rum'; did you mean 'run'"),
        (["mean.run=a", "mean.nfe=0"], "mean.nfe: .*greater than or equal to 1"),
        (["mean.run=a", 'mean.sha256="xy"'], "mean.sha256: .*pattern"),
    ],
)
def test_mistakes_in_the_table(settings, why):
    with pytest.raises(UserError, match=why):
        load_recipe("demo/denoise", settings)


def test_the_table_goes_with_a_bridge_from_x_1():
    # kills: mean-kept-by-a-preset
    for name, kept in (("bridge", True), ("flow", True), ("palette", False), ("regression", False), ("pix2pix", False)):
        table = method_preset(name)({"mean": {"run": "a"}, "network": {"name": "unet"}}, frozenset())
        assert ("mean" in table) == kept
    for settings, why in (
        (["method.name=regression"], r"\[mean\] is for method 'bridge', not 'regression'"),
        (["process.name=gaussian-prior", "target.name=x0"], "starts from noise"),
    ):
        with pytest.raises(UserError, match=why):
            load_recipe("demo/denoise", ["mean.run=a", *settings])


def test_the_moments_are_of_the_means_answers(root, regression, tmp_path):
    # kills: moments-of-x-1
    recipe = second_stage(root, regression, steps=1).model_copy(update={"target": {"name": "preconditioned"}})
    train(recipe, tmp_path / "run", cpu=True)
    found = load_recipe(tmp_path / "run" / "recipe.toml").target
    first, dataset = load_run(regression, device="cpu"), recipe.build_dataset("train")
    items = [dataset[i] for i in range(len(dataset))]
    pairs = [
        (item["x_0"], first.method.trajectory({"x_1": item["x_1"][None]}, nfe=1, generator=draws(1))) for item in items
    ]
    wanted = estimate_moments((x_0, next(iter(states))[0].clamp(-1, 1)) for x_0, states in pairs)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    plain = estimate_moments((item["x_0"], item["x_1"]) for item in items)
    assert found["var_1"] != pytest.approx(plain["var_1"], rel=0.05)


def test_the_tables_count_the_calls_of_both_stages(root, regression, two_stages, tmp_path):
    # kills: calls-of-the-mean-not-counted, evaluation-of-another-mean-reused
    folder = tmp_path / "run"
    shutil.copytree(two_stages[0], folder)
    run = load_run(folder, device="cpu")
    rules = open_evaluation(run.recipe, count=2).rules
    found = evaluate(run, open_evaluation(run.recipe, rules).dataset, nfe=[1, 3], metrics=["psnr"], protocol=rules)
    assert {row.name: row.nfe for row in found.rows if row.name.startswith("nfe")} == {"nfe 1": 2, "nfe 3": 4}
    source = root / "noisy" / "val"
    outcome = restore_files(run, source, tmp_path / "out", nfe=2)
    assert outcome.nfe == 3 and outcome.written == 3 and not outcome.problems
    table = run.recipe.mean
    moved = run.recipe.model_copy(update={"mean": table.model_copy(update={"run": "/elsewhere"})})
    other = run.recipe.model_copy(update={"mean": table.model_copy(update={"sha256": "1" * 64})})
    assert fingerprint_of(run) == fingerprint_of(replace(run, recipe=moved))
    assert fingerprint_of(run) != fingerprint_of(replace(run, recipe=other))
    assert json.loads((folder / "evaluation" / "held-out" / "evaluation.json").read_text())["rows"]


@pytest.mark.parametrize("kind", ["pix2pix", "bridge"])
def test_other_first_stages(root, tmp_path, kind):
    """Pix2pix draws its dropout, a bridge its noise, from each sample's own generator."""
    train(recipe_of(root, method=kind, steps=2), tmp_path / "first", cpu=True)
    recipe = second_stage(root, tmp_path / "first", nfe=3, steps=3)
    train(recipe, tmp_path / "whole", cpu=True)
    asked = iter([True, False, False])
    train(recipe, tmp_path / "stopped", cpu=True, stop=lambda: next(asked))
    train(recipe, tmp_path / "stopped", cpu=True)
    assert digest(tmp_path / "whole") == digest(tmp_path / "stopped")
    run = load_run(tmp_path / "whole", device="cpu")
    alone, together = (
        run.restore_batch({"x_1": images(1)[: len(given)]}, nfe=2, generator=given) for given in (draws(1), draws(2))
    )
    assert torch.allclose(alone[0], together[0], atol=1e-5)


class DependsOnBatch(nn.Module):
    """A network whose output depends on the number of images in its batch, in the first digit; it counts images."""

    def __init__(self):
        super().__init__()
        self.weight, self.images = nn.Parameter(torch.tensor(0.5)), 0

    def forward(self, x_t, t, condition=None):
        self.images += len(x_t)
        return self.weight * x_t + 0.1 * len(x_t)


def test_a_cached_answer_is_of_these_very_inputs_alone():
    # kills: mean-cache-of-x-1-alone, mean-cache-in-batches, mean-cache-while-restoring
    network, kept = DependsOnBatch().eval(), {}

    def cache(inputs, compute):
        name = b"".join(tensor.numpy().tobytes() for tensor in inputs)
        if name not in kept:
            kept[name] = compute()
        return kept[name]

    mean = Mean(Regression(network, LinearFlow(), X0Target(), condition=True), cache=cache)
    x_1 = images(0)
    batch = {"x_0": images(1), "x_1": x_1, "condition": images(2)}
    first = mean(batch, draws())
    assert torch.equal(first, (0.5 * x_1 + 0.1).clamp(-1, 1))
    assert torch.equal(first, mean(batch, draws())) and network.images == 2
    mean(batch | {"condition": images(3)}, draws())
    assert network.images == 4
    mean({"x_1": x_1, "condition": batch["condition"]}, draws())  # restoring
    assert network.images == 6 and len(kept) == 4


def test_what_the_cache_holds_changes_no_bit(root, regression, tmp_path):
    # kills: mean-cache-resumed-without
    recipe = recipe_of(root, data="paired", steps=4)
    recipe = recipe.model_copy(
        update={
            "mean": MeanSettings(run=str(regression), cache=True),
            "data": recipe.data.model_copy(update={"crop": "center"}),
        }
    )
    train(recipe, tmp_path / "whole", cpu=True)
    files = [file for file in (tmp_path / "whole/mean/cache").rglob("*") if file.is_file()]
    assert files
    asked = iter([False, True])
    train(recipe, tmp_path / "stopped", cpu=True, stop=lambda: next(asked))
    kept = [file for file in (tmp_path / "stopped/mean/cache").rglob("*") if file.is_file()]
    kept[0].write_bytes(b"damaged")
    for file in kept[1:]:
        file.unlink()
    train(recipe, tmp_path / "stopped", cpu=True)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")
    again = [file for file in (tmp_path / "stopped/mean/cache").rglob("*") if file.is_file()]
    assert {file.name for file in again} <= {file.name for file in files}
    assert fingerprint_of(load_run(tmp_path / "whole", device="cpu")) == fingerprint_of(
        load_run(tmp_path / "stopped", device="cpu")
    )


def test_a_cache_that_would_never_be_read_is_refused(root, regression, two_stages, tmp_path):
    # kills: mean-cache-of-random-crops, mean-cache-of-drawn-noise
    random = second_stage(root, regression)
    fixed = random.model_copy(update={"data": random.data.model_copy(update={"crop": "center"})})
    train(recipe_of(root, steps=1), tmp_path / "bridge", cpu=True)
    of_a_bridge = fixed.model_copy(update={"mean": MeanSettings(run=str(tmp_path / "bridge"))})
    cases = (
        (random, "mean.cache: crops or augmentations are drawn"),
        (fixed, "mean.cache: .degradation. is drawn"),
        (of_a_bridge, "mean.cache: only outputs of a regression"),
    )
    for recipe, why in cases:
        cached = recipe.model_copy(update={"mean": recipe.mean.model_copy(update={"cache": True})})
        with pytest.raises(UserError, match=why):
            train(cached, tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()
