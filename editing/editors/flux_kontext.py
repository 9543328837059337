"""FLUX.1 Kontext through the stock diffusers pipeline: same encoders, packing, position ids, sigma grid and
decoder.

An Euler loop over `velocity` gives the pipeline's own latents and images from the same noise (a test
holds it).
"""

import gc
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from diffusers import FluxKontextPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift, retrieve_timesteps
from numpy.typing import NDArray
from torch import Tensor

from editing.editors.base import Condition, Editor, EditorError
from editing.editors.folder import CACHED_CONDITIONS, PIPELINE_TEXT_TOKENS
from editing.editors.probe import AttentionProbe, probe_flux_attention
from editing.masks import TokenMask, token_mask
from editing.task import NOT_FINITE, EditTask, Image, NotFinite, PixelMask


class FluxKontextEditor(Editor):
    """An editor around a loaded `FluxKontextPipeline` of any size; the transformer is frozen and in eval
    mode."""

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        *,
        guidance: float = 2.5,
        max_text_tokens: int | None = None,
        micro_batch: int | None = None,
        gradient_checkpointing: bool = False,
        cached_conditions: int = CACHED_CONDITIONS,
    ) -> None:
        """Wrap a pipeline that is already on its device.

        Args:
            guidance: the guidance embedding's value; used only by models that have one.
            max_text_tokens: V, the padded T5 length; None takes the tokenizer's `model_max_length`, 512 at
                most.
            micro_batch: samples per transformer call where no gradient is needed; None = all.
            gradient_checkpointing: recompute blocks in the backward pass instead of keeping activations.
            cached_conditions: number of encoded tasks to keep, least recently used evicted first; on the
                device, for FLUX.1 Kontext at 512^2 about 4.5 MB each (mostly the T5 sequence in bf16).

        Raises:
            EditorError: when transformer and VAE do not fit each other, or a setting is out of range.
        """
        super().__init__(micro_batch)
        transformer: FluxTransformer2DModel = pipeline.transformer
        if transformer.config.in_channels != 4 * pipeline.latent_channels:
            raise EditorError(
                f"The transformer takes {transformer.config.in_channels} channels per token, but the VAE's "
                f"{pipeline.latent_channels} latent channels packed 2x2 give {4 * pipeline.latent_channels}: "
                "the model folder mixes parts of different models."
            )
        if cached_conditions < 1:
            raise EditorError(f"cached_conditions: expected at least 1, got {cached_conditions}.")
        for module in (transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            module.requires_grad_(False).eval()
        if gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.pipeline = pipeline
        if max_text_tokens is None:
            max_text_tokens = min(PIPELINE_TEXT_TOKENS, pipeline.tokenizer_2.model_max_length)
        self.max_text_tokens = max_text_tokens
        # Read once: the dtype property of a 12 B transformer walks all its parameters, fp32 adapters included.
        self._dtype: torch.dtype = transformer.x_embedder.weight.dtype
        self._device: torch.device = transformer.x_embedder.weight.device
        if self._device.type == "cpu":
            # Convolutions on a CPU are about 25 % faster in this layout; the values differ by rounding only.
            pipeline.vae.to(memory_format=torch.channels_last)
        self._transformer = transformer
        self._train_timesteps: int = pipeline.scheduler.config.num_train_timesteps
        self._guidance = torch.full([1], guidance, device=self._device) if transformer.config.guidance_embeds else None
        self._conditions: OrderedDict[str, Condition] = OrderedDict()
        self._cached_conditions = cached_conditions
        self._ids: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
        self._probe: AttentionProbe | None = None

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        guidance: float = 2.5,
        max_text_tokens: int | None = None,
        micro_batch: int | None = None,
        gradient_checkpointing: bool = False,
        cached_conditions: int = CACHED_CONDITIONS,
    ) -> "FluxKontextEditor":
        """The editor in a local folder in diffusers format, safetensors only; settings as in `__init__`."""
        pipeline = FluxKontextPipeline.from_pretrained(
            str(path), dtype=dtype, use_safetensors=True, local_files_only=True
        ).to(device)
        return cls(
            pipeline,
            guidance=guidance,
            max_text_tokens=max_text_tokens,
            micro_batch=micro_batch,
            gradient_checkpointing=gradient_checkpointing,
            cached_conditions=cached_conditions,
        )

    @property
    def transformer(self) -> FluxTransformer2DModel:
        """The FLUX transformer."""
        return self._transformer

    @property
    def device(self) -> torch.device:
        """Device of the transformer when the editor was created."""
        return self._device

    @torch.no_grad()
    def encode(self, task: EditTask) -> Condition:
        """See `Editor.encode`. The image keeps its size (stock Kontext would resize it)."""
        key = condition_key(task.source, task.instruction)
        known = self._conditions.get(key)
        if known is not None:
            self._conditions.move_to_end(key)
            return known
        condition = self._encode(task, key)
        self._conditions[key] = condition
        if len(self._conditions) > self._cached_conditions:
            self._conditions.popitem(last=False)
        return condition

    def _encode(self, task: EditTask, key: str) -> Condition:
        pipeline, height, width = self.pipeline, task.height, task.width
        if pipeline.text_encoder is None:
            raise EditorError(
                f"Task {task.task_id} is not among the {len(self._conditions)} conditions kept and the text "
                "encoders are released: encode every task before release_encoders(), with cached_conditions "
                f"(now {self._cached_conditions}) at least the number of tasks."
            )
        multiple = 2 * pipeline.vae_scale_factor
        if height % multiple or width % multiple:
            raise EditorError(
                f"Task {task.task_id} is {height}x{width}, but this editor needs height and width in "
                f"multiples of {multiple} (VAE factor {pipeline.vae_scale_factor} times patch 2). Change "
                "data.resolution."
            )
        prompt_embeds, pooled, _ = pipeline.encode_prompt(task.instruction, max_sequence_length=self.max_text_tokens)
        text = pipeline.tokenizer_2(
            task.instruction,
            padding="max_length",
            max_length=self.max_text_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return Condition(
            prompt_embeds=prompt_embeds,
            pooled=pooled,
            text_valid=text.attention_mask[0].bool().to(self._device),
            source_latents=self._latents(task.source),
            grid=(height // multiple, width // multiple),
            height=height,
            width=width,
            key=key,
        )

    @torch.no_grad()
    def encode_images(self, images: NDArray[np.uint8], condition: Condition) -> Tensor:
        """See `Editor.encode_images`; one at a time, so that latents do not depend on the batch."""
        return torch.cat([self._latents(image) for image in images])

    def _latents(self, image: Image) -> Tensor:
        """Packed latents float32 [1, N, C] of an image, as the pipeline encodes its reference."""
        pipeline, (height, width) = self.pipeline, image.shape[:2]
        latents: Tensor = pipeline.prepare_latents(
            pipeline.image_processor.preprocess(PIL.Image.fromarray(image), height, width),
            batch_size=1,
            num_channels_latents=pipeline.latent_channels,
            height=height,
            width=width,
            dtype=pipeline.vae.dtype,
            device=self._device,
            latents=torch.empty(0),  # the generated latents are not made here
        )[1]
        return latents.float()

    def release_encoders(self) -> None:
        """See `Editor.release_encoders`."""
        self.pipeline.text_encoder = None
        self.pipeline.text_encoder_2 = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def token_mask(self, edit_mask: PixelMask, condition: Condition, kind: TokenMask = "any") -> Tensor:
        """See `Editor.token_mask`."""
        return token_mask(edit_mask, condition.grid, kind).to(self._device)

    def sigmas(self, num_steps: int, condition: Condition) -> Tensor:
        """The pipeline's grid: linspace(1, 1/T, T), shifted by the sequence length as configured, then 0."""
        scheduler = self.pipeline.scheduler
        mu = calculate_shift(
            condition.tokens,
            scheduler.config.get("base_image_seq_len", 256),
            scheduler.config.get("max_image_seq_len", 4096),
            scheduler.config.get("base_shift", 0.5),
            scheduler.config.get("max_shift", 1.15),
        )
        retrieve_timesteps(scheduler, num_steps, self._device, sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=mu)
        sigmas: Tensor = scheduler.sigmas.clone()
        return sigmas

    def decode(self, latents: Tensor, condition: Condition) -> Image:
        """See `Editor.decode`; the same rounding as the pipeline's PIL output."""
        if not bool(latents.isfinite().all()):
            raise NotFinite(f"latents {NOT_FINITE}")
        parts = latents.split(self.micro_batch or latents.shape[0])
        return np.concatenate([self._decode(part, condition) for part in parts])

    @torch.no_grad()
    def _decode(self, latents: Tensor, condition: Condition) -> Image:
        pipeline, vae = self.pipeline, self.pipeline.vae
        unpacked = pipeline._unpack_latents(
            latents.to(vae.dtype), condition.height, condition.width, pipeline.vae_scale_factor
        )
        unpacked = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        decoded = vae.decode(unpacked, return_dict=False)[0]
        if not bool(decoded.isfinite().all()):
            raise NotFinite(f"decoded pixels {NOT_FINITE}")
        pixels = pipeline.image_processor.postprocess(decoded, output_type="np")
        images: Image = (pixels * 255).round().astype(np.uint8)
        return images

    @property
    def attention_blocks(self) -> int:
        return len(self._transformer.transformer_blocks) + len(self._transformer.single_transformer_blocks)

    @contextmanager
    def attention_probe(
        self, edit_mask: Tensor, last_blocks: int, *, capture_map: bool = False
    ) -> Iterator[AttentionProbe]:
        """See `Editor.attention_probe`; double blocks come before single ones."""
        with probe_flux_attention(self._transformer, edit_mask.to(self._device), last_blocks, capture_map) as probe:
            self._probe = probe
            try:
                yield probe
            finally:
                self._probe = None

    def _begin_velocity(self, batch: int, condition: Condition) -> None:
        if self._probe is not None:
            self._probe.begin(batch, condition)

    def _velocity(self, latents: Tensor, sigma: Tensor, condition: Condition, rows: slice) -> Tensor:
        if self._probe is not None:
            self._probe.select(rows)
        batch, tokens = latents.shape[:2]
        text_ids, image_ids = self._position_ids(condition)
        joint = torch.cat([latents, condition.source_latents.expand(batch, -1, -1)], dim=1)
        output: Tensor = self._transformer(
            hidden_states=self._to_model(joint),
            # Through the scheduler's timestep and back in the transformer's dtype, as the pipeline goes: in bfloat16
            # 0.7503 becomes 752 of 1000 there, and the editor is used with that rounding.
            timestep=self._to_model(sigma * self._train_timesteps) / 1000,
            guidance=None if self._guidance is None else self._guidance.expand(batch),
            pooled_projections=self._to_model(condition.pooled).expand(batch, -1),
            encoder_hidden_states=self._to_model(condition.prompt_embeds).expand(batch, -1, -1),
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return output[:, :tokens].float()

    def _to_model(self, tensor: Tensor) -> Tensor:
        """The one place where float32 latents and encoder outputs become the transformer's dtype."""
        return tensor.to(self._dtype)

    def _position_ids(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Text ids [V, 3] and image ids [2N, 3] (generated, then reference with first id 1), made once per
        size."""
        size = (condition.prompt_embeds.shape[1], *condition.grid)
        if size not in self._ids:
            text_ids = torch.zeros(size[0], 3, device=self._device)
            generated = self.pipeline._prepare_latent_image_ids(1, size[1], size[2], self._device, torch.float32)
            reference = generated.clone()
            reference[:, 0] = 1
            self._ids[size] = (text_ids, torch.cat([generated, reference]))
        return self._ids[size]


def condition_key(source: Image, instruction: str) -> str:
    """sha256 (hex) of an image's size and bytes and an instruction: the key of their condition."""
    digest = hashlib.sha256(repr(source.shape).encode())
    digest.update(np.ascontiguousarray(source).data)
    digest.update(instruction.encode())
    return digest.hexdigest()
