"""Plants each known mistake in a copy of the package and shows that the tests which name it ("kills: NAME") fail.

    make mutants                       all of them
    python tests/mutants.py NAME...    some of them
    python tests/mutants.py --check    only that each applies and is named by a test

Run by hand and before a release. A mutant's place is found by its tokens, so that a formatter may move it.
"""

import ast
import functools
import gc
import importlib
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
HANGS = 900
"""Seconds after which a test that has not ended counts as failed; those that name one mutant take a minute."""
IMPORTED_ONCE = (
    "pytest",
    "hypothesis",
    "torch",
    "torchvision",
    "kornia",
    "albumentations",
    "scipy.stats",
    "accelerate",
    "PIL.Image",
)
"""Before the runs, which are forks; nothing of the package itself."""
SKIPPED = 77
"""How a run ends in which every test was skipped: an extra is not installed."""


class Mutant(NamedTuple):
    """A planted mistake: in `file`, `right` becomes `wrong`; a test that names it, in the files `tests`, must fail."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


MUTANTS = [
    # processes
    Mutant("swapped-weights", "bridge/processes.py", "Coefficients(sigma2 / total, sigma_bar2 / total,", "Coefficients(sigma_bar2 / total, sigma2 / total,", "test_processes.py"),
    Mutant("missing-root", "bridge/processes.py", "torch.sqrt(sigma2) * torch.sqrt(sigma_bar2 / total)", "sigma2 * sigma_bar2 / total", "test_processes.py"),
    Mutant("inclusive-cumulative-sum", "bridge/processes.py", "torch.where(t <= 0.5, self._from_end(t),", "torch.where(t <= 0.5, self._from_end(t) + 1e-4,", "test_processes.py"),
    Mutant("schedule-not-mirrored", "bridge/processes.py", "total - self._from_end(1 - t))", "self._from_end(t))", "test_processes.py"),
    Mutant("noise-kept", "bridge/processes.py", "return Coefficients(a, b, torch.zeros_like(c))", "return Coefficients(a, b, c)", "test_processes.py"),
    Mutant("vp-naive-difference", "bridge/processes.py", "left = (1 - times) * (self.beta_min + self.beta_d * (1 + times) / 2)", "left = self._exponent(torch.ones_like(times)) - done", "test_processes.py"),
    Mutant("vp-beyond-exp", "bridge/processes.py", "if self.beta_min + self.beta_d / 2 > 700:", "if False:", "test_processes.py"),
    Mutant("ve-sigma-squared", "bridge/processes.py", "return self.sigma_max * as_times(t)", "return self.sigma_max * as_times(t) ** 2", "test_processes.py"),
    Mutant("prior-exponent-without-half", "bridge/processes.py", "(self.beta_max - self.beta_min) * times / 2)\n        return", "(self.beta_max - self.beta_min) * times)\n        return", "test_processes.py"),
    Mutant("prior-forward-is-not-its-own", "bridge/processes.py", "return self.coefficients(t).c", "return self.coefficients(t).b", "test_processes.py"),
    Mutant("official-exclusive-sum", "bridge/released.py", "sigma2 = beta.cumsum(0)", "sigma2 = beta.cumsum(0) - beta", "test_official_grid.py"),
    Mutant("grid-index-rounds-up", "bridge/released.py", "self.interval - 1e-9).ceil()", "self.interval).ceil()", "test_official_grid.py"),
    Mutant("source-noise-as-a-bridge", "bridge/processes.py", "Coefficients(times, 1 - times, self.sigma_s * times)", "Coefficients(times, 1 - times, self.sigma_s * torch.sqrt(times))", "test_processes.py"),
    Mutant("velocity-of-the-mean", "bridge/targets.py", "        return (x_0 - k_x * x_t - k_1 * x_1) / k_o", "        return x_1 - x_0 if isinstance(self, VelocityTarget) else (x_0 - k_x * x_t - k_1 * x_1) / k_o", "test_targets.py"),
    # distillation
    Mutant("consistency-step-with-noise", "methods/distillation.py", "update(now, later, 0.0)", "update(now, later, 1.0)", "test_distillation.py"),
    Mutant("consistency-asks-at-the-same-time", "methods/distillation.py", "return x_s, times[index + 1]", "return x_s, times[index]", "test_distillation.py"),
    Mutant("consistency-without-the-teacher", "methods/distillation.py", "predict = self._predictor(self.teacher,", "predict = self._predictor(self.network,", "test_distillation.py"),
    Mutant("consistency-through-the-target", "methods/distillation.py", "with torch.no_grad():", "with torch.enable_grad():", "test_distillation.py"),
    Mutant("boundary-forgotten", "methods/distillation.py", "return torch.where(expand(arrived, x).bool(), x, x_0_hat)", "return x_0_hat", "test_distillation.py"),
    Mutant("boundary-for-all", "methods/distillation.py", "return torch.where(expand(arrived, x).bool(), x, x_0_hat)", "return x", "test_distillation.py"),
    Mutant("walked-by-the-first-time", "methods/distillation.py", "return weights[index], index", "return weights[index[:1]], index", "test_distillation.py"),
    Mutant("walk-noise-of-the-first-sample", "methods/distillation.py", "randn_like(x_s, generator)", "randn_like(x_s, list(generator)[:1] * len(x_s))", "test_distillation.py"),
    Mutant("target-is-the-network", "training/state.py", "taught(teacher, self.ema)", "taught(teacher, self.network)", "test_distillation.py"),
    Mutant("latents-of-another-shape-read", "training/cache.py", "found is not None and found.shape == shape", "found is not None", "test_latent.py"),
    Mutant("cache-is-identity", "training/identity.py", 'del table["latent"]["cache"]', "pass", "test_latent.py"),
    Mutant("any-run-goes-on", "cli/distill.py", "if recipe is None or recipe.teacher is None or Path(recipe.teacher.run) != place_of(str(run)):", "if recipe is None:", "test_distillation.py"),
    Mutant("students-scale", "training/teacher.py", 'if key != "condition_scale"', "if True", "test_distillation.py"),
    Mutant("times-of-one-stratum", "methods/distillation.py", "on_grid(1 - rand((x_0.shape[0],), generator), self.grid(self.process, self.steps))", "on_grid(self._times(batch, generator), self.grid(self.process, self.steps))", "test_distillation.py"),
    Mutant("tuned-link-ignored", "runs/tuned.py", "if not os.path.lexists(file):", "if not file.exists():", "test_tune.py"),
    Mutant("tuned-list-forgotten", "evaluation/tune.py", 'setup.rules.settings.get("list", {}).get("sha256")', "None", "test_tune.py"),
    Mutant("tuned-written-without-a-lock", "evaluation/tune.py", "    with locked(run.folder / LOCKED,", "    with __import__('contextlib').nullcontext() or locked(run.folder / LOCKED,", "test_tune.py"),
    Mutant("tuned-of-another-step", "runs/load.py", "found is not None and found.step != saved.step", "False", "test_tune.py"),
    Mutant("own-sampler-is-the-tuned", "app/restoration.py", "return replace(run, tuned=None, tuned_methods={})\n    SAMPLERS", "return run\n    SAMPLERS", "test_tune.py"),
    Mutant("two-calls-everywhere", "training/teacher.py", "calls = 2 if process.pinned and not process.deterministic else 1", "calls = 2", "test_distillation.py"),
    Mutant("inverse-bridge-flees", "methods/distillation.py", "error(self.teacher, x_t, wanted) - error(self.auxiliary, x_t, wanted)", "error(self.auxiliary, x_t, wanted) - error(self.teacher, x_t, wanted)", "test_distillation.py"),
    Mutant("inverse-bridge-not-through-the-state", "methods/distillation.py", "error(self.teacher, x_t, wanted) -", "error(self.teacher, x_t.detach(), wanted) -", "test_distillation.py"),
    Mutant("auxiliary-learns-from-x-0", "methods/distillation.py", "self.process.marginal(x_0_hat, x_1, t)", "self.process.marginal(x_0, x_1, t)", "test_distillation.py"),
    Mutant("auxiliary-moves-the-student", "methods/distillation.py", "x_t.detach(), wanted.detach()", "x_t, wanted", "test_distillation.py"),
    Mutant("evaluation-of-a-student-depends-on-its-teachers-path", "evaluation/subjects.py", '"degradation", "teacher"}', '"degradation"}', "test_distillation.py"),
    Mutant("student-resumes-from-the-teachers-folder", "training/preparation.py", "load_teacher(folder, recipe, device=device)", "open_teacher(recipe, device)[1].run.method.network", "test_distillation.py"),
    Mutant("other-teacher-on-resume", "training/identity.py", '"evaluate", "method_label"}', '"evaluate", "method_label", "teacher"}', "test_distillation.py"),
    # backends
    Mutant("graph-scale-without-one", "networks/openvino.py", "gain = self.op.add(scale, self.op.constant(np.float32(1)))", "gain = scale", "test_backend.py"),
    Mutant("graph-attends-over-channels", "networks/openvino.py", "self._reshaped(mixed, 0, 0, channels)), 0, 2, 1)", "self._reshaped(mixed, 0, channels, -1)), 0, 1, 2)", "test_backend.py"),
    Mutant("graph-skip-from-the-wrong-end", "networks/openvino.py", "self.op.concat([h, skips.pop()], 1)", "self.op.concat([skips.pop(), h], 1)", "test_backend.py"),
    Mutant("graph-without-its-condition", "runs/backend.py", "for part in self.network.inputs(x_t, t, condition, label)", "for part in self.network.inputs(x_t, t, None if condition is None else 0 * condition, label)", "test_backend.py"),
    Mutant("stale-graph", "runs/backend.py", " or _versions(self.network) != self.weights", "", "test_backend.py"),
    Mutant("graph-without-a-gradient", "runs/backend.py", "if gradient or self.network.training", "if self.network.training", "test_backend.py"),
    Mutant("graph-under-a-gradient", "runs/backend.py", "if guidance is not None and guidance.through_network:", "if False:", "test_backend.py"),
    Mutant("graph-unchecked", "runs/backend.py", "if not error <= TOLERANCES[weight.dtype]:", "if False:", "test_backend.py"),
    Mutant("auto-in-float32", "runs/backend.py", "and dtype == torch.bfloat16 == resolve_precision", "and torch.bfloat16 == resolve_precision", "test_backend.py"),
    Mutant("backend-forgotten-by-results", "runs/restorer.py", 'if run.backend != "eager":', "if False:", "test_backend.py"),
    Mutant("backend-forgotten-by-evaluations", "evaluation/subjects.py", 'if run.backend != "eager" and not exact:', "if False:", "test_backend.py"),
    # half-bridges
    Mutant("noise-of-half-the-variance", "bridge/half_bridges.py", "deviations = self.variances.sqrt().tolist()", "deviations = (self.variances / 2).sqrt().tolist()", "test_cdsb.py"),
    Mutant("mean-matching-forgotten", "bridge/half_bridges.py", "return x + mean - kernel(x, k)", "return mean", "test_cdsb.py"),
    Mutant("forward-step-backwards", "bridge/half_bridges.py", "x, k, 1 - k.double() / self.steps)", "x, k, (1 + k.double()) / self.steps)", "test_cdsb.py"),
    Mutant("chain-noise-of-the-first-sample", "bridge/half_bridges.py", "randn_like(start, generator)", "randn_like(start, list(generator)[:1] * len(start))", "test_cdsb.py"),
    Mutant("answer-without-the-state", "methods/shortcut.py", "(x_s - k_1 * x_1 - k_s * x_t) / k_d", "(x_s - k_1 * x_1) / k_d", "test_shortcut.py"),
    Mutant("answer-without-x-1", "methods/shortcut.py", "(x_s - k_1 * x_1 - k_s * x_t) / k_d", "(x_s - k_s * x_t) / k_d", "test_shortcut.py"),
    Mutant("shortcut-of-its-own-level", "methods/shortcut.py", "clip=self.clip, time_offset=k - 1)", "clip=self.clip, time_offset=k)", "test_shortcut.py"),
    Mutant("shortcut-level-not-seen", "methods/shortcut.py", "    def _offsets(self, batch: Batch) -> Tensor:\n        return self._level(batch)", "    def _offsets(self, batch: Batch) -> Tensor:\n        return 0 * self._level(batch)", "test_shortcut.py"),
    Mutant("shortcut-halves-on-its-own-walk", "methods/shortcut.py", "t[rows], self._walk(k - 1)", "t[rows], self._walk(k)", "test_shortcut.py"),
    Mutant("walk-without-its-level", "bridge/predictor.py", "(process.network_time(t) + time_offset)", "(process.network_time(t))", "test_shortcut.py"),
    Mutant("level-from-below", "methods/shortcut.py", "round(math.log2(self.steps / nfe))", "round(math.log2(nfe))", "test_shortcut.py"),
    Mutant("level-of-other-samplers", "methods/shortcut.py", "        if self.sampler is not deterministic:\n            return 0\n", "", "test_shortcut.py"),
    Mutant("level-by-the-next-power", "methods/shortcut.py", "round(math.log2(", "math.floor(math.log2(", "test_shortcut.py"),
    Mutant("graph-without-its-level", "runs/plan.py", "float(process.network_time(at)) + time_offset", "float(process.network_time(at))", "test_shortcut.py"),
    Mutant("shortcuts-in-the-regression", "methods/shortcut.py", "< curriculum.source_steps:", "< 0:", "test_shortcut.py"),
    Mutant("shortcut-share-of-all", "methods/shortcut.py", "level if draw < self.share else 0", "level", "test_shortcut.py"),
    Mutant("shortcut-levels-alike", "methods/shortcut.py", "1 + int(torch.randint(self.levels, (), generator=generator(seed, \"shortcut level\", step)))", "1", "test_shortcut.py"),
    Mutant("shortcuts-by-position", "methods/shortcut.py", "generator(seed, \"shortcut\", number))) for number in numbers.tolist()", "generator(seed, \"shortcut\", number))) for number in range(len(numbers))", "test_shortcut.py"),
    Mutant("shortcut-through-the-target", "methods/shortcut.py", "        with torch.no_grad():\n", "        with torch.enable_grad():\n", "test_shortcut.py"),
    Mutant("cost-without-the-half-steps", "training/cost.py", "/ len(places) + more * call", "/ len(places) + 0 * call", "test_cost.py"),
    Mutant("auxiliary-said-to-start-afresh", "training/init.py", "if recipe.teacher is None:  # otherwise it is the auxiliary bridge", "if True:  # otherwise it is the auxiliary bridge", "test_distillation.py"),
    Mutant("shortcut-with-a-dropped-condition", "methods/shortcut.py", 'if recipe.network.get("condition_dropout"):', "if False:", "test_shortcut.py"),
    Mutant("shortcut-on-any-grid", "methods/shortcut.py", "if not torch.allclose(method._walk(level)", "if False and not torch.allclose(method._walk(level)", "test_shortcut.py"),
    Mutant("denoising-towards-the-state", "methods/cdsb.py", "(self._predict_x0(batch)(x_t, t) - x_0)", "(self._predict_x0(batch)(x_t, t) - x_t)", "test_cdsb.py"),
    Mutant("prior-without-its-mean", "methods/cdsb.py", "return Gaussian(mean, expand(", "return Gaussian(torch.zeros_like(mean), expand(", "test_cdsb.py"),
    Mutant("chain-starts-from-the-other-end", "methods/cdsb.py", 'start = batch["x_0"] if backwards else', 'start = batch["x_0"] if not backwards else', "test_cdsb.py"),
    Mutant("half-bridges-exchanged", "methods/cdsb.py", "backwards=half % 2 == 0)", "backwards=half % 2 == 1)", "test_cdsb.py"),
    Mutant("known-pixels-drift", "methods/cdsb.py", "lambda x, t: keep_known(predict(x, t), x, mask)", "predict", "test_cdsb.py"),
    Mutant("hole-starts-from-its-fill", "methods/cdsb.py", "mean = keep_known(torch.zeros_like(x_1), x_1, mask)", "mean = x_1", "test_cdsb.py"),
    Mutant("chain-in-training-mode", "methods/cdsb.py", "in_mode(network, training=False)", "in_mode(network, training=True)", "test_cdsb.py"),
    Mutant("chain-through-the-gradient", "methods/cdsb.py", "with torch.no_grad(), in_mode(", "with torch.enable_grad(), in_mode(", "test_cdsb.py"),
    Mutant("half-of-the-first-step", "training/state.py", "trained_at(self.method, self.step, list(self.modules))", "trained_at(self.method, 0, list(self.modules))", "test_cdsb.py"),
    Mutant("idle-network-averaged", "training/state.py", "if NETWORK in self.trained:", "if True:", "test_cdsb.py"),
    Mutant("idle-module-steps", "methods/base.py", "list(modules if choice is None else choice(step))", "list(modules)", "test_cdsb.py"),
    Mutant("idle-loss-is-no-number", "console.py", "None if math.isnan(value) else value for", "value for", "test_cdsb.py"),
    Mutant("latent-trains-all", "methods/latent.py", 'return trained_at(self.method, step, ["network", *self.companions()])', 'return ["network", *self.companions()]', "test_cdsb.py"),
    Mutant("cdsb-ends-forwards", "recipe/presets.py", "max(steps - 4 * half, 1)", "max(steps - 3 * half, 1)", "test_cdsb.py"),
    # tiles
    Mutant("tile-weights-do-not-sum-to-one", "bridge/tiles.py", "windows.append(Span(start, begun - ended))", "windows.append(Span(start, (begun - ended).sqrt()))", "test_tiles.py"),
    Mutant("tile-edges-weigh", "bridge/tiles.py", "width = max(overlap / 2, 1e-9)", "width = max(overlap, 1e-9)", "test_tiles.py"),
    Mutant("tile-neighbours-too-far", "bridge/tiles.py", "math.ceil(room / ((side - overlap) // stride))", "math.ceil(room / (side // stride))", "test_tiles.py"),
    Mutant("tile-starts-off-the-stride", "bridge/tiles.py", "[room * i // steps * stride for i in range(steps + 1)]", "[(length - side) * i // steps for i in range(steps + 1)]", "test_tiles.py"),
    Mutant("tile-overwrites-its-neighbour", "bridge/tiles.py", "strip[..., left : left + len(weights)] +=", "strip[..., left : left + len(weights)] =", "test_tiles.py"),
    Mutant("tile-times-of-one-window", "bridge/tiles.py", "t.repeat(len(part))", "t.repeat_interleave(len(part))", "test_tiles.py"),
    Mutant("tile-condition-of-another-place", "bridge/tiles.py", "torch.cat([condition[place] for place in places])", "torch.cat([condition[..., : x.shape[-2], : x.shape[-1]] for place in places])", "test_tiles.py"),
    Mutant("tile-strip-unweighted", "bridge/tiles.py", "strip.mul_(row_weights.to(dtype).to(strip.device)[:, None])", "strip", "test_tiles.py"),
    Mutant("tile-of-the-whole-image-blended", "bridge/tiles.py", "if len(rows) == len(columns) == 1:", "if False:", "test_tiles.py"),
    Mutant("tile-dropout-in-turn", "bridge/tiles.py", "nullcontext() if seed is None else", "nullcontext() if True else", "test_tiles.py"),
    Mutant("parts-unscaled", "bridge/base.py", "total[rows].add_(factor * x[rows])", "total[rows].add_(x[rows])", "test_tiles.py"),
    Mutant("tiles-summed-in-bfloat16", "bridge/tiles.py", "torch.promote_types(x_t.dtype, torch.float32)", "x_t.dtype", "test_tiles.py"),
    Mutant("mean-sees-the-whole-image", "methods/tiles.py", "mean = dataclasses.replace(mean, method=tiled(mean.method, side, overlap, stride, batch))", "pass", "test_tiled_methods.py"),
    Mutant("tiles-counted-as-calls", "methods/tiles.py", "count += len(inputs[0])", "count += 2 * len(inputs[0])", "test_tiled_methods.py"),
    Mutant("gradient-guidance-in-tiles", "methods/tiles.py", "if guidance is not None and guidance.through_network:", "if False:", "test_tiled_methods.py"),
    Mutant("tile-not-rounded-to-the-stride", "runs/run.py", "side = -(-tile // stride) * stride", "side = tile", "test_tiled_runs.py"),
    Mutant("tuned-methods-whole", "runs/run.py", "replace(self, method=method, tuned_methods=tuned)", "replace(self, method=method)", "test_tiled_runs.py"),
    Mutant("tiles-not-recorded", "runs/restorer.py", "if run.tiles is not None:", "if False:", "test_tiled_runs.py"),
    Mutant("progress-of-tiles-forgotten", "runs/restorer.py", "            if tiles > 1:", "            if False:", "test_tiled_runs.py"),
    Mutant("automatic-tiles-never", "runs/workload.py", "if run.tiles is not None or not _needs_tiles(probe, pixels, free)", "if True or not _needs_tiles(probe, pixels, free)", "test_workload.py"),
    Mutant("automatic-tiles-of-all", "runs/workload.py", "if _needs_tiles(probe, size, free)}", "if True}", "test_workload.py"),
    Mutant("kinds-unchecked", "errors.py", "if not isinstance(value, kinds):", "if False:", "test_surface.py"),
    Mutant("large-images-whole", "runs/workload.py", "return pixels >= LARGE or (probe.memory", "return (probe.memory", "test_workload.py"),
    Mutant("automatic-tiles-too-large", "runs/workload.py", "if free is None or _tiled_bytes(run, probe, pixels, side) <= SHARE * free", "if True", "test_workload.py"),
    Mutant("tiles-not-in-the-fingerprint", "evaluation/subjects.py", 'tiles = [] if run.tiles is None else [{"tiles": run.tiles}]', "tiles = []", "test_tiled_runs.py"),
    Mutant("workers-open-another-run", "runs/restore_workers.py", "report=lambda line: None, **self.options)", "report=lambda line: None)", "test_jobs.py"),
    Mutant("workers-forget-the-tiles", "runs/restore_workers.py", "            run = run.tiled(side, overlap, batch=batch)", "            pass", "test_jobs.py"),
    Mutant("workers-forget-the-automatic-tile", "runs/restore_workers.py", "restorer.restore(job, tile, outcome)", "restorer.restore(job, None, outcome)", "test_jobs.py"),
    Mutant("worker-notes-lost", "runs/restorer.py", "        self.notes += part.notes\n", "", "test_jobs.py"),
    Mutant("worker-images-not-recorded", "runs/restore_workers.py", "            elif answer[1] is None:", "            elif False:", "test_jobs.py"),
    Mutant("workers-trust-the-folder", "runs/restore_workers.py", "if _facts(run, self.settings) != self.facts:", "if False:", "test_jobs.py"),
    Mutant("processes-whatever-the-memory", "runs/workload.py", "max(int(SHARE * free / max(each + _own_memory(), 1)), 1)", "jobs", "test_jobs.py"),
    Mutant("workers-take-all-threads", "runs/workers.py", "    torch.set_num_threads(threads)\n", "", "test_jobs.py"),
    Mutant("lost-task-not-said", "runs/workers.py", "if task is not None or isinstance(answer, Lost):", "if not isinstance(answer, Lost):", "test_jobs.py"),
    Mutant("partial-file-of-a-killed-process", "runs/workers.py", "        clean(worker.task, process.pid or 0)", "        pass", "test_jobs.py"),
    Mutant("workers-outlive-the-command", "runs/workers.py", "    exit_with_parent()\n", "", "test_jobs.py"),
    Mutant("workers-answer-ctrl-c", "runs/workers.py", "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})", "signal.pthread_sigmask(signal.SIG_BLOCK, set())", "test_jobs.py"),
    Mutant("frames-by-letter", "runs/restore.py", "frames = sorted(jobs, key=order)", "frames = list(jobs)", "test_tiled_runs.py"),
    Mutant("frames-of-any-size", "runs/restore.py", "        if size != first:", "        if False:", "test_tiled_runs.py"),
    Mutant("colour-fix-not-applied", "runs/restorer.py", 'fixed = colour_fixed(shown[-1], batch["x_1"][0], settings.colour_fix)', "fixed = shown[-1]", "test_tiled_runs.py"),
    Mutant("colour-fix-not-recorded", "runs/restorer.py", 'if self.colour_fix != "none":', "if False:", "test_tiled_runs.py"),
    Mutant("colour-low-band-left", "images/colour.py", "return (even + (before + after) / 4).movedim(0, axis)", "return even.movedim(0, axis)", "test_colour.py"),
    Mutant("colour-synthesis-by-steps", "images/colour.py", "x[::2], x[1::2] = even, _middle(even, side // 2)", "x[::2], x[1::2] = even, even[: side // 2]", "test_colour.py"),
    Mutant("colour-from-the-restored-image", "images/colour.py", "change = x_1 - x_0_hat", "change = x_0_hat - x_1", "test_colour.py"),
    Mutant("colour-mean-of-all-channels", "images/colour.py", "change.mean((-2, -1), keepdim=True)", "change.mean()", "test_colour.py"),
    # export
    Mutant("plan-forgets-the-answer-before", "runs/plan.py", "(n.previous, previous)", "(0.0, previous)", "test_plan.py"),
    Mutant("plan-forgets-c-in", "runs/plan.py", "_sum((call.c_in, x_t))", "_sum((1.0, x_t))", "test_plan.py"),
    Mutant("plan-starts-without-noise", "runs/plan.py", "(stage.start.noise, noise))", "(0.0, noise))", "test_plan.py"),
    Mutant("plan-without-known-pixels", "runs/plan.py", "x_0_hat if mask is None else choose(mask, x_0_hat, begin)", "x_0_hat", "test_plan.py"),
    Mutant("plan-clips-nothing", "runs/plan.py", "clip(x_0_hat) if stage.clip else x_0_hat", "x_0_hat", "test_plan.py"),
    Mutant("plan-of-a-mean-unclipped", "runs/plan.py", "begin = clip(x_t) if mask", "begin = x_t if mask", "test_plan.py"),
    Mutant("plan-mean-forgets-x-1", "runs/plan.py", "(x_1 if condition is None else condition)", "(begin if condition is None else condition)", "test_plan.py"),
    Mutant("plan-of-any-sampler", "runs/plan.py", "< 1e-10 * max", "< 1e10 * max", "test_plan.py"),
    Mutant("exported-mask-inverted", "runs/graphs.py", "hole, a.name, b.name", "hole, b.name, a.name", "test_export.py"),
    Mutant("exported-time-of-the-first-call", "runs/graphs.py", "[1], [time])", "[1], [1.0])", "test_export.py"),
    Mutant("exported-noise-repeated", "runs/graphs.py", "value_int=i", "value_int=0", "test_export.py"),
    Mutant("fill-of-a-hole-guessed", "runs/batch.py", "if bool((filled == filled[0, 0, 0, 0]).all()) else", "if True else", "test_export.py"),
    Mutant("export-over-other-files", "runs/export.py", "    if others:", "    if False:", "test_export.py"),
    Mutant("exported-latents-not-scaled", "runs/graphs.py", "return self.latent.scaled(self.autoencoder.encode(x))", "return self.autoencoder.encode(x)", "test_export_latent.py"),
    Mutant("exported-latents-decoded-as-scaled", "runs/graphs.py", "self.autoencoder.decode(self.latent.unscaled(latents))", "self.autoencoder.decode(latents)", "test_export_latent.py"),
    Mutant("exported-latents-over-known-pixels", "runs/plan.py", "return image if mask is None else choose(mask, image, x_1)", "return image", "test_export_latent.py"),
    Mutant("exported-latents-not-decoded", "runs/plan.py", "encode, decode = coder", "encode, decode = coder[0], lambda x: x", "test_export_latent.py"),
    Mutant("exported-latents-forget-the-condition", "runs/plan.py", "None if condition is None else encode(condition)", "None", "test_export_latent.py"),
    Mutant("exported-noise-of-images", "runs/graphs.py", "torch.zeros(draws, *self.state().shape)", 'torch.zeros(draws, *inputs["x_1"].shape)', "test_export_latent.py"),
    Mutant("uncopied-autoencoder-is-a-traceback", "runs/export.py", "    except TypeError as error:  #", "    except KeyError as error:  #", "test_export_latent.py"),
    # conditions and labels
    Mutant("dropout-of-all-or-none", "methods/base.py", "gone = torch.tensor([draw < share for draw in draws])", "gone = torch.tensor([draws[0] < share for draw in draws])", "test_condition.py"),
    Mutant("dropout-not-keyed", "methods/base.py", "generator(seed, \"condition dropout\", number)", "generator(seed, \"condition dropout\", number - int(numbers[0]))", "test_condition.py"),
    Mutant("dropout-keeps-the-label", "methods/base.py", "label = torch.where(gone.to(label.device), no_label, label)", "pass", "test_condition.py"),
    Mutant("dropout-forgotten-in-training", "methods/bridge.py", "if self.condition_dropout and \"number\" in batch:", "if False:", "test_condition.py"),
    Mutant("scale-around-the-condition", "bridge/predictor.py", "return without + condition_scale * (call_network(network, noisy, t, condition, label) - without)", "return call_network(network, noisy, t, condition, label) + condition_scale * (call_network(network, noisy, t, condition, label) - without)", "test_condition.py"),
    Mutant("scale-without-the-null", "bridge/predictor.py", "without = call_network(network, noisy, t, *nothing)", "without = call_network(network, noisy, t, condition, label)", "test_condition.py"),
    Mutant("scale-one-in-two-calls", "bridge/predictor.py", "if condition_scale == 1:", "if False:", "test_condition.py"),
    Mutant("scale-counted-once", "methods/mean.py", "calls = nfe if scale in (0, 1) else 2 * nfe", "calls = nfe", "test_condition.py"),
    Mutant("label-without-effect", "networks/unet.py", "self.label_emb(label.clamp(min=0)) * (label >= 0)[:, None]", "self.label_emb(label.clamp(min=0)) * (label < -1)[:, None]", "test_condition.py"),
    Mutant("no-label-is-the-first", "networks/unet.py", "self.label_emb(label.clamp(min=0)) * (label >= 0)[:, None]", "self.label_emb(label.clamp(min=0))", "test_condition.py"),
    Mutant("label-lost-in-restoring", "runs/restorer.py", "hole, extra, draws, settings.direction, settings.label)", "hole, extra, draws, settings.direction, settings.label and 0)", "test_condition.py"),
    Mutant("label-out-of-range-trained", "data/dataset.py", "if self.classes and not 0 <= label.get(\"label\", -1) < self.classes:", "if self.classes and not label:", "test_condition.py"),
    Mutant("conditions-of-other-pairs", "data/sources/folders.py", "Names(stems[name][1] for name in pairs)", "Names(stems[name][1] for name in reversed(pairs))", "test_condition.py"),
    # tuned sampling
    Mutant("tuned-for-the-worst", "evaluation/search.py", "return max(group, key=lambda candidate: self.sign", "return min(group, key=lambda candidate: self.sign", "test_tune.py"),
    Mutant("tuned-at-every-nfe", "runs/run.py", "self.tuned_methods.get(self._nfe(nfe), self.method)", "next(iter(self.tuned_methods.values()), self.method)", "test_tune.py"),
    Mutant("tuned-nfe-forgotten", "evaluation/tune.py", "(kept | tuned.nfe)", "(tuned.nfe)", "test_tune.py"),
    Mutant("tuned-on-the-report", "evaluation/tune.py", "search.choices(counts, *halves, report)", "search.choices(counts, halves[1], halves[1], report)", "test_tune.py"),
    Mutant("halves-overlap", "evaluation/tune.py", "return order[: len(order) // 2], order[len(order) // 2 :]", "return order[: len(order) // 2], order[len(order) // 2 - 1 :]", "test_tune.py"),
    Mutant("tuned-by-chance", "evaluation/search.py", "> ERRORS * error else", "> 0 else", "test_tune.py"),
    Mutant("bytes-of-a-contiguous-view", "networks/weights.py", ".clone(memory_format=torch.contiguous_format)", ".contiguous()", "test_tune.py"),
    Mutant("holes-taken-for-a-shift", "data/statistics.py", 'None if "mask" in pictures else alignment_of(x_0, x_1)', "alignment_of(x_0, x_1)", "test_alignment.py"),
    Mutant("shared-without-the-time", "evaluation/shared_calls.py", "for tensor in (x_t, t, condition, label):", "for tensor in (x_t, condition, label):", "test_tune.py"),
    Mutant("shared-without-the-condition", "evaluation/shared_calls.py", "for tensor in (x_t, t, condition, label):", "for tensor in (x_t, t, label):", "test_tune.py"),
    Mutant("tuned-over-the-users", "runs/load.py", "if tuned and all(change.startswith(\"sample.nfe=\") for change in changes) else", "if tuned else", "test_tune.py"),
    Mutant("fingerprint-without-tuning", "evaluation/subjects.py", "    if run.tuned is not None:  # otherwise rows", "    if False:  # otherwise rows", "test_tune.py"),
    Mutant("seeds-pooled-over-tuning", "report/seeds.py", "evaluation.step, evaluation.tuned", "evaluation.step", "test_tune.py"),
    Mutant("exports-the-recipes-sampling", "runs/export.py", "plan_of(run.method_at(n), n)", "plan_of(run.method, n)", "test_tune.py"),
    Mutant("shared-without-tuning", "runs/shared.py", "            if run.tuned is not None:", "            if False:", "test_tune.py"),
    Mutant("results-of-other-sampling-kept", "runs/restorer.py", "dtypes, *([] if line is None else [line])]", "dtypes]", "test_tune.py"),
    # installed plug-ins
    Mutant("installed-plugins-always-imported", "registry.py", "return name in self._members or name in self._source or name in self.names()", "return name in self.names()", "test_installed_plugins.py"),
    Mutant("place-named-twice", "errors.py", "if not _names(str(error), str(place)):", "if True:", "test_errors.py"),
    Mutant("code-lost-with-the-place", "errors.py", "            error.args = (one_line(f\"{place}: {error.args[0]}\"),)\n        raise\n", "            raise UserError(f\"{place}: {error.args[0]}\") from error\n        raise\n", "test_errors.py"),
    Mutant("missing-before-misspelt", "storage/table.py", "problem[\"type\"] != \"extra_forbidden\"", "problem[\"type\"] == \"extra_forbidden\"", "test_table.py"),
    Mutant("presets-tables-changed", "recipe/load.py", "copy.deepcopy(dict(table))", "dict(table)", "test_methods.py"),
    Mutant("broken-plugin-forgotten", "registry.py", "if broken := plugins.broken_plugins():", "if broken := []:", "test_installed_plugins.py"),
    Mutant("broken-plugin-stops-the-others", "plugins.py", "            reason = error if isinstance(error, UserError)", "            raise\n            reason = error if isinstance(error, UserError)", "test_installed_plugins.py"),
    Mutant("installed-plugins-not-in-results", "plugins.py", "for text in _installed or []", "for text in []", "test_installed_plugins.py"),
    # the contract of datasets
    Mutant("dataset-keys-not-compared", "data/contract.py", "if index_of.setdefault(item.key, index) != index:", "if False:", "test_contract_dataset.py"),
    Mutant("dataset-parts-not-compared", "data/contract.py", "if item.parts != items[first].parts:", "if False:", "test_contract_dataset.py"),
    Mutant("dataset-pixels-not-compared", "data/contract.py", "        digest.update(np.ascontiguousarray(picture.pixels).tobytes())\n", "", "test_contract_dataset.py"),
    Mutant("dataset-read-in-order", "data/contract.py", "for index in reversed(items):", "for index in items:", "test_contract_dataset.py"),
    Mutant("dataset-global-draws-passed", "data/contract.py", "if global_states() != before:", "if False:", "test_contract_dataset.py"),
    Mutant("dataset-last-item-unread", "data/contract.py", "i * (length - 1) // max(count - 1, 1)", "i * length // count", "test_contract_dataset.py"),
    Mutant("compare-without-labels", "report/comparison.py", "each_seed=each_seed, labels=names, opener", "each_seed=each_seed, opener", "test_comparing.py"),
    Mutant("evaluates-another-protocol", "evaluation/evaluate.py", "open_evaluation(run.recipe, protocol, count=count, direction=direction)", "open_evaluation(run.recipe, count=count, direction=direction)", "test_evaluation.py"),
    # shipped runs
    Mutant("shipped-run-before-a-path", "storage/shipped.py", "return not run.exists() and run.as_posix()", "return run.as_posix()", "test_pretrained.py"),
    Mutant("results-into-the-package", "cli/evaluate.py", "own_run(named, plugin) if out is None else", "", "test_pretrained.py"),
    Mutant("copy-before-the-refusal", "cli/options.py", "            remove(fresh)", "            pass", "test_pretrained.py"),
    Mutant("copy-with-results-removed", "cli/options.py", "fresh = next((path for path in (*reversed(place.parents), place) if not os.path.lexists(path)), None)", "fresh = place", "test_pretrained.py"),
    Mutant("critic-for-each-candidate", "evaluation/search.py", "method=resampled(method, recipe)", "method=build_method(recipe, self.network, mean, latent_of(run.method))", "test_tune.py"),
    Mutant("critic-for-each-tuned-nfe", "runs/load.py", "{nfe: resampled(method, each) for nfe, each in recipes.items()}", "{nfe: build_method(each, network, mean, latent) for nfe, each in recipes.items()}", "test_tune.py"),
    Mutant("leftovers-in-the-cache-stay", "training/preparation.py", "            sweep(cached)", "            pass", "test_latent.py"),
    Mutant("linked-cache-swept", "training/cache.py", "if cache.is_symlink() or not cache.is_dir()", "if not cache.is_dir()", "test_latent.py"),
    Mutant("copy-of-another-version-kept", "cli/options.py", "elif read_bytes(target) != data:", "elif False:", "test_pretrained.py"),
    Mutant("init-by-the-path-of-the-package", "training/init.py", "return Init(named, *weights,", "return Init(source, *weights,", "test_pretrained.py"),
    # shared runs
    Mutant("shares-the-raw-weights", "runs/shared.py", 'saved.tensors("ema")', 'saved.tensors("network")', "test_shared.py"),
    Mutant("shared-recipe-with-paths", "runs/shared.py", "portable(recipe).to_toml()", "recipe.to_toml()", "test_shared.py"),
    Mutant("shares-one-stage", "runs/shared.py", "if run.recipe.mean is not None:", "if False:", "test_shared.py"),
    Mutant("shared-without-autoencoder", "runs/shared.py", 'if run.recipe.latent is not None and "source"', 'if False and "source"', "test_shared.py"),
    Mutant("latent-of-other-channels", "runs/latent.py", "if given != actual:", "if False:", "test_shared.py"),
    Mutant("card-without-the-autoencoders-plugin", "report/card.py", '"autoencoders": recipe.latent and recipe.latent.encoder,', "", "test_shared.py"),
    Mutant("shares-any-file-of-the-autoencoder", "runs/shared.py", "if not ENCODER_FILES.fullmatch(file.name) or file.is_symlink():", "if False:", "test_shared.py"),
    Mutant("autoencoder-not-fetched", "runs/hub_files.py", 'rf"(?:{MEAN_FOLDER}/|{LATENT_FOLDER}/)?"', 'rf"(?:{MEAN_FOLDER}/)?"', "test_hub_runs.py"),
    Mutant("latent-is-another-file", "runs/hub.py", '"checkpoints", MEAN_FOLDER, LATENT_FOLDER}', '"checkpoints", MEAN_FOLDER}', "test_hub_runs.py"),
    Mutant("autoencoder-unchecked", "runs/hub_files.py", 'load_latent(part.absolute(), recipe, device=torch.device("cpu"))', "pass", "test_hub_runs.py"),
    Mutant("encoder-of-any-size", "runs/hub_files.py", "if sizes[path] > ENCODER_BYTES:", "if False:", "test_hub_runs.py"),
    Mutant("encoder-config-unchecked", "runs/hub_files.py", "check_encoder_config(part / path)", "pass", "test_hub_runs.py"),
    Mutant("share-lost-a-race", "runs/shared.py", "            _check_empty(out, folder)\n            replace(", "            replace(", "test_shared.py"),
    Mutant("shared-over-other-files", "runs/shared.py", "if out.exists() and (not out.is_dir() or any(out.iterdir())):", "if False:", "test_shared.py"),
    Mutant("recipe-leads-out", "storage/names.py", 'or ".." in parts', "", "test_shared.py"),
    Mutant("recipe-downloads", "runs/shared.py", "and value is not False:", "and value is True:", "test_shared.py"),
    Mutant("recipe-names-a-card-file", "runs/shared.py", 'if key == ("data", "card") and', "if False and", "test_shared.py"),
    Mutant("card-of-another-step", "report/card.py", "if evaluation.step == run.step]", "]", "test_shared.py"),
    Mutant("own-card-without-a-licence", "report/card.py", "or not STATED.search(header[1])", "", "test_shared.py"),
    Mutant("any-licence", "report/card.py", "if licence is None or not LICENCE.fullmatch(licence):", "if licence is None:", "test_shared.py"),
    # runs on the Hub
    Mutant("fetched-at-every-use", "runs/hub.py", "    if origin is None:\n        internet", "    if True:\n        internet", "test_hub_runs.py"),
    Mutant("pull-of-the-first-commit", "runs/hub.py", "if read_origin(out) == origin:", "if read_origin(out):", "test_hub_runs.py"),
    Mutant("stale-checkpoint-on-the-hub", "runs/hub.py", "operations += [library.CommitOperationDelete(path) for path in stale]", "", "test_hub_runs.py"),
    Mutant("fetches-everything", "runs/hub_files.py", "if not WANTED.fullmatch(path) or (found", "if (found", "test_hub_runs.py"),
    Mutant("older-checkpoint-fetched", "runs/hub_files.py", "or (found is not None and found[2] != newest[found[1]]):", ":", "test_hub_runs.py"),
    Mutant("recipe-unchecked", "runs/hub_files.py", "check_portable(read_toml(part / stage / RECIPE_FILE))", "pass", "test_hub_runs.py"),
    Mutant("weights-of-any-size", "runs/hub_files.py", "sizes[path] > (most := _weight_bytes(recipe))", "sizes[path] > (most := 2**60)", "test_hub_runs.py"),
    Mutant("recipe-of-any-size", "runs/hub_files.py", "if limit is not None and size > limit:", "if False:", "test_hub_runs.py"),
    Mutant("pull-without-hashes", "runs/hub_files.py", 'latest_checkpoint(part / stage / "checkpoints")[0] is None', "False", "test_hub_runs.py"),
    Mutant("hub-offline", "runs/hub_library.py", "internet.require(f\"'{name}' on the Hub\")\n    try:", "try:", "test_hub_runs.py"),
    Mutant("folder-on-the-hub", "runs/hub.py", " or run.parent.exists()", "", "test_hub_runs.py"),
    Mutant("pipes-block-the-size", "images/files.py", "stream = open_regular(path) if data is None", "stream = Path(path).open('rb') if data is None", "test_app.py"),
    Mutant("bare-ipv6", "app/server.py", "f\"[{host}]\" if \":\" in host else host", "host", "test_app.py"),
    Mutant("app-refuses-others", "app/limits.py", "height * width * scale**2 > limits.pixels", "height * width * scale**2 > 29", "test_app.py"),
    Mutant("animation-backwards", "images/montage.py", "append_images=frames[1:]", "append_images=frames[-2::-1]", "test_app.py"),
    Mutant("hint-of-the-wrong-network", "training/init.py", "for part in (self.recipe, recipe))\n        given", "for part in (recipe, self.recipe))\n        given", "test_starting.py"),
    Mutant("page-forgets-the-best", "report/page.py", "            *_best_step(entries),\n", "", "test_best.py"),
    Mutant("plugins-share-a-name", "plugins.py", 'name += f"_{hashlib.sha256(place.encode()).hexdigest()[:12]}"', "pass", "test_registry.py"),
    Mutant("walk-of-a-plugin-forgotten", "methods/base.py", 'getattr(method, "trajectory", None) or cast(Any, method).walk', "method.trajectory", "test_methods.py"),
    Mutant("results-into-the-local-copy", "cli/options.py", "return own_copy(run)", "return fetched_run(run, plugins)", "test_hub_runs.py"),
    Mutant("init-forgets-the-commit", "training/init.py", "**({} if origin is None else asdict(origin)),", "", "test_hub_runs.py"),
    Mutant("copy-of-another-commit", "runs/hub.py", "origin is not None and read_origin(copy) == origin", "read_origin(copy)", "test_hub_runs.py"),
    Mutant("recipe-fetches", "training/init.py", "source = local_copy(source.as_posix())", "source = hub_folder(source)", "test_hub_runs.py"),
    Mutant("pull-over-other-files", "runs/hub.py", "if origin is None or origin.repository != repository or out.is_symlink():", "if False:", "test_hub_runs.py"),
    Mutant("parts-of-two-commits", "runs/hub.py", "if leftover.name != LOCK_FILE:", "if False:", "test_hub_runs.py"),
    # curriculum
    Mutant("regression-share-off-by-one", "methods/curriculum.py", "// self.batch_size < self.source_steps", "// self.batch_size <= self.source_steps", "test_curriculum.py"),
    Mutant("regression-share-counted-from-the-start-of-the-call", "training/step.py", 'part["number"] = torch.arange(first + start, first + stop)', 'part["number"] = torch.arange(start, stop)', "test_training.py"),
    Mutant("at-source-inverted", "methods/curriculum.py", "generator) < self.at_source", "generator) >= self.at_source", "test_curriculum.py"),
    Mutant("strata-by-position", "methods/curriculum.py", "return order[numbers.cpu() % self.batch_size].double()", "return order[: len(numbers)].double()", "test_curriculum.py"),
    Mutant("logit-normal-of-the-noise", "methods/curriculum.py", "t = torch.sigmoid(randn_like(", "t = torch.sigmoid(2 * randn_like(", "test_curriculum.py"),
    Mutant("min-snr-without-the-output-scale", "methods/curriculum.py", "return (MIN_SNR * k_o2).clamp(max=1.0)", "return (MIN_SNR / k_o2).clamp(max=1.0)", "test_curriculum.py"),
    Mutant("edm-without-the-output-scale", "methods/curriculum.py", "return k_o2 * (1 / VAR_0 + snr)", "return 1 / VAR_0 + snr", "test_curriculum.py"),
    Mutant("huber-with-another-knee", "methods/curriculum.py", 'reduction="none", delta=HUBER)', 'reduction="none")', "test_curriculum.py"),
    Mutant("adversary-weighted-over-the-batch", "methods/losses.py", "norms: Tensor = gradient.float().flatten(1).norm(dim=1)", "norms: Tensor = gradient.float().norm().expand(len(gradient))", "test_losses.py"),
    Mutant("critic-sees-known-pixels-of-the-answer", "methods/bridge.py", "x_0_hat = x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)", "x_0_hat = x_0_hat", "test_losses.py"),
    Mutant("perceptual-at-late-times", "methods/losses.py", "early = (t <= self.until)", "early = (t >= self.until)", "test_losses.py"),
    # two stages
    Mutant("starts-from-x-1", "methods/bridge.py", "return x_1 if self.mean is None else self.mean(batch, generator)", "return x_1", "test_mean.py"),
    Mutant("mean-forgotten-in-training", "methods/bridge.py", 'x_0, mask = batch["x_0"], batch.get("mask")\n        x_1 = self._start(batch, generator)', 'x_0, mask = batch["x_0"], batch.get("mask")\n        x_1 = batch["x_1"]', "test_mean.py"),
    Mutant("mean-not-clipped", "methods/mean.py", "answer.to(x_1.dtype).clamp(-1, 1)", "answer.to(x_1.dtype)", "test_mean.py"),
    Mutant("condition-replaced-by-the-mean", "methods/bridge.py", 'x_1: Tensor = batch["x_1"]\n        return x_1 if self.mean is None else self.mean(batch, generator)', 'if self.mean is None:\n            return batch["x_1"]\n        batch["x_1"] = self.mean(batch, generator)\n        return batch["x_1"]', "test_mean.py"),
    Mutant("mask-ignored-by-the-mean", "methods/mean.py", "return answer if mask is None else keep_known(answer, x_1, mask)", "return answer", "test_mean.py"),
    Mutant("mean-trained-too", "methods/mean.py", "with torch.no_grad(), torch.autocast(", "with torch.autocast(", "test_mean.py"),
    Mutant("guidance-measures-the-mean", "methods/bridge.py", "guide=self._guide(batch, times)", 'guide=self._guide({**batch, "x_1": x_1}, times)', "test_mean.py"),
    Mutant("mean-takes-a-draw", "methods/mean.py", 'given = {name', 'torch.rand((), generator=generator[0] if isinstance(generator, list) else None)\n        given = {name', "test_mean.py"),
    Mutant("moments-of-x-1", "training/preparation.py", "partial(start_of, mean, recipe.train.seed)", "partial(start_of, None, recipe.train.seed)", "test_mean.py"),
    Mutant("calls-of-the-mean-not-counted", "methods/calls.py", "*([] if mean is None else [mean.method.network])", "*[]", "test_mean.py"),
    Mutant("evaluation-of-another-mean-reused", "evaluation/subjects.py", 'del settings["mean"]["run"]', 'del settings["mean"]', "test_mean.py"),
    # both directions
    Mutant("one-direction-for-all", "data/dataset.py", 'generator(self.seed, "direction", *draw)', 'generator(self.seed, "direction")', "test_direction.py"),
    Mutant("directions-uneven", "data/dataset.py", '"direction", *draw)) < 0.5)', '"direction", *draw)) < 0.3)', "test_direction.py"),
    Mutant("direction-without-seed", "data/dataset.py", 'generator(self.seed, "direction", *draw)', 'generator(0, "direction", *draw)', "test_direction.py"),
    Mutant("directions-not-exchanged", "data/dataset.py", 'out = out | {"x_0": out["x_1"], "x_1": out["x_0"]}', "out = dict(out)", "test_direction.py"),
    Mutant("reverse-shows-the-answer", "data/dataset.py", 'out.pop("condition", None)', "pass", "test_direction.py"),
    Mutant("own-condition-lost-in-reverse", "data/dataset.py", "if not self.own_condition:", "if True:", "test_condition.py"),
    Mutant("direction-not-shown", "methods/base.py", "return direction if condition is None else torch.cat([condition, direction.to(condition.dtype)], dim=1)", "return condition if condition is None else torch.cat([condition, 0 * direction.to(condition.dtype)], dim=1)", "test_direction.py"),
    Mutant("direction-inverted", "methods/base.py", "direction.to(condition.dtype)], dim=1)", "1 - direction.to(condition.dtype)], dim=1)", "test_direction.py"),
    Mutant("moments-of-one-direction", "training/identity.py", "for side in dataset.directions():", "for side in [dataset]:", "test_direction.py"),
    Mutant("noise-of-one-direction", "training/noise_size.py", "for side in dataset.directions()]", "for side in [dataset]]", "test_direction.py"),
    Mutant("direction-without-its-channel", "training/init.py", "(seen.data.channels, seen.extra_channels)", "(seen.data.channels, seen.condition_channels)", "test_direction.py"),
    Mutant("reverse-prepares-its-input", "runs/batch.py", "degradation = None if reverse else recipe.build_degradation()", "degradation = recipe.build_degradation()", "test_direction.py"),
    Mutant("restored-forward-only", "runs/batch.py", 'batch["direction"] = torch.full_like(batch["x_1"][:, :1], float(reverse))', 'batch["direction"] = torch.zeros_like(batch["x_1"][:, :1])', "test_direction.py"),
    Mutant("files-restored-forward-only", "runs/restorer.py", "hole, extra, draws, settings.direction, settings.label)", "hole, extra, draws, None, settings.label)", "test_direction.py"),
    Mutant("directions-share-results", "runs/restorer.py", 'record["direction"] = "reverse"', "pass", "test_direction.py"),
    Mutant("protocol-silent-about-the-direction", "recipe/protocol.py", 'filled["direction"] = "reverse"', "pass", "test_direction.py"),
    Mutant("evaluates-forward-only", "evaluation/evaluate.py", 'self.rules.settings.get("direction", "forward")', '"forward"', "test_direction.py"),
    # latents
    Mutant("latents-scaled-twice", "methods/latent.py", "return STD * (latents - shift) / scale", "return STD * (latents - shift) / (2 * scale)", "test_latent.py"),
    Mutant("latents-not-centred", "methods/latent.py", "return STD * (latents - shift) / scale", "return STD * latents / scale", "test_latent.py"),
    Mutant("condition-not-encoded", "methods/latent.py", 'IMAGES = ("x_0", "x_1", "condition")', 'IMAGES = ("x_0", "x_1")', "test_latent.py"),
    Mutant("latents-not-decoded", "methods/latent.py", "image, mask = self.latent.decode(state),", "image, mask = state,", "test_latent.py"),
    Mutant("latents-over-known-pixels", "methods/latent.py", 'return image if mask is None else keep_known(image, batch["x_1"], mask)', "return image", "test_latent.py"),
    Mutant("direction-lost-in-latents", "methods/latent.py", 'if "direction" in batch:', "if False:", "test_latent.py"),
    Mutant("autoencoder-sees-one-side", "methods/autoencoder.py", 'for x in (batch["x_0"], batch["x_1"]):', 'for x in (batch["x_0"],):', "test_latent.py"),
    Mutant("latents-not-held-near-0", "methods/autoencoder.py", " + self.penalty * latents.float().square().mean()", "", "test_latent.py"),
    Mutant("latents-without-noise", "methods/autoencoder.py", "latents + self.noise * randn_like(latents, generator)", "latents", "test_latent.py"),
    Mutant("encoder-read-at-its-source", "runs/latent.py", 'table["source"] = str(copy.absolute())', "pass", "test_latent.py"),
    Mutant("other-encoder-accepted", "runs/latent.py", "if sha256 != wanted:", "if False:", "test_latent.py"),
    Mutant("latents-not-measured", "training/latents.py", "shift, scale = values.mean(1), values.std(1)", "shift, scale = values.mean(1), torch.full_like(values[:, 0], 0.5)", "test_latent.py"),
    Mutant("latent-forgotten-on-resume", "training/identity.py", "return started.model_copy(update={\"cache\": current.cache}) if same else current", "return current", "test_latent.py"),
    Mutant("moments-of-images", "training/preparation.py", "dataset = dataset.mapped(latent.latent.item)", "pass", "test_latent.py"),
    Mutant("cache-without-the-encoder", "training/cache.py", 'f"{\'\' if i else self.sha256} {tuple(values.shape)}"', 'f"{tuple(values.shape)}"', "test_latent.py"),
    Mutant("damaged-latents-read", "training/cache.py", "        except UserError:\n            return None\n        return found", "        except UserError:\n            raise\n        return found", "test_latent.py"),
    Mutant("cache-never-read", "training/cache.py", "found = self._read(file)", "found = None", "test_latent.py"),
    Mutant("random-crops-cached", "training/latents.py", 'if data.augment or data.crop == "random":', "if data.augment:", "test_latent.py"),
    # measuring networks out of packages
    Mutant("st-lpips-reflects-one-pixel", "metrics/packaged.py", "functional.pad(x, (2, 2, 2, 2), mode=", "functional.pad(x, (1, 1, 1, 1), mode=", "test_metrics_packaged.py"),
    Mutant("st-lpips-without-normalisation", "metrics/packaged.py", "(_unit(x) - _unit(y)).square()", "(x - y).square()", "test_metrics_packaged.py"),
    Mutant("lite0-with-symmetric-padding", "metrics/packaged.py", "((missing // 2, missing - missing // 2) for missing in total)", "((missing - missing // 2, missing // 2) for missing in total)", "test_metrics_packaged.py"),
    Mutant("lite0-norm-epsilon", "metrics/packaged.py", "nn.BatchNorm2d(outside, eps=1e-3)", "nn.BatchNorm2d(outside)", "test_metrics_packaged.py"),
    Mutant("nadb-exponent", "bridge/processes.py", "Coefficients(times**self.exponent, left,", "Coefficients(times, 1 - times,", "test_processes.py"),
    Mutant("nadb-scale", "bridge/processes.py", "left, self.scale * times * (1 - times))", "left, self.scale * torch.sqrt(times * (1 - times)))", "test_processes.py test_targets.py"),
    Mutant("bf16-for-narrow-networks", "device.py", "channels < WIDE", "channels < 0", "test_precision.py"),
    Mutant("emulated-bf16", "device.py", "torch.cuda.is_bf16_supported(including_emulation=False)", "torch.cuda.is_bf16_supported()", "test_precision.py"),
    Mutant("precision-flips-on-resume", "device.py", "    if before is not None:\n", "    if before is not None and not before:\n", "test_precision.py"),
    # noise sized to the unknown
    Mutant("unknown-from-one-pixel", "training/noise_size.py", "WINDOW = 5\n", "WINDOW = 1\n", "test_noise_size.py"),
    Mutant("unknown-about-zero", "training/noise_size.py", "columns.new_ones(1, height * width)", "columns.new_zeros(1, height * width).fill_(1e-9)", "test_noise_size.py"),
    Mutant("unknown-measured-where-fitted", "training/noise_size.py", "_error(fit, measure, channels), _error(measure, fit, channels)", "_error(fit, fit, channels), _error(measure, measure, channels)", "test_noise_size.py"),
    Mutant("unknown-ignores-the-mask", "training/noise_size.py", 'if "mask" in item else', 'if "mask" in () else', "test_noise_size.py"),
    Mutant("unknown-of-the-runs-own-crops", "training/noise_size.py", "    data.seed = 0\n", "", "test_noise_size.py"),
    Mutant("noise-as-large-as-the-unknown", "training/noise_size.py", "SHARE = 2 / 3\n", "SHARE = 1.0\n", "test_noise_size.py"),
    Mutant("share-below", "training/noise_size.py", "(noise_level(process, t) > rms)", "(noise_level(process, t) < rms)", "test_noise_size.py"),
    Mutant("noise-note-late", "training/noise_size.py", "if rms < SMALLEST_RMS or share <= 0.5:", "if rms < SMALLEST_RMS or share <= 0.8:", "test_noise_size.py"),
    Mutant("rates-scaled-by-the-factor", "bridge/processes.py", '"beta_min": factor**2 * self.beta_min}', '"beta_min": factor * self.beta_min}', "test_noise_size.py"),
    Mutant("auto-measured-anew", "training/identity.py", '"process": recipe.process | noise}', '"process": recipe.process}', "test_noise_size.py"),
    # targets and proposals
    Mutant("nadb-target-exponent", "bridge/targets.py", "torch.zeros_like(one), -(times**self.exponent), one)", "torch.zeros_like(one), -times, one)", "test_targets.py"),
    Mutant("division-by-sigma-squared", "bridge/targets.py", "torch.zeros_like(sigma), -sigma, one)", "torch.zeros_like(sigma), -sigma.square(), one)", "test_targets.py test_bridge.py"),
    Mutant("c-skip-squared", "bridge/targets.py", "covariance = b * self.var_0 + a * self.cov_01", "covariance = b * self.var_0 + a * self.cov_01**2", "test_targets.py"),
    Mutant("c-out-without-root", "bridge/targets.py", "torch.sqrt(rest / variance), 1 / torch.sqrt(variance)", "rest / variance, 1 / torch.sqrt(variance)", "test_targets.py"),
    Mutant("eps-adds-the-source", "bridge/targets.py", "Weights(1 / b, -a / b,", "Weights(1 / b, a / b,", "test_targets.py"),
    Mutant("moments-about-zero", "bridge/targets.py", "product - mean_0 * mean_1", "product", "test_targets.py"),
    Mutant("mixture-ratio-inverted", "bridge/proposals.py", "generator) < self.forward_ratio", "generator) >= self.forward_ratio", "test_proposals.py"),
    # what a training passes over, and starts from
    Mutant("late-damage-loses-steps", "training/trainer.py", "    if loop.checkpointer.saved_at != state.step:\n", "    if loop.checkpointer.saved_at != state.step and not failed:\n", "test_unusable.py"),
    Mutant("tracker-written-twice", "training/trackers.py", "if step > self._sent[name]:", "if step:", "test_trackers.py"),
    Mutant("tracker-not-purged", "training/trackers.py", "purge = after_step + 1 if (folder / name).exists() else None", "purge = None", "test_trackers.py"),
    Mutant("tracker-starts-a-new-run", "training/trackers.py", "identifier = run or uuid.uuid4().hex", "identifier = uuid.uuid4().hex", "test_trackers.py"),
    Mutant("mlflow-without-settings", "training/trackers.py", "if run is None:", "if False:", "test_trackers.py"),
    Mutant("mlflow-settings-again", "training/trackers.py", "if run is None:", "if True:", "test_trackers.py"),
    Mutant("tracker-goes-online", "training/trackers.py", 'mode = "offline" if is_offline() else os.environ.get("WANDB_MODE", "offline")', 'mode = os.environ.get("WANDB_MODE", "offline")', "test_trackers.py"),
    Mutant("tracker-ends-the-training", "training/trackers.py", 'reason = one_line(f"{type(error).__name__}: {error}")', "raise", "test_trackers.py"),
    Mutant("missing-tracker-starts", "training/trackers.py", "if importlib.util.find_spec(name) is None or name not in LOGGER_TYPE_TO_CLASS:", "if name not in LOGGER_TYPE_TO_CLASS:", "test_trackers.py"),
    Mutant("sharding-ignored", "distributed.py", 'os.environ.get(variable, "").lower() in ("1", "true")', 'os.environ.get(variable, "") == "1"', "test_docs_scaling.py"),
    Mutant("spandrel-range-not-converted", "networks/spandrel.py", "self._described((small + 1) / 2)", "self._described(small)", "test_spandrel.py"),
    Mutant("spandrel-gets-the-enlarged-image", "networks/spandrel.py", "x_1[..., :: self.stride, :: self.stride]", "x_1[..., : x_1.shape[-2] // self.stride, : x_1.shape[-1] // self.stride]", "test_spandrel.py"),
    Mutant("spandrel-any-class", "networks/spandrel.py", 'if isinstance(member, type) and issubclass(member, nn.Module)', "if isinstance(member, type)", "test_spandrel.py"),
    Mutant("spandrel-not-counted", "networks/spandrel.py", "if function is torch.linspace else", "if False else", "test_spandrel.py"),
    Mutant("spandrel-result-unchecked", "runs/imports.py", "if not torch.equal(network(repeated(x, found.scale)), found((x + 1) / 2) * 2 - 1):", "if False:", "test_spandrel.py"),
    Mutant("raw-weights-before-the-average", "storage/pt_reader.py", "stored[keys[0]] if keys", "stored[keys[-1]] if keys", "test_spandrel.py"),
    Mutant("replacement-is-not-keyed", "data/dataset.py", "random.Random(key(self.seed, \"replacement\", number))", "random.Random()", "test_unusable.py"),
    Mutant("facts-of-other-channels", "data/check.py", "decode_item(item, self.channels)", "pass", "test_unusable.py"),
    Mutant("unusable-rows-doubled", "training/guard.py", "for row in read_unusable(folder) if row[\"sample\"] < after]", "for row in read_unusable(folder)]", "test_unusable.py"),
    Mutant("repair-not-reported", "training/preparation.py", "usable = repaired(folder, state.step * settings.batch_size, dataset) if ranks.is_first else 0", "usable = 0", "test_unusable.py"),
    Mutant("passing-errors-skipped", "data/dataset.py", "if _may_pass(error):", "if False:", "test_unusable.py"),
    Mutant("dead-worker-is-our-bug", "data/loader.py", "            raise problem from error\n        finally", "            raise\n        finally", "test_unusable.py"),
    Mutant("lost-output-loses-steps", "cli/train.py", "stop=lambda: stop_requested or lost_output", "stop=lambda: stop_requested", "test_unusable.py"),
    Mutant("closed-terminal-kills", "data/loader.py", "\"SIGUSR1\", \"SIGHUP\")", "\"SIGUSR1\")", "test_unusable.py"),
    Mutant("other-order-not-said", "training/preparation.py", '{"order of images": "by an earlier version"}', '{"order of images": "by torch.randperm"}', "test_resuming.py"),
    Mutant("changed-rate-is-the-same-run", "training/preparation.py", "falling_end(recipe) | rate_settings(settings) |", "falling_end(recipe) |", "test_resuming.py"),
    Mutant("changed-rate-unsaid", "training/identity.py", "    if not changes or step >= now.steps:\n", "    if changes:\n", "test_resuming.py"),
    Mutant("next-rate-not-itself", "training/identity.py", 'return "" if old == new else', "return", "test_resuming.py"),
    Mutant("moved-end-is-the-same-run", "training/identity.py", "if decides else {}", "if not decides else {}", "test_resuming.py"),
    Mutant("share-moved-to-itself", "training/identity.py", "if ends[0] != ends[1]:", "if now.regression_share:", "test_resuming.py"),
    Mutant("moved-images-another-run", "training/identity.py", "and not Path(started.data.root).exists()", "and Path(started.data.root).exists()", "test_resuming.py"),
    Mutant("each-process-alone-on-a-cpu", "training/trainer.py", "cpu = cpu or not torch.accelerator.is_available()", "cpu = bool(cpu)", "test_training.py"),
    Mutant("two-processes-on-one-device", "distributed.py", "int(started) > torch.cuda.device_count():", "int(started) > 8:", "test_ranks.py"),
    Mutant("exchanged-sides-train", "cli/data_check.py", "    if problem is not None:\n        raise UserError(f\"{problem} (first", "    if False:\n        raise UserError(f\"{problem} (first", "test_checking.py"),
    Mutant("init-from-raw-weights", "training/init.py", '_weights(saved.file("ema"), recipe)', '_weights(saved.file("network"), recipe)', "test_starting.py"),
    Mutant("init-leaves-the-companion", "training/init.py", "            self._take(fitted, module)\n", "            pass\n", "test_starting.py"),
    Mutant("added-channels-drawn", "training/init.py", "new.new_zeros(", "new.new_ones(", "test_starting.py"),
    Mutant("added-channels-first", "training/init.py", "torch.cat([new, added], dim=1)", "torch.cat([added, new], dim=1)", "test_starting.py"),
    Mutant("official-init-from-raw-weights", "storage/pt_reader.py", "for name, value in _i2sb(stored).items() if name.startswith(\"ema/\")}", "for name, value in ((key.replace(\"net/\", \"ema/\"), kept) for key, kept in _i2sb(stored).items() if key.startswith(\"net/\"))}", "test_starting.py"),
    Mutant("official-prefix-kept", "training/init.py", "{name.removeprefix(PREFIX): value for name, value in tensors.items()}", "dict(tensors)", "test_starting.py"),
    Mutant("added-at-random-are-zero", "training/init.py", "        new[:, stored.shape[1] :] = wanted[:, stored.shape[1] :]\n", "        pass\n", "test_starting.py"),
    Mutant("from-without-its-weights", "training/init.py", "    return with_init(recipe, source)\n", "    return recipe\n", "test_starting.py"),
    Mutant("from-needs-the-first-stage", "training/init.py", "if other is not None and not any(", "if False and not any(", "test_starting.py"),
    Mutant("frozen-get-a-gradient", "training/state.py", "        names[name].requires_grad_(False)\n", "        pass\n", "test_freezing.py"),
    Mutant("frozen-by-any-pattern-unmatched", "training/state.py", "if not any(fnmatchcase(name, pattern) for name in names):", "if False:", "test_freezing.py"),
    Mutant("nothing-left-to-train", "training/state.py", "    if len(frozen) == len(names):\n", "    if False:\n", "test_freezing.py"),
    Mutant("best-is-pruned", "runs/checkpoint.py", "        if _step_of(old) == best:\n", "        if False:\n", "test_best.py"),
    Mutant("best-is-the-worst", "training/validation.py", "return value > self.best.value if", "return value < self.best.value if", "test_best.py"),
    Mutant("best-of-the-raw-weights", "training/state.py", "self.method.with_network(self.ema)", "self.method.with_network(self.network)", "test_best.py"),
    Mutant("best-forgotten-on-resume", "training/preparation.py", 'else read_best(checkpoint.state.get("best"))', "else None", "test_best.py"),
    Mutant("unsaved-best-is-kept", "training/checkpointer.py", "if best is None or best.step not in (state.step, saved):", "if best is None:", "test_best.py"),
    Mutant("unsaved-best-is-compared", "training/validation.py", "saved is None or saved.step != self.best.step", "False", "test_best.py"),
    Mutant("best-of-an-earlier-rule-is-lost", "training/trainer.py", "report, prepared.saved_at, prepared.best)", "report, prepared.saved_at)", "test_best.py"),
    Mutant("csv-by-position", "training/log.py", "[row.get(name) for name in self._header]", "list(row.values())", "test_saving.py"),
    Mutant("patience-is-endless", "training/validation.py", "self.best.failures >= patience", "False", "test_best.py"),
    Mutant("best-of-another-rule", "training/validation.py", "if best is not None and best.rule == self._rule else None", "if best is not None else None", "test_best.py"),
    Mutant("outputs-cut-at-the-front", "training/init.py", "new = new[:outputs]", "new = new[-outputs:]", "test_starting.py"),
    Mutant("misfits-not-listed", "training/init.py", "        if action:\n", "        if action and new is not None:\n", "test_starting.py"),
    Mutant("surplus-not-listed", "training/init.py", "for name in stored if name not in wanted]", "for name in stored if name in fitted and name not in wanted]", "test_starting.py"),
    Mutant("any-input-is-widened", "training/init.py", "outputs <= new.shape[1] < wanted.shape[1] == inputs", "new.shape[1] < wanted.shape[1]", "test_starting.py"),
    Mutant("whole-numbers-as-weights", "training/init.py", "stored.is_floating_point() != wanted.is_floating_point() or stored.ndim", "stored.ndim", "test_starting.py"),
    Mutant("hash-not-in-the-recipe", "training/preparation.py", "sha256=init.sha256)", "sha256=None)", "test_starting.py"),
    Mutant("hash-not-checked", "training/init.py", "if recipe.train.init_sha256 not in (None, sha256):", "if False:", "test_starting.py"),
    Mutant("other-hash-on-resume", "training/identity.py", "{\"init_sha256\": started.train.init_sha256}", "{\"init_sha256\": None}", "test_starting.py"),
    Mutant("strict-is-not", "training/init.py", "if differences and recipe.train.init_strict:", "if False:", "test_starting.py"),
    Mutant("nothing-fits-starts-anyway", "training/init.py", "        if not fitted:\n", "        if False:\n", "test_starting.py"),
    Mutant("init-of-its-own-folder", "training/init.py", "if source.resolve() == folder.resolve():", "if False:", "test_starting.py"),
    Mutant("other-init-on-resume", "training/identity.py", "if recipe.train.init not in (None, source):", "if False:", "test_starting.py"),
    Mutant("refusal-is-a-dead-end", "cli/train.py", "raise UserError(str(error), command=self._fine_tuning(recipe, folder)) from error", "raise", "test_starting.py"),
    # samplers
    Mutant("off-by-one-grid", "bridge/time_grids.py", "    return torch.linspace(1, 0, _checked(nfe) + 1, dtype=torch.float64)\n", "    return torch.linspace(1, 0, _checked(nfe) + 2, dtype=torch.float64)\n", "test_time_grids.py test_samplers.py"),
    Mutant("noiseless-level-squared", "bridge/time_grids.py", "torch.log(a if process.deterministic else c)", "torch.log(a**2 if process.deterministic else c)", "test_samplers.py"),
    Mutant("start-without-x-1", "bridge/samplers.py", "return first.base * x_1 + first.n", "return first.n", "test_samplers.py"),
    Mutant("last-step-weight", "bridge/samplers.py", "return Update(0.0, 1.0, 0.0, 0.0)", "return Update(0.0, 0.999, 0.0, 0.0)", "test_samplers.py"),
    Mutant("boot-noise-dropped", "bridge/samplers.py", "return Update(t.base, t.b, 0.0, t.n)", "return Update(t.base, t.b, 0.0, 0.0)", "test_samplers.py"),
    Mutant("posterior-variance", "bridge/samplers.py", "r, eta * t.n * math.sqrt(fresh))", "r, eta * t.n * fresh)", "test_samplers.py"),
    Mutant("eta-only-on-noise", "bridge/samplers.py", "math.sqrt((1 - eta) * (1 + eta) + eta * eta * kept)", "math.sqrt(kept)", "test_samplers.py"),
    Mutant("share-kept-by-subtraction", "bridge/samplers.py", "math.sqrt((1 - eta) * (1 + eta) + eta * eta * kept)", "math.sqrt(1 - eta * eta * fresh)", "test_processes.py"),
    Mutant("hidden-extra-call", "bridge/samplers.py", "        x = _apply(step, x_1, predict_x0(x, _at(s.t, x)), x, generator)", "        predict_x0(x, _at(s.t, x))\n        x = _apply(step, x_1, predict_x0(x, _at(s.t, x)), x, generator)", "test_samplers.py"),
    Mutant("heun-is-euler", "bridge/samplers.py", "change / h if h else None", "0 * change", "test_samplers.py"),
    Mutant("2m-slope-sign", "bridge/samplers.py", "else (x_0_hat - before) / h_before", "else (before - x_0_hat) / h_before", "test_samplers.py"),
    Mutant("slope-over-an-empty-step", "bridge/samplers.py", "return 0 < h < math.inf", "return h < math.inf", "test_samplers.py"),
    Mutant("2m-sde-no-correction", "bridge/samplers.py", "bracket = x_0_hat + h / (2 * h_before) * (x_0_hat - before)", "bracket = x_0_hat", "test_samplers.py"),
    Mutant("2m-sde-gain-of-eta-one", "bridge/samplers.py", "-t.b * math.expm1(-h - decay)", "-t.b * math.expm1(-2 * h)", "test_samplers.py"),
    Mutant("2m-sde-noise-of-eta-one", "bridge/samplers.py", "math.sqrt(-math.expm1(-2 * decay))", "math.sqrt(-math.expm1(-2 * h))", "test_samplers.py"),
    # masks and conditions
    Mutant("inverted-mask", "bridge/predictor.py", "torch.where(mask > 0.5, x_0_hat, x_1)", "torch.where(mask < 0.5, x_0_hat, x_1)", "test_bridge.py"),
    Mutant("mask-forgotten-in-loss", "methods/bridge.py", "(error if mask is None else error * mask).mean()", "error.mean()", "test_bridge.py"),
    Mutant("condition-dropped", "methods/base.py", '(batch["x_1"] if given is None else given) if wanted else None', "None", "test_bridge.py"),
    # guidance
    Mutant("ddnm-away-from-y", "guidance/projection.py", "look.x_0_hat + y.operator.inverse(", "look.x_0_hat - y.operator.inverse(", "test_guidances.py"),
    Mutant("damping-forgotten", "degradations/linear.py", "        if damping == 0:\n", "        if damping == damping:\n", "test_guidances.py"),
    Mutant("measurement-noise-forgotten", "guidance/projection.py", "(self.noise_std**2 + y.std**2)", "(self.noise_std**2)", "test_guidances.py"),
    Mutant("back-projection-uphill", "guidance/projection.py", "look.x_0_hat + self.step *", "look.x_0_hat - self.step *", "test_guidances.py"),
    Mutant("padding-measured", "guidance/base.py", "height, width = padded if size is None else size", "height, width = padded", "test_guidances.py"),
    Mutant("pigdm-sign", "guidance/posterior.py", "c * c / (b * spread)) * g", "c * c / (b * spread)) * -g", "test_guidances.py"),
    Mutant("pigdm-without-tweedie", "guidance/posterior.py", "c * c / (b * spread)", "1 / spread", "test_guidances.py"),
    Mutant("pigdm-r-t-of-one", "guidance/base.py", "return variance * c * c / (b * b * variance + c * c)", "return variance * c * c / (b * b + c * c)", "test_guidances.py"),
    Mutant("pigdm-noise-over-nothing", "guidance/posterior.py", "(self.noise_std**2 + y.std**2) / spread", "(self.noise_std**2 + y.std**2)", "test_guidances.py"),
    Mutant("dps-uphill", "guidance/posterior.py", "look.x_0_hat - 2 * self.zeta", "look.x_0_hat + 2 * self.zeta", "test_guidances.py"),
    Mutant("dps-step-on-x-0-hat", "guidance/posterior.py", "2 * self.zeta / look.step_weight()", "2 * self.zeta", "test_guidances.py"),
    Mutant("gradients-forbidden", "bridge/predictor.py", "torch.inference_mode(False), torch.enable_grad()", "torch.enable_grad()", "test_guidances.py"),
    Mutant("mask-before-guide", "bridge/predictor.py", "        return x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)\n\n    return", "        return x_0_hat\n\n    return", "test_guidances.py"),
    Mutant("refusal-forgotten", "recipe/checks.py", '    check_known(str(recipe.sample.guidance["name"]), recipe.build_degradation())\n', "", "test_guided_runs.py"),
    Mutant("time-in-float64-for-any-network", "bridge/predictor.py", "x_t, t = x_t.to(dtype), t.to(dtype)", "x_t = x_t.to(dtype)", "test_contracts.py"),
    Mutant("built-in-time-rounded", "networks/unet.py", "casts_inputs: ClassVar[bool] = True", "casts_inputs: ClassVar[bool] = False", "test_contracts.py"),
    Mutant("sample-settings-ignored", "runs/load.py", "load_recipe(recipe_of_run(folder), changes)", "load_recipe(recipe_of_run(folder))", "test_guided_runs.py"),
    Mutant("size-forgotten", "runs/run.py", 'padded["size"] = (height, width)', 'padded["size"] = None', "test_guided_runs.py"),
    Mutant("prior-masked", "methods/prior.py", 'clean = {"x_0": batch["x_0"], "x_1": batch["x_0"]}', "clean = dict(batch)", "test_guided_runs.py"),
    Mutant("loss-divided-by-the-hole", "methods/bridge.py", "(error if mask is None else error * mask).mean()", "error.mean() if mask is None else (error * mask).sum() / mask.sum()", "test_bridge.py"),
    Mutant("network-time-forgotten-in-loss", "methods/bridge.py", "time = (self.process.network_time(t) + ", "time = (t + ", "test_bridge.py"),
    Mutant("input-scale-forgotten", "bridge/predictor.py", "noisy = target.network_input(process, x_t, t)\n        output = outputs(noisy", "output = outputs(x_t", "test_bridge.py"),
    Mutant("input-scale-forgotten-in-loss", "methods/bridge.py", "noisy = self.target.network_input(self.process, x_t, t)", "noisy = x_t", "test_bridge.py"),
    Mutant("times-of-the-noisy-half", "methods/curriculum.py", "            t = 1 - t\n", "            t = 1 - t / 2\n", "test_bridge.py"),
    Mutant("proposal-ignored-in-loss", "methods/bridge.py", "x_t = self.proposal.sample(", "x_t = PosteriorProposal().sample(", "test_bridge.py"),
    Mutant("walk-on-another-grid", "methods/bridge.py", "times = self.grid(self.process, nfe)", "times = uniform(self.process, nfe)", "test_bridge.py"),
    Mutant("walk-without-options", "methods/bridge.py", "generator, **self.sampler_options)", "generator)", "test_bridge.py"),
    Mutant("walk-unclipped", "methods/bridge.py", "            clip=self.clip,\n", "", "test_bridge.py"),
    # networks
    Mutant("time-sine-first", "networks/blocks.py", "torch.cat([angles.cos(), angles.sin()], dim=1)", "torch.cat([angles.sin(), angles.cos()], dim=1)", "test_unet.py"),
    Mutant("scale-without-one", "networks/normalisation.py", "None if scale is None else scale + 1", "scale", "test_unet.py"),
    Mutant("heads-inside-qkv", "networks/blocks.py", '"b n (head qkv c) -> qkv b head n c"', '"b n (qkv head c) -> qkv b head n c"', "test_unet.py"),
    Mutant("norm-gradient-without-mean", "networks/normalisation.py", ".mul_(share).addcmul_(p, mean, value=-1)", ".mul_(0).addcmul_(p, mean, value=-1)", "test_unet.py"),
    Mutant("norm-gradient-without-silu", "networks/normalisation.py", "d = torch.ops.aten.silu_backward(gradient, u)", "d = gradient", "test_unet.py"),
    Mutant("norm-variance-about-zero", "networks/normalisation.py", "torch.addcmul(square, mean, mean, value=-1)", "square", "test_unet.py"),
    Mutant("norm-statistics-by-torch", "networks/normalisation.py", "FEW_PIXELS = 256", "FEW_PIXELS = 10**9", "test_unet.py"),
    Mutant("norm-bfloat16-statistics-by-torch", "networks/normalisation.py", "FEW_PIXELS_BF16 = 64", "FEW_PIXELS_BF16 = 10**9", "test_unet.py"),
    Mutant("norm-rounded-twice", "networks/normalisation.py", "wide = x.float() if half else x", "wide = x", "test_unet.py"),
    Mutant("triton-statistics-about-zero", "networks/triton.py", "_load(x_ptr, image, pixel, channel, pixels, channels) - origin", "_load(x_ptr, image, pixel, channel, pixels, channels)", "test_triton.py"),
    Mutant("triton-spread-of-means-lost", "networks/triton.py", "(second / pixels - away * away) + apart * apart", "(second / pixels - away * away)", "test_triton.py"),
    Mutant("triton-padded-pixels-counted", "networks/triton.py", "        away = tl.where((pixel < pixels)[:, None], away, 0.0)\n", "", "test_triton.py"),
    Mutant("triton-scale-without-one", "networks/triton.py", "gain = 1.0 + tl.load", "gain = tl.load", "test_triton.py"),
    Mutant("triton-shift-scaled", "networks/triton.py", "b * gain + shift", "(b + shift) * gain", "test_triton.py"),
    Mutant("triton-gradient-without-mean", "networks/triton.py", "/ pixels - p * mean", "/ pixels", "test_triton.py"),
    Mutant("triton-gradient-without-silu", "networks/triton.py", "gradient *= sigmoid * (1.0 + u * (1.0 - sigmoid))", "gradient *= sigmoid", "test_triton.py"),
    Mutant("triton-last-part-lost", "networks/triton.py", "for start in range(0, parts, STEP):", "for start in range(0, parts - 1, STEP):", "test_triton.py"),
    Mutant("triton-gain-left-out", "networks/triton.py", "d_weight, d_bias = d_weight * gain, d_bias * gain", "d_weight, d_bias = d_weight, d_bias", "test_triton.py"),
    Mutant("triton-unchecked", "networks/normalisation.py", "if off <= 1e-4:", "if True:", "test_triton.py"),
    Mutant("triton-for-any-layout", "networks/normalisation.py", "fits = x.is_contiguous(memory_format=torch.channels_last) and x.numel()", "fits = x.numel()", "test_triton.py"),
    Mutant("triton-for-any-dtype", "networks/normalisation.py", "x.dtype not in FUSED_DTYPES or ", "", "test_triton.py"),
    Mutant("triton-inside-compiled-code", "networks/normalisation.py", " or torch.compiler.is_compiling()", "", "test_triton.py"),
    Mutant("modulation-without-silu", "networks/blocks.py", "F.linear(F.silu(time), weight, bias)", "F.linear(time, weight, bias)", "test_unet.py"),
    Mutant("modulations-of-other-blocks", "networks/unet.py", "for block in self.modules() if", "for block in reversed(list(self.modules())) if", "test_unet.py"),
    Mutant("attention-in-bfloat16", "networks/blocks.py", "torch.autocast(\"cpu\", enabled=False)", "torch.autocast(\"cpu\", enabled=True)", "test_unet.py"),
    Mutant("doubled-skip-once", "networks/blocks.py", "h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))", "h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))[..., :1]", "test_unet.py"),
    Mutant("norm-shift-scaled", "networks/normalisation.py", "torch.addcmul(shift, bias, gain)", "(shift + bias) * gain", "test_unet.py"),
    Mutant("doubled-kernel-mirrored", "networks/blocks.py", "[[0.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]]", "[[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]", "test_unet.py"),
    Mutant("compile-without-blocks", "device.py", "for module in blocks or [network]:", "for module in [network]:", "test_compiling.py"),
    Mutant("compile-blocks-only", "device.py", "for module in blocks or [network]:", "for module in blocks:", "test_compiling.py"),
    Mutant("compile-limit-kept", "device.py", "    dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(blocks))\n", "", "test_compiling.py"),
    Mutant("compile-ignored", "training/preparation.py", "    if settings.compile:\n", "    if False:\n", "test_training.py"),
    # Pix2pix and regression
    Mutant("skips-not-joined", "networks/pix2pix.py", "joined = width if level == innermost else 2 * width", "joined = width", "test_pix2pix.py"),
    Mutant("skip-after-inner", "networks/pix2pix.py", "torch.cat([skips.pop(), h], dim=1)", "torch.cat([h, skips.pop()], dim=1)", "test_pix2pix.py"),
    Mutant("official-names-exchanged", "networks/pix2pix.py", 'f"{prefix}.2.{part}"', 'f"{prefix}.6.{part}"', "test_pix2pix.py test_importing.py"),
    Mutant("patchgan-strides", "networks/pix2pix.py", "stride = 2 if layer < n_layers else 1", "stride = 2 if layer <= n_layers else 1", "test_pix2pix.py"),
    Mutant("norm-starts-at-zero", "networks/pix2pix.py", "1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02", "0.0, 0.02", "test_pix2pix.py"),
    Mutant("labels-exchanged", "methods/pix2pix.py", "torch.full_like(logits, float(real)", "torch.full_like(logits, float(not real)", "test_pix2pix.py"),
    Mutant("discriminator-not-halved", "methods/pix2pix.py", "0.5 * (on_fake + on_real)", "on_fake + on_real", "test_pix2pix.py"),
    Mutant("l1-weight-forgotten", "methods/pix2pix.py", "+ self.l1_weight * l1", "+ l1", "test_pix2pix.py"),
    Mutant("pair-without-x-1", "methods/pix2pix.py", "torch.cat([*seen, x_0], dim=1)", "torch.cat([*seen[1:], x_0, x_0], dim=1)", "test_pix2pix.py"),
    Mutant("fake-not-detached", "methods/pix2pix.py", "discriminator(fake_pair.detach())", "discriminator(fake_pair)", "test_pix2pix.py"),
    Mutant("pix2pix-mask-forgotten", "methods/pix2pix.py", "x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)", "x_0_hat", "test_pix2pix.py"),
    Mutant("dropout-off-at-test", "methods/pix2pix.py", "in_mode(self.network, training=True)", "in_mode(self.network, training=False)", "test_pix2pix.py"),
    Mutant("running-statistics-moved", "methods/pix2pix.py", "images.append(self._answer(one, buffers))", "images.append(self._answer(one))", "test_pix2pix.py"),
    Mutant("statistics-of-the-batch", "methods/pix2pix.py", "batch[name][i : i + 1] for name", "batch[name] for name", "test_pix2pix.py"),
    Mutant("eval-ignored", "methods/pix2pix.py", 'if self.inference == "eval":', "if False:", "test_pix2pix.py"),
    Mutant("generator-teaches-the-discriminator", "training/step.py", "weighted.backward(inputs=trained)", "weighted.backward()", "test_stepping.py"),
    Mutant("generator-first", "training/state.py", "        optimizer.step()\n", '        optimizer.step() if name == NETWORK or self.step else None\n', "test_stepping.py"),
    Mutant("graphs-kept", "training/step.py", "if last and next(part.losses, None) is not None", "if False", "test_stepping.py"),
    Mutant("precision-ignored", "runs/load.py", "network.to(resolved, dtype)", "network.to(resolved)", "test_precision.py"),
    Mutant("out-of-memory-keeps-gradients", "training/state.py", "module.zero_grad(set_to_none=True)", "pass", "test_stepping.py"),
    Mutant("out-of-memory-counts-twice", "training/state.py", "for tensor, old in self._buffers:", "for tensor, old in []:", "test_stepping.py"),
    Mutant("out-of-memory-drops-samples", "training/step.py", "            parts = _parts(state, batch, first, share)\n            continue", "            parts = _parts(state, batch, first, share)[1:]\n            continue", "test_stepping.py"),
    Mutant("out-of-memory-trains-again", "training/step.py", "            parts = _parts(state, batch, first, share)\n            continue", "            parts = _parts(state, batch, first, share)\n            norms.clear()\n            continue", "test_stepping.py"),
    Mutant("companion-not-restored", "training/state.py", "load_weights(module, checkpoint.tensors(name), where)", "load_weights(self.network, checkpoint.tensors(NETWORK), where)", "test_stepping.py"),
    Mutant("companion-moments-not-restored", "training/state.py", "            self._load_moments(name, checkpoint)\n", "            self._load_moments(NETWORK, checkpoint)\n", "test_stepping.py"),
    Mutant("ema-decay-0-averages", "training/schedule.py", "return min(settings.ema_decay,", "return min(settings.ema_decay or 0.9,", "test_stepping.py"),
    Mutant("import-runs-code", "storage/pt_reader.py", "argument not in GLOBALS", "argument in GLOBALS", "test_hostile.py test_importing.py"),
    Mutant("import-not-strict", "networks/pix2pix.py", "    if unknown:\n", "    if False:\n", "test_importing.py"),
    Mutant("import-forgets-the-statistics", "networks/pix2pix.py", "tensors[name] = value.to(wanted[name].dtype)", 'tensors[name] = wanted[name] if "running" in name else value.to(wanted[name].dtype)', "test_importing.py"),
    Mutant("regression-at-another-time", "methods/regression.py", "torch.ones(x_1.shape[0], dtype=torch.float64)", "torch.full((x_1.shape[0],), 0.5, dtype=torch.float64)", "test_methods.py"),
    Mutant("regression-mask-forgotten", "methods/regression.py", "error if mask is None else error * mask", "error", "test_methods.py"),
    Mutant("preset-touches-the-data", "recipe/presets.py", '{"method_label": name}', '{"method_label": name, "data": {**table["data"], "flip": False}}', "test_methods.py"),
    Mutant("preset-trains-otherwise", "recipe/presets.py", '            "target": target,\n', '            "target": target,\n            "train": table["train"] | {"lr": 1e-5},\n', "test_methods.py"),
    Mutant("palette-walks-from-x-1", "recipe/presets.py", '_bridge_with({"name": "gaussian-prior"}, {"name": "eps"}, clip=True)', '_bridge_with({"name": "i2sb"}, {"name": "i2sb"}, clip=True)', "test_methods.py"),
    Mutant("fewer-images-seen", "recipe/presets.py", 'if "train.steps" not in user_keys:', "if False:", "test_methods.py"),
    Mutant("preset-over-the-user", "recipe/load.py", "        table = _overridden(table, [override for override in user if", "        _overridden(table, [override for override in user if", "test_methods.py"),
    Mutant("smallest-side-ignored", "methods/geometry.py", "for side in sides if side is not None", "for side in sides if side is None", "test_methods.py"),
    Mutant("decay-from-ignored", "training/schedule.py", "start = max(settings.warmup_steps, settings.decay_from or 0)", "start = settings.warmup_steps", "test_schedule.py"),
    # degradations
    Mutant("jpeg-round-instead-of-floor", "degradations/jpeg.py", "/ 100).floor().clamp(1, 255)", "/ 100).round().clamp(1, 255)", "test_degradations_jpeg.py"),
    Mutant("ddrm-batch-mixed-up", "degradations/jpeg.py", ".permute(3, 0, 4, 5, 1, 2, 6)", ".reshape(1, 4, 2, -1, batch, 2, width).permute(4, 0, 3, 5, 1, 2, 6)", "test_degradations_operators.py"),
    Mutant("jpeg-chroma-averaged", "degradations/jpeg.py", "_copied(_by_row(images[..., ::2, ::2]))", "_copied(_by_row(torch.nn.functional.avg_pool2d(images, 2)))", "test_degradations_jpeg.py"),
    Mutant("bicubic-off-centre", "degradations/downsample.py", "cubic_taps(), before=6,", "cubic_taps(), before=7,", "test_degradations_linear.py"),
    Mutant("blur-not-normalised", "degradations/blur.py", "tuple(weight / sum(weights) for weight in weights)", "tuple(weight / 10 for weight in weights)", "test_degradations_linear.py"),
    Mutant("hole-and-known-exchanged", "degradations/inpaint.py", "torch.where(mask > 0, fill, x)", "torch.where(mask > 0, x, fill)", "test_degradations_inpaint.py"),
    Mutant("noise-on-the-condition", "degradations/colour.py", "return Degraded(x_1, mask, clean)", "return Degraded(x_1, mask, x_1)", "test_degradations.py"),
    Mutant("pinv-is-the-adjoint", "degradations/linear.py", "torch.where(s > 1e-10 * s[0], 1 / s, 0.0)", "s", "test_degradations_adjoint.py"),
    Mutant("taps-not-flipped", "degradations/linear.py", "taps.flip(0).to(", "taps.to(", "test_degradations_adjoint.py"),
    Mutant("taps-exchanged", "degradations/linear.py", "return (rows, columns) if", "return (columns, rows) if", "test_degradations_adjoint.py"),
    Mutant("bicubic-without-widening", "degradations/linear.py", "(pixels + 0.5 - centres).abs() / max(1.0, ratio)", "(pixels + 0.5 - centres).abs()", "test_degradations_operators.py"),
    Mutant("quantised-without-a-cut", "degradations/quantise.py", ".clamp(0, 1)", "", "test_degradations_operators.py"),
    Mutant("quantised-to-the-code-below", "degradations/quantise.py", ".round()", ".floor()", "test_degradations_operators.py"),
    Mutant("noise-without-signal", "degradations/sensor.py", "torch.poisson(rate.to(one.device)", "torch.poisson(rate.to(one.device) * 0 + 15", "test_degradations_operators.py"),
    Mutant("compose-backwards", "degradations/compose.py", "            degraded = member.stage(x, generator)\n", "            member = self.members[-1 - self.members.index(member)]\n            degraded = member.stage(x, generator)\n", "test_degradations_operators.py"),
    Mutant("keyed-by-split-forgotten", "data/dataset.py", 'f"{self.purpose} degradation"', '"degradation"', "test_degradations_inpaint.py"),
    # images and data
    Mutant("truncate-instead-of-round", "images/pixels.py", "values = np.rint(values).clip", "values = np.floor(values).clip", "test_images.py"),
    Mutant("low-byte-dropped", "images/files.py", 'if ";16" in str(tile[3]):', "if False:", "test_value_ranges.py"),
    Mutant("range-ignored-in-writing", "runs/batch.py", "degraded.value_range or recipe.data.value_range)", "None)", "test_value_ranges.py"),
    Mutant("scored-in-8-bits", "evaluation/items.py", 'codec = Codec(np.dtype(fields["dtype"]), value_range, quality)', 'codec = Codec(np.dtype("uint8"), None, quality)', "test_value_ranges.py"),
    Mutant("augmentation-not-reseeded", "data/transforms.py", "draw = random.Random(seed)", "draw = random.Random(0)", "test_data.py"),
    Mutant("order-of-every-epoch-alike", "data/order.py", 'generator(seed, "order", epoch, part)', 'generator(seed, "order", part)', "test_index.py"),
    Mutant("stale-listing", "data/index.py", 'if np.array_equal(_times(folder, folders), known["times"]):', "if len(folders):", "test_index.py"),
    Mutant("labels-by-split", "data/sources/folders.py", "bases = [base] if folder is None else", "bases = [base] if base else", "test_pairs.py"),
    Mutant("list-paths-may-leave-the-root", "data/sources/lists.py", 'parts[:1] == ("..",)', 'parts[:1] == ("...",)', "test_lists.py"),
    Mutant("shared-files-of-other-folders", "data/sources/folders.py", " if trained.folder == validated.folder else 0", "", "test_pairs.py"),
    Mutant("lmdb-keys-by-whole-path", "data/sources/lmdb.py", '.split("/")[-2:])', '.split("/"))', "test_lmdb_store.py"),
    Mutant("tar-offset-of-the-header", "data/sources/tar.py", "member.offset_data, member.size", "member.offset, member.size", "test_tar_shards.py"),
    Mutant("torchvision-always-the-training-part", "data/sources/torchvision.py", '{"train": wanted in SPLITS["train"]}', '{"train": bool(wanted)}', "test_vision.py"),
    Mutant("missing-mask-per-image", "runs/batch.py", "if degradation is not None and degradation.masked and not mask:", "if False:", "test_restoring.py"),
    Mutant("mixture-refused-without-mask", "runs/batch.py", 'prepared_by(degradation, black, generator(0, "check inputs"))', 'raise UserError("needs a mask of the hole")', "test_restoring.py"),
    Mutant("missing-label-per-image", "runs/batch.py", "    _check_further_inputs(recipe, condition, label)\n    degradation = None", "    degradation = None", "test_restoring.py"),
    Mutant("mask-lost-when-restoring", "runs/batch.py", "batch.get(\"mask\")).parts()", "None if mask is None else batch[\"mask\"] * 0 + 1).parts()", "test_restoring.py"),
    Mutant("own-condition-ignored", "runs/batch.py", 'batch["condition"] = to_tensor(pixels, condition.value_range or settings.value_range)[None]', 'batch["condition"] = to_tensor(pixels, condition.value_range or settings.value_range)[None] * 0', "test_restoring.py"),
    Mutant("last-state-not-shown", "images/montage.py", "        kept.append(last)\n    chosen", "        pass\n    chosen", "test_montage.py"),
    # cards, fetching and registering
    Mutant("fetched-place-ignored", "data/cards.py", 'card.dataset["root"] = str(fetched.folder)', "pass", "test_cards.py"),
    Mutant("archive-paths-not-checked", "storage/archive.py", '".." in parts or', "False or", "test_unpacking.py"),
    Mutant("archive-extracted-by-tarfile", "storage/archive.py", "destination.write(member.name, member.size, stream)", "tar.extract(member, destination.folder, filter='data')", "test_unpacking.py"),
    Mutant("tar-end-not-checked", "storage/archive.py", "if rest.read(512) != bytes(512):", "if False:", "test_unpacking.py"),
    Mutant("hash-not-compared", "storage/download.py", "if wanted and wanted != got:", "if False:", "test_fetching.py"),
    Mutant("resume-of-another-version", "storage/download.py", '({"If-Range": validator} if validator else {})', "{}", "test_fetching.py"),
    Mutant("redirects-anywhere", "storage/download.py", 'scheme not in ("http", "https") or', "False or", "test_fetching.py"),
    Mutant("first-hash-forgotten", "data/fetch.py", '"sha256": source.sha256 or plan.known.get(source.file)', '"sha256": source.sha256', "test_fetching.py"),
    Mutant("licence-not-asked", "cli/data.py", "        if not yes:\n", "        if False:\n", "test_fetching.py"),
    Mutant("sides-swapped-by-guess", "data/layout.py", "else votes[0] > votes[1]", "else votes[0] < votes[1]", "test_registering.py"),
    # training and checkpoints
    Mutant("manifest-not-verified", "runs/checkpoint_files.py", 'hashlib.file_digest(stream, "sha256").hexdigest() != digest', "False", "test_checkpoint.py"),
    Mutant("accumulated-gradients-not-averaged", "training/step.py", "weighted = loss * part.weight", "weighted = loss * 1.0", "test_training.py"),
    Mutant("times-and-noise-of-step-one", "training/step.py", '"t and noise", first + i)', '"t and noise", i)', "test_training.py"),
    Mutant("schedule-ignored", "training/step.py", "lr = learning_rate(settings, state.step)", "lr = settings.lr", "test_training.py"),
    Mutant("buffers-left-behind", "training/state.py", "                kept.copy_(buffer)", "                pass", "test_training.py"),
    Mutant("restored-in-training-mode", "runs/load.py", ".eval().requires_grad_(False)", ".requires_grad_(False)", "test_training.py"),
    Mutant("padding-repeats-the-edge", "methods/geometry.py", "index = torch.minimum(ramp, period - ramp)", "index = ramp.clamp(max=side - 1)", "test_training.py"),
    Mutant("resume-replays-the-first-batches", "training/preparation.py", '"start_step": state.step', '"start_step": 0', "test_training.py"),
    Mutant("ema-not-restored", "training/state.py", 'load_weights(self.ema, checkpoint.tensors("ema"), where)', "pass", "test_training.py"),
    Mutant("optimizer-not-restored", "training/state.py", 'optimizer.load_state_dict({"state": state,', 'optimizer.load_state_dict({"state": {},', "test_training.py"),
    Mutant("moments-in-another-memory-order", "training/state.py", 'value if slot == "step" else torch.empty_like(parameter).copy_(value)', "value", "test_training.py"),
    Mutant("dropout-from-global-state", "randomness.py", "        torch.default_generator.manual_seed(seed)\n", "", "test_training.py"),
    Mutant("clipping-ignored", "training/state.py", "limit = self.settings.clip_norm or math.inf", "limit = math.inf", "test_training.py"),
    Mutant("betas-ignored", "training/state.py", "betas=betas, ", "", "test_training.py"),
    Mutant("weight-decay-ignored", "training/state.py", "weight_decay=decay", "weight_decay=0.0", "test_training.py"),
    Mutant("autocast-off", "training/step.py", "enabled=dtype != torch.float32", "enabled=False", "test_training.py"),
    Mutant("raw-weights-restore", "runs/load.py", 'saved.tensors("ema")', 'saved.tensors("network")', "test_training.py"),
    Mutant("gradients-not-shared", "training/step.py", 'accelerator.reduce(values, reduction="mean")', "values", "test_ranks.py"),
    Mutant("last-bucket-dropped", "training/step.py", "    if bucket:\n        yield bucket", "", "test_ranks.py"),
    Mutant("folder-claimed-too-early", "training/preparation.py", "    first = [next(batches)]", "    write_whole(folder / RECIPE_FILE, recipe.to_toml().encode())\n    first = [next(batches)]", "test_training.py"),
    Mutant("plugins-unknown-to-workers", "data/loader.py", "        load_plugin(file)", "        pass", "test_data.py"),
    Mutant("copies-between-splits-unseen", "data/statistics.py", "if other != split and where != fact.where:", "if other != split and where == fact.where:", "test_checking.py"),
    Mutant("exchanged-pair-unseen", "data/statistics.py", "(mirrored < kept / 16)", "(mirrored > kept)", "test_checking.py"),
    Mutant("odd-formats-unseen", "data/statistics.py", "if _unequal_formats(fact.formats) != usual", "if _unequal_formats(fact.formats) == (None,)", "test_checking.py"),
    Mutant("card-statistics-ignored", "data/statistics.py", "None if expected is None else exchanged_sides(facts, expected)", "None", "test_checking.py"),
    Mutant("few-pairs-exchanged", "data/statistics.py", "if len(pairs) < FEW:\n        return None\n    _, m, _,", "if len(pairs) < 2:\n        return None\n    _, m, _,", "test_checking.py"),
    Mutant("stroke-of-twice-the-width", "degradations/masks.py", "radius = max(brush, 1.5) / 2", "radius = max(brush, 1.5)", "test_degradations_inpaint.py"),
    Mutant("stroke-beyond-its-ends", "degradations/masks.py", "nearest = way.clip(0, length)", "nearest = way", "test_degradations_inpaint.py"),
    Mutant("packed-masks-unread", "degradations/masks.py", "np.unpackbits(chosen)", "np.unpackbits(chosen, bitorder='little')", "test_degradations_inpaint.py"),
    Mutant("crop-and-mirror-coupled", "data/transforms.py", "self.flip and draw.random() < 0.5", "self.flip and top < (height - self.size[0]) / 2", "test_data.py"),
    Mutant("odd-sizes-unseen", "data/statistics.py", "fact.size != size", "fact.size == ''", "test_checking.py"),
    Mutant("grey-is-a-problem", "data/statistics.py", "return () if alike else", "return", "test_checking.py"),
    Mutant("card-of-a-recipe-unseen", "cli/data_check.py", 'toml_value(given[-1]) if given else written', 'written', "test_checking.py"),
    Mutant("advice-unheard", "cli/data_check.py", "if data.flip and not advice.flip:", "if data.flip and advice.flip:", "test_checking.py"),
    Mutant("strengths-all-alike", "cli/preview.py", '[*settings, f"{key}={word}"]', "[*settings]", "test_degrading.py"),
    Mutant("nearest-by-spelling-alone", "data/sources/folders.py", "other.startswith(name) or name.startswith(other)", "not other", "test_data.py"),
    Mutant("linked-files-left-out", "images/folder.py", "return entry.is_file()", "return entry.is_file(follow_symlinks=False)", "test_images.py"),
    Mutant("linked-folders-followed", "images/folder.py", "if entry.is_dir(follow_symlinks=False):", "if entry.is_dir():", "test_images.py"),
    Mutant("left-out-in-silence", "images/folder.py", "elif suffix in OTHER_IMAGES or", "elif", "test_images.py"),
    Mutant("deep-ppm-halved", "images/files.py", 'if image.format == "PPM" and isinstance(tile[3], tuple):', "if False:", "test_images.py"),
    Mutant("deep-opacity-dropped", "images/files.py", "picture = replace(picture, pixels=opaque(picture), alpha=None)\n    kept", "picture = replace(picture, alpha=None)\n    kept", "test_images.py"),
    Mutant("webp-always-lossy", "images/files.py", 'return name != b"VP8L"', "return True", "test_images.py"),
    Mutant("deep-jpeg-2000-halved", "images/files.py", "    if depth > 8:", "    if depth > 99:", "test_images.py"),
    Mutant("jfif-unread", "images/folder.py", '".jpe", ".jfif"})', '".jpe"})', "test_images.py"),
    Mutant("splits-in-capitals-unseen", "data/splits.py", "for name in (word, word.capitalize(), word.upper())", "for name in (word,)", "test_pairs.py"),
    Mutant("unicode-forms-apart", "storage/names.py", "return name if name.isascii() else", "return name if name else", "test_pairs.py"),
    Mutant("pairs-resized", "../recipes/demo/pairs.toml", 'resize = "none"', 'resize = "short_side"', "test_sizes.py"),
    Mutant("resize-in-silence", "recipe/recipe.py", "for line in dataset.notes():", "for line in []:", "test_sizes.py"),
    Mutant("said-other-than-done", "data/transforms.py", "scale = max(target[0] / height, target[1] / width)", "scale = min(target[0] / height, target[1] / width)", "test_sizes.py"),
    Mutant("small-images-repeat-the-edge", "data/transforms.py", 'mode="reflect"', 'mode="symmetric"', "test_sizes.py"),
    Mutant("pad-outside-the-fingerprint", "recipe/protocol.py", 'if data.pad != "none":', "if False:", "test_sizes.py"),
    Mutant("crops-off-the-grid", "data/transforms.py", "            grid * (draw", "            1 * (draw", "test_sizes.py"),
    Mutant("enlarged-off-centre", "data/transforms.py", 'resized(planes, size, "bicubic")', 'resized(planes, size, "bilinear")', "test_sizes.py"),
    Mutant("factor-forgotten-by-the-run", "training/identity.py", "if started is None and dataset.factor > 1:", "if False:", "test_sizes.py"),
    Mutant("factors-mixed", "data/items.py", "if factor is not None and times != factor:", "if False:", "test_sizes.py"),
    Mutant("endings-unseen", "data/layout.py", "after in ((ENDING, True), ", "after in (", "test_registering.py"),
    Mutant("numbers-taken-for-sides", "data/layout.py", 're.search(r"[^\\W\\d_]", match[0])', "True", "test_registering.py"),
    Mutant("telling-folders-ignored", "data/layout.py", "if not alike and first is None:", "if not alike:", "test_registering.py"),
    Mutant("one-telling-folder-ignored", "data/layout.py", "    if not alike and first is None:", "    if not alike and (first is None or not {one.name, two.name} <= TARGETS | SOURCES):", "test_registering.py"),
    Mutant("endings-of-both-sides-ignored", "data/layout.py", " or _endings(set(stems[0]), set(stems[1]))", "", "test_registering.py"),
    Mutant("folders-of-several-sources-are-clean-images", "data/layout.py", "if not targets and not sources:", "if True:", "test_registering.py"),
    Mutant("unknown-column-of-images-ignored", "data/guess.py", "if others and ", "if False and ", "test_registering.py"),
    Mutant("degraded-unchecked", "degradations/files.py", "degraded_by(degradation, clean[..., rows, :][..., columns], ", "degradation(clean[..., rows, :][..., columns], ", "test_contracts.py"),
    Mutant("prepared-unchecked", "runs/batch.py", 'prepared_by(degradation, batch["x_1"], generator, ', 'degradation.prepare(batch["x_1"], generator, ', "test_contracts.py"),
    Mutant("container-limit-ignored", "runs/workload.py", "min([*machine, *group_memory()], default=None)", "min(machine, default=None)", "test_workload.py"),
    Mutant("cached-files-count-as-used", "runs/workload.py", " + int(stat.get(cached, 0))", "", "test_workload.py"),
    Mutant("last-mask-of-a-name", "runs/restorer.py", "sorted(folder.iterdir(), reverse=True)", "sorted(folder.iterdir())", "test_restoring.py"),
    Mutant("mask-beside-degrade-ignored", "runs/restorer.py", 'if self.degrade and "mask" in self.extras:', "if False:", "test_restoring.py"),
    Mutant("compare-evaluates-before-it-refuses", "report/comparison.py", 'if checkpoint != "last" and', "if False and", "test_best.py"),
    Mutant("plugins-end-the-command", "plugins.py", "RAISED = (Exception, SystemExit)", "RAISED = Exception", "test_registry.py"),
    Mutant("same-mean-called-another", "training/init.py", "source_part.sha256 == new_part.sha256", "False", "test_mean.py"),
    Mutant("two-stages-taught", "training/teacher.py", "    if mean:\n", "    if False:\n", "test_mean.py"),
    Mutant("whole-is-what-was-tiled", "runs/restore.py", ' and TILE in extra)', " and False)", "test_workload.py"),
    Mutant("recipe-of-untrained-steps", "training/preparation.py", "if checkpoint is None or not over:", "if True:", "test_training.py"),
    Mutant("condition-is-the-state", "runs/graphs.py", 'inputs["condition"] = given.clone()', 'inputs["condition"] = given', "test_export.py"),
    Mutant("one-images", "errors.py", 'noun if count == 1 else many', 'noun if False else many', "test_errors.py"),
    Mutant("text-taken-by-letters", "errors.py", "if isinstance(values, str | bytes):", "if False:", "test_surface.py"),
    Mutant("count-zero-is-all", "evaluation/evaluate.py", "or number < 1):", "or number < 0):", "test_surface.py"),
    Mutant("interruption-unsaid", "cli/command.py", "if code == INTERRUPTED:", "if False:", "test_selftest.py"),
    Mutant("signatures-called-our-bug", "plugins.py", "return _signature_error(error)", "return None", "test_contracts.py"),
    Mutant("network-without-weights-trained", "training/state.py", "if next(self.network.parameters(), None) is None:", "if False:", "test_contracts.py"),
    Mutant("odd-sheets-make-it-no-sheets", "data/layout.py", "5 * len(fits) >= 4 * len(sizes)", "len(fits) >= len(sizes)", "test_registering.py"),
    Mutant("halves-are-squares", "data/layout.py", "width >= 2 * height}", "width == 2 * height}", "test_registering.py"),
    Mutant("halves-not-compared", "data/layout.py", "(fits is not wide or _alike_halves(root, sorted(wide)))", "fits is not wide", "test_registering.py"),
    Mutant("every-photo-is-two-halves", "data/layout.py", "(fits is not wide or _alike_halves(root, sorted(wide)))", "True", "test_registering.py"),
    Mutant("training-folder-alone", "data/registration.py", "messages += _from_training_folder(table)", "pass", "test_registering.py"),
    Mutant("training-names-alone", "data/registration.py", "messages += _from_training_names(table)", "pass", "test_registering.py"),
    Mutant("evaluation-names-ignored", "data/registration.py", "not all(map(is_training, found))", "not any(map(is_training, found))", "test_registering.py"),
    Mutant("card-that-no-training-takes", "data/registration.py", '"val" in problems or', "not counts or", "test_registering.py"),
    Mutant("only-folders-are-splits", "data/registration.py", "if not _has_splits(table):", "if not _split_folders(table):", "test_registering.py"),
    Mutant("archives-are-lists", "data/guess.py", "    if suffix in ARCHIVES:", "    if False:", "test_registering.py"),
    Mutant("empty-folder-lacks-a-split", "data/sources/folders.py", "if left_out or image_names(base):", "if True:", "test_registering.py"),
    Mutant("warned-of-the-recipes-workers", "data/loader.py", '"This DataLoader will create"', '"no such line"', "test_data.py"),
    Mutant("long-name-is-a-link", "storage/files.py", "    with located(folder, errors=OSError):\n        try:\n            return", '    with located(folder, "a link that leads nowhere", errors=OSError):\n        try:\n            return', "test_links.py"),
    Mutant("singles-cut-in-the-middle", "data/layout.py", "for name, ratio in shapes.items() if ratio < 1.2]", "for name, ratio in shapes.items() if ratio < 0]", "test_registering.py"),
    Mutant("guess-not-asked", "data/guess.py", "    if choose is not None:", "    if choose is not None and seen.doubt:", "test_registering.py"),
    Mutant("telling-columns-ignored", "data/guess.py", "if column.lower() in words and", "if column in words and", "test_registering.py"),
    Mutant("semicolons-unread", "data/sources/lists.py", 'comma = ";" if', 'comma = "," if', "test_registering.py"),
    Mutant("folder-names-taken-for-numbers", "registry.py", "        return text\n\n    def _takes", "        return value\n\n    def _takes", "test_registering.py"),
    Mutant("list-in-a-folder-unseen", "data/guess.py", 'if columns & {"x_0", *TARGETS} and', "if False and", "test_registering.py"),
    Mutant("unlike-sides-called-turned", "data/alignment.py", "if usual < 0.3:", "if usual < -1:", "test_checking.py"),
    Mutant("turned-partner-unseen", "data/alignment.py", "one.turns[turn] - straight > 0.2", "False", "test_checking.py"),
    Mutant("shifted-partner-unseen", "data/alignment.py", "elif well and", "elif False and", "test_alignment.py"),
    Mutant("equal-sides-unseen", "data/statistics.py", "if fact.equal]", "if False]", "test_checking.py"),
    Mutant("every-pair-misaligned", "data/alignment.py", "one.shifted - straight > 0.03", "True", "test_alignment.py"),
    Mutant("names-cut-training-too", "data/splits.py", "return not (split_there and is_training(split))", "return True", "test_data.py"),
    Mutant("overlap-unseen", "data/sources/packaged.py", "both = set(train) & set(val)", "both = set()", "test_data.py"),
    Mutant("tiles-shifted", "data/sources/packaged.py", "(height - rows * side) // 2, (width - columns * side) // 2", "0, 0", "test_data.py"),
    Mutant("tiles-of-training", "data/sources/packaged.py", "if self.whole else _tiles", "if not self.whole else _tiles", "test_data.py"),
    Mutant("shared-files-unseen", "data/sources/folders.py", "return len(set(validated.names).intersection(trained.names))", "return 0 * len(validated.names)", "test_data.py"),
    # images from Python
    Mutant("array-of-another-type", "images/inputs.py", "results[0].pixels.astype(dtype, copy=False)", "results[0].pixels", "test_inputs.py"),
    Mutant("endless-range", "images/inputs.py", "if not (low < high and math.isfinite(high - low)):", "if not low < high:", "test_inputs.py"),
    Mutant("image-without-pixels", "images/pixels.py", "if not (image.width and image.height):", "if False:", "test_inputs.py"),
    Mutant("seed-of-a-fraction", "randomness.py", "if not isinstance(seed, Integral):", "if False:", "test_inputs.py"),
    Mutant("endless-range-in-a-recipe", "recipe/schema.py", "if not (low < high and math.isfinite(high - low)):", "if not low < high:", "test_recipe.py"),
    Mutant("empty-argument-is-here", "cli/command.py", "if not word or re.fullmatch(", "if False and re.fullmatch(", "test_cli.py"),
    Mutant("empty-value-is-here", "storage/toml.py", "    if not value:", "    if False:", "test_cli.py"),
    Mutant("room-for-the-largest-manifest", "runs/checkpoint.py", "bytes_of(parts) + HEADERS, free", "bytes_of(parts) + MANIFEST_BYTES, free", "test_checkpoint.py"),
    Mutant("removed-checkpoint-ends-a-restore", "runs/checkpoint.py", "            if os.path.lexists(saved.folder):\n                raise", "            raise", "test_checkpoint_choice.py"),
    Mutant("removed-checkpoint-ends-a-share", "cli/share.py", "with contextlib.suppress(MissingCheckpoint):", "with contextlib.suppress(ZeroDivisionError):", "test_checkpoint_choice.py"),
    Mutant("grid-not-tried", "recipe/checks.py", "if not isinstance(times, torch.Tensor) or times.shape != (3,) or times[2] != 0 or not (times.diff() < 0).all():", "if False:", "test_recipe.py"),
    Mutant("sampler-tried-on-one-channel", "recipe/checks.py", "torch.zeros(1, 2, 1, 1)", "torch.zeros(1, 1, 1, 1)", "test_recipe.py"),
    # reliability
    Mutant("recipe-of-a-user-replaced", "training/identity.py", "if not _is_written(file):", "if False:", "test_saving.py"),
    Mutant("log-of-a-user-replaced", "training/identity.py", "elif found := next((path for name in RUN_FILES for path in folder.glob(name) if not path.is_dir()), None):", "elif found := None:", "test_saving.py"),
    Mutant("folder-in-the-way-of-a-run", "training/identity.py", " if not path.is_dir()), None)", "), None)", "test_best.py"),
    Mutant("rotated-before-published", "runs/checkpoint.py", "    try:\n        publish_folder(final, _files(step, parts, state))\n", "    for old in _folders(folder)[keep - 1 :]:\n        retire_folder(old)\n    try:\n        publish_folder(final, _files(step, parts, state))\n", "test_files.py"),
    Mutant("leftovers-stay", "storage/files.py", "or name.startswith((TEMPORARY, DEAD)):", "or name.startswith(TEMPORARY * 2):", "test_files.py"),
    Mutant("partial-write-taken-for-whole", "storage/files.py", "        while rest:  #", "        if rest:  #", "test_files.py"),
    Mutant("file-not-flushed", "storage/files.py", "rest[os.write(descriptor, rest) :]\n        os.fsync(descriptor)", "rest[os.write(descriptor, rest) :]", "test_files.py"),
    Mutant("folder-not-flushed", "storage/files.py", "                _flush(inside)\n", "", "test_files.py"),
    Mutant("names-not-flushed", "storage/files.py", "_remove(temporary, above)\n            raise\n        _flush(above)\n", "_remove(temporary, above)\n            raise\n", "test_files.py"),
    Mutant("retired-without-a-flush", "storage/files.py", "        os.rename(folder.name, dead, src_dir_fd=above, dst_dir_fd=above)\n        _flush(above)\n", "        os.rename(folder.name, dead, src_dir_fd=above, dst_dir_fd=above)\n", "test_files.py"),
    Mutant("written-in-place", "storage/files.py", "                _write(partial, data, folder)\n                os.replace(partial, path.name, src_dir_fd=folder, dst_dir_fd=folder)", "                _write(path.name, data, folder)", "test_files.py"),
    Mutant("published-over-another", "storage/files.py", "            if _has_entry(final.name, above):\n", "            if False:\n", "test_files.py"),
    Mutant("full-disk-as-a-mistake", "errors.py", "return IO_ERROR if isinstance(error, OSError) and error.errno in DISK_ERRORS else 2", "return 2", "test_files.py"),
    Mutant("lock-not-taken", "storage/lock.py", "fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "test_files.py"),
    Mutant("seal-not-verified", "runs/checkpoint.py", "if version != UNSEALED and content(folder / SEAL, MANIFEST_BYTES) != _seal(text):", "if False:", "test_checkpoint.py"),
    Mutant("manifest-escapes", "runs/checkpoint.py", 'r"[A-Za-z0-9_-]+\\.safetensors"', 'r".*"', "test_checkpoint.py"),
    Mutant("step-not-compared", "runs/checkpoint.py", "step != _step_of(folder)", "False", "test_checkpoint.py"),
    Mutant("newest-by-spelling", "runs/checkpoint.py", "key=_step_of", "key=lambda path: path.name", "test_checkpoint.py"),
    Mutant("damaged-counts-as-kept", "runs/checkpoint.py", "    for old in skipped:\n        if not old", "    for old in []:\n        if not old", "test_checkpoint.py"),
    Mutant("any-error-is-damage", "runs/checkpoint.py", "    except (OSError, MemoryError) as error:\n        raise read_error(folder, error) from error\n    except (ValueError,", "    except (OSError, ValueError,", "test_checkpoint.py"),
    Mutant("sweep-follows-links", "storage/files.py", "follow_symlinks=False).st_mode)", "follow_symlinks=True).st_mode)", "test_links.py"),
    Mutant("linked-checkpoint-rotated", "runs/checkpoint.py", "entry.is_dir(follow_symlinks=False) or", "entry.is_dir() or", "test_links.py"),
    Mutant("log-follows-links", "storage/files.py", "flags | os.O_NOFOLLOW | os.O_NONBLOCK", "flags | os.O_NONBLOCK", "test_links.py"),
    Mutant("set-aside-over-a-link", "storage/files.py", "if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):\n                    raise", "os.unlink(free, dir_fd=above)", "test_links.py"),
    Mutant("swept-before-known", "training/preparation.py", "    if not is_run_of(folder, recipe):\n", "    if False:\n", "test_links.py"),
    Mutant("root-not-heeded", "storage/files.py", "(0 if folder is None else os.O_NOFOLLOW)", "0", "test_links.py"),
    Mutant("name-is-a-path", "storage/names.py", 'r"\\w[\\w .+()-]*(?<! )"', 'r".*"', "test_names.py"),
    Mutant("downloads-collapse", "data/cards.py", "if name.casefold() not in taken)", "if name)", "test_names.py"),
    Mutant("packaged-anywhere", "data/sources/packaged.py", " or not path.resolve().is_relative_to(home.resolve())", "", "test_names.py"),
    Mutant("checkpoint-choice-ignored", "runs/load.py", "lambda saved: saved.tensors(\"ema\"), checkpoint)", "lambda saved: saved.tensors(\"ema\"))", "test_checkpoint_choice.py"),
    Mutant("fall-back-unsaid", "evaluation/summary.py", "            *subject.warnings,\n", "", "test_checkpoint_choice.py"),
    Mutant("pictures-through-links", "evaluation/pictures.py", "Picture(shown(picture)), root=self.root)", "Picture(shown(picture)))", "test_links.py"),
    Mutant("page-in-progress-stays", "report/folder.py", "if leftover.name != LOCK_FILE:", "if False:", "test_links.py"),
    Mutant("evaluation-not-locked", "evaluation/loop.py", "    stack.enter_context(locked(home, busy, root=folder))\n", "", "test_links.py"),
    Mutant("fetch-through-links", "data/fetch.py", "    refuse_links(staging.parent, ", "    refuse_links(staging / 'no', ", "test_links.py"),
    Mutant("download-through-a-link", "storage/download.py", "opener=no_link)  #", "opener=None)  #", "test_fetching.py"),
    Mutant("deleted-elsewhere", "data/fetch.py", "                remove(file)  #", "                file.unlink()  #", "test_layout.py"),
    Mutant("not-finite-published", "runs/checkpoint.py", "        if bad:\n", "        if False:\n", "test_checkpoint.py"),
    Mutant("counters-not-restored", "training/state.py", "            setattr(self, name, torch.full_like(self.skipped, value))\n", "", "test_resuming.py"),
    Mutant("moments-not-missed", "training/state.py", 'stored.pop(f"{name}/{slot}", None)', 'stored.pop(f"{name}/{slot}", torch.zeros_like(parameter))', "test_resuming.py"),
    Mutant("bad-step-taken", "training/state.py", "if not (self.on_host and self._bad):", "if True:", "test_skipping.py"),
    Mutant("bad-step-averaged", "training/state.py", "torch.where(skipped, old, value) for", "value for", "test_skipping.py"),
    Mutant("buffers-keep-the-bad-step", "training/state.py", "self._remember(module.buffers())", "pass", "test_skipping.py"),
    Mutant("companion-keeps-the-bad-step", "training/state.py", "if self._updates < len(self.trained):", "if False:", "test_skipping.py"),
    Mutant("loss-not-shown", "training/step.py", "parameter.grad.add_(0 * loss)", "pass", "test_skipping.py"),
    Mutant("skips-not-counted", "training/state.py", "self.skipped = self.skipped + skipped", "pass", "test_skipping.py"),
    Mutant("endless-skipping", "training/guard.py", "if in_a_row >= LIMIT:", "if False:", "test_skipping.py"),
    Mutant("failures-not-forgiven", "training/checkpointer.py", "if last or self._failures == PATIENCE:", "if True:", "test_saving.py"),
    Mutant("failures-forgiven-for-ever", "training/checkpointer.py", "if last or self._failures == PATIENCE:", "if last:", "test_saving.py"),
    Mutant("last-failure-forgiven", "training/checkpointer.py", "if last or self._failures == PATIENCE:", "if self._failures == PATIENCE:", "test_saving.py"),
    Mutant("forked-worker-stops-the-run", "cli/train.py", "if os.getpid() != training_process:", "if False:", "test_saving.py"),
    Mutant("workers-heed-signals", "data/loader.py", "signal.signal(getattr(signal, name), signal.SIG_IGN)", "signal.signal(getattr(signal, name), signal.SIG_DFL)", "test_saving.py test_cli.py"),
    Mutant("second-signal-waits", "cli/train.py", "            os._exit(128 + number)", "            pass", "test_saving.py"),
    Mutant("ranks-not-compared", "distributed.py", "if other[name] != value:", "if False:", "test_ranks.py"),
    Mutant("rank-timeout-left-out", "distributed.py", "timedelta(seconds=timeout, microseconds=1)", "timedelta(seconds=timeout)", "test_ranks.py"),
    Mutant("lost-rank-not-named", "distributed.py", 'if not store.check([f"lost-others/{index}"])]', "if False]", "test_ranks.py"),
    # evaluation
    Mutant("records-never-read", "evaluation/records.py", "                return Record(key, fingerprint, scores,", "                return None and Record(key, fingerprint, scores,", "test_evaluation.py"),
    Mutant("weights-not-hashed", "evaluation/subjects.py", "[run.step, weights_sha256(whole_network(run.method)), settings, *tiles]", "[run.step, settings]", "test_evaluation.py"),
    Mutant("sampler-not-hashed", "evaluation/subjects.py", "[run.step, weights_sha256(whole_network(run.method)), settings, *tiles]", "[run.step, weights.hexdigest()]", "test_evaluation.py"),
    Mutant("protocol-not-hashed", "evaluation/plan.py", "record_fingerprint(self.protocol.pixels_hash, row,", "record_fingerprint(\"\", row,", "test_evaluation.py"),
    Mutant("data-not-hashed", "evaluation/items.py", 'array_hash(self.clean, self.degraded, *conditions, np.array(self.fields.get("label", -1)))', 'array_hash(np.array(self.fields.get("label", -1)))', "test_evaluation.py"),
    Mutant("order-of-the-dataset", "evaluation/summary.py", "facts = sorted(facts, key=lambda fact: fact.key)", "facts = list(facts)", "test_evaluation.py"),
    Mutant("images-scored-twice", "evaluation/loop.py", "share_of_work = self.plan.work[group.rank :: group.count]", "share_of_work = self.plan.work[max(group.rank - 1, 0) :: group.count] + self.plan.work[: group.rank]", "test_evaluation.py"),
    Mutant("draws-all-the-same", "randomness.py", "*([draw] if draw else [])", "", "test_evaluation.py"),
    Mutant("first-draw-renamed", "randomness.py", "*([draw] if draw else [])", "draw", "test_evaluation.py"),
    Mutant("reference-of-the-scored-images-only", "evaluation/summary.py", "references = facts if plan.references else items", "references = items", "test_evaluation.py"),
    Mutant("statistics-ignored", "evaluation/summary.py", "if plan.statistics is not None and isinstance(", "if plan.statistics is None and isinstance(", "test_evaluation.py"),
    Mutant("bicubic-of-the-blocks", "degradations/downsample.py", 'kept in place."""\n        return {"bicubic": resized(self.reduced(x_1), ', 'kept in place."""\n        return {"bicubic": resized(x_1, ', "test_evaluation.py"),
    Mutant("calls-of-a-batch", "evaluation/subjects.py", "calls.images // len(items)", "calls.images", "test_evaluation.py"),
    Mutant("settings-not-handed-on", "cli/evaluate.py", "sample=setting or []", "sample=[]", "test_evaluation.py"),
    Mutant("markdown-best-unmarked", "report/templates/table.md", 'or cell.mark == "best") %}', 'or cell.mark == "near") %}', "test_tabulating.py"),
    Mutant("outside-truncated", "evaluation/subjects.py", "images.append(to_tensor(pixels,", "images.append(0.99 * to_tensor(pixels,", "test_evaluation.py"),
    Mutant("seed-not-in-the-hash", "recipe/protocol.py", '        "seed": settings.seed,\n', '        "seed": 0,\n', "test_protocols.py"),
    Mutant("paths-in-the-hash", "recipe/protocol.py", "value = PurePosixPath(str(value)).name", "value = str(value)", "test_protocols.py"),
    Mutant("mask-blended", "data/transforms.py", "        if is_mask:\n            return _largest(", "        if False:\n            return _largest(", "test_data.py"),
    # recipes and metrics
    Mutant("validation-cropped-at-random", "recipe/recipe.py", 'crop=self.data.crop if training else "center"', "crop=self.data.crop", "test_recipe.py"),
    Mutant("validation-mirrored", "recipe/recipe.py", "flip=self.data.flip and training", "flip=self.data.flip", "test_recipe.py"),
    Mutant("sampler-options-ignored", "methods/bridge.py", '"sampler_options": recipe.sampler_options(),', "", "test_recipe.py"),
    Mutant("grid-ignored", "methods/bridge.py", '        "grid": registry.TIME_GRIDS.get(recipe.sample.grid),\n', "", "test_recipe.py"),
    Mutant("proposal-ignored", "methods/bridge.py", "        proposal=recipe.build_proposal(),\n", "", "test_recipe.py"),
    Mutant("clip-ignored", "methods/bridge.py", '        "clip": recipe.sample.clip,\n', "", "test_recipe.py"),
    Mutant("load-size-ignored", "recipe/recipe.py", "self.data.load_size if training else None", "None", "test_recipe.py"),
    Mutant("psnr-of-half-the-range", "metrics/fidelity.py", 'data_range=(0.0, 1.0), reduction="none", dim', 'data_range=(0.0, 2.0), reduction="none", dim', "test_metrics.py"),
    Mutant("ssim-with-black-at-minus-one", "metrics/fidelity.py", "        return (images + 1) / 2\n", "        return images / 2\n", "test_metrics.py"),
    Mutant("ssim-of-the-mirrored-border", "metrics/fidelity.py", "torch.as_tensor(full)[..., half:-half, half:-half]", "torch.as_tensor(full)", "test_metrics.py"),
    Mutant("luma-in-full-range", "metrics/fidelity.py", "[65.481, 128.553, 24.966]", "[76.245, 149.685, 29.07]", "test_metrics.py"),
    Mutant("luma-of-bgr", "metrics/fidelity.py", "[65.481, 128.553, 24.966]", "[24.966, 128.553, 65.481]", "test_metrics.py"),
    Mutant("luma-without-offset", "metrics/fidelity.py", "((16 + red + green + blue) / 255)", "((red + green + blue) / 255)", "test_metrics.py"),
    Mutant("border-at-one-side", "metrics/fidelity.py", "slice(self.border, side - self.border)", "slice(self.border, side)", "test_metrics.py"),
    Mutant("border-not-in-the-label", "metrics/fidelity.py", "        if border:\n", "        if border > 99:\n", "test_metrics.py"),
    Mutant("small-image-ends-it", "evaluation/scores.py", "min(size) < metric.smallest", "min(size) < 0", "test_evaluation.py"),
    Mutant("codes-truncated", "metrics/extractors.py", ".round().to(torch.uint8)", ".to(torch.uint8)", "test_metrics.py"),
    Mutant("bootstrap-of-half", "metrics/base.py", "(0.025, 0.975)", "(0.25, 0.75)", "test_metrics_distribution.py"),
    Mutant("frechet-trace-once", "metrics/frechet.py", "spread - 2 * trace", "spread - trace", "test_metrics_distribution.py"),
    Mutant("frechet-without-means", "metrics/frechet.py", "np.square(a.mean - b.mean).sum() + spread", "spread", "test_metrics_distribution.py"),
    Mutant("covariance-by-n", "metrics/frechet.py", "_root(covariance / (n - 1))", "_root(covariance / n)", "test_metrics_distribution.py"),
    Mutant("few-covariance-by-n", "metrics/frechet.py", "/ np.sqrt(n - 1), n)", "/ np.sqrt(n), n)", "test_metrics_distribution.py"),
    Mutant("memory-not-flat", "metrics/frechet.py", "ROWS = 1024", "ROWS = 10**9", "test_metrics_distribution.py"),
    Mutant("order-shows", "metrics/frechet.py", "key=digests.__getitem__)", "key=int)", "test_metrics_distribution.py"),
    Mutant("list-lines-by-splitlines", "storage/reader.py", 'return re.split(r"\\r\\n?|\\n", read_text(path, LIST_LIMIT, "utf-8-sig"))', "return read_text(path, LIST_LIMIT).splitlines()", "test_file_reader.py"),
    Mutant("statistics-unpickled", "storage/reader.py", "np.load(stream, allow_pickle=False)", "np.load(stream, allow_pickle=True)", "test_metrics_distribution.py"),
    Mutant("kid-biased", "metrics/kernel.py", "        np.fill_diagonal(k, 0.0)\n", "", "test_metrics_distribution.py"),
    Mutant("kid-counts-own-pair", "metrics/kernel.py", "        cross[both, both - part[0]] = 0.0\n", "", "test_metrics_distribution.py"),
    Mutant("kid-cross-by-all-pairs", "metrics/kernel.py", "float(x_sums.sum()), n * m - pairs", "float(x_sums.sum()), n * m", "test_metrics_distribution.py"),
    Mutant("kid-forgets-partners", "metrics/distribution.py", "x = np.flatnonzero(partners >= 0)", "x = np.flatnonzero(partners >= len(reference))", "test_metrics_distribution.py"),
    Mutant("kid-leaves-out-strangers", "metrics/distribution.py", "np.full(len(restored), -1)", "np.where(np.arange(len(restored)) < len(reference), np.arange(len(restored)), -1)", "test_metrics_distribution.py"),
    Mutant("kid-partners-left-out-apart", "metrics/kernel.py", "xx_without[:pairs] + yy_without[:pairs]", "xx_without[:pairs] + yy", "test_metrics_distribution.py"),
    Mutant("kid-error-quartered", "metrics/kernel.py", "(len(values) - 1) / len(values) * float(", "0.25 * float(", "test_metrics_distribution.py"),
    Mutant("paired-difference-is-a-sum", "metrics/distribution.py", "h -= pair_kernel(", "h += pair_kernel(", "test_metrics_distribution.py"),
    Mutant("paired-kid-of-the-first-seed", "metrics/distribution.py", "            for features in second:\n", "            for features in second[:1]:\n", "test_metrics_distribution.py"),
    Mutant("kid-difference-unpaired", "metrics/distribution.py", "variance = jackknife_variance([a - b for a, b in zip(strata, others, strict=True)])", "variance = jackknife_variance(strata) + jackknife_variance(others)", "test_metrics_distribution.py"),
    Mutant("kid-difference-of-the-first-seed", "metrics/kernel.py", "zip(*(leave_one_out(x, y, pairs) for x in xs), strict=True)", "zip(*(leave_one_out(x, y, pairs) for x in xs[:1]), strict=True)", "test_metrics_distribution.py"),
    Mutant("difference-with-the-first-row", "evaluation/summary.py", "rows[-1].name if rows else None", "rows[0].name if rows else None", "test_evaluation.py"),
    Mutant("standard-error-by-n", "evaluation/scores.py", "statistics.stdev(kept) / math", "statistics.pstdev(kept) / math", "test_evaluation.py"),
    Mutant("standard-error-without-root", "evaluation/scores.py", "/ math.sqrt(len(kept)) if", "/ len(kept) if", "test_evaluation.py"),
    Mutant("one-equal-pair-makes-the-row-infinite", "evaluation/scores.py", "kept = [value for value in applicable if math.isfinite(value)]", "kept = applicable", "test_evaluation.py"),
    Mutant("other-images-over-it", "evaluation/loop.py", "        loop.plan.refuse_other_images(group.gather(seen))\n", "", "test_evaluation.py"),
    Mutant("other-number-of-other-images", "evaluation/plan.py", "stored_hashes = read_hashes(self.home / DATA_FILE)", "stored_hashes: dict[str, str] = {}", "test_evaluation.py"),
    Mutant("relative-root-kept", "training/identity.py", "    recipe = recipe.with_absolute_root()\n", "", "test_evaluation.py"),
    Mutant("pooled-seconds-summed", "report/seeds.py", "sum(seconds) / len(seconds)", "sum(seconds)", "test_pooling.py"),
    Mutant("note-of-the-first-seed", "report/seeds.py", "return notes[0] if len(notes) == 1 else", "return notes[0] if notes else", "test_pooling.py"),
    Mutant("heads-cut-at-the-edge", "images/montage.py", "MARGIN = 3", "MARGIN = -200", "test_montage.py"),
    Mutant("nothing-says-that-it-scrolls", "report/templates/compare.js", "rest > 2 && wide.scrollLeft < rest - 2", "false", "test_compare_browser.py"),
    Mutant("losses-on-one-axis", "report/figures.py", "SCALES = 10\n", "SCALES = 10**9\n", "test_figures.py"),
    Mutant("label-of-another-run", "report/entries.py", "and part.folder in labels]", "and part.folder.parent in labels]", "test_comparing.py"),
    Mutant("old-kid-shown", "evaluation/results.py", "estimate.note.startswith(THINNED)", "not estimate.note", "test_evaluation.py"),
    Mutant("partners-by-position", "evaluation/summary.py", "np.array([places[fact.key] for fact in items])", "np.arange(len(items))", "test_evaluation.py"),
    Mutant("eps-without-a-share", "bridge/targets.py", "if process.pinned or float(process.coefficients(1.0).b) == 0:", "if process.pinned:", "test_targets.py"),
    Mutant("no-sigma-and-no-way-out", "bridge/targets.py", "f\"target 'i2sb' divides by sigma_t, but {error}; use 'velocity', 'x0' or 'preconditioned'\"", "str(error)", "test_targets.py"),
    # settings that would do nothing, or end in a traceback
    Mutant("critic-of-any-size", "training/preparation.py", "if companion is not state.network and", "if False and", "test_training.py"),
    Mutant("perceptual-of-any-size", "recipe/checks.py", "if min(recipe.data.sides) < least:", "if False:", "test_losses.py"),
    Mutant("perceptual-of-any-channels", "recipe/checks.py", "if channels not in (1, 3):", "if False:", "test_losses.py"),
    Mutant("noise-drawn-anew-in-silence", "bridge/processes.py", "    drawn_once = True\n", "", "training/test_training.py"),
    Mutant("unread-curriculum", "recipe/checks.py", "if name in WITHOUT_CURRICULUM and", "if False and", "test_recipe.py"),
    Mutant("option-without-its-weight", "recipe/checks.py", "if given and needed in options and", "if False and", "test_recipe.py"),
    Mutant("settings-hide-the-key", "recipe/load.py", "if len(words) > LONGEST_SETTINGS:", "if False:", "test_recipe.py"),
    # paired differences
    Mutant("paired-error-unpaired", "report/differences.py", "error = statistics.stdev(kept) / math.sqrt(len(kept))", "error = math.hypot(*(np.std(m, ddof=1) for m in means)) / math.sqrt(len(kept))", "test_paired_differences.py"),
    Mutant("images-paired-by-position", "report/differences.py", "[[table[key] for key in keys] for table in part]", "[list(table.values())[: len(keys)] for table in part]", "test_paired_differences.py"),
    Mutant("features-of-any-images", "report/differences.py", "features.matrix(measured, row, feature, keys, keep=part is second)", "features.matrix(measured, row, feature, sorted(measured.scored)[: len(keys)], keep=part is second)", "test_paired_differences.py"),
    Mutant("kid-difference-of-partners-alone", "report/differences.py", "[*keys, *references], keep", "keys, keep", "test_paired_differences.py"),
    Mutant("any-per-image-values", "report/differences.py", "rel_tol=1e-6", "rel_tol=1.0", "test_paired_differences.py"),
    Mutant("any-row-of-a-method", "report/differences.py", "if len(found) != 1:", "if not found:", "test_paired_differences.py"),
    Mutant("mark-against-the-direction", "report/table.py", "return BETTER if (difference.value > 0) == column.higher_is_better else WORSE", "return BETTER if difference.value > 0 else WORSE", "test_paired_differences.py"),
    Mutant("mark-beyond-one-error", "report/table.py", "> 2 * difference.standard_error or", "> difference.standard_error or", "test_paired_differences.py"),
    Mutant("mark-within-the-interval", "report/table.py", " or difference.low <= 0 <= difference.high:", ":", "test_paired_differences.py"),
    Mutant("difference-without-seeds", "report/seeds.py", "error = math.sqrt(image.standard_error**2 + of_seeds)", "error = image.standard_error", "test_paired_differences.py"),
    Mutant("seeds-of-one-row", "report/seeds.py", "for values in (first, second) if values[1:]]", "for values in (first,) if values[1:]]", "test_paired_differences.py"),
    Mutant("difference-of-the-first-seed", "report/differences.py", "for measured in entries[line.entry].measurements]", "for measured in entries[line.entry].measurements[:1]]", "test_paired_differences.py"),
    Mutant("page-without-differences", "report/page.py", "    if paired is not None and not paired.table.lines:\n", "    if paired is not None:\n", "test_paired_differences.py"),
    Mutant("kid-of-few-images-untold", "evaluation/scores.py", "return found + kid_warnings(scorer.sets, images)", "return found", "test_comparing.py"),
    Mutant("kid-note-of-every-number", "evaluation/scores.py", "for name in metrics if images < FEW_FOR_KID else ():", "for name in metrics if images <= FEW_FOR_KID else ():", "test_comparing.py"),
    Mutant("kernel-distances-called-biased", "evaluation/scores.py", "if not isinstance(one, KernelDistance | PairedKernelDistance)]", "]", "test_comparing.py"),
    Mutant("kid-degree-two", "metrics/kernel.py", "(x @ y.T / x.shape[1] + 1) ** 3", "(x @ y.T / x.shape[1] + 1) ** 2", "test_metrics_distribution.py"),
    Mutant("kid-without-dimension", "metrics/kernel.py", "(x @ y.T / x.shape[1] + 1) ** 3", "(x @ y.T + 1) ** 3", "test_metrics_distribution.py"),
    Mutant("kid-error-halved", "metrics/kernel.py", "float(4 * np.square(sums", "float(np.square(sums", "test_metrics_distribution.py"),
    Mutant("kid-error-not-over-blocks", "metrics/distribution.py", "for _, variance in blocks)) / len(blocks)", "for _, variance in blocks))", "test_metrics_distribution.py"),
    Mutant("plugin-distance-called-fid", "metrics/distribution.py", '"FD-{}"', '"FID-{}"', "test_metrics_networks.py"),
    Mutant("legacy-with-antialias", "metrics/extractors.py", 'size=(299, 299), mode="bilinear")', 'size=(299, 299), mode="bilinear", antialias=True)', "test_metrics_networks.py"),
    Mutant("legacy-scaled-as-tensorflow", "metrics/extractors.py", "2 * (resized / 255) - 1", "(resized - 128) / 128", "test_metrics_networks.py"),
    Mutant("lpips-of-inference-mode", "metrics/perceptual.py", "    @torch.inference_mode(False)\n    def _distance", "    def _distance", "test_metrics_networks.py"),
    Mutant("extractor-of-inference-mode", "metrics/extractors.py", "@torch.inference_mode(False)\ndef _filled", "def _filled", "test_metrics_networks.py"),
    Mutant("lite0-of-inference-mode", "metrics/packaged.py", "@torch.inference_mode(False)\ndef _efficientnet_lite0", "def _efficientnet_lite0", "test_metrics_packaged.py"),
    Mutant("st-lpips-of-inference-mode", "metrics/packaged.py", "@torch.inference_mode(False)\ndef shift_tolerant_lpips", "def shift_tolerant_lpips", "test_metrics_packaged.py"),
    Mutant("moved-in-inference-mode", "metrics/base.py", "@torch.inference_mode(False)\ndef moved", "def moved", "test_metrics_packaged.py"),
    Mutant("lpips-backbone-forgotten", "metrics/perceptual.py", 'slot.copy_(stored["features." + name.split(".", 1)[1]])', 'stored["features." + name.split(".", 1)[1]]', "test_metrics_networks.py"),
    Mutant("accuracy-of-the-smallest", "metrics/accuracy.py", "logits.argmax()", "logits.argmin()", "test_metrics_networks.py"),
    Mutant("consistency-in-the-hole", "metrics/consistency.py", "None if mask is None else mask[None]", "None", "test_metrics_items.py"),
    Mutant("consistency-of-other-draws", "metrics/consistency.py", '"validation degradation"', '"degradation"', "test_metrics_items.py"),
    Mutant("diversity-of-the-first-pair", "metrics/diversity.py", "distances.mean()", "distances[0]", "test_metrics_items.py"),
    Mutant("pt-time-unlimited", "storage/pt_reader.py", "resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))", "pass", "test_hostile.py"),
    Mutant("unsafe-load", "storage/pt_reader.py", "weights_only=True, mmap", "weights_only=False, mmap", "test_hostile.py"),
    # files of strangers
    Mutant("overlapping-tensors", "storage/pt_reader.py", "not value.permute(order).is_contiguous() or", "", "test_hostile.py"),
    Mutant("storage-anywhere", "storage/pt_reader.py", "value.untyped_storage().nbytes() not in sizes", "False", "test_hostile.py"),
    Mutant("archive-not-checked", "storage/pt_reader.py", "                _check_member(file, member, end)", "                pass", "test_hostile.py"),
    Mutant("header-not-limited", "storage/tensors.py", "if length > MAX_HEADER:", "if False:", "test_hostile.py"),
    Mutant("safetensors-nan", "storage/tensors.py", "if not all_finite(value):", "if False:", "test_hostile.py"),
    Mutant("average-is-the-network", "storage/pt_reader.py", "for name, value in zip(net, average, strict=True)", "for name, value in net.items()", "test_hostile.py"),
    Mutant("selftest-kills-what-has-ended", "cli/selftest.py", "with contextlib.suppress(ProcessLookupError):", "with contextlib.suppress(ZeroDivisionError):", "test_selftest.py"),
    Mutant("selftest-always-passes", "cli/selftest.py", "                passed, detail = False,", "                passed, detail = True,", "test_selftest.py"),
    Mutant("selftest-compares-weights", "cli/toy_runs.py", 'if key.endswith("/exp_avg")]', "if key]", "test_selftest.py"),
    Mutant("selftest-names-last-line", "cli/selftest.py", '(named or lines or ["no output"])[0]', '(lines or ["no output"])[-1]', "test_selftest.py"),
    Mutant("group-kept-at-exit", "cli/command.py", "            ranks.leave_group()", "            pass", "test_ranks.py"),
    Mutant("selftest-rounds", "cli/toy_runs.py", "if not torch.equal(value, right[key]):", "if not torch.allclose(value, right[key]):", "test_selftest.py"),
    Mutant("mask-of-ones-is-empty", "images/pixels.py", "    return codes(grey == high), f\"of the", "    return pixels, f\"of the", "test_images.py"),
    Mutant("mask-ignores-transparency", "images/pixels.py", "        if clear.any():", "        if clear.all():", "test_images.py"),
    Mutant("hidden-colours-are-data", "images/pixels.py", "picture.pixels * share + white * (1 - share)", "picture.pixels * share + picture.pixels * (1 - share)", "test_images.py"),
    Mutant("masks-not-named", "data/items.py", "phrases += [] if mask.any() else [EMPTY_MASK]", "phrases += []", "test_checking.py"),
    Mutant("outputs-meet", "images/outputs.py", "if taken.isdisjoint(", "if set().isdisjoint(", "test_outputs.py"),
    Mutant("names-too-long", "storage/names.py", "if len(encoded) > room:", "if len(name) > room:", "test_outputs.py"),
    Mutant("done-whatever-the-settings", "images/outputs.py", "{**record, \"extra\": None} == self._record(job, more, None)", "{**record, \"extra\": None, \"settings\": self.settings} == self._record(job, more, None)", "test_outputs.py"),
    Mutant("done-whatever-the-weights", "runs/restorer.py", "return [__version__, run.step, *weights, run.recipe.to_toml(), dtypes, *([] if line is None else [line])]", "return [__version__]", "test_restoring.py"),
    Mutant("colour-at-half-resolution", "images/files.py", "\"subsampling\": 0", "\"subsampling\": 2", "test_outputs.py"),
    Mutant("planes-read-in-stripes", "images/tiff.py", "(UNSIGNED, 16, 3) and not layout.separate", "(UNSIGNED, 16, 3)", "test_tiff.py"),
    Mutant("negative-kept", "images/tiff.py", "== (1, UNSIGNED, 16, WHITE_IS_ZERO)", "== (1, UNSIGNED, 16, RGB)", "test_tiff.py"),
    Mutant("infrared-is-opacity", "images/tiff.py", "return kind[0] if kind[0] in (ASSOCIATED, UNASSOCIATED) else 0", "return kind[0] or UNASSOCIATED", "test_tiff.py"),
    Mutant("samples-all-alike", "runs/run.py", "draws = [generator(seed + k, \"restore\")]", "draws = [generator(seed, \"restore\")]", "test_inputs.py"),
    Mutant("range-not-heeded", "runs/batch.py", "picture.value_range or settings.value_range", "settings.value_range or picture.value_range and (0.0, 1.0)", "test_inputs.py"),
    Mutant("booleans-refused", "images/inputs.py", "mask.dtype == np.bool_ else", "mask.dtype == np.uint32 else", "test_inputs.py"),
    Mutant("announced-of-the-smallest", "runs/workload.py", "largest = max(sizes)", "largest = min(sizes)", "test_workload.py"),
    Mutant("announced-of-one-image", "runs/workload.py", "probe.seconds * sum(sizes)", "probe.seconds * max(sizes)", "test_workload.py"),
    Mutant("exif-warnings", "images/files.py", "with warnings.catch_warnings(action=\"ignore\"), Image.open(source", "with Image.open(source", "test_fuzz.py"),
    Mutant("profile-dropped", "images/metadata.py", "== channels else None", "== 0 else None", "test_metadata.py"),
    Mutant("place-carried-over", "images/metadata.py", "fields = dict(exif.get_ifd(directory) if directory else exif)", "fields = dict(exif.get_ifd(directory) if directory else exif); kept.get_ifd(0x8825).update(exif.get_ifd(0x8825))", "test_metadata.py"),
    Mutant("profiles-not-named", "data/statistics.py", "if isinstance(profile, bytes) and not is_srgb(profile):", "if isinstance(profile, bytes) and is_srgb(profile):", "test_metadata.py"),
    Mutant("array-header-believed", "images/files.py", "if available != size:", "if available < 0:", "test_fuzz.py test_zoo.py"),
    Mutant("message-plays-with-the-terminal", "errors.py", "c if c.isprintable() or", "c if True or", "test_fuzz.py"),
    Mutant("cell-is-a-formula", "storage/csv_file.py", "return f\"'{value}\"", "return value", "test_printing.py"),
    Mutant("toml-with-a-mark-refused", "storage/toml.py", "MAX_BYTES, \"utf-8-sig\"", "MAX_BYTES, \"utf-8\"", "test_toml_file.py"),
    Mutant("dotted-keys-unlimited", "storage/toml.py", "if _LONG_KEY.search(", "if False and _LONG_KEY.search(", "test_toml_file.py"),
    Mutant("offline-not-heard", "storage/internet.py", "if is_offline():\n        raise", "if False:\n        raise", "test_internet.py"),
    Mutant("offline-is-a-wish", "storage/internet.py", "and not _is_local(event, arguments):", "and False:", "test_internet.py"),
    Mutant("listening-is-refused", "storage/internet.py", "any(name.lower() in block for block in tuple(_blocks))", "False", "test_internet.py"),
    Mutant("torchvision-fetches-offline", "data/sources/torchvision.py", 'given["download"] = not is_offline()', 'given["download"] = True', "test_internet.py"),
    Mutant("card-leads-outside", "data/sources/huggingface.py", "if seen > 100_000:", "if seen > 1:\n            break\n        if seen > 100_000:", "test_hub.py"),
    Mutant("column-leads-outside", "data/sources/huggingface.py", "if not any(path.is_relative_to(place) for place in self.places):", "if False:", "test_hub.py"),
    Mutant("hub-row-leads-anywhere", "data/sources/huggingface.py", "_caches() if root is None else", '[Path("/")] if root is None else', "test_hub.py"),
    Mutant("tar-headers-unlimited", "storage/archive.py", "or self.header > MAX_HEADER:", "or False:", "test_unpacking.py"),
    Mutant("members-take-nothing", "storage/archive.py", "self.left -= max(size, BLOCK)", "self.left -= size", "test_unpacking.py"),
    Mutant("tar-end-unlimited", "storage/archive.py", "if rest.tell() > end:", "if False:", "test_unpacking.py"),
    Mutant("reserve-spent", "storage/archive.py", "if size + RESERVE > free_bytes(self.folder):", "if size > free_bytes(self.folder):", "test_unpacking.py"),
    Mutant("any-digit-is-a-number", "storage/download.py", "[0-9]{1,18}", "[0-9\\xb2]{1,18}", "test_downloading.py"),
    Mutant("file-without-end", "storage/download.py", "if done > (limit or LARGEST):", "if limit and done > limit:", "test_downloading.py"),
    Mutant("reserve-downloaded", "storage/download.py", "< len(chunk) + RESERVE:", "< len(chunk):", "test_downloading.py"),
    Mutant("any-rate-will-do", "storage/download.py", "if self.bytes < SLOWEST * seconds:", "if self.bytes < 0:", "test_downloading.py"),
    Mutant("pages-without-bound", "images/files.py", "while frames < MAX_FRAMES:", "while frames < 10**9:", "test_images.py"),
    Mutant("batch-without-bound", "recipe/schema.py", "Samples = Annotated[int, Field(gt=0, le=2**20)]", "Samples = Annotated[int, Field(gt=0)]", "test_bounds.py"),
    Mutant("rate-without-bound", "recipe/schema.py", "lr: Annotated[float, Field(gt=0, le=1000)]", "lr: Annotated[float, Field(gt=0)]", "test_bounds.py"),
    Mutant("nan-in-a-card", "storage/table.py", "allow_inf_nan=False", "allow_inf_nan=True", "test_bounds.py"),
    Mutant("network-of-any-size", "networks/size.py", "if parameters > MAX_PARAMETERS:", "if parameters > 10**30:", "test_bounds.py"),
    Mutant("files-without-limit", "storage/reader.py", "data = stream.read(limit + 1)", "data = stream.read()[: limit + 1]", "test_file_reader.py"),
    Mutant("evaluation-of-any-type", "evaluation/results.py", "le=LARGEST)]\nName", "le=None)]\nName", "test_file_reader.py"),
    Mutant("sixteen-bits-cut-off-are-filled", "images/files.py", "            image.load()\n            picture", "            picture", "test_zoo.py"),
    Mutant("pipes-block", "images/files.py", "not stat.S_ISREG(Path(path).stat().st_mode)", "not Path(path).exists()", "test_zoo.py"),
    Mutant("released-without-its-grid", "runs/imports.py", 'sample | {"grid": "official"}', "sample", "test_hostile.py"),
    Mutant("hash-of-another-file", "metrics/weights.py", '        "7be5be79",', '        "7be5be78",', "test_weights.py"),
    Mutant("weights-hash-not-compared", "metrics/weights.py", "            if not digest.startswith(weights.sha256):", "            if False:", "test_weights.py"),
    Mutant("weights-licence-not-asked", "cli/weights.py", "        if not yes:\n", "        if False:\n", "test_weights.py"),
    Mutant("verify-says-ok", "cli/weights.py", 'if set(states.values()) != {"ok"}:', "if False:", "test_weights.py"),
    Mutant("network-time-forgotten", "bridge/predictor.py", "network_time = (process.network_time(t) + ", "network_time = (t + ", "test_bridge.py"),
    Mutant("forward-sde-keeps-the-image", "bridge/base.py", "Gaussian(expand(self.alpha(t), x_0) * x_0,", "Gaussian(x_0,", "test_proposals.py"),
    Mutant("ema-decay-inverted", "training/state.py", "get_ema_multi_avg_fn(ema_decay(self.settings, self.step))", "get_ema_multi_avg_fn(1 - ema_decay(self.settings, self.step))", "test_training.py"),
    # the page
    Mutant("lowest-is-best", "report/table.py", "best = max(values) if column.higher_is_better else min(values)", "best = min(values) if column.higher_is_better else max(values)", "test_tabulating.py"),
    Mutant("overlap-by-value", "report/table.py", "e.low <= winner.high and winner.low <= e.high", "winner.low <= e.value <= winner.high", "test_tabulating.py"),
    Mutant("baseline-competes", "report/table.py", "if entry >= 0 and row.images == most else None", "if row.images == most else None", "test_tabulating.py"),
    Mutant("protocol-not-compared", "report/entries.py", "if rules.hash != other.hash:", "if rules.name != other.name:", "test_comparing.py"),
    Mutant("data-not-compared", "report/entries.py", "if reference.data.digest != evaluation.data.digest:", "if reference.data.items != evaluation.data.items:", "test_comparing.py"),
    Mutant("workers-not-bound", "data/loader.py", "    if parent is not None:\n        threading.Thread", "    if parent is None:\n        threading.Thread", "test_data.py"),
    Mutant("restored-pictures-kept", "runs/restorer.py", "outcome.written += 1", "outcome.written += 1; run.__dict__.setdefault('kept', []).append(shown)", "test_restoring.py"),
    Mutant("seeds-shrink-the-images", "report/seeds.py", "below = sum(estimate.value - estimate.low for estimate in estimates) / k", "below = sum(estimate.value - estimate.low for estimate in estimates) / k**1.5", "test_pooling.py"),
    Mutant("seeds-normal-quantile", "report/seeds.py", "float(stdtrit(k - 1, 0.975))", "1.96", "test_pooling.py"),
    Mutant("seeds-population-variance", "report/seeds.py", "for estimate in estimates) / (k - 1)", "for estimate in estimates) / k", "test_pooling.py"),
    Mutant("seeds-of-any-recipe", "report/seeds.py", "return settings, evaluation.method,", "return recipe.name, evaluation.method,", "test_pooling.py"),
    Mutant("seeds-counted-twice", "report/entries.py", " and part.seed not in [run.seed for run in group]:", ":", "test_pooling.py"),
    Mutant("seeds-of-any-step", "report/seeds.py", "evaluation.method, evaluation.step", "evaluation.method", "test_pooling.py"),
    Mutant("seeds-apart-by-moments", "report/seeds.py", ', "target": {"var_0", "var_1", "cov_01"}}', "}", "test_pooling.py"),
    Mutant("names-are-markup", "report/formats.py", 'autoescape=lambda name: name is not None and name.endswith(".html"),', "autoescape=False,", "test_comparing.py"),
    Mutant("any-folder-replaced", "report/folder.py", "if out.exists() and not _is_page(out):", "if out.exists() and not out.is_dir():", "test_comparing.py"),
    Mutant("one-seed-for-all-samples", "report/samples.py", "for seed in range(2)]", "for seed in (0, 0)]", "test_figures.py"),
    # properties that a review of planted one-line mistakes found untested
    Mutant("one-pinned-sample-silences-the-batch", "bridge/base.py", "random=bool(coefficients.c.any())", "random=bool(coefficients.c.all())", "test_processes.py"),
    Mutant("ot-ode-beta-max-default", "bridge/processes.py", "    beta_max: float = 1.0\n", "    beta_max: float = 0.3\n", "test_processes.py"),
    Mutant("i2sb-beta-max-default", "bridge/processes.py", "    beta_max: float = 0.3\n", "    beta_max: float = 1.0\n", "test_processes.py"),
    Mutant("official-ode-beta-max-default", "bridge/released.py", "    beta_max: float = 1.0\n", "    beta_max: float = 0.3\n", "test_processes.py"),
    Mutant("default-of-old-runs-changed", "bridge/processes.py", "sigma_1: float = 0.5", "sigma_1: float = 1.0", "test_registry.py"),
    Mutant("rate-of-another-default", "recipe/presets.py", "return {\"beta_max\": beta_max} |", "return {} |", "test_methods.py"),
    Mutant("beta-min-forgotten", "recipe/presets.py", "for key in (\"beta_max\", \"beta_min\") if key in process", "for key in (\"beta_max\",) if key in process", "test_methods.py"),
    Mutant("released-drops-beta-min", "runs/imports.py", "if process.get(\"beta_min\") == I2SB.beta_min:", "if \"beta_min\" in process:", "test_hostile.py"),
    Mutant("released-refuses-ot-ode", "runs/imports.py", "if key == \"process.name\" else None", "if key is None else None", "test_hostile.py"),
    Mutant("one-good-time-excuses-the-others", "bridge/base.py", "((times >= 0) & (times <= 1)).all()", "((times >= 0) & (times <= 1)).any()", "test_processes.py"),
    Mutant("one-unscaled-sample-unscales-the-batch", "bridge/targets.py", "bool((c_in == 1).all())", "bool((c_in == 1).any())", "test_targets.py"),
    Mutant("ot-ode-for-weights-that-sum-to-1", "bridge/samplers.py", "b[i + 1] - b[i] * r, r, 0.0)", "1 - r, r, 0.0)", "test_samplers.py"),
    Mutant("start-ignored-without-a-pin", "bridge/samplers.py", "    if start is not None:\n        return start\n", "    if start is not None and process.pinned:\n        return start\n", "test_samplers.py"),
    Mutant("times-in-single-precision", "bridge/samplers.py", "return torch.full((x.shape[0],), t, dtype=torch.float64)", "return torch.full((x.shape[0],), t, dtype=torch.float32)", "test_samplers.py"),
    Mutant("bridge-begun-anywhere", "bridge/samplers.py", "if process.pinned and first.t == 1:", "if process.pinned and first.t > 0.8:", "test_samplers.py"),
    Mutant("name-clears-what-was-given-before", "recipe/load.py", "keys[-1] != \"name\"", "False", "test_recipe.py"),
    Mutant("heun-takes-the-nearest-points", "bridge/samplers.py", "positions = np.linspace(0, len(times) - 1, steps + 1)", "positions = np.linspace(0, len(times) - 1, steps + 1).round()", "test_samplers.py"),
    Mutant("grid-computed-anew", "bridge/time_grids.py", "return kept(process, nfe).clone()", "return grid(process, nfe)", "test_time_grids.py"),
    Mutant("kept-grid-given-away", "bridge/time_grids.py", "return kept(process, nfe).clone()", "return kept(process, nfe)", "test_time_grids.py"),
    Mutant("grid-kept-for-any-process", "bridge/time_grids.py", "if dataclass is None or not (dataclass.frozen and dataclass.eq):", "if False:", "test_time_grids.py"),
    Mutant("one-inner-point-at-the-edge", "bridge/time_grids.py", "dtype=torch.float64) if nfe > 2", "dtype=torch.float64) if nfe > 1", "test_time_grids.py"),
    Mutant("first-rate-of-the-interval", "bridge/released.py", "start, end = math.sqrt(1e-4),", "start, end = math.sqrt(0.1 / interval),", "test_official_grid.py"),
    Mutant("half-an-index-rounded-up", "bridge/released.py", "indices.append(round(position))", "indices.append(int(position + 0.5))", "test_official_grid.py"),
    Mutant("a-hole-drawn-beside-the-items-own", "data/dataset.py", "draws, None if mask is None else mask[None])", "draws)", "test_data.py"),
    Mutant("zeros-of-a-mask-are-half-white", "data/items.py", "bool((image >= 0).all()):", "False:", "test_data.py"),
    Mutant("first-mask-for-all", "degradations/base.py", "return (mask > 0.5).to(image)", "return (mask[:1] > 0.5).to(image)", "test_degradations_inpaint.py"),
    Mutant("degraded-without-alpha", "runs/restorer.py", "alpha=alpha_like(alpha, pixels), lossy=False", "alpha=None, lossy=False", "test_restoring.py"),
    Mutant("condition-from-the-noisy-picture", "runs/restorer.py", "degradation.reduced(degradation.measurement(degraded))", "degradation.reduced(degraded.x_1)", "test_restoring.py"),
    Mutant("last-packed-mask-never", "degradations/masks.py", "torch.randint(len(packed), ()", "torch.randint(len(packed) - 1, ()", "test_degradations_inpaint.py"),
    Mutant("largest-freeform-hole-never", "degradations/masks.py", "draw.randint(least, most)", "draw.randint(least, max(least, most - 1))", "test_degradations_inpaint.py"),
    # augmentations of albumentations
    Mutant("augment-not-reseeded", "data/augmentation.py", '        step.transform.set_random_seed(key(seed, "augment", step.number))\n', "", "test_augmented_pairs.py"),
    Mutant("augment-one-seed-for-the-list", "data/augmentation.py", 'key(seed, "augment", step.number)', 'key(seed, "augment")', "test_augmented_pairs.py"),
    Mutant("augment-a-draw-for-each-side", "data/augmentation.py", 'done = self._apply(step, {name: self._unit(images[part]) for name, part in names.items()}, seed)', 'done = {name: self._apply(step, {"image": self._unit(images[part])}, seed + len(name))["image"] for name, part in names.items()}', "test_augmented_pairs.py"),
    Mutant("augment-needs-its-own-dtype", "data/augmentation.py", "values = np.rint(values).clip(0, np.iinfo(before.dtype).max)", "pass", "test_augmented_pairs.py"),
    Mutant("augment-mask-stays", "data/augmentation.py", 'mask = {"mask": _hole(done.pop("mask"), 0)} if "mask" in done else {}', 'mask = {"mask": images["mask"]} if done.pop("mask", None) is not None else {}', "test_augmented_pairs.py"),
    Mutant("augment-mask-filled", "data/augmentation.py", 'if geometric and "fill" in options:', "if False:", "test_augmented_pairs.py"),
    Mutant("augment-mixed-pixels-known", "data/augmentation.py", "np.where(changed, 255, _hole(images[\"mask\"]))", "np.where(changed, 0, _hole(images[\"mask\"]))", "test_augmented_pairs.py"),
    Mutant("augment-on-the-other-side", "data/augmentation.py", 'step.side in ("both", part)', 'step.side != part', "test_augmented_pairs.py"),
    Mutant("augment-validation", "recipe/recipe.py", "augmentation=self.build_augmentation() if training else None", "augmentation=self.build_augmentation()", "test_augmented_pairs.py"),
    Mutant("augment-any-name", "libraries.py", "if name not in members:", "if name is None:", "test_augmented_pairs.py"),
    # misaligned pairs
    Mutant("shift-the-other-way", "data/alignment.py", "spectra[0] * np.conj(spectra[1])", "np.conj(spectra[0]) * spectra[1]", "test_alignment.py"),
    Mutant("any-shift-believed", "data/alignment.py", "surface.max() <= SURE * surface.std()", "surface.max() < 0", "test_alignment.py"),
    Mutant("overlap-of-the-same-side", "data/alignment.py", "x_0[top + row :", "x_0[top :", "test_alignment.py"),
    Mutant("overlap-out-of-phase", "data/alignment.py", "min(by, 0) // grid * grid", "min(by, 0)", "test_alignment.py"),
    Mutant("shifted-pairs-as-they-are", "data/dataset.py", "if max(abs(row), abs(column)) <= 1:", "if True:", "test_alignment.py"),
    # schemas for editors
    Mutant("schema-takes-any-key", "recipe/json_schema.py", '"additionalProperties": any(option.name == LIBRARY_OPTIONS for option in options)', '"additionalProperties": True', "test_json_schema.py"),
    Mutant("schema-of-one-member-only", "recipe/json_schema.py", "for name in members.names()]", "for name in members.names()[:1]]", "test_json_schema.py"),
    # augmentations of kornia
    Mutant("kornia-unseeded", "degradations/augmentation.py", "with global_seed(seed, x_0.device):", "if seed:", "test_augmentation.py"),
    Mutant("kornia-one-seed-for-all", "degradations/augmentation.py", "seed = int(torch.randint(2**62, (), generator=one, device=one.device))", "seed = 0", "test_augmentation.py"),
    Mutant("kornia-in-another-range", "degradations/augmentation.py", "(precise(x_0) + 1) / 2", "precise(x_0)", "test_augmentation.py"),
    Mutant("kornia-leaves-half", "degradations/augmentation.py", 'sure = {"p": 1.0}', 'sure = {"p": 0.5}', "test_augmentation.py"),
    Mutant("kornia-any-name", "libraries.py", "if name not in members:", "if False:", "test_augmentation.py"),
    Mutant("kornia-text-for-a-number", "degradations/augmentation.py", 'if _has_text(value) and "str" not in annotation:', "if False:", "test_augmentation.py"),
    Mutant("kornia-array-for-a-number", "degradations/augmentation.py", "if isinstance(value, tuple) and not any(word in annotation for word in ARRAYS):", "if False:", "test_augmentation.py"),
    Mutant("kornia-options-not-in-the-protocol", "recipe/protocol.py", "    table = registry.DEGRADATIONS.gathered(table)\n", "", "test_augmentation.py"),
    # drawings
    Mutant("edges-slope-of-eight-pixels", "degradations/drawing.py", "[-1, 0, 1]]) / 8", "[-1, 0, 1]])", "test_drawing.py"),
    Mutant("canny-in-units-of-its-own", "degradations/drawing.py", "luma / (16 * threshold)", "luma / (2 * threshold)", "test_drawing.py"),
    Mutant("canny-without-weak-edges", "degradations/drawing.py", "0.2, 0.5, kernel_size=1", "0.5, 0.5, kernel_size=1", "test_drawing.py"),
    Mutant("edges-in-the-other-ink", "degradations/drawing.py", 'if self.ink == "white"', 'if self.ink == "black"', "test_drawing.py"),
    Mutant("edges-of-the-rough-photo", "degradations/drawing.py", "_smoothed(_luma(x_0[i : i + 1]), float(sigma[i]))", "_luma(x_0[i : i + 1])", "test_drawing.py"),
    Mutant("sketch-over-another-blur", "degradations/drawing.py", "-(k**2) / (2 * sigma**2)", "-(k**2) / sigma**2", "test_drawing.py"),
    Mutant("posterise-rounds", "degradations/drawing.py", "/ 2 * levels).floor()", "/ 2 * levels).round()", "test_drawing.py"),
    Mutant("halftone-loses-the-tone", "degradations/drawing.py", "torch.where(z < 0.5, 2 * z**2, 1 - 2 * (1 - z) ** 2)", "z", "test_drawing.py"),
    Mutant("halftone-one-angle-for-all", "degradations/drawing.py", "angle[:, None] + 30 *", "angle[:, None] + 0 *", "test_drawing.py"),
    Mutant("small-kernels-off-centre", "degradations/kernel_blur.py", "margin = (largest - pixels) // 2", "margin = 0", "test_degradations_operators.py"),
    Mutant("reach-of-the-first-radius", "degradations/kernel_blur.py", "_grid(float(radius.max()) + 0.5)", "_grid(float(radius[0]) + 0.5)", "test_degradations_operators.py"),
    Mutant("kornia-quality-of-the-first", "degradations/jpeg.py", "x_0.new_tensor(qualities)", "x_0.new_tensor(qualities[:1]).expand(len(qualities))", "test_degradations_operators.py"),
    Mutant("resize-rounds-down", "degradations/downsample.py", "(max(1, round(side * factor)) for side in x.shape[-2:])", "(max(1, int(side * factor)) for side in x.shape[-2:])", "test_degradations_operators.py"),
    Mutant("motion-rounds-down", "degradations/kernel_blur.py", "draws(\"length\").ceil() // 2 * 2 + 1", "draws(\"length\").floor() // 2 * 2 + 1", "test_degradations_operators.py"),
    Mutant("another-band-by-default", "degradations/inpaint.py", "brush_mask(height, width, self.area or (0.1, 0.2), generator)", "brush_mask(height, width, self.area or (0.2, 0.3), generator)", "test_degradations_inpaint.py"),
    Mutant("multiple-of-the-largest-member", "degradations/compose.py", "return math.lcm(*(member.multiple for member in self.members))", "return max(member.multiple for member in self.members)", "test_degradations_operators.py"),
    Mutant("offset-of-the-padded-size", "degradations/linear.py", "lambda x: operator.offset(x[..., :height, :width]),", "lambda x: operator.offset(x),", "test_guidances.py"),
    Mutant("stretched-without-room", "data/transforms.py", "(self.load_size, self.load_size) if self.load_size else self.size", "(self.load_size, self.load_size) if self.load_size and self.resize != \"stretch\" else self.size", "test_data.py"),
    Mutant("load-size-only-where-resized", "data/transforms.py", "if self.resize == \"none\" and self.load_size is None:", "if self.resize == \"none\":", "test_data.py"),
    Mutant("scale-of-the-other-side", "data/transforms.py", "scale = max(target[0] / height, target[1] / width)", "scale = max(target[1] / height, target[0] / width)", "test_data.py"),
    Mutant("middle-rounded-up", "data/transforms.py", "(have - wanted) // 2", "(have - wanted + 1) // 2", "test_data.py"),
    Mutant("load-size-below-the-longer-side", "data/transforms.py", "load_size < max(self.size)", "load_size < min(self.size)", "test_data.py"),
    Mutant("mixed-pixels-taken-for-known", "data/transforms.py", "stop = first + 4", "stop = first + 3", "test_data.py"),
    Mutant("rows-of-every-alias", "data/sources/lists.py", "if row[\"split\"] == names[0]]", "if row[\"split\"] in names]", "test_lists.py"),
    Mutant("test-is-val-first", "data/splits.py", "\"test\": (\"test\", \"testing\", \"val\"", "\"test\": (\"val\", \"test\", \"testing\"", "test_data.py"),
    Mutant("named-images-cut-training-by-an-alias", "data/splits.py", "return not (split_there and is_training(split))", "return not (split_there and split == \"train\")", "test_data.py"),
    Mutant("names-sorted", "data/splits.py", "return np.array(list(chosen), dtype=np.int64)", "return np.array(sorted(chosen), dtype=np.int64)", "test_data.py"),
    Mutant("parts-of-neighbours", "data/order.py", "part + parts * int(", "part * size + min(part, longer) + int(", "test_index.py"),
    Mutant("labels-of-the-first-rows", "data/sources/lists.py", "self._labels([rows[i] for i in chosen])", "self._labels(rows[: len(chosen)])", "test_lists.py"),
    Mutant("prefix-of-the-template-lost", "data/sources/lists.py", "before + path.stem + after + path.suffix", "path.stem + after + path.suffix", "test_lists.py"),
    Mutant("mask-of-the-small-image", "runs/batch.py", "scale = factor if degradation is None else factor * degradation.scale", "scale = factor", "test_restoring.py"),
    Mutant("first-sample-keyed-by-its-name", "data/dataset.py", "keyed = draw or (name,)", "keyed = draw if any(draw) else (name,)", "test_data.py"),
    Mutant("condition-in-its-whole-range", "data/dataset.py", "to_tensor(pixels, self.value_range) for part, pixels in cut.items()", "to_tensor(pixels, self.value_range if part != \"condition\" else None) for part, pixels in cut.items()", "test_data.py"),
    Mutant("own-condition-over-the-items", "data/dataset.py", "keyed) | out\n", "keyed)\n", "test_data.py"),
    Mutant("validation-of-the-training-size", "recipe/recipe.py", "size = self.data.size if training else self.data.validation_size or self.data.size", "size = self.data.size", "test_recipe.py"),
    Mutant("validation-drawn-by-the-training-seed", "recipe/recipe.py", "seed = self.train.seed if training else self.evaluate.seed", "seed = self.train.seed", "test_recipe.py"),
    Mutant("alpha-cut-at-8-bits", "runs/batch.py", "clip(0, np.iinfo(alpha.dtype).max)", "clip(0, 255)", "test_restoring.py"),
    Mutant("condition-restored-in-its-whole-range", "runs/batch.py", "batch[\"condition\"] = to_tensor(pixels, condition.value_range or settings.value_range)[None]", "batch[\"condition\"] = to_tensor(pixels)[None]", "test_restoring.py"),
    Mutant("clipped-at-black-of-another-range", "bridge/predictor.py", "x_0_hat.clamp(-1, 1) if clip", "x_0_hat.clamp(0, 1) if clip", "test_bridge.py"),
    Mutant("widths-of-the-first-row", "images/montage.py", "for row in cells if i < len(row)) for i", "for row in cells[:1] if i < len(row)) for i", "test_montage.py"),
    Mutant("words-over-other-columns", "images/montage.py", "for text, width in zip(header, widths, strict=False)]", "for text, width in zip(header, widths[::-1], strict=False)]", "test_montage.py"),
    Mutant("second-of-two-channels-shown", "images/pixels.py", "if x.shape[0] != 2 else x[:1]", "if x.shape[0] != 2 else x[1:]", "test_montage.py"),
    Mutant("deep-pictures-turned-otherwise", "images/files.py", "if orientation in (3, 4, 7, 8):", "if orientation in (3, 4, 5, 8):", "test_images.py"),
    Mutant("regression-without-known-pixels", "methods/regression.py", "            mask=batch.get(\"mask\"),\n", "", "test_methods.py"),
    Mutant("regression-taught-by-the-clipped", "methods/regression.py", "self._answer(batch, clip=False)", "self._answer(batch, clip=self.clip)", "test_methods.py"),
    Mutant("companions-keep-their-first-rate", "training/state.py", "            group[\"lr\"] = lr\n", "            group[\"lr\"] = lr if name == NETWORK else group[\"lr\"]\n", "test_stepping.py"),
    Mutant("one-generator-cloned", "randomness.py", "return [generator] * batch", "return [generator.clone_state() for _ in range(batch)]", "test_randomness.py"),
    Mutant("generators-left-over", "randomness.py", "if len(generator) != x.shape[0]:", "if len(generator) < x.shape[0]:", "test_randomness.py"),
    Mutant("consistency-of-the-last-restoration", "metrics/consistency.py", "sample.restored[:1].double()", "sample.restored[-1:].double()", "test_metrics_items.py"),
    Mutant("guided-answer-clipped", "bridge/predictor.py", "            x_0_hat = guide(look(x_t, t), x_t, t)\n", "            x_0_hat = guide(look(x_t, t), x_t, t).clamp(-1, 1)\n", "test_guidances.py"),
    Mutant("hole-of-the-padded-size", "guidance/base.py", "mask = None if degraded.mask is None else degraded.mask[..., :height, :width]", "mask = degraded.mask", "test_guidances.py"),
    Mutant("condition-left-out-of-the-measurement", "methods/bridge.py", "Degraded(batch[\"x_1\"], batch.get(\"mask\"), batch.get(\"condition\"))", "Degraded(batch[\"x_1\"], batch.get(\"mask\"))", "test_guidances.py"),
    Mutant("estimate-over-the-users-moments", "training/identity.py", "moments | recipe.target", "recipe.target | moments", "test_resuming.py"),
    Mutant("crop-out-never-at-the-far-edge", "degradations/inpaint.py", "int(shift * (side - length + 1))", "int(shift * (side - length))", "test_degradations_inpaint.py"),
    Mutant("folder-mask-threshold", "degradations/masks.py", "to_mask(mask_of(from_pil(image))[0])[0].numpy()", "(mask_of(from_pil(image))[0][..., 0] > 128)", "test_degradations_inpaint.py"),
    Mutant("mask-not-mirrored", "data/transforms.py", "self._cut(pixels, top, left, mirrored) for name", "self._cut(pixels, top, left, mirrored and name != \"mask\") for name", "test_data.py"),
    Mutant("mask-of-another-window", "data/transforms.py", "self._cut(pixels, top, left, mirrored) for name", "self._cut(pixels, top, left * (name != \"mask\"), mirrored) for name", "test_data.py"),
    Mutant("hold-out-leaks-under-an-alias", "data/splits.py", "training = is_training(split)", "training = split == \"train\"", "test_data.py"),
    Mutant("train-rows-alone-are-no-dataset", "data/sources/lists.py", " and not (holdout and all(is_training(row[\"split\"]) for _, row in rows))", "", "test_lists.py"),
    Mutant("holdout-cuts-lists-of-their-own", "data/sources/lists.py", "holdout if shared else 0.0", "holdout", "test_lists.py"),
    Mutant("16-bit-mask-by-half-of-8-bits", "images/pixels.py", "return float(np.iinfo(dtype).max / 2) if", "return 255 / 2 if", "test_images.py"),
    Mutant("mask-threshold-moved", "images/pixels.py", "(pixels > half)", "(pixels >= half)", "test_images.py"),
    Mutant("step-schedule-off-by-one", "training/schedule.py", "(step // settings.lr_step)", "((step + 1) // settings.lr_step)", "test_schedule.py"),
    Mutant("later-module-forgives-the-bad-one", "training/state.py", "self._bad = torch.maximum(self._bad, (~norm.detach().isfinite()).to(self._bad.dtype))", "self._bad = (~norm.detach().isfinite()).to(self._bad.dtype)", "test_skipping.py"),
    Mutant("dropout-of-every-step-alike", "training/step.py", "\"dropout\", part.first,", "\"dropout\", part.first % state.settings.batch_size,", "test_training.py"),
    Mutant("dropout-of-every-micro-batch-alike", "training/step.py", "\"dropout\", part.first,", "\"dropout\", parts[0].first,", "test_training.py"),
    Mutant("alpha-enlarged-by-nearest", "runs/batch.py", "Image.Resampling.BICUBIC", "Image.Resampling.NEAREST", "test_restoring.py"),
    Mutant("ot-ode-released-with-0.3", "runs/imports.py", "0.3 if name == \"i2sb\" else 1.0", "0.3", "test_hostile.py"),
    # the web page
    Mutant("app-forgets-the-seed", "app/restoration.py", "seed=request.seed,\n        mask", "mask", "test_app.py"),
    Mutant("app-forgets-nfe", "app/restoration.py", "nfe=request.nfe,", "", "test_app.py"),
    Mutant("app-forgets-the-sampler", "app/restoration.py", "run = with_sampler(run, request.sampler)", "with_sampler(run, request.sampler)", "test_app.py"),
    Mutant("app-operators-read-files", "app/restoration.py", "for inner in value:\n            _refuse_files(inner)", "pass", "test_app.py"),
    Mutant("app-has-no-pixel-limit", "app/restoration.py", "check_size(file, limits, scale)", "pass", "test_app.py"),
    Mutant("app-has-no-nfe-limit", "app/restoration.py", "if not 1 <= value <= most:", "if value < 1:", "test_app.py"),
    Mutant("app-walk-has-all-pixels", "app/restoration.py", "trajectory_side=WALK_SIDE,", "", "test_app.py"),
    Mutant("app-limit-stays", "app/limits.py", "Image.MAX_IMAGE_PIXELS = before", "pass", "test_app.py"),
    Mutant("app-empty-field", "app/actions.py", "if value is None:\n        raise UserError(f\"{name}: the field", "if False:\n        raise UserError(f\"{name}: the field", "test_app.py"),
    Mutant("app-shows-paths", "app/actions.py", "text = text.replace(f\"{folder}/\", \"\").replace(folder, Path(folder).name)", "pass", "test_app.py"),
    Mutant("app-mask-is-inverted", "app/pictures.py", "layer[..., 3] > 127", "layer[..., 3] <= 127", "test_app.py"),
    Mutant("app-mask-keeps-one-layer", "app/pictures.py", "unknown |= np.asarray(scaled)", "unknown = np.asarray(scaled)", "test_app.py"),
    Mutant("app-forgets-the-mask", "app/restoration.py", "mask=None if request.degrade else painted or hole", "mask=hole", "test_app.py"),
    # cost of a training
    Mutant("cost-step-without-gradients", "training/cost.py", "loss.backward(inputs=trained[name])", "pass", "test_cost.py"),
    Mutant("cost-of-the-first-turn", "training/cost.py", "if hasattr(state.method, \"trained_at\") else [0.0]", "if False else [0.0]", "test_cost.py"),
    Mutant("cost-maps-with-weights", "training/cost.py", "if id(tensor) not in weights and id(base) not in weights:", "if True:", "test_cost.py"),
    Mutant("cost-maps-of-whole-batch", "training/cost.py", "kept_bytes(network, recipe, 2) - kept_bytes(network, recipe, 1)", "kept_bytes(network, recipe, 2)", "test_cost.py"),
    Mutant("memory-without-the-state", "training/cost.py", "needed = processes * cost.state + batch", "needed = batch", "test_cost.py"),
    Mutant("memory-of-the-whole-batch", "training/cost.py", "processes * (settings.micro_batch or settings.batch_size))", "settings.batch_size)", "test_cost.py"),
    Mutant("memory-of-one-process", "training/cost.py", "needed = processes * cost.state", "needed = cost.state", "test_cost.py"),
    Mutant("memory-of-a-list", "training/cost.py", "if type(channels) is not int:", "if channels is None:", "test_cost.py"),
    Mutant("memory-unsaid", "training/trainer.py", "        if note is not None:\n            report(note)", "        pass", "test_cost.py"),
    Mutant("cost-state-without-average", "training/cost.py", "4 * (3 * sum(sizes.values()) + sizes[NETWORK]) + gradients", "4 * 3 * sum(sizes.values()) + gradients", "test_cost.py"),
    Mutant("cost-frozen-gradients", "training/cost.py", "[p for p in module.parameters() if p.requires_grad]", "list(module.parameters())", "test_cost.py"),
    Mutant("cost-ring-sends-all", "training/cost.py", "2 * (processes - 1) / processes * self.gradients", "2 * self.gradients", "test_cost.py"),
    # outputs of a mean on disk
    Mutant("mean-cache-of-x-1-alone", "methods/mean.py", "self.cache(list(one.values()), partial(", 'self.cache([one["x_1"]], partial(', "test_mean.py"),
    Mutant("mean-cache-in-batches", "methods/mean.py", "partial(self._answer, one, generator)", "lambda i=i: self._answer(given, generator)[i : i + 1]", "test_mean.py"),
    Mutant("mean-cache-while-restoring", "methods/mean.py", 'if self.cache is None or "x_0" not in batch:', "if self.cache is None:", "test_mean.py"),
    Mutant("mean-cache-of-random-crops", "training/first_stage.py", 'if recipe.data.augment or recipe.data.crop == "random":', "if recipe.data.augment:", "test_mean.py"),
    Mutant("mean-cache-of-drawn-noise", "training/first_stage.py", "if degradation is not None and _draws(degradation, recipe):", "if False:", "test_mean.py"),
    Mutant("mean-cache-resumed-without", "training/preparation.py", "load_mean(folder, recipe, device=device)\n    mean = with_mean_cache(mean, recipe, folder)", "load_mean(folder, recipe, device=device)", "test_mean.py"),
    Mutant("signal-stack-of-openvino", "networks/openvino.py", "libc.sigaltstack(ctypes.byref(before), None)", "pass", "test_backend.py"),
    # decisions and formulas that a second review found untested
    Mutant("rain-leans-the-other-way", "degradations/weather.py", "motion_kernels(length, angle, torch", "motion_kernels(length, -angle, torch", "test_degradations_operators.py"),
    Mutant("rain-length-not-recorded", "degradations/weather.py", "            draws.record(\"length\", length)", "            pass", "test_degradations_operators.py"),
    Mutant("low-light-of-negative-light", "degradations/sensor.py", "dark = exposure * ((x_0 + 1) / 2).clamp(min=0) ** gamma", "dark = exposure * ((x_0 + 1) / 2) ** gamma", "test_degradations_operators.py"),
    Mutant("shot-noise-of-negative-light", "degradations/sensor.py", "photons * ((x_0 + 1) / 2).clamp(min=0)", "photons * ((x_0 + 1) / 2)", "test_degradations_operators.py"),
    Mutant("low-light-clamped-at-white", "degradations/sensor.py", "dark = exposure * ((x_0 + 1) / 2).clamp(min=0) ** gamma", "dark = exposure * ((x_0 + 1) / 2).clamp(0, 1) ** gamma", "test_degradations_operators.py"),
    Mutant("read-noise-of-the-first", "degradations/sensor.py", "column(draws(\"read\"), x_0)", "column(draws(\"read\")[:1].expand(len(x_0)), x_0)", "test_degradations_operators.py"),
    Mutant("measurement-of-a-mixture-with-its-noise", "degradations/mixture.py", "return self.members[0].measurement(degraded) if self.condition_channels else degraded.x_1", "return degraded.x_1", "test_degradations_operators.py"),
    Mutant("mixture-not-reduced", "degradations/mixture.py", "return self.members[0].reduced(x_1) if self.scale > 1 else x_1", "return x_1", "test_degradations_operators.py"),
    Mutant("quantised-to-8-bits-at-most", "degradations/quantise.py", "highest = 2**self.bits - 1", "highest = 2**min(self.bits, 8) - 1", "test_degradations_operators.py"),
    Mutant("motion-direction-of-the-first", "degradations/kernel_blur.py", "direction[i : i + 1]", "direction[:1]", "test_degradations_operators.py"),
    Mutant("chain-not-reduced", "degradations/compose.py", "return self.members[-1].reduced(x_1) if self.scale > 1 else x_1", "return x_1", "test_degradations_operators.py"),
    Mutant("measurement-of-a-chain-with-its-noise", "degradations/compose.py", "return self._preparer.measurement(degraded) if self.condition_channels else degraded.x_1", "return degraded.x_1", "test_degradations_operators.py"),
    Mutant("inverse-bridge-unweighted", "methods/distillation.py", "if self.curriculum.weight != \"uniform\":", "if False:", "test_distillation.py"),
    Mutant("inverse-bridge-of-known-pixels", "methods/distillation.py", "return (squares if mask is None else squares * mask).mean()", "return squares.mean()", "test_distillation.py"),
    Mutant("inverse-bridge-forgets-the-label", "methods/distillation.py", "condition, label = condition_of(batch, self.condition), label_of(batch, self.label)", "condition, label = condition_of(batch, self.condition), label_of(batch, self.label) * 0", "test_distillation.py"),
    Mutant("inverse-bridge-learns-from-x-1-alone", "methods/distillation.py", "on_grid(1 - rand((x_0.shape[0],), generator), self.grid(self.process, self.steps))", "on_grid(1 - rand((x_0.shape[0],), generator), self.grid(self.process, 1))", "test_distillation.py"),
    Mutant("label-lost-in-latents", "methods/latent.py", "for name in (\"number\", \"label\") if", "for name in (\"number\",) if", "test_latent.py"),
    Mutant("cdsb-steps-count-by-their-noise", "methods/cdsb.py", "        error = error / expand(chain.variances[k], x)\n", "", "test_cdsb.py"),
    Mutant("cdsb-without-its-clip", "methods/cdsb.py", "predict_x0 = self._predict_x0(batch, clip=self.clip)", "predict_x0 = self._predict_x0(batch)", "test_cdsb.py"),
    Mutant("cdsb-on-the-uniform-grid", "methods/cdsb.py", "grid=registry.TIME_GRIDS.get(recipe.sample.grid),", "", "test_cdsb.py"),
    Mutant("cdsb-without-the-samplers-options", "methods/cdsb.py", "sampler_options=recipe.sampler_options(),", "", "test_cdsb.py"),
    Mutant("number-lost-in-latents", "methods/latent.py", "for name in (\"number\", \"label\") if", "for name in (\"label\",) if", "test_latent.py"),
    Mutant("tile-label-of-another-image", "bridge/tiles.py", "label.repeat(len(part))", "label.repeat_interleave(len(part))", "test_tiles.py"),
    Mutant("tile-dropout-of-a-row-alike", "bridge/tiles.py", "key(seed, \"tile\", top, part[0].start)", "key(seed, \"tile\", top)", "test_tiles.py"),
    Mutant("tile-dropout-of-a-column-alike", "bridge/tiles.py", "key(seed, \"tile\", top, part[0].start)", "key(seed, \"tile\", part[0].start)", "test_tiles.py"),
    Mutant("tile-label-lost", "bridge/tiles.py", "batch=batch, seed=seed, label=label)", "batch=batch, seed=seed)", "test_tiles.py"),
    Mutant("condition-cut-as-the-target", "data/dataset.py", "{part: second for part, (_, second) in cut.items()}", "{part: second if part == \"x_1\" else overlap_of(images[part], images[part], (row, column))[0] for part, (_, second) in cut.items()}", "test_alignment.py"),
    Mutant("stride-of-the-larger-network", "methods/geometry.py", "stride = math.lcm(geometry[0], other[0])", "stride = max(geometry[0], other[0])", "test_methods.py"),
    Mutant("smallest-side-off-the-stride", "methods/geometry.py", "-(-max(geometry[1], other[1]) // stride) * stride", "max(geometry[1], other[1])", "test_methods.py"),
    Mutant("smallest-side-of-latents", "methods/geometry.py", "geometry = geometry[0] * latent.autoencoder.factor, geometry[1] * latent.autoencoder.factor", "geometry = geometry[0] * latent.autoencoder.factor, geometry[1]", "test_methods.py"),
    Mutant("number-lost-in-a-prior", "methods/prior.py", "for name in (\"number\", \"label\", \"direction\") if", "for name in (\"label\", \"direction\") if", "test_methods.py"),
    Mutant("condition-scale-lost-in-latents", "methods/latent.py", "scale: float = getattr(self.method, \"condition_scale\", 1.0)\n", "scale: float = 1.0\n", "test_latent.py"),
    Mutant("regression-forgets-the-label", "methods/regression.py", "label=label_of(batch, self.label),", "", "test_methods.py"),
    Mutant("best-of-equals-is-the-later", "training/validation.py", "return value > self.best.value if", "return value >= self.best.value if", "test_best.py"),
    Mutant("smallest-distance-is-the-worst", "training/validation.py", "else value < self.best.value", "else value > self.best.value", "test_best.py"),
    Mutant("kid-group-counts-as-the-whole", "metrics/kernel.py", "mean + np.concatenate(without) / len(parts)", "mean + np.concatenate(without)", "test_metrics_distribution.py"),
    Mutant("kid-partners-of-the-first-group-alone", "metrics/kernel.py", "both = part[part < pairs]", "both = part[part < min(pairs, BLOCK)]", "test_metrics_distribution.py"),
    Mutant("a-round-of-the-same-images", "evaluation/search.py", "while size < images:", "while size <= images:", "test_tune.py"),
    Mutant("tuned-error-by-n", "evaluation/search.py", "statistics.stdev(changes) / math.sqrt", "statistics.pstdev(changes) / math.sqrt", "test_tune.py"),
    Mutant("tuned-error-of-one-image", "evaluation/search.py", "statistics.stdev(changes) / math.sqrt(len(changes)) if", "statistics.stdev(changes) if", "test_tune.py"),
    Mutant("tuned-equal-infinities-left-out", "evaluation/search.py", "if not math.isnan(a - b) or a == b]", "if not math.isnan(a - b)]", "test_tune.py"),
    Mutant("mixture-noise-of-the-forward-sde", "bridge/proposals.py", "std = torch.where(chosen, forward.std, posterior.std)", "std = forward.std", "test_proposals.py"),
    Mutant("mixture-noise-of-the-posterior", "bridge/proposals.py", "std = torch.where(chosen, forward.std, posterior.std)", "std = posterior.std", "test_proposals.py"),
    Mutant("hidden-colours-of-16-bits-are-dark", "images/pixels.py", "white = np.iinfo(picture.pixels.dtype).max\n    return np.where", "white = 255\n    return np.where", "test_images.py"),
    Mutant("shift-in-pixels-of-the-thumbnail", "data/alignment.py", "return Alignment(turns, (row * step, column * step), step", "return Alignment(turns, (row, column), step", "test_alignment.py"),
    Mutant("tall-images-left-tall", "images/montage.py", "factor = min(side / (len(row) * width), side / height)", "factor = side / (len(row) * width)", "test_montage.py"),
    Mutant("floats-far-above-their-range", "images/inputs.py", "most > high + room", "most > high + 10 * room", "test_inputs.py"),
    Mutant("floats-far-below-their-range", "images/inputs.py", "least < low - room", "least < low - 10 * room", "test_inputs.py"),
]  # fmt: skip


TOKEN = re.compile(r'''"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*|\w+|[^\w\s]''')


def tokens(text: str) -> list[re.Match[str]]:
    """The tokens of code, without comments and without commas before a closing bracket: what a formatter may change."""
    found = [token for token in TOKEN.finditer(text) if not token.group().startswith("#")]
    after = [token.group() for token in found[1:]] + [""]
    return [token for token, then in zip(found, after, strict=True) if token.group() != "," or then not in list(")]}")]


def places(text: str, fragment: str) -> list[tuple[int, int]]:
    """Where a fragment of code stands in a text, whatever the spaces and line breaks: (start, end) of each place."""
    within, wanted = tokens(text), [token.group() for token in tokens(fragment)]
    words = [token.group() for token in within]
    starts = [i for i in range(len(words) - len(wanted) + 1) if words[i : i + len(wanted)] == wanted]
    return [(within[i].start(), within[i + len(wanted) - 1].end()) for i in starts]


@functools.cache
def syntax(text: str) -> str:
    """The syntax tree of a file, as text."""
    return ast.dump(ast.parse(text))


def planted(mutant: Mutant, text: str) -> str:
    """The file's text with the mistake in it: as written, or else wherever a formatter has put the same tokens.

    Raises:
        SystemExit: The fragment is not there exactly once, or the result is no Python, or the same program.
    """
    count = text.count(mutant.right)
    if count == 1:
        changed = text.replace(mutant.right, mutant.wrong)
    else:
        found = places(text, mutant.right) if count == 0 else [(0, 0)] * count
        if len(found) != 1:
            raise SystemExit(f"{mutant.name}: its place in {mutant.file} is there {len(found)} times")
        ((start, end),) = found
        changed = text[:start] + mutant.wrong.strip() + text[end:]
    if mutant.file.endswith(".py"):
        try:
            same = ast.dump(ast.parse(changed)) == syntax(text)
        except SyntaxError as error:
            raise SystemExit(f"{mutant.name}: {mutant.file} with it is no Python: {error}") from None
        if same:
            raise SystemExit(f"{mutant.name}: {mutant.file} is the same program with it")
    return changed


@functools.cache
def claims(file: str) -> list[tuple[str, str]]:
    """(name, what it says to kill) of each test of a file."""
    path = next((ROOT / "tests").rglob(file))
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            said = [line.split("kills:")[1] for line in lines[first - 1 : node.end_lineno] if "kills:" in line]
            found.append((f"{path.relative_to(ROOT)}::{node.name}", " ".join(said)))
    return found


def killers(mutant: Mutant) -> list[str]:
    """The tests that name a mutant ("kills: NAME").

    Raises:
        SystemExit: There is none.
    """
    name = re.compile(rf"(?<![\w-]){re.escape(mutant.name)}(?![\w-])")
    found = [test for file in mutant.tests.split() for test, said in claims(file) if name.search(said)]
    if not found:
        raise SystemExit(f"{mutant.name} is named by no test of {mutant.tests}")
    return found


def check(mutants: list[Mutant]) -> None:
    """Show that every mutant has its own name, and that these apply and are named by one of their tests ("kills: NAME").

    Raises:
        SystemExit: One does not; the message names it.
    """
    names = [mutant.name for mutant in MUTANTS]
    if len(set(names)) != len(names):
        raise SystemExit(f"two mutants have one name: {sorted({name for name in names if names.count(name) > 1})}")
    for mutant in mutants:
        planted(mutant, (ROOT / "i2i_bridge" / mutant.file).read_text(encoding="utf-8"))
        killers(mutant)


class Seen:
    """A plug-in of pytest that counts the tests that passed."""

    passed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """After each part of a test."""
        self.passed += report.when == "call" and report.passed


class Workplace:
    """A copy of the repository in which the tests run, with a mistake planted or none.

    A run is a fork of this process, which has imported what the package needs from others: otherwise each of a thousand
    runs would begin with ten seconds of imports.
    """

    def __init__(self, folder: Path, source: Path = ROOT) -> None:
        self.root = folder / "copy"
        self.log = folder / "log"
        ignore = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")

        def ignored(folder: str, names: list[str]) -> set[str]:
            # The user's trained runs, which may be gigabytes; not the package i2i_bridge/runs.
            return ignore(folder, names) | ({"runs"} if Path(folder) == ROOT else set())

        shutil.copytree(source, self.root, ignore=ignored if source == ROOT else None)

    def start(self, tests: list[str], mutant: Mutant | None = None) -> int:
        """Begin a run of tests; its process, which ends with pytest's exit code."""
        if mutant is not None:
            file = self.root / "i2i_bridge" / mutant.file
            file.write_text(planted(mutant, file.read_text(encoding="utf-8")), encoding="utf-8")
            # Otherwise one of the same second and size would count as the file's.
            for stale in file.parent.glob(f"__pycache__/{file.stem}.*.pyc"):
                stale.unlink()
        sys.stdout.flush()
        if (process := os.fork()) == 0:
            os.setsid()
            with self.log.open("wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            os.chdir(self.root)
            os.environ["PYTHONPATH"] = str(self.root)
            site = (ROOT / ".venv").resolve()
            kept = [
                path
                for path in sys.path
                if (at := Path(path).resolve()).is_relative_to(site) or not at.is_relative_to(ROOT)
            ]
            sys.path[:] = [str(self.root), *kept]
            sys.dont_write_bytecode = mutant is not None
            code, seen = 3, Seen()
            try:
                code = int(__import__("pytest").main(["-x", "-q", *tests], [seen])) or (0 if seen.passed else SKIPPED)
            finally:
                sys.stdout.flush()
                os._exit(code)
        return process

    def said(self) -> str:
        """The end of what the last run printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def restore(self, mutant: Mutant) -> None:
        """Take a planted mistake out again."""
        shutil.copyfile(ROOT / "i2i_bridge" / mutant.file, self.root / "i2i_bridge" / mutant.file)


def ended(runs: dict[int, float]) -> tuple[int, int]:
    """Wait for one of the runs (process: when it began); (process, exit code), and 1 for one that is killed as it HANGS."""
    while True:
        for process, began in runs.items():
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                return process, os.waitstatus_to_exitcode(status)
            if time.monotonic() - began > HANGS:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return process, 1
        time.sleep(0.02)


def workplaces(mutants: list[Mutant], folder: Path) -> list[Workplace]:
    """Copies for the runs, one for each processor, in which the tests of the mutants pass.

    Raises:
        SystemExit: One fails without a mistake: it would "kill" everything.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("I2I_SHARED", str(ROOT.parent / "shared"))
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    gc.freeze()  # Otherwise every run collects the garbage of these imports.
    first = Workplace(folder / "0")
    _, code = ended({first.start(sorted({test for mutant in mutants for test in killers(mutant)})): math.inf})
    if code not in (0, SKIPPED):
        raise SystemExit(f"a test fails without any mutant; mend that first:\n{first.said()}")
    # The others have the bytecode of that run.
    others = range(1, min(len(os.sched_getaffinity(0)), len(mutants)))
    return [first, *(Workplace(folder / str(index), first.root) for index in others)]


def survivors(mutants: list[Mutant], free: list[Workplace]) -> list[Mutant]:
    """Those that no test catches, skipped ones among them; each verdict is printed."""
    waiting, running, began, found = list(mutants), {}, {}, []
    while waiting or running:
        while waiting and free:
            mutant, workplace = waiting.pop(0), free.pop()
            process = workplace.start(killers(mutant), mutant)
            running[process], began[process] = (mutant, workplace), time.monotonic()
        process, code = ended(began)
        del began[process]
        mutant, workplace = running.pop(process)
        if code == 0 or code > 1:  # below 0: ended by a signal
            found.append(mutant)
        said = {0: "SURVIVED", SKIPPED: "SKIPPED "}.get(code, "NOT RUN " if code > 1 else "killed  ")
        print(f"{said}  {mutant.name}" + (f"\n{workplace.said()}" if said == "NOT RUN " else ""), flush=True)
        workplace.restore(mutant)
        free.append(workplace)
    return found


def main(names: list[str]) -> int:
    """Runs the mutants; the number of those that are not killed."""
    if names == ["--check"]:
        check(MUTANTS)
        return 0
    unknown = sorted(set(names) - {mutant.name for mutant in MUTANTS})
    if unknown:
        raise SystemExit(f"no mutant is called {', '.join(unknown)}")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    check(chosen)
    with tempfile.TemporaryDirectory() as folder:
        left = survivors(chosen, workplaces(chosen, Path(folder))) if chosen else []
    print(f"{len(chosen) - len(left)} of {len(chosen)} mutants killed")
    return len(left)


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
