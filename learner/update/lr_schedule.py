"""The learning rate as a pure function of the step."""

from configs.schema import OptimizerConfig


def learning_rate(step: int, steps: int, optimizer: OptimizerConfig) -> float:
    """Rate of optimizer step `step` (0-based) of `steps`: linear warm-up to `lr`, then linear decay.

    The first step has lr / warmup_steps, step warmup_steps - 1 and the one after it the full lr, and the last
    step lr * final_lr_fraction.

    Raises:
        ValueError: for a step outside 0..steps-1.
    """
    if not 0 <= step < steps:
        raise ValueError(f"step must be in 0..{steps - 1}, got {step}.")
    if step < optimizer.warmup_steps:
        return optimizer.lr * ((step + 1) / optimizer.warmup_steps)  # in this order rounding never exceeds lr
    remaining = steps - 1 - optimizer.warmup_steps
    progress = (step - optimizer.warmup_steps) / remaining if remaining > 0 else 0.0
    return optimizer.lr * (1 - progress * (1 - optimizer.final_lr_fraction))
