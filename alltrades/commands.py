"""What each command of the command line does; `cli.py` maps names to these functions."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.data.errors import UserError
from alltrades.files import write_json

if TYPE_CHECKING:
    from alltrades.data.steps import Steps
    from alltrades.envs.spec import EnvSpec
    from alltrades.settings import RunSettings

DEFAULT_RECIPE = "quickstart"


def _settings(args: argparse.Namespace) -> tuple[RunSettings, dict[str, str]]:
    """Settings of a command: its recipe (default quickstart) and the command line.

    Environments named on the command line replace the recipe's, its optional ones too.
    """
    from alltrades.config import load_settings
    from alltrades.settings import RunSettings

    overrides = list(args.overrides)
    given = {token.split("=")[0] for token in overrides}
    if "--environments" in given and "--optional_environments" not in given:
        overrides += ["--optional_environments", "[]"]
    return load_settings(RunSettings, defaults_file=args.config or DEFAULT_RECIPE, small=args.small, overrides=overrides)


def run(args: argparse.Namespace) -> int:
    """The whole pipeline, or the study that the recipe names."""
    from alltrades.studies import study_of

    study = study_of(args.config)
    if study is not None:
        return _run_study(study, args)
    from alltrades.pipeline import run as run_pipeline
    from alltrades.report.tables import show_result

    if args.data is not None:
        args.overrides = [*args.overrides, "--demos.path", args.data]
    settings, origins = _settings(args)
    folder = Path(args.out) if args.out else Path("runs") / (settings.name + ("-small" if args.small else ""))
    result = run_pipeline(settings, folder, origins)
    show_result(result.evaluations, result.comparison, result.advice, settings.evaluation.limits)
    for name in result.left_out:
        hint = "" if "(" in name else f'; to add it: pip install "alltrades[{name.split("/")[0].lower()}]"'
        print(f"left out: {name}{hint}")
    print(f"run folder: {result.folder}")
    if result.report is not None:
        print(f"report: {result.report}")
    return 0


def _run_study(study: Any, args: argparse.Namespace) -> int:
    """A recipe with `study:` at its top."""
    from alltrades.config import load_settings
    from alltrades.studies.claims import judge

    if args.data is not None:
        raise UserError("--data is for runs and the recipe names a study; leave it out")
    settings, origins = load_settings(study.Settings, defaults_file=args.config, small=args.small, overrides=args.overrides)
    folder = Path(args.out) if args.out else Path("runs") / (settings.name + ("-small" if args.small else ""))
    result = study.run(settings, folder, origins)
    if not args.small:  # too few episodes to judge by
        result.findings += map(str, judge(settings.name, result.to_json()))
    written = result.write(folder)
    result.show()
    for path in written:
        print(f"wrote {path}")
    return 0


def collect(args: argparse.Namespace) -> int:
    """Demonstrations from scripted experts."""
    from alltrades import stages, storage
    from alltrades.progress import Progress

    settings, _ = _settings(args)
    specs, _ = stages.resolve(settings)
    with Progress("collect", len(specs), "env") as progress:
        rates = storage.collect(specs, settings.demos.episodes, settings.seed, Path(args.out), settings.rollout,
                                settings.demos.attempts, lambda done, total: progress.update(done))
    for name, rate in rates.items():
        print(f"{name}: kept {rate['successes']} demonstrations of {rate['n']} tries of the expert")
    print(f"wrote {args.out}")
    return 0


def _demos(args: argparse.Namespace, settings: RunSettings, specs: Sequence[EnvSpec]) -> Steps:
    """The demonstrations that a command is to use."""
    from alltrades import storage

    return storage.first_demos(Path(args.demos), [s.id for s in specs], settings.demos.episodes, settings.demos.observations)


def train(args: argparse.Namespace) -> int:
    """Specialists or the labeled-only policy."""
    from alltrades import stages
    from alltrades.progress import Progress
    from alltrades.rundir import policy_digests

    settings, _ = _settings(args)
    specs, _ = stages.resolve(settings)
    out = Path(args.out)
    demos = _demos(args, settings, specs)
    joint = Path(args.labeled_only) if args.labeled_only else None
    work = _work(out, {"what": args.what, "settings": settings.model_dump(mode="json"), "demos": demos.digest(),
                       "joint": policy_digests(joint) if joint else None})
    if args.what == "labeled_only":
        with Progress("labeled_only", settings.labeled_only.steps, "step") as progress:
            stages.train_labeled_only(settings, specs, demos, out, work, stages.stage_seed(settings.seed, "labeled_only"),
                                      each=progress.update)
        shutil.rmtree(work)
        print(f"wrote {out}")
        return 0
    kind = "scratch" if args.what == "specialists" else "joint_init"
    if kind == "joint_init" and args.labeled_only is None:
        raise UserError("specialists_joint start from the labeled-only policy; none was given; add --labeled-only FOLDER")
    with Progress(args.what, 1, "step") as progress:
        line = stages.train_specialists(settings, kind, specs, demos, joint, out, work, each=progress.update)
    shutil.rmtree(work)
    if line is not None:
        print(line)
    print(f"wrote {out}")
    return 0


def _work(out: Path, key: dict[str, Any]) -> Path:
    """Folder of checkpoints: those of an interrupted training with the same inputs, else empty."""
    from alltrades.rundir import key_digest

    work, digest = out / "work", key_digest(key)
    marker = work / "key.txt"
    if not marker.exists() or marker.read_text() != digest:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        marker.write_text(digest)
    return work


def rollout(args: argparse.Namespace) -> int:
    """Pseudo-trajectories."""
    from alltrades import stages
    from alltrades.acting import load_policies
    from alltrades.policies.preference import parse_preference
    from alltrades.progress import Progress

    settings, _ = _settings(args)
    specs, _ = stages.resolve(settings)
    policies = load_policies(Path(args.policy), specs, settings.device, parse_preference(args.preference))
    with Progress("rollout", args.episodes * len(specs), "episode") as progress:
        stages.rollout_store(policies, specs, args.episodes, stages.stage_seed(settings.seed, f"rollouts/{args.teacher}"),
                             args.teacher, Path(args.out), settings.rollout, each=lambda done, total: progress.update(done))
    for name, facts in stages.rollout_statistics(Path(args.out)).items():
        print(f"{name}: {facts['successes']} of {facts['n']} episodes succeeded, {facts['steps']} steps")
    print(f"wrote {args.out}")
    return 0


def weigh(args: argparse.Namespace) -> int:
    """Importance weights."""
    from alltrades import stages
    from alltrades.stage2_inputs import save_weights

    settings, _ = _settings(args)
    specs, _ = stages.resolve(settings)
    demos = _demos(args, settings, specs)
    rollouts = stages.union_of_rollouts({x: Path(x) for x in args.rollouts}, specs, settings.distill.rollouts)
    results = stages.weigh(demos, rollouts, settings.distill, stages.stage_seed(settings.seed, "distill/generalist"))
    save_weights(Path(args.out), results, demos, rollouts, settings.distill.weights)
    for name, result in results.items():
        summary = result.summary()
        shown = " ".join(f"{k} {summary[k]:.2f}" for k in ("auc", "ess", "tau", "max_weight") if summary[k] is not None)
        print(f"{name}: {'active' if result.active else 'inactive'} {shown}" + "".join(f"; {w}" for w in result.warnings))
    print(f"wrote {args.out}")
    return 0


def distill(args: argparse.Namespace) -> int:
    """A generalist."""
    from alltrades import stages
    from alltrades.progress import Progress
    from alltrades.report import text
    from alltrades.rundir import policy_digests, tree_digest
    from alltrades.stage2_inputs import load_weights, read_teachers

    settings, _ = _settings(args)
    specs, _ = stages.resolve(settings)
    teachers, stores = read_teachers(args.teacher, specs, settings.device)
    initial = Path(args.labeled_only) if settings.distill.init == "labeled_only" and args.labeled_only else None
    if settings.distill.init == "labeled_only" and initial is None:
        raise UserError("distill.init is labeled_only and no policy was given; add --labeled-only FOLDER")
    demos = _demos(args, settings, specs)
    rollouts = stages.union_of_rollouts(stores, specs, settings.distill.rollouts)
    seed = stages.stage_seed(settings.seed, "distill/generalist")
    if args.weights is not None:
        weights = load_weights(Path(args.weights), demos, rollouts, settings.distill.weights)
    else:
        weights = stages.weigh(demos, rollouts, settings.distill, seed)
    for line in text.weight_warnings({name: result.warnings for name, result in weights.items()}):
        print(f"weights: {line}", file=sys.stderr)
    if settings.distill.rounds.count:
        print("this is the generalist before rounds (distill.rounds), which are a part of `alltrades run`", file=sys.stderr)
    out = Path(args.out)
    work = _work(out, {"settings": settings.model_dump(mode="json"), "demos": demos.digest(), "rollouts": rollouts.digest(),
                       "teachers": {kind: {i: p.digest() for i, p in of_env.items()} for kind, of_env in teachers.items()},
                       "initial": policy_digests(initial) if initial else None,
                       "weights": tree_digest(Path(args.weights)) if args.weights else None})
    with Progress("distill", settings.distill.train.steps, "step") as progress:
        stages.distill(settings, settings.distill, specs, demos, rollouts, weights, teachers, initial, out, work, seed,
                       each=progress.update)
    shutil.rmtree(work)
    print(f"wrote {out}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Success with intervals."""
    from alltrades import stages
    from alltrades.acting import load_policies, prefer
    from alltrades.policies.preference import parse_preference
    from alltrades.progress import Progress
    from alltrades.report.tables import show_result

    settings, _ = _settings(args)
    specs, _ = stages.resolve(settings)
    folder = Path(args.policy)
    preference = parse_preference(args.preference)
    policies = load_policies(folder, specs, settings.device, preference)
    prefer(policies, preference or settings.evaluation.preference)
    for policy in policies.values():
        policy.set_execute(args.execute)
    name = args.name or folder.name
    with Progress("evaluate", settings.evaluation.episodes * len(specs), "episode") as progress:
        facts = folder / "policy.json"
        used = json.loads(facts.read_text())["training"].get("used_success_signal", False) if facts.exists() else False
        result = stages.evaluate_row(name, policies, specs, settings, used, each=lambda done, total: progress.update(done),
                                     ensemble=args.ensemble)
    show_result({name: result}, {"pairs": []}, {}, settings.evaluation.limits)
    if args.out:
        write_json(Path(args.out), result.to_json())
        print(f"wrote {args.out}")
    return 0


