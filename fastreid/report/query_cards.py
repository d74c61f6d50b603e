"""The ranked lists of a page: a card for each query, in it a list by each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastreid.evaluation.ranked_lists import RankedItem, RankedQuery
from fastreid.report.html import attributes, element, swatch, text
from fastreid.report.queries import QueryCard, QuerySet, RunLists, Thumbnails

# Images in a row of a list, where the window is wide enough.
IMAGES_A_ROW = 10
HEAT = "Below each image: where the model looks. Bright is where its last feature map is strong, each image by itself."
Heat = dict[str, np.ndarray]  # maps by the image's path


@dataclass
class QueryLists:
    """The queries to show, the runs' lists that they were chosen from, and where their pictures come from."""

    sets: Sequence[QuerySet]
    runs: Sequence[RunLists]
    thumbnails: Thumbnails


def queries_section(lists: QueryLists, names: Sequence[str]) -> str:
    """Return the cards of all data sets, after the checkpoints they are of and the reasons why lists are missing.

    Args:
        names: of the runs.
    """
    parts = []
    for number, run in enumerate(lists.runs):
        label = f"{swatch(number)} <b>{text(names[number])}</b>"
        if run.lists:
            parts.append(f'<p class="note" data-run="{number}">{label}: ranked lists of {text(run.checkpoint)}</p>')
        for reason in run.missing:
            words = f"{label}: no ranked lists. {text(reason)}"
            parts.append(f'<p class="note problem" data-run="{number}">{words}</p>')
    if any(run.heat for run in lists.runs):
        parts.append(f'<p class="note">{HEAT}</p>')
    heat = [run.heat for run in lists.runs]
    parts += [_set(found, names, heat, lists.thumbnails) for found in lists.sets]
    if lists.sets:
        parts.append('<p class="note" id="no-match" hidden>No query is left by these filters.</p>')
    return "".join(parts)


def _set(found: QuerySet, names: Sequence[str], heat: Sequence[Heat], thumbnails: Thumbnails) -> str:
    cards = "".join(_card(card, found.data_set, names, heat, thumbnails) for card in found.cards)
    shown = f"{len(found.cards)} of {found.queries:,} queries: those of the lowest and the highest average precision"
    if found.unmatched:
        shown += f"; {found.unmatched:,} have no true match in the gallery, and so none"
    return (
        f'<section class="query-set" data-set="{text(found.data_set)}"><h3>{text(found.data_set)}</h3>'
        f'<p class="note">{text(found.split)}, {shown}</p><div class="cards">{cards}</div></section>'
    )


def _card(card: QueryCard, data_set: str, names: Sequence[str], heat: Sequence[Heat], thumbnails: Thumbnails) -> str:
    lists = "".join(_list(run, query, names[run], heat[run], thumbnails) for run, query in card.lists.items())
    name = Path(card.path).name
    about = f"query {name}: identity {card.pid}, camera {card.camid}"
    picture = _picture(card.path, about, thumbnails)
    for run in card.lists:
        drawn = _heat(card.path, f"where {names[run]} looks at {name}", heat[run], thumbnails)
        picture += element("div", {"data-run": run}, f"{swatch(run)}{drawn}") if drawn else ""
    return (
        f'<article class="card" data-set="{text(data_set)}" aria-label="query {text(name)}">'
        f'<figure class="query">{picture}<figcaption><b title="{text(card.path)}">{text(name)}</b>'
        f"<span>identity {card.pid}</span>"
        f'<span>camera {card.camid}</span></figcaption></figure><div class="lists">{lists}</div></article>'
    )


def _list(run: int, query: RankedQuery, name: str, heat: Heat, thumbnails: Thumbnails) -> str:
    first = "right" if query.first_match == 1 else "wrong"
    if query.ap is None:
        measures = "no true match in the gallery"
    else:
        measures = f"AP <b>{100 * query.ap:.1f}</b> % · first right at rank <b>{query.first_match}</b>"
    items = "".join(_item(rank, item, heat, thumbnails) for rank, item in enumerate(query.items, start=1))
    data = {"class": "list", "data-run": run, "data-first": first, "data-ap": f"{query.ap or 0:.6f}"}
    return (
        f'<section {attributes(data)}><h4>{swatch(run)} <span class="run-name">{text(name)}</span> '
        f'<span>{measures}</span></h4><ol style="--columns: {IMAGES_A_ROW}">{items}</ol></section>'
    )


def _item(rank: int, item: RankedItem, heat: Heat, thumbnails: Thumbnails) -> str:
    kind, mark = ("right", "✓") if item.match else ("wrong", "✗")
    about = f"identity {item.pid}, camera {item.camid}"
    picture = _picture(item.path, f"rank {rank}, {kind}: {about}", thumbnails)
    picture += _heat(item.path, f"where the model looks at rank {rank}", heat, thumbnails)
    return (
        f'<li class="{kind}" title="{text(item.path)}&#10;{about}">{picture}'
        f'<span class="mark" aria-hidden="true">{mark}</span><span class="distance">{item.distance:.3f}</span></li>'
    )


def _heat(path: str, about: str, heat: Heat, thumbnails: Thumbnails) -> str:
    """Return where the model looks at an image, nothing where that was not computed."""
    return _picture(path, about, thumbnails, heat[path]) if path in heat else ""


def _picture(path: str, about: str, thumbnails: Thumbnails, heat: np.ndarray | None = None) -> str:
    """Return an image, or its map, with its text; where it has no room on the page, a box that says so."""
    found = thumbnails.get(path, heat)
    if found is None:
        return f'<span class="left-out" role="img" aria-label="{text(about)} (picture left out)">left out</span>'
    uri, width, height = found
    return f"<img {attributes({'src': uri, 'alt': about, 'width': width, 'height': height, 'decoding': 'async'})}>"
