"""The files that a piece of code is made of, found without running any of it: its module, the
modules that this one imports, and files beside them that it names, such as models of MuJoCo.

Of installed packages it is the version that counts, not their files.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

ASSETS = frozenset(
    ".xml .mjcf .urdf .stl .obj .msh .png .jpg .npy .npz .json .yaml .yml .toml .csv .txt".split()
)
MOST = 10_000  # files of a package
_REFERENCE = re.compile(r"""\b(?:file|meshdir|texturedir|assetdir)\s*=\s*["']([^"']+)["']""")


class Sources:
    """Collects the files and packages behind modules.

    Attributes:
        files: by path, the name that is shown: relative to where its module is imported from.
        packages: top-level names of installed packages that the code imports.
    """

    def __init__(self, own: str) -> None:
        """`own`: a package whose files are not collected, as its caller accounts for them."""
        self.files: dict[Path, str] = {}
        self.packages: set[str] = set()
        self._own, self._seen = own, set[str]()

    def digests(self) -> dict[str, str]:
        """sha256 by shown name; files that share a name share a digest of both."""
        every: dict[str, list[bytes]] = {}
        for path in sorted(self.files):
            try:
                every.setdefault(self.files[path], []).append(path.read_bytes())
            except OSError:
                continue  # gone meanwhile
        return {
            name: hashlib.sha256(b"\0".join(parts)).hexdigest() for name, parts in every.items()
        }

    def versions(self) -> dict[str, str]:
        """Versions of the packages, by the name under which they are installed."""
        return dict(filter(None, map(_version, sorted(self.packages))))

    def module(self, name: str, whole: bool = False) -> None:
        """A module by its dotted name, and what it imports; with `whole` all files of a package."""
        top = name.split(".")[0]
        if top in self._seen or top in sys.stdlib_module_names or name in self._seen:
            return
        found = _file(name)
        if found is None:
            return
        self._seen.add(name)
        if _installed(found):
            self._seen.add(top)
            self.packages.add(top)
            return
        root = found.parents[name.count(".") + (found.name == "__init__.py")]
        if top != self._own:
            if "." in name:
                self.module(name.rpartition(".")[0])
            self.add(found, root)
        if whole and found.name == "__init__.py":
            for i, path in enumerate(sorted(found.parent.rglob("*"))):
                if i < MOST and (path.suffix in ASSETS or path.suffix == ".py"):
                    self.add(path, root)
        try:
            tree = ast.parse(found.read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError):
            return
        package = name if found.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _imports(tree, package):
            if not (top == self._own and imported.split(".")[0] == self._own):
                self.module(imported)
        if top != self._own:
            self._assets(tree, found.parent, root, sys.modules.get(name))

    def add(self, path: Path, root: Path) -> None:
        """A file, and what an XML file refers to."""
        path = path.resolve()
        if path in self.files or not path.is_file():
            return
        inside = path.is_relative_to(root.resolve())
        self.files[path] = path.relative_to(root.resolve()).as_posix() if inside else path.name
        if path.suffix in (".xml", ".mjcf", ".urdf"):
            text = path.read_text(encoding="utf-8", errors="replace")
            named = _REFERENCE.findall(text)
            for folder in (path.parent, *(path.parent / name for name in named)):
                for name in named:
                    self.add(folder / name, root)

    def _assets(
        self, tree: ast.Module, folder: Path, root: Path, module: ModuleType | None
    ) -> None:
        """Files beside a module that its texts name, also in a sub-folder that they name; those of
        its variables.
        """
        texts = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if 0 < len(node.value) < 200 and "\n" not in node.value and "\0" not in node.value
        }
        names = [text for text in texts if Path(text).suffix in ASSETS]
        folders = [folder, *(folder / text for text in sorted(texts) if (folder / text).is_dir())]
        for name in names if names else ():
            for place in folders:
                self.add(place / name, root)
        for value in list(vars(module or object).values()):
            if isinstance(value, str | Path) and Path(value).suffix in ASSETS:
                self.add(Path(value), root)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Dotted names of what a module imports, wherever it does; some may be no modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level else []
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _file(name: str) -> Path | None:
    """The source of a module, loaded or not; None for what is none."""
    loaded = sys.modules.get(name)
    spec: Any = getattr(loaded, "__spec__", None)
    origin = getattr(loaded, "__file__", None)
    try:
        if loaded is None:
            parts, spec = name.split("."), importlib.util.find_spec(name.split(".")[0])
            for i in range(2, len(parts) + 1):
                places = list(spec.submodule_search_locations or ()) if spec is not None else []
                spec = PathFinder.find_spec(".".join(parts[:i]), places) if places else None
            origin = spec.origin if spec is not None else None
    except (ImportError, ValueError, AttributeError):
        return None
    path = Path(origin) if origin else None
    return path if path is not None and path.exists() else None


@cache
def _library() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return tuple({Path(paths[k]).resolve() for k in ("stdlib", "platstdlib")})


def _installed(path: Path) -> bool:
    if path.suffix != ".py" or {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.resolve().is_relative_to(place) for place in _library())


@cache
def _version(top: str) -> tuple[str, str] | None:
    try:
        return top, version(top)
    except PackageNotFoundError:
        pass
    for name in packages_distributions().get(top, ()):
        return name, version(name)
    return None
