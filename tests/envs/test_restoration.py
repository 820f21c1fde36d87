"""Image restoration as one-step environments: what is degraded, what is judged, and that no
evaluation image is seen before.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.rollouts.evaluation import Actors, evaluate
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import (
    PURPOSES,
    episode_seed,
    evaluation_seeds,
    evaluation_starts,
)
from alltrades.envs.suites import images
from alltrades.envs.suites.restoration import FIRST_SEED, TASKS, RestorationEnv, split_seed

SUITES = ["restoration"] + (
    ["restoration:photographs"] if importlib.util.find_spec("skimage") else []
)
SPECS = {s.id: s for s in registry.resolve(SUITES)}


def start(task: str, seed: int) -> tuple[RestorationEnv, np.ndarray]:
    """The environment, and its images of a seed row by row."""
    env = RestorationEnv(task, "digits")
    return env, np.concatenate([x.ravel() for x in env.reset(seed=seed)[0].values()])


@pytest.mark.parametrize("env_id", SPECS)
def test_the_expert_is_perfect_and_an_episode_is_one_step(env_id: str) -> None:
    spec = SPECS[env_id]
    (episode,) = rollout([Job(env_id, 3, "expert")], {env_id: spec}, {})
    assert len(episode) == 1 and episode.success and episode.first_success == 1
    assert episode.return_ == episode.metrics["psnr"] == 60.0 and episode.metrics[
        "ssim"
    ] == pytest.approx(1.0)
    names = ["image", "missing"] if "inpaint" in env_id else ["image"]
    assert list(spec.observation) == list(episode.observations) == names
    for name, field in spec.observation.items():
        assert field.same(Field("image", spec.action.image, "float32"))
        assert episode.observations[name].shape == (1, *field.shape)
    assert episode.actions.shape == (1, spec.action_dim)


def test_an_episode_is_a_function_of_its_seed() -> None:
    for spec in list(SPECS.values())[:4]:
        a, b = EnvAdapter(spec), EnvAdapter(spec)
        first = a.reset(5)
        a.reset(6)
        np.testing.assert_equal(a.reset(5), first)
        np.testing.assert_equal(b.reset(5), first)
        assert not np.array_equal(b.reset(6)["image"], first["image"])


@pytest.mark.parametrize("env_id", SPECS)
def test_no_evaluation_image_is_among_those_of_any_other_purpose(env_id: str) -> None:
    spec, adapter = SPECS[env_id], EnvAdapter(SPECS[env_id])

    def clean(seeds: list[int]) -> set[bytes]:
        out = set()
        for seed in seeds:
            adapter.reset(seed)
            out.add(adapter.expert_observation.tobytes())
        return out

    evaluation = clean(evaluation_seeds(spec, 0, 200))
    assert len(evaluation) == 200  # every start is another image
    others = [episode_seed(1, purpose, env_id, i) for purpose in PURPOSES for i in range(50)]
    assert max(others) < min(FIRST_SEED.values())
    selection = clean([split_seed("selection", i) for i in range(100)])
    assert (
        not evaluation & clean(others)
        and not evaluation & selection
        and not selection & clean(others)
    )


def test_denoise_adds_independent_noise_of_its_deviation() -> None:
    noise = np.stack(
        [observation - env.clean for env, observation in (start("denoise", s) for s in range(300))]
    )
    assert (
        noise.std() == pytest.approx(TASKS["denoise"].noise, rel=0.02) and abs(noise.mean()) < 0.01
    )
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.2


def test_deblur_is_a_gaussian_blur_normalised_at_the_border() -> None:
    env, observation = start("deblur", 3)
    image = env.clean.reshape(8, 8)
    blurred = gaussian_filter(
        image, TASKS["deblur"].blur, mode="constant", truncate=20
    ) / gaussian_filter(np.ones((8, 8)), TASKS["deblur"].blur, mode="constant", truncate=20)
    np.testing.assert_allclose(env.operator @ env.clean, blurred.ravel(), atol=1e-6)
    assert (observation - blurred.ravel()).std() == pytest.approx(TASKS["deblur"].noise, rel=0.3)


def test_inpaint_hides_half_of_the_pixels_and_says_which() -> None:
    env, observation = start("inpaint", 3)
    image, missing = observation[:64], observation[64:] > 0
    assert (
        missing.sum() == 32 and (image[missing] == 0).all() and set(observation[64:]) == {0.0, 1.0}
    )
    assert abs(image[~missing] - env.clean[~missing]).max() < 5 * TASKS["inpaint"].noise
    assert (start("inpaint", 4)[1][64:] != observation[64:]).any()


def test_superres_repeats_noisy_means_of_two_by_two_pixels() -> None:
    env, observation = start("superres", 3)
    seen = observation.reshape(4, 2, 4, 2)
    assert (seen == seen[:, :1, :, :1]).all()
    mean = env.clean.reshape(4, 2, 4, 2).mean((1, 3))
    assert (
        abs(seen[:, 0, :, 0] - mean).std() < 2 * TASKS["superres"].noise
        and (seen[:, 0, :, 0] != mean).any()
    )


@pytest.mark.parametrize("task", ["denoise", "inpaint"])
def test_the_classical_method_is_gaussian_process_regression_with_an_exponential_kernel(
    task: str,
) -> None:
    """Where every measurement is a pixel, the Wiener filter is the mean of a Gaussian process."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    env, observation = start(task, 7)
    mean, variance, length = images.smoothness(images.digits().train)
    where = np.indices((8, 8)).reshape(2, -1).T
    seen = observation[64:] == 0 if task == "inpaint" else np.ones(64, bool)
    kernel = ConstantKernel(variance, "fixed") * Matern(length, "fixed", nu=0.5)
    process = GaussianProcessRegressor(kernel, alpha=TASKS[task].noise ** 2, optimizer=None)
    process.fit(where[seen], env.measured[seen] - mean)
    np.testing.assert_allclose(
        env.classical(), np.clip(mean + process.predict(where), 0, 1), atol=1e-6
    )


