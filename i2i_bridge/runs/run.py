"""A trained run, which restores images; `runs.load` opens it from its folder.

runs/NAME/  recipe.toml  tuned.toml  init.json  best.json  mean/  teacher/  latent/  checkpoints/  metrics.jsonl
           metrics.csv  samples/  evaluation/  report/
"""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from i2i_bridge.bridge.tiles import TiledNetwork
from i2i_bridge.errors import NotFinite, UserError
from i2i_bridge.images.colour import check_colour_fix, colour_fixed
from i2i_bridge.images.inputs import Images, inputs_of
from i2i_bridge.images.pixels import Range
from i2i_bridge.methods.base import INPUTS, Batch, Method, states_of
from i2i_bridge.methods.calls import checked_nfe, counted_calls
from i2i_bridge.methods.geometry import method_geometry, pad_to_stride
from i2i_bridge.methods.mean import mean_of, network_calls, starting_from
from i2i_bridge.methods.tiles import tiled
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.randomness import Generator, generator
from i2i_bridge.runs.batch import to_batch, to_picture
from i2i_bridge.runs.workload import automatic_tile

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe
    from i2i_bridge.recipe.schema import Direction
    from i2i_bridge.runs.hub import Origin
    from i2i_bridge.runs.tuned import TunedFile


