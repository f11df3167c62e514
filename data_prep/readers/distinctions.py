"""Elements that may tell images of one series apart, and whether they do: the positions of the slices decide.

Two phases in one series differ in AcquisitionNumber, and the slices of one lie between or upon those of the other. A
scanner that counts its rotations has other numbers at other positions, which divides nothing. Phases that differ in no
such element still show where InstanceNumber or the time runs through the slices twice.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from data_prep.pseudonym import pseudonym
from data_prep.readers.dicom_values import listed
from data_prep.readers.slice_positions import (
    MIN_EVEN_SLICES,
    are_consecutive,
    count_namesakes,
    count_passes,
    has_twins,
    is_even,
    is_monotone,
)

DELIMITER = "|"
"""Never part of a text."""
_NUMBER_TOLERANCE = 0.05  # kV, mm
_IMAGE_TYPES = 4
_COUNT = re.compile(r"-?\d+(\.\d+)?")  # a number or a time, perhaps with its zone


@dataclass(frozen=True)
class _Element:
    """An element by its ``keywords`` in a frame and in an image.

    ``is_decisive``: slices of several of its values are never one scan where they lie in disorder.
    ``is_hidden``: it may hold an identifier. ``index``: of the value, where the element has several. ``counts``: its
    numbers follow the order in which slices were acquired or made. ``divides``: slices may share a value.
    """

    keywords: tuple[str, ...]
    is_decisive: bool = False
    is_hidden: bool = False
    is_number: bool = False
    index: int | None = None
    counts: bool = False
    divides: bool = True


_ELEMENTS = {
    "AcquisitionNumber": _Element(("FrameAcquisitionNumber", "AcquisitionNumber"), is_decisive=True),
    "TemporalPositionIdentifier": _Element(("TemporalPositionIndex", "TemporalPositionIdentifier"), is_decisive=True),
    "NominalPercentageOfCardiacPhase": _Element(("NominalPercentageOfCardiacPhase",), is_decisive=True),
    "EchoNumbers": _Element(("EchoNumbers",), is_decisive=True),
    "StackID": _Element(("StackID",), is_decisive=True),
    "IrradiationEventUID": _Element(("IrradiationEventUID",), is_decisive=True, is_hidden=True),
    "ConvolutionKernel": _Element(("ConvolutionKernel",), is_decisive=True),
    "StudyInstanceUID": _Element(("StudyInstanceUID",), is_hidden=True),
    "SeriesNumber": _Element(("SeriesNumber",)),
    "SeriesDescription": _Element(("SeriesDescription",), is_hidden=True),
    "ProtocolName": _Element(("ProtocolName",), is_hidden=True),
    "ContrastBolusAgent": _Element(("ContrastBolusAgent",), is_hidden=True),
    "FilterType": _Element(("FilterType",)),
    "TriggerTime": _Element(("NominalCardiacTriggerDelayTime", "TriggerTime"), is_number=True),
    "AcquisitionDateTime": _Element(("FrameAcquisitionDateTime", "AcquisitionDateTime"), counts=True),
    "AcquisitionTime": _Element(("AcquisitionTime",), counts=True),
    "KVP": _Element(("KVP",), is_number=True),
    "SliceThickness": _Element(("SliceThickness",), is_number=True),
    **{f"ImageType (value {n + 1})": _Element(("FrameType", "ImageType"), index=n) for n in range(_IMAGE_TYPES)},
    "InstanceNumber": _Element(("InstanceNumber",), counts=True, divides=False),
    "ContentTime": _Element(("ContentTime",), counts=True, divides=False),
}
"""Elements by their names in messages, in the order in which they are tried."""

KEYWORDS = sorted({keyword for element in _ELEMENTS.values() for keyword in element.keywords})
"""All elements of an image that are needed."""


def distinctions_of(first: Callable[[str], Any]) -> tuple[str, ...]:
    """Return the elements of an image as texts; ``first`` gives the value of a keyword, or None."""
    return tuple([_text(element, first) for element in _ELEMENTS.values()])


def _text(element: _Element, first: Callable[[str], Any]) -> str:
    for keyword in element.keywords:
        content = first(keyword)
        if content is not None:
            if element.index is not None:
                content = (*listed(content)[element.index : element.index + 1], "")[0]
            text = str(content).strip(" \0").lower()
            return pseudonym(text) if element.is_hidden and text else text.replace(DELIMITER, "/")
    return ""


def different_elements(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Return the names of the elements in which two images differ."""
    texts = zip(_ELEMENTS.items(), first, second, strict=True)
    return [name for (name, element), a, b in texts if a != b and a and b and element.divides]


