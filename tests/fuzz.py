"""Mutated images, checkpoints, recipes, results, archives: each is read, or refused by a line that names the file.

    python tests/fuzz.py                      the soak run: 120,000 images, 20,000 checkpoints, 60,000 recipes
                                              and cards, 10,000 evaluations, 10,000 archives
    python tests/fuzz.py images=500 pt        a part of it
    python tests/fuzz.py --replay             every finding of the past (tests/corpus)

Case i of a kind is a function of (seed, kind, i). A case fails if anything but `UserError` comes out of it, if its line
is longer than 300 characters or does not name the file, if it takes 2 s of the processor or 512 MB, warns, or if an
audit hook sees a process, a connection, a library, an import or a file opened for writing. What failed is stored in
tests/corpus, where `make test` replays it for ever.
"""

import argparse
import bz2
import contextlib
import csv
import functools
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import tomllib
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from hostile import pickled, suspicious, tensor, zipped
from PIL import Image
from safetensors.torch import save
from speed import unit

from i2i_bridge.cli.options import run_folder
from i2i_bridge.data.cards import load_card
from i2i_bridge.data.store import read_place
from i2i_bridge.errors import UserError, printable
from i2i_bridge.evaluation.results import read_evaluation
from i2i_bridge.images.files import read_picture
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.protocol import load_protocol
from i2i_bridge.report.formats import to_csv, to_latex, to_markdown, to_words
from i2i_bridge.report.table import single_table
from i2i_bridge.runs import checkpoint
from i2i_bridge.runs.checkpoint import latest_checkpoint, save_checkpoint
from i2i_bridge.storage import pt_reader
from i2i_bridge.storage.archive import unpack
from i2i_bridge.storage.tensors import read_safetensors

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests" / "corpus"
SOAK = {
    "images": 100_000,
    "pt": 10_000,
    "safetensors": 6_000,
    "folders": 4_000,
    "recipes": 30_000,
    "cards": 16_000,
    "protocols": 2_000,
    "fetched": 2_000,
    "names": 10_000,
    "evaluations": 10_000,
    "tiffs": 20_000,
    "archives": 10_000,
}
SECONDS, MEGABYTES, LONGEST = 100 * unit(), 512, 300
MODULES = (
    "PIL",
    "encodings",
    "numpy",
    "cv2",
    "pydantic",
    "torch",
    "safetensors",
    "i2i_bridge",
    "zipfile",
    "_",
    "tifffile",
    "imagecodecs",
    "compression",
)


class Hang(BaseException):
    """The time of a case is over."""


# What is read, and how.


def read_image(file):
    read_picture(file)


def read_pt(file):
    try:
        with warnings.catch_warnings(action="ignore"):  # the child's are seen by nobody
            sizes = pt_reader.examine(str(file))
            for value in pt_reader.load(str(file), "state dict", sizes).values():
                value.sum()
    except pt_reader.Refused as refused:
        raise UserError(f"{file}: {refused}") from refused


def read_folder(file):
    """A manifest of a checkpoint whose tensors are whole."""
    home = file.parent / "checkpoints"
    if not home.is_dir():
        save_checkpoint(home, 1, {"network": {"w": torch.zeros(4)}}, {"seed": 1}, 2)
    (home / "step-00000001" / "manifest.json").write_bytes(file.read_bytes())
    if hasattr(checkpoint, "_seal"):  # where manifests are sealed, a stranger's seal is right, too
        (home / "step-00000001" / checkpoint.SEAL).write_bytes(checkpoint._seal(file.read_bytes()))
    try:
        latest_checkpoint(home)
    except UserError as error:
        # The message names the checkpoint's own file.
        raise UserError(str(error).replace(str(home), str(file))) from error


def read_recipe(file):
    load_recipe(file)


def read_card(file):
    load_card(file)


def read_protocol(file):
    load_protocol(str(file))


def read_fetched(file):
    read_place(file)


