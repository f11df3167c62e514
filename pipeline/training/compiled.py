"""Networks that torch compiles, and what is said where it cannot."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path

import torch
from torch import nn

from data_prep.cache import cache_folder
from data_prep.errors import MachineError
from data_prep.ownership import private_temporary_folder
from pipeline.settings.cells import CellSettings

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def compile_network(model: nn.Module) -> None:
    """Let torch compile a network at its first use, in a folder of this process, where nobody else can write.

    torch's own choice is a folder of a known name where others can. In one that processes share, it takes a program for
    whole that a killed process wrote half, and that another one still writes.
    """
    if not _is_chosen_by_user():
        parent = private_temporary_folder(Path(tempfile.gettempdir()), "compiled") or cache_folder() / "compiled"
        parent.mkdir(parents=True, exist_ok=True)
        os.environ[_FOLDER] = tempfile.mkdtemp(dir=parent)
        Finalize(None, shutil.rmtree, (os.environ[_FOLDER], True), exitpriority=0)  # also in a child, unlike atexit
    model.compile()


def _is_chosen_by_user() -> bool:
    """Whether a user set torch's folder; torch writes its own choice there too when its compiler is imported."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # takes seconds

    return _FOLDER in os.environ and Path(os.environ[_FOLDER]).name != Path(default_cache_dir()).name


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
