"""Push programs to the Hugging Face hub or to a folder, and pull them.

A repository holds one program and its card. A program is checked before it replaces anything, and every error of the
network says what to do about it, after at most ten seconds.
"""

import contextlib
import filecmp
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from icecore.core.errors import ConfigError, DataError, StorageError, UserError
from icecore.core.storage import write_atomic
from icecore.core.text import join_names
from icecore.model.program import Program
from icecore.sharing.model_card import card
from icecore.training.checkpoint import PROGRAM

CARD_FILE = "README.md"
#: number of files of a repository that a message lists
MAX_LISTED_FILES = 5
#: seconds that the hub has for its first answer; later requests of the client have no limit
HUB_TIMEOUT_SECONDS = 10.0
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token"
#: the cause of an HTTP status and what to do about it
STATUS_REMEDIES = {
    401: f"You are not logged in, or the token is not valid: {LOG_IN} that may write to the repository.",
    402: "The account has no space left. See its settings on the hub.",
    403: f"This account or token may not do that: {LOG_IN} that may write to the repository.",
    404: f"The repository does not exist or is private. Check its name (owner/name); if it is private, {LOG_IN}.",
    413: "The program is too large for the hub.",
    429: "There were too many requests. Wait some minutes and try again.",
}


class HubError(UserError):
    """The hub refuses a request or cannot be reached. The message names the repository and the remedy."""


def push(
    program: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Share a program with its card, in one commit.

    Parameters:
        program: a program file, or a run folder, whose program is shared
        repo: `owner/name` on the hub, which is created if it does not exist; or a folder (path or `file://` address)
        private: whether a new repository is private
        revision: branch, which is created if it does not exist
        message: commit message
        token: access token of the hub; by default that of the login or of HF_TOKEN

    Returns the address of the commit, or the folder. An existing card is replaced. Raises DataError if the file is
    not a complete program, ConfigError for a wrong `repo`, and HubError or StorageError if it cannot be written.
    """
    file = program / PROGRAM if program.is_dir() else program
    folder = _local_folder(repo)
    content = Program.load(file)
    if folder is not None:
        if private or revision:
            raise ConfigError(f"{repo} is a folder, so it cannot be private or have revisions. Name a hub repository.")
        text = card(content, folder.name)
        write_atomic(folder / PROGRAM, lambda temporary: shutil.copyfile(file, temporary))
        write_atomic(folder / CARD_FILE, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return str(folder)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(token=token, library_name="icecore")
    additions = {PROGRAM: file, CARD_FILE: card(content, repo).encode()}
    with _hub_errors(repo, api.endpoint):
        try:
            api.model_info(repo, timeout=HUB_TIMEOUT_SECONDS)
        except RepositoryNotFoundError:
            api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        return api.create_commit(
            repo,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in additions.items()],
            commit_message=message or f"icecore program {content.config.task} {content.config.run_id}",
            revision=revision,
        ).commit_url


def pull(repo: str, dest: Path | None = None, *, revision: str | None = None, token: str | None = None) -> Path:
    """Fetch a program, check it, and write it to a file.

    Parameters:
        repo: as for `push`
        dest: a file or a folder; by default `name.safetensors` in the working directory
        revision: branch, tag or commit
        token: access token of the hub; by default that of the login or of HF_TOKEN

    Returns the file. An existing file with other content is not changed (StorageError). Raises DataError if the program
    is damaged or this version cannot read it, ConfigError for a wrong `repo`, and HubError or StorageError.
    """
    folder = _local_folder(repo)
    if folder is not None and revision:
        raise ConfigError(f"{repo} is a folder, which has no revisions. Omit --revision.")
    name = (folder.name if folder is not None else repo.rpartition("/")[2]) + ".safetensors"
    target = dest or Path(name)
    target = target / name if target.is_dir() else target
    with tempfile.TemporaryDirectory() as downloads:
        source = folder / PROGRAM if folder is not None else _download(repo, Path(downloads), revision, token)
        try:
            Program.load(source)
        except UserError as error:
            raise DataError(str(error).replace(str(source), f"{repo}: {PROGRAM}")) from error
        if target.exists() and not filecmp.cmp(source, target, shallow=False):
            raise StorageError(f"{target} exists and differs from the program in {repo}. Move it or name another file.")
        write_atomic(target, lambda temporary: shutil.copyfile(source, temporary))
    return target


def _download(repo: str, folder: Path, revision: str | None, token: str | None) -> Path:
    """Fetch the program of a hub repository into `folder`, not into the cache, where a damaged file would stay."""
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="icecore")
    with _hub_errors(repo, api.endpoint):
        info = api.model_info(repo, revision=revision, timeout=HUB_TIMEOUT_SECONDS)
        files = [sibling.rfilename for sibling in info.siblings or ()]
        if PROGRAM not in files:
            shown = join_names(files, MAX_LISTED_FILES) or "no files"
            raise DataError(f"{repo} contains no icecore program, that is, no file {PROGRAM}. It contains {shown}.")
        return Path(api.hf_hub_download(repo, PROGRAM, revision=info.sha, local_dir=folder))


def _local_folder(repo: str) -> Path | None:
    """The folder that `repo` names; None if it names a repository on the hub (`owner/name`). Raises ConfigError."""
    if repo.startswith("file:"):
        address = urlsplit(repo)
        if address.netloc not in ("", "localhost") or not address.path:
            raise ConfigError(
                f"{repo} is not the address of a local folder. Write file:///path/to/folder, or its path."
            )
        return Path(urllib.request.url2pathname(address.path)).resolve()
    path = Path(repo).expanduser()
    if path.is_dir() or path.is_absolute() or repo.startswith((".", "~")):
        return path.resolve()
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo} is neither a folder nor a name on the hub ({error}). Write owner/name.") from error
    if "/" not in repo:
        raise ConfigError(f"{repo} is neither a folder nor a name on the hub. Write owner/{repo}, or ./{repo}.")
    return None


@contextlib.contextmanager
def _hub_errors(repo: str, endpoint: str) -> Iterator[None]:
    """Turn the exceptions of the hub's client into a HubError with a remedy."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client raises nested exceptions of its own, of its HTTP library and of Xet
        causes = list(_causes(error))
        refusal = next((e for e in causes if isinstance(e, HfHubHTTPError | OfflineModeIsEnabled)), None)
        reason = next(iter(str(causes[-1]).strip().splitlines()), type(causes[-1]).__name__)
        if isinstance(refusal, RevisionNotFoundError):
            text = f"The revision does not exist. Name a branch, tag or commit of {endpoint}/{repo}."
        elif isinstance(refusal, HfHubHTTPError):
            status = refusal.response.status_code
            remedy = STATUS_REMEDIES.get(status, f"{reason}. Try again later.")
            text = f"{endpoint} answered with status {status}. {remedy}"
        elif refusal is not None:
            text = "HF_HUB_OFFLINE is set, so the network is not used. Unset it, or name a folder."
        else:
            text = f"{endpoint} cannot be reached ({reason}). Check the network, the proxy and HF_ENDPOINT."
        raise HubError(f"{repo}: {text}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the error that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__
