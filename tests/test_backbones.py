"""Backbones by name."""

import pytest
import torch
import torchvision
from torchvision.models import list_models

from lightning_topk.backbones import CifarDenseNet, CifarResNet, build_backbone


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


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v3_small", "squeezenet1_1", "googlenet"),
        *("small_convnet", "cifar_resnet32", "cifar_densenet40"),
    ],
)
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
        ({"name": "identity", "weights": "DEFAULT"}, r"no pretrained weights for `identity`"),
        ({"name": "identity", "in_channels": 0}, r"`num_features` should be an integer >= 1|`in_channels` should be"),
        ({"name": "resnet18", "in_channels": 0}, r"`in_channels` should be an integer >= 1"),
    ],
)
def test_bad_input(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(**arguments)


def test_networks_for_cifar_have_the_published_size() -> None:
    """With the head of ten or a hundred classes; that of He et al. has 0.46 million parameters."""

    def size(network: torch.nn.Module, features: int, classes: int) -> int:
        return sum(parameter.numel() for parameter in network.parameters()) + (features + 1) * classes

    for depth, expected in ((20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)):
        assert size(CifarResNet(depth=depth), 64, 10) == expected
    network, features = build_backbone("cifar_densenet40")
    assert (features, CifarDenseNet(growth=12).num_features) == (440, 132)
    assert size(CifarDenseNet(growth=12), 132, 10) == 176_122  # the 0.2 million of DenseNet-BC 40-12
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) == 39  # the 40th layer is the head


def test_shortcuts_of_the_residual_network_have_no_parameters() -> None:
    network = CifarResNet(depth=8).eval()
    block = network[4]
    image = torch.randn(1, 16, 6, 6)
    for module in block.layers:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.zeros_(module.weight)
    out = block(image)
    assert out.shape == (1, 32, 3, 3)
    torch.testing.assert_close(out[:, 8:24], image[:, :, ::2, ::2].relu())
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.parametrize(("kind", "depth", "law"), [(CifarResNet, 30, "6 n \\+ 2"), (CifarDenseNet, 32, "6 n \\+ 4")])
def test_depths_that_do_not_exist(kind, depth, law) -> None:
    with pytest.raises(ValueError, match=f"Parameter `depth` should be {law}. Found `depth = {depth}`"):
        kind(depth=depth)


def test_feature_vectors_are_handed_on() -> None:
    network, features = build_backbone("identity", in_channels=7)
    inputs = torch.randn(3, 7)
    assert features == 7
    assert network(inputs) is inputs
    for wrong in ((3, 6), (3, 7, 1), (3,)):
        with pytest.raises(ValueError, match=r"should be feature vectors \[N, 7\]. Found"):
            network(torch.randn(wrong))
