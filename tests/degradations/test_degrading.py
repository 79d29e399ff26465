"""`i2i-bridge degrade`: any operator on files, and its strengths side by side."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge.cli.command import main
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.degradations.blur import Blur
from i2i_bridge.degradations.files import parse_op
from i2i_bridge.errors import UserError
from i2i_bridge.images.pixels import to_pixels, to_tensor
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import load_recipe


def photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    waves = np.random.default_rng(seed).uniform(0, 3, (3, channels))
    rows, columns = np.mgrid[:height, :width] / 9
    layers = [np.sin(rows * a + columns * b + c) for a, b, c in waves.T]
    return np.rint((np.stack(layers, -1) + 1) * 127.5).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clean" / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        Image.fromarray(photo(37, 50, seed=i)).save(tmp_path / "clean" / name)
    return tmp_path


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(str(left.value.code))


def pixels(file: str) -> np.ndarray:
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("blur", {"name": "blur"}),
        ("jpeg:quality=5", {"name": "jpeg", "quality": 5}),
        ("jpeg:quality=[5, 30], backend=pillow", {"name": "jpeg", "quality": [5, 30], "backend": "pillow"}),
        ('inpaint:mask="a,b",folder=m/x', {"name": "inpaint", "mask": "a,b", "folder": "m/x"}),
        (
            'mixture:degradations=[{name="blur"},{name="noise",std=[0.1,0.2]}],weights=[1,2]',
            {
                "name": "mixture",
                "degradations": [{"name": "blur"}, {"name": "noise", "std": [0.1, 0.2]}],
                "weights": [1, 2],
            },
        ),
    ],
)
def test_an_op_is_a_table(text: str, table: dict[str, Any]) -> None:
    # kills: a split at commas inside brackets or quotes; numbers left strings
    assert parse_op(text) == table


@pytest.mark.parametrize("text", ["jpeg:quality", "jpeg:", "jpeg:=5", "jpeg:quality=5,quality=6", "jpeg:quality=5,"])
def test_an_op_that_reads_otherwise_is_refused(text: str) -> None:
    # kills: a setting lost in silence
    with pytest.raises(UserError, match="--op"):
        parse_op(text)


def test_a_folder_is_degraded_with_names_sizes_and_draws(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # kills: names or sub-folders lost; sides cut to a multiple of 16; the draws of another file in the table
    assert call("degrade", "clean", "out", "--op", "jpeg:quality=[5,60]", "--op", "noise:std=0.05") == 0
    assert sorted(str(p.relative_to("out")) for p in Path("out").rglob("*.png")) == ["a.png", "b.png", "sub/c.png"]
    rows = list(csv.DictReader(Path("out/parameters.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == ["a.png", "b.png", "sub/c.png"]
    qualities = [int(row["jpeg.quality"]) for row in rows]
    assert len(set(qualities)) == 3
    assert pixels("out/b.png").shape == (37, 50, 3)
    # One file alone is the same, and a fixed quality of what the table says too.
    assert call("degrade", "clean/b.png", "b.png", "--op", "jpeg:quality=[5,60]", "--op", "noise:std=0.05") == 0
    assert np.array_equal(pixels("b.png"), pixels("out/b.png"))
    assert f"jpeg.quality = {qualities[1]}" in capsys.readouterr().out
    assert (
        call("degrade", "clean", "again", "--op", "jpeg:quality=[5,60]", "--op", "noise:std=0.05", "--seed", "1") == 0
    )
    assert not np.array_equal(pixels("again/b.png"), pixels("out/b.png"))
    assert call("degrade", "clean", "plain", "--op", "blur") == 0
    assert not Path("plain/parameters.csv").exists()
    expected = Blur()(to_tensor(photo(37, 50, seed=0))[None], generator(0, "not used")).x_1[0]
    assert np.array_equal(pixels("plain/a.png"), to_pixels(expected))


def test_masks_16_bits_and_alpha_are_kept(photos: Path) -> None:
    # kills: the mask inverted or lost; 16 bits written as 8; alpha dropped
    assert call("degrade", "clean", "holes", "--op", "inpaint:mask=freeform,area=[0.2,0.3],fill=white") == 0
    mask, x_1 = pixels("holes/sub/c-mask.png"), pixels("holes/sub/c.png")
    assert set(np.unique(mask)) == {0, 255}
    assert 0.2 <= (mask == 255).mean() <= 0.3
    assert (x_1[mask == 255] == 255).all()
    assert np.array_equal(x_1[mask == 0], photo(37, 50, seed=2)[mask == 0])
    deep = photo(32, 32, 1)[..., 0].astype(np.uint16) * 257 // 3
    Image.fromarray(deep).save("deep.png")
    assert call("degrade", "deep.png", "deeper.png", "--op", "low-light:exposure=1,gamma=1,noise=0") == 0
    assert np.array_equal(pixels("deeper.png"), deep)
    Image.fromarray(np.concatenate([photo(32, 32), photo(32, 32, 1)], -1)).save("clear.png")
    assert call("degrade", "clear.png", "dark.png", "--op", "low-light") == 0
    assert np.array_equal(pixels("dark.png")[..., 3], photo(32, 32, 1)[..., 0])


def test_strengths_side_by_side(photos: Path) -> None:
    # kills: the same strength in each column; the first --op varied; the clean column missing
    assert (
        call("degrade", "clean/a.png", "sheet.png", "--op", "noise:std=0", "--op", "jpeg", "--vary", "quality=2,90")
        == 0
    )
    sheet = pixels("sheet.png")
    assert sheet.shape[1] == 3 * 50 + 2 * 2
    assert (sheet[:15] < 128).any()
    clean, worse, better = (sheet[-37:, i * 52 : i * 52 + 50].astype(float) for i in range(3))
    assert np.array_equal(clean, photo(37, 50, seed=0))
    assert np.abs(worse - clean).mean() > 2 * np.abs(better - clean).mean() > 0
    assert call("degrade", "clean", "all.png", "--op", "defocus", "--vary", "radius=1,[2,5]") == 0
    assert pixels("all.png").shape[0] > 3 * 37


def test_a_preview_shows_a_recipe_s_strengths_side_by_side(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # kills: strengths-all-alike; other cuts in each column; the clean column missing
    size = ["data.size=32", "data.load_size=36", "data.resize=short_side"]
    words = ["sheet.png", "data.card=my-photos", "data.root=clean", "data.source.holdout=0.4", *size]
    assert call("data", "preview", "demo/jpeg", *words, "--vary", "degradation.quality=2,95", "-n", "1") == 0
    assert "clean | quality 2 | quality 95, 1 row" in capsys.readouterr().out
    sheet = pixels("sheet.png").astype(float)
    assert sheet.shape[1] == 3 * 32 + 2 * 2
    clean, worse, better = (sheet[-32:, i * 34 : i * 34 + 32] for i in range(3))
    assert np.abs(worse - clean).mean() > 2 * np.abs(better - clean).mean() > 0
    for what, part in (
        (("demo/jpeg", *words, "--vary", "degradation.qualty=5"), "qualty"),
        (("demo/jpeg", *words, "--vary", "degradation.quality"), "key=value,value"),
        (("my-photos", "sheet.png"), "'my-photos' is a dataset card, not a recipe"),
    ):
        assert call("preview", *what) == 2
        assert part in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["clean", "out"], "--op is missing"),
        (["clean", "out", "--op", "jpg:quality=5"], "did you mean 'jpeg'"),
        (["clean", "out", "--op", "jpeg:qualty=5"], "did you mean 'quality'"),
        (["clean", "out", "--op", "jpeg:quality=500"], "1..100"),
        (["nowhere", "out", "--op", "blur"], "nowhere"),
        (["clean", "clean", "--op", "blur"], "overwrite"),
        (["clean", "s.png", "--op", "blur", "--vary", "kernel"], "--vary"),
        (["clean", "s.png", "--op", "blur", "--vary", "kernl=uniform"], "did you mean 'kernel'"),
        (["clean/a.png", "clean/a.png", "--op", "defocus", "--vary", "radius=2"], "overwrite"),
        (["nowhere", "s.png", "--op", "defocus", "--vary", "radius=2"], "nowhere"),
        (["clean/a.png", "out.png", "--op", "blur:backend=ddrm-compat"], "square"),
    ],
)
def test_mistakes_are_one_line(photos: Path, capsys: pytest.CaptureFixture[str], words: list[str], part: str) -> None:
    # kills: a traceback; a mistake found after the first file was written
    assert call("degrade", *words) == 2
    error = capsys.readouterr().err
    assert part in " ".join(error.split())
    assert "Traceback" not in error
    assert not Path("out").exists()


def test_a_bad_image_does_not_stop_the_others(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # kills: the whole folder given up; exit code 0 in spite of a problem
    Path("clean/bad.png").write_bytes(b"no image")
    assert call("degrade", "clean", "out", "--op", "blur") == 2
    assert len(list(Path("out").rglob("*.png"))) == 3
    assert "bad.png" in capsys.readouterr().err


def blind_items(seed: int = 0) -> PairDataset:
    root = ["data.source.name=images", "data.source.holdout=0.3", f"train.seed={seed}", "data.root=clean"]
    return load_recipe("blind", ["data.card=demo-photos", *root, "data.load_size=80"]).build_dataset("train")


def test_the_blind_recipe_is_all_random_and_a_function_of_the_key(photos: Path) -> None:
    # kills: a pipeline that draws from anywhere else; a second pass drawing what the first drew
    data = blind_items()
    one, two = data.sample(5), blind_items().sample(5)
    assert torch.equal(one["x_1"], two["x_1"])
    drawn = one["parameters"]
    assert one["x_1"].shape == one["x_0"].shape == (3, 64, 64)
    assert {"resize.factor", "resize-2.factor", "jpeg.quality", "jpeg-2.quality", "mixture.pick"} <= set(drawn)
    assert drawn["resize.factor"] != drawn["resize-2.factor"]
    assert drawn["jpeg.quality"] != drawn["jpeg-2.quality"]
    assert not torch.equal(one["x_1"], blind_items(seed=1).sample(5)["x_1"])
    picks = {float(data.sample(n)["parameters"]["mixture.pick"]) for n in range(12)}
    assert len(picks) > 1
    # Blurred and blocky, yet the same picture.
    errors = torch.stack([(data.sample(n)["x_1"] - data.sample(n)["x_0"]).abs().mean() for n in range(4)])
    assert errors.min() > 0.02
    assert errors.max() < 0.6
    # No path of its own: the recipe previews as any other.
    settings = ["data.source.name=images", "data.source.holdout=0.3", "data.root=clean", "data.load_size=80"]
    assert call("preview", "blind", "sheet.png", *settings, "-n", "2") == 0
    assert pixels("sheet.png").shape[1] == 2 * 64 + 2
