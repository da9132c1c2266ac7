"""`icecore pretrain` writes weights that a body of the same sizes starts from."""

from collections.abc import Mapping
from pathlib import Path

import torch

from commandline import Run
from icecore.backbones import BodyRequest, build_backbone
from icecore.experiments.pretraining import pretraining_config
from icecore.training.checkpoint import read_config


def test_a_pretrained_body_can_be_used(run: Run, bodies: Mapping[str, str], tmp_path: Path) -> None:
    file, body = tmp_path / "new" / "dyck.safetensors", bodies["bert"]
    few = ("--steps", 4, "--batch-size", 2, "--eval-every", 2, "--eval-examples", 4, "--test-examples", 4)
    pretraining = ("pretrain", "dyck", "--task-option", "length=8", "--backbone", body, *few, "--quiet")
    ended = run(*pretraining, "--out", file, "--runs", tmp_path / "runs")
    assert ended.code == 0, ended.err
    shown = " ".join(ended.out.split())
    assert "on dyck after 4 steps" in shown
    assert f"--weights {file}" in shown.replace(" ", "") or "--weights" in shown
    (config,) = (read_config(path.parent) for path in (tmp_path / "runs").glob("*/config.json"))
    assert (config.protocol, config.lr_scale, config.lr) == ("fair", None, 1e-3)  # the rates of matrices are absolute
    few_steps = {"steps": 4, "batch_size": 2, "eval_every": 2, "eval_examples": 4, "test_examples": 4}
    settings = {"backbone": body, "task_options": {"length": 8}, **few_steps}
    assert config == pretraining_config("dyck", "auto", "auto", **settings)
    trained, drawn = (build_backbone(BodyRequest(body, weights)) for weights in (str(file), "random"))
    for name, tensor in trained.tensors().items():
        # every tensor was trained, positions beyond the task's length excepted
        assert not torch.equal(tensor, drawn.tensors()[name]), name
    assert run("train", "bit-xor", "--backbone", body, "--weights", file, *few, "--out", tmp_path / "use").code == 0


def test_what_cannot_be_written_is_said_before_training(run: Run, bodies: Mapping[str, str], tmp_path: Path) -> None:
    ended = run("pretrain", "copy", "--backbone", bodies["bert"], "--out", tmp_path / "body.bin", "--runs", tmp_path)
    assert ended.code == 2
    assert "weights are written as .safetensors" in ended.err
    assert not list(tmp_path.iterdir())


def test_without_a_body_there_is_nothing_to_pretrain(run: Run, tmp_path: Path) -> None:
    ended = run("pretrain", "copy", "--backbone", "none", "--out", tmp_path / "b.safetensors", "--runs", tmp_path)
    assert ended.code == 2
    assert "nothing to pretrain" in ended.err


def test_a_folder_that_cannot_be_written_is_noticed_before_training(
    run: Run, bodies: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "b.safetensors"
    ended = run("pretrain", "copy", "--backbone", bodies["bert"], "--out", out, "--runs", tmp_path / "runs")
    assert ended.code != 0
    assert "cannot be written" in " ".join(ended.err.split())
    assert not (tmp_path / "runs").exists()


def test_bodies_without_random_weights_are_refused(run: Run, tmp_path: Path) -> None:
    ended = run("pretrain", "copy", "--backbone", "nonesuch", "--out", tmp_path / "b.safetensors", "--runs", tmp_path)
    assert ended.code == 2
    assert "Unknown backbone 'nonesuch'" in ended.err
