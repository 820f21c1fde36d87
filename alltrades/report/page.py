"""Writes the page: one HTML file that needs no network, from a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alltrades.errors import MissingExtra, UserError
from alltrades.system.blame import blame

HERE = Path(__file__).parent


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run and return its path, by default report.html in the run folder.

    Parts of the run that are not there are named on the page. Equal run folders give equal pages.

    Raises:
        UserError: no run in the folder, an unreadable file in it, or the extra `report` is not
            installed.
    """
    _require()
    from alltrades.report.run_files import read_run

    try:
        content = page_content(read_run(Path(run_folder)))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{run_folder}: a file in it cannot be shown ({blame(error, HERE)}); expected what "
            "`alltrades run` writes; run it again in this folder"
        ) from error
    return render(
        "page.html", content, Path(out) if out is not None else Path(run_folder) / "report.html"
    )


def render(template: str, content: dict[str, Any], path: Path) -> Path:
    """Write a template of this folder with its style, its plots (`content["figures"]`, by place)
    and nothing from outside.
    """
    content = dict(content)
    figures = {name: figure.to_json() for name, figure in content.pop("figures").items()}
    content["figure_json"] = script_json(figures)
    return write(template, content, path, "page", plots=bool(figures))


def write(
    template: str, content: dict[str, Any], path: Path, name: str, plots: bool = True
) -> Path:
    """Write a template of this folder with the scripts theme.js and NAME.js, the style page.css and
    that of NAME, and nothing from outside. What `content` makes bit by bit goes to the file bit by
    bit.
    """
    jinja2, get_plotlyjs = _require()
    from alltrades.system.files import replacing

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    stream = environment.get_template(template).stream(
        **content,
        css="".join(_read(f"{part}.css") for part in dict.fromkeys(["page", name])),
        js=_read("theme.js") + _read(f"{name}.js"),
        plotly=get_plotlyjs() if plots else "",
    )
    with replacing(path) as partial:
        stream.dump(str(partial), encoding="utf-8", errors="replace")  # of lone surrogates
    return path


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _require() -> tuple[Any, Any]:
    """(jinja2, plotly's source as text); UserError where the extra is missing."""
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtra(
            f"the report needs plotly and jinja2, found no {error.name}", "report"
        ) from error
    return jinja2, get_plotlyjs


def page_content(run: Any) -> dict[str, Any]:
    """Everything `page.html` shows of a `RunFiles`; "figures" holds its plots by the id of their
    place.
    """
    from alltrades.report import figures as plots
    from alltrades.report import making, text, views
    from alltrades.report.looks import look_parts
    from alltrades.report.open_loop_page import open_loop
    from alltrades.report.perturbations import perturbation_part

    figures: dict[str, plots.Figure] = {}

    def place(figure: plots.Figure) -> dict[str, Any]:
        name = f"figure-{len(figures)}"
        figures[name] = figure
        return {"id": name, "label": figure.label, "height": figure.height}

    told = views.telling(run)
    pairs = views.comparison(run)
    for pair in pairs:
        pair["figure"] = place(plots.forest(pair["pair"]))
    weights = making.weights(run)
    for part in weights:
        color = plots.row_color(run.rows, part["row"]) if part["row"] in run.rows else "@row0"
        for line in part["lines"]:
            line["figure"] = (
                place(plots.weight_histogram(line["facts"], color)) if line["plot"] else None
            )
    shown = [
        {"name": name, "figure": place(plots.trajectories(run.trajectories[name], run.rows))}
        for name in run.environments
        if any(run.trajectories.get(name, {}).values())
    ]
    drawn = [row for row in run.rows if any(row in paths for paths in run.trajectories.values())]
    return {
        "run": run,
        "header": views.header(run),
        "success": views.success(run),
        "open_loop": open_loop(run, place),
        "perturbations": perturbation_part(run.perturbations),
        "looks": look_parts(dict(run.ordered(run.looks.get("environments", {})))),
        "pairs": pairs,
        "teachers": views.teachers(run),
        "advice": views.advice(run),
        "by_limit": place(plots.success_by_limit(told)) if told else None,
        "losses": [
            (title, place(figure)) for title, figure in plots.loss_curves(run.metrics, run.rows)
        ],
        "selection": text.selection(run.selection) if run.selection else "",
        "weights": weights,
        "rollouts": making.rollouts(run),
        "rounds": making.rounds(run),
        "trajectories": shown,
        "videos": making.videos(run),
        "keys": [
            {
                "name": row,
                "index": run.rows.index(row),
                "color": run.rows.index(row) % plots.ROW_COLORS,
            }
            for row in drawn
        ],
        "provenance": making.provenance(run),
        "settings": making.settings_lines(run),
        "figures": figures,
    }


def script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
