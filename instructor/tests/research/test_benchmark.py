"""The benchmark compares equals: all loops learn equally fast by the step."""

import numpy as np
import pytest
import torch

from instructor.research.benchmark.loops import LOOPS, binary_sample

SMALL = {"hidden": [30], "latent_dim": 12}


def nll(loop, images: np.ndarray) -> float:
    x = torch.as_tensor(images).float().div(255).unsqueeze(1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return -float(loop.task.log_marginal(x, None, 25).mean())


@pytest.mark.parametrize(("cache", "chain_states"), [(False, "all"), (True, "last")])
def test_all_loops_reach_the_same_nll_in_equally_many_steps(cache, chain_states):
    images = binary_sample(50)[:500]
    start, found = 0.0, {}
    for name, kind in LOOPS.items():
        loop = kind(images, 50, 5, cache, chain_states=chain_states, **SMALL)
        start = start or nll(loop, images)  # all of them start with the same weights
        for _ in range(12):
            loop.epoch()
        found[name] = nll(loop, images)
    assert start - max(found.values()) > 250
    assert max(found.values()) - min(found.values()) < 1
