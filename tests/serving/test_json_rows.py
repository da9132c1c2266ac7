"""Rows of JSON are read as rows of a file are: in the formats, ranges and order of axes of the training data."""

import base64
import io
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icecore.serving.client import MEDIA_TYPE_OF_ENDING, read_file, to_rows
from icecore.serving.json_rows import read_json_rows
from icecore.serving.own_data_codec import OwnDataCodec
from icecore.serving.program_examples import example_row
from icecore.serving.uploads import MEDIA_TYPES
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from icecore.user_data.image_decoding import IMAGE_SUFFIXES
from icecore.user_data.readers.fasta import FASTA_ENDINGS
from icecore.user_data.readers.text_lines import LINE_ENDINGS

Image = pytest.importorskip("PIL.Image")


def test_texts_in_the_form_of_the_training_table_are_read_like_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    amounts = [f"1.{rng.integers(100, 999)},5" for _ in range(60)]
    days = [f"{1 + i % 28:02}/{1 + i % 12:02}/2024" for i in range(60)]
    rows = [f"{a};{i}%;{d};{'pq'[i % 2]}" for i, (a, d) in enumerate(zip(amounts, days, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(["amount;share;day;label", *rows]))
    encoder = plan(tmp_path / "t.csv").encoder
    (tmp_path / "new.csv").write_text("amount;share;day\n1.234;5%;02/03/2024\n")
    expected = encode(encoder, tmp_path / "new.csv").inputs
    for row in (
        {"amount": "1.234", "share": "5%", "day": "02/03/2024"},
        {"amount": 1234, "share": 5, "day": "2024-03-02"},
    ):
        torch.testing.assert_close(read_json_rows(encoder, [row]).inputs, expected)
    wrong = read_json_rows(encoder, [{"amount": "1.5", "share": 1, "day": "2024"}]).problems
    assert [problem.column for problem in wrong] == ["amount", "day"]
    assert "it must hold a number like 1.234,5, as in training, but has '1.5'" in wrong[0].message
    assert "it must hold a date such as 31/01/2026" in wrong[1].message


@pytest.mark.parametrize("brightest", [1000, 4000, 60000])
def test_deep_images_are_scaled_as_in_training(tmp_path: Path, brightest: int) -> None:
    for name, value in (("dark", brightest // 4), ("bright", brightest)):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.fromarray(np.full((8, 8), value - i, np.uint16)).save(tmp_path / name / f"{i}.png")
    encoder = DataEncoder.from_json(plan(tmp_path).encoder.to_json())
    path = tmp_path / "dark" / "3.png"
    read = read_json_rows(encoder, [base64.b64encode(path.read_bytes()).decode()])
    assert read.inputs.equal(encode(encoder, path).inputs)


def test_pixels_between_0_and_1_are_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    encoder = from_arrays(pixels, np.arange(40) % 2).encoder
    assert read_json_rows(encoder, [pixels[0].tolist()]).inputs.equal(encode(encoder, pixels[:1]).inputs)
    shares: Any = (pixels[0] / 255).tolist()
    (problem,) = read_json_rows(encoder, [shares]).problems
    assert "must be from 0 to 255, but are from 0 to 1. Multiply them by 255" in problem.message
    assert not read_json_rows(encoder, [np.eye(8).tolist()]).problems


def test_series_have_the_axes_of_training() -> None:
    X = np.random.default_rng(0).normal(size=(40, 3, 3))
    y = np.arange(40) % 2
    turned = from_arrays(X, y, DataSettings(axes="time-last")).encoder
    torch.testing.assert_close(read_json_rows(turned, X[:2].tolist()).inputs, encode(turned, X[:2]).inputs)
    assert np.shape(example_row(turned)) == (3, 3)
    wide = from_arrays(np.random.default_rng(0).normal(size=(40, 2, 30)), y, DataSettings(axes="time-last")).encoder
    assert not read_json_rows(wide, [example_row(wide)]).problems
    (problem,) = read_json_rows(wide, [np.ones((30, 2)).tolist()]).problems
    assert "it must be a sequence of the shape (2, T), but has the shape (30, 2)" in problem.message
    single = from_arrays(np.random.default_rng(0).normal(size=(40, 1, 30)), y).encoder
    for row in (np.ones(30).tolist(), np.ones((1, 30)).tolist()):
        assert len(read_json_rows(single, [row]).inputs) == 1


def test_large_codes_are_exact() -> None:
    codes = [12345678901234567 + i % 3 for i in range(60)]
    X = np.stack([np.array(codes), np.arange(60) * 37 % 101], 1)
    encoder = from_arrays(X, [i % 3 == 0 for i in range(60)]).encoder
    assert read_json_rows(encoder, X[:3].tolist()).inputs[:, 0].tolist() == [1, 2, 3]


def test_an_image_is_what_a_file_of_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    encoder = from_arrays(pixels, np.arange(40) % 2).encoder
    file = io.BytesIO()
    Image.fromarray(pixels[0]).save(file, "png")
    read = read_json_rows(encoder, [base64.b64encode(file.getvalue()).decode(), pixels[0].tolist()])
    assert read.inputs[0].equal(read.inputs[1])


def test_a_rare_class_is_chosen_as_in_predict() -> None:
    X: Any = np.random.default_rng(0).normal(size=(200, 2))
    encoder = from_arrays(X, np.where(np.arange(200) % 20, "common", "rare")).encoder
    codec = OwnDataCodec(encoder, None)  # type: ignore[arg-type]
    logits = torch.randn(40, 1, 2, generator=torch.Generator().manual_seed(0))
    answers = [answer["targets"]["y"] for answer in codec.answers(logits, top=2)]
    assert [answer["class"] for answer in answers] == encoder.target.predict(logits)[0].tolist()
    shown = [answer["probabilities"][answer["class"]] == answer["probability"] for answer in answers]
    assert all(shown)
    assert min(answer["probability"] for answer in answers) < 0.5
    notes = codec.read_json([{"x0": 0.5, "x1": 1}], lambda rows: None).notes
    assert [topic for topic, _ in notes] == ["threshold"]
    assert "y is rare from a probability of 0.05 on" in notes[0][1]


def test_data_frames_become_rows_of_json() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None], "Int64"),
            "town": pd.array(["Ulm", None], "string"),
            "when": pd.to_datetime(["2024-01-02", None]),
        }
    )
    expected = [{"n": 1, "town": "Ulm", "when": "2024-01-02 00:00:00"}, {"n": None, "town": None, "when": None}]
    assert to_rows(frame) == expected
    pa = pytest.importorskip("pyarrow")
    assert to_rows(pa.table({"n": [1, None], "town": ["Ulm", None]})) == [
        {"n": 1, "town": "Ulm"},
        {"n": None, "town": None},
    ]


def test_a_linked_folder_is_sent_too(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "else" / "a.png").write_bytes(b"a")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "else")
    raw, _ = read_file(tmp_path / "data")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.namelist() == ["cat/a.png"]


def test_the_client_and_the_page_know_every_ending_that_is_read() -> None:
    page = (resources.files("icecore.serving") / "pages" / "inputs.js").read_text()
    for ending in (*FASTA_ENDINGS, *IMAGE_SUFFIXES, *LINE_ENDINGS):
        assert MEDIA_TYPE_OF_ENDING[ending] in MEDIA_TYPES
        assert f'{ending[1:]}: "{MEDIA_TYPE_OF_ENDING[ending]}"' in page
