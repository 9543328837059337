"""Tests of rewards.service.app over real HTTP: every status with its sentence, and what it left behind."""

import base64
import pickle
import re
import socket

import numpy as np
import pytest

from tests.rewards.service.running import (
    MASK,
    SOURCE,
    TOKEN,
    Client,
    ScriptedPool,
    brightness,
    encoded,
    metric,
    serving,
)


@pytest.fixture(scope="module")
def service():
    with serving() as (client, pool):
        yield client, pool


def test_scores_rewards_and_what_the_pool_was_given(service):
    client, pool = service
    response = client.score(caption="all black", target=encoded(SOURCE[::-1].copy()))
    assert response.status == 200
    mean = float(SOURCE.mean())
    assert response.json == {
        "components": {
            "background_psnr": [
                {"value": mean, "error": None, "passes": []},
                {"value": 0.0, "error": None, "passes": []},
            ],
            "editscore": [
                {"value": 0.5, "error": None, "passes": [0.25, 0.75]},
                {"value": None, "error": "editscore: it is black", "passes": []},
            ],
        },
        "rewards": [pytest.approx(0.1 * mean + 2 * 0.5), None],
    }
    task, images = pool.asked[-1]
    assert np.array_equal(task.source, SOURCE) and np.array_equal(task.edit_mask, MASK)
    assert np.array_equal(images, np.stack([SOURCE, np.zeros_like(SOURCE)]))
    assert (task.instruction, task.caption) == ("make it black", "all black")
    assert np.array_equal(task.target, SOURCE[::-1])


def test_masks_say_the_same_in_every_form(service):
    client, pool = service
    counts = []
    for value in MASK.T.reshape(-1).tolist():
        if len(counts) % 2 == value:  # another value than that of the last run
            counts.append(0)
        counts[-1] += 1
    inverse = encoded(np.where(MASK, 0, 255).astype(np.uint8))
    compressed = pytest.importorskip("pycocotools.mask").encode(np.asfortranarray(MASK.astype(np.uint8)))["counts"]
    for mask in (
        {"rle": {"size": [6, 9], "counts": counts}},
        {"rle": {"size": [6, 9], "counts": compressed.decode()}},
        {"png": inverse, "polarity": "edit_is_black"},
    ):
        assert client.score(mask=mask).status == 200
        assert np.array_equal(pool.asked[-1][0].edit_mask, MASK)


def test_jpeg_and_webp_are_images_too(service):
    client, pool = service
    webp = encoded(SOURCE, "WEBP", lossless=True)
    assert client.score(source=webp, edited=[encoded(SOURCE, "JPEG")]).status == 200
    assert np.array_equal(pool.asked[-1][0].source, SOURCE) and pool.asked[-1][1].shape == (1, 6, 9, 3)


def test_state_pages(service):
    client, _ = service
    assert client.get("/healthz").json == {"status": "alive"}
    page = client.get("/openapi.json").json
    assert page["components"]["schemas"]["ScoreRequest"]["required"] == ["source", "edited", "instruction", "mask"]
    assert client.get("/docs").status == 200
    assert "server" not in client.get("/healthz").headers


