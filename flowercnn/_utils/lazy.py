"""Lazy packages (SPEC 1): names are imported when they are first used."""

from __future__ import annotations

import ast
import pkgutil
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["attach", "moved"]


def attach(
    package: str, *, old: Mapping[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package, read from its stub.

    The stub, ``__init__.pyi``, is the only list of the package's names, also for type checkers. A
    line ``from flowercnn import data as data`` names a subpackage: an attribute, but not in
    ``__all__``. No name can equal that of a module of the package, whose import would hide it.

    Args:
        package: The package's ``__name__``.
        old: Removed modules of the package, and the package that now has their names.
    """
    stub = ast.parse(pkgutil.get_data(package, "__init__.pyi") or b"")
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: node.module or "" for node in imports for alias in node.names}
    public = sorted(name for name, home in homes.items() if home != package)
    door = sys.modules[package]
    for name, now in (old or {}).items():
        _add_old_module(f"{package}.{name}", now)

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:
            return import_module(f"{package}.{name}")
        value = getattr(import_module(homes[name]), name)
        setattr(door, name, value)
        return value

    return get, lambda: public, public


def moved(old: str, new: str) -> Callable[[str], object]:
    """Return a ``__getattr__`` that takes the names of module ``old`` from package ``new``.

    Each access issues a DeprecationWarning. Both arguments are full names.
    """

    def get(name: str) -> object:
        if name.startswith("__") or not hasattr(import_module(new), name):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        text = f"{old}.{name} will be removed in flowercnn 0.3: use {new}.{name}."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(import_module(new), name)

    return get


def _add_old_module(old: str, new: str) -> None:
    module = ModuleType(old, f"Moved to `{new}`.")
    module.__spec__ = ModuleSpec(old, None)
    module.__getattr__ = moved(old, new)  # type: ignore[method-assign]  # PEP 562
    sys.modules[old] = module
