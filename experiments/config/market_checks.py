"""What the markets of a configuration, and what happens in them, say against each other."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.config.models import SimulationConfig
from experiments.config.problems import Path, Problem, dotted
from experiments.config.troubles import BotClicks, ConversionDrop, Disapproved, TrackingOutage
from experiments.config.world import Audience, Market, SimulatedCampaign

_WITHOUT_OPPORTUNITIES = (BotClicks, ConversionDrop, Disapproved, TrackingOutage)


def market_problems(config: SimulationConfig) -> Iterator[Problem]:
    """Slots nobody can sell or see, values that follow no price, people nobody counts, records that cannot be kept."""
    for name, market in config.markets.items():
        yield from _slots(("markets", name), market)
        yield from _activity(("markets", name), market)
        if market.people is not None and market.audiences:
            rule = "must be left out beside audiences, which have people of their own: move it to one of them"
            yield Problem(("markets", name, "people"), rule, market.people)
        missing = list(_uncounted(config, name))
        if market.audiences and 0 < len(missing) < len(market.audiences):
            rule = f"must be said, as other audiences of market {name} have theirs: add it, or count nobody there"
            yield Problem(missing[0], rule)
    for name, audience in config.audiences.items():
        yield from _activity(("audiences", name), audience)
    for name, campaign in config.campaigns.items():
        if campaign.market in config.markets:
            yield from _correlation(("campaigns", name, "value_price_correlation"), campaign)
            yield from _wear(("campaigns", name, "creatives"), campaign, config)
    yield from _attribution(config)
    yield from _recorded_opportunities(config)


def _activity(path: Path, of: Market | Audience) -> Iterator[Problem]:
    if of.activity is not None and of.people is None:
        rule = "is that of people, and none are counted here: add people or remove it"
        yield Problem((*path, "activity"), rule, of.activity)


def _slots(path: Path, market: Market) -> Iterator[Problem]:
    if market.auction == "second_price" and len(market.slots) > 1:
        rule = f"sells one slot, and slots names {len(market.slots)}: write gsp, or give one"
        yield Problem((*path, "auction"), rule, market.auction)
    above = 1.0
    for place, seen in enumerate(market.slots):
        if seen == 0:
            yield Problem((*path, "slots", place), "must be > 0%: leave out a slot that nobody sees", seen)
        elif seen > above:
            yield Problem((*path, "slots", place), f"must be <= {above:.6g}, as in the slot above: order them", seen)
        above = seen


def _correlation(path: Path, campaign: SimulatedCampaign) -> Iterator[Problem]:
    if campaign.value_price_correlation and not campaign.value_sigma:
        rule = "must be 0 where value_sigma is, as all opportunities are worth the same: remove it"
        yield Problem(path, rule, campaign.value_price_correlation)


def _wear(path: Path, campaign: SimulatedCampaign, config: SimulationConfig) -> Iterator[Problem]:
    missing = next(_uncounted(config, campaign.market), None)
    for name, creative in campaign.creatives.items():
        if creative.wear is not None and missing:
            yield Problem((*path, name, "wear"), f"needs people who get tired: say how many in {dotted(missing)}")


def _attribution(config: SimulationConfig) -> Iterator[Problem]:
    if config.attribution is None:
        return
    missing = next((path for name in config.markets for path in _uncounted(config, name)), None)
    if missing:
        yield Problem(("attribution",), f"needs people who click and convert: say how many in {dotted(missing)}")
    if "events" in config.record and config.attribution.model != "last_click":
        rule = "must be last_click where events are recorded, as an event names one click: write it or record none"
        yield Problem(("attribution", "model"), rule, config.attribution.model)


def _uncounted(config: SimulationConfig, market: str) -> Iterator[Path]:
    """Where it should be said how many people a market is about, and is not."""
    spec = config.markets[market]
    if not spec.audiences and spec.people is None:
        yield "markets", market, "people"
    for name in spec.audiences:
        if name in config.audiences and config.audiences[name].people is None:
            yield "audiences", name, "people"


def _recorded_opportunities(config: SimulationConfig) -> Iterator[Problem]:
    """A recorded opportunity is one price that wins it and one conversion that would follow."""
    beside = next(_more_than_one_outcome(config), None)
    if "opportunities" in config.record and beside is not None:
        rule = f"cannot hold opportunities beside {dotted(beside)}, which a price and an outcome each do not tell"
        yield Problem(("record",), f"{rule}: record events instead", config.record)


def _more_than_one_outcome(config: SimulationConfig) -> Iterator[Path]:
    for name, market in config.markets.items():
        if market.slots != (1.0,):
            yield "markets", name, "slots"
    for name, campaign in config.campaigns.items():
        yield from _further_outcomes(("campaigns", name), campaign)
    if config.attribution is not None:
        yield ("attribution",)
    for place, trouble in enumerate(config.troubles):
        if any(isinstance(kind, _WITHOUT_OPPORTUNITIES) for kind in trouble.kinds.values()):
            yield "troubles", place


def _further_outcomes(path: Path, campaign: SimulatedCampaign) -> Iterator[Path]:
    conversions = campaign.conversions
    if conversions.per_click > 1:
        yield *path, "conversions", "per_click"
    if conversions.refunds is not None and conversions.refunds.rate:
        yield *path, "conversions", "refunds"
    for creative, spec in campaign.creatives.items():
        if spec.wear is not None and spec.wear.exponent:
            yield *path, "creatives", creative, "wear"
