"""Protocols: the settings that the fingerprint depends on, and one-line errors."""

import re
from pathlib import Path

import pytest

from i2i_bridge.cli.catalogue import description, listing
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import open_evaluation
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.recipe.protocol import chosen, load_protocol, protocol_names, read_list, resolve


def recipe_of(**changes):
    table = {
        "name": "small",
        "summary": "a small one",
        "task": "restoration",
        "data": {"root": "photos", "source": {"name": "images"}, "size": 32},
        "degradation": {"name": "jpeg", "quality": 10},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1},
        "train": {"steps": 1},
    }
    return parse_recipe(table | changes, "small")


def data(**changes):
    return {"data": {"root": "photos", "source": {"name": "images"}, "size": 32} | changes}


def hash_of_list(folder, recipe, names):
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return open_evaluation(recipe, list_file=folder / "list.txt").rules.hash


def test_the_fingerprint_is_of_the_images_and_nothing_else(tmp_path):
    """kills: size-not-in-the-hash, seed-not-in-the-hash, degradation-not-in-the-hash, paths-in-the-hash."""
    base = open_evaluation(recipe_of()).rules.hash
    same = [
        recipe_of(**data(root="/elsewhere")),
        recipe_of(**data(validation_size=32)),
        recipe_of(**data(flip=False, load_size=40, crop="random", train_split="others")),
        recipe_of(evaluate={"metrics": ["ssim"], "nfe": [3]}),
        recipe_of(sample={"nfe": 77, "clip": True}),
        recipe_of(train={"steps": 9, "seed": 5}),
        recipe_of(name="other", summary="another"),
        # A default that is written out is the same degradation.
        recipe_of(degradation={"name": "jpeg", "quality": 10, "backend": "ddrm"}),
    ]
    assert {open_evaluation(recipe).rules.hash for recipe in same} == {base}
    other = [
        recipe_of(**data(size=48)),
        recipe_of(**data(validation_size=(32, 48))),
        recipe_of(**data(resize="stretch")),
        recipe_of(**data(validation_split="test")),
        recipe_of(**data(channels=1)),
        recipe_of(**data(value_range=[0.0, 200.0])),
        recipe_of(evaluate={"seed": 1}),
        recipe_of(evaluate={"images": 5}),
        recipe_of(degradation={"name": "jpeg", "quality": 11}),
        recipe_of(degradation=None),
    ]
    hashes = [open_evaluation(recipe).rules.hash for recipe in other]
    hashes += [open_evaluation(recipe_of(), count=5).rules.hash, hash_of_list(tmp_path, recipe_of(), ["a.png"])]
    # The two ways of saying "the first five" are one.
    assert hashes[7] == hashes[-2]
    assert len({*hashes, base}) == len(hashes)
    assert open_evaluation(recipe_of()).rules.id == f"held-out@1 {base[:12]}"


def test_nested_degradations_have_their_defaults_and_no_paths():
    nested = {"name": "compose", "degradations": [{"name": "noise", "std": 0.1}, {"name": "jpeg", "quality": 10}]}
    settings = open_evaluation(recipe_of(degradation=nested)).rules.settings["degradation"]
    assert "backend" in settings["degradations"][1]
    whole = [open_evaluation(recipe_of(degradation={"name": "noise", "std": std})).rules.hash for std in (1, 1.0, 1.5)]
    assert whole[0] == whole[1] != whole[2]
    masks = [
        open_evaluation(
            recipe_of(degradation={"name": "inpaint", "mask": "folder", "folder": f"/{place}/masks"})
        ).rules.hash
        for place in ("here", "there")
    ]
    assert masks[0] == masks[1]


