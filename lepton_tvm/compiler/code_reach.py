"""Which definitions of a package some code can reach, read from its source without importing it.

A name is followed to the function, class or constant that it stands for, through imports. Of a
class that is reached, the statements count and those methods whose names some reached code asks
for: `x.words` reaches `words` of every reached class, since nobody knows what `x` is. Annotations,
docstrings, imports and the texts of errors change no machine code: they are neither followed nor
part of a digest. Tables of alternatives (`stop`) are not followed either.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Code", "Definition", "digest_of"]

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Fields of syntax trees that say where something stands, what it is annotated with, or what a
# version of Python adds.
_UNSEEN = frozenset({"ctx", "kind", "type_comment", "type_ignores", "annotation", "returns"})


@dataclass(frozen=True, eq=False)
class Definition:
    """A function, class or assignment: the module that it stands in, and its syntax tree."""

    module: str
    name: str
    node: ast.stmt = field(repr=False)


@dataclass
class _Module:
    """What a file defines and imports, by name."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


@dataclass(frozen=True)
class _Facts:
    """The digest of a piece of code, the definitions it names, and the attributes it asks for."""

    digest: str
    names: tuple[Definition, ...]
    asked: frozenset[str]


class Code:
    """The source of one package: `folder` is its top folder, `name` what it is imported as."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._modules: dict[str, _Module | None] = {}
        self._resolved: dict[tuple[str, str], tuple[Definition, ...]] = {}
        self._known: dict[ast.AST, _Facts] = {}

    def find(self, path: str) -> tuple[Definition, ...]:
        """The definition at `module.name`, or a method at `module.Class.name` and its class.

        Modules are given from the package on. Raises LookupError where there is none.
        """
        *parents, name = path.split(".")
        module = ".".join([self._name, *parents])
        if self._module(module) is not None:
            found = self._resolve(module, name)
        else:
            found = self._resolve(module.rpartition(".")[0], parents[-1])
            methods = [n for d in found for n in getattr(d.node, "body", []) if _named(n, name)]
            found = (*found, *(Definition(found[0].module, name, n) for n in methods[:1]))
            found = found if methods else ()
        if not found:
            raise LookupError(f"{self._folder} has no {path}")
        return found

    def reach(self, roots: Iterable[Definition], stop: Collection[str] = ()) -> set[str]:
        """The digests of all that `roots` reach, themselves included."""
        search = _Search(self, frozenset(stop))
        for root in roots:
            search.add(root)
        return search.digests

    def classes(self, root: Definition, stop: Collection[str] = ()) -> list[ast.ClassDef]:
        """The classes that `root` reaches."""
        search = _Search(self, frozenset(stop))
        search.add(root)
        return search.classes

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            inside = name.split(".")[1:]
            plain = self._folder.joinpath(*inside)
            found = next((p for p in (plain / "__init__.py", _file(plain)) if p.is_file()), None)
            self._modules[name] = None if found is None else _read(found.read_text("utf-8"))
        return self._modules[name]

    def _resolve(self, module: str, name: str) -> tuple[Definition, ...]:
        """The definitions behind a name of a module; none where it is not of this package."""
        if (module, name) not in self._resolved:
            self._resolved[module, name] = ()  # ends circles of imports
            self._resolved[module, name] = tuple(self._definitions(module, name))
        return self._resolved[module, name]

    def _definitions(self, module: str, name: str) -> Iterator[Definition]:
        found = self._module(module)
        if found is None:
            return
        if name in found.definitions:
            yield from (Definition(module, name, node) for node in found.definitions[name])
        elif name in found.imports:
            source, member = found.imports[name]
            if member is not None:
                yield from self._resolve(source, member)

    def _facts(self, module: str, node: ast.AST) -> _Facts:
        """What one piece of code is and asks for, found once."""
        if node not in self._known:
            names: dict[Definition, None] = {}
            asked = set()
            for part in _seen_nodes(node):
                if isinstance(part, ast.Name):
                    names.update(dict.fromkeys(self._resolve(module, part.id)))
                elif isinstance(part, ast.Attribute):
                    base = part.value
                    whole = self._module_named(module, base) if isinstance(base, ast.Name) else None
                    if whole is None:
                        asked.add(part.attr)
                    else:
                        names.update(dict.fromkeys(self._resolve(whole, part.attr)))
            self._known[node] = _Facts(digest_of(node), tuple(names), frozenset(asked))
        return self._known[node]

    def _module_named(self, module: str, base: ast.Name) -> str | None:
        """The module that a name of a module stands for, or None."""
        found = self._module(module)
        if found is None or base.id not in found.imports:
            return None
        source, member = found.imports[base.id]
        whole = source if member is None else f"{source}.{member}"
        return whole if self._module(whole) is not None else None


def _file(plain: Path) -> Path:
    return plain.with_name(plain.name + ".py")


def _read(text: str) -> _Module:
    made = _Module()
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            made.definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)):
                if name != "__all__":
                    made.definitions.setdefault(name, []).append(node)
        elif not (_is_text(node) or isinstance(node, ast.Import | ast.ImportFrom | ast.If)):
            made.effects.append(node)
    # imports inside functions bind names that are only looked up there: one table serves all
    for found in ast.walk(tree):
        if isinstance(found, ast.ImportFrom) and found.module:
            made.imports.update((a.asname or a.name, (found.module, a.name)) for a in found.names)
        elif isinstance(found, ast.Import):
            made.imports.update((a.asname, (a.name, None)) for a in found.names if a.asname)
    return made


class _Search:
    """One walk over what is reached; it ends when nothing new is found."""

    def __init__(self, code: Code, stop: frozenset[str]) -> None:
        self._code, self._stop = code, stop
        self._seen: set[ast.AST] = set()
        self._effects: set[str] = set()
        self._methods: dict[str, list[Definition]] = {}
        self._asked: set[str] = set()
        self.digests: set[str] = set()
        self.classes: list[ast.ClassDef] = []

    def add(self, found: Definition) -> None:
        """Follow one definition, unless that was done."""
        if found.node in self._seen or found.name in self._stop:
            return
        self._seen.add(found.node)
        if found.module not in self._effects:
            self._effects.add(found.module)
            module = self._code._module(found.module)
            for node in module.effects if module is not None else ():
                self._follow(found.module, node)
        if not isinstance(found.node, ast.ClassDef):
            self._follow(found.module, found.node)
            return
        node = found.node
        self.classes.append(node)
        for part in (*node.bases, *node.keywords, *node.decorator_list, *node.body):
            if not isinstance(part, _FUNCTIONS) and not _is_text(part):
                self._follow(found.module, part)
        for method in (n for n in node.body if isinstance(n, _FUNCTIONS)):
            one = Definition(found.module, f"{node.name}.{method.name}", method)
            if method.name.startswith("__") or method.name in self._asked:
                self.add(one)
            else:
                self._methods.setdefault(method.name, []).append(one)

    def _follow(self, module: str, node: ast.AST) -> None:
        facts = self._code._facts(module, node)
        self.digests.add(facts.digest)
        for found in facts.names:
            self.add(found)
        for name in facts.asked - self._asked:
            self._asked.add(name)
            for method in self._methods.pop(name, []):
                self.add(method)


def _named(node: ast.AST, name: str) -> bool:
    return isinstance(node, _FUNCTIONS) and node.name == name


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring or another text that nothing uses."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _children(node: ast.AST) -> Iterator[tuple[str, object]]:
    """The fields of a syntax tree that can change what the code does."""
    if isinstance(node, ast.Raise):
        return
    for name, value in ast.iter_fields(node):
        if name in _UNSEEN or value is None or value == []:
            continue
        if isinstance(value, list):
            kept = [v for v in value if not _is_text(v)]
            value = [v for v in kept if not isinstance(v, ast.Import | ast.ImportFrom)]
        yield name, value


def _seen_nodes(node: ast.AST) -> Iterator[ast.AST]:
    left = [node]
    while left:
        one = left.pop()
        yield one
        for _, value in _children(one):
            parts = value if isinstance(value, list) else [value]
            left.extend(part for part in parts if isinstance(part, ast.AST))


def digest_of(node: ast.AST) -> str:
    """A hash of what a syntax tree does.

    It is the same on every version of Python and for every layout of the text.
    """
    written: list[str] = []
    _write(node, written)
    return hashlib.sha256("".join(written).encode()).hexdigest()


def _write(value: object, written: list[str]) -> None:
    if isinstance(value, ast.AST):
        written += (type(value).__name__, "(")
        for name, part in _children(value):
            written += (name, "=")
            _write(part, written)
        written.append(")")
    elif isinstance(value, list):
        written.append("[")
        for part in value:
            _write(part, written)
        written.append("]")
    else:
        written += (repr(value), ",")
