"""ListOps expressions against oracles: a parser of the written text, and the recursive rule drawn tree by tree."""

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import ConfigError, DataError
from icecore.tasks.listops_expressions import CLOSE, LISTOPS_VOCABULARY, OPEN, Expressions, evaluate
from icecore.tasks.listops_files import read_tsv
from icecore.tasks.listops_generator import generate
from listops_tsv import to_text, write_tsv


def encode(text: str) -> bytes:
    return bytes(LISTOPS_VOCABULARY.index(word) + 1 for word in text.split() if word not in "()")


def value_of(text: str) -> int:
    """Value of an expression in Long Range Arena's notation, where `( a b )` applies a to b."""
    words = iter(text.split())

    def term() -> Any:
        word = next(words)
        if word != "(":
            return int(word) if word.isdigit() else word
        function, argument = term(), term()
        assert next(words) == ")"
        if argument != "]":
            return [*function, argument] if isinstance(function, list) else [function, argument]
        operator, *values = function
        if operator == "[MED":
            return int(np.median(values))
        return {"[MIN": min(values), "[MAX": max(values), "[SM": sum(values) % 10}[operator]

    value = term()
    assert next(words, None) is None
    return value


def draw_tree(rng: random.Random, depth: int = 1) -> list:
    """One tree by Long Range Arena's rule as a flat list of words, drawn recursively."""
    if depth == 10 or rng.random() >= 0.25:
        return [str(rng.randrange(10))]
    arguments = [word for _ in range(rng.randint(2, 10)) for word in draw_tree(rng, depth + 1)]
    return [rng.choice(["[MIN", "[MAX", "[MED", "[SM"]), *arguments, "]"]


def argument_counts(source: bytes) -> list[int]:
    counts, stack = [], [0]
    for token in source:
        if token == CLOSE:
            counts.append(stack.pop())
        else:
            stack[-1] += 1
            stack += [0] * (token >= OPEN)
    return counts


def depth_of(source: bytes) -> int:
    steps = np.array([(OPEN <= token < CLOSE) - (token == CLOSE) for token in source])
    return int(steps.cumsum().max())


@pytest.fixture(scope="module")
def drawn() -> Expressions:
    return generate(1500)


# --- the rule ---


def test_values_agree_with_a_parser_of_the_text(drawn):
    for source, target in zip(drawn.sources[:150], drawn.targets[:150], strict=True):
        assert target == value_of(to_text(source)) == evaluate(source)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("[MED 1 4 ]", 2),  # the median 2.5 is cut to an integer
        ("[MED 9 1 8 ]", 8),
        ("[MED 0 9 9 0 ]", 4),
        ("[SM 9 9 9 ]", 7),
        ("[SM 5 5 ]", 0),
        ("[MAX 2 [MIN 7 [SM 4 4 ] 9 ] 3 ]", 7),
    ],
)
def test_values_by_hand(text, value):
    assert evaluate(encode(text)) == value == value_of(to_text(encode(text)))


def test_long_range_arenas_notation():
    assert to_text(encode("[MAX 2 9 [SM 1 2 ] ]")) == "( ( ( ( [MAX 2 ) 9 ) ( ( ( [SM 1 ) 2 ) ] ) ) ] )"


def test_lengths_depths_and_uniqueness(drawn):
    lengths = [len(source) for source in drawn.sources]
    assert len(drawn) == len(set(drawn.sources)) == 1500
    assert min(lengths) > 500
    assert max(lengths) < 2000
    # a node at depth 10 is a digit, so at most nine operators enclose one
    assert max(map(depth_of, drawn.sources[:300])) == 9
    counts = {count for source in drawn.sources[:50] for count in argument_counts(source)}
    assert counts == set(range(2, 11))


