"""Settings of a policy and of its training; frozen, validated, saved beside every artifact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# largest clip at which a predicted noise still gives chunks: their error is .03 of the variance at
# 1, .08 at 2, .4 at 5, 4 to 200 at 20
NOISE_CLIP = 5.0
LARGEST_LR = 0.1  # AdamW moves every weight by about this much a step
LARGEST_DECAY = 0.1  # share of a weight that its decay takes in one step
MOST_ROWS = 2**16  # of a batch
FEWEST = 3  # episodes of an environment from which one may be held out


class Frozen(BaseModel):
    """Base of every settings model: immutable, unknown keys and infinite numbers refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_observe(observe: Sequence[str]) -> None:
    """Raise ValueError for a list of fields that names none, or one twice."""
    if not observe:
        raise ValueError("observe is empty; expected fields to see; name some, or null for all")
    twice = sorted({name for name in observe if observe.count(name) > 1})
    if twice:
        raise ValueError(f"observe names {twice[0]} twice; expected each field once; remove one")


class EncoderSettings(Frozen):
    """Networks of observed images."""

    name: str = Field(
        "convolution",
        description="convolution, resnet18, efficientnet_lite0, transformer (DINOv2, SigLIP and "
        "others), or one of a plugin",
    )
    weights: str | None = Field(
        None,
        description="pretrained weights: a folder with an encoder or a policy of alltrades, a file "
        "of torchvision's resnet18, a folder of transformers; package: those that the package of "
        "efficientnet_lite0 ships",
    )
    pretrain: Literal["state"] | None = Field(
        None,
        description="state: before policies that look, a run teaches the encoders to tell the "
        "states that only a simulator knows (see eyes), and gives them as weights",
    )
    frozen: bool = Field(
        False,
        description="pretrained weights stay as they are; features are computed once per frame",
    )
    shared: bool = Field(False, description="one encoder for all cameras of one shape")
    film: bool = Field(
        False, description="observed texts modulate the encoder's last feature maps (FiLM)"
    )
    shift: int = Field(
        0,
        ge=0,
        le=64,
        description="pixels by which training moves the images of a window at random, at most",
    )
    jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share by which training changes brightness, contrast and colours at random, "
        "at most",
    )
    drop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="chance that training leaves out a camera of a window, so that the policy can "
        "do without",
    )

    @property
    def fresh(self) -> EncoderSettings:
        """The same without pretrained weights: learned with the policy, end to end."""
        return self.model_copy(update={"weights": None, "pretrain": None, "frozen": False})

    @model_validator(mode="after")
    def _frozen_are_trained(self) -> EncoderSettings:
        if self.pretrain is not None and self.weights is not None:
            raise ValueError(
                "pretrain is given beside weights; expected one of them: weights that are there "
                "already need no pretraining; leave one out"
            )
        if self.frozen and self.weights is None and self.pretrain is None:
            raise ValueError(
                "frozen is true and no weights are given; expected pretrained ones; give weights, "
                "or let the encoder learn"
            )
        return self


class TextSettings(Frozen):
    """How observed texts, such as instructions, are read."""

    encoder: str = Field(
        "words",
        min_length=1,
        description="words: hashed words and pieces of them, learned with the policy; package: the "
        "sentence encoder of the extra text; or the path of a folder of sentence-transformers or "
        "of an ONNX file: 32 numbers that tell what is asked for, however it is said",
    )
    noise: float = Field(
        1.0,
        ge=0,
        description="of policies that read sentences: noise on their numbers in training, in units "
        "of how far a sentence lies from its goal that the reading was not fitted on, so that "
        "phrasings which were never heard are acted on, too; 0 for none",
    )
    pointing: float = Field(
        0.0,
        ge=0,
        description="weight of a second loss of policies whose cameras are modulated by "
        "instructions (encoder.film): where the thing is that each of the instructions names, as "
        "environments declare it",
    )

    @model_validator(mode="after")
    def _points_by_sentences(self) -> TextSettings:
        if self.pointing and self.encoder == "words":
            raise ValueError(
                "pointing is asked for and texts are read word by word; expected a sentence "
                "encoder, which knows what all instructions are; set text.encoder, or pointing: 0"
            )
        return self


