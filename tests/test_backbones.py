"""Backbones by name."""

import pytest
import torch
import torchvision
from torchvision.models import list_models

from lightning_topk.backbones import build_backbone


@pytest.mark.parametrize("name", list_models(module=torchvision.models))
def test_every_torchvision_network_gives_features(name: str) -> None:
    """On the meta device, so that no weights are allocated."""
    if name.startswith("regnet"):
        # These compute with tensors while they are built. Sizes differ in numbers alone: the small ones stand for all.
        if not name.endswith("400mf"):
            return
        network, num_features = build_backbone(name)
        network.to("meta")
    else:
        with torch.device("meta"):
            network, num_features = build_backbone(name)
    size = 299 if name == "inception_v3" else 224
    features = network(torch.empty(2, 3, size, size, device="meta"))
    assert features.shape == (2, num_features)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet", "small_convnet"])
@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_channels_and_gradients_everywhere(name: str, in_channels: int) -> None:
    network, num_features = build_backbone(name, in_channels=in_channels)
    features = network.eval()(torch.randn(2, in_channels, 64, 64))
    assert features.shape == (2, num_features)
    features.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_pretrained_filters_treat_grey_as_grey_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights, a grey image excites the first layer as the same image in three equal channels does."""
    import lightning_topk.backbones as backbones

    original = torchvision.models.resnet18()
    monkeypatch.setattr(backbones, "get_model", lambda name, weights: original)
    image, before = torch.randn(1, 1, 32, 32), original.conv1
    network, _ = build_backbone("resnet18", weights="DEFAULT", in_channels=1)
    torch.testing.assert_close(network.conv1(image), before(image.expand(1, 3, 32, 32)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "resnet19"},
            r"name of a classification network of torchvision\. Found .*'resnet19'`\. Near: resnet1",
        ),
        ({"name": "small_convnet", "weights": "DEFAULT"}, r"no pretrained weights for `small_convnet`"),
        ({"name": "resnet18", "weights": "BEST"}, r"`weights` should be a name of torchvision's weights of resnet18"),
        ({"name": "resnet18", "in_channels": 0}, r"`in_channels` should be an integer >= 1"),
    ],
)
def test_bad_input(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(**arguments)
