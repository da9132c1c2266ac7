"""Remote homology: every file format gives the same examples; hostile and broken files are refused and named."""

import contextlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icecore.core.errors import ConfigError, DataError
from icecore.tasks import remote_homology
from icecore.tasks.entry import TaskRequest
from icecore.tasks.lmdb_files import LmdbFile
from icecore.tasks.pickles import unpickle
from icecore.tasks.protein_files import STEMS
from icecore.tasks.remote_homology import CLS, IUPAC_VOCABULARY, SEP, UNK, RemoteHomology, build_remote_homology, encode

Rows = dict[str, list[tuple[str, str, str]]]

# (id, fold, sequence); the names sort as a.1 < a.10 < b.2, and TAPE's integers are their ranks
ROWS: Rows = {
    "train": [("d1", "b.2", "MKV"), ("d2", "a.1", "acdxj"), ("d3", "a.10", "GGGGGGGGGG"), ("d4", "a.1", "W" * 40)],
    "val": [("v1", "a.10", "LLK"), ("v2", "a.1", "Y" * 30)],
    "test_fold": [("t1", "b.2", "PQ")],
    "test_superfamily": [("s1", "a.1", "NOP"), ("s2", "a.10", "RST")],
    "test_family": [("f1", "a.1", "HIK")],
}
#: stems of TAPE's own files
TAPE_STEMS = {split: "valid" if split == "val" else stems[-1] for split, stems in STEMS.items()}
CLASSES = {"a.1": 0, "a.10": 1, "b.2": 2}


def write_tsv(root: Path, rows: Rows) -> None:
    (root / "homology").mkdir()
    for split, part in rows.items():
        lines = ["id\tfold\tsuperfamily\tsequence", *(f"{i}\t{f}\t{f}.1\t{s}" for i, f, s in part)]
        (root / "homology" / f"{STEMS[split][0]}.tsv").write_text("\n".join(lines) + "\n")


def write_fasta(root: Path, rows: Rows) -> None:
    for split, part in rows.items():
        stem = STEMS[split][0]
        folded = "".join(f">{i} some words\n{s[:7]}\n{s[7:]}\n" for i, f, s in part)
        (root / f"{stem}.fasta").write_text(folded)
        (root / f"{stem}.labels.csv").write_text("ID,Fold\n" + "".join(f"{i},{f}\n" for i, f, s in reversed(part)))


def tape_items(part: list[tuple[str, str, str]]) -> list[dict]:
    return [
        {"primary": s, "fold_label": CLASSES[f], "superfamily_label": 0, "protein_length": len(s), "id": i}
        for i, f, s in part
    ]


def write_json(root: Path, rows: Rows) -> None:
    (root / "remote_homology").mkdir()
    for split, part in rows.items():
        (root / "remote_homology" / f"remote_homology_{TAPE_STEMS[split]}.json").write_text(
            json.dumps(tape_items(part))
        )


def write_lmdb(root: Path, rows: Rows) -> None:
    lmdb = pytest.importorskip("lmdb")
    (root / "remote_homology").mkdir()
    for split, part in rows.items():
        with (
            lmdb.open(str(root / "remote_homology" / f"remote_homology_{TAPE_STEMS[split]}.lmdb")) as store,
            store.begin(write=True) as txn,
        ):
            txn.put(b"num_examples", pickle.dumps(len(part)))
            for index, item in enumerate(tape_items(part)):
                item |= {"id": item["id"].encode(), "evolutionary": np.ones((2, 3), np.float32)}
                item["fold_label"] = np.int64(item["fold_label"])
                txn.put(str(index).encode(), pickle.dumps(item))


@pytest.fixture(autouse=True)
def _no_other_data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("ICECORE_DATA", raising=False)
    monkeypatch.setenv("ICECORE_CACHE", str(tmp_path_factory.mktemp("cache")))


