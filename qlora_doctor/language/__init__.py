"""The language of rule pages and of the trainers' checks: an expression over values, true, false or unknown."""
