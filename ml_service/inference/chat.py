"""From messages to a prompt: the bundle's own chat template, or a plain one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ml_service.common.bundle import CHAT_TEMPLATE_FILE
from ml_service.common.errors import BadRequest, BundleRefused

PLAIN_TEMPLATE = """{% for message in messages -%}
{% if message.role == 'system' or message.role == 'developer' %}{{ message.content }}

{% else %}{{ message.role.capitalize() }}: {{ message.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
"""For models without a template: who speaks before each message, and `Assistant:` where the answer begins."""
PLAIN_STOP = ("\nUser:",)


@dataclass(frozen=True)
class Message:
    """What somebody said."""

    role: str
    content: str


class ChatTemplate:
    """Renders messages as the model saw them in training; the template is run in a sandbox."""

    def __init__(self, source: str | None, end_of_text: str = "") -> None:
        """Raises BundleRefused where the source is no template."""
        self.stop = PLAIN_STOP if source is None else ()
        self.knows_special = source is not None
        """Names of special tokens in what it renders are those tokens."""
        self._special = {"bos_token": "", "eos_token": end_of_text}
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(PLAIN_TEMPLATE if source is None else source)
        except TemplateError as error:
            raise BundleRefused(f"{CHAT_TEMPLATE_FILE} is no template: {error}") from error

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt after which the answer comes. Raises BadRequest where the template refuses the messages."""
        told = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=told, add_generation_prompt=True, **self._special)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise BadRequest(f"the model's chat template refuses these messages: {reason}") from error


def load_chat_template(bundle: Path, end_of_text: str) -> ChatTemplate:
    """The bundle's template, or the plain one where it has none."""
    path = bundle / CHAT_TEMPLATE_FILE
    return ChatTemplate(path.read_text(encoding="utf-8") if path.is_file() else None, end_of_text)


def _refuse(message: str) -> Any:
    raise TemplateError(message)
