import numpy as np
import pytest
import torch

from i2i_bridge.montage import HEADER_HEIGHT, montage

ROWS = [[torch.full((3, 2, 2), -1.0), torch.full((1, 2, 3), 1.0)], [torch.zeros(3, 4, 2)]]


def test_rows_and_columns_line_up():
    sheet = montage(ROWS, gap=1)
    assert sheet.shape == (2 + 1 + 4, 2 + 1 + 3, 3)
    assert sheet[0, 0].tolist() == [0, 0, 0] and sheet[3, 0, 0] in (127, 128) and sheet[2, 0, 0] == 255
    with pytest.raises(ValueError, match="no images"):
        montage([])


def test_a_word_stands_above_its_column_only():
    wide = [[torch.zeros(3, 4, 60), torch.zeros(3, 4, 60)]]
    plain, labelled = montage(wide), montage(wide, ["NFE 1", ""])
    assert np.array_equal(labelled[HEADER_HEIGHT:], plain)
    band = labelled[:HEADER_HEIGHT]
    assert band[:, :60].min() < 80 and band[:, 60:].min() == 255
    assert montage(ROWS, ["a very long word", "b"]).shape[1] == montage(ROWS).shape[1]
