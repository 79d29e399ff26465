import errno
import hashlib
import json
import math
import os

import durability
import pytest
import torch
from faults import FailingOS, disk

from i2i_bridge.errors import UserError
from i2i_bridge.runs.checkpoint import check_space, latest_checkpoint, recovered_checkpoint, save_checkpoint


def save(folder, step, value=1.0, keep=2):
    return save_checkpoint(folder, step, {"network": {"w": torch.full((20,), value)}}, {"seed": 3}, keep)


def test_round_trip_and_rotation(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, float(step))
    found, damaged = latest_checkpoint(tmp_path)
    assert found.step == 3 and found.state == {"seed": 3} and damaged == []
    assert torch.equal(found.tensors("network")["w"], torch.full((20,), 3.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    with pytest.raises(UserError, match="has no ema"):
        found.tensors("ema")


def test_nothing_there_yet(tmp_path):
    assert latest_checkpoint(tmp_path / "none") == (None, [])


def test_any_flipped_bit_is_seen_and_the_older_checkpoint_taken(tmp_path):
    # kills: manifest-not-verified, seal-not-verified
    save(tmp_path, 1), save(tmp_path, 2)
    durability.flips(tmp_path, 1000)


@pytest.mark.parametrize("damage", ["no manifest", "broken manifest", "missing file", "newer format"])
def test_half_a_checkpoint_is_passed_over(tmp_path, damage):
    save(tmp_path, 1), save(tmp_path, 2)
    folder = tmp_path / "step-00000002"
    manifest = folder / "manifest.json"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "broken manifest":
        manifest.write_text("{")
    elif damage == "missing file":
        (folder / "network.safetensors").unlink()
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    found, damaged = latest_checkpoint(tmp_path)
    assert found.step == 1 and len(damaged) == 1
    (tmp_path / "step-00000001" / "manifest.json").unlink()
    with pytest.raises(UserError, match="no other is there"):
        latest_checkpoint(tmp_path)


OUTSIDE = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m["files"].update({"../outside.safetensors": OUTSIDE}), "names '../outside.safetensors'"),
        (lambda m: m["files"].update({"/etc/passwd": OUTSIDE}), "names '/etc/passwd'"),
        (lambda m: m["files"].update({"link.safetensors": OUTSIDE}), "link.safetensors: damaged"),
        (lambda m: m["files"].update({"pipe.safetensors": OUTSIDE}), "pipe.safetensors: damaged"),
        (lambda m: m["files"].update({"other.safetensors": OUTSIDE}), "other.safetensors: damaged"),
        (lambda m: m["files"]["network.safetensors"].update(bytes=3), "the manifest says 3"),
        (lambda m: m["files"].update({"network.safetensors": 3}), "not a whole checkpoint"),
        (lambda m: m.update(step=7), "of another step"),
        (lambda m: m.update(step=1e999), "of another step"),
        (lambda m: m.update(step=True), "of another step"),
        (lambda m: m.update(state=[1]), "of another step"),
        (lambda m: m.update(files=[1]), "not a whole checkpoint"),
        (lambda m: m.pop("state"), "not a whole checkpoint"),
    ],
)
def test_a_manifest_stays_in_its_folder_and_is_believed_in_nothing(tmp_path, change, part):
    # kills: manifest-escapes, step-not-compared
    save(tmp_path / "c", 1), save(tmp_path / "c", 2)
    folder = tmp_path / "c" / "step-00000002"
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    durability.reseal(folder, change)
    found, damaged = latest_checkpoint(tmp_path / "c")
    assert found.step == 1 and len(damaged) == 1 and part in damaged[0] and "\n" not in damaged[0]


@pytest.mark.parametrize("best", [None, 1])
def test_a_checkpoint_that_a_training_removes_while_it_is_read_is_no_damage(tmp_path, monkeypatch, best):
    def saves(step):
        save_checkpoint(
            tmp_path, step, {"network": {"w": torch.ones(3)}, "ema": {"w": torch.ones(3)}}, {}, 1, best=best
        )

    digest = hashlib.file_digest

    def digest_while_training(stream, name):
        monkeypatch.setattr(hashlib, "file_digest", digest)
        saves(3)
        return digest(stream, name)

    saves(1), saves(2)
    monkeypatch.setattr(hashlib, "file_digest", digest_while_training)
    found, damaged = latest_checkpoint(tmp_path)
    assert found.step == 3 and damaged == []


