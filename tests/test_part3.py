"""Part 3: the generator of a given digit."""

import numpy as np


def test_forward_shapes_and_range(probe, rng):
    x = rng.uniform(size=(10, 1, 28, 28)).astype(np.float32)
    out = probe("forward", task="Genwithlabel", latent_dim=7, x=x, labels=np.arange(10))
    assert out["mu"].shape == out["log_var"].shape == (10, 7), "TODO 3: mu is [B, latent_dim]"
    assert out["recon_x"].size == x.size, "TODO 3: recon_x must have one number a pixel"
    inside = (out["recon_x"] >= 0).all() and (out["recon_x"] <= 1).all()
    assert inside, "TODO 3: pixels must lie in [0, 1]"


def test_label_changes_the_picture(probe, rng):
    z = np.repeat(rng.normal(size=(1, 20)), 10, axis=0).astype(np.float32)
    out = probe("decode", task="Genwithlabel", latent_dim=20, z=z, labels=np.arange(10))
    assert np.array_equal(out["images"], out["again"]), "TODO 3: decode must not be random"
    pictures = out["images"].reshape(10, 784)
    distances = np.abs(pictures[:, None] - pictures[None]).max(-1)[~np.eye(10, dtype=bool)]
    message = "TODO 3: one z with ten labels must give ten pictures; is the label ignored?"
    assert distances.min() > 1e-6, message
