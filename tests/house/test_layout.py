"""The house: imports run downward, heavy libraries load lazily, and the wheel holds what the repository holds."""

import ast
import graphlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "i2i_bridge"

# Top of the list knows nothing of what is below it. A package stands for its files.
ROOMS = [
    "lazy", "errors", "randomness", "members", "storage", "plugins", "registry", "libraries", "console", "device",
    "distributed", "images", "bridge", "networks", "degradations", "guidance", "data", "metrics", "recipe", "methods",
    "runs", "training",
    "evaluation", "report", "app", "cli",
]  # fmt: skip
ONLY_IN = {
    "rich": {"console.py"},
    "typer": {
        "cli/app.py",
        "cli/show.py",
        "cli/command.py",
        "cli/distill.py",
        "cli/doctor.py",
        "cli/options.py",
        "cli/restore.py",
        "cli/train.py",
        "cli/tune.py",
        "cli/compare.py",
        "cli/data.py",
        "cli/evaluate.py",
        "cli/export.py",
        "cli/imports.py",
        "cli/share.py",
        "cli/weights.py",
    },
    "click": {"cli/command.py"},
    "accelerate": {"training/trainer.py", "training/trackers.py", "distributed.py"},
    "trackio": {"training/trackers.py"},
    "albumentations": {"data/augmentation.py"},
    "kornia": {
        "degradations/augmentation.py",
        "degradations/drawing.py",
        "degradations/jpeg.py",
        "degradations/kernel_blur.py",
    },
    "lpips": {"metrics/perceptual.py"},
    "torchmetrics": {"metrics/fidelity.py"},
    "matplotlib": {"report/figures.py"},
    "jinja2": {"report/formats.py"},
    "lmdb": {"data/sources/lmdb.py"},
    "tifffile": {"images/tiff.py"},
    "scipy": {"degradations/linear.py", "report/seeds.py"},
    "datasets": {"data/sources/huggingface.py"},
    "huggingface_hub": {"data/sources/huggingface.py", "runs/hub_library.py"},
    "torchvision": {"data/sources/torchvision.py", "cli/doctor.py", "metrics/extractors.py"},
    "torch_fidelity": {"metrics/extractors.py"},
    "onnx": {"runs/graphs.py"},
    "openvino": {"runs/graphs.py", "runs/backend.py", "networks/openvino.py"},
    "gradio": {"app/actions.py", "app/page.py", "app/server.py"},
    "starlette": {"app/server.py"},
    "spandrel": {"networks/spandrel.py"},
    "diffusers": {"runs/autoencoders.py"},
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
        if here in ("__init__", "__main__"):
            continue
        assert here in ROOMS, f"{here} has no place in the house yet"
        for module in imports(file):
            there = room(module)
            if there in ROOMS:
                assert ROOMS.index(there) <= ROOMS.index(here), f"{file.name} imports upward: {module}"


def runtime_imports(node):
    """What a file imports when it is imported or later, inside functions; not what only the type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from runtime_imports(child)


def test_imports_form_no_circle():
    """Nor inside a package, where the order of the packages says nothing."""
    names = {".".join(("i2i_bridge", *file.relative_to(PACKAGE).with_suffix("").parts)): file for file in sources()}
    graph = {name: {*runtime_imports(ast.parse(file.read_text(encoding="utf-8")))} for name, file in names.items()}
    graphlib.TopologicalSorter({name: found & names.keys() for name, found in graph.items()}).prepare()


def test_no_module_imports_a_private_name_of_another():
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "i2i_bridge":
                private = [alias.name for alias in node.names if alias.name.startswith("_") and alias.name[:2] != "__"]
                assert not private, f"{file} imports {private} from {node.module}"


def test_heavy_libraries_stay_in_their_rooms():
    for file in sources():
        name = str(file.relative_to(PACKAGE))
        for module in imports(file):
            allowed = ONLY_IN.get(module.split(".")[0])
            assert allowed is None or name in allowed, f"{name} imports {module}"


FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.execvp", "pty.spawn",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load",
    "joblib.load", "cloudpickle.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load",
    "torch.package.PackageImporter", "np.loads", "pd.read_pickle", "tempfile.mktemp", "urllib.request.urlopen",
    "load_state_dict_from_url",
}  # fmt: skip
"""Calls that run, or may run, what a file holds."""


def dangers(tree, name):
    """What a file's code calls that nothing here may call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.hub"):
            yield "torch.hub"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"import {module}" for module in modules if module.split(".")[0] in DANGEROUS_MODULES)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in FORBIDDEN or called.endswith((".extractall", ".load_state_dict_from_url")):
            yield called
        if keywords.get("shell", "False") != "False":
            yield "shell=True"
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            yield "np.load without allow_pickle=False"
        if called == "torch.load" and (name != "pt_reader.py" or keywords.get("weights_only") != "True"):
            yield "torch.load"
        # A name from a file must never become an import: only the registry's own homes, the tables of public names in
        # a package's __init__, and --plugin FILE.py.
        allowed = ("registry.py", "__init__.py", "lazy.py")
        if called.startswith("importlib.") and "import_module" in called and name not in allowed:
            yield called


DANGEROUS_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "pty", "code", "runpy"}


