"""Small runs that the tests of whole outcomes start from: a simulated one, its records, and logs in two formats."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CONFIGS = Path(__file__).parents[1] / "configs"
DATA = Path(__file__).parents[2] / "shared" / "data"
TICKS = 71

# Three days of hourly ticks, the second of 23 hours: 71 in all. Every time of the script ends a fifth tick, so
# that the same script runs with a decision every hour and with one every five.
SIMULATION = """\
schema_version: 1
name: small
seed: 11
source: simulation
account: {currency: EUR, zone: Europe/Berlin, budget_micros: 30_000_000}
time: {start: 2026-03-28, days: 3, tick_minutes: 60}
record: [events, opportunities]
markets:
  display:
    auction: first_price
    charging: per_impression
    opportunities_per_tick: 60
    traffic: {amplitude: 40%, peak_hour: 14}
    price: {level_micros: 20_000, sigma: 0.6}
    reserve_micros: 5_000
  search:
    auction: second_price
    charging: per_click
    opportunities_per_tick: 60
    traffic: {amplitude: 60%, peak_hour: 20}
    price: {level_micros: 24_000, sigma: 0.6}
    reserve_micros: 2_000
  social:
    auction: second_price
    charging: per_impression
    opportunities_per_tick: 60
    traffic: {amplitude: 70%, peak_hour: 21}
    price: {level_micros: 20_000, sigma: 0.5}
    shocks: [{day: 2, hours: 6, factor: 1.6}]
campaigns:
  display-a:
    market: display
    bid_micros: 26_000
    budget_micros: 3_000_000
    creatives: {banner: {ctr: 20%}, tower: {ctr: 15%}}
    conversions: {rate: 30%, delay_hours: 4, value_micros: 400_000, value_sigma: 0.5}
  search-a:
    market: search
    bid_micros: 30_000
    budget_micros: 6_000_000
    reach: 70%
    creatives: {one: {ctr: 30%}, two: {ctr: 25%}}
    conversions: {rate: 30%, delay_hours: 3, value_micros: 600_000, value_sigma: 0.4}
  search-b:
    market: search
    bid_micros: 24_000
    budget_micros: 20_000_000
    budget_period: flight
    reach: 60%
    creatives: {plain: {ctr: 28%}}
    conversions: {rate: 20%, delay_hours: 8, value_micros: 500_000, value_sigma: 0.6}
  social-a:
    market: social
    bid_micros: 22_000
    budget_micros: 3_000_000
    creatives: {still: {ctr: 12%}, video: {ctr: 14%}}
    conversions: {rate: 25%, delay_hours: 10, value_micros: 700_000, value_sigma: 0.5}
  social-b:
    market: social
    bid_micros: 18_000
    budget_micros: 2_000_000
    reach: 80%
    creatives: {still: {ctr: 12%}, video: {ctr: 10%}}
    conversions: {rate: 25%, delay_hours: 20, value_micros: 300_000, value_sigma: 0.5}
policies:
  - {policy: even_pi, campaigns: [display-a, search-b]}
  - {policy: traffic_aware_pi, campaigns: [search-a, social-a, social-b], traffic: {amplitude: 60%, peak_hour: 20}}
  - {policy: daily_budgets, campaigns: all}
mandates:
  - {campaigns: all, knobs: [bid, budget], band: ["1/3", 3]}
limits: {min_bid_micros: 100, max_bid_micros: 1_000_000, min_budget_micros: 1_000_000, max_budget_micros: 30_000_000}
approver: scripted
script:
  proposals:
    - {day: 1, time: "05:00", campaign: search-a, by: sam, creatives: {one: 70%, two: 30%}, note: one is clicked more}
    - {day: 1, time: "15:00", campaign: display-a, by: sam, knob: bid, change: +60%, note: double down}
    - {day: 1, time: "15:00", campaign: social-b, by: sam, creatives: {still: 60%, video: 40%}, note: a hunch}
  commands:
    - {day: 1, time: "10:00", by: dana, approve: {campaign: search-a, knob: weights}}
    - {day: 1, time: "20:00", by: dana, deny: {campaign: social-b, knob: weights}}
    - {day: 2, time: "01:00", by: dana, rollback: {campaign: search-a, knob: weights}}
    - {day: 2, time: "12:00", by: dana, edit: {campaign: social-a, knob: budget, value_micros: 2_500_000}}
    - {day: 3, time: "03:00", by: dana, pause: {campaign: social-b}}
    - {day: 3, time: "08:00", by: dana, resume: {campaign: social-b}}
"""

AUCTIONS = """\
schema_version: 1
name: auctions
seed: 5
source: replay
account: {currency: CNY, zone: Asia/Shanghai}
time: {start: 2013-06-06, tick_minutes: 30}
log:
  {format: ipinyou_auctions, campaign: "1458", rows_per_tick: 50, win_rule: ">", logged_bid_micros: 3_000, value: flat,
   max_reject_share: 10%}
auction: second_price
campaigns:
  "1458": {channel: display, bid_micros: 800, budget_micros: 1_000_000, budget_period: flight}
policies:
  - {policy: even_pi, campaigns: all}
mandates:
  - {campaigns: all, knobs: [bid]}
