"""Silences the output of other libraries."""

import logging

import structlog


def quiet_libraries() -> None:
    """Lets diffusers and transformers report errors only, without progress bars, and judges warnings, in this
    process."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    # Imported here: a run on Ray does not load them in the driver at all.
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