def shuffled(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The order in which a split of so many is read, whatever its form."""
    return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


def build(root: Path, faults: tuple[str, ...] = (), **options: object) -> RemoteHomology:
    return build_remote_homology(TaskRequest(options, str(root), frozenset(faults)))


# ---------------------------------------------------------------------------------------- tokens


def test_vocabulary_is_tapes():
    known = {
        "<pad>": 0,
        "<mask>": 1,
        "<cls>": 2,
        "<sep>": 3,
        "<unk>": 4,
        "A": 5,
        "I": 13,
        "K": 14,
        "U": 24,
        "X": 27,
        "Z": 29,
    }
    assert len(IUPAC_VOCABULARY) == 30
    assert {token: IUPAC_VOCABULARY.index(token) for token in known} == known
    assert "J" not in IUPAC_VOCABULARY


def test_encode_wraps_folds_case_and_marks_unknown_letters():
    assert list(encode("AcJ*é", 1024)) == [CLS, 5, 7, UNK, UNK, UNK, SEP]


@pytest.mark.parametrize("residues", [1, 7, 8, 9, 100])
def test_encode_cuts_the_sequence_and_keeps_its_frame(residues: int):
    ids = encode("A" * residues, 10)
    assert len(ids) == min(residues + 2, 10)
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert set(ids[1:-1]) == {IUPAC_VOCABULARY.index("A")}


# ---------------------------------------------------------------------------------------- forms


@pytest.mark.parametrize("write", [write_tsv, write_fasta, write_json, write_lmdb])
def test_every_format_gives_the_same_examples(tmp_path: Path, write: Callable[[Path, Rows], None]):
    write(tmp_path, ROWS)
    task = build(tmp_path)
    assert task.data["format"] == write.__name__.removeprefix("write_")
    assert task.data["counts"] == {split: len(part) for split, part in ROWS.items()}
    for split, rows in ROWS.items():
        part = shuffled(rows)
        batch = next(task.batches(split, 100))
        assert batch.targets.tolist() == [CLASSES[fold] for _, fold, _ in part]
        assert batch.lengths is not None
        for row, length, (_, _, sequence) in zip(batch.tokens, batch.lengths, part, strict=True):
            letters = [IUPAC_VOCABULARY.index(c) if c in IUPAC_VOCABULARY else UNK for c in sequence.upper()]
            assert row.tolist() == [CLS, *letters, SEP] + [0] * (len(row) - len(letters) - 2)
            assert length == len(letters) + 2
    (tmp_path / "plain").mkdir()
    write_tsv(tmp_path / "plain", ROWS)
    assert task.fingerprint == build(tmp_path / "plain").fingerprint


def test_other_sequences_of_the_same_number_are_other_data(tmp_path: Path):
    fingerprints = []
    for name, residues in (("one", "MKV"), ("same", "MKV"), ("other", "MKI")):
        (tmp_path / name).mkdir()
        write_tsv(tmp_path / name, {**ROWS, "train": [("d1", "b.2", residues), *ROWS["train"][1:]]})
        fingerprints.append(build(tmp_path / name).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_one_label_file_may_serve_all_fasta_files(tmp_path: Path):
    write_fasta(tmp_path, ROWS)
    for file in tmp_path.glob("*.labels.csv"):
        file.unlink()
    lines = [f"{name}\t{fold}" for part in ROWS.values() for name, fold, _ in part]
    (tmp_path / "labels.tsv").write_text("\n".join(["id\tfold", *lines]))
    expected = [CLASSES[fold] for _, fold, _ in shuffled(ROWS["train"])]
    assert build(tmp_path).splits["train"].targets.tolist() == expected


def test_the_first_examples_of_a_sorted_file_are_a_fair_sample(tmp_path: Path):
    rows = [(f"d{number}", f"f{number // 20:02}", "MKV") for number in range(400)]
    write_tsv(tmp_path, dict.fromkeys(ROWS, rows))
    for part in build(tmp_path).splits.values():
        assert part.targets.sort().values.tolist() == [number // 20 for number in range(400)]
        assert len(part.targets[:100].unique()) > 15  # of 20; as the file has them 5


def test_tokens_are_int64_from_uint8_and_no_longer_than_the_batch_needs(tmp_path: Path):
    write_tsv(tmp_path, ROWS)
    task = build(tmp_path, length=20)
    assert task.splits["train"].inputs.dtype == torch.uint8
    batch = task.train_batch([0, 1], step=3, batch_size=3)
    assert batch.tokens.dtype == torch.int64
    assert batch.lengths is not None
    assert batch.tokens.shape == (6, int(batch.lengths.max()))
    assert batch.lengths.max() <= task.spec.length == 20
    assert task.data["longer_than_length"] == 2


def test_spec_and_splits(tmp_path: Path):
    write_tsv(tmp_path, ROWS)
    task = build(tmp_path)
    assert (task.spec.kind, task.spec.length, task.spec.size, task.spec.outputs) == ("discrete", 1024, 30, 1195)
    assert task.test_splits == ("test_fold", "test_superfamily", "test_family")
    assert task.data["share_of_tape"] == round(10 / 16292, 4)
    assert sum(remote_homology.TAPE_COUNTS.values()) == 16292


def test_published_protocol_drops_scales_and_scores_on_valid(tmp_path: Path):
    write_tsv(tmp_path, {split: ROWS[split] for split in ("train", "val")})  # it needs no hold-outs
    task = build(tmp_path, ("homology-valid",), length=20)
    assert task.test_splits == ("val",)
    assert task.spec.outputs == 1200
    assert (task.split_size("train"), task.split_size("val")) == (3, 1)
    logits = torch.zeros(2, 1, 1200)
    logits[0, 0, 7] = 1.0
    assert task.metric(logits, torch.tensor([7, 7])).tolist() == pytest.approx([0.9739, 0.0])


def test_fair_metric_is_plain_accuracy(tmp_path: Path):
    write_tsv(tmp_path, ROWS)
    logits = torch.eye(3, 1195)[:, None]
    assert build(tmp_path).metric(logits, torch.tensor([0, 1, 5])).tolist() == [1.0, 1.0, 0.0]


# ---------------------------------------------------------------------------------------- refusals


class _Hostile:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps(_Hostile()),
        pickle.dumps({"primary": [_Hostile()]}, protocol=0),
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        pickle.dumps(np.array([_Hostile()], dtype=object)),
    ],
)
def test_a_pickle_that_names_code_is_refused(payload: bytes, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(DataError, match=r"x\.lmdb record 3: not a pickle of plain data \(it names .*Fetch"):
        unpickle(payload, "x.lmdb record 3")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol_are_read(protocol: int):
    value = {"a": "x", "b": [1, 2.5, b"\xff", None], "c": {3}, "d": np.arange(6).reshape(2, 3), "e": np.float32(0.5)}
    read = unpickle(pickle.dumps(value, protocol), "here")
    np.testing.assert_array_equal(read.pop("d"), value.pop("d"))
    assert read == value


def test_a_cut_pickle_is_refused():
    with pytest.raises(DataError, match="record 0: not a pickle"):
        unpickle(pickle.dumps({"primary": "MKV"})[:-4], "record 0")


def replace(root: Path, file: str, old: str, new: str) -> None:
    path = root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("write", "file", "old", "new", "message"),
    [
        (
            write_tsv,
            "homology/valid.tsv",
            "a.10\t",
            "z.9\t",
            r"valid\.tsv line 2: 'v1' has fold 'z\.9', which does not occur in the train split",
        ),
        (
            write_tsv,
            "homology/train.tsv",
            "\tfold",
            "\tfould",
            r"columns id, fold, sequence, found id, fould, superfamily",
        ),
        (write_tsv, "homology/train.tsv", "\tMKV", "", r"train\.tsv line 2: expected 4 columns, found 3"),
        (write_tsv, "homology/train.tsv", "MKV", "", r"train\.tsv line 2: the sequence of 'd1' is empty"),
        (write_fasta, "train.fasta", ">d1", "d1", r"train\.fasta line 1: expected a line starting with '>', found 'd1"),
        (write_fasta, "valid.labels.csv", "v2", "v3", r"valid\.fasta line 4: no fold for 'v2' in valid\.labels\.csv"),
        (
            write_fasta,
            "train.labels.csv",
            "d3,",
            "d2,",
            r"train\.labels\.csv line 4: 'd2' has two folds, a\.10 and a\.1\.",
        ),
        (write_json, "remote_homology/remote_homology_train.json", "]", "", r"train\.json line 1: not JSON"),
        (
            write_json,
            "remote_homology/remote_homology_valid.json",
            "primary",
            "p",
            r"record 0: .* primary and fold_label, found p,",
        ),
        (
            write_json,
            "remote_homology/remote_homology_train.json",
            ": 2,",
            ": 1195,",
            r"record 0: fold '1195' .*0 to 1194",
        ),
        (
            write_json,
            "remote_homology/remote_homology_train.json",
            ": 2,",
            ": 2.5,",
            r"an integer of at least 0 as fold_label, found 2\.5",
        ),
    ],
)
def test_a_broken_file_is_named_with_the_line(
    tmp_path: Path, write: Callable[[Path, Rows], None], file: str, old: str, new: str, message: str
):
    write(tmp_path, ROWS)
    replace(tmp_path, file, old, new)
    with pytest.raises(DataError, match=message):
        build(tmp_path)


def test_missing_data_say_how_to_get_them(tmp_path: Path):
    with pytest.raises(DataError, match=r"icecore data get remote-homology") as caught:
        build(tmp_path)
    for name in (
        "homology/train.tsv",
        "homology/train.fasta",
        "remote_homology_train.json",
        "remote_homology_train.lmdb",
    ):
        assert name in str(caught.value)


def test_a_missing_split_is_named(tmp_path: Path):
    write_tsv(tmp_path, {split: part for split, part in ROWS.items() if split != "test_family"})
    with pytest.raises(DataError, match=r"but not test_family\.tsv or "):
        build(tmp_path)


def test_missing_labels_are_named(tmp_path: Path):
    write_fasta(tmp_path, ROWS)
    (tmp_path / "train.labels.csv").unlink()
    with pytest.raises(DataError, match=r"train\.fasta: its fold labels .* train\.labels\.tsv or train\.labels\.csv"):
        build(tmp_path)


def test_an_empty_file_is_named(tmp_path: Path):
    write_tsv(tmp_path, ROWS | {"val": []})
    with pytest.raises(DataError, match=r"valid\.tsv: expected at least one record"):
        build(tmp_path)


TRAIN = "remote_homology/remote_homology_train.lmdb"


def test_a_damaged_lmdb_is_named(tmp_path: Path):
    write_lmdb(tmp_path, ROWS)
    (tmp_path / TRAIN / "data.mdb").write_bytes(b"nonsense" * 2000)
    with pytest.raises(DataError, match=r"remote_homology_train\.lmdb: not a readable LMDB"):
        build(tmp_path)


def test_lmdb_files_are_read_as_the_library_reads_them(tmp_path: Path):
    lmdb = pytest.importorskip("lmdb")
    values = {str(index).encode(): bytes([index % 251]) * (7 * index % 9000) for index in range(700)}
    with lmdb.open(str(tmp_path / "data"), map_size=2**26) as store:
        for part in (values, {b"5": b"changed", b"new": b""}):
            with store.begin(write=True) as transaction:
                for key, value in part.items():
                    transaction.put(key, value)
        with store.begin(write=True) as transaction:
            transaction.delete(b"6")
        with store.begin() as transaction:
            expected = {bytes(key): bytes(value) for key, value in transaction.cursor()}
    with LmdbFile(tmp_path / "data") as store:
        assert {key: store.get(key) for key in store.places} == expected
        assert store.get(b"6") is None


def test_a_truncated_lmdb_is_an_error_and_no_signal(tmp_path: Path):
    """The library maps the file, so that a page beyond its end kills the process with SIGBUS."""
    write_lmdb(tmp_path, ROWS)
    path = tmp_path / TRAIN / "data.mdb"
    whole = path.read_bytes()
    for size in (0, 100, 4096, 8192, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"not a readable LMDB \(it has [\d,]+ bytes"):
            build(tmp_path)


def test_no_byte_of_an_lmdb_can_do_harm(tmp_path: Path):
    write_lmdb(tmp_path, ROWS)
    path = tmp_path / TRAIN / "data.mdb"
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            changed[place] = random.integers(256)
        start = 4096 * int(random.integers(len(whole) // 4096)) + int(random.integers(40))
        changed[start : start + 8] = random.bytes(8)
        path.write_bytes(changed)
        with contextlib.suppress(DataError):
            build(tmp_path)


def test_a_length_without_room_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="expected at least 3"):
        build(tmp_path, length=2)


# ---------------------------------------------------------------------------------------- real data


@pytest.mark.data
def test_the_real_files(real_data: Path):
    if not (real_data / "homology").is_dir():
        pytest.skip("no homology/ in the data folder")
    task = build(real_data)
    counts = {"train": 9975, "val": 699, "test_fold": 639, "test_superfamily": 1129, "test_family": 1033}
    assert task.data["counts"] == counts
    assert task.data["share_of_tape"] == 0.8271
    assert set(task.splits["train"].targets.tolist()) == set(range(1195))
    assert task.spec.outputs == 1195
    for part in task.splits.values():
        assert part.lengths is not None
        assert int(part.lengths.max()) <= 1024
        last = part.inputs.gather(1, part.lengths[:, None] - 1)
        assert (last == SEP).all()
        assert (part.inputs[:, 0] == CLS).all()


class _Crafted:
    """Pickles to an array whose dtype was given a state that makes object pointers of the bytes that follow."""

    def __init__(self, code: str, state: tuple[Any, ...], data: bytes = b"\0" * 16, shape: tuple[int, ...] = (2,)):
        self.parts = code, state, data, shape

    def __reduce__(self):
        code, state, data, shape = self.parts
        reconstruct, arguments, _ = np.zeros(1).__reduce__()
        return reconstruct, arguments, (1, shape, _CraftedType(code, state), False, data)


class _CraftedType:
    def __init__(self, code: str, state: tuple[Any, ...]):
        self.parts = code, state

    def __reduce__(self):
        return np.dtype, (self.parts[0], False, True), self.parts[1]


OBJECTS = _CraftedType("O", (3, "|", None, None, None, -1, -1, 63))


@pytest.mark.parametrize(
    ("crafted", "message"),
    [
        # 63: the flags of a dtype of objects, on a dtype whose code says eight bytes
        (_Crafted("V8", (3, "|", None, None, None, 8, 1, 63)), "names the dtype 'V8'"),
        (_Crafted("i8", (3, "<", None, None, None, -1, -1, 63)), "dtype with fields or objects"),
        (_Crafted("i8", (3, "<", None, ("a",), {"a": (OBJECTS, 0)}, 8, 8, 0)), "names the dtype 'O'"),
        (_Crafted("O8", (3, "|", None, None, None, -1, -1, 63)), "names the dtype 'O8'"),
        (_Crafted("i8", (3, "<", None, None, None, -1, -1, 0), shape=(3,)), r"array of int64 \(3,\) has 16 bytes"),
        (_Crafted("i8", (3, "<", None, None, None, -1, -1, 0), shape=(-1, -2)), "has 16 bytes"),
        (_Crafted("S1", (3, "|", None, None, None, -1, -1, 0), b"", (2**62,)), "has 0 bytes"),
    ],
)  # fmt: skip
def test_a_crafted_array_is_refused_before_memory_is_touched(crafted: _Crafted, message: str):
    with pytest.raises(DataError, match=f"not a pickle of plain data .*{message}"):
        unpickle(pickle.dumps({"fold_label": crafted}), "here")


def test_a_pickle_cannot_ask_for_memory_that_the_file_does_not_have():
    huge_index, huge_bytes = b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x."
    assert unpickle(huge_index, "here") is None
    with pytest.raises(DataError, match="not a pickle"):
        unpickle(huge_bytes, "here")


def test_a_deeply_nested_key_does_not_overflow_the_stack():
    nested = b"\x80\x02})" + b"\x85" * 100_000 + b"Ns."
    with pytest.raises(DataError, match="it has a tuple as a key"):
        unpickle(nested, "here")


def test_big_endian_arrays_and_arrays_named_twice_are_read():
    value = np.arange(6, dtype=">i4").reshape(2, 3, order="F")
    first, second = unpickle(pickle.dumps([value, value], 2), "here")
    np.testing.assert_array_equal(first, value)
    assert second is first


@pytest.mark.parametrize("fold", [[[1], [2, 3]], {"a": 1}, None, [1, 2], "x"])
def test_a_fold_that_is_no_number_is_refused(tmp_path: Path, fold: object):
    write_json(tmp_path, ROWS)
    path = tmp_path / "remote_homology" / "remote_homology_train.json"
    path.write_text(json.dumps([{"primary": "MKV", "fold_label": fold}]))
    with pytest.raises(DataError, match="record 0: expected an integer of at least 0 as fold_label, found"):
        build(tmp_path)