def compare(args: argparse.Namespace) -> int:
    """Paired difference of two evaluations or two rows over runs."""
    from alltrades.envs.evaluation import Evaluation, paired_difference, paired_over_seeds
    from alltrades.report.tables import show_result

    def read(path: Path) -> Evaluation:
        try:
            return Evaluation.from_json(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not an evaluation ({error}); expected what `alltrades evaluate --out` wrote") from error

    if args.rows is not None:
        pairs = [tuple(read(Path(folder) / "evaluation" / f"{row}.json") for row in args.rows) for folder in args.a]
        result = paired_over_seeds([(a, b) for a, b in pairs], at=args.at, metric=args.metric)
        names = tuple(args.rows)
    else:
        if len(args.a) != 2:
            raise UserError(f"got {len(args.a)} evaluations; expected two JSON files, or run folders with --rows A B")
        a, b = (read(Path(x)) for x in args.a)
        result = paired_difference(a, b, at=args.at, metric=args.metric)
        names = (a.name, b.name)
    show_result({}, {"pairs": [{"a": names[0], "b": names[1], "metric": args.metric, **result.to_json()}]}, {}, ())
    return 0


def report(args: argparse.Namespace) -> int:
    """The HTML page."""
    from alltrades.report import write_report

    print(f"wrote {write_report(Path(args.run), Path(args.out) if args.out else None)}")
    return 0


def pareto(args: argparse.Namespace) -> int:
    """Pareto fronts of a finished run."""
    from alltrades.config import load_settings
    from alltrades.pareto import ParetoSettings
    from alltrades.studies.pareto import of_run

    words = [f"--{name}=[{','.join(values)}]" for name, values in (("fronts", args.fronts), ("labeled_only", args.labeled_only))]
    words += [f"--divisions={args.divisions}", f"--row={args.row}"]
    words.append(f"--preferences=[{','.join(f'[{p}]' for p in args.preferences)}]")
    settings, _ = load_settings(ParetoSettings, overrides=words)
    folder = Path(args.run)
    result = of_run(folder, settings, args.episodes)
    written = result.write(folder / "pareto", "front")
    result.show()
    for path in written:
        print(f"wrote {path}")
    return 0


def export(args: argparse.Namespace) -> int:
    """ONNX."""
    from alltrades.data.store import EpisodeStore
    from alltrades.policies.export import export_onnx, observed_windows
    from alltrades.policies.policy import load_policy
    from alltrades.policies.preference import parse_preference

    out = Path(args.out) if args.out else Path(args.policy) / "export.onnx"
    policy = load_policy(args.policy).set_preference(parse_preference(args.preference)).set_execute(args.execute)
    given = None if args.observations is None else observed_windows(policy, EpisodeStore.open(args.observations))
    found = export_onnx(policy, out, args.batch, given)
    print(f"wrote {out} and {out.with_suffix('.json')}; at most {found.max_error:.1e} of the action range from PyTorch over "
          f"{found.rows - found.observed} random and {found.observed} recorded observations")
    return 0


def serve(args: argparse.Namespace) -> int:
    """The policy server."""
    import torch
    from pydantic import ValidationError

    from alltrades.policies.deployment import check_device
    from alltrades.policies.policy import load_policy
    from alltrades.policies.preference import parse_preference
    from alltrades.policies.server import ServerSettings, serve_forever

    given = {name: value for name, value in vars(args).items() if name in ServerSettings.model_fields}
    try:
        settings = ServerSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f"--{part}: " for part in first["loc"]).replace("_", "-")
        raise UserError(f"{name}{first['msg']}; got {first['input'] if first['loc'] else 'one of them'}") from error
    if args.threads < 1:
        raise UserError(f"--threads {args.threads}; expected at least 1")
    check_device(args.device)
    if settings.engine == "onnx" and torch.device(args.device).type != "cpu":
        raise UserError(f"--engine onnx with --device {args.device}; it computes on the processor; leave one of them out")
    torch.set_num_threads(args.threads)

    def announce(address: str) -> None:
        print(f"serving {args.policy} at {address}", flush=True)
        if settings.dashboard:
            print(f"operator's page: {address.replace('ws', 'http', 1)}/dashboard", flush=True)

    policy = load_policy(args.policy, args.device).set_preference(parse_preference(args.preference))
    serve_forever(policy, settings, args.policy, announce=announce)
    return 0


