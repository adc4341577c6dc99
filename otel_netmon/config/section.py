"""What all sections of the configuration are.

Each field is ``Annotated`` with a ``Meta`` that has the description and the range. ``Meta.extra`` holds what msgspec does not know:

- ``check``: a function of ``config.checks`` for the value, each item of a list, each entry of a mapping, or the name of a section
- ``secret``: True where print-config must mask the value
- ``fold_case``: True where the names of a mapping are lower-cased
"""

from __future__ import annotations

import msgspec


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, keys by name only, unknown keys refused."""
