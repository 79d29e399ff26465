"""The tables of a recipe: keys, types, ranges and defaults."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from i2i_bridge.storage.table import Table


def _check_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a null character")
    return text


# Bounds far beyond any use: otherwise a typing error or an untrusted recipe could fill memory or disk.
Positive = Annotated[int, Field(gt=0, le=10**9)]
Side = Annotated[int, Field(gt=0, le=65_536)]
Channels = Annotated[int, Field(gt=0, le=4096)]
Samples = Annotated[int, Field(gt=0, le=2**20)]
Steps = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Calls = Annotated[int, Field(ge=1, le=1000)]
Text = Annotated[str, Field(max_length=4096), AfterValidator(_check_text)]
MAX_PIXELS = 64_000_000
"""Largest height times width to train on, the same as for images that are read."""
Direction = Literal["forward", "reverse"]
Part = dict[str, Any]
"""A table with a `name` from a registry; its other keys are that member's options."""


class Settings(Table):
    """A table of the recipe; types are strict and defaults are validated, too."""

    model_config = ConfigDict(strict=True, validate_default=True, use_attribute_docstrings=True)


class DataSettings(Settings):
    """Which images, and their geometry.

    `card` names a dataset card; `source` adds to its table, or replaces it where the kind differs.
    """

    card: Text | None = None
    """A dataset card: the name of a shipped or registered one (`list datasets`), or a TOML file."""
    root: Text | None = None
    """The folder of the images, instead of the card's or the source's."""
    source: Part = Field(default={})
    """The dataset kind and its options, such as { name = 'images', root = 'photos' }; `list dataset-kinds`."""
    size: tuple[Side, Side] | Side = 256
    """Height and width that the network trains on, in pixels."""
    validation_size: tuple[Side, Side] | Side | None = None
    """Height and width of validation images; by default as `size`."""
    resize: Literal["short_side", "stretch", "none"] = "short_side"
    """'short_side' and 'stretch' resize images to `size` before they are cropped, 'none' keeps their pixels."""
    load_size: Side | None = None
    """Resize to this first, then crop (the jitter of Pix2pix), whatever `resize` says; "none" for none."""
    pad: Literal["none", "reflect"] = "none"
    """Images smaller than `size`: 'none' refuses them, 'reflect' pads them by reflection."""
    enlarge: Literal["bicubic", "nearest"] = "bicubic"
    """Filter that enlarges a source x_1 that is a whole number of times smaller than its target x_0."""
    factor: Annotated[int, Field(gt=0, le=64)] | None = None
    """Size of the targets over that of the sources; by default that of the first training pair. Restoring takes images
    of the sources' size."""
    crop: Literal["random", "center"] = "center"
    """Position of the crop of a training image; validation takes the centre."""
    flip: bool = True
    """Whether training mirrors images left to right at random."""
    direction: Literal["forward", "reverse", "both"] = "forward"
    """Which side of a pair is the target: 'forward' learns X_1 -> X_0, 'reverse' exchanges the two sides, and 'both'
    has one network learn both, each training sample in a direction of its own."""
    align: Literal["none", "crop"] = "none"
    """'crop' cuts training pairs without a mask whose sides are shifted by more than one pixel to what both show."""
    augment: Annotated[list[Part], Field(max_length=32)] = Field(default=[])
    """Further transforms of training images, by albumentations: { name = 'Affine', rotate = [-5, 5] }. Geometric ones
    move x_0, x_1, condition and mask alike; pixel-wise ones change the images named by `on`: both, x_0 or x_1."""
    channels: Channels = 3
    """Channels of X_0 and X_1. Grey and colour images are converted to 3 or 1; any other number must be the images'."""
    value_range: tuple[float, float] | None = None
    """Pixel values of x_0, x_1 and condition that mean -1 and 1; by default the whole range of 8- or 16-bit codes.
    Floats need it."""
    own_condition: bool = False
    """Whether each item has a condition image: a further input of the network (network.condition_channels)."""
    train_split: Text = "train"
    """The split for training."""
    validation_split: Text = "val"
    """The split for samples and evaluations."""
    on_error: Literal["stop", "skip"] = "stop"
    """A training image that cannot be read: `stop` saves and ends the run, `skip` trains on another image in its place,
    and lists it in unusable-images.jsonl."""

    @property
    def sides(self) -> tuple[int, int]:
        """`size` as (height, width)."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @field_validator("load_size", mode="before")
    @classmethod
    def _no_load_size(cls, value: Any) -> Any:
        return None if value == "none" else value  # TOML has no null

    @model_validator(mode="after")
    def _range_rises(self) -> "DataSettings":
        for side in (self.size, self.validation_size):
            height, width = side if isinstance(side, tuple) else (side or 1, side or 1)
            if height * width > MAX_PIXELS:
                raise ValueError(f"size {height} x {width}: more than {MAX_PIXELS // 10**6} million pixels")
        low, high = self.value_range or (0.0, 1.0)
        if not (low < high and math.isfinite(high - low)):
            raise ValueError(f"value_range {list(self.value_range or ())}: [low, high] with low < high is needed")
        return self


class TrainSettings(Settings):
    """The optimisation."""

    steps: Positive
    """Optimizer steps."""
    batch_size: Samples = 256
    """Samples per step, over all processes and micro-batches."""
    micro_batch: Samples | None = None
    """Samples per forward pass of one process; gradients are averaged over the batch. Default: all at once."""
    lr: Annotated[float, Field(gt=0, le=1000)] = 5e-5
    """Largest learning rate."""
    warmup_steps: Steps = 0
    """Steps over which the rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """`linear` and `cosine` fall to 0 just after the last step: of n falling steps the last linear one has the rate
    lr / n. `step` multiplies by lr_gamma every lr_step steps."""
    decay_from: Steps | None = None
    """Step from which `linear` and `cosine` fall; until then the rate stays. Default: the end of the warm-up."""
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Factor of the `step` schedule."""
    lr_step: Positive = 1000
    """Steps between two factors of the `step` schedule."""
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Weight decay of AdamW: each step shrinks the weights by lr times this."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Betas of AdamW: decay of the running means of the gradient and of its square."""
    clip_norm: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Largest norm of a gradient; larger gradients are scaled down. Default: no limit."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the moving average (EMA) of the weights; after n updates at most (1 + n) / (10 + n)."""
    regression_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a bridge's steps, the first ones, at t = 1 only: a regression from X_1."""
    at_source: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of a bridge's samples at exactly t = 1, in the steps after `regression_share`."""
    time: Literal["uniform", "stratified", "logit-normal"] = "uniform"
    """Distribution of a bridge's other times: uniform, uniform within each batch, or denser in the middle."""
    weight: Literal["uniform", "min-snr", "edm"] = "uniform"
    """Weight of the error of the network's output at each time, by which the target's own weight is multiplied."""
    loss: Literal["mse", "l1", "huber"] = "mse"
    """Loss of a bridge's output: squared, absolute, or Huber (squared up to 0.1)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the network in training; auto is bf16 if the device supports it natively, on a CPU for 32 channels
    and more; a resumed run keeps its precision."""
    compile: bool = False
    """Compile the network's blocks by torch.compile. It takes minutes at the start; for long runs on a GPU."""
    seed: Seed = 0
    """Seed of the order of the images, crops, degradations, times, noise, dropout and the initial weights."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 2
    """Processes that read and degrade images; 0 reads in the training process."""
    save_every: Positive = 5000
    """Steps between two checkpoints."""
    keep: Positive = 2
    """Number of checkpoints that are kept."""
    keep_best: Text | None = None
    """Metric of which the best checkpoint is kept beside the newest, such as "psnr"; no metric of sets of images."""
    validate_every: Positive = 5000
    """Steps between two measurements of `keep_best`, by the EMA at the recipe's nfe; also after the last step."""
    validate_images: Positive = 16
    """Number of validation images that `keep_best` is the mean of, the first ones."""
    patience: Positive | None = None
    """Measurements in a row without a better one that end the training. Default: train all steps."""
    sample_every: Positive = 5000
    """Steps between two pictures of restored validation images."""
    log_every: Positive = 50
    """Steps between two lines of progress, and rows of metrics.csv."""
    track: Annotated[list[Literal["tensorboard", "wandb", "trackio", "mlflow"]], Field(max_length=4)] = Field(
        default=[]
    )
    """Trackers that also get the rows of metrics.csv and the pictures; each is an extra of the package."""
    rank_timeout: Positive = 600
    """Seconds that ranks (`torchrun`) wait for one another before the run ends; must exceed the time of a save."""
    freeze: Annotated[list[Text], Field(max_length=1000)] = Field(default=[])
    """Patterns of names of the network's parameters that are not trained, such as "input_blocks.*"."""
    init: Text | None = None
    """Source of the initial weights: a run folder (its EMA) or a file of weights; tensors that do not fit, and by
    default all, are random."""
    init_added: Literal["zero", "random"] = "zero"
    """First weights of input channels that the network has and `init` has not, such as those of a condition."""
    init_strict: bool = False
    """Refuse an `init` whose tensors are not exactly those of the network."""
    init_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the weight file of `init`; training writes it, and refuses another file."""


class MeanSettings(Settings):
    """The first of two stages: a trained run whose output a bridge starts from, instead of X_1.

    Training keeps a copy of that run in the new run's folder.
    """

    run: Text
    """A run folder (regression, Pix2pix or a bridge without [mean]); its newest checkpoint is used."""
    nfe: Calls = 1
    """Network calls per image of that run; 1 for methods of one call."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that run's weights (names, types, shapes, bytes). Training writes it, and refuses other weights."""
    cache: bool | None = None
    """Keep that run's outputs of the training images on disk (docs/methods.md); it must be a regression."""


