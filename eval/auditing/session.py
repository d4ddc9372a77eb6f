"""An audit as it goes on: the responses to judge, the verdicts so far, and those that the page sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.auditing.judgements import Judgement, JudgementFile
from eval.auditing.texts import Audited
from openrlhf_mel import provenance


class AuditSession:
    """Threads may use it at the same time.

    Attributes:
        order: the drawn responses in the order in which they are judged.
        found: the last verdict on each response that has one, by its key.
    """

    def __init__(self, order: Sequence[Audited], found: Mapping[str, Judgement], file: JudgementFile):
        self.order = order
        self.found: dict[str, Judgement] = dict(found)
        self._by_key = {audited.key: audited for audited in self.order}
        self._file = file

    def judge(self, sent: Any) -> Judgement:
        """Save the verdict `{"key": ..., "verdict": ..., "revealed": ...}` that the page sent.

        Raises:
            ValueError: it is no verdict, or on a response that is not drawn.
            OSError: it could not be saved.
        """
        if not isinstance(sent, dict) or sent.keys() != {"key", "verdict", "revealed"}:
            raise ValueError("expected an object of key, verdict and revealed")
        if not isinstance(sent["key"], str) or sent["key"] not in self._by_key:
            raise ValueError(f"{sent['key']!r:.100} is no response of this audit")
        audited = self._by_key[sent["key"]]
        judgement = Judgement(audited.key, audited.sha256, sent["verdict"], sent["revealed"], provenance.now())
        self._file.append(judgement)
        self.found[judgement.key] = judgement
        return judgement
