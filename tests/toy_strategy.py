"""Upstream's strategy for a trainer of the toy task, made from `--flags` as upstream's entry does."""

from openrlhf_mel.settings import flags
from openrlhf_mel.settings.resolve import resolve

MODEL = "data/toy/model"


def strategy(run_dir, *more):
    """Return a strategy whose `args` have `mel`, as `launch` sets it."""
    from openrlhf.utils import get_strategy
    from openrlhf.utils.config import hierarchize

    settings = resolve("data/toy/mel.yaml", [
        "--mel.runtime=cpu", f"--mel.run_dir={run_dir}", "--ckpt.best_metric_key=eval_default_pass1", *more
    ])  # fmt: skip
    args = hierarchize(flags.parser().parse_args(settings.argv))
    args.mel = settings.mel
    return get_strategy(args)
