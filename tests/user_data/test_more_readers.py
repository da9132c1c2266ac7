"""Files as others write them: nested Parquet, parts, Excel, deep images, data frames, unknown endings."""

import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from icecore.cli.option_values import keep_standard_input
from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from icecore.user_data.column_table import TableOptions
from icecore.user_data.readers.table_files import read_table
from user_data_samples import ROWS, describe, encode_image, random_column, write_columns

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")


def test_images_in_the_cells_of_parquet(tmp_path: Path) -> None:
    cells = [{"bytes": encode_image("L", (8, 8), 5 * i), "path": f"{i}.png"} for i in range(40)]
    pq.write_table(pa.table({"image": cells, "label": [i % 2 for i in range(40)]}), tmp_path / "t.parquet")
    data_plan = plan(tmp_path / "t.parquet")
    assert (data_plan.encoder.form, data_plan.encoder.target.classes) == ("images", (("0", "1"),))
    rows = encode(DataEncoder.from_json(data_plan.encoder.to_json()), tmp_path / "t.parquet", score=True)
    expected = np.array([Image.open(io.BytesIO(cell["bytes"])).getpixel((0, 0)) for cell in cells])
    np.testing.assert_array_equal(rows.inputs[:, 0, 0, 0], expected)


def test_lists_in_the_cells_of_parquet_are_series(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for shape in ((12,), (12, 2)):
        series = [rng.normal(size=shape).tolist() for _ in range(40)]
        pq.write_table(pa.table({"values": series, "y": ["p", "q"] * 20}), tmp_path / "t.parquet")
        data_plan = plan(tmp_path / "t.parquet")
        assert (data_plan.encoder.form, data_plan.encoder.spec.length) == ("sequences", 12)
        rows = encode(data_plan.encoder, tmp_path / "t.parquet", score=True)
        assert rows.inputs.equal(encode(data_plan.encoder, np.array(series)).inputs if len(shape) > 1 else rows.inputs)


def test_dates_of_any_precision(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    for kind in (pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("ns"), pa.timestamp("us", "Europe/Berlin")):
        times = pa.array([moment] * 3, pa.timestamp("us", "UTC")).cast(pa.timestamp("us")).cast(kind)
        pq.write_table(pa.table({"t": times}), tmp_path / "t.parquet")
        assert read_table([tmp_path / "t.parquet"])[0].columns["t"].values.tolist() == [moment.timestamp()] * 3


def test_parts_in_folders_with_partitions(tmp_path: Path) -> None:
    for year in (2023, 2024):
        folder = tmp_path / f"year={year}"
        folder.mkdir()
        for part in range(2):
            cells = {"x": np.arange(20) / 7 + part, "y": ["p", "q"] * 10}
            pq.write_table(pa.table(cells), folder / f"part-{part}.snappy.parquet")
        (folder / "_SUCCESS").write_text("")
    data_plan = plan(tmp_path, DataSettings(target=("y",)))
    names = [column.name for column in data_plan.encoder.inputs.columns]  # type: ignore[attr-defined]
    assert names == ["x", "year"]
    assert sum(map(len, data_plan.splits.values())) == 80


def test_excel_gives_what_csv_gives(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    rows = [["a", "b", "when", "sure", "y"]]
    rows += [[i, i / 7, datetime(2024, 1, 1 + i % 28), i % 3 == 0, "pq"[i % 2]] for i in range(40)]
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.create_sheet("more")
    book.save(tmp_path / "t.xlsx")
    text = "\n".join(",".join(str(cell) for cell in row) for row in rows)
    (tmp_path / "t.csv").write_text(text)
    excel, comma = (read_table([tmp_path / f"t.{ending}"])[0] for ending in ("xlsx", "csv"))
    for name, column in comma.columns.items():
        assert (excel.columns[name].type, excel.columns[name].levels) == (column.type, column.levels)
        np.testing.assert_allclose(excel.columns[name].values, column.values)
    assert ("left out", "sheets more of t.xlsx: only the first one is read") in excel.notes


@pytest.mark.parametrize(("brightest", "white"), [(200, 255), (1000, 1023), (4000, 4095), (60000, 65535)])
def test_deep_images_are_scaled_by_their_range(tmp_path: Path, brightest: int, white: int) -> None:
    for name, value in (("dark", brightest // 4), ("bright", brightest)):
        (tmp_path / name).mkdir()
        for i in range(8):
            pixels = np.full((8, 8), value, np.uint16)
            pixels[0, 0] = i
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    data_plan = plan(tmp_path)
    assert f"so white is {white}" in describe(data_plan)
    encoder = DataEncoder.from_json(data_plan.encoder.to_json())
    shown = encode(encoder, tmp_path / "bright" / "3.png").inputs[0, 4, 4, 0].item()
    assert shown == pytest.approx(255 * brightest / white, abs=1)


def test_names_with_backslashes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in ("cat", "dog"):
            for i in range(8):
                archive.writestr(zipfile.ZipInfo(f"train\\{name}\\{i}.png"), encode_image("L", (8, 8), 9 * i))
    assert plan(tmp_path / "z.zip").encoder.target.classes == (("cat", "dog"),)
    (tmp_path / "img").mkdir()
    rows = []
    for i in range(16):
        (tmp_path / "img" / f"{i}.png").write_bytes(encode_image("L", (8, 8), 9 * i))
        rows.append(f"img\\{i}.png,{'pq'[i % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *rows]))
    assert sum(map(len, plan(tmp_path / "t.csv").splits.values())) == 16


def test_unknown_endings_say_what_would_do(tmp_path: Path) -> None:
    table = write_columns(tmp_path / "t.data", x=random_column(), y=("p", "q"))
    with pytest.raises(DataError, match="Set --kind table for rows of columns"):
        plan(table)
    assert plan(table, DataSettings(kind="table")).encoder.form == "table"
    for ending, remedy in (
        ("json", "Write Parquet: pandas.read_json"),
        ("pkl", "Pickles can run code"),
        ("xls", "xlsx"),
    ):
        (tmp_path / f"t.{ending}").write_text("{}")
        with pytest.raises(DataError, match=rf"does not read \.{ending} files\. .*{remedy}"):
            plan(tmp_path / f"t.{ending}")
    (tmp_path / "t.bin").write_bytes(b"\x00\x01\x02")
    with pytest.raises(DataError, match="is not a table: it is no text"):
        read_table([tmp_path / "t.bin"], TableOptions())


def test_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for raw, name in ((b"a,b\n1,2\n", "stdin.csv"), (b">s1\nACGT\n", "stdin.fasta"), (b"PAR1...", "stdin.parquet")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
        kept = keep_standard_input(Path("-"))
        assert (kept.name, kept.read_bytes()) == (name, raw)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(ConfigError, match="nothing came from standard input"):
        keep_standard_input(Path("-"))
    assert keep_standard_input(tmp_path) == tmp_path


def test_data_frames_give_what_files_give(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    cells = {
        "x": random_column(),
        "town": ["Ulm", "Köln", "Ulm", ""] * (ROWS // 4),
        "code": ["01069", "89073"] * (ROWS // 2),
        "flag": ["TRUE", "FALSE"] * (ROWS // 2),
        "share": ["5%", "3.5%"] * (ROWS // 2),
        "when": [f"2024-01-{1 + i % 28:02}" for i in range(ROWS)],
        "y": ["p", "q"] * (ROWS // 2),
    }
    path = write_columns(tmp_path / "t.csv", **cells)
    from_file = plan(path)
    typed = pd.DataFrame(cells)
    typed["town"] = typed["town"].replace("", None).astype("category")
    typed["when"] = pd.to_datetime(typed["when"])
    typed["flag"] = (typed["flag"] == "TRUE").astype("boolean")
    expected = encode(from_file.encoder, path).inputs
    for frame in (pd.DataFrame(cells), typed):
        np.testing.assert_array_equal(encode(from_file.encoder, frame).inputs, expected)
    of_frame = from_arrays(typed.drop(columns="y"), typed["y"])
    np.testing.assert_array_equal(
        encode(DataEncoder.from_json(of_frame.encoder.to_json()), path).inputs[:, 0],
        encode(of_frame.encoder, typed).inputs[:, 0],
    )
    assert (
        from_arrays(typed, None, DataSettings(target=("y",))).sha256()
        == from_arrays(typed.drop(columns="y"), typed["y"]).sha256()
    )
    numbers = pd.DataFrame({"a": pd.array([1, None] * 20, "Int64"), "b": range(40)})
    assert encode(from_arrays(numbers, ["p", "q"] * 20).encoder, numbers[:3]).inputs[:, 0].isnan().tolist() == [
        False,
        True,
        False,
    ]
    with pytest.raises(DataError, match="has several columns named a"):
        from_arrays(pd.DataFrame(np.ones((4, 2)), columns=["a", "a"]), list("pqpq"))
    with pytest.raises(
        DataError, match="mixed must hold numbers or texts, but has values of several other types: int, str"
    ):
        from_arrays(pd.DataFrame({"mixed": [1, "a"] * 9}), ["p", "q"] * 9)


def test_images_in_memory() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    y = np.arange(40) % 2
    expected = from_arrays(pixels, y)
    assert (expected.encoder.form, expected.encoder.spec.size) == ("images", 12)
    same = [pixels / np.float32(255), pixels.transpose(0, 3, 1, 2), pixels.astype(np.uint16) * 257]
    for each in same:
        np.testing.assert_array_equal(encode(expected.encoder, each).inputs, encode(expected.encoder, pixels).inputs)
    grey = from_arrays(pixels[..., 0], y, DataSettings(kind="images"))
    assert grey.encoder.spec.size == 4
    with pytest.raises(DataError, match="Images must have values of 0 to 255, or of 0 to 1, but have -1 to 2"):
        from_arrays(np.linspace(-1, 2, 40 * 64).reshape(40, 8, 8, 1), y)