def test_nothing_dangerous_is_called():
    """No pickle, eval, shell, extractall, torch.hub; torch.load only with weights_only, in the one file of its own."""
    for file in sources():
        found = list(dangers(ast.parse(file.read_text(encoding="utf-8")), file.name))
        assert not found, f"{file}: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')", "exec('1')", "pickle.load(f)", "import pickle", "from yaml import load", "yaml.load(f)",
        "subprocess.run('ls', shell=True)", "subprocess.run('ls', shell=yes)", "archive.extractall()",
        "np.load(f, allow_pickle=True)", "np.load(f)", "torch.load(f)", "torch.load(f, weights_only=True)",
        "torch.hub.load('a', 'b')", "torch.hub.load_state_dict_from_url(u)", "importlib.import_module(name)",
        "os.system('ls')", "torch.jit.load(f)",
    ],
)  # fmt: skip
def test_the_search_for_dangers_finds_them(code):
    assert list(dangers(ast.parse(code), "some.py"))


def changes(tree):
    """What a file's code calls that deletes or renames files."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called, name = ast.unparse(node.func), node.func.attr
            one_word = len(node.args) == 1 and not node.keywords
            if name in ("unlink", "rmdir", "rmtree", "removedirs", "renames") or called in ("os.remove", "shutil.move"):
                yield called
            # A path's, of one word; that of a text has two, that of a dataclass keywords.
            if name in ("rename", "replace") and (one_word or called.startswith("os.")):
                yield called


def test_everything_is_deleted_and_renamed_in_one_place():
    """In storage/files.py, where no link is followed; kills: deleted-elsewhere."""
    for file in sources():
        found = list(changes(ast.parse(file.read_text(encoding="utf-8"))))
        assert bool(found) == (file == PACKAGE / "storage/files.py"), f"{file}: {found}"


@pytest.mark.parametrize(
    "code",
    ["os.remove(p)", "p.unlink()", "shutil.rmtree(p)", "a.rename(b)", "a.replace(b)", "os.replace(a, b)", "p.rmdir()"],
)
def test_the_search_for_deletions_finds_them(code):
    assert list(changes(ast.parse(code)))


def test_data_folders_hold_data_only():
    for folder in ("datasets", "recipes"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        assert files and all(path.suffix == ".toml" for path in files)
    assert not (ROOT / "tests" / "__init__.py").exists()


def fresh(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()


HEAVY = [
    "torch", "torchvision", "kornia", "albumentations", "cv2", "lpips", "torchmetrics", "torch_fidelity", "accelerate",
    "matplotlib", "scipy", "lmdb", "datasets", "numpy", "PIL",
]  # fmt: skip
"""What takes tenths of a second and more to import."""


def test_import_is_light():
    """`import i2i_bridge` imports none of its modules.

    Loading a run and writing parts needs no library but torch, numpy and PIL; reading recipes and data, training and
    measuring need three more.
    """
    assert fresh("import sys, i2i_bridge; print([m for m in sys.modules if m.startswith('i2i_bridge')])") == (
        "['i2i_bridge']"
    )
    code = """
import sys, i2i_bridge
heavy, light = set({heavy}), {{"torch", "numpy", "PIL"}}
later = "Recipe check_dataset compare evaluate export load_recipe method_preset restore_files train tune".split()
later += ["push_to_hub", "save_pretrained"]
for name in [*(name for name in i2i_bridge.__all__ if name not in later), "", *later]:
    if name:
        getattr(i2i_bridge, name)
        print([name, *found] if (found := sorted((heavy - light) & set(sys.modules))) else "", end="")
    else:
        light |= {{"cv2", "rich", "pydantic"}}
"""
    assert fresh(code.format(heavy=[*HEAVY, "rich", "typer", "pydantic"])) == ""


COMMANDS = """
--help
train --help
list
list datasets
list protocols
list methods
list degradations
list networks
list metrics
show demo/deblur
show demo/deblur --all
show train
--version
show held-out
show jpeg
show unet
show kid-resnet50
show 2m-sde
weights list
show nothere
list nothere
trian demo/deblur
train demo/debur
train demo/deblur --wat
train demo/deblur train.stepz=3
train demo/deblur train.lr=fast
train demo/deblur process.name=i2sbb
train demo/deblur degradation.sigmma=3
train demo/deblur evaluate.metrics=["psnrr"]
evaluate nofolder
restore nofolder in out
export nofolder out
share push nofolder a/b --licence mit
share save nofolder out --licence mit
share push nofolder noname
--offline share pull a/b
app nofolder
report nofolder
data add
data fetch nothere
"""


def test_lists_help_and_refusals_import_nothing_heavy():
    # kills: an import of torch at the top of a module that the command line, a list or a refusal needs
    code = f"""
import sys, os, io
from i2i_bridge.cli.command import main
for line in {COMMANDS.strip().splitlines()}:
    # A child for each: what one command imported must not count for the next.
    if not os.fork():
        sys.stdout = io.StringIO()
        try:
            main(line.split())
        except SystemExit:
            pass
        found = [module for module in {HEAVY} if module in sys.modules]
        if found:
            print(line, found, file=sys.__stdout__, flush=True)
        os._exit(0)
    os.wait()
"""
    assert fresh(code) == ""


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
