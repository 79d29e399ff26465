"""Dataset cards: complete, consistent with the recipes, and written by users."""

import pytest

from i2i_bridge.data import store as card_store
from i2i_bridge.data.cards import card_names, load_card, open_source
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.storage.download import Download
from i2i_bridge.storage.shipped import recipe_names

PIX2PIX = ("cityscapes", "edges2handbags", "edges2shoes", "facades", "maps", "night2day")
OWN = 'name = "mine"\nsummary = "my photos"\n[dataset]\nname = "images"\n'


def own_card(name="mine", text=OWN):
    file = card_store.own_card_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_every_card_says_what_one_must_know():
    wanted = {*PIX2PIX, "imagenet256", "imagenet-colorization", "kodak24", "bsds500", "tiny-imagenet"}
    assert wanted | {"my-pairs", "my-photos", "my-side-by-side"} <= set(card_names())
    for name in wanted:
        card = load_card(name)
        for field in ("homepage", "licence", "terms", "citation", "checksum", "layout", "splits"):
            assert getattr(card, field), f"{name}: {field}"
        for download in card.download:
            assert download.sha256 or download.md5 or "unpublished" in card.checksum, name
            assert download.bytes or card.size, name
    assert {name for name in wanted if not load_card(name).download} == {"imagenet256", "imagenet-colorization"}
    assert "val_faster_imagefolder_10k" in load_card("imagenet256").protocol


def test_the_sides_of_pix2pix_files():
    """kills: a card whose direction is turned round. What comes out is a photo, or the night."""
    for name in PIX2PIX:
        card = load_card(name)
        source, target = (card.sides[side] for side in card.dataset["direction"].split("to"))
        assert "photo" in target or (source, target) == ("day", "night"), (name, source, target)
        (download,) = card.download
        assert card.top == name and download.file == f"{name}.tar.gz" and download.md5


def test_recipes_train_as_their_cards_advise():
    """kills: one jitter default for all. The edge sets use none, others all (Pix2pix, appendix 6.2)."""
    compared = set()
    for name in recipe_names():
        data = load_recipe(name).data
        advice = load_card(data.card).advice if data.card else None
        if advice is not None:
            compared.add(data.card)
            assert {key: getattr(data, key) for key in type(advice).model_fields} == advice.model_dump(), name
    assert {"edges2shoes", "edges2handbags", "night2day", "imagenet256", "imagenet-colorization"} <= compared
    for name in PIX2PIX:
        advice = load_card(name).advice
        assert (advice.load_size, advice.flip) == ((None, False) if name.startswith("edges") else (286, True)), name


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y.zip", "x.zip", "http://a b"])
def test_only_http_urls(url):
    with pytest.raises(ValueError):
        Download(url=url)


def test_a_card_of_the_users_own_is_known_everywhere(tmp_path):
    own_card()
    assert "mine" in card_names() and load_card("mine").summary == "my photos"
    with pytest.raises(UserError, match="did you mean 'mine'"):
        load_card("minne")
    with pytest.raises(UserError, match=r"data\.root"):
        open_source(load_card("mine").dataset, "train")
    card_store.remember_place("mine", card_store.Place(folder=tmp_path, sha256={"a.zip": "0" * 64}))
    assert load_card("mine").dataset["root"] == str(tmp_path)
    # It travels inside the recipe: a run folder must not depend on the store.
    recipe = load_recipe("demo/deblur", ["data.card=mine"])
    assert recipe.data.card is None and recipe.data_table() == {"name": "images", "root": str(tmp_path)}
    assert load_recipe("demo/deblur", ["data.card=mine", "data.root=x"]).data_table()["root"] == "x"
    assert len(card_store.forget("mine")) == 2
    assert "mine" not in card_names()


def test_a_fetched_shipped_card_knows_its_root_and_the_recipe_wins(tmp_path):
    # kills: fetched-place-ignored
    assert "root" not in load_recipe("edges2shoes").data_table()
    card_store.remember_place("edges2shoes", card_store.Place(folder=tmp_path, sha256={}))
    assert load_recipe("edges2shoes").data_table()["root"] == str(tmp_path)
    assert load_recipe("edges2shoes", ["data.root=x"]).data_table()["root"] == "x"
    other = load_recipe("edges2shoes", ["data.source.name=images", "data.source.root=y"])
    assert other.data_table()["root"] == "y"
    card_store.forget("edges2shoes")
    assert "root" not in load_recipe("edges2shoes").data_table()


def test_names_that_are_nobodys(tmp_path):
    (tmp_path / "x.toml").write_text(OWN)
    for name in ("edges2shoes", "../../x", "", "."):
        with pytest.raises(UserError, match="not registered"):
            card_store.forget(name)
    assert (tmp_path / "x.toml").exists()
    own_card("kodak24")
    with pytest.raises(UserError, match="a shipped card and your own: rename"):
        load_card("kodak24")
    place = card_store.place_file("maps")
    place.parent.mkdir(parents=True)
    for text in ("folder = ", 'folder = "x"\n'):
        place.write_text(text)
        with pytest.raises(UserError, match=r"maps.toml.*delete it"):
            load_card("maps")


def test_one_broken_card_does_not_hide_the_others(capsys):
    from i2i_bridge.cli.catalogue import listing

    own_card(text="name = ")
    rows = dict(listing("datasets"))
    assert "cannot be read" in rows["mine"] and rows["kodak24"].startswith("Kodak")
