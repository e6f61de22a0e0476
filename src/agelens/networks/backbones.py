"""The backbones by name: the papers' own, torchvision's of LRN's Table 1, and whatever timm offers.

[1] Li et al., Deep label refinement for age estimation, Pattern Recognition 2020.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
from collections import OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from agelens.errors import CheckpointError, InputError, PluginError
from agelens.networks.backbone import Backbone
from agelens.networks.c3ae import C3AE
from agelens.networks.chain import ChainBackbone
from agelens.networks.compact import CompactDenseNet, CompactMobileNet, CompactOrCNN
from agelens.networks.dlib_resnet import DlibResNet, is_dlib_file, read_dlib_weights
from agelens.networks.gabor import GaborPyramid
from agelens.networks.mobilefacenet import MobileFaceNet
from agelens.networks.normalisation import IMAGENET_MEAN, IMAGENET_STD, OwnInput, Triple
from agelens.networks.pvp import pvp_backbone
from agelens.networks.ranking_cnn import RankingCNN
from agelens.networks.resnet import ResNet
from agelens.networks.ssr_net import SSRNet
from agelens.networks.students import StridedStudent, normal_student, small_student
from agelens.networks.vgg import VGG16, vgg16_backbone, vgg_keys
from agelens.networks.zca import Whitened
from agelens.plugins import Origin, available, is_importable_name, origin, resolve
from agelens.reading import NETWORK_BYTES, open_regular, reason
from agelens.rehearsal import cut_channels, rehearsing

__all__ = [
    "BACKBONES",
    "LayeredBackbone",
    "TimmBackbone",
    "backbone_origin",
    "load_backbone",
    "make_backbone",
    "resnet_keys",
]

_WIDTHS = (64, 128, 256, 512)
_TINY_WIDTHS = (32, 64, 128, 256)


class LayeredBackbone(Backbone):
    """A plain chain of layers, such as the convolutional part of a torchvision classifier.

    Args:
        layers: Images (B, 3, H, W) to the (B, C, h, w) map that is pooled.
        num_features: C.
    """

    def __init__(self, layers: nn.Sequential, num_features: int) -> None:
        super().__init__()
        self.layers = layers
        self.num_features = num_features

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute the map that is pooled, (B, C, h, w)."""
        features: Tensor = self.layers(images)
        return features


class TimmBackbone(Backbone):
    """A timm network without its classifier; pooling (and what follows it) stays timm's own.

    Images come normalised by ImageNet's mean and deviation, as for every backbone; a network that was trained
    with others is given its own (``model_input``), so that published weights see what they have learned from.

    Args:
        name: timm's name, such as ``efficientnetv2_rw_m`` or ``resnet26d.bt_in1k``.
        pretrained: Load timm's weights.
    Raises:
        InputError: timm has no such network, no weights for it, or they cannot be loaded.
    """

    def __init__(self, name: str, *, pretrained: bool = False) -> None:
        super().__init__()
        self.name = name
        import timm  # here: it costs half a second that the other backbones need not pay

        if not timm.is_model(name.partition(".")[0]):
            raise InputError(_unknown(name, timm.list_models()))
        if (pretrained or "." in name) and not timm.is_model_pretrained(name):
            raise InputError(f"timm has no pretrained weights for {name!r}")
        if pretrained:
            with _fetching_weights(name):
                self.model = _create_timm(name, pretrained=True)
        else:
            self.model = _create_timm(name, pretrained=False)
        mean, deviation = _timm_normalisation(name, self.model)
        same = (mean, deviation) == (IMAGENET_MEAN, IMAGENET_STD)
        self.model_input: nn.Module = nn.Identity() if same else OwnInput(mean, deviation)
        features: Any = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        self.num_features = int(features)

    def feature_map(self, images: Tensor) -> Tensor:
        """Compute timm's last feature map, (B, C', h, w); C' is not C where a layer follows the pooling.

        Raises:
            InputError: The network has tokens, not a (B, C', h, w) map.
        """
        images = self.model_input(images)
        features: Tensor = self.model.forward_features(images)  # type: ignore[operator]
        if features.ndim != 4 or getattr(self.model, "output_fmt", "NCHW") != "NCHW":
            raise InputError(f"backbone {self.name!r} has no (B, C, h, w) feature map")
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) images to (B, C) features by the network's own pooling."""
        features: Tensor = self.model.forward_head(  # type: ignore[operator]
            self.model.forward_features(self.model_input(images)),  # type: ignore[operator]
            pre_logits=True,
        )
        return features


