"""Throughput of the Trainer in as many processes as torchrun started; one line from the first."""

import tempfile
import time

import numpy as np
import torch

from data_utils import JsaDataset, keep_freed_memory
from instructor.research.benchmark.loops import Untouched, binary_sample, make
from kit.processes import Processes
from trainer import Trainer

BATCH, STEPS, EPOCHS = 128, 10, 3


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    processes = Processes()
    processes.start(torch.device("cpu"))
    images = binary_sample(BATCH)
    dataset = JsaDataset(images, np.zeros(len(images), np.uint8))
    sizes = {"num_mis_steps": STEPS, "batch_size": BATCH, "epochs": 100}
    task = make(len(images), cache_start_epoch=1, **sizes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            task,
            torch.optim.Adam(task.param_groups(), fused=True),
            dataset,
            dataset,
            save_dir=folder,
            config={},
            processes=processes,
        )
        speeds = []
        for epoch in range(1, EPOCHS + 2):
            started = time.perf_counter()
            with trainer.progress_bar() as progress:
                trainer.train_epoch(epoch, progress, Untouched())
            speeds.append(len(images) / (time.perf_counter() - started))
    speed = np.median(speeds[1:])
    print(f"{processes.size} processes, batch {BATCH}, T = {STEPS}: {speed:,.0f} images/s")
    processes.end()


if __name__ == "__main__":
    main()
