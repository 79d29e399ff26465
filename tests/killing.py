"""Trainings that are killed: tiny recipes, one number for a whole state, and forks that die on the way."""

import hashlib
import itertools
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import i2i_bridge.training.trainer as training
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.runs import checkpoint
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.storage import files
from i2i_bridge.training.trainer import train

VARIANTS = list(itertools.product((0, 2), (1, 4), ("degradation", "paired"), ("bridge", "pix2pix")))
"""Workers, accumulation, data, method."""


def photos(root: Path) -> Path:
    """12 pairs for training and 3 for validation, as folders of pairs and, in clean/, as images."""
    for split, count in (("train", 12), ("val", 3)):
        for i in range(count):
            draw = np.random.default_rng([i, count])
            clean = np.kron(draw.integers(0, 256, (6, 6, 3)), np.ones((6, 6, 1))).astype(np.uint8)
            noisy = np.clip(clean + draw.normal(0, 30, clean.shape), 0, 255).astype(np.uint8)
            for side, pixels in (("clean", clean), ("noisy", noisy)):
                file = root / side / split / f"{i:02d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    return root


def recipe_of(root, workers=0, accumulation=1, data="degradation", method="bridge", **settings):
    """A recipe whose step takes some milliseconds; it saves at every step."""
    table = {
        "name": "tiny", "summary": "a test", "task": "restoration",
        "data": {"root": str(root / "clean"), "source": {"name": "images"}, "size": 16, "resize": "none",
                 "crop": "random", "validation_size": 32},
        "degradation": {"name": "noise", "std": 0.3},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1, 2], "blocks_per_level": 1, "dropout": 0.1},
        "train": {"steps": 6, "batch_size": 4, "lr": 2e-3, "workers": workers, "micro_batch": 4 // accumulation,
                  "save_every": 1, "sample_every": 1000, "log_every": 1, "precision": "fp32", "ema_decay": 0.5,
                  "schedule": "cosine", "warmup_steps": 2},
        "evaluate": {"nfe": [1], "metrics": ["psnr"]}, "sample": {"nfe": 1},
    }  # fmt: skip
    if data == "paired":
        del table["degradation"]
        table["data"] |= {"root": str(root), "source": {"name": "paired_folders", "x_0": "clean", "x_1": "noisy"}}
    if method == "pix2pix":
        table["method"] = {"name": "pix2pix", "discriminator": {"n_layers": 1, "channels": 4}}
        table["network"] = {"name": "pix2pix-unet", "levels": 4, "channels": 4}
    table["train"] |= settings
    return parse_recipe(table, "tiny")


def latent_recipe(root, encoder, name="tiny"):
    """A bridge between latents of pairs of 16 pixels."""
    table = recipe_of(root, data="paired", steps=1).model_dump(mode="json", exclude_none=True)
    table["data"] |= {"crop": "center", "flip": False, "validation_size": 16}
    table["network"] |= {"channel_mult": [1], "dropout": 0.0, "condition_channels": 3}
    return parse_recipe(table | {"latent": {"encoder": encoder}}, name)


def latent_run(root: Path, folder: Path) -> Path:
    """A trained run between latents of a small trained autoencoder, which is gone afterwards."""
    table = recipe_of(root, data="paired", steps=2).model_dump(mode="json", exclude_none=True)
    network = {"name": "autoencoder", "halvings": 1, "channels": 4}
    train(parse_recipe(table | {"method": {"name": "autoencoder"}, "network": network}, "coder"), folder / "coder")
    train(latent_recipe(root, {"name": "run", "source": str(folder / "coder")}), folder / "latents")
    shutil.rmtree(folder / "coder")
    return folder / "latents"


def digest_of(parts, counters) -> str:
    """SHA-256 of every tensor's name, type, shape and bytes, and of the counters."""
    total = hashlib.sha256(repr(sorted(counters.items())).encode())
    for part in sorted(parts):
        for name in sorted(parts[part]):
            tensor = parts[part][name].detach().cpu().contiguous()
            total.update(f"{part}/{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def digest(folder: Path) -> str:
    """Of a run folder's newest checkpoint."""
    found, damaged = latest_checkpoint(folder / "checkpoints")
    assert damaged == []
    names = sorted(file.stem for file in found.folder.glob("*.safetensors"))
    counters = {name: found.state[name] for name in ("skipped", "in_a_row")} | {"step": found.step}
    return digest_of({name: found.tensors(name) for name in names}, counters)


class DyingOS:
    """`os`, which kills this very process before its operation number `at`."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "scandir"):
            return real

        def call(*words, **at):
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*words, **at)

        return call


def forked(work) -> int:
    """Run `work` in a fork of this process; its exit code, negative for a signal."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work() or 0
        except BaseException as error:
            print(f"in a fork: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at_call(number: int) -> None:
    """Kill this very process when its Python functions have been called so many times from the next step on.

    A moment anywhere in the program that is the same on a fast machine and on a slow one.
    """
    count, plain = 0, training.training_step

    def watch(frame, event, argument):
        nonlocal count
        count += event == "call"
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def step(*words):
        sys.setprofile(watch)
        return plain(*words)

    training.training_step = step


def die_in_a_save(number: int) -> None:
    """Kill this very process before an operation of its next save, counted from the start of the save.

    The fifth is the first with the temporary folder there; then come open, write, flush and close of five files.
    """
    plain = checkpoint.publish_folder

    def publish(*words):
        files.os = DyingOS(number)
        return plain(*words)

    checkpoint.publish_folder = publish


def doom(draw: random.Random) -> None:
    """Kill this very process within a save, at any file operation, or at a call of a function, once it trains.

    It dies within two steps: a step of `recipe_of` makes 30 to 50 file operations and 10,000 to 30,000 calls.
    """
    aim = draw.random()
    if aim < 0.4:
        die_in_a_save(draw.randrange(5, 26))
    elif aim < 0.7:
        files.os = DyingOS(draw.randrange(5, 60))
    else:
        die_at_call(draw.randrange(1, 20_000))


def killed_in_process(recipe, folder: Path, draw: random.Random) -> bool:
    """Train in a fork that is doomed; whether it died, rather than end."""

    def work():
        doom(draw)
        train(recipe, folder, cpu=True)

    code = forked(work)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def kill_and_resume(recipe, folder: Path, kills: int, draw: random.Random) -> tuple[int, int]:
    """Kill a training up to `kills` times, then let it end; how often it was killed, and how often within a write."""
    done = inside = 0
    for _ in range(kills):
        before = draw.random()
        if not killed_in_process(recipe, folder, random.Random(before)):
            break
        done += 1
        checkpoints = folder / "checkpoints"
        inside += checkpoints.is_dir() and any(path.name.startswith(".") for path in checkpoints.iterdir())
    assert forked(lambda: train(recipe, folder, cpu=True) and None) == 0
    return done, inside
