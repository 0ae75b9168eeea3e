"""Controls that are not what the record says they are: somebody changed them past the guard, or lost them.

The optimiser knows what it approved and which results came back, so it knows what must be in force. Where a view shows
another value, that is a defect, whatever the statistics: an alert is open as long as it lasts, and the recorded value
is restored by a rollback row. A campaign found paused is not resumed: pausing is always allowed, and whoever did it may
have had cause.
"""

from __future__ import annotations

import numpy as np

from engine.actions import Knob, Proposals, Source, proposals
from engine.campaigns import SCALARS, CampaignSet, ControlState
from engine.units import Int64
from engine.verdicts import PROPOSER

Place = tuple[int, Knob]


def differing(campaigns: CampaignSet, recorded: ControlState, found: ControlState) -> list[Place]:
    """The knobs whose values in force are not the recorded ones, in order of knob and campaign."""
    places: list[Place] = []
    for knob in SCALARS:
        places += _named(np.flatnonzero(recorded.scalar[:, knob] != found.scalar[:, knob]), knob)
    creatives = np.flatnonzero(recorded.weights != found.weights)
    if creatives.size:
        places += _named(np.unique(campaigns.creative_campaign[creatives]), Knob.WEIGHTS)
    audiences = np.flatnonzero(recorded.modifiers != found.modifiers)
    if audiences.size:
        places += _named(np.unique(campaigns.audience_campaign[audiences]), Knob.MODIFIERS)
    return places + _named(np.flatnonzero(recorded.paused != found.paused), Knob.PAUSED)


def restoring(campaigns: CampaignSet, recorded: ControlState, found: ControlState, place: Place) -> Proposals | None:
    """The rows that put a recorded value in force again; None for a campaign that would have to be resumed."""
    campaign, knob = place
    if knob is Knob.PAUSED and found.paused[campaign]:
        return None
    wanted = values(campaigns, recorded, place)
    index = np.arange(len(wanted))
    if knob is Knob.MODIFIERS:  # those that differ; weights come whole
        index = np.flatnonzero(wanted != values(campaigns, found, place))
    return proposals(
        np.full(len(index), campaign),
        knob,
        wanted[index],
        found.version[campaign, knob],
        Source.ROLLBACK,
        "restores what the record says is in force",
        index=index,
        proposer=PROPOSER,
    )


def values(campaigns: CampaignSet, controls: ControlState, place: Place) -> Int64:
    """The value of a knob; of weights one per creative, of modifiers one per audience."""
    campaign, knob = place
    if knob in SCALARS:
        return controls.scalar[campaign, [knob]]
    if knob is Knob.PAUSED:
        return controls.paused[[campaign]].astype(np.int64)
    if knob is Knob.MODIFIERS:
        audiences = campaigns.layout.audience_start
        return controls.modifiers[audiences[campaign] : audiences[campaign + 1]]
    return controls.weights[campaigns.creative_start[campaign] : campaigns.creative_start[campaign + 1]]


def _named(campaigns: Int64, knob: Knob) -> list[Place]:
    return [(campaign, knob) for campaign in campaigns.tolist()]
