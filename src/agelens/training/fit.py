"""The only epoch loop: trains a method's stages one after another, on whatever accelerate finds.

A stage is fully determined by the recipe's seed: its initial weights, and the order and augmentation of
every epoch, are drawn from generators seeded by (seed, stage, epoch, rank), so a run that was killed at any
moment and resumed from its last checkpoint ends in the same weights as one that was not. Every stage has
random numbers of its own, so that without a pre-trained start an offspring does not repeat its ancestor's
path. Whether that helps the refinery is open: neither way was better in docs/results.md.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from torch import Tensor, nn

from agelens.data.crop_set import CropSet
from agelens.errors import CheckpointError, InputError, RunError
from agelens.networks.age_network import AgeNetwork, MirroredNetwork
from agelens.networks.stored import load_network, read_tensors, save_network, write_tensors
from agelens.training.compiled import compiled
from agelens.training.crop_source import one_ahead, source_for, worth_one_ahead
from agelens.training.figures import NotFiniteError, StepFigures
from agelens.training.optimisation import learning_rate, make_optimizer, momentum, restore_state, set_rate
from agelens.training.recipe import Recipe, TrainSettings
from agelens.training.run import Run
from agelens.training.stage import Batch, CropOutputs, Order, Stage, Validation, run_on_crops
from agelens.training.synchronised import synchronise
from agelens.training.transfer import to_device
from agelens.training.transforms import resize_crops

__all__ = [
    "CropOutputs",
    "Reporter",
    "Stage",
    "fit",
    "run_on_crops",
]

_CHECKPOINT = "checkpoint.safetensors"
_STAGE_SEEDS = 1_000_003  # stages draw apart: recipes' seeds are small numbers


class Reporter(Protocol):
    """Receives training progress."""

    def note(self, message: str) -> None:
        """Once, before a stage: something about its data that its owner should know."""

    def step(self, stage: str, epoch: int, epochs: int, share: float, figures: Mapping[str, float]) -> None:
        """After a step: share of the epoch done; running figures (``loss``, …) and ``eta`` in seconds."""

    def epoch(self, stage: str, epoch: int, epochs: int, row: Mapping[str, Any]) -> None:
        """After an epoch: the row of the log."""


def fit(
    run: Run,
    stages: Sequence[Stage],
    train: CropSet,
    val: CropSet,
    *,
    reporter: Reporter | None = None,
    cpu: bool = False,
) -> None:
    """Train every stage that the run does not hold yet, going on inside the one that was interrupted.

    Args:
        run: Where checkpoints, logs and networks go.
        stages: Of a method, in training order.
        train: Training crops.
        val: Validation crops; figures of each epoch and the stage's ``validation.json``.
        reporter: Receives progress after each step and epoch.
        cpu: Do not use an accelerator even where there is one.
    Raises:
        InputError: Fewer training images than a batch.
        CheckpointError: A checkpoint of another network or a damaged one.
        RunError: A loss is not finite; the last checkpoint is kept.
    """
    finished = _Finished(run)
    for index, stage in enumerate(stages):
        if run.finished(stage.name):
            continue
        AcceleratorState._reset_state()  # one process may train twice, with another precision
        precision = stage.precision(PartialState(cpu=cpu).device)
        accelerator = Accelerator(mixed_precision=precision, cpu=cpu)
        stage.ready(finished)
        notes = [*stage.look(train, val)]
        if precision != stage.training.precision:
            notes.append("this CPU has no bfloat16 arithmetic: trained in float32")
        if reporter is not None and accelerator.is_main_process:
            for note in notes:
                reporter.note(f"{stage.name}: {note}")
        stage.to(accelerator.device)
        seed = run.recipe.seed + _STAGE_SEEDS * index
        if stage.at_once:
            if not accelerator.is_main_process:
                accelerator.wait_for_everyone()
                continue
            network = stage.result(_solved(run, stage, accelerator.device, train, val, reporter, seed))
        else:
            trainer = _Trainer(run, stage, accelerator, train, val, reporter, seed)
            network = stage.result(trainer.train())
        if accelerator.is_main_process:
            mirrored = run.recipe.network.mirror and isinstance(network, AgeNetwork)
            judged = MirroredNetwork(network) if mirrored else network  # type: ignore[arg-type]
            validation = stage.validate(judged, val, run.recipe.network.input_size)
            table = {"images": len(val), **validation.table, **({"notes": notes} if notes else {})}
            run.write_json(stage.name, "validation.json", table)
            run.write_arrays(stage.name, "validation.npz", validation.arrays)
            # Last: its presence says that the stage is finished.
            save_network(network, run.network_file(stage.name), stage.describe(network))
        accelerator.wait_for_everyone()


def _solved(
    run: Run,
    stage: Stage,
    device: torch.device,
    train: CropSet,
    val: CropSet,
    reporter: Reporter | None,
    seed: int,
) -> nn.Module:
    """The network of a stage without epochs; its log has one row."""
    torch.manual_seed(seed)
    started = time.monotonic()
    network = stage.solve(train, val, device)
    seconds = time.monotonic() - started
    validated = stage.validate(network, val, run.recipe.network.input_size).figures
    row: dict[str, Any] = {"epoch": 1, "size": run.recipe.network.input_size}
    row |= {f"val {name}": value for name, value in validated.items()}
    row |= {"images/s": round(len(train) / seconds, 1), "seconds": round(seconds, 1)}
    run.log(stage.name, row)
    if reporter is not None:
        reporter.epoch(stage.name, 1, 1, row)
    return network


@dataclass(frozen=True)
class _Finished:
    """See :class:`agelens.training.stage.Finished`."""

    run: Run

    def __call__(self, name: str) -> nn.Module:
        network: nn.Module = load_network(self.run.network_file(name))
        return network

    def validation(self, name: str) -> dict[str, Any]:
        return self.run.read_json(name, "validation.json")

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        return self.run.read_arrays(name, "validation.npz")


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
        settings = self.settings = self.stage.training
        images = len(self._order(0).rows)
        if images < settings.batch_size:
            raise InputError(f"{images} training images are fewer than one batch ({settings.batch_size})")
        if settings.batch_size % self.accelerator.num_processes:
            raise InputError(
                f"batch_size {settings.batch_size} is not a multiple of "
                f"{self.accelerator.num_processes} processes"
            )
        self.steps = images // settings.batch_size
        torch.manual_seed(self.seed)
        network = self.stage.network().to(memory_format=torch.channels_last)
        for part in self.stage.frozen(network):
            part.requires_grad_(False)
        self.averaged = self._copy(network) if settings.average else None
        if settings.sync_batch_norm and self.accelerator.num_processes > 1:
            synchronise(network, self.recipe.name)
        self.optimizer = make_optimizer(network, settings, self.accelerator.device)
        self.network, self.optimizer = self.accelerator.prepare(network, self.optimizer)
        # The network in training, without accelerate's wrapping.
        self.plain: nn.Module = self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        # What runs in a step: compiled, if the recipe says so.
        self.runs = compiled(self.network, self.recipe.name) if settings.compile else self.network
        self.first_epoch = 0
        self.seconds = 0.0
        self.best: dict[str, Tensor] = {}
        self.best_merit = -inf
        self._source: CropSet | None = None
        self.board = (
            _tensorboard(self.run.stage(self.stage.name)) if self.accelerator.is_main_process else None
        )

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the averaged one, or the one in training."""
        return self.averaged if self.averaged is not None else self.plain

    def train(self) -> nn.Module:
        """Run the epochs that are left; returns the network of the last or the best epoch."""
        checkpoint = self.run.stage(self.stage.name) / _CHECKPOINT
        if checkpoint.exists() and not self._passed_over(checkpoint):
            self._restore(checkpoint)
        for epoch in range(self.first_epoch, self.settings.epochs):
            started = time.monotonic()
            figures = self._epoch(epoch)
            self.seconds += time.monotonic() - started
            if self.accelerator.is_main_process:
                validated = self._validate(epoch).figures
                row: dict[str, Any] = {
                    "epoch": epoch + 1,
                    **figures,
                    **{f"val {name}": value for name, value in validated.items()},
                    "seconds": round(self.seconds, 1),
                }
                if self._competes(epoch) and self.stage.merit(validated) > self.best_merit:
                    self.best_merit = self.stage.merit(validated)
                    self.best = {name: t.clone() for name, t in self.judged.state_dict().items()}
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
        if self.best:
            self.judged.load_state_dict(self.best)
        return self.judged

    def _order(self, epoch: int) -> Order:
        self.stage.begin(epoch)
        return self.stage.order(self.train_set, epoch, _generator(self.seed, epoch))

    def _epoch(self, epoch: int) -> dict[str, float]:
        settings = self.settings
        size = self._size(epoch)
        crops = self._crops_for(size)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        order = self._order(epoch)
        views = _generator(self.seed, epoch, 1 + rank)
        torch.manual_seed(int(torch.randint(2**62, (), generator=views)))  # dropout, if a backbone has it
        device = self.accelerator.device
        self.network.train()
        for part in self.stage.frozen(self.plain):
            part.eval()
        figures_of_steps = StepFigures(device)
        pairs = self._averaged_pairs()
        started = time.monotonic()

        def made(step: int) -> tuple[Tensor, Tensor, Mapping[str, Tensor]]:
            mine = self._share(step, world, rank)
            rows = order.rows[mine].reshape(-1)
            return torch.from_numpy(order.targets[mine]), *self.stage.inputs(crops, rows, size, views, device)

        ahead = worth_one_ahead(crops, device)
        for step, (known, images, extras) in enumerate(one_ahead(made, self.steps, ahead)):
            batch = Batch(images, to_device(known, device), extras, known)
            done, total = epoch * self.steps + step, settings.epochs * self.steps
            rate = learning_rate(done, total, self.steps, settings)
            set_rate(self.optimizer, rate, momentum(done, total, settings))
            with self.accelerator.autocast():
                outputs = _in_float32(self._outputs(batch))
                parts = self.stage.loss(outputs, batch)
            try:
                figures_of_steps.add(step, parts)
                self.optimizer.zero_grad(set_to_none=True)
                self.accelerator.backward(parts["loss"])
                if settings.clip_gradient:
                    self.accelerator.clip_grad_norm_(self.network.parameters(), settings.clip_gradient)
                self.optimizer.step()
                self._average(epoch * self.steps + step, pairs)
                with torch.no_grad():
                    self.stage.stepped(self.plain, outputs, batch)
                    scored = self.stage.score(self.plain, outputs, batch)
                figures_of_steps.add(step, scored)
                last = step + 1 == self.steps
                if last or figures_of_steps.due:
                    self._tell(epoch, step, figures_of_steps.read(), scored, started)
            except NotFiniteError as error:
                rows = order.rows[self._share(error.step, world, rank)]
                raise RunError(self.run.path, self._not_a_number(error, epoch, rows)) from None
        figures: dict[str, float] = {"size": size, "rate": rate}
        sums = figures_of_steps.read()
        figures.update({name: round(total / self.steps, 5) for name, total in sums.items()})
        images_seen = order.rows[: self.steps * settings.batch_size].size
        figures["images/s"] = round(images_seen / (time.monotonic() - started), 1)
        return figures

    def _share(self, step: int, world: int, rank: int) -> slice:
        """This process's part of a step's batch, in the order of the epoch."""
        share = self.settings.batch_size // world
        first = step * self.settings.batch_size + rank * share
        return slice(first, first + share)

    def _tell(
        self, epoch: int, step: int, sums: Mapping[str, float], scored: Mapping[str, Tensor], started: float
    ) -> None:
        """Report the running figures of an epoch."""
        if self.reporter is None or not self.accelerator.is_main_process:
            return
        settings = self.settings
        left = settings.epochs * self.steps - (epoch * self.steps + step + 1)
        running = {name: sums[name] / (step + 1) for name in ("loss", *scored)}
        running["eta"] = (time.monotonic() - started) / (step + 1) * left
        share = (step + 1) / self.steps
        self.reporter.step(self.stage.name, epoch + 1, settings.epochs, share, running)

    def _outputs(self, batch: Batch) -> Any:
        """Run the network on a batch, with ``ghost_batch`` in parts that its batch norms see apart."""
        part = self.settings.ghost_batch * (len(batch.images) // len(batch.targets))  # sequences stay whole
        if not part or part >= len(batch.images):
            return self.runs(batch.images)
        starts = range(0, len(batch.images), part)
        return _joined([self.runs(batch.images[start : start + part]) for start in starts])

    def _not_a_number(self, error: NotFiniteError, epoch: int, rows: NDArray[np.int64]) -> str:
        shown = ", ".join(f"{name} {value:g}" for name, value in error.parts.items())
        images = ", ".join(str(row) for row in rows.reshape(-1)[:8])
        kept = f"the checkpoint of epoch {epoch} is kept" if epoch else "there is no checkpoint yet"
        return (
            f"{self.stage.name} stopped in epoch {epoch + 1}, step {error.step + 1} of {self.steps}: {shown} "
            f"(batch of {len(rows)}, training images {images} …); {kept}; "
            "try a smaller learning rate or clip_gradient"
        )

    def _crops_for(self, size: int) -> CropSet:
        """The training crops at 8/7 of the view's size (at most as they come), anti-aliased once a phase."""
        side = min(self.train_set.side, round(size * 8 / 7))
        if self._source is None or self._source.side != side:
            self._source = None  # what the device keeps of another phase is freed first
            self._source = source_for(self._resized(side), self.accelerator.device)
        return self._source

    def _resized(self, side: int) -> CropSet:
        if side == self.train_set.side:
            return self.train_set
        pixels = np.empty((len(self.train_set), side, side, 3), np.uint8)
        for start in range(0, len(pixels), 512):
            block = torch.from_numpy(self.train_set.crops(slice(start, start + 512)))
            pixels[start : start + 512] = resize_crops(block, side).numpy()
        return replace(self.train_set, pixels=pixels, rows=np.arange(len(pixels)), stored=None)

    def _averaged_pairs(self) -> list[tuple[Tensor, dict[str, Any], str]]:
        """Tensors of the averaged network, and where those of the one in training are found by name."""
        if self.averaged is None:
            return []
        modules = dict(self.plain.named_modules())
        pairs = []
        for name, tensor in self.averaged.state_dict().items():
            if tensor.is_floating_point():
                owner, _, key = name.rpartition(".")
                there: dict[str, Any] = modules[owner]._parameters
                pairs.append((tensor, there if key in there else modules[owner]._buffers, key))
        return pairs

    def _average(self, step: int, pairs: list[tuple[Tensor, dict[str, Any], str]]) -> None:
        if pairs:
            decay = min(self.settings.average, (1 + step) / (10 + step))
            with torch.no_grad():
                mine, theirs = [tensor for tensor, _, _ in pairs], [place[key] for _, place, key in pairs]
                torch._foreach_lerp_(mine, theirs, 1 - decay)

    def _size(self, epoch: int) -> int:
        """Side of the images that an epoch shows and is validated at, pixels."""
        return _size_at(epoch / self.settings.epochs, self.settings, self.recipe.network.input_size)

    def _competes(self, epoch: int) -> bool:
        """Whether an epoch can be the best: its figures must hold at the size that the network is used at."""
        return self.settings.keep == "best" and self._size(epoch) == self.recipe.network.input_size

    def _validate(self, epoch: int) -> Validation:
        with self.accelerator.autocast():
            return self.stage.validate(self.judged, self.val_set, self._size(epoch))

    def _copy(self, network: nn.Module) -> nn.Module:
        return copy.deepcopy(network).requires_grad_(False).to(self.accelerator.device).eval()

    def _save(self, path: Any, epochs_done: int) -> None:
        tensors = {f"network.{name}": tensor for name, tensor in self.plain.state_dict().items()}
        if self.averaged is not None:
            tensors |= {f"averaged.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        facts: dict[str, Any] = {
            "stage": self.stage.name,
            "epochs_done": epochs_done,
            "seconds": self.seconds,
        }
        if self.best:
            facts["best_merit"] = self.best_merit
        scaler = self.accelerator.scaler
        if scaler is not None:
            facts["scaler"] = scaler.state_dict()
        write_tensors(path, tensors, facts)

    def _passed_over(self, path: Path) -> bool:
        """Whether the checkpoint is damaged and the stage begins again; a note says so."""
        if not self.stage.restarts:
            return False
        try:
            read_tensors(path)
        except CheckpointError as error:
            if self.reporter is not None and self.accelerator.is_main_process:
                self.reporter.note(f"{error}; {self.stage.name} begins again from the stage before it")
            return True
        return False

    def _restore(self, path: Any) -> None:
        tensors, facts = read_tensors(path)
        try:
            self.plain.load_state_dict(_under("network.", tensors))
            if self.averaged is not None:
                self.averaged.load_state_dict(_under("averaged.", tensors))
            self.best = _under("best.", tensors)
            self.best_merit = float(facts.get("best_merit", -inf))
            restore_state(self.optimizer, _under("optimizer.", tensors))
            if self.accelerator.scaler is not None and "scaler" in facts:
                self.accelerator.scaler.load_state_dict(facts["scaler"])
            self.first_epoch, self.seconds = int(facts["epochs_done"]), float(facts["seconds"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(path, f"does not fit this recipe's network: {error}") from error


def _joined(parts: Sequence[Any]) -> Any:
    """Join outputs of parts of a batch: tensors, None, or possibly named tuples of them."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, tuple):
        joined = [_joined(members) for members in zip(*parts, strict=True)]
        return first._make(joined) if hasattr(first, "_make") else tuple(joined)
    return first


def _tensorboard(folder: Path) -> Any:
    """A writer of the stage's curves, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _in_float32(outputs: Any) -> Any:
    """Every tensor of outputs (a tensor, or a possibly named tuple of them) in float32."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    if isinstance(outputs, tuple):
        parts = [_in_float32(part) for part in outputs]
        return outputs._make(parts) if hasattr(outputs, "_make") else tuple(parts)
    return outputs


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
