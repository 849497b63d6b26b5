"""Train a task: `python train.py --task JSA --latent_dim 200`. `--help` explains every flag."""

import argparse
import json
import sys
from pathlib import Path

import torch

import submission
from data_utils import (
    DATA_DIR,
    DataError,
    JsaDataset,
    ensure_prepared,
    fingerprint,
    gaussian2d,
    keep_freed_memory,
    load_split,
    set_seed,
)
from model import (
    ACTIVATIONS,
    DEFAULTS,
    TOY_DEFAULTS,
    PatchTask,
    ToyTask,
    available_tasks,
    make_task,
    todo_message,
)
from trainer import Processes, Trainer, TrainingError, draw_pictures, pick_device, write_config

FREE_ON_RESUME = {"epochs", "data_dir", "device"}  # may differ from the run that is resumed
MAX_TOY_STATES = 4096
ONLY_MIS = ("num_mis_steps", "cache_start_epoch", "lr_proposal")
MAX_PROTOTYPES = (2**15 - 1) // 28**2
TASKS = available_tasks(submission)
ONLY_THIS_CALL = {"save_dir", "resume", "overwrite"}  # no settings of the run


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a task and leave a run folder with checkpoints, log and pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what was not given is filled in per task
        epilog="Defaults by task: "
        + "; ".join(f"{task}: {describe(DEFAULTS[task])}" for task in TASKS),
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--task", required=True, choices=TASKS, help="what to train")
    run.add_argument("--save_dir", help="the run folder (default: runs/<task>)")
    run.add_argument("--data_dir", help=f"holds train.npz and valid.npz (default: {DATA_DIR})")
    run.add_argument("--epochs", type=positive(int), help="passes over the training split")
    run.add_argument("--batch_size", type=positive(int), help="examples a step")
    run.add_argument("--lr", type=positive(float), help="peak learning rate of Adam (not for JSA)")
    run.add_argument("--seed", type=int, help="seeds everything random (default: 0)")
    run.add_argument("--device", help="cpu, cuda, or auto: cuda if there is one (default: auto)")
    run.add_argument(
        "--val_metric",
        choices=["mse", "loss", "nll"],
        help="best.pth has the smallest: reconstruction error, loss, or -log p(x) by importance "
        "sampling, on valid (default: mse)",
    )
    run.add_argument(
        "--nll_samples",
        type=positive(int),
        help="draws an image for --val_metric nll; more come closer to -log p(x) (default: 50)",
    )
    run.add_argument(
        "--nll_every", type=positive(int), help="... only in every Nth epoch (default: 1)"
    )
    run.add_argument("--resume", action="store_true", help="go on from the last completed epoch")
    run.add_argument(
        "--overwrite", action="store_true", help="start over in a folder with another config"
    )

    model = parser.add_argument_group("the model (all tasks)")
    model.add_argument(
        "--latent_dim",
        type=positive(int),
        help="length of z, number of bits, or number of categorical variables; "
        "longer: better pictures, smaller bonus",
    )
    model.add_argument(
        "--likelihood", choices=["gaussian", "bernoulli"], help="family of p(x|h) or p(x|z)"
    )
    model.add_argument(
        "--hidden",
        type=positive(int),
        nargs="*",
        help="an MLP with these hidden widths, seen from x; nothing after it: a linear map; "
        "without the flag: convolutions",
    )
    model.add_argument(
        "--binarize",
        choices=["none", "threshold", "dynamic"],
        help="pixels to 0/1: at half intensity, or drawn anew at each visit",
    )

    if "VAEwolabel" in TASKS:
        add_vae_flags(parser)
    if "JSA" in TASKS:
        add_jsa_flags(parser)
    if "CGAE" in TASKS:
        add_patch_flags(parser)
    return parser


def add_vae_flags(parser: argparse.ArgumentParser) -> None:
    vae = parser.add_argument_group("VAEwolabel and Genwithlabel")
    vae.add_argument(
        "--var",
        type=positive(float),
        help="variance of the Gaussian likelihood; smaller: sharper reconstructions, "
        "samples less like digits",
    )


