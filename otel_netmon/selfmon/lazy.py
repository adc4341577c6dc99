"""Modules that others import and nobody may need."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


class Late(ModuleType):
    """Stands in ``sys.modules`` for a module, which it loads with the first use of something in it.

    importlib's LazyLoader loads a module at the second ``import`` of it already.

    Args:
        name: of the module.
    """

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


class _MaskedArrays(Late):
    """numpy.ma, which numpy asks whether an array is masked: as long as nobody has loaded it, none is."""

    @staticmethod
    def is_masked(_array: object) -> bool:
        """Says no, as numpy.ma does of every array that it has not made."""
        return False


def without_masked_arrays() -> None:
    """Keeps ``numpy.unique``, and what stands on it, from loading numpy.ma: 1.1 MB for one question. After numpy is loaded."""
    if "numpy.ma" not in sys.modules:
        masked = _MaskedArrays("numpy.ma")
        sys.modules["numpy.ma"] = masked
        setattr(sys.modules["numpy"], "ma", masked)  # noqa: B010 - numpy is not imported here
