"""Errors: their place, their code and what survives of both."""

import pickle

import pytest

from i2i_bridge.errors import UserError, located, plural


def test_a_place_is_put_before_the_message_once():
    # kills: place-named-twice
    with pytest.raises(UserError) as caught, located("run"), located("a/b.png"), located("a/b.png"):
        raise UserError("no pixels")
    assert str(caught.value) == "run: a/b.png: no pixels"
    with pytest.raises(UserError) as caught, located("a/b.png"):
        raise UserError("the file a/b.png is empty")
    assert str(caught.value) == "the file a/b.png is empty"
    with pytest.raises(UserError) as caught, located("3"):  # the key of an item
        raise UserError("a tensor of shape (3, 4) at 13: an image is (C, H, W)")
    assert str(caught.value) == "3: a tensor of shape (3, 4) at 13: an image is (C, H, W)"


def test_code_commands_and_cause_stay_those_of_the_error():
    # kills: code-lost-with-the-place
    cause = OSError(5, "Input/output error")
    with pytest.raises(UserError) as caught, located("a.png"):
        raise UserError("not readable", 74, command="cp a b", ways=["rm a.png"]) from cause
    error = caught.value
    assert (error.code, error.ways, error.__cause__) == (74, ("rm a.png",), cause)
    assert str(error) == "a.png: not readable: cp a b"
    again = pickle.loads(pickle.dumps(error))  # as from a worker process
    assert (str(again), again.code, again.ways) == (str(error), error.code, error.ways)

    with pytest.raises(UserError) as caught, located("a.png"):
        raise UserError("not readable " + "x " * 400, command="cp a b")
    assert str(caught.value).endswith("x: cp a b") and len(str(caught.value)) < 320


def test_other_exceptions_are_converted_where_asked():
    with pytest.raises(UserError) as caught, located("a.csv", "cannot be read", OSError):
        raise PermissionError(13, "Permission denied", "a.csv")
    assert str(caught.value) == "a.csv: cannot be read (Permission denied)" and caught.value.code == 2
    with pytest.raises(UserError, match=r"^key: too large$"), located("key", errors=(ValueError, KeyError)):
        raise ValueError("too large")
    with pytest.raises(ValueError, match="too large"), located("key", "cannot be read", OSError):
        raise ValueError("too large")


def test_one_is_singular():
    # kills: one-images
    assert [plural(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [plural(n, "file is", "files are") for n in (1, 2)] == ["1 file is", "2 files are"]
