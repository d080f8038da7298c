"""Standing in for dramatiq, for packages that were written for it.

In a process where `install_as_dramatiq` was called, ``import dramatiq`` and every
module below it give the very modules of this package, not copies of them. For the
modules that only dramatiq has, see `absent`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

ALIAS = "dramatiq"


def install_as_dramatiq() -> None:
    """Have ``import dramatiq`` give localq in this process, in the worker processes of its pools, and in what
    `multiprocessing` starts from here.

    Call it before anything imports dramatiq. The loggers that are made from then on bear dramatiq's
    names, such as ``dramatiq.worker.WorkerThread``, and messages and results are in JSON unless another
    encoder is set, since there are packages that read them. Calling it twice does no harm.

    Raises:
      RuntimeError: the real dramatiq was imported already.
    """
    if is_installed():
        return
    real = sys.modules.get(ALIAS)
    if real is not None:
        raise RuntimeError(
            f"the real dramatiq was imported already, from {getattr(real, '__file__', None)!r}; call "
            "localq.install_as_dramatiq() before the first import of dramatiq, or leave one of the two out"
        )
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == __package__:
            # Those that are there already must not be imported once more: the import system would then put
            # the module `actor` in the place of the decorator.
            sys.modules[_renamed(name, ALIAS)] = module
    for package in ("rate_limits.backends", "results.backends"):
        backends = importlib.import_module(f"{__package__}.{package}")
        backends.__dict__["__getattr__"] = partial(_absent_backend, f"{ALIAS}.{package}")
    sys.meta_path.insert(0, _Finder())
    _install_in_children()


def _install_in_children() -> None:
    import multiprocessing.process  # dear, and needed for this alone

    # Each process that multiprocessing starts has a copy of this, which it unpickles before its target.
    multiprocessing.process.current_process()._config["localq"] = _Installed()  # type: ignore[attr-defined]


class _Installed:
    """Where it is unpickled, `install_as_dramatiq` is called."""

    def __reduce__(self) -> Any:
        return _installed, ()


def _installed() -> _Installed:
    install_as_dramatiq()
    return _Installed()


def is_installed() -> bool:
    """Whether ``import dramatiq`` gives localq in this process."""
    return sys.modules.get(ALIAS) is sys.modules[__package__]


def _absent_backend(package: str, name: str) -> Any:
    """What `from dramatiq.results.backends import RedisBackend` gives."""
    for module, names in _absent().ABSENT.items():
        if name in names and f"{ALIAS}.{module}".rpartition(".")[0] == package:
            return getattr(importlib.import_module(f"{ALIAS}.{module}"), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def _renamed(module: str, package: str) -> str:
    return ".".join((package, *module.split(".")[1:]))


class _Finder(MetaPathFinder, Loader):
    """Finds modules below ``dramatiq``, and loads them by importing ours of that name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != ALIAS:
            return None
        if _is_absent(fullname):
            return ModuleSpec(fullname, self)
        ours = _spec_of_ours(fullname)
        if ours is None:
            return None
        is_package = ours.submodule_search_locations is not None
        return ModuleSpec(fullname, self, origin=ours.origin, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if _is_absent(module.__name__):
            module.__dict__.update(_absent().names_in(module.__name__))
            return
        # What stands in sys.modules after this is what the import gives.
        sys.modules[module.__name__] = importlib.import_module(_renamed(module.__name__, __package__))

    def find_distributions(self, context: Any) -> list[Any]:
        """For ``importlib.metadata``: there are packages that ask for the version of dramatiq."""
        return _absent().distributions(context) if context.name == ALIAS else []

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m dramatiq``."""
        ours = _spec_of_ours(fullname)
        return ours.loader.get_code(ours.name) if ours is not None else None  # type: ignore[union-attr]


def _absent() -> Any:
    # It stands far above this module, which everything may import.
    return importlib.import_module(f"{__package__}.absent")


def _is_absent(fullname: str) -> bool:
    return fullname.partition(".")[2] in _absent().ABSENT


def _spec_of_ours(fullname: str) -> ModuleSpec | None:
    return importlib.util.find_spec(_renamed(fullname, __package__))
