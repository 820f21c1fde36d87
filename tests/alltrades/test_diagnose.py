"""`alltrades diagnose`: what a policy looks at, and what becomes of it under perturbations."""

import json

import pytest
import torch

from alltrades import cli
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rollouts.seeding import evaluation_seeds
from alltrades.policies.model.normalizer import fit_normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.statistics import measure
from alltrades.policies.settings import PolicySettings
from tests.alltrades import looking  # noqa: F401
from tests.alltrades.recordings import follow

PLUGIN = ["--plugins", '["tests.alltrades.looking"]']
QUICK = [*PLUGIN, "--rollout.workers", "0", "--rollout.timeout", "0", "--rollout.lanes", "8"]
SEES = ["--policy.observe", '["images.top", "proprioception"]', "--rendering.size", "16"]


def policy_of(demos, environment, observe, blind=""):
    """An untrained network, each output of which depends on each input but a field that it is blind
    to.
    """
    store = EpisodeStore.open(demos)
    interface = store.interfaces()[environment].seeing(observe)
    steps = store.steps([environment])
    settings = PolicySettings(
        horizon=4, n_action_steps=2, width=32, depth=1, sampling_steps=3, observe=observe
    )
    observation = {n: steps.observation[n].load() for n in interface.observation}
    statistics = measure(interface, observation, steps.action.load())
    torch.manual_seed(0)
    layout = Layout([interface])
    policy = DiffusionPolicy(settings, [interface], fit_normalizer([statistics], layout, settings))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        for name, parameter in policy.conditioner.heads.named_parameters():
            if blind and blind.replace(".", "/") in name:
                parameter.zero_()
    return policy.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Demonstrations with pictures; a policy that looks, one that is blind, one of states."""
    root = tmp_path_factory.mktemp("diagnose")
    demos = root / "demos.zarr"
    words = ["collect", "--environments", "looking/spot", "--demos.episodes", "8", "--out"]
    assert cli.main([*words, str(demos), *SEES, *QUICK]) == 0
    seen = ("images.top", "proprioception")
    policy_of(demos, "looking/spot", seen).save(root / "looks")
    policy_of(demos, "looking/spot", seen, "images.top").save(root / "blind")
    policy_of(demos, "looking/spot", ("state",)).save(root / "states")
    return root


def diagnose(made, name, *more):
    words = ["diagnose", str(made / name), "--demos", str(made / "demos.zarr")]
    return cli.main([*words, *QUICK, *more])


def figures(made, name, *more):
    file = made / "figures.json"
    assert diagnose(made, name, "--json", str(file), *more) == 0
    return json.loads(file.read_text())


def test_a_blind_policy_is_called_blind_and_one_that_looks_is_not(made, capsys):
    facts = {}
    for name in ("blind", "looks"):
        found = figures(made, name, "--perturbations")
        facts[name] = found["environments"]["looking/spot"]
        err = capsys.readouterr().err
        assert found["perturbations"] is None and "perturbations" not in err
        warned = "warning: looking/spot: 'images.top' is ignored: from another episode" in err
        assert warned == (name == "blind")
    assert facts["blind"]["fields"]["images.top"]["share"] == 0
    assert facts["blind"]["fields"]["images.top"]["verdict"] == "ignored"
    assert facts["looks"]["fields"]["images.top"]["verdict"] != "ignored"
    assert facts["looks"]["fields"]["images.top"]["share"] > 0.01


def test_the_page_has_pictures_and_the_table(made, tmp_path, capsys):
    out = tmp_path / "looks"
    more = ["--perturbations", "light", "occlusion", "--episodes", "3", "--out", str(out)]
    assert diagnose(made, "looks", *more) == 0
    said = capsys.readouterr().out
    assert "looks under perturbations, 3 episodes of each environment" in said
    page = (out / "report.html").read_text()
    png = (out / "saliency" / "looking__spot.images.top.png").read_bytes()
    assert png.startswith(b"\x89PNG") and "data:image/png;base64," in page
    assert "images.top" in page and "occlusion" in page and "minus unperturbed" in page
    assert "http://" not in page and "https://" not in page
    facts = json.loads((out / "diagnose.json").read_text())
    rows = facts["perturbations"]["evaluations"]
    assert list(rows) == ["light", "occlusion", "unperturbed"]
    starts = evaluation_seeds(registry.get("looking/spot"), 0, 3)
    assert all(row["rows"][0]["seeds"] == starts for row in rows.values())
    assert {p["b"] for p in facts["perturbations"]["pairs"]} == {"unperturbed"}


def test_episodes_are_the_same_for_any_workers(made):
    found = []
    for workers in ("0", "2"):
        more = ["--perturbations", "shift", "distractor", "--episodes", "4"]
        found.append(figures(made, "looks", *more, "--rollout.workers", workers)["perturbations"])
    assert found[0] == found[1]


def test_own_starts_are_no_evaluation_starts(made):
    more = ["--perturbations", "shift", "--episodes", "5", "--own-starts"]
    rows = figures(made, "looks", *more)["perturbations"]["evaluations"]
    own = rows["unperturbed"]["rows"][0]["seeds"]
    assert rows["shift"]["rows"][0]["seeds"] == own
    assert not set(own) & set(evaluation_seeds(registry.get("looking/spot"), 0, 500))


def test_a_policy_of_states_is_looked_at_and_not_perturbed(made, capsys):
    assert diagnose(made, "states") == 0
    out, err = capsys.readouterr()
    assert "state " in out and "perturbations" not in out + err
    assert diagnose(made, "states", "--perturbations", "shift") == 2
    assert "--perturbations shift: it changes nothing that the policy sees" in (
        capsys.readouterr().err
    )


def test_recordings_alone_can_be_exchanged(tmp_path, capsys):
    demos = follow(tmp_path / "demos.zarr", 6, camera=True)
    policy_of(demos, "lab/follow", ("state", "images.front")).save(tmp_path / "policy")
    words = ["diagnose", str(tmp_path / "policy"), "--demos", str(demos)]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert "states of 6 episodes, 2 executed actions" in out
    assert "perturbations: no simulator of lab/follow: nothing is rolled out" in err
    assert cli.main([*words, "--perturbations", "light"]) == 2
    assert "--perturbations light: no simulator of lab/follow" in capsys.readouterr().err


def test_bad_input_ends_in_a_line(made, tmp_path, capsys):
    for more, said in (
        (["--perturbations", "lihgt"], "no perturbation 'lihgt', did you mean 'light'"),
        (["--episodes", "0"], "--episodes: 0; expected a whole number that is at least 1"),
        (["--out", str(made / "looks" / "policy.json")], "policy.json"),
    ):
        assert diagnose(made, "looks", *more) == 2
        assert said in capsys.readouterr().err
    words = ["diagnose", str(made / "looks"), *QUICK]
    assert cli.main(words) == 2
    assert "--demos" in capsys.readouterr().err
    other = follow(tmp_path / "other.zarr", 3)
    assert cli.main([*words, "--demos", str(other)]) == 2
    assert "none of them an environment of" in capsys.readouterr().err


def test_frames_of_another_size_are_refused(made, tmp_path, capsys):
    small = tmp_path / "small.zarr"
    words = ["collect", "--environments", "looking/spot", "--demos.episodes", "2", "--out"]
    sees = [*SEES[:2], "--rendering.size", "8"]
    assert cli.main([*words, str(small), *sees, *QUICK]) == 0
    assert cli.main(["diagnose", str(made / "looks"), "--demos", str(small), *QUICK]) == 2
    assert "images.top" in capsys.readouterr().err
