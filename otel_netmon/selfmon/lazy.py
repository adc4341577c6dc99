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
