"""CUDA graphs on a CPU, for torch's own functions: lists of operators that run again in the same memory."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class EmulatedGraph:
    """Stands for ``torch.cuda.CUDAGraph``: what ran while it was captured runs again, into the same tensors."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    @torch.no_grad()
    def replay(self) -> None:
        """Run the operators again."""
        for operator, arguments, keywords, outputs in self.calls:
            for first, again in zip(tree_leaves(outputs), tree_leaves(operator(*arguments, **keywords)), strict=True):
                if isinstance(first, Tensor) and first.data_ptr() != again.data_ptr():
                    first.copy_(again)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: EmulatedGraph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might")
        outputs = func(*args, **(kwargs or {}))
        self._graph.calls.append((func, args, kwargs or {}, outputs))
        return outputs


@contextmanager
def _recorded(graph: EmulatedGraph, pool: object) -> Iterator[None]:
    with _Recorder(graph):
        yield


def emulate_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings on CPUs be captured, by ``torch.cuda.make_graphed_callables``."""
    monkeypatch.setattr("pipeline.training.captured.can_capture", lambda device: True)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", EmulatedGraph)
    monkeypatch.setattr(torch.cuda, "graph", _recorded)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr("torch.cuda.graphs.graph_pool_handle", lambda: None)
