"""Constrained output: which tokens a JSON schema or a regular expression allows next, through llguidance."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from ml_service.common.errors import BadRequest, ModelFailure
from ml_service.common.types import GenerationParameters
from ml_service.inference.sampler import Mask


class Constraint:
    """The state of one answer in its grammar. The next mask is computed beside the step that makes its logits."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int, workers: ThreadPoolExecutor) -> None:
        self._matcher, self._vocabulary_size, self._workers = matcher, vocabulary_size, workers
        self.is_complete = bool(matcher.is_stopped())
        """Whether nothing may follow any more."""
        self._next = self._begin()

    def allowed(self) -> Mask:
        """The tokens that may come next, shape (vocabulary,). Raises ModelFailure where the grammar gave up."""
        bits = np.frombuffer(self._next.result(), np.uint8)
        if self._matcher.is_error():
            raise ModelFailure("the constraint could not be followed any further")
        return np.unpackbits(bits, count=self._vocabulary_size, bitorder="little").astype(np.bool_)

    def accept(self, token_id: int) -> None:
        """Go on behind this token."""
        self._matcher.consume_token(token_id)
        self.is_complete = bool(self._matcher.is_stopped())  # now: beside the next mask nobody may ask the matcher
        if not self.is_complete:
            self._next = self._begin()

    def _begin(self) -> Future[bytes]:
        return self._workers.submit(self._matcher.compute_bitmask)


class Grammars:
    """Compiles the constraints of requests for one tokenizer; nothing is made before the first one asks."""

    def __init__(self, tokenizer: Tokenizer, vocabulary_size: int, end_of_text_id: int) -> None:
        self._tokenizer, self._vocabulary_size, self._end_of_text_id = tokenizer, vocabulary_size, end_of_text_id
        self._compiled: LLTokenizer | None = None
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    def constraint(self, parameters: GenerationParameters) -> Constraint:
        """The constraint that the parameters ask for; takes milliseconds to a second, so call it in a thread.

        Raises BadRequest where schema or expression cannot be used.
        """
        if self._compiled is None:
            self._compiled = LLTokenizer(
                self._tokenizer.to_str(), n_vocab=self._vocabulary_size, eos_token=self._end_of_text_id
            )
        field = "regex" if parameters.json_schema is None else "json_schema"
        if parameters.json_schema is None:
            grammar = LLMatcher.grammar_from_regex(parameters.regex or "")
        else:
            # Free white space would let a model fill its answer with it.
            try:
                grammar = LLMatcher.grammar_from_json_schema(parameters.json_schema, {"whitespace_flexible": False})
            except ValueError as error:  # half a surrogate pair, or deeper than it goes
                raise BadRequest(
                    "json_schema cannot be used: it is no JSON that can be written", [(field, "not JSON")]
                ) from error
        matcher = LLMatcher(self._compiled, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().splitlines()[0]
            raise BadRequest(f"{field} cannot be used: {reason}", [(field, reason)])
        return Constraint(matcher, self._vocabulary_size, self._workers)

    def close(self) -> None:
        """End the worker."""
        self._workers.shutdown(wait=False, cancel_futures=True)
