"""The plots of a page, and the pictures that a run draws for it."""

import re
import xml.etree.ElementTree as ET

import pytest
import torch

from i2i_bridge.evaluation.results import Row
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.report.figures import VARIABLES, quality_panels, training_curves
from i2i_bridge.report.samples import draw
from i2i_bridge.report.table import build_table


def row(name, nfe, value, seconds=0.1, metric="psnr"):
    return Row(name, nfe, 6, {metric: Estimate(value, value - 1, value + 1)}, seconds)


def rows(**changes):
    return [
        (-1, "degraded input", row("input", 0, changes.get("given", 20.0), None)),
        (0, "a $\\frac{1}", row("nfe 1", 1, 22.0)),
        (0, "a $\\frac{1}", row("nfe 5", 5, 25.0, 0.5)),
        (1, "<b>", row("nfe 1", 1, 23.0)),
        (2, "outside", row("outside", 0, 21.0, None)),
    ]


def colours(svg):
    """The page's variables that a plot uses."""
    return set(re.findall(r"var\((--[a-z0-9]+)\)", svg))


def test_a_panel_is_drawn_in_the_page_s_own_colours():
    # kills: a literal colour that dark mode cannot change; a method lost; the wrong method's colour
    (panel,) = quality_panels(build_table(rows()))
    for svg in (panel.by_nfe, panel.by_seconds):
        ET.fromstring(svg)
        assert "<style" not in svg, "it would rule the page"
        assert "mathdefault" not in svg, "plain numbers on a log axis"
        assert {"--soft", "--line", "--c0", "--c1"} <= colours(svg) and "--c3" not in colours(svg)
        assert not any(colour in svg for colour in VARIABLES)
        assert set(re.findall(r"#[0-9a-f]{3,6}\b", svg)) <= set(re.findall(r"(?<=\()#[0-9a-f]+", svg)), (
            "a literal colour"
        )
    assert "network calls per image" in panel.by_nfe and "seconds per image" in panel.by_seconds
    assert "degraded input" in panel.by_nfe and panel.note == ""
    assert "--c2" in colours(panel.by_nfe), "what nobody knows the cost of is a line across"


def test_a_baseline_far_away_is_named_instead_of_flattening_the_plot():
    # kills: an input of 300 that makes 22 and 25 one point
    (panel,) = quality_panels(build_table(rows(given=300.0)))
    assert panel.note == "degraded input 300.0, outside the plot" and "degraded input" not in panel.by_nfe


@pytest.mark.filterwarnings("error")
def test_a_single_row_of_a_single_image_is_drawn_without_a_warning():
    nan = float("nan")
    lines = [Row("input", 0, 1, {"psnr": Estimate(19.0, nan, nan)}, None)]
    lines.append(Row("nfe 1", 1, 1, {"psnr": Estimate(19.0, nan, nan)}, 0.1))
    (panel,) = quality_panels(build_table([(-1, "degraded input", lines[0]), (0, "a", lines[1])]))
    assert "degraded input" in panel.by_nfe and panel.by_seconds


def test_nothing_to_plot():
    assert quality_panels(build_table([(0, "a", row("nfe 1", 1, float("nan")))])) == []
    (untimed,) = quality_panels(
        build_table([(0, "a", row("nfe 1", 1, float("inf"))), (1, "b", row("nfe 1", 1, 2.0, None))])
    )
    assert untimed.by_seconds == ""
    assert training_curves({0: {}, 1: {"": []}}) == ""


def test_training_curves_show_companions_dashed():
    points = [(step, 1.0 / step) for step in range(1, 50)]
    svg = training_curves({0: {"": points}, 1: {"": points, "discriminator": points}})
    ET.fromstring(svg)
    assert "math" not in svg and ">0.1<" in re.sub(r"\s", "", svg), "plain numbers on a log axis"
    assert {"--c0", "--c1"} <= colours(svg) and "discriminator" in svg and svg.count("stroke-dasharray: ") == 1


