"""Networks from inputs to features: torchvision's by name, some for small images, and none at all.

Example:
    >>> import torch
    >>> from lightning_topk.backbones import build_backbone
    >>> network, num_features = build_backbone("small_convnet", in_channels=1)
    >>> tuple(network(torch.randn(2, 1, 28, 28)).shape), num_features
    ((2, 256), 256)
"""

from collections.abc import Callable
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from lightning_topk._checks import check_int
from lightning_topk._cifar_networks import CifarDenseNet, CifarResNet

__all__ = ["CifarDenseNet", "CifarResNet", "FeatureVectors", "SmallConvNet", "build_backbone"]


class FeatureVectors(nn.Module):
    """Hand feature vectors on as they are: with it a classifier is a linear probe.

    Args:
        num_features: Length D of the feature vectors.

    Shape:
        features [N, D] -> features [N, D].

    Raises:
        ValueError: A number below one, or inputs of another shape.

    Example:
        >>> FeatureVectors(4)(torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = check_int("num_features", num_features, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.shape[1:] != (self.num_features,):
            law = f"Inputs of the backbone `identity` should be feature vectors [N, {self.num_features}]."
            raise ValueError(f"{law} Found {list(inputs.shape)}.")
        return inputs


class SmallConvNet(nn.Sequential):
    """Four convolution blocks and global average pooling, for images of about 20 to 64 pixels.

    Each block is a 3 x 3 convolution, batch normalisation and ReLU; the first three halve the image.

    Args:
        in_channels: Channels of the image, 1 for grey and 3 for colour.
        width: Channels of the first block; the others have 2, 4 and 8 times as many. 32 gives 0.39 M parameters.
        channels_last: Whether the weights lie in memory so that the channels of a pixel are neighbours, by which a step
            takes about a quarter less time on a CPU. Results differ in rounding.

    Shape:
        images [N, in_channels, H, W] -> features [N, 8 * width].

    Raises:
        ValueError: A number below one.

    Example:
        >>> network = SmallConvNet(in_channels=1)
        >>> sum(parameter.numel() for parameter in network.parameters())
        388320
    """

    def __init__(self, in_channels: int = 3, width: int = 32, channels_last: bool = False) -> None:
        check_int("in_channels", in_channels, 1)
        check_int("width", width, 1)
        channels = [in_channels, width, 2 * width, 4 * width, 8 * width]
        blocks: list[nn.Module] = []
        for before, after in pairwise(channels):
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            blocks += [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            if after < 8 * width:
                blocks.append(nn.MaxPool2d(2))
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = 8 * width
        if channels_last:
            self.to(memory_format=torch.channels_last)


_OWN: dict[str, Callable[[int], Any]] = {
    "small_convnet": SmallConvNet,
    "cifar_resnet32": CifarResNet,
    "cifar_densenet40": CifarDenseNet,
    "identity": FeatureVectors,
}


def build_backbone(name: str, *, weights: str | None = None, in_channels: int = 3) -> tuple[nn.Module, int]:
    """Build a network that returns features in place of the logits of its original classes.

    Args:
        name: ``"small_convnet"``; ``"cifar_resnet32"`` or ``"cifar_densenet40"``, the networks of the experiments on
            CIFAR; ``"identity"`` for inputs that are feature vectors; or a classification network of torchvision by its
            name there, such as ``"resnet18"`` or ``"efficientnet_b0"``.
        weights: Pretrained weights by torchvision's name, such as ``"DEFAULT"`` or ``"IMAGENET1K_V2"``; random
            initial weights when None.
        in_channels: Channels of the images, or length of the feature vectors. For another number than 3 the first
            convolution of torchvision's networks is replaced; pretrained filters are averaged over the colours, so that
            a grey image excites them as a grey RGB image would.

    Returns:
        The network, images -> [N, D], and D.

    Raises:
        ValueError: A name or weights that torchvision does not know.

    Example:
        >>> network, num_features = build_backbone("resnet18")
        >>> num_features
        512
    """
    check_int("in_channels", in_channels, 1)
    if name in _OWN:
        if weights is not None:
            raise ValueError(f"There are no pretrained weights for `{name}`. Found `weights = {weights!r}`.")
        own = _OWN[name](in_channels)
        return own, own.num_features
    network = _torchvision_model(name, weights)
    if in_channels != 3:
        _replace_first_convolution(network, in_channels, pretrained=weights is not None)
    if name.startswith("squeezenet"):
        # Its classifier is a convolution over the map of features.
        num_features = network.classifier[1].in_channels
        network.classifier = nn.Sequential(nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return network, num_features
    path = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    num_features = network.get_submodule(path).in_features
    network.set_submodule(path, nn.Identity())
    return network, int(num_features)


def _torchvision_model(name: str, weights: str | None) -> Any:
    known = list_models(module=torchvision.models)
    if name not in known:
        near = get_close_matches(name, [*known, *_OWN], n=3) or ["resnet18", "small_convnet"]
        raise ValueError(
            f"Parameter `backbone` should be one of {', '.join(map(repr, _OWN))} or the name of a classification "
            f"network of torchvision. Found `backbone = {name!r}`. Near: {', '.join(near)}."
        )
    # The auxiliary heads of these two would be parameters without a loss; unasked, they also warn of their slow start.
    options: dict[str, Any] = {}
    if name in {"googlenet", "inception_v3"}:
        options = {"aux_logits": False, "init_weights": weights is None}
    try:
        return get_model(name, weights=weights, **options)
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Parameter `weights` should be a name of torchvision's weights of {name}, such as 'DEFAULT'. "
            f"Found `weights = {weights!r}` ({error})."
        ) from None


def _replace_first_convolution(network: nn.Module, in_channels: int, *, pretrained: bool) -> None:
    path, old = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    make: Callable[..., nn.Conv2d] = type(old)
    new = make(
        in_channels,
        old.out_channels,
        old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        dilation=old.dilation,
        bias=old.bias is not None,
    )
    if pretrained:
        with torch.no_grad():
            new.weight.copy_((old.weight.sum(1, keepdim=True) / in_channels).expand_as(new.weight))
            if old.bias is not None and new.bias is not None:
                new.bias.copy_(old.bias)
    else:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(path, new)
    if hasattr(network, "transform_input"):
        setattr(network, "transform_input", False)  # noqa: B010
