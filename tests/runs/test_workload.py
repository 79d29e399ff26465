"""The estimate of memory and time for large images: one line, and no error if it fails."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_restoring import run_of  # noqa: F401  a fixture

from i2i_bridge.runs import workload
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.runs.workload import Workload, workload_of


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(workload, "LARGE", 60_000)
    monkeypatch.setattr(workload, "SIDES", (32, 64))
    for i, size in enumerate(((100, 50), (300, 250), (20, 20))):
        Image.fromarray(np.full((size[1], size[0], 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    return [tmp_path / f"{i}.png" for i in range(3)]


def test_the_largest_image_is_announced(run_of, files):  # noqa: F811
    # kills: announced-of-the-smallest, nothing-announced
    run = run_of({"name": "jpeg", "quality": 10})
    line = workload_of(run, files, nfe=3).line
    assert line is not None and str(files[1]) in line and "300x250 pixels, the largest of 3 images" in line
    assert "3 network calls each" in line and "at least" in line and "by a probe" in line
    assert workload_of(run, [files[0], files[2]], nfe=3) == Workload()
    said: list[str] = []
    calls: list[tuple[int, int]] = []
    restore_files(
        run, files[1], files[1].with_name("out.png"), nfe=2, samples=2, say=said.append,
        report_calls=lambda *step: calls.append(step),
    )  # fmt: skip
    assert len(said) == 1 and "4 network calls" in said[0]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # Small images and those that are done already cost no probe.
    said.clear()
    restore_files(run, files[0], files[1].with_name("small.png"), nfe=1, say=said.append)
    assert said == []


def test_seconds_and_bytes_are_those_of_the_probe(run_of, files, monkeypatch):  # noqa: F811
    # kills: announced-of-one-image, one call taken for all
    run = run_of({"name": "jpeg", "quality": 10})
    monkeypatch.setattr(workload, "probed", lambda run, factor: workload.Probe(seconds=1e-3, memory=1e5))
    monkeypatch.setattr(workload, "free_memory", lambda device: 8 * 10**9)
    line = workload_of(run, files, nfe=2, samples=30).line
    # (5000 + 75000 + 400) pixels x 60 calls x 1 ms; 75000 x 100 kB.
    assert "at least 80 minutes in all" in line and "at least 7.5 GB of memory of 8 GB free" in line
    assert "more than is free" not in line
    monkeypatch.setattr(workload, "free_memory", lambda device: 7 * 10**9)
    assert "that is more than is free" in workload_of(run, files, nfe=2).line


@pytest.mark.parametrize("degradation", [{"name": "inpaint", "mask": "center"}, {"name": "sr4x", "filter": "bicubic"}])
def test_every_kind_of_task_can_be_probed(run_of, files, degradation):  # noqa: F811
    # kills: an estimate that is refused for want of a mask
    run = run_of(degradation)
    probe = workload.probed(run, 4 if degradation["name"] == "sr4x" else 1)
    assert probe.seconds > 0 and (probe.memory is None or probe.memory > 0)


def test_an_estimate_never_fails(run_of, files, monkeypatch):  # noqa: F811
    # kills: a photo not restored since its probe failed
    run = run_of({"name": "jpeg", "quality": 10})

    def broken(run, factor):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(workload, "probed", broken)
    assert workload_of(run, files, nfe=1) == Workload()
    damaged = files[0].with_name("damaged.png")
    damaged.write_bytes(b"nothing")
    assert (
        workload_of(run, [damaged], nfe=1) == Workload()
        and workload_of(run, [damaged.with_name("none.png")], nfe=1) == Workload()
    )


def test_a_large_image_is_tiled_whatever_the_memory(run_of, files, monkeypatch):  # noqa: F811
    # kills: large-images-whole, automatic-tiles-of-all
    run = run_of({"name": "jpeg", "quality": 10})
    monkeypatch.setattr(workload, "TILES", (128, 64, 32))
    for free in (None, 10**12):
        monkeypatch.setattr(workload, "free_memory", lambda device, free=free: free)
        assert workload_of(run, files, nfe=1, automatic=True).tiles == {files[1]: 128}
        assert workload_of(run, files, nfe=1).tiles == {}
        assert workload.automatic_tile(run, 300 * 250) == 128 and workload.automatic_tile(run, 100 * 50) == 0


def test_what_does_not_fit_is_tiled_by_itself(run_of, files, monkeypatch):  # noqa: F811
    """The image in the largest tiles that fit, the others whole; one line says so."""
    # kills: automatic-tiles-never, automatic-tiles-of-all, automatic-tiles-too-large, whole-is-what-was-tiled
    monkeypatch.setattr(workload, "LARGE", 100_000)
    monkeypatch.setattr(workload, "HEAVY", 100_000)
    run = run_of({"name": "jpeg", "quality": 10})
    monkeypatch.setattr(workload, "probed", lambda run, factor: workload.Probe(seconds=1e-3, memory=1e5))
    monkeypatch.setattr(workload, "TILES", (128, 64, 32))
    # 75000 pixels: 7.5 GB whole, 0.41 GB in tiles of 64 (and 1.64 GB of 128).
    monkeypatch.setattr(workload, "free_memory", lambda device: 10**9)
    work = workload_of(run, files, nfe=2, automatic=True)
    assert work.tiles == {files[1]: 64} and "tiles of 64x64 pixels (--tile 0: whole)" in work.line
    assert "1 of the images are restored" in work.line
    assert workload_of(run, files, nfe=2).tiles == {}
    monkeypatch.setattr(workload, "free_memory", lambda device: 10**10)
    assert workload_of(run, files, nfe=2, automatic=True).tiles == {}
    # Where no tiles fit, the smallest.
    monkeypatch.setattr(workload, "free_memory", lambda device: 10**7)
    assert workload_of(run, files, nfe=2, automatic=True).tiles[files[1]] == 32

    monkeypatch.setattr(workload, "free_memory", lambda device: 10**9)
    out, tiles, said = files[1].with_name("out.png"), [], []
    restore_files(run, files[1], out, nfe=1, say=said.append, report_tiles=lambda *step: tiles.append(step))
    assert len(said) == 1 and "it is restored in tiles of 64x64" in said[0]
    # 300x250 in tiles of 64 that share 16: 6 columns, 5 rows.
    assert tiles[-1] == (30, 30)
    expected = run.tiled(64)
    with pytest.warns(UserWarning, match="in tiles of 64 pixels"):
        whole = run.restore(files[1], nfe=1)
    assert np.array_equal(np.asarray(whole), np.asarray(expected.restore(files[1], nfe=1)))
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(whole))
    # A folder that was tiled by itself is not done where whole images are asked for.
    folder = files[1].with_name("in")
    folder.mkdir()
    files[1].rename(folder / "a.png")
    again = [restore_files(run, folder, out.with_name("results"), nfe=1, tile=tile) for tile in (None, None, 0, 0)]
    assert [outcome.written for outcome in again] == [1, 0, 1, 0]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("inside", [False, True])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, version, inside):
    """Of the groups above this process each with a limit counts; cached files are dropped when memory is short."""
    # kills: container-limit-ignored, cached-files-count-as-used
    root = tmp_path / "cgroup" / ("memory" if version == 1 else "")
    limit, used, cached = workload.GROUP_FILES["memory" if version == 1 else ""]
    (root / "job/step").mkdir(parents=True)
    # A container mounts its own group as the root, while the path is the one that the machine gives it.
    path = "/elsewhere/job" if inside else "/job/step"
    (tmp_path / "own").write_text(f"7:cpu:/\n{'4:memory' if version == 1 else '0:'}:{path}\n")
    for folder, most in ((root, 9 * 10**9), (root / "job", 5 * 10**9), (root / "job/step", None)):
        (folder / limit).write_text(f"{most or 'max'}\n")
        (folder / used).write_text("2000000000\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cached} 500000000\n")
    found = workload.group_memory(tmp_path / "own", tmp_path / "cgroup")
    assert sorted(found) == ([7500000000] if inside else [3500000000, 7500000000])
    assert workload.group_memory(tmp_path / "none", root) == []
    monkeypatch.setattr(workload, "group_memory", lambda: [1000])
    assert workload.free_memory(torch.device("cpu")) == 1000
