"""Plants each known mistake in a copy of the package and shows that the tests kill it.

    make mutants                       all of them
    python tests/mutants.py NAME...    some of them

Run by hand and before a release. `tests/test_mutants.py` sees to it that every mutant still applies.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A planted mistake: in `file`, `right` becomes `wrong`; one of `tests` must fail."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


MUTANTS = [
    # processes
    Mutant("swapped-weights", "processes.py", "Coefficients(sigma2 / total, sigma_bar2 / total,", "Coefficients(sigma_bar2 / total, sigma2 / total,", "test_processes.py"),
    Mutant("missing-root", "processes.py", "torch.sqrt(sigma2) * torch.sqrt(sigma_bar2 / total)", "sigma2 * sigma_bar2 / total", "test_processes.py"),
    Mutant("inclusive-cumulative-sum", "processes.py", "torch.where(t <= 0.5, self._from_end(t),", "torch.where(t <= 0.5, self._from_end(t) + 1e-4,", "test_processes.py"),
    Mutant("schedule-not-mirrored", "processes.py", "total - self._from_end(1 - t))", "self._from_end(t))", "test_processes.py"),
    Mutant("noise-kept", "processes.py", "return Coefficients(a, b, torch.zeros_like(c))", "return Coefficients(a, b, c)", "test_processes.py"),
    Mutant("vp-naive-difference", "processes.py", "left = (1 - times) * (self.beta_min + self.beta_d * (1 + times) / 2)", "left = self._exponent(torch.ones_like(times)) - done", "test_processes.py"),
    Mutant("ve-sigma-squared", "processes.py", "return self.sigma_max * as_times(t)", "return self.sigma_max * as_times(t) ** 2", "test_processes.py"),
    Mutant("prior-exponent-without-half", "processes.py", "(self.beta_max - self.beta_min) * times / 2)\n        return", "(self.beta_max - self.beta_min) * times)\n        return", "test_processes.py"),
    Mutant("prior-forward-is-not-its-own", "processes.py", "return self.coefficients(t).c", "return self.coefficients(t).b", "test_processes.py"),
    Mutant("official-exclusive-sum", "official_grid.py", "sigma2 = beta.cumsum(0)", "sigma2 = beta.cumsum(0) - beta", "test_official_grid.py"),
    Mutant("grid-index-rounds-up", "official_grid.py", "self.interval - 1e-9).ceil()", "self.interval).ceil()", "test_official_grid.py"),
    # targets and proposals
    Mutant("division-by-sigma-squared", "targets.py", "torch.zeros_like(sigma), -sigma, one)", "torch.zeros_like(sigma), -sigma.square(), one)", "test_targets.py test_bridge.py"),
    Mutant("c-skip-squared", "targets.py", "covariance = b * self.var_0 + a * self.cov_01", "covariance = b * self.var_0 + a * self.cov_01**2", "test_targets.py"),
    Mutant("c-out-without-root", "targets.py", "torch.sqrt(rest / variance), 1 / torch.sqrt(variance)", "rest / variance, 1 / torch.sqrt(variance)", "test_targets.py"),
    Mutant("eps-adds-the-source", "targets.py", "Weights(1 / b, -a / b,", "Weights(1 / b, a / b,", "test_targets.py"),
    Mutant("moments-about-zero", "targets.py", "product - mean_0 * mean_1", "product", "test_targets.py"),
    Mutant("mixture-ratio-inverted", "proposals.py", "generator) < self.forward_ratio", "generator) >= self.forward_ratio", "test_proposals.py"),
    # samplers
    Mutant("off-by-one-grid", "time_grids.py", "    return torch.linspace(1, 0, _checked(nfe) + 1, dtype=torch.float64)\n", "    return torch.linspace(1, 0, _checked(nfe) + 2, dtype=torch.float64)\n", "test_time_grids.py test_samplers.py"),
    Mutant("noiseless-level-squared", "time_grids.py", "torch.log(a if process.deterministic else c)", "torch.log(a**2 if process.deterministic else c)", "test_samplers.py"),
    Mutant("start-without-x-1", "samplers.py", "return first.base * x_1 + first.n", "return first.n", "test_samplers.py"),
    Mutant("last-step-weight", "samplers.py", "return Update(0.0, 1.0, 0.0, 0.0)", "return Update(0.0, 0.999, 0.0, 0.0)", "test_samplers.py"),
    Mutant("boot-noise-dropped", "samplers.py", "return Update(t.base, t.b, 0.0, t.n)", "return Update(t.base, t.b, 0.0, 0.0)", "test_samplers.py"),
    Mutant("posterior-variance", "samplers.py", "r, eta * t.n * math.sqrt(fresh))", "r, eta * t.n * fresh)", "test_samplers.py"),
    Mutant("eta-only-on-noise", "samplers.py", "math.sqrt((1 - eta) * (1 + eta) + eta * eta * kept)", "math.sqrt(kept)", "test_samplers.py"),
    Mutant("share-kept-by-subtraction", "samplers.py", "math.sqrt((1 - eta) * (1 + eta) + eta * eta * kept)", "math.sqrt(1 - eta * eta * fresh)", "test_processes.py"),
    Mutant("hidden-extra-call", "samplers.py", "        x = _apply(update(s, t, 0.0 if process.deterministic else eta), x_1, x_0_hat, x, generator)", "        predict_x0(x, _at(s.t, x))\n        x = _apply(update(s, t, 0.0 if process.deterministic else eta), x_1, x_0_hat, x, generator)", "test_samplers.py"),
    Mutant("heun-is-euler", "samplers.py", "change / h if h else None", "0 * change", "test_samplers.py"),
    Mutant("2m-slope-sign", "samplers.py", "else (x_0_hat - before) / h_before", "else (before - x_0_hat) / h_before", "test_samplers.py"),
    Mutant("slope-over-an-empty-step", "samplers.py", "return 0 < h < math.inf", "return h < math.inf", "test_samplers.py"),
    Mutant("2m-sde-no-correction", "samplers.py", "bracket = x_0_hat + h / (2 * h_before) * (x_0_hat - before)", "bracket = x_0_hat", "test_samplers.py"),
    Mutant("2m-sde-gain-of-eta-one", "samplers.py", "-t.b * math.expm1(-h - decay)", "-t.b * math.expm1(-2 * h)", "test_samplers.py"),
    Mutant("2m-sde-noise-of-eta-one", "samplers.py", "math.sqrt(-math.expm1(-2 * decay))", "math.sqrt(-math.expm1(-2 * h))", "test_samplers.py"),
    # masks and conditions
    Mutant("inverted-mask", "guidance.py", "torch.where(mask > 0.5, x_0_hat, x_1)", "torch.where(mask < 0.5, x_0_hat, x_1)", "test_bridge.py"),
    Mutant("mask-forgotten-in-loss", "methods/bridge.py", "(error if mask is None else error * mask).mean()", "error.mean()", "test_bridge.py"),
    Mutant("condition-dropped", "methods/base.py", "    if not wanted:\n", "    if wanted or not wanted:\n", "test_bridge.py"),
    # guidance
    Mutant("ddnm-away-from-y", "guidances/consistency.py", "look.x_0_hat + y.operator.inverse(", "look.x_0_hat - y.operator.inverse(", "test_guidances.py"),
    Mutant("damping-forgotten", "degradations/linear.py", "        if damping == 0:\n", "        if damping == damping:\n", "test_guidances.py"),
    Mutant("measurement-noise-forgotten", "guidances/consistency.py", "(self.noise_std**2 + y.std**2)", "(self.noise_std**2)", "test_guidances.py"),
    Mutant("back-projection-uphill", "guidances/consistency.py", "look.x_0_hat + self.step *", "look.x_0_hat - self.step *", "test_guidances.py"),
    Mutant("padding-measured", "guidances/base.py", "height, width = padded if size is None else size", "height, width = padded", "test_guidances.py"),
    Mutant("pigdm-sign", "guidances/gradients.py", "c * c / (b * spread)) * g", "c * c / (b * spread)) * -g", "test_guidances.py"),
    Mutant("pigdm-without-tweedie", "guidances/gradients.py", "c * c / (b * spread)", "1 / spread", "test_guidances.py"),
    Mutant("pigdm-r-t-of-one", "guidances/base.py", "return variance * c * c / (b * b * variance + c * c)", "return variance * c * c / (b * b + c * c)", "test_guidances.py"),
    Mutant("pigdm-noise-over-nothing", "guidances/gradients.py", "(self.noise_std**2 + y.std**2) / spread", "(self.noise_std**2 + y.std**2)", "test_guidances.py"),
    Mutant("dps-uphill", "guidances/gradients.py", "look.x_0_hat - 2 * self.zeta", "look.x_0_hat + 2 * self.zeta", "test_guidances.py"),
    Mutant("dps-step-on-x-0-hat", "guidances/gradients.py", "2 * self.zeta / look.step_weight()", "2 * self.zeta", "test_guidances.py"),
    Mutant("gradients-forbidden", "guidance.py", "torch.inference_mode(False), torch.enable_grad()", "torch.enable_grad()", "test_guidances.py"),
    Mutant("mask-before-guide", "guidance.py", "        return x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)\n\n    return", "        return x_0_hat\n\n    return", "test_guidances.py test_bridge.py"),
    Mutant("refusal-forgotten", "recipe.py", '        check_known(str(self.sample.guidance["name"]), self.build_degradation())\n', "", "test_guided_runs.py"),
    Mutant("sample-settings-ignored", "run.py", "load_recipe(folder / RECIPE_FILE, changes)", "load_recipe(folder / RECIPE_FILE)", "test_guided_runs.py"),
    Mutant("size-forgotten", "run.py", 'padded["size"] = (height, width)', 'padded["size"] = None', "test_guided_runs.py"),
    Mutant("prior-masked", "methods/prior.py", 'super().losses({"x_0": batch["x_0"], "x_1": batch["x_0"]}, generator)', "super().losses(batch, generator)", "test_guided_runs.py"),
    Mutant("loss-divided-by-the-hole", "methods/bridge.py", "(error if mask is None else error * mask).mean()", "error.mean() if mask is None else (error * mask).sum() / mask.sum()", "test_bridge.py"),
    Mutant("network-time-forgotten-in-loss", "methods/bridge.py", "time = self.process.network_time(t).to(x_t.device)", "time = t.to(x_t.device)", "test_bridge.py"),
    Mutant("input-scale-forgotten", "guidance.py", "network(target.network_input(process, x_t, t), network_time", "network(x_t, network_time", "test_bridge.py"),
    Mutant("input-scale-forgotten-in-loss", "methods/bridge.py", "            self.target.network_input(self.process, x_t, t), time, condition_of", "            x_t, time, condition_of", "test_bridge.py"),
    Mutant("times-of-the-noisy-half", "methods/bridge.py", "t = 1 - rand((x_0.shape[0],), generator)", "t = 1 - rand((x_0.shape[0],), generator) / 2", "test_bridge.py"),
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
    Mutant("doubled-skip-once", "networks/blocks.py", "h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))", "h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))[..., :1]", "test_unet.py"),
    Mutant("norm-shift-scaled", "networks/normalisation.py", "torch.addcmul(shift, bias, gain)", "(shift + bias) * gain", "test_unet.py"),
    Mutant("doubled-kernel-mirrored", "networks/blocks.py", "[[0.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]]", "[[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]", "test_unet.py"),
    Mutant("compile-without-blocks", "compiling.py", "for module in blocks or [network]:", "for module in [network]:", "test_compiling.py"),
    Mutant("compile-blocks-only", "compiling.py", "for module in blocks or [network]:", "for module in blocks:", "test_compiling.py"),
    Mutant("compile-limit-kept", "compiling.py", "    dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(blocks))\n", "", "test_compiling.py"),
    Mutant("compile-ignored", "training.py", "    if settings.compile:\n", "    if False:\n", "test_training.py"),
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
    Mutant("fake-not-detached", "methods/pix2pix.py", "judge(fake_pair.detach())", "judge(fake_pair)", "test_pix2pix.py"),
    Mutant("pix2pix-mask-forgotten", "methods/pix2pix.py", "x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)", "x_0_hat", "test_pix2pix.py"),
    Mutant("dropout-off-at-test", "methods/pix2pix.py", "_mode(self.network, training=True)", "_mode(self.network, training=False)", "test_pix2pix.py"),
    Mutant("running-statistics-moved", "methods/pix2pix.py", "images.append(self._answer(one, buffers))", "images.append(self._answer(one))", "test_pix2pix.py"),
    Mutant("statistics-of-the-batch", "methods/pix2pix.py", "batch[name][i : i + 1] for name", "batch[name] for name", "test_pix2pix.py"),
    Mutant("eval-ignored", "methods/pix2pix.py", 'if self.inference == "eval":', "if False:", "test_pix2pix.py"),
    Mutant("generator-teaches-the-discriminator", "stepping.py", "weighted.backward(inputs=list(state.modules[name].parameters()))", "weighted.backward()", "test_stepping.py"),
    Mutant("generator-first", "train_state.py", "        optimizer.step()\n", '        optimizer.step() if name == NETWORK or self.step else None\n', "test_stepping.py"),
    Mutant("graphs-kept", "stepping.py", "if last and next(part.losses, None) is not None", "if False", "test_stepping.py"),
    Mutant("precision-ignored", "run.py", "network.to(where, dtype)", "network.to(where)", "test_precision.py"),
    Mutant("out-of-memory-keeps-gradients", "train_state.py", "module.zero_grad(set_to_none=True)", "pass", "test_stepping.py"),
    Mutant("out-of-memory-counts-twice", "train_state.py", "for tensor, old in self._statistics:", "for tensor, old in []:", "test_stepping.py"),
    Mutant("out-of-memory-drops-samples", "stepping.py", "            parts = _parts(state, batch, first, share)\n            continue", "            parts = _parts(state, batch, first, share)[1:]\n            continue", "test_stepping.py"),
    Mutant("out-of-memory-trains-again", "stepping.py", "            parts = _parts(state, batch, first, share)\n            continue", "            parts = _parts(state, batch, first, share)\n            norms.clear()\n            continue", "test_stepping.py"),
    Mutant("companion-not-restored", "train_state.py", "load_weights(module, checkpoint.tensors(name), where)", "load_weights(self.network, checkpoint.tensors(NETWORK), where)", "test_stepping.py"),
    Mutant("companion-moments-not-restored", "train_state.py", "            self._load_moments(name, checkpoint)\n", "            self._load_moments(NETWORK, checkpoint)\n", "test_stepping.py"),
    Mutant("ema-decay-0-averages", "train_state.py", "return min(self.settings.ema_decay,", "return min(self.settings.ema_decay or 0.9,", "test_stepping.py"),
    Mutant("import-runs-code", "pt_child.py", "argument not in GLOBALS", "argument in GLOBALS", "test_hostile.py test_importing.py"),
    Mutant("import-not-strict", "networks/pix2pix.py", "    if unknown:\n", "    if False:\n", "test_importing.py"),
    Mutant("import-forgets-the-statistics", "networks/pix2pix.py", "tensors[ours] = value.to(wanted[ours].dtype)", 'tensors[ours] = wanted[ours] if "running" in ours else value.to(wanted[ours].dtype)', "test_importing.py"),
    Mutant("regression-at-another-time", "methods/regression.py", "torch.ones(x_1.shape[0], dtype=torch.float64)", "torch.full((x_1.shape[0],), 0.5, dtype=torch.float64)", "test_methods.py"),
    Mutant("regression-mask-forgotten", "methods/regression.py", "error if mask is None else error * mask", "error", "test_methods.py"),
    Mutant("preset-touches-the-data", "methods/presets.py", '{"method_label": name}', '{"method_label": name, "data": {**table["data"], "flip": False}}', "test_methods.py"),
    Mutant("preset-trains-otherwise", "methods/presets.py", '            "target": target,\n', '            "target": target,\n            "train": table["train"] | {"lr": 1e-5},\n', "test_methods.py"),
    Mutant("palette-walks-from-x-1", "methods/presets.py", '_walking({"name": "gaussian-prior"}, {"name": "eps"}, clip=True)', '_walking({"name": "i2sb"}, {"name": "i2sb"}, clip=True)', "test_methods.py"),
    Mutant("fewer-images-seen", "methods/presets.py", 'if "train.steps" not in given:', "if False:", "test_methods.py"),
    Mutant("preset-over-the-user", "recipe.py", "        for change in changes:\n            _override(table, change)\n        _take", "        _take", "test_methods.py"),
    Mutant("smallest-side-ignored", "run.py", "for side in said if side is not None", "for side in said if side is None", "test_methods.py"),
    Mutant("decay-from-ignored", "settings.py", "start = max(self.warmup_steps, self.decay_from or 0)", "start = self.warmup_steps", "test_recipe.py"),
    # degradations
    Mutant("jpeg-round-instead-of-floor", "degradations/jpeg.py", "/ 100).floor().clamp(1, 255)", "/ 100).round().clamp(1, 255)", "test_degradations_jpeg.py"),
    Mutant("ddrm-batch-mixed-up", "degradations/jpeg.py", ".permute(3, 0, 4, 5, 1, 2, 6)", ".reshape(1, 4, 2, -1, batch, 2, width).permute(4, 0, 3, 5, 1, 2, 6)", "test_degradations_operators.py"),
    Mutant("jpeg-chroma-averaged", "degradations/jpeg.py", "_copied(_by_row(images[..., ::2, ::2]))", "_copied(_by_row(torch.nn.functional.avg_pool2d(images, 2)))", "test_degradations_jpeg.py"),
    Mutant("bicubic-off-centre", "degradations/downsample.py", "cubic_taps(), before=6,", "cubic_taps(), before=7,", "test_degradations_linear.py"),
    Mutant("blur-not-normalised", "degradations/blur.py", "tuple(weight / sum(weights) for weight in weights)", "tuple(weight / 10 for weight in weights)", "test_degradations_linear.py"),
    Mutant("hole-and-known-exchanged", "degradations/inpaint.py", "torch.where(mask > 0, fill, x)", "torch.where(mask > 0, x, fill)", "test_degradations_inpaint.py"),
    Mutant("noise-on-the-condition", "degradations/colour.py", "return Degraded(x_1, mask, clean)", "return Degraded(x_1, mask, x_1)", "test_degradations.py"),
    Mutant("pinv-is-the-adjoint", "degradations/linear.py", "torch.where(s > 1e-10 * s[0], 1 / s, 0.0)", "s", "test_degradations_adjoint.py"),
    Mutant("bicubic-without-widening", "degradations/linear.py", "(pixels + 0.5 - centres).abs() / max(1.0, ratio)", "(pixels + 0.5 - centres).abs()", "test_degradations_operators.py"),
    Mutant("noise-without-signal", "degradations/sensor.py", "torch.poisson(rate.to(one.device)", "torch.poisson(rate.to(one.device) * 0 + 15", "test_degradations_operators.py"),
    Mutant("compose-backwards", "degradations/compose.py", "            degraded = member.stage(x, generator)\n", "            member = self.members[-1 - self.members.index(member)]\n            degraded = member.stage(x, generator)\n", "test_degradations_operators.py"),
    Mutant("keyed-by-split-forgotten", "data/loading.py", 'f"{self.purpose} degradation"', '"degradation"', "test_degradations_inpaint.py"),
    # images and data
    Mutant("truncate-instead-of-round", "images.py", "values = np.rint(values).clip", "values = np.floor(values).clip", "test_images.py"),
    Mutant("low-byte-dropped", "images.py", "deep = _is_deep_colour(image)", "deep = False", "test_value_ranges.py"),
    Mutant("range-ignored-in-writing", "run.py", "degraded.pixels.dtype, self.recipe.data.value_range)", "degraded.pixels.dtype)", "test_value_ranges.py"),
    Mutant("scored-in-8-bits", "scoring.py", 'codec = Codec(np.dtype(item["dtype"]), value_range, quality)', 'codec = Codec(np.dtype("uint8"), None, quality)', "test_value_ranges.py"),
    Mutant("augmentation-not-reseeded", "data/transforms.py", "draw = random.Random(seed)", "draw = random.Random(0)", "test_data.py"),
    Mutant("order-keeps-its-round-key", "data/order.py", 'key(seed, "order", epoch, turn, right)', 'key(seed, "order", epoch, right)', "test_index.py"),
    Mutant("stale-listing", "data/index.py", 'if np.array_equal(_times(folder, folders), known["times"]):', "if len(folders):", "test_index.py"),
    Mutant("labels-by-split", "data/class_folders.py", "bases = [base] if folder is None else", "bases = [base] if base else", "test_pairs.py"),
    Mutant("list-paths-may-leave-the-root", "data/lists.py", 'parts[:1] == ("..",)', 'parts[:1] == ("...",)', "test_lists.py"),
    Mutant("shared-files-of-other-folders", "data/pairs.py", " if mine.folder == theirs.folder else 0", "", "test_pairs.py"),
    Mutant("lmdb-keys-by-whole-path", "data/lmdb_store.py", '.split("/")[-2:])', '.split("/"))', "test_lmdb_store.py"),
    Mutant("tar-offset-of-the-header", "data/tar_shards.py", "member.offset_data, member.size", "member.offset, member.size", "test_tar_shards.py"),
    Mutant("torchvision-always-the-training-part", "data/vision.py", '{"train": wanted in SPLITS["train"]}', '{"train": bool(wanted)}', "test_vision.py"),
    Mutant("mask-lost-when-restoring", "run.py", "batch.get(\"mask\")))", "None if mask is None else batch[\"mask\"] * 0 + 1))", "test_restoring.py"),
    Mutant("own-condition-ignored", "run.py", 'batch["condition"] = to_tensor(pixels, settings.value_range)[None]', 'batch["condition"] = to_tensor(pixels, settings.value_range)[None] * 0', "test_restoring.py"),
    Mutant("last-state-not-shown", "montage.py", "        kept.append(last)\n    chosen", "        pass\n    chosen", "test_montage.py"),
    # cards, fetching and registering
    Mutant("fetched-place-ignored", "data/cards.py", 'card.dataset["root"] = str(there.folder)', "pass", "test_cards.py"),
    Mutant("archive-paths-not-checked", "unpacking.py", '".." in parts or', "False or", "test_unpacking.py"),
    Mutant("tar-end-not-checked", "unpacking.py", "if rest.read(512) != bytes(512):", "if False:", "test_unpacking.py"),
    Mutant("hash-not-compared", "downloading.py", "if wanted and wanted != got:", "if False:", "test_fetching.py"),
    Mutant("resume-of-another-version", "downloading.py", '({"If-Range": mark} if mark else {})', "{}", "test_fetching.py"),
    Mutant("redirects-anywhere", "downloading.py", 'scheme not in ("http", "https") or', "False or", "test_fetching.py"),
    Mutant("first-hash-forgotten", "fetching.py", '"sha256": source.sha256 or plan.known.get(source.file)', '"sha256": source.sha256', "test_fetching.py"),
    Mutant("licence-not-asked", "cli_data.py", "        if not yes:\n", "        if False:\n", "test_fetching.py"),
    Mutant("sides-swapped-by-guess", "registering.py", "if votes[0] > votes[1] else", "if votes[0] < votes[1] else", "test_registering.py"),
    # training and checkpoints
    Mutant("manifest-not-verified", "checkpoint.py", 'hashlib.file_digest(stream, "sha256").hexdigest() != digest', "False", "test_checkpoint.py"),
    Mutant("accumulated-gradients-not-averaged", "stepping.py", "weighted = loss * ((part.stop - part.start) / share)", "weighted = loss * 1.0", "test_training.py"),
    Mutant("times-and-noise-of-step-one", "stepping.py", '"t and noise", first + i)', '"t and noise", i)', "test_training.py"),
    Mutant("schedule-ignored", "stepping.py", "state.update(settings.learning_rate(state.step), name)", "state.update(settings.lr, name)", "test_training.py"),
    Mutant("buffers-left-behind", "train_state.py", "                kept.copy_(buffer)", "                pass", "test_training.py"),
    Mutant("restored-in-training-mode", "run.py", ".eval().requires_grad_(False)", ".requires_grad_(False)", "test_training.py"),
    Mutant("padding-repeats-the-edge", "run.py", "index = torch.minimum(ramp, period - ramp)", "index = ramp.clamp(max=side - 1)", "test_training.py"),
    Mutant("resume-replays-the-first-batches", "training.py", "start_step=state.step", "start_step=0", "test_training.py"),
    Mutant("ema-not-restored", "train_state.py", 'load_weights(self.ema, checkpoint.tensors("ema"), where)', "pass", "test_training.py"),
    Mutant("optimizer-not-restored", "train_state.py", 'optimizer.load_state_dict({"state": state,', 'optimizer.load_state_dict({"state": {},', "test_training.py"),
    Mutant("moments-in-another-memory-order", "train_state.py", 'value if slot == "step" else torch.empty_like(parameter).copy_(value)', "value", "test_training.py"),
    Mutant("dropout-from-global-state", "randomness.py", "        torch.default_generator.manual_seed(seed)\n", "", "test_training.py"),
    Mutant("clipping-ignored", "train_state.py", "limit = self.settings.clip_norm or math.inf", "limit = math.inf", "test_training.py"),
    Mutant("betas-ignored", "train_state.py", "                betas=recipe.train.betas,\n", "", "test_training.py"),
    Mutant("weight-decay-ignored", "train_state.py", "                weight_decay=recipe.train.weight_decay,\n", "                weight_decay=0.0,\n", "test_training.py"),
    Mutant("autocast-off", "stepping.py", "enabled=dtype != torch.float32", "enabled=False", "test_training.py"),
    Mutant("raw-weights-restore", "run.py", 'checkpoint.tensors("ema")', 'checkpoint.tensors("network")', "test_training.py"),
    Mutant("gradients-not-shared", "stepping.py", 'accelerator.reduce(values, reduction="mean")', "values", "test_ranks.py"),
    Mutant("last-bucket-dropped", "stepping.py", "    if bucket:\n        yield bucket", "", "test_ranks.py"),
    Mutant("folder-claimed-too-early", "training.py", "    _check_size(recipe, state)\n", "    write_whole(folder / RECIPE_FILE, recipe.to_toml().encode())\n    _check_size(recipe, state)\n", "test_training.py"),
    Mutant("plugins-unknown-to-workers", "data/loading.py", "        load_plugin(file)", "        pass", "test_data.py"),
    Mutant("copies-between-splits-unseen", "inspecting.py", "if there != split and where != fact.where:", "if there != split and where == fact.where:", "test_checking.py"),
    Mutant("exchanged-pair-unseen", "inspecting.py", "(mirrored < kept / 16)", "(mirrored > kept)", "test_checking.py"),
    Mutant("odd-formats-unseen", "inspecting.py", "if _telling(fact.formats) != usual", "if _telling(fact.formats) == (None,)", "test_checking.py"),
    Mutant("card-statistics-ignored", "inspecting.py", "    if expected is not None:\n", "    if expected is not None and expected is None:\n", "test_checking.py"),
    Mutant("stroke-of-twice-the-width", "degradations/masks.py", "radius = max(brush, 1.5) / 2", "radius = max(brush, 1.5)", "test_degradations_inpaint.py"),
    Mutant("stroke-beyond-its-ends", "degradations/masks.py", "nearest = way.clip(0, length)", "nearest = way", "test_degradations_inpaint.py"),
    Mutant("packed-masks-unread", "degradations/masks.py", "np.unpackbits(chosen)", "np.unpackbits(chosen, bitorder='little')", "test_degradations_inpaint.py"),
    Mutant("crop-and-mirror-coupled", "data/transforms.py", "self.flip and draw.random() < 0.5", "self.flip and top < (height - self.size[0]) / 2", "test_data.py"),
    Mutant("odd-sizes-unseen", "inspecting.py", "fact.size != size", "fact.size == ''", "test_checking.py"),
    Mutant("grey-is-a-problem", "inspecting.py", "return () if alike else", "return", "test_checking.py"),
    Mutant("card-of-a-recipe-unseen", "checking.py", 'toml_value(given[-1]) if given else written', 'written', "test_checking.py"),
    Mutant("advice-unheard", "checking.py", "if data.flip and not advice.flip:", "if data.flip and advice.flip:", "test_checking.py"),
    Mutant("strengths-all-alike", "degrading.py", '[*settings, f"{key}={word}"]', "[*settings]", "test_degrading.py"),
    Mutant("nearest-by-spelling-alone", "data/pairs.py", "other.startswith(name) or name.startswith(other)", "not other", "test_data.py"),
    Mutant("names-cut-training-too", "data/splits.py", 'return not (split_there and split in SPLITS["train"])', "return True", "test_data.py"),
    Mutant("overlap-unseen", "data/packaged.py", "both = set(train) & set(val)", "both = set()", "test_data.py"),
    Mutant("shared-files-unseen", "data/pairs.py", "return len(set(theirs.names).intersection(mine.names))", "return 0 * len(theirs.names)", "test_data.py"),
    # reliability
    Mutant("rotated-before-published", "checkpoint.py", "    try:\n        publish_folder(final, _files(step, parts, state))\n", "    for old in _folders(folder)[keep - 1 :]:\n        retire_folder(old)\n    try:\n        publish_folder(final, _files(step, parts, state))\n", "test_files.py"),
    Mutant("leftovers-stay", "files.py", "or name.startswith((TEMPORARY, DEAD)):", "or name.startswith(TEMPORARY * 2):", "test_files.py"),
    Mutant("partial-write-taken-for-whole", "files.py", "        while rest:  #", "        if rest:  #", "test_files.py"),
    Mutant("file-not-flushed", "files.py", "rest[os.write(descriptor, rest) :]\n        os.fsync(descriptor)", "rest[os.write(descriptor, rest) :]", "test_files.py"),
    Mutant("folder-not-flushed", "files.py", "                _flush(inside)\n", "", "test_files.py"),
    Mutant("names-not-flushed", "files.py", "_remove(temporary, above)\n            raise\n        _flush(above)\n", "_remove(temporary, above)\n            raise\n", "test_files.py"),
    Mutant("retired-without-a-flush", "files.py", "        os.rename(folder.name, dead, src_dir_fd=above, dst_dir_fd=above)\n        _flush(above)\n", "        os.rename(folder.name, dead, src_dir_fd=above, dst_dir_fd=above)\n", "test_files.py"),
    Mutant("written-in-place", "files.py", "                _write(partial, data, folder)\n                os.replace(partial, path.name, src_dir_fd=folder, dst_dir_fd=folder)", "                _write(path.name, data, folder)", "test_files.py"),
    Mutant("published-over-another", "files.py", "            if _is_there(final.name, above):\n", "            if False:\n", "test_files.py"),
    Mutant("lock-not-taken", "files.py", "fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass", "test_files.py"),
    Mutant("seal-not-verified", "checkpoint.py", "if version != UNSEALED and _bytes(folder / SEAL) != _seal(text):", "if False:", "test_checkpoint.py"),
    Mutant("manifest-escapes", "checkpoint.py", 'r"[A-Za-z0-9_-]+\\.safetensors"', 'r".*"', "test_checkpoint.py"),
    Mutant("step-not-compared", "checkpoint.py", 'step != int(folder.name.removeprefix("step-"))', "False", "test_checkpoint.py"),
    Mutant("newest-by-spelling", "checkpoint.py", 'key=lambda path: int(path.name.removeprefix("step-"))', "key=lambda path: path.name", "test_checkpoint.py"),
    Mutant("damaged-counts-as-kept", "checkpoint.py", "    for old in passed:\n        if not old", "    for old in []:\n        if not old", "test_checkpoint.py"),
    Mutant("any-error-is-damage", "checkpoint.py", "    except (OSError, MemoryError) as error:\n        raise _not_now(folder, error) from error\n    except (ValueError,", "    except (OSError, ValueError,", "test_checkpoint.py"),
    Mutant("sweep-follows-links", "files.py", "follow_symlinks=False).st_mode)", "follow_symlinks=True).st_mode)", "test_links.py"),
    Mutant("linked-checkpoint-rotated", "checkpoint.py", "entry.is_dir(follow_symlinks=False) or", "entry.is_dir() or", "test_links.py"),
    Mutant("log-follows-links", "files.py", "os.O_APPEND | os.O_NOFOLLOW", "os.O_APPEND", "test_links.py"),
    Mutant("set-aside-over-a-link", "files.py", "if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):\n                    raise", "os.unlink(free, dir_fd=above)", "test_links.py"),
    Mutant("swept-before-known", "training.py", "    if not is_run_of(folder, recipe):\n", "    if False:\n", "test_links.py"),
    Mutant("root-not-heeded", "files.py", "(0 if folder is None else os.O_NOFOLLOW)", "0", "test_links.py"),
    Mutant("name-is-a-path", "files.py", 'r"\\w[\\w .+()-]*(?<! )"', 'r".*"', "test_names.py"),
    Mutant("downloads-collapse", "data/cards.py", "if name.casefold() not in taken)", "if name)", "test_names.py"),
    Mutant("packaged-anywhere", "data/packaged.py", " or Path(inside).is_absolute()", "", "test_names.py"),
    Mutant("not-finite-published", "checkpoint.py", "        if bad:\n", "        if False:\n", "test_checkpoint.py"),
    Mutant("counters-not-restored", "train_state.py", "            setattr(self, name, value)\n", "", "test_resuming.py"),
    Mutant("moments-not-missed", "train_state.py", 'stored.pop(f"{name}/{slot}", None)', 'stored.pop(f"{name}/{slot}", torch.zeros_like(parameter))', "test_resuming.py"),
    Mutant("bad-step-taken", "train_state.py", "if not (self.on_host and self._bad):", "if True:", "test_skipping.py"),
    Mutant("bad-step-averaged", "train_state.py", "(1 - self._decay()) * (1 - bad)", "(1 - self._decay())", "test_skipping.py"),
    Mutant("buffers-keep-the-bad-step", "train_state.py", "self._remember(module.buffers())", "pass", "test_skipping.py"),
    Mutant("companion-keeps-the-bad-step", "train_state.py", "if self._updates < len(self.modules):", "if False:", "test_skipping.py"),
    Mutant("loss-not-shown", "stepping.py", "parameter.grad.add_(0 * loss)", "pass", "test_skipping.py"),
    Mutant("skips-not-counted", "skipping.py", "self._state.skipped += 1", "pass", "test_skipping.py"),
    Mutant("endless-skipping", "skipping.py", "if self._state.in_a_row >= LIMIT:", "if False:", "test_skipping.py"),
    Mutant("failures-not-forgiven", "saving.py", "if last or self._failures == PATIENCE:", "if True:", "test_saving.py"),
    Mutant("failures-forgiven-for-ever", "saving.py", "if last or self._failures == PATIENCE:", "if last:", "test_saving.py"),
    Mutant("last-failure-forgiven", "saving.py", "if last or self._failures == PATIENCE:", "if self._failures == PATIENCE:", "test_saving.py"),
    Mutant("workers-heed-signals", "data/loading.py", "signal.signal(getattr(signal, name), signal.SIG_IGN)", "signal.signal(getattr(signal, name), signal.SIG_DFL)", "test_saving.py test_cli.py"),
    Mutant("second-signal-waits", "jobs.py", "            os._exit(128 + number)", "            pass", "test_saving.py"),
    Mutant("ranks-not-compared", "ranks.py", "if other[name] != value:", "if False:", "test_ranks.py"),
    Mutant("lost-rank-not-named", "ranks.py", 'if not store.check([f"lost-others/{index}"])]', "if False]", "test_ranks.py"),
    # evaluation
    Mutant("records-never-read", "records.py", "                return Record(key, fingerprint, scores,", "                return None and Record(key, fingerprint, scores,", "test_evaluation.py"),
    Mutant("weights-not-hashed", "subjects.py", "[run.step, weights.hexdigest(), settings]", "[run.step, settings]", "test_evaluation.py"),
    Mutant("sampler-not-hashed", "subjects.py", "[run.step, weights.hexdigest(), settings]", "[run.step, weights.hexdigest()]", "test_evaluation.py"),
    Mutant("protocol-not-hashed", "measuring.py", "digest([self.protocol.pixels_hash, row,", "digest([row,", "test_evaluation.py"),
    Mutant("data-not-hashed", "scoring.py", "return array_hash(self.clean, self.degraded, *extra, label)", "return array_hash(label)", "test_evaluation.py"),
    Mutant("order-of-the-dataset", "measuring.py", "facts = sorted(facts, key=lambda fact: fact.key)", "facts = list(facts)", "test_evaluation.py"),
    Mutant("images-scored-twice", "measuring.py", "mine = work[rank::count]", "mine = work[max(rank - 1, 0)::count] + work[:rank]", "test_evaluation.py"),
    Mutant("draws-all-the-same", "subjects.py", "*([draw] if draw else [])", "", "test_evaluation.py"),
    Mutant("first-draw-renamed", "subjects.py", "*([draw] if draw else [])", "draw", "test_figures.py"),
    Mutant("reference-of-the-scored-images-only", "measuring.py", "references = facts if self._references() else items", "references = items", "test_evaluation.py"),
    Mutant("statistics-ignored", "measuring.py", "if self.statistics is not None and isinstance(", "if self.statistics is None and isinstance(", "test_evaluation.py"),
    Mutant("bicubic-of-the-blocks", "degradations/downsample.py", 'kept in place."""\n        return {"bicubic": resized(self.reduced(x_1), ', 'kept in place."""\n        return {"bicubic": resized(x_1, ', "test_evaluation.py"),
    Mutant("calls-of-a-batch", "subjects.py", "self.counted.images // len(items)", "self.counted.images", "test_evaluation.py"),
    Mutant("settings-not-handed-on", "jobs.py", "sample=sample or []", "sample=[]", "test_evaluation.py"),
    Mutant("markdown-best-unmarked", "tabulating.py", 'value = f"**{value}**" if cell.mark == BEST', 'value = f"**{value}**" if cell.mark == NEAR', "test_tabulating.py"),
    Mutant("outside-truncated", "subjects.py", "images.append(to_tensor(pixels,", "images.append(0.99 * to_tensor(pixels,", "test_evaluation.py"),
    Mutant("seed-not-in-the-hash", "protocols.py", '        "seed": settings.seed,\n', '        "seed": 0,\n', "test_protocols.py"),
    Mutant("paths-in-the-hash", "protocols.py", "value = PurePosixPath(str(value)).name", "value = str(value)", "test_protocols.py"),
    Mutant("mask-blended", "data/transforms.py", "cv2.INTER_NEAREST if is_mask else ", "", "test_data.py"),
    # recipes and metrics
    Mutant("validation-cropped-at-random", "recipe.py", 'crop=self.data.crop if training else "center"', "crop=self.data.crop", "test_recipe.py"),
    Mutant("validation-mirrored", "recipe.py", "flip=self.data.flip and training", "flip=self.data.flip", "test_recipe.py"),
    Mutant("sampler-options-ignored", "methods/bridge.py", "sampler_options=recipe.sampler_options(),", "", "test_recipe.py"),
    Mutant("grid-ignored", "methods/bridge.py", "        grid=registry.TIME_GRIDS.get(recipe.sample.grid),\n", "", "test_recipe.py"),
    Mutant("proposal-ignored", "methods/bridge.py", "        proposal=recipe.build_proposal(),\n", "", "test_recipe.py"),
    Mutant("clip-ignored", "methods/bridge.py", "        clip=recipe.sample.clip,\n", "", "test_recipe.py"),
    Mutant("load-size-ignored", "recipe.py", "self.data.load_size if training else None", "None", "test_recipe.py"),
    Mutant("psnr-of-half-the-range", "metrics/fidelity.py", 'data_range=(-1.0, 1.0), reduction="none", dim', 'data_range=(-2.0, 2.0), reduction="none", dim', "test_metrics.py"),
    Mutant("ssim-with-black-at-minus-one", "metrics/fidelity.py", "restored, clean = (restored + 1) / 2, (clean + 1) / 2", "restored, clean = restored / 2, clean / 2", "test_metrics.py"),
    Mutant("ssim-of-the-mirrored-border", "metrics/fidelity.py", "torch.as_tensor(full)[..., 5:-5, 5:-5]", "torch.as_tensor(full)", "test_metrics.py"),
    Mutant("codes-truncated", "metrics/extractors.py", ".round().to(torch.uint8)", ".to(torch.uint8)", "test_metrics.py"),
    Mutant("bootstrap-of-half", "metrics/base.py", "(0.025, 0.975)", "(0.25, 0.75)", "test_metrics_distribution.py"),
    Mutant("frechet-trace-once", "metrics/frechet.py", "spread - 2 * trace", "spread - trace", "test_metrics_distribution.py"),
    Mutant("frechet-without-means", "metrics/frechet.py", "np.square(a.mean - b.mean).sum() + spread", "spread", "test_metrics_distribution.py"),
    Mutant("covariance-by-n", "metrics/frechet.py", "_root(covariance / (n - 1))", "_root(covariance / n)", "test_metrics_distribution.py"),
    Mutant("few-covariance-by-n", "metrics/frechet.py", "/ np.sqrt(n - 1), n)", "/ np.sqrt(n), n)", "test_metrics_distribution.py"),
    Mutant("memory-not-flat", "metrics/frechet.py", "ROWS = 1024", "ROWS = 10**9", "test_metrics_distribution.py"),
    Mutant("order-shows", "metrics/frechet.py", "key=digests.__getitem__)", "key=int)", "test_metrics_distribution.py"),
    Mutant("statistics-unpickled", "metrics/frechet.py", "np.load(file, allow_pickle=False)", "np.load(file, allow_pickle=True)", "test_metrics_distribution.py"),
    Mutant("kid-biased", "metrics/distribution.py", "    np.fill_diagonal(h, 0.0)\n", "", "test_metrics_distribution.py"),
    Mutant("kid-counts-own-pair", "metrics/distribution.py", "np.fill_diagonal(h, 0.0)", "np.fill_diagonal(h, -2 * (np.diag(cross) - cross.mean()))", "test_metrics_distribution.py"),
    Mutant("kid-degree-two", "metrics/distribution.py", "cross = (x @ y.T / d + 1) ** 3", "cross = (x @ y.T / d + 1) ** 2", "test_metrics_distribution.py"),
    Mutant("kid-without-dimension", "metrics/distribution.py", "cross = (x @ y.T / d + 1) ** 3", "cross = (x @ y.T + 1) ** 3", "test_metrics_distribution.py"),
    Mutant("kid-error-halved", "metrics/distribution.py", "float(4 * np.square(sums", "float(np.square(sums", "test_metrics_distribution.py"),
    Mutant("kid-error-not-over-blocks", "metrics/distribution.py", "for _, variance in blocks)) / len(blocks)", "for _, variance in blocks))", "test_metrics_distribution.py"),
    Mutant("plugin-distance-called-fid", "metrics/distribution.py", '"FD-{}"', '"FID-{}"', "test_metrics_networks.py"),
    Mutant("legacy-with-antialias", "metrics/extractors.py", 'size=(299, 299), mode="bilinear")', 'size=(299, 299), mode="bilinear", antialias=True)', "test_metrics_networks.py"),
    Mutant("legacy-scaled-as-tensorflow", "metrics/extractors.py", "2 * (resized / 255) - 1", "(resized - 128) / 128", "test_metrics_networks.py"),
    Mutant("lpips-backbone-forgotten", "metrics/perceptual.py", 'slot.copy_(stored["features." + name.split(".", 1)[1]])', 'stored["features." + name.split(".", 1)[1]]', "test_metrics_networks.py"),
    Mutant("accuracy-of-the-smallest", "metrics/accuracy.py", "logits.argmax()", "logits.argmin()", "test_metrics_networks.py"),
    Mutant("consistency-in-the-hole", "metrics/consistency.py", "None if mask is None else mask[None]", "None", "test_metrics_items.py"),
    Mutant("consistency-of-other-draws", "metrics/consistency.py", '"validation degradation"', '"degradation"', "test_metrics_items.py"),
    Mutant("diversity-of-the-first-pair", "metrics/diversity.py", "distances.mean()", "distances[0]", "test_metrics_items.py"),
    Mutant("unsafe-load", "pt_child.py", "weights_only=True, mmap", "weights_only=False, mmap", "test_hostile.py"),
    # files of strangers
    Mutant("overlapping-tensors", "pt_child.py", "not value.permute(order).is_contiguous() or", "", "test_hostile.py"),
    Mutant("storage-anywhere", "pt_child.py", "value.untyped_storage().nbytes() not in sizes", "False", "test_hostile.py"),
    Mutant("archive-not-checked", "pt_child.py", "                _check_member(file, member, end)", "                pass", "test_hostile.py"),
    Mutant("header-not-limited", "foreign.py", "if length > MAX_HEADER:", "if False:", "test_hostile.py"),
    Mutant("safetensors-nan", "foreign.py", "and not _finite(value)", "and False", "test_hostile.py"),
    Mutant("average-is-the-network", "pt_child.py", "for name, value in zip(net, average, strict=True)", "for name, value in net.items()", "test_hostile.py"),
    Mutant("selftest-always-passes", "selftest.py", "                passed, detail = False,", "                passed, detail = True,", "test_selftest.py"),
    Mutant("selftest-compares-weights", "toy_runs.py", 'if key.endswith("/exp_avg")]', "if key]", "test_selftest.py"),
    Mutant("selftest-rounds", "toy_runs.py", "if not torch.equal(value, right[key]):", "if not torch.allclose(value, right[key]):", "test_selftest.py"),
    Mutant("mask-of-ones-is-empty", "images.py", "    return codes(grey == high), f\"of the", "    return pixels, f\"of the", "test_images.py"),
    Mutant("mask-ignores-transparency", "images.py", "        if clear.any():", "        if clear.all():", "test_images.py"),
    Mutant("hidden-colours-are-data", "images.py", "picture.pixels * share + white * (1 - share)", "picture.pixels * share + picture.pixels * (1 - share)", "test_images.py"),
    Mutant("masks-not-named", "data/loading.py", "found += [] if mask.any() else [EMPTY_MASK]", "found += []", "test_checking.py"),
    Mutant("outputs-meet", "outputs.py", "if taken.isdisjoint(", "if set().isdisjoint(", "test_outputs.py"),
    Mutant("names-too-long", "outputs.py", "if len(os.fsencode(stem)) > room:", "if len(stem) > room:", "test_outputs.py"),
    Mutant("done-whatever-the-settings", "outputs.py", "{**record, \"extra\": None} == self._record(job, more, None)", "{**record, \"extra\": None, \"settings\": self.settings} == self._record(job, more, None)", "test_outputs.py"),
    Mutant("done-whatever-the-weights", "restoring.py", "return [__version__, run.step, *weights, run.recipe.to_toml(), dtypes]", "return [__version__]", "test_restoring.py"),
    Mutant("colour-at-half-resolution", "images.py", "\"subsampling\": 0", "\"subsampling\": 2", "test_outputs.py"),
    Mutant("exif-warnings", "images.py", "with warnings.catch_warnings(action=\"ignore\"), Image.open", "with Image.open", "test_fuzz.py"),
    Mutant("array-header-believed", "images.py", "if there != size:", "if there < 0:", "test_fuzz.py test_zoo.py"),
    Mutant("message-plays-with-the-terminal", "errors.py", "c if c.isprintable() or", "c if True or", "test_fuzz.py"),
    Mutant("cell-is-a-formula", "csv_file.py", "return f\"'{value}\"", "return value", "test_printing.py"),
    Mutant("dotted-keys-unlimited", "toml_file.py", "if _LONG_KEY.search(", "if False and _LONG_KEY.search(", "test_toml_file.py"),
    Mutant("sixteen-bits-cut-off-are-filled", "images.py", "            image.load()\n            picture", "            picture", "test_zoo.py"),
    Mutant("pipes-block", "images.py", "not stat.S_ISREG(Path(path).stat().st_mode)", "not Path(path).exists()", "test_zoo.py"),
    Mutant("released-without-its-grid", "importing.py", 'sample | {"grid": "official"}', "sample", "test_hostile.py"),
    Mutant("hash-of-another-file", "weights.py", '        "7be5be79",', '        "7be5be78",', "test_weights.py"),
    Mutant("weights-hash-not-compared", "weights.py", "            if not digest.startswith(weights.sha256):", "            if False:", "test_weights.py"),
    Mutant("weights-licence-not-asked", "cli_weights.py", "        if not yes:\n", "        if False:\n", "test_weights.py"),
    Mutant("verify-says-ok", "cli_weights.py", 'if set(states.values()) != {"ok"}:', "if False:", "test_weights.py"),
    Mutant("network-time-forgotten", "guidance.py", "process.network_time(t).to(x_t.device)", "t.to(x_t.device)", "test_bridge.py"),
    Mutant("forward-sde-keeps-the-image", "processes.py", "Gaussian(expand(self.alpha(t), x_0) * x_0,", "Gaussian(x_0,", "test_proposals.py"),
    Mutant("ema-decay-inverted", "train_state.py", "average = get_ema_multi_avg_fn(self._decay())", "average = get_ema_multi_avg_fn(1 - self._decay())", "test_training.py"),
    # the page
    Mutant("lowest-is-best", "tabulating.py", "best = max(there) if column.higher_is_better else min(there)", "best = min(there) if column.higher_is_better else max(there)", "test_tabulating.py"),
    Mutant("overlap-by-value", "tabulating.py", "estimate.low <= winner.high and winner.low <= estimate.high", "winner.low <= estimate.value <= winner.high", "test_tabulating.py"),
    Mutant("baseline-competes", "tabulating.py", "if entry >= 0 and row.images == most else None", "if row.images == most else None", "test_tabulating.py"),
    Mutant("protocol-not-compared", "comparing.py", "if mine.hash != other.hash:", "if mine.name != other.name:", "test_comparing.py"),
    Mutant("data-not-compared", "comparing.py", "if reference.data.digest != evaluation.data.digest:", "if reference.data.items != evaluation.data.items:", "test_comparing.py"),
    Mutant("workers-not-bound", "data/loading.py", "    if parent is not None:\n        threading.Thread", "    if parent is None:\n        threading.Thread", "test_data.py"),
    Mutant("restored-pictures-kept", "restoring.py", "outcome.written += 1", "outcome.written += 1; run.__dict__.setdefault('kept', []).append(shown)", "test_restoring.py"),
    Mutant("seeds-shrink-the-images", "pooling.py", "below = sum(estimate.value - estimate.low for estimate in estimates) / k", "below = sum(estimate.value - estimate.low for estimate in estimates) / k**1.5", "test_pooling.py"),
    Mutant("seeds-normal-quantile", "pooling.py", "float(stdtrit(k - 1, 0.975))", "1.96", "test_pooling.py"),
    Mutant("seeds-population-variance", "pooling.py", "for estimate in estimates) / (k - 1)", "for estimate in estimates) / k", "test_pooling.py"),
    Mutant("seeds-of-any-recipe", "pooling.py", "return settings, evaluation.method,", "return recipe.name, evaluation.method,", "test_pooling.py"),
    Mutant("seeds-counted-twice", "comparing.py", " and _seed(entry) not in map(_seed, group):", ":", "test_pooling.py"),
    Mutant("seeds-of-any-step", "pooling.py", "evaluation.method, evaluation.step", "evaluation.method", "test_pooling.py"),
    Mutant("seeds-apart-by-moments", "pooling.py", ', "target": {"var_0", "var_1", "cov_01"}}', "}", "test_pooling.py"),
    Mutant("names-are-markup", "page.py", "loader=loader, autoescape=True", "loader=loader, autoescape=False", "test_comparing.py"),
    Mutant("any-folder-replaced", "publishing.py", "if out.exists() and not _is_page(out):", "if out.exists() and not out.is_dir():", "test_comparing.py"),
    Mutant("one-seed-for-all-samples", "sheets.py", "for seed in range(2)]", "for seed in (0, 0)]", "test_figures.py"),
    # properties that a review of planted one-line mistakes found untested
    Mutant("one-pinned-sample-silences-the-batch", "processes.py", "random=bool(coefficients.c.any())", "random=bool(coefficients.c.all())", "test_processes.py"),
    Mutant("ot-ode-beta-max-default", "processes.py", "    beta_max: float = 1.0\n", "    beta_max: float = 0.3\n", "test_processes.py"),
    Mutant("i2sb-beta-max-default", "processes.py", "    beta_max: float = 0.3\n", "    beta_max: float = 1.0\n", "test_processes.py"),
    Mutant("official-ode-beta-max-default", "official_grid.py", "    beta_max: float = 1.0\n", "    beta_max: float = 0.3\n", "test_processes.py"),
    Mutant("default-of-old-runs-changed", "processes.py", "sigma_1: float = 0.5", "sigma_1: float = 1.0", "test_registry.py"),
    Mutant("rate-of-another-default", "methods/presets.py", "return {\"beta_max\": beta_max} |", "return {} |", "test_methods.py"),
    Mutant("beta-min-forgotten", "methods/presets.py", "for key in (\"beta_max\", \"beta_min\") if key in process", "for key in (\"beta_max\",) if key in process", "test_methods.py"),
    Mutant("released-drops-beta-min", "importing.py", "if process.get(\"beta_min\") == I2SB.beta_min:", "if \"beta_min\" in process:", "test_hostile.py"),
    Mutant("released-refuses-ot-ode", "importing.py", "if key == \"process.name\" else None", "if key is None else None", "test_hostile.py"),
    Mutant("one-good-time-excuses-the-others", "processes.py", "((times >= 0) & (times <= 1)).all()", "((times >= 0) & (times <= 1)).any()", "test_processes.py"),
    Mutant("one-unscaled-sample-unscales-the-batch", "targets.py", "bool((c_in == 1).all())", "bool((c_in == 1).any())", "test_targets.py"),
    Mutant("ot-ode-for-weights-that-sum-to-1", "samplers.py", "b[i + 1] - b[i] * r, r, 0.0)", "1 - r, r, 0.0)", "test_samplers.py"),
    Mutant("start-ignored-without-a-pin", "samplers.py", "    if start is not None:\n        return start\n", "    if start is not None and process.pinned:\n        return start\n", "test_samplers.py"),
    Mutant("times-in-single-precision", "samplers.py", "return torch.full((x.shape[0],), t, dtype=torch.float64)", "return torch.full((x.shape[0],), t, dtype=torch.float32)", "test_samplers.py"),
    Mutant("bridge-begun-anywhere", "samplers.py", "if process.pinned and first.t == 1:", "if process.pinned and first.t > 0.8:", "test_samplers.py"),
    Mutant("name-clears-what-was-given-before", "recipe.py", "key.rpartition(\".\")[2] != \"name\"", "False", "test_recipe.py"),
    Mutant("heun-takes-the-nearest-points", "samplers.py", "positions = np.linspace(0, len(times) - 1, steps + 1)", "positions = np.linspace(0, len(times) - 1, steps + 1).round()", "test_samplers.py"),
    Mutant("one-inner-point-at-the-edge", "time_grids.py", "dtype=torch.float64) if nfe > 2", "dtype=torch.float64) if nfe > 1", "test_time_grids.py"),
    Mutant("first-rate-of-the-interval", "official_grid.py", "start, end = math.sqrt(1e-4),", "start, end = math.sqrt(0.1 / interval),", "test_official_grid.py"),
    Mutant("half-an-index-rounded-up", "official_grid.py", "indices.append(round(position))", "indices.append(int(position + 0.5))", "test_official_grid.py"),
    Mutant("a-hole-drawn-beside-the-items-own", "data/loading.py", "self.degradation.prepare(x_0[None], draws, mask[None])", "self.degradation(x_0[None], draws)", "test_data.py"),
    Mutant("zeros-of-a-mask-are-half-white", "data/loading.py", "bool((image >= 0).all()):", "False:", "test_data.py"),
    Mutant("estimate-over-the-users-moments", "resuming.py", "moments | recipe.target", "recipe.target | moments", "test_resuming.py"),
    Mutant("crop-out-never-at-the-far-edge", "degradations/inpaint.py", "int(shift * (side - length + 1))", "int(shift * (side - length))", "test_degradations_inpaint.py"),
    Mutant("folder-mask-threshold", "degradations/masks.py", "to_mask(mask_of(from_pil(image))[0])[0].numpy()", "(mask_of(from_pil(image))[0][..., 0] > 128)", "test_degradations_inpaint.py"),
    Mutant("mask-not-mirrored", "data/transforms.py", "self._cut(pixels, top, left, mirrored) for name", "self._cut(pixels, top, left, mirrored and name != \"mask\") for name", "test_data.py"),
    Mutant("mask-of-another-window", "data/transforms.py", "self._cut(pixels, top, left, mirrored) for name", "self._cut(pixels, top, left * (name != \"mask\"), mirrored) for name", "test_data.py"),
    Mutant("hold-out-leaks-under-an-alias", "data/splits.py", "training = split in SPLITS[\"train\"]", "training = split == \"train\"", "test_data.py"),
    Mutant("holdout-cuts-lists-of-their-own", "data/lists.py", "holdout if shared else 0.0", "holdout", "test_lists.py"),
    Mutant("16-bit-mask-by-half-of-8-bits", "images.py", "return float(np.iinfo(dtype).max / 2) if", "return 255 / 2 if", "test_images.py"),
    Mutant("mask-threshold-moved", "images.py", "(pixels > half)", "(pixels >= half)", "test_images.py"),
    Mutant("step-schedule-off-by-one", "settings.py", "(step // self.lr_step)", "((step + 1) // self.lr_step)", "test_recipe.py"),
    Mutant("later-module-forgives-the-bad-one", "train_state.py", "self._bad = torch.maximum(self._bad, (~norm.detach().isfinite()).to(self._bad.dtype))", "self._bad = (~norm.detach().isfinite()).to(self._bad.dtype)", "test_skipping.py"),
    Mutant("dropout-of-every-step-alike", "stepping.py", "\"dropout\", first + part.start,", "\"dropout\", part.start,", "test_training.py"),
    Mutant("dropout-of-every-micro-batch-alike", "stepping.py", "\"dropout\", first + part.start,", "\"dropout\", first,", "test_training.py"),
    Mutant("alpha-enlarged-by-nearest", "run.py", "Image.Resampling.BICUBIC", "Image.Resampling.NEAREST", "test_restoring.py"),
    Mutant("ot-ode-released-with-0.3", "importing.py", "0.3 if name == \"i2sb\" else 1.0", "0.3", "test_hostile.py"),
]  # fmt: skip


def planted(mutant: Mutant, text: str) -> str:
    """The file's text with the mistake in it."""
    if text.count(mutant.right) != 1:
        raise SystemExit(f"{mutant.name}: its place in {mutant.file} is there {text.count(mutant.right)} times")
    return text.replace(mutant.right, mutant.wrong)


def tests_pass(tests: str, mutant: Mutant | None = None) -> bool:
    """Whether the tests pass in a copy of the package, with a mistake planted or none."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignore = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info")
        shutil.copytree(ROOT, copy, ignore=ignore)
        if mutant is not None:
            file = copy / "i2i_bridge" / mutant.file
            file.write_text(planted(mutant, file.read_text(encoding="utf-8")), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", *(f"tests/{test}" for test in tests.split())]
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{tests}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 0


def main(names: list[str]) -> int:
    """Runs the mutants; the number of survivors."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    for tests in sorted({mutant.tests for mutant in chosen}):
        # Tests that fail anyway would "kill" everything.
        if not tests_pass(tests):
            raise SystemExit(f"{tests}: fails without any mutant; mend that first")
    survivors = 0
    for mutant in chosen:
        survived = tests_pass(mutant.tests, mutant)
        survivors += survived
        print(f"{'SURVIVED' if survived else 'killed  '}  {mutant.name}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return survivors


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
