"""The doctor's findings."""

import pytest

from i2i_bridge.cli import doctor


def test_an_ill_matched_torchvision_is_named(monkeypatch):
    """Its operators are missing where it was built for another torch; lpips cannot be imported then."""
    # kills: a doctor that only compares version numbers
    torchvision = pytest.importorskip("torchvision")

    def nms(*arguments):
        raise RuntimeError("operator torchvision::nms does not exist")

    assert not any("do not fit" in problem for problem in doctor.examine()[1])
    monkeypatch.setattr(torchvision.ops, "nms", nms)
    (problem,) = (problem for problem in doctor.examine()[1] if "do not fit" in problem)
    assert "nms does not exist" in problem and "pip install" in problem and "\n" not in problem


def test_missing_packages_little_disk_and_a_wrong_folder_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1e9})())
    monkeypatch.setenv("I2I_WEIGHTS_DIR", str(tmp_path / "none"))
    facts, problems = doctor.examine()
    assert facts["no-such-package"] == "missing" and facts["free disk here"] == "1.0 GB"
    text = "\n".join(problems)
    assert "pip install no-such-package" in text and "less than 2 GB" in text and "none: no such folder" in text


def test_what_is_risky_is_named(monkeypatch, tmp_path):
    """Two OpenCVs, versions with known holes, a cache that cannot be written."""
    versions = {package: "99.0" for package in doctor.PACKAGES} | {"torch": "2.9.1+cu130", "pillow": "11.0"}
    versions |= {"opencv-python": "4.9", "opencv-python-headless": "4.9"}

    def version(package):
        if package not in versions:
            raise doctor.importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("I2I_CACHE_DIR", "/proc/none")
    text = "\n".join(doctor.examine()[1])
    assert "opencv-python and opencv-python-headless are both installed" in text
    assert "torch 2.9.1+cu130 is older than 2.10" in text and "CVE-2026-24747" in text
    assert "pillow 11.0 is older than 12.3" in text and "the cache cannot be written" in text
    del versions["opencv-python"]
    versions |= {"torch": "2.10.0", "pillow": "12.3.0"}
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "cache"))
    text = "\n".join(doctor.examine()[1])
    assert not any(word in text for word in ("opencv", "older than", "cache"))


def test_augmentation_that_repeats_is_named(monkeypatch):
    from i2i_bridge.data.transforms import Geometry

    assert not any("albumentations" in problem for problem in doctor.examine()[1])
    whole = Geometry.__call__
    monkeypatch.setattr(Geometry, "__call__", lambda self, images, seed: whole(self, images, 7))
    assert any("augmentation repeats" in problem for problem in doctor.examine()[1])
    monkeypatch.setattr(Geometry, "__call__", lambda self, images, seed: {}["x"])
    assert any("albumentations does not work" in problem for problem in doctor.examine()[1])


def test_the_start_method(monkeypatch):
    monkeypatch.setattr(doctor.sys, "platform", "darwin")
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: "fork")
    facts, problems = doctor.examine()
    assert facts["start method"] == "fork" and any("macOS" in problem for problem in problems)


def test_a_processor_without_vectors_is_named(monkeypatch):
    # kills: a network call of minutes that nobody explains
    import torch

    facts, problems = doctor.examine()
    assert torch.backends.cpu.get_cpu_capability() in facts["cpu"] and not any("vector" in line for line in problems)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    (problem,) = (line for line in doctor.examine()[1] if "vector" in line)
    assert "ATEN_CPU_CAPABILITY" in problem and "\n" not in problem