@pytest.mark.parametrize("link", [False, True])
def test_a_file_beside_those_of_the_manifest_is_none_of_the_checkpoint(tmp_path, link):
    save(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    durability.reseal(folder, lambda m: m.update(files={}))
    if link:
        (folder / "network.safetensors").rename(tmp_path / "outside")
        (folder / "network.safetensors").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="has no network"):
        latest_checkpoint(tmp_path)[0].tensors("network")


def test_weights_of_eight_bits_are_saved_and_read(tmp_path):
    small = {"w": torch.linspace(-1, 1, 8).to(torch.float8_e4m3fn)}
    save_checkpoint(tmp_path, 1, {"ema": small}, {}, keep=1)
    assert torch.equal(latest_checkpoint(tmp_path)[0].tensors("ema")["w"].float(), small["w"].float())
    with pytest.raises(UserError, match="'w' is not finite"):
        save_checkpoint(tmp_path, 2, {"ema": {"w": small["w"].float().mul(math.nan).to(torch.float8_e4m3fn)}}, {}, 1)


def test_a_manifest_of_deep_brackets(tmp_path):
    save(tmp_path, 1), save(tmp_path, 2)
    text = b'{"format": 1, "step": 2, "state": ' + b"[" * 200_000
    (tmp_path / "step-00000002" / "manifest.json").write_bytes(text)
    found, damaged = latest_checkpoint(tmp_path)
    assert found.step == 1 and "not a whole checkpoint" in damaged[0]


def test_checkpoints_of_the_first_format_are_read(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    durability.reseal(folder, lambda m: m.update(format=1))
    (folder / "manifest.sha256").unlink()
    found, damaged = latest_checkpoint(tmp_path)
    assert found.step == 1 and found.format == 1 and damaged == []


def test_a_whole_file_that_is_no_safetensors(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    (folder / "network.safetensors").write_bytes(b"\xff" * 64)
    durability.reseal(folder)
    with pytest.raises(UserError, match=r"network.safetensors: not a readable safetensors file"):
        latest_checkpoint(tmp_path)[0].tensors("network")


def test_the_newest_is_the_highest_number(tmp_path):
    # kills: newest-by-spelling
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step)
    (tmp_path / "step-of-mine").mkdir()
    (tmp_path / "step-00000001").write_text("a file")
    assert latest_checkpoint(tmp_path)[0].step == 100_000_000


def test_what_is_damaged_is_set_aside_for_the_run_that_goes_on(tmp_path):
    # kills: damaged-counts-as-kept
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    for step in (2, 3):
        (tmp_path / f"step-0000000{step}" / "ema.safetensors").write_bytes(b"")
        (tmp_path / f"step-0000000{step}" / "network.safetensors").write_bytes(b"rot")
    (tmp_path / ".tmp-step-00000004-1").mkdir()
    (tmp_path / "damaged-step-00000003").mkdir()
    found, damaged = recovered_checkpoint(tmp_path)
    assert found.step == 1 and len(damaged) == 2
    names = ["damaged-step-00000002", "damaged-step-00000003", "step-00000001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "damaged-step-00000003" / "network.safetensors").read_bytes() == b"rot"
    save(tmp_path, 2)
    assert latest_checkpoint(tmp_path)[0].step == 2 and (tmp_path / "step-00000001").is_dir()


def test_a_damaged_one_that_cannot_be_moved_is_passed_over(tmp_path):
    save(tmp_path, 1), save(tmp_path, 2)
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    with disk(FailingOS(0, "all later fail", errno.EROFS)):
        found, damaged = recovered_checkpoint(tmp_path)
    assert found.step == 1 and len(damaged) == 1 and (tmp_path / "step-00000002").is_dir()


def contents(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EACCES, errno.ENOMEM])
@pytest.mark.parametrize("at", ["listing", "manifest.json", "manifest.sha256", "network.safetensors"])
def test_an_error_that_may_pass_is_no_damage(tmp_path, monkeypatch, number, at):
    """Such as a network's: the run stops, and nothing is set aside, removed or begun anew.

    kills: any-error-is-damage
    """
    save(tmp_path, 1), save(tmp_path, 2)
    (tmp_path / ".tmp-step-00000003-1").mkdir()
    before = contents(tmp_path)
    real = {"scandir": os.scandir, "open": os.open}

    def scandir(path):
        if at == "listing":
            raise OSError(number, os.strerror(number), str(path))
        return real["scandir"](path)

    def opened(path, *words, **more):
        if str(path).endswith(f"step-00000002/{at}"):
            raise OSError(number, os.strerror(number), str(path))
        return real["open"](path, *words, **more)

    with monkeypatch.context() as failing:
        failing.setattr(os, "scandir", scandir)
        failing.setattr(os, "open", opened)
        for find in (latest_checkpoint, recovered_checkpoint):
            with pytest.raises(UserError, match="no damage; nothing was changed") as caught:
                find(tmp_path)
            assert caught.value.code == 74 and os.strerror(number) in str(caught.value)
    assert contents(tmp_path) == before
    assert recovered_checkpoint(tmp_path)[0].step == 2


def test_an_error_while_reading_is_no_damage_either(tmp_path, monkeypatch):
    save(tmp_path, 1), save(tmp_path, 2)

    def failing(stream, name):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "file_digest", failing)
    with pytest.raises(UserError, match=r"step-00000002: cannot be read \(Input/output error\)") as caught:
        recovered_checkpoint(tmp_path)
    assert caught.value.code == 74 and len(contents(tmp_path)) == 8


