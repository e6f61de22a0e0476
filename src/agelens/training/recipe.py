"""A recipe: all that a run needs besides the data, in one TOML file, validated on load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agelens.errors import InputError, RecipeError
from agelens.label_distribution import AgeBins
from agelens.reading import parse_toml, read_text, reason
from agelens.rehearsal import cut_recipe, rehearsing
from agelens.training.transforms import Augmentation

__all__ = [
    "MethodSettings",
    "NetworkSettings",
    "Recipe",
    "Selection",
    "TrainSettings",
    "recipe_names",
    "recipe_tricks",
    "validated",
]

Selection = Literal["mae", "aar", "band"]
"""Criterion of the best on the validation split: the smallest MAE, the largest AAR (LAE Eq. 6), or the
largest band accuracy, where labels are bands."""

Settings = TypeVar("Settings", bound=BaseModel)


def validated(model: type[Settings], table: Mapping[str, Any], source: str | Path, key: str = "") -> Settings:
    """Validate a table of settings.

    Args:
        model: What the table must be.
        table: As it was read.
        source: Name or file of the recipe, for the message.
        key: Dotted key of the table in the recipe; empty: the recipe itself.
    Raises:
        RecipeError: The first thing that is wrong, with its key and value.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        whole = ".".join([*([key] if key else ()), *(str(part) for part in first["loc"])])
        value = first.get("input") if first["loc"] else None  # not the whole table
        raise RecipeError(source, whole or "recipe", first["msg"], value) from error


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MethodSettings(_Settings):
    """Name of the method and its own settings, which the method validates."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class NetworkSettings(_Settings):
    """Backbone and input.

    Attributes:
        backbone: A name of ``networks.BACKBONES`` or of timm.
        heads: ``["ldl", "reg"]``, or one of them.
        input_size: Side of the network's input, pixels.
        enlarge: Train on crops smaller than the input, enlarged; otherwise they are refused.
        mirror: Estimate on the face and its mirror image and average: test time only, twice the cost. The
            ancestor teaches without it.
        pretrained: Start from the backbone's published weights (downloaded; fails loudly offline).
        start: Weights to start from, as ``--start``: a finished run, its ``network.safetensors``, a
            safetensors file of a bare backbone, or a model (no batch norms). Empty: none.
        same_bins: Keep the head that the start was trained with: a start of other age bins, or without a head
            of ages, is refused. Off: such a head starts anew, and a note says so.
        frozen: Parts of the backbone, by their names in it (``["conv1", "features.0"]``), that keep the
            weights and batch-norm statistics they start with: a pre-trained one's early layers cost most and
            change least.
    """

    backbone: str = "resnet10-tiny"
    heads: tuple[Literal["ldl", "reg"], ...] = ("ldl", "reg")
    input_size: int = Field(default=112, ge=32, le=1024)
    enlarge: bool = False
    mirror: bool = False
    pretrained: bool = False
    start: str = ""
    same_bins: bool = False
    frozen: tuple[str, ...] = ()


class TrainSettings(_Settings):
    """Optimisation of one stage.

    Attributes:
        epochs: Passes over the training split, per generation or stage.
        batch_size: Images a step, over all processes.
        optimizer: ``sgd`` (momentum), ``adam`` or ``adamw``.
        learning_rate: The initial rate (``step``, ``milestones``) or the largest one (``onecycle``).
        rate_batch: The batch the rates are given for: they are scaled by ``batch_size / rate_batch``
            (LAE Sec. 3.3); 0 = taken as they are.
        backbone_rate: Factor of the rate for the backbone's weights, smaller than 1 for a pre-trained one.
        momentum: Of SGD.
        weight_decay: Of all weights but biases and batch-norm parameters when ``adamw``; of all
            weights otherwise, as the papers' frameworks did.
        schedule: ``step``: ×``gamma`` every ``step_epochs``; ``milestones``: ×``gamma`` at each of
            ``milestones``; ``rates``: as ``rates`` says; ``onecycle``: cosine up over ``warmup`` of
            the steps, then cosine down to 0.
        last_rate: Last rate of ``onecycle`` as a share of the largest; PyTorch's OneCycleLR has 0.000004.
        cycle_momentum: First and lowest momentum of ``onecycle`` (PyTorch: 0.95 and 0.85), the lowest where
            the rate is largest; Adam's first β likewise. None: it does not change.
        milestones: Epochs (from 0) at which the rate falls.
        rates: ``[[from_epoch, rate], …]``, in place of ``learning_rate``.
        average: Decay of the exponential moving average of the weights, 0 = none. The averaged
            network is what is validated, kept, exported, and what teaches the offspring.
        sizes: Progressive resizing: ``[[from_epoch_share, size], …]``; empty = the input size throughout.
        precision: ``no`` (float32), ``bf16`` or ``fp16``. On a CPU without bfloat16 arithmetic ``bf16`` is
            trained in float32, which is reported: emulated, it is many times slower.
        ghost_batch: Batch norms see so many images at a time, as each of several GPUs would (LAE Sec. 2.3: 32
            on a GPU); 0 = all that a device has of a batch.
        sync_batch_norm: Batch norms see the batch of all processes, so that several train what one would;
            off: the images of their own process.
        compile: Train with ``torch.compile``: the first step of each image size takes a minute, the others
            less time. Needs a C++ compiler.
        clip_gradient: Largest gradient norm; 0 = none.
        validation: Whether a part of the images validates. Off: a run on all that a paper trains on; ``keep``
            is ``last``, the last stage is the result, and an exported model is not calibrated.
        sets: How often an image of a set is drawn, relative to an image of a set that is not named (1); 0:
            never. Sets are named by the manifest's column ``dataset`` (``agelens join``). Empty: every image
            once an epoch; else as many images are drawn with replacement.
        keep: The network of the ``last`` epoch, or of the ``best`` one on the validation split by what the
            recipe selects; with ``sizes``, of those shown at the input size.
    """

    epochs: int = Field(default=160, ge=1)
    batch_size: int = Field(default=128, ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.001, gt=0)
    rate_batch: int = Field(default=0, ge=0)
    backbone_rate: float = Field(default=1.0, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["step", "milestones", "rates", "onecycle"] = "step"
    step_epochs: int = Field(default=40, ge=1)
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    rates: tuple[tuple[Annotated[int, Field(ge=0)], Annotated[float, Field(gt=0)]], ...] = ()
    gamma: float = Field(default=0.1, gt=0, le=1)
    warmup: float = Field(default=0.2, ge=0, lt=1)
    last_rate: float = Field(default=1e-4, gt=0, le=1)
    cycle_momentum: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = (
        None
    )
    average: float = Field(default=0.0, ge=0, lt=1)
    sizes: tuple[tuple[float, int], ...] = ()
    precision: Literal["no", "bf16", "fp16"] = "no"
    ghost_batch: int = Field(default=0, ge=0)
    sync_batch_norm: bool = False
    compile: bool = False
    clip_gradient: float = Field(default=0.0, ge=0)
    validation: bool = True
    sets: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    keep: Literal["last", "best"] = "last"

    @property
    def rate_factor(self) -> float:
        """Factor of the rates for this batch size."""
        return self.batch_size / self.rate_batch if self.rate_batch else 1.0

    @property
    def scaled_rate(self) -> float:
        """``learning_rate`` for this batch size."""
        return self.learning_rate * self.rate_factor

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Self:
        if self.schedule == "milestones" and not self.milestones:
            raise ValueError("schedule 'milestones' needs milestones")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must rise")
        if self.schedule == "rates" and not self.rates:
            raise ValueError("schedule 'rates' needs rates")
        epochs = [epoch for epoch, _ in self.rates]
        if epochs and (epochs[0] != 0 or epochs != sorted(set(epochs))):
            raise ValueError("rates must start at epoch 0 and rise")
        return self

    @model_validator(mode="after")
    def _batch_norm_sees_one_batch(self) -> Self:
        if self.sync_batch_norm and self.ghost_batch:
            raise ValueError("sync_batch_norm sees whole batches, ghost_batch parts of one: one of them")
        return self

    @model_validator(mode="after")
    def _nothing_is_selected(self) -> Self:
        if not self.validation and self.keep == "best":
            raise ValueError("without a validation part (validation = false) keep must be 'last'")
        return self

    @model_validator(mode="after")
    def _sets_draw(self) -> Self:
        if self.sets and not any(self.sets.values()):
            raise ValueError("the weights of the sets must not all be 0")
        return self

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Self:
        shares = [share for share, _ in self.sizes]
        if shares and (shares[0] != 0.0 or shares != sorted(set(shares)) or shares[-1] >= 1.0):
            raise ValueError("sizes must start at share 0 and rise, below 1")
        if any(size < 32 for _, size in self.sizes):
            raise ValueError("sizes must be at least 32 pixels")
        return self


class AugmentSettings(_Settings):
    """See :class:`agelens.training.transforms.Augmentation`."""

    scale: tuple[float, float] = (0.8, 1.0)
    aspect: tuple[float, float] = (0.8, 1.25)
    redraw: bool = False
    flip: float = Field(default=0.5, ge=0, le=1)
    rotation: float = Field(default=0.0, ge=0, le=90)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)
    saturation: float = Field(default=0.0, ge=0, lt=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)
    grey: float = Field(default=0.0, ge=0, le=1)
    tint: float = Field(default=0.0, ge=0, lt=1)
    soften: float = Field(default=0.0, ge=0, le=1)
    erase: float = Field(default=0.0, ge=0, le=1)
    cover: float = Field(default=0.0, ge=0, le=1)
    expose: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.0, ge=0, le=1)
    compress: float = Field(default=0.0, ge=0, le=1)
    randaugment: int = Field(default=0, ge=0, le=10)
    magnitude: int = Field(default=9, ge=0, le=30)

    def augmentation(self) -> Augmentation:
        """The settings as the transform takes them."""
        return Augmentation(**self.model_dump())


class FinishSettings(_Settings):
    """A stage after the method's own, on the best network it left.

    Attributes:
        name: ``none``, or a key of :data:`agelens.methods.lookup.FINISHERS`; the stage has that name.
        settings: Its own settings, validated by it.
    """

    name: str = "none"
    settings: dict[str, Any] = Field(default_factory=dict)


class CardSettings(_Settings):
    """Entries of an exported model's card that only the author of the recipe knows.

    Attributes:
        data: Training data of the network.
        data_terms: The terms of that data where the manifest names no data set (those of sets are known).
        use: What the weights are not meant for, or another caveat; what they permit is computed
            (:mod:`agelens.terms`).
        allow_restricted: Accept a start or a teacher that is for research only although the images permit
            more.
    """

    data: str = "not stated"
    data_terms: str = "not stated"
    use: str = ""
    allow_restricted: bool = False


class Recipe(_Settings):
    """Paper × data set.

    Attributes:
        name: Short name; also of the exported model.
        source: Paper and section the values come from, or why they depart from it.
        seed: Of initial weights, order and augmentation.
        age_bins: ``"0-100"``, or ``"train"``: minimum to maximum age of the training split (LRN Sec. 3.1).
        method: See :class:`MethodSettings`; likewise ``network``, ``train``, ``augment``
            and ``card``.
        select: Criterion of the best epoch and the best stage on the validation split: the smallest
            ``mae``, the largest ``aar`` (LAE Eq. 6), or the largest ``band`` accuracy.
        finish: See :class:`FinishSettings`.
        needs_start: Commands that make the pre-trained weights that a paper starts from. A run without a
            start (``--start``, ``network.start``, ``network.pretrained``) is then refused, unless
            ``--random-start`` is given. Empty: none are needed.
        rehearsal: Whether it was cut for a rehearsal (:mod:`agelens.rehearsal`); not for recipes.
    """

    name: str
    source: str = ""
    seed: int = Field(default=0, ge=0)
    age_bins: str = "0-100"
    method: MethodSettings
    network: NetworkSettings = NetworkSettings()
    train: TrainSettings = TrainSettings()
    augment: AugmentSettings = AugmentSettings()
    card: CardSettings = CardSettings()
    select: Selection = "mae"
    finish: FinishSettings = FinishSettings()
    needs_start: str = ""
    rehearsal: bool = False

    @model_validator(mode="after")
    def _bins(self) -> Self:
        if self.age_bins != "train":
            try:
                AgeBins.parse(self.age_bins)
            except InputError as error:
                raise ValueError(str(error)) from error
        return self

    @classmethod
    def load(cls, source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a recipe by name (one of :func:`recipe_names`) or from a TOML file.

        A file may hold *tricks*, named sets of values that are off unless ``tricks`` lists them::

            tricks = ["augmentation"]
            [trick.augmentation]
            augment = { randaugment = 2, magnitude = 9 }

        ``alone = false`` in a trick's table keeps it out of the ladder but for the rung of all tricks.

        Args:
            source: Name or path.
            overrides: ``key=value`` with dotted keys, e.g. ``train.epochs=3``; values are TOML. Another
                ``finish.name`` leaves the settings of the recipe's own finisher out; those of a recipe that
                names none are for the one that is named.
        Returns:
            The validated recipe, its tricks resolved.
        Raises:
            RecipeError: Unknown recipe or trick, broken TOML, unknown key, or a value out of range.
        """
        table = _read(source)
        choices = [override for override in overrides if override.partition("=")[0] == "tricks"]
        for override in choices:
            _override(table, override)
        _switch_on(table, source)
        own = table.get("finish")
        names = [override.partition("=")[2] for override in overrides if override.startswith("finish.name=")]
        wanted = {"none", *(name.strip("\"'") for name in names[-1:])}
        if names and isinstance(own, dict) and own.get("name", "none") not in wanted:
            own.pop("settings", None)
        for override in overrides:
            if override not in choices:
                _override(table, override)
        recipe = cls.validate(table, source)
        if rehearsing() and not recipe.rehearsal:
            return cls.validate(cut_recipe(recipe.model_dump(mode="json")), source)
        return recipe

    @classmethod
    def validate(cls, table: Mapping[str, Any], source: str | Path) -> Recipe:  # type: ignore[override]
        """Validate a table read from ``source``.

        Raises:
            RecipeError: The first thing that is wrong, with its key and value.
        """
        return validated(cls, table, source)

    def to_toml(self) -> str:
        """The resolved recipe, every default written out."""
        lines: list[str] = []
        tables: list[tuple[str, dict[str, Any]]] = []
        _split_table("", self.model_dump(mode="json"), lines, tables)
        while tables:
            name, table = tables.pop(0)
            lines += ["", f"[{name}]"]
            _split_table(f"{name}.", table, lines, tables)
        return "\n".join(lines).lstrip() + "\n"


