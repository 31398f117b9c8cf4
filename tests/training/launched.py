"""Runs several recipes in the processes of one launch: `accelerate launch ... -m tests.training.launched RECIPE ...`"""

import sys

from fblt.training.train import main

for recipe in sys.argv[1:]:
    main([recipe], standalone_mode=False)
