"""What may stand side by side, how it is called, and the page that comes of it."""

import json
import re
import shutil
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluated import write_evaluated

from i2i_bridge import compare
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.results import evaluation_folder
from i2i_bridge.evaluation.scores import Scorer
from i2i_bridge.evaluation.scores import warnings_of as evaluation_warnings
from i2i_bridge.metrics.base import build_metric
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.report.entries import open_entries
from i2i_bridge.report.labels import name_entries, parse_labels
from i2i_bridge.report.notes import setting_differences, unavailable, warnings_of
from i2i_bridge.report.page import write_page
from i2i_bridge.report.table import table_of


def change(folder, **values):
    """Rewrite keys of an evaluation.json."""
    file = evaluation_folder(folder, "held-out") / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A bridge, Palette and Pix2pix; read only."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_evaluated(folder / "a", method="bridge", quality=(0.55, 0.74, 0.8)),
        write_evaluated(folder / "b", method="palette", quality=(0.2, 0.6, 0.79), seed=1, overrides=["train.lr=2e-3"]),
        write_evaluated(folder / "c", method="pix2pix", quality=(0.66,), nfe=(1,), seed=2),
    ]


def page_of(runs, out, **options):
    return write_page(open_entries(runs, "held-out"), out, **options)


def test_other_rules_are_refused_and_the_difference_is_named(tmp_path):
    # kills: protocol-not-compared; a message that says only 'different'
    a = write_evaluated(tmp_path / "a", images=2, nfe=(1,), quality=(0.5,))
    b = write_evaluated(
        tmp_path / "b", images=2, nfe=(1,), quality=(0.5,), protocol_hash="9" * 64,
        settings={"split": "val", "size": [96, 96], "resize": "short_side"},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"size is \[64, 64\] and \[96, 96\]") as caught:
        open_entries([a, b], "held-out")
    assert "held-out@1 3f9c0a1b2c3d and held-out@1 999999999999" in str(caught.value) and "split" not in str(
        caught.value
    )
    assert "\n" not in str(caught.value) and str(a) in str(caught.value) and str(b) in str(caught.value)


def test_other_data_are_refused(tmp_path):
    # kills: data-not-compared
    a = write_evaluated(tmp_path / "a", images=2, nfe=(1,), quality=(0.5,))
    b = write_evaluated(tmp_path / "b", images=2, nfe=(1,), quality=(0.5,), digest="ff" * 8)
    with pytest.raises(UserError, match=r"2 items, digest aa11bb22cc33, and 2, ffffffffffff"):
        open_entries([a, b], "held-out")
    with pytest.raises(UserError, match="given twice"):
        open_entries([a, tmp_path / "x" / ".." / "a"], "held-out")
    with pytest.raises(UserError, match="not evaluated yet"):
        open_entries([a, tmp_path], "held-out")


def test_equal_labels_get_the_folders_name():
    found = [("bridge", Path("x/a")), ("bridge", Path("x/b")), ("palette", Path("x/c"))]
    assert name_entries(found) == ["bridge (a)", "bridge (b)", "palette"]
    assert name_entries([("bridge", Path("x/a")), ("bridge", Path("y/a"))]) == ["bridge (x/a)", "bridge (y/a)"]


def test_rows_that_are_asked_for(runs):
    # kills: Pix2pix's only row lost because --nfe 5 does not name it; the input's row once per run
    entries = open_entries(runs, "held-out")
    shown = open_entries(runs, "held-out", nfe=[5, 20, 7])
    assert [[row.name for row in entry.rows] for entry in shown] == [["nfe 5", "nfe 20"], ["nfe 5", "nfe 20"], []]
    lines = table_of(entries).lines
    assert [(line.label, line.nfe) for line in lines] == [
        ("degraded input", 0), ("bridge", 1), ("bridge", 5), ("bridge", 20), ("palette", 1), ("palette", 5),
        ("palette", 20), ("pix2pix", 1),
    ]  # fmt: skip


def test_a_method_of_one_call_stays_whatever_is_asked(tmp_path):
    folder = write_evaluated(tmp_path / "p", method="pix2pix", images=2, nfe=(1,), quality=(0.5,))
    change(folder, capped=True)
    (entry,) = open_entries([folder], "held-out", nfe=[5])
    assert [row.name for row in entry.rows] == ["nfe 1"]


