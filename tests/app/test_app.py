"""What the web page computes, without gradio: results and refusals of the command line, limits, no server paths."""

import html
import importlib.util
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from zoo import zoo

from i2i_bridge import app
from i2i_bridge.app.actions import NOTHING, OWN, SAME, Actions, number, public_text
from i2i_bridge.app.limits import Limits, check_size, decoded_pixels
from i2i_bridge.app.page import build_page
from i2i_bridge.app.pictures import WALK_SIDE, copied, mask_file, view
from i2i_bridge.app.restoration import Request, degrade_picture_file, restore_picture, with_sampler
from i2i_bridge.app.server import open_page, require_gradio, run_names
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.pixels import Picture
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.restore import restore_files

LIMITS = Limits(pixels=10_000)


@pytest.fixture(scope="module")
def run():
    return load_run("pretrained/photos", device="cpu")


@pytest.fixture
def photo(tmp_path):
    """A 16-bit colour picture with opacity and a profile."""
    drawn = np.random.default_rng(0).integers(0, 65536, (20, 33, 4), dtype=np.uint16)
    file = tmp_path / "upload" / "my photo.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (1, 1)).save(tmp_path / "profile.png", icc_profile=profile)
    metadata = read_picture(tmp_path / "profile.png", metadata=True).metadata
    write_picture(file, Picture(drawn[..., :3].copy(), drawn[..., 3].copy(), metadata=metadata))
    return file


def test_the_download_is_what_the_command_line_writes(run, photo, tmp_path):
    # kills: app-forgets-the-seed, app-forgets-nfe
    answer = restore_picture(run, photo, Request(nfe=3, seed=7, samples=2), tmp_path / "page", LIMITS)
    restore_files(run, photo, tmp_path / "command", nfe=3, seed=7, samples=2)
    names = ["my photo-1.png", "my photo-2.png"]
    assert [file.name for file in answer.restored] == names
    assert [file.read_bytes() for file in answer.restored] == [(tmp_path / "command" / n).read_bytes() for n in names]
    assert answer.walk is not None and answer.walk.is_file() and answer.degraded == photo
    result, source = (read_picture(file, metadata=True) for file in (answer.restored[0], photo))
    assert result.pixels.dtype == np.uint16 and result.metadata.profile == source.metadata.profile is not None
    assert np.array_equal(result.alpha, source.alpha)


def test_another_sampler_changes_the_result_and_leaves_the_run_as_it_is(run, photo, tmp_path):
    # kills: app-forgets-the-sampler
    own, again, other = (
        restore_picture(run, photo, Request(nfe=3, sampler=sampler), tmp_path / str(k), LIMITS).restored[0].read_bytes()
        for k, sampler in enumerate(("", "ancestral", "deterministic"))
    )
    assert own == again != other
    assert run.recipe.sample.sampler == {"name": "ancestral"}
    with pytest.raises(UserError, match="unknown sampler 'nothere'"):
        with_sampler(run, "nothere")


def test_operators_are_those_of_degrade(run, photo, tmp_path):
    answer = restore_picture(run, photo, Request(ops="noise:std=0.2\njpeg:quality=10"), tmp_path / "page", LIMITS)
    with pytest.raises(SystemExit):
        main(["degrade", str(photo), str(tmp_path / "d.png"), "--op", "noise:std=0.2", "--op", "jpeg:quality=10"])
    assert answer.degraded.read_bytes() == (tmp_path / "d.png").read_bytes()
    hole = degrade_picture_file(photo, "inpaint:mask=center", 0, tmp_path / "hole", LIMITS)[1]
    assert hole is not None and read_picture(hole).pixels.max() == 255


@pytest.mark.parametrize(
    "ops",
    [
        "inpaint:mask=folder,folder=masks",
        "inpaint:mask=file,file=m.npz",
        'compose:degradations=[{name="inpaint",mask="folder",folder="masks"}]',
        "jpeg:backend=/etc/passwd",
        "jpeg:backend=~root",
    ],
)
def test_operators_name_no_file_of_the_server(photo, tmp_path, ops):
    # kills: app-operators-read-files
    with pytest.raises(UserError, match="this page takes none"):
        degrade_picture_file(photo, ops, 0, tmp_path / "d", LIMITS)


