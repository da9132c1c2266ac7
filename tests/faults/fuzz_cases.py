"""What is fuzzed: for each kind of file, a function that makes good ones and returns one that reads a bad one."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import pickle
import random
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import changed, damaged
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from icecore import user_data
from icecore.autofit import predict as predicting
from icecore.autofit.fit import fit
from icecore.autofit.fit_settings import FitSettings
from icecore.backbones import BodyRequest, build_backbone
from icecore.core.config import RunConfig
from icecore.core.errors import UserError
from icecore.core.text import printable
from icecore.experiments import sweep
from icecore.experiments.results import CellKey, RunRecord, read_records
from icecore.experiments.run_list import list_runs, run_card
from icecore.model.program import Program
from icecore.report.answer import find_answer
from icecore.report.leaderboard import PROJECT, build_leaderboard
from icecore.report.markdown import render_markdown
from icecore.report.page import PageContent, render_page
from icecore.report.result_tables import build_tables
from icecore.report.verdict_lines import list_verdicts
from icecore.report.verdicts import evaluate_claims
from icecore.report.writer import write_report
from icecore.sharing.model_card import card
from icecore.tasks.archive_unpacking import unpack
from icecore.tasks.cifar10_files import read_python
from icecore.tasks.containers import matching_files
from icecore.tasks.mnist_files import read_idx
from icecore.tasks.protein_files import FORMATS
from icecore.training.checkpoint import RunFolder, read_config
from icecore.training.context import ExecutionContext
from icecore.user_data.data_archives import file_names, read_files

#: reads a file that is damaged in a way that the generator decides
Case = Callable[[random.Random], object]


# ------------------------------------------------------------------------------------------------- programs


def programs(folder: Path) -> Case:
    """Headers and encoders of programs, which are loaded, described and used."""
    source = np.random.default_rng(0)
    dna = ["".join(source.choice(list("ACGT"), 8)) for _ in range(40)]
    kinds: list[tuple[Any, Any]] = [
        (source.normal(size=(40, 3)), source.integers(0, 2, 40)),
        (source.normal(size=(40, 3)), source.normal(size=(40, 2))),
        (dna, source.integers(0, 3, 40)),
        (source.normal(size=(40, 6, 2)), source.integers(0, 2, 40)),
    ]
    made: list[tuple[Mapping[str, Any], Mapping[str, Any], Any]] = []
    for number, (data, y) in enumerate(kinds):
        plan, path = user_data.from_arrays(data, y), folder / f"{number}.safetensors"
        settings = FitSettings(backbone="none", weights="random", lrs=(1e-2,), steps=2, batch_size=8, controls=False)
        fit(plan.task(), settings, path, {"encoder": plan.encoder.to_json()}, "cpu")
        with safe_open(path, "pt") as file:
            made.append((json.loads(file.metadata()["icecore"]), load_file(path), data))
    bad = folder / "bad.safetensors"

    def case(source: random.Random) -> None:
        header, tensors, data = source.choice(made)
        odd = dict(header)
        if source.random() < 0.5:
            encoder = changed(json.loads(header["extra"]["encoder"]), source)
            odd["extra"] = {**header["extra"], "encoder": json.dumps(encoder)}
        else:
            odd = changed(header, source)
        text = json.dumps(odd)
        save_file(dict(tensors), bad, {"icecore": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        program = Program.load(bad)
        printable(card(program, "someone/theirs")).encode()
        predictions = predicting.predict([bad], data, "cpu")[bad]
        predictions.save(folder / "out.csv")

    return case


# ------------------------------------------------------------------------------------------------- results and runs


def _trained(folder: Path) -> list[RunConfig]:
    few = {"steps": 6, "batch_size": 4, "eval_every": 3, "task_options": {"n": 2}}
    config = sweep.make_config("bit-xor", "fp32", "cpu", backbone="none", weights="random", **few)
    configs = sweep.expand_sweep(config, [1e-2, 3e-2])
    sweep.train_runs(configs, ExecutionContext(folder / "runs", device="cpu", compile=False))
    return configs


def results(folder: Path) -> Case:
    """Lines of results files, of which the report is written."""
    configs = _trained(folder)
    keys = [CellKey("table1", "pretrained", "bit-xor", "smoke", "minilm"), CellKey("mine", "a row", "bit-xor")]
    good = [
        RunRecord.from_folder(RunFolder(folder / "runs", each), key, "icecore grid mine.toml").to_json()
        for key in keys
        for each in configs
    ]
    file, count = folder / "mine.jsonl", [0]

    def case(source: random.Random) -> None:
        lines = [line.encode() for line in good]
        for _ in range(source.randint(1, 3)):
            place = source.randrange(len(lines))
            if source.random() < 0.7:
                lines[place] = json.dumps(changed(json.loads(good[place]), source)).encode()
            else:
                lines[place] = damaged(lines[place], source).replace(b"\n", b" ")
        file.write_bytes(b"\n".join([*lines, b""]))
        records, faults = read_records(file)
        if source.random() < 0.005:  # with pictures, which take a second
            write_report(records, faults, folder / "report", folder)
            return
        tables = build_tables(records)
        boards = build_leaderboard({PROJECT: records})
        render_markdown(tables, faults, {}, boards).encode()
        verdicts = list_verdicts(evaluate_claims(records))
        render_page(PageContent(tables, {}, find_answer(tables), verdicts, boards, faults)).encode()
        count[0] += 1

    return case


def runs(folder: Path) -> Case:
    """The files of a run's folder."""
    configs = _trained(folder)
    path = folder / "runs" / configs[0].run_id
    good = {name: (path / name).read_bytes() for name in ("config.json", "summary.json", "events.jsonl")}

    def case(source: random.Random) -> None:
        for name, content in good.items():
            (path / name).write_bytes(content)
        name = source.choice(list(good))
        if source.random() < 0.4:
            bad = damaged(good[name], source)
        elif name == "events.jsonl":
            lines = good[name].splitlines()
            place = source.randrange(len(lines))
            lines[place] = json.dumps(changed(json.loads(lines[place]), source)).encode()
            bad = b"\n".join(lines)
        else:
            bad = json.dumps(changed(json.loads(good[name]), source)).encode()
        (path / name).write_bytes(bad)
        read_records(folder / "runs")
        for listed in list_runs(path):
            run_card(sweep.read_run_config(path), listed.summary, listed.status)
        own = RunFolder(folder / "runs", read_config(path))
        own.open()
        for look in (own.pack, own.race, own.largest_pack):
            look()
        sweep.open_run(path, device="cpu")

    return case


