"""Engine: programs of any tasks on one frozen body, in one pass even if every row is another program's.

The body's products see one batch; only norms, input and output layers are per program: they are gathered for the
programs of a pass, and batched over programs of equal shapes. So a program costs its own few numbers.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from icecore.backbones.backbone import Backbone
from icecore.backbones.modules.body_pass import BodyPass, NormParameters
from icecore.backbones.modules.kernels import can_compile
from icecore.core.config import PRECISIONS, SINGLE_ROLES
from icecore.core.device import activation_dtype, to_device
from icecore.core.errors import ConfigError, DataError, WeightsError, unknown_name
from icecore.model.forward import ProgramStack, Segment, read_features, without_prefix
from icecore.model.layers import LayerWeights
from icecore.model.program import Program
from icecore.model.program_shapes import check_shapes, program_shapes
from icecore.tasks.task import Batch, TaskSpec
from icecore.training.evaluation import TOKENS_PER_PASS
from icecore.training.micro_batches import split_by_length

#: most numbers that gathering a layer's weights for each row may take (64 MB); if there would be more, the rows of
#: each program are a segment of their own: layers so large hide what a further call costs
MAX_GATHERED = 2**24

#: tokens of a pass from which compiled kernels save more than their calls cost: about 10 ms a pass on two cores
COMPILED_FROM = 1024

#: weight (in, out) or (V, D) of a layer, and its bias or None for an embedding
_Layer = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class LoadedProgram:
    """A program ready to be used on an engine's body. Programs of one `shape` are batched.

    prefix     (K, D) vectors before the first token, or None
    input_rms  root mean square of every token after the input layer; None leaves it as it is
    norms      gains and biases of all norms in one vector
    """

    name: str
    spec: TaskSpec
    shape: tuple[object, ...]
    input_layers: Sequence[_Layer]
    output_layers: Sequence[_Layer]
    positions: Tensor | None
    prefix: Tensor | None
    input_rms: float | None
    norms: Tensor


class Engine:
    """Serves any number of programs on one body. Threads may share an engine, and engines may share a body.

    >>> Engine(body).add(first).add(second, name="mine").predict(rows, [0, "mine", "mine"])  # doctest: +SKIP

    Parameters:
        backbone: the body that the programs were trained on, on its device; its frozen weights are rounded to
            `precision`
        precision: of the frozen products: "fp32", "bf16" or "int8"
    """

    def __init__(self, backbone: Backbone, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        backbone.round_weights(precision)
        self.backbone = backbone.eval().requires_grad_(False)
        self.device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
        self.dtype = activation_dtype(precision)
        self.is_compiled = False
        self._programs: dict[str, LoadedProgram] = {}

    def __len__(self) -> int:
        return len(self._programs)

    @property
    def names(self) -> list[str]:
        """The programs' names in the order in which they were added; a program's place in it is its index."""
        return list(self._programs)

    def add(self, program: Program, name: str | None = None) -> "Engine":
        """Serve `program` too. Its tensors are not copied if they lie on the body's device already.

        name  None: its task's, with the program's number if that is taken

        Raises ConfigError for a name that is taken, and what `load` raises.
        """
        if name is None:
            task = program.config.task
            numbered = (f"{task}-{number}" for number in itertools.count(len(self) + 1))
            name = next(free for free in itertools.chain([task], numbered) if free not in self._programs)
        if name in self._programs:
            raise ConfigError(f"There is a program {name!r} already. Remove it first, or choose another name.")
        self._programs[name] = self.load(program, name)
        return self

    def load(self, program: Program, name: str) -> LoadedProgram:
        """The program ready for `predict`, without adding it to the engine. `name` is for messages.

        Raises ConfigError for programs that changed the body, WeightsError if the body is not the one that the
        program was trained on (both fingerprints are shown), DataError naming a tensor that does not fit.
        """
        self._check_body(program, name)
        shapes = program_shapes(program, self.backbone)
        check_shapes(program, shapes, f"Program {name!r}: tensor")
        tensors = {tensor: program.tensors[tensor].detach().to(self.device) for tensor in shapes}
        spec, config = program.spec, program.config
        norms = [tensors[f"body.{norm}"] for norm in self._norm_names()]
        return LoadedProgram(
            name,
            spec,
            (spec, config.input_hidden, config.output_hidden, config.prefix_length, config.input_norm),
            _layers(tensors, "input", len(config.input_hidden) + 1),
            _layers(tensors, "output", len(config.output_hidden) + 1),
            tensors.get("positions"),
            tensors.get("prefix"),
            program.input_rms(self.backbone),
            torch.cat(norms) if norms else torch.empty(0, device=self.device),
        )

    def remove(self, name: str) -> None:
        """Stop serving a program; later ones move up in `names`. Raises ConfigError for an unknown name."""
        if name not in self._programs:
            raise unknown_name("program", name, self._programs)
        del self._programs[name]

    @torch.no_grad()
    def predict(
        self,
        rows: Sequence[Tensor] | Batch,
        programs: str | int | LoadedProgram | Sequence[str | int | LoadedProgram],
        check_finite: bool = True,
    ) -> list[Tensor]:
        """Logits (n, C) in fp32 of each row, in the order given, with the n and C of the row's own task.

        rows          each (T, P) numbers or (T,) whole numbers, of any length up to its task's; or a batch
        programs      name or index of each row's program, or what `load` returned; or one for all rows
        check_finite  False leaves it to the caller to find the rows whose logits are not finite

        Raises ConfigError for an unknown program, DataError naming a row that its program cannot read or for which
        its logits are not finite.
        """
        if isinstance(rows, Batch):
            ends = rows.row_lengths()
            rows = [tokens[:end] for tokens, end in zip(rows.tokens.unbind(), ends, strict=True)]
        choices = [programs] * len(rows) if isinstance(programs, str | int | LoadedProgram) else programs
        if len(rows) != len(choices):
            raise DataError(f"There are {len(rows)} rows but {len(choices)} programs. Name one program for each row.")
        chosen = self._chosen(choices)
        for number, (row, program) in enumerate(zip(rows, chosen, strict=True)):
            _check_row(number, row, program)
        shapes = {shape: rank for rank, shape in enumerate(dict.fromkeys(p.shape for p in chosen))}
        ranks = {program: (shapes[program.shape], rank) for rank, program in enumerate(dict.fromkeys(chosen))}
        logits: dict[int, Tensor] = {}
        finite: list[Tensor] = []
        for indices in self._passes([len(row) for row in rows]):
            indices.sort(key=lambda index: ranks[chosen[index]])
            segments = self._run_pass([rows[index] for index in indices], [chosen[index] for index in indices])
            if check_finite:
                finite.append(torch.stack([each.isfinite().all() for each in segments]).all())
            logits |= zip(indices, (row for each in segments for row in each.unbind()), strict=True)
        # one look for all rows, because each costs a wait for the device
        if finite and not bool(torch.stack(finite).all()):
            raise _not_finite(logits, chosen)
        return [logits[index] for index in range(len(rows))]

    def compile_kernels(self, program: Program) -> None:
        """Compute the elementwise work of large passes with compiled kernels, which are compiled now, on `program`.

        This takes up to half a minute; afterwards, passes are faster and leave other threads of Python alone for
        longer. Raises ConfigError without a compiler, and what `load` raises.
        """
        if not can_compile(self.device):
            needed = "Triton" if self.device.type == "cuda" else "g++ or clang++"
            raise ConfigError(f"Kernels cannot be compiled for {self.device}, which needs {needed}.")
        self.is_compiled = True
        one, other = self.load(program, "one"), self.load(program, "other")
        spec = program.spec
        discrete = spec.kind == "discrete"
        row = torch.zeros(spec.length, dtype=torch.int64) if discrete else torch.zeros(spec.length, spec.size)
        rows = [row] * (1 + math.ceil(COMPILED_FROM / spec.length))
        self.predict(rows, one)
        self.predict(rows, [one, *[other] * (len(rows) - 1)])  # norms of several programs are another kernel

    @torch.no_grad()
    def attention(self, row: Tensor, program: str | int | LoadedProgram) -> Tensor:
        """Attention weights (L, H, T, T) of each layer and head on one row (T, P) or (T,): queries by keys.

        Raises what `predict` raises, and ConfigError for a body whose attention cannot be recorded.
        """
        (chosen,) = self._chosen([program])
        _check_row(0, row, chosen)
        layers: list[Tensor] = []
        self._run_pass([row], [chosen], lambda weights: layers.append(weights[0]))
        if not layers:
            raise ConfigError(f"{self.backbone.info.name}: This body has no attention to show.")
        return torch.stack(layers)

    def _check_body(self, program: Program, name: str) -> None:
        """Raise ConfigError or WeightsError unless the body is, frozen, the one that `program` was trained on."""
        config, info = program.config, self.backbone.info
        single = sorted(SINGLE_ROLES.intersection(config.train_roles))
        if single:
            raise ConfigError(
                f"Program {name!r} trained {', '.join(single)}, so its body differs from every other and cannot be "
                "shared. Use it alone, with icecore.load_run."
            )
        fingerprint = self.backbone.fingerprint(config.train_roles)
        if program.fingerprint != fingerprint:
            raise WeightsError(
                f"Program {name!r} was trained on another body: fingerprint {program.fingerprint}, {info.name} "
                f"({info.weights}) here has {fingerprint}. The program's body is: backbone {config.backbone}, weights "
                f"{config.weights}, layers {config.layers or 'all'}, body_seed {config.body_seed}."
            )

    def _norm_names(self) -> list[str]:
        """The names of all norm tensors of the body, in order."""
        return [f"{n}.{kind}" for n, norm in self.backbone.norms().items() for kind, _ in norm.named_parameters()]

    def _chosen(self, choices: Sequence[str | int | LoadedProgram]) -> list[LoadedProgram]:
        programs, chosen = list(self._programs.values()), []
        for choice in choices:
            if isinstance(choice, LoadedProgram):
                chosen.append(choice)
            elif isinstance(choice, str):
                if choice not in self._programs:
                    raise unknown_name("program", choice, self._programs)
                chosen.append(self._programs[choice])
            elif 0 <= choice < len(programs):
                chosen.append(programs[choice])
            else:
                raise ConfigError(f"There is no program {choice}: the engine has {len(programs)}, counted from 0.")
        return chosen

    def _passes(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The indices of the rows of each pass."""
        if lengths:
            # rows of different tasks make no tensor; the split looks at lengths and device only
            empty = torch.empty(len(lengths), max(lengths), 0, device=self.device)
            batch = Batch(empty, empty, torch.tensor(lengths))
            for _, index in split_by_length(batch, runs=1, tokens=TOKENS_PER_PASS[self.device.type]):
                yield torch.arange(len(lengths))[index].tolist()

    def _run_pass(
        self,
        rows: Sequence[Tensor],
        programs: Sequence[LoadedProgram],
        record: Callable[[Tensor], object] | None = None,
    ) -> list[Tensor]:
        """Logits (N, n, C) of each segment; rows of one shape of programs, and of one program, lie beside each other.

        `record` is called with the attention weights among tokens of each layer, see `BodyPass`; programs of one shape
        only.
        """
        lengths = torch.tensor([len(row) for row in rows])
        full = int(lengths.min()) == int(lengths.max())
        segments = list(self._segments(rows, programs))
        used, run_of_row = _stacked_runs(programs, self.device)
        if record is not None and used[0].prefix is not None:
            record = without_prefix(record, len(used[0].prefix))
        compiled = self.is_compiled and int(lengths.sum()) >= COMPILED_FROM
        body_pass = BodyPass(self._pass_norms(used), run_of_row, compiled=compiled, record=record)
        read_lengths = None if full else to_device(lengths, self.device)
        features = read_features(self.backbone, segments, read_lengths, body_pass, self.dtype)
        return [
            segment.programs.logits(read, segment.run_of_row) for segment, read in zip(segments, features, strict=True)
        ]

    def _pass_norms(self, programs: Sequence[LoadedProgram]) -> Mapping[torch.nn.Module, NormParameters]:
        """The gains and biases (R, D) of each norm for the programs of a pass."""
        norms = self.backbone.norms().values()
        widths = [parameter.shape[0] for norm in norms for _, parameter in norm.named_parameters()]
        parts = iter(torch.stack([program.norms for program in programs]).split(widths, 1))
        return {norm: NormParameters(next(parts), None if norm.bias is None else next(parts)) for norm in norms}

    def _segments(self, rows: Sequence[Tensor], programs: Sequence[LoadedProgram]) -> Iterator[Segment]:
        """The rows of each shape of programs; if gathered weights would be too many, those of each program."""
        start = 0
        for _, group in itertools.groupby(programs, lambda program: program.shape):
            same_shape = list(group)
            largest = max(weight.numel() for weight, _ in (*same_shape[0].input_layers, *same_shape[0].output_layers))
            apart = len(same_shape) * largest > MAX_GATHERED
            for part in [list(own) for _, own in itertools.groupby(same_shape)] if apart else [same_shape]:
                used, run_of_row = _stacked_runs(part, self.device)
                stack = _stack(used)
                dtype = torch.int64 if stack.spec.kind == "discrete" else torch.float32
                # an operation on each row would cost a server's passes more than the rows themselves, see the batcher
                part_rows = [row if row.dtype == dtype else row.to(dtype) for row in rows[start : start + len(part)]]
                yield Segment(stack, to_device(pad_sequence(part_rows, batch_first=True), self.device), run_of_row)
                start += len(part)


