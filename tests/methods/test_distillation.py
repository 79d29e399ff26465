"""Students of one or two calls: consistency distillation, and distribution matching by an inverse bridge."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from killing import digest, photos, recipe_of
from torch import nn

from i2i_bridge.bridge.processes import I2SB, BrownianBridge, LinearFlow, SourceNoise, VPBridge
from i2i_bridge.bridge.samplers import deterministic
from i2i_bridge.bridge.targets import I2SBTarget, X0Target
from i2i_bridge.bridge.time_grids import quadratic, uniform
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.subjects import fingerprint_of
from i2i_bridge.methods.curriculum import Curriculum
from i2i_bridge.methods.distillation import Consistency, InverseBridge, consistency, walked
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.shared import write_shared
from i2i_bridge.training.init import recipe_from
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step
from i2i_bridge.training.teacher import student_recipe
from i2i_bridge.training.trainer import train

M, V = 0.7, 0.3
"""X_0 | X_1 ~ N(M X_1, V), pixel by pixel."""
PROCESSES = [I2SB(), BrownianBridge(), VPBridge(), SourceNoise(sigma_s=0.4)]


def draws(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def pair(count=4, seed=0):
    """Pairs of the toy problem."""
    draw = torch.Generator().manual_seed(seed)
    x_1, z = torch.randn(2, count, 3, 8, 8, generator=draw, dtype=torch.float64)
    return M * x_1 + V**0.5 * z, x_1


def moments(process, t, x):
    """Mean as a share of X_1 and variance of X_t | X_1, and b_t; for images."""
    a, b, c = (value.reshape(-1, 1, 1, 1) for value in process.coefficients(t))
    return a + b * M, b**2 * V + c**2, b


def posterior_mean(process):
    """The exact teacher: E[X_0 | X_t, X_1]."""

    def network(x_t, t, x_1):
        share, variance, b = moments(process, t, x_t)
        return M * x_1 + torch.where(variance > 0, b * V / variance, 0.0) * (x_t - share * x_1)

    return network


class Walk:
    """The exact consistency function of the discrete walk: the end of the deterministic sampler from (x_t, t)."""

    def __init__(self, process, times):
        self.process, self.times = process, times

    def __call__(self, x_t, t, x_1):
        ends = []
        for x, time, source in zip(x_t.split(1), t, x_1.split(1), strict=True):
            predict = lambda x, t: posterior_mean(self.process)(x, t, source)  # noqa: B023, E731
            left = self.times[self.times <= time]
            ends += list(deterministic(self.process, predict, source, left, torch.Generator(), start=x))[-1:]
        return torch.cat(ends)


class At(Curriculum):
    """A curriculum of fixed times."""

    def times(self, count, generator, numbers=None):
        return torch.linspace(0.05, 0.7, count, dtype=torch.float64)


def loss_of(method, batch, count=4):
    ((name, loss),) = method.losses(batch, draws(count))
    assert name == "network"
    return loss


@pytest.mark.parametrize("grid", [uniform, quadratic])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_end_of_the_teachers_walk_is_the_fixed_point(process, grid):
    """With an exact teacher the loss of the exact consistency function is 0, and that of other functions is not."""
    # kills: consistency-step-with-noise, consistency-asks-at-the-same-time, consistency-without-the-teacher
    steps = 5
    x_0, x_1 = pair()
    exact = Walk(process, grid(process, steps))
    student = Consistency(
        exact, process, X0Target(), condition=True, grid=grid, curriculum=At(), steps=steps,
        teacher=posterior_mean(process), average=exact,
    )  # fmt: skip
    batch = {"x_0": x_0, "x_1": x_1}
    assert loss_of(student, batch) < 1e-10
    assert loss_of(replace(student, network=posterior_mean(process)), batch) > 1e-5
    assert loss_of(replace(student, average=posterior_mean(process)), batch) > 1e-5


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_walk_is_the_probability_flow_ode(process):
    """Its end is known: the ODE keeps the place of X_t in its distribution, counted in standard deviations."""
    # kills: consistency-step-with-noise
    x_0, x_1 = pair()
    t = torch.full((4,), 0.75, dtype=torch.float64)
    x_t = process.marginal(x_0, x_1, t).sample(draws(4))
    share, variance, _ = moments(process, t, x_t)
    known = M * x_1 + (V / variance) ** 0.5 * (x_t - share * x_1)
    times, x, now = uniform(process, 400), x_t, t
    while now[0] > 0:
        x, now = walked(process, lambda x, t: posterior_mean(process)(x, t, x_1), x_1, x, now, times, draws(4))
    assert (x - known).abs().max() < 0.02
    assert (posterior_mean(process)(x_t, t, x_1) - known).abs().max() > 0.1


def test_at_time_0_the_function_is_its_input_to_the_last_bit():
    # kills: boundary-forgotten, boundary-for-all
    x, t = pair()[0], torch.tensor([0, 0.5, 0, 1], dtype=torch.float64)
    answers = torch.full_like(x, torch.nan)
    answers[1::2] = 0.25

    def predict(x, t):
        assert bool((t > 0).all())  # a target need not be defined at 0
        return answers

    found = consistency(predict, x, t)
    assert torch.equal(found[0::2], x[0::2]) and torch.equal(found[1::2], answers[1::2])


def test_samples_step_from_their_own_times():
    """One call for samples of different times is the sampler's step of each of them; leaving X_1 draws noise."""
    # kills: walked-by-the-first-time
    process, times = I2SB(), quadratic(I2SB(), 4)
    x_0, x_1 = pair()
    t = times[[0, 1, 3, 2]]
    x_t = process.marginal(x_0, x_1, t).sample(draws(4))
    predict = lambda x, t: posterior_mean(process)(x, t, x_1)  # noqa: E731
    x_s, s = walked(process, predict, x_1, x_t, t, times, draws(4, seed=9))
    assert torch.equal(s, times[[1, 2, 4, 3]])
    for i, number in enumerate((0, 1, 3, 2)):
        one = lambda x, t: posterior_mean(process)(x, t, x_1[i : i + 1])  # noqa: B023, E731
        words = {"start": x_t[i : i + 1]} if number else {}
        state = next(deterministic(process, one, x_1[i : i + 1], times[number:], draws(1, seed=9 + i), **words))
        assert torch.allclose(x_s[i : i + 1], state, atol=1e-12)