def read_names(file):
    """A recipe whose name is one folder below runs/, and whose texts are printed as lines."""
    recipe = load_recipe(file)
    folder = run_folder(recipe, None)
    assert folder.parent == Path("runs") and folder.name not in ("", ".", "..") and folder.name.isprintable(), folder
    for text in (recipe.summary, recipe.method_label, recipe.reference.source if recipe.reference else ""):
        assert all(c.isprintable() or c.isspace() for c in printable(text)), text


def read_results(file):
    """An evaluation, and the tables that are made of it."""
    home = file.parent / "evaluated"
    stored = home / "evaluation" / "held-out" / "evaluation.json"
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(file.read_bytes())
    try:
        table = single_table(read_evaluation(home))
    except UserError as error:
        raise UserError(str(error).replace(str(stored), str(file))) from error
    header, rows = to_words(table)
    assert all(len(row) == len(header) for row in rows)
    for cells in csv.reader(io.StringIO(to_csv(table))):
        assert not any(cell[:1] in ("=", "@", "\t", "\r") for cell in cells), cells
    assert to_markdown(table) and to_latex(table, "caption")


def read_archive(file):
    """An archive: whatever comes out is a plain file or folder below one folder (the audit hook sees the others)."""
    out = file.parent / "unpacked" / "here"
    unpack(file, "zip" if file.suffix == ".zip" else "tar", out)
    for path in out.rglob("*"):
        assert not path.is_symlink() and (path.is_dir() or path.is_file()), path
    assert [path.name for path in out.parent.iterdir()] == ["here"]


# The honest files that are mutated.


def images():
    draw = np.random.default_rng(0)
    colour = draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    pictures = {"RGB": Image.fromarray(colour), "smooth": Image.fromarray(smooth)}
    pictures |= {mode: pictures["RGB"].convert(mode) for mode in ("L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr")}
    deep = Image.fromarray(draw.integers(0, 65536, (9, 12), dtype=np.uint16))
    pictures |= {"I;16": deep, "I": deep.convert("I"), "F": Image.fromarray(colour[..., 0].astype(np.float32))}
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for picture in pictures.values():
        for suffix, options in (
            ("png", {}),
            ("jpg", {"exif": exif}),
            ("jpg", {"progressive": True}),
            ("webp", {"lossless": True}),
            ("webp", {"quality": 50}),
            ("bmp", {}),
            ("tif", {}),
            ("tif", {"compression": "tiff_lzw"}),
            ("tif", {"compression": "tiff_deflate"}),
            ("tif", {"compression": "packbits"}),
            ("tif", {"compression": "jpeg"}),
        ):
            stream = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, KeyError):
                picture.save(stream, Image.registered_extensions()[f".{suffix}"], **options)
                found.append((suffix, stream.getvalue()))
    frames = [pictures["RGB"], pictures["RGB"].transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    for suffix in ("png", "webp", "tif"):
        stream = io.BytesIO()
        frames[0].save(stream, Image.registered_extensions()[f".{suffix}"], save_all=True, append_images=frames[1:])
        found.append((suffix, stream.getvalue()))
    import cv2

    for shape in ((9, 12, 3), (9, 12, 4)):
        for suffix in ("png", "tif"):
            data = cv2.imencode(f".{suffix}", draw.integers(0, 65536, shape, dtype=np.uint16))[1]
            found.append((suffix, bytes(data)))
    for array in (colour, colour.astype(np.float32), colour[..., 0].astype(np.uint16)):
        stream = io.BytesIO()
        np.save(stream, array)
        found.append(("npy", stream.getvalue()))
    return found


def pts():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    found = []
    for value in (network.state_dict(), {"a": torch.zeros(2, dtype=torch.bfloat16), "b": torch.arange(3)}):
        stream = io.BytesIO()
        torch.save(value, stream)
        found.append(("pt", stream.getvalue()))
        stream = io.BytesIO()
        torch.save(value, stream, _use_new_zipfile_serialization=False)
        found.append(("pt", stream.getvalue()))
    return [*found, ("pt", zipped(pickled({"a": tensor((4,))})))]


def tensors():
    values = {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.float16), "c": torch.arange(3)}
    return [("safetensors", save(values)), ("safetensors", save({"w": torch.zeros(0)}))]


