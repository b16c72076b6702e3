"""The networks of the experiments on CIFAR: a narrow residual network and a dense one, for images of 32 x 32 pixels."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_topk._checks import check_int


class CifarResNet(nn.Sequential):
    """The residual network for CIFAR of He et al., with shortcuts without parameters.

    Args:
        in_channels: Channels of the images.
        depth: Number of layers, 6 n + 2: 32 in the experiments of LDAM (0.46 M parameters), 20, 44, 56, 110.

    Shape:
        images [N, in_channels, H, W] -> features [N, 64].

    References:
        He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2, option A.
    """

    def __init__(self, in_channels: int = 3, depth: int = 32) -> None:
        check_int("in_channels", in_channels, 1)
        if check_int("depth", depth, 8) % 6 != 2:
            raise ValueError(f"Parameter `depth` should be 6 n + 2. Found `depth = {depth}`.")
        layers: list[nn.Module] = [_convolution(in_channels, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
        for before, after in pairwise((16, 16, 32, 64)):
            layers += [_Residual(before, after), *(_Residual(after, after) for _ in range((depth - 2) // 6 - 1))]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.num_features = 64
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, which takes every second pixel and fills new channels with zeros."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.added = after - before
        self.stride = 2 if self.added else 1
        self.layers = nn.Sequential(
            *(_convolution(before, after, stride=self.stride), nn.BatchNorm2d(after), nn.ReLU(inplace=True)),
            *(_convolution(after, after), nn.BatchNorm2d(after)),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = inputs
        if self.added:
            half = self.added // 2
            shortcut = F.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))
        return F.relu(self.layers(inputs) + shortcut)


class CifarDenseNet(nn.Sequential):
    """The dense network for CIFAR of Huang et al., with bottlenecks and halving transitions (DenseNet-BC).

    Args:
        in_channels: Channels of the images.
        depth: Number of layers, 6 n + 4: 40 in the experiments of Berrada et al. and Garcin et al.
        growth: Channels that each layer adds: 40 in these experiments ("DenseNet 40-40").

    Shape:
        images [N, in_channels, H, W], H and W of at least 4 -> features [N, D], with D = 440 by default.

    References:
        Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks", CVPR 2017, section 3.
    """

    def __init__(self, in_channels: int = 3, depth: int = 40, growth: int = 40) -> None:
        check_int("in_channels", in_channels, 1)
        check_int("growth", growth, 1)
        if check_int("depth", depth, 10) % 6 != 4:
            raise ValueError(f"Parameter `depth` should be 6 n + 4. Found `depth = {depth}`.")
        channels = 2 * growth
        layers: list[nn.Module] = [_convolution(in_channels, channels)]
        for block in range(3):
            if block:
                transition = (nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2))
                layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), *transition]
                channels //= 2
            for _ in range((depth - 4) // 6):
                layers.append(_Dense(channels, growth))
                channels += growth
        last = (nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(*layers, *last)
        self.num_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class _Dense(nn.Module):
    """Two convolutions whose channels are put beside those of the input."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        inner = 4 * growth
        self.layers = nn.Sequential(
            *(nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, inner, 1, bias=False)),
            *(nn.BatchNorm2d(inner), nn.ReLU(inplace=True), _convolution(inner, growth)),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([inputs, self.layers(inputs)], 1)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
