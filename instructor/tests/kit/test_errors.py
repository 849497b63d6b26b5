"""What a student reads when submission.py stops with an error: its own line, no traceback."""

import importlib.util
from pathlib import Path

import pytest
import torch

import inference
import train
from instructor.layout import PROVIDED, files
from instructor.tests.kit.tools import stop_message
from instructor.tests.warm import run_in_handout
from kit.files import ROOT
from trainer import read_checkpoint

VAE = ["--task", "VAEwolabel", "--latent_dim", "5", "--epochs", "1", "--batch_size", "20"]
FOLDER = "runs/VAEwolabel"
DECODE = "return torch.sigmoid(self.decoder(z)).reshape(-1, 1, 28, 28)"
SOURCE = (ROOT / "submission.py").read_text()


@pytest.fixture
def with_source(here, monkeypatch):
    """A function: old and new text -> train.py and inference.py use the submission edited so."""

    def change(old: str, new: str) -> None:
        assert old in SOURCE
        Path("submission.py").write_text(SOURCE.replace(old, new, 1))
        spec = importlib.util.spec_from_file_location("edited", Path("submission.py").resolve())
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for command in (train, inference):
            monkeypatch.setattr(command, "submission", module)

    return change


@pytest.mark.parametrize("kind", ["ValueError", "TypeError", "KeyError", "AssertionError"])
def test_an_error_of_the_student_s_code_shows_its_own_line(trained, with_source, kind):
    trained(VAE, FOLDER)
    line = f"raise {kind}('odd shape')"
    with_source(DECODE, line)
    infer = [inference.main, "--checkpoint_path", "runs/VAEwolabel/best.pth"]
    for message in (stop_message(*infer), stop_message(train.main, *VAE)):
        first, place, code = message.splitlines()
        assert first.startswith(f"error: {kind}: ") and "odd shape" in first
        assert place.startswith("  submission.py, line ") and place.endswith(", in decode:")
        assert code.strip() == line


def test_an_error_inside_a_library_shows_the_student_s_line(with_source):
    with_source(DECODE, "return torch.sigmoid(self.decoder(z[:, :3])).reshape(-1, 1, 28, 28)")
    message = stop_message(train.main, *VAE)
    assert "mat1 and mat2" in message and "self.decoder(z[:, :3])" in message
    assert "submission.py, line" in message and "Traceback" not in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return self.decode(z), mu, log_var", "return mu, log_var", ["unpack", "self.model(x"]),
        ("return (reconstruction + kl) / batch", "return 1.0", ["float", "trainer.py, line"]),
    ],
)
def test_what_does_not_fit_shows_the_line_that_could_not_use_it(with_source, old, new, words):
    with_source(old, new)
    message = stop_message(train.main, *VAE)
    assert all(word in message for word in words), message
    assert "What submission.py returned" in message and message.count("\n") == 3


@pytest.mark.parametrize(
    ("old", "new", "task", "says"),
    [
        (DECODE, "return self.decoder(z).flatten(1)[:, :5]", "VAEwolabel", "forward must return"),
        ("        self.record(states, log_w, rows)\n", "", "JSA", "must call self.record(states,"),
        ("class MISampler(", "class Sampler(", "JSA", "submission.py has no MISampler (part 4)"),
    ],
)
def test_what_the_kit_knows_is_one_line(with_source, old, new, task, says):
    with_source(old, new)
    flags = ["--task", task, "--latent_dim", "5", "--epochs", "1", "--batch_size", "20"]
    message = stop_message(train.main, *flags)
    assert says in message and "\n" not in message


def test_a_known_kind_of_error_in_the_student_s_code_shows_its_line_too(with_source):
    with_source(DECODE, "open('my_table.txt')")
    message = stop_message(train.main, *VAE)
    assert "my_table.txt" in message and "submission.py, line" in message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("x = = 1", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("print(undefined)", "undefined"),
    ],
)
def test_a_submission_that_cannot_be_imported(tmp_path, line, says):
    for name in files(*PROVIDED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "submission.py").write_text(f"import torch\n{line}\n")
    for program in ("train.py", "inference.py"):
        done = run_in_handout(tmp_path, program, "--help")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert says in done.stderr and "submission.py, line 2" in done.stderr
        assert line in done.stderr


@pytest.mark.parametrize("content", ["[]", "{}", "{torn", "null"])
def test_a_damaged_config_is_named(trained, content):
    trained(VAE, FOLDER)
    Path("runs/VAEwolabel/config.json").write_text(content)
    for more in ([], ["--resume"]):
        assert "config.json is damaged" in stop_message(train.main, *VAE, *more)


def test_odd_checkpoints_are_named(trained):
    trained(VAE, FOLDER)
    good = read_checkpoint("runs/VAEwolabel/last.pth")
    odd = [{"config": []}, {"config": {}}, {"config": good["config"] | {"seed": "x"}}]
    odd += [{"config": good["config"] | {"latent_dim": 6}}]
    for change in odd:
        torch.save(good | change, "odd.pth")
        message = stop_message(inference.main, "--checkpoint_path", "odd.pth")
        assert "\n" not in message and ("odd.pth" in message or "--seed" in message)
    del good["model_state_dict"]
    torch.save(good, "runs/VAEwolabel/last.pth")
    assert "does not fit" in stop_message(train.main, *VAE, "--resume")
    assert "--device meta" in stop_message(train.main, *VAE, "--device", "meta", "--overwrite")
    assert "--seed" in stop_message(inference.main, "--checkpoint_path", "odd.pth", "--seed", "-1")


def test_a_run_cannot_shrink(here):
    train.main([*VAE[:-4], "--epochs", "3", "--batch_size", "20"])
    before = Path("runs/VAEwolabel/config.json").read_bytes()
    message = stop_message(train.main, *VAE, "--resume")
    assert "already has 3 epochs" in message
    assert Path("runs/VAEwolabel/config.json").read_bytes() == before
