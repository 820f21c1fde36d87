"""A generalist that looks takes an environment: its encoder, and what it is shown of its own
environments. Pictures are the environment's own, so that no GL is needed.
"""

import json
from dataclasses import replace

import pytest
import torch

from alltrades.cli import main
from alltrades.data.fields import Field
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.pipeline.adapt_settings import settings_for
from alltrades.pipeline.resolution import check_environments, resolve
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.settings import EncoderSettings, PolicySettings
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from tests.envs.drawn import BLIND, CAMERA, PARTS, still

OTHER = "toy/other"
SEEN = ("images.top", "proprioception")
HERE = ["--small", "--rollout.workers", "0", "--rollout.timeout", "0", "--demos.keep", "all"]
FEW = ["--specialist.train.steps", "4", "--specialist.finetune.steps", "3"]
FEW += ["--adapt.train.steps", "4", "--distill.label_steps", "2", "--evaluation.episodes", "2"]
TINY = PolicySettings(width=16, depth=1, embedding=4, sampling_steps=2, observe=SEEN)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Two that draw themselves, trusted as those of the package are."""
    for name in (BLIND.id, OTHER):
        registry.register(replace(BLIND, id=name, cameras=CAMERA, parts=PARTS), still, replace=True)
    monkeypatch.setattr(registry, "is_built_in", lambda name: True)
    yield
    for name in (BLIND.id, OTHER):
        del registry._REGISTRY.specs[name]


def collect(path, environment, *more):
    words = ["--environments", environment, "--demos.episodes", "2", *more]
    assert main(["collect", *words, *HERE, "--out", str(path)]) == 0
    return path


@pytest.fixture
def generalist(tmp_path):
    """One whose frozen encoder began with that of another policy."""
    store = EpisodeStore.open(
        collect(tmp_path / "seen.zarr", BLIND.id, "--policy.observe", json.dumps(SEEN))
    )
    environments = [store.interfaces()[BLIND.id].seeing(SEEN)]
    normalizer = make_normalizer(store.steps(), environments, TINY)
    build_policy(TINY, environments, normalizer, 1).save(tmp_path / "first")
    encoder = EncoderSettings(weights=str(tmp_path / "first"), frozen=True)
    policy = build_policy(TINY.model_copy(update={"encoder": encoder}), environments, normalizer, 0)
    return policy.save(tmp_path / "generalist")


def adapted(generalist, demos, out, *more):
    words = ["adapt", str(generalist), *HERE, *FEW, "--demos", str(demos), *more]
    assert main([*words, "--out", str(out)]) == 0
    return load_policy(out)


def test_its_pretrained_encoder_looks_at_the_new_environment(generalist, tmp_path):
    demos = collect(tmp_path / "new.zarr", OTHER, "--policy.observe", json.dumps(SEEN))
    policy = adapted(generalist, demos, tmp_path / "g2")
    assert [set(e.observation) for e in policy.environments] == [set(SEEN)] * 2
    before, after = (p.conditioner.encoders for p in (load_policy(generalist), policy))
    for name, own in before.items():
        for key, value in own.state_dict().items():
            assert torch.equal(after[name].state_dict()[key], value)


def test_what_is_seen_of_the_new_one_changes_nothing_of_those_before(generalist, tmp_path):
    demos = collect(tmp_path / "new.zarr", OTHER)
    policy = adapted(generalist, demos, tmp_path / "g2", "--policy.observe", "state")
    assert [set(e.observation) for e in policy.environments] == [set(SEEN), {"state"}]


def test_one_whose_pictures_texts_modulate_takes_an_environment_that_tells_nothing(tmp_path):
    fields = {"images.top": Field.image(8, 8), "instruction": Field.text()}
    told = replace(BLIND, observation=fields, cameras={}, parts={}).interface
    film = EncoderSettings(film=True)
    network = TINY.model_copy(update={"observe": tuple(fields), "encoder": film})
    normalizer = Normalizer(Layout([told]))
    normalizer.fitted.fill_(1.0)
    folder = build_policy(network, [told], normalizer, 0).save(tmp_path / "film")
    demos = collect(tmp_path / "new.zarr", OTHER, "--policy.observe", '["images.top"]')
    settings, _ = load_settings(RunSettings, overrides=["--demos.path", str(demos)])
    found = settings_for(settings.model_copy(update={"environments": (OTHER,)}), [OTHER], folder)
    assert not found.policy.encoder.film and found.policy.observe == ("images.top",)
    check_environments(found, resolve(found)[0])
