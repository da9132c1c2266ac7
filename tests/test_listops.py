"""ListOps against independent oracles: a parser of the written text, and the recursive rule drawn tree by tree."""

import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icecore.errors import ConfigError, DataError, StorageError
from icecore.tasks import listops
from icecore.tasks.listops import (
    CLOSE,
    OPEN,
    VOCABULARY,
    Expressions,
    ListOps,
    build_listops,
    evaluate,
    generate,
    load_generated,
    read_tsv,
    to_text,
    write_tsv,
)
from icecore.tasks.task import TaskRequest


def encode(text: str) -> bytes:
    return bytes(VOCABULARY.index(word) + 1 for word in text.split() if word not in "()")


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


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ICECORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ICECORE_DATA", raising=False)
    return tmp_path / "cache" / "listops"


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
    # the same on every machine: python -c "from icecore.tasks.listops import *; print(generate(40).digest())"
    assert few.digest() == "490fcb6c536ca6f4f60b4e41436a5f069f011619cfa2494e9c4dae4fcc2b89b7"


@pytest.mark.parametrize("text", ["", "[MIN ]", "1 2", "[MIN 1 2", "1 ]", "[MIN 1 2 ] ]"])
def test_only_whole_expressions_are_evaluated(text):
    with pytest.raises(DataError, match=r"expected (one whole|token ids of a) ListOps expression"):
        evaluate(encode(text))


def test_padding_is_not_evaluated():
    with pytest.raises(DataError, match="found 0 out of place"):
        evaluate(encode("[MIN 1 2 ]") + b"\0")


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
            r"line 2: expected one whole expression, found 2 operators and 1 '\]'",
        ),
        ("Source\tTarget\n1 2\t1\n", "line 2: expected one whole expression, found 0 operators"),
        ("Source\tTarget\n\t1\n", "line 2: expected one whole expression"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "basic_val.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_tsv(path)


def test_long_range_arenas_files_are_preferred(drawn, cache, tmp_path):
    folder = tmp_path / "data" / "lra_release" / "listops-1000"
    folder.mkdir(parents=True)
    request = TaskRequest({"train": 5}, data_dir=str(tmp_path / "data"))
    for i, split in enumerate(["train", "val"]):
        write_tsv(folder / f"basic_{split}.tsv", drawn.part(10 * i, 10 * i + 10))
    with pytest.raises(DataError, match=r"found basic_train.tsv but not basic_test.tsv; put all three there"):
        build_listops(request)
    write_tsv(folder / "basic_test.tsv", drawn.part(20, 30))
    task = build_listops(request)
    assert {split: task.split_size(split) for split in ("train", "val", "test")} == {"train": 5, "val": 10, "test": 10}
    assert task.data["source"] == "listops-1000/basic_*.tsv"
    assert task.data["test_sha256"] == drawn.part(20, 30).digest()
    assert not cache.exists()


def test_cache_holds_what_was_drawn(drawn, cache, monkeypatch):
    assert load_generated(20) == drawn.part(0, 20)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    monkeypatch.setattr(listops, "generate", None)  # a second call must not draw
    assert load_generated(20) == drawn.part(0, 20)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_cache_is_drawn_again(drawn, cache, damage):
    load_generated(20)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:middle],
        "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "text": b"not an archive",
    }
    path.write_bytes(damaged[damage])
    assert load_generated(20) == drawn.part(0, 20)
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ICECORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"cannot be written .*name another folder with ICECORE_CACHE"):
        load_generated(1)


# --- the task ---


def test_task_gives_back_the_expressions(cache):
    task = build_listops(TaskRequest({"train": "12", "val": 6, "test": 8}))
    assert (task.spec.kind, task.spec.length, task.spec.size, task.spec.outputs) == ("discrete", 2000, 16, 10)
    seen = set()
    for split, size in [("train", 12), ("val", 6), ("test", 8)]:
        batches = list(task.batches(split, batch_size=5))
        assert sum(map(len, batches)) == task.split_size(split) == task.data[f"{split}_examples"] == size
        for batch in batches:
            assert batch.tokens.dtype == batch.targets.dtype == torch.int64
            assert batch.lengths is not None
            assert batch.tokens.shape[1] == batch.lengths.max()
            for row, target, length in zip(batch.tokens, batch.targets.tolist(), batch.lengths.tolist(), strict=True):
                assert not row[length:].any()
                source = bytes(row[:length].tolist())
                assert evaluate(source) == target
                seen.add(source)
    assert len(seen) == 26


def test_val_and_test_do_not_depend_on_the_size_of_train(cache):
    small, large = (build_listops(TaskRequest({"train": n, "val": 4, "test": 4})).data for n in (3, 9))
    for split in ("val", "test"):
        assert small[f"{split}_sha256"] == large[f"{split}_sha256"]
    assert small["train_sha256"] != large["train_sha256"]


def test_long_expressions_lose_their_end(drawn):
    part = drawn.part(0, 4)
    batch = next(ListOps({"train": part}, length=100).batches("train", 4))
    assert batch.lengths is not None
    assert batch.lengths.tolist() == [100] * 4
    assert [bytes(row.tolist()) for row in batch.tokens] == [source[:100] for source in part.sources]


def test_published_tokens_have_no_closers(drawn, cache):
    task = build_listops(TaskRequest({"train": 6, "val": 1, "test": 1}, faults=frozenset({"listops-tokens"})))
    assert task.spec.length == 512
    batch = next(task.batches("train", 6))
    assert not (batch.tokens == CLOSE).any()
    for row, source in zip(batch.tokens, drawn.sources[2:], strict=False):
        words = re.sub(r"[\[\]()]", " ", to_text(source)).split()[:512]  # what tfds' tokenizer leaves
        assert [VOCABULARY[token - 1].strip("[") for token in row.tolist() if token] == words


def test_the_order_of_training_examples_is_a_function_of_seed_and_step(drawn):
    task = ListOps({"train": drawn.part(0, 10)})
    packed = task.train_batch([3, 4], step=1, batch_size=4)
    alone = task.train_batch([4], step=1, batch_size=4)
    assert alone.lengths is not None
    width = alone.tokens.shape[1]
    assert torch.equal(packed.tokens[4:, :width], alone.tokens)
    assert not packed.tokens[4:, width:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trian": 5}, "unknown option of listops 'trian'; did you mean 'train'"),
        ({"val": 0}, "option val of listops: expected at least 1, found 0"),
        ({"length": "long"}, "option length of listops: expected int, found 'long'"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build_listops(TaskRequest(options))


def test_vocabulary_is_fixed():
    assert len(VOCABULARY) == 15
    assert all(a != b for a, b in pairwise(VOCABULARY))
    assert [VOCABULARY[i - 1] for i in (1, 10, 11, 14, 15)] == ["0", "9", "[MIN", "[SM", "]"]
