"""`alltrades collect --teleop`: episodes by hand, with a leader that follows a script."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollouts.seeding import PURPOSES, episode_seed, evaluation_seeds
from alltrades.policies.settings import PolicySettings
from tests.policies.toys import make_policy

# says its commands one after another, a tick each, and moves at the steps of which its plan has one
LEADER = """
import json, os
import numpy as np

class Script:
    def __init__(self, interface):
        with open(os.environ["SCRIPT"]) as file:
            plan = json.load(file)
        self.interface, self.words = interface, plan["commands"]
        self.moves, self.every = plan["moves"], plan.get("every", 1)
        self.step = self.last = self.still = 0

    def reset(self):
        self.step = 0

    def action(self, observation):
        self.step += 1
        if self.moves is None:
            return None
        if self.moves == "towards":
            return np.clip(5 * observation["state"][12:14], -1, 1)
        value = self.moves[min(self.step, len(self.moves)) - 1]
        return None if value is None else np.full(self.interface.action_dim, value)

    def commands(self):
        self.still = self.still + 1 if self.step == self.last else 0
        self.last = self.step
        if self.words and self.words[0][0] == "at":
            if self.step < self.words[0][1] or self.still < self.words[0][2]:
                return []
            self.words.pop(0)
        return self.words.pop(0).split() if self.words else []

    def close(self):
        pass
"""


ROBOT = """
import time
import numpy as np
from alltrades.envs.robots import ActionSpec

class Arm:
    limits = ActionSpec((-1, -1), (1, 1), stop=(0, 0))
    control_hz = 50
    sent = []

    def __init__(self):
        self.x, self.resets = np.zeros(3), 0

    def reset(self, seed):
        self.x = np.zeros(3)

    def observe(self):
        return {"joints": self.x.copy(), "task": "wave"}

    def act(self, action):
        self.x = self.x + np.array([*action, 0]) * 0.1
        Arm.sent.append(action.tolist())

    def close(self):
        Arm.sent.append("closed")
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """A folder on the path with a leader and a robot: a module is imported once."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "script_leader.py").write_text(LEADER)
    (folder / "hand_robot.py").write_text(ROBOT)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def scripted(tmp_path, monkeypatch, modules):
    """Runs `collect` with commands, one a tick, or from a step on; returns its code and store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCRIPT", str(tmp_path / "script.json"))

    def run(commands, *more, moves="towards", out="hand.zarr"):
        Path("script.json").write_text(json.dumps({"commands": commands, "moves": moves}))
        words = ["collect", "--teleop", "script_leader:Script", "--no-window", "--out", out]
        return main([*words, "--rate", "400", *more])

    return run


REACH = ("--environments", "planar/reach")


def at(step: int, *commands: str) -> list:
    """Commands from a step of the episode on."""
    return [["at", step, 0], *commands]


def over(*commands: str) -> list:
    """Commands once the episode has ended by itself."""
    return [["at", 1, 25], *commands]


def test_accepted_episodes_are_in_the_store_with_labels_and_starts(scripted, capsys):
    commands = [
        *("start", *at(5, "accept")),
        *("start", *at(4, "discard")),
        *("start", *at(6, "success accept")),
        *("start", *at(7, "failure accept")),
        *("skip", "start", *at(3, "accept"), "quit"),
    ]
    assert scripted(commands, *REACH) == 0
    said = capsys.readouterr().out
    assert "planar/reach: kept 4 episodes by hand" in said and "wrote hand.zarr" in said
    store = EpisodeStore.open("hand.zarr")
    assert [e.success for e in store.episodes()] == [False, True, False, False]
    assert [len(e) for e in store.episodes()] == [5, 6, 7, 3]
    assert store.episode(1).successes.tolist() == [False] * 5 + [True]
    starts = [episode_seed(0, "demos", "planar/reach", i) for i in (0, 1, 2, 4)]
    assert store.columns()["seed"].tolist() == starts
    assert set(store.columns()["source"]) == {"teleop/Script"}
    assert all(e.interventions is None for e in store.episodes())
    assert store.interfaces()["planar/reach"] == registry.get("planar/reach").interface
    for purpose in PURPOSES:
        others = {episode_seed(0, purpose, "planar/reach", i) for i in range(50)}
        assert purpose == "demos" or not others & set(starts)
    assert not set(evaluation_seeds(registry.get("planar/reach"), 0, 300)) & set(starts)


