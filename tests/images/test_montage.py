import numpy as np
import pytest
import torch

from i2i_bridge.images.montage import HEADER_HEIGHT, montage, scaled_down, states_shown

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


def test_heads_of_narrow_columns_do_not_run_together():
    """At 64 pixels: whole words on lines of their own, and white between two heads; nothing is cut at the edge."""
    # kills: heads-cut-at-the-edge
    words = ["degraded input", "bridge, NFE 1", "palette (other-run), NFE 20", "clean"]
    images = [[torch.zeros(3, 64, 64)] * len(words)]
    sheet = montage(images, words)
    height = sheet.shape[0] - 64
    assert HEADER_HEIGHT < height < 5 * HEADER_HEIGHT and np.array_equal(sheet[height:], montage(images))
    for i in range(len(words)):
        column = sheet[:height, 66 * i : 66 * i + 64]
        assert column.min() < 80 and column[:, -2:].min() == 255
    # Two lines, and more ink than of the first word alone: the second word is there.
    one, two = montage([[images[0][0]]], ["degraded"]), montage([[images[0][0]]], ["degraded input"])
    assert two.shape[0] > one.shape[0] and (two < 80).sum() > 1.2 * (one < 80).sum()
    long = montage([[images[0][0]]], ["incomprehensibilities"])
    assert long[:22, -2:].min() == 255 and long.shape[0] == 64 + HEADER_HEIGHT


@pytest.mark.parametrize(("calls", "columns"), [(1, 2), (3, 4), (20, 8), (1000, 8)])
def test_states_shown_begin_at_x_1_and_end_restored(calls, columns):
    # kills: last-state-not-shown
    live = 0

    class State:
        def __init__(self, number):
            nonlocal live
            live += 1
            self.number = number

        def __del__(self):
            nonlocal live
            live -= 1

    most = 0

    def walk():
        nonlocal most
        for i in range(1, calls + 1):
            most = max(most, live)
            yield State(i)

    shown, words = states_shown(State(0), walk())
    numbers = [state.number for state in shown]
    assert numbers[0] == 0 and numbers[-1] == calls and len(numbers) == columns
    assert words == ["X_1", *(f"step {n}" for n in numbers[1:])]
    assert np.ptp(np.diff(numbers)) <= max(1, calls / 10) and most < 40


def test_a_row_is_scaled_down_to_a_width_and_a_height():
    # kills: tall-images-left-tall
    for count, size, wanted in ((1, (100, 20), (50, 10)), (5, (20, 20), (10, 10)), (2, (25, 25), (25, 25))):
        row = scaled_down([torch.zeros(3, *size)] * count, 50)
        assert len(row) == count and all(image.shape == (3, *wanted) for image in row)


def test_a_column_is_as_wide_as_its_widest_image_and_its_word_stands_there():
    """Of rows (40, 80) and (60, 20) wide: columns of 60 and 80, the second one and its word from 62 on."""
    # kills: widths-of-the-first-row, words-over-other-columns, second-of-two-channels-shown
    black, two = torch.full((3, 10, 60), -1.0), torch.stack([torch.full((10, 40), -1.0), torch.ones(10, 40)])
    rows = [[two, torch.zeros(3, 10, 80)], [black, torch.zeros(3, 10, 20)]]
    sheet = montage(rows, ["", "word"])
    assert sheet.shape == (HEADER_HEIGHT + 22, 60 + 2 + 80, 3)
    assert (sheet[HEADER_HEIGHT : HEADER_HEIGHT + 10, :40] == 0).all()  # of two channels the first is shown
    assert (sheet[HEADER_HEIGHT + 12 :, :60] == 0).all() and (sheet[HEADER_HEIGHT + 12 :, 62:82] == 128).all()
    dark = np.flatnonzero((sheet[:HEADER_HEIGHT] < 128).any((0, 2)))
    assert 62 <= dark.min() < 70