@dataclass(frozen=True, repr=False)
class Run:
    """A trained run, ready to restore images.

    `method` holds the moving average of the weights (EMA), in evaluation mode, on `device`.
    """

    folder: Path
    recipe: "Recipe"
    method: Method
    step: int
    device: torch.device
    warnings: tuple[str, ...] = ()
    """A line for each newer checkpoint that was skipped as damaged, and for tuned settings of another step."""
    tuned: "TunedFile | None" = None
    """The settings of tuned.toml that apply; None without any."""
    tuned_methods: Mapping[int, Method] = field(default_factory=dict)
    """`method` with the tuned settings, by network calls."""
    backend: str = "eager"
    """What computes the network: eager, compile or openvino."""
    options: Mapping[str, Any] | None = None
    """The options of `load_run` that opened it, so that a worker process can open it too; None for any other run."""

    def __repr__(self) -> str:
        return f"Run('{self.folder}', recipe '{self.recipe.name}', step {self.step}, {self.device})"

    def restore(
        self,
        image: Images,
        *,
        nfe: int | None = None,
        seed: int = 0,
        samples: int | None = None,
        mask: Images | None = None,
        condition: Images | None = None,
        label: int | None = None,
        value_range: Range = None,
        direction: "Direction | None" = None,
        tile: int | None = None,
        overlap: int | None = None,
        colour_fix: str = "none",
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> Any:
        """Restore degraded images of any size.

        An image is padded by reflection to the network's stride, and the result is cropped. Grey stays grey if the task
        is a restoration, 16 bits stay 16 bits and floats floats, alpha is kept, and the EXIF orientation applied. The
        result of an image does not depend on the other images.

        Args:
            image: The degraded or source image: a file (path or bytes), a PIL image, an array (H, W), (H, W, C) or
                (B, H, W, C), a tensor (C, H, W) or (B, C, H, W), or a list of these.
            nfe: Network calls per image, 1 to 1000, each of them two with a sample.condition_scale other than 0 and 1;
                by default the recipe's.
            seed: Seed of the sampler's noise; another seed gives another restoration of the same image.
            samples: Number of restorations, with seed, seed + 1, ..., returned as a list; None: one, without a list.
            mask: For inpainting: white, or True, where the image is unknown. One for all images, or one for each.
            condition: Further input image of the network, if the recipe has data.own_condition. One for all images, or
                one for each.
            label: Class of the images, 0, 1, ..., if the network has classes.
            value_range: The values of float arrays and tensors that mean black and white, such as (0, 1) or (-1, 1);
                needed unless the recipe has data.value_range.
            direction: "forward", from X_1 to X_0, or "reverse", for a run that learns both (data.direction); by default
                forward, and for a run that learns one direction that one.
            tile: Restore larger images in overlapping tiles of this side, see `tiled`; 0: whole. By default images are
                tiled if one has 2 million pixels or more or would not fit into memory whole, with a warning.
            overlap: Fewest pixels that neighbouring tiles share.
            colour_fix: Low frequencies of the degraded image that the result gets: "none", "mean" or "wavelet" (see
                `images.colour`).
            report: Called with (network calls done, network calls in all).

        Returns:
            The restored image, of the type of `image` and the same size (times the factor of a super-resolution task):
            an array (H, W, C) or (B, H, W, C), a tensor, or a list; for files a PIL image. Arrays and tensors keep
            their dtype, tensors their device.

        Raises:
            UserError: The image cannot be read or does not fit the recipe, or PIL has no type for its result (16-bit
                colour, for example).

        Examples:
            >>> import numpy as np
            >>> from i2i_bridge import load_run
            >>> run = load_run("pretrained/photos")
            >>> noisy = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            >>> restored = run.restore(noisy, nfe=1)
            >>> restored.shape, restored.dtype.name
            ((40, 50, 3), 'uint8')
        """
        if samples is not None and samples < 1:
            raise UserError(f"samples={samples}: give 1 or more, or None")
        check_colour_fix(colour_fix, masked=mask is not None)
        inputs, like_input = inputs_of(image, mask, condition, value_range)
        if tile is None and overlap is None and self.tiles is None:
            tile = automatic_tile(self, max(math.prod(picture.pixels.shape[:2]) for picture, _, _ in inputs))
            if tile:
                line = f"large for the network or the free memory: restored in tiles of {tile} pixels (tile=0: whole)"
                warnings.warn(line, stacklevel=2)
        run = self.in_tiles(tile, overlap)
        total = len(inputs) * (samples or 1) * network_calls(run.method, run._nfe(nfe))
        results = []
        with counted_calls(run.method, lambda count: report(min(count, total), total)):
            for k in range(samples or 1):
                restored = []
                for picture, hole, extra in inputs:
                    draws = [generator(seed + k, "restore")]
                    batch = to_batch(run.recipe, picture, hole, extra, draws, direction, label)
                    check_colour_fix(colour_fix, masked="mask" in batch)
                    x_0_hat = run.restore_batch(batch, nfe=nfe, generator=draws)[0]
                    fixed = colour_fixed(x_0_hat, batch["x_1"][0], colour_fix)
                    restored.append(to_picture(run.recipe, fixed, picture))
                results.append(like_input(restored))
        return results[0] if samples is None else results

    def tiled(self, tile: int, overlap: int | None = None, *, batch: int = 1) -> "Run":
        """A copy of the run, of the same weights, whose network sees images larger than a tile in overlapping tiles.

        Memory then grows with the tile, apart from a few arrays of the image's size. The tiles' x_0_hat are blended in
        each step of the walk, with one noise field for the whole image. The result is that of the whole image where the
        network sees no farther than overlap / 4; attention and normalisation statistics see a tile only.

        Args:
            tile: Side of a tile in pixels; rounded up to a multiple of the network's stride.
            overlap: Fewest pixels that neighbouring tiles share, at most half of the tile; by default 64, or a quarter
                of a tile smaller than 256.
            batch: Tiles in one network call.

        Raises:
            UserError: The tile is smaller than the network takes, the overlap is more than half of it, or the method
                cannot work in tiles.

        Examples:
            >>> import numpy as np
            >>> from i2i_bridge import load_run
            >>> run = load_run("pretrained/photos").tiled(64, 16)
            >>> run.restore(np.zeros((80, 100, 3), np.uint8), nfe=1).shape
            (80, 100, 3)
        """
        stride, smallest = method_geometry(self.method)
        least = max(smallest, 2 * stride)
        if tile < least:
            raise UserError(f"tile {tile}: at least {least} pixels, twice the network's stride or its smallest side")
        overlap = min(64, tile // 4) if overlap is None else overlap
        if not 0 <= overlap <= tile // 2:
            raise UserError(f"overlap {overlap}: 0 to {tile // 2} pixels, half of the tile of {tile}")
        if batch < 1:
            raise UserError(f"batch {batch}: at least 1 tile in a network call")
        side = -(-tile // stride) * stride
        method = tiled(self.method, side, overlap, stride, batch)
        # One tiled network and mean for all methods of the run: calls are counted there.
        tuned = {
            nfe: starting_from(one.with_network(method.network), mean_of(method))
            for nfe, one in self.tuned_methods.items()
        }
        return replace(self, method=method, tuned_methods=tuned)

    def in_tiles(self, tile: int | None, overlap: int | None) -> "Run":
        """As `tiled`, for options that may be missing; the run itself without a tile, None or 0.

        Raises:
            UserError: As `tiled`, or there is an overlap and no tile.
        """
        if not tile and overlap is not None:
            raise UserError(f"overlap {overlap}: goes with a tile, such as 512")
        return self.tiled(tile, overlap) if tile else self

    @property
    def tiles(self) -> tuple[int, int] | None:
        """Side and overlap of the tiles that the network sees; None where it sees images whole."""
        network = self.method.network
        return (network.side, network.overlap) if isinstance(network, TiledNetwork) else None

    def tile_count(self, height: int, width: int) -> int:
        """Number of tiles in one network call on an image of this size (of X_1)."""
        network, (stride, smallest) = self.method.network, method_geometry(self.method)
        if not isinstance(network, TiledNetwork):
            return 1
        rows, columns = network.windows(*(max(-(-side // stride) * stride, smallest) for side in (height, width)))
        return len(rows) * len(columns)

    def save_pretrained(self, folder: str | Path, **options: Any) -> Path:
        """As `i2i_bridge.save_pretrained(run, folder, licence=...)`: write the run for others, with a model card."""
        from i2i_bridge import save_pretrained  # in report/, which runs/ must not import at the top

        return save_pretrained(self, folder, **options)

    def push_to_hub(self, name: str, **options: Any) -> "Origin":
        """As `i2i_bridge.push_to_hub(run, name, licence=...)`: upload the run to the Hugging Face Hub."""
        from i2i_bridge import push_to_hub

        return push_to_hub(self, name, **options)

    def restore_batch(self, batch: Batch, *, nfe: int | None, generator: Generator) -> Tensor:
        """Restore a batch of any size (H, W); x_0_hat in [-1, 1], on the CPU."""
        # Not `*_, x_0_hat =`, which keeps all states.
        (x_0_hat,) = deque(self.trajectory(batch, nfe=nfe, generator=generator, every=False), maxlen=1)
        return x_0_hat

    def trajectory(
        self, batch: Batch, *, nfe: int | None, generator: Generator, every: bool = True
    ) -> Iterator[Tensor]:
        """Yield the states from X_1 to x_0_hat, each cropped to the image's size and moved to the CPU.

        Args:
            every: False if the last state alone is needed: of latents no other is then decoded.

        Raises:
            NotFinite: A state holds NaN or infinity.
        """
        calls = self._nfe(nfe)
        height, width = batch["x_1"].shape[-2:]
        stride, smallest = method_geometry(self.method)
        padded: dict[str, Any] = {
            name: pad_to_stride(batch[name], stride, smallest).to(self.device) for name in INPUTS if name in batch
        }
        padded["size"] = (height, width)
        if "label" in batch:
            padded["label"] = batch["label"].to(self.device)
        # No `with` around the yield: otherwise inference mode would stay on in the caller.
        method = self.method_at(calls)
        answer = None if every else getattr(method, "answer", None)
        states = (answer or partial(states_of, method))(padded, nfe=calls, generator=generator)
        while True:
            with torch.inference_mode(), plugin_errors():
                state = next(states, None)
            if state is None:
                return
            image = state[..., :height, :width].float().cpu()
            if not bool(image.isfinite().all()):
                raise NotFinite(
                    "the network's result holds NaN or infinity, which is no image; try another number of calls "
                    "(--nfe), --precision fp32 or an earlier --checkpoint"
                )
            yield image

    def method_at(self, nfe: int | None) -> Method:
        """The method with the settings that were tuned for so many network calls, if there are any; else `method`."""
        return self.tuned_methods.get(self._nfe(nfe), self.method)

    def tuned_line(self, nfe: int | None) -> str | None:
        """A line for the user on the tuned settings at an NFE; None where they are the recipe's."""
        return None if self.tuned is None else self.tuned.line(self._nfe(nfe))

    def _nfe(self, nfe: int | None) -> int:
        return self.recipe.sample.nfe if nfe is None else checked_nfe(nfe)
