"""Locus's rewards in a flow_grpo-style loop: `scores, info = locus_reward(images, prompts, metadata)`.

    python -m rewards.service          # beside your trainer; or elsewhere, with LOCUS_SERVICE_TOKEN

`metadata[i]` holds the image that was edited, "source" uint8 [H, W, 3], and "mask" bool [H, W], True where it may
change. `images` are uint8 [B, H, W, 3], or float [B, 3, H, W] in [0, 1] as torch gives them. Needs numpy, pillow and
requests, nothing of Locus.
"""

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import requests
from PIL import Image
from requests.adapters import HTTPAdapter, Retry

URL = os.environ.get("LOCUS_SERVICE_URL", "http://127.0.0.1:8460")
session = requests.Session()
session.headers["Authorization"] = f"Bearer {os.environ.get('LOCUS_SERVICE_TOKEN', '')}"
# A full queue (429) and judges that are away (503) say in Retry-After when to come back.
patient = HTTPAdapter(
    pool_maxsize=16, max_retries=Retry(10, backoff_factor=1, status_forcelist=[429, 503], allowed_methods=["POST"])
)
session.mount("http://", patient)
session.mount("https://", patient)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask(image, prompt, task):
    response = session.post(
        f"{URL}/v1/score",
        timeout=600,
        json={
            "source": png(task["source"]),
            "edited": [png(image)],
            "instruction": prompt,
            "mask": {"png": png(np.where(task["mask"], 255, 0).astype(np.uint8)), "polarity": "edit_is_white"},
        },
    )
    if response.status_code != 200:
        raise RuntimeError(f"{URL}: {response.status_code} {response.json()['detail']}")
    errors = [score[0]["error"] for score in response.json()["components"].values() if score[0]["error"]]
    if errors:  # a failure is not a number: the caller decides whether to leave the sample out or to stop
        raise RuntimeError(f"{prompt!r} could not be scored: {'; '.join(errors)}")
    return response.json()


def locus_reward(images, prompts, metadata):
    """Rewards float [B], and the raw scores of every component as lists [B]."""
    if not isinstance(images, np.ndarray):
        images = (images * 255).round().clamp(0, 255).byte().cpu().permute(0, 2, 3, 1).numpy()
    with ThreadPoolExecutor(16) as threads:
        responses = list(threads.map(ask, images, prompts, metadata))
    names = responses[0]["components"] if responses else ()
    return (
        np.array([response["rewards"][0] for response in responses]),
        {name: [response["components"][name][0]["value"] for response in responses] for name in names},
    )
