"""The mutants are run by `make mutants`; here only that each still applies and that a test names it."""

from pathlib import Path

from mutants import MUTANTS, ROOT, planted


def test_every_mutant_applies_and_is_named_by_a_test():
    tests = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")}
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        text = (ROOT / "i2i_bridge" / mutant.file).read_text(encoding="utf-8")
        assert planted(mutant, text) != text
        named = [line for test in mutant.tests.split() for line in tests[test].splitlines() if "kills:" in line]
        assert any(mutant.name in line for line in named), f"{mutant.name} is named by no test of {mutant.tests}"
