"""caco_ray: reasoning data that is proved by execution, at scale, on Ray. Read `pipeline.py` first."""

__version__ = "0.1.0"
