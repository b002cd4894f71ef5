"""Who answers on the playground: the active model, one beside it, or that of any experiment that has succeeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui

from ml_service.frontend.feeds import Snapshot
from ml_service.frontend.visit import Visit

ACTIVE = "active"
_DEPLOYMENTS, _EXPERIMENTS = "/deployments", "/experiments?state=succeeded&limit=1000"
_DEPLOYMENTS_EVERY_S, _EXPERIMENTS_EVERY_S = 5.0, 15.0
_ROLES = (ACTIVE, "shadow", "canary")


class Models:
    """Names of those who can be asked, as the service takes them, with words for each."""

    def __init__(self, visit: Visit) -> None:
        self._deployments: Mapping[str, Any] | None = None
        self._experiments: Mapping[str, Any] | None = None
        self._listeners: list[Callable[[], None]] = []
        visit.follow(_DEPLOYMENTS, _DEPLOYMENTS_EVERY_S, self._take_deployments)
        visit.follow(_EXPERIMENTS, _EXPERIMENTS_EVERY_S, self._take_experiments)

    @property
    def has_none(self) -> bool:
        """Whether the service says that nothing is deployed."""
        return self._deployments is not None and self._deployments["active"] is None

    @property
    def names(self) -> dict[str, str]:
        """Name → words; the active one is always there."""
        return names_of(self._deployments or {}, (self._experiments or {}).get("experiments", ()))

    @property
    def second(self) -> str:
        """Whom to compare with the active one, unless somebody says."""
        deployments = self._deployments or {}
        previous = deployments.get("previous")
        active = deployments.get(ACTIVE) or {}
        wanted = [role for role in _ROLES[1:] if deployments.get(role)]
        wanted += [str(previous["experiment_id"])] if previous else []
        wanted += [name for name in self.names if name not in (*_ROLES, str(active.get("experiment_id")))]
        return next((name for name in wanted if name in self.names), ACTIVE)

    def listen(self, told: Callable[[], None]) -> None:
        """Call this whenever the names change."""
        self._listeners.append(told)

    def _take_deployments(self, snapshot: Snapshot) -> None:
        self._deployments = snapshot.data or self._deployments
        self._tell()

    def _take_experiments(self, snapshot: Snapshot) -> None:
        self._experiments = snapshot.data or self._experiments
        self._tell()

    def _tell(self) -> None:
        for told in self._listeners:
            told()


def names_of(deployments: Mapping[str, Any], experiments: Any) -> dict[str, str]:
    """Those with a role first, then all others by number."""
    names = {ACTIVE: "Active"}
    for role in _ROLES:
        if (deployed := deployments.get(role)) is not None:
            names[role] = f"{role.capitalize()}: {deployed['experiment']}"
    return names | {str(each["experiment_id"]): f"#{each['experiment_id']} {each['name']}" for each in experiments}


class ModelChoice:
    """A field that chooses one of them."""

    def __init__(self, models: Models, label: str) -> None:
        self._models = models
        self._select = ui.select(models.names, value=ACTIVE, label=label).props("outlined dense options-dense")
        self._select.classes("model-choice")
        models.listen(self._update)

    @property
    def name(self) -> str:
        """As the service takes it."""
        return str(self._select.value or ACTIVE)

    @property
    def words(self) -> str:
        """As people read it."""
        return self._models.names.get(self.name, self.name)

    def choose(self, name: str) -> None:
        """This one from now on."""
        self._select.set_value(name)

    def show(self, is_shown: bool) -> None:
        """Where the service knows no names there is nothing to choose."""
        self._select.set_visibility(is_shown)

    def _update(self) -> None:
        names = self._models.names
        if names != self._select.options:
            self._select.set_options(names, value=self.name if self.name in names else ACTIVE)
