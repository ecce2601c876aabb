"""Loading: refusals before any code runs, and a fresh process without the compiler."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_tvm import runtime
from lepton_tvm.errors import ArtifactError, InputError, TargetError
from lepton_tvm.runtime import loader
from tests.support import toy_artifact as toy


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "model.so"
    toy.write(path)
    return path


def fresh(code: str, *args: object) -> str:
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_fresh_process_loads_no_compiler(path: Path) -> None:
    code = (
        "import sys; from lepton_tvm import runtime; import numpy as np\n"
        "y = runtime.load(sys.argv[1])(np.ones((2, 8), 'float32'))\n"
        "maps = open('/proc/self/maps').read()\n"
        "heavy = {'tvm', 'onnx', 'torch', 'sqlalchemy', 'tvm.relax'} & set(sys.modules)\n"
        "print(y.shape, 'libtvm_runtime.so' in maps, 'libtvm_compiler' in maps, heavy)"
    )
    assert fresh(code, path) == "(2, 4) True False set()"


def test_bare_file_name_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    assert runtime.load("model.so").manifest["name"] == "toy"


@pytest.mark.parametrize("first", ["runtime", "tvm"])
def test_shares_the_process_with_tvm_in_either_order(path: Path, first: str) -> None:
    imports = ["from lepton_tvm import runtime; net = runtime.load(sys.argv[1]); net(x)"]
    imports.insert(1 if first == "runtime" else 0, "import tvm")
    code = "\n".join(
        [
            "import sys; import numpy as np; x = np.ones((2, 8), 'float32')",
            *imports,
            "from lepton_tvm import runtime; net = runtime.load(sys.argv[1])",
            "from tvm import relax",
            "vm = relax.VirtualMachine(tvm.runtime.load_module(sys.argv[1]), tvm.cpu())",
            "theirs = vm['main'](tvm.runtime.tensor(x)).numpy()",
            "print(bool((theirs == net(x)).all()))",
        ]
    )
    assert fresh(code, path) == "True"


def test_one_thread_starts_no_workers_and_pins_nothing(path: Path) -> None:
    code = (
        "import os, sys; before = os.sched_getaffinity(0)\n"
        "import numpy as np; started = len(os.listdir('/proc/self/task'))\n"
        "from lepton_tvm import runtime; net = runtime.load(sys.argv[1], threads=1)\n"
        "net(np.ones((2, 8), 'float32'))\n"
        "print(len(os.listdir('/proc/self/task')) - started, os.sched_getaffinity(0) == before)"
    )
    assert fresh(code, path) == "0 True"


def test_asked_number_of_threads_is_used(path: Path) -> None:
    code = (
        "import sys; import numpy as np; from lepton_tvm import runtime\n"
        "from lepton_tvm.runtime.threads import run_with_threads\n"
        "from lepton_tvm.runtime.library import global_function\n"
        "nets = [runtime.load(sys.argv[1], threads=n) for n in (1, 3, 2, 1)]\n"
        "for net in nets: net(np.ones((2, 8), 'float32'))\n"
        "print([run_with_threads(n, global_function('runtime.NumThreads')) for n in (1, 3, 2, 1)])"
    )
    assert fresh(code, path) == "[1, 3, 2, 1]"


def test_parallel_loops_may_use_the_asked_number_of_threads(path: Path) -> None:
    # what a parallel loop asks; TVM forgets it whenever the pool is configured
    code = (
        "import sys; import numpy as np; from lepton_tvm import runtime\n"
        "from lepton_tvm.runtime.threads import run_with_threads\n"
        "from lepton_tvm.runtime.library import runtime_library\n"
        "nets = [runtime.load(sys.argv[1], threads=n) for n in (2, 1, 3)]\n"
        "for net in nets: net(np.ones((2, 8), 'float32'))\n"
        "limit = runtime_library()['_ZN3tvm7runtime9threading14MaxConcurrencyEv']\n"
        "print([run_with_threads(n, limit) for n in (2, 1, 3, 1, 2)])"
    )
    assert fresh(code, path) == "[2, 1, 3, 1, 2]"


def test_flipped_byte_is_found_before_loading(path: Path, tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    broken = tmp_path / "broken.so"
    broken.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"is damaged: its contents do not match the sha256"):
        runtime.load(broken)


def test_missing_cpu_features_are_named(tmp_path: Path) -> None:
    toy.write(tmp_path / "model.so", cpu_features=["avx1024", "warp"], isa="avx1024")
    with pytest.raises(TargetError, match=r"this CPU lacks avx1024, warp; compile it for"):
        runtime.load(tmp_path / "model.so")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    toy.write(tmp_path / "model.so", arch="z80")
    with pytest.raises(TargetError, match=f"built for z80, this machine is {platform.machine()}"):
        runtime.load(tmp_path / "model.so")


def test_features_of_a_given_machine() -> None:
    manifest = {"arch": platform.machine(), "cpu_features": ["avx2"], "target": "t", "isa": "i"}
    loader.check_machine(manifest, "a", flags=frozenset({"avx2", "fma"}))
    with pytest.raises(TargetError, match="lacks avx2"):
        loader.check_machine(manifest, "a", flags=frozenset({"fma"}))


def test_another_tvm_version_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "tvm_version", lambda: "9.9.0")
    with pytest.raises(ArtifactError, match=r"built with apache-tvm .*, installed is 9\.9\.0"):
        runtime.load(path)


def test_version_is_read_without_importing_tvm() -> None:
    from importlib.metadata import version

    from lepton_tvm.runtime.library import tvm_version

    assert tvm_version() == version("apache-tvm")


@pytest.mark.parametrize("threads", [0, -1, 5000, True, 1.5, "2"])
def test_bad_thread_counts(path: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="threads must be"):
        runtime.load(path, threads=threads)


def test_a_file_compiled_anew_runs_its_new_code(tmp_path: Path) -> None:
    """The system's loader knows libraries by their path and would give the old one again."""
    path = tmp_path / "model.so"
    x = np.ones((2, 8), "float32")
    toy.write(path, toy.dense(1.0))
    first = runtime.load(path)
    before = first(x)
    toy.write(path, toy.dense(3.0))
    again = runtime.load(path)
    assert again.sha256 != first.sha256
    np.testing.assert_allclose(again(x), 3 * before, rtol=1e-6)
    np.testing.assert_array_equal(first(x), before)


def test_a_net_that_is_gone_leaves_no_memory_behind(tmp_path: Path) -> None:
    toy.write(tmp_path / "large.so", toy.large(10240, 1024))
    weights = 4 * 10240 * 1024  # blocks of over 32 MiB go back to the system at once
    code = (
        "import sys; import numpy as np; from lepton_tvm import runtime\n"
        "x = np.ones((1, 10240), 'float32')\n"
        "def grown():\n"
        "    assert (runtime.load(sys.argv[1])(x) == 10240).all()\n"
        "    return 4096 * int(open('/proc/self/statm').read().split()[1])\n"
        "first = grown()\n"
        "last = [grown() for _ in range(8)][-1]\n"
        "print(last - first, 'large.so' in open('/proc/self/maps').read())"
    )
    grown, mapped = fresh(code, tmp_path / "large.so").split()
    assert int(grown) < 2 * weights
    assert mapped == "False"


def test_a_result_and_a_timer_outlive_their_net(path: Path) -> None:
    net = runtime.load(path)
    x = np.ones((2, 8), "float32")
    out, run = net(x), net.timer(x)
    del net
    assert run(2) > 0
    del run
    np.testing.assert_array_equal(out, runtime.load(path)(x))
