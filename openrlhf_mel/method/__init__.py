"""The method (paper, section 3): pairs, meta-experiences, their validation, their loss, and how they fare. Pure, or torch alone."""
