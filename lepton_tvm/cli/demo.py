"""`lepton-tvm demo`: the whole job on the model that ships with the package."""

from __future__ import annotations

from lepton_tvm.cli.command import Output, command, new_app, progress
from lepton_tvm.cli.options import Db, Json, Target, Threads

__all__ = ["app"]

app = new_app()


@command(app, "demo", example="lepton-tvm demo --threads 1")
def demo(
    db: Db = None,
    target: Target = "native",
    threads: Threads = 1,
    as_json: Json = False,
) -> Output:
    """Compile and compare a small model: float, int8, pruned + int8."""
    with progress("starting the compiler") as say:
        from lepton_tvm.compare import compare
        from lepton_tvm.demo import labelled
        from lepton_tvm.demo.variants import build_variants

        model = build_variants(db, target=target, notify=say)
        result = compare(model, db=db, data=labelled(), threads=threads, progress=say)
    return Output(result.to_json(), result)
