"""Train a task: `python train.py --task JSA --latent_dim 200`; with --help it explains more."""

import json
import sys
from pathlib import Path

import torch

from data_utils import keep_freed_memory, set_seed
from kit.assignment import available_tasks
from kit.command_line import Call, parse
from kit.files import DataError, fingerprint, write_json
from kit.processes import Processes, TrainingError, pick_device
from kit.settings import SettingsError, completed, from_config, run_from_config, to_config
from kit.tasks import TaskError, make_task, task_class
from kit.todos import explain_error, import_explained, todo_message
from trainer import Trainer

with import_explained(__name__ == "__main__"):
    import submission

FREE_ON_RESUME = {"epochs", "data_dir", "device"}  # may differ from the run that is resumed


def read_config(save_dir: Path) -> dict | None:
    """The settings of the run in this folder, None where there is none."""
    file = save_dir / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        config = None
    if not isinstance(config, dict) or "task" not in config:
        raise TrainingError(f"{file} is damaged; remove {save_dir} to start over")
    return completed(config)


def resumed_config(save_dir: Path, given: dict) -> dict:
    """The settings of the run to resume; what is given now must not contradict them."""
    found = read_config(save_dir)
    if found is None:
        raise TrainingError(f"there is no run to resume in {save_dir}")
    fixed = set(given) - FREE_ON_RESUME
    changed = sorted(key for key in fixed if found.get(key) != given[key])
    if changed:
        was = ", ".join(f"--{key} {found.get(key)}" for key in changed)
        raise TrainingError(f"{save_dir} was started with {was}; resume without changing it")
    return found | {key: given[key] for key in FREE_ON_RESUME if key in given}


def check_folder(save_dir: Path, config: dict) -> None:
    """Refuse a folder that holds a run with other settings."""
    found = read_config(save_dir)
    if found is None:
        return
    changed = [f"--{key}" for key in config if found.get(key) != config[key] and key != "device"]
    if changed:
        raise TrainingError(
            f"{save_dir} holds a run with other settings ({', '.join(changed)}). Add --overwrite "
            "to replace it, --save_dir FOLDER to train elsewhere, or --resume to go on with it."
        )
    print(f"{save_dir} holds a run with these settings; starting over (--resume would go on).")


def run(call: Call) -> None:
    """Train as the call says."""
    save_dir = Path(call.save_dir)
    config = to_config(call.settings, call.run)
    if call.resume:
        config = resumed_config(save_dir, call.given | {"task": call.settings.task})
    settings, run_settings = from_config(config), run_from_config(config)
    kind = task_class(settings)
    keep_freed_memory()
    if kind.threads:
        torch.set_num_threads(kind.threads)
    processes = Processes()
    device = processes.start(pick_device(run_settings.device))
    train_set, valid_set = processes.in_turn(kind.load_data, settings, run_settings)
    sha256 = fingerprint(train_set.images.numpy())
    if call.resume and config.get("train_sha256") != sha256:
        raise TrainingError(f"the training images are not those that {save_dir} was started with")
    config["train_sha256"] = sha256
    if not call.resume and not call.overwrite:
        check_folder(save_dir, config)
    set_seed(run_settings.seed)
    task = make_task(submission, settings, len(train_set), device)
    trainer = Trainer(
        task,
        # The fused Adam makes one pass over all parameters instead of several per tensor.
        torch.optim.Adam(task.param_groups(), fused=True),
        train_set,
        valid_set,
        save_dir=save_dir,
        config=config,
        run=run_settings,
        device=device,
        processes=processes,
    )
    if call.resume:
        same = trainer.load_checkpoint(save_dir / "last.pth")
        if trainer.epoch > settings.epochs:
            raise TrainingError(f"{save_dir} already has {trainer.epoch} epochs; ask for more")
        print(f"Resuming {save_dir} after epoch {trainer.epoch} of {settings.epochs}.")
        if not same:
            print("The number of processes is another one, so other random numbers are drawn.")
    elif processes.rank == 0:
        for name in ("last.pth", "best.pth"):  # never beside the config of another run
            (save_dir / name).unlink(missing_ok=True)
    if processes.rank == 0:
        write_json(save_dir / "config.json", config)
    finished = trainer.fit()
    processes.end()
    report(trainer, save_dir, finished)


def report(trainer: Trainer, save_dir: Path, finished: bool) -> None:
    """Say how it went, where the pictures are, and what comes next."""
    task = trainer.task.settings.task
    if not finished:
        print(
            f"Stopped; {trainer.epoch} of {trainer.epochs} epochs are complete. To go on:\n"
            f"  python train.py --task {task} --save_dir {save_dir} --resume"
        )
        return
    best = trainer.best_row()
    epochs = "1 epoch" if trainer.epochs == 1 else f"{trainer.epochs} epochs"
    print(
        f"{task}: {epochs}, {trainer.seconds:.0f} s. Best epoch "
        f"{best['epoch']:.0f} with {trainer.val_metric} {best[trainer.val_metric]:.4f}."
    )
    if trainer.pictures:  # the first process has drawn them
        print(f"Look at {', '.join(str(path) for path in trainer.pictures)}.")
    if trainer.task.has_images:
        print(f"Next:\n  python inference.py --checkpoint_path {save_dir}/best.pth")


def main(argv: list[str] | None = None) -> None:
    call = parse(argv, available_tasks(submission))
    try:
        run(call)
    except NotImplementedError as error:
        sys.exit(f"error: {todo_message(error, submission, call.settings.task)}")
    except Exception as error:  # of submission.py, of the circumstances, or of the kit
        known = (DataError, TrainingError, SettingsError, TaskError, OSError)
        sys.exit(f"error: {explain_error(error, known)}")


if __name__ == "__main__":
    main()
