"""The kinds of files that `alltrades bench damage` harms: how small real ones are made, what a user
runs on them, and what must come of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alltrades.errors import UserError

Promise = Literal["sealed", "written", "plain"]
ENVIRONMENTS = ("planar/reach", "planar/push")
LIMITS = """# of the robot in the lab
"*": {rate: 0.2}
planar/reach:
  low: [-0.5, -0.5]
  high: 0.5
  acceleration: 0.05
planar/push: {low: -0.75, rate: [0.1, 0.125]}
"""


@dataclass(frozen=True)
class Kind:
    """One kind of files.

    Attributes:
        name: of the kind.
        files: patterns of its files, below the folder that `make` fills.
        use: what a user runs on the folder; returns what came of it, or raises UserError.
        promise: "sealed": refused, or the same comes of it. "written" by people: refused, the same,
            or what is shown says what was changed (see `shown`). "plain": foreign data without
            checksums, where other values cannot be told; it may never end in a traceback.
        shown: of files that people write: whether what came of the folder shows what they say.
        loose: patterns of those of its files that hold no results of their own, such as curves:
            what comes of them may differ, and be seen.
    """

    name: str
    files: tuple[str, ...]
    use: Callable[[Path], Any]
    promise: Promise = "sealed"
    shown: Callable[[Path, Any], bool] = lambda folder, found: False
    loose: tuple[str, ...] = ()

    def of(self, folder: Path) -> list[Path]:
        """Its files, sorted."""
        found = {p for pattern in self.files for p in folder.glob(pattern) if p.is_file()}
        return sorted(p for p in found if p.name != ".lock")


# ---- what is made -------------------------------------------------------------------------------
def make(folder: Path, seed: int) -> None:
    """A small run, and beside its files those of the other kinds; its own random seed makes it
    another run.
    """
    import torch

    from alltrades.data.store import EpisodeStore
    from alltrades.envs import registry
    from alltrades.pipeline.runner import run
    from alltrades.policies.learning.checkpoints import write_checkpoint
    from alltrades.settings.load import find_recipe, load_settings
    from alltrades.settings.run import RunSettings

    words = f"""--seed {seed} --tracking.wandb disabled --no-report --rollout.workers 0
        --policy.width 16 --policy.depth 1 --specialist.width 16 --labeled_only.steps 2
        --specialist.train.steps 2 --distill.train.steps 2 --generalists {{}}
        --evaluation.rows [specialists,generalist]"""
    settings, origins = load_settings(
        RunSettings, defaults_file="quickstart_paper", small=True, overrides=words.split()
    )
    run(settings, folder / "run", origins)
    text = find_recipe("quickstart_paper")[1].replace("episodes: 50", f"episodes: {50 + seed}")
    (folder / "recipe.yaml").write_text(text)
    (folder / "limits.yaml").write_text(LIMITS.replace("0.05", f"0.0{5 + seed}"))
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(40, 3, generator=generator) for name in ("policy.a", "ema.b")}
    write_checkpoint(folder / "checkpoint", 10 + seed, tensors, {"count": 7, "kept": [1.5, None]})
    stores = folder / "run" / "stores"
    reach = EpisodeStore.open(stores / "demos.zarr")
    specs = registry.resolve(list(ENVIRONMENTS))
    store = EpisodeStore.create(folder / "deployment.zarr", [s.interface for s in specs])
    with store:
        store.set_provenance(deployments=[{"robot": "env:planar/reach", "seed": seed}])
        store.extend(list(reach.episodes())[:4])
    _foreign(folder / "foreign.zarr", list(reach.episodes("planar/reach")))
    policy = folder / "run" / "policies" / "specialists" / "scratch" / "planar__reach"
    shutil.copytree(policy, folder / "policy")
    try:
        from alltrades.policies.model.loading import load_policy
        from alltrades.policies.onnx.export import export_onnx

        export_onnx(load_policy(policy), folder / "export.onnx")
    except UserError:  # without the extra
        pass


def _foreign(path: Path, episodes: list[Any]) -> None:
    """A store of the layout of Diffusion Policy, as other programs write it."""
    import zarr

    group = zarr.open_group(str(path), mode="w")
    data = {
        "state": np.concatenate([e.observations["state"] for e in episodes]),
        "action": np.concatenate([e.actions for e in episodes]),
    }
    for name, value in data.items():
        group.create_array(f"data/{name}", data=value, chunks=(64, value.shape[1]))
    ends = np.cumsum([len(e.rewards) for e in episodes])
    group.create_array("meta/episode_ends", data=ends, chunks=(16,))


# ---- what is run on it --------------------------------------------------------------------------
def _bytes(value: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()


def _store(path: Path) -> Any:
    from alltrades.data.store import EpisodeStore

    store = EpisodeStore.open(path)
    columns = {name: values.tolist() for name, values in store.columns().items()}
    episodes = [
        [
            {k: v if isinstance(v, str) else _bytes(v) for k, v in e.observations.items()},
            None if e.actions is None else _bytes(e.actions),
            _bytes(e.rewards),
            _bytes(e.successes),
        ]
        for e in store.episodes()
    ]
    return [store.describe()[1:], store.provenance, columns, episodes, store.digest()]


def _weights(folder: Path) -> Any:
    from alltrades.pipeline.weights_folder import load_weights

    found = load_weights(folder / "run" / "weights" / "generalist", ENVIRONMENTS)
    return {
        name: [[_bytes(p) for p in result.row_probability()], result.summary()]
        for name, result in found.items()
    }


def _acts(policy: Any) -> Any:
    layout, rng = policy.layout, np.random.default_rng(0)
    window = {
        key: rng.standard_normal((1, policy.n_obs_steps, *slot.shape)).astype(np.float32)
        for key, slot in layout.slots.items()
    }
    noise = rng.standard_normal((1, policy.draws, policy.horizon, layout.action_dim))
    chunk = policy.act(window, np.zeros(1, np.int64), noise.astype(np.float32))
    facts = [policy.n_action_steps, [e.to_json() for e in policy.environments], policy.digest()]
    return [_bytes(chunk), facts]


def _policy(folder: Path) -> Any:
    from alltrades.policies.artifact import environments_of, facts_of, plugins_of
    from alltrades.policies.model.loading import load_policy

    facts = facts_of(folder / "policy")
    return [environments_of(facts), plugins_of(facts), _acts(load_policy(folder / "policy"))]


def _onnx(folder: Path) -> Any:
    from alltrades.policies.onnx.onnx_policy import OnnxPolicy

    return _acts(OnnxPolicy(folder / "export.onnx"))


def _evaluations(folder: Path) -> Any:
    from alltrades.envs.rollouts.differences import paired_over_seeds
    from alltrades.report.run_files import read_row

    a, b = (read_row(folder / "run", row) for row in ("generalist", "specialists"))
    return [a.to_json(), b.to_json(), paired_over_seeds([(a, b)]).to_json()]


def _report(folder: Path) -> Any:
    from alltrades.report import write_report

    out = write_report(folder / "run", folder / "page.html")
    return hashlib.sha256(out.read_bytes()).hexdigest()


def _manifest(folder: Path) -> Any:
    from alltrades.pipeline.rundir import RunDir

    with RunDir(folder / "run") as run:
        stages = run.manifest.stages
        again = [name for name in stages if not run.manifest.intact(name)]
        if again:  # with equal results
            raise UserError(f"{again[0]} runs again")
        return [run.manifest.data["seed"], {k: [v["key"], v["outputs"]] for k, v in stages.items()}]


def _checkpoint(folder: Path) -> Any:
    import torch

    from alltrades.policies.learning.checkpoints import read_checkpoint

    found = read_checkpoint(folder / "checkpoint", torch.device("cpu"))
    if found is None:  # the training begins again, with equal results
        raise UserError("no checkpoint")
    return [{name: _bytes(x.numpy()) for name, x in found[0].items()}, found[1]]


def _metrics(folder: Path) -> Any:
    from alltrades.system.tracking import read_metrics

    return read_metrics(folder / "run", "distill/generalist")


def _limits(folder: Path) -> Any:
    from alltrades.policies.control.limits import read_limits

    return {name: a.to_json() for name, a in read_limits(folder / "limits.yaml", _infos()).items()}


def _infos() -> list[Any]:
    from alltrades.envs import registry

    return [spec.interface for spec in registry.resolve(list(ENVIRONMENTS))]


def _limits_shown(folder: Path, found: Mapping[str, Any]) -> bool:
    """Whether the limits that hold are those of the file, and where the environment's own are
    tighter, these.
    """
    from alltrades.data.actions import KEYS
    from alltrades.system.yaml_files import parse_yaml

    said = parse_yaml((folder / "limits.yaml").read_text())
    for info in _infos():
        size, own, holds = info.action_dim, info.action.to_json(), found[info.id]
        for key in KEYS:
            given = [said[name][key] for name in ("*", info.id) if key in said.get(name, {})]
            values = [v if isinstance(v, list) else [v] * size for v in given]
            if not values:
                continue
            expected = values[-1]
            if key in ("rate", "acceleration"):
                values += [own[key]] if own.get(key) else []
                expected = [min(column) for column in zip(*values)]
            if list(map(float, expected)) != holds[key]:
                return False
    return True


def _recipe(name: str) -> Callable[[Path], Any]:
    def resolved(folder: Path) -> Any:
        from alltrades.settings.load import dump_yaml, load_settings
        from alltrades.settings.run import RunSettings

        settings, _ = load_settings(RunSettings, defaults_file=folder / name)
        return dump_yaml(settings)

    return resolved


def _recipe_shown(name: str) -> Callable[[Path, Any], bool]:
    def shown(folder: Path, found: str) -> bool:
        """Whether every setting of the file stands among the resolved ones, with its value."""
        from alltrades.settings.nested import flatten
        from alltrades.system.yaml_files import parse_yaml

        said = parse_yaml((folder / name).read_text()) or {}
        resolved = dict(flatten(parse_yaml(found)))
        given = {k: v for k, v in said.items() if k not in ("small", "extends")}
        return all(_same(v, resolved.get(k)) for k, v in flatten(given) if v != {})

    return shown


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return all(k in b and _same(v, b[k]) for k, v in a.items())
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a == b
    if isinstance(a, str) and isinstance(b, int | float):  # "090" is text in YAML
        with suppress(ValueError):
            return float(a) == b
    return a == b or str(a) == str(b)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "store",
            ("run/stores/demos.zarr/**/*",),
            lambda folder: _store(folder / "run" / "stores" / "demos.zarr"),
        ),
        Kind(
            "deployment",
            ("deployment.zarr/**/*",),
            lambda folder: _store(folder / "deployment.zarr"),
        ),
        Kind(
            "foreign store",
            ("foreign.zarr/**/*",),
            lambda folder: _store(folder / "foreign.zarr"),
            "plain",
        ),
        Kind("weights", ("run/weights/generalist/**/*",), _weights),
        Kind("policy", ("policy/*",), _policy),
        Kind("onnx", ("export.onnx", "export.json"), _onnx),
        Kind("checkpoint", ("checkpoint/*",), _checkpoint),
        Kind("evaluation", ("run/evaluation/*.json",), _evaluations),
        Kind("manifest", ("run/manifest.json", "run/work/*/*.json"), _manifest),
        Kind(
            "report",
            ("run/*.json", "run/*.yaml", "run/*/*.json", "run/metrics/**/*.jsonl"),
            _report,
            loose=("settings.yaml", "*.jsonl"),
        ),
        Kind("metrics", ("run/metrics/distill/generalist.jsonl",), _metrics, "plain"),
        Kind(
            "recipe",
            ("recipe.yaml",),
            _recipe("recipe.yaml"),
            "written",
            _recipe_shown("recipe.yaml"),
        ),
        Kind(
            "settings",
            ("run/settings.yaml",),
            _recipe("run/settings.yaml"),
            "written",
            _recipe_shown("run/settings.yaml"),
        ),
        Kind("limits", ("limits.yaml",), _limits, "written", _limits_shown),
    )
}


def plain(value: Any) -> str:
    """What came of a folder, as text to compare."""
    return json.dumps(value, sort_keys=True, default=str)