class Linear(nn.Module):
    """A network that can be differentiated."""

    def __init__(self, seed):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(3, 3, 1, 1, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x_t, t, condition):
        return self.layer(x_t) * t.reshape(-1, 1, 1, 1)


def test_only_the_side_at_t_learns():
    """The gradient is that to a fixed target, also where the average is the network itself."""
    # kills: consistency-through-the-target
    x_0, x_1 = pair()
    network, teacher = Linear(0), Linear(1)
    student = Consistency(network, BrownianBridge(), I2SBTarget(), steps=3, teacher=teacher)
    gradients = []
    for average in (network, copy.deepcopy(network)):
        network.zero_grad()
        loss_of(student.taught(teacher, average), {"x_0": x_0, "x_1": x_1}).backward()
        gradients.append(network.layer.weight.grad.clone())
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0
    assert average.layer.weight.grad is None and teacher.layer.weight.grad is None


@pytest.mark.parametrize("kind", [Consistency, InverseBridge])
def test_a_samples_times_and_noise_are_its_own(kind):
    """They come from the sample's generator, which is keyed by seed and number, in batches of any size."""
    # kills: walk-noise-of-the-first-sample
    x_0, x_1 = pair()
    network = Linear(0)
    student = kind(network, BrownianBridge(), I2SBTarget(), steps=3).taught(Linear(1), Linear(2))
    if kind is InverseBridge:
        student.auxiliary = Linear(3)

    def losses(part):
        batch = {"x_0": x_0[part], "x_1": x_1[part], "number": torch.arange(8, 12)[part]}
        return [loss.item() for _, loss in student.losses(batch, draws(4)[part])]

    halves = zip(losses(slice(0, 1)), losses(slice(1, 4)), strict=True)
    assert losses(slice(0, 4)) == pytest.approx([one / 4 + three * 3 / 4 for one, three in halves], rel=1e-5)


