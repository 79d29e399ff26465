"""Untrusted archives: every kind of hostile or damaged member is rejected, and nothing is written outside."""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import tracemalloc
import zipfile

import pytest

from i2i_bridge.data.sources.tar import TarShards
from i2i_bridge.errors import UserError
from i2i_bridge.storage import archive as unpacking
from i2i_bridge.storage.archive import BadArchive, unpack
from i2i_bridge.storage.files import remove

FILES = {"set/train/1.png": b"one", "set/train/2.png": b"2" * 3000, "set/notes.txt": b""}


def tar(path, members=FILES, mode="w:gz", **special):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for kind, (name, link) in special.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = getattr(tarfile, kind), link
            archive.addfile(info)
    return path


def zipped(path, members=FILES, mode=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode or stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return path


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_comes_out_whole(tmp_path, mode):
    seen = []
    unpack(tar(tmp_path / "a", mode=mode), "tar", tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert everything(tmp_path / "out") == FILES
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]


def test_a_zip_comes_out_whole(tmp_path):
    archive = zipped(tmp_path / "a.zip", {**FILES, "empty/": b""})
    unpack(archive, "zip", tmp_path / "out")
    assert everything(tmp_path / "out") == FILES and (tmp_path / "out/empty").is_dir()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "..\\x", "C:\\x", "C:x", "\\x"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nothing_leaves_the_folder(tmp_path, name, kind):
    # kills: archive-paths-not-checked
    archive = (tar if kind == "tar" else zipped)(tmp_path / "a", {name: b"evil"})
    with pytest.raises(BadArchive, match="outside of its folder"):
        unpack(archive, kind, tmp_path / "in" / "out")
    assert set(everything(tmp_path)) == {"a"}


@pytest.mark.parametrize(
    ("kind", "link", "what"),
    [
        ("SYMTYPE", "/etc", "a link"),
        ("SYMTYPE", "..", "a link"),
        ("LNKTYPE", "/etc/passwd", "a link"),
        ("CHRTYPE", "", "a special file"),
        ("BLKTYPE", "", "a special file"),
        ("FIFOTYPE", "", "a special file"),
    ],
)
def test_tar_members_that_are_no_files(tmp_path, kind, link, what):
    """The classical escape: a link to outside, then a file written through the link."""
    # kills: links-unpacked
    archive = tar(tmp_path / "a.tgz", {}, **{kind: ("door", link)})
    with pytest.raises(BadArchive, match=f"'door' is {what}"):
        unpack(archive, "tar", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("mode", "what"), [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "a special"), (stat.S_IFIFO, "a")])
def test_zip_members_that_are_no_files(tmp_path, mode, what):
    # kills: zip-links-unpacked
    with pytest.raises(BadArchive, match=f"'door' is {what}"):
        unpack(zipped(tmp_path / "a.zip", {"door": b"/etc"}, mode | 0o777), "zip", tmp_path / "out")