def test_the_example_of_the_page_is_scored(service):
    client, _ = service
    page = client.get("/openapi.json").json
    body = page["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.score(body).status == 200


def test_ready_when_every_judge_has_a_server():
    numbers = {"editscore_in_rotation": 2.0, "cache_hits": 5.0, "cache_faults": 1.0}
    with serving(ScriptedPool(brightness, numbers)) as (client, pool):
        ready = client.get("/readyz")
        assert ready.status == 200
        assert ready.json == {
            "ready": True,
            "judges": {"editscore": 2},
            "scorers": {},
            "cache": {"hits": 5, "faults": 1},
            "queue": {"taken": 0, "places": 64},
        }
        pool.numbers = {"editscore_in_rotation": 0.0}
        assert client.get("/readyz").status == 503 and client.get("/readyz").json["ready"] is False
        assert client.get("/healthz").status == 200


def test_metrics_count_requests_scores_errors_and_judges():
    numbers = {"editscore_asked": 7.0, "editscore_p95_seconds": 1.5, "editscore_error_rate": 0.25, "cache_hits": 3.0}
    with serving(ScriptedPool(brightness, numbers)) as (client, pool):
        pool.held.set()
        assert client.score().status == 200
        assert client.score(b"{").status == 400
        client.get("/nothing/here"), client.get("/nor/here")
        for line, value in {
            'locus_requests_total{path="/v1/score",status="200"}': 1,
            'locus_requests_total{path="/v1/score",status="400"}': 1,
            'locus_requests_total{path="other",status="404"}': 2,
            'locus_request_seconds_count{path="/v1/score"}': 2,
            'locus_scores_total{component="editscore"}': 2,
            'locus_score_errors_total{component="editscore"}': 1,
            'locus_score_errors_total{component="background_psnr"}': 0,
            'locus_judge_asked_total{judge="editscore"}': 7,
            'locus_judge_p95_seconds{judge="editscore"}': 1.5,
            'locus_judge_error_rate{judge="editscore"}': 0.25,
            "locus_cache_hits_total": 3,
            "locus_queue_places": 64,
            "locus_queue_taken": 0,
        }.items():
            assert metric(client, line) == value, line


GIF = encoded(SOURCE, "GIF")
TALL = encoded(np.zeros((9, 6, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"source": None}, 422, "source: input should be a valid string"),
        ({"edited": []}, 422, "edited: list should have at least 1 item"),
        ({"edited": "abc"}, 422, "edited: input should be a valid array"),
        ({"edited": [1]}, 422, r"edited\[0\]: input should be a valid string"),
        ({"edited": ["http://127.0.0.1/a.png"]}, 422, r"edited\[0\] must be a file's bytes in base64.*opens no URLs"),
        ({"source": "file:///etc/passwd"}, 422, "source must be a file's bytes in base64.*'file:///etc/passwd'"),
        (
            {"source": "data:image/png;base64,iVBORw0KGgo="},
            422,
            "source must be a file's bytes in base64, without prefix",
        ),
        ({"source": "ÿÿÿÿ"}, 422, "source must be a file's bytes"),
        ({"source": "/etc/passwd/"}, 422, "source must be a PNG, JPEG or WebP file"),
        ({"source": GIF}, 422, "source must be a PNG, JPEG or WebP file"),
        ({"edited": [TALL]}, 422, r"edited\[0\] must have the size of the source, \[6, 9\]; got \[9, 6\]"),
        ({"edited": [encoded(SOURCE[:5])]}, 422, r"edited\[0\] must have the size of the source, 54 pixels; it has 45"),
        ({"target": TALL}, 422, r"target must have the size of the source, \[6, 9\]; got \[9, 6\]"),
        ({"instruction": ""}, 422, "instruction: string should have at least 1 character"),
        ({"instruction": " "}, 422, "instruction: expected a non-empty text"),
        ({"instruction": 3}, 422, "instruction: input should be a valid string"),
        ({"caption": " "}, 422, "caption: expected a non-empty text"),
        ({"strength": 1}, 422, "strength: unknown field. Expected source"),
        ({"mask": None}, 422, "mask: input should be an object"),
        ({"mask": {"png": encoded(SOURCE[..., 0])}}, 422, "mask.polarity: expected, but not there"),
        ({"mask": {"png": encoded(SOURCE[..., 0]), "polarity": "white"}}, 422, "mask.polarity: input should be"),
        ({"mask": {"png": encoded(SOURCE[..., 0]), "polarity": "edit_is_white"}}, 422, "must be black and white"),
        ({"mask": {"png": encoded(MASK.T.copy()), "polarity": "edit_is_white"}}, 422, "the mask must have the size of"),
        ({"mask": {"png": encoded(np.zeros_like(MASK)), "polarity": "edit_is_white"}}, 422, "has no editable pixel"),
        (
            {"mask": {"rle": {"size": [6, 9], "counts": [54]}, "polarity": "edit_is_black"}},
            422,
            "mask.polarity: unknown",
        ),
        ({"mask": {"rle": {"size": [6, 9], "counts": [53]}}}, 422, "must add up to 6 × 9 = 54"),
        ({"mask": {"rle": {"size": [9, 6], "counts": [0, 54]}}}, 422, r"expected that of the image, \[6, 9\]"),
        ({"mask": {"rle": {"size": [6, 9], "counts": [0, 2**40]}}}, 422, r"mask.rle.counts\[1\]: input should be less"),
        ({"mask": {"rle": {"size": [6, 9], "counts": "~~~~"}}}, 422, "not a COCO string"),
        (
            {"mask": {"rle": {"size": [6, 9], "counts": "0" * 1_000_001}}},
            422,
            "counts: string should have at most 1000000",
        ),
        ({"mask": {"rle": {"size": [6, 9], "counts": [1] * 100_000}}}, 413, "holds about 100,0.. values"),
        ({"edited": [encoded(SOURCE)] * 16}, 413, "has 17 images, source and target included; at most 16"),
        ({"edited": [encoded(SOURCE)] * 10_000}, 413, "has 10,001 images"),
        ({"instruction": "x" * 8193}, 413, "instruction has 8,193 characters; at most 8,192"),
        ({"caption": "x" * 8193}, 413, "caption has 8,193 characters"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(service, changes, status, says):
    client, pool = service
    before = pool.begun
    response = client.score(**changes)
    assert response.status == status
    assert re.search(says, response.detail), response.detail
    assert len(response.detail) < 400
    assert pool.begun == before


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1, 2]x",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"source": "\\ud800"}',
        b'{"n": 1' + b"0" * 10_000 + b"}",
        pickle.dumps({"source": 1}),
    ],
)
def test_what_is_no_json_is_400(service, body):
    response = service[0].score(body)
    assert response.status == 400 and response.detail.startswith("The body must be a JSON object; it cannot be read: ")


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Content-Type": "application/octet-stream"}, "application/octet-stream"),
        ({"Content-Type": "application/x-python-pickle"}, "not pickle"),
        ({"Content-Type": "application/x-npy"}, "application/x-npy"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, "multipart/form-data"),
        ({"Content-Type": "text/plain"}, "text/plain"),
        ({"Content-Type": ""}, "no type"),
        ({"Content-Type": "x" * 5000}, r"xxx\.\.\."),
        ({"Content-Encoding": "gzip"}, "must not be compressed"),
    ],
)
def test_other_types_of_body_are_415_and_not_read(service, headers, says):
    client, _ = service
    opened = []

    class Poisoned:
        def __reduce__(self):
            return (opened.append, (1,))

    response = client.score(pickle.dumps(Poisoned()), headers)
    assert response.status == 415 and re.search(says, response.detail)
    assert not opened and len(response.detail) < 300


