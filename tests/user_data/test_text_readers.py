"""Lines of text, FASTA and texts in memory, and their characters as tokens."""

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import UserError
from icecore.user_data import DataSettings, encode, from_arrays, plan
from icecore.user_data.encoders.text_encoder import END, UNKNOWN, TextEncoder
from user_data_samples import (
    describe,
    write_files,
)

DNA = [("ACGT" * (2 + i % 3) + "A" * (i % 4), "ab"[i % 2]) for i in range(40)]


def test_lines_fasta_and_lists_are_the_same(tmp_path: Path):
    (tmp_path / "a.txt").write_text("".join(f"{label}\t{text}\n" for text, label in DNA), encoding="utf-8")
    in_header = "".join(f">s{i} label={label}\n{text[:5]}\n{text[5:]}\n" for i, (text, label) in enumerate(DNA))
    (tmp_path / "b.fasta").write_text(in_header)
    after_bar = "".join(f">s{i}|{label}\n{text}*\n\n" for i, (text, label) in enumerate(DNA))
    (tmp_path / "c.fa").write_text(after_bar)
    beside = tmp_path / "d"
    write_files(beside, {"d.fasta": "".join(f">s{i} x y\n{text}\n" for i, (text, _) in enumerate(DNA)).encode()})
    (beside / "d.labels.csv").write_text("id,label\n" + "".join(f"s{i},{label}\n" for i, (_, label) in enumerate(DNA)))
    expected = from_arrays([text for text, _ in DNA], [label for _, label in DNA]).sha256()
    for path in (tmp_path / "a.txt", tmp_path / "b.fasta", tmp_path / "c.fa", beside / "d.fasta", beside):
        assert plan(path).sha256() == expected
    rows = encode(plan(tmp_path / "b.fasta").encoder, beside / "d.fasta", score=True)
    assert list(rows.names[:2]) == ["s0", "s1"]


def test_texts_in_any_script_can_be_decoded_from_their_tokens():
    texts = ["añ😀", "", "漢字a", "zz"] * 10
    data_plan = from_arrays(texts, ["x", "y"] * 20, DataSettings(val=0.1, test=0.1))
    encoder = data_plan.encoder.inputs
    assert isinstance(encoder, TextEncoder)
    rows = encode(data_plan.encoder, [*texts[:4], "a?", "x" * 50])
    assert rows.lengths is not None
    decoded = [
        "".join(encoder.characters[token - 3] if token > 2 else {UNKNOWN: "?", END: "$"}[token] for token in row[:n])
        for row, n in zip(rows.inputs.tolist(), rows.lengths.tolist(), strict=True)
    ]
    assert decoded == ["añ😀$", "$", "漢字a$", "zz$", "a?$", "???$"]
    assert (encoder.length, data_plan.encoder.spec.size) == (4, 3 + 6)
    assert ("unknown", "4 characters that no training text has") in rows.notes
    assert ("cut", "1 text after the first 3 characters (--length)") in rows.notes


def test_numeric_labels_of_texts_mean_regression(tmp_path: Path):
    rng = np.random.default_rng(0)
    (tmp_path / "a.txt").write_text("".join(f"{v:.3f}\t{'C' * int(9 * v + 1)}\n" for v in rng.random(50)))
    assert plan(tmp_path / "a.txt").encoder.target.task == "regression"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "no tab here\n", r"a\.txt line 1 has no tab\. Each line must be label<TAB>text"),
        ("a.fasta", ">x\nAC\n", "has no labels. Write them in the headers as '>id label=x'"),
        ("a.fasta", "AC\n>x\n", r"line 1: the first record must start with '>'"),
        ("a.fasta", "", "has no records"),
    ],
)
def test_errors_of_text_files(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        plan(tmp_path / name)


@pytest.mark.data
def test_real_proteins_as_fasta(real_data: Path, tmp_path: Path):
    lines = (real_data / "homology" / "train.tsv").read_text().splitlines()
    at = lines[0].split("\t").index
    rows = [line.split("\t") for line in lines[1:]]
    name, fold, sequence = at("id"), at("fold"), at("sequence")
    common = [common_fold for common_fold, _ in Counter(r[fold] for r in rows).most_common(3)]
    chosen = [r for r in rows if r[fold] in common][::4]
    (tmp_path / "p.fasta").write_text("".join(f">{r[name]} label=f{r[fold]}\n{r[sequence]}\n" for r in chosen))
    data_plan = plan(tmp_path / "p.fasta", DataSettings(length=200))
    encoder: Any = data_plan.encoder.inputs
    assert set(encoder.characters) <= set("ABCDEFGHIKLMNOPQRSTUVWXYZ")
    assert data_plan.encoder.spec.length == 201
    assert len(data_plan.encoder.target.classes[0]) == 3


def test_labels_of_lines_may_be_words_for_missing_values(tmp_path: Path) -> None:
    lines = [f"{label}\tAC{'G' * (i % 7)}" for i in range(20) for label in ("-", "+", "null")]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    data_plan = plan(tmp_path / "t.txt")
    assert data_plan.encoder.target.classes == (("+", "-"),)
    assert "no target: 20 rows where label is 'null'" in describe(data_plan)


def test_labels_of_lines_with_leading_zeros_are_classes(tmp_path: Path) -> None:
    path, new = tmp_path / "t.txt", tmp_path / "new.txt"
    path.write_text("\n".join(f"{label}\tAC{'G' * (i % 7)}" for i in range(20) for label in ("001", "1")))
    new.write_text("1\tACG\n1\tAC\n")
    data_plan = plan(path)
    assert data_plan.encoder.target.classes == (("001", "1"),)
    rows = encode(data_plan.encoder, new, score=True)
    assert rows.targets is not None
    assert rows.targets[:, 0, 0].tolist() == [1, 1]


@pytest.mark.parametrize(
    "ending", ["fasta", "fa", "faa", "fna", "ffn", "frn", "fas", "fsa", "pep", "mfa", "fas.gz", "FA"]
)
def test_every_usual_ending_of_fasta_is_known(tmp_path: Path, ending: str) -> None:
    raw = "".join(f">s{i} label={label}\n{text}\n" for i, (text, label) in enumerate(DNA)).encode()
    path = tmp_path / f"s.{ending}"
    path.write_bytes(gzip.compress(raw) if ending.endswith("gz") else raw)
    data_plan = plan(path)
    assert data_plan.encoder.target.classes == (("a", "b"),)
    assert len(encode(data_plan.encoder, path, score=True)) == len(DNA)
