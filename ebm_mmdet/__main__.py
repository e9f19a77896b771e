"""`python -m ebm_mmdet`: versions, operators in use, and conflicts.

With a command, `python -m ebm_mmdet inspect CONFIG` or `predict CONFIG CHECKPOINT IMAGES`, it does
that instead; `--help` lists the commands.
"""

import sys

if __name__ == "__main__":
    if len(sys.argv) > 1:
        from ebm_mmdet.commands import main
    else:
        # Imports nothing of the stack: it has to run where that is broken.
        from ebm_mmdet.diagnosis import main
    sys.exit(main())
