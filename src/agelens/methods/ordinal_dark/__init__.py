"""Two teachers and one small student: ordinal knowledge as hints, dark knowledge as softened answers.

Four stages, each a network; a run trains those its recipe lists, in this order:

- *ranker*, teacher 1: a Siamese network that tells by which of K permutations n faces in age order were
  shuffled; a ranker of another run can take its place (``ranker_run``);
- *classifier*, teacher 2: a VGG-16 that classifies ages. Finished runs of any method or models, weighted,
  can take its place (``teachers``): so the arms share their teachers, and the best network teaches;
- *hint*: the student up to its guided layers learns the ranker's maps (Eq. 3);
- *student*: labels, hints and softened answers together, the weights of the two teachers annealed (Eq. 2).

The paper leaves open, and we read: how many sequences make an epoch (a setting); how the student's softmax
becomes an age (its expectation; the error of the most probable age is reported beside it).

[1] Zhao et al., Distilling ordinal relation and dark knowledge for facial age estimation, 2020.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor
from torch.nn import functional as F

from agelens.data.crops import CropSet
from agelens.errors import CheckpointError, InputError, OutputError, RecipeError, RunError
from agelens.label_distribution import AgeBins
from agelens.losses import (
    annealed,
    band_distance,
    hint_error,
    l1_regression,
    soft_cross_entropy,
)
from agelens.methods.ordinal_dark.permutations import (
    AGE_GROUPS,
    SequenceSampler,
    permutation_set,
    shuffle_sequences,
)
from agelens.metrics import mae
from agelens.networks.age_network import AgeHead, AgeNetwork, AnyNetwork
from agelens.networks.backbones import make_backbone
from agelens.networks.chain import normal_weights
from agelens.networks.guided import GuidedOutputs, GuidedStudent
from agelens.networks.pvp import Joint, PermutationNetwork
from agelens.networks.stored import load_network, read_tensors, write_tensors
from agelens.networks.zca import PatchZCA, Whitened, fit_patch_zca
from agelens.training.labels import AgeLabels
from agelens.training.recipe import Recipe, TrainSettings
from agelens.training.run import locate_network
from agelens.training.stage import (
    Batch,
    Finished,
    Order,
    Stage,
    Validation,
    judge_ages,
    run_on_crops,
    validate_ages,
)
from agelens.training.teachers import (
    Answers,
    NetworkTeacher,
    Teacher,
    answer,
    load_teacher,
    resize_views,
)
from agelens.training.transforms import augment, normalise, resize_crops

__all__ = [
    "ClassifierStage",
    "HintStage",
    "OrdinalDark",
    "OrdinalDarkSettings",
    "RankerStage",
    "StudentStage",
]

StageName = Literal["ranker", "classifier", "hint", "student"]

_ZCA_IMAGES = 4096  # as many training crops, evenly spaced, are enough for a covariance of patches
_VALIDATION_SEQUENCES = 450
_VALIDATION_SEED = 20_200
_VIEWS_SEED = 20_201
_ANSWERS_FORMAT = 2  # to be raised when the same question would be answered otherwise
_BATCH = 256


class OrdinalDarkSettings(BaseModel):
    """Settings of the method; the defaults are the paper's (Appendix A and B).

    Attributes:
        stages: Which stages the run trains.
        length: n, faces of a sequence.
        permutations: K.
        sequences: Sequences an epoch of the ranker shows.
        groups: Age groups, both ends inside.
        inter: Share of inter-group sequences.
        inter_epochs: Epochs at the beginning that show inter-group sequences alone (ours; 0 in the paper).
            Faces of one group are hard to order: a ranker that sees few sequences stays at chance by them.
        curriculum: Inter-group sequences first, then inner-group ones; off: faces drawn from the whole set.
        ranker: Its convolutions, ``pvp`` or ``vgg16``.
        joint: Where its faces meet, see :class:`PermutationNetwork`.
        classifier: Backbone of teacher 2: ``vgg16``, or ``vgg16-64`` for 64 px; ``pvp`` likewise (Table VII).
        classifier_pretrained: Start it from ImageNet's weights, as the paper does (downloaded).
        width: Factor of the teachers' channels and outputs.
        zca: Side of the patches that are whitened in front of this run's teachers, odd; 0 = no whitening. The
            student's is in the name of its backbone (``zca5:student-small``).
        zca_epsilon: See :func:`fit_patch_zca`.
        initialise: ``normal``: all weights from N(0, 0.02), as the paper; ``own``: as each network does.
        ranker_run: A finished run whose ranker teaches, in place of this run's.
        teachers: Finished runs, or model files, that teach dark knowledge in place of this run's
            classifier.
        weights: Of the teachers; empty: equal.
        views: 0: the teachers see each training view the student sees. Else their answers on so many views of
            every crop are averaged once, before the first epoch, and kept beside the crops for other runs.
        hint_layers: Convolutions of the ranker.
        guided_layers: Convolutions of the student.
        label: Weight of the label's cross entropy; 1 in the paper.
        lambda_1: First weight λ₁ of the hints; ``lambda_1_fall`` is how much it falls at a time.
        lambda_2: First weight λ₂ of the softened answers, likewise.
        fall_every: Epochs between two falls; 0: both weights stay (Table IX).
        tau: τ, softens the teachers' answers and the student's.
        head_tau: Temperature of the student's own distribution.
        expectation: Weight of the ℓ1 error of the expected age, in years, from the label and the teachers'
            age in equal parts (ours; 0 in the paper).
        regression: Weight of the ``reg`` head's ℓ1, where there is such a head, likewise (ours).
        ranker_train: What the ranker's stage has other than the recipe's ``train``; likewise the others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    stages: tuple[StageName, ...] = ("ranker", "classifier", "hint", "student")
    length: int = Field(default=8, ge=2, le=10)
    permutations: int = Field(default=200, ge=2)
    sequences: int = Field(default=9_000, ge=1)
    groups: tuple[tuple[int, int], ...] = AGE_GROUPS
    inter: float = Field(default=1 / 9, ge=0, le=1)
    inter_epochs: int = Field(default=0, ge=0)
    curriculum: bool = True
    ranker: Literal["pvp", "vgg16"] = "pvp"
    joint: Joint = "connected"
    classifier: str = "vgg16"
    classifier_pretrained: bool = False
    width: float = Field(default=1.0, gt=0, le=4)
    zca: int = Field(default=5, ge=0, le=31)
    zca_epsilon: float = Field(default=0.01, gt=0)
    initialise: Literal["normal", "own"] = "normal"
    ranker_run: str = ""
    teachers: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    views: int = Field(default=0, ge=0)
    hint_layers: tuple[int, ...] = (5, 9)
    guided_layers: tuple[int, ...] = (5, 9)
    label: float = Field(default=1.0, ge=0)
    lambda_1: float = Field(default=0.1, ge=0)
    lambda_1_fall: float = Field(default=0.025, ge=0)
    lambda_2: float = Field(default=2.0, ge=0)
    lambda_2_fall: float = Field(default=0.5, ge=0)
    fall_every: float = Field(default=6.0, ge=0)
    tau: float = Field(default=2.0, gt=0)
    head_tau: float = Field(default=1.0, gt=0)
    expectation: float = Field(default=0.0, ge=0)
    regression: float = Field(default=4.0, ge=0)
    ranker_train: dict[str, Any] = Field(default_factory=dict)
    classifier_train: dict[str, Any] = Field(default_factory=dict)
    hint_train: dict[str, Any] = Field(default_factory=dict)
    student_train: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agree(self) -> OrdinalDarkSettings:
        known: list[StageName] = ["ranker", "classifier", "hint", "student"]
        if not self.stages or [name for name in known if name in self.stages] != list(self.stages):
            raise ValueError(f"stages must be some of {', '.join(known)}, in this order")
        if len(self.hint_layers) != len(self.guided_layers) or not self.hint_layers:
            raise ValueError("hint_layers and guided_layers pair up, and there is at least one pair")
        if self.weights and len(self.weights) != len(self.teachers):
            raise ValueError(f"{len(self.weights)} weights for {len(self.teachers)} teachers")
        if any(weight <= 0 for weight in self.weights):
            raise ValueError("weights must be positive")
        if self.inter_epochs and not self.curriculum:
            raise ValueError("inter_epochs is a part of the curriculum, which is off")
        if self.zca and self.zca % 2 == 0:
            raise ValueError("zca must be odd, or 0")
        return self


