"""Images in a folder or archive that has one folder per class, or with a table of labels beside them.

Only names are listed here, so that rows can be split and ordered before any image is decoded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from icecore.core.errors import DataError
from icecore.user_data.archives import file_names
from icecore.user_data.columns import column_from_values
from icecore.user_data.image_decoding import IMAGE_SUFFIXES, ImageFiles, is_image
from icecore.user_data.readers.labels import find_label_table
from icecore.user_data.readers.source_files import ReadRequest, has_ending
from icecore.user_data.readers.table_files import TABLE_SUFFIXES
from icecore.user_data.readers.table_rows import read_table_rows
from icecore.user_data.records import ImageRecords, Records
from icecore.user_data.splits import SPLIT_NAMES


class ImageListing(NamedTuple):
    """Images of a folder or archive: relative names in order, and class and split of each, "" if it has none."""

    names: Sequence[str]
    classes: Sequence[str]
    splits: Sequence[str]


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
    listing = list_images(path)
    images = ImageFiles(path, listing.names, request.settings.strict)
    has_classes = all(listing.classes)
    if len(set(listing.classes)) < 2 and (label_table := find_label_table(path)) is not None:
        return read_table_rows(request._replace(path=label_table))
    if not has_classes and not request.predicting:
        example = listing.names[list(listing.classes).index("")]
        raise DataError(
            f"{path}: the image {example} is not in the folder of a class. Put the images of each class into "
            "a folder of their own, or add a table labels.csv with the columns file,label."
        )
    target = request.settings.target[0] if request.settings.target else "class"
    return ImageRecords(
        images=images,
        targets={target: column_from_values(target, np.array(listing.classes))} if has_classes else {},
        names=listing.names,
        splits=np.array(listing.splits) if any(listing.splits) else None,
        source=source,
    )


def list_images(path: Path) -> ImageListing:
    """List `[split/]class/.../image` in a folder or archive. Raises DataError if there is no image."""
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise DataError(f"Reading images in {path} needs Pillow: pip install 'icecore[images]'") from error
    # sorted, so that archives of the same images give the same rows however they were packed
    names = sorted(name for name in file_names(path) if is_image(name))
    if not names:
        raise DataError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)}). Put those of each class into a folder.")
    folders = [name.split("/")[:-1] for name in names]
    # an archive may have one or two folders of its own around everything
    while all(len(folder) > 1 for folder in folders) and len({folder[0] for folder in folders}) == 1:
        if folders[0][0].lower() in SPLIT_NAMES:
            break
        folders = [folder[1:] for folder in folders]
    splits = [""] * len(names)
    if all(folder and folder[0].lower() in SPLIT_NAMES for folder in folders):
        splits = [SPLIT_NAMES[folder[0].lower()] for folder in folders]
        folders = [folder[1:] for folder in folders]
    return ImageListing(names, [folder[0] if folder else "" for folder in folders], splits)
