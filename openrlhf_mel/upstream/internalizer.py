"""Eq. 10's second term on a policy rank: the NLL's forward and backward passes at the end of an optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from openrlhf_mel.method import nll_batch, nll_plan
from openrlhf_mel.method.nll_batch import NLLBatch
from openrlhf_mel.method.nll_head import NLLHead
from openrlhf_mel.method.nll_plan import Row, WeightedRow
from openrlhf_mel.upstream.gradients import GradientLedger


class Internalizer:
    """Learns the rollout's kept Ms, `coefficient * L_NLL`, each once an epoch.

    Attributes:
        rows: the Ms to learn, the same on all ranks.
        coefficient: of R_MEL in this rollout (`mel.nll_coef`, or its schedule's value).
        ledger: the engine's gradients.
        planned: this rank's micro-batches of each optimizer step that is still to come in this epoch.
    """

    def __init__(self, strategy: Any, engine: Any, pad_id: int) -> None:
        """`strategy` is upstream's, `engine` DeepSpeed's, around the policy."""
        self.args, self.mel = strategy.args, strategy.args.mel
        self.rows: list[Row] = []
        self.coefficient = self.mel.nll_coef
        self.planned: list[list[list[WeightedRow]]] = []
        self.ledger = GradientLedger(engine)
        self._strategy, self._engine, self._pad_id = strategy, engine, pad_id
        self._head = NLLHead(engine.module)

    def plan(self, samples: Sequence[int]) -> None:
        """Spread the rows over an epoch's optimizer steps, which learn so many samples each, and over the ranks."""
        mesh, train = self._strategy.ds_device_mesh["dp"], self.args.train
        dynamic = train.dynamic_batch_enable
        steps = nll_plan.plan(
            self.rows,
            ranks=mesh.size(),
            mean_over=self.mel.nll_mean_over,
            questions=[count / self.args.rollout.n_samples_per_prompt for count in samples],
            max_rows=max(1, len(self.rows)) if dynamic else train.micro_batch_size,
            max_tokens=train.max_tokens_per_gpu if dynamic else None,
        )
        self.planned = [step[mesh.get_local_rank()] for step in steps]

    @property
    def learns(self) -> bool:
        """Whether the current optimizer step gets a gradient of the NLL."""
        return bool(self.coefficient and self.planned[0])

    def learn(self) -> dict[str, float]:
        """The NLL's forward and backward passes of this optimizer step, after the policy's last backward pass.

        The engine averages gradients over ranks and divides them by the accumulation steps; the loss's scale undoes
        both. With coefficient 0 the NLL is measured and nothing is added. Without an M in the whole step nothing runs.
        In both cases the update is the baseline's, bit for bit.

        Returns:
            `grad_norm/policy`, `grad_norm/nll`, `loss/nll` and `mel/nll`, as far as there are any.
        """
        log = self._norm("grad_norm/policy")
        batches = self.planned.pop(0)
        if not batches:
            return log
        engine, coefficient = self._engine, self.coefficient
        ranks = self._strategy.ds_device_mesh["dp"].size()
        scale = coefficient * ranks * engine.gradient_accumulation_steps()
        weighted = plain = 0.0
        if coefficient:
            self.ledger.set_aside()
        for i, rows in enumerate(batches):
            batch = NLLBatch.collate(rows, self._pad_id, torch.cuda.current_device())
            with torch.set_grad_enabled(coefficient > 0):
                nll = self.nll(batch)
                loss = (nll * batch.weights).sum()
            if coefficient:
                engine.set_gradient_accumulation_boundary(i == len(batches) - 1)
                engine.backward(loss * scale)
            weighted += loss.item()
            plain += nll[batch.weights > 0].sum().item()
        if coefficient:
            log |= self._norm("grad_norm/nll")
            self.ledger.add_back()
        learned = sum(w.weight > 0 for rows in batches for w in rows)
        total = self._strategy.all_reduce
        log["loss/nll"] = total(weighted, op="sum")
        log["mel/nll"] = total(plain, op="sum") / total(float(learned), op="sum")
        return log

    def nll(self, batch: NLLBatch) -> torch.Tensor:
        """(B,), at temperature 1: upstream's Actor would divide by the rollout's."""
        return nll_batch.row_nll(self._head, self._engine, batch, self.args.ds.packing_samples)

    def _norm(self, name: str) -> dict[str, float]:
        norm = self.ledger.norm()
        return {} if norm is None else {name: norm}
