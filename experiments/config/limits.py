"""A limits file: what may be changed of a configuration's limits and mandates while its run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from experiments.config.checks import bounds, mandates
from experiments.config.models import SCHEMA_VERSION, RunConfig
from experiments.config.problems import Problem, check_version, from_pydantic, refusal
from experiments.config.reading import table
from experiments.config.steering import Mandate
from experiments.config.values import Micros, nearest
from experiments.config.world import LimitOverrides, Model


class CampaignLimits(Model):
    """One campaign's own bounds."""

    limits: LimitOverrides = LimitOverrides()


class LimitsDocument(Model):
    """What holds in place of the configuration's own; what is left out, or None, is as it is there."""

    schema_version: Literal[1]
    limits: LimitOverrides = LimitOverrides()
    account_budget_micros: Micros | None = None
    mandates: tuple[Mandate, ...] | None = None
    campaigns: Annotated[dict[str, CampaignLimits], Field(default_factory=dict)]

    def over(self, config: RunConfig) -> RunConfig:
        """The configuration with this in its place; campaigns it does not have are left out."""
        changes: dict[str, object] = {"limits": self.limits.over(config.limits)}
        if self.account_budget_micros is not None:
            changes["account"] = config.account.model_copy(update={"budget_micros": self.account_budget_micros})
        if self.mandates is not None:
            changes["mandates"] = self.mandates
        changes["campaigns"] = {
            name: campaign.model_copy(update={"limits": self.campaigns[name].limits.over(campaign.limits)})
            if name in self.campaigns
            else campaign
            for name, campaign in config.campaigns.items()
        }
        return config.model_copy(update=changes)


def with_limits(name: str, text: str, config: RunConfig) -> RunConfig:
    """The configuration with what the text of a limits file, called `name` in an error, says in place of its own.

    A bid or budget may lie outside the new bounds, and the account's budgets may sum to more than its new budget:
    nothing is forced to move, and the guard lets nothing move but inwards.

    Raises
    ------
    BadInput
        For the first problem in the text's order, in one sentence that counts the others.
    """
    given = table(name, text, f"begin with 'schema_version: {SCHEMA_VERSION}'")
    check_version(name, given, SCHEMA_VERSION)
    try:
        document = LimitsDocument.model_validate(given)
    except ValidationError as error:
        problems = from_pydantic(error.errors(include_url=False), given, LimitsDocument)
        raise refusal(name, given, problems) from None
    changed = document.over(config)
    found = [*_strangers(document, config)] or [*bounds(changed, document.limits), *mandates(changed)]
    if found:
        raise refusal(name, given, found)
    return changed


def _strangers(document: LimitsDocument, config: RunConfig) -> Iterator[Problem]:
    """Campaigns that the run does not have; while there are any, nothing else can be checked."""
    known = list(config.campaigns)
    rule = "is not a campaign of this run"
    for name in document.campaigns:
        if name not in config.campaigns:
            yield Problem(("campaigns", name), f"{rule}: {nearest(name, known)}")
    for position, mandate in enumerate(document.mandates or ()):
        for place, name in enumerate(() if mandate.campaigns == "all" else mandate.campaigns):
            if name not in config.campaigns:
                yield Problem(("mandates", position, "campaigns", place), f"{rule}: {nearest(name, known)}", name)