def deploy(args: argparse.Namespace) -> int:
    """A policy on a robot."""
    from alltrades.deploy import deploy as run_deploy

    return run_deploy(args)


def envs(args: argparse.Namespace) -> int:
    """The registry."""
    from alltrades.envs import registry

    registry.load_plugins(args.plugins)
    if args.names:
        for spec in registry.resolve(args.names):
            expert = "expert" if registry.expert(spec.id) is not None else "no expert"
            print(f"{spec.id}  observation {spec.obs_dim}  action {spec.action_dim}  {spec.max_steps} steps  {expert}")
        return 0
    for name, ids in sorted(registry.list_suites().items()):
        print(f"suite {name}: {len(ids)} environments")
    for name in registry.list_environments():
        print(name)
    return 0


def bench(args: argparse.Namespace) -> int:
    """Time the hot paths; exit code 1 when something is wrong that is no figure, such as a robot that got an error."""
    from alltrades import bench as module

    results: list[dict[str, Any]] = []
    for line in module.measure(args, results):
        print(line, flush=True)
    if args.json is not None:
        write_json(Path(args.json), results)
        print(f"wrote {args.json}")
    return 0 if all(result.get("ok", True) for result in results) else 1


def data(args: argparse.Namespace) -> int:
    """Stores."""
    from alltrades.data.store import EpisodeStore
    from alltrades.weight_column import describe_weights

    store = EpisodeStore.open(Path(args.store))
    shown = () if args.weights is None else describe_weights(store, Path(args.weights))
    print("\n".join([*store.describe(), *shown]))
    return 0


def doctor(args: argparse.Namespace) -> int:
    """What is installed."""
    from alltrades.doctor import check, render

    checks = check()
    render(checks)
    return 0 if all(c.ok for c in checks) else 1
