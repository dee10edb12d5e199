"""Where every row came from and what it cost, and the proof of it."""