def test_a_bomb_is_refused_before_it_goes_off(tmp_path, monkeypatch):
    """20 MB of zeros in 20 kB; the floor that serves small archives is lowered here."""
    # kills: size-not-bounded
    monkeypatch.setattr(unpacking, "FLOOR", 2**20)
    zeros = {f"{i}.png": bytes(2**20) for i in range(20)}
    for kind, make in (("tar", tar), ("zip", zipped)):
        archive = make(tmp_path / kind, zeros)
        with pytest.raises(BadArchive, match="more than 20 times"):
            unpack(archive, kind, tmp_path / f"out-{kind}")
        # What was written stays under the bound.
        assert sum(len(data) for data in everything(tmp_path / f"out-{kind}").values()) <= 2**20


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_truncated_tar_is_named_wherever_it_is_cut(tmp_path, mode):
    """tarfile accepts an uncompressed tar that ends after a member as complete."""
    # kills: tar-end-not-checked
    whole = tar(tmp_path / "a", mode=mode).read_bytes()
    # The last 8 kB of a plain tar are padding.
    ends = range(0, len(whole) - 1, 23) if mode == "w:gz" else range(0, 3 * 512 + 3072 + 512, 256)
    for end in ends:
        cut = tmp_path / f"cut-{end}"
        cut.write_bytes(whole[:end])
        with pytest.raises(BadArchive, match="damaged"):
            unpack(cut, "tar", tmp_path / f"out-{end}")


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "a/b"], "the member 'a' cannot be unpacked"),
        (["x" * 300], "cannot be unpacked (File name too long)"),
        (["d/" * 64 + "x"], "more than 64 folders deep"),
        (["d/" * 1500 + "x"], "more than 64 folders deep"),
    ],
)
def test_names_that_no_disk_takes_are_of_a_bad_archive(tmp_path, kind, names, says):
    """Otherwise the same archive would be unpacked again by each fetch, and its folder could not be removed."""
    archive = (tar if kind == "tar" else zipped)(tmp_path / "archive", dict.fromkeys(names, b"x"))
    with pytest.raises(BadArchive, match=re.escape(says)) as refusal:
        unpack(archive, kind, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    remove(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encrypted_zip_is_said_to_be_one(tmp_path):
    data = bytearray(zipped(tmp_path / "a.zip", {"x": b"x"}).read_bytes())
    data[6] |= 1
    data[data.find(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BadArchive, match="'x' is encrypted"):
        unpack(tmp_path / "a.zip", "zip", tmp_path / "out")


def test_damaged_archives(tmp_path):
    page = tmp_path / "page"
    page.write_bytes(b"<html>sorry</html>" * 100)
    flipped = bytearray(zipped(tmp_path / "a.zip").read_bytes())
    flipped[45] ^= 255
    (tmp_path / "flipped").write_bytes(flipped)
    middle = bytearray(tar(tmp_path / "b", mode="w").read_bytes())
    middle[1024] ^= 255  # the second header: Python's reader takes it for the end
    (tmp_path / "middle").write_bytes(middle)
    twice = tmp_path / "twice"
    with tarfile.open(twice, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("x"))
    for name, kind, part in (
        ("page", "tar", "not a tar"),
        ("page", "zip", "not a zip"),
        ("flipped", "zip", "damaged"),
        ("middle", "tar", "damaged"),
        ("twice", "tar", "there twice"),
    ):
        with pytest.raises(BadArchive, match=part):
            unpack(tmp_path / name, kind, tmp_path / f"out-{name}-{kind}")


def gnu(name, kind, size):
    """A header of a GNU or pax extension whose body, all zeros, follows."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("mode", ["plain", "gz", "xz", "bz2"])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_gigabytes_is_not_read(tmp_path, kind, mode):
    """60 kB, compressed, took 1.5 GB of memory."""
    # kills: tar-headers-unlimited
    data = gnu("x", kind, 40 * 2**20) + bytes(40 * 2**20) + bytes(1024)
    archive = tmp_path / "a"
    pack = {"plain": bytes, "gz": lambda data: gzip.compress(data, 1), "xz": lzma.compress, "bz2": bz2.compress}
    archive.write_bytes(pack[mode](data))
    tracemalloc.start()
    with pytest.raises(BadArchive, match="has a header of more than 1048576 bytes"):
        unpack(archive, "tar", tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "a.tar").write_bytes(data)
    if mode == "plain":
        with pytest.raises(UserError, match=r"a\.tar: has a header of more than"):
            TarShards(shards, "train")


def test_many_small_headers_before_one_member_are_one_large_header(tmp_path):
    # kills: tar-headers-unlimited
    body = b"11 a=12345\n" * 40_000
    one = gnu("x", tarfile.XGLTYPE, len(body)) + body + bytes(-len(body) % 512)
    (tmp_path / "a").write_bytes(gzip.compress(one * 5 + gnu("f", tarfile.REGTYPE, 0) + bytes(1024)))
    with pytest.raises(BadArchive, match="has a header of more than"):
        unpack(tmp_path / "a", "tar", tmp_path / "out")


def test_long_names_and_pax_headers_of_honest_archives(tmp_path):
    files = {f"set/{'é' * 60}/{'n' * 90}-{i}.png": b"x" for i in range(50)}
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / "a", "w:gz", format=form) as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        unpack(tmp_path / "a", "tar", tmp_path / f"out-{form}")
        assert everything(tmp_path / f"out-{form}") == files


def test_a_sparse_map_of_more_bytes_than_its_member(tmp_path):
    """tarfile.extract writes what the map says: 200 MB for a member of 512 bytes, whatever the filter."""
    # kills: archive-extracted-by-tarfile
    header = bytearray(gnu("f", tarfile.GNUTYPE_SPARSE, 512))
    header[386:410] = b"%011o\0%011o\0" % (0, 200 * 2**20)
    header[483:495] = b"%011o\0" % 512
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    (tmp_path / "a").write_bytes(bytes(header) + b"1" * 512 + bytes(1024))
    unpack(tmp_path / "a", "tar", tmp_path / "out")
    assert everything(tmp_path / "out") == {"f": b"1" * 512}


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", ["{}", "{}/", "d/{}/e/f/g/h"])
def test_very_many_members_of_a_small_archive(tmp_path, monkeypatch, kind, name):
    """Every member and every parent folder counts as at least one block, even if empty."""
    # kills: members-take-nothing
    monkeypatch.setattr(unpacking, "FLOOR", 2**20)
    make = tar if kind == "tar" else zipped
    if kind == "tar" and name == "{}/":
        archive = tmp_path / "a"
        with tarfile.open(archive, "w:gz") as out:
            for i in range(2000):
                info = tarfile.TarInfo(str(i))
                info.type = tarfile.DIRTYPE
                out.addfile(info)
    else:
        archive = make(tmp_path / "a", {name.format(i): b"" for i in range(2000)})
    monkeypatch.setattr(unpacking, "RATIO", 1)
    with pytest.raises(BadArchive, match="4096 bytes a member at least"):
        unpack(archive, kind, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*"))) <= 256


def test_what_follows_the_end_of_a_compressed_tar_is_limited(tmp_path, monkeypatch):
    # kills: tar-end-unlimited
    monkeypatch.setattr(unpacking, "FLOOR", 2**20)
    archive = tmp_path / "a"
    archive.write_bytes(gzip.compress(gnu("f", tarfile.REGTYPE, 0) + bytes(1024) + bytes(50 * 2**20)))
    with pytest.raises(BadArchive, match="unpacks to more than 20 times"):
        unpack(archive, "tar", tmp_path / "out")
    monkeypatch.setattr(unpacking, "FLOOR", 60 * 2**20)
    unpack(archive, "tar", tmp_path / "whole")
    assert everything(tmp_path / "whole") == {"f": b""}


def test_sizes_below_zero_and_headers_that_point_backwards(tmp_path):
    """Base-256 numbers may be negative: older versions of tarfile loop for ever."""
    for kind in (tarfile.REGTYPE, tarfile.DIRTYPE, b"Z"):
        header = bytearray(gnu("f", kind, 0))
        header[124:136] = b"\xff" * 10 + b"\xfc\x00"
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
        (tmp_path / "a").write_bytes(gnu("g", tarfile.REGTYPE, 0) + bytes(header) + bytes(1024))
        with pytest.raises(BadArchive):
            unpack(tmp_path / "a", "tar", tmp_path / f"out-{kind}")


def test_some_of_the_disk_stays_free(tmp_path, monkeypatch):
    # kills: reserve-spent
    monkeypatch.setattr(unpacking, "free_bytes", lambda folder: unpacking.RESERVE + 2000)
    for kind, make in (("tar", tar), ("zip", zipped)):
        with pytest.raises(UserError, match="no room for what is in it; 256 MB"):
            unpack(make(tmp_path / kind), kind, tmp_path / f"out-{kind}")


def test_an_archive_that_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for kind in ("tar", "zip"):
        with pytest.raises(UserError, match="pipe"):
            unpack(tmp_path / "pipe", kind, tmp_path / "out")


@pytest.mark.parametrize("data", [b"PK\x05\x06", b"\xff" * 2000, b"\x1f\x8b" + bytes(100), b"BZh9" + bytes(50), b""])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nonsense(tmp_path, data, kind):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(BadArchive):
        unpack(tmp_path / "a", kind, tmp_path / "out")
