"""The annotations of kernels: there and back, what is refused, and that one file spells them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import lepton_tvm
from lepton_tvm.errors import CompileError
from lepton_tvm.kernels.notes import Form, KernelNotes
from lepton_tvm.kernels.register_tile import RegisterTile

TILE = RegisterTile(6, 16, 2)
CONV = KernelNotes("conv2d", "uint8", 1000, TILE, 4)
CASES = [
    CONV,
    replace(CONV, operand="uint8x4"),
    replace(CONV, mmla=True, dot=8),
    replace(CONV, amx_tiles='{"step": 64}'),
    KernelNotes("matmul", "bfloat16", 12, TILE, 2),
    KernelNotes("batch_matmul", "float32", 12, TILE),
    KernelNotes("depthwise_conv2d", "uint8", 9, TILE, 4, lines=2),
    KernelNotes("depthwise_conv2d", "float32", 9, TILE, unrolled=False),
    KernelNotes("winograd_conv2d", "float32", 9, TILE, winograd_group=49),
    KernelNotes("gemm", "int8", 64),
    KernelNotes("window_conv", "float32", 64),
]


@pytest.mark.parametrize("notes", CASES, ids=lambda n: f"{n.kernel} {n.operand} {n.form.value}")
def test_notes_come_back_from_their_annotations(notes: KernelNotes) -> None:
    assert KernelNotes.from_attrs(notes.to_attrs()) == notes
    assert KernelNotes.from_attrs({**notes.to_attrs(), "another": 1}) == notes


def test_the_annotations_are_those_that_tuning_records_were_made_with() -> None:
    assert replace(CONV, mmla=True).to_attrs() == {
        "lepton.kernel": "conv2d",
        "lepton.operand": "uint8",
        "lepton.matrix": 1,
        "lepton.lanes": 16,
        "lepton.vectors": 2,
        "lepton.rows": 6,
        "lepton.dot": 4,
        "lepton.macs": 1000,
    }
    assert KernelNotes("gemm", "int8", 64).to_attrs() == {
        "lepton.kernel": "gemm", "lepton.operand": "int8", "lepton.macs": 64
    }  # fmt: skip


def test_one_key_holds_the_geometry_of_amx_and_the_group_of_winograd() -> None:
    amx = replace(CONV, amx_tiles="{}")
    group = KernelNotes("winograd_conv2d", "float32", 9, TILE, winograd_group=49)
    assert amx.to_attrs()["lepton.tiles"] == "{}"
    assert group.to_attrs()["lepton.tiles"] == 49
    assert (amx.form, group.form) == (Form.AMX, Form.VECTORS)


def test_a_block_without_a_kernel_has_no_notes() -> None:
    assert KernelNotes.from_attrs({"lepton.row_stage": "fold"}) is None


def test_an_unknown_kernel_is_refused_with_its_place() -> None:
    attrs = {**CONV.to_attrs(), "lepton.kernel": "conv3d"}
    with pytest.raises(CompileError, match=r"block 'conv': no kernel is called 'conv3d': .*gemm"):
        KernelNotes.from_attrs(attrs, "block 'conv'")


@pytest.mark.parametrize("key", [k for k in CONV.to_attrs() if k != "lepton.kernel"])
def test_a_missing_annotation_is_refused_with_its_place(key: str) -> None:
    attrs = {k: v for k, v in CONV.to_attrs().items() if k != key}
    with pytest.raises(CompileError, match=rf"block 'conv' \(conv2d\) lacks .*{key}"):
        KernelNotes.from_attrs(attrs, "block 'conv'")


@pytest.mark.parametrize(
    ("kernel", "fields", "reason"),
    [
        ("conv2d", {"tile": None}, "a conv2d kernel must have a register tile"),
        ("gemm", {}, "a gemm kernel must have no register tile"),
        ("winograd_conv2d", {}, "must have a group of image tiles"),
        ("conv2d", {"winograd_group": 4}, "must have no group of image tiles"),
        ("batch_matmul", {"mmla": True}, "a batch_matmul kernel has no form for MMLA"),
        ("conv2d", {"mmla": True, "amx_tiles": "{}"}, "cannot be packed for MMLA and AMX at once"),
    ],
)
def test_fields_that_do_not_fit_a_kernel_are_refused(
    kernel: str, fields: dict[str, object], reason: str
) -> None:
    with pytest.raises(CompileError, match=reason):
        replace(CONV, kernel=kernel, **fields)  # type: ignore[arg-type]


def test_no_other_file_spells_an_annotation() -> None:
    package = Path(lepton_tvm.__file__).parent
    notes = package / "kernels" / "notes.py"
    keys = set(re.findall(r'"(lepton\.\w+)"', notes.read_text()))
    assert {"lepton.kernel", "lepton.tiles", "lepton.row_stage", "lepton.weights_step"} <= keys
    links = [package, package / "passes", package / "schedules"]
    files = {file.resolve() for root in links for file in root.resolve().rglob("*.py")}
    assert len(files) > 200
    spelled = re.compile("|".join(rf"{re.escape(key)}\b" for key in sorted(keys)))
    found = [str(f) for f in files - {notes.resolve()} if spelled.search(f.read_text())]
    assert not found
