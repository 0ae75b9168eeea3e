"""Makes `bidtwin/Bidding-v0` known to Gymnasium, without importing what it needs until one is made."""

from __future__ import annotations

import gymnasium

ID = "bidtwin/Bidding-v0"


def register() -> None:
    """Register the environment, once: Gymnasium has had no plug-ins since 1.0 that would do it by themselves."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, "agents.env:BiddingEnv", vector_entry_point="agents.env:BiddingVectorEnv")
