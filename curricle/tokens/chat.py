"""Chat templates: a conversation laid out as it will be asked for, with the loss on what the assistant writes.

A template is a piece of Jinja, as `tokenizer.apply_chat_template` renders it, and it is the only statement of a layout:
which of its characters belong to whom is found by rendering it on stand-ins for the messages. So what is trained on is
what the exported tokenizer renders, from the delimiter that opens the document (`opened`) up to the one that closes it.
Special tokens that the template writes become special tokens; a message that spells one out gets the tokens of its
letters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from curricle.corpus.conversations import Turn, answer_parts
from curricle.corpus.documents import Document
from curricle.corpus.problems import PROMPT
from curricle.study import Refused

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LAYOUT_VERSION = 2  # raised by hand when the same template and conversation would give other tokens

# In the style of DeepSeek LLM and DeepSeekMath. The prompt ends in a colon: the space after it begins the answer, and
# so is part of its first token.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'tool' %}{{ 'Tool: ' + message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
    "{% else %}{{ message['content'] + '\\n\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# What generated problems are laid out as (`curricle.corpus.problems`), as a template for who asks the trained model.
_BEFORE, _AFTER = (repr(part) for part in PROMPT.split("{question}"))
PROBLEMS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ " + _BEFORE + " + message['content'] + " + _AFTER + " }}{% endif %}{% endfor %}"
)

# A layout is a document's, and what stands before a document in training is the delimiter that closed the one before.
# Whoever asks the model has no document before: so ours go out with the delimiter in front, once for a conversation.
OPENING = "{{ eos_token }}"


def opened(jinja: str) -> str:
    """One of our layouts as the chat template of a tokenizer that goes out."""
    return OPENING + jinja


# A template that writes the date always gets the one that Llama 3's writes where it knows none. As Jinja, before the
# template, since transformers hands no function to it.
TODAY = datetime(2024, 7, 26)
_CODES = "".join(f" | replace('%{code}', '{TODAY.strftime(f'%{code}')}')" for code in "aAbBdmyYHIMSpj")
DATED = "{%- macro strftime_now(format) -%}{{ format" + _CODES + " }}{%- endmacro -%}"

Part = tuple[str | int, bool]
"""A text, or one special token; and whether it carries loss."""

STAND_IN = re.compile("\ue000(\\d+)\ue001")  # private characters, which no template takes apart or trims


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A template for one order of roles. `around` holds the text before the first message, between each two, and after
    the last; for each of them two places: up to the first it closes the answer before, from the second on it opens the
    next one, and carries loss there; between them it carries none."""

    around: tuple[str, ...]
    places: tuple[tuple[int, int], ...]


