"""The web page in a real headless Chromium: upload, paste, restore, slider, mask, operators, refusals, phone width."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, browser_file
from PIL import Image

pytest.importorskip("gradio", reason="extra app")

from i2i_bridge.app.limits import Limits
from i2i_bridge.app.server import open_page
from i2i_bridge.images.files import read_picture
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.restore import restore_files

pytestmark = pytest.mark.skipif(browser_file() is None, reason="no Chromium here (Debian's package: chromium)")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def photo(folder):
    """A smooth picture with noise."""
    rows, columns = np.mgrid[0:96, 0:128] / 96
    clean = np.stack([rows, columns / 1.4, 1 - rows], axis=-1)
    noisy = (clean * 200 + 20 + np.random.default_rng(0).normal(0, 20, clean.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(folder / "noisy photo.png")
    return folder / "noisy photo.png"


@pytest.fixture(scope="module")
def address(folder, photo):
    (folder / "examples").mkdir()
    Image.open(photo).save(folder / "examples" / "flat.png")
    errors = []
    with open_page(
        ["pretrained/photos"], limits=Limits(pixels=20_000), examples=folder / "examples", device="cpu",
        say=errors.append,
    ) as address:  # fmt: skip
        yield address
    assert errors == []


@pytest.fixture(scope="module")
def chromium():
    with Chromium() as browser:
        yield browser


@pytest.fixture
def browser(chromium, address):
    chromium.open(address, offline=False)
    chromium.wait("!!document.querySelector('#picture input[type=file]')", 120)
    return chromium


def loaded(selector):
    return f"(i => !!i && i.complete && i.naturalWidth > 0)(document.querySelector('{selector} img'))"


def upload(browser, file):
    browser.choose_file("#picture input[type=file]", file)
    browser.wait(loaded("#seen"), 60)


def restore(browser):
    browser.run("document.querySelector('#restore').click()")
    browser.wait("document.querySelectorAll('#slider img').length >= 2", 120)
    browser.wait(loaded("#slider"), 60)


def open_part(browser, name):
    # By script, until it is open: the page still moves while pictures arrive.
    browser.wait(
        "(b => b.classList.contains('open') || (b.click(), false))"
        f"(document.querySelector('#{name} button.label-wrap'))"
    )


def downloads(browser):
    """Name and bytes of each file that is offered."""
    browser.wait("!!document.querySelector('#files a[href]')", 60)
    code = """Promise.all([...document.querySelectorAll('#files a[href]')].map(async a => [a.href,
        btoa(String.fromCharCode(...new Uint8Array(await (await fetch(a.href)).arrayBuffer())))]))"""
    return {href.rsplit("/", 1)[1].replace("%20", " "): base64.b64decode(data) for href, data in browser.run(code)}


def test_upload_restore_and_download(browser, address, photo, folder):
    upload(browser, photo)
    restore(browser)
    restore_files(load_run("pretrained/photos", device="cpu"), photo, folder / "command")
    assert downloads(browser) == {"noisy photo.png": (folder / "command" / "noisy photo.png").read_bytes()}
    browser.wait(loaded("#walk"), 60)
    browser.wait(loaded("#animation"), 60)
    assert [url for url in browser.requests() if not url.startswith((address, "data:", "blob:"))] == []
    assert not any("Content Security Policy" in text for text in browser.complaints())
    config = browser.run("fetch('/config').then(answer => answer.text())")
    for place in (str(ROOT), "site-packages", str(folder), str(Path.home())):
        assert place not in config


def test_the_browser_asks_no_other_machine(browser):
    # kills: app-without-a-policy
    browser.run("fetch('https://example.org/').catch(() => 0)")
    assert any("Content Security Policy" in text for text in browser.complaints())


def test_the_slider_moves(browser, photo):
    upload(browser, photo)
    restore(browser)
    clip = "[...document.querySelectorAll('#slider img')].map(i => getComputedStyle(i).clipPath).join()"
    before = browser.run(clip)
    x, y = browser.middle("#slider .inner")
    browser.drag((x, y), (x + 60, y), (x + 120, y))
    browser.wait(f"{clip} !== {json.dumps(before)}")


def test_what_is_painted_is_restored_and_the_rest_is_kept(browser, photo):
    upload(browser, photo)
    open_part(browser, "mask")
    browser.wait("!!document.querySelector('#editor canvas')", 60)
    browser.wait("document.querySelector('#editor canvas').getBoundingClientRect().height > 50")
    browser.run("new Promise(done => setTimeout(done, 1500))")  # the background is drawn by a worker
    x, y = browser.middle("#editor canvas")
    pause = "new Promise(done => setTimeout(done, 100))"  # the editor draws what it sees in a frame
    for kind, shift in (("mouseMoved", -30), ("mousePressed", -30), *(("mouseMoved", s) for s in range(-20, 40, 10))):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x + shift, y=y, button="left", buttons=1, clickCount=1)
        browser.run(pause)
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=x + 30, y=y, button="left", clickCount=1)
    browser.run("new Promise(done => setTimeout(done, 1500))")
    restore(browser)
    (data,) = downloads(browser).values()
    changed = (read_picture(photo).pixels != read_picture("r.png", data).pixels).any(2)
    assert 20 < changed.sum() < changed.size / 3
    assert changed[40:56, 56:72].any() and not changed[:20].any() and not changed[-20:].any()


def test_operators_samples_and_an_example(browser):
    browser.wait(  # again and again: at first the page does not answer yet
        "!!document.querySelector('#example [role=option]') || (i => { i.blur(); i.focus(); i.click(); return false })"
        "(document.querySelector('#example input'))"
    )
    browser.run(
        "document.querySelector('#example [role=option]').dispatchEvent(new MouseEvent('mousedown', {bubbles: true}))"
    )
    browser.wait(loaded("#seen"), 60)
    open_part(browser, "degrade")
    browser.wait("document.querySelectorAll('#first input').length === 3")
    browser.run("document.querySelector('#first label:nth-of-type(3) input').click()")
    before = browser.run("document.querySelector('#seen img').src")
    browser.run("document.querySelector('#apply').click()")
    browser.wait(f"document.querySelector('#seen img').src !== {json.dumps(before)}", 60)
    open_part(browser, "more")
    browser.wait("!!document.querySelector('#samples input[type=number]')")
    browser.run(
        "(i => { i.value = 2; i.dispatchEvent(new Event('input', {bubbles: true})); "
        "i.dispatchEvent(new Event('change', {bubbles: true})) })"
        "(document.querySelector('#samples input[type=number]'))"
    )
    restore(browser)
    assert sorted(downloads(browser)) == ["flat-1.png", "flat-2.png", "flat.png"]
    browser.wait("document.querySelectorAll('#gallery img').length >= 2", 60)


def test_a_pasted_picture_goes_the_way_of_uploaded_ones(browser, photo):
    data = base64.b64encode(photo.read_bytes()).decode()
    browser.run(
        f"(async () => {{ const data = await (await fetch('data:image/png;base64,{data}')).blob(); "
        "const list = new DataTransfer(); list.items.add(new File([data], 'pasted.png', {type: 'image/png'})); "
        "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: list, bubbles: true})) })()"
    )
    browser.wait(loaded("#seen"), 60)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("broken.png", b"not a picture", "not a readable image"),
        ("large.ppm", b"P6\n20000 2\n255\n" + bytes(120_000), "this page takes 0.02 million"),
    ],
)
def test_refusals_hold_no_path(browser, folder, name, data, words):
    (folder / name).write_bytes(data)
    browser.choose_file("#picture input[type=file]", folder / name)
    browser.wait(f"document.body.innerText.includes({json.dumps(words)})", 60)
    line = browser.run("document.querySelector('.toast-body').innerText")
    assert name in line and "/" not in line


def test_a_phone_shows_it_without_scrolling_sideways(chromium, address, photo):
    chromium.open(address, width=390, height=844, offline=False)
    chromium.wait("!!document.querySelector('#picture input[type=file]')", 120)
    upload(chromium, photo)
    restore(chromium)
    assert chromium.run("document.documentElement.scrollWidth") <= 390
