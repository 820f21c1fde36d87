"""What a study did and what it found, in words made from its recipe, its settings and its results,
for method.ipynb.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import yaml

from alltrades.settings.recipes import find_recipe
from alltrades.settings.schema import show
from alltrades.studies.claims import judge
from alltrades.studies.evidence import Results, Row

OWN = ("study", "name", "workers", "title", "seed")  # of a study of its own: not worth a line


def statement(name: str) -> str:
    """Question, expectation and what was cut, as the recipe experiments/NAME states them above its
    settings.
    """
    text = find_recipe(f"experiments/{name}")[1].splitlines()
    stop = next(i for i, line in enumerate(text) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in text[:stop])


def setup(folder: Path) -> list[str]:
    """One line each on environments, networks, data, training and measurement of the study in a
    folder, from its settings.yaml.

    What varies is said with its values in place of the setting's.
    """
    path = folder / "settings.yaml"
    s = yaml.safe_load(path.read_text()) if path.exists() else {}
    if "policy" not in s:
        return (
            [
                "; ".join(
                    f"{k.replace('_', ' ')} {show(v, 60)}" for k, v in s.items() if k not in OWN
                )
            ]
            if s
            else []
        )
    varied = s.get("sweep") or {}

    def value(key: str) -> str:
        if key in varied:
            return (
                f"{' / '.join(show(v, 60) for v in varied[key][: s.get('first') or None])} (varied)"
            )
        found: Any = s
        for part in key.split("."):
            found = found[part]
        return (
            f"{found:,}"
            if isinstance(found, int)
            else ", ".join(map(str, found))
            if isinstance(found, list)
            else str(found)
        )

    policy, distill = s["policy"], s["distill"]
    environments = (
        [f"{len(x)}: {', '.join(x)}" for x in varied["environments"]]
        if "environments" in varied
        else [", ".join([*s["environments"], *s["optional_environments"]])]
    )
    hidden = "; the environment is hidden from the network" if policy["embedding"] == 0 else ""
    lines = [
        f"Environments: {' / '.join(environments)}.",
        f"Networks ({policy['backbone']}): generalist and labeled-only {value('policy.width')} "
        f"wide, {value('policy.depth')} deep; specialists {value('specialist.width')} wide, "
        f"{value('specialist.depth')} deep{_parameters(folder)}{hidden}. Chunks of "
        f"{policy['horizon']} actions, of which {policy['n_action_steps']} are executed.",
        f"Data: {value('demos.episodes')} demonstrations per environment"
        f"{_others(s, varied)}{_ends(s, value)}; "
        f"{value('distill.rollouts')} rollouts per environment "
        f"and teacher ({value('distill.teachers')}), weights {value('distill.weights.kind')}, "
        f"targets {value('distill.targets')}"
        f"{', demonstrations keep their labels' if distill['reuse_labels'] else ''}.",
        f"Training steps: labeled-only {value('labeled_only.steps')}, specialists "
        f"{value('specialist.train.steps')}, generalist "
        f"{value('distill.train.steps')}{_rounds(distill, value)}.",
    ]
    for name, own in s["generalists"].items():
        changes = "; ".join(f"{k} {v}" for k, v in _changes(own, distill))
        lines.append(f"Row {name} differs from the generalist in: {changes or 'nothing'}.")
    if "pareto" in s:
        p = s["pareto"]
        given = (
            f"{len(p['preferences'])} preferences"
            if p["preferences"]
            else f"preferences in steps of 1/{p['divisions']}"
        )
        lines.append(
            f"Fronts: {', '.join(p['fronts'])}; {given}; labeled-only networks: "
            f"{', '.join(p['labeled_only'])}."
        )
    return [
        *lines,
        f"Measured: rows {', '.join(s['evaluation']['rows'])}; {value('evaluation.episodes')} "
        "episodes per environment and row on common starts; training seeds "
        f"{', '.join(map(str, s['seeds']))}.",
    ]


def _rounds(distill: Mapping[str, Any], value: Any) -> str:
    rounds = distill["rounds"]
    count = value("distill.rounds.count")
    return (
        ""
        if count == "0"
        else f"; rounds {count}, {rounds['episodes']} starts and {rounds['train']['steps']} steps "
        "each"
    )


def _changes(
    own: Mapping[str, Any], base: Mapping[str, Any], above: str = ""
) -> Iterator[tuple[str, str]]:
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            yield from _changes(value, base[key], f"{above}{key}.")
        elif value != base.get(key):
            yield f"{above}{key}", show(value, 60)


def _others(s: dict[str, Any], varied: Mapping[str, list[Any]]) -> str:
    """Environments that have other numbers of demonstrations."""
    key = "demos.episodes_of."
    of = {name: [number] for name, number in s["demos"]["episodes_of"].items()}
    of |= {name.removeprefix(key): v for name, v in varied.items() if name.startswith(key)}
    return "".join(f", {' / '.join(map(str, numbers))} of {name}" for name, numbers in of.items())


def _ends(s: dict[str, Any], value: Callable[[str], str]) -> str:
    """Where demonstrations end, in studies that are blind to success."""
    blind = s["simulator"]["success"] == "never"
    return f", which end at {value('demos.ends')}" if blind else ""


def _parameters(folder: Path) -> str:
    """How many parameters the networks have, where they are there."""
    from safetensors import safe_open

    said = []
    for what, pattern in (
        ("generalist", "policies/generalist"),
        ("specialist", "policies/specialists/scratch/*"),
    ):
        counts = set()
        for path in folder.glob(f"**/{pattern}/model.safetensors"):
            with safe_open(path, "np") as file:
                shapes = [file.get_slice(k).get_shape() for k in file.keys()]
            counts.add(sum(map(prod, shapes)))
        if counts:
            sizes = sorted({min(counts), max(counts)})
            said.append(f"a {what} holds {' to '.join(f'{n:,}' for n in sizes)} numbers")
    return f" ({', '.join(said)})" if said else ""


def outcome(name: str, results: Results) -> list[str]:
    """One line on how many claims hold, then one for each."""
    claims = judge(name, results)
    found = Counter(claim.verdict for claim in claims)
    count = ", ".join(f"{found[v]} {v}" for v in ("held", "refuted", "undecided"))
    return [
        f"Of {len(claims)} claims: {count}.",
        *(f"**{c.verdict}**: {c.text} ({c.numbers})" for c in claims),
    ]


def markdown_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Three decimals; None is an empty cell; rows without a column leave it empty."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [
        [
            ""
            if r.get(c) is None
            else f"{r[c]:.3f}"
            if isinstance(r[c], float)
            else str(r[c]).replace("|", "\\|")
            for c in columns
        ]
        for r in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
