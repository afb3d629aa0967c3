"""HTML elements from Python calls; what is not markup yet is escaped on the way."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources


class Html(str):
    """Text that is markup already; every other text is escaped where it enters the page."""


def el(tag: str, *content: str, **attributes: str | float) -> Html:
    """An element. Underscores in attribute names stand for hyphens; one at the end is dropped."""
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(str(v))}"' for k, v in attributes.items())
    if tag in ("img", "meta"):
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{join(content)}</{tag}>")


def join(content: Iterable[str]) -> Html:
    """Markup and text, one after the other."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in content))


def section(heading: str, lead: str, *content: str, class_: str = "beside") -> Html:
    """A part of a page: what it is about on one side, the rest on the other."""
    side = el("div", el("h2", heading), el("p", lead), class_="side")
    return el("section", side, el("div", *content), class_=class_)


def wide(table: Html) -> Html:
    """A table that scrolls by itself where the screen is narrow."""
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label="table")


def page(title: str, *content: str) -> str:
    """A whole document in the house's style, which needs nothing but what it names."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Html("\n" + resources.files("tenshot").joinpath("assets/report.css").read_text("utf-8"))),
    )
    return "<!doctype html>\n" + el("html", head, "\n", el("body", el("main", *content)), lang="en") + "\n"
