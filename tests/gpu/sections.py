"""Benchmarks of GPUs, in the order in which they run; each in a process of its own."""

import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.distributed import FileStore  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from data_prep.lowdose.noise import LowDoseSimulator
from data_prep.progress import ignore_progress
from data_prep.settings import LowDoseSettings
from data_prep.split import Part, Segment
from data_prep.store import Pair
from jobs.stages.denoise import denoise_scan
from jobs.stages.denoise_outputs import OutputOptions
from pipeline.convolutions.machine import describe_machine
from pipeline.evaluate.denoisers import network_denoiser
from pipeline.evaluate.judgement import evaluate
from pipeline.inference.corrector import Corrector
from pipeline.inference.model_file import Model
from pipeline.inference.windows import plan_windows
from pipeline.losses import build_loss
from pipeline.settings.run import EvaluateSettings
from pipeline.training.arithmetic import operations_of
from pipeline.training.clock import StepClock
from pipeline.training.exchange import exchange_gradients
from pipeline.training.memory import predict
from pipeline.training.step import TrainingStep
from tests.data_prep.dicom_series import write_series
from tests.gpu.card import DRY, SIDE, SLICES, device, peak_bytes, seconds, synchronise
from tests.gpu.figures import Figure
from tests.gpu.steps import RATE, batches, build_network_of, build_plain_step, build_step, default_cell
from tests.pairs import write_toy_pair
from tests.scans import chest

_GIB = 2**30


def convolutions() -> Iterator[Figure]:
    """Choose the algorithms of the default training's convolutions; later sections find them in the cache."""
    print(", ".join(f"{name} {value}" for name, value in describe_machine(device()).items()))
    (first,) = seconds(lambda: build_network_of(default_cell()), repetitions=1)
    yield Figure("gpu-choose-again", first, "s")


def step() -> Iterator[Figure]:
    """A step of one sample with the composite loss, against the network written plainly in TF32."""
    yield from _compare_steps("gpu-step", 1)


def captured_step() -> Iterator[Figure]:
    """The same, the network's passes in CUDA graphs."""
    yield from _compare_steps("gpu-step-captured", 1, cuda_graphs=True)


def step_of_four() -> Iterator[Figure]:
    """A step of four samples."""
    yield from _compare_steps("gpu-step-4", 4)


def _compare_steps(name: str, batch: int, **training: Any) -> Iterator[Figure]:
    settings = default_cell(batch=batch, **training)
    ours, plain = seconds(build_step(settings), build_plain_step(batch))
    yield Figure(name, plain / ours, "x", "the plain network in TF32")
    yield Figure(f"{name}-ms", 1e3 * ours / batch, "ms a sample")
    yield Figure(f"{name}-plain-ms", 1e3 * plain / batch, "ms a sample")
    yield Figure(f"{name}-rate", operations_of(settings).batch / ours / 1e12, "TFLOP/s")


def profile_step() -> Iterator[Figure]:
    """Kernels of a step, by their time; the time of all against that of the step says what the host takes."""
    take = build_step(default_cell())
    (step_seconds,) = seconds(take)
    activity = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiled:
        take()
        synchronise()
    device_type = DeviceType.CUDA if torch.cuda.is_available() else DeviceType.CPU  # not the calls that launch kernels
    events = [event for event in profiled.key_averages() if event.device_type == device_type]
    kernels = sorted(events, key=lambda event: -event.self_device_time_total)
    for event in kernels[:30]:
        print(f"{event.self_device_time_total / 1e3:9.3f} ms x{event.count:<5d} {event.key[:110]}")
    total = sum(event.self_device_time_total for event in kernels) / 1e6
    yield Figure("gpu-step-kernels", 1e3 * total, "ms")
    yield Figure("gpu-step-launches", sum(event.count for event in kernels), "kernels")
    yield Figure("gpu-step-idle", 1e3 * (step_seconds - total), "ms")


def peaks() -> Iterator[Figure]:
    """Peak of a step's memory by the defaults and with activation checkpointing."""
    for name, checkpointing in (("gpu-step-peak", False), ("gpu-step-peak-checkpointed", True)):
        settings = default_cell(activation_checkpointing=checkpointing)
        yield Figure(name, peak_bytes(partial(build_step, settings)) / _GIB, "GiB")


def memory() -> Iterator[Figure]:
    """Largest error of the predicted peak of a step."""
    errors = []
    for precision, checkpointing, batch in (
        ("bfloat16", False, 1), ("bfloat16", True, 1), ("float32", False, 1), ("bfloat16", False, 4),
        ("bfloat16", True, 8),
    ):  # fmt: skip
        settings = default_cell(precision=precision, activation_checkpointing=checkpointing, batch=batch)
        predicted = predict(settings, gpu=True).step
        measured = peak_bytes(partial(build_step, settings)) or predicted
        errors.append(abs(predicted / measured - 1))
        print(f"{precision}, checkpointing {checkpointing}, batch {batch}: "
              f"predicted {predicted / _GIB:.2f} GiB, measured {measured / _GIB:.2f}")  # fmt: skip
    yield Figure("gpu-memory", 100 * max(errors), "%", "max_memory_allocated")


def composite_loss() -> Iterator[Figure]:
    """The composite loss with its gradient, less the mean squared error."""
    output, target = (torch.randn(1, 1, SLICES, SIDE, SIDE, device=device()) for _ in range(2))
    output.requires_grad_()
    criteria = [build_loss(default_cell(ms_ssim_weight=weight).training) for weight in (0.1, 0.0)]
    composite, plain = seconds(*(lambda loss=criterion: loss(output, target).backward() for criterion in criteria))
    yield Figure("gpu-loss", 1e3 * (composite - plain), "ms")


