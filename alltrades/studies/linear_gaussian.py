"""Episodes of a linear-Gaussian process in which failure is the shift, with the density ratio in
closed form.

Generator:

    latent    z_0 ~ N(0, I_6),  z_{t+1} = a + rho (z_t - a) + sigma xi_t,  xi_t ~ N(0, I_6),
              t = 0 .. 29
    attractor a = 0 in demonstrations; in rollouts a = 0, or with probability `drift` the wrong
              one, a = (distance, 0, .., 0)
    observed  x_t = A z_t + tau eta_t,  eta_t ~ N(0, I_d),  A (d, 6) with orthonormal columns of
              random direction

with rho = 0.85, sigma = 0.4, distance = 4, tau = 0.25. An episode that drifts begins like a
demonstration and leaves: its states are those that a failing policy visits. The state of a random
step of a random episode has the law

    d*  = mean over t of N(A m_t, s_t^2 A A' + tau^2 I)   with m_t = (1 - rho^t) a,
                                                               s_t^2 = rho^(2t) + sigma^2 (1 -
                                                               rho^(2t)) / (1 - rho^2)

for a = 0, the same law d' for the wrong attractor, and d^h = (1 - drift) d* + drift d'. So d*/d^h
and every moment are known. With drift = 0.4 unweighted rollouts misjudge E_d*|x - mean|^2 by a
factor of 2.0 (d = 10), and the true ratio keeps an effective share of 0.66 of the rows. Sizes are
this project's own.
"""

from __future__ import annotations

import numpy as np

LENGTH, LATENT = 30, 6
RHO, SIGMA, DISTANCE, TAU = 0.85, 0.4, 4.0, 0.25


class LinearGaussian:
    """One world: a random embedding A of the latent process in `dim` >= 6 observed dimensions."""

    def __init__(self, dim: int, drift: float, rng: np.random.Generator) -> None:
        self.dim, self.drift = dim, drift
        self.embedding = np.linalg.qr(rng.standard_normal((dim, LATENT)))[0]  # (d, 6)
        self.wrong = np.zeros(LATENT)
        self.wrong[0] = DISTANCE
        decay = RHO ** np.arange(LENGTH)
        self.approach = 1 - decay  # (30,) m_t / a
        self.variance = decay**2 + SIGMA**2 * (1 - decay**2) / (1 - RHO**2)  # (30,) s_t^2

    def demonstrations(self, episodes: int, rng: np.random.Generator) -> np.ndarray:
        """(episodes * 30, d) states, episode after episode."""
        return self._draw(np.zeros((episodes, LATENT)), rng)

    def rollouts(self, episodes: int, rng: np.random.Generator) -> np.ndarray:
        """(episodes * 30, d) states; a share `drift` of the episodes, rounded, goes to the wrong
        attractor.
        """
        drifts = rng.permutation(episodes) < round(self.drift * episodes)
        return self._draw(drifts[:, None] * self.wrong, rng)

    def _draw(self, attractor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        z, path = rng.standard_normal(attractor.shape), []
        for _ in range(LENGTH):
            path.append(z)
            z = attractor + RHO * (z - attractor) + SIGMA * rng.standard_normal(z.shape)
        x = np.stack(path, axis=1) @ self.embedding.T  # (episodes, 30, d)
        return (x + TAU * rng.standard_normal(x.shape)).reshape(-1, self.dim)

    def log_ratio(self, x: np.ndarray) -> np.ndarray:
        """log(d*(x) / d^h(x)) of rows (n, d)."""
        right, wrong = self._log_density(x, np.zeros(LATENT)), self._log_density(x, self.wrong)
        return -np.logaddexp(np.log1p(-self.drift), np.log(max(self.drift, 1e-300)) + wrong - right)

    def _log_density(self, x: np.ndarray, attractor: np.ndarray) -> np.ndarray:
        """Up to the factor of the d - 6 dimensions that hold noise only."""
        z = x @ self.embedding  # (n, 6): sufficient
        total = self.variance + TAU**2  # (30,)
        means = self.approach[:, None] * attractor  # (30, 6)
        each = -0.5 * ((z[:, None] - means) ** 2).sum(-1) / total - 0.5 * LATENT * np.log(
            total
        )  # (n, 30)
        return np.logaddexp.reduce(each, axis=1) - np.log(LENGTH)

    def squared_distance(self) -> float:
        """E_d*|x - mean|^2; the mean of d* is 0."""
        return float(LATENT * self.variance.mean() + self.dim * TAU**2)
