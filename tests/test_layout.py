"""The house: imports run downward, heavy libraries load lazily, and the wheel holds what the repository holds."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "i2i_bridge"

# Top of the list knows nothing of what is below it. A package stands for its files.
ROOMS = [
    "errors", "shipped", "files", "randomness", "registry", "images", "montage", "processes", "official_grid",
    "targets", "proposals", "time_grids", "samplers", "guidance", "contracts", "degradations", "guidances",
    "networks", "data", "unpacking", "downloading", "fetching", "weights", "metrics", "settings", "protocols",
    "recipe", "methods", "checkpoint", "metrics_log", "precision", "run", "importing", "train_state", "stepping",
    "training", "results", "records", "scoring", "subjects", "measuring", "evaluation", "restoring", "degrading",
    "tabulating", "comparing", "pictures", "sheets", "figures", "gallery", "publishing", "page", "report",
    "inspecting", "checking", "registering", "doctor", "catalogue", "console", "jobs", "cli_options", "cli_compare",
    "cli_data", "cli_evaluate", "cli_import", "cli_weights", "cli",
]  # fmt: skip
ONLY_IN = {
    "rich": {"console.py"},
    "typer": {
        "cli.py",
        "cli_options.py",
        "cli_compare.py",
        "cli_data.py",
        "cli_evaluate.py",
        "cli_import.py",
        "cli_weights.py",
    },
    "click": {"cli.py"},
    "accelerate": {"training.py", "measuring.py"},
    "albumentations": {"data/transforms.py"},
    "kornia": {"degradations/jpeg.py", "degradations/kernel_blur.py"},
    "lpips": {"metrics/perceptual.py"},
    "torchmetrics": {"metrics/fidelity.py"},
    "matplotlib": {"figures.py"},
    "jinja2": {"page.py"},
    "lmdb": {"data/lmdb_store.py"},
    "datasets": {"data/hub.py"},
    "torchvision": {"data/vision.py", "doctor.py", "metrics/extractors.py"},
    "torch_fidelity": {"metrics/extractors.py"},
}


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            if node.module == "i2i_bridge":
                yield from (f"i2i_bridge.{alias.name}" for alias in node.names)


def room(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "i2i_bridge" and len(parts) > 1 else None


def test_imports_run_downward():
    for file in sources():
        here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        assert here in ROOMS, f"{here} has no place in the house yet"
        for module in imports(file):
            there = room(module)
            if there in ROOMS:
                assert ROOMS.index(there) <= ROOMS.index(here), f"{file.name} imports upward: {module}"


def test_heavy_libraries_stay_in_their_rooms():
    for file in sources():
        name = str(file.relative_to(PACKAGE))
        for module in imports(file):
            allowed = ONLY_IN.get(module.split(".")[0])
            assert allowed is None or name in allowed, f"{name} imports {module}"


def test_nothing_dangerous_is_called():
    """No pickle, eval, shell; torch.load only with weights_only, in the files that read foreign weights."""
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in (
                    "eval",
                    "exec",
                    "pickle.load",
                    "pickle.loads",
                    "os.system",
                    "yaml.load",
                ), f"{file}: {called}"
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("shell") != "True", f"{file}: shell=True"
                if called == "torch.load":
                    assert file.name in ("weights.py", "importing.py") and keywords.get("weights_only") == "True", (
                        f"{file}: torch.load"
                    )


def test_data_folders_hold_data_only():
    for folder in ("datasets", "recipes"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        assert files and all(path.suffix == ".toml" for path in files)
    assert not (ROOT / "tests" / "__init__.py").exists()


def fresh(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()


def test_import_is_light():
    """`import i2i_bridge` and its public names need no heavy library, and take < 0.3 s beyond torch.

    Of the processor: on a machine with other work, the clock on the wall says nothing.
    """
    heavy = [
        "torchvision",
        "kornia",
        "albumentations",
        "cv2",
        "lpips",
        "torchmetrics",
        "torch_fidelity",
        "accelerate",
        "matplotlib",
        "rich",
        "typer",
        "scipy",
        "pydantic",
        "lmdb",
        "datasets",
    ]
    code = (
        "import torch, sys, time; t = time.process_time(); import i2i_bridge; "
        f"print(time.process_time() - t, [m for m in {heavy} if m in sys.modules])"
    )
    runs = [fresh(code).split(" ", 1) for _ in range(3)]
    assert all(loaded == "[]" for _, loaded in runs), runs
    assert min(float(seconds) for seconds, _ in runs) < 0.3


def test_importable_without_the_heavy_libraries():
    blocked = ["torchvision", "kornia", "albumentations", "lpips", "torchmetrics", "accelerate"]
    block = f"import sys; [sys.modules.__setitem__(m, None) for m in {blocked}]"
    code = f"{block}; import i2i_bridge; print(i2i_bridge.load_run.__name__)"
    assert fresh(code) == "load_run"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    (file,) = out.glob("*.whl")
    return file


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_wheel_holds_what_the_repository_holds(wheel):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "i2i_bridge", "datasets", "recipes"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    wanted = {
        name if name.startswith("i2i_bridge/") else f"i2i_bridge/_shipped/{name}" for name in listed.stdout.split()
    }
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {name for name in wanted if (ROOT / name.removeprefix("i2i_bridge/_shipped/")).is_file()}