def denoise() -> Iterator[Figure]:
    """A series of 140 slices from DICOM to DICOM."""
    slices = 20 if DRY else 140
    model = Model(build_network_of(default_cell()).eval(), default_cell(), {}, "digest")
    with tempfile.TemporaryDirectory() as folder:
        write_series(Path(folder) / "series", chest(slices, SIDE), (1.0, 0.7, 0.7))

        def call() -> None:
            with tempfile.TemporaryDirectory() as target:
                options = OutputOptions(Path(target), "dicom")
                denoise_scan(Path(folder) / "series", model, options, device(), ignore_progress)

        (elapsed,) = seconds(call, repetitions=1)
    yield Figure("gpu-denoise", elapsed, "s", f"{slices} slices")


def float16() -> Iterator[Figure]:
    """Difference of the correction in float16 from that in float32, relative to its size."""
    settings = default_cell()
    network = build_network_of(settings).eval()
    nn.init.normal_(network.get_parameter("up.3.reduce.conv.weight"), std=0.02)
    hu = chest(SLICES, SIDE).astype(np.float32)
    quick = Corrector(copy.deepcopy(network), settings, device())(hu)
    exact = Corrector(copy.deepcopy(network), settings, torch.device("cpu"))(hu)
    yield Figure("gpu-float16", 100 * float(np.linalg.norm(quick - exact) / np.linalg.norm(exact)), "%", "float32")


def nccl() -> Iterator[Figure]:
    """A step whose gradients are exchanged in a group of one rank, against a step without a group."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's name need not resolve
    torch.backends.cudnn.deterministic = True  # as in a training: gradients are compared to the bit
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if device().type == "cuda" else "gloo"
        dist.init_process_group(backend, store=FileStore(f"{folder}/store", 1), rank=0, world_size=1)
        steps = {False: _exchanging_step(exchanges=False), True: _exchanging_step(exchanges=True)}
        gradients = {exchanges: _gradients(step) for exchanges, step in steps.items()}
        shared, alone = seconds(*(lambda step=steps[key]: step.take(batches(), RATE) for key in (True, False)))
        dist.destroy_process_group()
    yield Figure("gpu-nccl", 100 * (shared / alone - 1), "%", "no group")
    yield Figure("gpu-nccl-gradients", float((gradients[True] - gradients[False]).abs().max()), "", "no group")


def _exchanging_step(*, exchanges: bool) -> TrainingStep:
    settings, clock = default_cell(), StepClock(device())
    network = build_network_of(settings)
    shared = exchange_gradients(network, settings.training, device(), clock) if exchanges else network
    low_precision = settings.training.lowers_precision(gpu=device().type == "cuda")
    return TrainingStep(settings, network, shared, clock, low_precision=low_precision)


def _gradients(step: TrainingStep) -> torch.Tensor:
    step.take(batches(), RATE)
    return torch.cat([p.grad.flatten() for p in step.model.parameters() if p.grad is not None])


def judging() -> Iterator[Figure]:
    """A network judged on scans as the stage ``evaluate`` does it, against the time of the network alone."""
    slices, scans = (20, 2) if DRY else (140, 4)
    settings = EvaluateSettings(threads=1 if DRY else None)  # the rest of the machine may be at work
    correct = Corrector(build_network_of(default_cell()).eval(), default_cell(), device())

    def denoise_scans() -> None:
        for _ in range(scans):
            denoiser(low, None)

    def run_network() -> None:
        for window in scans * plan_windows(correct.cell, slices):
            correct(low[window.slices].astype(np.float32))

    with tempfile.TemporaryDirectory() as folder:
        data = write_toy_pair(Path(folder) / "data", "0", slices, SIDE)
        for number in range(1, scans):
            shutil.copytree(data / "toy" / "0.zarr", data / "toy" / f"{number}.zarr")
        low = Pair(data / "toy" / "0.zarr").read("low_dose")
        parts: dict[Part, list[Segment]] = {"test": [Segment("toy", str(n), 0, slices) for n in range(scans)]}
        denoiser = network_denoiser(correct)
        judged, denoised, network = seconds(
            lambda: evaluate(denoiser, data, parts, settings, Path(folder) / "judged", ignore_progress),
            denoise_scans, run_network, repetitions=1,
        )  # fmt: skip
    yield Figure("gpu-judge", judged / network, "x", f"the network alone, {scans} scans of {slices} slices")
    yield Figure("gpu-judge-denoise", denoised / network, "x", "the same, scans denoised and not judged")
    yield Figure("gpu-judge-seconds", judged / scans, "s a scan")


def low_dose() -> Iterator[Figure]:
    """Low dose of slices of 512 x 512."""
    settings = LowDoseSettings()
    hu = chest(8 if DRY else 64, SIDE)
    simulator = LowDoseSimulator(settings, SIDE, 0.7, str(device()))
    (elapsed,) = seconds(lambda: simulator.low_dose(hu, "scan", 0), repetitions=1)
    yield Figure("gpu-low-dose", len(hu) / elapsed, "slices/s")


SECTIONS: Mapping[str, tuple[Callable[[], Iterator[Figure]], float]] = {
    "convolutions": (convolutions, 120),
    "step": (step, 90),
    "captured-step": (captured_step, 60),
    "profile": (profile_step, 30),
    "step-of-four": (step_of_four, 40),
    "loss": (composite_loss, 20),
    "peaks": (peaks, 30),
    "memory": (memory, 120),
    "nccl": (nccl, 30),
    "float16": (float16, 40),
    "denoise": (denoise, 60),
    "judging": (judging, 90),
    "low-dose": (low_dose, 30),
}
"""By name: the benchmark, and the seconds after which it is stopped; the first step compiles some eighty kernels."""
