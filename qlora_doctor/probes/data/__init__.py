"""Stage ``data``: rows as the trainer forms and collates them, and what is true of them."""
