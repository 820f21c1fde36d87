from alltrades import stages
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.settings import RolloutSettings


def test_expert_rates_survive_a_collection_that_was_interrupted(tmp_path):
    specs = registry.resolve(["planar/reach", "planar/push"])
    first = stages.collect(specs[:1], 3, 0, tmp_path / "s", RolloutSettings())
    both = stages.collect(specs, 3, 0, tmp_path / "s", RolloutSettings())
    assert both["planar/reach"] == first["planar/reach"] and both["planar/push"]["successes"] == 3
    assert stages.collect(specs, 3, 0, tmp_path / "s", RolloutSettings()) == both
    assert len(EpisodeStore.open(tmp_path / "s")) == 6
