"""What is guessed about data is safe and said: splits, row counters, groups, copies, axes, roles of columns."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataEncoder, DataSettings, Plan, encode, from_arrays, plan
from icecore.user_data.input_files import check_not_input
from icecore.user_data.readers.csv_layout import find_layout
from icecore.user_data.split_names import split_of_file, split_of_name
from user_data_samples import ROWS, describe, encode_image, random_column, write_columns, write_files


def images(*names: str, count: int = 8) -> dict[str, bytes]:
    """`count` images in each folder; the brightness says which."""
    return {
        f"{name}/{i}.png": encode_image("L", (8, 8), 20 + 30 * number + i)
        for number, name in enumerate(names)
        for i in range(count)
    }


def split_sizes(data_plan: Plan) -> list[int]:
    return [len(part) for part in data_plan.splits.values()]


@pytest.mark.parametrize(
    "name", ["train", "Training", "training_set", "TrainData", "train-images", "trainset", "x_train"]
)
def test_names_of_training_splits(name: str) -> None:
    assert split_of_name(name) == "train"


def test_other_names_are_no_splits() -> None:
    assert [split_of_name(name) for name in ("trainer", "contest", "cat", "values", "testament", "")] == [""] * 6
    assert [split_of_file(n) for n in ("GunPoint_TEST.tsv", "val.csv", "train-3.csv", "latest.csv")] == [
        "test",
        "val",
        "train",
        "",
    ]


@pytest.mark.parametrize(
    "pattern", ["{split}_set/{name}", "{name}/{split}", "data/{split}/{name}", "{split}ing images/{name}"]
)
def test_folders_of_splits_are_found_at_any_level(tmp_path: Path, pattern: str) -> None:
    folders = [pattern.format(split=split, name=name) for split in ("train", "test") for name in ("cat", "dog")]
    data_plan = plan(write_files(tmp_path, images(*folders)))
    assert data_plan.encoder.target.classes == (("cat", "dog"),)
    assert split_sizes(data_plan)[2] == 16


def test_folders_that_may_be_splits_or_classes_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, images("a/cat", "a/dog", "b/cat", "b/dog"))
    with pytest.raises(DataError, match=r"are the folders a, b splits or classes.* --split a=train,b=train"):
        plan(tmp_path)
    named = plan(tmp_path, DataSettings(split="a=train,b=test"))
    assert (named.encoder.target.classes, split_sizes(named)[2]) == ((("cat", "dog"),), 16)
    assert plan(tmp_path, DataSettings(split="none")).encoder.target.classes == (("a", "b"),)
    with pytest.raises(ConfigError, match="split: exam must be one of train, val, test"):
        plan(tmp_path, DataSettings(split="a=exam"))


def test_test_images_without_a_class_are_left_out(tmp_path: Path) -> None:
    beside = plan(write_files(tmp_path / "a", images("cat", "dog", "test")))
    assert beside.encoder.target.classes == (("cat", "dog"),)
    assert "left out: 8 images without a class in test (--split none if it is a class)" in describe(beside)
    assert len(plan(tmp_path / "a", DataSettings(split="none")).encoder.target.classes[0]) == 3
    flat = plan(write_files(tmp_path / "b", images("train/cat", "train/dog", "test")))
    assert flat.encoder.target.classes == (("cat", "dog"),)
    vehicles = plan(write_files(tmp_path / "c", images("car", "train")))
    assert vehicles.encoder.target.classes == (("car", "train"),)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write_files(tmp_path, images("else/cat", "data/dog", "data/more/cow"))
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "else" / "cat")
    (tmp_path / "data" / "cow").symlink_to(tmp_path / "data" / "more" / "cow")
    (tmp_path / "data" / "dog" / "again").symlink_to(tmp_path / "data")
    assert {"cat", "dog", "cow"} <= set(plan(tmp_path / "data").encoder.target.classes[0])


@pytest.mark.parametrize("table", ["labels.csv", "metadata.csv", "train.csv"])
def test_a_table_whose_cells_name_files_is_their_labels(tmp_path: Path, table: str) -> None:
    names = [f"a{i}" for i in range(16)]
    write_files(tmp_path, {f"train/{name}.png": encode_image("L", (8, 8), 9 * i) for i, name in enumerate(names)})
    rows = "".join(f"{name},{'pq'[i % 2]}\n" for i, name in enumerate(names))
    (tmp_path / table).write_text(f"id,breed\n{rows}")
    for path in (tmp_path, tmp_path / table):
        data_plan = plan(path)
        assert (data_plan.encoder.form, data_plan.encoder.target.classes) == ("images", (("p", "q"),))
        assert "images: 16 images that column 'id' names" in describe(data_plan)
    write_files(tmp_path, {"other/a3.png": encode_image("L", (8, 8), 1)})
    with pytest.raises(DataError, match=r"'a3' of column 'id' may be other/a3\.png, train/a3\.png"):
        plan(tmp_path / table)


def test_numbers_are_no_names_of_images_that_happen_to_be_there(tmp_path: Path) -> None:
    write_files(tmp_path, {f"digits/{i}.png": encode_image("L", (8, 8), i) for i in range(130)})
    path = write_columns(tmp_path / "t.csv", magnesium=list(range(ROWS)), x=random_column(), y=("p", "q"))
    assert plan(path).encoder.form == "table"


def fasta(count: int = 24, header: str = "s{i}", residues: str = "ACGT") -> str:
    rng = np.random.default_rng(0)
    return "".join(f">{header.format(i=i)}\n{''.join(rng.choice(list(residues), 12))}\n" for i in range(count))


def test_the_target_of_a_table_beside_fasta_is_honoured_or_refused(tmp_path: Path) -> None:
    (tmp_path / "s.fasta").write_text(fasta())
    (tmp_path / "labels.csv").write_text(
        "id,length,family\n" + "".join(f"s{i},{i % 5},{'pq'[i % 2]}\n" for i in range(24))
    )
    for settings in (DataSettings(target=("family",)), DataSettings()):
        encoder = plan(tmp_path / "s.fasta", settings).encoder
        assert (encoder.target.names, encoder.target.classes) == (("family",), (("p", "q"),))
    assert plan(tmp_path / "s.fasta", DataSettings(target=("length",))).encoder.target.classes[0] == tuple("01234")
    with pytest.raises(ConfigError, match=r"Unknown target column 'fold'\. Known: family, length"):
        plan(tmp_path / "s.fasta", DataSettings(target=("fold",)))


def test_accessions_match_and_the_others_are_counted(tmp_path: Path) -> None:
    (tmp_path / "s.fasta").write_text(fasta(header="sp|P{i:05}|HBA{i}_HUMAN Some protein OS=x"))
    (tmp_path / "labels.csv").write_text("entry,family\n" + "".join(f"P{i:05},{'pq'[i % 2]}\n" for i in range(22)))
    data_plan = plan(tmp_path / "s.fasta")
    assert sum(split_sizes(data_plan)) == 22
    assert "labels: 22 of 24 sequences have one; without: sp|P00022|HBA22_HUMAN" in describe(data_plan)
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match="has no labels"):
        plan(tmp_path / "s.fasta")


def test_case_of_residues_does_not_matter(tmp_path: Path) -> None:
    def write(name: str, change: Callable[[str], str]) -> Path:
        lines = fasta(header="s{i}").splitlines()
        text = "\n".join(f"{x} label={'pq'[int(x[2:]) % 2]}" if x[0] == ">" else change(x) for x in lines)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    upper, lower, mixed = (write(f"{f.__name__}.fasta", f) for f in (str.upper, str.lower, str.capitalize))
    expected = plan(upper)
    assert plan(mixed).encoder.inputs == expected.encoder.inputs
    assert "case: 24 sequences with small letters: read as capitals" in describe(plan(mixed))
    for encoder in (expected.encoder, plan(lower).encoder):
        rows = [encode(encoder, path) for path in (upper, lower, mixed)]
        assert all(each.inputs.equal(rows[0].inputs) for each in rows)
        assert any(topic == "case" for each in rows for topic, _ in each.notes)
    with pytest.raises(DataError, match="None of the 4 characters of these texts was in training"):
        encode(expected.encoder, ["????"])


def test_empty_sequences_and_missing_categories_are_said(tmp_path: Path) -> None:
    (tmp_path / "s.fasta").write_text(fasta(header="s{i} label={i}"))
    encoder = plan(tmp_path / "s.fasta", DataSettings(task="regression")).encoder
    (tmp_path / "n.fasta").write_text(">one\n\n>two\nACGT\n")
    assert ("empty", "no characters in 1 row (one)") in encode(encoder, tmp_path / "n.fasta").notes
    encoder = plan(write_columns(tmp_path / "t.csv", town=("Ulm", "Bonn"), x=random_column(), y=("p", "q"))).encoder
    (tmp_path / "n.csv").write_text("town,x\n,1\nUlm,2\n")
    assert ("missing", "no category of 'town' in 1 row (0)") in encode(encoder, tmp_path / "n.csv").notes
    series = from_arrays([np.ones((5, 1)) * i for i in range(20)], np.arange(20) % 2).encoder
    empty = encode(series, [np.full((5, 1), np.nan), np.ones((5, 1))])
    assert ("empty", "no values in 1 row (0)") in empty.notes


def test_well_known_names_of_columns_come_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"a very long name of the protein with number {i} {rng.integers(10**9)}" for i in range(ROWS)]
    sequences = ["".join(rng.choice(list("ACDEFG"), 20)) for _ in range(ROWS)]
    data_plan = plan(write_columns(tmp_path / "t.csv", name=names, sequence=sequences, label=("p", "q")))
    assert data_plan.encoder.settings.column == "sequence"
    assert "texts: those of column 'sequence', because of its name (--column sets another)" in describe(data_plan)
    last = plan(write_columns(tmp_path / "t.csv", fold=("p", "q"), sequence=sequences))
    assert (last.encoder.target.names, last.encoder.settings.column) == (("fold",), "sequence")


@pytest.mark.parametrize("ending", ["smi", "txt"])
def test_molecules_come_before_their_labels(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    molecules = ["".join(rng.choice(list("CNO"), 14)) for _ in range(40)]
    for number, labels in enumerate((["toxic", "safe"], ["1", "0"], None)):
        values = [labels[i % 2] if labels else f"{rng.normal():.3f}" for i in range(40)]
        for order in (1, -1):
            path = tmp_path / f"{number}{order}.{ending}"
            path.write_text("".join("\t".join((m, v)[::order]) + "\n" for m, v in zip(molecules, values, strict=True)))
            target = plan(path).encoder.target
            assert target.task == ("classification" if labels else "regression")
            assert sorted(target.classes[0] if labels else []) == sorted(labels or [])


@pytest.mark.parametrize("name", ["rownames", "id", "x", "Unnamed: 0", "record"])
@pytest.mark.parametrize("numbers", [range(ROWS), range(1000, 1000 + 3 * ROWS, 3), range(ROWS, 0, -1)])
def test_columns_that_count_rows_are_dropped(tmp_path: Path, name: str, numbers: Sequence[int]) -> None:
    path = write_columns(
        tmp_path / "t.csv", **{name: list(numbers), "value": random_column(), "y": ["p"] * 60 + ["q"] * 60}
    )
    data_plan = plan(path)
    assert [column.name for column in data_plan.encoder.inputs.columns] == ["value"]  # type: ignore[attr-defined]
    assert f"dropped: {name}: a different number in every row, so it is an id (--keep takes it)" in describe(data_plan)
    kept = plan(path, DataSettings(keep=(name,))).encoder.inputs.columns  # type: ignore[attr-defined]
    assert [column.name for column in kept] == [name, "value"]
    with pytest.raises(ConfigError, match=r"Unknown column 'valve'\. Did you mean 'value'"):
        plan(path, DataSettings(keep=("valve",)))


def visits(tmp_path: Path, name: str) -> Path:
    rng = np.random.default_rng(0)
    patients, labels = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    rows = [f"{name},a,b,c,visit,label"]
    for patient in range(40):
        for visit in range(10):
            a, b, c = patients[patient] + rng.normal(0, 0.01, 3)
            rows.append(f"P{patient},{a:.4f},{b:.4f},{c:.4f},{visit},{'pq'[labels[patient]]}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    return tmp_path / "t.csv"


def groups_in_several_splits(data_plan: Plan) -> int:
    """How many patients have rows in more than one split, by their values without the noise of a visit."""
    keys = [
        {tuple(np.round(row[:3] * 4).tolist()) for row in part.inputs.numpy()} for part in data_plan.splits.values()
    ]
    return len(keys[0] & keys[2])


def test_rows_of_a_group_share_a_split(tmp_path: Path) -> None:
    guessed = plan(visits(tmp_path, "patient"))
    assert "groups: 40 groups: rows with one 'patient' share a split, and it is no input" in describe(guessed)
    assert all(size % 10 == 0 for size in split_sizes(guessed))
    assert sum(split_sizes(guessed)) == 400
    path = visits(tmp_path, "who")
    unnamed = plan(path)
    assert "repeated: who: each value comes in several rows and decides the target" in describe(unnamed)
    assert groups_in_several_splits(unnamed) > 10
    named = plan(path, DataSettings(group="who"))
    assert "groups: 40 groups, each of them in one split" in describe(named)
    assert all(size % 10 == 0 for size in split_sizes(named))
    assert "who" not in [column.name for column in named.encoder.inputs.columns]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"Unknown group column 'whom'\. Did you mean 'who'"):
        plan(path, DataSettings(group="whom"))
    with pytest.raises(ConfigError, match=r"group: The arrays is no table, so it has no column 'who'"):
        from_arrays(np.ones((9, 2)), range(9), DataSettings(group="who"))
    without = plan(path, DataSettings(drop=("who",)))
    assert "similar rows: 100 % of the rows have a near copy" in describe(without)


def test_near_copies_of_series_and_images_are_mentioned() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2
    persons = np.repeat(rng.normal(size=(40, 50)), 10, 0)
    images = np.repeat(rng.uniform(0, 200, (40, 8, 8)), 10, 0)
    noise = rng.normal(size=(400, 64))
    for inputs in (
        (persons + 0.05 * noise[:, :50])[..., None],
        (images + np.abs(3 * noise.reshape(400, 8, 8))).astype("uint8")[..., None],
    ):
        assert "similar rows: 100 % of the rows have a near copy" in describe(from_arrays(inputs, y))
    time = np.linspace(0, 6, 48)
    waves = np.sin(time * rng.integers(1, 4, (400, 1)) + rng.uniform(0, 6, (400, 1))) + 0.5 * noise[:, :48]
    digits: Any = load_digits()
    for inputs in (waves[..., None], digits.images[:400, ..., None].astype("uint8")):
        assert "similar rows" not in describe(from_arrays(inputs, y))


def test_copies_of_rows_share_a_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = np.repeat(rng.normal(size=(60, 4)), 2, 0), np.repeat(np.arange(60) % 2, 2)
    texts = ["".join(rng.choice(list("abcd"), 12)) for _ in range(60)]
    for inputs in (X, [text for text in texts for _ in range(2)], np.repeat(rng.normal(size=(60, 9, 2)), 2, 0)):
        data_plan = from_arrays(inputs, y)
        assert "copies: 60 rows with the inputs of another; copies share a split" in describe(data_plan)
        rows = {name: {row.numpy().tobytes() for row in part.inputs} for name, part in data_plan.splits.items()}
        assert not rows["train"] & rows["test"]
        assert not rows["train"] & rows["val"]
        assert sum(map(len, rows.values())) == 60
    np.savez(tmp_path / "d.npz", x_train=X, y_train=y, x_test=X[:6], y_test=y[:6])
    assert "shared: 6 rows of test are copies of training rows or of their groups" in describe(plan(tmp_path / "d.npz"))
    few = write_columns(tmp_path / "t.csv", a=("p", "q", "r"), b=("u", "v"), y=("p", "q"))
    assert "copies: only 6 different rows of 120, so all splits have the same ones" in describe(plan(few))


def test_the_axis_of_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    last = rng.normal(size=(40, 1, 50)).astype(np.float32)
    for X, settings in ((last, DataSettings()), (last.swapaxes(1, 2), DataSettings())):
        np.savez(tmp_path / "d.npz", X=X, y=y)
        data_plan = plan(tmp_path / "d.npz", settings)
        assert data_plan.encoder.spec.length == 50
        encoder = DataEncoder.from_json(data_plan.encoder.to_json())
        assert encode(encoder, X).inputs.shape == (40, 50, 1)
    assert "axes: the last axis of (40, 1, 50) is time: 50 points of one value" in describe(from_arrays(last, y))
    wide = rng.normal(size=(40, 6, 100))
    assert "6 points in time with 100 values each; if time is last, set --axes time-last" in describe(
        from_arrays(wide, y)
    )
    turned = from_arrays(wide, y, DataSettings(axes="time-last")).encoder
    assert (turned.spec.length, turned.spec.size) == (100, 6)
    assert encode(turned, wide).inputs.shape == (40, 100, 6)
    with pytest.raises(DataError, match="would be a single token of 1 point in time with 50 values"):
        from_arrays(last, y, DataSettings(axes="values-last"))


def test_copies_of_points_of_a_series_are_counted(tmp_path: Path) -> None:
    rows = [f"{s},{t},{s + t / 7:.3f},{'pq'[s % 2]}" for s in range(20) for t in range(6)]
    settings = DataSettings(series="s", time="t")
    expected, doubled, other = (tmp_path / f"{name}.csv" for name in ("a", "b", "c"))
    expected.write_text("\n".join(["s,t,v,label", *rows]))
    doubled.write_text("\n".join(["s,t,v,label", *(row for row in rows for _ in range(2))]))
    other.write_text("\n".join(["s,t,v,label", *rows, "3,2,9,q"]))
    assert plan(doubled, settings).sha256() == plan(expected, settings).sha256()
    assert "copies: 120 rows with a point that their series already has, left out" in describe(plan(doubled, settings))
    assert "times: 1 point at a time that their series already has" in describe(plan(other, settings))


def ucr(path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    lines = ["\t".join([str(1 + i % 2), *(f"{v:.4f}" for v in rng.normal(size=20))]) for i in range(count)]
    path.write_text("\n".join(lines) + "\n")


def test_the_published_split_of_the_ucr_archive(tmp_path: Path) -> None:
    ucr(tmp_path / "GunPoint_TRAIN.tsv", 30)
    ucr(tmp_path / "GunPoint_TEST.tsv", 50)
    data_plan = plan(tmp_path / "GunPoint_TRAIN.tsv")
    assert (data_plan.encoder.target.task, data_plan.encoder.target.labels().tolist()) == ("classification", [1, 2])
    assert data_plan.encoder.spec.length == 20
    assert split_sizes(data_plan)[2] == 50
    assert "GunPoint_TEST.tsv is the published test split" in describe(data_plan)
    assert plan(tmp_path).sha256() == data_plan.sha256()
    assert split_sizes(plan(tmp_path / "GunPoint_TRAIN.tsv", DataSettings(split="none")))[2] < 10
    rows = encode(DataEncoder.from_json(data_plan.encoder.to_json()), tmp_path / "GunPoint_TEST.tsv", score=True)
    assert len(rows) == 50


def test_files_of_a_contest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "train.csv").write_text("id,x,won\n" + "".join(f"{i},{rng.normal():.3f},{i % 2}\n" for i in range(40)))
    (tmp_path / "test.csv").write_text("id,x\n" + "".join(f"{i},{rng.normal():.3f}\n" for i in range(40, 60)))
    (tmp_path / "sample_submission.csv").write_text("id,won\n40,0\n")
    data_plan = plan(tmp_path)
    assert (data_plan.encoder.target.names, sum(split_sizes(data_plan))) == (("won",), 40)
    assert "dropped: 20 rows without a target" in describe(data_plan)


@pytest.mark.parametrize(
    ("text", "skipped", "names"),
    [
        ("sep=;\na;b\n1;2\n3;4\n", 1, ["a", "b"]),
        ("# made by\n# hand\na,b\n1,2\n3,4\n", 2, ["a", "b"]),
        ("#a,b\n1,2\n3,4\n", 0, ["a", "b"]),
        ('"a","b"\n"r1",1,2\n"r2",3,4\n', 0, ["row names", "a", "b"]),
        ("a  b\n 1   2 \n3 4\n", 0, ["a", "b"]),
        ("5.1,?,a\n4.2,1,b\n4.1,2,a\n", 0, ["column1", "column2", "column3"]),
        ("?,red,a\nx,red,b\ny,blue,a\n", 0, ["column1", "column2", "column3"]),
        ("Na,Mg\n1,2\n3,4\n", 0, ["Na", "Mg"]),
        ("p,x\np,x\ne,x\np,y\n", 0, ["column1", "column2"]),
        ("x,?\n1,2\n3,4\n5,6\n", 0, ["x", "column2"]),
    ],
)
def test_layouts_of_tables(tmp_path: Path, text: str, skipped: int, names: list[str]) -> None:
    from icecore.user_data.readers.table_files import read_table

    assert find_layout(text.splitlines(keepends=True)).skipped == skipped
    (tmp_path / "t.csv").write_text(text)
    assert list(read_table([tmp_path / "t.csv"])[0].columns) == names


def test_no_output_is_written_over_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.fasta").write_text(fasta())
    write_files(tmp_path / "d", images("cat", "dog", count=1))
    refused = [("labels.csv", "s.fasta"), ("s.labels.csv", "s.fasta"), ("s.fasta", "s.fasta"), ("d/cat/0.png", "d")]
    refused += [("d/new.csv", "d"), ("y.npy", "X.npy")]
    np.save(tmp_path / "X.npy", np.ones(3))
    for out, data in refused:
        with pytest.raises(ConfigError, match="is also an input file and would be overwritten"):
            check_not_input(tmp_path / out, tmp_path / data)
    for out, data in (("out.csv", "s.fasta"), ("d.csv", "d"), ("p.safetensors", "d")):
        check_not_input(tmp_path / out, tmp_path / data)


def test_the_threshold_of_a_rare_class_is_said() -> None:
    X: Any = np.random.default_rng(0).normal(size=(200, 2))
    target = from_arrays(X, np.where(np.arange(200) % 20, "common", "rare")).encoder.target
    (_, message), *_ = target.describe_choice()
    assert message.startswith("y is rare from a probability of 0.05 on, its share in training, because the classes are")
    assert from_arrays(X, np.arange(200) % 2).encoder.target.describe_choice() == []