def _layers(tensors: Mapping[str, Tensor], part: str, count: int) -> list[_Layer]:
    """Weight and bias of each layer of "input" or "output"."""
    names = [f"{part}.layers.{number}" for number in range(count)]
    return [(tensors[f"{name}.weight"], tensors.get(f"{name}.bias")) for name in names]


def _check_row(number: int, row: Tensor, program: LoadedProgram) -> None:
    """Raise DataError unless `program` can read `row`."""
    spec = program.spec
    discrete = spec.kind == "discrete"
    inner = () if discrete else (spec.size,)
    reads = f"program {program.name!r} reads"
    if row.dim() == 0 or tuple(row.shape[1:]) != inner or not spec.read_positions <= len(row) <= spec.length:
        shape = f"(T,{'' if discrete else f' {spec.size}'}) with T from {spec.read_positions} to {spec.length}"
        raise DataError(f"Row {number} has tokens of shape {tuple(row.shape)}, but {reads} {shape}.")
    if discrete and row.is_floating_point():
        raise DataError(f"Row {number} has tokens of {row.dtype}, but {reads} whole numbers.")
    if discrete:
        low, high = (int(end) for end in row.aminmax())
        if low < 0 or high >= spec.size:  # beyond its vocabulary lies that of the next program
            raise DataError(f"Row {number} has tokens from {low} to {high}, but {reads} 0 to {spec.size - 1}.")


