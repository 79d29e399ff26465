"""Names from untrusted files are used as parts of paths only if the path stays inside its folder."""

import os

import pytest
from test_recipe import small

from i2i_bridge import registry
from i2i_bridge.cli.command import main
from i2i_bridge.data.cards import Card, load_card
from i2i_bridge.data.sources.packaged import PackagedImages
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.storage import files, names
from i2i_bridge.storage.download import Download

BAD = [
    "", ".", "..", "../../x", "/home/me", "a/b", "a\\b", ".hidden", "-x", " x", "x ", "a\nb", "a\0b", "a\x1b[31m",
    "a:b", "a*", "\u202egnp.exe", "x" * 201, "é" * 101,
]  # fmt: skip
GOOD = ["a", "jpeg-5", "my photos", "Füße_2.1", "データ", "psnr (Y)", "2m-sde", "x" * 200]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_is_a_path_is_refused(name):
    """kills: name-is-a-path"""
    with pytest.raises(UserError, match="name: should be letters") as caught:
        parse_recipe(small(name=name), "mine.toml")
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    with pytest.raises(ValueError, match="should be letters"):
        Card(name=name, summary="", dataset={"name": "images"})
    with pytest.raises(UserError, match=r"metric .*should be letters"):
        registry.METRICS.register(name)


@pytest.mark.parametrize("name", GOOD)
def test_ordinary_names_in_any_script_are_taken(name):
    assert parse_recipe(small(name=name), "mine.toml").name == name


@pytest.mark.parametrize("name", ["/tmp/elsewhere", "../elsewhere", "..", "."])
def test_training_without_out_stays_below_runs(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "mine.toml").write_text(parse_recipe(small(), "x").to_toml().replace('"small"', f'"{name}"', 1))
    with pytest.raises(SystemExit) as ended:
        main(["train", "../mine.toml"])
    assert ended.value.code == 2 and "name: should be letters" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here", "mine.toml"]


def files_of(*urls):
    card = Card(name="c", summary="", dataset={"name": "images"}, download=[{"url": url} for url in urls])
    return [source.file for source in card.download]


def test_two_downloads_of_one_file_name_stay_two():
    """kills: downloads-collapse"""
    urls = ("https://a.org/1/train.tar.gz", "https://a.org/2/train.tar.gz", "https://a.org/3/Train.tar.gz?x=1")
    assert files_of(*urls) == ["train.tar.gz", "train-2.tar.gz", "Train-3.tar.gz"]
    assert files_of("https://a.org/d?id=1", "https://a.org/d?id=2#x") == ["d", "d-2"]
    # What a download in progress is called belongs to it.
    assert files_of("https://a.org/x", "https://a.org/x.part") == ["x", "x.part.file"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.org/x/..", "download"), ("https://a.org/x/.", "download"),
        ("https://a.org/..%2f..%2fx", "%2f..%2fx"), ("https://a.org/x\\..\\y.zip", "x-..-y.zip"),
        ("https://a.org/.lock", "lock"), ("https://a.org/a.zip/", "a.zip"),
        ("https://a.org/a\x1bb.zip", "a-b.zip"), ("https:///", "https-"),
    ],
)  # fmt: skip
def test_the_name_of_a_download_is_a_name(url, name):
    assert Download.model_construct(url=url, _file="").file == name
    assert len(os.fsencode(files_of(f"https://a.org/{'é' * 300}.zip")[0])) <= 200


def test_every_shipped_card_keeps_the_file_names_that_fetches_know():
    from i2i_bridge.data.cards import shipped_card_names

    for name in shipped_card_names():
        for source in load_card(name).download:
            assert source.file == source.url.split("?")[0].rstrip("/").split("/")[-1]


@pytest.mark.parametrize("name", ["torch:/etc/hostname", "torch:../x.png", "torch:", "/etc:x.png", "a.b:x.png"])
def test_a_packaged_image_lies_in_its_package(name):
    with pytest.raises(UserError, match=r"packaged image reads|holds no"):
        PackagedImages([name], [], "train")


def test_a_link_does_not_lead_out_of_a_package(tmp_path, monkeypatch):
    """kills: packaged-anywhere"""
    (tmp_path / "linkedpackage").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "linkedpackage" / "a.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "linkedpackage" / "b.png").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert len(PackagedImages(["linkedpackage:b.png"], [], "train")) == 1
    with pytest.raises(UserError, match=r"holds no a\.png"):
        PackagedImages(["linkedpackage:a.png"], [], "train")


@pytest.mark.parametrize("letter", ["x", "é", "語", "😀"])
def test_a_name_is_extended_within_the_limit(tmp_path, letter):
    """Of 248 bytes, as some file systems' longest with an ending: written, and nothing else left."""
    stem = letter * (244 // len(letter.encode()))
    file = tmp_path / f"{stem}.png"
    files.write_whole(file, b"1")
    assert [path.name for path in tmp_path.iterdir()] == [file.name] and file.read_bytes() == b"1"
    longer = names.extended_name(stem, "", "-trajectory.png")
    assert len(longer.encode()) <= 255 and longer.endswith("-trajectory.png")
    assert names.extended_name(stem + "a", "", "-trajectory.png") != names.extended_name(
        stem + "b", "", "-trajectory.png"
    )
    assert names.extended_name("short", "a-", ".png") == "a-short.png"


@pytest.mark.parametrize("words", [["train"], ["check"], ["restore", "."], ["data", "add"], ["show"], ["copy"]])
@pytest.mark.parametrize("letter", ["x", "\u00e9"])
def test_a_path_of_hundreds_of_letters_is_a_users_mistake(words, letter, tmp_path, monkeypatch, capsys):
    # kills: "File name too long" called a bug of ours; a card's name longer than a file's
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2I_HOME", str(tmp_path / "home"))
    with pytest.raises(SystemExit) as ended:
        main([*words, letter * 300, str(tmp_path / "out.toml")][: 3 if words == ["data", "add"] else None])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and "bug of ours" not in said, said
