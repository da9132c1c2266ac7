"""The claims of the paper and of its rebuttal as values: what is compared with what, and which difference counts.

`icecore.report.verdicts` decides them from results, by a rule that is written in docs/method.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from icecore.paper.paper_tables import STUDIES

#: "better": the first row is better by at least the margin. "as good": it is not worse by as much as the margin
Direction = Literal["better", "as good"]
#: "accuracy" in percentage points, "attention" as well; "examples" that a level of accuracy takes, as a ratio
Measure = Literal["accuracy", "attention", "examples"]

#: percentage points by which the first row must be better, if a claim says no more than that it is better
POINT = 1.0
#: points by which a row may be behind that is said to be as good
FEW_POINTS = 2.0
#: points of "nearly as good" and of "far better"
MANY_POINTS = 5.0
#: ratio of examples from which on they count as saved
SAVED_RATIO = 1.25


@dataclass(frozen=True)
class RowPart:
    """One number of a row of a table.

    part  "test" or "train" accuracy; of attention, a part of the quantity "attention"
    """

    study: str
    row: str
    part: str = "test"

    @property
    def label(self) -> str:
        """What the table calls the row."""
        return STUDIES[self.study].rows[self.row].label


@dataclass(frozen=True)
class ComparedRows:
    """Two rows that a claim compares, and the columns in which it does. `label` tells several comparisons apart."""

    first: RowPart
    second: RowPart
    columns: tuple[str, ...]
    label: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim about differences between rows of tables.

    statement     what is claimed, in one sentence
    source        where it is claimed
    rows          what is compared; the effect is the first row minus the second, or how many times the examples of
                  the first one the second one needs
    direction     whether the first row is claimed to be better, or to be as good
    margin        the smallest difference that counts, in percentage points, or as a ratio of examples
    contradicted  what would contradict the claim
    """

    name: str
    statement: str
    source: str
    rows: tuple[ComparedRows, ...]
    direction: Direction
    margin: float
    contradicted: str
    measure: Measure = "accuracy"


def _compare(
    study: str, first: str, second: str, columns: Sequence[str] = (), label: str = "", parts: tuple[str, str] = ("", "")
) -> ComparedRows:
    """Two rows of a study, in all of its columns unless some are named."""
    first_part, second_part = (part or "test" for part in parts)
    pair = RowPart(study, first, first_part), RowPart(study, second, second_part)
    return ComparedRows(*pair, tuple(columns or STUDIES[study].columns), label)


_LU, _ROTHERMEL = "Lu et al. 2021", "Rothermel et al. 2021"
#: sets of rows that differ in the body's weights
_BODIES = ("pretrained", "random")

