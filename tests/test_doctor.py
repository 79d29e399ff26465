"""The doctor's findings."""

import pytest

from i2i_bridge import doctor


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
