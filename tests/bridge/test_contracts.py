"""Contract checks of networks and metrics, and what a user hears of an exception in a part of their own."""

import re
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from i2i_bridge.bridge.contract import check_network
from i2i_bridge.bridge.predictor import call_network
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.metrics.base import Estimate, ItemMetric, Metric, SetMetric
from i2i_bridge.metrics.contract import check_metric
from i2i_bridge.registry import METRICS, NETWORKS

SMALL = {"unet": {"channels": 8, "channel_mult": [1, 2]}, "pix2pix-unet": {"channels": 8, "levels": 2}}


@pytest.mark.parametrize("condition_channels", [0, 3])
# adm256 is a `unet` of 2 GB; a network of spandrel is frozen and has no condition: runs/test_spandrel.py. Nor has an
# autoencoder: methods/test_latent.py
@pytest.mark.parametrize(
    "name", [name for name in NETWORKS.names() if name not in ("adm256", "autoencoder", "spandrel")]
)
def test_built_in_networks_keep_the_contract(name, condition_channels):
    network = NETWORKS.build({"name": name, "condition_channels": condition_channels, **SMALL[name]})
    assert check_network(network, condition_channels=condition_channels, size=32) == []


@pytest.mark.parametrize("name", METRICS.names())
def test_built_in_metrics_keep_the_contract(name):
    assert check_metric(METRICS.get(name)()) == []


class Good(nn.Module):
    """A network that keeps the contract; those below break it in one place each."""

    def __init__(self):
        super().__init__()
        self.inner, self.time = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(1, 3)

    def forward(self, x_t, t, condition=None):
        return self.inner(x_t) + self.time(t[:, None])[..., None, None]


def test_a_network_that_keeps_the_contract():
    assert check_network(Good()) == []


def broken(change):
    class Broken(Good):
        def forward(self, x_t, t, condition=None):
            return change(self, super().forward, x_t, t)

    return Broken()


def with_idle_weight():
    network = Good()
    network.idle = nn.Linear(2, 2)
    return network


def random_in_evaluation(self, forward, x_t, t):
    return forward(x_t, t) + torch.rand(())


def only_float32(self, forward, x_t, t):
    output = forward(x_t, t)
    if output.dtype != torch.float32:
        raise TypeError("float32 only")
    return output


