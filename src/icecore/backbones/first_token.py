"""The token with which a model's own sequences start: [CLS] of BERT, <s> of RoBERTa, the beginning of text of GPT-2."""

import json
from pathlib import Path
from typing import Any

#: settings of a configuration that name the token
FIELDS = ("bos_token_id", "cls_token_id")
#: what the token is called in vocabularies
SPELLINGS = ("[CLS]", "<cls>", "<s>")
#: larger files are no vocabularies
MAX_BYTES = 2**27


def first_token_id(config: Any, place: str) -> int | None:
    """The id of the first token, from the model's configuration or the vocabulary in its folder; None if unknown.

    place  a folder, or the name of a hub model, of which only cached files are read
    """
    for field in FIELDS:
        token = getattr(config, field, None)
        if isinstance(token, int):
            return token
    for name, read in (("tokenizer.json", _tokenizer_ids), ("vocab.txt", _vocabulary_ids)):
        file = _file(place, name)
        if file is None:
            continue
        try:
            ids = read(file.read_text("utf-8"))
        except (OSError, ValueError, TypeError, AttributeError, KeyError):  # a damaged vocabulary is none
            continue
        token = next((ids[spelling] for spelling in SPELLINGS if spelling in ids), None)
        if isinstance(token, int):
            return token
    return None


def _file(place: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = Path(place)
    try:
        found = folder / name if folder.is_dir() else try_to_load_from_cache(place, name)
    except (HFValidationError, ValueError, OSError):
        return None
    file = Path(found) if isinstance(found, str | Path) else None
    return file if file is not None and file.is_file() and file.stat().st_size <= MAX_BYTES else None


def _tokenizer_ids(text: str) -> dict[str, Any]:
    return {token["content"]: token["id"] for token in json.loads(text)["added_tokens"]}


def _vocabulary_ids(text: str) -> dict[str, Any]:
    return {line.strip(): number for number, line in enumerate(text.splitlines())}