@pytest.mark.parametrize("task", TASKS)
def test_success_is_to_be_one_decibel_better_than_the_classical_method(task: str) -> None:
    env, observation = start(task, 11)
    classical = env.classical()
    assert not env.step(classical)[4]["success"]
    error = classical - env.clean
    for decibels, expected in ((0.9, False), (1.1, True)):
        info = env.step(env.clean + 10 ** (-decibels / 20) * error)[4]
        assert info["success"] == expected and info["psnr"] - info[
            "psnr_classical"
        ] == pytest.approx(decibels, abs=1e-6)
    better = [
        images.psnr(e.classical(), e.clean) - images.psnr(np.clip(o[:64], 0, 1), e.clean)
        for e, o in (start(task, s) for s in range(150))
    ]
    assert np.mean(better) > 0.3  # than the degraded image: it is worth beating


def test_evaluation_reports_what_the_environment_measures() -> None:
    spec = SPECS["restoration/denoise"]
    (row,) = evaluate(
        "expert",
        Actors({}, {spec.id: "expert"}),
        {spec.id: spec},
        evaluation_starts([spec], 0, 5),
    ).rows
    assert row.metrics["psnr"] == row.returns == (60.0,) * 5 and row.seeds[0] == split_seed(
        "evaluation", 0
    )


def test_suites_hold_four_tasks_each_and_listing_them_loads_no_images() -> None:
    suites = registry.list_suites()
    assert suites["restoration"] == [f"restoration/{t}" for t in TASKS]
    assert suites["restoration:photographs"] == [f"restoration/{t}:photographs" for t in TASKS]
    code = (
        "import sys; from alltrades.envs import registry; registry.resolve(['restoration']); "
        "sys.exit(any(m in sys.modules for m in ('skimage', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(
    "restoration:photographs" not in SUITES, reason="needs: pip install alltrades[restoration]"
)
@pytest.mark.parametrize("task", [t for t in TASKS if not TASKS[t].missing])
def test_the_mirror_of_a_pair_is_the_pair_of_the_mirrored_photograph(task: str) -> None:
    spec = registry.get(f"restoration/{task}:photographs")
    env, (symmetry,) = RestorationEnv(task, "photographs"), spec.symmetries
    observation, info = env.reset(seed=2)
    flipped = symmetry.action(info["expert_observation"]).reshape(16, 16)
    np.testing.assert_array_equal(flipped, np.fliplr(info["expert_observation"].reshape(16, 16)))
    window = np.stack([observation["image"]] * 40)[:, None]  # of 40 episodes
    before, actions = window.copy(), np.tile(info["expert_observation"], (40, 1, 1))
    symmetry.augment(window, actions, np.arange(40), np.random.default_rng(0))
    mirrored = (window != before).any((1, 2, 3, 4))
    assert 10 < mirrored.sum() < 30
    for k in range(40):
        step = -1 if mirrored[k] else 1
        np.testing.assert_array_equal(window[k], before[k][:, :, ::step])
        shown = actions[k].reshape(16, 16), info["expert_observation"].reshape(16, 16)
        np.testing.assert_array_equal(shown[0], shown[1][:, ::step])
    # A commutes with the mirror: degrading the mirrored image without noise mirrors the degraded
    # one
    side = env.task.shrink
    measured, mirrored = (
        (env.operator @ x.ravel()).reshape(16 // side, 16 // side)
        for x in (np.fliplr(flipped), flipped)
    )
    np.testing.assert_allclose(mirrored, np.fliplr(measured), atol=1e-9)