def test_losses_of_another_scale_have_axes_of_their_own():
    # kills: losses-on-one-axis
    small = [(step, 0.01 + 0.001 * (step % 3)) for step in range(1, 50)]
    large = [(step, 30.0 + step % 5) for step in range(1, 50)]

    def axes(curves):
        return training_curves(curves).count(">loss<")

    assert axes({0: {"": small}, 1: {"": [(step, 3 * loss) for step, loss in small]}}) == 1
    assert axes({0: {"": small}, 1: {"": large, "discriminator": small}}) == 2
    assert axes({0: {"": small, "tiny": [(step, loss / 200) for step, loss in small]}, 1: {"": large}}) == 3
    broken = [(1, float("nan")), (2, float("inf"))]
    assert axes({0: {"": small}, 1: {"": broken}}) == 1 and training_curves({0: {"": broken}}) == ""


class FakePairs:
    """Three items, each of one colour."""

    source = None

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return {
            "key": f"k{i}",
            "x_0": torch.full((3, 8, 8), 0.5),
            "x_1": torch.full((3, 8, 8), i / 4),
            "dtype": "uint8",
        }


class FakeRun:
    """A 'method' that walks from x_1 to x_1 + noise in nfe steps."""

    class recipe:
        class evaluate:
            seed = 7

        @staticmethod
        def build_dataset(split):
            from i2i_bridge.errors import UserError

            raise UserError("no training data here")

    def __init__(self, noise):
        self.noise, self.calls = noise, 0

    def trajectory(self, batch, *, nfe, generator):
        x = batch["x_1"]
        for _ in range(nfe):
            self.calls += 1
            x = x + self.noise * torch.randn(x.shape, generator=generator[0])
            yield x

    def restore_batch(self, batch, *, nfe, generator):
        *_, last = self.trajectory(batch, nfe=nfe, generator=generator)
        return last


def test_samples_differ_by_seed_and_their_spread_is_their_deviation():
    # kills: one-seed-for-all-samples; the spread of one sample's pixels; the scale forgotten
    drawn = draw(FakeRun(0.1), FakePairs(), calls=[4])
    found = drawn.samples
    assert len(found.restored) == 5 and not torch.equal(found.restored[0], found.restored[1])
    spread = torch.stack(found.restored).std(0).mean(0)
    assert found.largest == pytest.approx(127.5 * float(spread.max()))
    assert torch.allclose(found.spread[0], 2 * spread / spread.max() - 1) and float(found.spread.max()) == 1.0
    assert [len(walk) for walk in drawn.walk] == [5, 5] and drawn.words == [
        "X_1",
        "step 1",
        "step 2",
        "step 3",
        "step 4",
    ]
    assert torch.equal(drawn.walk[1][0], FakePairs()[1]["x_1"])
    assert drawn.trained_on == [] and drawn.overlap == "" and len(drawn.held_out) == 2


def test_what_is_drawn_is_what_was_evaluated():
    # kills: pictures of another noise than the numbers'
    from i2i_bridge.randomness import generator

    drawn = draw(FakeRun(0.1), FakePairs(), calls=[3])
    x_1 = FakePairs()[1]["x_1"][None]
    *_, evaluated = FakeRun(0.1).trajectory({"x_1": x_1}, nfe=3, generator=[generator(7, "evaluate", "k1")])
    assert torch.equal(drawn.held_out[1][1], evaluated[0]) and torch.equal(drawn.walk[1][-1], evaluated[0])


def test_a_deterministic_method_is_asked_twice_only():
    run = FakeRun(0.0)
    drawn = draw(run, FakePairs(), calls=[1], images=1)
    assert drawn.samples.largest == 0.0 and run.calls == 1 + 2 + 1
    assert drawn.walk == [] and drawn.words == [], "one step is no walk"


def test_calls_are_chosen_from_the_rows():
    # kills: a page that walks 1000 calls; samples that cost as much as the evaluation
    drawn = draw(FakeRun(0.1), FakePairs(), calls=[1, 5, 20, 1000], images=1)
    assert (drawn.nfe, drawn.nfe_of_samples, drawn.nfe_of_strips) == (20, 5, 1)
    assert draw(FakeRun(0.1), FakePairs(), calls=[50, 100], images=1).nfe == 50
