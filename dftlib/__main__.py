"""`python -m dftlib …` is the command `dft …`, as in torchrun --nproc-per-node=2 -m dftlib fit …"""

import sys

from dftlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
