"""`python -m ebm_mmdet`: versions, operators in use, and conflicts."""

import sys

from ebm_mmdet.diagnosis import main

if __name__ == "__main__":
    sys.exit(main())