@dataclass
class _OrdinalDarkStage(Stage):
    """What the four stages share: their settings, and the crops that networks are whitened by."""

    labels: ClassVar[tuple[str, ...]] = ("exact", "apparent", "band")
    restarts: ClassVar[bool] = True  # its stages are short, and what they start from is kept

    settings: OrdinalDarkSettings
    recipe: Recipe
    age_bins: AgeBins
    _train_crops: CropSet | None = field(default=None, init=False, repr=False)

    @property
    def training(self) -> TrainSettings:
        """The recipe's ``train`` with what this stage has otherwise."""
        own: dict[str, Any] = getattr(self.settings, f"{self.name}_train")
        return TrainSettings.model_validate({**self.recipe.train.model_dump(), **own})

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Keep the crops: networks whiten by them."""
        self._train_crops = train
        return ()

    def _whiten(self, whitening: PatchZCA | None) -> None:
        """Fit a network's whitening to the training crops, if it has one and they were looked at."""
        if whitening is None or self._train_crops is None:
            return
        crops = self._train_crops
        rows = np.linspace(0, len(crops) - 1, min(_ZCA_IMAGES, len(crops))).astype(np.int64)
        size = self.recipe.network.input_size
        images = normalise(resize_crops(torch.from_numpy(crops.crops(rows)), size))
        whitening.set(fit_patch_zca(images, whitening.kernel, self.settings.zca_epsilon))

    def _age_network(
        self, backbone: str, heads: Sequence[Literal["ldl", "reg"]], tau: float, pretrained: bool
    ) -> AgeNetwork:
        made = make_backbone(backbone, pretrained=pretrained)
        network = AgeNetwork(made, AgeHead(made.num_features, self.age_bins, heads, tau))
        if self.settings.initialise == "normal":
            normal_weights(network.head if pretrained else network)
        self._whiten(made.whitening if isinstance(made, Whitened) else None)
        return network

    def _ranker(self, finished: Finished) -> PermutationNetwork:
        if self.settings.ranker_run:
            _, file = locate_network(self.settings.ranker_run, "ranker")
            ranker = load_network(file)
            if not isinstance(ranker, PermutationNetwork):
                raise RunError(file, "holds no ranker")
        elif "ranker" in self.settings.stages:
            ranker = finished("ranker")
        else:
            raise InputError(
                "hints need a ranker: list the stage 'ranker', pass --ranker RUN, or leave out the stage "
                "'hint' and set method.settings.lambda_1 = 0"
            )
        size = ranker.input_size
        if size != self.recipe.network.input_size:
            raise InputError(f"the ranker sees {size} px, the student {self.recipe.network.input_size}")
        ranker.eval().requires_grad_(False)
        found: PermutationNetwork = ranker
        return found

    def _hint_channels(self, ranker: PermutationNetwork | None) -> list[int]:
        if ranker is None:
            return []
        return [ranker.chain.channels(number) for number in self.settings.hint_layers]


