"""`python -m learner.audit RUN`: proves the promises of a run again, from its event log alone.

The event log says what happened to every lease. The rules here trust nothing: what does not add up is a fault, and so
is a missing line that must be there. One module per subject; `rules` puts them together.
"""

from learner.audit.rules import Audit, audited

__all__ = ["Audit", "audited"]
