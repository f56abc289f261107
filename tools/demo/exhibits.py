"""What a task's model does, to look at: a confusion matrix, images with answers, or a text that it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shared.examples import Examples

INK, WRONG = "#1f2933", "#b3261e"
SHOWN: Final = 12  # images
WRITTEN: Final = 240  # characters
TEMPERATURE: Final = 0.6
PROMPT: Final = "\nMy lord, I "

Labels = NDArray[np.integer[Any]]
Predict = Callable[[NDArray[np.int32]], NDArray[np.float32]]


def confusion(y: Labels, answers: Labels, classes: int) -> NDArray[np.int64]:
    """Return how often class i was taken for class j, int64[classes, classes]."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (y, answers), 1)
    return counts


def draw_confusion(path: Path, y: Labels, answers: Labels, classes: Sequence[str], title: str) -> None:
    """Write the confusion matrix as a PNG: a row per class, shares of that row as shades, counts as figures."""
    counts = confusion(y, answers, len(classes))
    figure = Figure(figsize=(6.4, 6), dpi=120, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.6 else INK
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("what the int8 model heard")
    axes.set_ylabel("what was said")
    axes.set_title(title, loc="left", fontsize=10)
    figure.savefig(path)


def draw_strip(path: Path, examples: Examples, answers: Labels, classes: Sequence[str], seed: int) -> None:
    """Write a PNG of some images f32[n, h, w, 1], drawn at random, each with the model's answer; wrong ones in red."""
    chosen = np.random.default_rng(seed).choice(len(examples), min(SHOWN, len(examples)), replace=False)
    figure = Figure(figsize=(1.25 * len(chosen), 1.7), dpi=120, layout="constrained")
    cells = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axes, row in zip(cells, chosen, strict=True):
        answer, truth = int(answers[row]), int(examples.y[row])
        axes.imshow(np.asarray(examples.x)[row, :, :, 0], cmap="gray_r", vmin=0, vmax=1)
        said = classes[answer] if answer == truth else f"{classes[answer]}\n(is {classes[truth]})"
        axes.set_title(said, fontsize=8, color=INK if answer == truth else WRONG)
        axes.set_axis_off()
    figure.savefig(path)


def write_text(predict: Predict, symbols: Sequence[str], length: int, prompt: str, count: int, seed: int) -> str:
    """Let a model continue a text, drawing each character from its probabilities, sharpened by TEMPERATURE.

    Args:
        predict: symbols int32[1, length] to logits f32[1, length, symbols] of what follows each.
        symbols: one-character strings; the prompt has no others.
        length: how many characters the model reads.
        prompt: where the text begins; not empty.
        count: how many characters are written.
        seed: of the draws; the same seed gives the same text.
    """
    generator = np.random.default_rng(seed)
    numbers = [symbols.index(character) for character in prompt]
    for _ in range(count):
        seen = numbers[-length:]
        x = np.zeros((1, length), np.int32)
        x[0, : len(seen)] = seen  # what comes after a character does not change what the model says of it
        logits = predict(x)[0, len(seen) - 1].astype(np.float64) / TEMPERATURE
        shares = np.exp(logits - logits.max())
        numbers.append(int(generator.choice(len(symbols), p=shares / shares.sum())))
    return "".join(symbols[number] for number in numbers[len(prompt) :])
