"""The only epoch loop: trains a method's stages one after another, on whatever accelerate finds.

A stage is fully determined by the recipe's seed: its initial weights, and the order and augmentation of
every epoch, are drawn from generators seeded by (seed, stage, epoch, rank), so a run that was killed at any
moment and resumed from its last checkpoint ends in the same weights as one that was not. Stages draw apart,
so that without a pre-trained start an offspring does not repeat its ancestor's path; whether that helps the
refinery is open (docs/results.md: neither way gained here).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch import Tensor, nn

from agelens.data.crops import CropSet
from agelens.errors import CheckpointError, InputError
from agelens.methods.recipe import Recipe, TrainSettings
from agelens.methods.run import Run, read_tensors, write_tensors
from agelens.methods.transforms import augment, normalise, resize_crops
from agelens.metrics import cumulative_accuracy, mae
from agelens.networks.age_network import AgeNetwork, AnyNetwork, MirroredNetwork, Outputs

__all__ = ["CropOutputs", "Method", "Reporter", "Stage", "fit", "learning_rate", "run_on_crops"]

_CHECKPOINT = "checkpoint.safetensors"
_STAGE_SEEDS = 1_000_003  # stages draw apart: recipes' seeds are small numbers


class Stage(Protocol):
    """One network to train."""

    @property
    def name(self) -> str:
        """Folder name in the run, e.g. ``generation-2``."""

    def network(self) -> AgeNetwork:
        """A new network at its start; the generator of torch is seeded before the call."""

    def ready(self, finished: Callable[[str], AgeNetwork]) -> None:
        """Fetch what earlier stages left, by their names (the frozen ancestor)."""

    def to(self, device: torch.device) -> None:
        """Move what :meth:`ready` fetched."""

    def loss(self, outputs: Outputs, images: Tensor, ages: Tensor) -> dict[str, Tensor]:
        """``loss`` and its parts, of one batch: images (B, 3, S, S), ages (B,) in years."""


class Method(Protocol):
    """A sequence of stages; the last one predicts."""

    def stages(self) -> Sequence[Stage]:
        """The stages in training order."""


class Reporter(Protocol):
    """Who is told how it goes."""

    def step(self, stage: str, epoch: int, epochs: int, share: float, figures: Mapping[str, float]) -> None:
        """After a step: share of the epoch done, running figures (``loss``, ``MAE``, ``eta`` in seconds)."""

    def epoch(self, stage: str, epoch: int, epochs: int, row: Mapping[str, Any]) -> None:
        """After an epoch: the row of the log."""


@dataclass
class CropOutputs:
    """What a network says of a set of crops.

    Attributes:
        ldl, reg: (N,) years, or None without that head.
        age: (N,) years, the estimate.
        logits: (N, K) or None.
    """

    ldl: NDArray[np.float64] | None
    reg: NDArray[np.float64] | None
    age: NDArray[np.float64]
    logits: NDArray[np.float64] | None

    def estimates(self) -> dict[str, NDArray[np.float64]]:
        """Every estimate there is, by name: ``ldl``, ``reg`` and ``age`` (what the network answers)."""
        named = {"ldl": self.ldl, "reg": self.reg, "age": self.age}
        return {name: values for name, values in named.items() if values is not None}

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """The estimates, and ``logits`` where there are any."""
        return self.estimates() | ({} if self.logits is None else {"logits": self.logits})


def fit(
    run: Run,
    method: Method,
    train: CropSet,
    val: CropSet,
    *,
    load_network: Callable[[str], AgeNetwork],
    save_network: Callable[[str, AgeNetwork], None],
    reporter: Reporter | None = None,
    cpu: bool = False,
) -> None:
    """Train every stage that the run does not hold yet, going on inside the one that was interrupted.

    Args:
        run: Where checkpoints, logs and networks go.
        method: What to train.
        train: Training crops.
        val: Validation crops; figures of each epoch and the stage's ``validation.json``.
        load_network: A finished stage's network by name.
        save_network: Keeps a finished stage's network.
        reporter: Told after each step and epoch.
        cpu: Do not use an accelerator even where there is one.
    Raises:
        InputError: Fewer training images than a batch.
        CheckpointError: A checkpoint of another network or a damaged one.
    """
    settings = run.recipe.train
    AcceleratorState._reset_state()  # one process may train twice, with another precision
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=cpu)
    if len(train) < settings.batch_size:
        raise InputError(f"{len(train)} training images are fewer than one batch ({settings.batch_size})")
    if settings.batch_size % accelerator.num_processes:
        raise InputError(
            f"batch_size {settings.batch_size} is not a multiple of {accelerator.num_processes} processes"
        )
    for index, stage in enumerate(method.stages()):
        if run.finished(stage.name):
            continue
        stage.ready(load_network)
        stage.to(accelerator.device)
        trainer = _Trainer(
            run, stage, accelerator, train, val, reporter, run.recipe.seed + _STAGE_SEEDS * index
        )
        network = trainer.train()
        if accelerator.is_main_process:
            judged = MirroredNetwork(network) if run.recipe.network.mirror else network
            outputs = run_on_crops(judged, val, run.recipe.network.input_size)
            figures = {
                name: {
                    "MAE": float(mae(values, val.ages)),
                    "CA(5)": float(cumulative_accuracy(values, val.ages, 5)),
                }
                for name, values in outputs.estimates().items()
            }
            run.write_json(stage.name, "validation.json", {"images": len(val), "estimates": figures})
            run.write_arrays(stage.name, "validation.npz", {"ages": val.ages, **outputs.arrays()})
            save_network(stage.name, network)  # last: its presence says that the stage is finished
        accelerator.wait_for_everyone()


@dataclass
class _Trainer:
    run: Run
    stage: Stage
    accelerator: Accelerator
    train_set: CropSet
    val_set: CropSet
    reporter: Reporter | None
    seed: int
    settings: TrainSettings = field(init=False)
    recipe: Recipe = field(init=False)

    def __post_init__(self) -> None:
        self.recipe = self.run.recipe
        self.settings = self.recipe.train
        self.steps = len(self.train_set) // self.settings.batch_size
        torch.manual_seed(self.seed)
        network = self.stage.network().to(memory_format=torch.channels_last)
        self.averaged = self._copy(network) if self.settings.average else None
        self.optimizer = _optimizer(network, self.settings)
        self.network, self.optimizer = self.accelerator.prepare(network, self.optimizer)
        self.first_epoch = 0
        self.seconds = 0.0
        self._resized: CropSet | None = None
        self.board = (
            _tensorboard(self.run.stage(self.stage.name)) if self.accelerator.is_main_process else None
        )

    @property
    def plain(self) -> AgeNetwork:
        """The network in training, without accelerate's wrapping."""
        network: AgeNetwork = self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        return network

    def train(self) -> AgeNetwork:
        """Run the epochs that are left; returns the averaged network (or the network itself)."""
        checkpoint = self.run.stage(self.stage.name) / _CHECKPOINT
        if checkpoint.exists():
            self._restore(checkpoint)
        for epoch in range(self.first_epoch, self.settings.epochs):
            started = time.monotonic()
            figures = self._epoch(epoch)
            self.seconds += time.monotonic() - started
            if self.accelerator.is_main_process:
                row: dict[str, Any] = {
                    "epoch": epoch + 1,
                    **figures,
                    **self._validate(epoch),
                    "seconds": round(self.seconds, 1),
                }
                self.run.log(self.stage.name, row)
                if self.board is not None:
                    for name in row.keys() - {"epoch"}:
                        self.board.add_scalar(name, row[name], epoch + 1)
                    self.board.flush()
                self._save(checkpoint, epoch + 1)
                if self.reporter is not None:
                    self.reporter.epoch(self.stage.name, epoch + 1, self.settings.epochs, row)
            self.accelerator.wait_for_everyone()
        if self.board is not None:
            self.board.close()
        return self.averaged if self.averaged is not None else self.plain

    def _epoch(self, epoch: int) -> dict[str, float]:
        settings = self.settings
        size = _size_at(epoch / settings.epochs, settings, self.recipe.network.input_size)
        crops = self._crops_for(size)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        share = settings.batch_size // world
        order = torch.randperm(len(crops), generator=_generator(self.seed, epoch)).numpy()
        views = _generator(self.seed, epoch, 1 + rank)
        torch.manual_seed(int(torch.randint(2**62, (), generator=views)))  # dropout, if a backbone has it
        augmentation = self.recipe.augment.augmentation()
        self.network.train()
        sums: dict[str, float] = {}
        started = time.monotonic()
        for step in range(self.steps):
            chosen = order[step * settings.batch_size :][rank * share : (rank + 1) * share]
            batch = torch.from_numpy(crops.crops(chosen)).to(self.accelerator.device)
            ages = torch.from_numpy(crops.ages[chosen]).to(self.accelerator.device)
            images = augment(batch, augmentation, size, views)
            rate = learning_rate(
                epoch * self.steps + step, settings.epochs * self.steps, self.steps, settings
            )
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            with self.accelerator.autocast():
                outputs = _in_float32(self.network(images))
                parts = self.stage.loss(outputs, images, ages)
            self.optimizer.zero_grad(set_to_none=True)
            self.accelerator.backward(parts["loss"])
            if settings.clip_gradient:
                self.accelerator.clip_grad_norm_(self.network.parameters(), settings.clip_gradient)
            self.optimizer.step()
            self._average(epoch * self.steps + step)
            with torch.no_grad():
                error = (self.plain.head.decode(outputs).age - ages).abs().mean()
            for name, value in (*parts.items(), ("train MAE", error)):
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if self.reporter is not None and self.accelerator.is_main_process:
                done = epoch * self.steps + step + 1
                per_step = (time.monotonic() - started) / (step + 1)
                self.reporter.step(
                    self.stage.name,
                    epoch + 1,
                    settings.epochs,
                    (step + 1) / self.steps,
                    {
                        "loss": sums["loss"] / (step + 1),
                        "MAE": sums["train MAE"] / (step + 1),
                        "eta": per_step * (settings.epochs * self.steps - done),
                    },
                )
        figures: dict[str, float] = {"size": size, "rate": rate}
        figures.update({name: round(total / self.steps, 5) for name, total in sums.items()})
        figures["images/s"] = round(self.steps * settings.batch_size / (time.monotonic() - started), 1)
        return figures

    def _crops_for(self, size: int) -> CropSet:
        """The training crops at 8/7 of the view's size (at most as they come), anti-aliased once a phase."""
        side = min(self.train_set.side, round(size * 8 / 7))
        if side == self.train_set.side:
            return self.train_set
        if self._resized is None or self._resized.side != side:
            pixels = np.empty((len(self.train_set), side, side, 3), np.uint8)
            for start in range(0, len(pixels), 512):
                block = torch.from_numpy(self.train_set.crops(slice(start, start + 512)))
                pixels[start : start + 512] = resize_crops(block, side).numpy()
            self._resized = CropSet(pixels, self.train_set.ages, np.arange(len(pixels)))
        return self._resized

    def _average(self, step: int) -> None:
        if self.averaged is None:
            return
        decay = min(self.settings.average, (1 + step) / (10 + step))
        mine, theirs = list(self.averaged.state_dict().values()), list(self.plain.state_dict().values())
        floating = [i for i, tensor in enumerate(mine) if tensor.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([mine[i] for i in floating], [theirs[i] for i in floating], 1 - decay)

    def _validate(self, epoch: int) -> dict[str, float]:
        size = _size_at(epoch / self.settings.epochs, self.settings, self.recipe.network.input_size)
        network = self.averaged if self.averaged is not None else self.plain
        with self.accelerator.autocast():
            outputs = run_on_crops(network, self.val_set, size)
        return {
            f"val MAE {name}": round(float(mae(values, self.val_set.ages)), 4)
            for name, values in outputs.estimates().items()
        }

    def _copy(self, network: AgeNetwork) -> AgeNetwork:
        copy = self.stage.network().to(memory_format=torch.channels_last)
        copy.load_state_dict(network.state_dict())
        copy.requires_grad_(False).to(self.accelerator.device)
        copied: AgeNetwork = copy.eval()
        return copied

    def _save(self, path: Any, epochs_done: int) -> None:
        tensors = {f"network.{name}": tensor for name, tensor in self.plain.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        facts: dict[str, Any] = {
            "stage": self.stage.name,
            "epochs_done": epochs_done,
            "seconds": self.seconds,
        }
        scaler = self.accelerator.scaler
        if scaler is not None:
            facts["scaler"] = scaler.state_dict()
        write_tensors(path, tensors, facts)

    def _restore(self, path: Any) -> None:
        tensors, facts = read_tensors(path)
        try:
            self.plain.load_state_dict(_under("network.", tensors))
            if self.averaged is not None:
                self.averaged.load_state_dict(_under("averaged.", tensors))
            state = self.optimizer.state_dict()
            state["state"] = {}
            for name, tensor in _under("optimizer.", tensors).items():
                index, key = name.split(".", 1)
                state["state"].setdefault(int(index), {})[key] = tensor
            self.optimizer.load_state_dict(state)
            if self.accelerator.scaler is not None and "scaler" in facts:
                self.accelerator.scaler.load_state_dict(facts["scaler"])
            self.first_epoch, self.seconds = int(facts["epochs_done"]), float(facts["seconds"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(path, f"does not fit this recipe's network: {error}") from error


def run_on_crops(network: AnyNetwork, crops: CropSet, size: int, batch: int = 256) -> CropOutputs:
    """Estimate the ages of crops.

    Args:
        network: In any mode; evaluated in evaluation mode and put back.
        crops: N crops.
        size: Side the crops are resized to, pixels.
        batch: Crops at a time.
    Returns:
        The ages of each head, the estimate, the logits.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    parts: dict[str, list[Tensor]] = {"ldl": [], "reg": [], "age": [], "logits": []}
    with torch.inference_mode():
        for start in range(0, len(crops), batch):
            block = torch.from_numpy(crops.crops(slice(start, start + batch))).to(device)
            outputs = network(normalise(resize_crops(block, size)))
            decoded = network.head.decode(outputs)
            for name, value in (
                ("ldl", decoded.ldl),
                ("reg", decoded.reg),
                ("age", decoded.age),
                ("logits", outputs.logits),
            ):
                if value is not None:
                    parts[name].append(value.float().cpu())
    network.train(training)
    joined = {n: torch.cat(v).numpy().astype(np.float64) if v else None for n, v in parts.items()}
    age = joined["age"]
    if age is None:
        raise ValueError("no crops")
    return CropOutputs(joined["ldl"], joined["reg"], age, joined["logits"])


def learning_rate(step: int, total: int, steps_per_epoch: int, settings: TrainSettings) -> float:
    """The rate of one step.

    Args:
        step: 0 … total - 1.
        total: Steps of the whole stage.
        steps_per_epoch: Steps of one epoch.
        settings: Schedule and its numbers.
    Returns:
        ``step``: rate × γ^(epoch // step_epochs). ``onecycle``: cosine from rate/25 up to the rate
        over the warm-up, then cosine down to rate/10⁴ (Smith & Topin's policy without its third phase).
    """
    rate = settings.learning_rate
    if settings.schedule == "step":
        return rate * settings.gamma ** (step // steps_per_epoch // settings.step_epochs)
    peak = settings.warmup * (total - 1)
    if step < peak:
        return rate / 25 + (rate - rate / 25) * (1 - cos(pi * step / peak)) / 2
    share = (step - peak) / max(total - 1 - peak, 1)
    return rate / 1e4 + (rate - rate / 1e4) * (1 + cos(pi * share)) / 2


def _tensorboard(folder: Path) -> Any:
    """A writer of the stage's curves, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _in_float32(outputs: Outputs) -> Outputs:
    features, logits, regressed = outputs
    return Outputs(
        features.float(),
        None if logits is None else logits.float(),
        None if regressed is None else regressed.float(),
    )


def _optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _size_at(share: float, settings: TrainSettings, input_size: int) -> int:
    size = input_size
    for start, phase in settings.sizes:
        if share >= start:
            size = phase
    return size


def _generator(*keys: int) -> torch.Generator:
    """A CPU generator seeded by several numbers."""
    seed = np.random.SeedSequence(keys).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
