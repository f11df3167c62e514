"""What decides on a machine how long a convolution takes and whether it is right: processor, driver and libraries."""

from functools import cache
from pathlib import Path

import torch

_NO_DRIVER = "unknown"


def describe_machine(device: torch.device) -> dict[str, str]:
    """Describe the device and the libraries that compute on it."""
    if device.type == "cpu":
        return {"device": _processor(), "threads": str(torch.get_num_threads()), "torch": str(torch.__version__)}
    return {
        "device": torch.cuda.get_device_name(device),
        "driver": _driver(),
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


@cache
def _processor() -> str:
    """Return the processor's name, as Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "CPU")


@cache
def _driver() -> str:
    """Return the version of NVIDIA's driver, as its kernel module gives it."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
    except OSError:
        return _NO_DRIVER
    return next((word for word in words if word[0].isdigit() and "." in word), _NO_DRIVER)
