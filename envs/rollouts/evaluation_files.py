"""Evaluations as JSON files: sealed when they are written, checked when they are read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.errors import UserError
from alltrades.system.reading import read_mapping, write_sealed

EXPECTED = "an evaluation as `alltrades evaluate --out` writes it"
REMEDY = "evaluate again, or restore it from a copy"


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation. Raises UserError where the file cannot be written."""
    write_sealed(path, evaluation.to_json())


def read_evaluation(path: Path | str) -> Evaluation:
    """An evaluation from its file, which may be one that another program wrote.

    Raises UserError, in one line, for a file that is not there, that was changed after it was
    written, or whose lists do not belong together.
    """
    value = read_mapping(path, EXPECTED, REMEDY)
    try:
        found = Evaluation.from_json(value)
        if not isinstance(found.name, str) or not found.rows:
            raise ValueError("no name, or no environment")
        names = [row.environment for row in found.rows]
        if len({*names}) < len(names):
            raise ValueError("an environment twice")
        if not all(isinstance(v, dict) for v in (found.made, *dict(found.made).values())):
            raise ValueError("no code and settings by name")
        for row in found.rows:
            _check(row)
    except KeyError as error:
        raise _wrong(path, f"it has no {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise _wrong(path, error) from error
    return found


def _wrong(path: Path | str, cause: object) -> UserError:
    said = " ".join(str(cause).split())[:160]
    return UserError(f"{path}: not an evaluation ({said}); expected {EXPECTED}; {REMEDY}")


def _check(row: EnvironmentResult) -> None:
    """ValueError where an environment's lists are not as long as its seeds, or hold no numbers."""
    if not isinstance(row.environment, str) or type(row.max_steps) is not int or row.max_steps < 1:
        raise ValueError("an environment without a name or a time limit")
    lists = {f.name: getattr(row, f.name) for f in fields(row)}
    lists |= {f"metrics {name}": values for name, values in row.metrics.items()}
    for name, values in lists.items():
        if not isinstance(values, tuple):
            continue
        text = name == "faults"
        if len(values) != row.n and not (text and not values):
            raise ValueError(f"{len(values)} {name} of '{row.environment}' and {row.n} seeds")
        kinds = (str,) if text else (int, float)
        if not all(isinstance(v, kinds) for v in values):
            raise ValueError(f"{name} of '{row.environment}' that are no numbers")
    if not row.n or not all(type(seed) is int for seed in row.seeds):
        raise ValueError(f"no seeds of '{row.environment}'")
    if len({*row.seeds}) < row.n:
        raise ValueError(f"a seed of '{row.environment}' twice")