def _not_finite(logits: Mapping[int, Tensor], programs: Sequence[LoadedProgram]) -> DataError:
    """An error that names the first row whose logits are not finite, so that no label is made of them."""
    number = min(number for number, row in logits.items() if not row.isfinite().all())
    return DataError(
        f"Program {programs[number].name!r} gives NaN or infinite logits for row {number}. Its weights or the row's "
        "numbers are too large."
    )


def _stacked_runs(programs: Sequence[LoadedProgram], device: torch.device) -> tuple[list[LoadedProgram], Tensor | None]:
    """The distinct programs of rows, and which of them is each row's (N,), or None if there is only one."""
    runs = {program: run for run, program in enumerate(dict.fromkeys(programs))}
    if len(runs) == 1:
        return list(runs), None
    return list(runs), to_device(torch.tensor([runs[program] for program in programs]), device)


def _stack(programs: Sequence[LoadedProgram]) -> ProgramStack:
    """Programs of one shape as one stack with a run axis."""

    def stacked(parts: Sequence[Sequence[_Layer]]) -> list[LayerWeights]:
        layers: list[LayerWeights] = []
        for layer in zip(*parts, strict=True):
            biases = [bias for _, bias in layer if bias is not None]
            weight = torch.stack([weight for weight, _ in layer])
            layers.append(LayerWeights(weight, torch.stack(biases) if biases else None))
        return layers

    positions = [program.positions for program in programs if program.positions is not None]
    prefixes = [program.prefix for program in programs if program.prefix is not None]
    return ProgramStack(
        programs[0].spec,
        stacked([program.input_layers for program in programs]),
        stacked([program.output_layers for program in programs]),
        torch.stack(positions) if positions else None,
        torch.stack(prefixes) if prefixes else None,
        programs[0].input_rms,
    )
