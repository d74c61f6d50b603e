# Sourced in the project's folder: PYTHON is what the environment says, else that of .venv, else python3.
if [ -z "${PYTHON:-}" ]; then
    # Not `&&`: a last command that fails would end the script that sources this.
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
