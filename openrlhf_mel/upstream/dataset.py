"""The training and evaluation questions, rendered by MEL's one definition of the question's prompt."""

from __future__ import annotations

from typing import Any

from openrlhf.datasets import PromptDataset
from openrlhf.utils.logging_utils import init_logger

from openrlhf_mel.errors import UserError
from openrlhf_mel.prompts import PromptFormat, Templates, question_of
from openrlhf_mel.settings.inputs import scorer_of
from openrlhf_mel.verifier import SCORER, Reference, check_named_by_data

logger = init_logger(__name__)


def prompt_format(args: Any, tokenizer: Any) -> PromptFormat:
    """The run's prompts: templates, chat or plain, upstream's `input_template` where it is given."""
    return PromptFormat(
        Templates.load(args.mel.template_dir), tokenizer, args.data.apply_chat_template, args.data.input_template
    )


class QuestionDataset(PromptDataset):
    """Upstream's dataset with `questions` in addition to `prompts`. A label is a `Reference`, which names its scorer.

    Questions whose prompt leaves no room for a response are left out: upstream would silently cut off their beginning.
    """

    def __init__(self, dataset: Any, tokenizer: Any, strategy: Any, input_template: str | None = None) -> None:
        args = strategy.args
        self.strategy, self.tokenizer, self.input_template = strategy, tokenizer, input_template
        self.image_key = args.data.image_key
        self.prompts, self.labels, self.images, self.datasources, self.questions = [], [], [], [], []
        prompts = prompt_format(args, tokenizer)
        own_reward = bool(args.reward.remote_url or args.reward.model_name_or_path)
        room = args.data.max_len - (args.rollout.max_new_tokens or 1)
        for row in dataset:
            question = question_of(row[args.data.input_key])
            assert question is not None, "settings.inputs refuses a row without a question"
            prompt = prompts.question(question)
            if len(tokenizer(text=prompt, add_special_tokens=False)["input_ids"]) > room:
                continue
            self.questions.append(question)
            self.prompts.append(prompt)
            answer = str(row[args.data.label_key]).strip()
            scorer = scorer_of(row.get(SCORER), own_reward)
            check_named_by_data(scorer, args.mel.trust_remote_code, "--mel.trust_remote_code")
            self.labels.append(Reference(answer, scorer, question))
            self.images.append(row.get(self.image_key))
            self.datasources.append(row.get("datasource", "default"))
        left_out = len(dataset) - len(self.prompts)
        if left_out:
            logger.warning(f"{left_out} of {len(dataset)} questions are longer than {room} tokens and were left out")
        if not self.prompts:
            raise UserError(
                f"--data.max_len {args.data.max_len}: none of {len(dataset)} questions fits into {room} tokens "
                "(data.max_len - rollout.max_new_tokens)"
            )
