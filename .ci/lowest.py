"""Print a pip constraints file of the lowest versions that pyproject.toml allows, torch apart:
`.ci/run lowest` tests that they are not only allowed but work.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "alltrades"}  # torch comes from whatever index a machine has its builds on


def lowest(project: dict) -> dict[str, str]:
    """Package -> lowest version that any of the project's requirements allows."""
    extras = project["optional-dependencies"].values()
    out: dict[str, str] = {}
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        found = Requirement(line)
        for bound in found.specifier:
            if found.name not in LEFT_OUT and bound.operator in (">=", "=="):
                out[found.name] = bound.version
    return out


if __name__ == "__main__":
    path = Path(__file__).parent.parent / "pyproject.toml"
    for name, version in lowest(tomllib.loads(path.read_text())["project"]).items():
        print(f"{name}=={version}")