def recipe_names() -> list[str]:
    """Names of the recipes that ship with agelens."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml")
    )


def _read(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix == ".toml" or path.exists():
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(path, "file", f"cannot be read: {reason(error)}") from error
    else:
        if str(source) not in recipe_names():
            raise RecipeError(source, "name", f"no such recipe; there are {', '.join(recipe_names())}")
        text = _folder().joinpath(f"{source}.toml").read_text(encoding="utf-8")
    try:
        return parse_toml(text)
    except ValueError as error:
        raise RecipeError(source, "file", f"is not TOML: {error}") from error


def _folder() -> Any:
    return resources.files("agelens").joinpath("recipes")


_DEEPEST = 16  # parts of a key


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError("--set", override, "must read key=value")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    *parents, last = key.split(".")
    if len(parents) > _DEEPEST:  # validation tells of such a value, and would not come to an end
        raise RecipeError("--set", parents[0], f"a key of more than {_DEEPEST} parts")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError("--set", key, f"{parent} is not a table")
    table[last] = value


def recipe_tricks(source: str | Path, *, alone: bool = False) -> list[str]:
    """Names of the tricks that a recipe file offers, in its order.

    Args:
        source: Name or path.
        alone: Only those that a ladder tries alone.
    Raises:
        RecipeError: As :meth:`Recipe.load`.
    """
    offered = _read(source).get("trick", {})
    if not isinstance(offered, dict) or not all(isinstance(values, dict) for values in offered.values()):
        raise RecipeError(source, "trick", "must be a table of tables", offered)
    return [name for name, values in offered.items() if not alone or values.get("alone", True)]


def _switch_on(table: dict[str, Any], source: str | Path) -> None:
    """Replace ``tricks`` and ``trick`` by the values of the tricks that are on."""
    offered, wanted = table.pop("trick", {}), table.pop("tricks", [])
    if not isinstance(wanted, list) or not isinstance(offered, dict):
        raise RecipeError(source, "tricks", "must be a list of names of [trick.<name>] tables", wanted)
    for name, values in offered.items():
        if not isinstance(values, dict):
            raise RecipeError(source, f"trick.{name}", "must be a table", values)
    for name in wanted:
        if not isinstance(name, str):
            raise RecipeError(source, "tricks", "must be names", name)
        if name not in offered:
            raise RecipeError(source, "tricks", f"no such trick; there are {', '.join(offered)}", name)
        _merge(table, {key: value for key, value in offered[name].items() if key != "alone"})


def _merge(table: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def _split_table(
    prefix: str, table: dict[str, Any], lines: list[str], tables: list[tuple[str, dict[str, Any]]]
) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            tables.append((f"{prefix}{key}", value))
        elif value is not None:
            lines.append(f"{key} = {json.dumps(value)}")  # JSON scalars and arrays are TOML, too
