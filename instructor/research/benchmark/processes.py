"""Throughput of the Trainer in as many processes as torchrun started; one line from the first."""

import tempfile
import time

import numpy as np
import torch

from data_utils import JsaDataset, keep_freed_memory
from instructor.research.benchmark.__main__ import binary_sample
from instructor.research.benchmark.loops import LEARNING_RATE, Untouched, make
from trainer import Processes, Trainer

BATCH, STEPS, EPOCHS = 128, 10, 3


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    processes = Processes()
    processes.start(torch.device("cpu"))
    images = binary_sample(BATCH)
    dataset = JsaDataset(images, np.zeros(len(images), np.uint8))
    task, settings = make(len(images), num_mis_steps=STEPS, cache_start_epoch=1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            task,
            torch.optim.Adam(task.param_groups(), lr=LEARNING_RATE, fused=True),
            dataset,
            dataset,
            save_dir=folder,
            config=settings,
            epochs=100,
            batch_size=BATCH,
            draw=None,
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
