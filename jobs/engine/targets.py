"""Check, before items run, that what they will replace in the run folder was written by the program."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.errors import UserError
from data_prep.files import digest_json
from jobs.engine.decision import Cause, Decision
from jobs.engine.graph import Graph
from jobs.engine.stage import Stage

_UNFINISHED = r"(.*/)?\.[^/]+\.[0-9a-f]{32}\.tmp(/.*)?"
"""Files of a writer that was killed."""


def check_targets(graph: Graph, decisions: Iterable[Decision]) -> None:
    """Check the files and folders that the items to be run will replace.

    Raises:
        UserError: an output is there although the item never started, or its folder holds other files.
    """
    for decision in decisions:
        if decision.run:
            stage, item = graph.stages[decision.ref[0]], decision.ref[1]
            strangers = [*_unrecorded(stage, item), *(_strangers(stage, item) if _replaces(graph, decision) else ())]
            if strangers:
                raise UserError(
                    f"{strangers[0]} was not written by quarterdose, and nothing of yours is replaced: move it, and "
                    "run the same command again"
                )
            stage.check_replaceable(item)


def _unrecorded(stage: Stage, item: str) -> list[Path]:
    """List the outputs that are there although nothing says that the item ever started."""
    if stage.markers.read(item) is not None or stage.markers.read_start(item) is not None:
        return []
    return [path for path in stage.outputs(item) if os.path.lexists(path)]


def _replaces(graph: Graph, decision: Decision) -> bool:
    """Return whether the item starts anew, and does not go on with what it left."""
    stage, item = graph.stages[decision.ref[0]], decision.ref[1]
    if decision.reason.cause is Cause.INPUT_RUNS_FIRST or not stage.resumes:
        return True
    return stage.markers.read_start(item) != digest_json(graph.parts(stage, item))


def _strangers(stage: Stage, item: str) -> Iterator[Path]:
    """Yield what lies in the item's folders and is no file that the stage writes there."""
    for folder, pattern in stage.folders(item).items():
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            yield folder
            continue
        files = (path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink())
        for path in files:
            name = path.relative_to(folder).as_posix()
            if not re.fullmatch(pattern, name) and not re.fullmatch(_UNFINISHED, name):
                yield path
