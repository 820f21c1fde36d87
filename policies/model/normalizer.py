"""Normalisation of observations and actions, in each environment by its own statistics; part of
every policy artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from alltrades.data.layout import Layout
from alltrades.policies.model.encoders.sentences import Reading
from alltrades.policies.model.statistics import Spread, Statistics
from alltrades.policies.settings import PolicySettings

CLIP = 8.0  # normalised observations beyond are compressed
FARTHEST = 1e9  # beyond it they do not grow any more: what is far outside the data stays finite


class Normalizer(nn.Module):
    """Affine maps of padded observations and actions, with masks of what each environment has.

    Args:
        layout: of the K environments.

    Attributes:
        reading: of the sentences of training, from which a policy's encoders of texts begin; None
            where they are read word by word, and of a policy that was loaded.

    Buffers: obs_mean, obs_scale, obs_mask (K, D), of the states of all slots, the mean in float64
    where a slot is, so that what is far from zero keeps its movement; image_mean,
    image_scale, image_mask (K, images), of a slot's pixels; action_mean, action_scale, action_mask
    (K, A); action_low, action_high (K, A), in normalised units, between which clean chunks are
    sampled.
    """

    obs_mean: Tensor
    obs_scale: Tensor
    obs_mask: Tensor
    image_mean: Tensor
    image_scale: Tensor
    image_mask: Tensor
    action_mean: Tensor
    action_scale: Tensor
    action_low: Tensor
    action_high: Tensor
    action_mask: Tensor
    fitted: Tensor

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.reading: Reading | None = None
        self.slices = dict(layout.slices)
        self.images = [slot.key for slot in layout.of_kind("image")]
        seen = layout.present[:, [key in self.images for key in layout.slots]]
        masks = {"obs": layout.state_mask, "image": seen, "action": layout.action_mask}
        for name, mask in masks.items():
            self.register_buffer(f"{name}_mean", torch.zeros(mask.shape))
            self.register_buffer(f"{name}_scale", torch.ones(mask.shape))
            self.register_buffer(f"{name}_mask", torch.from_numpy(mask).float())
        if any(slot.dtype == "float64" for slot in layout.of_kind("state")):
            self.obs_mean = self.obs_mean.double()
        self.register_buffer("action_low", -torch.ones(layout.action_mask.shape))
        self.register_buffer("action_high", torch.ones(layout.action_mask.shape))
        self.register_buffer("fitted", torch.zeros(()))

    def same_actions(self, mine: int, other: Normalizer, theirs: int) -> bool:
        """Whether both map the actions of an environment alike, which is number `mine` of this and
        `theirs` of the other.
        """
        width = int(self.action_mask[mine].sum())
        return all(
            torch.equal(a[mine, :width], b[theirs, :width])
            for a, b in (
                (self.action_mean, other.action_mean),
                (self.action_scale, other.action_scale),
            )
        )

    def observation(self, window: Mapping[str, Tensor], environment: Tensor) -> dict[str, Tensor]:
        """A window of the layout in environment units, and (B,) -> the same normalised: states and
        images as float32, zero where an environment does not have them; text as it is.
        """
        out = dict(window)
        if self.slices:
            states = [window[key].to(self.obs_mean.dtype) for key in self.slices]
            x = states[0] if len(states) == 1 else torch.cat(states, dim=-1)  # (B, n_obs_steps, D)
            mean, scale, mask = (
                b[environment][:, None] for b in (self.obs_mean, self.obs_scale, self.obs_mask)
            )  # (B, 1, D)
            x = compressed((x - mean).float() / scale) * mask
            out |= {key: x[..., part] for key, part in self.slices.items()}
        for i, key in enumerate(self.images):
            if key not in window:  # its features are there instead
                continue
            mean, scale, mask = (
                b[environment, i].view(-1, 1, 1, 1, 1)
                for b in (self.image_mean, self.image_scale, self.image_mask)
            )
            x = (window[key].float() - mean) / scale
            out[key] = (x if window[key].dtype == torch.uint8 else compressed(x)) * mask
        return out

    def action(self, chunk: Tensor, environment: Tensor) -> Tensor:
        """(B, H, A) in environment units, (B,) -> normalised."""
        return (chunk - self.action_mean[environment][:, None]) / self.action_scale[environment][
            :, None
        ]

    def unaction(self, chunk: Tensor, environment: Tensor) -> Tensor:
        """(B, H, A) normalised, (B,) -> environment units; the inverse of `action`."""
        return (
            chunk * self.action_scale[environment][:, None] + self.action_mean[environment][:, None]
        )

    def bounds(self, environment: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, A) least and largest normalised actions of the environments (B,)."""
        return self.action_low[environment][:, None], self.action_high[environment][:, None]


def compressed(x: Tensor) -> Tensor:
    """x up to +-8, and from there on growing as its logarithm: 8 + asinh(x - 8)."""
    within = x.clamp(-CLIP, CLIP)
    return within + (x - within).clamp(-FARTHEST, FARTHEST).asinh()


def action_bounds(
    found: Spread,
    center: np.ndarray,
    half: np.ndarray,
    still: np.ndarray,
    settings: PolicySettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Between which normalised actions chunks are sampled: +-`settings.clip`, or as far as the data
    reaches; 0 of dimensions that stand still.
    """
    clip = np.inf if settings.clip is None else settings.clip
    low = np.minimum(-clip, (found.low - center) / half)
    high = np.maximum(clip, (found.high - center) / half)
    return np.where(still, 0.0, low), np.where(still, 0.0, high)


def fit_normalizer(
    statistics: Sequence[Statistics], layout: Layout, settings: PolicySettings
) -> Normalizer:
    """The normaliser of K environments from the statistics of each.

    Actions are scaled to [-1, 1] or to unit deviation, observations to unit deviation. Dimensions
    that stand still have their mean and their own size for units; such actions come out as that
    mean. Sampled chunks stay within +-`settings.clip`, or as far as the data reaches.
    """
    out = Normalizer(layout)
    for k, (own, environment) in enumerate(zip(statistics, layout.environments)):
        for name, found in own.states.items():
            start = layout.slices[layout.fields[k][name]].start
            here = slice(start, start + len(found.mean))
            out.obs_mean[k, here] = torch.from_numpy(found.mean)
            out.obs_scale[k, here] = torch.from_numpy(np.where(found.still, found.unit, found.std))
        for name, (low, high) in own.images.items():
            i = out.images.index(layout.fields[k][name])
            out.image_mean[k, i], out.image_scale[k, i] = (low + high) / 2, (high - low) / 2
        found, size = own.action, environment.action_dim
        center, half = found.mean, found.std
        if settings.action_normalizer == "range":
            center = (found.inner_low + found.inner_high) / 2
            half = (found.inner_high - found.inner_low) / 2
        half = np.where(found.still, found.unit, half)
        least, largest = action_bounds(found, center, half, found.still, settings)
        for name, value in {
            "mean": center,
            "scale": half,
            "low": least,
            "high": largest,
        }.items():
            repeated = np.tile(value, size // len(value))  # pixels share theirs
            getattr(out, f"action_{name}")[k, :size] = torch.from_numpy(repeated)
    out.fitted.fill_(1.0)
    return out