def test_the_leader_of_the_page_runs_as_it_is_written(tmp_path, monkeypatch, modules):
    page = (Path(__file__).parents[2] / "docs" / "teleoperation.md").read_text()
    ((text, name),) = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", page, re.S)
    assert len([line for line in text.splitlines() if line.strip()]) <= 21
    (modules / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    ((command),) = re.findall(r"```bash\n(.*)\n```", page)
    assert main([*shlex.split(command)[1:], "--rate", "400"]) == 0
    store = EpisodeStore.open("puppet.zarr")
    assert [len(e) for e in store.episodes()] == [15, 15]


def test_an_episode_is_that_of_a_rollout_with_the_same_actions(scripted):
    from alltrades.envs.adapter import EnvAdapter

    assert scripted(["start", *at(8, "accept"), "quit"], *REACH) == 0
    episode = EpisodeStore.open("hand.zarr").episode(0)
    adapter = EnvAdapter(registry.get("planar/reach"))
    seen = adapter.reset(episode.seed)
    for state, action, reward in zip(
        episode.observations["state"], episode.actions, episode.rewards
    ):
        assert np.array_equal(state, seen["state"])
        result = adapter.step(action)
        seen = result.observation
        assert reward == np.float32(result.reward)


def test_what_ends_by_itself_waits_for_a_verdict(scripted):
    """The point gets there, or the time is over."""
    commands = ["start", *over("accept"), "start", *over("failure accept"), "quit"]
    assert scripted(commands, *REACH, "--rate", "2000") == 0
    first, second = EpisodeStore.open("hand.zarr").episodes()
    assert first.success and first.first_success == len(first) > 5
    assert second.success is False and not second.successes.any()
    assert scripted(["start", *over("accept"), "quit"], *REACH, "--steps", "3") == 0
    assert len(EpisodeStore.open("hand.zarr").episode(2)) == 3


def test_a_start_that_was_taken_is_not_used_again(scripted):
    assert scripted(["start", *at(3, "accept"), "quit"], *REACH) == 0
    assert scripted(["start", *at(3, "accept"), "quit"], *REACH) == 0
    store = EpisodeStore.open("hand.zarr")
    assert len(set(store.columns()["seed"].tolist())) == 2
    assert [s["first_episode"] for s in store.provenance["by_hand"]] == [0, 1]


def test_experts_and_people_record_into_one_store(scripted, capsys):
    few = ("--demos.episodes", "2")
    assert main(["collect", *REACH, *few, "--out", "both.zarr"]) == 0
    assert scripted(["start", *at(3, "accept"), "quit"], *REACH, out="both.zarr") == 0
    assert main(["collect", *REACH, "--demos.episodes", "3", "--out", "both.zarr"]) == 0
    columns = EpisodeStore.open("both.zarr").columns()
    assert columns["source"].tolist() == ["expert", "expert", "teleop/Script", "expert"]


def test_environments_take_turns(scripted):
    commands = ["start", *at(2, "accept")] * 4
    more = ("--environments", "[planar/reach, planar/push]", "--episodes", "2")
    assert scripted(commands, *more) == 0
    found = EpisodeStore.open("hand.zarr").columns()["environment"].tolist()
    assert found == ["planar/reach", "planar/push"] * 2


def test_a_pause_records_nothing_and_goes_on(scripted):
    commands = ["start", *at(3, "pause", "pause"), *at(6, "accept"), "quit"]
    assert scripted(commands, *REACH) == 0
    assert len(EpisodeStore.open("hand.zarr").episode(0)) == 6


def test_a_window_shows_the_environment_and_its_keys_do_the_rest(modules, tmp_path, monkeypatch):
    pygame = pytest.importorskip("pygame", reason="needs: pip install alltrades[teleop]")
    from alltrades.robots.teleop.window import Window

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    keys = [pygame.K_SPACE, pygame.K_RIGHT, pygame.K_y, pygame.K_RETURN, pygame.K_ESCAPE]
    shown: list[np.ndarray] = []
    poll, show = Window.poll, Window.show

    def typed(self):
        if keys:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=keys.pop(0)))
        poll(self)

    def noted(self, picture, lines):
        show(self, picture, lines)
        shown.append(picture)
        assert "planar/reach: episode" in lines[0]

    monkeypatch.setattr(Window, "poll", typed)
    monkeypatch.setattr(Window, "show", noted)
    words = ["collect", "--teleop", "keyboard", *REACH, "--out", "keys.zarr", "--rate", "20"]
    assert main([*words, "--speed", "1"]) == 0
    episode = EpisodeStore.open("keys.zarr").episode(0)
    assert episode.success and episode.source == "teleop/keyboard"
    assert episode.actions[-1][0] > 0 == episode.actions[-1][1]  # to the right
    assert shown[0].shape == (320, 320, 3) and len(np.unique(shown[0].reshape(-1, 3), axis=0)) == 4


