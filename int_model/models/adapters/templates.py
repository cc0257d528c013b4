"""Chat templates that a profile may name where the hub's differs from what a model was trained with."""

from __future__ import annotations

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_VICUNA = (
    "{{ '" + _VICUNA_SYSTEM.replace("'", "\\'") + " ' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ 'USER: ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ ' ' }}"
    "{% else %}"
    "{{ 'ASSISTANT: ' }}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '</s>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

TEMPLATES = {"vicuna_v1": _VICUNA}
"""By name. ``vicuna_v1``: LLaVA-1.5's training format, with its system sentence and ``</s>`` after every answer."""


def chat_template(chosen: str) -> str:
    """The Jinja text of a profile's ``vlm.chat_template``: a name of ``TEMPLATES``, or the text itself.

    Raises ``ValueError`` that lists the names for what is neither.
    """
    if "{{" in chosen or "{%" in chosen:
        return chosen
    if chosen not in TEMPLATES:
        raise ValueError(
            f"there is no chat template '{chosen}'; vlm.chat_template is one of {', '.join(TEMPLATES)}, Jinja text, or "
            "empty for the checkpoint's own"
        )
    return TEMPLATES[chosen]