def manifests():
    with tempfile.TemporaryDirectory() as folder:
        made = save_checkpoint(Path(folder), 1, {"network": {"w": torch.zeros(4)}}, {"seed": 1}, 2)
        return [("json", (made / "manifest.json").read_bytes())]


def recipes():
    return [("toml", file.read_bytes()) for file in sorted((ROOT / "recipes").rglob("*.toml"))]


def cards():
    return [("toml", file.read_bytes()) for file in sorted((ROOT / "datasets").glob("*.toml"))]


def protocols():
    files = sorted((ROOT / "i2i_bridge" / "recipe" / "protocols").glob("*.toml"))
    return [("toml", file.read_bytes().replace(b'name = "', b'name = "my-')) for file in files]


def fetched():
    return [("toml", b'folder = "x"\n[sha256]\n"a.zip" = "' + b"0" * 64 + b'"\n')]


def names():
    return [(suffix, data) for suffix, data in recipes() if b"[reference]" in data or len(data) < 1500]


def results():
    estimate = {"value": 27.25, "low": "nan", "high": "inf", "standard_error": 0.25, "note": ""}
    row = {"name": "nfe 5", "nfe": 5, "images": 6, "metrics": {"psnr": estimate, "own": estimate}}
    table = {
        "recipe": "demo/deblur", "method": "bridge", "step": 750, "seed": 0,
        "protocol": {"name": "held-out", "version": 1, "hash": "3f" * 32, "settings": {"n": 6, "size": [64, 64]}},
        "data": {"digest": "aa" * 32, "items": 6},
        "rows": [row | {"seconds_per_image": None, "name": "input", "nfe": 0}, row | {"seconds_per_image": 0.02}],
        "skipped": {"lpips": "no weights"}, "warnings": ["few images"], "fingerprint": "", "capped": False,
    }  # fmt: skip
    return [("json", json.dumps(table, indent=1).encode())]


def tiffs():
    return [(suffix, data) for suffix, data in images() if suffix == "tif"]


def archives():
    files = {"set/train/1.png": b"one" * 300, f"set/{'n' * 120}.png": b"2", "set/é.txt": b""}
    found = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name if form != tarfile.USTAR_FORMAT else name[:60])
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            folder = tarfile.TarInfo("set/empty")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        packs = (bytes, gzip.compress, bz2.compress, lzma.compress)
        found += [("tar", pack(stream.getvalue())) for pack in packs]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        found.append(("zip", stream.getvalue()))
    return found


KINDS = {
    "images": (images, read_image),
    "pt": (pts, read_pt),
    "safetensors": (tensors, read_safetensors),
    "folders": (manifests, read_folder),
    "recipes": (recipes, read_recipe),
    "cards": (cards, read_card),
    "protocols": (protocols, read_protocol),
    "fetched": (fetched, read_fetched),
    "names": (names, read_names),
    "evaluations": (results, read_results),
    "tiffs": (tiffs, read_image),
    "archives": (archives, read_archive),
}

# How they are mutated.

NUMBERS = (
    0,
    1,
    -1,
    0.5,
    2**31 - 1,
    2**32 - 1,
    2**63,
    -(2**63),
    10**19,
    10**30,
    1e308,
    1e-308,
    float("nan"),
    float("inf"),
    255,
    7,
)
WORDS = (
    "",
    "a",
    "../../x",
    "/dev/zero",
    "\n",
    "\x1b[2J",
    "é" * 60,
    "..",
    ".",
    "a/b",
    "a\\b",
    "\x00",
    "x" * 300,
    "[/red]",
    "=1+1",
    "\u202ea",
    "nfe x",
    "nfe 5",
    "x" * 5000,
    "{split}",
    "{}",
    "true",
    "jpeg",
    "i2sb",
)


