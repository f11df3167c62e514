"""Measure the noise of a scan: its level, its spectrum, and how alike it is in neighbouring slices.

Anatomy is nearly the same in neighbouring slices, so their difference is mostly noise. Where to look is decided by
their mean, on which the difference does not depend, so blocks that chance made quiet are not preferred (those of
regions with less noise are). Sum and difference of slices
have (1 + r) and (1 - r) times the power of a slice's noise, where r is the correlation of their noise. At high
frequencies, where uniform tissue has no structure, this gives r. Divided by 1 - r, the difference gives the spectrum
at all frequencies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fftfreq, irfft2, rfft2
from scipy.special import stdtrit

from data_prep.lowdose.blocks import NARROW, WIDE, Blocks, Indices, Planes, Power
from data_prep.volume import CTScan

LAGS = 4
ROUNDING = 1 / 12  # HU^2, of whole HU
SLABS, SLAB_SLICES = 10, LAGS + 1
_MIN_BLOCKS, _MIN_SLABS = 40, 2
_SLAB_BLOCKS = 15  # of a slab whose level is told
_MOST_UNIFORM = 0.4  # share of the blocks of soft tissue
_NARROW_BLOCKS = 60  # of a slab
_MIN_SD = 0.5  # HU: below, rounding to whole HU is a good part of the noise
_STRUCTURELESS = slice(5, 13)  # rings
_LEAST_CORRELATION = 0.05
_MOST_CORRELATION = 0.6  # of slices whose difference is looked at
_MOST_VARIANCE = 2.0  # times the median: what is above has an edge that only one of two slices shows
_HIGHEST_CORRELATION = 0.95
_LEAST_NOISE = 0.1  # of the power of rounding
_CONFIDENCE = 0.95
_LEAST_CYCLES = 3.0  # of the mean frequency in a block, which hardly shows what is below one
_COARSEST = 4  # pixels


@dataclass(frozen=True)
class Slab:
    """Neighbouring slices (n, rows, columns) in HU; ``first``: index of their first in the scan."""

    first: int
    hu: NDArray[np.int16]


@dataclass(frozen=True)
class Sites:
    """Blocks of soft tissue that are uniform in two slices of a slab, ``lag`` slices apart; an entry for each.

    ``blocks``: their kind; ``slab``: its number; ``lower``: number of the lower slice in it; ``row``, ``column``: of
    the block.
    """

    blocks: Blocks
    lag: int
    slab: Indices
    lower: Indices
    row: Indices
    column: Indices


@dataclass(frozen=True)
class ScanNoise:
    """Noise in uniform soft tissue of a scan.

    ``sd``: HU; ``interval``: of 95 %, from the differences of slabs. ``frequency``: cycles/mm; ``spectrum``: HU^2
    mm^2. ``centroid``: mean frequency by power, cycles/mm. ``z_correlation``: of slices 1, 2 ... apart; what is below
    0.05 is left out, with all that follows. ``slab_range``: least and highest SD of a slab. ``blocks``: number of
    blocks that were looked at.
    """

    sd: float
    interval: tuple[float, float]
    frequency: tuple[float, ...]
    spectrum: tuple[float, ...]
    centroid: float
    z_correlation: tuple[float, ...]
    slab_range: tuple[float, float]
    blocks: int


@dataclass(frozen=True)
class BlockNoise:
    """Power of a slice's noise in the rings of a block's spectrum, (blocks, rings), at these sites.

    ``pair_correlation``: correlation of the noise of slices that lie the sites' lag apart.
    """

    sites: Sites
    power: Power
    pair_correlation: float
    z_correlation: tuple[float, ...]


def visible_noise(slabs: Sequence[Slab]) -> tuple[int, BlockNoise | None]:
    """Measure the noise as :func:`block_noise`, of coarser pixels where blocks are too small to show it.

    Return of how many pixels an edge of a coarser one is, and the noise in it.
    """
    step, noise = 1, block_noise(slabs)
    while noise and _cycles(noise) < _LEAST_CYCLES and step < _COARSEST and _holds_blocks(slabs[0], step + 1):
        coarser = block_noise(coarsened(slabs, step + 1))
        if coarser is None:
            break
        step, noise = step + 1, coarser
    return step, noise


def coarsened(slabs: Sequence[Slab], step: int) -> list[Slab]:
    """Return slabs of coarser pixels, ``step`` by ``step`` of theirs."""
    return [Slab(slab.first, coarsen(slab.hu, step)) for slab in slabs]


def coarsen(hu: NDArray[np.int16], step: int) -> NDArray[np.int16]:
    """Average ``step`` x ``step`` pixels of slices (n, rows, columns), and give back what that takes away."""
    if step == 1:
        return hu
    count, first = np.array(hu.shape[1:]) // step, np.array(hu.shape[1:]) % step // 2
    rows, columns = (slice(start, start + step * number) for start, number in zip(first, count, strict=True))
    means = hu[:, rows, columns].reshape(-1, count[0], step, count[1], step).mean((2, 4), dtype=np.float32)
    down, across = (np.sinc(fftfreq(size)) / np.sinc(fftfreq(size) / step) for size in count)
    spectra = rfft2(means) / np.outer(down, across[: count[1] // 2 + 1]).astype(np.float32)
    limits = np.iinfo(np.int16)
    return np.rint(irfft2(spectra, means.shape[1:])).clip(limits.min, limits.max).astype(np.int16)


def _holds_blocks(slab: Slab, step: int) -> bool:
    return bool(min(slab.hu.shape[1:]) // step >= 2 * WIDE.side)


def _cycles(noise: BlockNoise) -> float:
    """Return the mean frequency by power, in cycles a block."""
    weights = noise.power.mean(0) * WIDE.ring_bins
    return float((np.arange(len(weights)) * weights).sum() / weights.sum())


def read_slabs(scan: CTScan) -> list[Slab]:
    """Read the slices of a scan in which its noise is measured, spread from feet to head."""
    return [Slab(start, scan.slab(start, stop)) for start, stop in slab_ranges(scan.slices)]


def slab_ranges(slices: int) -> list[tuple[int, int]]:
    """Return start and stop of the slabs that are looked at; they have no slice in common."""
    length = min(SLAB_SLICES, max(slices // _MIN_SLABS, 1))
    starts = np.linspace(0, slices - length, min(SLABS, slices // length)).round().astype(int).tolist()
    return [(start, start + length) for start in starts]


def find_narrow_sites(slabs: Sequence[Slab], lag: int) -> Sites:
    """Find the most uniform narrow blocks of each slab, however uniform they are."""
    parts = [_sites([slab], lag, NARROW, 1.0, _NARROW_BLOCKS) for slab in slabs]
    number = np.repeat(np.arange(len(slabs)), [len(part.slab) for part in parts])
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in ("lower", "row", "column")]
    return Sites(NARROW, lag, number, *joined)


def _sites(slabs: Sequence[Slab], lag: int, blocks: Blocks, share: float, count: int | None = None) -> Sites:
    """Find the most uniform blocks: this share of those of soft tissue, and at most ``count``."""
    parts = [blocks.part_means(slab.hu.astype(np.float32)) for slab in slabs]
    means = [(slab[lag:] + slab[:-lag]) / 2 for slab in parts]
    uneven = blocks.unevenness(np.concatenate(means))
    soft = np.sort(uneven[np.isfinite(uneven)])[:count]
    uniform = np.isfinite(uneven) & (uneven <= (np.quantile(soft, share) if len(soft) else 0.0))
    number = np.repeat(np.arange(len(slabs)), [len(mean) for mean in means])
    lower = np.concatenate([np.arange(len(mean)) for mean in means])
    pair, row, column = uniform.nonzero()
    sites = Sites(blocks, lag, number[pair], lower[pair], row, column)
    variances = np.concatenate([_pair_blocks(slab, sites, index, -1).var((1, 2)) for index, slab in enumerate(slabs)])
    is_even = variances <= _MOST_VARIANCE * np.median(variances) if len(variances) else np.empty(0, np.bool_)
    return Sites(blocks, lag, *(index[is_even] for index in (sites.slab, sites.lower, row, column)))


def block_noise(slabs: Sequence[Slab], guides: Sequence[Slab] | None = None) -> BlockNoise | None:
    """Measure the noise in uniform soft tissue; None if there is too little of it, or hardly any noise.

    ``guides``: the same slices of the full dose, if the slabs hold noise without anatomy; they show where to look.
    """
    correlation: list[float] = []
    noise: BlockNoise | None = None
    for lag in range(1, min((len(slab.hu) for slab in slabs), default=0)):
        sites = _sites(guides or slabs, lag, WIDE, _MOST_UNIFORM)
        if len(sites.slab) < _MIN_BLOCKS or len(np.unique(sites.slab)) < _MIN_SLABS:
            break
        total, difference = (pair_power(slabs, sites, sign) for sign in (1, -1))
        pair_correlation = _correlation(total, difference)
        if noise is None or correlation[-1] > _MOST_CORRELATION:
            noise = BlockNoise(sites, difference / (1 - pair_correlation), pair_correlation, ())
        if pair_correlation < _LEAST_CORRELATION:
            break
        correlation.append(pair_correlation)
    if noise is None or not math.sqrt(WIDE.variance(noise.power).mean()) >= _MIN_SD:
        return None
    return replace(noise, z_correlation=tuple(correlation))


def pair_power(slabs: Sequence[Slab], sites: Sites, sign: int) -> Power:
    """Return the power of (upper + sign * lower) / sqrt(2) at each site, (sites, rings)."""
    parts = [sites.blocks.ring_power(_pair_blocks(slab, sites, number, sign)) for number, slab in enumerate(slabs)]
    return np.concatenate(parts)


def pair_sectors(slabs: Sequence[Slab], sites: Sites, number: int) -> Power:
    """Return the mean power of (upper - lower) / sqrt(2) at the sites of a slab by direction, (rings, DIRECTIONS)."""
    return sites.blocks.sector_power(_pair_blocks(slabs[number], sites, number, -1))


def _pair_blocks(slab: Slab, sites: Sites, number: int, sign: int) -> Planes:
    """Return (upper + sign * lower) / sqrt(2) in the blocks at the sites of a slab, (blocks, side, side)."""
    chosen = sites.slab == number
    lower, row, column = sites.lower[chosen], sites.row[chosen], sites.column[chosen]
    bottom, top = (sites.blocks.cut(slab.hu, index, row, column) for index in (lower, lower + sites.lag))
    return np.asarray((top + sign * bottom) / np.float32(math.sqrt(2)))


def _correlation(total: Power, difference: Power) -> float:
    """Return the correlation of the noise of two slices, without that of rounding, which is each slice's own.

    It is 0 where hardly more than rounding is left at these frequencies.
    """
    high, low = ((power.mean(0) * WIDE.ring_bins)[_STRUCTURELESS].sum() for power in (total, difference))
    is_rounded = WIDE.variance(difference.mean(0)) >= _MIN_SD**2  # of less noise most voxels are left as they were
    rounding = 2 * ROUNDING * WIDE.ring_bins[_STRUCTURELESS].sum() if is_rounded else 0.0
    noise = high + low - rounding
    return float(min((high - low) / noise, _HIGHEST_CORRELATION)) if noise > _LEAST_NOISE * rounding else 0.0


def measure_noise(slabs: Sequence[Slab], pixel: float) -> ScanNoise | None:
    """Measure the noise of a scan, of pixels of ``pixel`` mm; None as :func:`block_noise`."""
    step, noise = visible_noise(slabs)
    return summary(noise, pixel * step) if noise else None


def summary(noise: BlockNoise, pixel: float) -> ScanNoise:
    """Summarise the noise in blocks of pixels of ``pixel`` mm."""
    power, levels = noise.power.mean(0), slab_sd(noise).values()
    frequency = np.arange(len(power)) / (WIDE.side * pixel)
    return ScanNoise(
        sd=math.sqrt(WIDE.variance(power)),
        interval=_interval(noise),
        frequency=tuple(frequency.tolist()),
        spectrum=tuple((power * pixel**2).tolist()),
        centroid=_cycles(noise) / (WIDE.side * pixel),
        z_correlation=noise.z_correlation,
        slab_range=(min(levels), max(levels)),
        blocks=len(noise.power),
    )


def slab_sd(noise: BlockNoise) -> dict[int, float]:
    """Return the SD (HU) of each slab that has enough blocks, by its number; of all if none has."""
    counts = np.bincount(noise.sites.slab)
    slabs = np.flatnonzero(counts >= min(_SLAB_BLOCKS, counts.max()))
    return {int(slab): math.sqrt(WIDE.variance(noise.power[noise.sites.slab == slab]).mean()) for slab in slabs}


def _interval(noise: BlockNoise) -> tuple[float, float]:
    """Return the 95 % interval of the SD, by leaving out one slab after the other."""
    variances, slabs = WIDE.variance(noise.power), np.unique(noise.sites.slab)
    left_out = np.array([np.log(variances[noise.sites.slab != slab].mean()) / 2 for slab in slabs])
    count = len(slabs)
    error = math.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())
    middle, width = math.log(variances.mean()) / 2, float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2)) * error
    return math.exp(middle - width), math.exp(middle + width)
