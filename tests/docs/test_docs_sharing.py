"""docs/sharing.md: its commands run as they stand there, against a fake Hub on loopback."""

import re
import shlex
from pathlib import Path

import pytest
from fake_hub import FakeHub
from killing import photos, recipe_of

from i2i_bridge.cli.command import main
from i2i_bridge.runs.hub import local_copy
from i2i_bridge.training.trainer import train

pytest.importorskip("huggingface_hub")
PAGE = (Path(__file__).parents[2] / "docs" / "sharing.md").read_text(encoding="utf-8")


def test_the_page_as_it_stands(tmp_path, monkeypatch):
    # kills: a verb, option or name of the page that is renamed
    monkeypatch.chdir(tmp_path)
    site = FakeHub()
    for name, value in {"HF_ENDPOINT": site.url, "HF_TOKEN": "hf_fake", "HF_HUB_OFFLINE": ""}.items():
        monkeypatch.setenv(name, value)
    pairs = photos(tmp_path / "pairs")
    train(recipe_of(pairs, steps=1), tmp_path / "runs" / "mine", cpu=True)
    (tmp_path / "photos").symlink_to(pairs / "noisy" / "val")
    (tmp_path / "dataset").symlink_to(pairs / "clean")
    (tmp_path / "photo.png").write_bytes((tmp_path / "photos" / "00.png").read_bytes())
    ran = 0
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        if kind == "python":
            exec(compile(text, "docs/sharing.md", "exec"), {})
            ran += 1
        for line in text.splitlines() if kind == "sh" else []:
            program, *words = shlex.split(line, comments=True)
            if program == "i2i-bridge":
                with pytest.raises(SystemExit) as ended:
                    main(words)
                assert ended.value.code == 0, line
                ran += 1
    site.close()
    assert ran == 9 and (tmp_path / "restored.png").is_file()
    assert (local_copy("me/denoiser") / "hub.json").is_file() and (tmp_path / "runs/denoiser/hub.json").is_file()
