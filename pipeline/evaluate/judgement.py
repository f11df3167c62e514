"""A denoiser judged on the held-out scans."""

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.files import replacing, write_json
from data_prep.partners import Partner
from data_prep.paths import pair_path
from data_prep.progress import Progress
from data_prep.seal import BrokenSeal, read_sealed, write_sealed
from data_prep.split import Part, Segment
from data_prep.store import Pair
from pipeline.evaluate.denoisers import Denoiser, judged_partners, threads_of
from pipeline.quality.anatomy import survey
from pipeline.quality.judge import judge
from pipeline.quality.scan import scan_on
from pipeline.quality.tissue import body
from pipeline.sampling import crop_centre
from pipeline.settings.run import EvaluateSettings
from pipeline.training.distributed import device_of
from pipeline.training.world import World

_Task = tuple[Segment, Partner]
"""A scan, or slab, at one of its low doses."""
_EXAMPLE_SLICES = 16
_MOST_SCANS = {"cpu": 4, "cuda": 8}
"""Judged at once, by the device, however many cores there are: on a CPU one of 512 x 512 takes up to 2 GB."""
_gpu = Lock()
"""Held while a scan is judged on a GPU, so that its memory holds one at a time."""


def evaluate(
    denoiser: Denoiser, data: Path, parts: Mapping[Part, Sequence[Segment]], settings: EvaluateSettings,
    target: Path, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Judge a denoiser on the segments of ``parts`` at each dose; write four files named after ``target``.

    ``.json`` has a row a slice of the part ``test`` and dose; ``.scans.json`` a row a scan of any part and dose, with
    its noise spectrum; ``.npz`` up to 16 slices (HU) from the middle of the first scan of the part ``test``, at its
    lowest dose; ``.times.json`` the milliseconds a slice in the scan that was denoised in the least, as others are
    judged meanwhile. Until all scans are judged, the folder ``target`` holds a file for each that is: an interrupted
    call goes on with the missing ones.
    """
    torch.set_num_threads(threads_of(settings))
    files = {
        path: (part, task)
        for part, segments in parts.items() for segment in segments
        for path, task in _tasks(target / part, data, segment)
    }  # fmt: skip
    missing = {path: task for path, (_, task) in files.items() if not _is_judged(path)}
    example = next(task for part, task in files.values() if part == "test"), _named_after(target, ".npz")
    for number, path in enumerate(_judge_missing(denoiser, data, missing, settings, example), start=1):
        progress(len(files) - len(missing) + number, len(files), path.stem)
    slices, scans, slice_ms = _collect({path: part for path, (part, _) in files.items()})
    write_json(_named_after(target, ".times.json"), {"slice_ms": slice_ms})
    write_json(_named_after(target, ".scans.json"), scans)
    write_json(_named_after(target, ".json"), slices)
    shutil.rmtree(target)
    return {"slices": len(slices), "rmse_hu": _means(slices)}


def _named_after(target: Path, ending: str) -> Path:
    return target.with_name(target.name + ending)


def _tasks(folder: Path, data: Path, segment: Segment) -> Iterator[tuple[Path, _Task]]:
    """Yield what is to be judged of a segment, with the file for its rows; @ is in no name of a scan."""
    partners = judged_partners(_pair(data, segment))
    for partner in partners:
        name = f"{segment.scan}@{partner.dose}" if len(partners) > 1 else segment.scan
        yield folder / segment.dataset / f"{name}.json", (segment, partner)


def _is_judged(path: Path) -> bool:
    """Whether an interrupted call left the rows of a scan, and nobody changed them since."""
    try:
        read_sealed(path)
    except (FileNotFoundError, BrokenSeal):
        return False
    return True


def _means(slices: Sequence[Mapping[str, Any]]) -> float | dict[str, float]:
    """Return the mean RMSE of slices; of several doses that of each."""
    errors: dict[str, list[float]] = {}
    for row in slices:
        errors.setdefault(str(row["dose"]), []).append(row["rmse_hu"])
    means = {dose: float(np.mean(numbers)) for dose, numbers in errors.items()}
    return means if len(means) > 1 else next(iter(means.values()))


def _collect(files: Mapping[Path, Part]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], float]:
    """Read the rows of the slices of the part ``test``, those of all scans, and the least milliseconds a slice."""
    slices, scans, slice_ms = list[dict[str, Any]](), list[dict[str, Any]](), math.inf
    for path, part in files.items():
        judged = read_sealed(path)
        scans.append({"part": part, **judged["scan"]})
        slices += judged["slices"] if part == "test" else []
        slice_ms = min(slice_ms, 1e3 * judged["seconds"] / judged["scan"]["slices"])
    return slices, scans, slice_ms


def _judge_missing(
    denoiser: Denoiser, data: Path, missing: Mapping[Path, _Task], settings: EvaluateSettings,
    example: tuple[_Task, Path],
) -> Iterator[Path]:  # fmt: skip
    """Judge each scan and write its rows to its file; yield the file.

    While scans are judged, by a share of the threads each, the next is denoised. Memory holds at most ``_MOST_SCANS``
    for the device, and no more than there are threads.
    """
    threads, running = threads_of(settings), dict[Future[None], Path]()
    at_once = min(threads, _MOST_SCANS[device_of(World(), settings.device).type])
    with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(threads // at_once,)) as pool:
        for path, task in missing.items():
            if len(running) == at_once:
                yield from _finished(running)
            segment, partner = task
            example_path = example[1] if task == example[0] else None
            low, start = _pair(data, segment).read(partner.array, segment.start, segment.stop), time.perf_counter()
            image = denoiser(low, partner.dose)
            seconds = time.perf_counter() - start
            running[pool.submit(_judge, image, seconds, data, task, settings, path, example_path)] = path
            del image  # the future holds it until it is judged, and no longer
        while running:
            yield from _finished(running)


def _finished(running: dict[Future[None], Path]) -> Iterator[Path]:
    """Wait until a future is done; yield the file of each that is."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        future.result()
        yield running.pop(future)


def _judge(
    image: NDArray[Any], seconds: float, data: Path, task: _Task, settings: EvaluateSettings, path: Path,
    example: Path | None,
) -> None:  # fmt: skip
    """Write the scan's row and a row a slice to ``path``; ``seconds``: that the denoiser took."""
    segment, partner = task
    pair = _pair(data, segment)
    uncropped = pair.read("full_dose", segment.start, segment.stop)
    full, inside = crop_centre(uncropped, settings.crop), crop_centre(body(uncropped), settings.crop)
    if example:
        _write_example(example, image, full)
    device, anatomy = device_of(World(), settings.device), survey(full, inside)
    with _gpu if device.type == "cuda" else nullcontext():
        scan, slices = judge(scan_on(device, image, full, anatomy, pair.provenance["spacing_mm"][1:]))
    ids = {"dataset": segment.dataset, "scan": segment.scan, "dose": partner.dose}
    rows = [{**ids, "slice": segment.start + z, **row} for z, row in enumerate(slices)]
    write_sealed(path, {"scan": {**ids, "slices": len(rows), **scan}, "slices": rows, "seconds": seconds})


def _pair(data: Path, segment: Segment) -> Pair:
    return Pair(pair_path(data, segment.dataset, segment.scan))


def _write_example(path: Path, image: NDArray[Any], full: NDArray[np.int16]) -> None:
    first = max(0, (len(full) - _EXAMPLE_SLICES) // 2)
    shown = slice(first, first + _EXAMPLE_SLICES)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, image=np.rint(image[shown]).astype(np.int16), full_dose=full[shown])
