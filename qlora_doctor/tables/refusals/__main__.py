"""``python -m qlora_doctor.tables.refusals``: compile the trainers' refusals after their files were edited."""

from .compiling import write_compiled

write_compiled()
