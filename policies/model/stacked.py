"""Policies of equal shape as one network, whose layers are batched matrix products: trained and
called together.

Every parameter gets a leading axis of K members. Rows come in K equal blocks, or, after `select`,
one row per member.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from alltrades.data.layout import Layout
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy


class StackedLinear(nn.Module):
    """K linear layers; rows (K * n, ..., inputs) -> (K * n, ..., outputs)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = _joined([layer.weight for layer in layers])  # (K, outputs, inputs)
        self.bias = _joined([layer.bias for layer in layers])  # (K, outputs)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(self.weight), -1, x.shape[-1])  # (K, n, inputs)
        return torch.baddbmm(self.bias[:, None], rows, self.weight.mT).reshape(*x.shape[:-1], -1)


class StackedLayerNorm(nn.Module):
    """K layer norms over the last dimension; (K * n, ..., width) of the same shape."""

    def __init__(self, layers: Sequence[nn.LayerNorm]) -> None:
        super().__init__()
        self.shape, self.eps = tuple(layers[0].normalized_shape), layers[0].eps
        self.weight = _joined([layer.weight for layer in layers])  # (K, width)
        self.bias = _joined([layer.bias for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        rows = F.layer_norm(x, self.shape, eps=self.eps).reshape(len(self.weight), -1, x.shape[-1])
        return torch.addcmul(self.bias[:, None], rows, self.weight[:, None]).reshape(x.shape)


class StackedModule(nn.Module):
    """K modules of any kind by `torch.func.vmap`: slower than the two above at few rows, for the
    rarer layers.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self._template = [copy.deepcopy(modules[0])]  # in a list: its parameters are not ours
        self._names = [name for name, _ in modules[0].named_parameters()]
        for i, same in enumerate(zip(*(m.parameters() for m in modules))):
            self.register_parameter(f"p{i}", _joined(same))

    def forward(self, *inputs: Tensor) -> Tensor:
        parameters = [p for p in self._parameters.values() if p is not None]

        def one(parameters: Sequence[Tensor], *rows: Tensor) -> Tensor:
            return functional_call(self._template[0], dict(zip(self._names, parameters)), rows)

        if len(parameters) and len(parameters[0]) == 1:
            return one([p[0] for p in parameters], *inputs)
        rows = [x.unflatten(0, (len(parameters[0]), -1)) for x in inputs]
        with warnings.catch_warnings():  # attention falls back to a loop over members
            warnings.filterwarnings("ignore", "There is a performance drop")
            return vmap(one)(parameters, *rows).flatten(0, 1)


def _joined(tensors: Sequence[Tensor]) -> nn.Parameter:
    stacked = torch.stack([t.detach() for t in tensors])
    return nn.Parameter(stacked, requires_grad=tensors[0].requires_grad)


def stack_modules(modules: Sequence[nn.Module]) -> nn.Module:
    """One module in place of K of equal shape; the order of its parameters is theirs."""
    first = modules[0]
    if isinstance(first, nn.Linear) and first.bias is not None:
        return StackedLinear(modules)  # type: ignore[arg-type]
    if isinstance(first, nn.LayerNorm) and first.elementwise_affine and first.bias is not None:
        return StackedLayerNorm(modules)  # type: ignore[arg-type]
    if first._parameters and any(p is not None for p in first._parameters.values()):
        return StackedModule(modules)
    out = copy.copy(first)
    out._parameters, out._buffers = {}, dict(first._buffers)
    out._modules = {
        name: stack_modules([m._modules[name] for m in modules])  # type: ignore[misc]
        for name in first._modules
    }
    return out


def select(module: nn.Module, members: Tensor) -> nn.Module:
    """A stacked module whose member i is member `members[i]` of this one; without gradients."""
    out = copy.copy(module)
    out._parameters = {
        name: None if p is None else p.detach()[members]  # type: ignore[misc]
        for name, p in module._parameters.items()
    }
    out._modules = {
        name: None if m is None else select(m, members) for name, m in module._modules.items()
    }
    return out


class StackedPolicy(DiffusionPolicy):
    """K policies of one environment each as one: the environment's index is the member's.

    Training sees K equal blocks of rows, so that `loss(batch, generators)` gives each member what
    it would get alone. Acting serves rows of any members in one call, each with the weights of its
    own: a row's result is a function of the row and the number of rows.

    Args:
        policies: members with equal `stack_key`.
    """

    def __init__(self, policies: Sequence[DiffusionPolicy]) -> None:
        if len({stack_key(p) for p in policies}) != 1:
            raise ValueError("policies of different shapes; expected members with one stack_key")
        first = policies[0]
        super().__init__(
            first.settings.model_copy(update={"embedding": 0}),
            [p.environments[0] for p in policies],
            _stack_normalizers(policies),
            architecture=first.conditioner.architecture,
            sentences=first._sentences,
        )
        self.backbone = stack_modules([p.backbone for p in policies])  # type: ignore[assignment]
        for part in ("encoders", "heads", "films"):
            modules = [getattr(p.conditioner, part) for p in policies]
            for name, module in modules[0].items():
                if next(module.parameters(), None) is not None:
                    stacked = StackedModule([own[name] for own in modules])
                    getattr(self.conditioner, part)[name] = stacked
                else:  # such as a reading of sentences, of the only member
                    getattr(self.conditioner, part)[name].load_state_dict(module.state_dict())
        if self.pointer is not None:
            heads = [p.pointer.head for p in policies if p.pointer is not None]
            self.pointer.head = StackedModule(heads)  # type: ignore[assignment]
        self.to(first.device)

    def denoiser(self, environment: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return select(self.backbone, environment)

    @torch.no_grad()
    def copy_member(self, index: int, policy: DiffusionPolicy) -> None:
        """Overwrite the weights of `policy` by those of a member."""
        for mine, theirs in zip(self.parameters(), policy.parameters(), strict=True):
            theirs.copy_(mine[index])


def _stack_normalizers(policies: Sequence[DiffusionPolicy]) -> Normalizer:
    members = [p.normalizer for p in policies]
    out = Normalizer(Layout([p.environments[0] for p in policies]))
    for name, buffer in out.named_buffers():
        own = [getattr(m, name) for m in members]
        buffer.copy_(torch.cat(own) if own[0].ndim else own[0])
    out.reading = members[0].reading  # of texts, which only a member that is alone reads
    return out


def stack_key(policy: DiffusionPolicy) -> str:
    """What policies must have in common to be stacked; unique where a policy cannot be: one of
    several environments, or with encoders, whose layers gain nothing from it.
    """
    layout = policy.layout
    if len(layout.ids) != 1 or len(policy.conditioner.encoders):
        return f"alone {id(policy)}"
    settings = policy.settings.model_dump(exclude={"embedding", "observe"})
    sizes = {slot.key: slot.shape for slot in layout.slots.values()}
    return json.dumps([settings, sizes, policy.action_dim, str(policy.device)])


def stacks(keys: Sequence[object], largest: int) -> list[list[int]]:
    """Positions of equal keys together, in even groups of at most `largest`, in the order in which
    they appear.
    """
    groups: dict[object, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    out = []
    for members in groups.values():
        parts = -(-len(members) // largest)
        out += [
            members[i * len(members) // parts : (i + 1) * len(members) // parts]
            for i in range(parts)
        ]
    return out
