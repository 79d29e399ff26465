"""The long versions of the reliability tests, with counts and durations: `make soak`, or some of them by name.

    python tests/soak.py [faults powercuts flips kills commands state ranks leaks] [--share 0.1]

Prints one line for each and ends with 1 if any failed; docs/reliability.md has the last figures.
"""

import argparse
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def faults(scratch, share):
    """Every file operation of a start and a save, in five modes; a second fault at each of the next start."""
    import durability

    single = sum(durability.faults(scratch, keep)[0] for keep in (1, 2))
    every = max(int(1 / share), 1)
    count = durability.operations(scratch, 1)
    double = durability.compound_faults(scratch, 1, range(0, count, every), range(count))
    return f"{single} faults, {double} pairs of faults: none without a loadable checkpoint"


def powercuts(scratch, share):
    """Simulated disks after a power cut at any operation."""
    import durability

    total = 0
    for keep in (0, 1, 2):
        done, bad, _ = durability.power_cuts(scratch, keep, states=max(int(50 * share), 1), seed=keep)
        assert bad == 0
        total += done
    return f"{total} disks after a power cut: nothing lost that was said to be saved"


def flips(scratch, share):
    """Single flipped bits anywhere in a checkpoint."""
    import durability

    count = int(10_000 * share)
    for step in (1, 2):
        durability.save(scratch / "flips", step, 2)
    durability.flips(scratch / "flips", count)
    return f"{count} flipped bits: all seen"


def kills(scratch, share):
    """Forks of a training that die anywhere, over all sixteen variants; then the run goes on to its end."""
    from killing import VARIANTS, digest, kill_and_resume, photos, recipe_of

    from i2i_bridge.training.trainer import train

    root, draw = photos(scratch / "pairs"), random.Random(0)
    wanted, killed, inside, runs = int(500 * share), 0, 0, 0
    whole = {}
    while killed < wanted:
        variant = VARIANTS[runs % len(VARIANTS)]
        recipe = recipe_of(root, *variant)
        if variant not in whole:
            train(recipe, scratch / "whole", cpu=True)
            whole[variant] = digest(scratch / "whole")
            shutil.rmtree(scratch / "whole")
        done, within = kill_and_resume(recipe, scratch / "killed", 8, draw)
        assert digest(scratch / "killed") == whole[variant], variant
        shutil.rmtree(scratch / "killed")
        killed, inside, runs = killed + done, inside + within, runs + 1
    return f"{killed} kills in {runs} runs of {len(whole)} variants, {inside} within a write: no bit differs"


DOOM = """
import os, random, sys
sys.path.insert(0, os.environ["TESTS"])
from killing import doom
doom(random.Random(os.environ["DOOM"]))
"""
"""A plug-in that kills its command with SIGKILL at a file operation or a call: the same on any machine."""


def commands(scratch, share):
    """SIGKILL of the real command at random file operations and calls."""
    from killing import digest, photos, recipe_of

    root, draw = photos(scratch / "pairs"), random.Random(0)
    wanted, killed, inside = int(40 * share) or 1, 0, 0
    recipe = recipe_of(root, workers=2, accumulation=4, steps=3 * wanted)
    (scratch / "recipe.toml").write_text(recipe.to_toml())
    words = [sys.executable, "-m", "i2i_bridge.cli", "train", "recipe.toml", "--device", "cpu", "--out"]
    kept = {"cwd": scratch, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "text": True}
    subprocess.run([*words, "whole"], check=True, **kept)
    checkpoints = scratch / "killed" / "checkpoints"
    (scratch / "doom.py").write_text(DOOM)
    while killed < wanted:
        kept["env"] = ENVIRONMENT | {"DOOM": str(draw.random()), "TESTS": str(Path(__file__).parent)}
        done = subprocess.run([*words, "killed", "--plugin", "doom.py"], check=False, start_new_session=True, **kept)
        assert done.returncode == -signal.SIGKILL, done
        killed += 1
        inside += bool(list(checkpoints.glob(".*")))
    subprocess.run([*words, "killed"], check=True, **kept)
    assert digest(scratch / "killed") == digest(scratch / "whole")
    assert inside >= wanted * 0.3, inside
    return f"{killed} SIGKILLs of the command, {inside} within a write: no bit differs"


def _tests(*names):
    environment = {**ENVIRONMENT, "I2I_SOAK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:warnings", "-q", *names],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.strip().splitlines()[-1]


def state(scratch, share):
    """Every tensor and counter of a state, lost and changed."""
    return "every part of the state, and the stream under fork, spawn and forkserver: " + _tests(
        "tests/training/test_resuming.py", "-k", "every_part or stream"
    )


