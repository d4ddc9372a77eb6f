"""The CPU runtime: replacements that let OpenRLHF's real trainer run without a GPU. Never used on CUDA."""
