"""Turn the texts of an ``.npz`` file into TF-IDF features, for linear probes on texts.

    python benchmarks/text_features.py banking77.npz features.npz
    lightning-topk fit --config configs/quickstart.yaml --config configs/data/features.yaml --data.root .

The input has arrays ``text_train`` and ``y_train``, likewise ``text_test`` and if need be ``text_val``, and ``names``.
The output has ``x_train`` and so on in their place: float32 [N, D] with rows of length one. A feature is a word or a
pair of neighbouring words that occurs in at least ``--min_texts`` training texts, the ``--most`` most frequent of them.
Its value is (1 + log n) (1 + log((1 + N) / (1 + M))), with n its number in the text, and M the number of the N training
texts that have it. Words, counts and weights come from the training texts alone.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def terms(text: str) -> list[str]:
    """Return the words of a text in lower case, and its pairs of neighbouring words."""
    words = WORD.findall(text.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def vocabulary(texts: Iterable[str], min_texts: int, most: int) -> tuple[dict[str, int], np.ndarray]:
    """Return the place of each term, the most frequent first, and its weight."""
    texts = list(texts)
    frequency = Counter(term for text in texts for term in set(terms(text)))
    ranked = sorted((term for term in frequency if frequency[term] >= min_texts), key=lambda t: (-frequency[t], t))
    kept = ranked[:most]
    weights = 1 + np.log((1 + len(texts)) / (1 + np.array([frequency[term] for term in kept])))
    return {term: place for place, term in enumerate(kept)}, weights


def features(texts: Iterable[str], places: dict[str, int], weights: np.ndarray) -> np.ndarray:
    """Return the matrix [N, D] of float32; a text without any known term is a row of zeros."""
    texts = list(texts)
    matrix = np.zeros((len(texts), len(places)), dtype=np.float32)
    for row, text in zip(matrix, texts, strict=True):
        for term, count in Counter(terms(text)).items():
            if term in places:
                row[places[term]] = 1 + np.log(count)
    matrix *= weights.astype(np.float32)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help=".npz file with text_train, y_train, ...")
    parser.add_argument("output", help=".npz file to write")
    parser.add_argument("--min_texts", type=int, default=2)
    parser.add_argument("--most", type=int, default=4096)
    args = parser.parse_args()
    with np.load(args.input, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    places, weights = vocabulary(arrays["text_train"], args.min_texts, args.most)
    made = {key: array for key, array in arrays.items() if not key.startswith("text_")}
    for key in [key for key in arrays if key.startswith("text_")]:
        made[key.replace("text_", "x_")] = features(arrays[key], places, weights)
    np.savez_compressed(args.output, **made)
    shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in made.items() if key.startswith("x_"))
    print(f"{args.output}: {shapes}")


if __name__ == "__main__":
    main()