def only_square(self, forward, x_t, t):
    return forward(x_t, t) + 0 * x_t.transpose(2, 3)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda x_t, t, condition: x_t, "is not a torch.nn.Module"),
        (nn.Identity(), "no weights to train"),
        (with_idle_weight(), "the weight 'idle.weight' takes no part"),
        (broken(lambda self, forward, x_t, t: forward(x_t, t)[:, :1]), "gave (2, 1, 64, 64) for x_t of shape (2, 3"),
        (broken(lambda self, forward, x_t, t: None), "gave NoneType"),
        (broken(lambda self, forward, x_t, t: forward(x_t, t) / 0), "is not finite"),
        (broken(lambda self, forward, x_t, t: forward(x_t.mul_(2), t)), "changes its input in place"),
        (broken(random_in_evaluation), "draws at random"),
        (broken(lambda self, forward, x_t, t: forward(x_t.flip(0), t)), "depends on the rest of the batch"),
        (broken(only_square), "for oblong images"),
        (broken(only_float32), "under bfloat16 autocast"),
        (broken(lambda self, forward, x_t, t: forward(x_t.float(), t)), "with bfloat16 weights"),
        (broken(lambda self, forward, x_t, t: 1 / 0), "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_check_network_names_what_is_wrong(network, words):
    # kills: a check that is left out; a mistake that ends in a traceback
    found = check_network(network)
    assert any(words in problem for problem in found), found
    assert not any("\n" in problem for problem in found)


def test_nothing_more_is_said_of_what_is_not_finite():
    class Endless(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(3, 3, 1)

        def forward(self, x_t, t, condition=None):
            return self.inner(x_t) * float("nan")

    class Unknown(Metric):
        label, higher_is_better = "unknown", True

        def __call__(self, restored, clean):
            return torch.full((len(clean),), float("nan"))

    assert check_network(Endless()) == ["the output is not finite"]
    assert check_metric(Unknown()) == ["gave NaN"]


def test_networks_get_their_inputs_in_the_dtype_of_their_weights():
    # kills: time-in-float64-for-any-network built-in-time-rounded
    seen = []

    class Asked(Good):
        def forward(self, x_t, t, condition=None):
            seen.append((x_t.dtype, t.dtype))
            return x_t

    x_t, t = torch.zeros(1, 3, 8, 8), torch.tensor([1 / 3], dtype=torch.float64)
    call_network(Asked(), x_t, t, None)
    call_network(Asked().to(torch.bfloat16), x_t, t, None)
    network = Asked()
    network.casts_inputs = True
    call_network(network, x_t, t, None)
    assert seen == [
        (torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float64),
    ]  # fmt: skip
    assert all(NETWORKS.build({"name": name, **table}).casts_inputs for name, table in SMALL.items())


class Error(Metric):
    """Mean squared error."""

    label = "MSE"
    higher_is_better = False

    def __call__(self, restored, clean):
        return (restored - clean).square().mean((1, 2, 3))


def metric_with(call=None, **members):
    return type("Changed", (Error,), members | ({} if call is None else {"__call__": call}))()


class OneNumber(ItemMetric):
    label, higher_is_better = "one", True
    value = 1.0

    def of(self, sample):
        return self.value


class Distance(SetMetric):
    label, higher_is_better, extractor = "distance", False, "inception"

    def missing(self, channels=3):
        return None

    def estimate(self, restored, reference, *, seed):
        return Estimate(float(abs(np.median(restored) - np.median(reference))))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (object(), "is none of Metric, ItemMetric and SetMetric"),
        (metric_with(label=None), "label is missing"),
        (metric_with(higher_is_better=None), "higher_is_better is missing"),
        (metric_with(higher_is_better=True), "noise scores better than the clean image itself"),
        (metric_with(lambda self, restored, clean: (restored - clean).square().mean()), "gave () for 2 images"),
        (metric_with(lambda self, restored, clean: [0.0, 0.0]), "gave list for 2 images"),
        (metric_with(lambda self, restored, clean: (restored - clean).mean() + torch.zeros(2)), "rest of the batch"),
        (metric_with(lambda self, restored, clean: restored.sub_(clean).square().mean((1, 2, 3))), "in place"),
        (metric_with(lambda self, restored, clean: torch.rand(2)), "equal images get different values"),
        (metric_with(lambda self, restored, clean: torch.rand(2)), "global random generator"),
        (metric_with(lambda self, restored, clean: torch.full((len(clean),), torch.nan)), "gave NaN"),
        (metric_with(lambda self, restored, clean: 1 / 0), "ZeroDivisionError"),
        (metric_with(missing=lambda self, channels=3: 7), "missing() gave int"),
        (type("Words", (OneNumber,), {"value": "much"})(), "of() gave str"),
        (type("NoSamples", (OneNumber,), {"samples": 0})(), "samples is 0"),
        (type("Number", (Distance,), {"estimate": lambda self, a, b, *, seed: 1.0})(), "estimate() gave float"),
        (type("Turned", (Distance,), {"higher_is_better": True})(), "sets apart score better"),
        (
            type("Ordered", (Distance,), {"estimate": lambda self, a, b, *, seed: Estimate(float(a[0, 0]))})(),
            "order of the images",
        ),
    ],
)  # fmt: skip
def test_check_metric_names_what_is_wrong(metric, words):
    # kills: a check that is left out
    found = check_metric(metric)
    assert any(words in problem for problem in found), found


def test_metrics_that_keep_the_contract():
    for metric in (Error(), OneNumber(), Distance()):
        assert check_metric(metric) == []


