"""The tables of a recipe: which keys each has, their types, ranges and defaults."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Part = dict[str, Any]
"""A table with a `name` from a registry; its other keys are that member's options."""


class Settings(BaseModel):
    """A table of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=True)


class DataSettings(Settings):
    """Which images, and their geometry.

    `card` names a dataset card; `source` adds to its table, or replaces it where the kind differs.
    """

    card: str | None = None
    root: str | None = None
    source: Part = {}
    size: tuple[Positive, Positive] | Positive = 256
    """Height and width that the network trains on, in pixels."""
    validation_size: tuple[Positive, Positive] | Positive | None = None
    """Height and width of validation images; by default as `size`."""
    resize: Literal["short_side", "stretch", "none"] = "short_side"
    load_size: Positive | None = None
    """Resize to this first, then crop (the jitter of Pix2pix)."""
    crop: Literal["random", "center"] = "center"
    flip: bool = True
    channels: Positive = 3
    """Of X_0 and X_1; grey images become 3 channels and the other way round, other numbers must be there."""
    value_range: tuple[float, float] | None = None
    """Pixel values of x_0, x_1 and condition that mean -1 and 1; by default the whole range of 8- or 16-bit codes.
    Floats need it."""
    own_condition: bool = False
    """Whether each item brings an image of its own for the network to see (network.condition_channels) beside X_t."""
    train_split: str = "train"
    validation_split: str = "val"

    @model_validator(mode="after")
    def _range_rises(self) -> "DataSettings":
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range {list(self.value_range)}: [low, high] with low < high is needed")
        return self


class TrainSettings(Settings):
    """The optimisation."""

    steps: Positive
    batch_size: Positive = 256
    """Samples per step, over all processes and micro-batches."""
    micro_batch: Positive | None = None
    """Samples per forward pass of one process; gradients are averaged over the batch. Default: all at once."""
    lr: Annotated[float, Field(gt=0)] = 5e-5
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """`linear` and `cosine` fall towards 0, which a step after the last one would have: of n falling steps the last
    linear one runs at lr / n. `step` multiplies by lr_gamma every lr_step steps."""
    decay_from: Annotated[int, Field(ge=0)] | None = None
    """Step from which `linear` and `cosine` fall; until then the rate stays. Default: the end of the warm-up."""
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.99
    lr_step: Positive = 1000
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Reached by (1 + n) / (10 + n) after n updates."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    """Translate the network's blocks by torch.compile. It takes minutes at the start; for long runs on a GPU."""
    seed: int = 0
    workers: Annotated[int, Field(ge=0)] = 2
    save_every: Positive = 5000
    keep: Positive = 2
    """How many checkpoints stay."""
    sample_every: Positive = 5000
    log_every: Positive = 50
    rank_timeout: Positive = 600
    """Seconds that processes (`accelerate launch`) wait for one another before the run ends; a save takes less."""

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step (counted from 0): a pure function, so there is no scheduler state to lose."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        start = max(self.warmup_steps, self.decay_from or 0)
        done = max(step - start, 0) / max(self.steps - start, 1)
        if self.schedule == "linear":
            return self.lr * max(1 - done, 0.0)
        if self.schedule == "cosine":
            import torch  # its cosine, not Python's, which may differ in the last bit: a resumed run is the same

            return self.lr * 0.5 * (1 + float(torch.cos(torch.tensor(min(done, 1.0) * torch.pi, dtype=torch.float64))))
        if self.schedule == "step":
            return self.lr * self.lr_gamma ** (step // self.lr_step)
        return self.lr


class SampleSettings(Settings):
    """How restored images are drawn."""

    sampler: Part = {"name": "ancestral"}
    grid: str = "uniform"
    nfe: Annotated[int, Field(ge=1, le=1000)] = 10
    clip: bool = False
    guidance: Part | None = None
    """Moves x_0_hat towards what X_1 says of X_0; needs a linear [degradation]."""


class EvaluateSettings(Settings):
    """What `evaluate` measures by default."""

    protocol: str = "held-out"
    """Under which rules: the name of a shipped protocol, or a TOML file; `i2i-bridge list protocols`."""
    nfe: list[Annotated[int, Field(ge=1, le=1000)]] = [1, 10, 100]
    metrics: list[str] = ["psnr", "ssim", "lpips"]
    images: Positive | None = None
    """Score only the first so many images of the validation split."""
    seed: int = 0


class Reference(Settings):
    """Published numbers of the task; nothing here is measured by this project."""

    source: str
    protocol: str
    note: str = ""
    rows: list[dict[str, str | int | float]]