def test_unknown_paths_and_methods(service):
    client, _ = service
    assert client.get("/").status == 404 and "POST /v1/score" in client.get("/").detail
    response = client.get("/v1/score")
    assert response.status == 405 and response.headers["allow"] == "POST" and "Allow" in response.detail
    assert client.ask("OPTIONS", "/v1/score", headers={"Origin": "http://evil.example"}).status == 405
    assert "access-control-allow-origin" not in client.ask("GET", "/healthz", headers={"Origin": "http://e"}).headers


def test_a_fault_of_the_service_is_500_and_says_nothing_more(capfd):
    def scores(task, images):
        raise ZeroDivisionError("inner workings")

    with serving(ScriptedPool(scores)) as (client, pool):
        pool.held.set()
        response = client.score(instruction="canary-in-the-instruction")
        assert response.status == 500 and response.detail == "Internal error; see the log of the service."
        assert client.get("/healthz").status == 200
    logged = capfd.readouterr().err
    assert "inner workings" in logged and "canary" not in logged


def test_with_a_token_nothing_but_healthz_is_open():
    with serving(token=TOKEN) as (client, pool):
        assert client.get("/healthz").status == 200
        wrong = (
            "",
            "Bearer",
            "Bearer wrong",
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            TOKEN,
            "Bearer \xff\xfe",
        )
        for path in ("/v1/score", "/readyz", "/metrics", "/docs", "/openapi.json", "/x"):
            for value in wrong:
                response = client.ask("GET", path, headers={"Authorization": value})
                assert response.status == 401 and "Authorization: Bearer" in response.detail
                assert response.headers["www-authenticate"] == "Bearer" and TOKEN not in response.detail
        assert client.score().status == 401 and pool.begun == 0
        holder = Client(client.url, {"Authorization": f"Bearer {TOKEN}"})
        assert holder.score().status == 200
        # Behind a name of another machine the token alone decides.
        assert holder.score(headers={"Host": "rewards.example"}).status == 200


def test_without_a_token_only_names_of_this_machine_are_served(service):
    client, pool = service
    before = pool.begun
    for host in ("rewards.example", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1:8460"):
        response = client.score(headers={"Host": host})
        assert response.status == 421 and "127.0.0.1" in response.detail
    assert pool.begun == before
    for host in ("localhost", "localhost:9000", "127.0.0.1:8460", "[::1]:1"):
        assert client.score(headers={"Host": host}).status == 200
    assert client.ask("GET", "/healthz", headers={"Host": "rewards.example"}).status == 200


def test_beyond_loopback_there_are_no_pages():
    with serving(token=TOKEN, loopback=False) as (client, _):
        holder = Client(client.url, {"Authorization": f"Bearer {TOKEN}"})
        for path in ("/docs", "/openapi.json", "/redoc"):
            assert holder.get(path).status == 404
        assert holder.get("/readyz").status == 503  # the scripted pool has no judge


def test_urls_and_paths_are_never_opened(service, tmp_path):
    client, _ = service
    secret = tmp_path / "secret.png"
    secret.write_bytes(base64.b64decode(encoded(SOURCE)))
    with socket.create_server(("127.0.0.1", 0)) as witness:
        witness.settimeout(0.5)
        port = witness.getsockname()[1]
        for url in (
            f"http://127.0.0.1:{port}/a.png",
            f"https://127.0.0.1:{port}/",
            f"//127.0.0.1:{port}/a",
            f"ftp://127.0.0.1:{port}/a",
            str(secret),
            f"file://{secret}",
            "../secret.png",
        ):
            for changes in (
                {"source": url},
                {"edited": [url]},
                {"target": url},
                {"mask": {"png": url, "polarity": "edit_is_white"}},
                {"mask": {"rle": {"size": [6, 9], "counts": url}}},
            ):
                assert client.score(**changes).status == 422
        with pytest.raises(TimeoutError):
            witness.accept()
        socket.create_connection(("127.0.0.1", port)).close()  # the witness sees what comes
        assert witness.accept()
