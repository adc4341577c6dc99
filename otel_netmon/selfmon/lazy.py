"""Modules that others import and nobody may need."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


class _Late(ModuleType):
    """Stands for a module until something of it is asked for; importlib's LazyLoader loads it at the second import already."""

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def load_late(name: str) -> None:
    """Lets ``import name`` give a stand-in, which loads the module with the first use of it."""
    if name not in sys.modules:
        sys.modules[name] = _Late(name)
