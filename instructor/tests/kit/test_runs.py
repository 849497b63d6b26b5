"""train.py, inference.py and grade.py together, in miniature."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import grade
import inference
import submission
import train
from data_utils import load_split
from instructor.tests.kit.tools import stop_message, weights
from kit.files import ROOT
from kit.processes import TrainingError
from kit.settings import JSASettings
from kit.tasks import make_task
from trainer import Totals, read_checkpoint

SHORT = ["--epochs", "2", "--batch_size", "20"]
VARIANTS = {
    name: flags.split()
    for name, flags in {
        "vae": "--task VAEwolabel --latent_dim 5",
        "vae_bernoulli": "--task VAEwolabel --likelihood bernoulli --hidden 30",
        "gen": "--task Genwithlabel --latent_dim 5 --binarize dynamic",
        "jsa": "--task JSA --latent_dim 12 --cache_start_epoch 2",
        "jsa_linear": "--task JSA --latent_dim 12 --hidden --likelihood bernoulli "
        "--binarize dynamic --chain_states all --code posterior",
        "jsa_categorical": "--task JSA --latent_dim 4 --latent categorical --num_categories 7 "
        "--hidden 30 20 --cache_start_epoch 1 --code best",
        "cgae": "--task CGAE --latent_dim 3 --num_prototypes 4",
        "cgae_mis": "--task CGAE --latent_dim 2 --num_prototypes 2 --sampler mis --val_metric nll "
        "--nll_samples 5",
    }.items()
}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("variant", VARIANTS)
def test_train_inference_grade(here, variant, capsys):
    flags = VARIANTS[variant]
    task = flags[1]
    train.main([*flags, *SHORT])
    folder = here / "runs" / task
    written = {p.name for p in folder.iterdir()}
    pictures = {"loss_curve.png", "samples.png", "reconstructions.png"}
    pictures |= {"interpolation.png", "patches.png" if task == "CGAE" else "latents.png"}
    pictures |= {"components.png"} if task == "JSA" else set()
    assert written == {"config.json", "log.csv", "last.pth", "best.pth"} | pictures
    log = (folder / "log.csv").read_text().splitlines()
    assert len(log) == 3 and log[0].startswith("epoch,loss") and "val_mse" in log[0]

    inference.main(["--checkpoint_path", f"runs/{task}/last.pth", "--png"])
    config = json.loads((folder / "config.json").read_text())
    codes = np.load(folder / "codes.npz")["codes"]
    assert codes.shape == (20, config["latent_dim"])
    assert np.load(folder / "reconstructions.npz")["images"].shape == (20, 28, 28)
    assert len(list((folder / "recon").glob("recon_*.png"))) == 20
    assert len(list((folder / "gen").glob("*/*.png"))) == 1000
    grade.main([])
    row = json.loads((here / "grade_result.json").read_text())[task]
    # Two epochs on a few images: the SSIM, and with it raw, may still be just below 0.
    assert row["reason"] == "" and row["raw"] > -2
    assert row["points"] == (0 if task == "CGAE" else max(row["raw"], 0)) < 30
    bits = {"jsa_categorical": 4 * np.log2(7), "jsa": 12, "vae": 160, "cgae": 3 * np.log2(4 * 784)}
    if variant in bits:
        assert row["bits"] == pytest.approx(bits[variant])
    grade.main(["--split", "test"])
    row = json.loads((here / "grade_result.json").read_text())[task]
    assert row["points"] == 0 and "not on test" in row["reason"]


@pytest.mark.parametrize("variant", ["gen", "jsa_categorical"])
def test_the_same_command_gives_the_same_weights(here, variant):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        train.main([*VARIANTS[variant], *SHORT, "--save_dir", name, "--seed", seed])
    a, b, c = (weights(f"{name}/last.pth") for name in "abc")
    assert same(a, b) and not same(a, c)
    assert Path("a/log.csv").read_text() == Path("b/log.csv").read_text()


def test_a_folder_with_another_config_is_kept(trained, capsys):
    trained([*VARIANTS["jsa"], *SHORT], "runs/JSA")
    before = weights("runs/JSA/last.pth")
    message = stop_message(train.main, *VARIANTS["jsa"], *SHORT, "--sigma", "0.35")
    assert "--sigma" in message and "--overwrite" in message
    assert same(before, weights("runs/JSA/last.pth"))
    train.main([*VARIANTS["jsa"], *SHORT])
    assert "starting over" in capsys.readouterr().out
    train.main([*VARIANTS["jsa"], *SHORT, "--sigma", "0.35", "--overwrite"])
    assert json.loads(Path("runs/JSA/config.json").read_text())["sigma"] == 0.35


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--task", "VEA"], "invalid choice"),
        (["--task", "VAEwolabel", "--sigma", "0.35"], "--sigma: not for --task VAEwolabel"),
        (["--task", "JSA", "--var", "0.3"], "--var: not for --task JSA"),
        (["--task", "JSA", "--latent_dim", "0"], "greater than 0"),
        (["--task", "JSA", "--lr_joint", "nan"], "greater than 0"),
        (["--task", "JSA", "--sigmma", "0.1"], "unrecognized"),
        ([], "--task"),
    ],
)
def test_bad_flags(here, capsys, flags, word):
    with pytest.raises(SystemExit) as stop:
        train.main(flags)
    assert stop.value.code == 2
    assert word in capsys.readouterr().err


def test_bad_circumstances(here):
    jsa = [*VARIANTS["jsa"], *SHORT]
    assert "no run to resume" in stop_message(train.main, *jsa, "--resume")
    assert "nowhere has no train.npz" in stop_message(train.main, *jsa, "--data_dir", "nowhere")
    assert "--device quantum" in stop_message(train.main, *jsa, "--device", "quantum")
    Path("file").write_text("")
    assert "file" in stop_message(train.main, *jsa, "--save_dir", "file/run")
    infer = inference.main
    assert "no checkpoint" in stop_message(infer, "--checkpoint_path", "none.pth")
    assert "not a readable" in stop_message(infer, "--checkpoint_path", "dataset/train.npz")


def test_checkpoint_and_flags_must_agree(trained):
    trained([*VARIANTS["vae"], *SHORT], "runs/VAEwolabel")
    path = ["--checkpoint_path", "runs/VAEwolabel/best.pth"]
    inference.main([*path, "--task", "VAEwolabel", "--latent_dim", "5"])
    assert "latent_dim 5" in stop_message(inference.main, *path, "--latent_dim", "6")
    assert "task VAEwolabel" in stop_message(inference.main, *path, "--task", "JSA")
    assert "does not exist" in stop_message(inference.main, *path, "--split", "hidden")


@pytest.mark.parametrize("wrapped", [True, False])
def test_checkpoint_without_config(trained, wrapped):
    trained([*VARIANTS["vae"], *SHORT], "runs/VAEwolabel")
    state = weights("runs/VAEwolabel/last.pth")
    torch.save({"model_state_dict": state} if wrapped else state, "bare.pth")
    bare = ["--checkpoint_path", "bare.pth"]
    assert "give --task" in stop_message(inference.main, *bare)
    inference.main([*bare, "--task", "VAEwolabel", "--latent_dim", "5", "--out", "bare"])
    inference.main(["--checkpoint_path", "runs/VAEwolabel/last.pth"])
    for name in ("codes", "reconstructions", "samples"):
        a, b = (np.load(f"{folder}/{name}.npz") for folder in ("bare", "runs/VAEwolabel"))
        assert all(np.array_equal(a[key], b[key]) for key in a.files)
    message = stop_message(inference.main, *bare, "--task", "VAEwolabel", "--latent_dim", "6")
    assert "does not fit" in message


def test_checkpoint_without_config_shows_its_prior(trained, capsys):
    trained([*VARIANTS["jsa"], *SHORT], "runs/JSA")
    torch.save(weights("runs/JSA/last.pth"), "bare.pth")
    inference.main(
        ["--checkpoint_path", "bare.pth", "--task", "JSA", "--latent_dim", "12", "--out", "bare"]
    )
    assert "12 bernoulli entries" in capsys.readouterr().out


def test_torn_and_foreign_checkpoints(trained):
    trained([*VARIANTS["vae"], *SHORT], "runs/VAEwolabel")
    whole = Path("runs/VAEwolabel/last.pth").read_bytes()
    Path("torn.pth").write_bytes(whole[: len(whole) // 2])
    torch.save([1, 2], "list.pth")
    torch.save({"model_state_dict": torch.nn.Linear(2, 2)}, "pickle.pth")
    for name in ("torn", "list", "pickle"):
        with pytest.raises(TrainingError, match=f"{name}.pth"):
            read_checkpoint(f"{name}.pth")


def test_non_finite_loss_stops_with_advice(trained, monkeypatch):
    flags = [*VARIANTS["vae"], *SHORT]
    trained(flags, "runs/VAEwolabel")
    message = stop_message(train.main, *flags, "--lr", "1e30", "--overwrite")
    assert "--lr" in message and "nan" in message
    assert all(w.isfinite().all() for w in weights("runs/VAEwolabel/last.pth").values())


def test_non_finite_output_is_refused(trained):
    trained([*VARIANTS["vae"], *SHORT], "runs/VAEwolabel")
    state = weights("runs/VAEwolabel/last.pth")
    for name, step in (("encoder", "encoder"), ("decoder", "decode")):
        bad = {k: v * float("nan") if name in k else v for k, v in state.items()}
        torch.save(bad, "bad.pth")
        arguments = ["--checkpoint_path", "bad.pth", "--task", "VAEwolabel", "--latent_dim", "5"]
        assert step in stop_message(inference.main, *arguments)


def test_ctrl_c_ends_after_the_batch_and_says_how_to_go_on(here):
    command = [sys.executable, str(ROOT / "train.py"), *VARIANTS["jsa"]]
    command += ["--epochs", "2000", "--batch_size", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        log = here / "runs" / "JSA" / "log.csv"
        deadline = time.monotonic() + 60
        while not (log.is_file() and len(log.read_text().splitlines()) > 3):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 0
    assert "of 2000 epochs are complete" in output and "--resume" in output
    rows = len(log.read_text().splitlines()) - 1
    assert read_checkpoint("runs/JSA/last.pth")["epoch"] == rows


def test_one_object_not_copies(small_data):
    task = make_task(submission, JSASettings(), num_examples=4)
    assert task.sampler.joint is task.joint and task.sampler.proposal is task.proposal
    images, labels = load_split(small_data, "train")
    x = torch.as_tensor(images[:4]).float().unsqueeze(1) / 255
    h = torch.ones(4, 200)
    torch.manual_seed(0)
    task.sampler.sample(x, h_init=h)
    before = task.sampler.log_w[0]
    optimizer = torch.optim.SGD(task.model.parameters(), lr=1e-3)
    loss, _ = task.loss(x, torch.as_tensor(labels[:4]), None)
    loss.backward()
    optimizer.step()
    task.sampler.sample(x, h_init=h)
    assert not torch.allclose(before, task.sampler.log_w[0])
    names = list(task.state_dict())
    pointers = [value.data_ptr() for value in task.state_dict().values()]
    assert len(set(pointers)) == len(names)
    assert {name.split(".")[0] for name in names} == {"joint", "proposal"}


def test_totals_are_means_over_the_examples_of_the_batches_that_have_a_value():
    totals = Totals()
    totals.add({"loss": torch.tensor(1.0), "ess": torch.tensor([5.0])}, 10)
    assert totals.means() == {"loss": 1.0, "ess": 5.0}
    totals.add({"loss": torch.tensor(4.0)}, 20)
    assert totals.means() == {"loss": 3.0, "ess": 5.0}
    totals.add({"loss": torch.tensor(0.0), "ess": torch.tensor(2.0)}, 30)
    assert totals.means() == {"loss": 1.5, "ess": 2.75}
    totals.add({"loss": torch.tensor(torch.nan)}, 1)
    assert np.isnan(totals.means()["loss"]) and totals.means()["ess"] == 2.75