# ---- interventions -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "toy"
    settings = PolicySettings(
        n_obs_steps=2, horizon=8, n_action_steps=4, width=16, depth=1, embedding=4, sampling_steps=2
    )
    make_policy([registry.get("planar/reach").interface], settings).save(path)
    return path


def test_what_a_person_does_in_a_policys_place_is_marked(scripted, policy, capsys):
    moves = [None, None, 0.5, 0.5, None, None, None]
    commands = ["start", *at(7, "accept"), "quit"]
    assert scripted(commands, "--policy", str(policy), moves=moves) == 0
    store = EpisodeStore.open("hand.zarr")
    episode = store.episode(0)
    assert episode.interventions.tolist() == [False, False, True, True, False, False, False]
    assert np.allclose(episode.actions[2:4], 0.5) and episode.source == "teleop/Script+toy"
    assert episode.seed == episode_seed(0, "intervention", "planar/reach", 0)
    assert "7 steps, 2 of them by hand" in capsys.readouterr().out
    assert main(["data", "info", "hand.zarr"]) == 0
    assert "a person intervened in 1 of 1, at 2 of 7 steps" in capsys.readouterr().out
    filtered = ["data", "filter", "hand.zarr", "--where", "interventions >= 2", "--out", "f.zarr"]
    assert main(filtered) == 0
    assert EpisodeStore.open("f.zarr").digest() == store.digest()


def test_a_key_takes_over_and_hands_back(scripted, policy):
    commands = ["start", *at(2, "takeover"), *at(4, "takeover"), *at(6, "accept"), "quit"]
    more = ("--policy", str(policy), "--takeover", "key")
    assert scripted(commands, *more, moves=[0.25]) == 0
    assert EpisodeStore.open("hand.zarr").episode(0).interventions.sum() == 2


def test_a_policy_goes_on_from_what_the_person_did(policy):
    """It sees every step, and what it had planned before is not executed any more."""
    from alltrades.policies.control.controller import Controller
    from alltrades.policies.model.loading import load_policy

    rng = np.random.default_rng(0)
    frames = rng.normal(size=(6, 16)).astype(np.float32)
    taken = np.array([0.3, -0.3], np.float32)
    controller = Controller(load_policy(policy))
    controller.reset(environment="planar/reach", seed=3)
    controller.act(frames[0])
    for frame in frames[1:4]:
        controller.follow(frame, taken)
    got = controller.act(frames[4])
    assert len(controller.states[0].queue) == 3  # a new chunk
    assert np.array_equal(controller.states[0].last[-2], taken)
    other = Controller(load_policy(policy))
    other.reset(environment="planar/reach", seed=3)
    other.plan({0: frames[:1]})
    assert np.array_equal(got, other.plan({0: frames[3:5]})[0][0])


# ---- robots --------------------------------------------------------------------------------------
def test_a_robot_is_recorded_as_what_it_observes_and_left_at_rest(scripted):
    commands = ["start", *at(4, "pause"), "pause", *at(8, "success accept"), "quit"]
    more = ("--robot", "hand_robot:Arm", "--environment", "lab/arm", "--rate", "50")
    assert scripted(commands, *more, moves=[0.5]) == 0
    store = EpisodeStore.open("hand.zarr")
    episode, found = store.episode(0), store.interfaces()["lab/arm"]
    assert episode.success and episode.observations["task"] == "wave"
    assert found.observation["joints"].shape == (3,) and found.action.bounded
    assert found.control_hz == 50
    sent = sys.modules["hand_robot"].Arm.sent
    assert sent[-1] == "closed" and sent[-2] == [0.0, 0.0]
    assert [0.0, 0.0] in sent[:-2]  # it rested while the person paused
    assert (episode.actions == 0.5).all()


