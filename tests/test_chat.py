"""From messages to a prompt: the plain template, the bundle's own one, and templates that refuse or misbehave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml_service.common.bundle import CHAT_TEMPLATE_FILE, load_manifest
from ml_service.common.errors import BadRequest, BundleRefused
from ml_service.inference.chat import ChatTemplate, Message, load_chat_template
from ml_service.pipeline.stages import import_checkpoint
from tests.test_families import make_checkpoint

MESSAGES = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "And?")]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}<assistant>"


def test_without_a_template_the_speakers_are_named() -> None:
    chat = ChatTemplate(None)
    assert chat.render(MESSAGES) == "Be brief.\n\nUser: Hi\nAssistant: Ho\nUser: And?\nAssistant:"
    assert chat.stop == ("\nUser:",)
    assert not chat.knows_special


def test_a_template_of_its_own_is_rendered_with_its_special_tokens() -> None:
    chat = ChatTemplate(TEMPLATE, "</s>")
    assert chat.render(MESSAGES[1:2]) == "<user>Hi</s><assistant>"
    assert chat.stop == ()
    assert chat.knows_special


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only users may speak') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages[9].role.x }}",
        "{{ 1 / 0 }}",
        "{% for m in messages %}{{ m.content + 1 }}{% endfor %}",
    ],
)
def test_a_template_that_refuses_or_breaks_is_a_bad_request(source: str) -> None:
    with pytest.raises(BadRequest, match="the model's chat template refuses these messages"):
        ChatTemplate(source).render(MESSAGES)


def test_what_is_no_template_is_no_bundle() -> None:
    with pytest.raises(BundleRefused, match="is no template"):
        ChatTemplate("{% for %}")


@pytest.mark.parametrize("place", ["file", "tokenizer_config"])
def test_an_imported_checkpoint_brings_its_template_along(tmp_path: Path, place: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", {})
    if place == "file":
        (checkpoint / CHAT_TEMPLATE_FILE).write_text(TEMPLATE)
    else:
        (checkpoint / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    import_checkpoint(checkpoint, tmp_path / "bundle", "int8")
    assert CHAT_TEMPLATE_FILE in load_manifest(tmp_path / "bundle").files
    assert load_chat_template(tmp_path / "bundle", "</s>").render(MESSAGES[1:2]) == "<user>Hi</s><assistant>"
