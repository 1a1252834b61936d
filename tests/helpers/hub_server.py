"""Loopback, in-memory stand-in for the Hugging Face Hub (standard library only).

Speaks what huggingface_hub and datasets call with HF_HUB_DISABLE_XET=1, and fails on request: `hub.fault(...)` makes
matching requests answer with a status, half a body, slowly, or as something else would that answers in the Hub's
place, a number of times.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from conftest import Ran

from helpers.quick import ebm

PLURAL = {"models": "model", "datasets": "dataset", "spaces": "space"}
LFS_SUFFIX = (".safetensors", ".pt", ".pth", ".bin", ".npz", ".npy", ".parquet", ".png", ".gif", ".zip")


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def online(
    hub: Hub, *words: object, cwd: Path, check: int | None = None, token: str | None = "hf_test", **env: str
) -> Ran:
    """Run `ebm` against `hub`, its cache in `cwd / "hf"`."""
    return ebm(*words, cwd=cwd, check=check, **hub.env(cwd / "hf", token, **env))


@dataclass
class Fault:
    """What the next `times` requests whose `VERB path` matches `pattern` come to."""

    pattern: str
    status: int = 0
    half: bool = False
    slow: float = 0.0
    drop: bool = False
    times: int = 1
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    """an answer with this body, and with these headers only; status 200 where none is given"""


PAGE: dict[str, Any] = {
    "body": b"<!DOCTYPE html><html><body>Please sign in to this network</body></html>",
    "headers": (("Content-Type", "text/html"),),
    "times": 99,
}
"""What the page of a hotel, or of a proxy, answers to everything."""


class Hub(ThreadingHTTPServer):
    """The Hub; `with Hub() as hub` serves at `hub.url`, `hub.env` is what a client needs."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, token="hf_test", user="tester", cdn=False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.token, self.user, self.cdn, self.lock = token, user, cdn, threading.RLock()
        # repos[(type, id)] = {"refs": {}, "commits": {sha: {path: (kind, key)}}, ...}
        self.repos, self.lfs, self.log, self.faults = {}, {}, [], []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def env(self, home, token: str | None = "hf_test", **more: str) -> dict[str, str]:
        """Environment of a client with its cache in `home`."""
        login = {"HF_TOKEN": token} if token else {"HF_TOKEN": "", "HF_TOKEN_PATH": f"{home}/none"}
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **login,
            **more,
        }

    def fault(self, pattern: str, **what: Any) -> None:
        """Let requests fail; see `Fault`."""
        self.faults.append(Fault(pattern, **what))

    def put(self, repo: str, files: dict[str, bytes], kind: str = "model", **facts: Any) -> str:
        """A commit of these files on main, the repository made where it is missing; returns the commit."""
        with self.lock:
            if (kind, repo) not in self.repos:
                first = hashlib.sha1(repo.encode()).hexdigest()
                self.repos[kind, repo] = {
                    "refs": {"main": first},
                    "commits": {first: {}},
                    "tags": {},
                    "private": False,
                    "titles": {},
                }
            held = self.repos[kind, repo]
            held.update(facts)
            new = dict(held["commits"][held["refs"]["main"]])
            for path, data in files.items():
                if path.endswith(LFS_SUFFIX):
                    key = hashlib.sha256(data).hexdigest()
                    self.lfs[key] = data
                    new[path] = ("lfs", key)
                else:
                    new[path] = ("blob", data)
            sha = hashlib.sha1(f"{repo}{len(held['commits'])}".encode()).hexdigest()
            held["commits"][sha] = new
            held["refs"]["main"] = sha
            return sha

    def files(self, repo: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """What a revision holds."""
        held = self.repos[kind, repo]
        commit = held["commits"][held["refs"].get(revision, revision)]
        return {path: self.lfs[key] if how == "lfs" else key for path, (how, key) in commit.items()}

    def commits(self, repo: str, kind: str = "model") -> int:
        """How many commits there are, the first, empty one not counted."""
        return len(self.repos[kind, repo]["commits"]) - 1

    def requests(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(bool(re.search(pattern, f"{verb} {path}")) for verb, path in self.log)

    def handle_error(self, request, client_address):
        """A client that hangs up is nothing to be told of."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *a):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    # ---- plumbing
    def reply(self, status=200, obj=None, body=None, headers=None, head=False):
        if body is None:
            body = b"" if obj is None else json.dumps(obj).encode()
        self.send_response(status)
        h = {
            "Content-Type": "application/json" if obj is not None else "application/octet-stream",
            "Content-Length": str(len(body)),
            "X-Request-Id": "minihub",
        } | (headers or {})
        for k, v in h.items():
            self.send_header(k, v)
        self.end_headers()
        if head:
            return
        fault, self.fault = self.fault, None
        if fault and (fault.half or fault.slow):
            first = body[: len(body) // 2]
            self.wfile.write(first)
            self.wfile.flush()
            time.sleep(fault.slow)
            if fault.half:
                self.close_connection = True
                return
            body = body[len(first) :]
        self.wfile.write(body)

    fault: Fault | None = None

    def struck(self, verb: str) -> Fault | None:
        """The fault that this request meets."""
        with self.server.lock:
            for fault in self.server.faults:
                if fault.times and re.search(fault.pattern, f"{verb} {self.path}"):
                    fault.times -= 1
                    return fault
        return None

    def answer(self, verb: str, fault: Fault) -> None:
        """The fault's own answer, without a header of the Hub's."""
        body = fault.body or b""
        self.send_response(fault.status or 200)
        for name, value in (("Content-Length", str(len(body))), *fault.headers):
            self.send_header(name, value)
        self.end_headers()
        if verb != "HEAD":
            self.wfile.write(body)

    def fail(self, status, code, msg, head=False, **h):
        self.reply(status, {"error": msg}, headers={"X-Error-Code": code, "X-Error-Message": msg, **h}, head=head)

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            out = b""
            while n := int(self.rfile.readline().split(b";")[0], 16):
                out += self.rfile.read(n)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def tags(self, r):
        """Tags of a repository, from its card."""
        _kind, key = r["commits"][r["refs"]["main"]].get("README.md", ("blob", b""))
        found = re.search(rb"^tags: (\[.*\])$", key, re.M)
        return json.loads(found[1]) if found else []

    def authed(self):
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def repo(self, rtype, rid):
        r = self.server.repos.get((rtype, rid))
        return None if r is None or (r["private"] and not self.authed()) else r

    def rev(self, r, name):
        return r["refs"].get(name) or (name if name in r["commits"] else None)

    # ---- verbs
    def do_GET(self):
        self.route("GET")

    def do_HEAD(self):
        self.route("HEAD")

    def do_POST(self):
        self.route("POST")

    def do_PUT(self):
        self.route("PUT")

    def do_DELETE(self):
        self.route("DELETE")

    def route(self, verb):
        u = urlsplit(self.path)
        path = u.path
        q = parse_qs(u.query)
        data = self.body()
        s = self.server
        s.log.append((verb, self.path))
        self.fault = self.struck(verb)
        if self.fault and self.fault.drop:
            self.close_connection = True
            return
        if self.fault and self.fault.body is not None:
            return self.answer(verb, self.fault)
        if self.fault and self.fault.status:
            return self.fail(self.fault.status, "", "told to fail", verb == "HEAD", **dict(self.fault.headers))
        with s.lock if not self.fault else threading.Lock():
            if path == "/api/whoami-v2":
                return (
                    self.reply(200, {"type": "user", "name": s.user, "orgs": [], "auth": {"type": "access_token"}})
                    if self.authed()
                    else self.fail(401, "", "Invalid username or password.")
                )
            if path == "/api/models":
                wanted = q.get("search", [""])[0].lower()
                return self.reply(
                    200,
                    [
                        {
                            "_id": "0" * 24,
                            "id": rid,
                            "modelId": rid,
                            "private": r["private"],
                            "gated": bool(r.get("gated")),
                            "downloads": r.get("downloads", 0),
                            "likes": 0,
                            "tags": self.tags(r),
                            "lastModified": "2026-01-01T00:00:00.000Z",
                            "createdAt": "2026-01-01T00:00:00.000Z",
                        }
                        for (kind, rid), r in s.repos.items()
                        if kind == "model"
                        and wanted in rid.lower()
                        and set(q.get("filter", [])) <= set(self.tags(r))
                        and (not r["private"] or self.authed())
                    ],
                )
            if path == "/api/validate-yaml":
                return self.reply(200, {"errors": [], "warnings": []})
            if path == "/api/repos/create":
                return self.create(json.loads(data))
            if path == "/api/repos/delete":
                return self.delete(json.loads(data))
            if m := re.fullmatch(r"/_lfs/([0-9a-f]{64})", path):
                if verb == "PUT":
                    if hashlib.sha256(data).hexdigest() != m[1]:
                        return self.fail(400, "", "sha256 mismatch")
                    s.lfs[m[1]] = data
                    return self.reply(200, headers={"ETag": f'"{m[1]}"'})
                return self.reply(200, body=s.lfs[m[1]], head=verb == "HEAD")
            if m := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                return self.lfs_batch(json.loads(data))
            if m := re.fullmatch(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(.*))?", path):
                return self.api(verb, PLURAL[m[1]], m[2], m[3] or "", q, data)
            if m := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.resolve(verb, PLURAL.get(m[1], "model"), m[2], unquote(m[3]), unquote(m[4]))
        self.fail(404, "", f"no route {verb} {path}", head=verb == "HEAD")

    def create(self, p):
        if not self.authed():
            return self.fail(401, "", "Invalid username or password.")
        rtype = p.get("type") or "model"
        rid = f"{p.get('organization') or self.server.user}/{p['name']}"
        url = f"{self.server.url}/{'' if rtype == 'model' else rtype + 's/'}{rid}"
        if (rtype, rid) in self.server.repos:
            return self.reply(409, {"error": "You already created this repo", "url": url})
        files = {}
        sha = hashlib.sha1(rid.encode()).hexdigest()
        self.server.repos[rtype, rid] = {
            "refs": {"main": sha},
            "commits": {sha: files},
            "tags": {},
            "private": p.get("visibility") == "private" or bool(p.get("private")),
            "titles": {sha: "initial commit"},
        }
        self.reply(200, {"url": url, "name": rid, "id": rid})

    def delete(self, p):
        rid = f"{p.get('organization') or self.server.user}/{p['name']}"
        gone = self.server.repos.pop((p.get("type") or "model", rid), None)
        return self.reply(200, {}) if gone else self.fail(404, "RepoNotFound", "Repository not found")

    def lfs_batch(self, p):
        out = []
        for o in p["objects"]:
            e = {"oid": o["oid"], "size": o["size"]}
            if o["oid"] not in self.server.lfs:  # no "actions" = already there
                e["actions"] = {"upload": {"href": f"{self.server.url}/_lfs/{o['oid']}"}}
            out.append(e)
        self.reply(200, {"transfer": "basic", "objects": out}, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def entry(self, path, f):
        kind, key = f
        if kind == "lfs":
            size = len(self.server.lfs[key])
            ptr = f"version https://git-lfs.github.com/spec/v1\noid sha256:{key}\nsize {size}\n".encode()
            return {
                "type": "file",
                "path": path,
                "size": size,
                "oid": git_oid(ptr),
                "lfs": {"oid": key, "size": size, "pointerSize": len(ptr)},
            }
        return {"type": "file", "path": path, "size": len(key), "oid": git_oid(key)}

    def api(self, verb, rtype, rid, rest, q, data):
        r = self.repo(rtype, rid)
        if r is None:
            wrong = "Authorization" in self.headers and not self.authed()
            return self.fail(
                401 if wrong else 404, "" if wrong else "RepoNotFound", "Repository not found", head=verb == "HEAD"
            )
        op, _, tail = rest.partition("/")
        revname = (
            unquote(tail.split("/")[0]) if op in ("revision", "tree", "preupload", "commit", "paths-info") else "main"
        )
        sha = self.rev(r, revname)
        if sha is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revname}", head=verb == "HEAD")
        files = r["commits"][sha]
        if op in ("", "revision"):
            return self.reply(
                200,
                {
                    "_id": "0" * 24,
                    "id": rid,
                    "modelId": rid,
                    "author": rid.split("/")[0],
                    "sha": sha,
                    "private": r["private"],
                    "gated": "manual" if r.get("gated") else False,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "lastModified": "2026-01-01T00:00:00.000Z",
                    "createdAt": "2026-01-01T00:00:00.000Z",
                    "siblings": [{"rfilename": p} for p in sorted(files)],
                },
            )
        if op == "refs":
            return self.reply(
                200,
                {
                    "branches": [
                        {"name": k, "ref": f"refs/heads/{k}", "targetCommit": v}
                        for k, v in r["refs"].items()
                        if k not in r["tags"]
                    ],
                    "converts": [],
                    "tags": [{"name": k, "ref": f"refs/tags/{k}", "targetCommit": v} for k, v in r["tags"].items()],
                },
            )
        if op == "branch" and verb == "POST":
            if not self.authed():
                return self.fail(401, "", "Invalid username or password.")
            if unquote(tail) in r["refs"]:
                return self.fail(409, "", "Reference already exists")
            r["refs"][unquote(tail)] = r["refs"]["main"]
            return self.reply(200, {})
        if op == "tag" and verb == "POST":
            r["tags"][json.loads(data)["tag"]] = r["refs"][json.loads(data)["tag"]] = self.rev(r, unquote(tail)) or sha
            return self.reply(200, {})
        if op == "tree":
            under = unquote(tail.partition("/")[2]).strip("/")
            deep = q.get("recursive", ["False"])[0].lower() in ("true", "1")
            found, folders = [], set()
            for p, f in sorted(files.items()):
                if under and not p.startswith(under + "/"):
                    continue
                rest_of = p[len(under) + 1 if under else 0 :]
                for i, c in enumerate(rest_of):
                    if c == "/" and (deep or "/" not in rest_of[:i]):
                        folders.add((under + "/" if under else "") + rest_of[:i])
                if deep or "/" not in rest_of:
                    found.append(self.entry(p, f))
            if under and not found and not folders:
                return self.fail(404, "EntryNotFound", "Entry not found")
            return self.reply(
                200, [{"type": "directory", "path": p, "size": 0, "oid": "0" * 40} for p in sorted(folders)] + found
            )
        if op == "paths-info":
            want = (json.loads(data) if data[:1] == b"{" else {"paths": parse_qs(data.decode()).get("paths", [])})[
                "paths"
            ]
            return self.reply(
                200,
                [self.entry(p, files[p]) for p in want if p in files]
                + [
                    {"type": "directory", "path": p, "size": 0, "oid": "0" * 40}
                    for p in want
                    if any(f.startswith(p + "/") for f in files)
                ],
            )
        if op == "preupload":
            out = []
            for f in json.loads(data)["files"]:
                lfs = f["path"].endswith(LFS_SUFFIX) or f["size"] > 10 * 2**20
                o = {"path": f["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
                if f["path"] in files:
                    k, key = files[f["path"]]
                    o["oid"] = key if k == "lfs" else git_oid(key)  # lets the client drop unchanged files
                out.append(o)
            return self.reply(200, {"files": out})
        if op == "commit":
            if not self.authed():
                return self.fail(401, "", "Invalid username or password.")
            if rid.split("/")[0] != self.server.user:
                return self.fail(403, "", "no right to write here")
            if q.get("create_pr", ["0"])[0] == "1":
                revname = f"refs/pr/{1 + sum(k.startswith('refs/pr') for k in r['refs'])}"
            new = dict(files)
            title = ""
            parent = None
            for line in data.splitlines():
                d = json.loads(line)
                v = d["value"]
                if d["key"] == "header":
                    title, parent = v["summary"], v.get("parentCommit")
                elif d["key"] == "file":
                    new[v["path"]] = ("blob", base64.b64decode(v["content"]))
                elif d["key"] == "lfsFile":
                    if v["oid"] not in self.server.lfs:
                        return self.fail(400, "", "LFS object missing")
                    new[v["path"]] = ("lfs", v["oid"])
                elif d["key"] == "deletedFile":
                    new.pop(v["path"], None)
                elif d["key"] == "deletedFolder":
                    new = {p: f for p, f in new.items() if not p.startswith(v["path"].rstrip("/") + "/")}
            if parent and not sha.startswith(parent):
                return self.fail(412, "", "A commit has happened since. Please refresh and try again.")
            oid = hashlib.sha1((sha + str(len(r["commits"])) + title).encode()).hexdigest()
            r["commits"][oid] = new
            r["refs"][revname] = oid
            r["titles"][oid] = title
            url = f"{self.server.url}/{'' if rtype == 'model' else rtype + 's/'}{rid}/commit/{oid}"
            return self.reply(
                200,
                {
                    "success": True,
                    "commitOid": oid,
                    "commitUrl": url,
                    "hookOutput": "",
                    **({"pullRequestUrl": f"{self.server.url}/{rid}/discussions/1"} if "pr" in revname else {}),
                },
            )
        self.fail(404, "", f"no api op {op}")

    def resolve(self, verb, rtype, rid, revname, path):
        head = verb == "HEAD"
        r = self.repo(rtype, rid)
        if r is None:
            return self.fail(404 if self.authed() else 401, "RepoNotFound", "Repository not found", head)
        if r.get("gated") and not r.get("granted"):
            return self.fail(
                403 if self.authed() else 401, "GatedRepo", "Access to this repository is restricted", head
            )
        sha = self.rev(r, revname)
        if sha is None:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revname}", head)
        f = r["commits"][sha].get(path)
        if f is None:
            return self.fail(404, "EntryNotFound", "Entry not found", head, **{"X-Repo-Commit": sha})
        e = self.entry(path, f)
        blob = self.server.lfs[f[1]] if f[0] == "lfs" else f[1]
        etag = e["lfs"]["oid"] if f[0] == "lfs" else e["oid"]
        h = {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if f[0] == "lfs":
            h |= {"X-Linked-Size": str(len(blob)), "X-Linked-Etag": f'"{etag}"'}
            if self.server.cdn:  # as the real Hub: 302 to another host. It must differ from HF_ENDPOINT's host, whose
                # redirects the client follows on HEAD (and then misses X-Repo-Commit): 127.0.0.1 -> localhost
                h["Location"] = f"{self.server.url}/_lfs/{etag}".replace("127.0.0.1", "localhost")
                return self.reply(302, body=b"", headers=h, head=head)
        status = 200
        if (m := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) and not head:
            first, last = int(m[1]), min(int(m[2] or len(blob) - 1), len(blob) - 1)
            h["Content-Range"] = f"bytes {first}-{last}/{len(blob)}"
            blob, status = blob[first : last + 1], 206
        self.reply(status, body=blob, headers=h, head=head)
