"""What a run made, from its folder alone: an HTML page, a short table for the terminal, and the card of the shipped data set."""

from caco_ray.report.card import write_card
from caco_ray.report.funnel import RunReport, StageReport, collect, collect_counts
from caco_ray.report.page import write_report
from caco_ray.report.table import print_table

__all__ = ["RunReport", "StageReport", "collect", "collect_counts", "print_table", "write_card", "write_report"]
