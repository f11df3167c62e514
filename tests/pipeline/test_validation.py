"""The numbers of a validation during a training."""

import pytest
import torch

from pipeline.losses import build_loss
from pipeline.models import build_network
from pipeline.training.clock import StepClock
from pipeline.training.step import TrainingStep
from tests.pipeline.cells import cell


def test_validation_in_bfloat16_rounds_the_output_and_no_error() -> None:
    settings = cell(2, precision="bfloat16", norm="group", residual=False, ms_ssim_weight=0.5, scaling="unit")
    torch.manual_seed(0)
    network = build_network(settings).eval()
    step = TrainingStep(settings, network, network, StepClock(torch.device("cpu")), low_precision=True)
    low, full = torch.rand(2, 2, 64, 64)
    errors = step.judge(low, full, torch.tensor([[-1024.0, 4096.0], [-1000.0, 4000.0]]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = network(low[:, None])
    assert output.dtype == torch.bfloat16
    assert errors["loss"] == float(build_loss(settings.training)(output.float(), full[:, None]))
    squares = (4000 * (output[:, 0].double() - full)).square().sum()
    assert errors["squares"] == pytest.approx(float(squares), rel=1e-9)
