"""alltrades itself, and the libraries that every computation rests on, as part of the code that
results depend on.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alltrades import __version__
from alltrades.system.files import file_digest

LIBRARIES = ("torch", "gymnasium", "mujoco", "numpy")
ROOMS = ("data", "envs", "policies", "pipeline")
BESIDE = ("robots", "client", "server")  # folders of these that no stage goes through
SHOWN = 12  # digits of a digest


@cache
def own_code() -> Mapping[str, str]:
    """alltrades and the libraries that every computation rests on."""
    digest = hashlib.sha256()
    for room in ROOMS:
        spec = importlib.util.find_spec(f"alltrades.{room}")
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            for path in sorted(Path(place).rglob("*.py")):
                module = path.relative_to(place)
                if module.parts[0] not in BESIDE:
                    digest.update(f"{room}/{module.as_posix()}\0{file_digest(path)}\n".encode())
    found = {"alltrades": f"{__version__} ({digest.hexdigest()[:SHOWN]})"}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
