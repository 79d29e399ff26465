"""The internet: only by `data fetch`, `weights fetch` and `download = true`, and never under --offline."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_fetching import BODY, place, png, site, toy  # noqa: F401
from test_unpacking import tar

from i2i_bridge.cli.command import main
from i2i_bridge.data.cards import open_source
from i2i_bridge.errors import UserError
from i2i_bridge.storage import internet
from i2i_bridge.storage.download import Download, download

ROOT = Path(__file__).parents[2]
FILES = {"toy/train/1.png": b"x"}


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Restore the environment that --offline changes for the rest of the process."""
    for name in (internet.VARIABLE, *internet.LIBRARIES):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize("at", range(4))
def test_offline_anywhere_on_the_command_line_refuses_in_one_line(site, place, at, capsys):  # noqa: F811
    # kills: offline-not-heard
    toy(site, tar(place / "archive", FILES).read_bytes())
    words = ["data", "fetch", "toy", "--yes"]
    words.insert(at, "--offline")
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == 2 and site.seen == [] and said.out == ""
    assert said.err == "error: fetching toy needs the internet, which --offline (or I2I_OFFLINE=1) forbids\n"


def test_the_variable_does_the_same_for_weights_and_from_python(site, place, capsys, monkeypatch):  # noqa: F811
    # kills: offline-not-heard
    monkeypatch.setenv("I2I_OFFLINE", "1")
    with pytest.raises(SystemExit) as ended:
        main(["weights", "fetch", "alexnet", "--folder", str(place / "w"), "--yes"])
    assert ended.value.code == 2 and "fetching alexnet needs the internet" in capsys.readouterr().err
    url = site.put("/a", BODY)
    with pytest.raises(UserError, match="needs the internet"):
        download(Download(url=url), place / "a")
    assert site.seen == []
    for value in ("", "0", "false", "no"):
        monkeypatch.setenv("I2I_OFFLINE", value)
        assert not internet.is_offline()
    download(Download(url=url), place / "a")
    monkeypatch.setenv("I2I_OFFLINE", "yes")
    assert len(download(Download(url=url), place / "a")) == 64, "what is there is used"


def test_a_torchvision_dataset_is_not_fetched(tmp_path, monkeypatch):
    # kills: torchvision-fetches-offline
    import torchvision

    asked = []
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", lambda dataset: asked.append(dataset))
    monkeypatch.setenv("I2I_OFFLINE", "1")
    table = {"name": "torchvision", "dataset": "CIFAR10", "root": str(tmp_path), "download": True}
    with pytest.raises(UserError, match=r"--offline .* forbids to fetch it"):
        open_source(table, "train")
    assert not asked and not any(tmp_path.iterdir())


def apart(code, **environment):
    given = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given, check=True).stdout


def test_the_hugging_face_library_hears_of_it(tmp_path):
    pytest.importorskip("datasets")
    code = """
from i2i_bridge.data.sources.huggingface import HubImages
from i2i_bridge.errors import UserError
try:
    HubImages("train", hub="some/name", download=True)
except UserError as error:
    print(error)
import datasets, os
print(datasets.config.HF_HUB_OFFLINE, os.environ["HF_DATASETS_OFFLINE"])
"""
    said = apart(code, I2I_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "hub 'some/name'" in said and "--offline" in said and said.splitlines()[-1] == "True 1"


def test_no_library_reaches_another_machine(monkeypatch):
    """Name look-ups and connections of any plug-in or library fail, except those to this machine."""
    # kills: offline-is-a-wish
    internet.go_offline()
    assert all(os.environ[name] == "1" for name in internet.LIBRARIES)
    for reach in (
        lambda: socket.create_connection(("192.0.2.1", 80), 0.01),
        lambda: socket.getaddrinfo("example.com", 80),
        lambda: socket.gethostbyname("example.com"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    ):
        with pytest.raises(OSError, match="the internet is not used here"):
            reach()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        assert socket.getaddrinfo("localhost", 80)
    left, right = socket.socketpair()
    left.send(b"x")
    assert right.recv(1) == b"x"
    monkeypatch.setenv("I2I_OFFLINE", "0")
    with internet.closed(), pytest.raises(OSError, match="the internet is not used here"):
        socket.getaddrinfo("example.com", 80)


def test_a_host_to_listen_on_is_local_inside_its_block():
    # kills: listening-is-refused
    sys.audit("socket.connect", None, ("192.0.2.1", 80))  # allowed
    with internet.closed(["192.0.2.1", "Host.invalid"]), internet.closed():
        for name in ("192.0.2.1", "host.invalid", "127.0.0.1"):  # libraries write names in lower case
            sys.audit("socket.connect", None, (name, 80))
        with pytest.raises(OSError, match="the internet is not used here"):
            sys.audit("socket.connect", None, ("192.0.2.2", 80))
    with internet.closed(), pytest.raises(OSError, match="the internet is not used here"):
        sys.audit("socket.connect", None, ("192.0.2.1", 80))
    assert "127.0.0.1" in internet.addresses("localhost") and "192.0.2.1" in internet.addresses("192.0.2.1")


def test_help_and_pages_say_which_verbs_use_it():
    for file in ("README.md", "docs/your-own-data.md", "docs/security.md"):
        text = " ".join((ROOT / file).read_text(encoding="utf-8").split())
        assert "weights fetch" in text and "download = true" in text and "--offline" in text, file
        assert "uses the net." not in text, file
