"""How much data two stages need, exactly: diffusion policies that are linear in random features.

Generator, for environments k = 1 .. K and one repetition:

    state    s ~ N(0, I_D), the same law everywhere: no shift, all importance weights are 1
    features psi_k(s)_i = sqrt(2) cos(w_i . s + b_i), w_i ~ N(0, bandwidth^2 I_D), b_i ~ U[0, 2 pi],
             i = 1 .. d_H
    expert   a = theta_k . psi_k(s) + noise xi, xi ~ N(0, 1), theta_k of random direction with
             E[(theta_k . psi_k)^2] = 1
    process  x_t = (1 - t) a + t eps (flow matching), t = 1/L, 2/L, .., 1

The best denoiser E[a | x_t, s] = b_t x_t + (1 - b_t (1 - t)) theta_k . psi_k(s), b_t = (1 - t)
noise^2 / ((1 - t)^2 noise^2 + t^2), is linear in x_t and in the features. A specialist of
environment k regresses a on (x_t, psi_k(s)): d_H features. The generalist regresses it on (x_t,
phi(s, k)), phi = all psi_j, masked to the environment, and d_G - K d_H more random features of s
that all environments share: it contains every specialist, and must learn which of its features
matter. Both are fitted at each t by ridge regression with the penalty noise_t^2 d / |signal|^2 that
is optimal for a direction of unknown isotropic law; where the target is a teacher's prediction
there is no noise, and 1e-9 of the trace is all.

    specialists  n pairs (s, a) of the environment
    labeled      the generalist's class, n pairs of every environment
    noise        n pairs of every environment for its specialist; the generalist on N fresh states
                 of every environment with chunks drawn from the specialist by the Heun sampler
                 over the L times
    score        the same states and chunks; the target is the specialist's prediction

The excess risk over the best denoiser, mean over t and k, is exact: second moments of cosine
features under a Gaussian are known in closed form. It is given as a share of the excess of the best
predictor that sees x_t but not s. Only the data are random. Uses of the generator, sizes and the
penalty are this project's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from threadpoolctl import threadpool_limits

from alltrades.pipeline.rundir import RunDir
from alltrades.policies.settings import Frozen
from alltrades.studies.feature_world import (
    Denoisers,
    Sizes,
    Stage2,
    World,
    draw_pairs,
    fit_labeled,
    fit_specialists,
)
from alltrades.studies.requirements import Curve, curves_plot, elasticity, slope
from alltrades.studies.result import StudyResult, Table
from alltrades.system.files import write_json, write_text
from alltrades.system.progress import Progress
from alltrades.system.streams import stream

METHODS = ("specialists", "labeled", "noise", "score")


class Settings(Frozen):
    """Sizes of the study."""

    study: Literal["random_features"] = "random_features"
    name: str = Field("random_features", min_length=1, description="names the folder runs/NAME")
    seed: int = Field(0, ge=0, description="repetition r draws from (seed, r)")
    repetitions: int = Field(50, ge=2, description="draws of features, experts and data")
    environments: int = Field(2, ge=1, description="K")
    state_dim: int = Field(8, ge=2, description="D")
    bandwidth: float = Field(1.0, gt=0, description="deviation of the features' frequencies")
    noise: float = Field(0.5, gt=0, description="deviation of the expert's actions")
    times: int = Field(8, ge=2, description="L: noise levels, and steps of the sampler")
    specialist: tuple[int, ...] = Field(
        (4, 8, 16), min_length=1, description="d_H; the first is used where d_G varies"
    )
    generalist: tuple[int, ...] = Field(
        (64, 128, 256, 512), min_length=1, description="d_G; the second is used where d_H varies"
    )
    demos: tuple[int, ...] = Field(
        (8, 16, 32, 64, 128, 256, 512, 1024, 2048), min_length=2, description="n, increasing"
    )
    rollouts: tuple[int, ...] = Field(
        (16, 32, 64, 128, 256, 512, 1024, 2048, 4096), min_length=2, description="N, increasing"
    )
    per_feature: int = Field(
        16, ge=1, description="N / d_G where n varies: enough for stage 2 not to be the bottleneck"
    )
    target: float = Field(
        0.1, gt=0, lt=1, description="excess risk up to which data are counted as needed"
    )

    @model_validator(mode="after")
    def _classes_are_nested(self) -> Settings:
        if min(self.generalist) < self.environments * max(self.specialist):
            raise ValueError(
                f"generalist = {min(self.generalist)} features cannot hold {self.environments} "
                f"specialists of {max(self.specialist)}; expected at least "
                f"{self.environments * max(self.specialist)}"
            )
        for name in ("demos", "rollouts", "specialist", "generalist"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} = {list(values)}; expected increasing numbers")
        return self

    def pairs(self) -> list[tuple[int, int]]:
        """(d_H, d_G): every d_G with the first d_H, every d_H with the second d_G."""
        anchor = self.generalist[min(1, len(self.generalist) - 1)]
        return list(
            dict.fromkeys(
                [(self.specialist[0], g) for g in self.generalist]
                + [(h, anchor) for h in self.specialist]
            )
        )

    def enough(self, d_g: int) -> int:
        """N where n varies."""
        return -(-self.per_feature * d_g // self.environments)


def repetition(s: Settings, d_h: int, d_g: int, r: int) -> list[dict[str, Any]]:
    """Excess risks of one draw: n varies at N = per_feature d_G / K, then N varies at the largest
    n.
    """
    rng, shared = (
        stream(s.seed, "world", r, d_h),
        stream(s.seed, "data", r, d_h, d_g),
    )
    sizes = Sizes(s.environments, s.state_dim, d_h, d_g, s.times, s.noise, s.bandwidth)
    world = World(sizes, rng, shared)
    pairs = draw_pairs(world, s.demos[-1], rng)
    enough = s.enough(d_g)
    stage2 = Stage2(world, max(enough, s.rollouts[-1]), shared)
    facts = {"d_H": d_h, "d_G": d_g, "repetition": r}
    out = []

    def note(method: str, n: int, rollouts: int | None, value: float) -> None:
        out.append({**facts, "method": method, "n": n, "N": rollouts, "excess": value})

    normal = stage2.normal(enough)
    specialists: list[Denoisers] = []
    for n in s.demos:
        specialists = fit_specialists(world, pairs, n)
        note(
            "specialists",
            n,
            None,
            float(np.mean([world.specialist_excess(k, h) for k, h in enumerate(specialists)])),
        )
        note("labeled", n, None, world.generalist_excess(fit_labeled(world, pairs, n)))
        for method, g in stage2.fit(specialists, enough, normal).items():
            note(method, n, enough, world.generalist_excess(g))
    for count in s.rollouts:
        for method, g in stage2.fit(specialists, count).items():
            note(method, s.demos[-1], count, world.generalist_excess(g))
    return out


def run(settings: Settings, folder: Path, origins: dict[str, str]) -> StudyResult:
    """All repetitions, of which finished ones are kept, and what follows from them."""
    from alltrades.settings.load import dump_yaml

    # small matrices: more threads would cost more than they bring, and could change the last bits
    with RunDir(folder, seed=settings.seed) as rundir, threadpool_limits(1):
        write_text(folder / "settings.yaml", dump_yaml(settings, origins))
        rows: list[dict[str, Any]] = []
        sizes = settings.model_dump(mode="json", exclude={"name", "repetitions", "target"})
        with Progress(
            "random features", settings.repetitions * len(settings.pairs()), "repetition"
        ) as progress:
            for r in range(settings.repetitions):
                for d_h, d_g in settings.pairs():
                    path = folder / "repetitions" / f"{r}-{d_h}-{d_g}.json"
                    name = path.stem

                    def work(d_h: int = d_h, d_g: int = d_g, r: int = r, path: Path = path) -> None:
                        write_json(path, repetition(settings, d_h, d_g, r))

                    rundir.manifest.stage(
                        name, {"settings": sizes, "cell": [r, d_h, d_g]}, [path], work
                    )
                    rows += json.loads(path.read_text())
                    progress.update(progress.done + 1)
    return summarise(settings, rows)


def curves(
    rows: list[dict[str, Any]], method: str, d_h: int, d_g: int, axis: str, enough: int
) -> Curve:
    """Excess of one method against n (at N = `enough`) or against N (at the largest n): (sizes,
    excess (R, sizes)).
    """
    mine = [r for r in rows if r["method"] == method and r["d_H"] == d_h and r["d_G"] == d_g]
    largest = max(r["n"] for r in mine)
    if axis == "n":
        mine = [r for r in mine if r["N"] in (None, enough)]
    else:
        mine = [r for r in mine if r["n"] == largest and r["N"] is not None]
    found: dict[int, dict[int, float]] = {}
    for r in mine:
        found.setdefault(r[axis], {})[r["repetition"]] = r["excess"]
    sizes = sorted(found)
    return np.array(sizes), np.array(
        [[found[x][r] for x in sizes] for r in sorted(found[sizes[0]])]
    )


def summarise(s: Settings, rows: list[dict[str, Any]]) -> StudyResult:
    """Elasticities of the data needed, slopes, curves."""
    anchor_h, anchor_g = s.specialist[0], s.pairs()[-1][1]

    def every(method: str, axis: str, vary: str) -> dict[int, Curve]:
        pairs = (
            [(anchor_h, g) for g in s.generalist]
            if vary == "d_G"
            else [(h, anchor_g) for h in s.specialist]
        )
        return {
            g if vary == "d_G" else h: curves(rows, method, h, g, axis, s.enough(g))
            for h, g in pairs
        }

    lines, facts = [], {}
    for method, axis in [(m, "n") for m in METHODS] + [("noise", "N"), ("score", "N")]:
        for vary in ("d_G", "d_H"):
            found = elasticity(every(method, axis, vary), s.target)
            facts[f"{method} {axis} {vary}"] = found
            cells = (
                [round(v, 4) for v in (found["value"], *found["interval"])] if found else [None] * 3
            )
            needed = (
                ", ".join(f"{d}: {v:.0f}" for d, v in found["needed"].items())
                if found
                else "not reached"
            )
            lines.append([method, axis, vary, *cells, needed])
    slopes = []
    for method in (
        "specialists",
        "labeled",
        "score",
    ):  # drawn chunks are at the floor that their N leaves
        value, (low, high) = slope(every(method, "n", "d_G")[s.generalist[0]], last=3)
        slopes.append([method, value, low, high])
    tables = [
        Table(
            "requirements",
            ("method", "data", "against", "elasticity", "low", "high", "needed"),
            lines,
            f"Data needed for an excess risk of {s.target:g}: d log(data) / d log(dimension), 95 % "
            f"bootstrap interval over {s.repetitions} repetitions",
        ),
        Table(
            "slopes",
            ("method", "slope", "low", "high"),
            slopes,
            f"d log(excess) / d log(n) over the three largest n, d_H = {anchor_h}, d_G = "
            f"{s.generalist[0]}",
        ),
        Table(
            "excess",
            ("method", "d_H", "d_G", "n", "N", "excess", "deviation", "repetitions"),
            _means(rows),
            "Excess risk",
            shown=False,
        ),
    ]
    plots = []
    shown = (
        ("score", "n", "Two stages: demonstrations n"),
        ("labeled", "n", "Labeled-only: demonstrations n"),
        ("noise", "N", "Two stages, drawn chunks: rollouts N"),
    )
    for method, axis, title in shown:
        named = {f"d_G = {d}": c for d, c in every(method, axis, "d_G").items()}
        plots.append(
            (
                f"{title}, d_H = {anchor_h}",
                curves_plot(
                    f"Excess risk against {axis}, {method}",
                    named,
                    s.target,
                    f"{axis} per environment",
                ),
            )
        )
    named = {f"d_H = {d}": c for d, c in every("score", "n", "d_H").items()}
    plots.append(
        (
            f"Two stages: demonstrations n, d_G = {anchor_g}",
            curves_plot("Excess risk against n by d_H", named, s.target, "n per environment"),
        )
    )
    return StudyResult(
        "Data that two stages need",
        "Random-feature score regression with exact excess risks: demonstrations n and rollouts N "
        "per environment against the sizes d_H of the specialists and d_G of the generalist.",
        _findings(facts),
        tables,
        plots,
        {"elasticities": facts, "settings": s.model_dump(mode="json")},
    )


def _findings(facts: dict[str, Any]) -> list[str]:
    def said(key: str) -> str:
        f = facts[key]
        return (
            "not measured"
            if f is None
            else f"{f['value']:+.2f} [{f['interval'][0]:+.2f}, {f['interval'][1]:+.2f}]"
        )

    return [
        "Demonstrations needed against the generalist's size d_G: two stages "
        f"{said('score n d_G')} (drawn chunks {said('noise n d_G')}), labeled-only "
        f"{said('labeled n d_G')}.",
        "Demonstrations needed against the specialists' size d_H: two stages "
        f"{said('score n d_H')}, labeled-only {said('labeled n d_H')}.",
        f"Rollouts needed against d_G: drawn chunks {said('noise N d_G')}, the teacher's "
        f"prediction {said('score N d_G')}; against d_H: drawn chunks {said('noise N d_H')}, the "
        f"teacher's prediction {said('score N d_H')}.",
    ]


def _means(rows: list[dict[str, Any]]) -> list[list[Any]]:
    cells: dict[tuple, list[float]] = {}
    for r in rows:
        cells.setdefault((r["method"], r["d_H"], r["d_G"], r["n"], r["N"]), []).append(r["excess"])
    return [[*key, float(np.mean(v)), float(np.std(v, ddof=1)), len(v)] for key, v in cells.items()]
