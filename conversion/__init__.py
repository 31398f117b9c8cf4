# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""BLT checkpoints to FBLT and back: Meta's two layouts and transformers'."""
