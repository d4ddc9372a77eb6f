"""The method (paper, section 3): pairs, meta-experiences, their validation, loss and metrics. Pure, or torch alone."""
