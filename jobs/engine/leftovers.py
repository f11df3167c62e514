"""What killed writers leave: hidden files and folders beside those that they were about to replace."""

import os
import re
from pathlib import Path

from data_prep.files import remove_leftovers
from jobs.engine.stage import Stage


def remove_leftovers_of(stage: Stage, item: str) -> None:
    """Remove what earlier processes left of an item's files; nothing else may be at work on it."""
    remove_leftovers(stage.markers.folder_of(item), rf"{re.escape(item)}\.[a-z]+")
    for folder, names in stage.partly_written(item).items():
        remove_leftovers(folder, names)
    for folder in stage.folders(item):
        for inner, _, _ in os.walk(folder):
            remove_leftovers(Path(inner), ".*")