def test_differences_are_all_that_differs(runs, tmp_path):
    found = dict(setting_differences(open_entries(runs, "held-out")))
    assert found == {"train.lr": ["0.0015", "0.002", "0.0015"], "train.seed": ["0", "1", "2"]}
    outside = shutil.copytree(runs[0], tmp_path / "outside")
    (outside / "recipe.toml").unlink()
    assert setting_differences(open_entries([outside, runs[0]], "held-out")) == []


def test_inputs_that_differ_are_told(tmp_path):
    a = write_evaluated(tmp_path / "a", images=2, nfe=(1,), quality=(0.5,))
    b = write_evaluated(tmp_path / "b", method="palette", images=2, nfe=(1,), quality=(0.5,))
    assert len(warnings_of(open_entries([a, b], "held-out"))) == 1, "the same warning of both, once"
    change(a, warnings=["old step", *open_entries([a], "held-out")[0].evaluation.warnings])
    assert "bridge: old step" in warnings_of(open_entries([a, b], "held-out")), "a warning of one names it"
    assert "old step" in warnings_of(open_entries([a], "held-out"))
    stored = json.loads((evaluation_folder(b, "held-out") / "evaluation.json").read_text())
    stored["rows"][0]["metrics"]["psnr"]["value"] += 1
    change(b, rows=stored["rows"])
    assert "degraded inputs of bridge and palette differ in psnr" in " ".join(
        warnings_of(open_entries([a, b], "held-out"))
    )


@pytest.mark.parametrize(("images", "told"), [(199, True), (200, False)])
def test_a_kid_of_few_images_is_told_by_evaluate_and_by_the_page(tmp_path, images, told):
    """A note and no error; an evaluation of an earlier version does not hold it, a page says it all the same."""
    # kills: kid-of-few-images-untold, kid-note-of-every-number
    names = ["psnr", "fid", "kid", "kid-paired", "kid-of-a-plug-in-that-is-gone"]
    sets = {name: build_metric(name)[1] for name in names[1:4]}
    text = f"kid, kid-paired of {images} images, fewer than 200: the interval is wide"
    notes = evaluation_warnings(Scorer(sets=sets), images)
    assert (text in notes) == told
    # kills: kernel-distances-called-biased
    assert next(note for note in notes if "biased" in note).startswith(f"fid of {images} images, fewer than 2048")
    folder = write_evaluated(tmp_path / "a", images=2, nfe=(1,), quality=(0.5,))
    stored = json.loads((evaluation_folder(folder, "held-out") / "evaluation.json").read_text())
    for row in stored["rows"]:
        row["metrics"] = dict.fromkeys(names, row["metrics"]["psnr"])
        row["images"] = images
    change(folder, rows=stored["rows"])
    found = warnings_of(open_entries([folder], "held-out"))
    assert found.count(text) == told and len(found) == 1 + told


def test_published_methods_without_a_row_say_why(tmp_path):
    # kills: a published method silently missing from the table of ours
    folder = write_evaluated(tmp_path / "a", recipe="restoration/jpeg-10", images=2, nfe=(1,), quality=(0.5,))
    entries = open_entries([folder], "held-out")
    reasons = dict(unavailable(entries))
    (names,) = (names for names, reason in reasons.items() if "not implemented here" in reason)
    assert "DDRM" in names.split(", ") and "I2SB" not in names
    (trainable,) = (names for names, reason in reasons.items() if "--method cdsb" in reason)
    assert trainable == "CDSB"
    text = page_of([folder], tmp_path / "page").read_text()
    published = text[text.index('class="published"') : text.index("</section>")]
    assert "not measured here" in published and "clean-fid, legacy_pytorch" in published and "18.6" in published
    ours = text[text.index('id="results"') : text.index('class="published"')]
    assert "18.6" not in ours and re.search(r"DDRM</b>: not available, ", ours)


