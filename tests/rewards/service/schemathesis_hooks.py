"""Real files where the schema says "base64", so that the fuzzer gets past the door."""

import numpy as np
import schemathesis
from hypothesis import strategies as st

from tests.rewards.service.running import MASK, SOURCE, encoded

FILES = [
    encoded(SOURCE),
    encoded(255 - SOURCE),
    encoded(SOURCE, "JPEG"),
    encoded(SOURCE, "WEBP"),
    encoded(np.where(MASK, 255, 0).astype(np.uint8)),
    encoded(SOURCE[..., 0]),
    encoded(SOURCE[:5]),
    encoded(SOURCE, "GIF"),
    encoded(SOURCE)[:80],
    encoded(SOURCE, "JPEG")[:400],
]

schemathesis.openapi.format("byte", st.sampled_from(FILES))
