"""Successive halving of sampling settings: candidates restore a few images, the better half go on with twice as many.

Candidates restore the same images from the same noise, and calls of the network with equal inputs are made once: every
candidate's first call is the same, and with one grid the second often is.
"""

import hashlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from i2i_bridge import registry
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.loader import collate
from i2i_bridge.errors import NotFinite, UserError
from i2i_bridge.evaluation.items import EvaluatedItem, round_item
from i2i_bridge.evaluation.records import CLEAN, Record
from i2i_bridge.evaluation.scores import Scorer
from i2i_bridge.evaluation.shared_calls import SharedCalls
from i2i_bridge.methods.calls import counted_calls
from i2i_bridge.methods.factory import build_method, resampled
from i2i_bridge.methods.latent import latent_of
from i2i_bridge.methods.mean import mean_of
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.randomness import evaluation_noise
from i2i_bridge.recipe.protocol import Resolved
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.tuned import with_sample

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe

FIRST, FIRST_OF_SETS = 4, 16
"""Images of the first round: for a metric of images, and for a distance between sets, which needs more images."""
NOISE_SHARES = (0.0, 0.5, 1.0)
"""Values of a sampler's option `eta`, where it has one."""
ERRORS = 2.0
"""The recipe's settings are kept unless others are better by more than so many standard errors on the first half: among
many equal candidates the best looks better by one or two by chance."""


@dataclass(frozen=True)
class Choice:
    """The settings chosen for an NFE, and their scores on the second half."""

    nfe: int
    settings: Mapping[str, Any]
    """Keys of [sample]: sampler, grid and clip."""
    is_own: bool
    """Whether they are the recipe's."""
    candidates: int
    """Number of candidates that restored different images."""
    own: float
    """Score of the recipe's settings."""
    tuned: float
    """Score of the chosen settings."""
    difference: Estimate
    """tuned - own with its standard error, paired by image."""


@dataclass
class _Candidate:
    """Settings of one NFE and what they scored."""

    settings: Mapping[str, Any]
    run: Run
    records: dict[int, Record] = field(default_factory=dict)
    """By index of the image."""
    pixels: dict[int, bytes] = field(default_factory=dict)
    """Hash of the restored pixels, by index of the image."""
    is_finite: bool = True
    """False if a result held NaN or infinity: the worst possible."""