def ranks(scratch, share):
    """Evaluations of 1, 2, 3, 7, 97 and 101 images by 1, 2 and 3 processes, and the launcher that loses one."""
    said = _tests("tests/training/test_ranks.py")
    from killing import photos, recipe_of

    root = photos(scratch / "pairs")
    (scratch / "recipe.toml").write_text(recipe_of(root, steps=100_000, rank_timeout=5).to_toml())
    words = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone", "-m"]
    words += ["i2i_bridge.cli", "train", "recipe.toml", "--device", "cpu", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=scratch,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    began = time.monotonic()
    out = process.stdout.read()
    code, seconds = process.wait(), time.monotonic() - began
    assert code != 0 and seconds < 60, (code, seconds)  # rank_timeout is 5 s, a busy machine slow; gloo's is 30 minutes
    assert "rank      : 1" in out, out[-2000:]
    return f"ranks: {said}; a launched job that lost a process ended with {code} after {seconds:.1f} s, naming it"


def leaks(scratch, share):
    """20,000 steps with 200 saves, and 50 evaluations: memory, descriptors, children."""
    from killing import photos, recipe_of

    from i2i_bridge import load_run
    from i2i_bridge.evaluation.evaluate import evaluate
    from i2i_bridge.training.trainer import Progress, train

    root, steps = photos(scratch / "pairs"), max(int(20_000 * share), 2000) // 100 * 100  # 20 looks, each after a log
    seen = []

    def look(event):
        if isinstance(event, Progress) and event.step % (steps // 20) == 0:
            gc.collect()
            seen.append((_resident(), _descriptors()))

    train(
        recipe_of(root, steps=steps, save_every=100, log_every=100, sample_every=steps // 10),
        scratch / "run", cpu=True, report=look,
    )  # fmt: skip
    warm, last = seen[4], seen[-1]
    growth = last[0] / warm[0] - 1
    run = load_run(scratch / "run", device="cpu")
    dataset, sizes = run.recipe.build_dataset("validation"), []
    for turn in range(int(50 * share) or 2):
        shutil.rmtree(scratch / "run" / "evaluation", ignore_errors=True)
        evaluate(run, dataset, nfe=[1], metrics=["psnr", "ssim"], count=3)
        gc.collect()
        if turn in (4, int(50 * share) - 1) or turn == 1:
            sizes.append((_resident(), _descriptors()))
    evaluating = sizes[-1][0] / sizes[min(1, len(sizes) - 1)][0] - 1
    try:
        os.waitpid(-1, os.WNOHANG)
        left = "a child"
    except ChildProcessError:
        left = "no child"
    text = (
        f"{steps} steps, {steps // 100} saves: memory {growth:+.2%} after warm-up, {warm[1]} -> {last[1]} descriptors; "
        f"{int(50 * share) or 2} evaluations: {evaluating:+.2%}, {sizes[0][1]} -> {sizes[-1][1]} descriptors; "
        f"{left} left"
    )
    assert growth < 0.01 and evaluating < 0.01 and warm[1] == last[1] and left == "no child", text
    assert sizes[0][1] == sizes[-1][1], text
    return text


def _descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def _resident():
    return int(Path("/proc/self/statm").read_text().split()[1])


def strays(scratch) -> list[int]:
    """Processes of this part that are there ten seconds after it: forks of this one, and what works in scratch."""
    mine, limit = Path("/proc/self/cmdline").read_bytes(), time.monotonic() + 10
    while True:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = process.joinpath("cmdline").read_bytes() == mine
                if int(process.name) != os.getpid() and (ours or (process / "cwd").readlink() == scratch):
                    found.append(int(process.name))
            except OSError:
                continue  # gone meanwhile
        if not found or time.monotonic() > limit:
            return found
        time.sleep(0.2)


PARTS = {part.__name__: part for part in (faults, powercuts, flips, kills, commands, state, ranks, leaks)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="by default all")
    parser.add_argument("--share", type=float, default=1.0, help="of the counts")
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    failed = 0
    for name in chosen.parts or PARTS:
        began = time.monotonic()
        # Files that are made to fail need no disk; commands and leaks are looked at on a real one.
        where = "/dev/shm" if name in ("faults", "powercuts", "flips", "kills") and Path("/dev/shm").is_dir() else None
        with tempfile.TemporaryDirectory(prefix="i2i-soak-", dir=where, ignore_cleanup_errors=True) as scratch:
            try:
                said, ended = PARTS[name](Path(scratch), chosen.share), "ok    "
                assert not (left := strays(Path(scratch))), f"processes {left} outlive it"
            except AssertionError as error:
                said, ended, failed = f"{type(error).__name__}: {error}", "FAILED", failed + 1
        print(f"{ended} {name}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
