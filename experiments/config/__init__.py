"""The configuration of a run: one complete file, read strictly, refused in one sentence.

>>> load_config(Path("configs/quickstart.yaml")).name
'quickstart'
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from engine.errors import BadInput
from experiments.config.bidding import BiddingConfig
from experiments.config.checks import problems
from experiments.config.conversions import delay_parts
from experiments.config.learned import with_fingerprints
from experiments.config.limits import with_limits
from experiments.config.models import (
    SCHEMA_VERSION,
    AuctionLog,
    BinLog,
    ReplayConfig,
    RunConfig,
    Score,
    SimulationConfig,
    audiences_of,
    boundary_tick,
    limits_of,
    members,
    opening_tick,
    ticks_of,
)
from experiments.config.problems import check_version, from_pydantic, refusal, show
from experiments.config.reading import document
from experiments.config.steering import (
    CommandSpec,
    ConstantBids,
    DailyBudgets,
    EcpcPid,
    Edit,
    EvenPacing,
    EvenPi,
    Fallback,
    Gains,
    LearnedPolicy,
    LpKm,
    Mandate,
    MirrorDescent,
    PidGains,
    PidRule,
    PolicySpec,
    Proposal,
    Script,
    Switch,
    Target,
    TrafficAwarePacing,
    TrafficAwarePi,
    UsersPolicy,
    Window,
)
from experiments.config.tables import with_rows
from experiments.config.troubles import (
    BotClicks,
    BudgetCut,
    ConversionDrop,
    Disapproved,
    DuplicatedEvents,
    LateEvents,
    MisdatedEvents,
    OfCampaigns,
    OfEvents,
    OfMarkets,
    OrphanedClicks,
    PriceShock,
    TrackingOutage,
    TrafficLoss,
    TrafficRush,
    Trouble,
)
from experiments.config.values import nearest, ppm
from experiments.config.weeks import with_weeks
from experiments.config.world import (
    Account,
    Answers,
    Attribution,
    Audience,
    CampaignTable,
    Conversions,
    Creative,
    Dated,
    Delay,
    DelayPart,
    Exponential,
    HardLimits,
    LimitOverrides,
    LogNormal,
    Market,
    MarketTraffic,
    Price,
    PriceShare,
    Refunds,
    Regimes,
    ReplayedCampaign,
    ReplayTime,
    Segment,
    Shock,
    SimulatedCampaign,
    SimulationTime,
    Traffic,
    Wear,
    modifiers_ppm,
    shares_ppm,
)

_SOURCES: dict[str, type[SimulationConfig] | type[ReplayConfig]] = {
    "simulation": SimulationConfig,
    "replay": ReplayConfig,
}


def load_config(source: Path | Mapping[str, Any], *, recorded: bool = False) -> RunConfig:
    """Read a configuration from a YAML file, or take it as a mapping (what `run.json` holds is one).

    Paths are relative to the file's own folder, of a mapping to the working directory. The one of its limits file comes
    out absolute; a table of traffic comes out as the numbers in it.

    Parameters
    ----------
    recorded:
        It is a run's, to be read and not carried out: whatever became of its learned policies' files since.

    Raises
    ------
    BadInput
        For the first problem in the document's order, in one sentence that counts the others.
    """
    name, given = document(source)
    model = _model(name, given)
    config = _validated(name, given, model)
    if isinstance(config, SimulationConfig) and config.campaign_tables:
        written, stray = with_rows(given, config.campaign_tables)
        if stray:
            raise refusal(name, given, stray)
        given, config = written, _validated(name, written, model)
    try:
        found = list(problems(config))
    except BadInput as error:  # the calendar's own refusal
        raise BadInput(f"{name}: time.{error}") from None
    if found:
        raise refusal(name, given, found)
    folder = Path() if isinstance(source, Mapping) else Path(source).parent
    if isinstance(config, SimulationConfig):
        config, unusable = with_weeks(config, folder)
        if unusable:
            raise refusal(name, given, unusable)
    if not recorded:
        config, unreadable = with_fingerprints(config, folder)
        if unreadable:
            raise refusal(name, given, unreadable)
    if config.limits_file is None:
        return config
    return config.model_copy(update={"limits_file": str((folder / config.limits_file).absolute())})


def _validated(
    name: str, given: dict[Any, Any], model: type[SimulationConfig] | type[ReplayConfig]
) -> SimulationConfig | ReplayConfig:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise refusal(name, given, from_pydantic(error.errors(include_url=False), given, model)) from None


def schema() -> dict[str, Any]:
    """JSON Schema of a configuration file: a simulation's, a replay's and a bidding task's, told apart by `source`."""
    either: TypeAdapter[Any] = TypeAdapter(Annotated[RunConfig | BiddingConfig, Field(discriminator="source")])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **either.json_schema()}


def _model(name: str, given: dict[Any, Any]) -> type[SimulationConfig] | type[ReplayConfig]:
    """The model of the file's `source`, once its schema version is known to be ours."""
    check_version(name, given, SCHEMA_VERSION)
    source = given.get("source")
    if "source" not in given:
        raise BadInput(f"{name}: source is missing: write 'source: simulation' or 'source: replay'")
    if source == "bidding":
        raise BadInput(f"{name}: source (=bidding) is a task for bidders: use bidtwin train or bidtwin evaluate")
    if not isinstance(source, str) or source not in _SOURCES:
        raise BadInput(
            f"{name}: source (={show(source)}) must be simulation or replay: {nearest(source, list(_SOURCES))}"
        )
    return _SOURCES[source]


__all__ = [
    "Account",
    "Answers",
    "Attribution",
    "AuctionLog",
    "Audience",
    "BinLog",
    "BotClicks",
    "BudgetCut",
    "CampaignTable",
    "CommandSpec",
    "ConstantBids",
    "ConversionDrop",
    "Conversions",
    "Creative",
    "DailyBudgets",
    "Dated",
    "Delay",
    "DelayPart",
    "Disapproved",
    "DuplicatedEvents",
    "EcpcPid",
    "Edit",
    "EvenPacing",
    "EvenPi",
    "Exponential",
    "Fallback",
    "Gains",
    "HardLimits",
    "LateEvents",
    "LearnedPolicy",
    "LimitOverrides",
    "LogNormal",
    "LpKm",
    "Mandate",
    "Market",
    "MarketTraffic",
    "MirrorDescent",
    "MisdatedEvents",
    "OfCampaigns",
    "OfEvents",
    "OfMarkets",
    "OrphanedClicks",
    "PidGains",
    "PidRule",
    "PolicySpec",
    "Price",
    "PriceShare",
    "PriceShock",
    "Proposal",
    "Refunds",
    "Regimes",
    "ReplayConfig",
    "ReplayTime",
    "ReplayedCampaign",
    "RunConfig",
    "Score",
    "Script",
    "Segment",
    "Shock",
    "SimulatedCampaign",
    "SimulationConfig",
    "SimulationTime",
    "Switch",
    "Target",
    "TrackingOutage",
    "Traffic",
    "TrafficAwarePacing",
    "TrafficAwarePi",
    "TrafficLoss",
    "TrafficRush",
    "Trouble",
    "UsersPolicy",
    "Wear",
    "Window",
    "audiences_of",
    "boundary_tick",
    "delay_parts",
    "limits_of",
    "load_config",
    "members",
    "modifiers_ppm",
    "opening_tick",
    "ppm",
    "schema",
    "shares_ppm",
    "ticks_of",
    "with_limits",
]
