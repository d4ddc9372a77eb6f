"""The CPU runtime: what lets OpenRLHF's real trainer run without a GPU. Never used on CUDA."""