def add_jsa_flags(parser: argparse.ArgumentParser) -> None:
    jsa = parser.add_argument_group("JSA")
    jsa.add_argument("--latent", choices=["bernoulli", "categorical"], help="kind of latent")
    jsa.add_argument("--num_categories", type=positive(int), help="values of a categorical latent")
    jsa.add_argument(
        "--dataset",
        choices=["images", "gaussian2d"],
        help="gaussian2d: a toy in the plane where likelihood and posterior are exact",
    )
    jsa.add_argument("--activation", choices=list(ACTIVATIONS), help="between the layers")
    jsa.add_argument(
        "--sigma",
        type=positive(float),
        help="standard deviation of the Gaussian likelihood in the last epochs; "
        "smaller: sharper reconstructions, chains that move less",
    )
    jsa.add_argument(
        "--sigma_start",
        type=positive(float),
        help="... in the first epoch, from where it falls; larger: chains move more at first",
    )
    jsa.add_argument("--num_mis_steps", type=positive(int), help="proposals a batch and example")
    jsa.add_argument(
        "--cache_start_epoch",
        type=positive(int),
        help="first epoch in which chains start from the cached states; before, from draws of q "
        "(default: JSA has it in the last third of the epochs, CGAE from the first)",
    )
    jsa.add_argument(
        "--chain_states",
        choices=["last", "all"],
        help="train on the chain's last state, or on the average over all its states",
    )
    jsa.add_argument(
        "--code",
        choices=["mode", "best", "posterior"],
        help="how an image is encoded: the mode of q(h|x); the best by log p(x, h) of the mode "
        "and --code_draws draws; or one of these draws, in proportion to its importance weight",
    )
    jsa.add_argument("--code_draws", type=positive(int), help="draws for --code")
    jsa.add_argument("--lr_joint", type=positive(float), help="peak learning rate for p(x, h)")
    jsa.add_argument("--lr_proposal", type=positive(float), help="peak learning rate for q(h|x)")


def add_patch_flags(parser: argparse.ArgumentParser) -> None:
    patches = parser.add_argument_group(
        "CGAE (with --sampler mis also --lr_proposal and others of JSA)"
    )
    patches.add_argument("--num_prototypes", type=positive(int), help="K, different patches")
    patches.add_argument("--patch_size", type=positive(int), help="R, their height and width; odd")
    patches.add_argument(
        "--sampler",
        choices=["gibbs", "mis"],
        help="one Gibbs sweep a batch, or MIS with a proposal network (JSA)",
    )
    patches.add_argument(
        "--beta",
        type=positive(float),
        help="1 / (2 sigma^2) in the last epochs; larger: choices that move less",
    )
    patches.add_argument("--beta_start", type=positive(float), help="... in the first epoch")


