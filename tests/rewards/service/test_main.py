"""Tests of python -m rewards.service as a process: what it refuses to start with, where it listens, what it holds."""

import json
import re
import signal
import socket
import threading
import time

import numpy as np
import psutil
import pytest

from rewards.service.__main__ import main
from tests.judges.scripted import ScriptedServer
from tests.rewards.service.process import service
from tests.rewards.service.running import TOKEN, Client, encoded, until


@pytest.fixture
def refused(monkeypatch, capsys):
    """Exit code and words of a service that must not start, called as the command would."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*flags: str, token: str | None = None) -> tuple[int, str]:
        monkeypatch.delenv("LOCUS_SERVICE_TOKEN", raising=False)
        if token is not None:
            monkeypatch.setenv("LOCUS_SERVICE_TOKEN", token)
        code = main(flags)
        said = capsys.readouterr()
        return code, said.out + said.err

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--service.host", "0.0.0.0"],
            "service.host: 0.0.0.0 can be reached from other machines, so a token is needed",
        ),
        (["--config", "quickstart"], "rewards.weights: edit_score needs the ground truth of the embedded benchmark"),
        (["--rewards.weights.acd", "1"], "rewards.weights: acd is measured while the editor makes the image"),
        (
            [
                "--rewards.judge.qwen_vl.serve.replicas",
                "1",
                "--rewards.judge.qwen_vl.serve.path",
                "x",
                "--rewards.weights.qwen_vl",
                "1",
            ],
            "only a training run starts",
        ),
        (["--rewards.weights", "{own: 1}", "--rewards.scorers", "{own: 'no.such:thing'}"], "no.such"),
        (["--resume"], "--resume: the service has no state"),
        (["--service.prot", "1"], "service.port"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(refused, flags, says):
    code, words = refused(*flags)
    assert code == 2 and says in words


def test_a_short_token_is_refused_without_showing_it(refused):
    code, words = refused(token="canary-5f1c")
    assert code == 2 and "LOCUS_SERVICE_TOKEN: expected 32 or more" in words and "canary" not in words


def test_judges_that_do_not_respond_end_it_with_a_sentence(refused):
    code, words = refused(
        "--service.port",
        "0",
        "--rewards.judge.editscore.urls",
        "[http://127.0.0.1:9/v1]",
        "--redis.mode",
        "off",
        "--rewards.weights.editscore",
        "1",
        "--rewards.judge.patience",
        "1",
        "--rewards.judge.editscore.serve.start_timeout",
        "2",
    )
    assert code == 1 and "127.0.0.1:9" in words


def test_help_and_dry_run_start_nothing(refused):
    code, words = refused("--help")
    assert code == 0 and "--service.max_total_megapixels" in words
    code, words = refused("--dry-run", "--service.port", "1234")
    assert code == 0 and "port: 1234" in words


def test_it_listens_on_loopback_alone_and_ends_when_asked():
    with service() as running:
        listening = [
            entry.laddr
            for entry in psutil.Process(running.process.pid).net_connections("inet")
            if entry.status == psutil.CONN_LISTEN
        ]
        assert [tuple(address) for address in listening] == [("127.0.0.1", running.client.port)]
        assert running.client.score().status == 200
        assert running.end() == 0
        assert "The reward service has stopped." in running.said and "Traceback" not in running.said
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.client.port))


def test_interrupted_from_the_keyboard_it_ends_as_well():
    with service() as running:
        assert running.end(signal.SIGINT) == 0 and "Traceback" not in running.said


def test_beyond_loopback_it_asks_for_the_token():
    with service("--service.host", "0.0.0.0", token=TOKEN) as running:
        local = Client(f"http://127.0.0.1:{running.client.port}", running.client.headers)
        assert Client(local.url).score().status == 401 and Client(local.url).get("/healthz").status == 200
        assert local.score().status == 200
        assert local.get("/docs").status == 404
        assert "with the token" in running.said and TOKEN not in running.said


def test_nothing_of_requests_or_secrets_is_logged():
    with service(token=TOKEN) as running:
        client = running.client
        canary = "canary-7d0e"
        client.score(instruction=canary)
        client.score(source=canary)
        client.score(canary.encode())
        client.score(headers={"X-Canary": canary, "Content-Type": canary})
        client.get(f"/{canary}?q={canary}")
        Client(client.url, {"Authorization": f"Bearer {canary}"}).score()
        with socket.create_connection(("127.0.0.1", client.port)) as raw:
            raw.sendall(canary.encode() + b"\r\n\r\n")
            assert raw.recv(65536)
        page = client.get("/metrics").body.decode()
        assert 'status="404"' in page and 'status="422"' in page and 'status="401"' in page  # they did arrive
        running.end()
        assert canary not in page + running.said and TOKEN not in page + running.said


def test_a_judge_scores_through_the_service():
    with (
        ScriptedServer("good") as judge,
        service(
            "--rewards.judge.editscore.urls",
            f"[{judge.url}]",
            "--rewards.weights.editscore",
            "2",
            "--rewards.judge.editscore.passes",
            "2",
            "--redis.mode",
            "off",
            "--rewards.judge.patience",
            "5",
            "--rewards.judge.deadline",
            "5",
            token=TOKEN,
        ) as running,
    ):
        client = running.client
        assert client.get("/readyz").json["judges"] == {"editscore": 1}
        response = client.score()
        assert response.status == 200
        scores = response.json["components"]["editscore"]
        assert all(0 <= score["value"] <= 1 and len(score["passes"]) == 2 for score in scores)
        assert response.json["rewards"][0] == pytest.approx(
            2 * scores[0]["value"]
            + 0.1 * response.json["components"]["background_psnr"][0]["value"]
            + response.json["components"]["background_ssim"][0]["value"]
        )
        page = client.get("/metrics").body.decode()
        assert 'locus_judge_in_rotation{judge="editscore"} 1.0' in page
        assert re.search(r'locus_judge_asked_total\{judge="editscore"\} [1-9]', page)
        judge.play("500", "500")
        response = client.score(instruction="another one")
        # A judge that fails is an error per score, never a number.
        assert response.status == 503 or response.json["rewards"] == [None, None]
        until(lambda: client.get("/readyz").status == 503)
        assert client.get("/readyz").json["judges"] == {"editscore": 0}


def test_large_images_do_not_hold_up_the_other_responses():
    side = 1000
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = encoded(noise, "JPEG")
    request = {
        "source": image,
        "edited": [image] * 5,
        "instruction": "x",
        "mask": {"rle": {"size": [side, side], "counts": [0, side, side * side - side]}},
    }
    body = json.dumps(request).encode()
    with service() as running:
        client, waits = running.client, []
        worker = threading.Thread(target=lambda: waits.append(client.score(body).status))
        worker.start()
        slowest, asked = 0.0, 0
        while worker.is_alive():
            start = time.monotonic()
            assert client.get("/healthz").status == 200
            slowest, asked = max(slowest, time.monotonic() - start), asked + 1
            time.sleep(0.02)
        assert waits == [200] and asked > 10
        assert slowest < 5
