from alltrades.data.actions import ActionSpec as ActionSpec
from alltrades.data.episode import Episode as Episode
from alltrades.data.fields import Field as Field
from alltrades.data.store import EpisodeStore as EpisodeStore
from alltrades.envs.registry import register as register
from alltrades.envs.rollouts.evaluation import evaluate as evaluate
from alltrades.envs.rollouts.rollout import rollout as rollout
from alltrades.envs.spec import EnvSpec as EnvSpec
from alltrades.errors import UserError as UserError
from alltrades.pipeline.runner import run as run
from alltrades.policies.client.client import PolicyClient as PolicyClient
from alltrades.policies.client.remote import RemotePolicy as RemotePolicy
from alltrades.policies.control.controller import Controller as Controller
from alltrades.policies.control.realtime import RealTimeController as RealTimeController
from alltrades.policies.model.loading import load_policy as load_policy
from alltrades.policies.onnx.onnx_policy import OnnxPolicy as OnnxPolicy
from alltrades.settings.run import RunSettings as RunSettings

__version__: str
__all__: list[str]
_HOMES: dict[str, str]