class Flaky(gymnasium.Env):
    """Raises in the first episode that a person begins."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.fails = seed == episode_seed(0, "demos", "toy/flaky-by-hand", 0)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        if self.fails:
            raise OSError("lost")
        return np.zeros(1, np.float32), 0.0, False, False, {}


# ---- mistakes ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--speed", "2"), "--speed 2.0; expected a positive number, at most 1"),
        (("--drive", "fast"), "--drive fast; expected auto, velocity, position"),
        (("--keep", "all"), "--keep all with --teleop"),
        (("--episodes", "0"), "--episodes: 0; expected a whole number that is at least 1"),
        (("--environment", "planar/reach"), "--environment planar/reach says what a robot is"),
        (("--robot", "env:planar/reach"), "--environments with --robot env:planar/reach"),
        (("--policy", "ws://host:1"), "a server's policy cannot be taken over from"),
    ],
)
def test_mistakes_are_one_line(scripted, capsys, more, said):
    assert scripted(["quit"], *REACH, *more) == 2
    assert said in capsys.readouterr().err and not Path("hand.zarr").exists()


def test_options_of_teleoperation_need_it(capsys, tmp_path):
    assert main(["collect", "--robot", "env:planar/reach", "--out", str(tmp_path / "x.zarr")]) == 2
    assert "--robot without --teleop" in capsys.readouterr().err
    for words in (["--speed", "0.25"], ["--no-window"], ["--takeover", "key"]):
        assert main(["collect", *words, "--out", str(tmp_path / "x.zarr")]) == 2
        assert f"{words[0]} without --teleop" in capsys.readouterr().err


def test_a_second_writer_is_refused(scripted, capsys):
    with EpisodeStore.create("hand.zarr"):
        assert scripted(["quit"], *REACH) == 2
    assert "expected one writer at a time" in capsys.readouterr().err


def test_a_leader_that_raises_costs_no_accepted_episode(scripted, monkeypatch):
    commands = ["start", *at(3, "accept"), "start", *at(2, "jump")]
    assert scripted(commands, *REACH) == 2
    assert len(EpisodeStore.open("hand.zarr")) == 1


def test_an_environment_that_fails_costs_its_episode(scripted, capsys):
    from alltrades.envs import registry as known

    known.register("toy/flaky-by-hand", Flaky, replace=True, max_steps=20)
    commands = ["start", *at(1, "start"), *at(3, "accept"), "quit"]
    assert scripted(commands, "--environments", "toy/flaky-by-hand", moves=[0.1]) == 0
    assert "the episode is left out" in capsys.readouterr().out
    store = EpisodeStore.open("hand.zarr")
    assert len(store) == 1
    assert store.episode(0).seed == episode_seed(0, "demos", "toy/flaky-by-hand", 1)


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_accepted(tmp_path):
    """Killed in the middle of an episode, and gone on with."""
    (tmp_path / "script_leader.py").write_text(LEADER)
    script = tmp_path / "script.json"
    words = ["collect", "--teleop", "script_leader:Script", "--no-window", "--out", "hand.zarr"]
    command = [sys.executable, "-m", "alltrades.cli", *words, *REACH, "--rate", "100"]
    environment = {**os.environ, "SCRIPT": str(script)}
    for round_ in range(2):
        script.write_text(
            json.dumps({"commands": ["start", *at(3, "accept")] * 2 + ["start"], "moves": [0.01]})
        )
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
        for _ in range(2):
            assert b"kept" in process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        store = EpisodeStore.open(tmp_path / "hand.zarr")
        assert len(store) == 2 * (round_ + 1)
        assert [len(e) for e in store.episodes()] == [3] * len(store)
    assert len(set(store.columns()["seed"].tolist())) == 4
