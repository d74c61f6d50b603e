"""The one exception type for problems that the user can mend."""


class UserError(Exception):
    """A wrong input: a path, a key, a file or a combination of options.

    The message says what was expected, what was found and what to do. Command-line tools print it as one line and
    exit with status 2, without a traceback; everything else that is raised is a defect of the program.
    """
