"""Archives without trust: every kind of hostile or broken member is refused, and nothing lands outside."""

import io
import stat
import tarfile
import zipfile

import pytest

from i2i_bridge import unpacking
from i2i_bridge.unpacking import BadArchive, unpack

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
    """A link out, then a file through it, is the classical escape."""
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
    """Python's reader takes a plain tar that ends after a member for a whole one."""
    # kills: tar-end-not-checked
    whole = tar(tmp_path / "a", mode=mode).read_bytes()
    # The last 8 kB of a plain tar are padding.
    ends = range(0, len(whole) - 1, 23) if mode == "w:gz" else range(0, 3 * 512 + 3072 + 512, 256)
    for end in ends:
        cut = tmp_path / f"cut-{end}"
        cut.write_bytes(whole[:end])
        with pytest.raises(BadArchive, match="damaged"):
            unpack(cut, "tar", tmp_path / f"out-{end}")


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