def test_limits(run, photo, tmp_path):
    # kills: app-has-no-pixel-limit, app-has-no-nfe-limit
    with pytest.raises(UserError, match=r"33x20 pixels; this page takes 0\.0005 million"):
        restore_picture(run, photo, Request(), tmp_path / "a", Limits(pixels=500))
    with pytest.raises(UserError, match=r"33x20 pixels \(132x80 when restored\)"):
        check_size(photo, Limits(pixels=1000), 4)
    for request in (Request(nfe=101), Request(nfe=-1), Request(samples=5), Request(samples=0)):
        with pytest.raises(UserError, match="this page takes 1 to"):
            restore_picture(run, photo, request, tmp_path / "b", LIMITS)
    with pytest.raises(UserError, match="applies no operators"):
        restore_picture(run, photo, Request(ops="jpeg:quality=5"), tmp_path / "c", Limits(operators=False))


def test_refusals_are_those_of_the_command_line_without_its_paths(run, tmp_path):
    folder = tmp_path / "secret place"
    folder.mkdir()
    for name, data in {"a.png": b"not an image", "b.gif": b"GIF89a", "c.npy": b"\x93NUMPY"}.items():
        file = folder / name
        file.write_bytes(data)
        with pytest.raises(UserError) as page:
            restore_picture(run, file, Request(), tmp_path / "page", LIMITS)
        with pytest.raises(UserError) as command:
            restore_files(run, file, tmp_path / "command")
        line = public_text(str(page.value), [folder, tmp_path])
        assert "secret" not in line and "/" not in line.replace(".npy", "") and name in line
        if name != "b.gif":  # the page looks at the header first
            assert line == public_text(str(command.value), [folder, tmp_path])


@pytest.fixture(scope="module")
def exhibits(run, tmp_path_factory):
    """Each file of the image zoo, and the command line's result: the bytes it writes, or its refusal."""
    folder, results = tmp_path_factory.mktemp("zoo"), tmp_path_factory.mktemp("command")
    found = []
    for i, exhibit in enumerate(zoo(folder)):
        file = folder / exhibit.name
        try:
            restore_files(run, file, results / str(i), nfe=1)
        except UserError as error:
            found.append((file, None, str(error)))
        else:
            (written,) = (results / str(i)).iterdir()
            found.append((file, written.read_bytes(), ""))
    assert sum(data is not None for _, data, _ in found) > 30 < sum(data is None for _, data, _ in found)
    return found


def assert_same_refusal(line, file, refusal):
    """The command's words, or those of the check of the header, which comes first; of the file only its name."""
    command = public_text(refusal, [file.parent])
    assert str(file.parent) not in line
    assert line == command or line.startswith(command.split(": ")[0]), (file.name, line, command)


def test_the_zoo_gives_what_the_command_line_gives(run, exhibits, tmp_path):
    # kills: app-refuses-others, pipes-block-the-size
    limits = Limits(pixels=64_000_000)
    for i, (file, data, refusal) in enumerate(exhibits):
        try:
            answer = restore_picture(run, file, Request(nfe=1, walk=False), tmp_path / str(i), limits)
        except UserError as error:
            assert data is None, (file.name, error)
            assert_same_refusal(public_text(str(error), [file.parent]), file, refusal)
        else:
            assert answer.restored[0].read_bytes() == data, file.name
            assert answer.walk is None and answer.animation is None


def test_the_zoo_through_the_functions_of_the_page(run, exhibits, photo, tmp_path):
    (folder := tmp_path / "results").mkdir()
    said = []
    functions, refusal = page_functions(run, photo, folder, Limits(pixels=64_000_000), said)
    for file, data, words in exhibits:
        given = [str(file), "photos", 1, OWN, 0, 1, NOTHING, "", None, False, SAME, lambda *done, **unit: None]
        try:
            functions["uploaded"](str(file), "photos")
            offered = functions["restored"](*given)[4]
        except refusal as error:
            assert data is None, (file.name, error)
            assert_same_refusal(html.unescape(error.message), file, words)
        else:
            assert Path(offered[0]).read_bytes() == data, file.name
    assert said == []


