"""The small parts that every page is made of: headings, cards, pairs of a name and a value, questions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement


def text(tag: str, words: str, classes: str = "") -> TextElement:
    """An element of HTML with text in it."""
    return TextElement(tag=tag, text=words).classes(classes)


def attribute(element: ui.element, name: str, value: object) -> None:
    """Change an attribute where it is another; None takes it away. Safe for any text, where `props` would parse it."""
    if element.props.get(name) != value:
        element.props.set_optional(name, value)


def page_title(title: str, hint: str = "") -> ui.element:
    """A page's heading; buttons go into what it returns."""
    with ui.element("div").classes("page-title"):
        with ui.element("div"):
            text("h1", title)
            if hint:
                text("p", hint, "hint")
        return ui.element("div").classes("actions")


@contextmanager
def card(title: str = "", hint: str = "") -> Iterator[ui.element]:
    """A box with a heading, given as a section; what belongs to it goes inside."""
    with ui.element("section").classes("card") as box:
        if title:
            with ui.element("div").classes("card-head"):
                text("h2", title)
                if hint:
                    text("p", hint, "hint")
        yield box


def pairs(values: Mapping[str, str]) -> None:
    """Names and their values, one below the other."""
    with ui.element("dl").classes("pairs"):
        for name, value in values.items():
            text("dt", name)
            text("dd", value)


def figure(name: str, value: str, hint: str = "") -> TextElement:
    """A number that is looked at, with its name above; what it returns is the number."""
    with ui.element("div").classes("figure"):
        text("div", name, "figure-name")
        number = text("div", value, "figure-value")
        text("div", hint, "figure-hint")
    return number


def badge(words: str, kind: str = "") -> TextElement:
    """A state in a word; `kind` is good, bad, busy or nothing."""
    return text("span", words, f"badge {kind}")


def button(label: str, on_click: Callable[[], object] | None = None, *, icon: str = "", kind: str = "") -> ui.button:
    """`kind` is primary, grave, or nothing for a quiet one."""
    colour = {"primary": "unelevated color=primary", "grave": "unelevated color=negative"}.get(kind, "outline")
    # Without a colour of its own a quiet one is written in the theme's ink, which can be read on dark, too.
    made = ui.button(label, on_click=on_click, icon=icon or None, color=None)
    return made.props(f"{colour} no-caps dense").classes("button")


def tool(icon: str, label: str) -> ui.button:
    """A button that is only an icon; its name shows when one points at it."""
    made = ui.button(icon=icon).props(f'flat round dense aria-label="{label}"').classes("tool")
    with made:
        ui.tooltip(label)
    return made


def notice(words: str, kind: str = "") -> ui.element:
    """A sentence on what has happened, where it happened; `kind` is good, bad or nothing."""
    icon = {"good": "check_circle", "bad": "error_outline"}.get(kind, "info")
    with ui.element("div").classes(f"notice {kind}").props('role="alert"' if kind == "bad" else "") as box:
        ui.icon(icon).props('aria-hidden="true"')
        text("div", words, "notice-words")
    return box


@contextmanager
def dialog(title: str) -> Iterator[ui.dialog]:
    """A dialog that is open when the block ends."""
    with ui.dialog() as box, ui.card().classes("dialog"):
        text("h2", title)
        yield box
    box.on("hide", box.delete)
    box.open()


def ask(
    title: str, question: str, action: str, on_yes: Callable[[], Awaitable[object]], *, is_grave: bool = False
) -> None:
    """A question before something is done that others notice."""
    with dialog(title) as box:
        text("p", question)

        async def yes() -> None:
            box.close()
            await on_yes()

        with ui.element("div").classes("dialog-actions"):
            button("Cancel", box.close).props("autofocus")
            button(action, yes, kind="grave" if is_grave else "primary")