class Reader(HTMLParser):
    """Tags, attributes and visible text; SVG's own included."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "srcset")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_shows_the_numbers_and_asks_nothing_of_the_network(runs, tmp_path):
    page = page_of(runs, tmp_path / "page")
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    shown = " ".join(reader.words)
    for entry in open_entries(runs, "held-out"):
        for row in entry.evaluation.rows:
            assert f"{row.metrics['psnr'].value:.2f}" in shown and f"{row.metrics['ssim'].high:.4f}" in shown
    assert "lpips needs the file alexnet" in shown and "6 images are few" in shown and "train.lr" in shown
    for address in reader.addresses:
        local = not address.startswith(("data:", "#"))
        assert "://" not in address and (not local or (page.parent / address).is_file()), address
    assert "@import" not in text and "url(http" not in text
    for file in ("table.csv", "table.md", "table.tex", "comparison.png"):
        assert (page.parent / file).stat().st_size > 100
    data = json.loads(re.search(r'id="gallery-data">(.*?)</script>', text, re.DOTALL)[1])
    assert all((page.parent / file).is_file() for image in data["images"] for file in image["files"] if file)
    assert [source["label"] for source in data["sources"]][:3] == ["degraded input", "clean", "bridge, NFE 1"]


def test_title_and_labels_are_the_users_and_the_datasets(runs, tmp_path):
    """A heading of the recipe's instructions says nothing about what was compared."""
    # kills: label-of-another-run
    recipe = load_recipe("demo/deblur")
    page = page_of(runs, tmp_path / "page").read_text(encoding="utf-8")
    heading = re.search(r"<h1>(.*?)</h1>", page)[1]
    lead = re.search(r'<p class="lead">(.*?)</p>', page)[1]
    assert heading == (recipe.data.card or recipe.data.source["name"])
    assert recipe.summary not in lead and lead.startswith("6 images of the split &#39;val&#39; of ")
    assert "64 x 64 pixels" in lead
    named = open_entries(runs, "held-out", labels=parse_labels([f"{runs[1]}=mine = best <1>"], runs))
    assert [entry.label for entry in named][1] == "mine = best <1>"
    assert named[0].label == open_entries(runs, "held-out")[0].label
    page = write_page(named, tmp_path / "page", title="What <we> found").read_text(encoding="utf-8")
    assert "<h1>What &lt;we&gt; found</h1>" in page and "mine = best &lt;1&gt;" in page
    both = open_entries(runs, "held-out", labels=dict.fromkeys(runs, "same"))
    assert len({entry.label for entry in both}) == len(runs), "two methods are never called alike"
    for text, said in (
        (f"{runs[0]}", "reads RUN=NAME"), ("elsewhere=x", "reads RUN=NAME"), (f"{runs[0]}= ", "1 to 100 letters"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            parse_labels([text], runs)
    with pytest.raises(UserError, match="has a name already, 'a'"):
        parse_labels([f"{runs[0]}=a", f"{runs[0]}=b"], runs)


def test_codes_are_explained_where_they_stand(runs, tmp_path):
    page = page_of(runs, tmp_path / "page").read_text(encoding="utf-8")
    titles = re.findall(r'<dd title="(.*?)">', page)
    first = open_entries(runs, "held-out")[0].evaluation
    assert first.protocol.hash in titles[0] and "not comparable" in titles[0]
    assert first.data.digest in titles[1] and "of other images" in titles[1]
    assert "Numbers can be compared where both codes are the same" in page


def test_pages_do_not_say_where_images_lie(tmp_path):
    root = str(tmp_path / "home" / "me" / "photos")
    run = write_evaluated(tmp_path / "a", images=2, nfe=(1,), quality=(0.5,), overrides=[f"data.root={root}"])
    other = write_evaluated(
        tmp_path / "b", images=2, nfe=(1,), quality=(0.5,), method="palette", overrides=["data.root=/mnt/x/photos"]
    )
    text = page_of([run, other], tmp_path / "page").read_text(encoding="utf-8")
    assert root not in text and "/mnt/x" not in text and "photos" in text
    assert "data.root" not in text, "the same images at two places are no difference"


def test_hostile_names_stay_text(tmp_path):
    # kills: names-are-markup; a name that ends the script element; mathematics of matplotlib in a label
    name = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)> $\\frac{1}'
    a = write_evaluated(tmp_path / "a", method="bridge", label=name, images=2, nfe=(1,), quality=(0.5,))
    b = write_evaluated(
        tmp_path / "b", method="palette", label='"><svg onload=alert(1)>', images=2, nfe=(1,), quality=(0.4,)
    )
    for inside in (False, True):
        text = page_of([a, b], tmp_path / f"page-{inside}", single_file=inside).read_text(encoding="utf-8")
        reader = Reader(text)
        assert reader.tags.count("script") == 2 and "x" not in reader.addresses
        assert "onerror=alert(1)>" not in text and "<svg onload" not in text
        assert any(name in word for word in reader.words)


def test_single_file_is_alone(runs, tmp_path):
    page = page_of(runs, tmp_path / "page", single_file=True)
    assert [file.name for file in page.parent.iterdir()] == ["index.html"]
    alone = page_of(runs, tmp_path / "sent.html", single_file=True)
    assert alone.is_file() and alone.read_bytes() == page.read_bytes()
    page_of(runs, alone, single_file=True)  # ours: replaced
    (tmp_path / "theirs.html").write_text("<p>mine</p>")
    for out, inside, part in (
        ("theirs.html", True, "not a page of i2i-bridge"),
        ("new.html", False, "add --single-file"),
    ):
        with pytest.raises(UserError, match=part):
            page_of(runs, tmp_path / out, single_file=inside)
    assert all(address.startswith(("data:", "#")) for address in Reader(page.read_text(encoding="utf-8")).addresses)


def test_the_old_page_stays_until_the_new_one_is_whole(runs, tmp_path, monkeypatch):
    # kills: any-folder-replaced; the old page deleted first; parts left behind
    page = page_of(runs[:1], tmp_path / "page")
    before = page.read_text()
    with pytest.raises(ZeroDivisionError):
        write_page(open_entries(runs, "held-out", opener=lambda folder, step: 1 / 0), tmp_path / "page")
    assert page.read_text() == before and [path.name for path in tmp_path.iterdir()] == ["page"]
    page_of(runs, tmp_path / "page")
    assert page.read_text() != before and [path.name for path in tmp_path.iterdir()] == ["page"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not a page of i2i-bridge"):
        page_of(runs[:1], tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_page_takes_nobody_elses_files_with_it(runs, tmp_path):
    # kills: a folder replaced whole because a page of ours lies in it
    page = page_of(runs[:1], tmp_path / "page")
    for name in ("notes.txt", "images/mine/a.png", "images/input/b.png", "sub/index.html"):
        mine, before = tmp_path / "page" / name, page.read_text()
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        with pytest.raises(UserError, match=f"{re.escape(mine.name)}: is no part of the page"):
            page_of(runs, tmp_path / "page")
        assert mine.read_text() == "mine" and page.read_text() == before
        mine.unlink()
    (tmp_path / "page" / ".DS_Store").touch()
    page_of(runs, tmp_path / "page")
    assert page.read_text() != before

    def late(folder, step):
        (tmp_path / "page" / "late.txt").write_text("mine")
        raise UserError("no run")

    with pytest.raises(UserError, match=r"late\.txt: is no part of the page"):
        write_page(open_entries(runs[:1], "held-out", opener=late), tmp_path / "page")
    assert (tmp_path / "page" / "late.txt").read_text() == "mine"


def test_the_same_folders_give_the_same_page(runs, tmp_path):
    first, second = (page_of(runs, tmp_path / name).read_text() for name in ("a", "b"))
    assert first == second


def test_compare_is_a_function_that_prints_nothing(tmp_path, capsys):
    """Folders to a page, a table and notes; the command prints what the function returns."""
    # kills: compare-without-labels
    first, other = (
        write_evaluated(tmp_path / name, nfe=(5,), quality=(share,)) for name, share in (("first", 0.5), ("other", 0.7))
    )
    for folder in (first, other):
        (folder / "recipe.toml").unlink()  # outside results, which have no run to draw from
    stages = []

    @contextmanager
    def progress(stage):
        stages.append(stage)
        yield lambda done, total: stages.append((done, total))

    done = compare(
        [str(first), other], tmp_path / "page", labels={str(other): "better"}, against="better", progress=progress
    )
    assert capsys.readouterr() == ("", "")
    assert done.page == tmp_path / "page" / "index.html" and done.page.is_file()
    assert [line.label for line in done.table.lines][1:] == ["bridge", "better"]
    assert done.paired.against == "better, NFE 5" and done.paired.table.lines
    assert stages == ["evaluated", "evaluated", "drawn", (1, 2), (2, 2)]
    for wrong, said in (
        ({"runs": []}, "nothing to compare"), ({"runs": [tmp_path / "none"]}, "no such folder"),
        ({"labels": {"elsewhere": "x"}}, "labels: elsewhere is none of the folders"),
        ({"out": first}, "is not a page of i2i-bridge"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            compare(**{"runs": [first], "out": tmp_path / "page"} | wrong)