# ------------------------------------------------------------------------------------------------- archives


def _images() -> dict[str, bytes]:
    from PIL import Image

    files: dict[str, bytes] = {}
    source = np.random.default_rng(0)
    forms = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    for number in range(14):
        content, form = io.BytesIO(), forms[number % len(forms)]
        Image.fromarray(source.integers(0, 255, (8, 8, 3), np.uint8)).save(content, form)
        files[f"data/{'ab'[number % 2]}/{number}.{form.lower()}"] = content.getvalue()
    return files


def _tar(files: Mapping[str, bytes], form: int, source: random.Random) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=form) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if form == tarfile.PAX_FORMAT and source.random() < 0.3:
                member.pax_headers = {
                    source.choice(("path", "size", "GNU.sparse.major", "GNU.sparse.size", "GNU.sparse.map", "mtime")): (
                        source.choice(("1", "0", "-1", "x" * 200, "9" * 30, "../../x", "0,5", "1e999"))
                    )
                }
            archive.addfile(member, io.BytesIO(data))
            if source.random() < 0.1:
                link = tarfile.TarInfo(f"{name}.link")
                link.type = source.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE))
                link.linkname = source.choice((name, "/etc/passwd", "../../x", f"{name}.link", ""))
                archive.addfile(link)
    return content.getvalue()


