"""The optimizer step: admission of groups, the policy gate, gradients over processes, what is reported and exported."""
