"""The child process in which the real stages run: the job it gets, the events it tells, both ends of the pipe."""
