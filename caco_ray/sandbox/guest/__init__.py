"""What runs inside the isolated process. Nothing here is trusted by the owner."""