def _create_timm(name: str, *, pretrained: bool) -> nn.Module:
    import timm

    create = functools.partial(timm.create_model, name, pretrained=pretrained, num_classes=0)
    try:  # transformers that can resample their position embeddings then take any input size
        model: nn.Module = create(dynamic_img_size=True)
    except TypeError:  # all others do not know the option
        model = create()
    return model


_TENSORFLOW = ((127 / 255,) * 3, (128 / 255,) * 3)
_OWN_NORMALISATION = {f"tf_efficientnet_lite{size}": _TENSORFLOW for size in range(5)}
"""Mean and deviation that the makers of EfficientNet-Lite state, (pixel - 127) / 128; timm rounds them."""


def _timm_normalisation(name: str, model: nn.Module) -> tuple[Triple, Triple]:
    """Mean and deviation of the images that a timm network's weights expect, as shares of 255."""
    own = _OWN_NORMALISATION.get(name.partition(".")[0])
    if own is not None:
        return own
    config: Any = getattr(model, "default_cfg", {})
    return tuple(config.get("mean", IMAGENET_MEAN)), tuple(config.get("std", IMAGENET_STD))


@contextlib.contextmanager
def _fetching_weights(name: str) -> Iterator[None]:
    """Turn any failure to fetch the published weights of a backbone into our error."""
    try:
        yield
    except Exception as error:  # each library, and the HTTP client of each, has errors of its own
        raise InputError(
            f"cannot load the pretrained weights of {name!r} ({type(error).__name__}: {error}): "
            "pass pretrained=False, or load a local file with load_backbone"
        ) from error


def _published_weights(name: str, weights: torchvision.models.WeightsEnum) -> Mapping[str, Tensor]:
    with _fetching_weights(name):
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    return state


def _resnet(name: str, blocks: Sequence[int], widths: Sequence[int], pretrained: bool = False) -> Backbone:
    if pretrained:
        raise InputError(f"nobody publishes pretrained weights for {name!r}: pass pretrained=False")
    return ResNet(blocks, [cut_channels(width) for width in widths])


def _resnet18(pretrained: bool = False) -> Backbone:
    network = ResNet((2, 2, 2, 2), [cut_channels(width) for width in _WIDTHS])
    if pretrained:
        state = _published_weights("resnet18", torchvision.models.ResNet18_Weights.DEFAULT)
        network.load_state_dict(resnet_keys(state))
    return network


