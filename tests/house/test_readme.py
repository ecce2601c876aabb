"""What the README says is what there is: its commands and its Python run, in its order."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lepton_tvm.db import open_database
from lepton_tvm.demo import calibration, labelled, model_path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_lines() -> list[str]:
    """Every line of every shell block."""
    return [line for block in blocks("sh") for line in block.splitlines() if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's examples name."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copy(model_path(), folder / "model.onnx")
    data = labelled()
    np.savez(folder / "calibration.npz", input=calibration()["input"][:32])
    np.savez(folder / "labelled.npz", input=data["input"][:200], label=data["label"][:200])
    np.savez(folder / "x.npz", input=data["input"][:1])
    open_database(f"sqlite:///{folder / 'colleague.db'}").close()
    return folder


def run(command: list[str], folder: Path) -> str:
    """The command's stdout; its stderr is shown where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_commands_do_all() -> None:
    install_and_demo, install_and_test = shell_lines()[:2]
    assert install_and_demo.endswith("lepton-tvm demo")
    assert install_and_test.endswith("python -m pytest")


def test_ci_calls_the_test_command() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"\n{shell_lines()[1]}\n" in ci


def test_shell_examples_run_in_order(folder: Path) -> None:
    lines = [line for line in shell_lines() if line.startswith("lepton-tvm ")]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line)[1:]
        out = run([sys.executable, "-m", "lepton_tvm.cli", *words], folder)
        assert out.strip(), f"{line!r} printed nothing"


def test_python_example_runs(folder: Path) -> None:
    (code,) = blocks("python")
    assert "import lepton_tvm as lt" in code
    place = folder / "python"
    place.mkdir()
    for name in ("model.onnx", "calibration.npz", "labelled.npz"):
        shutil.copy(folder / name, place / name)
    out = run([sys.executable, "-c", code], place)
    assert "avx2" in out
    assert (place / "int8.so").is_file()


def test_readme_names_the_supported_pythons() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'requires-python = ">=3.10,<3.14"' in project
    assert "Python 3.10 to 3.13" in README