class Scaled(nn.Module):
    """G(x) = scale x: images of variance scale^2 where x has 1."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, x_t, t, condition):
        return self.scale * x_t


def gaussian_bridge(process, variance):
    """E[X_0 | X_t] for X_0 ~ N(0, variance) and X_1 = 0."""

    def network(x_t, t, condition):
        _, b, c = (value.reshape(-1, 1, 1, 1) for value in process.coefficients(t))
        return b * variance / (b**2 * variance + c**2) * x_t

    return network


def test_the_inverse_bridge_leads_to_the_teachers_distribution():
    """With the exact auxiliary bridge the student's loss is 0 at the teacher's variance, and falls towards it."""
    # kills: inverse-bridge-flees, inverse-bridge-not-through-the-state
    process = SourceNoise(sigma_s=1.0)
    batch = {"x_0": torch.zeros(256, 1, 8, 8, dtype=torch.float64)}
    batch["x_1"] = batch["x_0"]
    found = {}
    for scale in (0.3, 0.5, 0.8):
        network = Scaled(scale)
        student = InverseBridge(
            network, process, X0Target(), steps=1, teacher=gaussian_bridge(process, 0.25),
            auxiliary=gaussian_bridge(process, scale**2),
        )  # fmt: skip
        (_, _), (name, loss) = student.losses(batch, draws(256))
        loss.backward()
        assert name == "network"
        found[scale] = (loss.item(), network.scale.grad.item())
    assert abs(found[0.5][0]) < 1e-6 and found[0.3][0] > 1e-3 and found[0.8][0] > 1e-5
    assert found[0.3][1] < -1e-2 and found[0.8][1] > 1e-2 and abs(found[0.5][1]) < 1e-6


def test_the_auxiliary_bridge_learns_from_the_students_images_alone():
    # kills: auxiliary-learns-from-x-0, auxiliary-moves-the-student
    x_0, x_1 = pair()
    network = Scaled(0.5)
    student = InverseBridge(network, LinearFlow(), X0Target()).taught(Linear(1), network)
    first, second = (
        next(student.losses({"x_0": images, "x_1": x_1}, draws(4)))[1] for images in (x_0, torch.zeros_like(x_0))
    )
    assert first.item() == second.item()
    first.backward()
    assert network.scale.grad is None and student.companions()["auxiliary"].layer.weight.grad is not None
    assert student.teacher.layer.weight.grad is None


class Noted(nn.Module):
    """scale x, plus `beyond` in the right half of the image; it keeps the times and labels that it is called with."""

    casts_inputs = True

    def __init__(self, scale, beyond=0.0):
        super().__init__()
        self.scale, self.beyond, self.seen = scale, beyond, []

    def forward(self, x_t, t, condition, label):
        self.seen += zip(t.tolist(), label.tolist(), strict=True)
        right = torch.arange(x_t.shape[-1]) >= x_t.shape[-1] // 2
        return self.scale * x_t + self.beyond * right


class AtTheirOwn(Curriculum):
    """Times by a sample's number."""

    def times(self, count, generator, numbers=None):
        return (numbers + 1).double() / 10


def inverse(weight="uniform", steps=1, beyond=0.0):
    """An inverse bridge of networks that are called with labels."""
    return InverseBridge(
        Noted(0.5), BrownianBridge(), I2SBTarget(), label=True, steps=steps, curriculum=AtTheirOwn(weight=weight),
        teacher=Noted(0.4, beyond), auxiliary=Noted(0.3, beyond),
    )  # fmt: skip


def losses_of(student, batch, at=slice(0, 8)):
    part = {name: value[at] for name, value in batch.items()}
    return [loss.item() for _, loss in student.losses(part, draws(8)[at])]


def labelled(count=8):
    x_0, x_1 = pair(count)
    return {"x_0": x_0, "x_1": x_1, "number": torch.arange(count), "label": torch.arange(count) % 3}


def test_the_inverse_bridge_weighs_samples_as_a_bridge_does():
    """The mean over samples of weight(t) times what each costs without a weight, for both losses."""
    # kills: inverse-bridge-unweighted
    batch = labelled()
    weights = Curriculum(weight="min-snr").weights(BrownianBridge(), I2SBTarget(), (batch["number"] + 1) / 10)
    assert weights.max() > 2 * weights.min()
    alone = [losses_of(inverse(), batch, slice(i, i + 1)) for i in range(8)]
    wanted = (weights @ torch.tensor(alone, dtype=torch.float64) / 8).tolist()
    assert losses_of(inverse("min-snr"), batch) == pytest.approx(wanted, rel=1e-5)


