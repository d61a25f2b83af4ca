"""Figures of signals and of volumes: what is kept, and where the slices are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_extremal import visualization as vis
from figures import DELETE, drawn, make_images, make_result, picture, titles

LENGTH, SIZES = 50, (6, 20, 24)


def of_signals(count=1, **how):
    """The mask keeps positions 10 to 19, which are enough."""
    masks = torch.zeros(count, 1, 1, LENGTH)
    masks[..., 10:20] = 1
    return make_result(masks, [0.2], [11.0], [3.0], **how)


def of_volumes(**how):
    """The mask keeps a block around (4, 6, 18)."""
    masks = torch.zeros(1, 1, 1, *SIZES)
    masks[..., 3:6, 4:9, 16:21] = 1
    return make_result(masks, [float(masks.mean())], [11.0], [3.0], **how)


def test_the_kept_part_of_a_signal_is_coloured_and_shaded():
    signals = torch.randn(2, 3, LENGTH)
    figure = drawn(vis.show_signal(of_signals(2), signals, 1, title="Ba$$in"))
    *lines, mask = figure.axes
    assert len(lines) == 3
    assert figure.get_suptitle() == "Ba$$in"
    assert lines[0].get_title() == "a* = 20 %\nscore 11.0, clean 10.0"
    for ax, values in zip(lines, signals[1].numpy()):
        whole, kept = (line.get_ydata() for line in ax.lines)
        np.testing.assert_allclose(whole, values)
        assert np.flatnonzero(~np.isnan(kept)).tolist() == [*range(10, 20)]
        np.testing.assert_allclose(kept[10:20], values[10:20])
        (shade,) = ax.patches
        assert (shade.get_x(), shade.get_width()) == (9.5, 10)
    assert "game: keep the score (preserve)" in mask.get_xlabel()


def test_channels_that_are_not_drawn_are_told():
    figure = drawn(vis.show_signal(of_signals(), torch.randn(1, 20, LENGTH)))
    assert len(figure.axes) == 13
    assert figure.axes[-1].get_xlabel().endswith("channels 0 to 11 of 20")


def test_slices_of_a_volume_go_through_the_middle_of_the_mask():
    volumes = torch.rand(1, 1, *SIZES)
    figure = drawn(vis.show_volume(of_volumes(), volumes))
    named = [title for title in titles(figure) if title]
    assert named == ["first axis: 4 of 0 to 5", "second axis: 6 of 0 to 19", "third axis: 18 of 0 to 23"]
    at = [(4, slice(None), slice(None)), (slice(None), 6, slice(None)), (slice(None), slice(None), 18)]
    kept = of_volumes().masks[0, 0, 0].numpy() > 0
    for index, above, below in zip(at, figure.axes[:3], figure.axes[3:]):
        expected = volumes[0, 0].numpy()[index]
        np.testing.assert_allclose(picture(above)[..., 0], expected, rtol=1e-6)
        np.testing.assert_allclose(picture(below)[kept[index]][:, 0], expected[kept[index]], rtol=1e-6)
        assert (picture(below)[~kept[index]] < 0.3).all()
    assert "a* = 2.6 %" in figure.get_supxlabel()


def test_the_middle_of_an_empty_mask_is_that_of_the_volume():
    figure = drawn(vis.show_volume(of_volumes(perturbed=12.0), torch.rand(1, 3, *SIZES)))
    assert titles(figure)[0].startswith("first axis: 2 of")
    assert "a* = 0 %, nothing needed" in figure.get_supxlabel()


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: vis.show_signal(of_volumes(), torch.rand(1, 1, 9)), ValueError, r"found must hold masks of signals"),
        (
            lambda: vis.show_volume(of_signals(), torch.rand(1, 1, *SIZES)),
            ValueError,
            "found must hold masks of volumes",
        ),
        (lambda: vis.show_signal(of_signals(), torch.rand(1, 1, 9)), ValueError, r"signals must be \(1, C, 50\), got"),
        (lambda: vis.show_signal(of_signals(), torch.rand(2, 1, 50)), ValueError, r"signals must be \(1, C, 50\), got"),
        (lambda: vis.show_signal(of_signals(), torch.rand(50)), ValueError, r"signals must be \(N, C, L\), got"),
        (lambda: vis.show_signal(of_signals(), 3), TypeError, "signals must be a tensor"),
        (lambda: vis.show_signal(of_signals(), torch.rand(1, 1, 50), 1), IndexError, "index must be below 1"),
        (
            lambda: vis.show_volume(of_volumes(), 2 + torch.rand(1, 1, *SIZES)),
            ValueError,
            r"volumes must be in \[0, 1\]",
        ),
        (lambda: vis.show_mask(of_signals(), make_images(1)), ValueError, "show_signal draws those of signals"),
        (lambda: vis.show_mask(of_volumes(), make_images(1)), ValueError, "show_volume draws those of volumes"),
    ],
)
def test_wrong_arguments_are_told(draw, error, message):
    with pytest.raises(error, match=message):
        draw()


def test_the_game_is_told():
    figure = vis.show_signal(of_signals(game=DELETE, threshold=-4.0), torch.randn(1, 1, LENGTH))
    assert "game: lose the score (delete)\nbright is what is removed" in figure.axes[-1].get_xlabel()