class PolicySettings(Frozen):
    """Architecture, diffusion process and sampling of one policy."""

    n_obs_steps: int = Field(1, ge=1, description="observation frames the policy sees")
    horizon: int = Field(16, ge=1, description="actions per predicted chunk")
    n_action_steps: int = Field(
        8, ge=1, description="actions of a chunk that are executed before the next one"
    )
    process: Literal["flow", "vp"] = Field(
        "flow", description="flow matching or variance-preserving diffusion"
    )
    prediction: Literal["sample", "noise", "velocity"] = Field(
        "sample", description="what the network predicts"
    )
    diffusion_steps: int = Field(100, ge=2, description="training discretisation of the vp process")
    schedule: Literal["cosine", "linear"] = Field(
        "cosine", description="noise schedule of the vp process"
    )
    sampler: Literal["ddpm", "ddim", "dpmpp2m", "euler", "heun"] = Field(
        "euler", description="sampler at run time"
    )
    sampling_steps: int = Field(
        6, ge=1, description="network calls (heun: twice as many) per chunk"
    )
    clip: float | None = Field(
        1.0,
        gt=0,
        description="bound on the predicted clean chunk, in normalised units, or as far as the "
        "data reaches",
    )
    backbone: str = Field(
        "mlp",
        description="denoising network: mlp, unet1d, transformer, unet2d for actions that are "
        "images, or one of a plugin",
    )
    encoder: EncoderSettings = EncoderSettings()
    text: TextSettings = TextSettings()
    observe: tuple[str, ...] | None = Field(
        None,
        description="fields of observations that the policy sees, by name or pattern such as "
        "images.*; default all",
    )
    width: int = Field(512, ge=8, description="hidden width")
    depth: int = Field(3, ge=1, description="residual blocks")
    embedding: int = Field(
        32, ge=0, description="size of the environment embedding; 0 hides the environment"
    )
    preference_input: bool = Field(
        False,
        description="the preference over environments is an input, drawn anew for every sample in "
        "training and chosen when the policy is used",
    )
    preference_concentration: float = Field(
        1.0, gt=0, description="of the symmetric Dirichlet law that it is drawn from"
    )
    outcome_input: bool = Field(
        False,
        description="whether an episode went well is an input (distill.outcome: condition), which "
        "says good when the policy acts",
    )
    guidance: float = Field(
        1.0,
        ge=0,
        le=20,
        description="with outcome_input, how far predictions go from those of any outcome (0) to "
        "those of a good one (1) and beyond; other than 0 and 1 two network calls a step",
    )
    action_normalizer: Literal["range", "standard"] = Field(
        "range",
        description="actions scaled to [-1, 1], or to zero mean and unit deviation, by each "
        "environment's own statistics",
    )

    @model_validator(mode="after")
    def _consistent(self) -> PolicySettings:
        if self.n_action_steps > self.horizon:
            raise ValueError(
                f"n_action_steps = {self.n_action_steps} exceeds horizon = {self.horizon}; lower "
                "n_action_steps"
            )
        if self.process == "vp" and self.sampling_steps > self.diffusion_steps:
            raise ValueError(
                f"sampling_steps = {self.sampling_steps} exceeds diffusion_steps = "
                f"{self.diffusion_steps}; a vp process cannot take more sampling steps than it was "
                "trained with"
            )
        if self.prediction == "noise" and (self.clip is None or self.clip > NOISE_CLIP):
            raise ValueError(
                f"prediction = noise with clip = {'null' if self.clip is None else self.clip}; "
                f"expected a clip of at most {NOISE_CLIP:g}: where sampling begins, noise says "
                "nothing about the chunk, and its error is multiplied by 100 and more; set clip: "
                "1, or prediction: sample or velocity"
            )
        if self.prediction == "noise" and self.sampling_steps < 2:
            raise ValueError(
                "prediction = noise with sampling_steps = 1; expected at least 2: a single step "
                "begins and ends where noise says nothing about the chunk; raise sampling_steps, "
                "or set prediction: sample or velocity"
            )
        if self.observe is not None:
            check_observe(self.observe)
        if self.clip is not None and self.action_normalizer == "standard" and self.clip < 3:
            raise ValueError(
                f"clip = {self.clip} would cut actions scaled to unit deviation; use clip >= 3, "
                "clip: null, or action_normalizer: range"
            )
        return self


class NetworkTrainSettings(Frozen):
    """Optimisation of one network: what differs between the networks of a run."""

    steps: int = Field(6000, ge=1, description="gradient steps")
    batch: int = Field(
        256, ge=1, le=MOST_ROWS, description="windows per step, balanced over environments"
    )
    lr: float = Field(
        1e-3, gt=0, le=LARGEST_LR, description="peak learning rate of the one-cycle schedule"
    )
    weight_decay: float = Field(1e-4, ge=0, description="AdamW weight decay")
    ema: float = Field(
        0.995, ge=0, lt=1, description="decay of the averaged weights, which are what is saved"
    )
    observation_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="noise on normalised observations while training, in deviations of the data",
    )

    @model_validator(mode="after")
    def _weights_are_left(self) -> NetworkTrainSettings:
        if self.lr * self.weight_decay >= LARGEST_DECAY:
            raise ValueError(
                f"lr = {self.lr:g} with weight_decay = {self.weight_decay:g} takes "
                f"{self.lr * self.weight_decay:.0%} of every weight at each step; expected less "
                f"than {LARGEST_DECAY:.0%}; lower weight_decay"
            )
        return self


class TrainingSettings(Frozen):
    """What every training of a run has in common."""

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16 autocast where the processor has it"
    )
    warmup: float = Field(
        0.05, ge=0, le=1, description="share of the steps in which the rate rises"
    )
    grad_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    symmetry: bool = Field(
        True, description="augment windows by the symmetries that their environments declare"
    )

    image_cache: float | None = Field(
        None,
        ge=0,
        description="GiB of disk beside the run for decoded images; 0: they are read from their "
        "stores; default half of what is free",
    )
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    log_every: int = Field(100, ge=1, description="steps between metric lines")

    def of(self, network: NetworkTrainSettings) -> TrainSettings:
        """All that a `Trainer` of this network needs."""
        return TrainSettings(**dict(network), **dict(self))


class TrainSettings(TrainingSettings, NetworkTrainSettings):
    """Optimisation of one network, complete."""

    def determining(self) -> dict[str, Any]:
        """What trained weights depend on, besides data and seed."""
        nothing = {"checkpoint_every", "log_every", "image_cache"}
        return self.model_dump(mode="json", exclude=nothing)