def test_symbols_are_uniform(drawn):
    # about 1,200,000 digits and 190,000 operators: standard errors are 0.0003 and 0.001
    tokens = np.bincount(np.frombuffer(b"".join(drawn.sources), np.uint8), minlength=16)
    assert tokens[0] == 0
    np.testing.assert_allclose(tokens[1:11] / tokens[1:11].sum(), 0.1, atol=0.0015)
    np.testing.assert_allclose(tokens[11:15] / tokens[11:15].sum(), 0.25, atol=0.005)
    assert tokens[CLOSE] == tokens[11:15].sum()


def test_distribution_agrees_with_trees_drawn_one_by_one(drawn):
    rng = random.Random(0)
    trees = (draw_tree(rng) for _ in range(4000))
    oracle = [tree for tree in trees if 500 < len(tree) < 2000]
    ours, theirs = ([len(source) for source in sources] for sources in (drawn.sources, oracle))
    # Kolmogorov-Smirnov: a distance of 1.63 / sqrt(effective size) is exceeded in 1 % of pairs of samples
    grid = np.arange(500, 2000, 10)
    below_ours, below_theirs = (np.searchsorted(np.sort(x), grid) / len(x) for x in (ours, theirs))
    assert np.abs(below_ours - below_theirs).max() < 1.63 / np.sqrt(len(ours) * len(theirs) / (len(ours) + len(theirs)))
    shares = []
    for sources in (drawn.sources[:300], [encode(" ".join(tree)) for tree in oracle[:300]]):
        counts = Counter(count for source in sources for count in argument_counts(source))
        shares.append(np.array([counts[k] for k in range(2, 11)]) / counts.total())
    np.testing.assert_allclose(shares[0], shares[1], atol=0.01)
    values = np.bincount(drawn.targets, minlength=10) / len(drawn)
    expected = np.bincount([evaluate(encode(" ".join(tree))) for tree in oracle], minlength=10) / len(oracle)
    np.testing.assert_allclose(values, expected, atol=0.07)


def test_seeds_fix_the_data(drawn):
    calls = []
    few = generate(40, progress=lambda done, total: calls.append((done, total)))
    assert few == drawn.part(0, 40)
    assert calls[-1] == (40, 40)
    assert not set(generate(40, seed=1).sources) & set(few.sources)
    # the same on every machine: python -c "from icecore.tasks.expressions import *; print(generate(40).digest())"
    assert few.digest() == "490fcb6c536ca6f4f60b4e41436a5f069f011619cfa2494e9c4dae4fcc2b89b7"


# --- other bounds ---


@pytest.mark.parametrize(("shortest", "longest"), [(20, 60), (50, 200), (900, 3000)])
def test_trees_keep_other_bounds_and_their_values(shortest: int, longest: int):
    some = generate(200, shortest=shortest, longest=longest)
    assert len(some) == len(set(some.sources)) == 200
    assert all(shortest < len(source) < longest for source in some.sources)
    for source, target in zip(some.sources, some.targets, strict=True):
        assert target == value_of(to_text(source)) == evaluate(source)
    assert some.part(0, 50) == generate(50, shortest=shortest, longest=longest)


def test_bounds_choose_among_the_same_trees():
    rng = random.Random(0)
    oracle = [len(tree) for tree in (draw_tree(rng) for _ in range(8000)) if 20 < len(tree) < 200]
    ours = [len(source) for source in generate(3000, shortest=20, longest=200).sources]
    below_ours, below_oracle = (np.searchsorted(np.sort(x), np.arange(20, 200)) / len(x) for x in (ours, oracle))
    bound = 1.63 / np.sqrt(len(ours) * len(oracle) / (len(ours) + len(oracle)))
    assert np.abs(below_ours - below_oracle).max() < bound


def test_the_default_bounds_change_nothing(drawn):
    assert generate(40, shortest=500, longest=2000) == drawn.part(0, 40)
    # The same on every machine, like the default ones.
    digest = "380fa6672a2f8eb044432ae97c2466bcf1b8cba3d571da6251ad076d28c5ed0b"
    assert generate(40, shortest=50, longest=200).digest() == digest