class Search:
    """The candidates of a run, restored and scored image by image."""

    def __init__(self, run: Run, dataset: PairDataset, rules: Resolved, scorer: Scorer, metric: str) -> None:
        self.run, self.dataset, self.rules, self.scorer, self.metric = run, dataset, rules, scorer, metric
        self.network = SharedCalls(run.method.network)
        self.seed = int(rules.settings["seed"])
        self.clean: dict[int, Record] = {}
        mean, self._candidates = mean_of(run.method), []
        self.networks = [self.network]
        if mean is not None:
            self.networks.append(SharedCalls(mean.method.network))
            mean = replace(mean, method=mean.method.with_network(self.networks[1]))
        method = build_method(run.recipe, self.network, mean, latent_of(run.method))
        for recipe in candidates(run.recipe):
            settings = recipe.sample.model_dump(mode="json", include={"sampler", "grid", "clip"})
            self._candidates.append((settings, replace(run, recipe=recipe, method=resampled(method, recipe))))
        member: Any = (scorer.images | scorer.sets).get(metric)
        if member is None:
            raise UserError(f"nothing to tune by: {scorer.skipped[metric]}")
        self.sign, self.label = (1.0 if member.higher_is_better else -1.0), str(member.label)

    def check(self, index: int) -> None:
        """Check on one image that the method makes more than one call, and that the metric can be paired.

        Raises:
            UserError: The method answers in one call, or the metric has no paired standard error.
        """
        fields = self.dataset[index]
        finite = True
        with counted_calls(self.run.method) as calls:
            draws = [evaluation_noise(self.seed, str(fields["key"]))]
            try:
                self.run.restore_batch(collate([fields]), nfe=2, generator=draws)
            except NotFinite:  # in the middle of its calls; other settings may be finite
                finite = False
        if finite and calls.images < 2:
            raise UserError(f"method '{self.run.recipe.method['name']}' answers in one call: there is nothing to tune")
        if self.metric in self.scorer.sets:
            features = np.random.default_rng(0).normal(size=(3, 4))
            distance, partners = self.scorer.sets[self.metric], np.arange(3)
            if distance.difference_of_means([features], [features + 1], features - 1, partners, seed=0) is None:
                raise UserError(
                    f"metric '{self.metric}' has no paired standard error; tune by a kernel distance (kid-...) or a "
                    "metric of images"
                )

    def choices(
        self, counts: Sequence[int], first: Sequence[int], second: Sequence[int], report: Callable[[int, int], None]
    ) -> list[Choice]:
        """Choose on the first half, and score the choices and the recipe's settings on the second."""
        alive = {nfe: [_Candidate(settings, made) for settings, made in self._candidates] for nfe in counts}
        distinct: dict[int, int] = {}
        done, total = 0, len(first) + len(second)
        for size in rounds(len(first), FIRST_OF_SETS if self.metric in self.scorer.sets else FIRST):
            for index in first[done:size]:
                self._restore(index, alive)
                done += 1
                report(done, total)
            for nfe, group in alive.items():
                group = _distinct(group, first[:size])
                distinct.setdefault(nfe, len(group))
                alive[nfe] = group if size == len(first) else self._better_half(group, first[:size])
        pairs = {}
        for nfe, group in alive.items():
            initial, best = group[0], self._best(group, first)
            gain = self.difference(best, initial, first)
            error = 0.0 if math.isnan(gain.standard_error) else gain.standard_error
            pairs[nfe] = [initial, best] if self.sign * gain.value > ERRORS * error else [initial]
        for index in second:
            self._restore(index, pairs)
            done += 1
            report(done, total)
        return [
            Choice(
                nfe=nfe,
                settings=pair[-1].settings,
                is_own=len(pair) == 1,
                candidates=distinct[nfe],
                own=self._value(pair[0], second),
                tuned=self._value(pair[-1], second),
                difference=self.difference(pair[-1], pair[0], second),
            )
            for nfe, pair in pairs.items()
        ]

    def _restore(self, index: int, groups: Mapping[int, Sequence[_Candidate]]) -> None:
        """Restore and score an image by every candidate."""
        quality = self.rules.settings.get("jpeg_quality")
        item = round_item(0, self.dataset[index], self.dataset.value_range, quality)
        if self.scorer.sets and index not in self.clean:
            self.clean[index] = Record(item.key, "")
            self._score(self.clean[index], CLEAN, [item.clean], item)
        batch = collate([item.fields])
        seen: dict[bytes, Record] = {}
        for nfe, group in groups.items():
            for candidate in group:
                images = []
                try:
                    for draw in range(self.scorer.samples):
                        draws = [evaluation_noise(self.seed, item.key, draw)]
                        restored = candidate.run.restore_batch(batch, nfe=nfe, generator=draws)[0]
                        images.append(item.codec.pixels(restored))
                except NotFinite:
                    candidate.is_finite, candidate.pixels[index] = False, b""
                    continue
                pixels = hashlib.blake2b(b"".join(image.tobytes() for image in images), digest_size=16).digest()
                if pixels not in seen:  # equal images have equal scores
                    seen[pixels] = Record(item.key, "")
                    self._score(seen[pixels], "tuned", images, item)
                candidate.records[index], candidate.pixels[index] = seen[pixels], pixels
        for network in self.networks:
            network.forget()

    def _score(self, record: Record, row: str, images: Sequence[np.ndarray], item: EvaluatedItem) -> None:
        self.scorer.score(record, row, images, item, self.dataset.operator, self.seed)

    def _better_half(self, group: Sequence[_Candidate], images: Sequence[int]) -> list[_Candidate]:
        """The recipe's settings and the better half of the others, in their order."""
        initial, others = group[0], group[1:]
        ranked = sorted(others, key=lambda candidate: -self.sign * self._value(candidate, images))
        kept = ranked[: math.ceil(len(ranked) / 2)]
        return [initial, *(candidate for candidate in others if candidate in kept)]

    def _best(self, group: Sequence[_Candidate], images: Sequence[int]) -> _Candidate:
        return max(group, key=lambda candidate: self.sign * self._value(candidate, images))

    def _value(self, candidate: _Candidate, images: Sequence[int]) -> float:
        """The score of a candidate on images; the worst possible where the metric applies to none of them."""
        if not candidate.is_finite:
            return -self.sign * math.inf
        if self.metric in self.scorer.sets:
            distance, reference = self.scorer.sets[self.metric], self._features(self.clean, images)
            restored = self._features(candidate.records, images)
            return distance.estimate_matched(restored, reference, np.arange(len(images)), seed=self.seed).value
        scores = [candidate.records[index].scores[self.metric][0] for index in images]
        known = [score for score in scores if not math.isnan(score)]
        return statistics.fmean(known) if known else -self.sign * math.inf

    def difference(self, candidate: _Candidate, other: _Candidate, images: Sequence[int]) -> Estimate:
        """The score of a candidate minus another's, with the standard error of the difference, paired by image."""
        if candidate is other:
            return Estimate(0.0, standard_error=0.0)
        if not (candidate.is_finite and other.is_finite):
            return Estimate(self._value(candidate, images) - self._value(other, images))
        if self.metric in self.scorer.sets:
            distance, reference = self.scorer.sets[self.metric], self._features(self.clean, images)
            first, second = ([self._features(each.records, images)] for each in (candidate, other))
            partners = np.arange(len(images))
            estimate = distance.difference_of_means(first, second, reference, partners, seed=self.seed)
            return Estimate(math.nan) if estimate is None else estimate
        pairs = [[each.records[index].scores[self.metric][0] for each in (candidate, other)] for index in images]
        changes = [0.0 if a == b else a - b for a, b in pairs if not math.isnan(a - b) or a == b]  # inf - inf is NaN
        if not changes:
            return Estimate(math.nan)
        finite = len(changes) > 1 and all(map(math.isfinite, changes))
        error = statistics.stdev(changes) / math.sqrt(len(changes)) if finite else math.nan
        return Estimate(statistics.fmean(changes), standard_error=error)

    def _features(self, records: Mapping[int, Record], images: Sequence[int]) -> np.ndarray:
        name = self.scorer.features[self.scorer.sets[self.metric].extractor]
        return np.stack([records[index].features[name] for index in images]).astype(np.float64)