PARTS = """
from dataclasses import dataclass
import torch
from torch import nn
from i2i_bridge import Degradation, Degraded, Metric, register_dataset, register_degradation, register_metric
from i2i_bridge import register_guidance, register_network, register_sampler
from i2i_bridge.guidance.base import Guidance

@register_network("net")
class Net(nn.Module):
    def __init__(self, wrong: str = ""):
        super().__init__()
        self.wrong, self.inner = wrong, nn.Conv2d(3, 3, 1)
    def forward(self, x_t, t, condition=None):
        if self.wrong == "raise":
            {}["forward"]
        return self.inner(x_t)[..., :3] if self.wrong == "shape" else self.inner(x_t)

@register_network("two")
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 3, 1)
    def forward(self, x, time):
        return self.inner(x)

@register_network("still")
class Still(nn.Module):
    def forward(self, x_t, t, condition=None):
        return x_t

@register_metric("score")
class Score(Metric):
    label, higher_is_better = "score", True
    def __call__(self, restored, clean):
        raise RuntimeError("no score today")

@register_metric("scalar")
class Scalar(Metric):
    label, higher_is_better = "scalar", True
    def __call__(self, restored, clean):
        return (restored - clean).mean()

@register_metric("unnamed")
class Unnamed(Metric):
    def __call__(self, restored, clean):
        return clean.mean((1, 2, 3))

RESULTS = {
    "tensor": lambda x_0: x_0,
    "nothing": lambda x_0: Degraded(None),
    "array": lambda x_0: Degraded(x_0.numpy()),
    "one": lambda x_0: Degraded(x_0[0]),
    "grey": lambda x_0: Degraded(x_0[:, :1]),
    "infinite": lambda x_0: Degraded(x_0 * float("inf")),
    "bytes": lambda x_0: Degraded(x_0.byte()),
    "mask": lambda x_0: Degraded(x_0, mask=x_0[:, :1, :4]),
}

@register_degradation("spoil")
@dataclass(frozen=True)
class Spoil(Degradation):
    wrong: str = ""
    def __call__(self, x_0, generator):
        if self.wrong == "raise":
            x_0.no_such_thing
        if self.wrong == "end":
            raise SystemExit(0)
        if self.wrong in RESULTS:
            return RESULTS[self.wrong](x_0)
        return Degraded(x_0[..., :4] if self.wrong == "shape" else x_0 * 0.5)
    def prepare(self, image, generator, mask=None):
        if self.wrong == "prepare raises":
            image.no_attribute
        return Degraded(image[..., :4] if self.wrong == "prepare cuts" else image)

@register_dataset("gaps")
class Gaps:
    def __init__(self, root: str, split: str):
        self.root = root
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return {"key": str(i), "x_0": [f"{self.root}/0.png"][i]}

@register_guidance("off")
@dataclass(frozen=True)
class Off(Guidance):
    wrong: str = "raise"
    def __call__(self, look):
        return None if self.wrong == "shape" else look.there_is_none

@register_sampler("silent")
def silent(process, predict_x0, x_1, times, generator, *, start=None):
    return None

@register_sampler("late")
def late(process, predict_x0, x_1, times, generator, *, start=None):
    if len(x_1[0]) == 3:
        raise ValueError("not of photos")
    yield x_1
"""

