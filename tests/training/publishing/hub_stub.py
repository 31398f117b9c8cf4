"""A stand-in for the Hub on loopback: it keeps what `huggingface_hub` sends and serves it back by revision.

Only what pushing and loading a model need: repositories, branches, commits of regular and LFS files, and files by
branch or commit. Writing needs the token; whatever else is asked is a 404 that the log shows.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_stub"
LARGE = (".safetensors", ".bin")  # what the Hub's default .gitattributes sends to LFS


@dataclass
class Repository:
    """`commits`: id -> path -> content; `branches`: name -> id of its last commit."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Adds a commit of all `files` to a branch; returns its id, 40 hexadecimal digits as git's."""
        state = repr((self.branches.get(branch), message, sorted((p, git_id(d)) for p, d in files.items())))
        commit = hashlib.sha1(state.encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        """The commit that a branch or a commit id means."""
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubStub(ThreadingHTTPServer):
    """The server and what it keeps: `repositories` by name, `large` files by SHA-256, `log` of (method, path)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []


@contextmanager
def running_hub() -> Iterator[HubStub]:
    """A stub that answers while the context lasts."""
    hub = HubStub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class NotFound(Exception):
    """Carries the Hub's error code, which the client turns into its own exception."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStub

    def log_message(self, *_args) -> None:
        """The stub's own log is enough."""

    def do_GET(self) -> None:
        self.dispatch(GET)

    def do_HEAD(self) -> None:
        self.dispatch(GET)

    def do_POST(self) -> None:
        self.dispatch(POST)

    def do_PUT(self) -> None:
        self.dispatch(PUT)

    def dispatch(self, routes: "dict[str, Callable[..., None]]") -> None:
        path = urlsplit(self.path).path
        self.server.log.append((self.command, path))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        # The links to upload a large file carry their own permission, as the Hub's do.
        writes = self.command == "POST" and path != "/api/validate-yaml"
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, status=401)
        for pattern, action in routes.items():
            if match := re.fullmatch(pattern, path):
                try:
                    return action(self, **{name: unquote(value or "") for name, value in match.groupdict().items()})
                except NotFound as error:
                    return self.answer({"error": str(error)}, status=404, headers={"X-Error-Code": str(error)})
        return self.answer({"error": f"the stub does not know {self.command} {path}"}, status=404)

    def answer(self, content: "dict | list | bytes", status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def repository(self, repo: str) -> Repository:
        found = self.server.repositories.get(repo)
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise NotFound("RepoNotFound")
        return found

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """The commit that a revision means, and its files."""
        found = self.repository(repo)
        commit = found.find(revision or "main")
        if commit is None:
            raise NotFound("RevisionNotFound")
        return commit, found.commits[commit]

    # --- writing ---

    def create_repo(self) -> None:
        wanted = json.loads(self.body)
        repo = f"{wanted['organization'] or 'user'}/{wanted['name']}"
        answer = {"url": f"{self.server.url}/{repo}"}
        if repo in self.server.repositories:
            return self.answer(answer | {"error": "You already created this model repo"}, status=409)
        self.server.repositories[repo] = Repository(private=wanted.get("visibility") == "private")
        # Like the Hub's, a new repository is not empty.
        self.server.repositories[repo].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial")
        return self.answer(answer)

    def create_branch(self, repo: str, branch: str) -> None:
        found = self.repository(repo)
        if branch in found.branches:
            return self.answer({"error": "Reference already exists"}, status=409)
        found.branches[branch] = found.branches["main"]
        return self.answer({})

    def validate_yaml(self) -> None:
        text = json.loads(self.body)["content"]
        if not text.startswith("---\n"):
            return self.answer({"errors": [{"message": "no metadata"}]}, status=400)
        return self.answer({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        _, present = self.files(repo, revision)
        modes = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
            modes.append(mode | ({"oid": git_id(present[path])} if path in present else {}))
        self.answer({"files": modes})

    def lfs_batch(self, repo: str) -> None:
        self.repository(repo)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            href = f"{self.server.url}/lfs/{wanted['oid']}"
            known = wanted["oid"] in self.server.large
            objects.append(wanted if known else wanted | {"actions": {"upload": {"href": href}}})
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer({"error": "content and SHA-256 differ"}, status=400)
        self.server.large[oid] = self.body
        return self.answer(b"")

    def commit(self, repo: str, revision: str) -> None:
        _, present = self.files(repo, revision)
        files, message = dict(present), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                message = value["summary"]
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self.answer({"error": f"the stub does not know {operation['key']}"}, status=400)
        commit = self.repository(repo).commit(revision, files, message)
        url = f"{self.server.url}/{repo}/commit/{commit}"
        return self.answer({"success": True, "commitOid": commit, "commitUrl": url})

    # --- reading ---

    def model_info(self, repo: str, revision: str = "") -> None:
        commit, files = self.files(repo, revision)
        self.answer({"id": repo, "sha": commit, "siblings": [{"rfilename": path} for path in sorted(files)]})

    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        _, files = self.files(repo, revision)
        listed = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not listed:
            raise NotFound("EntryNotFound")
        self.answer([{"type": "file", "path": p, "size": len(d), "oid": git_id(d)} for p, d in listed.items()])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        commit, files = self.files(repo, revision)
        if path not in files:
            raise NotFound("EntryNotFound")
        tag = hashlib.sha256(files[path]).hexdigest() if path.endswith(LARGE) else git_id(files[path])
        self.answer(files[path], headers={"X-Repo-Commit": commit, "ETag": f'"{tag}"'})


REPO = r"(?P<repo>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
GET = {
    rf"/api/models/{REPO}": Handler.model_info,
    rf"/api/models/{REPO}/revision/{REVISION}": Handler.model_info,
    rf"/api/models/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?": Handler.tree,
    rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)": Handler.resolve,
}
POST = {
    r"/api/repos/create": Handler.create_repo,
    r"/api/validate-yaml": Handler.validate_yaml,
    rf"/api/models/{REPO}/branch/(?P<branch>[^/]+)": Handler.create_branch,
    rf"/api/models/{REPO}/preupload/{REVISION}": Handler.preupload,
    rf"/{REPO}\.git/info/lfs/objects/batch": Handler.lfs_batch,
    rf"/api/models/{REPO}/commit/{REVISION}": Handler.commit,
}
PUT = {r"/lfs/(?P<oid>[0-9a-f]{64})": Handler.lfs_upload}
