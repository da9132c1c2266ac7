"""Pretraining a body: all of a random body is trained on one task, and its weights are kept for `--weights FILE`."""

import tempfile
from pathlib import Path

from icecore.backbones import build_body_of
from icecore.core.config import ROLES, RunConfig
from icecore.core.errors import ConfigError, UserError
from icecore.core.protocols import PRETRAINING_DEFAULTS
from icecore.core.storage import storage_errors
from icecore.experiments import sweep
from icecore.model.loading import write_body
from icecore.model.program import Program
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.run_summary import RunSummary

#: tasks that need no data
PROCEDURAL = ("bit-memory", "copy", "dyck", "nca")


def pretraining_config(task: str, precision: str = "auto", device: str = "auto", **settings: object) -> RunConfig:
    """The run that trains all of a random body on `task`; what `settings` leaves out has its default.

    Raises ConfigError for unknown names and values, and for bodies that have no random weights.
    """
    if settings.get("backbone") == "none":
        raise ConfigError("--backbone none: without a body there is nothing to pretrain. Name a body.")
    given = {name: value for name, value in settings.items() if value is not None}
    settings = {**PRETRAINING_DEFAULTS, "weights": "random", **given}
    return sweep.make_config(task, precision, device, train_roles=ROLES, **settings)


def pretrain(config: RunConfig, context: ExecutionContext, file: Path) -> RunSummary:
    """Train `config` as far as it is not trained yet, and write the body's weights to `file`. Returns its summary.

    Raises ConfigError if `file` is not a .safetensors file, UserError if training diverged, StorageError.
    """
    if file.suffix != ".safetensors":
        raise ConfigError(f"--out {file}: weights are written as .safetensors. Choose such a name.")
    with storage_errors(file):  # noticed before hours of training
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(dir=file.parent).close()
    (summary,) = sweep.run_sweep([config], context).runs
    if summary.val_metric is None:
        raise UserError(f"The pretraining of {config.backbone} diverged, so no weights were written. Lower --lr.")
    program = Program.load(RunFolder(context.out, config).program_path)
    write_body(program, build_body_of(config), file)
    return summary