def resnet_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of torchvision's ResNet-18 to those of our ``ResNet``; the classifier is left out.

    Args:
        state: torchvision's state dict.
    Returns:
        The state dict of ``ResNet((2, 2, 2, 2), (64, 128, 256, 512))``.
    """
    renamed = {}
    for key, tensor in state.items():
        first, _, rest = key.partition(".")
        if first.startswith("layer"):
            ours = f"stages.{int(first[5:]) - 1}.{rest.replace('downsample', 'shortcut')}"
        elif first in {"conv1", "bn1"}:
            ours = f"stem.{0 if first == 'conv1' else 1}.{rest}"
        else:
            continue
        renamed[ours] = tensor
    return renamed


def _googlenet(pretrained: bool = False) -> Backbone:
    # init_weights=True draws from a truncated normal for seconds; the layers' own start serves as well.
    network = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False)
    if pretrained:
        state = _published_weights("googlenet", torchvision.models.GoogLeNet_Weights.DEFAULT)
        network.load_state_dict({key: value for key, value in state.items() if not key.startswith("aux")})
    layers = OrderedDict[str, nn.Module](input=OwnInput((0.5,) * 3, (0.5,) * 3))
    layers.update(_children(network, without={"avgpool", "dropout", "fc", "aux1", "aux2"}))
    return LayeredBackbone(nn.Sequential(layers), 1024)


def _mobilenet_v2(pretrained: bool = False) -> Backbone:
    network = torchvision.models.mobilenet_v2(weights=None)
    if pretrained:
        weights = torchvision.models.MobileNet_V2_Weights.DEFAULT
        network.load_state_dict(_published_weights("mobilenet-v2", weights))
    return LayeredBackbone(network.features, 1280)


def _shufflenet_v2(pretrained: bool = False) -> Backbone:
    network = torchvision.models.shufflenet_v2_x1_0(weights=None)
    if pretrained:
        weights = torchvision.models.ShuffleNet_V2_X1_0_Weights.DEFAULT
        network.load_state_dict(_published_weights("shufflenet-v2", weights))
    return LayeredBackbone(nn.Sequential(_children(network, without={"fc"})), 1024)


def _from_a_file(name: str, make: Callable[[], Backbone], pretrained: bool = False) -> Backbone:
    if pretrained:
        raise InputError(f"no pretrained weights of {name!r} are fetched: load a file with load_backbone")
    return make()


def _children(network: nn.Module, without: Container[str]) -> OrderedDict[str, nn.Module]:
    return OrderedDict((name, child) for name, child in network.named_children() if name not in without)


def _vgg16(input_size: int, pretrained: bool = False, width: float = 1.0) -> Backbone:
    network = vgg16_backbone(input_size, width)
    if pretrained:
        if width != 1.0:
            raise InputError(f"nobody publishes pretrained weights for a vgg16 of width {width:g}")
        state = _published_weights("vgg16", torchvision.models.VGG16_BN_Weights.DEFAULT)
        network.chain.load_state_dict(vgg_keys(state))
    return network


def _untrained(make: Callable[..., Backbone], pretrained: bool = False, **settings: Any) -> Backbone:
    if pretrained:
        raise InputError("nobody publishes pretrained weights for the papers' small networks and students")
    return make(**settings)


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet10": functools.partial(_resnet, "resnet10", (1, 1, 1, 1), _WIDTHS),
    "resnet18": _resnet18,
    "resnet10-tiny": functools.partial(_resnet, "resnet10-tiny", (1, 1, 1, 1), _TINY_WIDTHS),
    "resnet18-tiny": functools.partial(_resnet, "resnet18-tiny", (2, 2, 2, 2), _TINY_WIDTHS),
    "googlenet": _googlenet,
    "mobilenet-v2": _mobilenet_v2,
    "shufflenet-v2": _shufflenet_v2,
    "mobilefacenet": functools.partial(_from_a_file, "mobilefacenet", MobileFaceNet),
    "dlib-resnet": functools.partial(_from_a_file, "dlib-resnet", DlibResNet),
    "vgg16": functools.partial(_vgg16, 112),
    "vgg16-64": functools.partial(_vgg16, 64),
    "pvp": functools.partial(_untrained, functools.partial(pvp_backbone, 112)),
    "pvp-64": functools.partial(_untrained, functools.partial(pvp_backbone, 64)),
    "student-normal": functools.partial(_untrained, normal_student),
    "student-small": functools.partial(_untrained, small_student),
    "student-small-1x1": functools.partial(_untrained, functools.partial(small_student, 1)),
    "student-small-3x3": functools.partial(_untrained, functools.partial(small_student, 3)),
    "student-strided": functools.partial(_untrained, StridedStudent),
    "thin-age": functools.partial(_untrained, ChainBackbone, layers=VGG16, width=0.5),
    "tiny-age": functools.partial(_untrained, ChainBackbone, layers=VGG16, width=0.25),
    "ssr-net": functools.partial(_untrained, SSRNet),
    "c3ae": functools.partial(_untrained, C3AE),
    "compact-mobilenet": functools.partial(_untrained, CompactMobileNet),
    "compact-mobilenet-50": functools.partial(_untrained, CompactMobileNet, width=0.5),
    "compact-densenet": functools.partial(_untrained, CompactDenseNet),
    "compact-densenet-13": functools.partial(_untrained, CompactDenseNet, depth=13),
    "compact-or-cnn": functools.partial(_untrained, CompactOrCNN),
    "ranking-cnn": functools.partial(_untrained, RankingCNN),
    "bif": functools.partial(_untrained, GaborPyramid),
    "bif-std": functools.partial(_untrained, GaborPyramid, pool="std"),
}
"""Name to ``factory(pretrained=False)``: Tables 1 and 2 of [1], and a network for a start from identity.
All pretrained weights are ImageNet's. Below, those of two-teacher distillation (112 px, or the size in the
name; ``@0.25`` behind a vgg16, pvp or paper's student scales its width), the thin and tiny VGG-16 of DLDL-v2
(hybrid pooling: the last max pool, then the mean), the compact networks of 60 and 64 px,
Ranking-CNN's hundred networks for the ages 0 … 100, and hand-made features of 60 px (Gabor filters)."""


def make_backbone(name: str, pretrained: bool = False) -> Backbone:
    """Make a backbone.

    Args:
        name: A key of ``BACKBONES``, an entry point ``agelens.backbones``, ``package.module:name``, or a timm
            name, bare or as ``timm:<name>``. ``zca5:`` before it whitens patches of 5 x 5 in front of it;
            ``@0.25`` behind a chain scales its width.
        pretrained: Load its published weights; they are fetched from the network if they are not cached.
    Returns:
        The backbone, in training mode; its ``name`` is the name given.
    Raises:
        InputError: There is no such backbone (close names are listed) or its weights cannot be loaded; it
            never falls back to random weights.
        PluginError: A plug-in cannot be imported, or what it makes is no backbone.
    """
    backbone = _made(name, pretrained)
    backbone.name = name
    return backbone


