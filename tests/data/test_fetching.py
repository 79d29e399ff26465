"""Fetching of datasets from a local server: complete and verified, or nothing and a one-line error."""

import hashlib
import http.server
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import interpreter
import numpy as np
import pytest
from PIL import Image
from servers import Server
from test_unpacking import tar, zipped

from i2i_bridge.data import store as card_store
from i2i_bridge.data.cards import card_names, load_card, open_source
from i2i_bridge.data.fetch import fetch, plan_fetch
from i2i_bridge.errors import UserError
from i2i_bridge.storage import download as downloading
from i2i_bridge.storage.download import Download, download

ROOT = Path(__file__).parents[2]
BODY = np.random.default_rng(0).integers(0, 256, 1_000_000, dtype=np.uint8).tobytes()


class Site:
    """A web site on this machine: `pages` maps a path to a function of the request, `seen` lists the requests."""

    def __init__(self):
        self.pages, self.seen = {}, []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.seen.append((self.path, self.headers.get("Range")))
                site.pages.get(self.path, lambda request: request.send_error(404))(self)

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def put(self, path, data, **options):
        self.pages[path] = lambda request: send(request, data, **options)
        return self.url + path


def send(request, data, *, ranges=True, etag='"v1"', stop=None, length=None, kind="application/gzip", until=None):
    """Answers with the data from the asked byte on; `stop`: breaks off after so many bytes of this answer,
    `until`: at this byte of the file."""
    start = 0
    asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
    if asked and ranges and request.headers.get("If-Range", etag) == etag:
        start = int(asked[1])
        if start >= len(data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(data)}")
            request.end_headers()
            return
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    else:
        request.send_response(200)
    request.send_header("Content-Type", kind)
    if etag:
        request.send_header("ETag", etag)
    if length != "none":
        request.send_header("Content-Length", str(length or len(data) - start))
    request.end_headers()
    request.wfile.write(data[start : until if stop is None else start + stop])


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole(site, tmp_path):
    url = site.put("/a.tgz", BODY)
    seen = []
    hashes = {"sha256": sha256(BODY), "md5": hashlib.md5(BODY).hexdigest(), "bytes": len(BODY)}
    assert download(Download(url=url, **hashes), tmp_path / "a", lambda *now: seen.append(now)) == sha256(BODY)
    assert (tmp_path / "a").read_bytes() == BODY and left(tmp_path) == ["a"]
    assert seen[-1] == (len(BODY), len(BODY)) and seen == sorted(seen)
    # There: only checked.
    assert download(Download(url=url), tmp_path / "a") == sha256(BODY) and len(site.seen) == 1


def test_a_part_that_is_a_link_is_not_written_through(site, tmp_path):
    """kills: download-through-a-link"""
    (tmp_path / "theirs").write_bytes(b"mine")
    (tmp_path / "a.part").symlink_to("theirs")
    with pytest.raises(UserError, match=r"a\.part: cannot be written"):
        download(Download(url=site.put("/a.tgz", BODY)), tmp_path / "a")
    assert (tmp_path / "theirs").read_bytes() == b"mine"


