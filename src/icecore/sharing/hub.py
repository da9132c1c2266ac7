"""Programs to and from the Hugging Face hub, or a folder that stands for a repository.

A repository holds one program and its card. What is pulled is checked before it is put in place, and
every refusal of the network says what to do about it, after ten seconds at most.
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
from icecore.model.program import Program
from icecore.sharing.model_card import card
from icecore.training.checkpoint import PROGRAM

CARD = "README.md"
#: limit of the first question to the hub, in seconds; the client's own requests have none
REQUEST_TIMEOUT = 10.0
LOG_IN = "log in with `hf auth login` or set HF_TOKEN to a token"
#: what to do about an answer of the hub, by status
REMEDIES = {
    401: f"not logged in, or the token is not valid; {LOG_IN} that may write to it",
    402: "the account has no room for it; see its settings on the hub",
    403: f"this account or token may not; {LOG_IN} with the right to write to it",
    404: "no such repository, or a private one; check its name (owner/name), and for a private one " + LOG_IN,
    413: "the program is too large for the hub",
    429: "too many requests; wait some minutes and try again",
}


class HubError(UserError):
    """The hub refuses or cannot be reached; the message names the repository and the remedy."""


def push(
    program: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Share the program file, or the program of the run folder, `program` with its card in one commit.

    repo      `owner/name` on the hub, made if it is not there; or a folder (a path or `file://` address)
    private   whether a repository that is made is private
    revision  branch, made if it is not there
    Returns the address of the commit, or the folder. A card that is there already is replaced.
    Raises DataError for a file that is no whole program, HubError, StorageError, ConfigError.
    """
    file = program / PROGRAM if program.is_dir() else program
    folder = _folder(repo)
    held = Program.load(file)
    if folder is not None:
        if private or revision:
            raise ConfigError(f"{repo}: a folder has neither revisions nor privacy; name a repository of the hub")
        text = card(held, folder.name)
        write_atomic(folder / PROGRAM, lambda temporary: shutil.copyfile(file, temporary))
        write_atomic(folder / CARD, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return str(folder)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(token=token, library_name="icecore")
    additions = {PROGRAM: file, CARD: card(held, repo).encode()}
    with _refusals(repo, api.endpoint):
        try:
            api.model_info(repo, timeout=REQUEST_TIMEOUT)
        except RepositoryNotFoundError:
            api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        return api.create_commit(
            repo,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in additions.items()],
            commit_message=message or f"icecore program {held.config.task} {held.config.run_id}",
            revision=revision,
        ).commit_url


def pull(repo: str, dest: Path | None = None, *, revision: str | None = None, token: str | None = None) -> Path:
    """Fetch the program of `repo` (as for `push`) and put it in place once it has proved whole.

    dest      a file or a folder; by default `name.safetensors` in the working folder
    revision  branch, tag or commit
    Returns the file. One that is there with other content is left alone (StorageError).
    Raises DataError for what is damaged or no program this version reads, HubError, StorageError, ConfigError.
    """
    folder = _folder(repo)
    if folder is not None and revision:
        raise ConfigError(f"{repo}: a folder has no revisions; leave --revision away")
    name = (folder.name if folder is not None else repo.rpartition("/")[2]) + ".safetensors"
    target = dest or Path(name)
    target = target / name if target.is_dir() else target
    with tempfile.TemporaryDirectory() as temporary:
        source = folder / PROGRAM if folder is not None else _download(repo, Path(temporary), revision, token)
        try:
            Program.load(source)
        except UserError as error:
            raise DataError(str(error).replace(str(source), f"{repo}: {PROGRAM}")) from error
        if target.exists() and not filecmp.cmp(source, target, shallow=False):
            raise StorageError(f"{target}: is there already, and {repo} holds another; move it or name another file")
        write_atomic(target, lambda beside: shutil.copyfile(source, beside))
    return target


def _download(repo: str, folder: Path, revision: str | None, token: str | None) -> Path:
    """Fetch the program of a hub repository into `folder`, past the cache: a damaged file must not stay there."""
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="icecore")
    with _refusals(repo, api.endpoint):
        info = api.model_info(repo, revision=revision, timeout=REQUEST_TIMEOUT)
        files = [sibling.rfilename for sibling in info.siblings or ()]
        if PROGRAM not in files:
            raise DataError(f"{repo}: no icecore program, which would be called {PROGRAM}; it holds {_begin(files)}")
        return Path(api.hf_hub_download(repo, PROGRAM, revision=info.sha, local_dir=folder))


def _folder(repo: str) -> Path | None:
    """The folder that `repo` names; None for a repository of the hub, which must be `owner/name`."""
    if repo.startswith("file:"):
        address = urlsplit(repo)
        if address.netloc not in ("", "localhost") or not address.path:
            raise ConfigError(f"{repo}: not the address of a folder here; write file:///the/folder, or its path")
        return Path(urllib.request.url2pathname(address.path)).resolve()
    path = Path(repo).expanduser()
    if path.is_dir() or path.is_absolute() or repo.startswith((".", "~")):
        return path.resolve()
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo}: neither a folder nor a name on the hub ({error}); write owner/name") from error
    if "/" not in repo:
        raise ConfigError(f"{repo}: neither a folder nor a name on the hub; write owner/{repo}, or ./{repo}")
    return None


@contextlib.contextmanager
def _refusals(repo: str, endpoint: str) -> Iterator[None]:
    """Turn what the hub's client raises into a HubError with the remedy."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client raises kinds of its own, of its HTTP library and of Xet, in one another
        chain = list(_causes(error))
        refusal = next((e for e in chain if isinstance(e, (HfHubHTTPError, OfflineModeIsEnabled))), None)
        why = next(iter(str(chain[-1]).strip().splitlines()), type(chain[-1]).__name__)
        if isinstance(refusal, RevisionNotFoundError):
            text = f"no such revision; name a branch, tag or commit of {endpoint}/{repo}"
        elif isinstance(refusal, HfHubHTTPError):
            status = refusal.response.status_code
            text = f"{endpoint} answers {status}: {REMEDIES.get(status, f'{why}; try again later')}"
        elif refusal is not None:
            text = "HF_HUB_OFFLINE forbids the network; unset it, or name a folder"
        else:
            text = f"{endpoint} cannot be reached or breaks off ({why}); check the network, a proxy and HF_ENDPOINT"
        raise HubError(f"{repo}: {text}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _begin(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing"