class Templates:
    """The layouts of a tokenizer's documents."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self._known: dict[str, ChatTemplate] = {}

    def parts(self, document: Document) -> list[Part]:
        """What is encoded of a document: its text; the prompt first; or a conversation, laid out."""
        if document.template:
            if document.template not in self._known:
                jinja = jinja_of(document.template, self.tokenizer, document.source)
                self._known[document.template] = ChatTemplate(jinja, self.tokenizer)
            try:
                return self._known[document.template].parts(document.conversation)
            except Refused as refusal:
                raise Refused(f"sources.{document.source}.template: {document.id}: {refusal}") from None
        if document.prompt:
            return [(document.prompt, False), *answer_parts(document.text)]
        return [(document.text, True)]


def jinja_of(template: str, tokenizer: PreTrainedTokenizerBase, source: str) -> str:
    """The Jinja of a template by its name in a study. Raises `Refused` where the tokenizer has none of its own."""
    if template == "plain":
        return PLAIN
    try:
        own = tokenizer.get_chat_template()
    except ValueError:
        raise Refused(
            f"sources.{source}.template: the tokenizer of the checkpoint has no chat_template; write plain"
        ) from None
    # A model that went out from here brings our layout opened; rows bring the delimiter along.
    return {opened(layout): layout for layout in (PLAIN, PROBLEMS)}.get(own, own)


class ChatTemplate:
    """One template with one tokenizer."""

    def __init__(self, jinja: str, tokenizer: PreTrainedTokenizerBase):
        self.jinja, self.tokenizer = jinja, tokenizer
        self._dated = DATED + jinja if "strftime_now" in jinja else jinja
        added = tokenizer.added_tokens_decoder.items()
        self._special: dict[str, int] = {str(token): number for number, token in added if token.special}
        self._special[tokenizer.eos_token] = tokenizer.eos_token_id
        longest_first = sorted(self._special, key=len, reverse=True)
        self._any_special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._closing = re.compile(f"\\s*{self._any_special.pattern}")
        self._skeletons: dict[tuple[str, ...], Skeleton] = {}

    def render(self, turns: tuple[Turn, ...], asking: bool = False) -> str:
        """As `apply_chat_template` renders it; with `asking`, up to where the assistant begins to write. A template
        that asks for the date gets always the same one, so that tokens do not depend on when they were made."""
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=self._dated, tokenize=False, add_generation_prompt=asking
            )
        except Exception as error:  # a template is a program, and fails as it likes
            said = str(error) or type(error).__name__
            raise Refused(f"the chat template does not take this conversation: {said}") from None

    def parts(self, turns: tuple[Turn, ...]) -> list[Part]:
        """A conversation that ends in an answer, up to the delimiter that closes it. Raises `Refused` where the
        template cannot be followed through it."""
        roles = tuple(role for role, _ in turns)
        if roles not in self._skeletons:
            self._skeletons[roles] = self._skeleton(roles)
        skeleton = self._skeletons[roles]
        parts = self._written(skeleton, 0)
        for number, content in enumerate(self._contents(turns, skeleton)):
            parts += answer_parts(content) if roles[number] == "assistant" else [(content, False)]
            parts += self._written(skeleton, number + 1)
        if parts[-1] == (self.tokenizer.eos_token_id, True):
            parts.pop()  # it ends the last answer, and the document: that is the delimiter
        return _joined(parts)

    def _contents(self, turns: tuple[Turn, ...], skeleton: Skeleton) -> list[str]:
        """The messages as the template writes them: as they are, or without the space around them."""
        rendered = self.render(turns)
        at, found = len(skeleton.around[0]), []
        for (_, content), after in zip(turns, skeleton.around[1:], strict=True):
            found.append(content if rendered.startswith(content + after, at) else content.strip())
            at += len(found[-1]) + len(after)
        pieces = [skeleton.around[0]]
        for content, after in zip(found, skeleton.around[1:], strict=True):
            pieces += [content, after]
        if "".join(pieces) != rendered:
            raise Refused("the chat template changes what its messages say, so answers cannot be told from the rest")
        return found

    def _written(self, skeleton: Skeleton, number: int) -> list[Part]:
        """What the template writes at a place, with its special tokens as what they are."""
        text, (closes, opens) = skeleton.around[number], skeleton.places[number]
        last = number == len(skeleton.around) - 1  # what follows the token that ends the last answer teaches nothing
        cut = [(text[:closes], True), *([] if last else [(text[closes:opens], False), (text[opens:], True)])]
        found: list[Part] = []
        for piece, carries in cut:
            found += [(self._special.get(token, token), carries) for token in self._any_special.split(piece) if token]
        return found

    def _skeleton(self, roles: tuple[str, ...]) -> Skeleton:
        stands = tuple((role, f"\ue000{number}\ue001") for number, role in enumerate(roles))
        whole = self.render(stands)
        around, numbers = STAND_IN.split(whole)[::2], STAND_IN.split(whole)[1::2]
        if numbers != [str(number) for number in range(len(roles))]:
            raise Refused("the chat template does not write each message once and in order")
        places = []
        at = 0  # where this text begins in the whole
        for number, text in enumerate(around):
            closes = self._closes(text, number == len(roles)) if number and roles[number - 1] == "assistant" else 0
            opens = len(text)
            if number and number < len(roles) and roles[number] == "assistant":
                prompt = self.render(stands[:number], asking=True)
                opens = len(prompt) - at
                if not whole.startswith(prompt) or not closes <= opens <= len(text):
                    raise Refused("the chat template lays an answer out otherwise than it asks for one")
            places.append((closes, opens))
            if number < len(roles):
                at += len(text) + len(stands[number][1])
        return Skeleton(tuple(around), tuple(places))

    def _closes(self, text: str, last: bool) -> int:
        """Up to where the text after an answer ends it: with the special token there; without one, the last answer
        ends with all of it."""
        token = self._closing.match(text)
        return token.end() if token else len(text) if last else 0


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbouring texts that are alike in loss as one, so that tokens span what only the template sets apart."""
    found: list[Part] = []
    for part, carries in parts:
        if found and isinstance(part, str) and isinstance(found[-1][0], str) and found[-1][1] == carries:
            found[-1] = (found[-1][0] + part, carries)
        elif part != "":
            found.append((part, carries))
    return found
