"""Stage ``load``: a real load in 4-bit, and what it left in memory."""