@dataclass
class RankerStage(_OrdinalDarkStage):
    """Teacher 1: which permutation shuffled the faces ([1], Sec. III-A, Eq. 1)?

    Its figure is the accuracy of the permutations, of chance 1/K; validation shuffles the same sequences
    every time.
    """

    labels: ClassVar[tuple[str, ...]] = ("exact", "apparent")  # what it orders
    permutations: NDArray[np.int64] = field(init=False, repr=False)
    _sampler: SequenceSampler | None = field(default=None, init=False, repr=False)
    _validation: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        settings = self.settings
        self.permutations = permutation_set(settings.length, settings.permutations, self.recipe.seed)

    @property
    def name(self) -> str:
        """``ranker``."""
        return "ranker"

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Prepare the sequences; those of validation are drawn once, as many of each kind.

        Raises:
            InputError: The training crops cannot fill the groups, or validation has too few different ages.
        """
        super().look(train, val)
        settings = self.settings
        self._sampler = SequenceSampler(
            train.ages, settings.length, settings.groups, settings.inter if settings.curriculum else 1.0
        )
        self._validation = {}
        random = np.random.default_rng(_VALIDATION_SEED)
        notes: list[str] = []
        count = _VALIDATION_SEQUENCES // 2
        drawn: dict[str, NDArray[np.int64]]
        try:
            if not settings.curriculum:
                sampler = SequenceSampler(val.ages, settings.length, settings.groups, 1.0)
                drawn = {"all": sampler.epoch(2 * count, random, curriculum=False)}
            else:
                kinds = {"inter": 1.0, "inner": 0.0}
                drawn = {
                    kind: replace(self._sampler, ages=val.ages, inter=inter).epoch(count, random)
                    for kind, inter in kinds.items()
                    if kind == "inter" or settings.inter < 1
                }
        except InputError as error:
            years = np.floor(val.ages)
            whole = SequenceSampler(
                val.ages, settings.length, [(int(years.min()), int(years.max()))], inter=0.0
            )
            drawn = {"all": whole.epoch(2 * count, random)}
            notes.append(f"validation sequences are drawn from all ages, not from the groups: {error}")
        for kind, sequences in drawn.items():
            labels = random.integers(len(self.permutations), size=len(sequences))
            self._validation[kind] = (shuffle_sequences(sequences, self.permutations, labels), labels)
        return notes

    def begin(self, epoch: int) -> None:
        """Inter-group sequences alone at first, where the settings say so."""
        inter = 1.0 if epoch < self.settings.inter_epochs else self.settings.inter
        if self._sampler is not None and self.settings.curriculum and self._sampler.inter != inter:
            self._sampler = replace(self._sampler, inter=inter)

    def network(self) -> PermutationNetwork:
        """The Siamese network at its start."""
        settings = self.settings
        network = PermutationNetwork(
            settings.length,
            settings.permutations,
            self.recipe.network.input_size,
            trunk=settings.ranker,
            joint=settings.joint,
            width=settings.width,
            zca=settings.zca,
        )
        if settings.initialise == "normal":
            normal_weights(network)
        self._whiten(network.whitening)
        return network

    def order(self, crops: CropSet, epoch: int, generator: torch.Generator) -> Order:
        """Shuffled sequences (M, n), inter-group ones first; targets (M,), the permutation of each."""
        assert self._sampler is not None  # look() made it
        seed = int(torch.randint(2**62, (), generator=generator))
        random = np.random.default_rng(seed)
        sequences = self._sampler.epoch(self.settings.sequences, random, curriculum=self.settings.curriculum)
        labels = random.integers(len(self.permutations), size=len(sequences))
        return Order(shuffle_sequences(sequences, self.permutations, labels), labels)

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Cross entropy of the permutations (B,), the batch's targets (Eq. 1)."""
        return {"loss": F.cross_entropy(outputs, batch.targets)}

    def score(self, network: Any, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Share of the permutations that are right."""
        return {"train accuracy": (outputs.argmax(1) == batch.targets).float().mean()}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Permutation accuracy on the validation sequences, beside chance.

        ``accuracy`` is that of both kinds, in the shares that ``settings.inter`` sets; ``inter`` and
        ``inner`` are those of each kind.
        """
        training = network.training
        network.eval()
        device = next(network.parameters()).device
        accuracies: dict[str, float] = {}
        for kind, (sequences, labels) in self._validation.items():
            told = []
            with torch.inference_mode():
                for start in range(0, len(sequences), _BATCH // 8):
                    rows = sequences[start : start + _BATCH // 8].reshape(-1)
                    block = torch.from_numpy(crops.crops(rows)).to(device)
                    told.append(network(normalise(resize_crops(block, size))).argmax(1).cpu().numpy())
            accuracies[kind] = float(np.mean(np.concatenate(told) == labels))
        network.train(training)
        inter = self.settings.inter
        accuracy = (
            inter * accuracies["inter"] + (1 - inter) * accuracies["inner"]
            if "inner" in accuracies
            else next(iter(accuracies.values()))
        )
        count = sum(len(labels) for _, labels in self._validation.values())
        table = {
            "sequences": count,
            "accuracy": accuracy,
            "chance": 1 / len(self.permutations),
            "by kind": accuracies,
        }
        figures = {"accuracy": accuracy, **{k: v for k, v in accuracies.items() if k != "all"}}
        rounded = {kind: round(value, 5) for kind, value in figures.items()}
        return Validation(rounded, {"permutations": table})

    def merit(self, figures: Mapping[str, float]) -> float:
        """The accuracy."""
        return figures["accuracy"]

    def describe(self, network: Any) -> dict[str, Any]:
        """The network's description, and the permutations."""
        return {**network.describe(), "set": self.permutations.tolist()}


@dataclass
class ClassifierStage(_OrdinalDarkStage):
    """Teacher 2: a classifier of ages, trained on labels alone ([1], Sec. III-B)."""

    start: Mapping[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """``classifier``."""
        return "classifier"

    @property
    def backbone(self) -> str:
        """Name of its backbone; in a run that trains nothing else the recipe's, so ``--start`` works."""
        if self.settings.stages == ("classifier",):
            return self.recipe.network.backbone
        width = self.settings.width
        name = self.settings.classifier + ("" if width == 1.0 else f"@{width:g}")
        return f"zca{self.settings.zca}:{name}" if self.settings.zca else name

    def network(self) -> AgeNetwork:
        """Its network at its start: ImageNet's weights, those of ``--start``, or N(0, 0.02)."""
        alone = self.settings.stages == ("classifier",)
        pretrained = self.recipe.network.pretrained if alone else self.settings.classifier_pretrained
        network = self._age_network(self.backbone, ("ldl",), 1.0, pretrained)
        if self.start is not None and alone:
            network.load_state_dict(dict(self.start))
        return network

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Negative log likelihood of the labels (B, 4), the batch's targets."""
        return {"loss": AgeLabels.of(batch.targets).likelihood_loss(outputs.logits, self.age_bins)}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Judge the ages; in a run that trains a student too, the figures are not the run's."""
        found = validate_ages(network, crops, size)
        if "student" in self.settings.stages:
            return replace(found, table={"teacher": found.table["estimates"]})
        return found


@dataclass
class _GuidedStage(_OrdinalDarkStage):
    """What the student's two stages share."""

    ranker: PermutationNetwork | None = field(default=None, init=False, repr=False)

    def to(self, device: torch.device) -> None:
        """Move the ranker."""
        if self.ranker is not None:
            self.ranker.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _fresh(self) -> GuidedStudent:
        student = self._age_network(
            self.recipe.network.backbone,
            self.recipe.network.heads,
            self.settings.head_tau,
            pretrained=self.recipe.network.pretrained,
        )
        guided = () if self.ranker is None else self.settings.guided_layers
        network = GuidedStudent(student, guided, self._hint_channels(self.ranker))
        normal_weights(network.regressors)
        return network

    def _hints(self, hints: Sequence[Tensor], images: Tensor) -> Tensor:
        assert self.ranker is not None
        with torch.no_grad():
            wanted = self.ranker.maps(images, list(self.settings.hint_layers))
        pairs = zip(hints, wanted, strict=True)
        return torch.stack([hint_error(mine, theirs.float()) for mine, theirs in pairs]).sum()


@dataclass
class HintStage(_GuidedStage):
    """The student up to its guided layers learns the ranker's maps ([1], Eq. 3 and Algorithm 1, step 4)."""

    @property
    def name(self) -> str:
        """``hint``."""
        return "hint"

    def ready(self, finished: Finished) -> None:
        """Fetch and freeze the ranker."""
        self.ranker = self._ranker(finished)

    def network(self) -> GuidedStudent:
        """The student and its regressors at their start."""
        return self._fresh()

    def frozen(self, network: Any) -> Sequence[torch.nn.Module]:
        """What no hint reaches."""
        unguided: Sequence[torch.nn.Module] = network.unguided()
        return unguided

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The hints' errors, summed; the labels are not used."""
        return {"loss": self._hints(outputs.hints, batch.images)}

    def score(self, network: Any, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Nothing besides the loss: this stage estimates no age."""
        return {}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """The hints' error on the validation crops."""
        training = network.training
        network.eval()
        device = next(network.parameters()).device
        total = 0.0
        with torch.inference_mode():
            for start in range(0, len(crops), _BATCH):
                block = torch.from_numpy(crops.crops(slice(start, start + _BATCH))).to(device)
                images = normalise(resize_crops(block, size))
                total += float(self._hints([h.float() for h in network(images).hints], images)) * len(block)
        network.train(training)
        error = total / len(crops)
        return Validation({"hint error": round(error, 6)}, {"hint_error": error})

    def merit(self, figures: Mapping[str, float]) -> float:
        """The smaller the error, the better."""
        return -figures["hint error"]


@dataclass
class StudentStage(_GuidedStage):
    """The whole student learns from labels, hints and softened answers ([1], Eq. 2, Algorithm 1, step 6)."""

    start: Mapping[str, Tensor] | None = None
    teachers: list[Teacher] = field(default_factory=list, init=False, repr=False)
    _hinted: GuidedStudent | None = field(default=None, init=False, repr=False)
    _lambdas: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    answers: Answers | None = field(default=None, init=False, repr=False)
    _device: torch.device = field(default=torch.device("cpu"), init=False, repr=False)

    @property
    def name(self) -> str:
        """``student``."""
        return "student"

    def ready(self, finished: Finished) -> None:
        """Fetch the teachers that have a weight, and the student that the hints prepared.

        Raises:
            InputError: A weight without its teacher, or a loss that has or will have no term.
        """
        settings = self.settings
        self.begin(self.training.epochs - 1)  # by then the weights have fallen as far as they do
        if not any((settings.label, settings.expectation, *self._lambdas)) and (
            "reg" not in self.recipe.network.heads or not settings.regression
        ):
            raise InputError(
                "no part of the student's loss has a weight in the last epoch: set method.settings.label "
                "or .expectation, or let lambda_1 or lambda_2 stay (fall_every = 0)"
            )
        if "hint" in settings.stages:
            self._hinted = finished("hint")
        if settings.lambda_1 > 0:
            self.ranker = self._ranker(finished)
        if settings.lambda_2 > 0 or settings.teachers:
            weights = settings.weights or (1.0,) * len(settings.teachers)
            pairs = zip(settings.teachers, weights, strict=True)
            self.teachers = [load_teacher(path, weight, self.age_bins) for path, weight in pairs]
            if not self.teachers and "classifier" in settings.stages:
                network = finished("classifier").eval().requires_grad_(False)
                size = self.recipe.network.input_size
                self.teachers = [NetworkTeacher(network, size, 1.0, torch.eye(len(self.age_bins)))]
            if not self.teachers:
                raise InputError(
                    "dark knowledge needs a teacher: pass --teacher (a run or a model), list the stage "
                    "'classifier', or set method.settings.lambda_2 = 0"
                )

    def look(self, train: CropSet, val: CropSet) -> Sequence[str]:
        """Keep the crops; say what the teachers are asked."""
        super().look(train, val)
        if self.teachers and self.settings.views:
            return [
                f"teachers answer {self.settings.views} views of {len(train)} crops before the first epoch"
            ]
        return ()

    def to(self, device: torch.device) -> None:
        """Move the teachers; with ``settings.views``, ask them about all training crops."""
        super().to(device)
        self._device = device
        for teacher in self.teachers:
            teacher.to(device)
        if self.teachers and self.settings.views:
            self.answers = self._ask()

    def network(self) -> GuidedStudent:
        """The student from the hint stage, from ``--start``, or at its own start."""
        fresh = self._fresh()
        if self._hinted is not None:
            state = self._hinted.state_dict()
            if self.ranker is None:
                state = {name: t for name, t in state.items() if not name.startswith("regressors.")}
            fresh.load_state_dict(state)
        elif self.start is not None:
            fresh.student.load_state_dict(dict(self.start))
        return fresh

    def begin(self, epoch: int) -> None:
        """Anneal λ₁ and λ₂."""
        s = self.settings
        self._lambdas = (
            annealed(s.lambda_1, s.lambda_1_fall, s.fall_every, epoch),
            annealed(s.lambda_2, s.lambda_2_fall, s.fall_every, epoch),
        )

    def inputs(
        self,
        crops: CropSet,
        rows: NDArray[np.int64],
        size: int,
        views: torch.Generator,
        device: torch.device,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A training view of each crop, and the teachers' part.

        Returns:
            Views (B, 3, size, size), and as extras ``distribution`` (B, K) and ``age`` (B,), the teachers'
            answers, where they are kept; else ``view`` (B, 3, S, S): the same views in the size of the
            largest input among student and teachers.
        """
        if self.answers is not None:
            images, _ = super().inputs(crops, rows, size, views, device)
            kept = {"distribution": self.answers.distribution[rows], "age": self.answers.age[rows]}
            return images, {name: tensor.to(device) for name, tensor in kept.items()}
        largest = max([size, *(teacher.size for teacher in self.teachers)])
        if largest == size:
            images, _ = super().inputs(crops, rows, size, views, device)
            return images, {"view": images}
        assert self._train_crops is not None  # look() kept them, at their full size
        whole = torch.from_numpy(self._train_crops.crops(rows)).to(device)
        view = augment(whole, self.augmentation, largest, views)
        return resize_views(view, size), {"view": view}

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Eq. 2, and our own terms beside it; terms of weight 0 are not computed.

        Args:
            outputs: :class:`GuidedOutputs` of the student.
            batch: Images (B, 3, S, S); targets (B, 4), labels; extras of :meth:`inputs`.
        Returns:
            ``loss`` and its parts ``age``, ``hints``, ``dark``, ``expected``, ``reg``.
        """
        s, bins = self.settings, self.age_bins
        labels = AgeLabels.of(batch.targets)
        low, high = labels.bounds(bins)
        lambda_1, lambda_2 = self._lambdas
        taught = (
            self._answers(batch) if lambda_2 > 0 or s.expectation or outputs.regressed is not None else None
        )
        parts: dict[str, Tensor] = {}
        total = batch.targets.new_zeros(())
        if outputs.logits is not None:
            if s.label > 0:
                parts["age"] = labels.likelihood_loss(outputs.logits, bins, s.head_tau)
                total = total + s.label * parts["age"]
            if lambda_2 > 0 and taught is not None:
                tau = s.head_tau * s.tau
                parts["dark"] = soft_cross_entropy(outputs.logits, taught.distribution, tau)
                total = total + lambda_2 * parts["dark"]
            if s.expectation > 0:
                years = torch.as_tensor(bins.ages, dtype=torch.float32, device=batch.targets.device)
                expected = F.softmax(outputs.logits / s.head_tau, dim=1) @ years
                wanted = [(low, high), *([] if taught is None else [(taught.age, taught.age)])]
                errors = [band_distance(expected, *ends).mean() for ends in wanted]
                parts["expected"] = torch.stack(errors).mean()
                total = total + s.expectation * parts["expected"]
        if lambda_1 > 0:
            parts["hints"] = self._hints(outputs.hints, batch.images)
            total = total + lambda_1 * parts["hints"]
        if outputs.regressed is not None:
            wanted = [(low, high), *([] if taught is None else [(taught.age, taught.age)])]
            span = bins.maximum - bins.minimum
            errors = [
                l1_regression(outputs.regressed, *((end - bins.minimum) / span for end in ends))
                for ends in wanted
            ]
            parts["reg"] = torch.stack(errors).mean()
            total = total + s.regression * parts["reg"]
        return {"loss": total, **parts}

    def score(self, network: Any, outputs: GuidedOutputs, batch: Batch) -> dict[str, Tensor]:
        """The MAE, in years; a band counts by the distance to it."""
        labels = AgeLabels.of(batch.targets)
        return {"train MAE": labels.distance(network.head.decode(outputs.ages()).age).mean()}

    def validate(self, network: Any, crops: CropSet, size: int) -> Validation:
        """Judge the student's ages; the most probable age's MAE beside the expectation's."""
        student: AnyNetwork = network.student if isinstance(network, GuidedStudent) else network
        outputs = run_on_crops(student, crops, size)
        found = judge_ages(outputs, crops.ages, crops.bounds, self.age_bins)
        if outputs.logits is None or crops.bounds is not None:
            return found
        error = float(mae(outputs.logits.argmax(1) + float(self.age_bins.minimum), crops.ages))
        figures = {**found.figures, "MAE argmax": round(error, 4)}
        return replace(found, figures=figures, table={**found.table, "argmax": {"MAE": error}})

    def finish(self, network: Any) -> AgeNetwork:
        """The student; its regressors have done their work."""
        student: AgeNetwork = network.student
        return student

    def _answers(self, batch: Batch) -> Answers | None:
        if not self.teachers:
            return None
        if self.answers is not None:
            return Answers(batch.extras["distribution"], batch.extras["age"])
        return answer(self.teachers, batch.extras["view"], self.settings.tau)

    def _ask(self) -> Answers:
        """The teachers' answers to every training crop, averaged over views.

        They are kept beside the stored crops: a resumed run, and one of another seed or student, find them.
        The views are the same for all seeds.
        """
        crops = self._train_crops
        assert crops is not None
        kept = self._kept_answers(crops)
        if kept is not None and kept.exists():
            try:
                found, _ = read_tensors(kept)
                return Answers(found["distribution"], found["age"])
            except (CheckpointError, KeyError):
                pass  # damaged: asked again, and written anew
        distributions = torch.zeros(len(crops), len(self.age_bins))
        years = torch.zeros(len(crops))
        largest = max(teacher.size for teacher in self.teachers)
        generator = torch.Generator().manual_seed(_VIEWS_SEED)
        bf16 = self.precision(self._device) == "bf16"
        autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=bf16)
        for _ in range(self.settings.views):
            for start in range(0, len(crops), _BATCH):
                rows = slice(start, start + _BATCH)
                block = torch.from_numpy(crops.crops(rows)).to(self._device)
                view = augment(block, self.augmentation, largest, generator)
                with autocast:
                    said = answer(self.teachers, view, self.settings.tau)
                distributions[rows] += said.distribution.float().cpu() / self.settings.views
                years[rows] += said.age.float().cpu() / self.settings.views
        if kept is not None:
            with contextlib.suppress(OutputError):  # a folder that cannot be written: asked again next time
                write_tensors(kept, {"distribution": distributions, "age": years}, {})
        return Answers(distributions, years)

    def _kept_answers(self, crops: CropSet) -> Path | None:
        """The file of these teachers' answers to these views; None where no crops are stored."""
        if crops.stored is None:
            return None
        asked = {
            "teachers": [(teacher.digest, teacher.weight) for teacher in self.teachers],
            "format": _ANSWERS_FORMAT,
            "bins": str(self.age_bins),
            "views": self.settings.views,
            "tau": self.settings.tau,
            "augmentation": asdict(self.augmentation),
            "precision": self.precision(self._device),
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + crops.rows.tobytes())
        return crops.stored.with_name(f"{crops.stored.stem}-answers-{digest.hexdigest()[:16]}.safetensors")


class OrdinalDark:
    """The method: the stages its recipe lists.

    Args:
        recipe: Its ``method.settings`` are :class:`OrdinalDarkSettings`; ``network`` is the student.
        age_bins: The K ages.
        start: Weights of the student (or, in a run without one, of the classifier), or None.
    Raises:
        RecipeError: An unknown setting or a value out of range.
    """

    def __init__(self, recipe: Recipe, age_bins: AgeBins, start: Mapping[str, Tensor] | None = None) -> None:
        try:
            settings: Any = OrdinalDarkSettings.model_validate(recipe.method.settings)
        except ValidationError as error:
            raise _recipe_error(recipe, "method.settings", error) from error
        self.settings: OrdinalDarkSettings = settings
        made: dict[StageName, type[_OrdinalDarkStage]] = {
            "ranker": RankerStage,
            "classifier": ClassifierStage,
            "hint": HintStage,
            "student": StudentStage,
        }
        self._stages: list[_OrdinalDarkStage] = []
        for name in self.settings.stages:
            try:
                stage = made[name](self.settings, recipe, age_bins)
            except InputError as error:
                raise RecipeError(recipe.name, "method.settings.permutations", str(error)) from error
            if isinstance(stage, ClassifierStage | StudentStage):
                stage.start = start
            try:
                _ = stage.training
            except ValidationError as error:
                raise _recipe_error(recipe, f"method.settings.{name}_train", error) from error
            self._stages.append(stage)

    def stages(self) -> Sequence[Stage]:
        """The stages in training order."""
        return self._stages


def _recipe_error(recipe: Recipe, prefix: str, error: ValidationError) -> RecipeError:
    first = error.errors()[0]
    key = ".".join([prefix, *(str(part) for part in first["loc"])])
    return RecipeError(recipe.name, key, first["msg"], first.get("input") if first["loc"] else None)