def test_a_checkpoint_of_a_newer_version_is_no_damage(tmp_path):
    save(tmp_path, 1), save(tmp_path, 2)
    durability.reseal(tmp_path / "step-00000002", lambda m: m.update(format=99))
    with pytest.raises(UserError, match="format 99 is not known to this version"):
        recovered_checkpoint(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_a_damaged_one_that_was_set_aside_is_never_replaced(tmp_path):
    for word in (b"first", b"second"):
        save(tmp_path, 1, keep=3) if not (tmp_path / "step-00000001").is_dir() else None
        save(tmp_path, 2, keep=3)
        (tmp_path / "step-00000002" / "manifest.json").write_bytes(word)
        recovered_checkpoint(tmp_path)
    aside = [tmp_path / name / "manifest.json" for name in ("damaged-step-00000002", "damaged-step-00000002-2")]
    assert [file.read_bytes() for file in aside] == [b"first", b"second"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_checkpoint_holds_what_is_not_finite(tmp_path, value):
    # kills: not-finite-published
    save(tmp_path, 1)
    bad = {"network": {"n": torch.tensor([1, 2]), "a": torch.ones(3), "w": torch.tensor([0.0, value])}}
    with pytest.raises(UserError, match=r"not saved: .*: network's 'w' is not finite"):
        save_checkpoint(tmp_path, 2, bad, {}, 2)
    save_checkpoint(tmp_path, 3, {"network": {"n": torch.tensor([1, 2])}}, {}, 2)
    assert latest_checkpoint(tmp_path)[0].step == 3


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device (need 8e-05 MB, "),
        (errno.EDQUOT, "Disk quota exceeded (need 8e-05 MB, "),
        (errno.EROFS, "Read-only file system"),
        (errno.EACCES, "Permission denied"),
    ],
)
def test_a_failed_save_keeps_the_last_good_one(tmp_path, number, said):
    save(tmp_path, 1)
    with disk(FailingOS(2, "one error", number)), pytest.raises(UserError) as caught:
        save(tmp_path, 2)
    assert str(caught.value).startswith(f"checkpoint not saved: {tmp_path / 'step-00000002'}: {said}")
    assert caught.value.code == 74
    assert latest_checkpoint(tmp_path)[0].step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_room_for_a_checkpoint_is_looked_for_first(tmp_path, monkeypatch):
    # kills: room-for-the-largest-manifest
    parts = {"network": {"w": torch.zeros(1_000_000)}}
    check_space(tmp_path / "new", parts)
    monkeypatch.setattr("i2i_bridge.runs.checkpoint.free_bytes", lambda folder: 3_000_000)
    with pytest.raises(UserError, match=r"a checkpoint needs 5.05 MB and 3 MB are free") as caught:
        check_space(tmp_path / "new", parts)
    assert caught.value.code == 74
    monkeypatch.setattr("i2i_bridge.runs.checkpoint.free_bytes", lambda folder: 5_100_000)
    check_space(tmp_path / "new", parts)
    monkeypatch.setattr("i2i_bridge.runs.checkpoint.bytes_of", lambda parts: 8_800_000_000)
    with pytest.raises(UserError, match=r"needs 8.8 GB"):
        check_space(tmp_path / "new", parts)
