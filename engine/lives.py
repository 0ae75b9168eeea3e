"""The lives of all actions as a ledger's rounds tell them, held against the table of `engine.life`.

A round's rows go through the table at once; people's commands and watches, which name single actions, one by one. A
ledger whose chain holds and whose lives cannot be was not written by this engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.actions import ROW_BITS, Knob, Source
from engine.alerts import AlertKind, AlertLog
from engine.campaigns import ACCOUNT
from engine.judgement import Outcome
from engine.life import OF_OUTCOME, OF_RESULT, ImpossibleLife, Stage, Step, advance, spelt, steps_of
from engine.units import Bool, Int64

if TYPE_CHECKING:
    from engine.ledger import Round

OF_EVENT = {
    "opened": Step.OPEN_WATCH,
    "begun": Step.OPEN_WATCH,  # over one knob of an episode: what a policy does to it inside its mandate
    "rolls_back": Step.ROLL_BACK,
    "rolled_back": Step.CONFIRM,
    "blocked": Step.BLOCK,
    "kept": Step.KEEP,
    "no_data": Step.LEAVE,
    "superseded": Step.OVERTAKE,
}
"""The steps that the entries of watches stand for."""
_ANSWERED = {outcome.name.lower(): outcome for outcome in Outcome}
_REACH = 8
"""So many times as long as a proposal waits, an action is remembered: one day more than it can be rolled back."""
_UNDER_WAY = (Stage.APPLYING, Stage.WATCHED, Stage.ROLLING_BACK, Stage.TAKING_BACK)


@dataclass
class _Approved:
    """The approved rows of a round, by their places in it, and the stage of each."""

    sequence: int
    tick: int
    row: Int64
    campaign: NDArray[Any]
    knob: NDArray[Any]
    source: NDArray[Any]
    stage: NDArray[np.uint8]
    settled: int | None = None  # the tick at which its results were known


@dataclass
class _Asked:
    """The rows of a round that wait for a person: campaign and knob as one key, and what was asked."""

    tick: int
    key: Int64
    note: Int64
    wanted: Int64
    base_version: Int64


@dataclass
class Lives:
    """Follows a ledger round by round.

    Parameters
    ----------
    names:
        The campaigns, as a story names them.
    approval_ticks:
        How long a proposal waits for a person; None where the ledger does not tell, and then for ever.
    """

    names: Sequence[Any]
    approval_ticks: int | None
    alerts: AlertLog = field(default_factory=AlertLog)

    def __post_init__(self) -> None:
        size = len(self.names) * len(Knob)
        self._rounds: dict[int, _Approved] = {}
        self._last: _Approved | None = None
        self._asked: dict[int, _Asked] = {}
        self._waits_in = np.full(size, -1, dtype=np.int64)  # by key, the round of what waits there
        self._waits_as = np.full(size, -1, dtype=np.int64)  # and its note
        self._undoing: dict[int, list[int]] = {}  # by key, the actions that this round's rollback may undo
        self._named: dict[int, list[tuple[int, Stage]]] = {}  # what befell single actions, tick by tick
        self._before: dict[int, str] = {}  # what befell approved ones while they waited

    def take(self, sequence: int, tick: int, told: Round) -> None:
        """Take the next round, or the closing, in.

        Raises
        ------
        ImpossibleLife
            With the story of an action that the record tells something impossible of.
        """
        self._settle(tick, told.results)
        if not told.judged:
            return
        self._expire(tick)
        watches = told.header.get("watches", ())
        for each in watches:
            self._watched(tick, each)
        granted = self._commanded(tick, sequence, told)
        self._judged(sequence, tick, told, granted)
        self.alerts.take(tick, told.header.get("alerts", ()))
        for about in self.alerts.open:
            if not ACCOUNT <= about.campaign < len(self.names):
                raise ImpossibleLife(f"alert {about.kind} is about campaign {about.campaign}, and there is none")
        if "alerts" in told.header:
            self._check_blocked(watches)
        if "commands" in told.header and "watches" in told.header:
            self._check_rollbacks()
        self._forget(sequence, tick)

    # --- what became of the last round ---

    def _settle(self, tick: int, results: NDArray[Any]) -> None:
        last, self._last = self._last, None
        if last is None:
            return
        following = steps_of(results, OF_RESULT, lambda at: self._of(last, at))
        last.stage = advance(last.stage, following, lambda at: self._of(last, at))
        last.settled = tick
        undone = (last.stage == Stage.APPLIED) & (last.source == Source.ROLLBACK)
        undone_keys = set(_keys(last.campaign[undone], last.knob[undone]).tolist())
        for key, actions in self._undoing.items():
            for action in dict.fromkeys(actions):
                is_undone = key in undone_keys and action == actions[-1]
                self._move(tick, action, Step.UNDO if is_undone else Step.REMAIN)
        self._undoing = {}

    def _expire(self, tick: int) -> None:
        """Forget what waited too long."""
        if self.approval_ticks is None:
            return
        expired = [sequence for sequence, each in self._asked.items() if tick - each.tick > self.approval_ticks]
        for sequence in expired:
            del self._asked[sequence]
            self._waits_in[self._waits_in == sequence] = -1

    def _forget(self, now: int, tick: int) -> None:
        """Forget what is out of reach of every rollback, which is reckoned from the round that brought the results."""
        if self.approval_ticks is None:
            return
        reach = _REACH * self.approval_ticks
        bygone = takewhile(lambda each: each.settled is not None and tick - each.settled > reach, self._rounds.values())
        for each in list(bygone):
            if np.isin(each.stage, _UNDER_WAY).any():
                break
            del self._rounds[each.sequence]
        oldest = next(iter(self._rounds), now) << ROW_BITS
        for kept in (self._named, self._before):
            for action in [action for action in kept if action < oldest]:
                del kept[action]

    # --- what is told of single actions ---

    def _watched(self, tick: int, told: Mapping[str, Any]) -> None:
        """An entry of a watch, or of one knob of an episode, which is named by its first action there."""
        event, action = told["event"], told["action"]
        step = OF_EVENT.get(event)
        if step is None:
            raise ImpossibleLife(f"{self._story(action)}; a watch does not tell {event!r:.40}")
        self._check_place(told, action)
        self._move(tick, action, step)
        if step is Step.ROLL_BACK:
            self._undoing.setdefault(self._key(told), []).append(action)

    def _commanded(self, tick: int, sequence: int, told: Round) -> Bool:
        """People's commands, whose rows are the first judged, in order; which rows were granted."""
        judged = told.judged
        granted, row = np.zeros(len(judged["outcome"]), dtype=np.bool_), 0
        for command in told.header.get("commands", ()):
            answer = command["answer"].partition(":")[0]
            rows = slice(row, row)
            if answer in _ANSWERED:
                rows = slice(row, _end_of_run(judged, row))
                row = rows.stop
                if judged["outcome"][rows].min() != _ANSWERED[answer]:
                    raise ImpossibleLife(f"{self._about(command)}: the guard's answer was not {answer!r}")
            match command["kind"], answer:
                case "approve", "approved" | "refused" | "needs_approval":
                    self._grant(tick, sequence, command, {name: judged[name][rows] for name in judged}, rows.start)
                    granted[rows] = True
                case "approve", "limits_changed":
                    self._answer(command, Step.LAPSE)
                case "deny", "denied":
                    self._answer(command, Step.DENY)
                case "rollback", "approved":
                    self._check_place(command, command["undoes"])
                    self._move(tick, command["undoes"], Step.TAKE_BACK)
                    self._undoing.setdefault(self._key(command), []).append(command["undoes"])
        return granted

    def _grant(
        self, tick: int, sequence: int, command: Mapping[str, Any], rows: Mapping[str, NDArray[Any]], first: int
    ) -> None:
        """A person approves what waits: the very values, at the very version."""
        key = self._key(command)
        asked, note = self._asked.get(int(self._waits_in[key])), self._waits_as[key]
        since = None if asked is None else asked.tick
        self._answer(command, Step.GRANT)
        assert asked is not None
        mine = (asked.key == key) & (asked.note == note)
        same = np.array_equal(asked.wanted[mine], rows["wanted"])
        if not same or not np.array_equal(asked.base_version[mine], rows["base_version"]):
            raise ImpossibleLife(f"{self._about(command)}, waiting since tick {since}: something else was approved")
        self._before[(sequence << ROW_BITS) + first] = f"waiting at tick {since}, granted at tick {tick}"

    def _answer(self, command: Mapping[str, Any], step: Step) -> None:
        """What waits for a person gets an answer."""
        key = self._key(command)
        if self._waits_in[key] < 0:
            raise ImpossibleLife(f"{self._about(command)}: nothing waits there; {spelt(step)} cannot follow")
        advance(Stage.WAITING, step, lambda _: self._about(command))
        self._waits_in[key] = -1

    # --- what was judged ---

    def _judged(self, sequence: int, tick: int, told: Round, granted: Bool) -> None:
        judged = told.judged

        def story(at: int) -> str:
            where = self._place(int(judged["campaign"][at]), int(judged["knob"][at]))
            return f"row {at} ({where}): {'granted' if granted[at] else 'proposed'} at tick {tick}"

        stages = np.where(granted, np.uint8(Stage.GRANTED), np.uint8(Stage.PROPOSED))
        stages = advance(stages, steps_of(judged["outcome"], OF_OUTCOME, story), story)
        passed = np.flatnonzero(stages == Stage.APPLYING)
        campaign, knob, source = (judged[name][passed] for name in ("campaign", "knob", "source"))
        self._last = _Approved(sequence, tick, passed, campaign, knob, source, stages[passed])
        if passed.size:
            self._rounds[sequence] = self._last
        waiting = np.flatnonzero(stages == Stage.WAITING)
        if waiting.size:
            self._wait(sequence, tick, {name: judged[name][waiting] for name in judged})

    def _wait(self, sequence: int, tick: int, rows: Mapping[str, NDArray[Any]]) -> None:
        """Rows wait for a person; of several for a knob the last, and whatever waited there before is superseded."""
        campaign, knob = rows["campaign"].astype(np.int64), rows["knob"].astype(np.int64)
        known = (campaign >= 0) & (campaign < len(self.names)) & (knob >= 0) & (knob < len(Knob))
        if not known.all():
            at = int(np.flatnonzero(~known)[0])
            raise ImpossibleLife(f"a row waits at tick {tick} for {self._place(int(campaign[at]), int(knob[at]))}")
        key, note = _keys(campaign, knob), rows["note"].astype(np.int64)
        self._asked[sequence] = _Asked(tick, key, note, rows["wanted"], rows["base_version"])
        self._waits_in[key] = sequence
        self._waits_as[key] = note  # of one key written twice, the last stands

    # --- what has to agree ---

    def _check_blocked(self, watches: Iterable[Mapping[str, Any]]) -> None:
        """A rollback that is blocked has an open alert."""
        for each in watches:
            about = AlertKind.ROLLBACK_BLOCKED, each["campaign"]
            if each["event"] == "blocked" and about not in {(kind, place) for kind, place, *_ in self.alerts.open}:
                raise ImpossibleLife(f"{self._story(each['action'])}; no alert tells of it")

    def _check_rollbacks(self) -> None:
        """A rollback is asked for by a watch or a person, or restores a value that is not the recorded one."""
        last = self._last
        assert last is not None
        differs = [about for about in self.alerts.open if about.kind is AlertKind.STATE_DIFFERS]
        asked = [*self._undoing, *(each.campaign * len(Knob) + each.knob for each in differs if each.knob is not None)]
        undoes = np.flatnonzero(last.source == Source.ROLLBACK)
        for at in undoes[~np.isin(_keys(last.campaign[undoes], last.knob[undoes]), asked)].tolist():
            raise ImpossibleLife(f"{self._of(last, at)}; nobody asked for this rollback")

    def _check_place(self, told: Mapping[str, Any], action: int) -> None:
        """An entry names the campaign and knob of its action."""
        made, at = self._find(action)
        if (int(made.campaign[at]), int(made.knob[at])) != (told["campaign"], told["knob"]):
            raise ImpossibleLife(f"{self._story(action)}; it is told of {self._about(told)}")

    # --- stories ---

    def _move(self, tick: int, action: int, step: Step) -> None:
        """A step of a single action."""
        made, at = self._find(action)
        following = Stage(int(advance(made.stage[at], step, lambda _: self._story(action))[0]))
        if following == made.stage[at]:
            return
        made.stage[at] = following
        self._named.setdefault(action, []).append((tick, following))

    def _find(self, action: int) -> tuple[_Approved, int]:
        made = self._rounds.get(action >> ROW_BITS)
        row = action & ((1 << ROW_BITS) - 1)
        at = 0 if made is None else int(np.searchsorted(made.row, row))
        if made is None or at == len(made.row) or made.row[at] != row:
            raise ImpossibleLife(f"action {action}: the guard approved none of this name that is still in reach")
        return made, at

    def _story(self, action: int) -> str:
        return self._of(*self._find(action))

    def _of(self, made: _Approved, at: int) -> str:
        """The life of an approved row so far."""
        action = (made.sequence << ROW_BITS) + int(made.row[at])
        named = self._named.get(action, [])
        told = [self._before.get(action, f"proposed at tick {made.tick}"), f"approved at tick {made.tick}"]
        if made.settled is not None:
            stage = Stage.APPLIED if named else Stage(int(made.stage[at]))
            told.append(f"{spelt(stage)} at tick {made.settled}")
        told += [f"{spelt(stage)} at tick {tick}" for tick, stage in named]
        return f"action {action} ({self._place(int(made.campaign[at]), int(made.knob[at]))}): {', '.join(told)}"

    def _about(self, told: Mapping[str, Any]) -> str:
        return self._place(told["campaign"], told["knob"])

    def _place(self, campaign: int, knob: int) -> str:
        name = self.names[campaign] if 0 <= campaign < len(self.names) else campaign
        return f"campaign {name}, {spelt(Knob(knob)) if knob in list(Knob) else f'knob {knob}'}"

    def _key(self, told: Mapping[str, Any]) -> int:
        """Campaign and knob of an entry as one number."""
        campaign, knob = int(told["campaign"]), Knob(told["knob"])
        if not 0 <= campaign < len(self.names):
            raise ImpossibleLife(f"{self._about(told)}: there is no such campaign")
        return campaign * len(Knob) + knob


def _keys(campaign: NDArray[Any], knob: NDArray[Any]) -> Int64:
    keys: Int64 = campaign.astype(np.int64) * len(Knob) + knob
    return keys


def _end_of_run(judged: Mapping[str, NDArray[Any]], row: int) -> int:
    """Where the rows of one note, campaign and knob end that begin with a row."""
    same = [judged[name][row:] for name in ("note", "campaign", "knob")]
    other = np.flatnonzero(np.any([column != column[0] for column in same], axis=0))
    return row + int(other[0]) if other.size else len(judged["note"])
