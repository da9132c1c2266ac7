"""The ListOps task: the source of its expressions, its cache, splits, tokens and options."""

import re
from pathlib import Path

import pytest
import torch

from icecore.core.errors import ConfigError, DataError, StorageError
from icecore.tasks import listops
from icecore.tasks.entry import TaskRequest
from icecore.tasks.listops import ListOps, build_listops, load_generated
from icecore.tasks.listops_expressions import CLOSE, LISTOPS_VOCABULARY, Expressions, evaluate
from icecore.tasks.listops_generator import generate
from listops_tsv import to_text, write_tsv


@pytest.fixture(scope="module")
def drawn() -> Expressions:
    return generate(1500)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ICECORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ICECORE_DATA", raising=False)
    return tmp_path / "cache" / "listops"


# --- files and cache ---


def test_long_range_arenas_files_come_first(drawn, cache, tmp_path):
    folder = tmp_path / "data" / "lra_release" / "listops-1000"
    folder.mkdir(parents=True)
    request = TaskRequest({"train": 5}, data_dir=str(tmp_path / "data"))
    for i, split in enumerate(["train", "val"]):
        write_tsv(folder / f"basic_{split}.tsv", drawn.part(10 * i, 10 * i + 10))
    with pytest.raises(DataError, match=r"found basic_train.tsv but not basic_test.tsv\. Put all three files there"):
        build_listops(request)
    write_tsv(folder / "basic_test.tsv", drawn.part(20, 30))
    task = build_listops(request)
    assert {split: task.split_size(split) for split in ("train", "val", "test")} == {"train": 5, "val": 10, "test": 10}
    assert task.data["source"] == "listops-1000/basic_*.tsv"
    assert task.data["test_sha256"] == drawn.part(20, 30).digest()
    assert not cache.exists()


def test_the_cache_holds_the_generated_expressions(drawn, cache, monkeypatch):
    assert load_generated(20) == drawn.part(0, 20)
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    monkeypatch.setattr(listops, "generate", None)  # a second call must not generate
    assert load_generated(20) == drawn.part(0, 20)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_cache_is_generated_again(drawn, cache, damage):
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
    with pytest.raises(StorageError, match=r"cannot be written .*Name another folder with ICECORE_CACHE"):
        load_generated(1)


# --- the task ---


def test_the_batches_hold_the_expressions(cache):
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
        assert [LISTOPS_VOCABULARY[token - 1].strip("[") for token in row.tolist() if token] == words


def test_the_order_of_training_examples_is_a_function_of_seed_and_step(drawn):
    task = ListOps({"train": drawn.part(0, 10)})
    packed = task.train_batch([3, 4], step=1, batch_size=4)
    alone = task.train_batch([4], step=1, batch_size=4)
    assert alone.lengths is not None
    width = alone.tokens.shape[1]
    assert torch.equal(packed.tokens[4:, :width], alone.tokens)
    assert not packed.tokens[4:, width:].any()


def test_other_bounds_are_another_task(drawn, cache, tmp_path):
    for split in ("train", "val", "test"):  # Long Range Arena's files hold the usual trees only
        write_tsv(tmp_path / f"basic_{split}.tsv", drawn.part(0, 10))
    sizes = {"train": 12, "val": 4, "test": 4}
    task = build_listops(TaskRequest({**sizes, "shortest": "50", "longest": 200}, data_dir=str(tmp_path)))
    assert task.spec.length == 200
    assert task.data["source"] == "generated by Long Range Arena's basic rule, seed 0, but trees of 51 to 199 tokens"
    for split, size in sizes.items():
        (batch,) = task.batches(split, 20)
        assert batch.lengths is not None
        assert len(batch) == size
        for row, target, length in zip(batch.tokens, batch.targets.tolist(), batch.lengths.tolist(), strict=True):
            assert 50 < length < 200
            assert evaluate(bytes(row[:length].tolist())) == target
    cut = build_listops(TaskRequest({**sizes, "shortest": 50, "longest": 200, "length": 100}))
    assert cut.spec.length == 100
    assert [path.name for path in cache.iterdir()] == ["basic-v1-50-200-seed0-20.npz"]


def test_the_default_bounds_are_the_default_task(drawn, cache):
    sizes = {"train": 12, "val": 4, "test": 4}
    plain, named = (build_listops(TaskRequest(sizes | bounds)) for bounds in ({}, {"shortest": 500, "longest": 2000}))
    assert plain.data == named.data
    assert (plain.spec, plain.data["source"]) == (named.spec, "generated by Long Range Arena's basic rule, seed 0")
    assert [plain.data[f"{split}_sha256"] for split in ("test", "val", "train")] == [
        drawn.part(first, last).digest() for first, last in ((0, 4), (4, 8), (8, 20))
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trian": 5}, "Unknown option of listops 'trian'. Did you mean 'train'"),
        ({"val": 0}, "option val of listops: expected at least 1, found 0"),
        ({"length": "long"}, "option length of listops: expected int, found 'long'"),
        ({"shortest": 0}, "option shortest of listops: expected at least 1, found 0"),
        ({"longest": "x"}, "option longest of listops: expected int, found 'x'"),
        ({"shortest": 2000}, r"found shortest=2000 and longest=2000\. .* longest must be at least shortest \+ 2"),
        (
            {"shortest": 50, "longest": 51},
            r"found shortest=50 and longest=51\. .* must be at least shortest \+ 2",
        ),
        ({"shortest": 1, "longest": 5}, "more than 1 and less than 5 tokens are too rare: 400 of 100000 were found"),
    ],
)
def test_refused_options(cache, options, message):
    with pytest.raises(ConfigError, match=message):
        build_listops(TaskRequest(options))
    assert not cache.exists()
