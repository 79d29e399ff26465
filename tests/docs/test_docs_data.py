"""The page 'Your own data', its commands run as they stand there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli.command import main

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"


def commands():
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def scans(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :80]
    for i in range(16):
        clean = np.stack([rows * (i + 3) % 256, columns * 3, np.full_like(rows, i * 9)], axis=2)
        noisy = np.clip(clean + rng.normal(0, 30, clean.shape), 0, 255)
        for side, pixels in (("clean", clean), ("noisy", noisy)):
            file = tmp_path / "scans" / side / f"{i + 1:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(file)
    (tmp_path / "new").mkdir()
    Image.fromarray(noisy[:50, :70].astype(np.uint8)).save(tmp_path / "new" / "x.png")
    return tmp_path


def test_the_page_leads_from_a_folder_to_a_restored_photo(scans, capsys):
    """kills: any verb, option or setting of the page that is renamed, and a page that promises another output."""
    said = {}
    for line in commands():
        program, *words = shlex.split(line)
        assert program == "i2i-bridge", line
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        assert ended.value.code == 0, (line, out, err)
        said[words[0] if words[0] != "data" else words[1]] = out
    assert list(said) == ["add", "show", "check", "preview", "train", "evaluate", "restore", "remove"]
    assert "clean the targets x_0, noisy the sources x_1" in said["add"] and "holdout=0." in said["add"]
    assert 'x_0 = "clean"' in said["show"] and "no problems" in said["check"]
    # What the page says of the sheet: targets left, sources right; the noise is on the right.
    sheet = np.asarray(Image.open("sheet.png").convert("RGB")).astype(float)
    half = sheet.shape[1] // 2
    assert np.abs(np.diff(sheet[:, half + 2 :, 2])).mean() > 2 * np.abs(np.diff(sheet[:, : half - 2, 2])).mean()
    assert "degraded input" in said["evaluate"] and "step 6/6" in said["train"]
    assert [path.name for path in Path("restored").glob("[!.]*")] == ["x.png"]
    assert Image.open("restored/x.png").size == (70, 50)
    assert len(list(Path("scans").rglob("*.png"))) == 32


def test_links_and_verbs_of_the_page_exist(capsys):
    text = PAGE.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((\.\./[^)#]+)", text):
        assert (PAGE.parent / target).is_file(), target
    for verb in set(re.findall(r"`(?:i2i-bridge )?data (\w+)", text)):
        with pytest.raises(SystemExit) as ended:
            main(["data", verb, "--help"])
        assert ended.value.code == 0, verb
