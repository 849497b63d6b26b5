"""Right functions, but every array that leaves the process is filled with NaN.

base: reference
code: 0
quality: usual
"""

import sys

import torch

_probes = sys.modules.get("tests.probes")


def _ruined(probe):
    def run(*args, **kwargs):
        outputs = probe(*args, **kwargs)
        return {k: torch.full(v.shape, float("nan")) for k, v in outputs.items()}

    return run


if _probes:
    _probes.PROBES = {name: _ruined(probe) for name, probe in _probes.PROBES.items()}
