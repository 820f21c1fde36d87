"""How well density-ratio estimators weigh rollouts, where the ratio is known (see
`linear_gaussian.py`).

One repetition draws a world, `demos` demonstrations and `rollouts` rollouts, and estimates m =
E_d*|x - mean|^2, d* the law of demonstration states, by a self-normalised weighted mean of |x -
mean|^2, scored as the relative error |estimate / m - 1|

    mixture    over demonstration rows (base share alpha) and rollout rows (1 - alpha), each times
               its weight: what stage 2 samples from. A relative ratio weighs both; a raw ratio
               d*/d^h the rollouts only
    rollouts   over rollout rows alone; a relative ratio is biased there

Estimators: `none`; `true ratio` (from the generator); `quadratic, raw`, `quadratic, relative` (what
weights.kind "ratio" is), `rulsif` and `classifier-mlp` as in data/estimators.py, cross-fitted by
episode; and, as the warning, `mlp in-sample, raw`: a network of two layers of 64, trained to the
end on all rows with classes balanced, whose ratio is read off on the same rows.

Guards: `off`; `ess` (the default of the pipeline) floors the weights, flattens them until the
effective share of episodes is ess_min, and caps the share of demonstrations; `ess+auc` also turns
weights off where the interval of the held-out AUC holds 0.5 (`weights.auc_min`). Reported ESS/n is
that of rows, relative to the base measure.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.weights.density_ratio import Scores, cross_fit, relative_ratio, scored
from alltrades.data.weights.estimate import flattening
from alltrades.data.weights.settings import WeightSettings
from alltrades.pipeline.executors import executor_of
from alltrades.pipeline.rundir import RunDir
from alltrades.studies.estimator_settings import Settings
from alltrades.studies.estimator_tables import summarise
from alltrades.studies.linear_gaussian import LENGTH, LinearGaussian
from alltrades.studies.result import StudyResult
from alltrades.system.compute.executor import Executor, Here
from alltrades.system.compute.processes import Processes
from alltrades.system.files import write_json, write_text
from alltrades.system.machine import processors
from alltrades.system.progress import Progress
from alltrades.system.streams import stream

CROSS_FITTED = {
    "quadratic": "ratio",
    "rulsif": "rulsif",
    "classifier-mlp": "classifier-mlp",
}  # to weights.kind
GUARDS: dict[str, dict[str, float]] = {
    "off": {"ess_min": 0.0},
    "ess": {},
    "ess+auc": {"auc_min": 0.5},
}
Job = tuple[int, int, float, int]  # demonstrations, dimensions, drift, number of a repetition
LARGEST_LOGIT = 30.0  # of a raw ratio: e^30 outweighs every other row as well as infinity would


def repetition(s: Settings, demos: int, dim: int, drift: float, r: int) -> list[dict[str, Any]]:
    """Error and ESS/n of every estimator, guard and scoring in one draw."""
    rng = stream(s.seed, "estimators", r, demos, dim, round(1000 * drift))
    world = LinearGaussian(dim, drift, rng)
    x = (world.demonstrations(demos, rng), world.rollouts(s.rollouts, rng))
    episodes = [np.repeat(np.arange(len(rows) // LENGTH), LENGTH) for rows in x]
    base = [np.full(len(rows), 1 / len(rows)) for rows in x]
    center, scale = np.concatenate(x).mean(axis=0), np.concatenate(x).std(axis=0)
    z = [(rows - center) / scale for rows in x]
    truth = world.squared_distance()
    values = [(rows**2).sum(axis=1) for rows in x]
    out: list[dict[str, Any]] = []

    def note(
        name: str,
        guard: str,
        scores: Scores | None,
        tau: float,
        weights: list[np.ndarray],
        share: float,
        alone: np.ndarray,
    ) -> None:
        """`share`: of demonstrations in the mixture; `alone`: weights of the rollouts scored
        without demonstrations.
        """
        p = [b * w / (b @ w) for b, w in zip(base, weights)]
        estimates = {
            "mixture": share * (p[0] @ values[0]) + (1 - share) * (p[1] @ values[1]),
            "rollouts": base[1] * alone @ values[1] / (base[1] @ alone),
        }
        both = np.concatenate([share * p[0], (1 - share) * p[1]])
        bases = np.concatenate([s.alpha * base[0], (1 - s.alpha) * base[1]])
        ess = {
            "mixture": 1 / float(np.sum(both**2 / bases)),
            "rollouts": float(base[1] @ alone) ** 2 / float(base[1] @ alone**2),
        }
        for where, estimate in estimates.items():
            out.append(
                {
                    "estimator": name,
                    "guard": guard,
                    "scored": where,
                    "demos": demos,
                    "dim": dim,
                    "drift": drift,
                    "repetition": r,
                    "error": abs(float(estimate) / truth - 1),
                    "ess": ess[where],
                    "tau": tau,
                    "auc": None if scores is None else scores.auc,
                }
            )

    def weigh(name: str, scores: Scores, relative: bool) -> None:
        logits = [np.minimum(v, LARGEST_LOGIT) for v in (scores.demo, scores.rollout)]
        plain = (
            [relative_ratio(v, s.alpha) for v in logits]
            if relative
            else [np.ones(len(x[0])), np.exp(logits[1])]
        )
        for guard, more in GUARDS.items():
            settings = WeightSettings(alpha=s.alpha, **more)
            weights, tau, cap = plain, 1.0, 1.0
            if guard != "off":
                weights, cap = [np.maximum(w, settings.floor) for w in plain], settings.demo_cap
                tau = flattening(scores, weights[1], base[1], episodes[1], settings)[0]
                weights = [w**tau for w in weights]
            total = [
                share * float(b @ w) for share, b, w in zip((s.alpha, 1 - s.alpha), base, weights)
            ]
            share = min(cap, total[0] / sum(total)) if relative else s.alpha
            alone = np.exp(logits[1]) if name == "true ratio" and guard == "off" else weights[1]
            note(name, guard, scores, tau, weights, share, alone)

    flat = [np.ones(len(rows)) for rows in x]
    note("none", "off", None, 0.0, flat, s.alpha, flat[1])
    weigh(
        "true ratio",
        scored([world.log_ratio(rows) for rows in x], episodes, base, rng),
        relative=True,
    )
    for name, kind in CROSS_FITTED.items():
        scores = cross_fit(
            z[0],
            episodes[0],
            base[0],
            z[1],
            episodes[1],
            base[1],
            min(5, demos),
            8,
            rng,
            kind,
            s.alpha,
        )
        if name == "quadratic":
            weigh("quadratic, raw", scores, relative=False)
        weigh("quadratic, relative" if name == "quadratic" else name, scores, relative=True)
    weigh("mlp in-sample, raw", scored(_in_sample(z, rng), episodes, base, rng), relative=False)
    return out


def _in_sample(z: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Logits of a network on the rows that it was trained on."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    drawn = np.concatenate([rng.choice(len(z[0]), len(z[1])), len(z[0]) + np.arange(len(z[1]))])
    rows, label = np.concatenate(z), np.repeat([1, 0], [len(z[0]), len(z[1])])
    network = MLPClassifier(
        (64, 64),
        batch_size=500,
        learning_rate_init=2e-3,
        max_iter=120,
        random_state=int(rng.integers(1 << 31)),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(rows[drawn], label[drawn])
    p = [np.clip(network.predict_proba(side)[:, 1], 1e-12, 1 - 1e-12) for side in z]
    return [np.log(v) - np.log1p(-v) for v in p]


def _repeated(here: Here, settings: Settings, job: Job) -> list[dict[str, Any]]:
    """One repetition, with one thread: one task per core is all the parallelism there is."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return repetition(settings, *job)


