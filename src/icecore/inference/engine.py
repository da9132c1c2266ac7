"""Engine: programs of any tasks on one frozen body, in one pass though every row may be another program's.

The body's products see one batch; only norms, input and output layers are per program: gathered for the
programs of a pass, batched over programs of equal shapes. So a program costs its own few numbers.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from icecore.backbones.backbone import Backbone, gather
from icecore.core.config import PRECISIONS, SINGLE_ROLES
from icecore.core.device import to_device
from icecore.core.errors import ConfigError, DataError, WeightsError, unknown_name
from icecore.model.fpt import RunEmbedding, RunLinear, RunMLP, round_frozen_weights
from icecore.model.program import Program
from icecore.tasks.task import Batch, TaskSpec
from icecore.training.evaluation import TOKENS_PER_PASS
from icecore.training.micro_batches import split_by_length

#: numbers that a layer's weights may have, gathered for each row of equally shaped programs (64 MB); where they
#: would be more, each program's rows are multiplied by themselves: layers so large hide what a call costs
GATHERED = 2**24
#: roles that a program may have trained, and on which its fingerprint of what was frozen therefore depends
_SHARED = ("norm", "position")

_Layers = Sequence[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class _Held:
    """A program ready to be used. Programs of one `shape` are batched.

    input, output  weight (in, out) or (V, D) and bias, None of embeddings, of each layer
    norms          gains and biases of all norms in one vector
    """

    name: str
    spec: TaskSpec
    shape: tuple[object, ...]
    input: _Layers
    output: _Layers
    positions: Tensor | None
    norms: Tensor


@dataclass(frozen=True)
class _Group:
    """Neighbouring rows of a pass whose programs have one shape; `run_of_row` is None for a single program."""

    rows: slice
    programs: Sequence[_Held]
    run_of_row: Tensor | None

    @property
    def spec(self) -> TaskSpec:
        return self.programs[0].spec


class Engine:
    """Serves any number of programs on one body.

    >>> Engine(body).add(first).add(second, name="mine").predict(rows, [0, "mine", "mine"])  # doctest: +SKIP

    Parameters:
        backbone: the body the programs were trained on, on its device; in fp32 it is only borrowed, otherwise
            its frozen weights are rounded
        precision: of the frozen products: "fp32", "bf16" or "int8"
    """

    def __init__(self, backbone: Backbone, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise unknown_name("precision", precision, PRECISIONS)
        self.body = backbone.eval().requires_grad_(False)
        self.device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._programs: dict[str, _Held] = {}
        self._norms = {f"body.{n}.{k}": p for n, norm in backbone.norms().items() for k, p in norm.named_parameters()}
        self._fingerprints: dict[frozenset[str], str] = {}
        if precision != "fp32":
            # once rounded, the body can no longer say what it was
            for count in range(len(_SHARED) + 1):
                for trained in itertools.combinations(_SHARED, count):
                    self._fingerprint(frozenset(trained))
        round_frozen_weights(backbone, precision)

    def __len__(self) -> int:
        return len(self._programs)

    @property
    def names(self) -> list[str]:
        """The programs' names in the order they were added; a program's place in it is its index."""
        return list(self._programs)

    def add(self, program: Program, name: str | None = None) -> "Engine":
        """Hold `program` too. Its tensors are kept as they are where they lie on the body's device already.

        name  None: its task's, with the program's number where that is taken

        Raises ConfigError for a name that is taken and for programs that changed the body, WeightsError where
        the body is not the one it was trained on (both fingerprints shown), DataError naming a tensor that
        does not fit.
        """
        if name is None:
            task = program.config.task
            numbered = (f"{task}-{number}" for number in itertools.count(len(self) + 1))
            name = next(free for free in itertools.chain([task], numbered) if free not in self._programs)
        if name in self._programs:
            raise ConfigError(f"there is a program {name!r} already: remove it first, or give this one another name")
        self._check_body(program, name)
        tensors: dict[str, Tensor] = {}
        for tensor, expected in self._shapes(program).items():
            source = program.tensors.get(tensor)
            if source is None or tuple(source.shape) != expected:
                found = "missing" if source is None else f"of shape {tuple(source.shape)}"
                raise DataError(f"program {name!r}: tensor {tensor} is {found}, expected shape {expected}")
            tensors[tensor] = source.detach().to(self.device)
        spec, config = program.spec, program.config
        norms = [tensors[norm] for norm in self._norms]
        self._programs[name] = _Held(
            name,
            spec,
            (spec, config.input_hidden, config.output_hidden),
            _own_layers(tensors, "input", len(config.input_hidden) + 1),
            _own_layers(tensors, "output", len(config.output_hidden) + 1),
            tensors.get("positions"),
            torch.cat(norms) if norms else torch.empty(0, device=self.device),
        )
        return self

    def remove(self, name: str) -> None:
        """Let the program go; later ones move up in `names`. Raises ConfigError for a name that is not there."""
        if name not in self._programs:
            raise unknown_name("program", name, self._programs)
        del self._programs[name]

    @torch.no_grad()
    def predict(self, rows: Sequence[Tensor] | Batch, which: str | int | Sequence[str | int]) -> list[Tensor]:
        """Logits (n, C) in fp32 of each row, in the order given, with the n and C of the row's own task.

        rows   each (T, P) numbers or (T,) whole numbers, of any length up to its task's; or a batch
        which  name or index of each row's program, or of that of all rows

        Raises ConfigError for a program that is not there, DataError naming a row that its program cannot read.
        """
        if isinstance(rows, Batch):
            ends = [rows.tokens.shape[1]] * len(rows) if rows.lengths is None else rows.lengths.tolist()
            rows = [tokens[:end] for tokens, end in zip(rows.tokens.unbind(), ends, strict=True)]
        which = [which] * len(rows) if isinstance(which, str | int) else which
        if len(rows) != len(which):
            raise DataError(f"{len(rows)} rows, but programs of {len(which)}: name one program for each row")
        programs = self._chosen(which)
        for number, (row, program) in enumerate(zip(rows, programs, strict=True)):
            _check_row(number, row, program)
        shapes = {shape: rank for rank, shape in enumerate(dict.fromkeys(p.shape for p in programs))}
        ranks = {program: (shapes[program.shape], rank) for rank, program in enumerate(dict.fromkeys(programs))}
        found: dict[int, Tensor] = {}
        for places in self._cut([len(row) for row in rows]):
            places.sort(key=lambda place: ranks[programs[place]])
            logits = self._pass([rows[place] for place in places], [programs[place] for place in places])
            found |= zip(places, logits, strict=True)
        return [found[place] for place in range(len(rows))]

    def _check_body(self, program: Program, name: str) -> None:
        """Raises ConfigError or WeightsError unless the body is, frozen, the one that `program` was trained on."""
        config, info = program.config, self.body.info
        single = sorted(SINGLE_ROLES.intersection(config.train_roles))
        if single:
            raise ConfigError(
                f"program {name!r} trained {', '.join(single)}: its body is another one, which it cannot share; "
                "use it alone (icecore.model.program.assemble)"
            )
        here = self._fingerprint(frozenset(_SHARED).intersection(config.train_roles))
        if program.fingerprint != here:
            raise WeightsError(
                f"program {name!r} was trained on another body: fingerprint {program.fingerprint}, {info.name} "
                f"({info.weights}) here has {here}; the program's: backbone {config.backbone}, weights "
                f"{config.weights}, layers {config.layers or 'all'}, body_seed {config.body_seed}"
            )

    def _fingerprint(self, trained: frozenset[str]) -> str:
        """That of the body's tensors whose role is not `trained`."""
        if trained not in self._fingerprints:
            self._fingerprints[trained] = self.body.fingerprint(trained)
        return self._fingerprints[trained]

    def _shapes(self, program: Program) -> dict[str, tuple[int, ...]]:
        """What each tensor of `program` must be."""
        spec, config, info = program.spec, program.config, self.body.info
        # without a body the output layer reads all positions at once
        read, written = (spec.length, spec.read_positions) if info.identity else (1, 1)
        sizes = {
            "input": [spec.size, *config.input_hidden, info.width],
            "output": [read * info.width, *config.output_hidden, written * spec.outputs],
        }
        shapes: dict[str, tuple[int, ...]] = {name: tuple(p.shape[1:]) for name, p in self._norms.items()}
        if self.body.takes_positions:
            shapes["positions"] = (spec.length, info.width)
        for part, widths in sizes.items():
            for number, pair in enumerate(itertools.pairwise(widths)):
                shapes[f"{part}.layers.{number}.weight"] = pair
                if part == "output" or number > 0 or spec.kind == "continuous":
                    shapes[f"{part}.layers.{number}.bias"] = pair[1:]
        return shapes

    def _chosen(self, which: Sequence[str | int]) -> list[_Held]:
        held, chosen = list(self._programs.values()), []
        for choice in which:
            if isinstance(choice, str):
                if choice not in self._programs:
                    raise unknown_name("program", choice, self._programs)
                chosen.append(self._programs[choice])
            elif 0 <= choice < len(held):
                chosen.append(held[choice])
            else:
                raise ConfigError(f"no program {choice}: {len(held)} held, counted from 0")
        return chosen

    def _cut(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The rows' places, pass by pass."""
        if lengths:
            # rows of different tasks make no tensor; the cut looks at lengths and device only
            empty = torch.empty(len(lengths), max(lengths), 0, device=self.device)
            plan = Batch(empty, empty, torch.tensor(lengths))
            for _, index in split_by_length(plan, runs=1, tokens=TOKENS_PER_PASS[self.device.type]):
                yield torch.arange(len(lengths))[index].tolist()

    def _pass(self, rows: Sequence[Tensor], programs: Sequence[_Held]) -> list[Tensor]:
        """Logits (n, C) of each row; rows whose programs have one shape, and in them those of one program, adjoin."""
        groups = list(_groups(programs, self.device))
        ends = torch.tensor([len(row) for row in rows])
        N, T = len(rows), int(ends.max())
        full = int(ends.min()) == T
        ends = to_device(ends, self.device)
        mask = None if full else torch.arange(T, device=self.device) < ends[:, None]
        x = torch.zeros(N, T, self.body.info.width, device=self.device, dtype=self.dtype)
        for group in groups:
            dtype = torch.int64 if group.spec.kind == "discrete" else torch.float32
            tokens = pad_sequence([row.to(dtype) for row in rows[group.rows]], batch_first=True)
            inputs = _inputs(group, to_device(tokens, self.device))
            x[group.rows, : inputs.shape[1]] = inputs
        with self._serving(programs):
            read = list(self._read(x, mask, ends, groups))
        found: list[Tensor] = []
        for group, features in zip(groups, read, strict=True):
            logits = _layers([p.output for p in group.programs])(features.float(), group.run_of_row)
            found += logits.view(len(features), group.spec.read_positions, group.spec.outputs).unbind()
        return found

    def _read(self, x: Tensor, mask: Tensor | None, ends: Tensor, groups: Sequence[_Group]) -> Iterator[Tensor]:
        """The body's features at each group's read-out, as `FPT.read` has them, from inputs x (N, T, D)."""
        info, T = self.body.info, x.shape[1]
        # padding is at the end, where no real position of a causal body looks
        seen = None if info.causal else mask
        if info.identity or any(group.spec.read_out == "mean" for group in groups):
            hidden, first = self.body(x, seen), torch.zeros_like(ends)
        else:
            n = max(group.spec.read_positions for group in groups)
            first = ends - n
            # before the start: of a row shorter than what another task reads
            places = (first[:, None] + torch.arange(n, device=self.device)).clamp(min=0)
            hidden = self.body.hidden_at(x, seen, places)
        for group in groups:
            own, rows, spec = hidden[group.rows], group.rows, group.spec
            real = None if mask is None else mask[rows, :, None]
            if info.identity:
                own = own if real is None else own * real
                yield F.pad(own, (0, 0, 0, spec.length - T)).reshape(len(own), 1, -1)
            elif spec.read_out == "mean":
                own = own if real is None else own * real
                yield own.sum(1, keepdim=True, dtype=torch.float32) / ends[rows, None, None]
            else:
                places = (ends - first)[rows, None] - spec.read_positions
                yield gather(own, places + torch.arange(spec.read_positions, device=self.device))

    @contextmanager
    def _serving(self, programs: Sequence[_Held]) -> Iterator[None]:
        """The body with the norms of each row's program, for one pass; afterwards it has its own again."""
        used, run_of_row = _runs(programs, self.device)
        axis, parameters = self.body.axis, list(self._norms.values())
        own = [parameter.data for parameter in parameters]
        gathered = torch.stack([program.norms for program in used]).split([p.shape[1] for p in parameters], 1)
        axis.begin(run_of_row, None)
        try:
            for parameter, values in zip(parameters, gathered, strict=True):
                parameter.data = values
            yield
        finally:
            axis.run_of_row = None
            for parameter, values in zip(parameters, own, strict=True):
                parameter.data = values


def _own_layers(tensors: Mapping[str, Tensor], part: str, count: int) -> _Layers:
    """Weight and bias of each of the layers of "input" or "output"."""
    names = [f"{part}.layers.{number}" for number in range(count)]
    return [(tensors[f"{name}.weight"], tensors.get(f"{name}.bias")) for name in names]


def _check_row(number: int, row: Tensor, program: _Held) -> None:
    """Raises DataError unless `program` can read `row`."""
    spec = program.spec
    discrete = spec.kind == "discrete"
    inner = () if discrete else (spec.size,)
    if row.dim() == 0 or tuple(row.shape[1:]) != inner or not spec.read_positions <= len(row) <= spec.length:
        wanted = f"(T,{'' if discrete else f' {spec.size}'}) with T from {spec.read_positions} to {spec.length}"
        raise DataError(f"row {number}: tokens of shape {tuple(row.shape)}; program {program.name!r} reads {wanted}")
    if discrete and row.is_floating_point():
        raise DataError(f"row {number}: tokens of {row.dtype}; program {program.name!r} reads whole numbers")
    if discrete:
        low, high = (int(end) for end in row.aminmax())
        if low < 0 or high >= spec.size:  # beyond its vocabulary lies that of the next program
            raise DataError(
                f"row {number}: tokens from {low} to {high}; program {program.name!r} reads 0 to {spec.size - 1}"
            )


def _groups(programs: Sequence[_Held], device: torch.device) -> Iterator[_Group]:
    """The rows of each shape; where gathered weights would be too many, those of each program."""
    start = 0
    for _, shaped in itertools.groupby(programs, lambda program: program.shape):
        rows = list(shaped)
        largest = max(weight.numel() for weight, _ in (*rows[0].input, *rows[0].output))
        apart = len(rows) * largest > GATHERED
        for part in [list(own) for _, own in itertools.groupby(rows)] if apart else [rows]:
            yield _Group(slice(start, start + len(part)), *_runs(part, device))
            start += len(part)


def _runs(programs: Sequence[_Held], device: torch.device) -> tuple[list[_Held], Tensor | None]:
    """The programs among those of rows, and which of them is each row's (N,), None for a single one."""
    runs = {program: run for run, program in enumerate(dict.fromkeys(programs))}
    mixed = len(runs) > 1
    return list(runs), to_device(torch.tensor([runs[p] for p in programs]), device) if mixed else None


def _layers(programs: Sequence[_Layers]) -> RunMLP:
    """Input or output layers of equal shapes as one stack with a run axis."""
    stacked: list[RunLinear | RunEmbedding] = []
    for layer in zip(*programs, strict=True):
        weights, biases = [weight for weight, _ in layer], [bias for _, bias in layer if bias is not None]
        stacked.append(RunLinear(weights, biases) if biases else RunEmbedding(weights))
    return RunMLP(stacked)


def _inputs(group: _Group, tokens: Tensor) -> Tensor:
    """What the body gets (N, T, D) for tokens (N, T, P) or (N, T)."""
    x = _layers([program.input for program in group.programs])(tokens, group.run_of_row)
    rows = [program.positions[: x.shape[1]] for program in group.programs if program.positions is not None]
    if not rows:
        return x
    return x + (rows[0] if group.run_of_row is None else torch.stack(rows)[group.run_of_row])
