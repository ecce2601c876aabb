"""Wheel, source archive and editable install all hold the linked folders and the demo's files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (
    "lepton_tvm/py.typed",
    "lepton_tvm/passes/base.py",
    "lepton_tvm/schedules/__init__.py",
    "lepton_tvm/demo/resnet8.onnx",
    "lepton_tvm/demo/test.npz",
    "lepton_tvm/demo/calibration.npz",
    "lepton_tvm/demo/NOTICE",
    "lepton_tvm/db/migrations/env.py",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, links kept, so that building leaves nothing behind in ours."""
    target = tmp_path_factory.mktemp("source") / "tree"
    skip = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", "build", "dist", ".*_cache")
    target.mkdir()
    for name in ("lepton_tvm", "passes", "schedules"):
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the tree."""
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def build(kind: str, source: Path, out: Path) -> Path:
    """Call setuptools' own hook; `kind` is wheel or sdist."""
    code = f"import sys; from setuptools import build_meta as b; b.build_{kind}(sys.argv[1])"
    run([sys.executable, "-c", code, str(out)], source)
    (built,) = out.iterdir()
    return built


def run(command: list[str], cwd: Path, **env: str) -> str:
    """The command's stdout; its stderr is shown where it fails."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def imported_files(python: str, cwd: Path, **env: str) -> list[str]:
    """Where the package and one module behind a link lie when `python` imports them."""
    code = (
        "import lepton_tvm, lepton_tvm.passes.base, lepton_tvm.schedules; "
        "print(lepton_tvm.__file__, lepton_tvm.passes.base.__file__, sep='\\n')"
    )
    return run([python, "-c", code], cwd, **env).splitlines()


def test_wheel_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(n for n in names if n.endswith("entry_points.txt"))
        assert "lepton-tvm = lepton_tvm.cli:main" in archive.read(entry).decode()
    assert set(NEEDED) <= names
    versions = {n for n in names if n.startswith("lepton_tvm/db/migrations/versions/")}
    assert versions, "the wheel lacks the database's migrations"
    assert not [n for n in names if n.startswith(("passes/", "schedules/", "tests/"))]


def test_installed_wheel_imports(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    run([*install, "--target", str(target), str(wheel)], tmp_path)
    for file in imported_files(sys.executable, tmp_path, PYTHONPATH=str(target)):
        assert Path(file).is_relative_to(target)


def test_source_archive_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "sdist").mkdir()
    (tmp_path / "again").mkdir()
    archive = build("sdist", source, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        if sys.version_info >= (3, 12):
            tar.extractall(tmp_path, filter="data")
        else:
            tar.extractall(tmp_path)
    tree = tmp_path / archive.name.removesuffix(".tar.gz")
    with zipfile.ZipFile(build("wheel", tree, tmp_path / "again")) as again:
        names = set(again.namelist())
    with zipfile.ZipFile(wheel) as first:
        assert names == set(first.namelist())


def test_editable_install_reads_the_tree(source: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)], tmp_path)
    python = str(venv / "bin" / "python")
    # The new environment sees this one's packages, setuptools and the dependencies among them.
    site = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path)
    ours = [p for p in sys.path if p.endswith("site-packages")]
    (Path(site.strip()) / "outer.pth").write_text("\n".join(ours))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps"]
    run([*pip, "--no-build-isolation", "--no-index", "-e", str(source)], tmp_path)
    for file in imported_files(python, tmp_path, PYTHONPATH=""):
        assert Path(file).is_relative_to(source)
