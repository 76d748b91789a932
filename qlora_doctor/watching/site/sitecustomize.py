"""What ``qlora-doctor run`` puts first on PYTHONPATH: waits for torch, hands on to the sitecustomize that was there.

Nothing else is imported here. A process that never imports torch gets one entry in ``sys.meta_path``, which Python asks
only about modules that it has not imported yet; the folder itself is taken off ``sys.path`` at once.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 (pathlib is an import)


class _WaitForTorch:
    """A finder that finds nothing; the first time that torch is looked for, the watching is prepared."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "torch":
            return None
        sys.meta_path.remove(cls)
        _prepare()
        from importlib.util import find_spec

        return find_spec(name)  # again from the first finder, which may now be one that tells when torch is there


def _prepare() -> None:
    """Import the watching; the program goes on as if nothing had been asked for where that fails."""
    home = os.environ.get("QLORA_DOCTOR_HOME")
    try:
        try:
            import qlora_doctor  # noqa: F401
        except ImportError:
            if not home:
                raise
            sys.path.append(home)  # an environment of its own: last, so that nothing of the program is shadowed
        from qlora_doctor.watching.start import prepare

        prepare()
    except BaseException as error:
        sys.stderr.write(f"qlora-doctor: not watching: {type(error).__name__}: {error}\n")


def _hand_on() -> None:
    """Run the sitecustomize that this one stands before."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]  # noqa: PTH100
    sys.path_importer_cache.pop(_HERE, None)
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if ours is not None:
            sys.modules["sitecustomize"] = ours


if os.environ.get("QLORA_DOCTOR_RUN"):
    sys.meta_path.insert(0, _WaitForTorch)
_hand_on()
