"""Media types of the files that are sent to a server, for the server and for its client."""

from collections.abc import Mapping, Sequence

#: endings of the names of files of each media type, the usual one first
ENDINGS: Mapping[str, Sequence[str]] = {
    "text/csv": (".csv",),
    "text/tab-separated-values": (".tsv", ".tab"),
    "application/vnd.apache.parquet": (".parquet", ".pq"),
    "application/x-npz": (".npz",),
    "application/x-npy": (".npy",),
    "text/x-fasta": (".fasta", ".fa", ".faa", ".fna", ".ffn", ".frn", ".fas", ".fsa", ".pep", ".mfa"),
    "text/plain": (".txt", ".smi", ".smiles", ".log"),
    "application/zip": (".zip",),
    "image/png": (".png",),
    "image/jpeg": (".jpg", ".jpeg", ".jfif"),
    "image/webp": (".webp",),
    "image/gif": (".gif",),
    "image/bmp": (".bmp",),
    "image/tiff": (".tif", ".tiff"),
    "image/x-portable-anymap": (".ppm", ".pgm"),
}
#: the media type of a file by the ending of its name
MEDIA_TYPE_OF_ENDING: Mapping[str, str] = {
    ending: media_type for media_type, endings in ENDINGS.items() for ending in endings
}
