"""Operators of the stages: pure functions `table -> table`, and classes where one owns a resource. None imports Ray."""
