"""Make tests/expected/classifier.npz, the small network that reads generated digits.

    python -m instructor classifier

784-64-10 with ReLU, trained on the bundled digits with small shifts; float16 weights. On images
held out from training it is right 96 % of the time.
"""

import numpy as np
import torch
from torch import nn

from data_utils import SAMPLE_FILE, read_npz, set_seed, stratified_parts
from instructor.door import make_parser
from kit.files import write_arrays
from model import mlp
from tests.tools import CLASSIFIER


def main(argv: list[str] | None = None) -> None:
    make_parser(__name__, __doc__).parse_args(argv)
    set_seed(0)
    images, labels = read_npz(SAMPLE_FILE)
    x, y = torch.as_tensor(images).float() / 255, torch.as_tensor(labels).long()
    train, held_out = (torch.as_tensor(part) for part in stratified_parts(labels, [6, 1], seed=0))
    net = mlp([784, 64, 10], "relu")
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(2500):
        batch = train[torch.randint(len(train), (128,))]
        shift = torch.randint(-2, 3, (2,)).tolist()
        loss = nn.functional.cross_entropy(net(x[batch].roll(shift, dims=(1, 2))), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (net(x[held_out]).argmax(dim=1) == y[held_out]).float().mean()
    weights = {
        "w1": net[1].weight.T,
        "b1": net[1].bias,
        "w2": net[3].weight.T,
        "b2": net[3].bias,
    }
    arrays = {name: w.detach().numpy().astype(np.float16) for name, w in weights.items()}
    write_arrays(CLASSIFIER, **arrays)
    print(f"right on {accuracy:.1%} of {len(held_out)} held-out digits")
