"""`python -m ebm_mmdet`: versions, active operators, and what does not fit."""

import sys

from ebm_mmdet.diagnosis import main

if __name__ == "__main__":
    sys.exit(main())
