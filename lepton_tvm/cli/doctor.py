"""`lepton-tvm doctor`: what this machine can do, found without loading the compiler."""

from __future__ import annotations

from typing import Any

from lepton_tvm.cli.command import Output, command, new_app
from lepton_tvm.cli.options import Json

__all__ = ["app"]

app = new_app()


@command(app, "doctor", example="lepton-tvm doctor --json")
def doctor(as_json: Json = False) -> Output:
    """Show what this machine can do; refuse versions known to crash."""
    from lepton_tvm.cli.findings import examine

    report = examine()
    return Output(report, _text(report), 1 if report["problems"] else 0, _problem(report))


def _gpu_text(gpu: dict[str, Any]) -> str:
    return (
        f"{gpu['name']}, compute capability {gpu['compute_capability']}, "
        f"driver for CUDA {gpu['driver_cuda']}"
    )


def _nvrtc_text(version: str | None) -> str:
    return f"NVRTC {version}" if version else 'not found (pip install "lepton-tvm[cuda]")'


def _amx_text(permission: bool | None) -> str:
    if permission is None:
        return "not on this CPU"
    return "granted by the kernel" if permission else "on this CPU, refused by the kernel"


def _problem(report: dict[str, Any]) -> str | None:
    return "; ".join(report["problems"]) or None


def _text(report: dict[str, Any]) -> str:
    from lepton_tvm.targets import native_family

    machine, packages, tools = report["machine"], report["packages"], report["toolchain"]
    known = ", ".join(native_family().levels)
    limit, crossed = report["expected_ceiling"], tools["cross_compilers"]
    lines = [
        f"CPU             {machine['cpu']}, {machine['cores']} cores, {machine['architecture']}",
        f"memory          {machine['memory_bytes'] / 2**30:.1f} GiB",
        f"ISA             {machine['isa'] or 'none that is supported'}",
        f"has             {', '.join(machine['isas']) or 'none'} (of {known})",
        f"AMX             {_amx_text(machine['amx_permission'])}",
        f"Python          {report['python']}",
        *(f"{name:<16}{version or 'not installed'}" for name, version in packages.items()),
        f"C compiler      {tools['c_compiler'] or 'not found'}",
        *(f"links {arch:<9} {path or 'not found'}" for arch, path in crossed.items()),
        *(f"GPU             {_gpu_text(gpu)}" for gpu in report["gpus"]),
        *([] if report["gpus"] else ["GPU             none found"]),
        f"GPU compiler    {_nvrtc_text(tools['nvrtc'])}",
    ]
    if limit:
        rates = ", ".join(
            f"{name} {limit[f'{name}_gops_per_core']}"
            for name in ("float32", "bfloat16", "int8")
            if limit[f"{name}_gops_per_core"] is not None
        )
        lines.append(f"ceiling         {rates or 'unknown'} Gop/s per core ({limit['basis']})")
        if native_family().name == "x86":  # the only family whose instructions it knows
            lines.append("                lepton-tvm bench --peak measures it")
    lines.append("all is well" if not report["problems"] else "problems were found")
    return "\n".join(lines)
