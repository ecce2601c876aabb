"""`lepton-tvm inspect --passes`: every pass, what it does, and its options with their defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["list_passes", "passes_view"]

_PLAIN = (bool, int, float, str, type(None))


def list_passes() -> dict[str, Any]:
    """Name, first line of the docstring and options of each pass, in the order of the registry."""
    from lepton_tvm.passes.registry import PASSES

    return {"passes": [_described(name, kind) for name, kind in PASSES.items()]}


def _described(name: str, kind: type[Any]) -> dict[str, Any]:
    what = (kind.__doc__ or "").splitlines()[0]
    options = {field.name: _option(field) for field in dataclasses.fields(kind)}
    return {"name": name, "what": what, "options": options}


def _option(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """Type of an option, whether it must be given, and its default (null where it must)."""
    required, default = False, None
    if field.default_factory is not dataclasses.MISSING:
        default = f"{getattr(field.default_factory, '__name__', 'object')}()"
    elif field.default is dataclasses.MISSING:
        required = True
    else:
        default = _as_json(field.default)
    return {"type": str(field.type), "required": required, "default": default}


def _as_json(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    return f"{type(value).__name__}()"


def passes_view(data: dict[str, Any]) -> Any:
    """The same as a table for people."""
    from rich.table import Table

    table = Table("pass", "what it does", "options", show_lines=True)
    for one in data["passes"]:
        options = [_option_text(name, option) for name, option in one["options"].items()]
        table.add_row(one["name"], one["what"], "\n".join(options))
    return table


def _option_text(name: str, option: dict[str, Any]) -> str:
    if option["required"]:
        return f"{name} (required)"
    default = option["default"]
    return f"{name}={'none' if default is None else default}"
