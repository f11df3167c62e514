"""Compile kernels for GPUs on a machine without: ``python -m tests.pipeline.compiled_kernels``.

Every launch of a training step's kernels at 16 x 512 x 512 is compiled in place of being run. A line for each says the
registers of a thread, the bytes that it spills, the shared memory of a program, and the launch's pointers and numbers.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.kernels.programs import activation, blur, comparison, group_norm, pooling, upsampling

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"}
ARCHITECTURES = (80, 90)  # of A100 and H100
COUNTS = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")


def launch(kernel: Any, *arguments: Any, **options: Any) -> None:
    """Compile the kernel for the arguments of a launch, as Triton would on a GPU, and print what it needs."""
    signature, constants, attributes = dict[str, str](), dict[str, Any](), dict[tuple[int], list[list[Any]]]()
    for number, (parameter, argument) in enumerate(zip(kernel.params, arguments, strict=True)):
        if parameter.is_constexpr or argument is None or (type(argument) is int and argument == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", argument
            continue
        if isinstance(argument, Tensor):
            signature[parameter.name] = TYPES[argument.dtype]
        else:
            signature[parameter.name] = "i32" if isinstance(argument, int) else "fp32"
        if isinstance(argument, Tensor) or (isinstance(argument, int) and argument % 16 == 0):
            attributes[(number,)] = [["tt.divisibility", 16]]
    for architecture in ARCHITECTURES:
        source = ASTSource(kernel, signature, constants, attributes)
        target = GPUTarget("cuda", architecture, 32)
        compiled = triton.compile(source, target=target, options=options)
        registers, stack, _ = resources(compiled.asm["cubin"])
        row = {
            "kernel": f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}",
            "architecture": architecture,
        }
        row |= {"registers": registers, "spilled": stack, "shared": compiled.metadata.shared, **options}
        widest = max(map(int, re.findall(r"(?:ld|st)\.global[^;]*\.v(\d)", compiled.asm["ptx"])), default=1)
        print(
            json.dumps(row | {"widest": widest, **{name: str(value) for name, value in constants.items()}}), flush=True
        )


def resources(cubin: bytes) -> Sequence[int]:
    """Return the registers and bytes of stack of a thread, and the bytes of shared memory of a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        tool = f"{triton.__path__[0]}/backends/nvidia/bin/cuobjdump"
        command = [tool, "--dump-resource-usage", file.name]
        match = COUNTS.search(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert match is not None
    return [int(number) for number in match.groups()]


def compile_step(channels: Sequence[int], dtype: torch.dtype) -> None:
    """Compile what a training step launches, with layers of these numbers of channels."""
    for count in channels:
        x = torch.empty(1, 16 * 512 * 512, count, dtype=dtype)
        groups, scale = max(1, count // 16), torch.empty(count)
        _, mean, rate = group_norm.group_norm(x, groups, scale, scale, 1e-5)
        group_norm.group_norm_backward(x, x, mean, rate, scale)
        activation.activate(x, scale, 0.01)
        activation.activate_backward(x, x, 0.01)
    rows, sides = torch.empty(1, 8 * 256 * 256, 16, dtype=dtype), [8, 256, 256]
    skip = torch.empty(1, 16 * 512 * 512, 16, dtype=dtype)
    upsampling.double_backward(upsampling.double_and_join(rows, skip, sides)[:, :, :16], sides)
    pooled, positions = pooling.max_pool(rows, sides)
    pooling.max_pool_backward(pooled, positions, sides)
    lines, taps = torch.empty(1, 16, 512 * 512), [1 / 11] * 11
    moments = blur.blur_moments(lines, lines, taps)
    blur.blur_moments_backward(moments, lines, lines, taps, needs_y=False)
    blur.correlate(moments.reshape(30, 512, 512), taps, 0)
    moments = blur.correlate(moments.reshape(-1, 512, 1), taps, 10).reshape(1, 5, -1)
    comparison.compare_backward(comparison.compare(moments, 1.0, 1.0), moments, 1.0, 1.0)


if __name__ == "__main__":
    triton.JITFunction.run = lambda self, *arguments, grid, warmup, **options: launch(self, *arguments, **options)
    compile_step([int(word) for word in sys.argv[1:]] or [1, 16, 32, 64, 80], torch.bfloat16)
