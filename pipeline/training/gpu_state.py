"""Clock rate and throttling of a GPU, by NVIDIA's management library, which comes with the driver."""

import ctypes

import torch

_CLOCK_SM = 1  # NVML_CLOCK_SM
_THROTTLED = 0x08 | 0x20 | 0x40 | 0x80
"""Reasons of nvml.h: slowdown by hardware, by heat as software and as hardware sees it, power brake. A cap of power
is none of them: under full load most GPUs run at it."""


class GpuState:
    """Samples of a GPU's state. ``sums``: their number, their clock rates in MHz, and how many were throttled.

    They stay 0 on a CPU, and where the library is missing or does not answer.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = (0.0, 0.0, 0.0)
        self._library = _open_library() if device.type == "cuda" else None
        self._handle = ctypes.c_void_p()
        if self._library is not None:
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
            if self._library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(self._handle)):
                self._library = None

    def sample(self) -> tuple[float, float, float]:
        """Add a sample; return the sums."""
        clock, reasons = ctypes.c_uint(), ctypes.c_ulonglong()
        if self._library is not None and not (
            self._library.nvmlDeviceGetClockInfo(self._handle, _CLOCK_SM, ctypes.byref(clock))
            or self._library.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle, ctypes.byref(reasons))
        ):
            count, rate, throttled = self.sums
            self.sums = count + 1, rate + clock.value, throttled + bool(reasons.value & _THROTTLED)
        return self.sums


def _open_library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return None if library.nvmlInit_v2() else library
    except (OSError, AttributeError):
        return None
