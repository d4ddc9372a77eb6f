"""The parts of the report's page: python -m eval.report (eval/report.py) puts them together."""