def test_the_inverse_bridge_learns_nothing_from_known_pixels():
    # kills: inverse-bridge-of-known-pixels
    batch = labelled()
    mask = torch.zeros(8, 1, 8, 8, dtype=torch.float64)
    mask[..., :4] = 1
    masked = batch | {"mask": mask}
    assert losses_of(inverse(beyond=9.0), masked) == pytest.approx(losses_of(inverse(), masked), rel=1e-9)
    assert losses_of(inverse(beyond=9.0), batch)[0] > 10 * losses_of(inverse(), batch)[0]


def test_the_inverse_bridge_asks_at_its_own_times_and_with_labels():
    """The student at the times of its few calls, teacher and auxiliary at those of the curriculum."""
    # kills: inverse-bridge-forgets-the-label, inverse-bridge-learns-from-x-1-alone
    batch, student = labelled(), inverse(steps=3)
    times, labels = set(), set()
    for seed in range(3):
        list(student.losses(batch, draws(8, seed=100 * seed)))
    for t, label in student.network.seen:
        times.add(round(t, 6))
        labels.add(label)
    assert times == {1.0, 0.666667, 0.333333} and labels == {0, 1, 2}
    for network in (student.teacher, student.auxiliary):
        assert set(network.seen) == {((n + 1) / 10, n % 3) for n in range(8)}


# Whole runs

