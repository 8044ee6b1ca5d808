"""Makes the packages under `names/` importable under their own names, with metadata, while enabled.

Nothing named torch-npu is installed: the packages and their metadata are found in memory, so that they can
neither clash with a genuine installation nor stay behind after `disable()`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

NAMES = Path(__file__).parent / "names"


class Distribution(importlib.metadata.Distribution):
    """What importlib.metadata says about a served package; clients ask it before they import."""

    def __init__(self, name: str, version: str, package: str) -> None:
        summary = "served by fusion_attention on the CPU"
        self._texts = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {summary}\n",
            "top_level.txt": f"{package}\n",
        }

    def read_text(self, filename: str) -> str | None:
        return self._texts.get(str(filename))

    def locate_file(self, path: Any) -> Any:
        return NAMES / path


class Finder:
    """An entry of sys.meta_path that serves the given top-level packages from `names/`."""

    def __init__(self, packages: Iterable[str], distributions: Iterable[tuple[str, str, str]] = ()) -> None:
        self.packages = tuple(packages)
        self._distributions = [Distribution(*about) for about in distributions]

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        # Submodules are found by the ordinary path machinery: a served package has a real __path__.
        if fullname not in self.packages:
            return None
        folder = NAMES / fullname
        return importlib.util.spec_from_file_location(
            fullname, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )

    def find_distributions(self, context: Any = None) -> Iterator[importlib.metadata.Distribution]:
        wanted = getattr(context, "name", None)
        for distribution in self._distributions:
            if wanted is None or _normalized(wanted) == _normalized(distribution.metadata["Name"]):
                yield distribution

    def invalidate_caches(self) -> None:
        """Nothing is cached; importlib calls this on every finder that has it."""

    def drop_modules(self) -> None:
        for name in list(sys.modules):
            if name.partition(".")[0] in self.packages:
                del sys.modules[name]


def genuine(package: str) -> bool:
    """Whether a package of this name that is not ours can be imported. A bare folder is no package."""
    module = sys.modules.get(package)
    if module is not None:
        return not str(getattr(module, "__file__", None) or "").startswith(str(NAMES))
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        spec = None if find_spec is None or isinstance(finder, Finder) else find_spec(package, None)
        if spec is not None and spec.origin is not None:
            return True
    return False


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
