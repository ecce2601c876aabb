"""Every pass by name. A loader imports its module only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["PASSES", "load_pass"]


def _from(module: str, name: str) -> Callable[[], type[Any]]:
    def load() -> type[Any]:
        found: type[Any] = getattr(import_module(f"lepton_tvm.passes.{module}"), name)
        return found

    return load


# Pass name -> loader of its class; the class's fields are the options.
PASSES: dict[str, Callable[[], type[Any]]] = {
    "canonicalize": _from("canonicalize", "Canonicalize"),
    "fold-batch-norm": _from("fold_batch_norm", "FoldBatchNorm"),
    "fold-preprocess": _from("fold_preprocess", "FoldPreprocess"),
    "insert-qdq": _from("quantize.insert_qdq", "InsertQDQ"),
    "lower-int8": _from("quantize.lower_int8", "LowerInt8"),
    "lower-kernels": _from("lower_kernels", "LowerKernels"),
    "name-bindings": _from("name_bindings", "NameBindings"),
    "prune-channels": _from("prune.structured", "ChannelPruning"),
    "prune-magnitude": _from("prune.unstructured", "MagnitudePruning"),
    "to-bfloat16": _from("quantize.to_bfloat16", "ToBfloat16"),
    "to-nhwc": _from("layout", "ToNHWC"),
}


def load_pass(name: str) -> type[Any]:
    """The class of the pass called `name`; `KeyError` names those there are."""
    if name not in PASSES:
        raise KeyError(f"no pass is called {name!r}; there are: {', '.join(sorted(PASSES))}")
    return PASSES[name]()
