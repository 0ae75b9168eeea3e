"""Classes of the user's own, named by `module:Class` in a configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from agents.checks import check_policy
from engine.errors import BadInput
from engine.policy import Policy


def users_policy(name: str, options: Mapping[str, Any], *, clipped: bool) -> Policy:
    """The policy that a class makes of the options, once it has passed `check_policy`.

    The class is looked for in the working directory too, and stays importable for what is pickled of it.

    Raises
    ------
    BadInput
        In one sentence, where there is no such class, it cannot be made of the options, or breaks the protocol.
    """
    made = _class(name)
    try:
        policy = made(**options)
    except (TypeError, ValueError) as error:
        raise BadInput(f"policy (={name!r}) cannot be made of its options ({error!s:.120}): correct them") from None
    if not isinstance(policy, Policy):
        raise BadInput(f"policy (={name!r}) must have start and propose: write them as engine.policy.Policy tells")
    check_policy(policy, clipped=clipped)
    return policy


def _class(name: str) -> type:
    module, _, word = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), word, None)
    except ImportError as error:
        raise BadInput(f"policy (={name!r}) cannot be imported ({error!s:.120}): check its module") from None
    if not isinstance(found, type):
        raise BadInput(f"policy (={name!r}) must be a class: {module} has none of this name")
    return found
