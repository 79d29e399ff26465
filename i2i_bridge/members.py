"""Names, docstrings and options of the built-in registered members, read from source text without importing anything.

So commands that only list names need no torch, whose import takes a second.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Option:
    """A parameter of a member's constructor, in source form."""

    name: str
    type: str
    default: str | None
    """The `repr` of the default; None for a required option."""
    keyword_only: bool = False


@dataclass(frozen=True)
class SourceMember:
    """A registered class or function in the source text of its module."""

    module: str
    name: str
    decorator: str

    @property
    def definition(self) -> Definition:
        """The syntax tree of the decorated class or function."""
        definitions = (node for node in _tree(self.module).body if isinstance(node, Definition))
        return next(node for node in definitions if self.name in _names(node, self.decorator))

    @property
    def documentation(self) -> str:
        """The docstring without indentation; empty if there is none."""
        return ast.get_docstring(self.definition) or ""

    def options(self) -> list[Option] | None:
        """The parameters of the constructor; None if they cannot be read from the source text."""
        try:
            return list(_options(self.module, self.definition))
        except _NotPlainError:
            return None


class _NotPlainError(Exception):
    """An annotation or default that is not a literal or a name of the package."""


def members_of(home: str, decorator: str) -> dict[str, SourceMember]:
    """The members registered by `@decorator("NAME")` in a module of this package, or in all modules of a subpackage."""
    # A text search: parsing every file would take longer than the rest of a command.
    line = re.compile(rf'^@{decorator}\("([^"]+)"\)', re.MULTILINE)
    return {
        name: SourceMember(module, name, decorator)
        for module in _modules(home)
        for name in line.findall(_file(module).read_text(encoding="utf-8"))
    }


def _modules(home: str) -> list[str]:
    folder = PACKAGE.joinpath(*home.split(".")[1:])
    if folder.is_dir():
        return [f"{home}.{file.stem}" for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]
    return [home]


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _file(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _names(node: Definition, decorator: str) -> Iterator[str]:
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator:
            yield str(ast.literal_eval(call.args[0]))


def _options(module: str, node: Definition) -> Iterator[Option]:
    if isinstance(node, ast.FunctionDef):
        yield from _parameters(module, node)
        return
    constructor = next(
        (part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None
    )
    if constructor is not None:
        yield from list(_parameters(module, constructor))[1:]
        return
    fields: dict[str, Option] = {}
    for base in node.bases:
        parent = _defined(module, base.id) if isinstance(base, ast.Name) else None
        if parent is not None and isinstance(parent[1], ast.ClassDef):
            fields |= {option.name: option for option in _options(parent[0], parent[1])}
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        fields |= {option.name: option for option in _fields(module, node)}
    yield from fields.values()


def _fields(module: str, node: ast.ClassDef) -> Iterator[Option]:
    for part in node.body:
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
            continue
        if not ast.unparse(part.annotation).startswith("ClassVar"):
            yield Option(part.target.id, _type(module, part.annotation), _default(module, part.value))


def _parameters(module: str, function: ast.FunctionDef) -> Iterator[Option]:
    arguments = function.args
    if arguments.vararg or arguments.kwarg:
        raise _NotPlainError
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        yield Option(argument.arg, _type(module, argument.annotation), _default(module, default))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield Option(argument.arg, _type(module, argument.annotation), _default(module, default), keyword_only=True)


def _type(module: str, annotation: ast.expr | None) -> str:
    """An annotation in source form, with type aliases of this package expanded."""
    if annotation is None:
        return "Any"

    class Resolver(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            alias = _defined(module, name.id)
            return alias[1] if alias is not None and isinstance(alias[1], ast.expr) else name

    return ast.unparse(Resolver().visit(ast.parse(ast.unparse(annotation), mode="eval")))


def _default(module: str, value: ast.expr | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, ast.Name) and (constant := _defined(module, value.id)) and isinstance(constant[1], ast.expr):
        value = constant[1]
    try:
        return repr(ast.literal_eval(value))
    except ValueError as error:
        raise _NotPlainError from error


def _defined(module: str, name: str) -> tuple[str, ast.expr | Definition] | None:
    """The module and the value or definition that a name refers to; None for a name from outside this package."""
    for node in _tree(module).body:
        if isinstance(node, Definition) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return module, node.value
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("i2i_bridge."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _defined(str(node.module), alias.name)
    return None
