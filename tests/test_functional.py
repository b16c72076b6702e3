"""The facade holds every public function of losses, operators and metrics."""

import inspect

from lightning_topk import functional, losses, metrics, ops

# Not computations on logits: builders and the padding of samplers.
ELSEWHERE = {"build_loss", "topk_metrics", "unpadded_size"}


def test_every_function_is_there() -> None:
    public = {
        name: getattr(family, name)
        for family in (losses, metrics, ops)
        for name in family.__all__
        if inspect.isfunction(getattr(family, name)) and name not in ELSEWHERE
    }
    assert set(functional.__all__) == set(public)
    assert all(getattr(functional, name) is function for name, function in public.items())