def test_no_path_is_left_in_a_message():
    # kills: app-shows-paths
    assert public_text("/home/me/runs/a.png: damaged") == "a.png: damaged"
    assert public_text("cannot read '/srv/x/y.toml' (see a/b)") == "cannot read 'y.toml' (see a/b)"
    assert public_text("a.png: no image (unknown '/tmp/secret place/b.png')") == "a.png: no image (unknown 'b.png')"
    assert public_text("a.png: no image (unknown '/tmp/secret pl)") == "a.png: no image (unknown ..."
    assert public_text("runs/mine/recipe.toml with 2m", ["runs/mine"]) == "recipe.toml with 2m"


def test_what_is_painted_is_unknown(photo, tmp_path):
    """Opaque paint of any layer is unknown, whatever its colour, and scaled to the picture's size."""
    # kills: app-mask-is-inverted, app-mask-keeps-one-layer
    layers = [np.zeros((10, 11, 4), np.uint8) for _ in range(2)]
    assert mask_file(layers, photo, 1, tmp_path / "mask.png") is None
    layers[0][2:4, 1:3] = (0, 0, 0, 255)
    layers[1][5, 5] = (255, 0, 0, 255)
    pixels = read_picture(mask_file(layers, photo, 1, tmp_path / "mask.png")).pixels[..., 0]
    wanted = np.zeros((20, 33), np.uint8)
    wanted[4:8, 3:9] = wanted[10:12, 15:18] = 255
    assert np.array_equal(pixels, wanted)
    assert read_picture(mask_file(layers, photo, 4, tmp_path / "large.png")).pixels.shape == (80, 132, 1)


def test_a_painted_mask_keeps_the_rest_exactly(run, photo, tmp_path):
    # kills: app-forgets-the-mask
    layer = np.zeros((20, 33, 4), np.uint8)
    layer[5:9, 5:9, 3] = 255
    answer = restore_picture(run, photo, Request(layers=[layer]), tmp_path / "page", LIMITS)
    before, after = (read_picture(file).pixels for file in (photo, answer.restored[0]))
    changed = (before != after).any(2)
    assert changed[5:9, 5:9].any() and not changed[layer[..., 3] == 0].any()


def test_pictures_for_the_browser(photo, tmp_path):
    with Image.open(view(photo, tmp_path / "v" / "a.png", None, 11)) as image:
        assert image.mode == "RGB" and image.size == (11, 7) and image.info["icc_profile"]
    np.save(tmp_path / "f.npy", np.full((4, 4), 0.5, np.float32))
    with Image.open(view(tmp_path / "f.npy", tmp_path / "f.png", (0, 1), 99)) as image:
        assert image.getpixel((0, 0)) == (128, 128, 128)
    with pytest.raises(UserError, match="no known range"):
        view(tmp_path / "f.npy", tmp_path / "f.png", None, 99)


def test_the_walk_of_a_large_picture_fits_on_the_page(run, tmp_path):
    # kills: app-walk-has-all-pixels
    Image.new("RGB", (1200, 16), (90, 120, 150)).save(tmp_path / "wide.png")
    answer = restore_picture(run, tmp_path / "wide.png", Request(nfe=7), tmp_path / "page", Limits(pixels=20_000))
    with Image.open(answer.walk) as walk, Image.open(answer.restored[0]) as restored:
        assert WALK_SIDE - 20 < walk.width < WALK_SIDE + 20 and walk.height < 16 + 40 and restored.size == (1200, 16)


def test_the_animation_shows_the_states_in_their_order(run, tmp_path):
    """From X_1 to the restored picture, each below its heading. kills: animation-backwards"""
    noisy = 128 + np.random.default_rng(0).normal(0, 40, (40, 60, 3))
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(tmp_path / "noisy.png")
    answer = restore_picture(run, tmp_path / "noisy.png", Request(nfe=3), tmp_path / "page", LIMITS)
    with Image.open(answer.animation) as image:
        assert image.n_frames == 4 and image.size[0] == 60 and image.info["loop"] == 0
        spreads = []
        for i in range(image.n_frames):
            image.seek(i)
            spreads.append(np.asarray(image.convert("L"), float)[-40:].std())
    assert spreads == sorted(spreads, reverse=True) and spreads[0] > 2 * spreads[-1]


