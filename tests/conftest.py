"""Fixtures shared by all tests: real data where it is, tiny bodies and tasks, a cache of its own."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from commandline import Ended, Run
from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.cli import main as cli
from icecore.core.config import RunConfig
from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import TaskSpec

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def stand_in_aeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package aeon that a test writes, in place of an installed one. It is forgotten after the test."""

    def imported() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "aeon"]

    for name in imported():
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "site" / "aeon"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for name in imported():
        del sys.modules[name]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data (MNIST, CIFAR-10, homology); skips where there is none."""
    places = [os.environ.get("ICECORE_DATA"), ROOT / ".." / "shared" / "data"]
    for place in places:
        if place and Path(place).is_dir():
            return Path(place).resolve()
    pytest.skip("no real data: set ICECORE_DATA to a folder with mnist/, cifar10-jpeg.tar.xz, homology/")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, data folder or the network."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("ICECORE_CACHE", str(cache))
    monkeypatch.delenv("ICECORE_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Tests that draw from the global generator draw the same every time."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny products gain nothing from threads and lose much where others compute beside them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Folders by family as `save_pretrained` writes them: 2 layers of width 16, weights random."""
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

    folder = tmp_path_factory.mktemp("bodies")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        models = {
            "bert": BertModel(BertConfig(**SMALL, intermediate_size=32, max_position_embeddings=32)),
            "gpt2": GPT2Model(GPT2Config(**SMALL, n_positions=32, bos_token_id=0, eos_token_id=0)),
        }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return {name: str(folder / name) for name in models}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["icecore", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        code = ended.value.code
        return Ended(
            0 if code is None else code if isinstance(code, int) else 1, shown.out, " ".join(shown.err.split())
        )

    return call


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of benchmarks/ by name, as a script there would."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def body(bodies: Mapping[str, str]) -> Callable[..., Backbone]:
    """Builds a fresh tiny body of a family: `body("bert", weights="random")`."""

    def build(family: str = "bert", **request: Any) -> Backbone:
        return build_backbone(BodyRequest(bodies[family], **request))

    return build


@pytest.fixture
def config(bodies: Mapping[str, str]) -> Callable[..., RunConfig]:
    """Configures a short run of bit XOR over two bits on a tiny body: `config(lr=3e-3, seed=1)`."""

    def build(family: str = "bert", **changes: Any) -> RunConfig:
        few = {"steps": 12, "batch_size": 4, "lr": 1e-2, "eval_every": 4, "task_options": {"n": 2}}
        return RunConfig(**{"task": "bit-xor", "backbone": bodies[family], **few, **changes})

    return build


class Ragged(StoredTask):
    """Sequences of 1 to 9 tokens of a vocabulary of 7: which token comes last decides the class."""

    name = "ragged"
    spec = TaskSpec("discrete", length=9, size=7, outputs=7)

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        splits = {}
        for split, count in {"train": 40, "val": 11, "test": 13}.items():
            lengths = torch.randint(1, 10, (count,), generator=generator)
            inputs = torch.randint(1, 7, (count, 9), generator=generator)
            inputs *= torch.arange(9) < lengths[:, None]
            splits[split] = Examples(inputs, inputs.gather(1, lengths[:, None] - 1)[:, 0], lengths)
        super().__init__(splits)

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        return inputs


@pytest.fixture
def ragged() -> Ragged:
    """A discrete task with sequences of different lengths, of which each batch is cut to its longest."""
    return Ragged()
