"""Captions of the page's tables: what a row is, and what stands behind each ± and in each pair of brackets."""

TABLE_CAPTIONS = {
    "quality": (
        "MSE, PSNR, SSIM and MS-SSIM are on -1024 to 3072 HU as [0, 1]: mean ± SD over slices. The SD is the spread of "
        "slices, no uncertainty of the mean. Change of RMSE: against the low-dose input, in the first row. Noise, "
        "sharpness (1 as the full dose's) and bias: means over scans, without intervals."
    ),
    "quality_datasets": (
        "Mean ± SD over scans. In brackets Student's 95 % interval of the mean, from how patients differ; it is "
        "missing with a single patient."
    ),
    "quality_tests": (
        "Difference: mean over patients of the first network's measure minus the second's. p: Wilcoxon's signed-rank "
        "test over patients, two-sided; p holm: corrected for the number of tests of a measure."
    ),
    "quality_doses": (
        "A row a model and dose. RMSE: mean and SD over held-out slices, the SD as a spread; change of RMSE: against "
        "the input at the same dose; the other measures: means over scans, without intervals. Seen: whether a network "
        "was trained on the dose."
    ),
    "networks": (
        "A row a kind of training, over its seeds, at the lowest dose. Error: mean RMSE over held-out slices, of "
        "the input's; in brackets Student's 95 % interval over seeds, missing with one. Hours: of the GPUs of all "
        "ranks, or of CPUs, from start to end; donor hours: of the 2D training that a transfer starts from; "
        "search hours: of all trials that tuned the network and its donor. Slice: "
        "milliseconds of denoising, in the scan where it took least. On front: nothing has both less error and fewer "
        "hours."
    ),
    "table2": (
        "Each kind of training, over its seeds, with the paper's row of the same architecture, slices and ranks. "
        "MSE and MS-SSIM: mean ± SD over held-out slices, on -1024 to 3072 HU as [0, 1]. Time: of the training steps, "
        "mean of the seeds; an asterisk: other work disturbed a training. SDL: strided, GDL: grouped slices, TL: "
        "transfer from 2D. The paper scaled each volume by its own range, trained on A100-80GB and tested on its own "
        "scans: its figures are there to be seen, not to be subtracted. A dash: not measured, or not in the paper."
    ),
    "speedup": (
        "Speed-up and efficiency against the fewest undisturbed ranks that are alike, the baseline, whose own are 1 "
        'and 100 %. In brackets Student\'s 95 % interval over the units that "interval over" names: seeds or, of one '
        "seed, its epochs. Disturbed: trainings beside which other work took more of the cores than the limit."
    ),
    "laws": (
        'Low and high: ends of the value\'s 95 % interval over the units that "interval over" names. Disturbed '
        "trainings are left out; the reason names them."
    ),
    "attribution": (
        "Lost: share of a step and of the start that the cause took, below 0 where it gained. In brackets Student's "
        "95 % interval over seeds, and blocks of neighbouring steps of arms that have one; of one seed alone it holds "
        "nothing of how trainings differ."
    ),
    "variance": "SD over slices, and of the means of scans, data sets and seeds: spreads, not intervals of the mean.",
    "variance_tests": (
        "Slope of the logarithm of the units' mean deviation against that of the ranks. p value: one-sided, by "
        "permutation of the rank counts within each unit; p holm: corrected for the number of tests of a series."
    ),
    "projection": (
        "What the step model, fitted to the measured ranks, expects of more, against the fewest of them. In brackets "
        'the 95 % interval over the units that "interval over" names, four models of the exchange and the delays, and '
        "assumed links within a factor of 4. Scenario: beyond 8 times the largest measured count, if all that is "
        "assumed holds there too."
    ),
    "unlike": "Trainings of the same slices that differ in more than ranks and seed: no times of theirs are compared.",
    "transfer": (
        "Steps before the first validation of a cell whose error (RMSE over that of the low-dose input, on the "
        "validation samples) is at or below the last one of its 2D counterpart; saved: against the cell that "
        "is alike but has no transfer, up to the same level. Single trainings, without intervals. Empty: not reached, "
        "or nothing to compare with."
    ),
    "cells": "A row a training. Times are sums over it; those of a step are the median and the 95th percentile.",
    "accounting": (
        "Hours of every start of a job, as Slurm counted them (source sacct; where it does not count GPUs, its hours "
        "times the GPUs by request), or of each item's last start as the run recorded it (markers). Of the GPU-hours, "
        "training, validation and checkpoints are what came to be kept; the rest is start-up, and work that was lost "
        "with a node."
    ),
    "scans": (
        "A row a series: prepared, or set aside with its reason. Own noise: SD in uniform soft tissue of the full "
        "dose, in brackets its 95 % interval. Added: SD of what the low dose adds there. Expected: what the dose must "
        "add to the own noise. RMSE: low dose against full dose, over all voxels."
    ),
}
"""By the name of the table's CSV file; ``scans`` is the manifest."""
