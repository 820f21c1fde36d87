"""Linear diffusion policies on random features, whose excess risk is known exactly;
`random_features.py` has the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from alltrades.policies.model.processes import FlowMatching
from alltrades.policies.model.samplers import heun


@dataclass(frozen=True)
class Sizes:
    """One cell of the study: K, D, d_H, d_G and L of the generator, and the deviations of actions
    and frequencies.
    """

    environments: int
    state_dim: int
    d_h: int
    d_g: int
    times: int
    noise: float
    bandwidth: float


@dataclass(frozen=True)
class Features:
    """sqrt(2) cos(frequency . s + phase): frequency (d, D), phase (d,)."""

    frequency: np.ndarray
    phase: np.ndarray

    @classmethod
    def draw(cls, count: int, dim: int, bandwidth: float, rng: np.random.Generator) -> Features:
        return cls(bandwidth * rng.standard_normal((count, dim)), rng.uniform(0, 2 * np.pi, count))

    @classmethod
    def join(cls, parts: list[Features]) -> Features:
        return cls(
            np.concatenate([p.frequency for p in parts]), np.concatenate([p.phase for p in parts])
        )

    def __call__(self, state: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, d)."""
        return np.sqrt(2.0) * np.cos(state @ self.frequency.T + self.phase)

    def second_moment(self) -> np.ndarray:
        """E[phi phi'] (d, d) under s ~ N(0, I): 2 E[cos u cos v] = E[cos(u - v)] + E[cos(u
        + v)].
        """
        f, p = self.frequency, self.phase
        norm = (f**2).sum(1)
        square = norm[:, None] + norm[None]
        cross = 2 * f @ f.T
        return np.cos(p[:, None] - p[None]) * np.exp(-(square - cross) / 2) + np.cos(
            p[:, None] + p[None]
        ) * np.exp(-(square + cross) / 2)


@dataclass(frozen=True)
class Denoisers:
    """Linear denoisers of L times: slope (L,) of x_t, weight (L, d) of the features."""

    slope: np.ndarray
    weight: np.ndarray


class Normal:
    """Regressions on (x_t, phi) at all times, which share phi (N, d) and the eigenvectors of its
    Gram matrix.
    """

    def __init__(self, phi: np.ndarray) -> None:
        self.phi = phi
        values, self.axes = np.linalg.eigh(phi.T @ phi)
        self.values = np.maximum(values, 0.0)

    def fit(self, x: np.ndarray, target: np.ndarray, penalty: np.ndarray) -> Denoisers:
        """Ridge of target (L, N) on x (L, N), unpenalised, and phi (N, d) with penalty (L,): O(L (N
        d + d^2)).
        """
        u, c = (x @ self.phi) @ self.axes, (target @ self.phi) @ self.axes  # (L, d)
        inverse = 1.0 / (self.values[None] + penalty[:, None])
        left = (x * x).sum(1) - (u * u * inverse).sum(1)
        slope = ((x * target).sum(1) - (u * c * inverse).sum(1)) / np.maximum(
            left, 1e-12 * (x * x).sum(1)
        )
        return Denoisers(slope, ((c - slope[:, None] * u) * inverse) @ self.axes.T)


