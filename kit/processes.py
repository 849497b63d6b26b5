"""The processes that train together, as torchrun starts them, and the device of each."""

import io
import os
import signal
import sys

import numpy as np
import torch
import torch.distributed as dist

# The default arguments of its functions keep the process group that exists when it is imported. The
# optimiser imports it at the latest; were that after `start`, the group would outlive `end`, and
# its threads would now and then abort the process when Python ends.
import torch.distributed.nn


class TrainingError(Exception):
    """Training cannot go on; the message says why and what to do."""


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto" is the GPU where there is one.

    Raises:
        TrainingError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
        torch.zeros(1, device=device).item()  # there are devices that hold no numbers
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise TrainingError(f"--device {name} cannot be used here ({error})") from error


def process_seed(*numbers: int) -> int:
    """A seed of its own for each list of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Processes:
    """The processes that train together: those that torchrun started, or this one alone.

    Example i belongs to process i mod `size` for the whole run, since only its owner knows the
    example's cached state. Each process takes an equal share of every batch.
    """

    def __init__(self):
        together = dist.is_torchelastic_launched()
        self.rank = int(os.environ["RANK"]) if together else 0
        self.size = int(os.environ["WORLD_SIZE"]) if together else 1

    def start(self, device: torch.device) -> torch.device:
        """Connect with the others; returns the device of this process.

        Raises:
            TrainingError: there are more processes than GPUs.
        """
        if self.size == 1:
            return device
        if device.type == "cuda":
            local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local_rank >= gpus:
                raise TrainingError(f"one process per GPU, and there are {gpus}; or --device cpu")
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        signal.signal(signal.SIGTERM, self._terminated)  # torchrun's way to end the others
        if self.rank > 0:
            sys.stdout = io.StringIO()  # one of them does the talking
        self._run(dist.init_process_group, "nccl" if device.type == "cuda" else "gloo")
        return device

    def average_gradients(self, model: torch.nn.Module, stop: bool) -> bool:
        """Average the gradients over the processes by one all-reduce.

        Returns:
            Whether `stop` is true in any process; so all of them stop at the same batch.
        """
        if self.size == 1:
            return stop
        parameters = [p for p in model.parameters() if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flag = grads[0].new_tensor([float(stop)])
        vector = torch.cat([*(grad.flatten() for grad in grads), flag])
        self._run(dist.all_reduce, vector)
        vector /= self.size
        *averages, flag = vector.split([*(p.numel() for p in parameters), 1])
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.grad = average.view_as(parameter)
        return bool(flag > 0)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the processes of a tensor."""
        if self.size > 1:
            self._run(dist.all_reduce, values)
        return values

    def gather(self, value) -> list:
        """The values of all processes, in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            self._run(dist.all_gather_object, values, value)
        return values

    def in_turn(self, function, *args):
        """Call a function in the first process and, when it is done there, in the others."""
        if self.rank > 0:
            self.gather(None)
        result = function(*args)
        if self.rank == 0:
            self.gather(None)
        return result

    def share_weights(self, model: torch.nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                self._run(dist.broadcast, tensor, 0)

    def share_rows(self, table: torch.Tensor) -> None:
        """Give every process all rows of a table in which each knows the rows that it owns."""
        if self.size > 1:
            for owner in range(self.size):
                rows = table[owner :: self.size].contiguous()
                self._run(dist.broadcast, rows.view(torch.uint8), owner)  # gloo has no int16
                table[owner :: self.size] = rows

    def end(self) -> None:
        if self.size > 1:
            dist.destroy_process_group()

    def _run(self, function, *args) -> None:
        try:
            function(*args)
        except RuntimeError as error:  # gloo and nccl raise it when a connection breaks
            raise TrainingError(
                "another process of this run has ended. The last checkpoint is whole: go on with "
                f"--resume ({error})"
            ) from error

    def _terminated(self, *_) -> None:
        raise TrainingError(
            "stopped from outside, as torchrun does when another process of the run has ended. "
            "The last checkpoint is whole: go on with --resume"
        )
