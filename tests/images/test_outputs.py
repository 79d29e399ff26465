"""Output files: unique names, formats, and folders that are resumed after an interruption."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.degradations.files import degrade_files
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.outputs import DONE_FILE, plan_files
from i2i_bridge.images.pixels import Picture

NOISE = [{"name": "noise", "std": 0.2}]


def smooth(seed: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[:40, :56] / (7 + seed)
    return np.rint((np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], -1) + 1) * 127.5).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, name in enumerate(("a.jpg", "b.png", "c.webp")):
        Image.fromarray(smooth(i)).save(folder / name, **({"lossless": True} if name == "c.webp" else {}))
    return folder


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name[0] != ".")


def test_degraded_jpegs_are_data_and_lose_nothing(photos: Path, tmp_path: Path) -> None:
    # kills: noise compressed again, which takes a third of it; lossless WebP written with loss
    degrade_files(NOISE, photos, tmp_path / "out")
    assert written(tmp_path / "out") == ["a.png", "b.png", "c.webp"]
    for source, result in (("a.jpg", "a.png"), ("b.png", "b.png"), ("c.webp", "c.webp")):
        before, after = (read_picture(path).pixels for path in (photos / source, tmp_path / "out" / result))
        write_picture(tmp_path / "again.png", Picture(after))
        inner = (before > 90) & (before < 165)  # of which the noise is not cut off
        assert 23 < (after[inner].astype(float) - before[inner]).std() < 28, source
    # The same image in a lossless file of any format is the same result.
    Image.open(photos / "c.webp").save(photos / "c.png")
    for result in ("c.png", "c.webp"):
        degrade_files([{"name": "gaussian-blur", "sigma": 1}], photos / f"c{Path(result).suffix}", tmp_path / result)
    assert np.array_equal(read_picture(tmp_path / "c.png").pixels, read_picture(tmp_path / "c.webp").pixels)


def test_formats_and_qualities(photos: Path, tmp_path: Path) -> None:
    # kills: colour-at-half-resolution; --quality without effect; a format that only renames
    detail = np.zeros((32, 32, 3), np.uint8)
    detail[::2, :, 0] = detail[1::2, :, 2] = 255
    write_picture(tmp_path / "detail.jpg", Picture(detail))
    assert np.abs(read_picture(tmp_path / "detail.jpg").pixels.astype(int) - detail).mean() < 8
    sizes = []
    for quality in (None, 95, 20):
        degrade_files(NOISE, photos, tmp_path / f"q{quality}", format="jpg", quality=quality)
        assert written(tmp_path / f"q{quality}") == ["a.jpg", "b.jpg", "c.jpg"]
        assert Image.open(tmp_path / f"q{quality}" / "b.jpg").format == "JPEG"
        sizes.append((tmp_path / f"q{quality}" / "b.jpg").stat().st_size)
    assert sizes[0] == sizes[1] > 2 * sizes[2]
    # Asked for by the name of a single file, JPEG it is.
    degrade_files(NOISE, photos / "a.jpg", tmp_path / "one.jpg")
    assert Image.open(tmp_path / "one.jpg").format == "JPEG"
    degrade_files(NOISE, photos / "a.jpg", tmp_path / "new")
    assert written(tmp_path / "new") == ["a.png"]
    for options, says in (
        ({"format": "gif"}, "choose one of png, jpg, webp, tif"),
        ({"quality": 50, "format": "png"}, "of JPEG and WebP only"),
        ({"quality": 101, "format": "jpg"}, "from 1 to 100"),
    ):
        with pytest.raises(UserError, match=says):
            degrade_files(NOISE, photos, tmp_path / "refused", **options)
    with pytest.raises(UserError, match="another format than --format png"):
        degrade_files(NOISE, photos / "a.jpg", tmp_path / "one.jpg", format="png")
    assert not (tmp_path / "refused").exists()


def test_webp_keeps_its_kind(tmp_path: Path) -> None:
    # kills: every WebP taken for lossy, or for lossless
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    alpha = Image.fromarray(np.concatenate([pixels, pixels[..., :1]], -1))
    for image in (Image.fromarray(pixels), alpha):
        for lossless in (True, False):
            image.save(tmp_path / "a.webp", lossless=lossless, exact=True, icc_profile=b"p" * 1001)
            picture = read_picture(tmp_path / "a.webp")
            assert picture.lossy is not lossless
            write_picture(tmp_path / "b.webp", picture)
            assert np.array_equal(read_picture(tmp_path / "b.webp").pixels, picture.pixels) is lossless
    frames = [Image.fromarray(pixels), Image.fromarray(pixels[::-1])]
    for lossless in (True, False):
        frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=lossless)
        assert read_picture(tmp_path / "a.webp").lossy is not lossless


def test_results_never_meet(photos: Path, tmp_path: Path) -> None:
    # kills: outputs-meet
    Image.fromarray(smooth(5)).save(photos / "a.png")
    Image.fromarray(smooth(6)).save(photos / "a-mask.png")
    ops = [{"name": "inpaint", "mask": "center"}]
    outcome = degrade_files(ops, photos, tmp_path / "out")
    of_a = {"a.jpg.png", "a.jpg-mask.png", "a.png", "a-mask-2.png", "a-mask.png", "a-mask-mask.png"}
    assert set(written(tmp_path / "out")) == of_a | {"b.png", "b-mask.png", "c.webp", "c-mask.png"}
    assert outcome.written == 5 and len(outcome.notes) == 2
    assert "a.jpg.png" in outcome.notes[0] and "a-mask-2.png" in outcome.notes[1]
    # a-mask.png is the degraded image of that name, not the mask of a.png.
    assert len(np.unique(read_picture(tmp_path / "out" / "a-mask.png").pixels)) > 2
    # Without a mask there is nothing to be said of its name.
    assert len(degrade_files(NOISE, photos, tmp_path / "noise").notes) == 1
    # All endings of all samples are apart too.
    jobs = plan_files(photos, tmp_path / "s", results=("-1", "-2"), beside={"-1-trajectory": ".png"}, format="png")
    outputs = [path for job in jobs for path in job.outputs.values()]
    assert len(outputs) == len(set(outputs)) == 15
    with pytest.raises(UserError, match="overwrite the input"):
        plan_files(photos / "a-mask.png", photos / "a.png", beside={"-mask": ".png"})


def test_names_as_long_as_can_be(tmp_path: Path) -> None:
    # kills: names-too-long
    (tmp_path / "in").mkdir()
    names = ["n" * 244 + ".png", "é" * 122 + "1.png", "é" * 122 + "2.png"]
    for name in names:
        Image.fromarray(smooth()).save(tmp_path / "in" / name)
    beside = {"-degraded": "", "-trajectory": ".png"}
    jobs = plan_files(tmp_path / "in", tmp_path / "out", beside=beside, format="webp")
    outputs = [path.name for job in jobs for path in job.outputs.values()]
    assert len(set(outputs)) == 9 and all(len(os.fsencode(name)) <= 255 for name in outputs)
    assert all(name.endswith(("-degraded.webp", "-trajectory.png", ".webp")) for name in outputs)


def test_a_png_named_jpg_is_not_compressed(photos: Path, tmp_path: Path) -> None:
    # kills: lossless input written as JPEG for its name alone
    Image.fromarray(smooth(4)).save(photos / "z.jpg", format="PNG")
    results = {job.name: job.outputs[""].name for job in plan_files(photos, tmp_path / "out")}
    assert results == {"a.jpg": "a.jpg", "b.png": "b.png", "c.webp": "c.webp", "z.jpg": "z.png"}


def test_a_stopped_folder_goes_on(photos: Path, tmp_path: Path) -> None:
    # kills: done-whatever-the-settings; everything made again; parameters of what is skipped lost
    # The parameters of a mixture are NaN where another member was picked.
    members = [{"name": "jpeg", "quality": [5, 60]}, {"name": "noise", "std": [0.1, 0.2]}]
    out, ops = tmp_path / "out", [{"name": "mixture", "degradations": members}]

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        degrade_files(ops, photos, out, report=stop)
    assert written(out) == ["a.png", "b.png"]
    with (out / DONE_FILE).open("a") as stream:
        stream.write('{"name": "c.webp", "out')  # cut off by a lack of power
    outcome = degrade_files(ops, photos, out)
    assert (outcome.written, outcome.skipped) == (1, 2)
    rows = list(csv.DictReader((out / "parameters.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["a.jpg", "b.png", "c.webp"]
    whole = degrade_files(ops, photos, tmp_path / "whole")
    assert whole.parameters.keys() == outcome.parameters.keys()
    assert (out / "parameters.csv").read_bytes() == (tmp_path / "whole" / "parameters.csv").read_bytes()

    def again(**options: object) -> tuple[int, int]:
        outcome = degrade_files(ops, photos, out, **options)  # type: ignore[arg-type]
        return outcome.written, outcome.skipped

    assert again() == (0, 3)
    assert again(existing="overwrite") == (3, 0)
    assert again(seed=1) == (3, 0), "other settings: not what is asked for"
    assert again(seed=1) == (0, 3)
    assert again(seed=2, existing="skip") == (0, 3)
    Image.fromarray(smooth(9)).save(photos / "b.png")
    assert again(seed=1) == (1, 2), "another input of that name"
    (out / "a.png").unlink()
    assert again(seed=1) == (1, 2)
    (out / "a.png").write_bytes(b"half")
    assert again(seed=1) == (1, 2)
    assert degrade_files([{"name": "mixture", "degradations": members[::-1]}], photos, out).written == 3


def test_nothing_in_the_list_of_what_is_done_is_trusted(photos: Path, tmp_path: Path) -> None:
    # kills: a link followed, a pipe waited for, names or numbers taken from the file
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").write_text("mine\n")
    (out / DONE_FILE).symlink_to(tmp_path / "elsewhere")
    assert degrade_files(NOISE, photos, out).written == 3
    assert (tmp_path / "elsewhere").read_text() == "mine\n"
    (out / DONE_FILE).unlink()
    os.mkfifo(out / DONE_FILE)
    (out / DONE_FILE).unlink()
    assert degrade_files(NOISE, photos, out).written == 3
    lines = [json.loads(line) for line in (out / DONE_FILE).read_text().splitlines() if line]
    lines[0]["extra"] = {"x": [1], "y": 2.5, "=cmd": 1.0}
    lines[1]["extra"] = None
    lines[2]["outputs"] = {"../../etc/passwd": 1}
    junk = ["[1]", "null", "[" * 20000, '{"name": 3}', "x" * 100_000, *map(json.dumps, lines)]
    (out / DONE_FILE).write_text("\n".join(junk))
    outcome = degrade_files(NOISE, photos, out)
    assert (outcome.written, outcome.skipped) == (1, 2)


def test_links_and_pipes_in_a_folder_of_results_lead_nowhere(photos: Path, tmp_path: Path) -> None:
    # kills: results written through a folder that is a link; a pipe for the list of what is done, which waits for ever
    (photos / "sub").mkdir()
    Image.fromarray(smooth()).save(photos / "sub" / "b.png")
    theirs, out = tmp_path / "theirs", tmp_path / "disk"
    theirs.mkdir()
    out.mkdir()
    (theirs / "b.png").write_text("mine")
    (out / "sub").symlink_to(theirs)
    (out / "b.png").symlink_to(theirs / "b.png")
    os.mkfifo(out / DONE_FILE)
    (tmp_path / "out").symlink_to(out)  # the folder itself may be anywhere
    done = degrade_files(NOISE, photos, tmp_path / "out")
    assert done.written == 3 and len(done.problems) == 1 and "'sub' is a link" in done.problems[0]
    assert [path.name for path in theirs.iterdir()] == ["b.png"] and (theirs / "b.png").read_text() == "mine"
    assert not (out / "b.png").is_symlink()
