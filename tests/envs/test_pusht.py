"""PushT: observations agree with the simulator and with the published demonstrations, which replay
exactly.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter
from alltrades.envs.suites import pusht
from alltrades.errors import UserError


@pytest.fixture(scope="module")
def published():
    """The published demonstrations, where a folder with them is named."""
    folder = os.environ.get("ALLTRADES_TEST_DATA")
    if folder is None or not (Path(folder) / "pusht_lowdim.zarr").exists():
        pytest.skip("needs: ALLTRADES_TEST_DATA, a folder with pusht_lowdim.zarr")
    return EpisodeStore.open(Path(folder) / "pusht_lowdim.zarr")


@pytest.fixture(scope="module")
def adapter():
    pytest.importorskip("gym_pusht", reason="needs: pip install alltrades[pusht]")
    adapter = EnvAdapter(registry.get(pusht.ID))
    yield adapter
    adapter.close()


def pushes(n: int) -> np.ndarray:
    """Targets (n, 2) on a circle around the block: contact in most steps."""
    t = np.linspace(0, 6 * np.pi, n)
    return np.stack([256 + 90 * np.cos(t), 280 + 90 * np.sin(3 * t)], axis=1).astype(np.float32)


def test_corners_turn_with_the_block_by_hand():
    quarter = pusht.observation_from_state(np.array([[1.0, 2.0, 100.0, 200.0, np.pi / 2]]))
    assert quarter.shape == (1, 18) and quarter.dtype == np.float32
    assert quarter[0, :2].tolist() == [1.0, 2.0]
    # a quarter turn takes (x, y) to (-y, x): corner (-60, 0) to (0, -60), corner (15, 120) to
    # (-120, 15)
    corners = quarter[0, 2:].reshape(8, 2)
    assert np.allclose(corners[0], [100, 140], atol=1e-4)
    assert any(np.allclose(c, [-20, 215], atol=1e-4) for c in corners)


def test_observation_does_not_jump_where_the_angle_wraps():
    a, b = pusht.observation_from_state(
        np.array([[0, 0, 256, 256, 1e-4], [0, 0, 256, 256, 2 * np.pi - 1e-4]])
    )
    assert np.abs(a - b).max() < 0.1


def test_corners_are_the_simulators_own_keypoints(adapter):
    adapter.reset(3)
    for action in pushes(40):
        observation = adapter.step(action).observation["state"]
    keypoints = adapter._env.env.get_keypoints(adapter._env.env._block_shapes)
    assert np.allclose(observation[2:].reshape(8, 2), keypoints, atol=1e-3)


def test_the_reflection_commutes_with_the_simulation(adapter):
    image = pusht.reflection()
    simulator = (adapter.reset(0), adapter._env)[1]

    def episode(state: np.ndarray, actions: np.ndarray) -> list[tuple[np.ndarray, float]]:
        simulator.reset(seed=0)
        simulator.env.agent.position, simulator.env.agent.velocity = tuple(state[:2]), (0.0, 0.0)
        simulator.env.block.angle = state[4]  # turns about the centre of gravity, so it goes first
        simulator.env.block.position = tuple(state[2:4])
        return [simulator.step(a)[:2] for a in actions]

    x, y, block_x, block_y, angle = start = np.array([100.0, 250.0, 250.0, 250.0, 1.0])
    mirrored = np.array([512 - y, 512 - x, 512 - block_y, 512 - block_x, np.pi / 2 - angle])
    moved = 0.0
    for (o, reward), (p, other) in zip(
        episode(start, pushes(60)), episode(mirrored, image.action(pushes(60)))
    ):
        assert np.allclose(image.observation(o), p, atol=0.05)
        assert reward == pytest.approx(other, abs=1e-3)
        moved = max(moved, np.abs(o[2:4] - pusht.observation_from_state(start[None])[0, 2:4]).max())
    assert moved > 10  # the block was pushed


def test_published_starts_are_drawn_by_the_published_formula(adapter):
    spec = registry.get(pusht.ID)
    assert spec.evaluation_seed is not None and spec.evaluation_seed(4) == 100_004
    rs = np.random.RandomState(100_004)
    agent = [rs.randint(50, 450), rs.randint(50, 450)]
    assert adapter.reset(100_004)["state"][:2].tolist() == agent


def test_seeds_beyond_32_bits_have_starts_of_their_own():
    seeds = [1, 1 + 2**32, 1 + 2**33, 2**63 - 1]
    assert len({tuple(pusht.start_of_seed(s)) for s in seeds}) == 4


def test_faster_simulator_equals_the_package_step_by_step(adapter):
    from gym_pusht.envs.pusht import PushTEnv

    package = PushTEnv(obs_type="state")
    for seed in (100_000, 100_001):
        package.reset(options={"reset_to_state": pusht.start_of_seed(seed)})
        adapter.reset(seed)
        for action in pushes(150):
            state, reward, terminated, _, _ = package.step(action.astype(np.float64))
            result = adapter.step(action)
            (expected,) = pusht.observation_from_state(state[None])
            assert np.array_equal(result.observation["state"], expected)
            assert result.reward == pytest.approx(
                reward, abs=1e-14
            )  # its own value moves by a bit between resets
            assert result.success == terminated


def test_same_seed_gives_a_bit_equal_episode_in_a_used_instance(adapter):
    def episode(seed: int) -> list:
        first = adapter.reset(seed)
        return [
            first["state"].tolist(),
            *((r.observation["state"].tolist(), r.reward) for r in map(adapter.step, pushes(120))),
        ]

    first = episode(7)
    for seed in range(8, 12):
        episode(seed)
        assert episode(7) == first


def test_block_in_the_goal_is_success_with_full_reward(adapter):
    adapter.reset(0)
    simulator = adapter._env.env
    simulator.block.angle = np.pi / 4  # turns about the centre of gravity, so it goes first
    simulator.block.position = (256.0, 256.0)
    simulator.agent.position = (50.0, 50.0)
    result = adapter.step(np.array([50.0, 50.0]))
    assert result.success and result.done and result.reward == 1.0


@pytest.fixture
def small_store(tmp_path):
    """Two episodes in the published layout, written as Zarr 2."""
    import zarr

    group = zarr.open_group(str(tmp_path / "small.zarr"), mode="w", zarr_format=2)
    rng = np.random.default_rng(0)
    for name, value in {
        "data/state": rng.uniform(0, 6, (7, 5)).astype(np.float32),
        "data/action": rng.uniform(0, 512, (7, 2)).astype(np.float32),
        "meta/episode_ends": np.array([3, 7]),
    }.items():
        group.create_array(name, data=value)
    return EpisodeStore.open(tmp_path / "small.zarr")


def test_imported_demonstrations_have_their_seeds_as_columns_and_claim_no_success(small_store):
    episodes = pusht.import_demos(small_store)
    assert [(len(e), e.seed, e.source, e.environment) for e in episodes] == [
        (3, 0, "demo", pusht.ID),
        (4, 1, "demo", pusht.ID),
    ]
    state = small_store.read_array("data/state")
    assert np.array_equal(
        episodes[1].observations["state"], pusht.observation_from_state(state[3:])
    )
    assert np.array_equal(episodes[1].actions, small_store.read_array("data/action")[3:])
    assert not any(e.success or e.successes.any() or e.first_success != -1 for e in episodes)


def test_store_of_another_layout_is_refused(tmp_path):
    import zarr

    group = zarr.open_group(str(tmp_path / "other.zarr"), mode="w", zarr_format=2)
    for name, shape in {"data/state": (4, 3), "data/action": (4, 2)}.items():
        group.create_array(name, data=np.zeros(shape, np.float32))
    group.create_array("meta/episode_ends", data=np.array([4]))
    with pytest.raises(UserError, match=r"data/state \(4, 3\).*expected \(steps, 5\)"):
        pusht.import_demos(EpisodeStore.open(tmp_path / "other.zarr"))


def test_published_keypoints_are_rigid_in_our_frame_of_the_block(published):
    # independent truth for the angle's convention: the data set's 9 keypoints do not move in the
    # block's own frame
    state = published.read_array("data/state").astype(np.float64)
    relative = (
        published.read_array("data/keypoint").astype(np.float64) - state[:, None, 2:4]
    )  # (N, 9, 2)
    cos, sin = np.cos(state[:, 4, None]), np.sin(state[:, 4, None])
    x, y = relative[..., 0], relative[..., 1]
    local = np.stack([cos * x + sin * y, -sin * x + cos * y], axis=-1)
    assert local.std(axis=0).max() < 0.05
    # and they lie on the T, up to the 3 pixels by which its drawn outline is wider
    points = local.mean(axis=0)
    inside = np.zeros(len(points), bool)
    for part in (pusht.CORNERS[:4], pusht.CORNERS[4:]):  # bar, stem
        inside |= ((points > part.min(axis=0) - 3) & (points < part.max(axis=0) + 3)).all(axis=1)
    assert inside.all()


def test_published_demonstrations_replay_exactly_from_their_seeds(published, adapter):
    episodes = pusht.import_demos(published)
    assert [e.seed for e in episodes] == list(range(206))
    assert sum(map(len, episodes)) == 25650
    for e in (episodes[0], episodes[57], episodes[205]):
        assert e.actions is not None
        replay = [adapter.reset(e.seed), *(adapter.step(a).observation for a in e.actions[:-1])]
        states = np.array([o["state"] for o in replay])
        assert np.abs(states - e.observations["state"]).max() < 0.01  # pixels


def test_published_demonstrations_never_start_where_tests_start(published):
    starts = {tuple(pusht.start_of_seed(pusht.published_seed(i))) for i in range(500)}
    assert starts.isdisjoint(
        tuple(pusht.start_of_seed(e.seed)) for e in pusht.import_demos(published)
    )