def _executor(settings: Settings) -> Executor:
    if settings.compute.remote:
        return executor_of(settings.compute)
    return Processes(settings.workers or processors())


def run(settings: Settings, folder: Path, origins: dict[str, str]) -> StudyResult:
    """All repetitions, of which finished ones are kept, and what follows from them."""
    from alltrades.settings.load import dump_yaml

    sizes = settings.model_dump(mode="json", include={"rollouts", "alpha"})
    with RunDir(folder, seed=settings.seed) as rundir:
        write_text(folder / "settings.yaml", dump_yaml(settings, origins))
        jobs = [(*cell, r) for r in range(settings.repetitions) for cell in settings.cells()]
        paths = {
            job: folder / "repetitions" / ("-".join(f"{v:g}" for v in job) + ".json")
            for job in jobs
        }
        keys = {job: {"settings": sizes, "cell": list(job)} for job in jobs}
        waiting = [job for job in jobs if not rundir.manifest.done(paths[job].stem, keys[job])]
        with (
            Progress("estimators", len(jobs), "repetition") as progress,
            _executor(settings) as executor,
        ):
            progress.update(len(jobs) - len(waiting))
            for job, rows in zip(waiting, executor.map(_repeated, waiting, settings)):
                rundir.manifest.stage(
                    paths[job].stem,
                    keys[job],
                    [paths[job]],
                    partial(write_json, paths[job], rows),
                )
                progress.update(progress.done + 1)
        return summarise(
            settings, [row for job in jobs for row in json.loads(paths[job].read_text())]
        )
