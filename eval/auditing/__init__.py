"""The parts of eval.audit: classes of responses, their random samples, a person's verdicts, error rates, the page."""
