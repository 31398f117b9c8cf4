"""`python -m training.data.restore`; see [`training.data.restore.build`]."""

import sys

from training.data.restore.build import main

sys.exit(main())
