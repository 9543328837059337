"""Our sampler beside the stock pipeline's, from the same noise."""

import numpy as np
import PIL.Image
import torch

from editing.editors.lora import adapter_parameters
from editing.flow import integrate


def give_effect(transformer, std: float) -> None:
    """Gives a fresh adapter, which changes nothing yet, weights as if it had been trained."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapter_parameters(transformer).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std, generator=generator)


def make_noise(editor, condition, batch, seed=1) -> torch.Tensor:
    shape = (batch, *condition.source_latents.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def our_latents(editor, condition, noise, steps) -> torch.Tensor:
    with torch.no_grad():
        return integrate(
            lambda x, sigma: editor.velocity(x, sigma, condition),
            noise,
            editor.sigmas(steps, condition),
            "euler",
        ).final


def stock_output(pipeline, task, noise, steps, text_len, output_type):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        image=PIL.Image.fromarray(task.source),
        prompt=task.instruction,
        height=task.height,
        width=task.width,
        max_area=task.height * task.width,
        _auto_resize=False,
        num_inference_steps=steps,
        guidance_scale=2.5,
        num_images_per_prompt=noise.shape[0],
        latents=noise,
        max_sequence_length=text_len,
        output_type=output_type,
    ).images


def assert_same_as_stock(editor, pipeline, task, steps=4) -> None:
    condition = editor.encode(task)
    noise = make_noise(editor, condition, batch=3)
    latents = our_latents(editor, condition, noise, steps)
    stock = stock_output(pipeline, task, noise, steps, editor.max_text_tokens, "latent")
    assert not torch.allclose(latents, noise, atol=0.1)
    torch.testing.assert_close(latents, stock, atol=1e-6, rtol=1e-6)
    images = stock_output(pipeline, task, noise, steps, editor.max_text_tokens, "pil")
    decoded = editor.decode(latents, condition)
    assert decoded.dtype == np.uint8 and decoded.shape == (3, task.height, task.width, 3)
    # A latent difference of 1e-6 may cross a rounding border of a pixel here and there.
    difference = np.abs(decoded.astype(int) - np.stack([np.asarray(p) for p in images]).astype(int))
    assert difference.max() <= 1 and (difference != 0).mean() < 0.01
    assert np.ptp(decoded) > 10