def mutate_bytes(data, draw, others):
    """Flips, cuts, lengths, insertions, repetitions and splices; a few at a time."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        place = draw.randrange(len(data) + 1)
        what = draw.randrange(8)
        if what == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif what == 1 and place < len(data):
            data[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif what == 2:
            del data[place:]
        elif what == 3:
            number = draw.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, draw.randrange(2**32)))
            data[place : place + 4] = struct.pack(draw.choice("<>") + "L", number)
        elif what == 4:
            data[place:place] = draw.randbytes(draw.choice((1, 4, 64)))
        elif what == 5:
            del data[place : place + draw.choice((1, 4, 64))]
        elif what == 6:
            data[place:place] = data[place : place + draw.randrange(200)] * draw.randrange(1, 4)
        else:
            other = draw.choice(others)[1]
            start = draw.randrange(len(other))
            data[place:] = other[start : start + draw.choice((16, 4096))]
    return bytes(data)


def mutate_png(data, draw):
    """One chunk changed, its checksum right: so the decoder gets to see it."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">L", data[place : place + 4])
        chunks.append([data[place + 4 : place + 8], bytearray(data[place + 8 : place + 8 + length])])
        place += 12 + length
    chosen = draw.choice(chunks)
    if chosen[0] in (b"IDAT", b"fdAT") and draw.random() < 0.5:
        with contextlib.suppress(zlib.error):
            raw = bytearray(zlib.decompress(bytes(chosen[1])))
            raw[draw.randrange(len(raw))] ^= draw.randrange(256)
            chosen[1] = bytearray(zlib.compress(bytes(raw[: draw.choice((len(raw), len(raw) // 2))])))
    elif chosen[0] == b"IHDR" and draw.random() < 0.5:
        chosen[1][draw.choice((0, 4)) :][:4] = struct.pack(
            ">L", draw.choice((0, 1, 2**14, 2**31 - 1, draw.randrange(9000)))
        )
        chosen[1][draw.choice((8, 9, 12))] = draw.choice((0, 1, 2, 3, 4, 6, 8, 16))
    elif chosen[1]:
        chosen[1][draw.randrange(len(chosen[1]))] = draw.randrange(256)
    if draw.random() < 0.2:
        chunks.insert(
            draw.randrange(len(chunks)),
            [
                draw.choice((b"tRNS", b"PLTE", b"acTL", b"iCCP", b"eXIf")),
                bytearray(draw.randbytes(draw.choice((0, 3, 26)))),
            ],
        )
    elif draw.random() < 0.2:
        draw.shuffle(chunks)
    return data[:8] + b"".join(
        struct.pack(">L", len(body)) + kind + bytes(body) + struct.pack(">L", zlib.crc32(kind + bytes(body)))
        for kind, body in chunks
    )


def mutate_tiff(data, draw):
    """One entry of a directory of tags changed, or the place of the next directory: so Pillow gets to see it."""
    data = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack(order + "L", data[4:8])
    places = []
    while place and place not in places and place + 2 <= len(data):
        places.append(place)
        (count,) = struct.unpack(order + "H", data[place : place + 2])
        (place,) = struct.unpack(order + "L", data[place + 2 + 12 * count :][:4])
    chosen = draw.choice(places)
    (count,) = struct.unpack(order + "H", data[chosen : chosen + 2])
    for _ in range(draw.choice((1, 1, 2, 4))):
        entry = chosen + 2 + 12 * draw.randrange(count)
        what = draw.randrange(6)
        number = draw.choice(
            (0, 1, 2, 3, 8, 16, 32, 255, 65535, 2**31 - 1, 2**32 - 1, len(data), chosen, draw.randrange(2**16))
        )
        if what == 0:  # another tag
            tags = (
                254,
                256,
                257,
                258,
                259,
                262,
                273,
                274,
                277,
                278,
                279,
                284,
                317,
                320,
                322,
                323,
                338,
                339,
                34665,
                34675,
            )
            data[entry : entry + 2] = struct.pack(order + "H", draw.choice(tags))
        elif what == 1:  # another type
            data[entry + 2 : entry + 4] = struct.pack(
                order + "H", draw.choice((0, 1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 16, 99))
            )
        elif what == 2:  # another number of values
            data[entry + 4 : entry + 8] = struct.pack(order + "L", number)
        elif what in (3, 4):  # another value, or place of the values
            data[entry + 8 : entry + 12] = struct.pack(order + "L", number)
        else:
            after = chosen + 2 + 12 * count
            data[after : after + 4] = struct.pack(order + "L", draw.choice((*places, number)))
    return bytes(data)


def mutate_tar(data, draw):
    """Fields of a header changed, its checksum right, whatever the compression."""
    pairs = ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7z", lzma))
    module = next((module for magic, module in pairs if data.startswith(magic)), None)
    plain = bytearray(module.decompress(data) if module else data)
    heads = [place for place in range(0, len(plain), 512) if plain[place + 257 : place + 262] == b"ustar"]
    for _ in range(draw.choice((1, 1, 2, 4))):
        head = draw.choice(heads)
        sizes = (b"00000000000\0", b"77777777777\0", b"\x80" + bytes(3) + b"\x7f" * 8, b"\xff" * 11 + b"\xfe",
                 b"00001000000\0", b"-0000000001\0", b"%011o\0" % draw.randrange(5000))  # fmt: skip
        what = draw.randrange(6)
        if what == 0:
            plain[head + 124 : head + 136] = draw.choice(sizes)
        elif what == 1:
            plain[head + 156 : head + 157] = draw.choice(
                (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"V", b"Z", b"\0")
            )
        elif what == 2:
            names = (
                b"../x",
                b"/x",
                b"a\\..\\x",
                b"C:x",
                b".",
                b"",
                b"\xff",
                b"a/" * 40,
                b"set/train/1.png",
                b"\n\x1b[2J",
            )
            plain[head : head + 100] = draw.choice(names).ljust(100, b"\0")
        elif what == 3 and head + 1024 <= len(plain):
            body = (
                b"30 size=99999999999999999999999\n",
                b"9" * 400,
                b"20 GNU.sparse.major=1\n",
                b"22 path=../../../evil\n",
                b"-1 a=b\n",
                b"\xff" * 64,
            )
            plain[head + 512 : head + 1024] = draw.choice(body).ljust(512, b"\0")
        elif what == 4:
            plain[head + 329 : head + 337] = draw.choice((b"7777777\0", b"\xff" * 8, b"0000000\0"))
        else:
            plain[head:head] = plain[head : head + 512 * draw.choice((1, 2, 200))]
        plain[head + 148 : head + 156] = b" " * 8
        plain[head + 148 : head + 156] = b"%06o\0 " % sum(plain[head : head + 512])
    return module.compress(bytes(plain)) if module else bytes(plain)


def mutate_zip(data, draw, others):
    """The pickle changed, the archive around it right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickle_name = next(name for name in members if name.endswith("data.pkl"))
    name = pickle_name if draw.random() < 0.8 else draw.choice(list(members))
    members[name] = mutate_bytes(members[name] or b"x", draw, [("", members[pickle_name]), *others])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return stream.getvalue()


def mutate_tree(tree, draw):
    """A value, key or table of a parsed file changed."""
    spots = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    for _ in range(draw.choice((1, 1, 2, 4))):
        node, key = draw.choice(spots)
        if (isinstance(node, dict) and key not in node) or (isinstance(node, list) and key >= len(node)):
            continue
        what = draw.randrange(6)
        if what == 0:
            del node[key]
        elif what == 1:
            node[key] = draw.choice(NUMBERS)
        elif what == 2:
            node[key] = draw.choice((True, False, [], {}, [[]], [1, "a"], {"name": "jpeg"}, *WORDS))
        elif what == 3 and isinstance(node, dict):
            node[draw.choice(WORDS)] = node[key]
        elif what == 4:
            other, there = draw.choice(spots)
            with contextlib.suppress(KeyError, IndexError):
                node[key] = json.loads(json.dumps(other[there]))
        elif isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = node[key] * draw.choice((-1, 1000, 10**9, 0.001))
        elif isinstance(node[key], str):
            node[key] = mutate_bytes(node[key].encode() or b"x", draw, [("", b"abc")]).decode("utf-8", "replace")
    return tree


def mutate_names(tree, draw):
    """The texts of a recipe, its name the most often, as a stranger might write them."""
    texts = [key for key, value in tree.items() if isinstance(value, str)]
    for key in draw.choices(["name", "name", "summary", "method_label", *texts], k=draw.choice((1, 1, 2))):
        word = draw.choice((*WORDS, "a" * 200, "a" * 201, " a", "a ", "~", "CON", "a\u0301", "\ud7ff", "日本"))
        old = str(tree.get(key, ""))
        place = draw.randrange(len(old) + 1)
        tree[key] = draw.choice((word, old[:place] + word + old[place:], word + old, old + word))
    return tree


def toml(value, top=True):
    """A tree as TOML, inline below the first level."""
    if top:
        return "".join(f"{json.dumps(str(key))} = {toml(inner, False)}\n" for key, inner in value.items())
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(inner, False)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(inner, False) for inner in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    return repr(value).replace("e+", "e")


def mutate_header(data, draw):
    """The JSON of a safetensors file changed, its length right."""
    (length,) = struct.unpack("<Q", data[:8])
    tree = mutate_tree(json.loads(data[8 : 8 + length]), draw)
    text = json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def case(kind, seeds, number, seed):
    """Case `number` of a kind: suffix and bytes."""
    draw = random.Random(f"{seed} {kind} {number}")
    suffix, data = draw.choice(seeds)
    if draw.random() < 0.5:
        with contextlib.suppress(ValueError, IndexError, KeyError, struct.error, UnicodeError, zipfile.BadZipFile):
            if suffix == "tif" and kind == "tiffs":
                return suffix, mutate_tiff(data, draw)
            if suffix == "tar":
                return suffix, mutate_tar(data, draw)
            if suffix == "png":
                return suffix, mutate_png(data, draw)
            if suffix == "pt" and data[:2] == b"PK":
                return suffix, mutate_zip(data, draw, seeds)
            if suffix == "safetensors":
                return suffix, mutate_header(data, draw)
            if suffix == "json":
                return suffix, json.dumps(mutate_tree(json.loads(data), draw)).encode()
            if suffix == "toml":
                tree = tomllib.loads(data.decode())
                return suffix, toml(mutate_names(tree, draw) if kind == "names" else mutate_tree(tree, draw)).encode(
                    "utf-8", "surrogatepass"
                )
    if kind == "images" and draw.random() < 0.1:
        suffix = draw.choice(("png", "jpg", "tif", "npy"))  # another kind than it says
    return suffix, mutate_bytes(data, draw, seeds)


# How they are judged.


class Watch:
    """Sees what a reader does while it is on: an audit hook stays for the life of the process."""

    def __init__(self, allowed):
        self.on, self.events, self.allowed = False, [], str(allowed)
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if not self.on:
            return
        if event == "import":
            bad = not str(arguments[0]).startswith(MODULES)
        else:
            bad = event != "exec" and suspicious(event, arguments, self.allowed)
        if bad:
            self.events.append(f"{event} {arguments}"[:200])


def _over(signum, frame):
    raise Hang


def judge(read, file, watch):
    """Whether a file was 'read' or 'refused', or what is wrong; and the seconds it took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch.events.clear()
    start = time.process_time()
    outcome = "read"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        signal.setitimer(signal.ITIMER_PROF, SECONDS + 0.5)
        watch.on = True
        try:
            read(file)
        except UserError as error:
            outcome = "refused"
            line = str(error)
            if str(file) not in line or len(line) > LONGEST or not line.isprintable():
                outcome = f"bad message of {len(line)} characters: {line[:400]!r}"
        except Hang:
            outcome = "hang"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {str(error)[:300]}"
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if watch.events:
        outcome = f"did what no reader does: {watch.events[:3]}"
    elif warned:
        outcome = f"warned: {warned[0].message}"
    elif outcome in ("read", "refused") and seconds > SECONDS:
        outcome = f"took {seconds:.1f} s"
    elif outcome in ("read", "refused") and grown > MEGABYTES:
        outcome = f"took {grown:.0f} MB"
    return outcome, seconds


def run(kind, numbers, seed, out):
    """Judges cases in this process; counts, and the failures as (number, outcome, suffix, bytes)."""
    make, read = KINDS[kind]
    torch.set_num_threads(1)
    seeds = make()
    signal.signal(signal.SIGPROF, _over)
    watch = Watch(out)
    for i, (suffix, data) in enumerate(seeds):  # what is imported late is imported now
        honest = out / f"honest-{i}.{suffix}"
        honest.write_bytes(data)
        with contextlib.suppress(UserError):
            read(honest)
        shutil.rmtree(out / "unpacked", ignore_errors=True)
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, resource.RLIM_INFINITY))
    counts = {"read": 0, "refused": 0}
    failures, slowest, began = [], 0.0, time.process_time()
    for number in numbers:
        suffix, data = case(kind, seeds, number, seed)
        file = out / f"case.{suffix}"
        file.write_bytes(data)
        outcome, seconds = judge(read, file, watch)
        shutil.rmtree(out / "unpacked", ignore_errors=True)
        slowest = max(slowest, seconds)
        if outcome in counts:
            counts[outcome] += 1
        else:
            failures.append((number, outcome, suffix, data))
            print(f"{kind} {number}: {outcome}", file=sys.stderr, flush=True)
            if len(failures) >= 50:
                break
    figures = {"slowest": slowest, "seconds": time.process_time() - began}
    return counts | figures | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}, failures


def keep(kind, failures):
    """Stores what failed, one file for each kind of failure, in the corpus."""
    seen = set()
    for _, outcome, suffix, data in failures:
        if outcome[:40] in seen or len(data) > 100_000:
            continue
        seen.add(outcome[:40])
        name = hashlib.blake2b(data, digest_size=6).hexdigest()
        (CORPUS / kind).mkdir(parents=True, exist_ok=True)
        (CORPUS / kind / f"{name}.{suffix}").write_bytes(data)


def replay(out):
    """Judges every stored finding; the failures."""
    signal.signal(signal.SIGPROF, _over)
    watch, failures = Watch(out), []
    for kind, (make, read) in KINDS.items():
        for i, (suffix, data) in enumerate(make()):
            honest = out / f"honest-{i}.{suffix}"
            honest.write_bytes(data)
            with contextlib.suppress(UserError):
                read(honest)
            shutil.rmtree(out / "unpacked", ignore_errors=True)
        for stored in sorted((CORPUS / kind).glob("*")):
            file = out / f"case{stored.suffix}"
            file.write_bytes(stored.read_bytes())
            outcome, _ = judge(read, file, watch)
            shutil.rmtree(out / "unpacked", ignore_errors=True)
            if outcome not in ("read", "refused"):
                failures.append(f"{stored.name}: {outcome}")
    return failures


def main():
    parser = argparse.ArgumentParser(description="Mutated files, read or refused.")
    parser.add_argument("kinds", nargs="*", metavar="KIND[=COUNT]", help=f"{', '.join(KINDS)}; default: the soak run")
    parser.add_argument("--count", type=int, help="cases of each kind that has no count of its own")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--replay", action="store_true", help="every finding of the past instead")
    options = parser.parse_args()
    failed, figures = 0, {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        out = Path(folder)
        if options.replay:
            failures = replay(out)
            print("\n".join([*failures, f"{len(failures)} failures"]))
            sys.exit(bool(failures))
        for word in options.kinds or KINDS:
            kind, _, count = word.partition("=")
            numbers = range(options.first, options.first + int(count or options.count or SOAK[kind]))
            child = functools.partial(run, kind, numbers, options.seed, out)
            result, failures = apart(child)
            failed += len(failures)
            keep(kind, failures)
            figures[kind] = result | {"cases": len(numbers), "failures": len(failures)}
            print(kind, json.dumps(figures[kind]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    sys.exit(bool(failed))


def apart(work):
    """Calls a function in a forked process, whose death is a failure like any other."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        result, failures = work()
        said = [result, [(number, outcome, suffix, data.hex()) for number, outcome, suffix, data in failures]]
        with os.fdopen(writer, "w") as stream:
            json.dump(said, stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        return {}, [(-1, f"the process ended with status {status}", "bin", b"")]
    result, failures = json.loads(text)
    return result, [(number, outcome, suffix, bytes.fromhex(data)) for number, outcome, suffix, data in failures]


if __name__ == "__main__":
    main()
