"""Writes ListOps expressions and files as the Long Range Arena does; icecore only reads them."""

from pathlib import Path

from icecore.tasks.listops_expressions import CLOSE, LISTOPS_VOCABULARY, OPEN, Expressions


def write_tsv(path: Path, expressions: Expressions) -> None:
    """Write a header, then source, tab and target, with lines ended by CR LF."""
    with path.open("w", encoding="ascii", newline="\r\n") as file:
        file.write("Source\tTarget\n")
        for source, target in zip(expressions.sources, expressions.targets, strict=True):
            file.write(f"{to_text(source)}\t{target}\n")


def to_text(source: bytes) -> str:
    """The expression as Long Range Arena writes it, with `( ` and ` )` around every application."""
    stack: list[list[str]] = [[]]
    for token in source:
        word = LISTOPS_VOCABULARY[token - 1]
        if OPEN <= token < CLOSE:
            stack.append([word])
            continue
        if token == CLOSE:
            opener, *arguments = stack.pop()
            # The operator is applied to one argument after another, and at last to the closing bracket.
            word = "( " * (len(arguments) + 1) + " ".join([opener, " ) ".join([*arguments, "]"]), ")"])
        stack[-1].append(word)
    return " ".join(stack[0])
