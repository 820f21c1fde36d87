"""The row of specialists that act on what the eyes tell: a control of what distillation adds."""

from __future__ import annotations

from dataclasses import replace

from alltrades.envs.rollouts.evaluation import Actors, Evaluation
from alltrades.envs.rollouts.evaluation_files import read_evaluation, write_evaluation
from alltrades.pipeline.acting import load_policies
from alltrades.pipeline.artifacts import policy_digests
from alltrades.pipeline.context import Context
from alltrades.pipeline.folder import RunFolder
from alltrades.pipeline.measurement import Manner, conditions, evaluated
from alltrades.policies.control.controller import Controller
from alltrades.policies.learning.estimated import Estimated
from alltrades.policies.learning.eyes import READER_TENSORS, load_reader
from alltrades.settings.rows import ESTIMATED, Row
from alltrades.system.files import file_digest
from alltrades.system.reporting import Report


def measure_estimated(context: Context, folder: RunFolder) -> Evaluation:
    """Success of a run's specialists on the common evaluation starts, where the state that they see
    is what the run's eyes tell. Always computed by PyTorch.

    Raises UserError where an environment has nothing that the eyes could tell of it.
    """
    settings, out = context.settings, folder.evaluation(ESTIMATED)
    specialists, manner = folder.policy(Row("scratch")), Manner()
    key = {
        "policies": policy_digests(specialists),
        "eyes": file_digest(folder.eyes / READER_TENSORS),
        **conditions(context, manner),
    }

    def body(report: Report) -> None:
        reader = load_reader(folder.eyes, settings.device)
        teachers = load_policies(specialists, context.tested, settings.device)
        policies = {
            spec.id: Estimated(
                reader,
                teachers[spec.id],
                spec.id,
                spec.rendering.parts if spec.rendering is not None else {},
            )
            for spec in context.tested
        }
        lanes = settings.rollout.lanes
        batch = max(1, min(settings.rollout.batch, lanes // len(policies)))
        actors = Actors(
            {name: Controller(p, lanes, batch=batch) for name, p in policies.items()},
            {name: name for name in policies},
            {name: p.digest() for name, p in policies.items()},
        )
        found = evaluated(context, ESTIMATED, actors, context.tested, report)
        made = {"code": dict(context.code), "settings": conditions(context, manner)}
        write_evaluation(out, replace(found, made=made))

    total = settings.evaluation.episodes * len(context.simulated)
    context.stage(f"evaluate/{ESTIMATED}", key, [out], body, total, "episode")
    return read_evaluation(out)
