"""The closed list of messages that wrong input ends in; every error of a property test should be one of them.

Each is a regular expression that the whole message matches. Messages of torch, of Python or of another library are not
in the list, but for the groups whose name says so.
"""

import re

_NAME = r"`[\w.]+`"
_BOUNDS = r"( [<>]=? \S+)?( and <= \S+)?"
_SHAPE = r"\[[\d, ]*\]"
_FOUND_NUMBER = r"Found `\w+ = .*`\."
_COUNTS = r"Class counts should be a list of one non-negative whole number per class\."

MESSAGES: dict[str, dict[type[Exception], list[str]]] = {
    "numbers": {
        TypeError: [
            rf"Parameter {_NAME} should be an integer (>= -?\d+|in \[-?\d+, \d+\])\. Found `\w+ = .*` of type \w+\.",
            rf"Parameter {_NAME} should be a finite number{_BOUNDS}\. Found `\w+ = .*` of type \w+\.",
            rf"Parameter {_NAME} should be a list of (numbers|integers)\. Found \w+: .*\.",
        ],
        ValueError: [
            rf"Parameter {_NAME} should be an integer (>= -?\d+|in \[-?\d+, \d+\])\. {_FOUND_NUMBER}",
            rf"Parameter {_NAME} should be an integer of 64 bits\. {_FOUND_NUMBER}",
            rf"Parameter {_NAME} should be a finite number{_BOUNDS}\. {_FOUND_NUMBER}",
            rf"Parameter {_NAME} should be (in \[1e-30, 1e30\]|of at most 1e30 in size), as float32 holds little "
            rf"more\. {_FOUND_NUMBER}",
            rf"Parameter {_NAME} should be one of ('\w+'(, )?)+\. {_FOUND_NUMBER}",
            r"Parameter `num_(classes|samples)` should be at most 10\*\*[68]\. Found `num_\w+ = \d+`\.",
        ],
    },
    "number of guesses": {
        ValueError: [
            r"Parameter `k` should be in \[1, C\), as the loss compares with the \(k \+ 1\)-th largest of C logits\. "
            r"Found `k = \d+` with `C = \d+`\.",
            r"Parameter `k` should be in \[1, C\), as K of the C - 1 other classes share the mass\. "
            r"Found `k = \d+` with `C = \d+`\.",
            r"Parameter `k` should be in \[1, C\), as the label is always among C guesses\. "
            r"Found `k = \d+` with `C = \d+`\.",
            r"Parameter `k` should be in \[1, C\), as the entries of the mask are below 1\. "
            r"Found `k = \d+` with `C = \d+`\.",
            r"Parameter `(k|max_k)` should be in \[1, C\]\. Found `\w+ = \d+` with `C = (\d+|None)`\.",
            r"Parameter `k` should be in \[1, C[\])] for `variant = \"\w+\"`\. Found `k = \d+` with `C = \d+`\.",
            r"Parameter `k` should be in \[1, max_k\]\. Found `k = \d+` with `max_k = \d+`\.",
            r"Parameter `max_k` should be >= `k`\. Found `max_k = \d+` with `k = \d+`\.",
            r"Parameter `ks` should hold at least one K\. Found none\.",
            r"Parameter `num_candidates` should be above k, or None for all classes\. "
            r"Found `num_candidates = \d+` with `k = \d+`\.",
            r"Parameter `p_k` should hold k = \d+ numbers >= 0 of sum 1\. Found \[.*\]\.",
            r"Parameter `k` should be that of the loss\. Found `k = .*` with .*\.",
        ],
    },
    "logits": {
        TypeError: [
            r"Argument `logits` should be a tensor \[\.\.\., C\]\. Found \w+\.",
            r"Argument `logits` should have a floating point dtype( of 16 to 64 bits)?\. Found torch\.\w+\.",
            r"Argument `logits` should be a dense tensor\. Found the layout torch\.\w+\.",
        ],
        ValueError: [
            rf"Argument `logits` should have shape \[\.\.\., C\] with at least one class\. Found {_SHAPE}\.",
            rf"Argument `logits` should have `num_classes = \d+` scores in the last dimension\. Found shape {_SHAPE}\.",
        ],
    },
    "targets": {
        TypeError: [
            r"Argument `targets` should be a tensor of class indices \[\.\.\.\]\. Found \w+\.",
            r"Argument `targets` should have an integer or floating point dtype\. Found torch\.\w+\.",
            r"Argument `targets` should have a floating point dtype of 16 to 64 bits\. Found torch\.\w+\.",
            r"Argument `targets` should be a dense tensor\. Found the layout torch\.\w+\.",
            r"Argument `targets` should hold class indices of an integer dtype; soft labels are not defined here\. "
            r"Found torch\.\w+\. One-hot targets become indices by `targets\.argmax\(-1\)`\.",
        ],
        ValueError: [
            rf"Argument `targets` of a floating point dtype should hold soft labels of the shape of the logits "
            rf"{_SHAPE}\. Found {_SHAPE} of torch\.\w+; class indices need an integer dtype\.",
            rf"Argument `targets` of class indices should have the shape of the logits without the last dimension, "
            rf"{_SHAPE}\. Found {_SHAPE} with logits of {_SHAPE}\.",
            r"Argument `targets` should hold class indices in \[0, C\)( or `ignore_index = -?\d+`)?\. "
            r"Found -?\d+ with `C = \d+`\.",
        ],
    },
    "one number per class": {
        TypeError: [
            rf"Parameter {_NAME} should be a tensor of one real number per class\. Found [\w.]+\.",
            r"Parameter `weight` should hold one finite number >= 0 per class\. Found (torch\.\w+|\w+: .*)\.",
        ],
        ValueError: [
            rf"Parameter {_NAME} should have one entry per class, shape \[\d+\]\. Found {_SHAPE} with logits of "
            rf"{_SHAPE}\.",
            rf"Parameter `weight` should hold one finite number >= 0 per class\. Found shape {_SHAPE}: .*\.",
        ],
    },
    "class counts": {
        TypeError: [rf"{_COUNTS} Found (torch\.\w+|\w+: .*)\."],
        ValueError: [
            rf"{_COUNTS} Found shape {_SHAPE}\.",
            rf"{_COUNTS} Found \S+ for class \d+\.",
            rf"{_COUNTS} At least one should be positive\. Found \d+ zeros\.",
            rf"{_COUNTS} Found \d+ counts for \d+ classes\.",
            r"Every class should have a training sample where its count sets a margin, weight or prior\. "
            r"Found none for \d+ of \d+ classes: [\d, .]+\. Counting them as one is `zero_counts=\"clamp\"`\.",
            r"Class counts should be given as `class_counts` or by `bind_class_counts\(counts\)` before the accuracy "
            r"of a group is computed\. Found none for the group '\w+'\.",
            r"Class counts should be one per class\. Found \d+ counts for \d+ classes\.",
            r"Parameter `few` should be at most `many \+ 1`\. Found `few = \d+` with `many = \d+`\.",
        ],
        RuntimeError: [
            r"\w+ should know the training counts of the classes before it is called\. Found none: add the callback "
            r"ClassFrequencies \(TopKMixin does so by itself\), or call `loss\.bind_class_counts\(counts\)`\.",
        ],
    },
    "labels": {
        TypeError: [r"Argument `labels` should hold integer class indices\. Found (torch\.\w+|\w+: .*)\."],
        ValueError: [
            r"Argument `labels` should hold at least one class index\. Found none\.",
            r"Argument `labels` should hold class indices in \[0, \d+\)\. Found -?\d+\.",
        ],
    },
    "other tensors": {
        TypeError: [
            rf"Argument {_NAME} should be a floating point tensor of 16 to 64 bits\. Found [\w.]+\.",
            rf"Argument {_NAME} should be a tensor of dtype int64\. Found [\w.]+\.",
            r"Argument `noise` should be a floating point tensor\. Found [\w.]+\.",
            r"Argument `features` should have the dtype of the weights, torch\.\w+\. Found torch\.\w+\.",
            r"Parameter `generator` should be a torch\.Generator\. Found \w+\.",
            r"STk should be given one of `k` and `fraction`\. Found `k = .*`, `fraction = .*`\.",
        ],
        ValueError: [
            rf"Argument {_NAME} should have shape \[[\d, L']*\] for logits of {_SHAPE}\. Found {_SHAPE}\.",
            rf"Argument `labels` should hold one or all classes, shape \[N, 1\] or \[N, \d+\]\. Found {_SHAPE}\.",
            rf"Argument `values` should have shape \[n\]\. Found {_SHAPE}\.",
            rf"Argument `weights` should have the shape of the values, {_SHAPE}\. Found {_SHAPE}\.",
            rf"Argument `noise` should have shape \[B, C\] or \[\.\.\., B, C\] for logits of {_SHAPE}\. "
            rf"Found {_SHAPE}\.",
            rf"Argument `features` should have shape \[\.\.\., \d+\]\. Found {_SHAPE}\.",
            r"Argument `histogram` should be a tensor of shape \[C, max_k \+ 1\]\. Found .*\.",
            r"Argument `mask` should be a bool tensor of shape \[\d+\]\. Found .*\.",
            rf"Parameter `dim` should be a dimension of the values\. Found -?\d+ with {_SHAPE}\.",
        ],
    },
    "losses and operators by name": {
        TypeError: [
            r"Parameter `loss` should be a name, a mapping with `class_path`, a loss class or a loss module\. "
            r"Found .* of type \w+\.",
            r"Parameter `init_args` should be a mapping from names of arguments to values\. Found .*\.",
            r"\w+ is a base class and cannot be made\. Found it in the place of one of its kinds\.",
            r"\w+ should be given its own arguments\. Found `.*`; near: [\w, ]+\.",
            r"\w+ should be given its required arguments\. Found no `\w+`\.",
            r"Parameter `loss` of \w+ should be a loss of lightning_topk\.losses\. Found .*\.",
            r"Parameter `loss` of \w+ should be a loss of single samples, not one over a batch\. Found .*\.",
            r"Parameter `operator` should be a \w+ of lightning_topk\.ops, or a mapping with its `class_path`\. "
            r"Found .* of type \w+\.",
        ],
        ValueError: [
            r"A loss as a mapping should have the keys `class_path` and `init_args`\. Found \[.*\]\.",
            r"Parameter `(loss|operator)` should name a class that can be imported\. Found .*: .*\.",
            r"Parameter `loss` should name a loss of lightning_topk\.losses\. Found .*; near: [\w, ]+\.",
            r"Class weights should be given to \w+, `weight=\.\.\.`, not to the loss in it\. Found .*\.",
            r"Parameter `variant` should be 'linear' with an operator whose mask can be 0 and so has no logarithm\. "
            r"Found `variant = 'log'` with .*\.",
        ],
    },
    "schedules and callbacks": {
        TypeError: [
            r"Parameter `schedule` should be a schedule of lightning_topk\.schedules\. Found .* of type \w+\.",
            r"Parameter `parameter` should be the name of a scalar of the loss\. Found .*\.",
            r"Parameter `get_targets` should be a function of a batch\. Found .*\.",
        ],
        ValueError: [
            r"A schedule without `length` needs the finite length of the run, total > 0\. Found `total = .*`\.",
            r"Parameter `milestones` should increase\. Found `milestones = .*`\.",
            r"Parameter `values` should have one entry more than `milestones`\. Found \d+ values for \d+ milestones\.",
            r"Parameter `get_targets` should come with `iterate=True`\. Found `iterate=False`\.",
        ],
    },
    # The values of indices are not read by operators, so as not to wait for a device: gathering reports them.
    "torch on indices of operators": {
        RuntimeError: [r"index -?\d+ is out of bounds for dimension \d+ with size \d+"],
        IndexError: [r"index -?\d+ is out of bounds for dimension \d+ with size \d+"],
    },
}


def is_in_the_list(error: Exception, *groups: str) -> bool:
    """Tell whether an error is of exactly one of the kinds, with one of the messages, of these groups, or of any."""
    known = [
        pattern
        for group in groups or (name for name in MESSAGES if not name.startswith("torch"))
        for pattern in MESSAGES[group].get(type(error), [])
    ]
    return any(re.fullmatch(pattern, str(error), re.DOTALL) for pattern in known)
