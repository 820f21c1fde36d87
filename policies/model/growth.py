"""A trained policy that takes further environments: what it did before stays as it was, bit for
bit, until it is trained on.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.errors import UserError
from alltrades.policies.model.normalizer import Normalizer, action_bounds, fit_normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.pooling import action_pools, state_pools
from alltrades.policies.model.statistics import Statistics


def seen_by_policy(policy: DiffusionPolicy, environment: Interface) -> Interface:
    """The fields of a further environment that a policy will see: those that its `observe` fits.
    Raises UserError where none does.
    """
    return environment.seeing(policy.settings.observe)


def grown(
    policy: DiffusionPolicy, environments: Sequence[Interface], statistics: Sequence[Statistics]
) -> DiffusionPolicy:
    """A copy of a policy that also acts in `environments`, which come behind its own.

    Layers that see or give more get further layers beside them, which add nothing at first; all
    others, the statistics and the embeddings of its own environments stay. Noise of fresh encoders
    is PyTorch's.

    Args:
        environments: with the fields that are to be seen.
        statistics: of their demonstrations, one each. Quantities that an environment of the policy
            declares too (see `pooled`) are measured in its units.

    Raises UserError for environments that it knows, for fields of another kind than its own, and
    where its network cannot grow.
    """
    known = [e.id for e in environments if e.id in policy.layout.ids]
    if known:
        raise UserError(
            f"the policy knows '{known[0]}'; expected an environment that is new to it; name "
            "another, or train it on with rounds"
        )
    out = copy.deepcopy(policy)
    every = (*policy.environments, *environments)
    observe = out.settings.observe
    if observe is not None:
        names = dict.fromkeys(name for e in environments for name in e.observation)
        more = [name for name in names if not _fits(name, environments, observe)]
        out.settings = out.settings.model_copy(update={"observe": (*observe, *more)})
    out.widen(every)
    added = fit_normalizer(statistics, Layout(environments), policy.settings)
    out.normalizer = _joined(policy, added, statistics, every).to(policy.device)
    return out.to(policy.device)


def _fits(name: str, environments: Sequence[Interface], observe: Sequence[str]) -> bool:
    having = [e for e in environments if name in e.observation]
    try:
        return all(name in e.seeing(observe).observation for e in having)
    except UserError:
        return False


def _joined(
    policy: DiffusionPolicy,
    added: Normalizer,
    statistics: Sequence[Statistics],
    every: Sequence[Interface],
) -> Normalizer:
    """The normaliser of all environments: the policy's own numbers, and those of the further ones,
    in the units of the policy where they measure the same.
    """
    count, layout = len(policy.environments), Layout(every)
    out = Normalizer(layout)
    _place(out, policy.normalizer, policy.layout, layout, 0)
    _place(out, added, Layout(every[count:]), layout, count)
    for name, members in state_pools(every):
        first = members[0]
        if first < count:
            mine = layout.slices[layout.fields[first][name]].start
            here = slice(mine, mine + every[first].observation[name].shape[0])
            for k in (k for k in members if k >= count):
                out.obs_mean[k, here] = out.obs_mean[first, here]
                out.obs_scale[k, here] = out.obs_scale[first, here]
    for members in action_pools(every):
        first, width = members[0], every[members[0]].action_dim
        if every[first].action.image is not None:
            continue  # their statistics are of channels
        for k in (k for k in members if first < count <= k):
            center, half = (
                b[first, :width].double().numpy() for b in (out.action_mean, out.action_scale)
            )
            low, high = (
                b[first, :width].numpy() for b in (out.action_low, out.action_high)
            )  # 0 where the policy's stands still
            found = statistics[k - count].action
            still = (low == 0) & (high == 0) & found.still
            low, high = action_bounds(found, center, half, still, policy.settings)
            for name, value in (("mean", center), ("scale", half), ("low", low), ("high", high)):
                getattr(out, f"action_{name}")[k, :width] = torch.from_numpy(value)
    out.fitted.fill_(1.0)
    return out


def _place(out: Normalizer, own: Normalizer, before: Layout, layout: Layout, offset: int) -> None:
    """Copy the numbers of some environments to where they stand among all."""
    rows = slice(offset, offset + len(before.ids))
    for key, part in before.slices.items():
        start = layout.slices[key].start
        here = slice(start, start + part.stop - part.start)
        for name in ("obs_mean", "obs_scale"):
            getattr(out, name)[rows, here] = getattr(own, name)[:, part].to(getattr(out, name))
    for i, key in enumerate(own.images):
        for name in ("image_mean", "image_scale"):
            getattr(out, name)[rows, out.images.index(key)] = getattr(own, name)[:, i].cpu()
    for name in ("action_mean", "action_scale", "action_low", "action_high"):
        getattr(out, name)[rows, : before.action_dim] = getattr(own, name).cpu()