RECIPE = """
name = "own"
summary = "own parts"
task = "restoration"
[data]
source = {{ name = "images", root = "photos", holdout = 0.5 }}
size = 16
[degradation]
name = "spoil"
[network]
name = "net"
[train]
steps = 2
batch_size = 2
workers = {workers}
precision = "fp32"
[sample]
nfe = 1
[evaluate]
nfe = [1]
metrics = ["psnr"]
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(6):
        Image.new("RGB", (20, 18), (40 * i, 100, 200)).save(f"photos/{i}.png")
    Path("parts.py").write_text(PARTS)

    def run(*words, workers=0):
        Path("own.toml").write_text(RECIPE.format(workers=workers))
        with pytest.raises(SystemExit) as ended:
            main([*words, "--plugin", "parts.py"])
        return ended.value.code, capsys.readouterr().err

    return run


def line_of(text):
    (number,) = (i for i, line in enumerate(PARTS.splitlines(), 1) if text in line)
    return number


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("tensor", "must return Degraded(x_1), not Tensor"),
        ("nothing", "x_1 is a NoneType; it must be a tensor like x_0"),
        ("array", "x_1 is a ndarray"),
        ("one", "x_1 is (3, 18, 20) for x_0 of shape (1, 3, 18, 20)"),
        ("grey", "x_1 is (1, 1, 18, 20)"),
        ("infinite", "x_1 has values that are no finite floats"),
        ("bytes", "x_1 has values that are no finite floats"),
        ("mask", "mask is (1, 1, 4, 20)"),
        ("raise", "in __call__: AttributeError"),
        ("end", "in __call__: SystemExit: 0"),
    ],
)
def test_a_degradation_is_checked_where_files_are_degraded(call, wrong, words):
    # kills: degraded-unchecked
    code, said = call("degrade", "photos/0.png", "out.png", "--op", f"spoil:wrong={wrong}")
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "bug of ours" not in said, said
    assert words in said and not Path("out.png").exists()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["network.wrong=raise"], ("parts.py", '{}["forward"]', "in forward: KeyError: 'forward'")),
        (["network.wrong=shape"], ("network Net: gave (2, 3, 16, 3) for x_t of shape (2, 3, 16, 16)", None, "")),
        (["network.name=two"], ("parts.py", "def forward(self, x, time)", "takes 3 positional arguments but 4 were")),
        (["network.name=still"], ("network Still: has no weights to train", None, "")),
        (["degradation.wrong=raise"], ("parts.py", "x_0.no_such_thing", "in __call__: AttributeError: 'Tensor'")),
        (["degradation.wrong=shape"], ("Spoil: x_1 is (1, 3, 16, 4)", None, "the shapes must agree")),
        (["degradation.wrong=infinite"], ("Spoil: x_1 has values that are no finite floats", None, "")),
        (
            ["data.source.name=gaps", "data.source.root=photos"],
            ("parts.py", '"x_0": [f"', "in __getitem__: IndexError: list index out of range"),
        ),
        (["sample.sampler.name=silent"], ("sampler 'silent': it must yield", None, "")),
    ],
)  # fmt: skip
def test_a_mistake_in_a_part_is_one_line_with_its_place(call, settings, words, workers):
    # kills: a user's exception called a bug of ours; one in a data worker; an output of another shape taken further
    # kills: signatures-called-our-bug, network-without-weights-trained
    code, said = call("train", "own.toml", "--device", "cpu", *settings, workers=workers)
    file, text, rest = words
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1 and "bug of ours" not in said, said
    assert file in said and rest in said
    if text is not None:
        assert re.search(rf"parts.py, line {line_of(text)}[,:] ", said)


def test_metrics_and_samplers_of_a_run_likewise(call, monkeypatch):
    assert call("train", "own.toml", "--out", "run", "--device", "cpu")[0] == 0
    for metric, words in (
        ("score", f"parts.py, line {line_of('no score today')}, in __call__: RuntimeError: no score today"),
        ("scalar", "metric 'scalar': gave () for 1 image"),
        ("unnamed", "metric 'unnamed': label is missing"),
    ):
        code, said = call("evaluate", "run", "--metric", metric, "--device", "cpu")
        assert code == 2 and words in said and said.count("\n") == 1, said
    code, said = call(
        "restore", "run", "photos/0.png", "out.png", "--set", "sample.sampler.name=late", "--device", "cpu"
    )
    assert code == 2 and f"parts.py, line {line_of('not of photos')}, in late: ValueError: not of photos" in said, said
    assert call("train", "own.toml", "--out", "blurred", "--device", "cpu", "degradation.name=blur")[0] == 0
    for wrong, words in (
        ("raise", f"parts.py, line {line_of('look.there_is_none')}, in __call__: AttributeError"),
        ("shape", "guidance Off: gave NoneType for x_0_hat of shape"),
    ):
        guided = ("--set", "sample.guidance.name=off", "--set", f"sample.guidance.wrong={wrong}")
        code, said = call("restore", "blurred", "photos/0.png", "out.png", *guided, "--device", "cpu")
        assert code == 2 and words in said and said.count("\n") == 1, said
    with pytest.raises(UserError) as raised:  # --debug: the traceback, down to the user's own exception
        main(["evaluate", "run", "--metric", "score", "--device", "cpu", "--plugin", "parts.py", "--debug"])
    assert 'raise RuntimeError("no score today")' in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("prepare cuts", "Spoil.prepare: x_1 is (1, 3, 18, 4) for an image of shape (1, 3, 18, 20) and scale 1"),
        ("prepare raises", "in prepare: AttributeError: 'Tensor' object has no attribute 'no_attribute'"),
    ],
)
def test_what_prepare_makes_of_a_user_s_image_is_checked(call, wrong, words):
    # kills: prepared-unchecked
    assert call("train", "own.toml", "--out", "run", "--device", "cpu", f"degradation.wrong={wrong}")[0] == 0
    code, said = call("restore", "run", "photos/0.png", "out.png", "--device", "cpu")
    assert code == 2 and words in said and said.count("\n") == 1 and "bug of ours" not in said, said
    assert not Path("out.png").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os\n\nos.no_such_thing\n", "broken.py, line 3, in <module>: AttributeError"),
        ("def f(:\n", "broken.py, line 1: SyntaxError"),
        ("x = 1\nimport does_not_exist\n", "broken.py, line 2, in <module>: ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_does_not_load_names_its_line(tmp_path, capsys, text, words):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["list", "--plugin", str(tmp_path / "broken.py")])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and words in said and said.count("\n") == 1, said