STUDENTS = ("consistency", "inverse-bridge")
"""Methods that learn from a teacher. They restore as a bridge does."""


class TeacherSettings(Settings):
    """A trained bridge that a student of one or two calls learns from (distillation; `i2i-bridge distill`).

    Training keeps a copy of that run in the new run's folder; restoring does not need it.
    """

    run: Text
    """A run folder or shipped run of method 'bridge', with the student's process and target; its newest checkpoint."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of that run's weights (names, types, shapes, bytes). Training writes it, and refuses other weights."""


class LatentSettings(Settings):
    """A frozen autoencoder between the images and the method, which then works on latents.

    Training keeps a copy of it in the new run's folder, and writes what it measured.
    """

    encoder: Part
    """The autoencoder and its options, such as { name = 'run', source = 'runs/autoencoder' } (`list autoencoders`)."""
    channels: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Channels of latents."""
    factor: Annotated[int, Field(gt=0, le=64)] | None = None
    """Sides of images over sides of latents."""
    shift: Annotated[list[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(max_length=4096)] | None = None
    """Mean of each channel of the encoder's output, over training pairs."""
    scale: Annotated[list[Annotated[float, Field(gt=0, le=1e6)]], Field(max_length=4096)] | None = None
    """Standard deviation of each channel."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the autoencoder's weights (names, types, shapes, bytes). Other weights are refused."""
    cache: bool = True
    """Keep latents of training images in the run folder, if neither crops nor augmentations are random."""

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> "LatentSettings":
        for key in ("shift", "scale"):
            values = getattr(self, key)
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{key}: {len(values)} values for {self.channels} channels")
        return self


