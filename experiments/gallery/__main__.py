"""`python -m experiments.gallery [NAME …]`: run scenarios, draw them, print their totals as a Markdown table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.errors import BadInput
from experiments.config.values import nearest
from experiments.gallery import HEADINGS, paint
from experiments.gallery.scenes import SCENES


def main(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]…", help="Scenarios; all by default.")] = None,
    configs: Annotated[Path, typer.Option(help="Folder of the scenarios.")] = Path("configs/scenarios"),
    pictures: Annotated[Path, typer.Option(help="Folder that the pictures go to.")] = Path("docs/pictures"),
) -> None:
    """Run the scenarios, draw a picture of each, and print a table of their totals."""
    chosen = names or list(SCENES)
    for name in chosen:
        if name not in SCENES:
            raise typer.BadParameter(f"scenario (={name}) must be one of the gallery: {nearest(name, list(SCENES))}")
    pictures.mkdir(parents=True, exist_ok=True)
    typer.echo(f"| {' | '.join(HEADINGS)} |\n|---|{'---:|' * (len(HEADINGS) - 1)}")
    for name in chosen:
        try:
            typer.echo(f"| {' | '.join(paint(name, configs, pictures))} |")
        except BadInput as error:
            raise typer.BadParameter(str(error)) from None


if __name__ == "__main__":
    typer.run(main)