def test_a_list_is_the_same_wherever_its_paths_lead(tmp_path):
    recipe = recipe_of()
    here, there = ["/fast2/val/n01/a.JPEG", "/fast2/val/n02/b.JPEG"], ["val/n02/b.JPEG", "val/n01/a.JPEG"]
    assert hash_of_list(tmp_path, recipe, here) == hash_of_list(tmp_path, recipe, there)
    assert hash_of_list(tmp_path, recipe, here) != hash_of_list(tmp_path, recipe, here[:1])
    keys = ["n01/a.JPEG", "n01/c.JPEG", "n02/b.JPEG"]
    assert chosen(keys, there).tolist() == [2, 0]
    assert chosen(keys, ["c.png"]).tolist() == [1]
    with pytest.raises(UserError, match=r"2 of 3 images are not .* 3 items of the split: x\.JPEG, y\.JPEG"):
        chosen(keys, ["x.JPEG", "a.JPEG", "y.JPEG"])
    with pytest.raises(UserError, match="1 of 1 image is not"):
        chosen(["n01/a.png", "n02/a.png"], ["a.png"])
    assert chosen(["n01/a.png", "n02/a.png"], ["n02/a.png"]).tolist() == [1]
    file = tmp_path / "list.txt"
    file.write_text("a.png\n\nb.png\n")
    assert read_list(file) == ["a.png", "b.png"]
    for text, part in (("a\na\n", "twice"), ("\n", "names no image")):
        file.write_text(text)
        with pytest.raises(UserError, match=part):
            read_list(file)


def test_every_shipped_protocol_is_whole():
    assert {"held-out", "i2sb-jpeg", "i2sb-sr", "i2sb-inpaint", "i2sb-deblur", "i2sb-table7"} <= set(protocol_names())
    for name in protocol_names():
        protocol = load_protocol(name)
        assert protocol.name == name and protocol.summary and protocol.source
        names = ["a.JPEG"] if protocol.list else []
        settings = protocol and resolve(protocol, recipe_of().data, {"name": "blur"}, recipe_of().evaluate, names=names)
        assert settings.applied(recipe_of().data).validation_size == tuple(settings.settings["size"])
    assert dict(listing("protocols"))["held-out"].startswith("The recipe's own")
    assert 'name = "held-out"' in description("held-out") and "Table 3" in description("i2sb-jpeg")
    for count in (0, -1, 2.0, "2", True):
        with pytest.raises(UserError, match=f"count {count!r}: give a number of images"):
            open_evaluation(recipe_of(), count=count)
    with pytest.raises(UserError, match=r"scores the images of val_faster.*--list FILE"):
        open_evaluation(recipe_of(), "i2sb-jpeg")


GOOD = 'name = "mine"\nversion = 2\nsummary = "of my own"\n'


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (GOOD + "sise = 3\n", "unknown key 'sise'; did you mean 'size'"),
        (GOOD + "size = 0\n", "size"),
        (GOOD + 'metrics = ["pnsr"]\n', "did you mean 'psnr'"),
        (GOOD + 'file_format = "jpeg"\n', "go together"),
        (GOOD + 'fid_reference = "everything"\n', "fid_reference"),
        (GOOD.replace('"mine"', '"held-out"'), "a name of its own"),
        (GOOD.replace('"mine"', '"../mine"'), "name"),
        (GOOD.replace("version = 2\n", ""), "version"),
        ("not toml", "mine.toml"),
    ],
)
def test_a_mistake_in_a_protocol_is_one_line(tmp_path, text, part):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_protocol(file)
    assert part in str(caught.value) and "mine.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_protocol_of_ones_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(GOOD + 'size = [24, 40]\nn = 3\nsplit = "test"\nmetrics = ["ssim"]\n')
    resolved = open_evaluation(recipe_of(), file).rules
    assert resolved.settings["size"] == [24, 40] and resolved.settings["n"] == 3 and resolved.id.startswith("mine@2 ")
    assert open_evaluation(recipe_of(), file, count=2).rules.settings["n"] == 2
    assert open_evaluation(recipe_of(evaluate={"protocol": str(file)})).rules.hash == resolved.hash
    with pytest.raises(UserError, match="did you mean 'held-out'"):
        recipe_of(evaluate={"protocol": "held-aut"})
    with pytest.raises(UserError, match=r"none\.toml: no such protocol file"):
        load_protocol(tmp_path / "none.toml")


def test_the_page_shows_a_protocol_and_options_that_exist(tmp_path, capsys):
    """kills: any option of docs/evaluating.md that is renamed, and an example that is refused."""
    from i2i_bridge.cli.command import main

    page = (Path(__file__).parents[2] / "docs" / "evaluating.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    assert load_protocol(tmp_path / "mine.toml").n == 1000
    for verb in ("evaluate", "compare", "tune"):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
    shown = capsys.readouterr().out
    mentioned = {option for line in page.splitlines() for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}
    assert len(mentioned) > 6 and all(option in shown for option in mentioned), mentioned
