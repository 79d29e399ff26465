"""Downloads from a malicious server: invalid sizes, invalid URLs, and files without end."""

import socket

import pytest
from test_fetching import BODY, left, send, site  # noqa: F401

from i2i_bridge.errors import UserError
from i2i_bridge.storage import download as downloading
from i2i_bridge.storage.download import Download, download


def answer(status=200, **headers):
    """A page of one byte with these headers."""

    def page(request):
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(b"x")

    return page


@pytest.mark.parametrize("length", ["\xb2", "-1", "1e3", "9" * 5000, "0x10", "1, 1", "", " "])
def test_a_length_that_is_none_counts_as_unknown(site, tmp_path, length):  # noqa: F811
    # kills: any-digit-is-a-number
    site.pages["/a"] = answer(Content_Length=length)
    assert len(download(Download(url=site.url + "/a"), tmp_path / "a")) == 64
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.parametrize("span", ["bytes \xb2-3/4", "bytes 1-2/" + "9" * 5000, "bytes 1-2/*", "bytes */3", "", "x"])
def test_a_range_that_is_none_begins_anew(site, tmp_path, span):  # noqa: F811
    # kills: any-digit-is-a-number
    (tmp_path / "a.part").write_bytes(b"x")
    (tmp_path / "a.part.version").write_text('"v"')
    pages = [answer(206, Content_Range=span), lambda request: send(request, BODY)]
    site.pages["/a"] = lambda request: pages.pop(0)(request)
    download(Download(url=site.url + "/a"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.parametrize(
    "to",
    ["http://[", "http://[::1", "http://a:b/", "//[", "http://" + "a" * 100 + ".example/", "http://\xe9\x80/", "http://a\x00b/",
     "http:// /", "http://x:99999999/", "gopher://x/", "http:///nothing"],
)  # fmt: skip
def test_a_redirect_to_no_address_is_one_line(site, tmp_path, to, monkeypatch):  # noqa: F811
    monkeypatch.setattr(socket, "getaddrinfo", local(socket.getaddrinfo))
    site.pages["/a"] = answer(302, Location=to)
    with pytest.raises(UserError) as refused:
        download(Download(url=site.url + "/a"), tmp_path / "a")
    assert site.url in str(refused.value) and str(refused.value).isprintable()


def local(look_up):
    """Restrict a name look-up to this machine, so that no test queries a name server."""

    def answer(host, *arguments, **options):
        if host not in ("127.0.0.1", "localhost"):
            host.encode("idna") if isinstance(host, str) else host
            raise OSError("no such host")
        return look_up(host, *arguments, **options)

    return answer


@pytest.mark.parametrize("url", ["http://[", "http://[::1/x", "http://a:b/", "http://" + "a" * 100 + ".example/x"])
def test_a_card_with_no_address_is_one_line(url, tmp_path, monkeypatch):
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    monkeypatch.setattr(socket, "getaddrinfo", local(socket.getaddrinfo))
    with pytest.raises(UserError, match="http://"):
        download(Download(url=url), tmp_path / "a")


def endless(request):
    request.send_response(200)
    request.send_header("Content-Type", "application/zip")
    request.end_headers()
    try:
        while True:
            request.wfile.write(bytes(2**16))
    except OSError:  # the other side has had enough
        pass


def test_a_file_without_size_and_end_has_a_limit(site, tmp_path, monkeypatch):  # noqa: F811
    # kills: file-without-end
    monkeypatch.setattr(downloading, "LARGEST", 2**20)
    site.pages["/a"] = endless
    with pytest.raises(UserError, match="more than the 1048576 bytes that it may have; deleted"):
        download(Download(url=site.url + "/a"), tmp_path / "a")
    assert left(tmp_path) == []


def test_a_file_without_size_leaves_the_reserve_free(site, tmp_path, monkeypatch):  # noqa: F811
    # kills: reserve-downloaded
    def free(folder):
        there = sum(file.stat().st_size for file in tmp_path.iterdir())
        return downloading.RESERVE + 2**20 - there

    monkeypatch.setattr(downloading, "free_bytes", free)
    site.pages["/a"] = endless
    with pytest.raises(UserError, match="no room for more; 256 MB of the disk stay free"):
        download(Download(url=site.url + "/a"), tmp_path / "a")
    assert (tmp_path / "a.part").stat().st_size <= 2**20
    site.put("/b", bytes(2 * 2**20))
    with pytest.raises(UserError, match="no room for 2097152 bytes; 256 MB stay free"):
        download(Download(url=site.url + "/b"), tmp_path / "b")


def test_a_trickle_is_no_download(site, tmp_path, monkeypatch):  # noqa: F811
    """Independent of the machine's speed: the first limit is above any server's rate, the second below."""
    # kills: any-rate-will-do
    monkeypatch.setattr(downloading, "WINDOW", 0.0)
    monkeypatch.setattr(downloading, "SLOWEST", 1e18)
    url = site.put("/a", BODY)
    with pytest.raises(UserError, match="bytes a second; run the same command again to resume"):
        download(Download(url=url), tmp_path / "a")
    monkeypatch.setattr(downloading, "SLOWEST", 1e-9)
    download(Download(url=url), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_mark_that_is_none_is_not_sent(site, tmp_path):  # noqa: F811
    for mark in (b'"a\r\nX-Evil: 1"', b"\xff", b"a" * 2000):
        (tmp_path / "a.part").write_bytes(BODY[:10])
        (tmp_path / "a.part.version").write_bytes(mark)
        url = site.put("/a", BODY)
        download(Download(url=url), tmp_path / "a")
        assert site.seen[-1] == ("/a", None)
        (tmp_path / "a").unlink()
