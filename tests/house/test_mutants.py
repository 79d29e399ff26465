"""How a mutant is planted; that each still applies is seen by `make mutants`."""

import ast

import pytest
from mutants import Mutant, planted

CODE = "def f(a, b):\n    return g(a, b) + 1\n"
REFORMATTED = """
def f(
    a,
    b,
):
    return (
        g(
            a,  # first
            b,
        )
        + 1
    )
"""


def mutant(right, wrong):
    return Mutant("m", "some.py", right, wrong, "test_some.py")


@pytest.mark.parametrize("code", [CODE, REFORMATTED])
def test_a_place_is_found_however_the_code_is_laid_out(code):
    """kills: a mutant that a formatter loses"""
    changed = planted(mutant("g(a, b) + 1", "g(b, a) + 1"), code)
    assert ast.dump(ast.parse(changed)) == ast.dump(ast.parse(CODE.replace("g(a, b)", "g(b, a)")))


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("g(a, c)", "g(c, a)", "0 times"),
        ("(a, b)", "(b, a)", "2 times"),
        ("g(a, b) + 1", "g(a, b) +", "is no Python"),
        ("g(a, b) + 1", "g(a,b)+1", "is the same program"),
    ],
)
def test_what_is_no_mutant_is_refused(right, wrong, problem):
    with pytest.raises(SystemExit, match=problem):
        planted(mutant(right, wrong), CODE)
