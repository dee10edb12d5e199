"""How well a model solves held-out problems: pass@1 with its uncertainty, and pass@k (`metrics`)."""

from caco_ray.evaluation.metrics import Accuracy, Evaluation, evaluate_rows, pass_at_k, remarks, wilson_interval

__all__ = ["Accuracy", "Evaluation", "evaluate_rows", "pass_at_k", "remarks", "wilson_interval"]
