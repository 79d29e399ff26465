"""A Hugging Face Hub on loopback: the endpoints that huggingface_hub calls to push and pull; repositories in memory."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from servers import Server


class FakeHub:
    """Repositories as lists of commits; a commit is its files by name.

    `declared` replaces sizes in listings; `answers` maps a repository to (status, X-Error-Code) of every answer.
    """

    def __init__(self):
        self.repositories, self.declared, self.answers, self.seen = {}, {}, {}, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub._answer(self, "GET")

            def do_HEAD(self):
                hub._answer(self, "HEAD")

            def do_POST(self):
                hub._answer(self, "POST")

            def log_message(self, *_):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name, files):
        """A new commit of exactly these files (bytes by name); its 40 digits."""
        commits = self.repositories.setdefault(name, {})
        digest = hashlib.sha1(repr((len(commits), sorted(files.items()))).encode(), usedforsecurity=False).hexdigest()
        commits[digest] = dict(files)
        return digest

    def head(self, name):
        return list(self.repositories[name])[-1]

    def _answer(self, request, method):
        path = unquote(urlsplit(request.path).path)
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length)
        self.seen.append((method, path))
        words = path.strip("/").split("/")
        if path == "/api/repos/create":
            table = json.loads(body)
            name = f"{table['organization']}/{table['name']}" if table.get("organization") else f"me/{table['name']}"
            if name in self.answers:
                return self._fail(request, name)
            status = 409 if name in self.repositories else 200
            self.repositories.setdefault(name, {self.first(name): {}})
            return self._json(request, {"url": f"{self.url}/{name}"}, status)
        if path == "/api/validate-yaml":
            return self._json(request, {"errors": [], "warnings": []})
        name = "/".join(words[2:4] if words[0] == "api" else words[:2])
        if name in self.answers or name not in self.repositories:
            return self._fail(request, name)
        commits = self.repositories[name]
        if words[0] == "api":
            rest = words[4:]
            if rest[:1] == ["preupload"]:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                    for file in json.loads(body)["files"]
                ]
                return self._json(request, {"files": files})
            if rest[:1] == ["commit"]:
                files = dict(commits[self.head(name)])
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    elif entry["key"] == "deletedFile":
                        del files[entry["value"]["path"]]
                digest = self.commit(name, files)
                address = {"commitUrl": f"{self.url}/{name}/commit/{digest}", "commitOid": digest}
                return self._json(request, {"success": True} | address)
            revision = rest[1] if rest[:1] == ["revision"] else "main"
            revision = self.head(name) if revision == "main" else revision
            if revision not in commits:
                return self._fail(request, name, (404, "RevisionNotFound"))
            siblings = [
                {"rfilename": file, "size": self.declared.get(file, len(data))}
                for file, data in commits[revision].items()
            ]
            return self._json(request, {"id": name, "modelId": name, "sha": revision, "siblings": siblings})
        revision, file = words[3], "/".join(words[4:])
        data = commits.get(revision, {}).get(file)
        if data is None:
            return self._fail(request, name, (404, "EntryNotFound"))
        return self._send(request, data, {"X-Repo-Commit": revision, "ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    @staticmethod
    def first(name):
        return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()

    def _fail(self, request, name, answer=None):
        status, code = answer or self.answers.get(name, (404, "RepoNotFound"))
        self._send(request, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"}, status)

    def _json(self, request, table, status=200):
        self._send(request, json.dumps(table).encode(), {"Content-Type": "application/json"}, status)

    def _send(self, request, data, headers, status=200):
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