METHODS = ("consistency", "inverse-bridge")
FEW = ["train.steps=6", "train.seed=3"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def teacher(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bridge"
    train(recipe_of(root, steps=3), folder, cpu=True)
    return folder


@pytest.fixture(scope="module", params=METHODS)
def student(request, teacher, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("runs") / "student", []
    recipe = student_recipe(teacher, FEW, method=request.param)
    train(recipe, folder, cpu=True, report=lambda event: lines.append(str(event)))
    return request.param, folder, lines


def newest(folder):
    return latest_checkpoint(folder / "checkpoints")[0]


def test_a_student_is_a_run_like_any_other(teacher, student, tmp_path):
    """It restores from its folder alone, without the teacher's copy, and begins with the teacher's weights."""
    # kills: evaluation-of-a-student-depends-on-its-teachers-path, auxiliary-said-to-start-afresh
    method, folder, lines = student
    recipe = load_recipe(folder / "recipe.toml")
    calls = {"consistency": 2, "inverse-bridge": 1}[method]
    assert (recipe.method["name"], recipe.method_label, recipe.sample.nfe) == (method, method, calls)
    assert recipe.evaluate.nfe == [1, 2] and any(f"learning from {teacher}, step 3" in line for line in lines), lines
    assert not any("starts afresh" in line for line in lines), lines  # the auxiliary bridge is a copy of the teacher
    first = newest(teacher).tensors("ema")
    copied = newest(folder / "teacher").tensors("ema")
    assert all(torch.equal(first[name], copied[name]) for name in first)
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    shutil.rmtree(moved / "teacher")
    text = (moved / "recipe.toml").read_text().replace(str(teacher), str(tmp_path / "gone"))
    (moved / "recipe.toml").write_text(text)
    runs = [load_run(place, device="cpu") for place in (folder, moved)]
    assert fingerprint_of(runs[0]) == fingerprint_of(runs[1])
    x_1 = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    answers = [run.restore_batch({"x_1": x_1}, nfe=2, generator=draws(1)) for run in runs]
    assert torch.equal(*answers) and answers[0].isfinite().all()


@pytest.mark.parametrize(("process", "calls"), [("i2sb", 2), ("ot-ode", 1), ("source-noise", 1), ("vp-bridge", 2)])
def test_one_call_where_the_walk_from_x_1_has_one_end(root, tmp_path, process, calls):
    # kills: two-calls-everywhere
    recipe = recipe_of(root).model_copy(update={"process": {"name": process}, "target": {"name": "x0"}})
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert student_recipe(tmp_path).sample.nfe == calls
    assert student_recipe(tmp_path, ["sample.nfe=5"]).sample.nfe == 5
    assert student_recipe(tmp_path, ["method.steps=3"], method="inverse-bridge").sample.nfe == 3


def test_a_shared_student_is_fine_tuned_where_its_teacher_is_named(teacher, student, tmp_path):
    # kills: a refusal that names a folder which no user made
    write_shared(load_run(student[1], device="cpu"), tmp_path / "shared", "")
    with pytest.raises(UserError, match=r"shared: has no copy of its teacher \(a shared student.*: teacher\.run=RUN"):
        recipe_from(tmp_path / "shared")
    data = load_recipe(student[1] / "recipe.toml").data.root
    recipe = recipe_from(tmp_path / "shared", [f"teacher.run={teacher}", f"data.root={data}", "train.steps=1"])
    assert train(recipe, tmp_path / "tuned", cpu=True).finished


def test_it_begins_as_its_teacher(teacher, tmp_path):
    train(student_recipe(teacher, FEW), tmp_path / "student", cpu=True, stop=lambda: True)
    begun = load_run(tmp_path / "student", device="cpu", checkpoint=0)
    x_1 = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours, theirs = (run.restore_batch({"x_1": x_1}, nfe=1, generator=draws(1)) for run in (begun, load_run(teacher)))
    assert torch.equal(ours, theirs)


def test_a_stopped_distillation_ends_with_the_same_bits_without_the_teacher(teacher, student, tmp_path, monkeypatch):
    # kills: student-resumes-from-the-teachers-folder
    method, folder, _ = student
    moved = tmp_path / "teacher"
    shutil.copytree(teacher, moved)
    asked = iter([False, False, True])
    recipe = student_recipe(moved, FEW, method=method)
    train(recipe, tmp_path / "run", cpu=True, stop=lambda: next(asked))
    assert newest(tmp_path / "run").step == 3
    shutil.rmtree(moved)
    with pytest.raises(SystemExit) as ended:
        main(["distill", str(moved), "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert ended.value.code == 0
    assert digest(tmp_path / "run") == digest(folder)


def test_the_target_network_is_the_moving_average(root, teacher):
    # kills: target-is-the-network
    recipe = student_recipe(
        teacher, ["network.dropout=0.0", "train.ema_decay=0.9", "train.lr=0.1", "train.warmup_steps=0"]
    )
    frozen = load_run(teacher, device="cpu").method.network
    state = TrainState(recipe, torch.device("cpu"), None, frozen)
    dataset, accelerator = recipe.build_dataset("train"), Accelerator(cpu=True)
    items = [dataset.sample(n) for n in range(4)]
    batch = {name: torch.stack([item[name] for item in items]) for name in ("x_0", "x_1")}
    training_step(state, batch, accelerator, torch.float32)
    by_hand = {}
    for name, average in (("ema", state.ema), ("network", state.network)):
        method = replace(state.method, average=copy.deepcopy(average).eval())
        numbers = torch.arange(4, 8)
        keyed = [generator(state.settings.seed, "t and noise", int(n)) for n in numbers]
        ((_, loss),) = method.losses(batch | {"number": numbers}, keyed)
        by_hand[name] = loss.item()
    outcome = training_step(state, batch, accelerator, torch.float32)
    assert by_hand["ema"] != pytest.approx(by_hand["network"], rel=1e-3)
    assert outcome.losses["network"].item() == pytest.approx(by_hand["ema"], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_a_teacher_is_one_line_and_claims_no_folder(root, teacher, method, tmp_path, capsys):
    regression = recipe_of(root, steps=1).model_copy(update={"method": {"name": "regression"}})
    train(regression, tmp_path / "regression", cpu=True)
    train(recipe_of(root, steps=1, method="pix2pix"), tmp_path / "pix2pix", cpu=True)
    (tmp_path / "empty").mkdir()
    for words, why in (
        (
            [str(tmp_path / "regression")],
            "is a run of method 'regression'; a student learns from one of method 'bridge'",
        ),
        ([str(tmp_path / "pix2pix")], "is a run of method 'pix2pix'; a student learns from one of method 'bridge'"),
        ([str(tmp_path / "nowhere")], "nowhere: not a run folder"),
        ([str(tmp_path / "empty")], "empty: not a run folder"),
        ([str(teacher), "process.name=brownian"], "was trained with process {'name': 'i2sb'}, the student has"),
        ([str(teacher), "network.classes=2"], "was trained with classes 0, the student has 2"),
        ([str(teacher), "method.steps=0"], "steps 0: must lie in 1..1000"),
        ([str(teacher), "--method", "pix2pix"], "--method pix2pix: a student learns by consistency or inverse-bridge"),
    ):
        words = [*words, *([] if "--method" in words else ["--method", method])]
        with pytest.raises(SystemExit) as ended:
            main(["distill", *words, "--out", str(tmp_path / "student"), "--device", "cpu"])
        printed = capsys.readouterr().err
        assert ended.value.code == 2 and why in " ".join(printed.split()), printed
        assert not (tmp_path / "student").exists()
    with pytest.raises(UserError, match=r"give teacher\.run, or use `i2i-bridge distill RUN`"):
        load_recipe(teacher / "recipe.toml", [f"method.name={method}"])
    with pytest.raises(UserError, match="leave it out"):
        load_recipe(teacher / "recipe.toml", ["teacher.run=runs/bridge"])


def test_another_teacher_is_refused_on_resume(root, teacher, student, tmp_path):
    # kills: other-teacher-on-resume
    method, folder, _ = student
    other = tmp_path / "other"
    train(recipe_of(root, steps=3, seed=9), other, cpu=True)
    shutil.copytree(folder, tmp_path / "run")
    with pytest.raises(UserError, match=r"holds a run of other settings \(teacher\."):
        train(student_recipe(other, FEW, method=method), tmp_path / "run", cpu=True)


def test_a_mistyped_teacher_does_not_go_on_with_another_run(root, teacher, student, tmp_path, capsys):
    """RUN that is not there, and --out with a run of anything: one line, and that run is as it was."""
    # kills: any-run-goes-on
    method, folder, _ = student
    for run, out, words, why in (
        ("techer", teacher, method, "techer: not a run folder"),
        ("techer", folder, method, "techer: not a run folder"),
    ):
        before = digest(out)
        with pytest.raises(SystemExit) as ended:
            main(["distill", str(tmp_path / run), "train.steps=9", "--method", words, "--out", str(out)])
        printed = " ".join(capsys.readouterr().err.split())
        assert ended.value.code == 2 and why in printed, printed
        assert digest(out) == before


def test_a_student_leaves_its_teachers_condition_scale_out(root, teacher, tmp_path):
    # kills: students-scale
    shutil.copytree(teacher, tmp_path / "teacher")
    file = tmp_path / "teacher" / "recipe.toml"
    settings = ["network.condition_channels=3", "network.condition_dropout=0.1", "sample.condition_scale=2.0"]
    file.write_text(load_recipe(file, settings).to_toml())
    assert student_recipe(tmp_path / "teacher").sample.condition_scale is None


def test_the_students_times_do_not_depend_on_those_of_the_auxiliary_bridge():
    """With stratified t both would fall into a sample's stratum: images of t' = 1 would be judged at large t alone."""
    # kills: times-of-one-stratum
    x_0, x_1 = pair(16)
    seen = {}

    class Spy(Linear):
        def forward(self, x_t, t, condition):
            seen.setdefault(self.role, []).append(t.clone())
            return super().forward(x_t, t, condition)

    network, judge = Spy(1), Spy(1)
    network.role, judge.role = "student", "teacher"
    curriculum = Curriculum(time="stratified", batch_size=16)
    student = InverseBridge(network, LinearFlow(), X0Target(), curriculum=curriculum, steps=2, teacher=judge)
    student.auxiliary = Linear(1)
    for first in range(0, 160, 16):
        batch = {"x_0": x_0, "x_1": x_1, "number": torch.arange(first, first + 16)}
        list(student.losses(batch, draws(16, seed=first)))
    own, t = (torch.cat(seen[role]) for role in ("student", "teacher"))
    early = t[own == 1] < 0.5
    assert 0.3 < early.double().mean() < 0.7
