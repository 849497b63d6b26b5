"""A new task is a row, a settings class and a task class: everything else follows."""

import json
import re

from instructor.layout import PROVIDED, SOLVED, files
from instructor.tests.warm import run_in_handout
from kit.files import ROOT

ROW = """ROWS = (
    Part(
        number="6",
        title="autoencoder",
        task="Plain",
        settings="kit.settings:PlainSettings",
        classes=("Autoencoder",),
        todos=("6",),
        points={"6.1": 5},
        quality=10,
        code_kinds=("float",),
    ),"""
SETTINGS = """

@defaults(latent_dim=7, epochs=2)
class PlainSettings(TaskSettings):
    \"\"\"A plain autoencoder (part 6).\"\"\"

    task = "Plain"
    task_class = "kit.tasks.plain:PlainTask"

    lr: float = setting(2e-3, "learning rate of Adam")
"""
TASK = """
import torch

from kit.tasks.base import Task, as_images


class PlainTask(Task):
    @classmethod
    def make(cls, submission, settings, num_examples, device):
        return cls(submission.Autoencoder(settings.latent_dim).to(device), settings)

    def param_groups(self):
        return [{"params": self.model.parameters(), "lr": self.settings.lr}]

    def loss(self, x, labels, index):
        return ((self.decode(self.encode(x, labels), labels) - x) ** 2).mean(), {}

    def encode(self, x, labels):
        return self.model.encoder(x)

    def decode(self, code, labels):
        return as_images(torch.sigmoid(self.model.decoder(code)), "decoder")

    def generate(self, labels):
        return self.decode(torch.randn(len(labels), self.settings.latent_dim), labels)
"""
MODEL = """

class Autoencoder(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.encoder, self.decoder = mlp([784, latent_dim]), mlp([latent_dim, 784])
"""
STUB = """

def part_six(x):
    raise NotImplementedError("TODO 6.1: nothing")
"""


def test_a_fifth_task(tmp_path, small_data):
    for name in files(*PROVIDED, SOLVED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "dataset").symlink_to(small_data)
    table = tmp_path / "kit" / "assignment.py"
    table.write_text(table.read_text().replace("ROWS = (", ROW, 1))
    for name, more in (("kit/settings.py", SETTINGS), ("submission.py", MODEL)):
        (tmp_path / name).write_text((tmp_path / name).read_text() + more)
    (tmp_path / "kit" / "tasks" / "plain.py").write_text(TASK)

    def run(*arguments: str) -> str:
        done = run_in_handout(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert re.search(r"Plain +A plain autoencoder \(part 6\)\.", run("train.py", "--help"))
    shown = run("train.py", "--task", "Plain", "--help")
    assert re.search(r"--lr LR +learning rate of Adam \(default: 0\.002\)", shown)
    assert "(default: 7)" in shown and "--sigma" not in shown and "(default: runs/Plain)" in shown
    assert "Plain: 2 epochs" in run("train.py", "--task", "Plain", "--batch_size", "20")
    run("inference.py", "--checkpoint_path", "runs/Plain/best.pth")
    assert re.search(r"Plain +0\.\d+ .*/ 10", run("grade.py"))
    row = json.loads((tmp_path / "grade_result.json").read_text())["Plain"]
    assert row["code_length"] == 7 and row["bits"] == 7 * 32 and 0 < row["points"] <= 10
    (tmp_path / "submission.py").write_text((tmp_path / "submission.py").read_text() + STUB)
    script = "import submission; from kit.todos import missing_todos; "
    script += "from kit.assignment import LIMITS, code_points, max_total; "
    script += "print(missing_todos(submission, 'Plain'), 'Plain.pth' in LIMITS, "
    script += "code_points(('6',)), max_total(('6',)))"
    assert run("-c", script).strip() == "['TODO 6.1 (part_six)'] True 5.0 15.0"
