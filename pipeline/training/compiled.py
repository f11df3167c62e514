"""Networks that torch compiles, and what is said where it cannot."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from data_prep.cache import cache_folder
from data_prep.errors import MachineError
from data_prep.ownership import private_temporary_folder
from pipeline.settings.cells import CellSettings


def compile_network(model: nn.Module) -> None:
    """Let torch compile a network at its first use; programs of earlier compilations lie where nobody else can write.

    torch's own choice is a folder of a known name in a folder where others can.
    """
    folder = private_temporary_folder(Path(tempfile.gettempdir()), "compiled") or cache_folder() / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    model.compile()


@contextmanager
def naming_failed_compilation(cell: CellSettings) -> Iterator[None]:
    """Say in a sentence that the network cannot be compiled, as on a machine without a compiler.

    Raises:
        MachineError: it cannot.
    """
    try:
        yield
    except RuntimeError as error:
        if not (cell.training.compile and isinstance(error, torch._dynamo.exc.TorchDynamoException)):
            raise
        reason = str(getattr(error, "inner_exception", error)).partition("\n")[0]
        raise MachineError(
            f"the network of cell {cell.id} cannot be compiled on this machine ({reason}): install a C++ compiler, or "
            "set training.compile to false"
        ) from error