def _with_odd_header(raw: bytes, source: random.Random) -> bytes:
    """A tar archive of which some header fields are odd and the checksum is right."""
    data = bytearray(raw)
    for _ in range(source.randint(1, 3)):
        start = 512 * source.randrange(len(data) // 512)
        field, size = source.choice(
            ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
        )
        values = (
            source.randbytes(size),
            b"7" * size,
            b"\x80" + b"\x7f" * (size - 1),
            b"\0" * size,
            b"L",
            b"x",
            b"S",
            b"g",
        )
        value = source.choice(values)[:size]
        data[start + field : start + field + len(value)] = value
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


def _zip(files: Mapping[str, bytes], source: random.Random) -> bytes:
    content = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(content, "w", source.choice(methods)) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


_COMPRESS: tuple[Callable[[bytes], bytes], ...] = (
    lambda raw: raw,
    lambda raw: gzip.compress(raw, 1),
    lambda raw: lzma.compress(raw, preset=0),
    bz2.compress,
)


def archives(folder: Path) -> Case:
    """Tar and zip archives of images: their headers, their compressed bytes, and the images."""
    images = _images()

    def case(source: random.Random) -> None:
        files = dict(images)
        if source.random() < 0.3:
            for name in source.sample(list(files), 4):
                files[name] = damaged(files[name], source)
        if source.random() < 0.35:
            raw, suffix = _zip(files, source), ".zip"
            raw = damaged(raw, source) if source.random() < 0.8 else raw
        else:
            raw = _tar(files, source.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)), source)
            raw = _with_odd_header(raw, source) if source.random() < 0.5 else raw
            raw = damaged(raw, source) if source.random() < 0.3 else raw
            raw, suffix = source.choice(_COMPRESS)(raw), ".tar"
            raw = damaged(raw, source) if source.random() < 0.3 else raw
        path = folder / f"bad{suffix}"
        path.write_bytes(raw)
        refused: list[UserError] = []
        for read in (_read_all, _match_all, _unpack, lambda path: user_data.plan(path).describe()):
            try:
                read(path)
            except UserError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    def _read_all(path: Path) -> None:
        names = file_names(path)
        assert len(list(read_files(path, names))) <= len(names)

    def _match_all(path: Path) -> None:
        list(matching_files(path, re.compile(".*", re.DOTALL)))

    def _unpack(path: Path) -> None:
        target = folder / "inside" / "target"
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        try:
            unpack(path, "data", target)
        finally:
            outside = {each.name for each in folder.iterdir()} - {"bad.zip", "bad.tar", "inside"}
            assert not outside, outside
            assert {each.name for each in target.parent.iterdir()} <= {"target"}

    return case


# ------------------------------------------------------------------------------------------------- tables and arrays


def _table_files() -> dict[str, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = np.random.default_rng(0)
    rows = [
        f"{source.normal():.3f},{'xyz'[k % 3]},2024-01-{1 + k % 28:02d},{k:03d},{'yes' if k % 2 else 'no'}"
        for k in range(40)
    ]
    text = "\n".join(["number,word,day,code,target", *rows]) + "\n"
    table = pa.table(
        {
            "number": source.normal(size=40),
            "word": ["xyz"[k % 3] for k in range(40)],
            "whole": pa.array(np.arange(40), pa.int16()),
            "day": pa.array(np.arange(40) * 10**9, pa.timestamp("ns")),
            "target": ["yes" if k % 2 else "no" for k in range(40)],
        }
    )
    parquet = io.BytesIO()
    pq.write_table(table, parquet, row_group_size=16)
    array, texts, both, packed = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, source.normal(size=(40, 3)).astype(np.float32))
    np.save(texts, np.array(["yes", "no"] * 20))
    np.savez(both, X=source.normal(size=(40, 3)), y=np.arange(40) % 2)
    np.savez_compressed(packed, x_train=source.normal(size=(30, 3)), y_train=np.arange(30) % 2, x=np.zeros((4, 3)))
    sequences = ["".join(source.choice(list("ACGT"), 12)) for _ in range(40)]
    return {
        "a.csv": text.encode(),
        "b.csv": text.replace(",", ";").encode("utf-16"),
        "a.tsv": text.replace(",", "\t").replace("x", "\xe9").encode("latin-1"),
        "a.csv.gz": gzip.compress(text.encode()),
        "a.parquet": parquet.getvalue(),
        "a.npy": array.getvalue(),
        "y.npy": texts.getvalue(),
        "a.npz": both.getvalue(),
        "b.npz": packed.getvalue(),
        "a.txt": "".join(f"{'ab'[k % 2]}\t{each}\n" for k, each in enumerate(sequences)).encode(),
        "a.fasta": "".join(f">s{k} label={'ab'[k % 2]}\n{each}\n" for k, each in enumerate(sequences)).encode(),
    }


def _odd_cells(raw: bytes, source: random.Random) -> bytes:
    """A table with odd cells: numbers out of range, dates that are none, control characters, formulas, quotes."""
    odd = ("", "nan", "1e999", "-1e400", "9" * 400, "2024-13-45", "9999-12-31T23:59:59+14:00", '"', "\x1b[2J", "=1+1")
    odd += ("\0", "\ufeff", "\u0663", "a" * 3000, "1_000", "0x10", "\ud7ff", "\n", "True", "007", "1,5", "\r")
    lines = raw.decode("latin-1").splitlines()
    for _ in range(source.randint(1, 40)):
        place = source.randrange(len(lines))
        cells = re.split(r"([,;\t])", lines[place])
        cells[source.randrange(len(cells))] = source.choice(odd)
        lines[place] = "".join(cells)
    return "\n".join(lines).encode("utf-8")


