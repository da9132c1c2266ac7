"""Images in a folder or archive that has one folder per class, or with a table of labels beside them.

Only names are listed here, so that rows can be split and ordered before any image is decoded.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from icecore.core.errors import DataError, UserError
from icecore.core.text import join_names, pluralize
from icecore.user_data.columns import column_from_values
from icecore.user_data.data_archives import file_names, iterate_files
from icecore.user_data.image_decoding import IMAGE_SUFFIXES, ImageFiles, is_image
from icecore.user_data.notes import Note
from icecore.user_data.readers.labels import find_label_table
from icecore.user_data.readers.source_files import ReadRequest, has_ending, is_data_file, is_submission
from icecore.user_data.readers.table_files import TABLE_SUFFIXES
from icecore.user_data.readers.table_rows import read_table_rows
from icecore.user_data.records import ImageRecords, Records
from icecore.user_data.split_names import NO_SPLIT, read_split_setting, split_of_file, split_of_name


class ImageListing(NamedTuple):
    """Images of a folder or archive: relative names in order, class and split of each, "" if it has none, and notes."""

    names: Sequence[str]
    classes: Sequence[str]
    splits: Sequence[str]
    notes: Sequence[Note] = ()


def read_images(request: ReadRequest) -> Records:
    """Read images by class, or those that a table names; for prediction a single image or a flat folder is enough.

    Raises DataError if there are no images, or no labels unless the rows are for prediction.
    """
    path = request.path
    if has_ending(path.name, TABLE_SUFFIXES):
        return read_table_rows(request)
    source = {"format": "images", "files": [path.name]}
    if path.is_file() and is_image(path.name):
        images = ImageFiles(path.parent, [path.name], request.settings.strict)
        return ImageRecords(images=images, targets={}, names=images.names, source=source)
    listing = list_images(path, request.settings.split, request.predicting)
    notes, has_folders = list(listing.notes), len(set(listing.classes) - {""}) > 1
    if not has_folders:
        if (records := _read_image_table(request)) is not None:
            return records
    elif request.settings.target:
        if (records := _read_named_target(request)) is not None:
            return records
    elif (labels := find_label_table(path)) is not None and not request.predicting:
        notes.append(("left out", f"{labels.name}: the folders are the classes (--target takes a column of it)"))
    has_classes = all(listing.classes)
    if not has_classes and not request.predicting:
        example = listing.names[list(listing.classes).index("")]
        raise DataError(
            f"{path}: the image {example} is not in the folder of a class. Put the images of each class into "
            "a folder of their own, or add a table labels.csv with the columns file,label."
        )
    target = request.settings.target[0] if request.settings.target else "class"
    return ImageRecords(
        images=ImageFiles(path, listing.names, request.settings.strict),
        targets={target: column_from_values(target, np.array(listing.classes))} if has_classes else {},
        names=listing.names,
        splits=np.array(listing.splits) if any(listing.splits) else None,
        source=source,
        notes=notes,
    )


def _read_named_target(request: ReadRequest) -> Records | None:
    """The images of a table that has the targets that are set; None if there is none, as folders may be meant."""
    try:
        records = _read_image_table(request)
    except UserError:
        return None
    has_all = records is not None and set(request.settings.target) <= records.targets.keys()
    return records if has_all else None


def _read_image_table(request: ReadRequest) -> Records | None:
    """The images that a table in or beside the folder names; None if no table names any."""
    path = request.path
    labels = find_label_table(path)
    tables = [labels] if labels is not None else []
    if path.is_dir():
        inside = [file for file in iterate_files(path) if has_ending(file.name, TABLE_SUFFIXES) and file != labels]
        # a table of test images, or the pattern of a submission, has no labels
        inside = [file for file in inside if split_of_file(file.name) != "test" and not is_submission(file.name)]
        tables += sorted(inside, key=lambda file: (len(file.parts), split_of_file(file.name) != "train", file.name))
    for table in tables:
        records = read_table_rows(request._replace(path=table))
        if records.form == "images":
            note = ("labels", f"from {table.name} beside the images")
            return replace(records, notes=[*records.notes, note])
    return None


def list_images(path: Path, split: str | None = None, predicting: bool = False) -> ImageListing:
    """List the images of a folder or archive: `[split/]class/.../image`, or `class/split/.../image`.

    split  the setting of this name; see `DataSettings`

    Raises DataError if there is no image, or if folders leave it open which of them are splits.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise DataError(f"Reading images in {path} needs Pillow: pip install 'icecore[images]'") from error
    # sorted, so that archives of the same images give the same rows however they were packed
    all_names = file_names(path)
    names = sorted(name for name in all_names if is_image(name.replace("\\", "/")))
    if not names:
        raise DataError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)}). Put those of each class into a folder.")
    given = None if split is None else read_split_setting(split)
    split_of: Callable[[str], str] = split_of_name
    if given is not None:
        split_of = lambda name: given.get(name, "")  # noqa: E731
    elif split == NO_SPLIT:
        split_of = lambda name: ""  # noqa: E731
    folders = [name.replace("\\", "/").split("/")[:-1] for name in names]
    # an archive may have one or two folders of its own around everything
    while all(len(folder) > 1 for folder in folders) and len({folder[0] for folder in folders}) == 1:
        if split_of(folders[0][0]):
            break
        folders = [folder[1:] for folder in folders]
    splits, notes = [""] * len(names), list[Note]()
    level = _split_level(folders, split_of)
    if level is not None:
        splits = [split_of(folder[level]) for folder in folders]
        folders = [folder[:level] + folder[level + 1 :] for folder in folders]
    elif split is None and not predicting:
        _check_levels(path, folders)
    classes = [folder[0] if folder else "" for folder in folders]
    if not predicting:
        kept, notes = _with_classes(classes, splits, split is None)
        names, classes, splits = ([each[i] for i in kept] for each in (names, classes, splits))
        notes += _other_files(path, all_names, names)
    return ImageListing(names, classes, splits, notes)


