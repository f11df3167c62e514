"""Denoisers, and the low-dose input itself, judged on held-out scans."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.files import replacing, write_json
from data_prep.paths import pair_path
from data_prep.progress import Progress
from data_prep.split import Part, Segment
from data_prep.store import Pair
from pipeline.evaluate.denoisers import Denoiser
from pipeline.quality.edges import sharpness
from pipeline.quality.noise_power import noise
from pipeline.quality.similarity import SLAB, judge_slices, judge_volume, mean_of_slices
from pipeline.quality.tissue import Mask, body, tissue_bias
from pipeline.sampling import crop_centre
from pipeline.settings.run import EvaluateSettings

_EXAMPLE_SLICES = 16


def evaluate(
    denoiser: Denoiser, data: Path, parts: Mapping[Part, Sequence[Segment]], settings: EvaluateSettings,
    target: Path, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Judge a denoiser on the segments of ``parts``; write ``target`` .json, .scans.json and .npz.

    They have a row a slice of the part ``test``, a row a scan of any part with its noise spectrum, and up to 16
    slices from the middle of the first scan of the part ``test`` (HU). The folder ``target`` keeps each scan as soon
    as it is judged, until all are: what is interrupted goes on with those that are missing.
    """
    torch.set_num_threads(settings.threads)
    kept = {
        target / part / segment.dataset / f"{segment.scan}.json": (part, segment)
        for part, found in parts.items() for segment in found
    }  # fmt: skip
    missing = {path: segment for path, (_, segment) in kept.items() if not path.exists()}
    example = parts["test"][0], target.with_suffix(".npz")
    for number, path in enumerate(_judge_each(denoiser, data, missing, settings, example)):
        progress(len(kept) - len(missing) + number + 1, len(kept), path.stem)
    slices, scans = list[dict[str, Any]](), list[dict[str, Any]]()
    for path, (part, _) in kept.items():
        scan, rows = json.loads(path.read_text())
        scans.append({"part": part, **scan})
        slices += rows if part == "test" else []
    write_json(target.with_suffix(".scans.json"), scans)
    write_json(target.with_suffix(".json"), slices)
    shutil.rmtree(target)
    return {"slices": len(slices), "rmse_hu": float(np.mean([row["rmse_hu"] for row in slices]))}


def _judge_each(
    denoiser: Denoiser, data: Path, missing: Mapping[Path, Segment], settings: EvaluateSettings,
    example: tuple[Segment, Path],
) -> Iterator[Path]:  # fmt: skip
    """Keep what was found of each scan in its file; yields the file.

    While scans are judged, by one core each, the next is denoised. Memory holds ``threads`` of them at most.
    """
    running = dict[Future[None], Path]()
    with ThreadPoolExecutor(settings.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for path, segment in missing.items():
            if len(running) == settings.threads:
                yield from _finished(running)
            shown = example[1] if segment == example[0] else None
            image = denoiser(_pair(data, segment).read("low_dose", segment.start, segment.stop))
            running[pool.submit(_judge, image, data, segment, settings.crop, path, shown)] = path
            del image  # memory holds it as long as it is judged
        while running:
            yield from _finished(running)


def _finished(running: dict[Future[None], Path]) -> Iterator[Path]:
    """Wait for one at least."""
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        future.result()
        yield running.pop(future)


def _judge(
    image: NDArray[Any], data: Path, segment: Segment, crop: int | None, kept: Path, example: Path | None
) -> None:
    """Keep the scan's row, and a row a slice."""
    pair = _pair(data, segment)
    whole = pair.read("full_dose", segment.start, segment.stop)
    full, inside = crop_centre(whole, crop), crop_centre(body(whole), crop)
    if example:
        _write_example(example, image, full)
    place = {"dataset": segment.dataset, "scan": segment.scan}
    slabs = range(0, len(full), SLAB)
    judged = [row for z in slabs for row in judge_slices(image[z : z + SLAB], full[z : z + SLAB])]
    found = {**mean_of_slices(judged), **_judge_scan(image, full, inside, pair.provenance["spacing_mm"][1:])}
    rows = [{**place, "slice": segment.start + z, **row} for z, row in enumerate(judged)]
    write_json(kept, [{**place, "slices": len(rows), **found}, rows])


def _judge_scan(image: NDArray[Any], full: NDArray[np.int16], inside: Mask, spacing: Sequence[float]) -> dict[str, Any]:
    found = noise(image, full, spacing)
    return {
        **judge_volume(image, full),
        "noise_blocks": found.blocks, "noise_sd": found.sd, "nps_mean_frequency": found.mean_frequency,
        "sharpness": sharpness(image, full, spacing),
        **{f"bias_{tissue}": bias for tissue, bias in tissue_bias(image, full, inside).items()},
        "nps": [found.frequency, found.nps],
    }  # fmt: skip


def _pair(data: Path, segment: Segment) -> Pair:
    return Pair(pair_path(data, segment.dataset, segment.scan))


def _write_example(path: Path, image: NDArray[Any], full: NDArray[np.int16]) -> None:
    first = max(0, (len(full) - _EXAMPLE_SLICES) // 2)
    shown = slice(first, first + _EXAMPLE_SLICES)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, image=np.rint(image[shown]).astype(np.int16), full_dose=full[shown])
