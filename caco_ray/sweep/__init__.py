"""One job per point of a Hydra sweep: on a Ray cluster (Jobs API) or as KubeRay RayJobs; and what all of them made, side by side."""

from caco_ray.sweep.options import SweepOptions, parse_options
from caco_ray.sweep.points import Point, expand
from caco_ray.sweep.submit import submit_sweep

__all__ = ["Point", "SweepOptions", "expand", "parse_options", "submit_sweep"]
