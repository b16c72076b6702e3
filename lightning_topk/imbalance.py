r"""From labels to class counts, and from counts to margins and groups. Pure functions of torch tensors.

The training counts :math:`n_c` are all that the long-tail methods know about the data. They enter a loss through
:meth:`~lightning_topk.losses.TopKLoss.bind_class_counts`, which turns them into what it needs with the functions of
this module.

Example:
    >>> from lightning_topk.imbalance import class_counts, ldam_margins
    >>> counts = class_counts([0, 1, 1, 2, 2, 2, 2, 2], num_classes=3)
    >>> counts
    tensor([1, 2, 5])
    >>> ldam_margins(counts, max_margin=0.5)
    tensor([0.5000, 0.4204, 0.3344])
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_topk._checks import check_choice, check_float, check_int, check_logits

__all__ = [
    "check_counts",
    "class_balanced_weights",
    "class_counts",
    "class_groups",
    "ldam_margins",
    "log_priors",
    "nonzero_counts",
    "posthoc_logit_adjustment",
    "read_counts",
]

ZERO_COUNTS = ("error", "clamp")


def class_counts(labels: Tensor | Sequence[int], num_classes: int | None = None) -> Tensor:
    """Count the samples of each class.

    Args:
        labels: Class indices, any shape, integers >= 0.
        num_classes: Number of classes C; the largest label plus one when not given.

    Returns:
        Counts of dtype int64, shape [C].

    Raises:
        TypeError: Labels that are not integers.
        ValueError: No labels, a negative label, or a label of at least ``num_classes``.

    Example:
        >>> class_counts(torch.tensor([2, 0, 2]), num_classes=4)
        tensor([1, 0, 2, 0])
    """
    values = torch.as_tensor(labels)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        if values.numel():
            raise TypeError(f"Argument `labels` should hold integer class indices. Found {values.dtype}.")
        values = values.long()
    if values.numel() == 0:
        raise ValueError("Argument `labels` should hold at least one class index. Found none.")
    low, high = int(values.min()), int(values.max())
    size = high + 1 if num_classes is None else check_int("num_classes", num_classes, 1)
    if low < 0 or high >= size:
        raise ValueError(
            f"Argument `labels` should hold class indices in [0, {size}). Found {low if low < 0 else high}."
        )
    return torch.bincount(values.flatten().long(), minlength=size)


def check_counts(counts: Any, num_classes: int | None = None) -> Tensor:
    """Return class counts as an int64 tensor, or raise when they are none.

    Args:
        counts: One non-negative whole number per class: list, tuple, array or tensor of shape [C].
        num_classes: The number of classes C that they should have.

    Returns:
        Counts of dtype int64, shape [C], on the CPU.

    Raises:
        TypeError: Something that cannot become a tensor of numbers.
        ValueError: Not one-dimensional, of the wrong length, negative, not whole, or all zero.

    Example:
        >>> check_counts([3, 0, 5.0])
        tensor([3, 0, 5])
    """
    law = "Class counts should be a list of one non-negative whole number per class."
    try:
        values = torch.as_tensor(counts).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{law} Found {type(counts).__name__}: {counts!r:.80}.") from error
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{law} Found {values.dtype}.")
    if values.ndim != 1 or values.numel() == 0:
        raise ValueError(f"{law} Found shape {list(values.shape)}.")
    bad = ~((values >= 0) & (values == values.round())) if values.is_floating_point() else values < 0
    bad |= ~torch.isfinite(values)
    if bad.any():
        position = int(bad.nonzero()[0])
        raise ValueError(f"{law} Found {values[position].item()} for class {position}.")
    if not values.any():
        raise ValueError(f"{law} At least one should be positive. Found {values.numel()} zeros.")
    if num_classes is not None and values.numel() != num_classes:
        raise ValueError(f"{law} Found {values.numel()} counts for {num_classes} classes.")
    return values.long()


def nonzero_counts(counts: Any, zero: str = "error", *, names: Sequence[str] | None = None) -> Tensor:
    """Return counts that are all positive, by the chosen rule for classes without samples.

    Args:
        counts: Class counts as in :func:`check_counts`, shape [C].
        zero: ``"error"`` raises and names the classes, ``"clamp"`` counts such a class as one sample.
        names: Class names for the message.

    Returns:
        Counts >= 1 of dtype int64, shape [C].

    Raises:
        ValueError: A class without samples under ``"error"``.

    Example:
        >>> nonzero_counts([3, 0], zero="clamp")
        tensor([3, 1])
    """
    check_choice("zero_counts", zero, ZERO_COUNTS)
    values = check_counts(counts)
    empty = (values == 0).nonzero().flatten().tolist()
    if empty and zero == "error":
        shown = ", ".join(f"{c} ({names[c]})" if names is not None else str(c) for c in empty[:10])
        more = ", ..." if len(empty) > 10 else ""
        raise ValueError(
            "Every class should have a training sample where its count sets a margin, weight or prior. Found none for "
            f'{len(empty)} of {len(values)} classes: {shown}{more}. Counting them as one is `zero_counts="clamp"`.'
        )
    return values.clamp(min=1)


def ldam_margins(counts: Any, *, max_margin: float = 0.5, constant: float | None = None, zero: str = "error") -> Tensor:
    r"""Class margins that grow as classes get rarer.

    .. math:: m_c = C / n_c^{1/4}, \qquad C = \text{max\_margin} \cdot \min_c n_c^{1/4}

    so that the rarest class has the margin ``max_margin``, unless C is given as ``constant``.

    Args:
        counts: Class counts n, shape [C].
        max_margin: The largest margin, >= 0, in units of the logits. Cao et al. use 0.5, Garcin et al. 0.2.
        constant: The constant C >= 0 itself; ``max_margin`` is not used then.
        zero: Rule for classes without samples, see :func:`nonzero_counts`.

    Returns:
        Margins, float32, shape [C].

    Raises:
        ValueError: Counts or a margin out of range, or a class without samples under ``zero="error"``.

    References:
        Cao, Wei, Gaidon, Arechiga, Ma, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        NeurIPS 2019.

    Example:
        >>> ldam_margins([1, 16, 81, 256], max_margin=0.5)
        tensor([0.5000, 0.2500, 0.1667, 0.1250])
    """
    check_float("max_margin", max_margin, 0.0)
    inverse = nonzero_counts(counts, zero).double() ** -0.25
    factor = max_margin / inverse.max() if constant is None else check_float("constant", constant, 0.0)
    return (factor * inverse).float()


def class_groups(counts: Any, *, many: int = 100, few: int = 20) -> dict[str, Tensor]:
    """Split the classes by training count into many-, medium- and few-shot groups.

    Args:
        counts: Class counts, shape [C].
        many: Classes with more samples than this are "many".
        few: Classes with fewer samples than this are "few"; the rest, from ``few`` to ``many``, is "medium".

    Returns:
        Boolean masks of shape [C] under the keys ``"many"``, ``"medium"`` and ``"few"``; each class is in one.

    Raises:
        ValueError: ``few`` above ``many``, or counts that are none.

    References:
        The edges are those of Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
        ICLR 2020 (code).

    Example:
        >>> {name: int(mask.sum()) for name, mask in class_groups([500, 101, 100, 20, 19, 1]).items()}
        {'many': 2, 'medium': 2, 'few': 2}
    """
    check_int("few", few, 0)
    check_int("many", many, 0)
    if few > many + 1:
        raise ValueError(f"Parameter `few` should be at most `many + 1`. Found `few = {few}` with `many = {many}`.")
    values = check_counts(counts)
    above, below = values > many, values < few
    return {"many": above, "medium": ~(above | below), "few": below}


def read_counts(path: str | Path) -> Tensor:
    """Read class counts from a JSON or CSV file. Nothing in the file is executed.

    Accepted are a JSON list, a JSON object with such a list under ``"counts"``, a JSON object
    ``{class index: count}``, a CSV file with one count per row, and a CSV file with the columns ``class`` and
    ``count``, in any order of rows. A header row is optional.

    Args:
        path: File that ends in ``.json`` or ``.csv``.

    Returns:
        Counts of dtype int64, shape [C].

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another ending, or contents that are no counts.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "counts.json")
        ...     _ = path.write_text('{"counts": [40, 7, 2]}')
        ...     read_counts(path)
        tensor([40,  7,  2])
    """
    file = Path(path)
    law = "A file of class counts should be JSON (a list, or {class: count}) or CSV (count, or class,count)."
    if file.suffix.lower() not in {".json", ".csv"}:
        raise ValueError(f"{law} Found `{file}`.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"A file of class counts should exist. Found none at `{file}`.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{law} Found bytes that are no UTF-8 text in `{file}`.") from None
    try:
        return check_counts(_parse_json(text) if file.suffix.lower() == ".json" else _parse_csv(text))
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{law} `{file}` is not: {error}") from None


def _parse_json(text: str) -> Any:
    content = json.loads(text)
    if isinstance(content, dict) and "counts" in content:
        content = content["counts"]
    return _by_class(content.items()) if isinstance(content, dict) else content


def _parse_csv(text: str) -> list[float]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines())]
    rows = [row for row in rows if any(row)]
    if rows and not rows[0][-1].replace(".", "", 1).isdigit():
        header = [cell.lower() for cell in rows.pop(0)]
        if "count" in header and "class" in header:
            rows = [[row[header.index("class")], row[header.index("count")]] for row in rows]
        elif len(header) > 2:
            raise ValueError(f"the header {header} has no columns `class` and `count`.")
    if any(len(row) != len(rows[0]) or len(row) > 2 for row in rows):
        raise ValueError("rows of different or too great length.")
    if rows and len(rows[0]) == 2:
        return _by_class((row[0], float(row[1])) for row in rows)
    return [float(row[0]) for row in rows]


def _by_class(pairs: Any) -> list[float]:
    table = {}
    for key, count in pairs:
        if not str(key).isdigit():
            raise ValueError(f"classes should be given by index. Found {key!r}.")
        if int(key) in table:
            raise ValueError(f"class {key} is given twice.")
        table[int(key)] = count
    if sorted(table) != list(range(len(table))):
        largest = max(table, default=-1)
        raise ValueError(f"classes should be 0, 1, ..., without gaps. Found {len(table)} up to {largest}.")
    return [table[c] for c in range(len(table))]


def class_balanced_weights(counts: Any, beta: float = 0.9999, *, zero: str = "error") -> Tensor:
    r"""Class weights by the effective number of samples.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad \sum_c w_c = C

    The effective number :math:`(1 - \beta^{n}) / (1 - \beta)` lies between 1 and n: it is 1 for every class at
    :math:`\beta = 0`, where all weights are 1, and n at :math:`\beta = 1`, the limit of inverse frequency.

    Args:
        counts: Class counts n, shape [C].
        beta: In [0, 1]. Cui et al. use 0.9 to 0.9999, the code of Cao et al. 0.9999.
        zero: Rule for classes without samples, see :func:`nonzero_counts`.

    Returns:
        Weights of mean 1, float32, shape [C].

    Raises:
        ValueError: Counts or beta out of range, or a class without samples under ``zero="error"``.

    References:
        Cui, Jia, Lin, Song, Belongie, "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019.

    Example:
        >>> class_balanced_weights([1, 2, 3], beta=0.5)
        tensor([1.3404, 0.8936, 0.7660])
    """
    check_float("beta", beta, 0.0, 1.0)
    samples = nonzero_counts(counts, zero).double()
    # 1 - beta^n without the cancellation that costs all digits when beta is near one.
    effective = samples if beta == 1.0 else -torch.expm1(samples * torch.tensor(beta, dtype=torch.float64).log())
    return (len(samples) / effective / (1 / effective).sum()).float()


def log_priors(counts: Any, *, zero: str = "error") -> Tensor:
    r"""Logarithms of the class frequencies, :math:`\log \pi_c = \log(n_c / \sum_j n_j)`.

    Args:
        counts: Class counts n, shape [C].
        zero: Rule for classes without samples, see :func:`nonzero_counts`.

    Returns:
        Log-priors <= 0, float32, shape [C].

    Raises:
        ValueError: Counts that are none, or a class without samples under ``zero="error"``.

    Example:
        >>> log_priors([1, 3]).exp()
        tensor([0.2500, 0.7500])
    """
    samples = nonzero_counts(counts, zero).double()
    return (samples / samples.sum()).log().float()


def posthoc_logit_adjustment(logits: Tensor, class_counts: Any, tau: float = 1.0, *, zero: str = "error") -> Tensor:
    r"""Take the class frequencies out of the scores of a trained network, :math:`s_c - \tau \log \pi_c`.

    For metrics and predictions under any loss and every K: it changes which classes are among the K best, not only
    which is first. For a network that was trained with cross-entropy, :math:`\tau = 1` turns posterior
    probabilities into those under equally frequent classes. A loss that has used the class counts in training needs
    less or none; and as the shift is in units of the logits, cosine logits with a scale outside need tau divided by
    that scale. :class:`~lightning_topk.TopKMixin` does it in evaluation with ``posthoc_tau``.

    Args:
        logits: Scores s, shape [..., C].
        class_counts: Training counts n, shape [C]; read on the CPU.
        tau: Strength of the adjustment. Menon et al.: 1, or tuned on validation data.
        zero: Rule for classes without samples, see :func:`nonzero_counts`.

    Returns:
        Adjusted scores, shape [..., C], float32 for logits of lower precision.

    Raises:
        ValueError: Counts that are none or of another number of classes, or a class without samples under
            ``zero="error"``.

    References:
        Menon, Jayasumana, Rawat, Jain, Veit, Kumar, "Long-tail learning via logit adjustment", ICLR 2021.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0]])
        >>> posthoc_logit_adjustment(logits, [1, 9]).argmax(-1)
        tensor([0])
    """
    check_logits(logits)
    check_float("tau", tau)
    check_counts(class_counts, logits.shape[-1])
    shift = tau * log_priors(class_counts, zero=zero).double()
    return logits - shift.to(logits.device, torch.promote_types(logits.dtype, torch.float32))
