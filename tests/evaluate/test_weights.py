"""Weights of extractors: fetched from a real server, checked, kept; and said where they are not there."""

import hashlib
import http.server
import threading

import pytest

from ditscale.cli import main
from ditscale.config import Evaluation, compose
from ditscale.errors import UserError
from ditscale.evaluate import weights
from ditscale.launch.doctor.examine import files_of, local_files

CONTENT = b"weights" * 100_000


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on the loopback that has a file, known as vgg16's; what it was asked for; and a cache of the test's
    own."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            there = self.path in ("/good", "/bad")
            self.send_response(200 if there else 404)
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/good" else b"another" if there else b"")

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DITSCALE_CACHE", str(tmp_path / "cache"))
    at = f"http://127.0.0.1:{server.server_port}"
    known = weights.WEIGHTS["vgg16"]._replace(url=f"{at}/good", sha256=hashlib.sha256(CONTENT).hexdigest()[:8])
    monkeypatch.setitem(weights.WEIGHTS, "vgg16", known)
    yield at, asked
    server.shutdown()
    server.server_close()


def test_fetched_once_and_checked(served, tmp_path, capsys):
    at, asked = served
    path = tmp_path / "cache" / "weights" / "vgg16-397923af.pth"
    assert main(["fetch-weights", "vgg16", "--url", f"{at}/bad"]) == 2
    assert "is another file" in capsys.readouterr().err and not list(path.parent.iterdir())
    assert main(["fetch-weights", "vgg16"]) == 0
    assert capsys.readouterr().out.strip() == str(path) and path.read_bytes() == CONTENT
    assert main(["fetch-weights", "vgg16"]) == 0 and asked == ["/bad", "/good"]
    assert weights.weights_path(Evaluation(extractor="vgg16")) == path
    weights.check_weights(Evaluation(extractor="vgg16"))
    assert main(["fetch-weights", "vgg16", "--to", str(tmp_path / "x.pth"), "--url", f"{at}/none"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be fetched" in line and str(tmp_path / "x.pth") in line and not list(tmp_path.glob("*x.pth*"))
    assert main(["fetch-weights", "inception"]) == 2 and "inception-v3-compat" in capsys.readouterr().err


def test_said_where_they_are_not_there(served, tmp_path):
    with pytest.raises(UserError, match="ditscale fetch-weights vgg16"):
        weights.check_weights(Evaluation(extractor="vgg16"))
    with pytest.raises(UserError, match="nowhere.pt"):
        weights.check_weights(Evaluation(extractor="clip-vit-l-14", weights="nowhere.pt"))
    weights.check_weights(Evaluation())  # ours needs none
    study = compose(["study=mini", "evaluation.fid.extractor=vgg16"])
    (path,) = files_of(study)
    assert path == str(weights.cached("vgg16"))
    (missing,) = (f for f in local_files([path]) if path in f.what)
    assert missing.level == "bad" and "ditscale fetch-weights vgg16" in missing.remedy
    assert files_of(compose(["study=mini"])) == []
