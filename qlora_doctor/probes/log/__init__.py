"""What trainers leave behind: files → one series per quantity → the facts of a run's course. No torch, no numpy.

>>> from qlora_doctor.probes.log import course_facts, course_from_records, read_runs
>>> course_facts(course_from_records(trainer.state.log_history))        # doctest: +SKIP
>>> [course_facts(course) for course in read_runs([Path("outputs")])]   # doctest: +SKIP
"""

from .judging import course_facts
from .known import Known, known_from
from .searching import read_runs
from .series import Course, Series, course_from_records

__all__ = ["Course", "Known", "Series", "course_facts", "course_from_records", "known_from", "read_runs"]