def _odd_array(raw: bytes, source: random.Random) -> bytes:
    """A `.npy` file with an odd header of the right length."""
    (length,) = struct.unpack_from("<H", raw, 8)
    shape = source.choice(
        ("(40, 3)", "(40,)", "()", "(0, 3)", "(10**9, 3)", f"({10**30},)", "(-1, 3)", "(40, 0)", "(True,)")
    )
    kinds = (
        "'<f8'",
        "'|O'",
        "'<U0'",
        "'V8'",
        "'<M8[ns]'",
        "[('a','<f4')]",
        "'>f4'",
        "'|S3'",
        "'<c8'",
        "5",
        "'" + "x" * 99 + "'",
    )
    order = source.choice(("True", "False", "2"))
    text = f"{{'descr': {source.choice(kinds)}, 'fortran_order': {order}, 'shape': {shape}}}"
    header = source.choice((text, "(" * 500, "-" * 3000 + "1", "{}", text + "#", "None")).encode()
    return raw[:8] + struct.pack("<H", len(header)) + header + raw[10 + length :]


def tables(folder: Path) -> Case:
    """CSV, TSV, Parquet, NumPy arrays, texts and FASTA, of which a plan is made."""
    good = _table_files()

    def case(source: random.Random) -> None:
        for leftover in folder.iterdir():
            leftover.unlink()
        name = source.choice(list(good))
        raw, kind = good[name], source.random()
        if kind < 0.4 and name.endswith((".csv", ".tsv", ".txt", ".fasta")) and name != "b.csv":
            raw = _odd_cells(raw, source)
        elif kind < 0.4 and name.endswith(".gz"):
            raw = gzip.compress(_odd_cells(gzip.decompress(raw), source))
        elif kind < 0.5 and name.endswith(".npy"):
            raw = _odd_array(raw, source)
        elif kind < 0.5 and name.endswith(".npz"):
            content = io.BytesIO()
            with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(content, "w") as new:
                for each in old.namelist():
                    data = old.read(each)
                    new.writestr(each, _odd_array(data, source) if source.random() < 0.5 else damaged(data, source))
            raw = content.getvalue()
        else:
            raw = damaged(raw, source)
        (folder / name).write_bytes(raw)
        if name in ("a.npy", "y.npy"):
            other = "y.npy" if name == "a.npy" else "a.npy"
            (folder / other).write_bytes(good[other])
        plan = user_data.plan(folder / ("a.npy" if name == "y.npy" else name))
        plan.describe()
        plan.encoder.to_json().encode()
        plan.sha256()

    return case


# ------------------------------------------------------------------------------------------------- the paper's data