limits: {min_bid_micros: 50, max_bid_micros: 3_000, min_budget_micros: 1_000, max_budget_micros: 65_000_000}
"""

BINS = """\
schema_version: 1
name: bins
seed: 5
source: replay
account: {currency: CNY, zone: Asia/Shanghai}
time: {start: 2013-06-06, tick_minutes: 30}
log: {format: ipinyou_bins, zone: Asia/Shanghai, max_reject_share: 10%}
auction: second_price
campaigns:
  "1458": {channel: display, bid_micros: 700, budget_micros: log}
  "2259": {channel: display, bid_micros: 900, budget_micros: log}
policies:
  - {policy: even_pi, campaigns: all}
mandates:
  - {campaigns: ["1458"], knobs: [bid]}
limits: {min_bid_micros: 50, max_bid_micros: 3_000, min_budget_micros: 1_000_000, max_budget_micros: 1_000_000_000}
"""

BIN_COLUMNS = (
    "datetime,ctr_pred,campaign,weekday,tod,total_bids_cur,cur_avg_bid_price,click,ctr,total_bids_prev,"
    "avg_bid_price_prev,tc_prev,ctr_prev,daily_budget,episode_key"
)


def config(text: str = SIMULATION, **changes: Any) -> dict[str, Any]:
    """A configuration as a mapping, with top-level keys replaced."""
    document: dict[str, Any] = yaml.safe_load(text)
    return copy.deepcopy(document) | changes


def write_config(path: Path, document: dict[str, Any]) -> Path:
    """The configuration as a file."""
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def write_auctions(path: Path, rows: int = 600) -> Path:
    """A log of won auctions: click, price, predicted CTR, exchange."""
    generator = np.random.default_rng(1458)
    price, ctr = generator.integers(1, 300, rows), generator.uniform(0.0002, 0.002, rows)
    click = generator.random(rows) < 20 * ctr
    lines = zip(click.astype(int), price, ctr, generator.integers(1, 4, rows), strict=True)
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))
    return path


def write_bins(path: Path, change: Callable[[list[str]], list[str]] = lambda line: line) -> Path:
    """A log of two campaigns in half-hours of two days, the second day of the first beyond its budget."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    for slot in range(96):
        moment = f"2013-06-0{6 + slot // 48} {slot % 48 // 2:02}:{slot % 2 * 30:02}:00"
        for campaign, won, price in (("1458", 40 + slot, 70.5), ("2259", 90 - slot // 2, 93.25)):
            known = [moment, 0.001, campaign, 4, slot % 48, won, price, (slot + won) % 3, 0, 0, 0, 0, 0, 300, "e"]
            table.writerow(change([str(value) for value in known]))
    path.write_text(BIN_COLUMNS + "\n" + text.getvalue())
    return path


FULL_WORLD = """\
audiences:
  old: {people: 900}
  young: {people: 500, activity: 0.8}
markets:
  display:
    auction: first_price
    people: 400
    price: {level_micros: 20_000, sigma: 0.6, competitors: 3}
  search:
    auction: gsp
    slots: [100%, 70%, 40%]
    price: {level_micros: 24_000, sigma: 0.6, competitors: 5, answers: {strength: 0.5, persistence: 0.9}}
    audiences: {young: {share: 60%, ctr: 1.3, cvr: 0.8, price: 1.1}, old: {share: 40%, value: 1.4}}
  social:
    auction: second_price
    price: {level_micros: 20_000, sigma: 0.5}
    audiences: {old: {share: 30%}, young: {share: 70%, ctr: 1.2}}
campaigns:
  search-a: {value_price_correlation: 0.3}
  social-a: {creatives: {still: {ctr: 12%}, video: {ctr: 14%, wear: {exponent: 0.3, rest_days: 7}}}}
attribution: {model: last_click, window_hours: 24, lost_ids: 5%}
troubles:
  - {day: 1, time: "06:00", hours: 12, traffic_loss: {markets: [social], factor: 40%}}
  - {day: 3, time: "00:00", hours: 24, traffic_rush: {markets: all, factor: 3}}
  - {day: 1, hours: 2, price_shock: {markets: [display], factor: 1.6}}
  - {day: 2, hours: 5, bot_clicks: {markets: [search], share: 5%}}
  - {day: 2, hours: 6, conversion_drop: {campaigns: [search-a, social-b], factor: 60%}}
  - {day: 2, time: "12:00", hours: 3, tracking_outage: {campaigns: all, lost: 90%}}
  - {day: 1, hours: 24, disapproved: {campaign: social-a, creatives: [video]}}
  - {day: 2, time: "20:00", hours: 3, disapproved: {campaign: search-b, creatives: [plain]}}
  - {day: 1, time: "20:00", budget_cut: {campaign: search-b, by: eve, budget_micros: 2_000_000}}
  - {day: 1, hours: 5, late_events: {share: 10%, hours: 2}}
  - {day: 1, hours: 5, duplicated_events: {share: 10%, hours: 0}}
  - {day: 1, hours: 5, misdated_events: {share: 10%, hours: -3}}
  - {day: 1, hours: 5, orphaned_clicks: {share: 10%}}
"""


def full_world(**changes: Any) -> dict[str, Any]:
    """The small simulation with everything switched on that its world can do, recording events alone."""
    document, on = config(record=["events"]), yaml.safe_load(FULL_WORLD)
    for part in ("markets", "campaigns"):
        for name, further in on.pop(part).items():
            document[part][name].update(further)
    return document | on | changes
