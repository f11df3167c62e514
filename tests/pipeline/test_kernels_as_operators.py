"""torch's own check of operators: outputs have the shapes that are said, and alias nothing that is not said."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.kernels import activation, group_norm, pooling, similarity, upsampling
from tests.pipeline.kernels import DEVICE, of_kernels

pytestmark = of_kernels
ROWS, DOUBLED = torch.rand(2, 8, 16, device=DEVICE), torch.rand(2, 64, 16, device=DEVICE)
CHANNELS, GROUPS = torch.rand(16, device=DEVICE), torch.rand(2, 1, device=DEVICE)
LINES, MOMENTS = torch.rand(2, 6, 4, device=DEVICE), torch.rand(2, 5, 4, 4, device=DEVICE)
TAPS = [0.25, 0.5, 0.25]


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (group_norm.normalise_rows, (ROWS, 1, CHANNELS, CHANNELS, 1e-5)),
        (group_norm.normalise_rows, (ROWS, 1, None, None, 1e-5)),
        (group_norm.normalise_rows_backward, (ROWS, ROWS, GROUPS, GROUPS, CHANNELS)),
        (activation._activate, (ROWS, CHANNELS, 0.01)),
        (activation._gradients, (ROWS, ROWS, 0.01)),
        (upsampling._join, (ROWS, DOUBLED[:, :, 3:], [2, 2, 2])),
        (upsampling._gradient, (DOUBLED, [2, 2, 2])),
        (pooling._pool, (DOUBLED, [4, 4, 4])),
        (pooling._gradient, (ROWS, torch.ones_like(ROWS, dtype=torch.uint8), [4, 4, 4])),
        (similarity._blur_moments, (LINES, LINES, TAPS)),
        (similarity._moment_gradients, (MOMENTS, LINES, LINES, TAPS, True)),
        (similarity._moment_gradients, (MOMENTS, LINES, LINES, TAPS, False)),
        (similarity._correlate, (LINES, TAPS, 2)),
        (similarity._compare, (MOMENTS.flatten(2), 0.1, 0.2)),
        (similarity._comparison_gradient, (GROUPS.reshape(2, 1).expand(2, 2), MOMENTS.flatten(2), 0.1, 0.2)),
    ],
)
def test_operator(operator: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))  # type: ignore[arg-type]


def test_lines_may_be_more_than_a_grid_has_along_y() -> None:
    """CUDA allows 65,535 blocks along y and z: with a batch of 2,061 crops the loss has three times as many tiles."""
    from pipeline.kernels.programs.blur import _tile, _tile_lines

    lines, positions = 2061 * 5 * 6 * 54, 54
    (along_x, *along_y_and_z), (height, width) = _tile_lines(lines, positions)
    assert along_y_and_z == [1, 1]
    assert (along_x * height >= lines, width >= positions, along_x > 65_535) == (True, True, True)
    assert max(_tile(2061 * 5, 502, 502)[0][1:]) < 65_536