def test_the_limit_of_decoded_pixels_ends_with_the_page(photo):
    # kills: app-limit-stays
    before = Image.MAX_IMAGE_PIXELS
    with decoded_pixels(300), pytest.raises(Image.DecompressionBombError):
        Image.open(photo)
    assert before == Image.MAX_IMAGE_PIXELS


def test_an_empty_number_field_is_refused():
    # kills: app-empty-field
    assert number("seed", 7.0) == 7
    with pytest.raises(UserError, match="seed: the field is empty; give a number"):
        number("seed", None)


def test_an_example_is_copied(photo, tmp_path):
    copy = copied(photo, tmp_path / "results")
    assert copy == tmp_path / "results" / photo.name and copy.read_bytes() == photo.read_bytes()


def page_functions(run, photo, folder, limits, said):
    """The functions of the page by name."""
    gradio = pytest.importorskip("gradio", reason="extra app")
    page = build_page(Actions({"photos": run}, folder, limits, {"example": photo}, said.append))
    return {function.name: function.fn for function in page.fns.values()}, gradio.Error


def test_the_page_restores_at_its_limit_and_serves_only_its_folder(run, photo, tmp_path):
    """A picture as large as allowed has a walk; a chosen example is a file of the results; an empty seed is refused."""
    (folder := tmp_path / "results").mkdir()
    said, limits = [], Limits(pixels=20 * 33)
    functions, refusal = page_functions(run, photo, folder, limits, said)

    def restored(seed):
        return functions["restored"](
            str(photo), "photos", 7, OWN, seed, 1, NOTHING, "", None, True, SAME, lambda *done, **unit: None
        )

    with decoded_pixels(limits.pixels):
        assert restored(0)[2]["visible"]
    example = functions["picked"]("example")
    assert folder.name in example and Path(example).read_bytes() == photo.read_bytes()
    photo.rename(photo.with_name("moved.png"))
    with pytest.raises(refusal, match="an error of the server"):
        functions["picked"]("example")
    assert len(said) == 1
    with pytest.raises(refusal, match="the field is empty"):
        functions["degraded"](example, "photos", "jpeg:quality=5", None)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6_needs_no_brackets(host):
    # kills: bare-ipv6
    pytest.importorskip("gradio", reason="extra app")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with open_page(["pretrained/photos"], host=host, device="cpu") as address:
        assert address.startswith("http://[::1]:")
        with urllib.request.urlopen(address) as page:
            assert page.status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2 without being told")
def test_the_page_asks_no_other_machine_wherever_it_listens():
    pytest.importorskip("gradio", reason="extra app")
    with open_page(["pretrained/photos"], host="127.0.0.2", device="cpu") as address:
        assert address.startswith("http://127.0.0.2:")
        with pytest.raises(OSError, match="the internet is not used here"):
            socket.getaddrinfo("example.invalid", 80)


def test_the_file_of_a_space_serves_the_runs_of_its_variables(tmp_path):
    """A copy of `app/__main__.py` under the name `app.py`, as docs/app.md says."""
    pytest.importorskip("gradio", reason="extra app")
    (tmp_path / "app.py").write_bytes(Path(app.__file__).with_name("__main__.py").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"I2I_APP_RUNS": "pretrained/photos", "GRADIO_SERVER_PORT": str(port), "PYTHONUNBUFFERED": "1"}
    paths = os.pathsep.join([str(Path(app.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path, env=os.environ | variables | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE, text=True,
    ) as space:  # fmt: skip
        try:
            assert next(line for line in space.stdout if "Ctrl-C" in line).startswith(f"http://127.0.0.1:{port}")
        finally:
            space.terminate()


def test_names_of_runs_differ():
    assert run_names(["runs/a", "other/a", "pretrained/photos"]) == ["a", "a (2)", "photos"]


def test_a_missing_extra_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'i2i-bridge\[app\]'$"):
        require_gradio()