def candidates(recipe: "Recipe") -> Iterator["Recipe"]:
    """The recipe, and copies with other settings of [sample], those that its process takes."""
    yield recipe
    tables = []
    for name in registry.SAMPLERS.names():
        shares = NOISE_SHARES if "eta" in registry.SAMPLERS.options(name) else (None,)
        tables += [{"name": name} | ({} if share is None else {"eta": share}) for share in shares]
    for sampler in tables:
        for grid in registry.TIME_GRIDS.names():
            try:
                made = with_sample(recipe, {"sampler": sampler, "grid": grid}, "tune")
            except UserError:  # a sampler or grid of other processes
                continue
            for clip in (False, True):
                sample = made.sample.model_copy(update={"clip": clip})
                if sample != recipe.sample:
                    yield made.model_copy(update={"sample": sample})


def rounds(images: int, first: int) -> Iterator[int]:
    """Numbers of images after each round: `first`, doubled until all are seen."""
    size = first
    while size < images:
        yield size
        size *= 2
    yield images


def _distinct(group: Sequence[_Candidate], images: Sequence[int]) -> list[_Candidate]:
    """The candidates without those that restored the same pixels as an earlier one on all images."""
    seen: dict[tuple[bytes, ...], _Candidate] = {}
    for candidate in group:
        seen.setdefault(tuple(candidate.pixels[index] for index in images), candidate)
    return list(seen.values())