class SampleSettings(Settings):
    """Sampling of restored images."""

    sampler: Part = Field(default={"name": "ancestral"})
    """How a step goes from X_s to X_t: a sampler and its options (`list samplers`)."""
    grid: Text = "uniform"
    """The times at which the network is called (`list grids`)."""
    nfe: Calls = 10
    """Network calls per image."""
    clip: bool = False
    """Limit x_0_hat to [-1, 1] in every step."""
    condition_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    """Classifier-free guidance: the network's output without condition and label, moved by this many times what they
    change. Default: 1, their output alone; 0 is that without them, any other number takes two network calls for one.
    It needs network.condition_dropout."""
    guidance: Part | None = None
    """Moves x_0_hat towards agreement with X_1 under the degradation; needs a linear [degradation]."""


class EvaluateSettings(Settings):
    """Defaults of `evaluate`."""

    protocol: Text = "held-out"
    """The rules: the name of a shipped protocol, or a TOML file; `i2i-bridge list protocols`."""
    nfe: Annotated[list[Calls], Field(max_length=1000)] = Field(default=[1, 10, 100])
    """Network calls per image; a row of the table for each."""
    metrics: Annotated[list[Text], Field(max_length=1000)] = Field(default=["psnr", "ssim", "lpips"])
    """Names of metrics (`list metrics`), if the protocol names none."""
    images: Positive | None = None
    """Number of images of the validation split to score, the first ones; by default all."""
    seed: Seed = 0
    """Seed of the sampler's noise, the degradation of the images and the intervals."""


class Reference(Settings):
    """Published numbers of the task; none of them is measured by this project."""

    source: Text
    protocol: Text
    note: Text = ""
    rows: list[dict[str, str | int | float]]