def test_every_tree_of_a_length_can_be_drawn():
    # four tokens: an operator of two digits
    pairs = {
        encode(f"{opener} {a} {b} ]") for opener in LISTOPS_VOCABULARY[10:14] for a in range(10) for b in range(10)
    }
    assert set(generate(400, shortest=1, longest=5).sources) == pairs


@pytest.mark.parametrize(
    ("count", "shortest", "longest", "message"),
    [
        (401, 1, 5, "more than 1 and less than 5 tokens are too rare: 400 of 401 were found"),
        (
            1,
            1,
            4,
            "0 of 1 were found, 0 of them among the last 819200 trees. Set shortest and longest further",
        ),
        (1, 200, 50, "more than 200 and less than 50 tokens are too rare"),
    ],
)
def test_generation_stops_if_trees_are_too_rare(count: int, shortest: int, longest: int, message: str):
    with pytest.raises(ConfigError, match=message):
        generate(count, shortest=shortest, longest=longest)


# --- one expression ---


@pytest.mark.parametrize("text", ["", "[MIN ]", "1 2", "[MIN 1 2", "1 ]", "[MIN 1 2 ] ]"])
def test_only_whole_expressions_are_evaluated(text):
    with pytest.raises(DataError, match=r"expected (one complete|token ids of a) ListOps expression"):
        evaluate(encode(text))


def test_padding_is_not_evaluated():
    with pytest.raises(DataError, match="found 0 in a wrong position"):
        evaluate(encode("[MIN 1 2 ]") + b"\0")


def test_vocabulary_is_fixed():
    assert len(LISTOPS_VOCABULARY) == 15
    assert all(a != b for a, b in pairwise(LISTOPS_VOCABULARY))
    assert [LISTOPS_VOCABULARY[i - 1] for i in (1, 10, 11, 14, 15)] == ["0", "9", "[MIN", "[SM", "]"]


# --- files ---


def test_writing_and_reading_is_the_identity(drawn, tmp_path):
    some = drawn.part(0, 30)
    path = tmp_path / "basic_train.tsv"
    write_tsv(path, some)
    assert read_tsv(path) == some
    assert read_tsv(path, limit=7) == some.part(0, 7)
    assert path.read_bytes().startswith(b"Source\tTarget\r\n( ( ")
    path.write_bytes(path.read_bytes().translate(None, b"()\r"))
    assert read_tsv(path) == some


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Text\tTarget\n7\t7\n", r"line 1: expected the header 'Source<tab>Target', found 'Text\\tTarget'"),
        ("", "line 1: expected the header 'Source<tab>Target', found ''"),
        ("Source\tTarget\n", "basic_val.tsv: expected expressions after the header, found none"),
        ("Source\tTarget\n7\t7\n[FIRST 1 2 ]\t1\n", r"line 3: expected tokens among 0 1 .* found '\[FIRST'"),
        ("Source\tTarget\n[MIN 10 2 ]\t1\n", "line 2: expected tokens among .* found '10'"),
        ("Source\tTarget\n7\t7\n7\t12\n", "line 3: expected a target of one digit, found '12'"),
        ("Source\tTarget\n7\t\n", "line 2: expected a target of one digit, found ''"),
        ("Source\tTarget\n7\t7\n( ( ( [MIN 1 ) 2", r"line 3: expected a source, one tab and a target, found 1 field"),
        (
            "Source\tTarget\n[MIN 1 [MAX 2 3 ]\t1\n",
            r"line 2: expected one complete expression, found 2 operators and 1 '\]'",
        ),
        ("Source\tTarget\n1 2\t1\n", "line 2: expected one complete expression, found 0 operators"),
        ("Source\tTarget\n\t1\n", "line 2: expected one complete expression"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "basic_val.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_tsv(path)
