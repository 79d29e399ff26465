"""The page in a real headless Chromium: does it do what it promises, without a complaint and without the network."""

import json
import shutil

import pytest
from chromium import Chromium, browser_file
from evaluated import write_evaluated

from i2i_bridge.report.entries import open_entries
from i2i_bridge.report.page import write_page

pytestmark = pytest.mark.skipif(browser_file() is None, reason="no Chromium here (Debian's package: chromium)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page of three methods, in a folder and as a single file that was moved elsewhere."""
    folder = tmp_path_factory.mktemp("compare")
    runs = [
        write_evaluated(folder / "bridge", method="bridge", quality=(0.5, 0.7, 0.8), recipe="restoration/jpeg-10"),
        write_evaluated(folder / "palette", method="palette", quality=(0.2, 0.6, 0.75), seed=1),
        write_evaluated(folder / "p", method="pix2pix, a method whose name is long", quality=(0.6,), nfe=(1,), seed=2),
    ]
    entries = open_entries(runs, "held-out")
    write_page(entries, folder / "page")
    single = write_page(entries, folder / "single", single_file=True)
    (folder / "else where").mkdir()
    shutil.move(single, folder / "else where" / "moved page.html")
    for name in ("single", "bridge", "palette", "p"):
        shutil.rmtree(folder / name)  # the page needs none of them
    return folder


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as browser:
        yield browser


@pytest.fixture(params=["page/index.html", "else where/moved page.html"])
def browser(request, folder, chromium):
    chromium.open(folder / request.param)
    return chromium


def split(browser):
    return float(browser.run("getComputedStyle(document.getElementById('stage')).getPropertyValue('--split')"))


def sources(browser):
    return browser.run("[...document.querySelectorAll('#stage img')].map(i => i.src)")


def choose(browser, name, value):
    browser.run(
        f"(s => {{ s.value = {json.dumps(value)}; s.dispatchEvent(new Event('change', {{bubbles: true}})) }})"
        f"(document.getElementById({json.dumps(name)}))"
    )


def test_all_images_load_and_nothing_leaves_the_folder(browser, folder):
    browser.run("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    browser.wait("[...document.images].every(i => i.complete)")
    assert browser.run("document.images.length") > 20
    assert browser.run("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []
    outside = [url for url in browser.requests() if not url.startswith(("data:", folder.resolve().as_uri()))]
    assert outside == [] and browser.complaints() == []
    assert browser.run("document.getElementById('gallery').hidden") is False


def test_the_page_may_not_even_try_the_network(browser):
    # kills: the content security policy removed, or open to the net
    browser.run(
        "new Promise(done => { const i = new Image(); i.onerror = i.onload = done; i.src = 'https://example.org/x.png' })"  # noqa: E501
    )
    assert any("Content Security Policy" in text for text in browser.complaints())


def test_the_slider_moves_by_mouse(browser):
    x, y = browser.middle("#stage .pane")
    assert split(browser) == 0.5
    browser.drag((x, y), (x + 60, y), (x + 120, y))
    right = split(browser)
    assert right > 0.55
    clip = browser.run("getComputedStyle(document.querySelector('.layer.left')).clipPath")
    browser.drag((x + 120, y), (x - 200, y))
    assert (
        split(browser) < 0.4 and browser.run("getComputedStyle(document.querySelector('.layer.left')).clipPath") != clip
    )
    browser.drag((x, y), (x + 5000, y))
    assert split(browser) == 1.0, "past the edge"
    assert browser.complaints() == []


def test_the_slider_moves_by_keyboard(browser):
    browser.run("document.getElementById('swap').focus()")
    for _ in range(40):
        browser.press("Tab", number=9)
        if browser.run("document.activeElement.id") == "split":
            break
    assert browser.run("document.activeElement.id") == "split", "cannot be reached with the Tab key"
    before = split(browser)
    for _ in range(7):
        browser.press("ArrowRight", number=39)
    assert split(browser) == pytest.approx(before + 0.07)
    browser.press("Home", number=36)
    assert split(browser) == 0
    assert browser.run("document.getElementById('split').getAttribute('aria-valuetext')").startswith("0 %")


def test_choosing_an_image_or_a_source_changes_the_pictures(browser):
    before, name = sources(browser), browser.run("document.getElementById('image-name').textContent")
    browser.click("#thumbs button:nth-child(3)")
    after = sources(browser)
    assert len(after) == 2 and not set(after) & set(before)
    assert browser.run("document.getElementById('image-name').textContent") != name
    assert browser.run("document.querySelectorAll('#thumbs [aria-current=true]').length") == 1
    browser.press("n")
    assert sources(browser) != after
    choose(browser, "left", "1")
    changed = sources(browser)
    browser.press("s")
    assert sources(browser) == changed[::-1]
    browser.wait("[...document.querySelectorAll('#stage img')].every(i => i.complete && i.naturalWidth)")
    assert browser.complaints() == []


def test_numbers_are_those_of_the_image(browser):
    data = json.loads(browser.run("document.getElementById('gallery-data').textContent"))
    browser.click("#thumbs button:nth-child(2)")
    name = browser.run("document.getElementById('image-name').textContent")
    image = next(image for image in data["images"] if image["key"] == name)
    cells = browser.run("[...document.querySelectorAll('#numbers tr')].map(r => [...r.cells].map(c => c.textContent))")
    for row, source, values in zip(cells, data["sources"], image["numbers"], strict=True):
        assert row[1] == source["label"]
        wanted = ["–" if v is None else f"{v:.{m['digits']}f}" for v, m in zip(values, data["metrics"], strict=True)]
        assert row[2:] == wanted


def test_worst_comes_first(browser):
    # kills: PSNR sorted from the best
    choose(browser, "metric", "0")
    values = browser.run("[...document.querySelectorAll('#thumbs span')].map(s => parseFloat(s.textContent))")
    assert len(values) == 6 and values == sorted(values)
    shown = browser.run("[...document.querySelectorAll('#thumbs img')].map(i => i.alt)")
    browser.click("input[name=film][value=random]")
    drawn = browser.run("[...document.querySelectorAll('#thumbs img')].map(i => i.alt)")
    assert sorted(drawn) == sorted(shown)
    browser.click("#draw")
    assert browser.run("[...document.querySelectorAll('#thumbs img')].map(i => i.alt)") != drawn


def zoom(browser):
    return [
        float(browser.run(f"document.getElementById('stage').style.getPropertyValue('--{name}')"))
        for name in ["zoom", "x", "y"]
    ]


def test_zoom_is_kept_from_image_to_image_and_pans(browser):
    # kills: the lock ignored either way; panning beyond the image
    browser.click("#in")
    browser.click("#in")
    assert zoom(browser)[0] == 4
    browser.click("#next")
    assert zoom(browser)[0] == 4
    x, y = browser.middle("#stage .pane")
    place = zoom(browser)
    browser.drag((x + 100, y), (x + 60, y + 30))
    assert zoom(browser)[1] > place[1] and zoom(browser)[2] < place[2] and split(browser) == 0.5
    browser.drag((x + 100, y), (x - 4000, y - 4000))
    assert zoom(browser)[1:] == [0.75, 0.75]
    transforms = browser.run("[...document.querySelectorAll('#stage img')].map(i => getComputedStyle(i).transform)")
    assert len(set(transforms)) == 1, "both sides show the same place"
    browser.click("#lock")
    browser.click("#next")
    assert zoom(browser) == [1, 0, 0]


def test_views(browser):
    browser.click("input[name=view][value=side]")
    assert browser.run("document.querySelectorAll('#stage .pane').length") == 2
    browser.click("input[name=view][value=all]")
    assert browser.run("document.querySelectorAll('#stage .pane').length") == 9
    browser.click("input[name=view][value=slider]")
    assert browser.run("document.querySelectorAll('#stage .divider').length") == 1
    browser.click("input[name=axis][value=seconds]")
    shown = browser.run("[...document.querySelectorAll('[data-axis]')].map(p => [p.dataset.axis, p.checkVisibility()])")
    assert shown == [["nfe", False], ["seconds", True]] * 2
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(chromium, folder, dark):
    chromium.open(folder / "page" / "index.html", width=390, height=844, dark=dark)
    chromium.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert chromium.run("document.documentElement.scrollWidth") <= 390
    colours = chromium.run("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    light = [sum(int(part) for part in colour[4:-1].split(",")) for colour in colours]
    assert (light[0] < light[1]) is dark
    # The plots follow: their text has the page's own soft colour.
    text = chromium.run("getComputedStyle(document.querySelector('.plot text')).fill")
    assert text == chromium.run("getComputedStyle(document.querySelector('figcaption')).color")
    x, y = chromium.middle("#stage .pane")
    for kind, at in (("touchStart", x), ("touchMove", x + 70), ("touchEnd", None)):
        chromium.call("Input.dispatchTouchEvent", type=kind, touchPoints=[] if at is None else [{"x": at, "y": y}])
    assert split(chromium) > 0.6, "a finger moves it too"
    assert chromium.complaints() == []


def test_wide_tables_say_that_they_scroll(chromium, folder):
    """At a phone's width the table fades at the right, after scrolling at the left too; on a desk nothing does."""

    # kills: nothing-says-that-it-scrolls
    def classes():
        return chromium.run(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done("
            "document.querySelector('.results').className.split(' ').filter(c => c.startsWith('more')).join()))))"
        )

    hint = "getComputedStyle(document.querySelector('.results + .more')).display"
    chromium.open(folder / "page" / "index.html", width=390, height=844)
    assert classes() == "more-right" and chromium.run(hint) == "block"
    mask = chromium.run("getComputedStyle(document.querySelector('.results')).maskImage")
    assert "gradient" in mask
    chromium.run("document.querySelector('.results').scrollLeft = 40")
    assert sorted(classes().split(",")) == ["more-left", "more-right"]
    chromium.run("document.querySelector('.results').scrollLeft = 9999")
    assert classes() == "more-left"
    assert chromium.run("document.querySelectorAll('.strip.more-right').length") > 0
    chromium.open(folder / "page" / "index.html", width=1280, height=900)
    assert classes() == "" and chromium.run(hint) == "none"


def test_readable_without_script(chromium, folder):
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    chromium.open(folder / "page" / "index.html")
    chromium.call("Emulation.setScriptExecutionDisabled", value=False)
    assert chromium.run("document.getElementById('gallery').checkVisibility()") is False
    assert chromium.run("document.querySelectorAll('.strip img').length") >= 15
