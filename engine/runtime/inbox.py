"""Commands to a live run: files that a person's shell puts into the run folder, admitted at the next boundary.

A command is written beside its place and moved there in one step, and so is its answer. Only files that belong to the
owner of the run and that nobody else may write are admitted: whoever may write them may command.
"""

from __future__ import annotations

import json
import os
import stat
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.actions import Knob
from engine.campaigns import ACCOUNT, CampaignSet
from engine.errors import BadInput
from engine.messages import Answer, Command, CommandKind
from engine.people import ABOUT_ACCOUNT

COMMAND_VERSION = 1
_POLL_SECONDS = 0.05
_DRAFT = ".draft"


class Inbox:
    """The optimiser's side: admits what lies there, and answers it.

    Parameters
    ----------
    folder:
        The run's `commands/`.
    """

    def __init__(self, folder: Path, campaigns: CampaignSet) -> None:
        self._folder = folder
        self._campaigns = campaigns

    def admit(self) -> list[Command]:
        """The commands that lie there, in order of their ids; what cannot be admitted is set aside and answered."""
        commands = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                _check_owner(path)
                commands.append(_read(path, self._campaigns))
            except BadInput as error:
                self._set_aside(path, str(error))
        return commands

    def answer(self, answer: Answer) -> None:
        """Write down what became of commands; a file whose command was answered is done with."""
        for told in answer.commands:
            self._tell(told["id"], dict(told) | {"tick": answer.tick})

    def settle(self, command: str) -> None:
        """Be done with a command that was served before: its first answer stands."""
        if not self._answer_of(command).exists():
            self._tell(command, {"id": command, "answer": "served_before"})
        (self._folder / f"{command}.json").unlink(missing_ok=True)

    def _tell(self, command: str, content: Mapping[str, Any]) -> None:
        path = self._answer_of(command)
        if path.parent.parent.exists():  # nobody asks by file where there is no folder
            path.parent.mkdir(exist_ok=True)
            _write(path, content)
            (self._folder / f"{command}.json").unlink(missing_ok=True)

    def _set_aside(self, path: Path, why: str) -> None:
        refused = self._folder / "refused"
        refused.mkdir(exist_ok=True)
        path.replace(refused / path.name)
        self._tell(path.stem, {"id": path.stem, "answer": f"not_admitted: {why}"})

    def _answer_of(self, command: str) -> Path:
        return self._folder / "answers" / f"{command}.json"


def submit(
    run: Path,
    kind: CommandKind,
    by: str,
    campaign: str | None = None,
    knob: Knob | None = None,
    action: int | None = None,
    command: str | None = None,
) -> str:
    """Put a command into a run's folder; returns its id, by which the answer is found and a repetition is known."""
    name = command or uuid.uuid4().hex
    if not name.replace("-", "").replace("_", "").isalnum():
        raise BadInput(f"command id (={name!r}) must be letters, digits, - and _: choose another")
    folder = run / "commands"
    folder.mkdir(mode=0o700, exist_ok=True)
    content = {
        "command_version": COMMAND_VERSION,
        "kind": kind.value,
        "by": by,
        "campaign": campaign,
        "knob": None if knob is None else knob.name.lower(),
        "action": action,
    }
    _write(folder / f"{name}.json", content)
    return name


def wait_for(run: Path, command: str, seconds: float) -> dict[str, Any]:
    """The answer to a command, once it is there."""
    path = run / "commands" / "answers" / f"{command}.json"
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            raise BadInput(f"command {command} was not answered within {seconds:g} s: is the run still going on?")
        time.sleep(_POLL_SECONDS)
    answer: dict[str, Any] = json.loads(path.read_text())
    return answer


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{path.name} must be a file of its own: send it again")
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BadInput(f"{path.name} must belong to the run's owner and be writable by nobody else: send it again")


def _read(path: Path, campaigns: CampaignSet) -> Command:
    try:
        said = json.loads(path.read_text())
        version = said["command_version"]
        kind, by = CommandKind(said["kind"]), str(said["by"])
        freezes = kind in {CommandKind.FREEZE, CommandKind.UNFREEZE}
        about_account = kind in ABOUT_ACCOUNT and said["campaign"] is None
        campaign = ACCOUNT if about_account else campaigns.index(said["campaign"])
        knob = Knob.PAUSED if said["knob"] is None else Knob[str(said["knob"]).upper()]
        action = None if said["action"] is None else int(said["action"])
    except BadInput:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path.name} must be a command as `bidtwin` writes it: send it again") from None
    if version != COMMAND_VERSION:
        raise BadInput(f"command_version (={version}) must be {COMMAND_VERSION}: send it with the run's own bidtwin")
    if about_account and said["knob"] is not None:
        raise BadInput(f"{path.name} must name the campaign whose {said['knob']} it is about: send it again")
    return Command(path.stem, kind, by, campaign, knob, action=action, whole=freezes and said["knob"] is None)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_name(path.name + _DRAFT)
    draft.write_text(json.dumps(dict(content)))
    draft.chmod(0o600)
    draft.replace(path)