@pytest.mark.parametrize("known", [{}, {"sha256": sha256(BODY)}], ids=["by-etag", "by-hash"])
def test_a_broken_line_is_resumed_where_it_broke(site, tmp_path, known):
    # kills: resume-from-the-start, resume-not-appended
    url = site.put("/a.tgz", BODY, stop=300_000)
    download(Download(url=url, **known), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert [asked for _, asked in site.seen] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_what_a_kill_left_is_resumed_or_begun_anew(site, tmp_path):
    """Without a hash, only the server's validator ensures that the first part is of the same file."""
    # kills: resume-of-another-version
    url = site.put("/a.tgz", BODY)
    part, mark = tmp_path / "a.part", tmp_path / "a.part.version"

    def again(data, version, **known):
        part.write_bytes(data)
        mark.write_text(version)
        site.seen.clear()
        download(Download(url=url, **known), tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == BODY and left(tmp_path) == ["a"]
        (tmp_path / "a").unlink()
        return [asked for _, asked in site.seen]

    assert again(BODY[:1000], '"v1"') == ["bytes=1000-"]
    assert again(b"x" * 1000, '"v0"') == ["bytes=1000-"]  # the server sends all of its newer version
    assert again(b"x" * 1000, "") == [None]
    assert again(BODY[:1000], "", sha256=sha256(BODY)) == ["bytes=1000-"]
    assert again(BODY, '"v1"') == [f"bytes={len(BODY)}-"]  # killed after the last byte: 416
    assert again(BODY + b"more", '"v1"') == [f"bytes={len(BODY) + 4}-", None]
    assert again(BODY, "", sha256=sha256(BODY), bytes=len(BODY)) == []


def test_a_server_that_ignores_ranges(site, tmp_path):
    url = site.put("/a.tgz", BODY, ranges=False)
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    download(Download(url=url, sha256=sha256(BODY)), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_server_that_sends_another_range(site, tmp_path):
    def page(request):
        if request.headers.get("Range"):
            request.send_response(206)
            request.send_header("Content-Range", f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
            request.end_headers()
            request.wfile.write(BODY)
        else:
            send(request, BODY)

    site.pages["/a.tgz"] = page
    (tmp_path / "a.part").write_bytes(BODY[:1000])
    download(Download(url=site.url + "/a.tgz", sha256=sha256(BODY)), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def busy(times):
    """A page that answers 503 a number of times."""
    left = iter(range(times))
    return lambda request: request.send_error(503) if next(left, None) is not None else send(request, BODY)


def test_a_busy_server_is_asked_again(site, tmp_path):
    site.pages["/a"] = busy(2)
    download(Download(url=site.url + "/a"), tmp_path / "a")
    assert len(site.seen) == 3
    site.pages["/b"] = busy(9)
    with pytest.raises(UserError, match=r"Service Unavailable.*run the same command again to resume"):
        download(Download(url=site.url + "/b"), tmp_path / "b")


def refused(tmp_path, url, part, kept=(), **known):
    with pytest.raises(UserError, match=part) as problem:
        download(Download(url=url, **known), tmp_path / "a")
    assert "\n" not in str(problem.value) and url in str(problem.value)
    assert left(tmp_path) == list(kept)


def test_what_is_not_the_file_is_refused_and_not_kept(site, tmp_path):
    # kills: hash-not-compared, web-page-kept
    url = site.put("/a.tgz", BODY)
    refused(tmp_path, site.url + "/none", "404 Not Found")
    refused(tmp_path, url, "sha256 is [0-9a-f]{64}, not 00", sha256="0" * 64)
    refused(tmp_path, url, "md5 is [0-9a-f]{32}, not 00", md5="0" * 32)
    refused(tmp_path, url, "the server has 1000000 bytes, the card says 5", bytes=5)
    page = b"\n <!DOCTYPE html><p>Please log in"
    refused(tmp_path, site.put("/b", page, kind="text/html; charset=utf-8"), "a web page instead")
    endless = site.put("/c", BODY, length="none")
    refused(tmp_path, endless, "more than the 500000 bytes", bytes=500_000)


def test_a_web_page_in_disguise(site, tmp_path):
    with pytest.raises(UserError, match="a web page instead"):
        download(Download(url=site.put("/a", b"\n <!DOCTYPE html><p>Please log in")), tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_is_truncated_for_ever(site, tmp_path, ranges):
    """The download fails with a message and keeps the partial file."""
    url = site.put("/a.tgz", BODY, until=400_000, ranges=ranges)
    with pytest.raises(UserError, match=r"run the same command again to resume"):
        download(Download(url=url, bytes=len(BODY)), tmp_path / "a")
    assert "a" not in left(tmp_path) and len(site.seen) <= 8
    # Later the server is mended.
    site.put("/a.tgz", BODY)
    download(Download(url=url, bytes=len(BODY), sha256=sha256(BODY)), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def redirect(to):
    def page(request):
        request.send_response(302)
        request.send_header("Location", to)
        request.end_headers()

    return page


def test_redirects(site, tmp_path):
    # kills: redirects-anywhere
    site.put("/a.tgz", BODY)
    site.pages["/moved"] = redirect("/a.tgz")
    download(Download(url=site.url + "/moved"), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == BODY
    (tmp_path / "b").unlink()
    secret = tmp_path.parent / "secret"
    secret.write_text("mine")
    for to in (f"file://{secret}", "ftp://127.0.0.1/x", "data:,x", "gopher://x"):
        site.pages["/evil"] = redirect(to)
        refused(tmp_path, site.url + "/evil", "refused to be sent on|not allowed")
    site.pages["/loop"] = redirect("/loop")
    refused(tmp_path, site.url + "/loop", "infinite loop")


def test_a_downgrade_to_http_is_refused():
    request = downloading.urllib.request.Request("https://x/y")
    with pytest.raises(UserError, match="refused to be sent on to http://x/y"):
        downloading._Redirects().redirect_request(request, None, 302, "", {}, "http://x/y")


def test_nobody_there(tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match="refused"):
        download(Download(url="http://127.0.0.1:9/x"), tmp_path / "a")


# Whole datasets.


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def png(value=100, width=16):
    import io

    stream = io.BytesIO()
    sheet = Image.new("RGB", (width, 8), (value, 0, 0))
    sheet.paste((value, 200, 0), (0, 0, width // 2, 8))  # the sides of a pair differ
    sheet.save(stream, "png")
    return stream.getvalue()


FILES = {f"toy/{split}/{i}.png": png(i + first) for split, first in (("train", 0), ("val", 9)) for i in range(3)}


def toy(site, data, *, name="toy", file="toy.tgz", unpack="tar", top="toy", **known):
    """A user's card with a download."""
    site.put(f"/{file}", data)
    keys = "".join(f"{key} = {value!r}\n" for key, value in known.items())
    card = card_store.own_card_file(name)
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(
        f'name = "{name}"\nsummary = "toys"\nlicence = "toy licence"\nterms = "be kind"\n'
        + (f'top = "{top}"\n' if top else "")
        + f'[dataset]\nname = "side_by_side"\ndirection = "AtoB"\n'
        f'[[download]]\nurl = "{site.url}/{file}"\nunpack = "{unpack}"\n{keys}'
    )


@contextmanager
def quiet(title):
    yield lambda done, total: None


def get(name="toy", folder=None):
    return fetch(plan_fetch(name, folder), quiet)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_dataset_is_fetched_and_found(site, place, kind):
    archive = (tar if kind == "tar" else zipped)(place / "archive", FILES).read_bytes()
    toy(site, archive, unpack=kind)
    assert get() == {"toy.tgz": sha256(archive)}
    assert left(place / "data") == ["toy"]
    assert left(place / "data/toy") == [".i2i-bridge.toml", "train", "val"]
    assert len(open_source(load_card("toy").dataset, "train")) == 3
    # The second time says so, and asks nobody.
    asked = len(site.seen)
    assert plan_fetch("toy").fetched and get() == {} and len(site.seen) == asked
    # In another folder, too, wherever it was fetched to.
    assert not plan_fetch("toy", place / "elsewhere").fetched
    get(folder=place / "elsewhere")
    assert load_card("toy").dataset["root"] == str(place / "elsewhere")


def test_files_without_an_archive(site, place):
    toy(site, png(), file="one.png", unpack="none", top="")
    get()
    assert left(place / "data/toy") == [".i2i-bridge.toml", "one.png"]


def test_the_default_folder(site, place, monkeypatch):
    toy(site, b"")
    assert plan_fetch("toy").folder == place / "data" / "toy"
    monkeypatch.setenv("I2I_DATA_DIR", str(place / "big disk"))
    assert plan_fetch("toy").folder == place / "big disk" / "toy"


def test_an_unpublished_hash_is_kept_and_demanded_the_next_time(site, place):
    # kills: first-hash-forgotten
    first = tar(place / "archive", FILES).read_bytes()
    toy(site, first)
    get()
    subprocess.run(["rm", "-r", "data/toy"], check=True)
    toy(site, tar(place / "archive", {"toy/train/1.png": b"evil"}).read_bytes())
    with pytest.raises(UserError, match=f"not {sha256(first)}"):
        get()
    assert not (place / "data/toy").exists()
    card_store.place_file("toy").unlink()
    assert list(get()) == ["toy.tgz"]


def test_a_folder_of_other_content_is_left_alone(site, place):
    toy(site, tar(place / "archive", FILES).read_bytes())
    (place / "data/toy").mkdir(parents=True)
    (place / "data/toy/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="there already, with other content"):
        get()
    assert left(place / "data/toy") == ["mine.txt"]
    get(folder=place / "data/other")
    # Of another card.
    toy(site, b"", name="toy2")
    with pytest.raises(UserError, match="there already, with other content"):
        get("toy2", place / "data/other")


def test_bad_archives_leave_nothing_to_stumble_over(site, place):
    for members in ({"toy/../../../escaped": b"x"}, {"other/1.png": b"x"}):
        toy(site, tar(place / "archive", members).read_bytes())
        with pytest.raises(UserError, match=r"outside of its folder|holds no folder 'toy'; there is other"):
            get()
        assert not (place / "data/toy").exists() and not list(place.rglob("escaped"))
        assert card_store.read_place(card_store.place_file("toy")) is None
        toy(site, tar(place / "archive", FILES).read_bytes())
        # A whole archive without the folder stays: it is the card that is wrong.
        for file in (place / "data/toy.part/files").iterdir():
            file.unlink()
        get()
        subprocess.run(["rm", "-r", "data/toy"], check=True)
        card_store.place_file("toy").unlink()


def test_a_truncated_archive_without_a_length_is_fetched_again(site, place):
    """Without a length, truncation shows only when the archive is unpacked."""
    # kills: bad-archive-kept
    whole = tar(place / "archive", FILES).read_bytes()
    toy(site, whole)
    site.put("/toy.tgz", whole[:-20], length="none")
    with pytest.raises(UserError, match="damaged"):
        get()
    site.put("/toy.tgz", whole)
    get()
    assert left(place / "data/toy/train") == ["0.png", "1.png", "2.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(site, place):
    toy(site, tar(place / "archive", FILES).read_bytes())
    (place / "data").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"):
        get()


def test_a_file_in_the_way_of_the_folder(site, place):
    toy(site, tar(place / "archive", FILES).read_bytes())
    (place / "data").write_text("a file")
    with pytest.raises(UserError, match=r"data.* cannot be written \(Not a directory|data.* \(File exists"):
        get()


def test_two_at_once(site, place, store):
    toy(site, tar(place / "archive", FILES).read_bytes())
    errors = []

    @contextmanager
    def while_another_process_fetches(title):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        errors.append(interpreter.python("-c", CODE, env=environment).stderr)
        yield lambda done, total: None

    fetch(plan_fetch("toy"), while_another_process_fetches)
    assert errors and all("toy.part: another fetch is at work there" in error for error in errors)
    assert plan_fetch("toy").fetched


CODE = """
import sys
from contextlib import contextmanager
from i2i_bridge.data.fetch import fetch, plan_fetch
@contextmanager
def quiet(title):
    yield lambda done, total: None
print("ready", flush=True)
fetch(plan_fetch("toy"), quiet)
"""


class Killed(BaseException):
    pass


STEPS = [
    "i2i_bridge.storage.download._verified",
    "i2i_bridge.storage.download._write_validator",
    "i2i_bridge.data.fetch.unpack",
    "i2i_bridge.storage.archive._Destination.write",
    "i2i_bridge.data.fetch.write_whole",
    "i2i_bridge.data.fetch.remember_place",
    "os.sync",
    "i2i_bridge.storage.download.replace",
    "i2i_bridge.data.fetch.replace",
    "i2i_bridge.data.fetch.remove",
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_step_the_same_command_goes_on(site, place, monkeypatch, step, when):
    """An incomplete folder of that name exists at no time."""
    # kills: unpacked-leftovers-used
    import importlib

    many = {**FILES, **{f"toy/train/{i}.png": png(i) for i in range(3, 9)}}
    toy(site, tar(place / "archive", many).read_bytes())
    parts = step.split(".")
    owner = importlib.import_module(".".join(parts[:2]) if parts[0] == "i2i_bridge" else parts[0])
    for name in parts[2:-1] if parts[0] == "i2i_bridge" else parts[1:-1]:
        owner = getattr(owner, name)
    real = getattr(owner, parts[-1])
    calls = 0

    def dying(*arguments, **options):
        nonlocal calls
        calls += 1
        if when == "before":
            raise Killed
        done = real(*arguments, **options)
        raise Killed from (done if isinstance(done, Exception) else None)

    with monkeypatch.context() as patch:
        patch.setattr(owner, parts[-1], dying)
        with pytest.raises(Killed):
            get()
    assert calls == 1
    folder = place / "data/toy"
    assert not folder.exists() or len(left(folder / "train")) == 9
    get()
    assert left(place / "data") == ["toy"] and len(left(folder / "train")) == 9
    assert load_card("toy").dataset["root"] == str(folder) and plan_fetch("toy").fetched


def test_a_real_kill_in_the_middle_of_the_download(site, place, store):
    """After SIGKILL, the same command requests only the missing bytes."""
    data = tar(place / "archive", {"toy/train/0.png": BODY, "toy/val/0.png": BODY}).read_bytes()
    toy(site, data)

    def slow(request):
        if request.headers.get("Range"):
            send(request, data)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("ETag", '"v1"')
        request.end_headers()
        request.wfile.write(data[:1_000_000])
        killed.wait()

    killed = threading.Event()
    site.pages["/toy.tgz"] = slow
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", CODE], env=environment)
    part = place / "data/toy.part/files/toy.tgz.part"
    while not (part.exists() and part.stat().st_size > 500_000):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed.set()
    there = part.stat().st_size
    assert 0 < there < len(data)
    get()
    assert site.seen[-1] == ("/toy.tgz", f"bytes={there}-")
    assert (place / "data/toy/train/0.png").read_bytes() == BODY


# The command.


@pytest.fixture
def call(capsys):
    from i2i_bridge.cli.command import main

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    return run


def test_the_verb_shows_the_licence_and_needs_a_yes(site, place, call, monkeypatch):
    # kills: licence-not-asked
    toy(site, tar(place / "archive", FILES).read_bytes())
    code, out, err = call("data", "fetch", "toy")
    assert code == 2 and "toy licence" in out and "be kind" in out and err.count("\n") == 1 and "--yes" in err
    assert site.seen == [] and not (place / "data").exists()
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _: True, "readline": lambda _: "n\n"})())
    assert call("data", "fetch", "toy")[0] == 130 and site.seen == []
    code, out, err = call("data", "fetch", "toy", "--yes")
    assert code == 0 and "its sha256 is" in out and f"toy is ready: {place / 'data/toy'}" in out, err
    assert out.index("toy licence") < out.index("toy.tgz: ")
    code, out, _ = call("data", "fetch", "toy", "--yes")
    assert code == 0 and "there already" in out
    assert call("check", "toy")[0] == 0
    for words, part in (
        (["toyy"], "did you mean 'toy'"),
        (["imagenet256"], "names nothing to download; get it from https://www.image-net.org"),
        (["my-photos"], "names nothing to download"),
        (["toy", "--to", "archive", "--yes"], "other content"),
    ):
        code, _, err = call("data", "fetch", *words)
        assert code == 2 and part in err and err.count("\n") == 1


def test_no_other_verb_opens_a_socket(site, place, store):
    """kills: anything that looks a card up on the net."""
    toy(site, tar(place / "archive", FILES).read_bytes())
    get()
    code = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        raise SystemExit(f"socket opened: {event} {arguments}")
sys.addaudithook(hook)
import i2i_bridge
from i2i_bridge.cli.command import main
codes = []
for words in (["list"], ["list", "datasets"], ["show", "toy"], ["show", "kodak24"], ["check", "toy"],
              ["preview", "edges2shoes", "x.png", "data.card=toy", "data.size=8", "-n", "1"],
              ["data", "add", "mine", "data/toy/train", "direction=AtoB", "holdout=0.5"], ["data", "remove", "mine"]):
    try:
        main(words)
    except SystemExit as ended:
        codes.append(ended.code)
print(codes)
"""
    done = interpreter.python("-c", code, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "socket opened" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str([0] * 8), (done.stdout, done.stderr)


def test_shipped_downloads_are_planned(place):
    """Each shipped card with a download can be shown; nothing is fetched here."""
    planned = [name for name in card_names() if load_card(name).download]
    assert len(planned) >= 9
    for name in planned:
        text = "\n".join(plan_fetch(name).lines())
        assert "licence" in text and "http" in text and ("bytes" in text or "B from" in text), text