def _other_files(path: Path, all_names: Sequence[str], images: Sequence[str]) -> list[Note]:
    """Notes of files that are no images by their ending, and of folders without any: a class might vanish with them."""
    notes: list[Note] = []
    chosen = set(images)
    others = [name for name in all_names if name not in chosen and is_data_file(name.rpartition("/")[2])]
    if others := [name for name in others if "/" in name and not has_ending(name, TABLE_SUFFIXES)]:
        message = f"{pluralize(len(others), 'file')} that {'is' if len(others) == 1 else 'are'} no image by name"
        notes.append(("left out", f"{message}: {join_names(others, 3)}"))
    if path.is_dir():
        full = {name.partition("/")[0] for name in images}
        folders = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and folder.name not in full)
        if empty := [name for name in folders if is_data_file(name)]:
            notes.append(("left out", f"folders without images: {join_names(empty, 3)}"))
    return notes


def _split_level(folders: Sequence[Sequence[str]], split_of: Callable[[str], str]) -> int | None:
    """The level of folders all of which are named like splits, the first one from above; None if there is none."""
    for level in range(min(map(len, folders))):
        if all(split_of(name) for name in {folder[level] for folder in folders}):
            return level
    return None


def _check_levels(path: Path, folders: Sequence[Sequence[str]]) -> None:
    """Raise DataError if the first folders may be splits of the data rather than classes."""
    inside: dict[str, set[str]] = {}
    for folder in folders:
        if folder:
            inside.setdefault(folder[0], set()).update(folder[1:2])
    deep = {name for name, below in inside.items() if below}
    like_splits = {name for name in deep if split_of_name(name)}
    first, *others = (inside[name] for name in sorted(inside)) if inside else (set[str](),)
    repeated = len(inside) > 1 and len(first) > 1 and all(below == first for below in others)
    if like_splits or repeated:
        shown = join_names(sorted(inside), 3)
        guess = {name: split_of_name(name) or split_of_file(name) or "train" for name in sorted(inside)[:3]}
        example = ",".join(f"{name}={split}" for name, split in guess.items())
        raise DataError(
            f"{path}: are the folders {shown} splits or classes? Name the splits with --split {example}, "
            "or set --split none if these folders are the classes."
        )


def _with_classes(classes: Sequence[str], splits: Sequence[str], guess: bool) -> tuple[list[int], list[Note]]:
    """Indices of the images that have a class, and a note of those left out: test images are often without one.

    guess  a flat folder named like a split beside folders of classes is no class
    """
    unlabelled = [not name for name in classes]
    names = {name for name in classes if name}
    if guess and not any(splits):
        held_out = {name for name in names if split_of_name(name) in ("val", "test")}
        if held_out and len(names - held_out) > 1:
            unlabelled = [missing or name in held_out for missing, name in zip(unlabelled, classes, strict=True)]
    if not any(unlabelled) or len({name for name, gone in zip(classes, unlabelled, strict=True) if not gone}) < 2:
        return list(range(len(classes))), []
    left_out = sorted({split or name for split, name, gone in zip(splits, classes, unlabelled, strict=True) if gone})
    message = f"{pluralize(sum(unlabelled), 'image')} without a class"
    message += f" in {join_names(left_out, 3)} (--split none if it is a class)" if any(left_out) else ""
    return [i for i, gone in enumerate(unlabelled) if not gone], [("left out", message)]