def datasets(folder: Path) -> Case:
    """Pickles, LMDB, idx, JSON, TSV and FASTA of the paper's tasks."""
    source = np.random.default_rng(0)
    records = [{"id": str(k).encode(), "primary": "MKV" * 4, "fold_label": np.array([k % 5])} for k in range(6)]
    batch = {b"data": source.integers(0, 255, (4, 3072), np.uint8), b"labels": [1, 2, 3, 4], b"batch_label": b"x"}
    pickles = [pickle.dumps(batch, protocol) for protocol in (0, 1, 2, 4)]
    lmdb = _lmdb({b"num_examples": pickle.dumps(6)} | {str(k).encode(): pickle.dumps(r) for k, r in enumerate(records)})
    idx = bytes([0, 0, 8, 3]) + struct.pack(">III", 4, 28, 28) + bytes(4 * 784)
    plain = [{"id": k, "primary": "MKV", "fold_label": k % 5} for k in range(6)]
    table = "id\tfold\tsequence\n" + "".join(f"p{k}\t{k % 5}\tMKV\n" for k in range(6))
    labels = "id\tfold\n" + "".join(f"p{k}\t{k % 5}\n" for k in range(6))
    fasta = "".join(f">p{k} x\nMKV\n" for k in range(6))

    def case(source: random.Random) -> None:
        kind = source.choice(("pickle", "lmdb", "records", "idx", "json", "tsv", "fasta"))
        if kind == "pickle":
            place = folder / "cifar"
            place.mkdir(exist_ok=True)
            for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
                (place / name).write_bytes(damaged(source.choice(pickles), source))
            read_python(place)
        elif kind == "lmdb":
            (folder / "a.lmdb").write_bytes(damaged(lmdb, source))
            list(FORMATS["lmdb"].read(folder / "a.lmdb"))
        elif kind == "records":
            odd = {str(k).encode(): damaged(pickle.dumps(r), source) for k, r in enumerate(records)}
            (folder / "a.lmdb").write_bytes(_lmdb({b"num_examples": pickle.dumps(6)} | odd))
            list(FORMATS["lmdb"].read(folder / "a.lmdb"))
        elif kind == "idx":
            path = folder / "idx"
            raw = damaged(idx, source)
            path.write_bytes(damaged(gzip.compress(raw), source) if source.random() < 0.5 else raw)
            read_idx(path, 3)
        elif kind == "json":
            (folder / "a.json").write_text(json.dumps(changed(plain, source)), "utf-8")
            list(FORMATS["json"].read(folder / "a.json"))
        elif kind == "tsv":
            (folder / "a.tsv").write_bytes(damaged(table.encode(), source))
            list(FORMATS["tsv"].read(folder / "a.tsv"))
        else:
            (folder / "a.labels.tsv").write_bytes(damaged(labels.encode(), source))
            (folder / "a.fasta").write_bytes(damaged(fasta.encode(), source))
            list(FORMATS["fasta"].read(folder / "a.fasta"))

    return case


def _lmdb(values: Mapping[bytes, bytes], page_size: int = 4096) -> bytes:
    """An LMDB file of one leaf page; values of over 1,000 bytes lie on overflow pages."""
    page, end, pointers = bytearray(page_size), page_size, list[int]()
    overflow = b""
    for key, value in sorted(values.items()):
        is_big = len(value) > 1000
        content = (3 + len(overflow) // page_size).to_bytes(8, "little") if is_big else value
        node = struct.pack("<HHHH", len(value) & 0xFFFF, len(value) >> 16, is_big, len(key)) + key + content
        end -= len(node) + len(node) % 2
        page[end : end + len(node)] = node
        pointers.append(end)
        if is_big:
            pages = -(-(16 + len(value)) // page_size)
            overflow += (bytes(16) + value).ljust(pages * page_size, b"\0")
    struct.pack_into("<Q2xHHH", page, 0, 2, 2, 16 + 2 * len(pointers), end)
    struct.pack_into(f"<{len(pointers)}H", page, 16, *pointers)
    last = 2 + len(overflow) // page_size
    meta = struct.pack("<16xII16xI44x4xHH24xQQQQ", 0xBEEFC0DE, 1, page_size, 0, 1, len(values), 2, last, 1)
    return meta.ljust(page_size, b"\0") * 2 + bytes(page) + overflow


# ------------------------------------------------------------------------------------------------- bodies


def bodies(folder: Path) -> Case:
    """Folders of bodies: their config.json and their weights."""
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

    small: dict[str, Any] = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = {
        "bert": BertModel(BertConfig(**small, intermediate_size=32, max_position_embeddings=32)),
        "gpt2": GPT2Model(GPT2Config(**small, n_positions=32, bos_token_id=0, eos_token_id=0)),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    good = {name: (folder / name / "config.json").read_bytes() for name in models}
    weights = {name: (folder / name / "model.safetensors").read_bytes() for name in models}

    def case(source: random.Random) -> None:
        name = source.choice(list(good))
        (folder / name / "config.json").write_bytes(good[name])
        (folder / name / "model.safetensors").write_bytes(weights[name])
        if source.random() < 0.75:
            odd = json.dumps(changed(json.loads(good[name]), source)).encode()
            (folder / name / "config.json").write_bytes(odd if source.random() < 0.9 else damaged(good[name], source))
        else:
            (folder / name / "model.safetensors").write_bytes(damaged(weights[name], source))
        kind = source.choice(("pretrained", "random", "statistics"))
        build_backbone(BodyRequest(str(folder / name), kind, hub="off"))

    return case


KINDS: Mapping[str, Callable[[Path], Case]] = {
    "programs": programs,
    "results": results,
    "runs": runs,
    "archives": archives,
    "tables": tables,
    "datasets": datasets,
    "bodies": bodies,
}