#: the most important ones first
CLAIMS: tuple[Claim, ...] = (
    Claim(
        "language-beats-random",
        "A frozen body that was pretrained on language is better than a random one.",
        f"{_LU}, Table 2",
        (_compare("table2", "pretrained", "random"),),
        "better",
        POINT,
        "the random body is as good, to within a point",
    ),
    Claim(
        "body-beats-none",
        "A frozen body that was pretrained on language is better than no body at all.",
        "not claimed in the paper, but asked by its readers",
        (_compare("table2", "pretrained", "none"),),
        "better",
        POINT,
        "a linear probe on the raw input is as good, to within a point",
    ),
    Claim(
        "language-beats-random-refitted",
        "A frozen body that was pretrained on language is better than a random one, if output layers are solved in "
        "closed form.",
        "our control: an output layer is trained sooner on some features than on others",
        (_compare("refit", "pretrained-refitted", "random-refitted"),),
        "better",
        POINT,
        "the random body is as good, to within a point",
    ),
    Claim(
        "language-is-special",
        "Pretraining on language is better than pretraining on brackets, automata or antibodies.",
        f"{_LU}, Section 3.2, with rivals of ours; brackets and automata are not learned to the end at the budget "
        "cpu, and bit memory has a claim of its own",
        (
            _compare("table2", "pretrained", "dyck", label="Dyck"),
            _compare("table2", "pretrained", "nca", label="automata"),
            _compare("table2", "pretrained", "antibodies", label="antibodies"),
        ),
        "better",
        POINT,
        "a body that never saw language is as good, to within a point",
    ),
    Claim(
        "statistics-suffice",
        "Random weights with the means and deviations of the pretrained ones are nearly as good as these.",
        f"{_LU}, Table 9",
        (_compare("table9", "statistics", "pretrained"),),
        "as good",
        MANY_POINTS,
        "the pretrained weights themselves are better by five points or more",
    ),
    Claim(
        "frozen-as-good-as-trained",
        "A frozen language model is as good as a transformer of its size that is trained completely.",
        f"{_LU}, Table 1",
        (_compare("table1", "frozen", "full"),),
        "as good",
        FEW_POINTS,
        "training everything is better by two points or more",
    ),
    Claim(
        "rebuttal-pretrained-beats-random",
        "Each at its best learning rate, a frozen pretrained body is better than a frozen random one.",
        _ROTHERMEL,
        (_compare("rebuttal", "frozen-pretrained", "frozen-random"),),
        "better",
        POINT,
        "the random body is as good, to within a point",
    ),
    Claim(
        "rebuttal-trained-beats-frozen",
        "Each at its best learning rate, a body that is trained completely is better than a frozen one.",
        _ROTHERMEL,
        tuple(_compare("rebuttal", f"unfrozen-{body}", f"frozen-{body}", label=body) for body in _BODIES),
        "better",
        POINT,
        "the frozen body is as good, to within a point",
    ),
    Claim(
        "random-lstm-is-far-worse",
        "A random frozen transformer is far better than a random frozen LSTM.",
        f"{_LU}, Table 3",
        (
            _compare("table3", "random", "lstm", label="LSTM"),
            _compare("table3", "random", "lstm-star", label="LSTM*"),
            _compare("table3", "random", "lstm-matched", label="matched LSTM"),
        ),
        "better",
        MANY_POINTS,
        "the LSTM is less than five points behind, or ahead",
    ),
    Claim(
        "pretraining-saves-examples",
        "A pretrained body needs fewer training examples than a random one to the same accuracy.",
        f"{_LU}, Table 6",
        (_compare("table6", "pretrained", "random"),),
        "better",
        SAVED_RATIO,
        "the random body needs less than 1.25 times the examples",
        "examples",
    ),
    Claim(
        "attention-finds-the-bits",
        "On bit XOR, a head of a pretrained body attends to the bit that an output needs.",
        f"{_LU}, Section 3.5",
        (_compare("attention", "pretrained", "pretrained", parts=("first", "uniform")),),
        "better",
        MANY_POINTS,
        "no head gives the first string's bit five points more than uniform attention gives both bits together",
        "attention",
    ),
    Claim(
        "bit-memory-nearly-as-good",
        "A body that was pretrained on bit memory is nearly as good as one that was pretrained on language.",
        f"{_LU}, Table 2",
        (_compare("table2", "bit-memory", "pretrained"),),
        "as good",
        MANY_POINTS,
        "language is better by five points or more",
    ),
    Claim(
        "images-nearly-as-good",
        "A body that was pretrained on images is nearly as good as one that was pretrained on language.",
        f"{_LU}, Table 2",
        (_compare("table2", "vision", "pretrained"),),
        "as good",
        MANY_POINTS,
        "language is better by five points or more",
    ),
    Claim(
        "frozen-beats-trained-lstm",
        "A frozen language model is better than a trained LSTM, except on MNIST and CIFAR-10.",
        f"{_LU}, Table 1",
        (_compare("table1", "frozen", "lstm", ("bit-memory", "bit-xor", "listops", "cifar10-lra")),),
        "better",
        POINT,
        "the LSTM is as good, to within a point",
    ),
    Claim(
        "rebuttal-attention-can-be-trained",
        "At its best learning rate, training the attention of the body does not diverge, nor does it cost accuracy.",
        _ROTHERMEL,
        (
            _compare("table13", "attention", "frozen", label="attention"),
            _compare("table13", "both", "frozen", label="all blocks"),
        ),
        "as good",
        FEW_POINTS,
        "runs diverge at every rate, or the frozen body is better by two points or more",
    ),
    Claim(
        "feedforward-helps",
        "Training the feed-forward layers as well is better than keeping them frozen.",
        f"{_LU}, Tables 13 and 14",
        (
            _compare("table13", "feedforward", "frozen", label="pretrained"),
            _compare("table14", "feedforward", "frozen", label="random"),
        ),
        "better",
        POINT,
        "the frozen body is as good, to within a point",
    ),
    Claim(
        "norms-matter-pretrained",
        "On a pretrained body, training the norms is far better than training the output layer alone.",
        f"{_LU}, Table 15",
        (_compare("table15", "norms", "output"),),
        "better",
        MANY_POINTS,
        "the norms add less than five points",
    ),
    Claim(
        "norms-matter-random",
        "On a random body, training the norms is far better than training the output layer alone.",
        f"{_LU}, Table 21",
        (_compare("table21", "norms", "output"),),
        "better",
        MANY_POINTS,
        "the norms add less than five points",
    ),
    Claim(
        "input-and-positions-help",
        "Training the input layer and the positions as well is better than training norms and output layer alone.",
        f"{_LU}, Tables 15 and 21",
        (
            _compare("table15", "positions", "norms", label="pretrained"),
            _compare("table21", "positions", "norms", label="random"),
        ),
        "better",
        POINT,
        "they add less than a point",
    ),
    Claim(
        "norms-help",
        "Training the norms is better than leaving them as they are.",
        f"{_LU}, Table 16",
        tuple(_compare("table16", f"{body}-tuned", f"{body}-fixed", label=body) for body in _BODIES),
        "better",
        POINT,
        "norms that are left as they are do as well, to within a point",
    ),
    Claim(
        "output-alone-is-not-enough",
        "Training everything but the blocks is far better than training the output layer alone.",
        f"{_LU}, Table 10",
        (_compare("table10", "pretrained", "output"),),
        "better",
        MANY_POINTS,
        "the output layer alone comes within five points",
    ),
    Claim(
        "depth-helps",
        "Six layers of a frozen body are better than one.",
        f"{_LU}, Table 11",
        tuple(_compare("table11", f"layers-6-{body}", f"layers-1-{body}", label=body) for body in _BODIES),
        "better",
        POINT,
        "one layer is as good, to within a point",
    ),
    Claim(
        "few-layers-need-pretraining",
        "With two layers, a pretrained body is far better on ListOps than a random one.",
        f"{_LU}, Table 12",
        (_compare("table12", "layers-2-pretrained", "layers-2-random"),),
        "better",
        MANY_POINTS,
        "the random body comes within five points",
    ),
    Claim(
        "size-helps",
        "Larger frozen bodies are better.",
        f"{_LU}, Table 8",
        tuple(_compare("table8", f"{size}-pretrained", "base-pretrained", label=size) for size in ("medium", "large")),
        "better",
        POINT,
        "the smaller body is as good, to within a point",
    ),
    Claim(
        "frozen-bodies-underfit",
        "A frozen body underfits: it is as good on test examples as on training examples.",
        f"{_LU}, Table 7",
        (_compare("table7", "pretrained", "pretrained", parts=("test", "train")),),
        "as good",
        FEW_POINTS,
        "training accuracy is higher by two points or more",
    ),
    Claim(
        "other-language-models",
        "Other language models are nearly as good.",
        f"{_LU}, Table 17; the models are ours",
        (
            _compare("table2", "smollm2", "pretrained", label="SmolLM2"),
            _compare("table2", "mpnet", "pretrained", label="MPNet"),
        ),
        "as good",
        MANY_POINTS,
        "another language model is behind by five points or more",
    ),
    Claim(
        "bert-as-good-as-gpt2",
        "BERT is as good a body as GPT-2.",
        f"{_LU}, Table 17",
        (_compare("table17", "bert-base", "gpt2"),),
        "as good",
        FEW_POINTS,
        "GPT-2 is better by two points or more",
    ),
)
