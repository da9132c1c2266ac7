"""Writes the ListOps files of the Long Range Arena, which icecore only reads."""

from pathlib import Path

from icecore.tasks.listops_expressions import Expressions, to_text


def write_tsv(path: Path, expressions: Expressions) -> None:
    """Write a header, then source, tab and target, with lines ended by CR LF."""
    with path.open("w", encoding="ascii", newline="\r\n") as file:
        file.write("Source\tTarget\n")
        for source, target in zip(expressions.sources, expressions.targets, strict=True):
            file.write(f"{to_text(source)}\t{target}\n")
