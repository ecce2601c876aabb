"""`compile`: a model becomes one `.so` with its manifest inside, recorded in the database."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tvm.artifact import Manifest, read_manifest, save
from lepton_tvm.compiler.dump import dump_to
from lepton_tvm.compiler.phase import Hook, watched
from lepton_tvm.compiler.pipeline import Build, build
from lepton_tvm.compiler.tuned import tuned_by
from lepton_tvm.compiler.tuned_plans import Tuned
from lepton_tvm.db import Database, open_database
from lepton_tvm.errors import InputError
from lepton_tvm.ir.cost import macs
from lepton_tvm.model import Model
from lepton_tvm.targets import Target, parse_target
from lepton_tvm.targets.cuda import gpu_of

__all__ = ["CompiledArtifact", "compile", "variant_name"]

Db = Database | str | PathLike[str] | bool | None


@dataclass(frozen=True)
class CompiledArtifact:
    """What `compile` made: where the file lies, its hash and size, and its manifest.

    `path` is the file that was asked for, or the stored one in the database's folder.
    """

    path: Path
    sha256: str
    size_bytes: int
    variant: str
    db: str | None
    manifest: Mapping[str, Any] = field(repr=False)
    report: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Path, hash, size, name and manifest as JSON values."""
        return {
            "artifact": str(self.path),
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "name": self.variant,
            "db": self.db,
            "precision": self.manifest["precision"],
            "target": self.manifest["target"],
            "isa": self.manifest["isa"],
            "macs": self.manifest["macs"],
            "report": list(self.report),
        }

    def __str__(self) -> str:
        kept = f", recorded in {self.db}" if self.db else ""
        return (
            f"{self.path}: {self.variant}, {self.size_bytes / 1024:.0f} KiB, "
            f"{self.manifest['target']}, sha256 {self.sha256[:12]}{kept}"
        )


def compile(
    model: Model,
    *,
    target: str | Target = "native",
    output: str | Path | None = None,
    db: Db = None,
    variant: str | None = None,
    winograd: bool = True,
    tuned: bool | Tuned = True,
    hardware: str | None = None,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
    dump: str | Path | None = None,
) -> CompiledArtifact:
    """Compile `model` for `target` without any search.

    Schedules that `tune` found are used where the database has them for exactly this target,
    machine, TVM and lepton_tvm, and for kernels on `threads` threads; `hardware` is the fingerprint
    of the machine that is to run the artifact (default: this one's), and without `tuned` there are
    none. A function in place of `tuned` gives the decisions of a task (its hash) or None. All other
    kernels take their analytical schedules.

    `output` is where the `.so` is written; without it the file lies only beside the database. `db`
    is a database or its URL; None is the default one (LEPTON_TVM_DB, else lepton.db in the working
    folder), False keeps no record. `variant` names the artifact in comparisons (default: what was
    done to the model). Float 3x3 convolutions may use Winograd's method where that is faster: it
    rounds more (2e-6 of the largest output against 5e-7) and its weights are up to 4 times as
    large; `winograd=False` keeps the plain sums. `progress` hears the name of each phase that ends.
    `dump` is a folder, new or empty, that takes the module after every phase as a readable file.

    Raises TargetError for an unknown target, InputError for a folder that cannot take the dump,
    CompileError when the build fails, ArtifactError or DatabaseError when the result cannot be
    stored; nothing that was stored before is touched.
    """
    goal = parse_target(target)
    if output is None and db is False:
        raise InputError("compile has nowhere to put the result: give output= or a database")
    if not isinstance(model, Model):
        raise InputError(
            f"compile takes a Model, found {type(model).__name__}; load_model makes one of a file"
        )
    hooks = _hooks(progress, dump)
    with _opened(db) as database:
        schedules = tuned if callable(tuned) else None
        if database is not None and tuned is True:
            schedules = tuned_by(database, goal, hardware=hardware, threads=threads)
        with watched(*hooks):
            built = build(model.module, goal, winograd=winograd, tuned=schedules)
        return _stored(model, built, output, database, variant or variant_name(model))


def _hooks(progress: Callable[[str], None] | None, dump: str | Path | None) -> list[Hook]:
    hooks = [dump_to(dump)] if dump is not None else []
    if progress is not None:
        hooks.append(lambda index, name, module: progress(name))
    return hooks


@contextmanager
def _opened(db: Db) -> Iterator[Database | None]:
    """The database, which can be written; None where no record is wanted."""
    if db is False:
        yield None
        return
    opened = db if isinstance(db, Database) else None
    database = opened or open_database(db if not isinstance(db, bool | Database) else None)
    try:
        database.check_writable()
        yield database
    finally:
        if opened is None:
            database.close()


def variant_name(model: Model) -> str:
    """`float32`, `bfloat16`, `int8`, `pruned + int8`, ...: what was done to the model, in order."""
    words = {"compress": "pruned", "quantize": model.precision}
    done = [words[s.name] for s in model.recipe if s.name in words]
    return " + ".join(dict.fromkeys([*done, model.precision]))


def _stored(
    model: Model, built: Build, output: str | Path | None, database: Database | None, variant: str
) -> CompiledArtifact:
    """What was built, written and recorded."""
    manifest = _manifest(model, built, variant)
    with _place(output) as path:
        sha256 = save(
            built.executable,
            path,
            manifest,
            cross=built.target.cross_compiler,
            device_code=built.device_code,
        )
        stored = path
        if database is not None:
            record = database.add_artifact(path, variant=variant)
            stored = path if output is not None else database.artifact_path(record)
        return CompiledArtifact(
            path=stored,
            sha256=sha256,
            size_bytes=path.stat().st_size,
            variant=variant,
            db=database.url if database is not None else None,
            manifest=read_manifest(path),
            report=tuple(r.to_json() for r in built.reports),
        )


def _manifest(model: Model, built: Build, variant: str) -> dict[str, Any]:
    made = Manifest(
        name=model.name,
        variant=variant,
        precision=model.precision,
        inputs=[t.to_json() for t in model.inputs],
        outputs=[t.to_json() for t in model.outputs],
        target=str(built.target),
        isa=built.target.isa,
        cpu_features=built.target.features,
        arch=built.target.arch,
        source_sha256=model.source_sha256,
        calibration_sha256=model.calibration_sha256,
        recipe=[s.to_json() for s in model.recipe],
        kernels=[k.to_json() for k in built.kernels],
        macs=macs(model.module),
        seeds=_seeds(model),
        gpu=_gpu(built.target),
    )
    return made.to_json()


def _gpu(target: Target) -> dict[str, Any] | None:
    if not target.on_gpu:
        return None
    gpu = gpu_of(target)
    return {"archs": list(gpu.archs), "capability": gpu.capability}


def _seeds(model: Model) -> dict[str, int]:
    found = {}
    for step in model.recipe:
        seed = step.options.get("seed")
        if isinstance(seed, int | np.integer):
            found[step.name] = int(seed)
    return found


@contextmanager
def _place(output: str | Path | None) -> Iterator[Path]:
    """The output path, or a path in a scratch folder that goes away."""
    if output is not None:
        yield Path(output)
        return
    with tempfile.TemporaryDirectory(prefix="lepton-") as scratch:
        yield Path(scratch) / "model.so"
