"""One stage at work on Ray: its plan, what workers do with a shard, and what is done when they die."""
