"""Kernels in C for the tests of devices: y = 2 x, and ones that fail in their own ways."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
from tvm_ffi import libinfo

from lepton_tvm.workers import Argument, RunRequest

SIZE = 1000

_SOURCE = """
#include <tvm/ffi/c_api.h>
static DLTensor* tensor(const TVMFFIAny* a) {{
  if (a->type_index != kTVMFFITensor) return (DLTensor*)a->v_ptr;
  return TVMFFITensorGetDLTensorPtr(a->v_obj);
}}
extern "C" int __tvm_ffi_main(void*, const TVMFFIAny* args, int32_t n, TVMFFIAny* result) {{
  float* x = (float*)tensor(&args[0])->data;
  float* y = (float*)tensor(&args[1])->data;
  for (int i = 0; i < {size}; ++i) y[i] = {factor} * x[i];
  {body}
  return 0;
}}
// {mark}
"""

_BODIES = {
    "double": "",
    "wrong": "y[17] += 1;",
    "crash": "*(volatile int*)8 = 1;",
    "hang": "for (volatile int spin = 1; spin;) {}",
}


def make(folder: Path, kind: str, mark: int = 0) -> str:
    """A shared library of that kind; `mark` makes its content one of its own."""
    source, library = folder / f"{kind}{mark}.cc", folder / f"{kind}{mark}.so"
    source.write_text(
        _SOURCE.format(size=SIZE, factor=2, body=_BODIES[kind], mark=mark)
        + f'extern "C" const int lepton_mark_{mark} = {mark};\n'
    )
    include = [libinfo.find_include_path(), libinfo.find_dlpack_include_path()]
    flags = [f"-I{path}" for path in include]
    compiler = shutil.which("g++")
    assert compiler is not None
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", *flags, "-o", str(library), str(source)], check=True
    )
    return str(library)


def arguments(folder: Path) -> tuple[Argument, ...]:
    """x with values, y to be written."""
    path = folder / "x.bin"
    if not path.exists():
        np.random.default_rng(0).standard_normal(SIZE).astype("<f4").tofile(path)
    return (Argument((SIZE,), "float32", str(path)), Argument((SIZE,), "float32", None))


def request(folder: Path, name: str, library: str, reference: str | None = None) -> RunRequest:
    """Time `library`, beside `reference` where one is given."""
    given = arguments(folder)
    return RunRequest(
        id=name,
        path=library,
        arguments=given,
        reference=reference,
        reference_arguments=given if reference else (),
        budget_s=0.02,
    )