class World:
    """One draw of features and experts, with everything that is known of them exactly.

    Args:
        rng: of the environments; `shared` of the features that only the generalist has:
            environments are the same for every d_G.
    """

    def __init__(self, s: Sizes, rng: np.random.Generator, shared: np.random.Generator) -> None:
        self.s, self.d_h, self.d_g, self.count = s, s.d_h, s.d_g, s.environments
        self.own = [Features.draw(s.d_h, s.state_dim, s.bandwidth, rng) for _ in range(self.count)]
        self.shared = Features.draw(s.d_g - self.count * s.d_h, s.state_dim, s.bandwidth, shared)
        self.theta = []
        for own in self.own:
            direction = rng.standard_normal(s.d_h)
            self.theta.append(direction / np.sqrt(direction @ own.second_moment() @ direction))
        self.moment = [Features.join([own, self.shared]).second_moment() for own in self.own]
        self.process = FlowMatching("sample")
        self.times = np.array(self.process.grid(s.times)[:-1])  # (L,) decreasing, without 0
        alpha, sigma = 1 - self.times, self.times
        variance = alpha**2 * s.noise**2 + sigma**2
        self.alpha, self.sigma = alpha, sigma
        self.slope = alpha * s.noise**2 / variance  # of the best denoiser
        self.gain = 1 - self.slope * alpha  # of the expert's mean in it
        self.left = s.noise**2 * sigma**2 / variance  # Var(a | x_t, s)
        blind = self.gain**2 * (1 - alpha**2 / (variance + alpha**2))
        self.blind = float(blind.mean())

    def generalist_features(self, state: np.ndarray, k: int) -> np.ndarray:
        """(N, d_G): the blocks of other environments are 0."""
        out = np.zeros((len(state), self.d_g))
        out[:, k * self.d_h : (k + 1) * self.d_h] = self.own[k](state)
        out[:, self.count * self.d_h :] = self.shared(state)
        return out

    def visible(self, k: int) -> np.ndarray:
        """Indices of the generalist's features that environment k sees, in the order of
        `moment`.
        """
        return np.concatenate(
            [
                np.arange(k * self.d_h, (k + 1) * self.d_h),
                np.arange(self.count * self.d_h, self.d_g),
            ]
        )

    def penalty(self, features: int) -> np.ndarray:
        """(L,) best ridge penalty for a direction of unknown isotropic law in `features` dimensions
        (Hoerl & Kennard 1970).
        """
        return self.left * features / self.gain**2

    def actions(self, state: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
        """(N,) of expert k."""
        return self.own[k](state) @ self.theta[k] + self.s.noise * rng.standard_normal(len(state))

    def noised(self, action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """x_t (L, N)."""
        return self.alpha[:, None] * action + self.sigma[:, None] * rng.standard_normal(
            (len(self.times), len(action))
        )

    def excess(self, k: int, slope: np.ndarray, weight: np.ndarray) -> float:
        """Exact excess risk in environment k of denoisers on its own and the shared features, as a
        share of the blind one.

        f - f* = (slope - slope*) x_t + (weight - gain theta) . phi with x_t = alpha (theta . phi +
        noise xi) + sigma eps.
        """
        difference = slope - self.slope  # (L,)
        delta = weight.copy()  # (L, d)
        own = slice(0, self.d_h)
        delta[:, own] += (difference * self.alpha - self.gain)[:, None] * self.theta[k]
        risk = difference**2 * (self.alpha**2 * self.s.noise**2 + self.sigma**2)
        return float((risk + ((delta @ self.moment[k]) * delta).sum(1)).mean()) / self.blind

    def specialist_excess(self, k: int, h: Denoisers) -> float:
        return self.excess(
            k, h.slope, np.pad(h.weight, ((0, 0), (0, len(self.moment[k]) - self.d_h)))
        )

    def generalist_excess(self, g: Denoisers) -> float:
        return float(
            np.mean(
                [self.excess(k, g.slope, g.weight[:, self.visible(k)]) for k in range(self.count)]
            )
        )

    def sample(self, h: Denoisers, psi: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Chunks (N,) that a specialist draws at states with features psi (N, d_H), from noise
        (N,).
        """
        position = {round(float(t), 9): i for i, t in enumerate(self.times)}
        mean = torch.from_numpy(h.weight @ psi.T)  # (L, N)

        def clean(x: torch.Tensor, t: float) -> torch.Tensor:
            i = position[round(t, 9)]
            return h.slope[i] * x + mean[i]

        return heun(
            self.process, clean, torch.from_numpy(noise), self.process.grid(self.s.times)
        ).numpy()


@dataclass
class Pairs:
    """Nested demonstrations of all environments, the longest: state (K, n, D), action (K, n), x_t
    (K, L, n).
    """

    state: np.ndarray
    action: np.ndarray
    x: np.ndarray


def draw_pairs(world: World, n: int, rng: np.random.Generator) -> Pairs:
    state = rng.standard_normal((world.count, n, world.s.state_dim))
    action = np.stack([world.actions(state[k], k, rng) for k in range(world.count)])
    return Pairs(state, action, np.stack([world.noised(a, rng) for a in action]))


def fit_specialists(world: World, pairs: Pairs, n: int) -> list[Denoisers]:
    """Stage 1 on the first n pairs of every environment."""
    out = []
    for k in range(world.count):
        target = np.broadcast_to(pairs.action[k, :n], (len(world.times), n))
        out.append(
            Normal(world.own[k](pairs.state[k, :n])).fit(
                pairs.x[k, :, :n], target, world.penalty(world.d_h)
            )
        )
    return out


def fit_labeled(world: World, pairs: Pairs, n: int) -> Denoisers:
    """The generalist's class on the first n pairs of every environment."""
    phi = np.concatenate(
        [world.generalist_features(pairs.state[k, :n], k) for k in range(world.count)]
    )
    x = np.concatenate([pairs.x[k, :, :n] for k in range(world.count)], axis=1)
    target = np.broadcast_to(pairs.action[:, :n].reshape(-1), x.shape)
    return Normal(phi).fit(x, target, world.penalty(world.d_g))


class Stage2:
    """Fresh states of every environment, shared by the fits on them."""

    def __init__(self, world: World, count: int, rng: np.random.Generator) -> None:
        self.world, self.count = world, count
        state = rng.standard_normal((world.count, count, world.s.state_dim))
        self.psi = [world.own[k](state[k]) for k in range(world.count)]
        self.phi = np.stack(
            [world.generalist_features(state[k], k) for k in range(world.count)]
        )  # (K, N, d_G)
        self.start = rng.standard_normal((world.count, count))
        self.eps = rng.standard_normal((world.count, len(world.times), count))

    def fit(
        self, specialists: list[Denoisers], count: int, normal: Normal | None = None
    ) -> dict[str, Denoisers]:
        """Generalists on the first `count` states of every environment, by kind of target."""
        w = self.world
        x, action, prediction = [], [], []
        for k, h in enumerate(specialists):
            chunk = w.sample(h, self.psi[k][:count], self.start[k, :count])
            x.append(w.alpha[:, None] * chunk + w.sigma[:, None] * self.eps[k, :, :count])
            action.append(np.broadcast_to(chunk, x[-1].shape))
            prediction.append(h.slope[:, None] * x[-1] + h.weight @ self.psi[k][:count].T)
        normal = normal or self.normal(count)
        inputs, tiny = np.concatenate(x, axis=1), np.full(len(w.times), 1e-9 * normal.values.sum())
        return {
            "noise": normal.fit(inputs, np.concatenate(action, axis=1), w.penalty(w.d_g)),
            "score": normal.fit(inputs, np.concatenate(prediction, axis=1), tiny),
        }

    def normal(self, count: int) -> Normal:
        return Normal(self.phi[:, :count].reshape(-1, self.world.d_g))
