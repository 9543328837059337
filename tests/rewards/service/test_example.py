"""The client example against the real service."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards.pixel import PSNR_CAP, background_psnr, background_ssim
from tests.rewards.service.process import service
from tests.rewards.service.running import TOKEN, ScriptedPool, brightness, config, in_threads, serving, until

ROOT = Path(__file__).parents[3]


def example(monkeypatch, url: str, token: str = ""):
    monkeypatch.setenv("LOCUS_SERVICE_URL", url)
    monkeypatch.setenv("LOCUS_SERVICE_TOKEN", token)
    spec = importlib.util.spec_from_file_location("flow_grpo_reward", ROOT / "examples" / "flow_grpo_reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def samples():
    """Three sources with masks, and a candidate of each: the same, other pixels, other pixels inside the mask only."""
    rng = np.random.default_rng(3)
    sources = rng.integers(0, 256, (3, 24, 20, 3), dtype=np.uint8)
    masks = rng.random((3, 24, 20)) < 0.3
    images = sources.copy()
    images[1] = rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)
    images[2][masks[2]] = 7
    return (
        images,
        ["add a hat", "make it night", "remove the dog"],
        [{"source": source, "mask": mask} for source, mask in zip(sources, masks, strict=True)],
    )


def test_arrays_and_tensors_are_scored_as_locus_scores_them(monkeypatch, samples):
    images, prompts, metadata = samples
    with service(token=TOKEN) as running:
        module = example(monkeypatch, running.client.url, TOKEN)
        scores, info = module.locus_reward(images, prompts, metadata)
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        again, _ = module.locus_reward(tensor, prompts, metadata)
        module.session.headers["Authorization"] = "Bearer wrong"
        with pytest.raises(RuntimeError, match="401 Expected the header"):
            module.locus_reward(images, prompts, metadata)
    for index, task in enumerate(metadata):
        psnr, ssim = (
            measure(images[index : index + 1], task["source"], task["mask"]).item()
            for measure in (background_psnr, background_ssim)
        )
        assert info["background_psnr"][index] == pytest.approx(psnr, abs=1e-5)
        assert info["background_ssim"][index] == pytest.approx(ssim, abs=1e-5)
        assert scores[index] == pytest.approx(0.1 * psnr + ssim, abs=1e-5)
    assert info["background_psnr"][0] == info["background_psnr"][2] == PSNR_CAP > info["background_psnr"][1]
    assert np.array_equal(scores, again)


def test_a_full_queue_is_waited_for_and_an_error_is_raised(monkeypatch, samples):
    images, prompts, metadata = samples
    pool = ScriptedPool(brightness)
    with serving(pool, config(queue=1)) as (client, _):
        threads, _ = in_threads(1, client.score)
        until(lambda: pool.begun == 1)
        module = example(monkeypatch, client.url)
        waiting, responses = in_threads(1, lambda: module.locus_reward(images[:1], prompts[:1], metadata[:1]))
        until(lambda: 'status="429"' in client.get("/metrics").body.decode())
        pool.held.set()
        for thread in (*threads, *waiting):
            thread.join()
        assert responses[0][0].shape == (1,)
        with pytest.raises(RuntimeError, match="could not be scored: editscore: it is black"):
            module.locus_reward(np.zeros_like(images[:1]), prompts[:1], metadata[:1])
