"""A Setup, or a change of it, in the words of a file: edit, express, repair, convert."""
