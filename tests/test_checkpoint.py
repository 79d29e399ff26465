import json
import random

import pytest
import torch

from i2i_bridge.checkpoint import latest_checkpoint, save_checkpoint
from i2i_bridge.errors import UserError


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
    # kills: manifest-not-verified
    save(tmp_path, 1), save(tmp_path, 2)
    file = tmp_path / "step-00000002" / "network.safetensors"
    whole = file.read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(bytes(data))
        found, damaged = latest_checkpoint(tmp_path)
        assert found.step == 1 and "network.safetensors: damaged" in damaged[0]


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


def test_a_failed_save_keeps_the_last_good_one(tmp_path, monkeypatch):
    import os

    save(tmp_path, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"not saved.*No space left"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path)[0].step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
