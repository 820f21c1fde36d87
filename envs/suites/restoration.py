"""Image restoration in one step: the observation is a degraded image, the action the restored one,
the reward its PSNR.

Every task is linear with Gaussian noise, y = A x + e, so that one classical method answers all of
them: the Wiener filter, which knows A, the noise and three statistics of clean images. Success is
to be 1 dB better than it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs.spec import EnvSpec
from alltrades.envs.suites import images
from alltrades.envs.suites.images import Images, psnr, ssim
from alltrades.envs.symmetry import Reflection

MARGIN = 1.0  # dB above the Wiener filter that count as success
FIRST_SEED = {
    "selection": 2**63,
    "evaluation": 2**63 + 2**32,
}  # of each split; other purposes draw seeds below 2**63
SOURCES = {"digits": (8, 8), "photographs": (images.PATCH, images.PATCH)}


@dataclass(frozen=True)
class Task:
    """A degradation. noise: deviation of e, pixels being in [0, 1]. The other fields are 0 where
    they do not apply.

    blur: deviation of a Gaussian blur in pixels. missing: share of the pixels that are missing.
    shrink: side of the squares of pixels that are averaged; the observation repeats their means to
    the full size.
    """

    noise: float
    blur: float = 0.0
    missing: float = 0.0
    shrink: int = 1

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the images that an observation consists of."""
        return ("image", "missing") if self.missing else ("image",)

    def operator(self, shape: tuple[int, int]) -> np.ndarray:
        """A (measurements, pixels) before pixels go missing."""
        if self.blur:  # at the border the weights of what is inside are scaled up to sum 1
            sides = [
                np.exp(-0.5 * np.square(np.subtract.outer(np.arange(n), np.arange(n)) / self.blur))
                for n in shape
            ]
            return np.kron(*(m / m.sum(1, keepdims=True) for m in sides))
        return np.kron(
            *(
                np.kron(np.eye(n // self.shrink), np.full(self.shrink, 1.0 / self.shrink))
                for n in shape
            )
        )


TASKS = {
    "denoise": Task(noise=0.25),
    "deblur": Task(noise=0.05, blur=1.0),
    "inpaint": Task(noise=0.05, missing=0.5),
    "superres": Task(noise=0.05, shrink=2),
}


class RestorationEnv(gymnasium.Env):
    """One task on one set of images; an episode is one image.

    Observation, images (H, W, 1) f32: "image", the degraded one, in [0, 1] but for the noise; where
    pixels are missing (they are 0) also "missing", which is 1 there. Action (H * W,) in [0, 1]: the
    restored image, row by row. Reward: PSNR in dB. Info: psnr, ssim, psnr_classical (of the Wiener
    filter), success; "expert_observation" is the clean image.
    """

    def __init__(self, task: str, source: str) -> None:
        self.task, self.images = TASKS[task], load(source)
        self.shape = height, width = self.images.shape
        image = gymnasium.spaces.Box(-np.inf, np.inf, (height, width, 1), np.float32)
        self.observation_space = gymnasium.spaces.Dict(dict.fromkeys(self.task.fields, image))
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (height * width,), np.float32)
        self.operator = self.task.operator(self.shape)
        self.mean, variance, length = images.smoothness(self.images.train)
        where = np.indices(self.shape).reshape(2, -1).T
        distance = np.linalg.norm(where[:, None] - where[None], axis=-1)
        self.prior = variance * np.exp(-distance / length)  # (H * W, H * W)
        self.gain = self._gain(self.operator)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A clean image of the split that the seed belongs to, degraded by noise (and mask) of the
        seed's own.
        """
        rng = np.random.default_rng(seed)
        self.clean = _pick(self.images, seed, rng).astype(np.float64).ravel()
        measured = self.operator @ self.clean
        self.measured = measured + self.task.noise * rng.standard_normal(len(measured))
        self.kept = np.sort(
            rng.permutation(len(measured))[round(self.task.missing * len(measured)) :]
        )
        self.degraded = self._show()
        return self.degraded, {
            "success": False,
            "expert_observation": self.clean.astype(np.float32),
        }

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Judge the restored image; the episode is over."""
        value, classical = psnr(action, self.clean), psnr(self.classical(), self.clean)
        return (
            self.degraded,
            value,
            True,
            False,
            {
                "psnr": value,
                "ssim": ssim(np.reshape(action, self.shape), self.clean.reshape(self.shape)),
                "psnr_classical": classical,
                "success": value >= classical + MARGIN,
            },
        )

    def classical(self) -> np.ndarray:
        """(H * W,) answer of the Wiener filter, clipped to [0, 1].

        It is the best linear estimate for images whose pixels have the training images' mean and
        variance and the covariance variance * exp(-distance / length), the length from their
        neighbouring pixels.
        """
        seen = self.operator[self.kept]
        gain = self.gain if len(self.kept) == len(self.operator) else self._gain(seen)
        return np.clip(
            self.mean + gain @ (self.measured[self.kept] - self.mean * seen.sum(1)), 0.0, 1.0
        )

    def _gain(self, operator: np.ndarray) -> np.ndarray:
        cross = self.prior @ operator.T  # (pixels, measurements)
        return np.linalg.solve(
            operator @ cross + self.task.noise**2 * np.eye(len(operator)), cross.T
        ).T

    def _show(self) -> dict[str, np.ndarray]:
        """The measurements as an image, and which of its pixels are missing where some are."""
        side = self.task.shrink
        small = self.measured.reshape(self.shape[0] // side, self.shape[1] // side)
        shown = [small.repeat(side, 0).repeat(side, 1)]
        if self.task.missing:
            missing = np.ones(len(self.measured))
            missing[self.kept] = 0.0
            missing = missing.reshape(self.shape)
            shown = [np.where(missing, 0.0, shown[0]), missing]
        return {
            name: image[..., None].astype(np.float32)
            for name, image in zip(self.task.fields, shown)
        }


def load(source: str) -> Images:
    """The images called "digits" or "photographs"."""
    return {"digits": images.digits, "photographs": images.photographs}[source]()


def _pick(every: Images, seed: int | None, rng: np.random.Generator) -> np.ndarray:
    """Evaluation and selection go through their images in a fixed mixed order, training draws."""
    for split in ("evaluation", "selection"):
        if seed is not None and seed >= FIRST_SEED[split]:
            chosen = getattr(every, split)
            return chosen[
                np.random.default_rng(0).permutation(len(chosen))[
                    (seed - FIRST_SEED[split]) % len(chosen)
                ]
            ]
    return every.train[rng.integers(len(every.train))]


def split_seed(split: str, index: int) -> int:
    """Seed of image `index` of the split "selection" or "evaluation"; settings are chosen on the
    former.
    """
    return FIRST_SEED[split] + index


def clean_image(observation: np.ndarray) -> np.ndarray:
    """The expert: the clean image, which the environment shows to its expert alone."""
    return observation


def mirror(shape: tuple[int, int]) -> Reflection:
    """Left and right exchanged, in the degraded image and in the restored one."""
    image = np.arange(shape[0] * shape[1]).reshape(shape)[:, ::-1].ravel()
    index = tuple(map(int, image))
    exchanged = index, (1.0,) * len(index), (0.0,) * len(index)
    return Reflection(*exchanged, *exchanged, field="image")


def restoration_spec(env_id: str, task: str, source: str) -> EnvSpec:
    """Specification of a task on a source of images. A mirrored photograph is as good as any, a
    mirrored digit is not; which pixels are missing would have to be mirrored with them.
    """
    shape = SOURCES[source]
    pixels = shape[0] * shape[1]
    mirrored = source == "photographs" and not TASKS[task].missing
    symmetries = (mirror(shape),) if mirrored else ()
    return EnvSpec(
        env_id,
        partial(RestorationEnv, task, source),
        dict.fromkeys(TASKS[task].fields, Field.image(*shape, channels=1, dtype="float32")),
        ActionSpec((0.0,) * pixels, (1.0,) * pixels, image=(*shape, 1)),
        max_steps=1,
        control_hz=1.0,
        extra="restoration" if source == "photographs" else None,
        evaluation_seed=partial(split_seed, "evaluation"),
        selection_seed=partial(split_seed, "selection"),
        symmetries=symmetries,
        metrics=("psnr", "ssim"),
        success="info:success",
    )


def specs() -> list[tuple[EnvSpec, Any]]:
    """All tasks on digits, and on photographs (":photographs")."""
    return [
        (restoration_spec(env_id, task, source), clean_image)
        for source, ids in _ids().items()
        for task, env_id in zip(TASKS, ids)
    ]


def suites() -> dict[str, list[str]]:
    """ "restoration": the four tasks on digits; "restoration:photographs": on patches of
    photographs.
    """
    return {
        "restoration" if source == "digits" else f"restoration:{source}": ids
        for source, ids in _ids().items()
    }


def _ids() -> dict[str, list[str]]:
    return {
        source: [
            f"restoration/{task}" + ("" if source == "digits" else f":{source}") for task in TASKS
        ]
        for source in SOURCES
    }
