"""Sharing programs: the real client with a stub of the hub, folders, and the message of each refusal."""

import base64
import hashlib
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import save_file

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError, StorageError, UserError
from icecore.model.program import Program
from icecore.sharing import hub
from icecore.sharing.hub import HubError, pull, push
from icecore.sharing.model_card import card
from icecore.tasks.task import TaskSpec

REPO = "me/cats"
COMMIT = "a" * 40


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A small program file; no body is needed to share it."""
    config = RunConfig(task="bit-xor", steps=1, batch_size=1, lr=1e-3, backbone="gpt2", weights="random")
    tensors = {"input.layers.0.weight": torch.rand(1, 4), "positions": torch.rand(4, 4)}
    path = tmp_path / "trained.safetensors"
    Program(config, TaskSpec("continuous", 4, 1, 2), "f" * 64, tensors, {"test": 0.5}).save(path)
    return path


# --- a folder as the repository ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cats", "Katzen & Hünde #1", "猫 'x' %41"])
@pytest.mark.parametrize("address", [str, Path.as_uri])
def test_there_and_back_is_identity(
    program: Path, tmp_path: Path, name: str, address: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shared" / name
    assert push(program, address(folder)) == str(folder)
    assert (folder / "README.md").read_text("utf-8") == card(Program.load(program), name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert pull(address(folder)) == Path(f"{name}.safetensors")
    assert Path(f"{name}.safetensors").read_bytes() == program.read_bytes()
    assert pull(address(folder), tmp_path / "work" / "own.safetensors").read_bytes() == program.read_bytes()
    assert {path.name for path in folder.iterdir()} == {"program.safetensors", "README.md"}  # nothing temporary


def test_a_run_folder_is_its_program(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    run.mkdir()
    program.rename(run / "program.safetensors")
    push(run, str(tmp_path / "shared"))
    assert pull(str(tmp_path / "shared"), tmp_path) == tmp_path / "shared.safetensors"
    monkeypatch.chdir(tmp_path / "shared")
    assert push(Path("program.safetensors"), ".") == str(tmp_path / "shared")  # the working folder has a name too
    assert Path("README.md").read_text("utf-8").count("# shared\n") == 1


def test_an_existing_file_with_other_content_is_not_changed(program: Path, tmp_path: Path) -> None:
    push(program, str(tmp_path / "cats"))
    target = tmp_path / "own.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"own.safetensors exists and differs from the program in .*cats. Move it"):
        pull(str(tmp_path / "cats"), target)
    assert target.read_bytes() == b"mine"
    target.unlink()
    assert pull(str(tmp_path / "cats"), target) == pull(str(tmp_path / "cats"), target)  # the same again is fine


def newer(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("icecore.model.program.FORMAT", 2)
        held = path.with_name("old.safetensors")
        path.rename(held)
        patch.undo()
        program = Program.load(held)
        patch.setattr("icecore.model.program.FORMAT", 2)
        program.save(path)


DAMAGE = [
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "PATH is not a readable program and may be incomplete"),
    (
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"~"),
        "Tensor .* in PATH is damaged .its checksum differs.",
    ),
    (lambda path: save_file({"w": torch.zeros(2)}, path), "PATH is a safetensors file, but not an icecore program"),
    (newer, "PATH has program format 2, but this version reads 1. Upgrade icecore"),
    (Path.unlink, "There is no program file PATH"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_incomplete_programs_are_neither_pulled_nor_pushed(
    program: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = tmp_path / "cats"
    push(program, str(folder))
    damage(folder / "program.safetensors")
    target = tmp_path / "pulled.safetensors"
    with pytest.raises(DataError, match=f"^{message.replace('PATH', f'{folder}: program.safetensors')}"):
        pull(str(folder), target)
    assert not target.exists()
    with pytest.raises(DataError, match=f"^{message.replace('PATH', str(folder / 'program.safetensors'))}"):
        push(folder / "program.safetensors", str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("cats", r"neither a folder nor a name on the hub\. Write owner/cats, or \./cats"),
        ("a/b/c", "neither a folder nor a name on the hub .*Write owner/name"),
        ("me/cats!", "neither a folder nor a name on the hub"),
        ("file://folder/cats", "not the address of a local folder. Write file:///path/to/folder"),
        ("file:", "not the address of a local folder"),
    ],
)
def test_names_that_are_not_valid(program: Path, repo: str, message: str) -> None:
    for act in (lambda: push(program, repo), lambda: pull(repo)):
        with pytest.raises(ConfigError, match=message):
            act()


def test_a_folder_has_no_revisions(program: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder, which has no revisions\. Omit --revision"):
        pull(str(tmp_path), revision="main")
    for private, revision in ((True, None), (False, "v1")):
        with pytest.raises(ConfigError, match="is a folder, so it cannot be private or have revisions"):
            push(program, str(tmp_path), private=private, revision=revision)


# --- the hub's client against a stub -----------------------------------------------------------------


@dataclass
class Stub:
    """As much of the hub as push and pull ask for, in memory.

    mode     how files are to be uploaded: "regular" or "lfs"
    refuse   (word in the path, status, headers): what is answered instead
    """

    mode: str = "regular"
    refuse: tuple[str, int, dict[str, str]] | None = None
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    branches: set[str] = field(default_factory=lambda: {"main", COMMIT})
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    private: bool | None = None
    endpoint: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, content) of one request."""
        self.asked.append(f"{method} {path}")
        if self.refuse is not None and self.refuse[0] in path:
            return self.refuse[1], self.refuse[2], b"{}"
        routes: dict[str, Callable[[str, bytes], Any]] = {
            "/api/repos/create": self.create,
            "/api/validate-yaml": lambda path, body: {"errors": [], "warnings": []},
            "/preupload/": self.preupload,
            "/branch/": lambda path, body: self.branches.add(path.rpartition("/")[2]) or {},
            "/info/lfs/objects/batch": self.batch,
            "/lfs/": lambda path, body: self.stored.update({path.rpartition("/")[2]: body}) or {},
            "/commit/": self.commit,
            "/resolve/": self.resolve,
            "/api/models/": self.info,
        }
        found = next(route for part, route in routes.items() if part in path)(path, body)
        return found if isinstance(found, tuple) else (200, {}, json.dumps(found).encode())

    def create(self, path: str, body: bytes) -> Any:
        asked = json.loads(body)
        self.private = asked.get("private", asked.get("visibility") == "private")
        self.repos[f"{asked['organization']}/{asked['name']}"] = {}
        return {"url": f"{self.endpoint}/{REPO}"}

    def preupload(self, path: str, body: bytes) -> Any:
        files = json.loads(body)["files"]
        mode = {"program.safetensors": self.mode}
        return {
            "files": [
                {"path": f["path"], "uploadMode": mode.get(f["path"], "regular"), "shouldIgnore": False} for f in files
            ]
        }

    def batch(self, path: str, body: bytes) -> Any:
        upload = {
            o["oid"]: {"upload": {"href": f"{self.endpoint}/lfs/{o['oid']}"}} for o in json.loads(body)["objects"]
        }
        return {"transfer": "basic", "objects": [{"oid": k, "size": 1, "actions": v} for k, v in upload.items()]}

    def commit(self, path: str, body: bytes) -> Any:
        if unquote(path.rpartition("/")[2]) not in self.branches:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        held = self.repos[REPO]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                held[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                held[value["path"]] = self.stored[value["oid"]]
        return {"commitUrl": f"{self.endpoint}/{REPO}/commit/{COMMIT}", "commitOid": COMMIT}

    def info(self, path: str, body: bytes) -> Any:
        if path.removeprefix("/api/models/").partition("/revision/")[0] not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if "/revision/" in path and path.rpartition("/")[2] not in self.branches:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        return {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.repos[REPO]]}

    def resolve(self, path: str, body: bytes) -> Any:
        content = self.repos[REPO][path.rpartition("/")[2]]
        etag = hashlib.sha256(content).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A stub hub on this machine, and the client turned to it."""
    held = Stub()

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
            held.tokens.add(self.headers.get("Authorization"))
            status, headers, content = held.answer(self.command, unquote(urlsplit(self.path).path), body)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content)

        do_GET = do_HEAD = do_POST = do_PUT = reply  # noqa: N815 (names that the base class looks for)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        held.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        turn_client(monkeypatch, held.endpoint)
        yield held
        huggingface_hub.close_session()
        server.shutdown()


def turn_client(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    huggingface_hub.close_session()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = {"HF_HUB_OFFLINE": False, "ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": True}
    settings["HUGGINGFACE_CO_URL_TEMPLATE"] = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in settings.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own use of its HTTP library
@pytest.mark.parametrize("mode", ["regular", "lfs"])
def test_push_and_pull_through_the_hub(stub: Stub, program: Path, tmp_path: Path, mode: str) -> None:
    stub.mode = mode
    assert push(program, REPO, private=True, token="hf_x") == f"{stub.endpoint}/{REPO}/commit/{COMMIT}"
    assert stub.private is True
    assert set(stub.repos[REPO]) == {"program.safetensors", "README.md"}
    assert sum("/commit/" in line for line in stub.asked) == 1
    assert bool(stub.stored) == (mode == "lfs")
    read = ModelCard(stub.repos[REPO]["README.md"].decode())
    assert read.data.library_name == "icecore"  # pyright: ignore[reportAttributeAccessIssue] (front matter's own)
    found = pull(REPO, tmp_path / "pulled.safetensors", token="hf_x")
    assert found.read_bytes() == program.read_bytes()
    assert {"Bearer hf_x"} <= stub.tokens <= {"Bearer hf_x", None}  # the storage behind LFS gets none


def test_a_second_push_makes_no_repository(stub: Stub, program: Path) -> None:
    push(program, REPO)
    push(program, REPO, revision="v2", message="again")
    assert sum("/api/repos/create" in line for line in stub.asked) == 1
    assert "v2" in stub.branches
    assert any(line.endswith("/commit/v2") for line in stub.asked)


def test_a_program_damaged_on_the_hub_is_not_put_in_place(stub: Stub, program: Path, tmp_path: Path) -> None:
    push(program, REPO)
    good = stub.repos[REPO]["program.safetensors"]
    stub.repos[REPO]["program.safetensors"] = good[:-1] + bytes([good[-1] ^ 1])
    target = tmp_path / "pulled.safetensors"
    with pytest.raises(DataError, match=r"^Tensor .* in me/cats: program.safetensors is damaged"):
        pull(REPO, target)
    assert not target.exists()
    stub.repos[REPO]["program.safetensors"] = good  # and the damage is not kept in a cache
    assert pull(REPO, target).read_bytes() == good


def test_a_repository_without_a_program(stub: Stub) -> None:
    stub.repos[REPO] = dict.fromkeys(["config.json", *(f"part{i}.bin" for i in range(6))], b"")
    with pytest.raises(
        DataError, match=r"me/cats contains no icecore program.* It contains config.json, .* and 2 more"
    ):
        pull(REPO)


def test_no_such_revision(stub: Stub, program: Path) -> None:
    push(program, REPO)
    with pytest.raises(HubError, match=r"me/cats: The revision does not exist\. Name a branch, tag or commit of http"):
        pull(REPO, revision="nowhere")


@pytest.mark.parametrize(
    ("place", "status", "message"),
    [
        ("/api/", 401, "answered with status 401. You are not logged in, or the token is not valid: log in with `hf"),
        ("/api/repos/create", 403, "answered with status 403. This account or token may not do that: log in"),
        ("/commit/", 403, "answered with status 403. This account or token may not do that"),
        ("/api/models/", 429, "answered with status 429. There were too many requests. Wait some minutes"),
        ("/api/models/", 500, "answered with status 500. .*Try again later"),
    ],
)
def test_refusals_say_what_to_do(stub: Stub, program: Path, place: str, status: int, message: str) -> None:
    stub.refuse = (place, status, {})
    with pytest.raises(HubError, match=rf"^me/cats: {stub.endpoint} {message}"):
        push(program, REPO)


def test_a_repository_that_does_not_exist(stub: Stub) -> None:
    with pytest.raises(HubError, match=r"status 404. The repository does not exist or is private. Check its name"):
        pull("you/dogs")


def test_an_unreachable_hub_is_reported_at_once(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    turn_client(monkeypatch, "http://127.0.0.1:9")
    begun = time.monotonic()
    for act in (lambda: push(program, REPO), lambda: pull(REPO)):
        with pytest.raises(HubError, match=r"me/cats: http://127.0.0.1:9 cannot be reached .*Check the network"):
            act()
    assert time.monotonic() - begun < 5
    huggingface_hub.close_session()


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    monkeypatch.setattr(hub, "HUB_TIMEOUT_SECONDS", 0.2)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # listens, serves nobody
        turn_client(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(HubError, match=r"cannot be reached .*timed out"):
            push(program, REPO)
        huggingface_hub.close_session()


def test_offline_mode_is_named(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    turn_client(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for act in (lambda: push(program, REPO), lambda: pull(REPO)):
        with pytest.raises(
            HubError, match=r"HF_HUB_OFFLINE is set, so the network is not used\. Unset it, or name a folder"
        ):
            act()
    huggingface_hub.close_session()


def test_the_client_has_the_functions_that_are_used() -> None:
    used = {
        HfApi.model_info: {"revision", "timeout"},
        HfApi.create_repo: {"private", "exist_ok"},
        HfApi.create_branch: {"branch", "exist_ok"},
        HfApi.create_commit: {"operations", "commit_message", "revision"},
        HfApi.hf_hub_download: {"filename", "revision", "local_dir"},
    }
    for function, names in used.items():
        assert names <= set(inspect.signature(function).parameters)
    assert issubclass(HubError, UserError)