def _made(name: str, pretrained: bool) -> Backbone:
    whitening = re.fullmatch(r"zca([1-9][0-9]?):(.+)", name)
    if whitening is not None:
        if int(whitening[1]) % 2 == 0:
            raise InputError(f"backbone {name!r}: a patch to whiten has an odd side, not {whitening[1]}")
        return Whitened(make_backbone(whitening[2], pretrained), int(whitening[1]))
    scaled = re.fullmatch(r"((?:vgg16|pvp|student-small|student-normal)[a-z0-9-]*)@([0-9]*\.?[0-9]+)", name)
    if scaled is not None and scaled[1] in BACKBONES and float(scaled[2]) > 0:
        return BACKBONES[scaled[1]](pretrained=pretrained, width=float(scaled[2]))
    if rehearsing() and (name in _WIDE or (name not in BACKBONES and not _is_plugin(name))):
        return _stand_in(name)
    if name in BACKBONES:
        return BACKBONES[name](pretrained=pretrained)
    if _is_plugin(name):
        return _plugin_backbone(name, pretrained)
    return TimmBackbone(name.removeprefix("timm:"), pretrained=pretrained)


_WIDE = ("googlenet", "mobilenet-v2", "shufflenet-v2", "mobilefacenet", "dlib-resnet")


def _stand_in(name: str) -> Backbone:
    """In a rehearsal, a small ResNet for a network whose width is no argument."""
    if name not in BACKBONES:
        import timm

        if not timm.is_model(name.removeprefix("timm:").partition(".")[0]):
            raise InputError(_unknown(name, timm.list_models()))
    return _resnet(name, (1, 1, 1, 1), _TINY_WIDTHS)


def backbone_origin(name: str) -> Origin | None:
    """The package that a backbone comes from; None for ours and timm's."""
    bare = re.sub(r"^(zca[0-9]+:)+", "", name)
    return origin("backbones", bare, BACKBONES) if _is_plugin(bare) else None


def _is_plugin(name: str) -> bool:
    if name in BACKBONES or name.startswith("timm:"):
        return False
    return is_importable_name(name) or name in available("backbones", ())


def _plugin_backbone(name: str, pretrained: bool) -> Backbone:
    make = resolve("backbones", name, BACKBONES)
    try:
        made: object = make(pretrained=pretrained)
    except TypeError as error:
        raise PluginError(
            f"backbone {name!r} cannot be made by (pretrained={pretrained}): {error}"
        ) from error
    if not isinstance(made, Backbone) or not isinstance(getattr(made, "num_features", None), int):
        raise PluginError(
            f"backbone {name!r} made a {type(made).__name__}: it must be a Backbone "
            "(agelens.networks.backbone) with num_features"
        )
    return made


def load_backbone(backbone: Backbone, path: str | Path) -> None:
    """Load the weights of a backbone from a safetensors file, strictly.

    Args:
        backbone: The backbone to fill.
        path: Weights of a bare backbone, of a whole ``AgeNetwork`` (its head is left out), or of a network of
            timm under timm's names; batch norm's counts of batches may be missing. For ``dlib-resnet`` dlib's
            own file too.
    Raises:
        CheckpointError: The file cannot be read, or its weights belong to another network.
    """
    try:
        open_regular(path, NETWORK_BYTES).close()
        dlib = isinstance(backbone, DlibResNet) and is_dlib_file(path)
        state = read_dlib_weights(path) if dlib else load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot read weights: {reason(error)}") from error
    prefix = "backbone."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if isinstance(backbone, TimmBackbone) and not any(key.startswith("model.") for key in state):
        state = {f"model.{key}": tensor for key, tensor in state.items()}
    counts = {k: t for k, t in backbone.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        backbone.load_state_dict({**counts, **state})
    except RuntimeError as error:
        shown = shorten(" ".join(str(error).split()), 300)
        raise CheckpointError(path, f"weights of another network: {shown}") from error


def _unknown(name: str, timm_names: Sequence[str]) -> str:
    ours = available("backbones", BACKBONES)
    close = difflib.get_close_matches(name, dict.fromkeys([*ours, *timm_names]), n=5)
    hint = f"; close: {', '.join(close)}" if close else ""
    return (
        f"no backbone {name!r}{hint}; there are {', '.join(ours)}; any other name is looked up in timm, and "
        "package.module:name names any other"
    )