def separate(heights: Sequence[float], distinctions: Sequence[Sequence[str]]) -> list[tuple[list[int], str]]:
    """Divide slices by the first element that tells stacks apart, and each stack again.

    ``distinctions``: of each slice, as :func:`distinctions_of` gives them. Returns the indices of the slices of each
    stack, and why they are no scan; empty for a scan.
    """
    return _separate(heights, distinctions, range(len(heights)))


def _separate(
    heights: Sequence[float], distinctions: Sequence[Sequence[str]], members: Sequence[int]
) -> list[tuple[list[int], str]]:
    reason = ""
    columns = dict(zip(_ELEMENTS, zip(*(distinctions[i] for i in members), strict=True), strict=True))
    for name, element in _ELEMENTS.items():
        if not element.divides:
            continue
        column = columns[name]
        if len({*column}) == len(members) and not element.is_number:  # one slice a value
            continue
        groups, unknown = _group(element, column, members)
        if not 1 < len(groups) < len(members) - unknown or _are_consecutive(heights, groups):
            continue
        if not unknown and _explains(heights, members, groups):
            return [stack for group in groups for stack in _separate(heights, distinctions, group)]
        if element.is_decisive and not reason:
            empty = f" and is empty in {unknown}" if unknown else ""
            reason = f"{name} has {len(groups)} values{empty}, and the slices of one lie among those of the other"
    return [(list(members), reason or _recurrence([heights[i] for i in members], columns))]


def _recurrence(heights: Sequence[float], columns: Mapping[str, Sequence[str]]) -> str:
    """Why slices are several stacks by the order in which they were counted; an empty text if that tells nothing.

    Images at one position are copies, or refused as such.
    """
    if has_twins(heights):
        return ""
    counts = {name: _counts(columns[name]) for name, element in _ELEMENTS.items() if element.counts}
    for name, numbers in counts.items():
        if not numbers or (name == "ContentTime" and counts["InstanceNumber"]):
            continue
        if is_monotone(heights) and is_monotone(numbers):
            continue
        stacks = count_passes(heights, numbers)
        if name == "InstanceNumber":  # a number is one image's alone
            stacks = max(stacks, count_namesakes(heights, numbers))
        if stacks > 1:
            return f"{name} runs through the slices {stacks} times, as if they were {stacks} scans"
    return ""


def _counts(column: Sequence[str]) -> list[float]:
    """Return the numbers of slices; none if one is unknown, or if all are equal."""
    if len({*column}) == 1:
        return []
    matches = [_COUNT.match(text) for text in column]
    return [float(match[0]) for match in matches if match] if all(matches) else []


def _group(element: _Element, column: Sequence[str], members: Sequence[int]) -> tuple[list[list[int]], int]:
    """Group slices by the value of an element; return the groups, and how many slices have no value."""
    if len(set(column)) == 1:
        return [list(members)], 0
    labels = _merge_close(column) if element.is_number else column
    groups = defaultdict[str, list[int]](list)
    for member, label in zip(members, labels, strict=True):
        groups[label].append(member)
    unknown = len(groups.pop("", ()))
    return [groups[label] for label in sorted(groups)], unknown


def _merge_close(column: Sequence[str]) -> list[str]:
    """Give numbers without a gap between them, compared with the tolerance, the same text."""
    numbers = sorted((float(text), text) for text in set(column) if _is_number(text))
    labels = dict.fromkeys(column, "")
    label = numbers[0][1] if numbers else ""
    for (lower, _), (number, text) in pairwise([(float("-inf"), ""), *numbers]):
        label = text if number - lower > _NUMBER_TOLERANCE else label
        labels[text] = label
    return [labels[text] for text in column]


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _are_consecutive(heights: Sequence[float], groups: Sequence[Sequence[int]]) -> bool:
    return are_consecutive([[heights[i] for i in group] for group in groups])


def _explains(heights: Sequence[float], members: Sequence[int], groups: Sequence[Sequence[int]]) -> bool:
    """Whether the groups are stacks by themselves: all if the slices could be one stack, else at least one of them."""
    evenness = [len(group) >= MIN_EVEN_SLICES and is_even([heights[i] for i in group]) for group in groups]
    return all(evenness) if is_even([heights[i] for i in members]) else any(evenness)