def positive(kind):
    """An argparse type: an int or a float greater than 0."""

    def parse(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be greater than 0, not {text}")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def describe(settings: dict) -> str:
    return " ".join(f"--{key} {value}" for key, value in settings.items() if value is not None)


def make_config(parser: argparse.ArgumentParser, given: dict) -> dict:
    """All settings of the run: what was given, the task's defaults for the rest."""
    task = given["task"]
    common = {"data_dir": DATA_DIR, "seed": 0, "device": "auto"}
    common |= {"val_metric": "mse", "nll_samples": 50, "nll_every": 1}
    toy = task == "JSA" and given.get("dataset") == "gaussian2d"
    defaults = {"task": task, **common, **(TOY_DEFAULTS if toy else DEFAULTS[task])}
    given = {key: value for key, value in given.items() if key not in ONLY_THIS_CALL}
    unknown = [f"--{key}" for key in given if key not in defaults]
    if unknown:
        others = [t for t in TASKS if all(flag[2:] in DEFAULTS[t] for flag in unknown)]
        where = f", only for {', '.join(others)}" if others else ""
        parser.error(f"{', '.join(unknown)}: not for --task {task}{where}")
    config = defaults | given
    if task == "CGAE":
        check_patches(parser, config, given)
    if task == "JSA" and config["cache_start_epoch"] is None:
        config["cache_start_epoch"] = 2 * config["epochs"] // 3 + 1
    if toy and num_states(config) > MAX_TOY_STATES:
        parser.error(f"--dataset gaussian2d enumerates all states: at most {MAX_TOY_STATES}")
    return config


def check_patches(parser: argparse.ArgumentParser, config: dict, given: dict) -> None:
    if config["patch_size"] % 2 == 0 or config["patch_size"] > 28:
        parser.error(f"--patch_size {config['patch_size']}: an odd number up to 27")
    if config["num_prototypes"] > MAX_PROTOTYPES:
        parser.error(f"--num_prototypes: at most {MAX_PROTOTYPES}, a code's entry has 16 bits")
    unused = [f"--{key}" for key in ONLY_MIS if key in given and config["sampler"] == "gibbs"]
    if unused:
        parser.error(f"{', '.join(unused)}: only with --sampler mis")
    if config["val_metric"] == "nll" and config["sampler"] == "gibbs":
        parser.error("--val_metric nll draws from q(h|x), which only --sampler mis has")


def num_states(config: dict) -> int:
    """How many values the latent has."""
    values = 2 if config["latent"] == "bernoulli" else config["num_categories"]
    return values ** config["latent_dim"]


def load_data(config: dict) -> tuple[JsaDataset, JsaDataset]:
    """The training and the validation set of a run."""
    if config.get("dataset") == "gaussian2d":
        return JsaDataset(*gaussian2d(2000, seed=0)), JsaDataset(*gaussian2d(500, seed=1))
    ensure_prepared(config["data_dir"])
    train, valid = (
        JsaDataset(*load_split(config["data_dir"], split), config["binarize"])
        for split in ("train", "valid")
    )
    return train, valid.frozen()


def read_config(save_dir: Path) -> dict | None:
    """The settings of the run in this folder, None where there is none."""
    file = save_dir / "config.json"
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TrainingError(f"{file} is damaged; remove {save_dir} to start over") from error


def resumed_config(save_dir: Path, given: dict) -> dict:
    """The settings of the run to resume; what is given now must not contradict them."""
    found = read_config(save_dir)
    if found is None:
        raise TrainingError(f"there is no run to resume in {save_dir}")
    fixed = set(given) - FREE_ON_RESUME - ONLY_THIS_CALL
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


def draw_all(task, valid_set: JsaDataset, save_dir: Path, device: torch.device) -> None:
    draw_pictures(task, valid_set, save_dir, device)
    if isinstance(task, PatchTask):
        task.draw(valid_set, save_dir, device)


def run(config: dict, save_dir: Path, given: dict) -> None:
    """Train as `config` says; `given` are the flags of the command line."""
    resume = given.get("resume", False)
    if resume:
        config = resumed_config(save_dir, given)
    keep_freed_memory()
    if config.get("dataset") == "gaussian2d":
        torch.set_num_threads(1)  # tensors this small lose time when threads share them
    processes = Processes()
    device = processes.start(pick_device(config["device"]))
    train_set, valid_set = processes.in_turn(load_data, config)
    sha256 = fingerprint(train_set.images.numpy())
    if resume and config["train_sha256"] != sha256:
        raise TrainingError(f"the training images are not those that {save_dir} was started with")
    config["train_sha256"] = sha256
    if not resume and not given.get("overwrite"):
        check_folder(save_dir, config)
    set_seed(config["seed"])
    task = make_task(submission, config, len(train_set), device)
    trainer = Trainer(
        task,
        # The fused Adam makes one pass over all parameters instead of several a tensor.
        torch.optim.Adam(task.param_groups(), lr=config.get("lr", 1e-3), fused=True),
        train_set,
        valid_set,
        save_dir=save_dir,
        config=config,
        epochs=config["epochs"],
        batch_size=config["batch_size"],
        seed=config["seed"],
        device=device,
        val_metric=config["val_metric"],
        nll_samples=config["nll_samples"],
        nll_every=config["nll_every"],
        draw=ToyTask.draw if isinstance(task, ToyTask) else draw_all,
        processes=processes,
    )
    if resume:
        same = trainer.load_checkpoint(save_dir / "last.pth")
        print(f"Resuming {save_dir} after epoch {trainer.epoch} of {config['epochs']}.")
        if not same:
            print("The number of processes is another one, so other random numbers are drawn.")
    elif processes.rank == 0:
        for name in ("last.pth", "best.pth"):  # never beside the config of another run
            (save_dir / name).unlink(missing_ok=True)
    if processes.rank == 0:
        write_config(save_dir, config)
    finished = trainer.fit()
    processes.end()
    if finished:
        best = trainer.best_row()
        print(
            f"{config['task']}: {config['epochs']} epochs, {trainer.seconds:.0f} s. Best epoch "
            f"{best['epoch']:.0f} with {trainer.val_metric} {best[trainer.val_metric]:.4f}."
        )
        if isinstance(task, ToyTask):
            print(f"Look at {save_dir}/toy.png and loss_curve.png.")
        else:
            print(
                f"Look at {save_dir}/samples.png, reconstructions.png and loss_curve.png. Next:\n"
                f"  python inference.py --checkpoint_path {save_dir}/best.pth"
            )
    else:
        print(
            f"Stopped; {trainer.epoch} of {config['epochs']} epochs are complete. To go on:\n"
            f"  python train.py --task {config['task']} --save_dir {save_dir} --resume"
        )


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    given = vars(parser.parse_args(argv))
    config = make_config(parser, given)
    try:
        toy = config.get("dataset") == "gaussian2d"
        name = "gaussian2d" if toy else config["task"]
        run(config, Path(given.get("save_dir", f"runs/{name}")), given)
    except (DataError, TrainingError, OSError) as error:
        sys.exit(f"error: {error}")
    except NotImplementedError as error:
        sys.exit(f"error: {todo_message(error, submission, config['task'])}")


if __name__ == "__main__":
    main()
