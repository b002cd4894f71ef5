"""What is around every page: name, navigation, what answers now, theme, key, and the keys of the keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from pathlib import Path

from nicegui import ui

from ml_service.frontend.feeds import Snapshot
from ml_service.frontend.parts import button, dialog, text, tool
from ml_service.frontend.visit import Visit

ASSETS = Path(__file__).parent / "assets"
NAVIGATION = (
    ("/", "Playground", "edit_note"),
    ("/experiments", "Experiments", "science"),
    ("/data", "Data", "dataset"),
    ("/deployments", "Deployments", "rocket_launch"),
    ("/evaluate", "Evaluate", "fact_check"),
    ("/health", "Health", "monitor_heart"),
)
_SHORTCUTS = (
    ("1 … 6", "go to a page"),
    ("Ctrl Enter", "run the prompt"),
    ("Esc", "stop it; close a dialog"),
    ("t", "dark or light"),
    ("?", "show this"),
)
_STYLES = ("page", "data", "playground", "experiments", "deployments")
_STANDING_EVERY_S = 5.0


@contextmanager
def frame(visit: Visit, path: str) -> Iterator[None]:
    """The page around what is built inside of it."""
    ui.add_head_html(_head())
    ui.dark_mode(visit.is_dark)
    ui.colors(primary="#0f766e", negative="#b3261e", positive="#15703a")
    ui.on("seen", lambda event: visit.seen(bool(event.args)))
    with ui.element("header").classes("top"):
        with ui.element("a").props('href="/ui/" aria-label="ml_service: playground"').classes("brand"):
            ui.element("img").props('src="/ui/assets/icon.svg" alt="" width="22" height="22"')
            text("span", "ml_service", "brand-name")
        _navigation(path)
        ui.run_javascript("mlPage.showPlace()")
        with ui.element("div").classes("tools"):
            _standing(visit)
            tool("vpn_key", "API key").on_click(lambda: _ask_key(visit))
            tool("contrast", "Dark or light").on("click", js_handler="() => mlPage.toggleTheme()")
            tool("keyboard", "Keyboard shortcuts").on_click(_show_shortcuts).classes("wide-only shortcuts")
    with ui.element("div").classes("main") as main:
        yield
    ui.skip_link(target=main)


@cache
def _head() -> str:
    """Files that browsers keep for good: another content has another address."""
    styles = "".join(f'<link rel="stylesheet" href="{_address(f"{name}.css")}">' for name in _STYLES)
    return f'{styles}<script src="{_address("page.js")}"></script>'


def _address(name: str) -> str:
    return f"/ui/assets/{name}?{blake2b((ASSETS / name).read_bytes(), digest_size=8).hexdigest()}"


def _navigation(path: str) -> None:
    with ui.element("nav").props('aria-label="Pages"').classes("navigation"):
        for address, name, icon in NAVIGATION:
            is_here = path == address or (address != "/" and path.startswith(f"{address}/"))
            current = 'aria-current="page"' if is_here else ""
            with ui.element("a").props(f'href="/ui{address}" {current}').classes("nav-link"):
                ui.icon(icon).props('aria-hidden="true"')
                text("span", name)


def _standing(visit: Visit) -> None:
    """What answers now, in a word; and a line where the service cannot be reached."""
    with ui.element("a").props('href="/ui/deployments"').classes("chip"):
        dot = ui.element("span").classes("dot")
        name = text("span", "…", "chip-name")
        tip = ui.tooltip("What answers now")
    with ui.element("div").classes("offline").props('role="status"') as bar:
        ui.icon("cloud_off")
        text("span", "The service does not answer. What you see is from before; this page goes on by itself.")

    def tell(snapshot: Snapshot) -> None:
        is_well, words, account = _in_words(snapshot)
        name.set_text(words)
        tip.set_text(account)
        dot.classes(replace="dot good" if is_well else "dot bad")
        is_away = snapshot.error is not None and snapshot.error.is_away
        bar.classes(replace="offline shown" if is_away else "offline")

    visit.follow("/deployments", _STANDING_EVERY_S, tell)


def _in_words(snapshot: Snapshot) -> tuple[bool, str, str]:
    """Whether all is well, in a word, and in a sentence."""
    if (error := snapshot.error) is not None:
        word = "key wanted" if error.wants_key else "not reachable" if error.is_away else "trouble"
        return False, word, str(error)
    active = snapshot.data["active"]
    if active is None:
        return False, "no model", "Nothing is deployed yet."
    return (
        True,
        active["experiment"],
        f"Experiment {active['experiment_id']} answers, generation {active['generation']}",
    )


def _ask_key(visit: Visit) -> None:
    with dialog("API key") as box:
        text(
            "p",
            "Where the service was started with keys, every page sends this one. It stays in a cookie that no script "
            "can read, until the browser is closed.",
            "hint",
        )
        key = ui.input("Key", password=True, password_toggle_button=True).props('outlined dense autocomplete="off"')
        key.classes("full").on("keydown.enter", lambda: _keep_key(key.value))
        with ui.element("div").classes("dialog-actions"):
            if visit.api.key:
                button("Forget it", lambda: _keep_key(""))
            button("Cancel", box.close)
            button("Use this key", lambda: _keep_key(key.value), kind="primary")


def _keep_key(key: str) -> None:
    ui.run_javascript(f"mlPage.keepKey({json.dumps(key)})")


def _show_shortcuts() -> None:
    with dialog("Keyboard"), ui.element("dl").classes("pairs"):
        for keys, meaning in _SHORTCUTS:
            with ui.element("dt"):
                text("kbd", keys)
            text("dd", meaning)
