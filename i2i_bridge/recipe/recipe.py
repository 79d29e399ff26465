"""Recipes: one TOML file holds every choice of a task, for training, restoring and evaluating.

A recipe is data. It is checked as a whole before any part is built; an unknown key is an error that names the nearest
known key. A run folder's `recipe.toml` is the resolved recipe, with all settings that `restore` and `evaluate` need.
"""

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from i2i_bridge import registry
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.checks import check_recipe
from i2i_bridge.recipe.schema import (
    DataSettings,
    Direction,
    EvaluateSettings,
    LatentSettings,
    MeanSettings,
    Part,
    Reference,
    SampleSettings,
    Settings,
    TeacherSettings,
    Text,
    TrainSettings,
)
from i2i_bridge.storage.names import file_name

if TYPE_CHECKING:
    import torch

    from i2i_bridge.bridge.base import Process
    from i2i_bridge.bridge.proposals import Proposal
    from i2i_bridge.bridge.targets import Target
    from i2i_bridge.data.augmentation import Augmentation
    from i2i_bridge.data.dataset import PairDataset
    from i2i_bridge.degradations.base import Degradation
    from i2i_bridge.guidance.base import Guidance


class Recipe(Settings):
    """Every setting of one task. See `i2i-bridge show NAME` for an example."""

    name: Annotated[str, AfterValidator(file_name)]
    """Name of the recipe and of its run folder."""
    summary: Text
    """One line, for lists."""
    task: Literal["restoration", "translation"]
    """A grey image is restored to a grey one; a translation has the target's colours."""
    data: DataSettings
    degradation: Part | None = None
    """The operator that makes X_1 from X_0 (`list degradations`); left out if the data are pairs."""
    method: Part = Field(default={"name": "bridge"})
    """How X_1 becomes X_0 (`list methods`)."""
    method_label: Text = ""
    """Name of the method in tables and pages; by default `method.name`."""
    process: Part = Field(default={"name": "i2sb"})
    """The bridge between X_0 and X_1 (`list processes`)."""
    target: Part = Field(default={"name": "i2sb"})
    """What the network learns (`list targets`)."""
    proposal: Part = Field(default={"name": "posterior"})
    """The distribution of the states that the network learns from (`list proposals`)."""
    network: Part
    """The network and its size (`list networks`)."""
    mean: MeanSettings | None = None
    """A trained run whose output the bridge starts from, instead of X_1 (two stages)."""
    teacher: TeacherSettings | None = None
    """A trained bridge that the methods 'consistency' and 'inverse-bridge' learn from."""
    latent: LatentSettings | None = None
    """An autoencoder between the images and the method, which then works on latents."""
    train: TrainSettings
    sample: SampleSettings = SampleSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    reference: Reference | None = None

    @field_validator("method", mode="before")
    @classmethod
    def _is_a_bridge_by_default(cls, method: Any) -> Any:
        return {"name": "bridge"} | method if isinstance(method, dict) else method

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        check_recipe(self)
        self.method_label = self.method_label or str(self.method["name"])
        return self

    @property
    def auto_noise(self) -> str | None:
        """The key of `[process]` that is "auto" and that training sets; None if there is none."""
        if "auto" not in self.process.values():
            return None
        key = getattr(registry.PROCESSES.get(str(self.process.get("name"))), "noise_key", None)
        return key if key is not None and self.process.get(key) == "auto" else None

    def any_process(self) -> "Process":
        """The bridge of `[process]`, with the default noise in place of "auto".

        Raises:
            UserError: A key is wrong, or is given although "auto" sets it.
        """
        auto = self.auto_noise
        process: Process = registry.PROCESSES.build({k: v for k, v in self.process.items() if k != auto})
        for key in process.with_noise(1.0) if auto else ():
            if key != auto and key in self.process:
                raise UserError(f'process.{key}: leave it out where process.{auto} is "auto", which sets it, too')
        return process

    def build_process(self) -> "Process":
        """The bridge of `[process]`.

        Raises:
            UserError: The noise is "auto", as before training.
        """
        if self.auto_noise:
            raise UserError(
                f"recipe '{self.name}': process.{self.auto_noise} = \"auto\" is measured when training starts, and the "
                "number written into the run's recipe; train it, or give a number"
            )
        return self.any_process()

    def build_target(self) -> "Target":
        """The target of `[target]`."""
        target: Target = registry.TARGETS.build(self.target)
        return target

    def build_proposal(self) -> "Proposal":
        """The sampling proposal of `[proposal]`."""
        proposal: Proposal = registry.PROPOSALS.build(self.proposal)
        return proposal

    def build_degradation(self) -> "Degradation | None":
        """The operator of `[degradation]`, or None for pairs."""
        if self.degradation is None:
            return None
        degradation: Degradation = registry.DEGRADATIONS.build(self.degradation)
        return degradation

    def build_guidance(self) -> "Guidance | None":
        """The guidance of `[sample]`, or None."""
        if self.sample.guidance is None:
            return None
        guidance: Guidance = registry.GUIDANCES.build(self.sample.guidance)
        return guidance

    def in_latents(self) -> "Recipe":
        """The recipe as method and network see it: of latents in the place of images; itself without [latent].

        Raises:
            UserError: The channels of latents are not known, as before training.
        """
        if self.latent is None:
            return self
        channels = self.latent.channels
        if channels is None:
            raise UserError(
                f"recipe '{self.name}': latent.channels is measured when training starts, and written into the run's "
                "recipe; train it, or give the number"
            )
        changes = {
            "data": self.data.model_copy(update={"channels": channels}),
            "network": self.network | ({"condition_channels": channels} if self.condition_channels else {}),
            # Latents are no pixels: they may leave [-1, 1].
            "sample": self.sample.model_copy(update={"clip": False}),
            "degradation": None,
            "latent": None,
        }
        return self.model_copy(update=changes)

    def is_reverse(self, direction: Direction | None = None) -> bool:
        """Whether images go from X_0 to X_1: the direction that is given, by default the one that the recipe learns.

        A recipe that learns both is by default used forward.

        Raises:
            UserError: There is no such direction, or the recipe does not learn it.
        """
        learned = self.data.direction
        if direction not in (None, "forward", "reverse"):
            raise UserError(f"direction '{direction}': give 'forward' or 'reverse'")
        if direction is not None and learned not in ("both", direction):
            raise UserError(
                f"direction '{direction}': recipe '{self.name}' learns '{learned}' only; train it with "
                f"data.direction={direction}, or both"
            )
        return direction == "reverse" or learned == "reverse"

    def data_table(self) -> Part:
        """The dataset kind and its options: the card's, overridden by `data.source`, overridden by `data.root`.

        Raises:
            UserError: No dataset kind is given, or the card is unknown.
        """
        from i2i_bridge.data.cards import load_card

        table = dict(load_card(self.data.card).dataset) if self.data.card else {}
        if self.data.source.get("name", table.get("name")) != table.get("name"):
            table = {}  # another kind: the card's options would not fit it
        table |= self.data.source
        if self.data.root is not None:
            table["root"] = self.data.root
        if "name" not in table:
            raise UserError(f"recipe '{self.name}': [data] names no images; set data.card, or data.source with a name")
        return table

    def with_absolute_root(self) -> "Recipe":
        """A copy of the recipe whose image folder is an absolute path, if that folder exists.

        Run folders store this copy: from another working directory a relative path would mean other images.
        """
        root, source = _absolute(self.data.root), dict(self.data.source)
        if "root" in source:
            source["root"] = _absolute(source["root"])
        return self.model_copy(update={"data": self.data.model_copy(update={"root": root, "source": source})})

    def without_places(self) -> "Recipe":
        """A copy of the recipe with paths reduced to their last part, for pages and to compare runs of two machines."""
        root, source = _last_part(self.data.root), dict(self.data.source)
        if "root" in source:
            source["root"] = _last_part(source["root"])
        mean = self.mean and self.mean.model_copy(update={"run": _last_part(self.mean.run)})
        teacher = self.teacher and self.teacher.model_copy(update={"run": _last_part(self.teacher.run)})
        data = self.data.model_copy(update={"root": root, "source": source})
        latent = self.latent
        if latent is not None and "source" in latent.encoder:
            encoder = latent.encoder | {"source": _last_part(latent.encoder["source"])}
            latent = latent.model_copy(update={"encoder": encoder})
        return self.model_copy(update={"data": data, "mean": mean, "teacher": teacher, "latent": latent})

    def build_dataset(self, split: Literal["train", "validation"], direction: Direction | None = None) -> "PairDataset":
        """The pairs of a split, degraded and cropped as the recipe says.

        Training crops and flips at random; validation takes the centre, with draws keyed by each item's key.

        Args:
            split: The split.
            direction: That of `dataset[i]`, as in `is_reverse`.

        Raises:
            UserError: The images cannot be found, or the data are neither pairs nor have a degradation.
        """
        from i2i_bridge.data.cards import open_source
        from i2i_bridge.data.dataset import PairDataset
        from i2i_bridge.data.transforms import Geometry

        training = split == "train"
        source = open_source(self.data_table(), self.data.train_split if training else self.data.validation_split)
        size = self.data.size if training else self.data.validation_size or self.data.size
        geometry = Geometry(
            size,
            resize=self.data.resize,
            load_size=self.data.load_size if training else None,
            crop=self.data.crop if training else "center",
            flip=self.data.flip and training,
            pad=self.data.pad,
            augmentation=self.build_augmentation() if training else None,
        )
        seed = self.train.seed if training else self.evaluate.seed
        return PairDataset(
            source,
            geometry,
            self.build_degradation(),
            self.data.channels,
            seed,
            split,
            condition_channels=self.condition_channels,
            classes=self.classes,
            own_condition=self.data.own_condition,
            value_range=self.data.value_range,
            enlarge=self.data.enlarge,
            factor=self.data.factor,
            on_error=self.data.on_error if training else "stop",
            align=self.data.align == "crop" and training,
            reverse=self.is_reverse(direction),
            both=self.data.direction == "both",
        )

    def build_augmentation(self) -> "Augmentation | None":
        """The transforms of `data.augment`, for training; None if there are none.

        Raises:
            UserError: Unknown transform or option.
        """
        if not self.data.augment:
            return None
        from i2i_bridge.data.augmentation import Augmentation

        pairs = self.degradation is None
        return Augmentation(self.data.augment, pairs=pairs, value_range=self.data.value_range)

    def notes_on(self, dataset: "PairDataset") -> list[str]:
        """Notes for the user on a dataset of this recipe, one line each."""
        lines = []
        for line in dataset.notes():
            if "images are reduced" in line:
                pairs = ": noise and fine detail of the pairs are averaged away"
                line += f"{pairs if self.degradation is None else ' before they are degraded'}; {self._resize_rule()}"
            lines.append(line)
        return lines

    def _resize_rule(self) -> str:
        """The source of the resize rule (paper or card), else how to turn resizing off."""
        from i2i_bridge.data.cards import load_card

        if self.reference is not None:
            return f"data.resize is that of {self.reference.source.partition(',')[0]}"
        advice = load_card(self.data.card).advice if self.data.card else None
        if advice is not None and (advice.resize, advice.load_size) == (self.data.resize, self.data.load_size):
            return f"data.resize is that of the card {self.data.card}"
        return "data.resize=none data.load_size=none keeps their pixels"

    @property
    def condition_channels(self) -> int:
        """Channels of the condition (X_1 or another image), the network's further input beside X_t; 0 for none."""
        return int(self.network.get("condition_channels", 0))

    @property
    def extra_channels(self) -> int:
        """Channels of the network's whole input beside X_t: the condition's, and the direction's if it learns both."""
        return self.condition_channels + (self.data.direction == "both")

    @property
    def classes(self) -> int:
        """Number of class labels of the network; 0 for none."""
        return int(self.network.get("classes", 0))

    def check_label(self, label: int | None) -> None:
        """Check the label of an image.

        Raises:
            UserError: It is missing, not used by the network, or none of its classes.
        """
        if label is None and self.classes:
            raise UserError(f"recipe '{self.name}' needs a label, 0 to {self.classes - 1} (network.classes)")
        if label is not None and not self.classes:
            raise UserError(f"recipe '{self.name}' takes no label (network.classes)")
        if label is not None and not 0 <= label < self.classes:
            raise UserError(f"label {label}: network.classes is {self.classes}, so labels are 0 to {self.classes - 1}")

    def build_network(self) -> "torch.nn.Module":
        """The network of `[network]`, freshly initialised; its channels default to the data's."""
        from i2i_bridge.networks.size import build_checked

        return build_checked(registry.NETWORKS, self.in_latents().network_table())

    def network_table(self) -> Part:
        """The table of `[network]` with the channels that follow from `[data]`; the table's own come first."""
        known = registry.NETWORKS.options(str(self.network.get("name")))
        channels = {"in_channels": self.data.channels, "out_channels": self.data.channels}
        table = {key: value for key, value in channels.items() if key in known} | self.network
        return table | ({"condition_channels": self.extra_channels} if self.data.direction == "both" else {})

    def sampler_options(self) -> dict[str, Any]:
        """The keyword options of `[sample.sampler]`, checked.

        Raises:
            UserError: Unknown sampler or option.
        """
        known = registry.SAMPLERS.options(str(self.sample.sampler.get("name")))
        supplied = {key: None for key, p in known.items() if p.kind is not p.KEYWORD_ONLY or key == "start"}
        _, options = registry.SAMPLERS.check(self.sample.sampler, **supplied)
        return options

    def to_toml(self) -> str:
        """The recipe as TOML, every default written out."""
        import tomlkit

        return tomlkit.dumps(self.model_dump(mode="json", exclude_none=True))


def _absolute(root: Any) -> Any:
    is_here = isinstance(root, str) and not root.startswith("~") and Path(root).exists()
    return os.path.normpath(Path(root).absolute()) if is_here else root


def _last_part(root: Any) -> Any:
    return PurePath(root).name or root if isinstance(root, str) and PurePath(root).is_absolute() else root
