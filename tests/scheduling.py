"""Which tests pytest-xdist keeps on one worker: those that share what is costly to set up."""

from xdist.scheduler import LoadScopeScheduling

_TOGETHER = {  # by the beginning of a test's id; the first that fits
    "tests/slurm/test_disturbed.py": "disturbed runs on a cluster",
    "tests/slurm/test_": "a cluster",
    "tests/data_prep/test_real_noise.py": "low doses of real scans",
    "tests/data_prep/test_scan_noise.py": "low doses of synthetic scans",
    "tests/pipeline/test_page": "a browser",
    "tests/pipeline/test_figures.py": "figures",
    "tests/pipeline/test_models.py": "the plain network's gradients",
    "tests/pipeline/test_stripes.py": "whole images",
    "tests/jobs/test_plan.py": "predictions",
    "tests/pipeline/test_resumption.py": "whole trainings",
    "tests/pipeline/test_fresh_noise.py": "trainings on fresh noise",
    "tests/pipeline/test_patience.py": "trainings on a plateau",
    "tests/pipeline/test_trainer.py": "trainings, one of them of a compiled network",
}


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hand out those groups first, the largest of them at the very first, and then all other tests one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return next((group for start, group in _TOGETHER.items() if nodeid.startswith(start)), nodeid)
